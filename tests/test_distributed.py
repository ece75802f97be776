"""Several processes of this machine train one model, over TensorFlow's collectives; and what becomes of one whose peer is gone."""
import json
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import ROOT, assert_same_results, run, write_log

from apr_tutorial.data import DataError, synthetic
from apr_tutorial.defences import defence_of
from apr_tutorial.distributed import local_cluster, simulate
from apr_tutorial.model import BPRMF, fit

LIMIT = 8  # seconds that a worker waits for another


def start(code, config, folder, **env):
    "A process with this code and this TF_CONFIG, killed whatever happens after three minutes: waiting for a peer it hears no signal."
    env = {**os.environ, "TF_CONFIG": config, "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]), **env}
    command = ["timeout", "-s", "KILL", "180", sys.executable, *(["-c", code] if isinstance(code, str) else code)]
    return subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def end(*processes):
    "With the processes that they lead."
    for process in processes:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.communicate()


def test_two_workers_are_one():
    "What `make two-workers` runs: in step equal up to rounding, exchanging changes equal to the simulation bit for bit."
    process = run(sys.executable, "tools/two_workers.py")
    assert process.returncode == 0 and process.stdout.count("agree") == 12, process.stdout + process.stderr[-2000:]
    assert "WRONG" not in process.stdout


def test_a_difference_is_noticed():
    sys.path.insert(0, str(ROOT / "tools"))
    import two_workers

    right = {"in step, BPR users": np.zeros((2, 2))}
    assert two_workers.verdict([right, right], {"in step": {"BPR users": np.full((2, 2), 1e-3)}}, 1e-4)[1] is False
    assert two_workers.verdict([right, right], {"in step": {"BPR users": np.full((2, 2), 1e-5)}}, 1e-4)[1] is True
    other = {"in step, BPR users": np.full((2, 2), 1e-9)}
    assert two_workers.verdict([right, other], {"in step": {"BPR users": np.zeros((2, 2))}}, 1e-4)[1] is False
    exchanged = [{"exchange, APR items": np.zeros((2, 2))}]*2
    assert two_workers.verdict(exchanged, {"exchange": {"APR items": np.full((2, 2), 1e-9)}}, 1e-4)[1] is False


def refused(work, workers=2):
    "What each of the workers is told; all of them must be."
    def one(team):
        with pytest.raises(DataError) as caught:
            work(team)
        return str(caught.value)
    said = simulate(workers, one)
    assert len(set(said)) == 1
    return said[0]


def item_factors(data, batch_size):
    "Work that trains a little and gives the item factors."
    def work(team):
        model = BPRMF(data.num_users, data.num_items)
        fit(model, data, 2, batch_size=batch_size, progress=False, strategy=team)
        return model.item_factors
    return work


def test_more_workers_than_users():
    "Every worker says so, none waits for another; as many workers as users are fine."
    work = item_factors(synthetic(3, 40, activity=8), 4)
    first, *others = simulate(3, work)
    assert all(np.array_equal(first, other) for other in others)
    assert "worker 3 of 5 has no pairs to learn from. Start fewer workers" in refused(work, 5)


@pytest.mark.parametrize("way", ["exchange", "synchronous"])
@pytest.mark.parametrize("what, settings", [("data", {}), ("users, items", {}), ("batch_size", {"batch_size": 8}), ("seed", {"seed": 7}), ("start", {}), ("learning_rate", {"learning_rate": .9})])
def test_workers_that_differ_are_refused(way, what, settings):
    "They would train a model that is nobody's: users with two owners, or none."
    data, other = synthetic(20, 40, activity=8, seed=1), synthetic(20, 40, activity=8, seed=2)
    larger = synthetic(21, 41, activity=8, seed=1)

    def work(team):
        mine = {"data": other, "users, items": larger}.get(what, data) if team.rank else data
        model = BPRMF(mine.num_users, mine.num_items, seed=team.rank if what == "start" else 0)
        options = settings if team.rank else {}
        fit(model, mine, 1, progress=False, strategy=team if way == "exchange" else team.synchronous, **options)

    assert what in refused(work)


def test_fewer_exchanges_than_epochs_are_one_each_epoch():
    "And cost no padding up to the number that was asked for."
    work = item_factors(synthetic(20, 40, activity=8), 16)
    seldom, never = simulate(2, work, 2**24)[0], simulate(2, work)[0]
    assert np.array_equal(seldom, never)
    assert "exchange_every -3" in refused(lambda team: setattr(team, "every", -3) or work(team))


@pytest.mark.parametrize("name", ["noise", "pamacf", "vat", "sharpcf"])
def test_a_defence_that_has_no_synchronous_step_is_refused(name):
    data = synthetic(20, 40, activity=8)
    said = refused(lambda team: fit(BPRMF(20, 40), data, 1, adversary=defence_of(name), progress=False, strategy=team.synchronous))
    assert "strategy=team" in said


PAIR = """
import sys, time
from apr_tutorial.distributed import MultiWorker, WorkerLost
import tensorflow as tf
team = MultiWorker(timeout=%d)
print("together", flush=True)
began = time.monotonic()
if team.rank == 1:
    time.sleep(2)
    %s
time.sleep(3) # nobody waits for it when it goes
try: team.sum(tf.constant(1))
except WorkerLost as error:
    print(round(time.monotonic() - began), error, flush=True)
    import os; os._exit(3)
"""


@pytest.mark.parametrize("fate, limit", [pytest.param("os.kill(os.getpid(), 9)", 2 + 5, id="killed"),
                                         pytest.param("os.kill(os.getpid(), 19)", 3 + LIMIT, id="frozen", marks=pytest.mark.long)])
def test_a_lost_worker(fate, limit, tmp_path):
    code = PAIR % (LIMIT, "import os; " + fate)
    first, second = (start(code, config, tmp_path) for config in local_cluster(2))
    try:
        out, err = first.communicate(timeout=120)
    finally:
        end(second, first)
    assert first.returncode == 3, err[-2000:]
    seconds, said = out.splitlines()[-1].split(" ", 1)
    assert "another worker has ended" in said and "--resume" in said and int(seconds) <= limit, out


def test_a_worker_that_never_comes(tmp_path):
    began = time.monotonic()
    lonely = start(PAIR % (LIMIT, "pass"), local_cluster(2)[0], tmp_path)
    try:
        out, err = lonely.communicate(timeout=120)
    finally:
        end(lonely)
    assert lonely.returncode == 3 and f"not all workers of TF_CONFIG came within {LIMIT} s" in err, err[-2000:]
    assert "Traceback" not in err and time.monotonic() - began < 100


RUN = ["-m", "apr_tutorial", "run", "--dataset", "log.tsv", "--epochs", "60", "--adversarial-epochs", "40", "--attacks", "fgsm", "--k", "10",
       "--strategy", "multi-worker", "--exchange-every", "3", "--batch-size", "64", "--checkpoint-every", "1", "--peer-timeout", "30"]


def run_pair(folder, *options, code=0, own=((), ())):
    "What two workers print, each called with options of its `own` as well; both end with this code."
    pair = [start([*RUN, *options, *more], config, folder) for config, more in zip(local_cluster(2), own)]
    try:
        said = [process.communicate(timeout=170) for process in pair]
    finally:
        end(*pair)
    assert [process.returncode for process in pair] == [code, code], said
    return said


@pytest.mark.long
def test_run_by_two_workers_killed_and_resumed(tmp_path):
    "One worker dies: the other ends within five seconds, exit code 3. Both start again: the report is that of an unbroken run."
    write_log(tmp_path / "log.tsv")
    said = run_pair(tmp_path, "--out", "whole")
    assert "apr" in said[0][0] and not said[1][0].strip() and "WARNING" not in said[0][1] + said[1][1]
    chief, other = (start([*RUN, "--out", "killed"], config, tmp_path) for config in local_cluster(2))
    try:
        for _ in range(600):
            if (tmp_path / "killed/checkpoints/apr-42.npz").exists():
                break
            time.sleep(.1)
        os.killpg(other.pid, signal.SIGKILL)
        began = time.monotonic()
        out, err = chief.communicate(timeout=60)
    finally:
        end(other, chief)
    assert chief.returncode == 3 and time.monotonic() - began < 5 + 3, err  # three seconds more on a busy machine
    assert len([line for line in err.splitlines() if line.startswith("error: another worker has ended")]) == 1 and "Traceback" not in err
    assert not (tmp_path / "killed/report.json").exists()
    run_pair(tmp_path, "--out", "killed", "--resume")
    assert_same_results(tmp_path / "whole", tmp_path / "killed")


@pytest.mark.long
def test_run_by_two_workers_that_differ_and_a_finished_run(tmp_path):
    "Other options in one of them: both refuse. A report that is finished: both are content."
    write_log(tmp_path / "log.tsv")
    for _, err in run_pair(tmp_path, "--out", "out", code=2, own=(["--learning-rate", "0.1"], ["--learning-rate", "0.2"])):
        assert "the workers differ in --learning-rate" in err and "Traceback" not in err, err
    run_pair(tmp_path, "--out", "whole")
    said = run_pair(tmp_path, "--out", "whole", "--resume")
    assert "nothing to do" in said[0][1] and "error" not in said[0][1] + said[1][1]


@pytest.mark.long
def test_a_port_that_is_taken(tmp_path):
    write_log(tmp_path / "log.tsv")
    config = local_cluster(2)[0]
    with socket.create_server(("127.0.0.1", int(json.loads(config)["cluster"]["worker"][0].split(":")[1]))):
        process = start([*RUN, "--out", "out"], config, tmp_path)
        try:
            _, err = process.communicate(timeout=170)
        finally:
            end(process)
    assert process.returncode == 3 and "Is the port taken" in err and "Traceback" not in err, err


COUNTED = """
import json, sys
import numpy as np, tensorflow as tf
from apr_tutorial.apr import APR
from apr_tutorial.data import synthetic
from apr_tutorial.distributed import MultiWorker, SharedTrainer, SynchronousTrainer
from apr_tutorial.model import BPRMF
team = MultiWorker(timeout=60)
def bytes_of_loopback():
    return int([l for l in open("/proc/net/dev") if l.strip().startswith("lo:")][0].split(":")[1].split()[0])
def spent(action, times):
    for _ in range(2): action() # connections, and what is compiled
    team.sum(tf.constant(0)); before = bytes_of_loopback()
    for _ in range(times): action()
    team.sum(tf.constant(0))
    return (bytes_of_loopback() - before)/times
found = {}
for items in (400, 40_000):
    data = synthetic(60, 400, activity=30)
    data = __import__("dataclasses").replace(data, item_ids=np.arange(items))
    spec = dict(optimizer="adagrad", batch_size=512, learning_rate=.1, reg=0., seed=[1])
    model = BPRMF(60, items, 64)
    for name, adversary in (("bpr", None), ("apr", APR())):
        run = SynchronousTrainer(team, model, data, spec, adversary, None)
        ids = run.draw(0)[:1]
        found[f"{name} {items}"] = spent(lambda: run.steps(ids, 1), 20)
    run = SharedTrainer(team, model, data, spec, None, None)
    rows = run.side_by_side(slice(60, -1))
    found[f"exchange {items}"] = spent(lambda: team.exchange(rows), 10)
if team.chief: print(json.dumps(found), flush=True)
"""


@pytest.mark.long
def test_bytes_on_the_wire(tmp_path):
    "Counted by the kernel, in a network of their own that has nothing but a loopback interface."
    from apr_tutorial.distributed import exchange_bytes, synchronous_bytes

    lone = "ip link set lo up && exec "
    if subprocess.run(["unshare", "--net", "sh", "-c", lone + "true"], capture_output=True).returncode:
        pytest.skip("no network of one's own can be made here (unshare --net, ip): bytes are not counted")
    script = tmp_path / "counted.py"
    script.write_text(COUNTED, encoding="utf-8")
    pair = " & ".join(f"TF_CONFIG='{config}' {sys.executable} {script}" for config in local_cluster(2)) + " & wait"
    process = run("timeout", "-s", "KILL", "240", "unshare", "--net", "sh", "-c", f"ip link set lo up; {pair}", cwd=tmp_path, env={"PYTHONPATH": str(ROOT)})
    found = json.loads(process.stdout.splitlines()[-1])
    expected = {"bpr": synchronous_bytes(2, 256, 64), "apr": synchronous_bytes(2, 256, 64, True)}
    for name, formula in expected.items():
        for items in (400, 40_000):
            assert abs(found[f"{name} {items}"]/formula - 1) < .02, (found, expected)
    for items in (400, 40_000):
        assert abs(found[f"exchange {items}"]/exchange_bytes(2, items, 64, 64) - 1) < .05, found
