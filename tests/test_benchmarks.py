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
from benchmarks import common, readings, reproduce, scaling, sensitivity, speed, time_to_quality  # noqa: E402


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


def test_epochs_are_chosen_by_seed_on_what_the_way_says():
    test, held = study({25: (.4, .6), 50: (.5, .5), 75: (.3, .3)}), study({25: (.1, .1), 50: (.0, .2), 75: (.3, .0)}, part="validation")
    theirs = pd.DataFrame(columns=["learning_rate", "epsilon", "adv_reg", "epoch", "k", "hr", "ndcg"], dtype=float)
    found = {row["way"]: row for row in reproduce.selections(pd.concat([test, held]), theirs)}
    assert {way: row["epochs"] for way, row in found.items()} == {"test, as published": "50 25", "test": "50 25", "validation": "75 50", "last": "75 75"}
    assert [found[way]["hr"] for way in ("test", "validation", "last")] == pytest.approx([.55, .4, .3])


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


@pytest.mark.parametrize("module", ["speed", "scaling", "time_to_quality", "reproduce", "readings", "sensitivity"])
def test_help(module):
    done = run(sys.executable, "-m", f"benchmarks.{module}", "--help")
    assert done.returncode == 0 and "--quick" in done.stdout


@pytest.mark.long
@pytest.mark.parametrize("command, name", [("speed --dataset movielens-500", "speed-movielens-500"), ("speed --dataset movielens-1m", "speed-movielens-1m"),
                                           ("scaling", "scaling"), ("time_to_quality", "time_to_quality"), ("sensitivity --dataset movielens-500", "sensitivity-movielens-500")])
def test_trial(command, name, tmp_path):
    if "500" not in command and command != "scaling":
        pytest.importorskip("cornac")
        pytest.importorskip("implicit")
    module, *options = command.split()
    done = run(sys.executable, "-m", f"benchmarks.{module}", *options, "--quick", "--out", tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"{name}.{ending}" for ending in ("csv", "md", "svg")]
    frame = pd.read_csv(tmp_path / f"{name}.csv")
    assert len(frame)
    if "seconds" in frame:
        assert (frame.seconds >= 0).all()
    if module == "speed":
        assert list(frame) == ["dataset", "contestant", "kind", "round", "turn", "seconds", "set_up_seconds", "extrapolated"]
