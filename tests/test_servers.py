"""Parameter servers: several processes of this machine hold the tables of one run; and what becomes of the run when one of them is gone."""
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest
from conftest import ROOT, assert_same_results, write_log

from apr_tutorial.servers import local_servers

sys.path.insert(0, str(ROOT))

SERVE = "from apr_tutorial.servers import serve; import os; serve(90); os._exit(0)"


def start(code, config, folder):
    "A process with this code (or these words of a call) and this TF_CONFIG, in a group of its own, killed whatever happens after four minutes."
    env = {**os.environ, "TF_CONFIG": config, "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])}
    command = ["timeout", "-s", "KILL", "240", sys.executable, *(["-c", code] if isinstance(code, str) else code)]
    return subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def sign(process, number):
    "Send a signal to a process and those that it leads."
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        pass


@contextmanager
def cluster(folder, chief, servers=2, workers=1, other=SERVE):
    "Processes by kind and number; all are ended with the block."
    found = {key: start(chief if key[0] == "chief" else other, config, folder) for key, config in local_servers(servers, workers).items()}
    try:
        yield found
    finally:
        for process in found.values():
            sign(process, signal.SIGKILL)
            process.communicate()


def lines_until(process, word):
    "What the process has said up to the line that starts with `word`."
    said = []
    for line in process.stdout:
        said.append(line.strip())
        if line.startswith(word):
            return said
    pytest.fail(f"no '{word}': {said} {process.stderr.read()[-2000:]}")


AGREE = """
import os, sys
from apr_tutorial.servers import Served, ServerLost
servers = Served(timeout=20)
import numpy as np
from apr_tutorial.apr import APR
from apr_tutorial.data import synthetic
from apr_tutorial.evaluator import positions
from apr_tutorial.model import BPRMF, copy_of, fit
data = synthetic(200, 400, activity=30)
model = BPRMF(200, 400, 16)
alone = copy_of(model, "alone")
for name, adversary in {"BPR": None, "APR": APR()}.items():
    for trained, strategy in (model, servers), (alone, None):
        fit(trained, data, 3, seed=(1, adversary is None), adversary=adversary, progress=False, strategy=strategy)
    print(name, max(abs(model.user_factors - alone.user_factors).max(), abs(model.item_factors - alone.item_factors).max()), flush=True)
print("ranks", all((mine == theirs).all() for mine, theirs in zip(servers.run.positions(size=150), positions(model, data))), flush=True)
servers.timeout = 5
try:
    fit(model, data, 10**6, progress=False, strategy=servers, monitor=lambda m: print("epoch", flush=True) or {})
except ServerLost as error:
    print("lost", error, flush=True)
    os._exit(3)
"""


def seconds_until_lost(process):
    "How long until the chief ends, with code 3, and what it said."
    began = time.monotonic()
    said = process.communicate(timeout=60)[0].splitlines()
    assert process.returncode == 3 and said[-1].startswith("lost"), said[-3:]
    return time.monotonic() - began, said[-1]


def test_two_servers_are_one_process_until_one_is_killed(tmp_path):
    with cluster(tmp_path, AGREE) as found:
        said = dict(line.split() for line in lines_until(found["chief", 0], "ranks"))
        assert float(said["BPR"]) < 1e-4 and float(said["APR"]) < 1e-4 and said["ranks"] == "True", said
        lines_until(found["chief", 0], "epoch")
        sign(found["ps", 1], signal.SIGKILL)
        seconds, text = seconds_until_lost(found["chief", 0])
        assert "ps 1 (127.0.0.1:" in text and "--resume" in text and seconds < 5 + 5
        assert found["worker", 0].wait(timeout=20) == 0  # the chief is gone


@pytest.mark.long
@pytest.mark.parametrize("kind", ["ps", "worker"])
def test_a_frozen_one(kind, tmp_path):
    with cluster(tmp_path, AGREE) as found:
        lines_until(found["chief", 0], "epoch")
        sign(found[kind, 0], signal.SIGSTOP)
        seconds, text = seconds_until_lost(found["chief", 0])
        assert "answered nothing for 5 s" in text and seconds < 5 + 10


@pytest.mark.long
def test_those_that_never_come(tmp_path):
    "One line and exit code 3, of the chief and of the others."
    run = ["-m", "apr_tutorial", "run", "--dataset", "log.tsv", "--strategy", "parameter-server", "--peer-timeout", "2", "--k", "5"]
    (tmp_path / "log.tsv").write_text("\n".join(f"{u}\t{i}\t1\t{i}" for u in range(20) for i in range(u % 7, 20 + u % 5, 2)), encoding="utf-8")
    configs = local_servers(1)
    for key, text in {("chief", 0): "nobody came as ps 0 (127.0.0.1:", ("ps", 0): "did not come within 2 s"}.items():
        process = start(run, configs[key], tmp_path)
        out, err = process.communicate(timeout=120)
        assert process.returncode == 3 and text in err and len([line for line in err.splitlines() if line.startswith("error")]) == 1, err
        assert "Traceback" not in err


LOSES_A_WORKER = AGREE.split("for name")[0] + """
import time
fit(model, data, 400, progress=False, strategy=servers, monitor=lambda m: print("epoch", flush=True) or {})
print("done", np.isfinite(model.user_factors).all(), flush=True)
"""


@pytest.mark.long
def test_a_killed_worker_is_replaced_by_the_other(tmp_path):
    with cluster(tmp_path, LOSES_A_WORKER, workers=2) as found:
        lines_until(found["chief", 0], "epoch")
        sign(found["worker", 0], signal.SIGKILL)
        assert lines_until(found["chief", 0], "done")[-1] == "done True"


RUN = ["-m", "apr_tutorial", "run", "--dataset", "log.tsv", "--epochs", "12", "--adversarial-epochs", "12", "--attacks", "fgsm", "--k", "10",
       "--strategy", "parameter-server", "--batch-size", "64", "--checkpoint-every", "1", "--peer-timeout", "30"]


def run_whole(folder, *options, servers=2):
    call = [*RUN, *options]
    with cluster(folder, call, servers, other=call) as found:
        said = found["chief", 0].communicate(timeout=230)
        assert found["chief", 0].returncode == 0, said[1][-2000:]
        assert [process.wait(timeout=30) for key, process in found.items() if key[0] != "chief"] == [0]*(servers + 1)
    assert "WARNING" not in said[1] and "apr" in said[0], said


@pytest.mark.long
def test_run_on_servers_killed_and_resumed_on_more(tmp_path):
    "A server of two dies: exit code 3. The run goes on with three, and its report is that of an unbroken run."
    write_log(tmp_path / "log.tsv")
    run_whole(tmp_path, "--out", "whole")
    call = [*RUN, "--out", "killed"]
    with cluster(tmp_path, call, other=call) as found:
        for _ in range(1000):
            if (tmp_path / "killed/checkpoints/apr-42.npz").exists():
                break
            time.sleep(.1)
        sign(found["ps", 1], signal.SIGKILL)
        out, err = found["chief", 0].communicate(timeout=60)
    assert found["chief", 0].returncode == 3 and "Traceback" not in err, err[-2000:]
    assert [line for line in err.splitlines() if line.startswith("error: ps 1 (127.0.0.1:")], err
    assert not (tmp_path / "killed/report.json").exists()
    run_whole(tmp_path, "--out", "killed", "--resume", servers=3)
    assert_same_results(tmp_path / "whole", tmp_path / "killed")


@pytest.mark.long
def test_two_servers_share_the_memory():
    "Each holds at most 55 % of the tables beyond a server with tiny tables, after training."
    from apr_tutorial.servers import table_bytes
    from benchmarks.served_memory import ROWS, WIDTH, beyond_empty

    held, _ = beyond_empty(2)
    assert .45 < held*1e6/table_bytes(ROWS, WIDTH, WIDTH) <= .55
