"""The saved study of the defences: its arithmetic, its two tables beside each other, and the README beside them."""
import re
import sys

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, run

sys.path.insert(0, str(ROOT))  # benchmarks is not installed
from benchmarks import comparison, draws  # noqa: E402

RESULTS = ROOT / "apr_tutorial" / "results"


def ndcg(places):
    "nDCG of single items at places from 0; 0 where a place is empty."
    return np.nan_to_num(1/np.log2(np.asarray(places, float) + 2))


def report_of(places, control=None):
    "A report of APR, and of the control where it is given: users whose items have these places under PGD, and place 0 clean."
    from apr_tutorial.end_to_end import Report, Settings

    users = {}
    for name, found in {"apr": places, "bpr-mf-continued": control}.items():
        if found is not None:
            users |= {(name, "none", 0., 1): np.ones(len(found)), (name, "pgd", .5, 1): np.zeros(len(found)), (name, "pgd", 1., 1): ndcg(found)}
    frame = pd.DataFrame([dict(model=m, attack=a, epsilon=e, seed=s, k=100, ndcg=values.mean()) for (m, a, e, s), values in users.items()])
    settings = Settings(seeds=(1,), attack_epsilons=(.5, 1.))
    return Report(frame, None, None, settings, {"apr": None}, {}, dict.fromkeys(frame.model), users=users)


def test_places_give_the_ndcg_back():
    places = [*range(100), np.nan]
    found = comparison.places_of(report_of(places))
    assert found[comparison.KEYS].values.tolist() == [["apr", "none", 0., 1], ["apr", "pgd", 1., 1]]  # the budget of the pictures alone
    clean, hit = found.drop(columns=comparison.KEYS).astype(float).to_numpy()
    assert (clean == 0).all()
    np.testing.assert_array_equal(hit, places)


def test_summary_says_what_is_lost_and_to_whom():
    apr, control = comparison.summary(report_of([0, 6, np.nan], control=[2, 6, np.nan]))  # nDCG 1, 1/3, 0 and 1/2, 1/3, 0
    assert (apr["model"], control["model"]) == ("APR", "BPR-MF, continued")
    assert apr["clean"] == 1 and apr["attacked"] == pytest.approx(4/9) and apr["lost"] == pytest.approx(5/9)
    assert apr["against BPR-MF, continued"] == "no difference shown" and apr["against APR"] is None and control["against APR"] is None


@pytest.fixture(scope="module")
def rows():
    return pd.read_csv(RESULTS / "comparison-movielens-500.csv")


def test_saved_tables_belong_together(rows):
    places = pd.read_csv(RESULTS / "places-movielens-500.csv", index_col=comparison.KEYS)
    at100 = rows[rows.k == 100].set_index(comparison.KEYS)
    assert len(at100) == 13*(1 + 3*3)*4 and len(places) == 13*2*4 and places.shape[1] == 500
    np.testing.assert_allclose(ndcg(places).mean(axis=1), at100.ndcg.loc[places.index], atol=1e-6)  # rows are kept to six digits
    np.testing.assert_allclose(places.notna().mean(axis=1), at100.hr.loc[places.index], atol=1e-6)


def test_readme_shows_the_saved_numbers(rows):
    "The table of the README, digit by digit."
    def shown(model, metric, attack="none", epsilon=0.):
        values = rows.query("model == @model and attack == @attack and epsilon == @epsilon and k == 100")[metric]
        return " ± ".join(f"{x:.4f}".lstrip("0") for x in (values.mean(), values.std(ddof=1))), values.mean()

    table = re.findall(r"^\| (BPR-MF.*?) \| (.*) \|$", (ROOT / "README.md").read_text(encoding="utf-8"), re.M)
    assert len(table) == 3
    for (label, cells), model in zip(table, ("bpr-mf", "bpr-mf-continued", "apr")):
        (hr, _), (clean, before), (hit, after) = shown(model, "hr"), shown(model, "ndcg"), shown(model, "ndcg", "pgd", 1.)
        assert cells.split(" | ") == [hr, clean, hit, f"{1 - after/before:.0%}"], label


@pytest.mark.parametrize("program", ["comparison", "draws"])
def test_help(program):
    done = run(sys.executable, "-m", f"benchmarks.{program}", "--help")
    assert done.returncode == 0 and "--quick" in done.stdout


def test_draws_are_summed_up_by_seed():
    "Two seeds of two draws: the mean of all, the spread of the seeds' means, and that within a seed."
    shares = {1: (.1, .3), 2: (.4, .4)}
    frame = pd.DataFrame([dict(question="attack", model="apr", other="pgd", seed=s, draw=d, clean=.5, ndcg=.5*(1 - lost)) for s, found in shares.items() for d, lost in enumerate(found)])
    (row,) = draws.summary(frame)
    assert (row["model"], row["other"]) == ("apr", "pgd") and row["lost"] == pytest.approx(.3)
    assert row["± over seeds"] == pytest.approx(np.std([.2, .4], ddof=1)) and row["± over draws"] == pytest.approx(np.sqrt(.02/2))


def test_lengths_change_and_rankings_stay():
    from apr_tutorial.model import from_factors

    rows = np.random.default_rng(0).normal(size=(9, 4))
    model = from_factors(rows[:4], rows[4:])
    other = draws.at_lengths(model, 2., 3.)
    assert np.linalg.norm(other.user_factors, axis=1).mean() == pytest.approx(2) and np.linalg.norm(other.item_factors, axis=1).mean() == pytest.approx(3)
    ranked = [(m.user_factors @ m.item_factors.T).argsort(axis=1) for m in (model, other)]
    np.testing.assert_array_equal(*ranked)


def test_saved_draws_are_whole_and_agree_with_the_study(rows):
    found = pd.read_csv(RESULTS / "draws-movielens-500.csv")
    assert found.groupby("question").size().to_dict() == {"attack": 3*8*4*4, "lengths of": 9*4*4, "made on": 9*4*4}
    clean = rows[(rows.attack == "none") & (rows.k == 100)].set_index(["model", "seed"]).ndcg
    mine = found.groupby(["model", "seed"]).clean.first()
    np.testing.assert_allclose(mine, clean.loc[mine.index], atol=1e-5)
    home = found[(found.question != "attack") & (found.model == found.other)].groupby(["model", "seed", "draw"]).ndcg.agg(np.ptp)
    assert home.max() < 5e-3  # a model at its own lengths is itself, but for the rounding of a scale


@pytest.mark.long
def test_trial_of_draws(tmp_path):
    done = run(sys.executable, "-m", "benchmarks.draws", "--quick", "--seeds", "2", "--draws", "2", "--out", tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    frame = pd.read_csv(tmp_path / "draws-movielens-500.csv")
    assert len(frame) == (3*8 + 9 + 9)*2*2 and set(frame.columns) == set(pd.read_csv(RESULTS / "draws-movielens-500.csv").columns)


@pytest.mark.long
def test_trial(tmp_path):
    done = run(sys.executable, "-m", "benchmarks.comparison", "--quick", "--seeds", "2", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr[-3000:]
    expected = ["comparison-movielens-500.csv", "comparison-movielens-500.md", "comparison-movielens-500.svg", "places-movielens-500.csv"]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == expected
    frame = pd.read_csv(tmp_path / "out" / expected[0])
    assert len(frame) == 13*(1 + 3*3)*2*3 and set(frame.columns) == set(pd.read_csv(RESULTS / expected[0]).columns)
