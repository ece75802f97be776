"""The audit: the numbers of `run`, and the factors of other libraries against a plain evaluator."""
import json
import subprocess
import sys
import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from conftest import ROOT, run

QUICK = ["--epochs", "3", "--adversarial-epochs", "2", "--embedding-size", "8", "--batch-size", "64", "--item-bias"]
SAME = ["--k", "5,20", "--attack-epsilons", "0.25,0.5", "--seed", "7"]


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    "A file of 40 users and 90 items without timestamps, so that the split depends on the seed; string ids."
    rng, path = np.random.default_rng(0), tmp_path_factory.mktemp("log") / "log.csv"
    chosen = [{(3*u + n) % 90 for n in range(3)} | set(rng.choice(90, 9, replace=False).tolist()) for u in range(40)]
    path.write_text("".join(f"u{u},i{i},1\n" for u, items in enumerate(chosen) for i in sorted(items)))
    return path


@pytest.fixture(scope="module")
def finished(log, tmp_path_factory):
    "A finished run on that file."
    out = tmp_path_factory.mktemp("run") / "out"
    done = run(sys.executable, "-m", "apr_tutorial", "run", "--dataset", log, "--no-control", "--out", out, *QUICK, *SAME)
    assert done.returncode == 0, done.stderr
    return out


def rows(folder, model):
    found = pd.DataFrame(json.loads((folder / "report.json").read_text())["results"])
    return found[found.model == model].drop(columns="model").reset_index(drop=True)


@pytest.mark.parametrize("model", ["bpr-mf", "apr"])
def test_audit_finds_what_run_found(model, log, finished, cli, tmp_path):
    "Attacks included: the same seed and options, once by the weights and once by plain arrays in another order with their ids."
    weights = dict(np.load(finished / f"weights-{model}.npz"))
    order = {side: np.random.default_rng(1).permutation(len(weights[f"{side}_ids"])) for side in ("user", "item")}
    for side, moved in order.items():
        np.save(tmp_path / f"{side}.npy", weights[f"{side}_factors"][moved])
        (tmp_path / f"{side}.txt").write_text("\r\n".join(weights[f"{side}_ids"][moved]))
    np.save(tmp_path / "bias.npy", weights["item_bias"][order["item"]])
    by_arrays = ["--user-factors", "user.npy", "--item-factors", "item.npy", "--item-bias", "bias.npy", "--user-ids", "user.txt", "--item-ids", "item.txt"]
    for options in (["--weights", finished / f"weights-{model}.npz"], by_arrays):
        out = tmp_path / f"out{len(options)}"
        done = cli("audit", *options, "--dataset", log, "--out", out, *SAME)
        assert done.returncode == 0, done.stderr
        assert "half of nDCG@20 lost to pgd: " in done.stdout and "\x1b" not in done.stdout
        pd.testing.assert_frame_equal(rows(out, "audited"), rows(finished, model), rtol=0, atol=1e-6)


def test_files(log, finished, cli, tmp_path):
    done = cli("audit", "--weights", finished / "weights-apr.npz", "--dataset", log, "--relative", "--quiet", *SAME)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    out = tmp_path / "runs" / "audit-log-1"
    names = {f"{name}.{form}" for name in ("before_after", "epsilon_sweep", "audit_curves", "audit_groups") for form in ("png", "svg")}
    assert {p.name for p in out.iterdir()} == names | {"metrics.csv", "report.json"}
    report = json.loads((out / "report.json").read_text())
    assert report["schema"] == 1 and report["resumed_from"] is None and report["config"]["relative"] is True
    assert report.keys() == json.loads((finished / "report.json").read_text()).keys() - {"comparisons", "selection"} | {"audit"}
    audit, share = report["audit"], [b["users_relative"] for b in report["audit"]["budgets"]]
    assert share == pytest.approx([.25, .5])
    assert [b["users"] for b in audit["budgets"]] == pytest.approx([e * audit["mean_lengths"]["users"] for e in share])
    assert set(audit["half_ndcg_epsilon"]) == {"random", "fgsm", "pgd"} and len(audit["sweep"]) == 7 * (1 + 3 * 2)
    again = cli("audit", "--weights", finished / "weights-apr.npz", "--dataset", log, "--out", out, *SAME)
    assert again.returncode == 2 and "finished report" in again.stderr


def test_clean_alone_and_one_attack(log, finished):
    "The shortest list and a single attack draw their pictures, too."
    from apr_tutorial.audit import audit, findings, plot_audit, plot_groups
    from apr_tutorial.data import load_dataset
    from apr_tutorial.attack import pgd
    weights = dict(np.load(finished / "weights-apr.npz"))
    report = audit(weights["user_factors"], weights["item_factors"], load_dataset(log, 7), attacks={"mine": pgd}, epsilons=[0, 1], k=[1])
    assert report.depth == 1 and plot_audit(report) and plot_groups(report)
    alone = audit(weights["user_factors"], weights["item_factors"], load_dataset(log, 7), attacks={}, k=[3])
    assert len(alone.frame) == 1 and len(findings(alone)) == 1


@pytest.mark.parametrize("scale", [(1, 1), (8, .25), (.1, 3)])
def test_relative_budgets_do_not_feel_scale(scale, log, finished):
    from apr_tutorial.audit import audit
    from apr_tutorial.data import load_dataset
    data, w = load_dataset(log, 7), dict(np.load(finished / "weights-bpr-mf.npz"))
    scaled = scale[0] * w["user_factors"], scale[1] * w["item_factors"], data, scale[0] * scale[1] * w["item_bias"]
    found, plain = (audit(*arrays, k=[20], epsilons=[.25, 1], relative=True).frame for arrays in (scaled, (w["user_factors"], w["item_factors"], data, w["item_bias"])))
    assert abs(found.auc - plain.auc).max() < 5e-3  # rounding: a position or two of forty users


# Other libraries

def split(seed=3):
    from apr_tutorial.data import synthetic
    return synthetic(80, 120, activity=15, seed=seed)


def plain_metrics(scores, data, k):
    "HR, nDCG and AUC, user by user, from the library's own scores [U, I]; shares no code with the package."
    train = {}
    for u, i in zip(data.users.tolist(), data.items.tolist()):
        train.setdefault(u, set()).add(i)
    found = []
    for u, i in zip(data.test_users.tolist(), data.test_items.tolist()):
        rivals = [j for j in range(scores.shape[1]) if j != i and j not in train[u]]
        position = sum(scores[u, j] >= scores[u, i] for j in rivals)
        found.append((position < k, np.log(2) / np.log(position + 2) * (position < k), 1 - position / len(rivals)))
    return np.mean(found, axis=0)


def audited(arrays, data):
    "Clean HR@20, nDCG@20 and AUC of an audit, having seen that its attack harms what is better than chance."
    from apr_tutorial.attack import pgd
    from apr_tutorial.audit import audit
    frame = audit(**arrays, data=data, attacks={"pgd": pgd}, epsilons=[.5], k=[20], relative=True).frame
    assert frame.auc[1] < max(frame.auc[0], .6)
    return frame.loc[0, ["hr", "ndcg", "auc"]].astype(float).to_numpy()


@pytest.mark.parametrize("kind", ["als", "bpr", "lmf"])
def test_implicit(kind):
    implicit = pytest.importorskip("implicit.cpu." + kind)
    from apr_tutorial.foreign_models import from_implicit
    from scipy.sparse import csr_matrix
    data, options = split(), dict(num_threads=1, random_state=0, iterations=20)
    name = {"als": "AlternatingLeastSquares", "bpr": "BayesianPersonalizedRanking", "lmf": "LogisticMatrixFactorization"}[kind]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about threads of BLAS
        model = getattr(implicit, name)(factors=8, **options)
        model.fit(csr_matrix((np.ones(len(data), np.float32), (data.users, data.items)), (data.num_users, data.num_items)), show_progress=False)
    arrays = from_implicit(model)
    assert arrays["user_factors"].shape == (80, 8) and (arrays["item_bias"] is None) == (kind == "als")
    theirs = plain_metrics(model.user_factors.astype(float) @ model.item_factors.astype(float).T, data, 20)
    assert audited(arrays, data) == pytest.approx(theirs, abs=1 / 80 / 20)  # float32 may swap two neighbours once


@pytest.mark.parametrize("kind", ["BPR", "MF"])
def test_cornac(kind):
    "Cornac numbers by first sight; items without interactions are unknown to it."
    models = pytest.importorskip("cornac.models")
    from cornac.data import Dataset
    from apr_tutorial.data import DataError
    from apr_tutorial.foreign_models import from_cornac
    data, order = split(), np.random.default_rng(2)
    order = order.permutation(len(data))
    train = Dataset.from_uir([(int(data.user_ids[data.users[n]]), int(data.item_ids[data.items[n]]), 1.) for n in order])
    model = getattr(models, kind)(k=8, max_iter=30, learning_rate=.05, seed=0, **({"use_bias": True} if kind == "MF" else {})).fit(train)
    assert list(model.uid_map) != sorted(model.uid_map)
    scores = np.full((data.num_users, data.num_items), -np.inf)
    for user, row in model.uid_map.items():
        for item, column in model.iid_map.items():
            scores[user, item] = model.score(row, column)
    with pytest.warns(UserWarning, match="ranked last") if len(model.iid_map) < data.num_items else warnings.catch_warnings():
        arrays = from_cornac(model, data)
    assert audited(arrays, data) == pytest.approx(plain_metrics(scores, data, 20), abs=1 / 80 / 20)
    with pytest.raises(DataError, match="is not in the data"):
        from_cornac(model, replace(data, user_ids=data.user_ids + 1000))


def test_good_files_pass(log, cli, tmp_path):
    "Factors, bias and ids that belong to the data; what is refused stands in test_bad_input.py."
    rng = np.random.default_rng(0)
    for name, shape in dict(P=(40, 4), Q=(90, 4), b=90).items():
        np.save(tmp_path / f"{name}.npy", rng.standard_normal(shape))
    (tmp_path / "ids.txt").write_text("".join(sorted(f"u{n}\n" for n in range(40))))
    done = cli("audit", "--user-factors", "P.npy", "--item-factors", "Q.npy", "--item-bias", "b.npy", "--user-ids", "ids.txt", "--dataset", log, "--attacks", "fgsm", "--out", "out")
    assert done.returncode == 0 and "k 100 dropped" in done.stderr, done.stderr


# What an import costs

def test_help_imports_nothing_heavy():
    process = run(sys.executable, "-X", "importtime", "-m", "apr_tutorial", "audit", "--help")
    assert process.returncode == 0 and "--user-factors" in process.stdout, process.stderr[-2000:]
    loaded = {line.split("|")[-1].strip().split(".")[0] for line in process.stderr.splitlines() if line.startswith("import time:")}
    assert "apr_tutorial" in loaded and not loaded & {"tensorflow", "keras", "implicit", "cornac"}


@pytest.mark.parametrize("module", ["audit", "foreign_models"])
def test_modules_import_no_other_library(module):
    asked = f"import apr_tutorial.{module}, sys; print(sorted({{'implicit', 'cornac'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", asked], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout.strip(), done.returncode) == ("[]", 0), done.stderr
