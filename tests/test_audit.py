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
def finished(log, forks, tmp_path_factory):
    "A finished run on that file."
    out = tmp_path_factory.mktemp("run") / "out"
    done = forks.finish("run", "--dataset", log, "--no-control", "--out", out, *QUICK, *SAME)
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
    assert {p.name for p in out.iterdir()} == names | {"metrics.csv", "audit.csv", "report.json"}
    report = json.loads((out / "report.json").read_text())
    assert report["schema"] == 1 and report["resumed_from"] is None and report["config"]["relative"] is True
    assert report.keys() == json.loads((finished / "report.json").read_text()).keys() - {"comparisons", "selection", "resumptions"} | {"audit"}
    audit, share = report["audit"], [b["users_relative"] for b in report["audit"]["budgets"]]
    assert share == pytest.approx([.25, .5])
    assert [b["users"] for b in audit["budgets"]] == pytest.approx([e * audit["mean_lengths"]["users"] for e in share])
    sweep = pd.read_csv(out / "audit.csv")
    assert set(sweep.unit) == {"relative"} and len(sweep) == len(audit["sweep"])
    assert audit["clean_auc"] == pytest.approx(report["results"][0]["auc"]) and isinstance(audit["warnings"], list)
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
    assert len(alone.frame) == 1 and len(findings(alone)) == 1 + len(alone.doubts)


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


# What bad input is told

BAD = {  # name: (options, the way out that the message names); the rest stands in test_bad_input.py
    "npz": (["--user-factors", "W.npz", "--item-factors", "Q.npy"], "is an .npz that holds user_factors, item_factors"),
    "csv": (["--user-factors", "P.csv", "--item-factors", "Q.npy"], "Is it text?"),
    "transposed": (["--user-factors", "P.npy", "--item-factors", "turned.npy"], "Is the table transposed?"),
    "an item without a row": (["--user-factors", "P.npy", "--item-factors", "few.npy"], "One without factors gets zeros"),
    "ids with a header": (["--user-factors", "P.npy", "--item-factors", "Q.npy", "--user-ids", "headed.txt"], "Is there a header? The first is 'user'"),
    "unknown id": (["--user-factors", "P.npy", "--item-factors", "Q.npy", "--user-ids", "unknown.txt"], "'nobody' is unknown to the data, whose ids are like 'u0'"),
    "id missing": (["--user-factors", "short.npy", "--item-factors", "Q.npy", "--user-ids", "short.txt"], "'u9' is missing; expected each user of the data exactly once. Give each a row of zeros"),
}


@pytest.fixture(scope="module")
def files(log, tmp_path_factory):
    "Good and bad files for the log's 40 users and 90 items."
    folder, rng = tmp_path_factory.mktemp("files"), np.random.default_rng(0)
    p, q = rng.standard_normal((40, 4)), rng.standard_normal((90, 4))
    arrays = dict(P=p, Q=q, short=p[:-1], turned=q.T, few=q[:-1])
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    np.savez(folder / "W.npz", user_factors=p, item_factors=q)
    np.savetxt(folder / "P.csv", p, delimiter=",")
    users = sorted(f"u{n}" for n in range(40))
    for name, ids in dict(unknown=["nobody", *users[1:]], short=users[:-1], headed=["user", *users]).items():
        (folder / f"{name}.txt").write_text("\n".join(ids) + "\n")
    return folder


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name, log, files, tmp_path, monkeypatch):
    "Exit code 2, one line that says what, no traceback, and no file left behind."
    from typer.testing import CliRunner
    from apr_tutorial.cli import app
    options, message = BAD[name]
    monkeypatch.chdir(files)
    done = CliRunner().invoke(app, ["audit", "--dataset", str(log), "--out", str(tmp_path / "out"), *options])
    lines = [line for line in done.stderr.splitlines() if not line.startswith("warning: ")]
    assert done.exit_code == 2 and len(lines) == 1 and lines[0].startswith("error: ") and message in lines[0], done.output
    assert not [p for p in (tmp_path / "out").rglob("*") if p.is_file()]


def test_factors_need_their_data(files, cli):
    done = cli("audit", "--user-factors", files / "P.npy", "--item-factors", files / "Q.npy")
    assert done.returncode == 2 and "--dataset: give the interactions" in done.stderr


# What is no error and yet wrong

def better_than_chance(data, d=4):
    "Factors whose first column knows popularity, so that they rank better than noise."
    rng = np.random.default_rng(0)
    p, q = (.05 * rng.standard_normal((n, d)) for n in (data.num_users, data.num_items))
    p[:, 0], q[:, 0] = .9, np.bincount(data.items, minlength=data.num_items)
    return p, q


def test_doubts_are_said():
    "Rows of other people, a hidden bias on either side, a budget longer than the rows: a warning, a line, and a key of the report."
    from apr_tutorial.audit import audit, audited_model, findings
    data = split()
    p, q = better_than_chance(data)
    ones = {"user": (np.c_[p, np.ones(len(p))], np.c_[q, q[:, 0]]), "item": (np.c_[p, p[:, 1]], np.c_[q, np.ones(len(q))])}
    cases = {"near chance": ((p, -q), {}), "user_factors: column 4 is 1 in every row, so item_factors[:, 4] is an item bias": (ones["user"], {}),
             "item_factors: column 4 is 1 in every row": (ones["item"], {}), "ε = 5000 is": ((p, q), dict(relative=False, epsilons=[.1, 5000])),
             "ε = 1 is 100% of a user or item's mean row": ((p, q), dict(epsilons=1))}
    for text, (tables, options) in cases.items():
        with pytest.warns(UserWarning) as said:
            report = audit(*tables, data, attacks="random", k=20, **dict(relative=True, epsilons=.25) | options)
        assert len(said) == len(report.doubts) and any(text in doubt for doubt in report.doubts), (text, report.doubts)
        assert findings(report)[0] == f"WARNING: {report.doubts[0]}"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report = audit(p, q, data, attacks=["random", "pgd"], relative=True, k=20)
    assert report.doubts == () and report.settings.attack_epsilons == (.1, .25, .5) and report.attacks == ["random", "pgd"]
    assert audit(p, q, data, attacks={}, k=20).settings.attack_epsilons == (.5, 1, 2)
    shipped = audited_model(p, q, data)
    assert callable(shipped.export)


def test_python_is_told_what_to_give():
    from apr_tutorial.audit import audit
    from apr_tutorial.data import DataError
    data = split()
    p, q = better_than_chance(data)
    for call, message in {(lambda: audit(p, q, "ratings.csv")): "data: str; expected Interactions", (lambda: audit(p, q, data, attacks="fgms")): "expected some of random"}.items():
        with pytest.raises(DataError, match=message):
            call()


def test_half_is_said_with_its_unit():
    from types import SimpleNamespace
    from apr_tutorial.audit import half_text
    for half, text in {.42: "at ε = 0.42 mean rows (interpolated)", .05: "between ε = 0 and 0.1 mean rows, about 0.05", None: "not reached up to ε = 0.5 mean rows"}.items():
        report = SimpleNamespace(half=lambda attack: half, settings=SimpleNamespace(attack_epsilons=(0, .1, .5)), unit=" mean rows")
        assert half_text(report, "pgd") == text


def test_a_file_that_is_split_here(log, files, finished, cli, tmp_path):
    "Factors from elsewhere may have seen its test items; weights of `run` and a folder have been split before."
    tables = ["--user-factors", files / "P.npy", "--item-factors", files / "one.npz"]
    np.savez(files / "one.npz", np.load(files / "Q.npy"))
    done = cli("audit", *tables, "--dataset", log, "--relative", "--attacks", "random", "--k", "5", "--out", "out")
    assert done.returncode == 0 and "is split here" in done.stderr and "near chance" in done.stderr, done.stderr
    assert "Next:" not in done.stdout and "own_data" in done.stdout and "0.1   0.25    0.5" in done.stdout
    again = cli("audit", "--weights", finished / "weights-apr.npz", "--dataset", log, "--attacks", "random", "--k", "5", *SAME[-2:], "--out", "again")
    assert again.returncode == 0 and "is split here" not in again.stderr, again.stderr
    line = again.stdout.split("Next:\n")[1].splitlines()[0]
    assert "--weights" in line and line.endswith("--seed 7 --relative")


def test_version(cli):
    from apr_tutorial import __version__
    assert cli("--version").stdout.strip() == __version__


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
