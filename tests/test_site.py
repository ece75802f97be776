"""The pages of the website. Without Quarto: what nbdev hands to it, read by pandoc. With Quarto on PATH: the rendered site too."""
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pypandoc
import pytest
import yaml
from conftest import ROOT, run

PROCESS = "from nbdev.quarto import refresh_quarto_yml as r; from nbdev.serve import proc_nbs as p; r(); p(force=True, n_workers=0)"
# Quarto's cross-references; they resolve within a page only.
OPTIONS = {"code-fold", "code-summary", "echo", "eval", "fig-alt", "fig-cap", "label", "output", "tbl-cap"}
LABEL = re.compile(r"(fig|tbl|eq|sec|lst|thm|lem|cor|prp|cnj|def|exm|exr|sol|rem)-")


def processed(tree):
    "The folder that nbdev makes for Quarto out of the notebooks of `tree`."
    process = run(sys.executable, "-c", PROCESS, cwd=tree, env={"IN_TEST": None})
    assert process.returncode == 0, process.stderr[-3000:]
    return tree / "_proc"


def nodes(tree):
    "Every element of pandoc's tree."
    if isinstance(tree, dict):
        yield tree
    for child in tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else []:
        yield from nodes(child)


class Page:
    "One processed notebook, or a plain page: its Markdown as pandoc reads it, what its cells show included, and its figures."

    def __init__(self, path):
        self.name, text = path.name, path.read_text(encoding="utf-8")
        self.cells = json.loads(text)["cells"] if path.suffix == ".ipynb" else []
        self.source = "\n\n".join(self.cell(c) for c in self.cells) or text
        pandoc = subprocess.run([pypandoc.get_pandoc_path(), "-f", "markdown", "-t", "json"], input=self.source, capture_output=True, text=True, check=True)
        self.warnings = pandoc.stderr
        self.nodes = list(nodes(json.loads(pandoc.stdout)))
        self.labels = {i for n in self.nodes for i in ids(n)} | set(re.findall(r"^#\| *label: *(\S+)", self.source, re.M))
        self.labels |= set(re.findall(r"\{#([\w-]+)", self.source))  # Quarto's own: behind equations and tables
        front = re.search(r"output-file: *(\S+)", self.source)
        self.html = front[1] if front else Path(self.name).with_suffix(".html").name

    @staticmethod
    def cell(cell):
        source = "".join(cell["source"])
        if cell["cell_type"] != "code":
            return source
        shown = ["".join(o["data"]["text/markdown"]) for o in cell.get("outputs", []) if "text/markdown" in o.get("data", {})]
        return "\n\n".join([f"~~~~~~python\n{source}\n~~~~~~", *shown])

    def of(self, kind):
        return [n["c"] for n in self.nodes if n.get("t") == kind]


def ids(node):
    "The identifier of a node that has one."
    content = node.get("c")
    attr = {"Header": 1, "Div": 0, "Span": 0, "Figure": 0, "Image": 0, "Table": 0, "CodeBlock": 0, "Link": 0}.get(node.get("t"))
    return [content[attr][0]] if attr is not None and content[attr][0] else []


def problems(folder):
    "Everything that a reader of the pages in `folder` would stumble on."
    pages = [Page(path) for path in sorted([*folder.glob("*.ipynb"), *folder.glob("*.qmd")])]
    by_name = {name: page for page in pages for name in (page.name, page.html)}
    keys = set(re.findall(r"^@\w+\{([^,\s]+),", (folder / "references.bib").read_text(encoding="utf-8"), re.M))
    for page in pages:
        for citation in (c["citationId"] for cite in page.of("Cite") for c in cite[0]):
            if LABEL.match(citation):
                if citation not in page.labels:
                    yield f"{page.name}: no label for @{citation} on this page"
            elif citation not in keys:
                yield f"{page.name}: @{citation} is not in references.bib"
        if any(":::" in s for s in page.of("Str")) or "unclosed" in page.warnings:
            yield f"{page.name}: a stray ::: {page.warnings}"
        level = 1  # of the title
        for heading in page.of("Header"):
            if not 2 <= heading[0] <= level + 1:
                yield f"{page.name}: a heading of level {heading[0]} after one of level {level}: {heading[1][0]}"
            level = heading[0]
        for target in (link[2][0] for link in page.of("Link")):
            file, _, anchor = target.partition("#")
            if re.match(r"\w+:|//", target):
                continue
            other = by_name.get(file) if file else page
            if other is None and not (folder / file).is_file():
                yield f"{page.name}: dead link {target}"
            elif anchor and anchor not in other.labels:
                yield f"{page.name}: dead anchor {target}"
        for attributes, alt, target in page.of("Image"):
            if not alt and not dict(attributes[2]).get("fig-alt"):
                yield f"{page.name}: picture without alt text: {target[0]}"
            if not re.match(r"\w+:", target[0]) and not (folder / target[0]).is_file():
                yield f"{page.name}: missing picture {target[0]}"
        for cell in page.cells:
            pictures = [o for o in cell.get("outputs", []) if any(k.startswith("image/") for k in o.get("data", {}))]
            source = "".join(cell["source"])
            for option in ("fig-alt", "fig-cap"):
                if pictures and not re.search(rf"^#\| *{option}: *\S", source, re.M):
                    yield f"{page.name}: figure without {option}:\n{source}"
            # Options count only at the top of a code cell; anywhere else a reader would see them.
            rest = source if cell["cell_type"] == "markdown" else re.sub(r"\A(#\|.*\n?)+", "", source) if cell["cell_type"] == "code" else ""
            if stray := re.search(r"^#\|.*", rest, re.M):
                yield f"{page.name}: a stray directive: {stray[0]}"
            for option in re.findall(r"^#\| *([\w-]+)", source, re.M):
                if cell["cell_type"] == "code" and option not in OPTIONS:
                    yield f"{page.name}: neither nbdev nor Quarto knows #| {option}"


def lost(folder):
    "What nbdev drops: it makes title and description of the first Markdown cell and discards the rest of it."
    for path in sorted(folder.glob("[!_.]*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        first = next((c for c in cells if c["cell_type"] == "markdown" and re.search(r"^# ", "".join(c["source"]), re.M)), None)
        if first is None:
            yield f"{path.name}: no title"
            continue
        lines = [line for line in "".join(first["source"]).splitlines() if line.strip() and not line.startswith("[![")]
        expected = [r"# \S.*", r"> \S.*"][:len(lines)]
        if len(lines) > 2 or not all(re.fullmatch(e, line) for e, line in zip(expected, lines)):
            yield f"{path.name}: the site would lose part of the first cell: {lines}"


def test_pages(tree):
    assert not list(lost(tree / "nbs"))
    assert not list(problems(processed(tree)))


def test_defects_are_found(tree):
    planted = {
        "unknown citation": "[@nobody1999nothing]", "unknown label": "@fig-nowhere", "unclosed": "::: {.callout-note}\nleft open",
        "unopened": "closed\n\n:::\n", "dead link": "[there](06_nowhere.ipynb)", "dead anchor": "[here](#nowhere)",
        "no alt": "![](https://example.org/picture.png)", "missing picture": "![a picture](nowhere.png)",
        "skipped level": "## Part\n\n#### Far below", "second title": "# Another title", "loose directive": "text\n\n#| echo: false"}
    for name in [p.name for p in (tree / "nbs").glob("*.ipynb")]:
        (tree / "nbs" / name).unlink()

    def page(name, *cells):
        cells = [{"cell_type": "markdown", "id": f"c{i}", "metadata": {}, "source": c} if isinstance(c, str) else c for i, c in enumerate(cells)]
        notebook = {"cells": cells, "metadata": {"kernelspec": {"name": "python3", "language": "python"}}, "nbformat": 4, "nbformat_minor": 5}
        (tree / "nbs" / name).write_text(json.dumps(notebook), encoding="utf-8")

    good = "# Fine\n\n> A page."
    page("00_fine.ipynb", good, "## Part\n\nSee [that](10_dead_link.ipynb), [this](#part), [it](dead_link.html) and [@he2018apr].")
    for number, (defect, source) in enumerate(planted.items()):
        page(f"{number + 10}_{defect.replace(' ', '_')}.ipynb", good, source)
    page("10_dead_link.ipynb", good, planted["dead link"])
    figure = {"output_type": "display_data", "metadata": {}, "data": {"image/png": "", "text/plain": "<Figure>"}}
    page("30_figure.ipynb", good, {"cell_type": "code", "id": "x", "metadata": {}, "execution_count": None, "source": "plot()", "outputs": [figure]})
    page("31_lost.ipynb", good + "\n\nA sentence.")
    code = lambda source, *outputs: {"cell_type": "code", "id": "x", "metadata": {}, "execution_count": None, "source": source, "outputs": list(outputs)}
    page("32_late_directive.ipynb", good, code("a = 1\n#| echo: false"))
    page("33_unknown_directive.ipynb", good, code("#| fig-caption: A typo\na = 1"))
    page("34_shown.ipynb", good, code("show()", {"output_type": "display_data", "metadata": {}, "data": {"text/markdown": "[there](nowhere.ipynb)"}}))
    (tree / "nbs/404.qmd").write_text("[home](nowhere.ipynb)", encoding="utf-8")
    found = {problem.split(":")[0] for problem in [*problems(processed(tree)), *lost(tree / "nbs")]}
    assert found == {p.name for p in (tree / "nbs").glob("*.ipynb")} - {"00_fine.ipynb"} | {"404.qmd"}


def test_navigation_leads_somewhere():
    site = yaml.safe_load((ROOT / "_quarto.yml").read_text(encoding="utf-8"))["website"]
    links = [item["href"] for side in site["navbar"].values() for item in side] + re.findall(r"\]\(([^)]+)\)", " ".join(site["page-footer"].values()))
    local = [link.partition("#")[0] for link in links if "://" not in link] + [site["favicon"], site["open-graph"]["image"], site["twitter-card"]["image"]]
    assert len(local) > 6 and not [name for name in local if not (ROOT / "nbs" / name).is_file()]


def test_rendered_site(tree):
    if not shutil.which("quarto"):
        pytest.skip("Quarto is not on PATH: the website was not rendered, only its pages read by pandoc")
    process = run(Path(sys.executable).with_name("nbdev_docs"), cwd=tree, timeout=1200)
    assert process.returncode == 0, process.stderr[-3000:]
    pages = list((tree / "_docs").glob("*.html"))
    assert len(pages) >= len(list(ROOT.glob("nbs/[!_.]*.ipynb")))
    unresolved = re.compile(r"\?@\w+-|\(\?+\)|class=\"quarto-unresolved-ref\"")
    assert not [p.name for p in pages if unresolved.search(p.read_text(encoding="utf-8"))]
