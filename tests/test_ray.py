"""Seeds, attacks and cells of a grid as tasks of a Ray cluster on 127.0.0.1: the same rows, and what becomes of tasks that fail or are stopped."""
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import ROOT, run

sys.path.insert(0, str(ROOT))  # benchmarks is not installed
needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed: pip install ray")


@pytest.fixture
def without_ray(tmp_path):
    "An environment in which Ray seems not to be installed."
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden/sitecustomize.py").write_text(
        "import importlib.util as u\nfind = u.find_spec\nu.find_spec = lambda name, *more: None if name == 'ray' else find(name, *more)\n", encoding="utf-8")
    return {"PYTHONPATH": os.pathsep.join([str(tmp_path / "hidden"), str(ROOT)])}


def one_line(process, *words):
    lines = process.stderr.strip().splitlines()
    assert process.returncode == 2 and lines[-1].startswith("error: ") and "Traceback" not in process.stderr, process.stderr
    assert all(word in lines[-1] for word in words), lines


def test_ray_is_missing(program, without_ray):
    one_line(program("run", "--dataset", "synthetic", "--ray", "local", env=without_ray), "--ray", "pip install ray")


def test_study_without_ray(monkeypatch, capsys):
    from benchmarks.common import need_ray

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    need_ray(None)
    with pytest.raises(SystemExit) as ended:
        need_ray("local")
    assert ended.value.code == 2 and "pip install ray" in capsys.readouterr().err


def test_ray_or_workers(program):
    one_line(program("run", "--dataset", "synthetic", "--ray", "local", "--strategy", "multi-worker"), "--ray", "--strategy")


def test_plain_map():
    from apr_tutorial.many import spread

    seen = []
    assert spread(abs, [-1, 2], kept=seen.append) == [1, 2] == seen


RUN = ["run", "--dataset", "log.tsv", "--attacks", "random,fgsm", "--k", "5,20", "--batch-size", "64", "--embedding-size", "8", "--checkpoint-every", "1",
       "--attack-epsilons", "0.5"]


@pytest.fixture
def log(tmp_path):
    "A small log of interactions in the current folder of the command line."
    from apr_tutorial.data import synthetic

    toy = synthetic(80, 120, activity=20)
    rows = [f"{u}\t{i}\t1\t{n}" for n, (u, i) in enumerate([*zip(toy.users, toy.items), *zip(toy.test_users, toy.test_items)])]
    (tmp_path / "log.tsv").write_text("\n".join(rows), encoding="utf-8")
    return tmp_path


def same_report(one, other):
    "The same but for times, and for what the two calls say differently."
    reports = [json.loads((folder / "report.json").read_text(encoding="utf-8")) for folder in (one, other)]
    for report in reports:
        report["timings"] = sorted(report["timings"])
        for name in ("ray", "out", "resume"):
            report["config"].pop(name)
        for name in ("resumed_from", "resumptions"):
            report.pop(name)
    assert reports[0] == reports[1]
    for path in one.glob("weights-*.npz"):
        first, second = np.load(path), np.load(other / path.name)
        assert all((first[name] == second[name]).all() for name in first.files), path.name
    assert (one / "metrics.csv").read_bytes() == (other / "metrics.csv").read_bytes()


@pytest.mark.long
@needs_ray
def test_eight_seeds(program, log):
    "With Ray as without; on standard output and standard error nothing of Ray's own."
    options = [*RUN, "--seeds", "8", "--epochs", "3", "--adversarial-epochs", "2"]
    plain, tasks = program(*options, "--out", "plain"), program(*options, "--out", "tasks", "--ray", "local")
    assert plain.returncode == tasks.returncode == 0, tasks.stderr[-3000:]
    same_report(log / "plain", log / "tasks")
    assert tasks.stdout.replace("tasks/", "plain/").replace("in tasks", "in plain") == plain.stdout
    assert not [line for line in tasks.stderr.splitlines() if "ray" in line.lower()], tasks.stderr


FAILING = """
import os, time, warnings
from apr_tutorial.data import DataError
from apr_tutorial.many import TaskFailed, cluster, spread
from apr_tutorial.model import Interrupted, TrainingDiverged

def dies(path): # one byte longer each time
    with open(path, "a") as file: file.write("x")
    if os.path.getsize(path) <= int(path[-1]): os.kill(os.getpid(), 9)
    return "done"

def fails(kind):
    raise {"data": DataError, "diverged": TrainingDiverged, "bug": KeyError}[kind]("what is wrong")

def outcome(function, job, **more):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try: found = spread(function, [job], "local", names=lambda job: "seed 43", **more)
        except Exception as error: found = f"{type(error).__name__}: {error}"
    print(found, len(caught), flush=True)

def sleeps(n): # in short pieces: Ray's signal waits for the end of a call
    until = time.monotonic() + n
    while time.monotonic() < until: time.sleep(.05)
    return n

with cluster("local"):
    outcome(dies, os.path.abspath("twice-2"))
    outcome(dies, os.path.abspath("always-9"))
    for kind in ("data", "diverged", "bug"): outcome(fails, kind)
    outcome(abs, 1, folder="no-such-folder")
    kept, began = [], time.monotonic()
    try: spread(sleeps, [0, 60, 60, 60], "local", kept=kept.append, stop=lambda: len(kept) > 0)
    except Interrupted as error: print(error, kept, time.monotonic() - began < 50)
    print(spread(sleeps, [.4, .3, .2, .1], "local"))
"""


@pytest.mark.long
@needs_ray
def test_tasks_that_fail(tmp_path):
    "A killed process gets two more tries; an answer none; what fails is named; what is finished when somebody stops is kept."
    (tmp_path / "failing.py").write_text(FAILING, encoding="utf-8")
    process = run("timeout", "-s", "KILL", "300", sys.executable, "failing.py", cwd=tmp_path, env={"PYTHONPATH": str(ROOT)})
    lines = process.stdout.splitlines()
    assert process.returncode == 0 and len(lines) == 8, process.stdout + process.stderr[-3000:]
    assert lines[0] == "['done'] 2"
    assert lines[1].startswith("TaskFailed: seed 43: failed 3 times, in the end by WorkerCrashedError") and lines[1].endswith(" 2")
    assert lines[2] == "DataError: seed 43: what is wrong 0" and lines[3] == "TrainingDiverged: seed 43: what is wrong 0"
    assert lines[4].startswith("TaskFailed: seed 43: failed 3 times, in the end by KeyError: 'what is wrong'")
    assert lines[5].startswith("DataError: seed 43: ") and "all hosts of the cluster share" in lines[5]
    assert lines[6] == "stopped with 1 of 4 tasks done [0] True" and lines[7] == "[0.4, 0.3, 0.2, 0.1]"


@pytest.mark.long
@needs_ray
def test_a_diverging_seed_is_named(program, log):
    process = program(*RUN, "--seeds", "2", "--epochs", "2", "--adversarial-epochs", "1", "--learning-rate", "1e30", "--optimizer", "sgd", "--ray", "local")
    assert process.returncode == 4 and process.stderr.splitlines()[-1].startswith("error: seed 4"), process.stderr


@pytest.mark.long
@needs_ray
@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_stopped_and_resumed_without_ray(program, log, sign):
    "A signal to the whole group, as a terminal sends it: checkpoints stay, no process does, and a call without Ray goes on to the same bits."
    options = [*RUN, "--seeds", "4", "--epochs", "300", "--adversarial-epochs", "200"]
    assert program(*options, "--out", "whole").returncode == 0
    command = [sys.executable, "-m", "apr_tutorial", *options, "--out", "stopped"]
    process = subprocess.Popen([*command, "--ray", "local"], cwd=log, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    for _ in range(3000):
        if list((log / "stopped/checkpoints").glob("apr-*.npz")) or process.poll() is not None:
            break
        time.sleep(.1)
    os.killpg(process.pid, sign)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 128 + sign, err
    assert "Traceback" not in err and "--resume" in err.splitlines()[-1] and "--ray local" in err.splitlines()[-1], err
    assert not (log / "stopped/report.json").exists() and list((log / "stopped/checkpoints").glob("*.npz"))
    again = program(*options, "--out", "stopped", "--resume")
    assert again.returncode == 0, again.stderr
    same_report(log / "whole", log / "stopped")
    assert json.loads((log / "stopped/report.json").read_text(encoding="utf-8"))["resumed_from"]


@pytest.mark.long
@needs_ray
def test_audit_and_study(program, log, tmp_path):
    assert program(*RUN, "--epochs", "3", "--adversarial-epochs", "2", "--out", "report").returncode == 0
    options = ["audit", "--weights", "report/weights-apr.npz", "--dataset", "log.tsv", "--k", "5,20"]
    plain, tasks = program(*options, "--out", "plain"), program(*options, "--out", "tasks", "--ray", "local")
    assert plain.returncode == tasks.returncode == 0, tasks.stderr
    plain, tasks = (json.loads((log / name / "report.json").read_text(encoding="utf-8")) for name in ("plain", "tasks"))
    assert plain["results"] == tasks["results"] and plain["audit"] == tasks["audit"]
    study = [sys.executable, "-m", "benchmarks.sensitivity", "--quick", "--dataset", log / "log.tsv"]
    for name, more in {"one": [], "many": ["--ray", "local"]}.items():
        process = run(*study, *more, "--out", tmp_path / name, "--state", tmp_path / f"{name}.csv")
        assert process.returncode == 0, process.stderr[-3000:]
    assert (tmp_path / "one.csv").read_bytes() == (tmp_path / "many.csv").read_bytes()
