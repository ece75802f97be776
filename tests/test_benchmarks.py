"""The benchmarks: their arithmetic, their workers, and a trial of each."""
import importlib.util
import math
import operator
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, run

sys.path.insert(0, str(ROOT))  # benchmarks is not installed
from benchmarks import common, libraries, readings, reproduce, scaling, sensitivity, speed, time_to_quality  # noqa: E402


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


def study(values, part="test", tables="clean", epsilon=0., seeds=(1, 2)):
    "Rows of a study: {epoch: HR of each seed}."
    return pd.DataFrame([dict(part=part, learning_rate=.05, epsilon=epsilon, adv_reg=epsilon, seed=seed, epoch=epoch, tables=tables, k=100, hr=hr, ndcg=hr/4,
                              ndcg_sd=.2, coverage=10., arp=100.*hr) for epoch, found in values.items() for seed, hr in zip(seeds, found)])


def test_published_values_are_set_beside_ours():
    theirs = pd.DataFrame([dict(learning_rate=.05, epsilon=0., adv_reg=0., epoch=25, k=100, hr=.5, ndcg=.1, coverage=10., arp=40.)])
    found = reproduce.compare(study({25: (.4, .42), 50: (.5, .5)}), theirs, 100).set_index("metric")
    assert len(found) == 4 and found.loc["hr", "ours"] == pytest.approx(.41) and found.loc["hr", "difference"] == pytest.approx(-.18)
    reach = 12.706205*math.sqrt(2)*.01*math.sqrt(1.5)  # Student's t with one degree of freedom
    assert found.loc["hr", "high"] == pytest.approx(.41 + reach) and not found.loc["hr", "outside"] and found.loc["hr", "user_error"] == pytest.approx(1.96*.05)
    assert reproduce.compare(study({25: (.4, .401)}), theirs, 100).set_index("metric").loc["hr", "outside"]


def test_epochs_are_chosen_on_what_the_way_says():
    test, held = study({25: (.4, .6), 50: (.5, .5), 75: (.3, .3)}), study({25: (.1, .1), 50: (.0, .2), 75: (.3, .0)}, part="validation")  # means .1, .1, .15
    theirs = pd.DataFrame(columns=["learning_rate", "epsilon", "adv_reg", "epoch", "k", "hr", "ndcg"], dtype=float)
    found = {row["way"]: row for row in reproduce.selections(pd.concat([test, held]), theirs)}
    assert {way: row["epochs"] for way, row in found.items()} == {"test, as published": "50 25", "test": "50 25", "validation": "75 75", "last": "75 75"}
    assert [found[way]["hr"] for way in ("test", "validation", "last")] == pytest.approx([.55, .3, .3])


def test_left_over_tables_count_as_published():
    rows = pd.concat([study({25: (.4,)}), study({25: (.3,)}, epsilon=1.), study({25: (.2,)}, tables="left over", epsilon=1.)])
    assert reproduce.as_published(rows).hr.tolist() == [.4, .2]


def test_test_items_of_head_and_tail_are_found():
    rng = np.random.default_rng(0)
    theirs = pd.DataFrame(rng.random((9, 2)), columns=["hr_head", "hr_tail"]).assign(hr=lambda d: (30*d.hr_head + 60*d.hr_tail)/91)
    np.testing.assert_allclose(reproduce.test_groups(theirs, 91), [30, 60])


def test_chains_come_whole_seed_by_seed(tmp_path):
    plan = reproduce.Plan("x", seeds=(1, 2), budgets=((1., 1.),))
    order = [(c.seed, c.rate, c.validating) for c in reproduce.chains(plan, tmp_path)]
    assert order[:2] == [(1, .05, False), (2, .05, False)] and [seed for seed, *_ in order[2:]] == [1]*5 + [2]*5
    assert reproduce.evaluations(plan) == 2*(6*8 + 2*4)


def test_readings_are_measured_against_the_file():
    rows = pd.DataFrame([dict(model="BPR", reading="a", learning_rate=.05, epsilon=0., adv_reg=0., epoch=25, k=50, hr=h, ndcg=.1, coverage=5, arp=9) for h in (.2, .4)])
    found = readings.differences(rows, rows.head(1).drop(columns=["model", "reading"]))
    assert found[["hr", "ndcg"]].round(9).values.tolist() == [[.5, 0]]


def test_sensitivity_is_relative_to_the_control():
    base = dict(embedding_size=8, user_length=3., item_length=1., test=.2, test_pgd=.1, validation_pgd=.1)
    found = sensitivity.means(pd.DataFrame([base | dict(seed=s, epsilon=e, adv_reg=e, validation=v) for s, e, v in ((1, 0., .2), (2, 0., .4), (1, 1., .3), (2, 1., .3))]))
    assert found["validation of control"].tolist() == pytest.approx([1, 1]) and found.relative.tolist() == [0, .5]
    assert found["validation_pgd of control"].tolist() == pytest.approx([1/3, 1/3])


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


@pytest.mark.parametrize("out", ["out", "out/below/it"])
def test_a_file_in_the_place_of_the_folder(out, tmp_path, capsys):
    "Is refused before the work, which would be lost."
    (tmp_path / "out").touch()
    with pytest.raises(SystemExit):
        common.study_parser("draws", "Draws.", "movielens-500", 1).parse_args(["--out", str(tmp_path / out)])
    assert "out is a file: name a folder" in capsys.readouterr().err
    assert common.study_parser("draws", "Draws.", "movielens-500", 1).parse_args(["--out", str(tmp_path / "new")]).out == tmp_path / "new"


@pytest.mark.parametrize("module", ["speed", "scaling", "time_to_quality", "libraries", "reproduce", "readings", "scale_out", "sensitivity"])
def test_help(module):
    done = run(sys.executable, "-m", f"benchmarks.{module}", "--help")
    assert done.returncode == 0 and "--quick" in done.stdout


@pytest.mark.long
@pytest.mark.parametrize("command, name", [("speed --dataset movielens-500", "speed-movielens-500"), ("speed --dataset movielens-1m", "speed-movielens-1m"),
                                           ("scaling", "scaling"), ("time_to_quality", "time_to_quality"), ("sensitivity --dataset movielens-500 --state state.csv", "sensitivity-movielens-500"),
                                           *((f"scale_out --dataset movielens-500 --part {part}", f"scale-out-{part}-movielens-500") for part in ("times", "curves", "accuracy"))])
def test_trial(command, name, tmp_path):
    if "500" not in command and command != "scaling":
        pytest.importorskip("cornac")
        pytest.importorskip("implicit")
    module, *options = command.replace("state.csv", str(tmp_path / "state.csv")).split()
    done = run(sys.executable, "-m", f"benchmarks.{module}", *options, "--quick", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr[-3000:]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [f"{name}.{ending}" for ending in ("csv", "md", "svg")]
    frame = pd.read_csv(tmp_path / "out" / f"{name}.csv")
    assert len(frame)
    if "seconds" in frame:
        assert (frame.seconds >= 0).all()
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


@pytest.mark.long
def test_trial_of_a_study_that_is_killed(tmp_path):
    "A reproduction that is killed goes on, and its table is that of one that was never disturbed, or spread by Ray."
    if not (Path(os.environ.get("APR_TUTORIAL_DATA", "nowhere")) / "movielens-100k").is_dir():
        pytest.skip("movielens-100k is not in APR_TUTORIAL_DATA")
    columns = ["TotEpoch", *reproduce.COLUMNS]
    rows = [[200, .05, eps, eps, epoch, k, .4, .1, 500, 200, .5, .1 + epoch/1e4] for eps in (0., 1.) for epoch in (5, 10, 15, 20) for k in (10, 50, 100)]
    pd.DataFrame(rows, columns=columns).to_csv(tmp_path / reproduce.PUBLISHED["movielens-100k"], index=False)
    call = lambda name: [sys.executable, "-m", "benchmarks.reproduce", "--quick", "--published", tmp_path, "--state", tmp_path / f"state-{name}", "--out", tmp_path / name]
    broken = subprocess.Popen([str(c) for c in call("broken")], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 120
    while not list((tmp_path / "state-broken").glob("*-seed*.csv")) and time.monotonic() < until:
        time.sleep(.2)
    broken.kill()
    broken.wait()
    others = {"whole": []} | ({"spread": ["--ray", "local"]} if importlib.util.find_spec("ray") else {})
    for name, more in ({"broken": []} | others).items():
        done = run(*call(name), *more)
        assert done.returncode == 0, done.stderr[-3000:]
    for other in others:
        for name in ("reproduce", "compared", "selected", "bias", "groups"):
            pd.testing.assert_frame_equal(*(pd.read_csv(tmp_path / run_name / f"{name}-movielens-100k.csv") for run_name in ("broken", other)))
        assert (tmp_path / "broken" / "reproduce-movielens-100k.md").read_text() == (tmp_path / other / "reproduce-movielens-100k.md").read_text()
