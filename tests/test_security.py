"""Nothing in the data becomes code, markup, a path outside its folder, or more memory than it should."""
import ast
import csv
import gzip
import io
import json
import os
import re
import sys
import warnings
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, run

from apr_tutorial.charts import new_figure, title_of
from apr_tutorial.cli import out_folder, visible
from apr_tutorial.data import DataError, check_gzip, interactions, load_dataset, read_rows, statistics
from apr_tutorial.end_to_end import save_plot

CODE = sorted(p for pattern in ("apr_tutorial/*.py", "tools/*.py", "benchmarks/*.py", "setup.py") for p in ROOT.glob(pattern))

# Modules that run or unpack what they read; functions that do; and what a call must, or must not, say.
MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "tarfile", "code", "codeop", "imp"}
CALLS = {"eval", "exec", "compile", "__import__", "system", "popen", "getoutput", "getstatusoutput", "unpack_archive", "extract", "extractall",
         "read_pickle", "to_pickle", "load_model", "mktemp", "urlopen", "urlretrieve", "unsafe_load", "full_load"}
HARMLESS = {("re", "compile"), ("run", "compile"), ("str", "extract")}  # modules, accessors or objects whose function of that name is another one
# Not from data: a copy of this project's own cells with a mistake in it; and what Ray's tasks send to each other, as Ray itself does.
KNOWN = {"tools/mutate.py": {"calls exec", "calls compile"}, "apr_tutorial/many.py": {"imports cloudpickle"}}


def dangers(source):
    "What the code of a file does that it must not, as texts with lines."
    for node in ast.walk(ast.parse(source)):
        found = None
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
            found = next((f"imports {n}" for n in names if n.split(".")[0] in MODULES), None)
        elif isinstance(node, ast.Call):
            owner = getattr(node.func, "value", None)
            owner = getattr(owner, "id", getattr(owner, "attr", None))
            name, given = getattr(node.func, "attr", getattr(node.func, "id", None)), {k.arg: ast.unparse(k.value) for k in node.keywords}
            if name in CALLS and (owner, name) not in HARMLESS:
                found = f"calls {name}"
            elif given.get("shell", "False") != "False" or given.get("allow_pickle", "False") != "False":
                found = f"calls {name} with {given}"
            elif (owner in ("np", "numpy") and name == "load" and "allow_pickle" not in given) or (owner == "yaml" and name == "load"):
                found = f"calls {owner}.{name} unguarded"
            elif (owner in ("requests", "session") and name in ("get", "post", "head", "request") or name == "HTTPDownloader") and ("timeout" not in given or "verify" in given):
                found = f"calls {name} with {given}: a timeout is missing, or certificates are not as ever"
        if found:
            yield f"line {node.lineno} {found}"


def test_no_code_from_data():
    assert len(CODE) > 25
    found = [(path.relative_to(ROOT).as_posix(), d) for path in CODE for d in dangers(path.read_text(encoding="utf-8"))]
    assert not [(name, d) for name, d in found if d.split(" ", 2)[2] not in KNOWN.get(name, ())]


@pytest.mark.parametrize("line", ["import pickle", "from pickle import loads", "import joblib as j", "eval(text)", "exec(text)", "os.system(text)", "frame.eval(text)",
                                  "subprocess.run(text, shell=True)", "np.load(path)", "np.load(path, allow_pickle=True)", "yaml.load(text)", "zip.extractall()",
                                  "requests.get(url)", "requests.get(url, timeout=1, verify=False)", "pooch.HTTPDownloader()(url, out, None)", "pd.read_pickle(path)",
                                  "keras.models.load_model(path)", "__import__(name)"])
def test_the_search_finds(line):
    assert list(dangers(line))


# A file's or folder's name on this platform: anything without a slash.
NAMES = ["</script><script>window.hacked = 1</script>", '"><img src=x onerror="window.hacked = 2">', "$x_{$ }{\\frac", r"\$\alpha$", "a\nb\tc", "\x1b[31mred\x1b[0m\x07", "-rf", "$(touch hacked)",
         "..hidden", "%s {0} {name}", "名前", "a" * 200, "\udcff", "\u202egnp.", "--><!--", "&lt;b&gt; ]]>", "|a|b|", "C:\\con", "http:", "~", "*?[x]"]
NAMES = [name.replace("/", "\u2215") for name in NAMES]  # the slash of the first two would be two folders
each_name = pytest.mark.parametrize("name", NAMES, ids=ascii)


def split(folder, user="u", item="i", users=6, items=12):
    "A published split whose ids begin as given."
    folder.mkdir(parents=True)
    taken = [(u, (3*u + n) % items) for u in range(users) for n in range(6)]
    write = lambda pairs: "".join(f"{user}{u}\t{item}{i}\t1\n" for u, i in pairs)
    (folder / "trainingset.tsv").write_text(write(p for n, p in enumerate(taken) if n % 6), encoding="utf-8")
    (folder / "testset.tsv").write_text(write(taken[::6]), encoding="utf-8")
    return folder


@each_name
def test_reports_stay_in_their_folder(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    data = load_dataset(split(tmp_path / "in" / name))
    assert data.name == name
    for prefix in ("", "audit-"):
        folder, _ = out_folder(None, prefix + data.name, resume=False)
        assert folder.parent == Path("runs") and re.fullmatch(r"[\w.-]+-1", folder.name) and len(os.fsencode(folder.name)) < 255
        folder.mkdir(parents=True)
        assert folder.resolve().parent == tmp_path / "runs"
        assert out_folder(None, prefix + data.name, resume=False)[0].name.endswith("-2")


@pytest.mark.parametrize("dataset", ["..", ".", "in/..", "in/split/../split", "in/.tsv", "in/..tsv"])
def test_ways_of_writing_a_path(tmp_path, monkeypatch, dataset):
    monkeypatch.chdir(split(tmp_path / "in/split"))
    monkeypatch.chdir(tmp_path)
    for name in (".tsv", "..tsv"):
        (tmp_path / "in" / name).write_text("a\tx\t1\na\ty\t1\nb\tx\t1\nb\tz\t1\n")
    try:
        data = load_dataset(dataset)
    except DataError as error:
        assert "no trainingset.tsv" in str(error)
    else:
        assert out_folder(None, data.name, resume=False)[0].resolve().parent == tmp_path / "runs"


@pytest.mark.parametrize("dataset", ["https://example.org/ratings.csv", "http://127.0.0.1:1/x.tsv", "ftp://x/y.csv", "s3://x/y.tsv", "file:///etc/passwd", "a\0b", "\x1b[2J", "x" * 5000, "$(touch hacked)",
                                     "https://example.org/ratings.csv.gz"])
def test_what_is_no_data_set_is_refused(dataset, no_network, monkeypatch):
    "Never fetched, never a path of another kind."
    for key, value in no_network.items():
        monkeypatch.delenv(key, raising=False) if value is None else monkeypatch.setenv(key, value)
    with pytest.raises(DataError, match="neither a file nor a folder"):
        load_dataset(dataset)


@each_name
def test_figures_bear_any_name(tmp_path, name):
    class Named:
        synthetic = False
    Named.name = name
    figure, (ax,) = new_figure()
    ax.set_title(title_of(Named, "It falls"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save_plot(figure, tmp_path, "plot")
    ElementTree.parse(tmp_path / "plot.svg")  # well-formed whatever the name
    assert (tmp_path / "plot.png").stat().st_size > 2000


def test_a_terminal_shows_controls():
    assert visible("a\x1b[31m\x07\u202e\udcff\nb ε名") == "a\\x1b[31m\\x07\\u202e\\udcff\nb ε名"


def packed(path, size):
    "A gzip file of so many zeros."
    with gzip.open(path, "wb", compresslevel=1) as file:
        for _ in range(size >> 20):
            file.write(bytes(2**20))
    return path


def test_gzip_bomb(tmp_path, cli):
    bomb = packed(tmp_path / "bomb.tsv.gz", 2**30)
    refused = f"bomb.tsv.gz: unpacks to more than {50*bomb.stat().st_size >> 20} MiB, the limit for {bomb.stat().st_size:,} bytes of gzip."
    script = "import resource, sys; from apr_tutorial.data import *; before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n" \
             "try: load_dataset(sys.argv[1])\nexcept DataError as e: print(e)\nprint((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10)"
    done = run(sys.executable, "-c", script, bomb)
    said, grown = done.stdout.splitlines()
    assert refused in said and "unpack it first (gunzip): a plain file has no limit" in said and int(grown) < 64
    (tmp_path / "set").mkdir()
    bomb.rename(tmp_path / "set/trainingset.tsv.gz")
    (tmp_path / "set/testset.tsv").write_text("0\t1\t5\n")
    done = cli("run", "--dataset", "set")
    assert done.returncode == 2 and "trainingset.tsv.gz: unpacks to more than" in done.stderr and "Traceback" not in done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["set"]


def test_honest_gzip(tmp_path):
    "A very regular log, with every user at every item, is far from the limit; small files may be of any kind; members may follow each other."
    regular = "".join(f"{u}\t{i}\t1\n" for u in range(1300) for i in range(1300)).encode()
    (tmp_path / "log.tsv.gz").write_bytes(gzip.compress(regular, 6))
    assert len(regular) > 2**24
    check_gzip(tmp_path / "log.tsv.gz")
    (tmp_path / "log.tsv.gz").write_bytes(gzip.compress(b"0\t1\t5\n" * 30_000))
    assert len(read_rows(tmp_path / "log.tsv.gz")) == 30_000
    (tmp_path / "log.tsv.gz").write_bytes(gzip.compress(b"0\t1\t5\n") + gzip.compress(b"1\t1\t5\n"))
    assert len(read_rows(tmp_path / "log.tsv.gz")) == 2


@pytest.mark.parametrize("spoil", [lambda b: b[:-4], lambda b: b[:len(b)//2], lambda b: b[:30] + b"\xff" + b[31:], lambda b: b"not gzip", lambda b: b[:5]], ids=["tail", "half", "bits", "text", "head"])
def test_broken_gzip(tmp_path, spoil):
    whole = gzip.compress("".join(f"{u}\t{u % 7}\t5\n" for u in range(999)).encode())
    (tmp_path / "log.tsv.gz").write_bytes(spoil(whole))
    with pytest.raises(DataError, match="log.tsv.gz: can't be read"):
        load_dataset(tmp_path / "log.tsv.gz")


@pytest.mark.parametrize("form", ["zip", "tar", "gztar"])
def test_archives_are_not_opened(tmp_path, form):
    "A .gz is one file; whatever else is named .tsv or .csv is read as the text that it is not."
    import shutil

    split(tmp_path / "set")
    made = Path(shutil.make_archive(str(tmp_path / "archive"), form, tmp_path / "set"))
    disguised = made.rename(tmp_path / ("archive.tsv" + ".gz" * (form == "gztar")))
    with pytest.raises(DataError):
        load_dataset(disguised)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([disguised.name, "set"])


IDS = '</b><script>window.hacked = 1</script><img src="x" onerror="window.hacked = 2">'
FORMULA = "=HYPERLINK(1)+@"


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    "A finished run, and lists, on data whose name and ids are markup and formulas; in a folder of its own."
    here = tmp_path_factory.mktemp("hostile")
    data = split(here / "in" / NAMES[0], user=FORMULA + IDS, item="-" + FORMULA + IDS)
    quick = ["--epochs", 1, "--adversarial-epochs", 1, "--embedding-size", 4, "--attacks", "fgsm", "--attack-epsilons", "1", "--k", "3"]
    done = run(sys.executable, "-m", "apr_tutorial", "run", "--dataset", data, *quick, cwd=here, env={"PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    weights = next((here / "runs").glob("*/weights-apr.npz"))
    lists = run(sys.executable, "-m", "apr_tutorial", "recommend", "--weights", weights, "--dataset", data, "--k", 3, "--out", "recs.tsv", cwd=here, env={"PYTHONPATH": str(ROOT)})
    assert lists.returncode == 0, lists.stderr
    return here, data, weights.parent


def test_a_hostile_run_writes_where_it_should(hostile):
    here, _, report = hostile
    assert sorted(p.name for p in here.iterdir()) == ["in", "recs.tsv", "runs"] and report.parent == here / "runs"
    assert json.loads((report / "report.json").read_text(encoding="utf-8"))["dataset"]["name"] == NAMES[0]


def test_formulas(hostile):
    "Tables that people open in a spreadsheet hold no text of the data. The lists do: their form, RankSys, is a contract, and the ids come back as they were."
    here, data, report = hostile
    with open(report / "metrics.csv", encoding="utf-8", newline="") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert not [cell for cell in cells if re.match(r"[=+@\t\r]|-(?![\d.])", cell)] and FORMULA not in "".join(cells)
    rows = [line.split("\t") for line in (here / "recs.tsv").read_text(encoding="utf-8").splitlines()]
    known = load_dataset(data)
    assert {u for u, _, _ in rows} == set(known.user_ids) and {i for _, i, _ in rows} <= set(known.item_ids)


def notebook_html(data):
    "All that a notebook or the site would show of the data as HTML: frames, figures inside the page, and the benchmarks' Markdown."
    import pypandoc
    from apr_tutorial.evaluator import recommend
    from apr_tutorial.model import Factors
    from benchmarks.common import escaped, markdown

    rng = np.random.default_rng(0)
    lists = recommend(Factors(rng.normal(size=(data.num_users, 4)), rng.normal(size=(data.num_items, 4))), data, 3)
    figure, (ax,) = new_figure()
    ax.set_title(title_of(data, "It falls"))
    drawn = []
    for kind in ("none", "path"):
        import matplotlib

        with matplotlib.rc_context({"svg.fonttype": kind}):
            figure.savefig(file := io.BytesIO(), format="svg")
        drawn.append("<svg" + file.getvalue().decode().partition("<svg")[2])
    text = f"# Results: {escaped(data.name)}\n\n{markdown([dict(user=data.user_ids[0], value=1.5), dict(user=IDS + '|x|', value=2.5)])}"
    return [statistics(data)._repr_html_(), lists._repr_html_(), pd.DataFrame({data.name: data.item_ids})._repr_html_(), *drawn,
            pypandoc.convert_text(text, "html", "gfm")]


def test_nothing_becomes_markup(hostile, chromium, tmp_path):
    _, folder, report = hostile
    data = load_dataset(folder)
    named = interactions(pd.DataFrame({"user": [IDS + "a"] * 2 + [IDS + "b"] * 2, "item": ["x", IDS, "x", "y"]}), name="</svg></title></script><script>window.hacked = 3</script>")
    saved = [p.read_text(encoding="utf-8") for p in sorted(report.glob("*.svg"))]
    parts = [*notebook_html(data), *notebook_html(named), *("<svg" + svg.partition("<svg")[2] for svg in saved)]
    page_file = tmp_path / "page.html"
    page_file.write_text(f'<!doctype html><html lang="en"><meta charset="utf-8"><title>t</title><body>{"".join(parts)}</body></html>', encoding="utf-8")
    page = chromium.new_context(offline=True).new_page()
    requests, said = [], []
    page.on("request", lambda request: requests.append(request.url))
    page.on("dialog", lambda dialog: said.append(dialog.message) or dialog.dismiss())
    for file in (page_file, *sorted(report.glob("*.svg"))):  # and each picture as a page of its own
        page.goto(file.as_uri())
        assert page.evaluate("window.hacked") is None and page.locator("script, img, iframe").count() == 0
    assert requests == [file.as_uri() for file in (page_file, *sorted(report.glob("*.svg")))] and not said
    page.goto(page_file.as_uri())
    text = page.locator("body").inner_text()
    assert text.count("window.hacked = 1") > 10 and "window.hacked = 3" in text  # shown, as text
    page.context.close()
