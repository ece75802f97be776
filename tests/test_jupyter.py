"""The notebooks in JupyterLab, as a reader meets them: `make lab`, a browser, Run All Cells, and a look at what is there."""
import json
import re
import secrets
import shutil
import socket
import sys
import time
import urllib.request

import nbformat
import pytest
from conftest import ONE_THREAD, ROOT, background

pytestmark = pytest.mark.long  # a minute and more; needs a browser
NOTEBOOKS = [p.name for p in sorted(ROOT.glob("nbs/[!_.]*.ipynb"))]
SHORT = ["00_charts.ipynb", "03_attack.ipynb", "12_explorer.ipynb"]
FEW_MINUTES = 300  # what all of them together should take on two idle cores
PROGRESS = """from apr_tutorial.data import synthetic
from apr_tutorial.model import BPRMF, fit
toy = synthetic(40, 60, activity=15, seed=1)
fit(BPRMF(40, 60, 8), toy, epochs=200, progress=True);"""
# Everything in the page, whatever is in sight; and no questions about news.
SETTINGS = {"notebook-extension/tracker": {"windowingMode": "none"}, "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False}}


class Lab:
    "A running JupyterLab, and its notebooks in a browser."

    def __init__(self, url, token, browser):
        self.url, self.token, self.browser = url, token, browser

    def get(self, path):
        with urllib.request.urlopen(f"{self.url}/{path}?token={self.token}", timeout=10) as answer:
            return json.load(answer)

    def open(self, name):
        page = self.browser.new_context(viewport={"width": 1300, "height": 900}).new_page()
        page.complaints = []
        page.on("pageerror", lambda error: page.complaints.append(str(error)))
        page.goto(f"{self.url}/lab/workspaces/{name.split('.')[0]}/tree/{name}?token={self.token}", timeout=60_000)
        page.wait_for_function("() => window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel?.status == 'idle'", timeout=120_000)
        return page

    @staticmethod
    def run_all(page):
        "Start all cells by the menu."
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_role("menuitem", name="Run All Cells", exact=True).click()

    @staticmethod
    def done(page):
        "Have all cells run, or has one failed? The kernel must have come to rest."
        return page.evaluate("""() => {
            const panel = window.jupyterapp.shell.currentWidget;
            const code = panel.content.widgets.map(cell => cell.model).filter(model => model.type == 'code' && model.sharedModel.source.trim());
            const failed = code.some(model => model.sharedModel.outputs.some(output => output.output_type == 'error'));
            return panel.sessionContext.session.kernel.status == 'idle' && (failed || code.every(model => model.executionCount));
        }""")

    @staticmethod
    def close(page):
        "With its kernel, which holds memory."
        page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.shutdown()")
        page.context.close()


@pytest.fixture(scope="module")
def lab(chromium, tmp_path_factory):
    "What `make lab` starts, on a copy of the notebooks and with settings of its own."
    home = tmp_path_factory.mktemp("lab")
    shutil.copytree(ROOT / "nbs", home / "nbs", ignore=shutil.ignore_patterns(".*"))
    shutil.copy(ROOT / "Makefile", home)
    progress = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(PROGRESS)], metadata={"kernelspec": {"name": "python3", "display_name": "python3"}})
    nbformat.write(progress, home / "nbs/progress.ipynb")
    for name, values in SETTINGS.items():
        file = home / f"settings/@jupyterlab/{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(values), encoding="utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex(8)
    options = (f"--no-browser --ServerApp.ip=127.0.0.1 --ServerApp.port={port} --ServerApp.port_retries=0 --IdentityProvider.token={token} "
               f"--LabApp.user_settings_dir={home}/settings --LabApp.workspaces_dir={home}/workspaces --LabApp.expose_app_in_browser=True")
    own = {f"JUPYTER_{d}_DIR": home / d.lower() for d in ("CONFIG", "DATA", "RUNTIME")} | {"IPYTHONDIR": home / "ipython"} | ONE_THREAD
    made = f"{sys.prefix}/.installed-dev"  # -o: install nothing, the tests run in what is installed
    with background("make", "-o", made, "lab", f"VENV={sys.prefix}", f"ARGS={options}", cwd=home, env=own) as (process, log):
        lab = Lab(f"http://127.0.0.1:{port}", token, chromium)
        for _ in range(120):
            try:
                lab.get("api/status")
                break
            except OSError:
                assert process.poll() is None, log.read_text(encoding="utf-8")
                time.sleep(0.5)
        else:
            pytest.fail(log.read_text(encoding="utf-8"))
        yield lab


def check(page, name):
    "No cell failed, and every figure that is saved in our copy of the notebook is to be seen."
    cells = page.evaluate("() => window.jupyterapp.shell.currentWidget.content.model.sharedModel.toJSON().cells")
    outputs = [(cell["source"], output) for cell in cells if cell["cell_type"] == "code" for output in cell["outputs"]]
    assert not [(source, o["ename"], o["evalue"]) for source, o in outputs if o["output_type"] == "error"]
    saved = nbformat.read(ROOT / "nbs" / name, 4).cells
    plots = [o for cell in saved if cell.cell_type == "code" for o in cell.outputs if any(k.startswith("image/") for k in o.get("data", {}))]
    seen = page.locator(".jp-OutputArea-output :is(.jp-RenderedSVG, .jp-RenderedImage) img, .jp-OutputArea-output:is(.jp-RenderedSVG, .jp-RenderedImage) img")
    sizes = seen.evaluate_all("images => images.map(i => i.complete && Math.min(i.naturalWidth, i.clientWidth))")
    assert len(sizes) == len(plots) and all(size > 100 for size in sizes), sizes
    assert not page.complaints
    return len(plots)


def finish(lab, page, name, seconds=FEW_MINUTES):
    deadline = time.monotonic() + seconds
    while not lab.done(page):
        assert time.monotonic() < deadline, f"{name}: not done after {seconds} s"
        page.wait_for_timeout(200)


def test_make_lab_opens_on_the_notebooks(lab):
    names = {entry["name"] for entry in lab.get("api/contents/")["content"]}
    assert set(NOTEBOOKS) <= names
    assert not re.search("Makefile|settings", " ".join(names))


@pytest.mark.parametrize("name", [n for n in SHORT if "explorer" not in n])
def test_short_chapters(lab, name):
    page = lab.open(name)
    lab.run_all(page)
    finish(lab, page, name)
    assert check(page, name)
    lab.close(page)


def test_interactive_figure(lab):
    "Untrusted, the picture stands still; run, it moves, and Jupyter leaves the arrow keys to it."
    page = lab.open("12_explorer.ipynb")
    figure = page.locator(".apr-explorer")
    assert figure.get_by_text("A still picture at budget 1").is_visible() and figure.get_by_role("slider").count() == 0
    assert figure.get_by_role("img").evaluate("image => image.naturalWidth") > 100
    lab.run_all(page)
    finish(lab, page, "12_explorer.ipynb")
    check(page, "12_explorer.ipynb")
    slider, status = figure.get_by_role("slider", name="Budget ε", exact=True), figure.get_by_role("status")
    slider.click()
    active = "() => window.jupyterapp.shell.currentWidget.content.activeCellIndex"
    slider.press("Home")
    cell = page.evaluate(active)
    for budget, key in (("0.25", "ArrowRight"), ("0.5", "ArrowUp"), ("0.25", "ArrowDown"), ("0", "ArrowLeft")):
        slider.press(key)
        assert slider.get_attribute("aria-valuetext") == f"budget {budget}" and status.inner_text().startswith(f"Budget {budget}:")
    assert page.evaluate(active) == cell and figure.locator("svg").count() == 1
    lab.close(page)


def test_progress_bar(lab):
    "One line at the end, and nothing that only a terminal understands."
    page = lab.open("progress.ipynb")
    lab.run_all(page)
    finish(lab, page, "progress.ipynb")
    output = page.locator(".jp-OutputArea-output")
    said = output.all_inner_texts()
    assert len(said) == 1 and len(said[0].strip().splitlines()) == 1, said
    assert output.get_attribute("data-mime-type") == "application/vnd.jupyter.stdout"  # by stderr it would look like an error
    assert "200/200" in said[0] and not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", said[0])
    lab.close(page)


@pytest.mark.long
def test_all_notebooks(lab, capsys):
    "Two at a time, as on two cores."
    waiting, active, failed, took, began = list(NOTEBOOKS), {}, {}, {}, time.monotonic()
    while waiting or active:
        while waiting and len(active) < 2:
            name = waiting.pop(0)
            page, started = lab.open(name), time.monotonic()
            lab.run_all(page)
            active[name] = page, started
        for name, (page, started) in list(active.items()):
            page.wait_for_timeout(200)
            if lab.done(page) or time.monotonic() - started > FEW_MINUTES:
                try:
                    finish(lab, page, name, 0.1)
                    check(page, name)
                except AssertionError as error:
                    failed[name] = error
                lab.close(page)
                took[name] = time.monotonic() - started
                del active[name]
    total = time.monotonic() - began
    with capsys.disabled():
        print("", *(f"{name}: {seconds:.0f} s" for name, seconds in took.items()), f"all notebooks in JupyterLab, two at a time: {total:.0f} s", sep="\n")
    assert not failed
