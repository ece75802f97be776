"""The project as a whole: what an import costs, what must agree with what, what must not be in the tree."""
import ast
import json
import re
import sys
from configparser import ConfigParser
from importlib.metadata import version

import pytest
import yaml
from address import files, names
from conftest import ROOT, run

NOTEBOOKS = sorted(ROOT.glob("nbs/[!_.]*.ipynb"))
INI = ConfigParser()
INI.read(ROOT / "settings.ini", encoding="utf-8")
INI = INI["DEFAULT"]
each_notebook = pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)


def text(name):
    return (ROOT / name).read_text(encoding="utf-8")


def code_cells(notebook):
    "Source and outputs of each code cell."
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return [("".join(c["source"]), c["outputs"]) for c in cells if c["cell_type"] == "code"]


def test_import_is_light():
    heavy = "import apr_tutorial, sys; print(sorted({'tensorflow', 'keras'} & set(sys.modules)))"
    process = run(sys.executable, "-c", heavy)
    assert (process.stdout.strip(), process.returncode) == ("[]", 0), process.stderr


def test_help_is_light():
    process = run(sys.executable, "-X", "importtime", "-m", "apr_tutorial", "--help")
    assert process.returncode == 0 and "recommend" in process.stdout, process.stderr[-2000:]
    assert "import time:" in process.stderr
    assert not re.search(r"\|\s+(tensorflow|keras)\b", process.stderr)


def test_one_version():
    import apr_tutorial

    cited = yaml.safe_load(text("CITATION.cff"))["version"]
    assert INI["version"] == apr_tutorial.__version__ == version("apr_tutorial") == cited
    assert f"## {INI['version']}" in text("CHANGELOG.md")


def test_one_list_of_pythons():
    tested = yaml.safe_load(text(".github/workflows/test.yml"))["jobs"]["test"]["strategy"]["matrix"]["python"]
    assert tested == re.search(r"^PYTHONS \?= (.*)", text("Makefile"), re.M)[1].split()
    assert tested[0] == INI["min_python"]
    assert f'name = "{INI["lib_name"]}"\nrequires-python = ">={INI["min_python"]}"' in text("pyproject.toml")


def test_sidebar_lists_the_notebooks():
    def pages(contents):
        return [p for c in contents for p in ([c] if isinstance(c, str) else pages(c["contents"]))]

    contents = yaml.safe_load(text("_quarto.yml"))["website"]["sidebar"]["contents"]
    assert contents[0] == "index.ipynb" and sorted(pages(contents)) == [p.name for p in NOTEBOOKS]
    for section in contents[1:]:
        assert section["contents"] == sorted(section["contents"]), section["section"]


@each_notebook
def test_saved_outputs(notebook):
    cells = code_cells(notebook)
    for source, outputs in cells:
        for output in outputs:
            assert output["output_type"] != "error", source
            assert "".join(output.get("text", [])).strip() or output.get("data"), f"an empty output of\n{source}"
            if any(kind.startswith("image/") for kind in output.get("data", {})):
                assert re.search(r"^#\| *fig-alt: *\S", source, re.M), f"a figure without alt text:\n{source}"
    if len(cells) > 7:  # a shorter page may have nothing to show
        assert any(outputs for _, outputs in cells), "never run: make notebooks"


def imported(source):
    "The modules of the package that Python code imports, at the top or inside a function."
    try:
        tree = ast.parse(source)
    except SyntaxError:  # a cell with a magic
        return set()
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom):
            package = "apr_tutorial" * bool(node.level) + "." * bool(node.level and node.module)
            base = package + (node.module or "")
            found += [base, *(f"{base}.{a.name}" for a in node.names)]
    return {m[1] for m in (re.match(r"apr_tutorial\.(\w+)", name) for name in found) if m}


def test_chapters_import_only_earlier_chapters():
    chapter = {}  # module -> number of the notebook that it is exported from
    for path in ROOT.glob("apr_tutorial/[!_]*.py"):
        numbers = re.findall(r"^# %% \.\./nbs/(\d+)_", path.read_text(encoding="utf-8"), re.M)
        assert numbers, f"{path.name} comes from no numbered notebook"
        chapter[path.stem] = max(map(int, numbers))
    wrong = []
    for path in ROOT.glob("apr_tutorial/[!_]*.py"):
        later = [m for m in imported(path.read_text(encoding="utf-8")) & chapter.keys() if m != path.stem and chapter[m] > chapter[path.stem]]
        wrong += [f"{path.name} imports {m}" for m in later]
    for notebook in NOTEBOOKS:
        if number := re.match(r"\d+", notebook.name):
            used = set().union(*(imported(source) for source, _ in code_cells(notebook))) & chapter.keys()
            wrong += [f"{notebook.name} imports {m}" for m in used if chapter[m] > int(number[0])]
    assert not wrong


def test_no_data_in_the_tree():
    data = re.compile(r".*\.(tsv|gz|zip|npz|npy|keras|h5|parquet|dat)")
    assert not [name for name in names(ROOT, "-c") if data.fullmatch(name) or name.startswith("runs/")]


def test_no_path_of_one_machine():
    local = re.compile(r"(?<![\w.~:/+-])/(?:work|root|tmp|home/\w+|Users/\w+)(?![\w-])[^\s\"']*")
    assert not [f"{name}: {m[0]}" for name, content in files(ROOT, "-c") if (m := local.search(content))]


def test_make_targets_exist():
    targets = set(re.findall(r"^([a-z-]+):", text("Makefile"), re.M))
    for name in ("README.md", "CONTRIBUTING.md"):
        blocks = re.findall(r"^```.*?^```", text(name), re.M | re.S)
        used = re.findall(r"`make ([a-z-]+)", text(name)) + re.findall(r"^\s*(?:\$ )?make ([a-z-]+)", "\n".join(blocks), re.M)
        assert set(used) <= targets and used, name


def test_export_check_finds_drift(tree):
    check = lambda: run(sys.executable, "tools/check_export.py", cwd=tree, env={"IN_TEST": "1"})
    clean = check()
    assert clean.returncode == 0, clean.stdout + clean.stderr
    module = next(tree.glob("apr_tutorial/[!_]*.py"))
    module.write_text(module.read_text(encoding="utf-8") + "\nedited = 'by hand'\n", encoding="utf-8")
    (tree / "apr_tutorial/orphan.py").write_text("", encoding="utf-8")
    notebook = tree / "nbs" / NOTEBOOKS[0].name
    content = json.loads(notebook.read_text(encoding="utf-8"))
    content["metadata"]["noise"] = True
    notebook.write_text(json.dumps(content), encoding="utf-8")
    drifted = check()
    assert drifted.returncode == 1
    assert all(name in drifted.stdout for name in (module.name, "orphan.py", notebook.name)), drifted.stdout


@pytest.mark.long
def test_wheel_in_an_empty_environment(tmp_path, tree, no_network):
    built = run(sys.executable, "-m", "build", "--wheel", "--outdir", tmp_path, tree, cwd=tmp_path)
    assert built.returncode == 0, built.stderr[-2000:]
    assert run(sys.executable, "-m", "venv", tmp_path / "env").returncode == 0
    python = tmp_path / "env/bin/python"
    installed = run(python, "-m", "pip", "install", "-q", next(tmp_path.glob("*.whl")), timeout=1200)
    assert installed.returncode == 0, installed.stderr[-2000:]
    (tmp_path / "empty").mkdir()
    process = run(tmp_path / "env/bin/apr-tutorial", "run", "--dataset", "auto", "--epochs", 2, "--adversarial-epochs", 1, "--out", "out",
                  cwd=tmp_path / "empty", env=no_network)
    assert process.returncode == 0, process.stderr[-2000:]
    assert json.loads((tmp_path / "empty/out/report.json").read_text(encoding="utf-8"))["dataset"]["synthetic"]
    assert run(python, "-c", "from importlib.resources import files; print(files('apr_tutorial').joinpath('py.typed').is_file())",
               cwd=tmp_path / "empty").stdout.strip() == "True"


CHAPTERS = [path for path in NOTEBOOKS if re.match(r"\d", path.name) and "## Exercises" in path.read_text(encoding="utf-8")]


# A page of tables to look things up in, by the form of a chapter.
PAGES = {"13_own_data.ipynb"}


def lines_of(source):
    "Lines of code: neither empty nor a directive."
    return [line for line in source.splitlines() if line.strip() and not line.lstrip().startswith("#|")]


@each_notebook
def test_cells_are_short(notebook):
    assert not [source for source, _ in code_cells(notebook) if len(lines_of(source)) > 25]


def measured(path):
    "Words of prose and lines of code of a notebook; what stands in fences is neither."
    prose = "\n".join("".join(c["source"]) for c in json.loads(path.read_text(encoding="utf-8"))["cells"] if c["cell_type"] == "markdown")
    words = len(re.findall(r"\w+", re.sub(r"```.*?```", "", prose, flags=re.S)))
    return words, sum(len(lines_of(source)) for source, _ in code_cells(path))


def test_chapters_are_taught_alike():
    wrong = []
    for path in CHAPTERS:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        prose = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
        words, code = measured(path)
        if path.name not in PAGES and not 1.95 <= words / code <= 4.05:
            wrong.append(f"{path.name}: {words / code:.1f} words for each line of code, expected 2 to 4")
        exercises = re.search(r"^## Exercises$(.*?)(?=^## |\Z)", prose, re.M | re.S)[1]
        asked = {int(n) for n in re.findall(r"^(\d)\. ", exercises, re.M)}
        solved = {int(n) for n in re.findall(r"Solution to exercise (\d)", "\n".join("".join(c["source"]) for c in cells))}
        if not (3 <= len(asked) <= 5 and asked == solved):
            wrong.append(f"{path.name}: exercises {sorted(asked)}, solutions {sorted(solved)}, expected three to five, all solved")
        wrong += [f"{path.name}: no part '{part}'" for part in ("## What comes next",) if part not in prose]
    assert len(CHAPTERS) > 12 and not wrong, "\n".join(wrong)


@each_notebook
def test_colab_opens_this_notebook(notebook):
    links = re.findall(r"colab\.research\.google\.com/github/[\w.-]+/[\w.-]+/blob/main/nbs/([\w.]+)", notebook.read_text(encoding="utf-8"))
    assert links and set(links) == {notebook.name}


def test_minutes_on_the_home_page():
    "What it says of each chapter: words at 200 a minute, and lines of code at 25 on top."
    home = (ROOT / "nbs/index.ipynb").read_text(encoding="utf-8")
    said = {name: (int(prose), int(both)) for name, prose, both in re.findall(r'\\"(\w+)\\": \((\d+), (\d+)\)', home)}
    for path in CHAPTERS:
        words, code = measured(path)
        assert abs(said[path.stem][0] - words / 200) <= 2 and abs(said[path.stem][1] - words / 200 - code / 25) <= 4, (path.name, words / 200, code / 25)
