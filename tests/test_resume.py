"""Killed, interrupted, diverged, resumed: always the bits of a run that nothing happened to. And two runs never share a folder."""
import json
import os
import random
import re
import shutil
import signal
import time

import numpy as np
import pytest

from conftest import ONE_THREAD, Forks

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")

TINY = ["--embedding-size", "4", "--batch-size", "64", "--k", "5", "--attacks", "fgsm", "--attack-epsilons", "1", "--checkpoint-every", "1", "--quiet"]
SMALL = [*TINY, "--epochs", "6", "--adversarial-epochs", "3", "--no-control"]
RUNS = {"small": SMALL,
        "seeds and defences": [*TINY, "--epochs", "12", "--adversarial-epochs", "8", "--seeds", "2", "--defences", "apr,sharpcf"],
        "validation": [*TINY, "--epochs", "12", "--adversarial-epochs", "8", "--select", "validation", "--patience", "6", "--no-control"]}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    "Forty users with a dozen items each, in time."
    rng, path = random.Random(0), tmp_path_factory.mktemp("data") / "tiny.tsv"
    path.write_text("".join(f"{u}\t{i}\t5\t{n}\n" for u in range(40) for n, i in enumerate(rng.sample(range(80), 12))))
    return path


@pytest.fixture(scope="module")
def unbroken(forks, data, tmp_path_factory):
    "`unbroken(name)`: the folder of that run when nothing happens to it, and how long it took."
    made = {}

    def of(name):
        if name not in made:
            out, began = tmp_path_factory.mktemp("unbroken") / "out", time.monotonic()
            code, said = forks.run("run", "--dataset", data, *RUNS[name], "--out", out)
            assert code == 0, said
            made[name] = out, time.monotonic() - began
        return made[name]
    return of


def report_of(out):
    "report.json without times, and without what says how the run came about; and these two."
    report = json.loads((out / "report.json").read_text())
    del report["timings"]
    for name in ("out", "resume"):
        del report["config"][name]
    return report, report.pop("resumed_from"), report.pop("resumptions")


def assert_same(out, whole):
    "Report, metrics and weights of two runs agree in every bit; the same files, none hidden."
    assert report_of(out)[0] == report_of(whole)[0]
    files = [sorted(p.relative_to(f).as_posix() for p in f.rglob("*")) for f in (out, whole)]
    assert files[0] == files[1]
    assert (out / "metrics.csv").read_bytes() == (whole / "metrics.csv").read_bytes()
    for name in (n for n in files[1] if n.startswith("weights-")):
        arrays = [dict(np.load(f / name, allow_pickle=False)) for f in (out, whole)]
        assert arrays[0].keys() == arrays[1].keys()
        assert all(a.dtype == b.dtype and a.tobytes() == b.tobytes() for a, b in ((arrays[0][k], arrays[1][k]) for k in arrays[1])), name


def contents(folder):
    "File -> bytes, without what a process that is gone left hidden."
    return {p: p.read_bytes() for p in folder.rglob("[!.]*") if p.is_file()}


@pytest.mark.parametrize("n", [*range(5), *(pytest.param(n, marks=pytest.mark.long) for n in range(5, 30))])
def test_killed_at_a_random_moment(n, forks, data, unbroken, tmp_path):
    "`kill -9`, `--resume`: the bits of the unbroken run. A checkpoint after each epoch, so some kills fall into the writing of one."
    name = ["seeds and defences", "validation"][n % 2]
    (whole, seconds), out, rng = unbroken(name), tmp_path / "out", random.Random(n)
    command = ["run", "--dataset", data, *RUNS[name], "--out", out]
    while not forks.kill_after(rng.uniform(.02, .98)*seconds, *command):  # it was quicker this time, as what it needs is compiled
        seconds *= .8
        shutil.rmtree(out)
    there = bool(list(out.glob("checkpoints/*.npz")))
    code, said = forks.run(*command, "--resume")
    assert code == 0, said
    assert_same(out, whole)
    _, resumed_from, resumptions = report_of(out)
    assert (resumptions, resumed_from is not None) == (there, there), (resumptions, resumed_from)
    assert not there or re.fullmatch(r"[\w-]+, epoch \d+, seed \d+", resumed_from)


@pytest.mark.long
def test_killed_again_and_again(forks, data, unbroken, tmp_path):
    "Each life of the run is killed, until one is long enough to end; the report counts them."
    (whole, seconds), out, kills, rng = unbroken("seeds and defences"), tmp_path / "out", 0, random.Random(7)
    while not kills:  # the unbroken run may have been slower, as it had all to compile
        shutil.rmtree(out, ignore_errors=True)
        while forks.kill_after(rng.uniform(.2, .7)*seconds*(1 + kills/10), "run", "--dataset", data, *RUNS["seeds and defences"], "--out", out, "--resume"):
            kills += 1
        seconds *= .7
    assert_same(out, whole)
    assert report_of(out)[2] <= kills  # not those before the first checkpoint


# What a process does before its fifth checkpoint of the first model, or its report, has its name, and then dies of `kill -9`.
DIE = """
import io, os, signal
import numpy as np
def die(): os.kill(os.getpid(), signal.SIGKILL)
replace, savez, fsync, calls = os.replace, np.savez, os.fsync, []
def fifth(name):
    calls.append(name)
    return calls.count(name) == 5
"""
MOMENTS = {
    "half of the checkpoint is written": ("bpr-mf, epoch 4, seed 42", """
def torn(file, **arrays):
    whole = io.BytesIO()
    savez(whole, **arrays)
    if not fifth("savez"): file.write(whole.getvalue()); return
    file.write(whole.getvalue()[:len(whole.getvalue())//2]); file.flush(); die()
np.savez = torn"""),
    "the checkpoint has no name yet": ("bpr-mf, epoch 4, seed 42", """
def before(a, b):
    if b.name == "bpr-mf-42.npz" and fifth("replace"): die()
    replace(a, b)
os.replace = before"""),
    "the checkpoint has just got its name": ("bpr-mf, epoch 5, seed 42", """
def after(a, b):
    replace(a, b)
    if b.name == "bpr-mf-42.npz" and fifth("replace"): die()
os.replace = after"""),
    "all is written but the report": ("apr, epoch 3, seed 42", """
def before(a, b):
    if b.name == "report.json": die()
    replace(a, b)
os.replace = before"""),
}
LONG_MOMENTS = ("the checkpoint has just got its name",)


@pytest.mark.parametrize("moment", [pytest.param(m, marks=[pytest.mark.long] if m in LONG_MOMENTS else []) for m in MOMENTS])
def test_killed_while_writing(moment, forks, data, unbroken, tmp_path):
    "Under the final name there is always a whole file: the one before, or the new one."
    out, (resumed_from, code_before) = tmp_path / "out", MOMENTS[moment]
    command = ["run", "--dataset", data, *SMALL, "--out", out]
    assert forks.run(*command, before=DIE + code_before)[0] == -signal.SIGKILL
    assert not (out / "report.json").exists()
    for path in out.glob("**/*.npz"):
        np.load(path, allow_pickle=False)["sha256" if path.parent.name == "checkpoints" else "user_ids"]
    assert forks.run(*command, "--resume")[0] == 0
    assert_same(out, unbroken("small")[0])
    assert report_of(out)[1:] == (resumed_from, 1)


@pytest.fixture(scope="module")
def killed(forks, data, tmp_path_factory):
    "The folder of a small run that was killed in the fifth epoch of its first model."
    out = tmp_path_factory.mktemp("killed") / "out"
    assert forks.run("run", "--dataset", data, *SMALL, "--out", out, before=DIE + MOMENTS["the checkpoint has no name yet"][1])[0] == -signal.SIGKILL
    return out


def another_test_item(text):
    "The last user's last item replaced by one that this user does not have and others do."
    *lines, last = text.splitlines()
    mine = {line.split("\t")[1] for line in [*lines, last] if line.startswith("39\t")}
    item = next(line.split("\t")[1] for line in lines if line.split("\t")[1] not in mine)
    return "\n".join([*lines, f"39\t{item}\t5\t11\n"])


OTHER = {
    "--epochs was 6, is 7": ["--epochs", "7"], "--learning-rate was 0.05, is 0.1": ["--learning-rate", "0.1"], "--embedding-size was 4, is 8": ["--embedding-size", "8"],
    "--seed was 42, is 43": ["--seed", "43"], "--seeds was 1, is 2": ["--seeds", "2"], "--k was [5], is [5, 10]": ["--k", "5,10"], "--control was False, is True": ["--control"],
    "--defences was ['apr'], is ['apr', 'vat']": ["--defences", "apr,vat"], "--select was last, is validation": ["--select", "validation"],
    "--epsilon was 0.5, is 0.1; --adv-reg was 1.0, is 2.0": ["--epsilon", "0.1", "--adv-reg", "2"],
    "the training pairs differ; the times of the training pairs differ": lambda text: text.replace("0\t", "1\t", 1), "the test items differ": lambda text: another_test_item(text),
    "the user ids differ": lambda text: re.sub(r"^39\t", "99\t", text, flags=re.M),
}


def test_other_options_or_data_are_refused(forks, data, killed, tmp_path):
    "Each difference by its name, what it was and what it is; and nothing is changed."
    before, other = contents(killed), tmp_path / "other.tsv"
    for message, change in OTHER.items():
        options = change if isinstance(change, list) else []
        other.write_text(data.read_text() if options else change(data.read_text()))
        code, said = forks.run("run", "--dataset", other, *SMALL, *options, "--out", killed, "--resume")
        assert code == 2 and f"was begun otherwise: {message}" in said, (message, said)
        assert contents(killed) == before


@pytest.mark.parametrize("how", ["shortened", "altered", "foreign", "no record"])
def test_damaged_checkpoints_are_refused(how, forks, data, killed, tmp_path):
    "With the cure in the message; after it, the run ends as ever."
    out = tmp_path / "out"
    shutil.copytree(killed, out)
    path, record = out / "checkpoints" / "bpr-mf-42.npz", out / "checkpoints" / "run.json"
    arrays = dict(np.load(path, allow_pickle=False))
    if how == "shortened":
        path.write_bytes(path.read_bytes()[:-100])
    elif how == "altered":  # one bit, in a file that is whole
        arrays["factors"].view(np.int32)[0, 0] ^= 1
        np.savez(path, **arrays)
    elif how == "foreign":
        np.savez(path, weights=np.zeros(3))
    else:
        record.write_text(record.read_text()[:50])
    command = ["run", "--dataset", data, *SMALL, "--out", out, "--resume"]
    code, said = forks.run(*command)
    assert code == 2 and "Remove" in said and str(record if how == "no record" else path) in said, said
    assert not (out / "report.json").exists()


def test_a_folder_has_one_run(forks, data, unbroken, tmp_path):
    "The second is refused while the first lives; when it was killed its lock stands in nobody's way."
    (whole, _), out, command = unbroken("small"), tmp_path / "out", ["run", "--dataset", data, *SMALL, "--out", tmp_path / "out"]
    slow = "import time, apr_tutorial.model as m\nreal = m.one_epoch\ndef one_epoch(*args): time.sleep(1); return real(*args)\nm.one_epoch = one_epoch"
    first, *_ = forks.start(*command, before=slow)
    deadline = time.monotonic() + 60
    while not list(out.glob("checkpoints/*.npz")) and time.monotonic() < deadline:
        time.sleep(.05)
    for more in ([], ["--resume"]):
        code, said = forks.run(*command, *more)
        assert code == 2 and f"--out {out}: another run is at work there" in said, said
    audited = forks.run("audit", "--weights", whole / "weights-apr.npz", "--dataset", data, "--k", "5", "--out", out)
    assert audited[0] == 2 and "another run is at work there" in audited[1]
    os.kill(first, signal.SIGKILL)
    assert forks.ask(wait=first) == -signal.SIGKILL and (out / ".lock").exists()
    assert forks.run(*command, "--resume")[0] == 0
    assert_same(out, whole)


@pytest.mark.long
def test_two_runs_without_a_folder_get_two(forks, data, tmp_path):
    numbers = [forks.start("run", "--dataset", data, *SMALL, cwd=tmp_path)[0] for _ in range(3)]
    assert [forks.ask(wait=n) for n in numbers] == [0, 0, 0]
    folders = sorted(p.name for p in (tmp_path / "runs").iterdir())
    assert folders == ["tiny-1", "tiny-2", "tiny-3"]
    for folder in folders[1:]:
        assert_same(tmp_path / "runs" / folder, tmp_path / "runs" / "tiny-1")


def test_divergence_keeps_the_last_good_checkpoint(forks, data, tmp_path):
    "Exit code 4 in the epoch where it happens, with the option to lower; the checkpoint before it is whole, and leads to the same end."
    from apr_tutorial.model import read_checkpoint
    out = tmp_path / "out"
    command = ["run", "--dataset", data, *SMALL, "--epochs", "60", "--optimizer", "sgd", "--reg", "1", "--learning-rate", "2.2", "--out", out]
    ends = []
    for more in ([], ["--resume"]):
        code, said = forks.run(*command, *more)
        assert code == 4 and "Lower learning_rate (now 2.2)" in said, said
        epoch = int(re.search(r"bpr-mf, epoch (\d+):", said)[1])
        path = out / "checkpoints" / "bpr-mf-42.npz"
        assert f"The checkpoint of epoch {epoch - 1} is kept: {path}" in said and epoch > 2
        arrays, _, finished, _ = read_checkpoint(path)
        assert finished == epoch - 1 and all(np.isfinite(arrays[name]).all() for name in ("factors", "state"))
        ends.append(epoch)
    assert ends[0] == ends[1] and not (out / "report.json").exists()


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity") or len(os.sched_getaffinity(0)) < 2, reason="needs two processors")
def test_one_core_and_two(data, unbroken, tmp_path, monkeypatch):
    """A run on one processor, TensorFlow told after the import of the package to use one thread, ends with the bits of one on all
    processors. Both compile everything themselves, which the other tests don't."""
    for name in ("TF_XLA_FLAGS", *ONE_THREAD):
        monkeypatch.delenv(name, raising=False)
    alone = Forks(tmp_path)
    one = ("import os, tensorflow as tf\nos.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
           "tf.config.threading.set_intra_op_parallelism_threads(1); tf.config.threading.set_inter_op_parallelism_threads(1)")
    said = [alone.run("run", "--dataset", data, *SMALL, "--out", tmp_path / name, before=before) for name, before in {"one": one, "all": ""}.items()]
    alone.process.kill()
    alone.process.communicate()
    assert [code for code, _ in said] == [0, 0], said
    for name in ("one", "all"):
        assert_same(tmp_path / name, unbroken("small")[0])
