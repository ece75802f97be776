"""Downloads against a server of our own that plays every trick; and two processes at once."""
import http.server
import subprocess
import sys
import threading
import time

import pytest
from conftest import ROOT

from apr_tutorial import data as data_module
from apr_tutorial.data import DownloadError, Source, digest_of, fetch, load_dataset

CONTENT = b"0\t1\t5\n" * 1000
PROXIES = ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")


class Handler(http.server.BaseHTTPRequestHandler):
    "Each trick is a word in the path; `first-` plays it on the first request only."
    requests = 0

    def do_GET(self):
        type(self).requests += 1
        trick = self.path.split("/")[1]
        if trick.startswith("first-"):
            trick = trick.removeprefix("first-") if self.requests == 1 else "good"
        try:
            getattr(self, trick.partition("-")[0])(*trick.split("-")[1:])
        except (BrokenPipeError, ConnectionResetError):
            pass  # the client has had enough

    def head(self, length=len(CONTENT), **headers):
        self.send_response(200)
        for name, value in {"Content-Length": length, **headers}.items():
            if value is not None:
                self.send_header(name, str(value))
        self.end_headers()

    def good(self):
        self.head()
        self.wfile.write(CONTENT)

    def wrong(self):
        self.head()
        self.wfile.write(CONTENT.replace(b"5", b"4"))

    def status(self, code):
        self.send_error(int(code))

    def silent(self):
        time.sleep(3)

    def cut(self):
        self.head()
        self.wfile.write(CONTENT[:100])

    def trickle(self):
        self.head()
        for n in range(100):
            self.wfile.write(CONTENT[n:n + 1])
            time.sleep(.1)

    def header(self):
        "Headers that come letter by letter, so that there is no body whose arrival could be timed."
        for letter in b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100:
            self.wfile.write(bytes([letter]))
            time.sleep(.1)

    def circle(self):
        self.send_response(302)
        self.send_header("Location", self.path)
        self.end_headers()

    def astray(self):
        self.send_response(302)
        self.send_header("Location", "http://[::1")
        self.end_headers()

    def endless(self):
        self.head(None)
        while True:
            self.wfile.write(CONTENT)

    def bomb(self):
        "A small answer that unpacks to a large one."
        import gzip

        body = gzip.compress(bytes(2**24))
        self.head(len(body), **{"Content-Encoding": "gzip"})
        self.wfile.write(body)

    def nonsense(self):
        self.wfile.write(b"\0\1 no HTTP at all\r\n\r\n")

    def slow(self):
        time.sleep(1)
        self.good()

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch, tmp_path):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(Source, "url", lambda self, file: f"http://127.0.0.1:{server.server_port}/{self.folder}/{file}")
    for name, value in {"TIMEOUT": (.5, .5), "SECONDS": 3, "WAITS": (.01, .01), "BYTES": 2**20}.items():
        monkeypatch.setattr(data_module, name, value)
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("APR_TUTORIAL_CACHE", str(tmp_path / "cache"))
    Handler.requests = 0
    yield server
    server.shutdown()
    server.server_close()


def source(tmp_path, folder, kind="sha256"):
    (tmp_path / "expected").write_bytes(CONTENT)
    return Source("set", "a/b", "c", folder, {"testset.tsv": digest_of(tmp_path / "expected", kind)}, 1, 1, 1, 1)


def left(tmp_path):
    "What the set's folder holds."
    return sorted(p.name for p in (tmp_path / "cache/set").glob("*")) + sorted(p.name for p in (tmp_path / "cache/set").glob(".*"))


@pytest.mark.parametrize("kind", ["sha256", "blob"])
def test_fetched_once_and_verified(server, tmp_path, kind):
    path = fetch(source(tmp_path, "good", kind), "testset.tsv")
    assert path.read_bytes() == CONTENT and fetch(source(tmp_path, "good", kind), "testset.tsv") == path
    assert Handler.requests == 1 and left(tmp_path) == ["testset.tsv"]
    for poison in (b"poisoned", CONTENT[:-7], b"", bytes(2**21)):  # the last is larger than any file may be
        path.write_bytes(poison)
        assert fetch(source(tmp_path, "good", kind), "testset.tsv").read_bytes() == CONTENT
    assert Handler.requests == 5 and left(tmp_path) == ["testset.tsv"]


FAILURES = {  # trick: requests, and what the message says
    "status-404": (1, "the server answers with status 404"),
    "status-403": (1, "status 403"),
    "status-500": (3, "status 500"),
    "status-429": (3, "status 429"),
    "cut": (3, "broke off"),
    "silent": (3, "fell silent"),
    "nonsense": (3, "broke off"),
    "wrong": (1, "what arrived is not the pinned file (sha256:"),
    "circle": (31, "redirects in a circle"),
    "astray": (1, "an answer that makes no sense"),
    "endless": (1, "more than 1 MiB arrive"),
    "bomb": (1, "more than 1 MiB arrive"),
    "trickle": (1, "not complete after 3 seconds"),
    "header": (1, "not complete after 3 seconds"),
}


@pytest.mark.parametrize("trick", FAILURES)
def test_failures(server, tmp_path, trick):
    requests, said = FAILURES[trick]
    began = time.monotonic()
    with pytest.raises(DownloadError) as failure:
        fetch(source(tmp_path, trick), "testset.tsv", progress=False)
    assert time.monotonic() - began < 60  # a server that never ends is not waited for
    text = str(failure.value)
    assert text.startswith(f"http://127.0.0.1:{server.server_port}/{trick}/testset.tsv: ") and said in text and "\n" not in text
    assert "Check the network" in text and "set APR_TUTORIAL_DATA to a folder with set/testset.tsv" in text
    assert Handler.requests == requests and left(tmp_path) == []


@pytest.mark.parametrize("trick", ["status-500", "status-503", "status-429", "cut", "silent", "nonsense"])
def test_what_passes_is_tried_again(server, tmp_path, trick):
    assert fetch(source(tmp_path, f"first-{trick}"), "testset.tsv", progress=False).read_bytes() == CONTENT
    assert Handler.requests == 2 and left(tmp_path) == ["testset.tsv"]


def test_nobody_listens(server, tmp_path):
    server.shutdown()
    server.server_close()
    with pytest.raises(DownloadError, match="no connection"):
        fetch(source(tmp_path, "good"), "testset.tsv", progress=False)
    assert left(tmp_path) == []


def test_a_cache_that_cannot_be_written(server, tmp_path):
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(DownloadError, match="Check the network and that .*set can be written"):
        fetch(source(tmp_path, "good"), "testset.tsv", progress=False)
    (tmp_path / "cache").unlink()
    (tmp_path / "cache/set/testset.tsv").mkdir(parents=True)  # a folder where the file should be
    with pytest.raises(DownloadError, match="Is a directory"):
        fetch(source(tmp_path, "good"), "testset.tsv", progress=False)
    assert left(tmp_path) == ["testset.tsv"]


def test_a_poisoned_set_is_loaded_anew(server, tmp_path, monkeypatch):
    "By the door that everybody uses: neither wrong numbers nor an error, and a second failure says so."
    files = {"trainingset.tsv": b"0\t1\t5\n1\t2\t5\n", "testset.tsv": b"0\t2\t5\n1\t1\t5\n"}
    (tmp_path / "cache/movielens-500").mkdir(parents=True)
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        (tmp_path / "cache/movielens-500" / name).write_bytes(content.replace(b"5", b"0"))
    pinned = Source("movielens-500", "a/b", "c", "files", {name: digest_of(tmp_path / name, "sha256") for name in files}, 2, 2, 2, 2)
    monkeypatch.setitem(data_module.DATASETS, "movielens-500", pinned)
    monkeypatch.delenv("APR_TUTORIAL_DATA", raising=False)
    monkeypatch.setattr(Handler, "files", lambda self: (self.head(None), self.wfile.write(files[self.path.split("/")[-1]])), raising=False)
    assert len(load_dataset("movielens-500", progress=False)) == 2
    (tmp_path / "cache/movielens-500/testset.tsv").write_bytes(b"poisoned")
    server.shutdown()
    server.server_close()
    with pytest.raises(DownloadError, match="testset.tsv: no connection"):
        load_dataset("movielens-500", progress=False)


CHILD = """
import sys
from apr_tutorial import data
port, folder, digest = sys.argv[1:]
data.Source.url = lambda self, file: f"http://127.0.0.1:{port}/{folder}/{file}"
print("ready", flush=True)
sys.stdin.readline()
path = data.fetch(data.Source("set", "a/b", "c", folder, {"testset.tsv": digest}, 1, 1, 1, 1), "testset.tsv", progress=False)
print(len(path.read_bytes()))
"""


def children(server, tmp_path, folder, count):
    "Processes that stand ready to fetch the same file."
    digest = source(tmp_path, folder).digests["testset.tsv"]
    made = [subprocess.Popen([sys.executable, "-c", CHILD, str(server.server_port), folder, digest], cwd=ROOT, text=True, stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(count)]
    assert all(child.stdout.readline() == "ready\n" for child in made)
    return made


@pytest.mark.parametrize("poisoned", [False, True])
def test_two_processes_at_once(server, tmp_path, poisoned):
    if poisoned:
        (tmp_path / "cache/set").mkdir(parents=True)
        (tmp_path / "cache/set/testset.tsv").write_bytes(b"poisoned")
    made = children(server, tmp_path, "slow", 2)
    for child in made:
        child.stdin.write("\n")
        child.stdin.flush()
    said = [child.communicate(timeout=60) for child in made]
    assert said == [(f"{len(CONTENT)}\n", "")] * 2
    assert Handler.requests == 1 and left(tmp_path) == ["testset.tsv"]


def test_killed_while_it_downloads(server, tmp_path):
    "Nothing stands under the final name, and the dead process's lock is not in the way."
    child, = children(server, tmp_path, "trickle", 1)
    child.stdin.write("\n")
    child.stdin.flush()
    while not Handler.requests:
        time.sleep(.01)
    time.sleep(.2)
    child.kill()
    child.communicate()
    assert left(tmp_path) == []
    assert fetch(source(tmp_path, "good"), "testset.tsv", progress=False).read_bytes() == CONTENT
