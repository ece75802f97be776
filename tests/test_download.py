"""Downloads against a server of our own: right bytes, wrong bytes, absent, slow; and two processes at once."""
import http.server
import threading
import time

import pytest

from apr_tutorial import data as data_module
from apr_tutorial.data import DownloadError, Source, digest_of, fetch

CONTENT = b"0\t1\t5\n" * 1000


class Handler(http.server.BaseHTTPRequestHandler):
    requests = 0

    def do_GET(self):
        type(self).requests += 1
        if "absent" in self.path:
            return self.send_error(404)
        if "slow" in self.path:
            time.sleep(3)
        body = CONTENT.replace(b"5", b"4") if "wrong" in self.path else CONTENT
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:100] if "cut" in self.path else body)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch, tmp_path):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(Source, "url", lambda self, file: f"http://127.0.0.1:{server.server_port}/{self.folder}/{file}")
    monkeypatch.setattr(data_module, "TIMEOUT", (1, 1))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("APR_TUTORIAL_CACHE", str(tmp_path))
    Handler.requests = 0
    yield server
    server.shutdown()


def source(tmp_path, folder, kind="sha256"):
    (tmp_path / "expected").write_bytes(CONTENT)
    return Source("set", "a/b", "c", folder, {"testset.tsv": digest_of(tmp_path / "expected", kind)}, 1, 1, 1, 1)


@pytest.mark.parametrize("kind", ["sha256", "blob"])
def test_fetched_once_and_verified(server, tmp_path, kind):
    path = fetch(source(tmp_path, "good", kind), "testset.tsv")
    assert path.read_bytes() == CONTENT and fetch(source(tmp_path, "good", kind), "testset.tsv") == path
    assert Handler.requests == 1
    path.write_bytes(b"poisoned")
    assert fetch(source(tmp_path, "good", kind), "testset.tsv").read_bytes() == CONTENT
    assert Handler.requests == 2


@pytest.mark.parametrize("folder", ["wrong", "absent", "slow", "cut"])
def test_failures_leave_nothing_under_the_final_name(server, tmp_path, folder):
    with pytest.raises(DownloadError, match="127.0.0.1"):
        fetch(source(tmp_path, folder), "testset.tsv")
    assert not [p for p in (tmp_path / "set").glob("*") if p.is_file()]
