"""What the tests share."""
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from address import names

ROOT = Path(__file__).resolve().parents[1]
ONE_THREAD = {"TF_NUM_INTRAOP_THREADS": "1", "OMP_NUM_THREADS": "1"}  # for processes that run two at a time


def pytest_addoption(parser):
    parser.addoption("--long", action="store_true", help="also run the tests marked `long`")
    parser.addoption("--fuzz", type=int, default=300, metavar="N", help="how many inputs test_fuzz.py generates in all")
    parser.addoption("--fuzz-seed", type=int, default=42, metavar="SEED", help="which ones: the same for a seed")


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--long"):
        for item in items:
            if item.get_closest_marker("long"):
                item.add_marker(pytest.mark.skip(reason="long: make test-long runs it"))


def pytest_configure(config):
    "What XLA has compiled is kept for the processes of this run, as `make test` does for all that it runs; test_resume.py has a run without."
    if "persistent_cache" not in os.environ.get("TF_XLA_FLAGS", ""):
        compiled = tempfile.mkdtemp()
        config.add_cleanup(lambda: shutil.rmtree(compiled, ignore_errors=True))
        os.environ["TF_XLA_FLAGS"] = f"{os.environ.get('TF_XLA_FLAGS', '')} --tf_xla_persistent_cache_directory={compiled}".strip()


def run(*command, cwd=ROOT, env=None, timeout=600):
    "Run a command to its end, with `env` added to the environment (a value of None takes a variable away)."
    env = {k: v for k, v in {**os.environ, **(env or {})}.items() if v is not None}
    return subprocess.run([str(c) for c in command], cwd=cwd, env=env, timeout=timeout, capture_output=True, text=True)


@pytest.fixture(autouse=True)
def same_environment():
    "What a test leaves in the environment (the command line names a backend for plots) would reach the processes of later ones."
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@contextmanager
def background(*command, cwd, env=None):
    "A command that goes on until the block ends, and the file with what it says."
    log = Path(cwd) / "log.txt"
    with open(log, "w", encoding="utf-8") as out:
        process = subprocess.Popen([str(c) for c in command], cwd=cwd, env={**os.environ, **{k: str(v) for k, v in (env or {}).items()}},
                                   stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        yield process, log
    finally:  # the whole group that it leads: it may have started others, and a server takes a moment to end its kernels
        sign = signal.SIGTERM
        for attempt in range(60):
            process.poll()
            try:
                os.killpg(process.pid, sign)
            except ProcessLookupError:
                break
            sign = 0 if attempt < 40 else signal.SIGKILL  # 0: only look whether anybody is left
            time.sleep(0.5)


def write_log(path):
    "A small log of generated interactions, whose test items come last."
    from apr_tutorial.data import synthetic

    toy = synthetic(80, 120, activity=20)
    rows = [f"{u}\t{i}\t1\t{n}" for n, (u, i) in enumerate([*zip(toy.users, toy.items), *zip(toy.test_users, toy.test_items)])]
    path.write_text("\n".join(rows), encoding="utf-8")


def assert_same_results(*folders):
    "Two runs came to the same rows and, bit for bit, to the same weights."
    reports = [json.loads((folder / "report.json").read_text(encoding="utf-8"))["results"] for folder in folders]
    weights, again = ({p.name: dict(np.load(p)) for p in folder.glob("weights-*.npz")} for folder in folders)
    assert reports[0] == reports[1] and weights.keys() == again.keys()
    assert all((weights[name][key] == again[name][key]).all() for name in weights for key in weights[name])


class Forks:
    "Starts and awaits runs of the command line; see forks.py."

    def __init__(self, folder):
        self.folder, self.count = folder, 0
        self.process = subprocess.Popen([sys.executable, ROOT / "tests" / "forks.py"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                        text=True, env=os.environ | {"PYTHONPATH": str(ROOT), "MPLBACKEND": "Agg"})

    def ask(self, **what):
        print(json.dumps(what), file=self.process.stdin, flush=True)
        return int(self.process.stdout.readline())

    def start(self, *args, before="", cwd=None):
        "The number of the process, and the files with what it says, and with its errors."
        self.count += 1
        out, err = (self.folder / f"{name}-{self.count}.txt" for name in ("out", "err"))
        return self.ask(args=[str(a) for a in args], cwd=str(cwd or self.folder), out=str(out), err=str(err), before=before), out, err

    def finish(self, *args, **options):
        "A run to its end, as `subprocess.run` returns it; where processes can't fork, in one of its own."
        if not hasattr(os, "fork"):
            return run(sys.executable, "-m", "apr_tutorial", *args, env={"PYTHONPATH": str(ROOT)}, **{"cwd": self.folder, **options})
        number, *said = self.start(*args, **options)
        return subprocess.CompletedProcess(args, self.ask(wait=number), *(path.read_text(encoding="utf-8") for path in said))

    def run(self, *args, **options):
        "Exit code, and what was said."
        done = self.finish(*args, **options)
        said = done.stdout + done.stderr
        assert "Traceback" not in said, said
        return done.returncode, " ".join(said.split())

    def kill_after(self, seconds, *args):
        "Start, wait, `kill -9`; whether it was still alive."
        number, _, err = self.start(*args)
        time.sleep(seconds)
        try:
            os.kill(number, signal.SIGKILL)
        except ProcessLookupError:
            pass
        code = self.ask(wait=number)
        assert code in (0, -signal.SIGKILL), err.read_text(encoding="utf-8")
        return code != 0


@pytest.fixture(scope="session")
def forks(tmp_path_factory):
    made = Forks(tmp_path_factory.mktemp("forks"))
    yield made
    made.process.kill()
    made.process.communicate()


@pytest.fixture
def program(tmp_path):
    """`program(*args, env=…)` runs the command line in a process of its own, in an empty folder, with TensorFlow's notes at the
    level that the command line itself chooses."""
    return lambda *args, env=None, **options: run(sys.executable, "-m", "apr_tutorial", *args, env={"TF_CPP_MIN_LOG_LEVEL": None, **(env or {})},
                                                  **{"cwd": tmp_path, **options})


@pytest.fixture
def cli(forks, tmp_path):
    "The same, without the seconds that the imports take, and without pictures."
    return lambda *args, **options: forks.finish(*args, **{"cwd": tmp_path, **options})


@pytest.fixture
def no_network(tmp_path):
    "An environment in which there are no data and every download fails at once."
    with socket.socket() as unused:  # bound and not listening: connections to this port are refused
        unused.bind(("127.0.0.1", 0))
        proxy = "http://127.0.0.1:%d" % unused.getsockname()[1]
        names = ("http_proxy", "https_proxy", "all_proxy")
        yield {**{f(n): proxy for n in names for f in (str.lower, str.upper)}, "no_proxy": None, "NO_PROXY": None,
               "APR_TUTORIAL_DATA": None, "APR_TUTORIAL_CACHE": str(tmp_path / "empty-cache")}


@pytest.fixture
def tree(tmp_path):
    "A copy of the project, outside git, to break at will."
    copy = tmp_path / "tree"
    for name in names(ROOT):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, copy / name)
    return copy


@pytest.fixture(scope="module")
def chromium():
    "A browser without a window. Where there is none, the test is skipped aloud."
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.skip("no browser: install chromium (Debian: apt-get install chromium), or google-chrome, and see that it is on PATH")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()
