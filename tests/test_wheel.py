"""The notebooks where there is nothing but the wheel: no tree around them, no development tools."""
import ast
import json
import re
import resource
import shutil
import sys
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from configparser import ConfigParser
from pathlib import Path

import pytest
from conftest import ONE_THREAD, ROOT, names, run

NOTEBOOKS = sorted(ROOT.glob("nbs/[!_.]*.ipynb"))
CHEAP = ["00_charts.ipynb", "00_data.ipynb"]
PYTHONS = ("3.11", "3.12")
# What every notebook has: IPython with its own parts; and keras comes with TensorFlow.
PRESENT = {"IPython", "matplotlib_inline", "keras", "apr_tutorial"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    "The built wheel. By what is installed, so that nothing is downloaded."
    folder = tmp_path_factory.mktemp("wheel")
    for name in names(ROOT):
        (folder / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / "tree" / name)
    built = run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, folder / "tree", cwd=folder)
    assert built.returncode == 0, built.stderr[-2000:] + built.stdout[-2000:]
    return next(folder.glob("*.whl"))


def pictures(cells):
    "In which cells there are pictures, and of which kind: an error without a message is a figure that is not shown."
    return [(n, kind) for n, c in enumerate(cells) for o in c.get("outputs", []) for kind in o.get("data", {}) if kind.startswith("image/")]


def execute(python, notebook, folder, env):
    "Run a copy of a notebook in an empty folder. Returns seconds, what went wrong or None, and from where the package was imported."
    folder.mkdir(parents=True)
    content = json.loads(notebook.read_text(encoding="utf-8"))
    where = {"cell_type": "code", "id": "where", "metadata": {}, "execution_count": None, "outputs": [], "source": "import apr_tutorial\nprint(apr_tutorial.__file__)"}
    saved = pictures(content["cells"])
    content["cells"].append(where)
    (folder / notebook.name).write_text(json.dumps(content), encoding="utf-8")
    own = {"IPYTHONDIR": str(folder.with_suffix(".ipython")), "JUPYTER_CONFIG_DIR": str(folder.with_suffix(".config")), "JUPYTER_DATA_DIR": str(folder.with_suffix(".data"))}
    began = time.monotonic()
    process = run(python, "-m", "nbconvert", "--to", "notebook", "--execute", "--output", "executed.ipynb", notebook.name, cwd=folder, env={**own, **env}, timeout=900)
    seconds = time.monotonic() - began
    if process.returncode:
        return seconds, process.stderr[-3000:], None
    cells = json.loads((folder / "executed.ipynb").read_text(encoding="utf-8"))["cells"]
    left = {p.name for p in folder.iterdir()} - {notebook.name, "executed.ipynb"}
    problem = f"left behind: {left}" if left else f"pictures {pictures(cells)} instead of {saved}" if pictures(cells) != saved else None
    return seconds, problem, "".join(cells[-1]["outputs"][-1]["text"]).strip()


def only(folder):
    "The environment in which the package comes from `folder`, and no other place of this project is on the path."
    return {"PYTHONPATH": folder and str(folder), "PYTHONSAFEPATH": None}


@pytest.mark.parametrize("name", CHEAP)
def test_from_the_unpacked_wheel(name, wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "unpacked")
    _, problem, place = execute(sys.executable, ROOT / "nbs" / name, tmp_path / "empty", only(tmp_path / "unpacked"))
    assert not problem, problem
    assert Path(place).is_relative_to(tmp_path / "unpacked")


def test_results_are_in_the_wheel(wheel):
    inside = set(zipfile.ZipFile(wheel).namelist())
    assert {f"apr_tutorial/results/{p.name}" for p in ROOT.glob("apr_tutorial/results/*.csv")} <= inside
    assert {p.relative_to(ROOT).as_posix() for p in ROOT.glob("apr_tutorial/*.py")} <= inside


def foreign(source, allowed):
    "What the code of a cell imports at its top, unguarded, that is not in `allowed`; and any nbdev, or path out of the folder."
    tree = ast.parse(re.sub(r"^(\s*)[%!].*", r"\1pass", source, flags=re.M))
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            found = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or "."]
            for module in (f.split(".")[0] for f in found):
                if module == "nbdev" or (node in tree.body and module not in allowed):
                    yield f"import of {module or 'a neighbour'}"
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and re.search(r"(^|[/\s])\.\.(/|$)", node.value):
            yield f"path {node.value!r}"


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_cells_need_nothing_else(notebook):
    ini = ConfigParser()
    ini.read(ROOT / "settings.ini", encoding="utf-8")
    required = {re.match(r"[\w-]+", r)[0] for r in ini["DEFAULT"]["requirements"].split()}
    allowed = required | PRESENT | sys.stdlib_module_names
    cells = [c for c in json.loads(notebook.read_text(encoding="utf-8"))["cells"] if c["cell_type"] == "code"]
    assert not [(problem, "".join(c["source"])) for c in cells for problem in foreign("".join(c["source"]), allowed)]


@pytest.mark.parametrize("source", ["import nbdev", "if x:\n    from nbdev.export import y", "import sklearn.metrics", "from . import data", "open('../data.tsv')", "%matplotlib inline\nfrom implicit import als"])
def test_what_would_be_found(source):
    assert list(foreign(source, sys.stdlib_module_names))
    assert not list(foreign("import json\nif have:\n    import implicit\nprint('and so on ...')", sys.stdlib_module_names))


def interpreter(version):
    "A Python of this version, on PATH or by pyenv."
    for path in (shutil.which(f"python{version}"), *sorted(Path.home().glob(f".pyenv/versions/{version}*/bin/python"))):
        if path and run(path, "-c", "import ensurepip, venv").returncode == 0:
            return path


def cpu_seconds():
    "What the processes that have ended since the start have used."
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


@pytest.mark.long
@pytest.mark.parametrize("version", PYTHONS)
def test_every_notebook_with_only_the_wheel(version, wheel, tmp_path, capsys):
    python = interpreter(version)
    if python is None:
        pytest.skip(f"Python {version} is not present: neither on PATH nor under ~/.pyenv/versions")
    assert run(python, "-m", "venv", tmp_path / "env").returncode == 0
    pip = [tmp_path / "env/bin/python", "-m", "pip", "install", "-q"]
    tools = run(*pip, "nbconvert", "ipykernel", timeout=1200)
    if tools.returncode:
        pytest.skip(f"no package index can be reached, so there is no environment to run in: {tools.stderr[-300:]}")
    installed = run(*pip, wheel, timeout=2400)
    assert installed.returncode == 0, installed.stderr[-2000:]
    one = lambda notebook: execute(pip[0], notebook, tmp_path / notebook.stem, only(None) | ONE_THREAD)
    began, used = time.monotonic(), cpu_seconds()
    with ThreadPoolExecutor(2) as pool:
        results = dict(zip(NOTEBOOKS, pool.map(one, NOTEBOOKS)))
    total, used = time.monotonic() - began, cpu_seconds() - used
    with capsys.disabled():
        print("", *(f"{n.name}: {seconds:.0f} s" for n, (seconds, _, _) in results.items()), sep="\n")
        print(f"all notebooks by nbconvert, Python {version}, two at a time: {total:.0f} s, or {used/2:.0f} s of two cores")
    assert not {n.name: problem for n, (_, problem, _) in results.items() if problem}
    assert all(Path(place).is_relative_to(tmp_path / "env") for _, _, place in results.values())
