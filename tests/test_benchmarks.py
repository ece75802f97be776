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
from benchmarks import common, scaling, speed, time_to_quality  # noqa: E402


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


@pytest.mark.parametrize("module", ["speed", "scaling", "time_to_quality"])
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
