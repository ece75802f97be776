"""The benchmarks: their arithmetic, their workers, and a trial of each."""
import math
import operator
import os
import sys
from functools import partial

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, run

sys.path.insert(0, str(ROOT))  # benchmarks is not installed
from benchmarks import common, libraries, scaling, speed, time_to_quality  # noqa: E402


def test_paired_ratio_compares_rounds():
    assert common.paired_ratio([1, 2, 9], [2, 2, 3]) == (1, .5, 3)
    assert common.paired_ratio([10, 30], [10, 10]) == (2, 1, 3)
    for wrong in (([1], [1, 2]), ([], [])):
        with pytest.raises(ValueError, match="same number"):
            common.paired_ratio(*wrong)


def test_table():
    rows = [dict(what="a", seconds=.012345, ratio=1804.4), dict(what="b", seconds=99.96, ratio=math.nan)]
    assert common.markdown(rows) == "| what | seconds | ratio |\n| :--- | ---: | ---: |\n| a | 0.0123 | 1,804 |\n| b | 100 | – |\n"


def rows(*turns):
    "Rounds of two: turn by turn (contestant, seconds)."
    return [dict(dataset="x", contestant=name, kind="BPR", round=n//2 + 1, turn=n % 2 + 1, seconds=seconds, set_up_seconds=1., extrapolated="")
            for n, (name, seconds) in enumerate(turns)]


def test_reference_plays_before_each():
    assert common.schedule(["a", "b", "c"], "b") == ["b", "a", "b", "c"] and common.schedule(["a", "b"], None) == ["a", "b"]


def test_speed_summary_knows_its_reference():
    cornac, ours, notebook = "Cornac BPR", "apr_tutorial BPR", "original notebook BPR"
    found = {r["contestant"]: r for r in speed.summary(rows((cornac, 1.), (ours, .5), (cornac, 2.), (ours, 3.))[::-1])}
    assert [found[ours][k] for k in ("seconds", "ratio", "least", "most")] == [1.75, 1., .5, 1.5]
    assert [found[cornac][k] for k in ("seconds", "ratio")] == [1.5, 1.]
    found = {r["contestant"]: r for r in speed.summary(rows((ours, 1.), (notebook, 10.), (ours, 1.), (notebook, 30.)))}
    assert [found[ours][k] for k in ("ratio", "least", "most")] == [20., 10., 30.]
    assert found[notebook]["ratio"] == 1


def division():
    "What a worker can do, by a name that its process can import."
    return operator.truediv


def test_workers_answer_and_their_errors_name_them():
    with common.Worker("division", division) as worker:
        assert worker.ask(6, 3) == 2 and worker.set_up_seconds >= 0
        with pytest.raises(common.ContestantError, match="division failed(.|\n)*ZeroDivisionError"):
            worker.ask(1, 0)
    assert not worker.process.is_alive()
    with pytest.raises(common.ContestantError, match="broken failed(.|\n)*ZeroDivisionError"):
        common.Worker("broken", partial(operator.truediv, 1, 0))
    with pytest.raises(common.ContestantError, match="quitter: the process ended"):
        common.Worker("quitter", partial(os._exit, 3))


def test_missing_libraries(capsys):
    with pytest.raises(SystemExit) as stopped:
        common.need("numpy", "no_such_library")
    assert stopped.value.code == 2
    assert "no_such_library" in (said := capsys.readouterr().err) and "pip install -e '.[bench]'" in said


def test_generated_data_are_what_the_library_expects():
    data = scaling.generated(50, 40, 600)
    keys = data.users.astype(int)*40 + data.items
    assert len(data) == 600 and (np.diff(keys) > 0).all()
    assert not data.seen(data.test_users, data.test_items).any() and len(data.test_users) == 50


def test_growth_is_set_beside_its_targets():
    base = dict(kind="BPR", optimizer="sgd", peak_mb=1024., pairs=1)
    found = [*(base | dict(part="rows", size=n, seconds=s) for n, s in ((10, 1.), (100, 1.5), (1000, 3.))),
             *(base | dict(part="pairs", size=n, seconds=s) for n, s in ((10, 1.), (100, 2.), (1000, 20.))),
             *(dict(part="evaluation", kind="evaluation", optimizer="", users=n, items=n, size=n*n, ratio=r, beyond_mb=250.) for n, r in ((10, 9.), (20, 1.1)))]
    assert [(t["measured"], t["met"]) for t in scaling.targets(found)] == [(3, "no"), (10, "yes"), (1, "yes"), (1.1, "yes"), (250, "no")]


def test_settings_are_chosen_by_time_near_the_best_quality():
    fast, slow, low = [(1, 1., .3), (2, 2., .495)], [(1, 3., .5)], [(1, .5, .45)]
    assert time_to_quality.choose({"a": low, "b": slow, "c": fast}) == "c"
    assert time_to_quality.choose({"a": low, "b": [(1, 3., .6)], "c": fast}) == "b"
    assert time_to_quality.seconds_to(fast, .4) == 2 and time_to_quality.seconds_to(low, .5) == math.inf
    assert time_to_quality.until(slow + fast, .45) == slow


def test_foreign_factors_take_our_rows():
    class Train:
        uid_map, iid_map = {1: 0, 0: 1}, {2: 0, 0: 1}

    u, v, b = time_to_quality.in_our_rows({"U": np.array([[1.], [2.]]), "V": np.array([[3.], [4.]]), "Bi": np.array([5., 6.])}, Train, 3, 3)
    assert u.tolist() == [[2], [1], [0]] and v.tolist() == [[4], [0], [3]] and b.tolist() == [6, 0, 5]


@pytest.fixture(scope="module")
def fixed():
    "A model and data whose items are all in training or, unknown to it, in test: Cornac numbers no others."
    from dataclasses import replace

    from apr_tutorial.data import synthetic
    from apr_tutorial.model import Factors

    data, rng = synthetic(60, 250, activity=12), np.random.default_rng(0)
    unknown = np.flatnonzero(data.popularity == 0)
    assert 3 < len(unknown) < 40
    data = replace(data, test_items=np.r_[unknown, data.test_items[len(unknown):]].astype(np.int32))
    draw = lambda *shape: rng.standard_normal(shape).astype(np.float32)
    return Factors(draw(data.num_users, 8), draw(data.num_items, 8), draw(data.num_items)), data


def ours(model, data):
    from apr_tutorial.evaluator import evaluate

    return libraries.judged_by_us(evaluate(model, data, k=libraries.KS, lists=False))


def test_cornac_agrees_where_it_keeps_unknown_items(fixed):
    pytest.importorskip("cornac")
    model, data = fixed
    kept = libraries.judged_by_cornac(libraries.to_cornac(model, data, exclude_unknowns=False), data, exclude_unknowns=False)
    assert kept == pytest.approx(ours(model, data), abs=1e-9)


def test_cornac_leaves_unknown_items_out(fixed):
    pytest.importorskip("cornac")
    model, data = fixed
    dropped, expected = libraries.judged_by_cornac(libraries.to_cornac(model, data), data), libraries.cornac_would_say(model, data)
    assert dropped == pytest.approx(expected, abs=1e-9)
    assert abs(dropped["hr", 100] - ours(model, data)["hr", 100]) > 1e-3
    known, smaller = libraries.known_only(model, data)
    assert len(smaller.test_users) < len(data.test_users) and len(smaller) == len(data) and (smaller.popularity > 0).all()
    taken = [data.num_items - int((data.popularity == 0).sum()), len(known.item_factors)]
    assert taken == [smaller.num_items]*2


def test_implicit_agrees_but_for_its_auc(fixed):
    pytest.importorskip("implicit")
    model, data = fixed
    said, own = libraries.judged_by_implicit(libraries.to_implicit(model), data), ours(model, data)
    assert said == pytest.approx(libraries.implicit_would_say(model, data), abs=1e-9)
    assert {key: said[key] for key in own if key[1]} == pytest.approx({key: own[key] for key in own if key[1]}, abs=1e-9)
    assert all(abs(said["auc", k] - own["auc", ""]) > 1e-3 for k in libraries.KS)


def test_only_we_count_ties_against_the_model(fixed):
    pytest.importorskip("cornac")
    pytest.importorskip("implicit")
    from apr_tutorial.model import Factors

    model, data = fixed
    constant = Factors(np.zeros((data.num_users, 1)), np.zeros((data.num_items, 1)))
    assert (libraries.ties(model, data), libraries.ties(constant, data)) == (0, len(data.test_users))
    assert set(ours(constant, data).values()) == {0.}
    cornac, implicit = libraries.to_cornac(constant, data), libraries.to_implicit(constant)
    first = [item in np.setdiff1d(np.arange(data.num_items), data.items_of(u))[:100] for u, item in zip(data.test_users, data.test_items)]
    assert libraries.judged_by_implicit(implicit, data)["hr", 100] == pytest.approx(np.mean(first)) and any(first)
    said = libraries.judged_by_cornac(cornac, data)
    assert said["hr", 100] > 0 and said["auc", ""] == 0


@pytest.mark.parametrize("kind", ["BPR", "WBPR", "implicit"])
def test_libraries_models_survive_the_way_to_our_judge(fixed, kind):
    pytest.importorskip("cornac")
    pytest.importorskip("implicit")
    _, data = libraries.known_only(*fixed)  # items without training would tie
    model = libraries.implicit(data, 1, .05, 1) if kind == "implicit" else libraries.cornac(data, 1, .05, 1, kind)
    rows = pd.DataFrame(libraries.judge("x", model, data, setting="", seed=1))
    assert set(rows.judge) == {"ours", "own", "predicted own"}
    own, predicted = (rows[rows.judge == who].set_index(["metric", "k"]).value for who in ("own", "predicted own"))
    assert own.to_dict() == pytest.approx(predicted.to_dict(), abs=1e-9)


def test_share_of_draws_that_are_passed_over(fixed):
    _, data = fixed
    known = np.flatnonzero(data.popularity)
    share = lambda drawn: np.mean([np.isin(drawn, data.items_of(u)).mean() for u in data.users])
    assert libraries.skipped(data) == pytest.approx((share(known), share(data.items)))


@pytest.mark.parametrize("module", ["speed", "scaling", "time_to_quality", "libraries"])
def test_help(module):
    done = run(sys.executable, "-m", f"benchmarks.{module}", "--help")
    assert done.returncode == 0 and "--quick" in done.stdout


@pytest.mark.long
@pytest.mark.parametrize("command, name", [("speed --dataset movielens-500", "speed-movielens-500"), ("speed --dataset movielens-1m", "speed-movielens-1m"),
                                           ("scaling", "scaling"), ("time_to_quality", "time_to_quality")])
def test_trial(command, name, tmp_path):
    if "500" not in command and command != "scaling":
        pytest.importorskip("cornac")
        pytest.importorskip("implicit")
    module, *options = command.split()
    done = run(sys.executable, "-m", f"benchmarks.{module}", *options, "--quick", "--out", tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"{name}.{ending}" for ending in ("csv", "md", "svg")]
    frame = pd.read_csv(tmp_path / f"{name}.csv")
    assert len(frame) and (frame.seconds >= 0).all()
    if module == "speed":
        assert list(frame) == ["dataset", "contestant", "kind", "round", "turn", "seconds", "set_up_seconds", "extrapolated"]


@pytest.mark.long
def test_trial_of_libraries(tmp_path):
    pytest.importorskip("cornac")
    pytest.importorskip("implicit")
    done = run(sys.executable, "-m", "benchmarks.libraries", "--dataset", "movielens-500", "--quick", "--out", tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"libraries-movielens-500.{ending}" for ending in ("csv", "md", "svg")]
    frame = pd.read_csv(tmp_path / "libraries-movielens-500.csv")
    assert list(frame) == ["contestant", "setting", "seed", "judge", "metric", "k", "value"] and frame.value.notna().all()
    assert set(libraries.CONTESTANTS) | {libraries.CONSTANT} == set(frame.contestant)
    assert libraries.farthest(frame, "Cornac") < .01 and libraries.farthest(frame, "implicit") < .01
