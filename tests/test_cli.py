"""The command line by its contract: outputs, exit codes, and interruption. Bad input is in test_bad_input.py."""
import gzip
import json
import os
import random
import re
import shlex
import signal
import struct
import subprocess
import sys
import time

try:
    import fcntl
    import pty
    import termios
except ImportError:  # Windows
    pty = None

import numpy as np
import pandas as pd
import pytest

from conftest import ROOT

QUICK = ["--epochs", "3", "--adversarial-epochs", "2", "--embedding-size", "8", "--batch-size", "64", "--attack-epsilons", "0.5,1"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    "A published split with ids that have gaps: 30 users, about 60 items."
    folder, rng, rows, test = tmp_path_factory.mktemp("split"), random.Random(0), [], []
    for user in range(7, 307, 10):
        items = rng.sample(range(1000, 1120, 2), 13)
        rows += [f"{user}\t{i}\t{rng.randint(1, 5)}\t{rng.randint(1, 99)}" for i in items[1:]]
        test.append(f"{user}\t{items[0]}\t5\t100")
    (folder / "trainingset.tsv").write_text("\n".join(rows) + "\n")
    with gzip.open(folder / "testset.tsv.gz", "wt") as file:
        file.write("\n".join(test))
    return folder


@pytest.fixture(scope="module")
def finished(folder, tmp_path_factory):
    "A finished run of two seeds on that split."
    out = tmp_path_factory.mktemp("run") / "out"
    command = [sys.executable, "-m", "apr_tutorial", "run", "--dataset", folder, "--seeds", "2", "--out", out, "--k", "5,20", *QUICK]
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout + done.stderr  # no control characters where there is no terminal
    return out


def test_outputs(finished, folder):
    report = json.loads((finished / "report.json").read_text())
    assert report["schema"] == 1 and report["resumed_from"] is None
    assert {k: report["dataset"][k] for k in ("name", "num_users", "num_train", "num_test", "synthetic")} == \
        {"name": folder.name, "num_users": 30, "num_train": 360, "num_test": 30, "synthetic": False}
    assert set(report["environment"]) >= {"apr_tutorial", "python", "tensorflow", "numpy", "platform", "cpu_count"}
    names = {"epoch_seconds", "adversarial_epoch_seconds", "evaluate_seconds", "toplist_seconds", "attack_seconds", "total_seconds"}
    assert all(report["timings"][n] > 0 for n in names)
    rows = pd.DataFrame(report["results"])
    assert list(rows) == ["model", "attack", "epsilon", "seed", "k", "hr", "ndcg", "auc", "coverage", "arp", "gini", "long_tail"]
    assert len(rows) == len(rows.drop_duplicates(["model", "attack", "epsilon", "seed", "k"])) == 3 * (1 + 3 * 2) * 2 * 2
    assert (rows[rows.attack == "none"].epsilon == 0).all()
    pd.testing.assert_frame_equal(rows, pd.read_csv(finished / "metrics.csv"), check_dtype=False)
    for name in ("before_after", "epsilon_sweep", "training"):
        assert (finished / f"{name}.png").read_bytes().startswith(b"\x89PNG") and b"<svg" in (finished / f"{name}.svg").read_bytes()
    assert not list(finished.rglob("*.partial"))


def test_metrics_from_the_saved_weights(finished, folder):
    "A ranking that shares no code with the package, from the files alone."
    train = pd.read_csv(folder / "trainingset.tsv", sep="\t", header=None)
    test = pd.read_csv(folder / "testset.tsv.gz", sep="\t", header=None)
    results = pd.DataFrame(json.loads((finished / "report.json").read_text())["results"])
    for model in ("bpr-mf", "apr"):
        weights = np.load(finished / f"weights-{model}.npz", allow_pickle=False)
        users, items = weights["user_ids"].tolist(), weights["item_ids"].tolist()
        assert items == sorted(set(train[1]) | set(test[1])) and weights["user_factors"].dtype == np.float32
        scores = weights["user_factors"].astype(float) @ weights["item_factors"].astype(float).T
        hits, gains, aucs = [], [], []
        for user, item in zip(test[0], test[1]):
            row, own = scores[users.index(user)], items.index(item)
            rivals = [n for n, i in enumerate(items) if i != item and i not in set(train[1][train[0] == user])]
            position = sum(row[n] >= row[own] for n in rivals)
            hits.append(position < 20), gains.append(np.log(2) / np.log(position + 2) * (position < 20)), aucs.append(1 - position / len(rivals))
        found = results.query("model == @model and attack == 'none' and seed == 42 and k == 20").iloc[0]
        assert found.hr == pytest.approx(np.mean(hits), abs=1e-6)
        assert found.ndcg == pytest.approx(np.mean(gains), abs=1e-6)
        assert found.auc == pytest.approx(np.mean(aucs), abs=1e-6)


def test_recommend(finished, folder, cli, tmp_path):
    train = pd.read_csv(folder / "trainingset.tsv", sep="\t", header=None)
    lists = []
    for attack in ([], ["--attack", "pgd", "--epsilon", "1"]):
        done = cli("recommend", "--weights", finished / "weights-apr.npz", "--dataset", folder, "--k", "7", "--out", "recs.tsv", *attack)
        assert done.returncode == 0, done.stderr
        recs = pd.read_csv(tmp_path / "recs.tsv", sep="\t", header=None)
        assert (recs.groupby(0).size() == 7).all() and recs[0].nunique() == 30
        assert not set(zip(recs[0], recs[1])) & set(zip(train[0], train[1]))
        assert (recs.groupby(0)[2].diff().dropna() <= 0).all()
        lists.append(recs[1].tolist())
    assert lists[0] != lists[1]


def test_weights_of_another_split_are_refused(finished, tmp_path, cli):
    "Without timestamps the split depends on the seed; recommending training items must not be possible by forgetting it."
    rows = "".join(f"{u},{i},1\n" for u in range(20) for i in random.Random(u).sample(range(40), 9))
    (tmp_path / "log.csv").write_text(rows)
    assert cli("run", "--dataset", "log.csv", "--seed", "7", "--no-control", "--attacks", "random", "--k", "5", "--out", "out", *QUICK).returncode == 0
    command = ["recommend", "--weights", "out/weights-apr.npz", "--dataset", "log.csv", "--k", "5", "--out", "recs.tsv"]
    refused = cli(*command)
    assert refused.returncode == 2 and "give the seed of the run" in refused.stderr
    assert cli(*command, "--seed", "7").returncode == 0


def test_finished_report_is_kept(finished, folder, cli):
    before = {p: p.read_bytes() for p in finished.rglob("*") if p.is_file()}
    again = cli("run", "--dataset", folder, "--out", finished, *QUICK)
    assert again.returncode == 2 and "finished report" in again.stderr
    assert cli("run", "--dataset", folder, "--out", finished, "--resume", *QUICK).returncode == 0
    assert before == {p: p.read_bytes() for p in finished.rglob("*") if p.is_file()}


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupt_and_resume(number, code, folder, tmp_path, cli):
    """A run that is interrupted in the middle of training ends with the numbers of one that is not. (After SIGTERM the same code goes on:
    that it stops in order is enough.)"""
    options = ["run", "--dataset", folder, "--no-control", "--attacks", "fgsm", "--attack-epsilons", "1", "--k", "10", "--embedding-size", "8",
               "--epochs", "500", "--adversarial-epochs", "5", "--batch-size", "64", "--checkpoint-every", "20"]
    command = [sys.executable, "-m", "apr_tutorial", *options, "--out", tmp_path / "broken"]
    process = subprocess.Popen([str(c) for c in command], stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    deadline = time.monotonic() + 120
    while not list((tmp_path / "broken").glob("checkpoints/*.npz")) and time.monotonic() < deadline and process.poll() is None:
        time.sleep(.02)
    process.send_signal(number)
    said = process.communicate(timeout=120)[1]
    assert process.returncode == code, said
    assert "Traceback" not in said and not (tmp_path / "broken" / "report.json").exists()
    call = shlex.split(said.split("Go on with: ")[1])  # as it stands, but for the name of the program
    if number == signal.SIGTERM:
        return
    forgotten = cli(*options, "--out", tmp_path / "broken")
    assert forgotten.returncode == 2 and "holds an unfinished run" in forgotten.stderr
    fewer = cli(*options, "--epochs", "1", "--resume", "--out", tmp_path / "broken")
    assert fewer.returncode == 2 and "--epochs was 500, is 1" in fewer.stderr
    other = cli(*options, "--learning-rate", "0.01", "--resume", "--out", tmp_path / "broken")
    assert other.returncode == 2 and "--learning-rate was 0.05, is 0.01" in other.stderr
    assert call[0] == "apr-tutorial" and cli(*call[1:]).returncode == 0
    assert cli(*options, "--resume", "--out", tmp_path / "whole").returncode == 0  # nothing to resume: starts afresh
    reports = [json.loads((tmp_path / n / "report.json").read_text()) for n in ("broken", "whole")]
    assert reports[0]["results"] == reports[1]["results"]
    assert "seed 42" in reports[0]["resumed_from"] and reports[1]["resumed_from"] is None
    assert [report["resumptions"] for report in reports] == [1, 0]
    weights = [dict(np.load(tmp_path / n / "weights-apr.npz")) for n in ("broken", "whole")]
    assert all(np.array_equal(weights[0][k], weights[1][k]) for k in weights[0])


def test_default_folder_and_dropped_k(folder, cli, tmp_path):
    done = cli("run", "--dataset", folder, "--no-control", "--attacks", "random", *QUICK)
    assert done.returncode == 0, done.stderr
    assert "k 50, 100 dropped" in done.stderr or "k 100 dropped" in done.stderr
    assert [p.name for p in (tmp_path / "runs").iterdir()] == [f"{folder.name}-1"]
    assert cli("run", "--dataset", folder, "--k", "100", *QUICK).returncode == 2


def test_synthetic_is_announced(no_network, program, tmp_path):
    done = program("run", "--out", "out", "--quiet", *QUICK, env=no_network)
    assert done.returncode == 0 and "SYNTHETIC DATA" in done.stderr and not done.stdout
    assert json.loads((tmp_path / "out" / "report.json").read_text())["dataset"]["synthetic"] is True


def test_no_network_for_a_named_set(no_network, program, tmp_path):
    done = program("run", "--dataset", "movielens-1m", "--out", "out", env=no_network)
    assert done.returncode == 3 and "APR_TUTORIAL_DATA" in done.stderr and "Traceback" not in done.stderr
    assert not list(tmp_path.rglob("*.tsv"))


def test_datasets(program, no_network):
    done = program("datasets", env=no_network)
    assert done.returncode == 0
    for text in ("movielens-500", "movielens-100k", "movielens-1m", "500 users, 3,172 items, 73,371 training pairs", "licence", "not here yet"):
        assert text in done.stdout


def test_several_defences_are_compared(folder, tmp_path, cli):
    "A row, weights and verdicts for each; one defence more changes none of the others' numbers."
    names = "apr,vat,sharpcf,noise"
    runs = {}
    for defences in (names, "apr"):
        done = cli("run", "--dataset", folder, "--out", defences, "--k", "5,20", "--attacks", "pgd", "--seeds", 2, "--defences", defences, *QUICK)
        assert done.returncode == 0, done.stderr
        runs[defences] = json.loads((tmp_path / defences / "report.json").read_text())
    rows, alone = (pd.DataFrame(runs[d]["results"]) for d in (names, "apr"))
    assert list(rows.model.unique()) == ["bpr-mf", "bpr-mf-continued", *names.split(",")]
    pd.testing.assert_frame_equal(rows[rows.model.isin(alone.model)].reset_index(drop=True), alone)
    found = pd.DataFrame(runs[names]["comparisons"])
    assert len(found) == 2*(4 + 3) and set(found.verdict) <= {"better", "worse", "no difference shown"}
    assert ((found.low > 0) == (found.verdict == "better")).all() and (found.low <= found.difference).all() and (found.difference <= found.high).all()
    mean = rows[rows.k == 20].groupby(["model", "attack", "epsilon"]).ndcg.mean()
    one = found[(found.model == "vat") & (found.reference == "apr") & (found.attack == "pgd")].iloc[0]
    assert one.difference == pytest.approx(mean["vat", "pgd", one.epsilon] - mean["apr", "pgd", one.epsilon], abs=1e-12)
    here = {p.name for p in (tmp_path / names).iterdir()}
    assert here >= {"tradeoff.png", "popularity_bias.svg", "weights-vat.npz", "weights-sharpcf.npz"}
    assert "tradeoff.png" not in {p.name for p in (tmp_path / "apr").iterdir()}


def test_epochs_chosen_on_validation(folder, tmp_path, cli):
    "The run equals one with the chosen epochs fixed; the report says what was chosen; weights of a run without a refit can be used."
    options = ["run", "--dataset", folder, "--k", "5", "--attacks", "pgd", "--no-control", *QUICK]
    done = cli(*options, "--select", "validation", "--out", "chosen")
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "chosen" / "report.json").read_text())
    chosen = {row["model"]: row for row in report["selection"]}
    assert {m: row["epochs_tried"] for m, row in chosen.items()} == {"bpr-mf": 3, "apr": 2} and report["config"]["select"] == "validation"
    assert f"bpr-mf: epoch {chosen['bpr-mf']['epoch']} of 3 tried" in done.stdout and (tmp_path / "chosen" / "selection.svg").exists()
    fixed = cli(*options, "--epochs", chosen["bpr-mf"]["epoch"], "--adversarial-epochs", chosen["apr"]["epoch"], "--out", "fixed")
    assert fixed.returncode == 0, fixed.stderr
    other = json.loads((tmp_path / "fixed" / "report.json").read_text())
    assert other["results"] == report["results"] and other["selection"] == [] and not (tmp_path / "fixed" / "selection.svg").exists()
    assert cli(*options, "--select", "validation", "--no-refit", "--patience", "1", "--out", "held").returncode == 0
    held = json.loads((tmp_path / "held" / "report.json").read_text())
    assert held["dataset"]["num_train"] == report["dataset"]["num_train"] and held["results"] != report["results"]
    assert {row["model"]: row["validation_ndcg"] for row in held["selection"]}["bpr-mf"] <= chosen["bpr-mf"]["validation_ndcg"]
    assert cli("recommend", "--weights", "held/weights-apr.npz", "--dataset", folder, "--k", "5", "--out", "recs.tsv").returncode == 0


def test_exact_ids_and_timestamps_survive(tmp_path, cli, program):
    "Quotes in ids are data; nanosecond timestamps differ in digits that a float can't hold; a dollar in a name is no formula."
    rows = [f'u{u}\ti"{i}\t5\t{1700000000000000000 + 10 - i}' for u in range(9) for i in range(5)]
    source = tmp_path / "log_$a$.tsv"
    source.write_text("\n".join(rows))
    from apr_tutorial.data import load_dataset
    data = load_dataset(source)
    assert set(data.item_ids[data.test_items]) == {'i"0'}  # the latest, and the first in the file
    options = ["run", "--dataset", source, "--k", "1", "--no-control", "--attacks", "random", "--out", "out", *QUICK]
    done = program(*options, env={"PYTHONIOENCODING": "cp1252"})
    assert done.returncode == 0, done.stderr
    assert cli("recommend", "--weights", "out/weights-apr.npz", "--dataset", source, "--out", "recs.tsv").returncode == 0  # the default k adapts
    lines = [line.split("\t") for line in (tmp_path / "recs.tsv").read_text().splitlines()]
    assert {(len(line), line[1]) for line in lines} == {(3, 'i"0')}


def in_terminal(command, columns=80, **env):
    "What a program writes to a terminal of this width, as bytes, and its exit code."
    pid, terminal = pty.fork()
    if pid == 0:
        width = {k: v for k, v in (os.environ | {"TERM": "xterm-256color"} | env).items() if k not in ("COLUMNS", "LINES", *(() if "NO_COLOR" in env else ("NO_COLOR",)))}
        os.execvpe(command[0], [str(c) for c in command], width)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    said = b""
    while True:
        try:
            part = os.read(terminal, 65536)
        except OSError:  # how Linux says that the other side has closed
            part = b""
        if not part:
            break
        said += part
    os.close(terminal)
    return said.decode(), os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def on_screen(said):
    "The lines that are left on the screen: without escape sequences, and of each line what stands after its last carriage return."
    return [line.rstrip("\r").split("\r")[-1] for line in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", said).split("\n")]


COLOURED = re.compile(r"\x1b\[[0-9;]*m")
COLOUR_ITSELF = re.compile(r"\x1b\[(?:[0-9;]*;)?(?:3[0-8]|4[0-8]|9[0-7]|10[0-7])[;m]")


@pytest.mark.skipif(pty is None, reason="no pseudo-terminals on this platform")
@pytest.mark.parametrize("columns, env", [(80, {}), (60, {"NO_COLOR": "1"})])
def test_run_in_a_terminal(columns, env, folder, tmp_path):
    "Bars and colour; no line wider than the terminal, except paths and calls, which must stay whole; NO_COLOR takes the colour away."
    command = [sys.executable, "-m", "apr_tutorial", "run", "--dataset", folder, "--k", "5,20", "--out", tmp_path / "out", "--seeds", "2", *QUICK]
    text, code = in_terminal(command, columns, PYTHONPATH=str(ROOT), **env)
    assert code == 0, text
    assert bool(COLOUR_ITSELF.search(text)) == (not env)
    assert "bpr-mf: 100%|" in re.sub(r"\x1b\[[0-9;]*m", "", text).replace("\r", "\n")  # the bar, drawn over itself
    lines = on_screen(text)
    table = lines[next(n for n, line in enumerate(lines) if "clean → under pgd, ε = 1" in line):]
    assert re.search(r"★? *\.\d{4} → +★?\.\d{4} [▼▲]\d+%", "\n".join(table)) and "±" in "\n".join(table)
    until = next(n for n, line in enumerate(table) if line.startswith("Files in"))
    assert max(len(line) for line in table[:until] if not line.startswith("★")) <= columns
    assert any(line.startswith("  apr-tutorial recommend --weights") and line.endswith("recs.tsv") for line in table)


def test_run_into_a_file(folder, tmp_path, program):
    "No escape sequence, no carriage return, no bar; the table is the whole of standard output."
    done = program("run", "--dataset", folder, "--k", "5,20", "--out", "out", *QUICK)
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", done.stdout)
    for name in ("report.json", "metrics.csv", "before_after", "weights-*.npz"):
        assert name in done.stdout
    best = [line for line in done.stdout.splitlines() if "★" in line and "→" in line]
    assert 1 <= len(best) <= 3  # a star for the best clean value, one for the best attacked, in each metric


def test_the_next_call_can_be_copied(folder, tmp_path, cli):
    "The calls that a run ends with work as they stand, with a blank in the name of the file and a seed of one's own."
    source = tmp_path / "my log.csv"
    source.write_text("".join(f"{u},{i},1\n" for u in range(20) for i in random.Random(u).sample(range(40), 9)))
    done = cli("run", "--dataset", source, "--seed", "7", "--no-control", "--attacks", "random", "--k", "5", "--out", "out", *QUICK)
    calls = [shlex.split(line) for line in done.stdout.split("Next:\n")[1].splitlines() if line]
    assert [call[:2] for call in calls] == [["apr-tutorial", "recommend"], ["apr-tutorial", "audit"]]
    for call in calls:
        again = cli(*call[1:])
        assert again.returncode == 0, again.stderr
    assert (tmp_path / "recs.tsv").exists()


def test_output_without_arrows(finished, folder, program):
    "Where the encoding of the output has no arrows, plain letters stand for them."
    done = program("audit", "--weights", finished / "weights-apr.npz", "--dataset", folder, "--k", "5", "--attacks", "pgd", env={"PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0 and "->" in done.stdout, done.stdout + done.stderr
    assert "?" not in re.sub(r"[a-z]\? ", " ", done.stdout), done.stdout  # but for questions, such as a warning asks


@pytest.mark.parametrize("columns", [80, 60])
@pytest.mark.parametrize("command", [[], ["run"], ["audit"], ["recommend"], ["shard"], ["datasets"]])
def test_help_teaches(command, columns):
    "Purpose, examples to copy, and for each option what it means; quick, without TensorFlow, as wide as the terminal, no escape sequence in a pipe."
    env = {k: v for k, v in os.environ.items() if k not in ("FORCE_COLOR", "GITHUB_ACTIONS", "PY_COLORS")} | {"COLUMNS": str(columns), "PYTHONIOENCODING": "utf-8"}
    call = [sys.executable, "-X", "importtime", "-m", "apr_tutorial", *command, "--help"]
    done = subprocess.run(call, capture_output=True, text=True, encoding="utf-8", env=env, cwd=ROOT)
    assert done.returncode == 0 and "tensorflow" not in done.stderr and "\x1b" not in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= columns and "…" not in done.stdout.replace("weights-….npz", "").replace("N+1, …", "")
    if not command:
        assert all(code in done.stdout for code in ("Exit codes", " 0 ", " 2 ", " 3 ", " 4 ", "130, 143"))
        return
    import typer.main
    from apr_tutorial.cli import app
    if columns == 80:
        lines = "\n".join(line.strip() for line in done.stdout.split("Examples:")[1].splitlines() if line.strip())
        examples = lines.replace("\\\n", "").splitlines()  # a call may go on after a backslash
        assert 2 <= len(examples) <= 4 and all(line.startswith("apr-tutorial ") for line in examples)
    options = [p for p in typer.main.get_command(app).commands[command[0]].params if p.name != "help"]
    assert all(p.help and p.opts[0] in done.stdout for p in options)
    shown = " ".join(re.sub(r"[│╭╮╰╯─]", " ", done.stdout).split())
    given = {"defences": "apr", "epochs": "100", "epsilon": "0.5"} if command == ["run"] else {}
    assert all(f"[default: {value}]" in shown for value in given.values())


def test_examples_of_the_help_are_valid(tmp_path, monkeypatch):
    "Each example is accepted: it names options that exist. The data are not there, so none of them computes anything."
    from typer.testing import CliRunner
    import typer.main
    from apr_tutorial.cli import app
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("APR_TUTORIAL_DATA", str(tmp_path))
    for name, command in typer.main.get_command(app).commands.items():
        assert max(map(len, command.epilog.splitlines())) <= 78
        for line in filter(None, command.epilog.replace("\\\n\n", "").split("\n\n")[1:]):
            call = shlex.split(line)[1:]
            assert call[0] in ("run", name)
            if "--dataset" in call and "movielens" not in line:
                done = CliRunner().invoke(app, call)
                assert done.exit_code == 2 and "neither a file nor a folder" in done.output, (line, done.output)


def test_a_log_gets_a_line_now_and_then(tmp_path):
    "Where there is no terminal a long training says so in plain lines, a short one nothing."
    script = ("import sys, time\nfrom apr_tutorial import data\ndata.LogLines.every = float(sys.argv[1])\n"
              "with data.progress_bar('bpr-mf', total=20) as bar:\n    for n in range(20): time.sleep(.01); bar.set_postfix(loss=.5); bar.update()\n")
    said = [subprocess.run([sys.executable, "-c", script, seconds], capture_output=True, text=True, cwd=ROOT).stderr for seconds in (".05", "60")]
    lines = said[0].splitlines()
    assert 2 <= len(lines) <= 5 and all(re.fullmatch(r"bpr-mf: \d+/20 in [\d:]+, [\d:?]+ left, loss=0.5", line) for line in lines), said
    assert "\r" not in said[0] and said[1] == ""
