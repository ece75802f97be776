"""The examples for launchers: what can be tried without the launcher itself."""
import inspect
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, background

LAUNCH = ROOT / "examples/launch"


def options_of(words):
    return [word for word in words if word.startswith("--")]


def known():
    from apr_tutorial.cli import run

    return {"--" + name.replace("_", "-") for name in inspect.signature(run).parameters}


@pytest.mark.skipif(sys.platform == "win32", reason="a shell script")
def test_slurm(tmp_path):
    "Each task of the job gets the TF_CONFIG that names it, and the options of the call."
    from apr_tutorial.distributed import rank_in

    fakes = {"srun": 'shift\nfor n in 0 1; do SLURM_PROCID=$n "$@"; done', "scontrol": '[ "$*" = "show hostnames node[7-8]" ] && printf "node7\\nnode8\\n"',
             "apr-tutorial": 'echo "$TF_CONFIG"; echo "$@"'}
    for name, text in fakes.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n", encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_NODELIST": "node[7-8]", "PORT": "2222"}
    process = subprocess.run(["bash", LAUNCH / "slurm.sbatch", "--dataset", "a b", "--out", "report"], env=env, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    lines = process.stdout.splitlines()
    assert [rank_in(lines[0]), rank_in(lines[2])] == [0, 1]
    assert json.loads(lines[0])["cluster"] == {"worker": ["node7:2222", "node8:2222"]}
    assert lines[1] == "run --strategy multi-worker --resume --dataset a b --out report" and set(options_of(lines[1].split())) <= known()


def test_kubernetes():
    job, policy = yaml.safe_load_all((LAUNCH / "tfjob.yaml").read_text(encoding="utf-8"))
    worker = job["spec"]["tfReplicaSpecs"]["Worker"]
    container = worker["template"]["spec"]["containers"][0]
    assert (job["kind"], container["name"], worker["replicas"]) == ("TFJob", "tensorflow", 2)
    assert container["args"][:2] == ["apr-tutorial", "run"] and set(options_of(container["args"])) <= known()
    assert {v["name"] for v in container["volumeMounts"]} == {v["name"] for v in worker["template"]["spec"]["volumes"]}
    assert policy["spec"]["podSelector"]["matchLabels"] == worker["template"]["metadata"]["labels"]


def test_ray_train():
    text = (LAUNCH / "ray_train.py").read_text(encoding="utf-8")
    compile(text, "ray_train.py", "exec")
    assert set(options_of(text.replace('"', " ").replace(",", " ").split())) <= known()


def said_by(path):
    "The text of a file of a process, which may just have ended."
    try:
        return path.read_text()
    except OSError:
        return ""


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="finds the workers in /proc")
def test_ray_train_starts_again(tmp_path):
    "Two workers on this machine, of which one is killed: both are started again, and go on from the last checkpoint to the report."
    pytest.importorskip("ray.train.tensorflow", reason="Ray Train is not installed: pip install 'ray[train]'")
    out = tmp_path / "report"
    env = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5", "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    command = ["timeout", "-s", "KILL", "500", sys.executable, LAUNCH / "ray_train.py", "--dataset", "synthetic", "--epochs", "300", "--adversarial-epochs", "10",
               "--checkpoint-every", "5", "--out", out]
    with background(*command, cwd=tmp_path, env=env) as (process, log):
        while process.poll() is None and not list(out.glob("checkpoints/*.npz")):
            time.sleep(.1)
        workers = [int(p.parent.name) for p in Path("/proc").glob("[0-9]*/cmdline") if "apr_tutorial\0run\0--strategy\0multi-worker\0" in (text := said_by(p)) and str(out) in text]
        assert len(workers) == 2, log.read_text()[-2000:]
        os.kill(max(workers), signal.SIGKILL)
        assert process.wait() == 0, log.read_text()[-4000:]
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert report["config"]["workers"] == 2 and report["resumptions"] == 1 and report["resumed_from"], report["resumed_from"]
