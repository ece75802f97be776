"""The interactive figure in a real browser: what it shows is what `evaluate` says, by keyboard and mouse, with and without scripts."""
import re

import numpy as np
import pandas as pd
import pytest

from apr_tutorial.apr import APR
from apr_tutorial.attack import pgd
from apr_tutorial.data import interactions, synthetic
from apr_tutorial.end_to_end import Runner, Settings, run_experiment
from apr_tutorial.evaluator import evaluate, top_items
from apr_tutorial.explorer import explore
from apr_tutorial.model import Factors

BUDGETS, K, LENGTH = (0.5, 1.0, 2.0), 20, 10
HOSTILE = ["</script ><script>window.hacked = 1</script>", '"><img src=x onerror="window.hacked = 2">', "<!--", "$x$ &lt;b&gt; 'q' \\u003c \u2028"]


@pytest.fixture(scope="module")
def report():
    data = synthetic(40, 60, activity=15, seed=1)
    settings = Settings(epochs=3, adversarial_epochs=2, embedding_size=8, batch_size=64, k=(K,), attack_epsilons=BUDGETS, control=False)
    return run_experiment(data, settings, {"pgd": pgd}, {"apr": APR()}, Runner(progress=False))


@pytest.fixture(scope="module")
def explorer(report):
    data = report.data
    return explore(report.models, data, BUDGETS, data.user_ids[data.test_users[:3]], k=K, length=LENGTH)


def document(*figures):
    return f'<!doctype html><html lang="en"><meta charset="utf-8"><title>t</title><body style="color: rgb(1, 2, 3)">{"".join(figures)}</html>'


@pytest.fixture
def show(chromium, tmp_path):
    "`show(explorer, …)` opens a page with these figures, offline; at the end nothing but the page itself was asked for, and nothing complained."
    contexts, requests, complaints = [], [], []

    def opened(*explorers, scripts=True):
        file = tmp_path / f"page{len(contexts)}.html"
        file.write_text(document(*(x._repr_html_() for x in explorers)), encoding="utf-8")
        contexts.append(chromium.new_context(offline=True, java_script_enabled=scripts))
        page = contexts[-1].new_page()
        page.on("request", lambda request: requests.append(request.url))
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: complaints.append(dialog.message) or dialog.dismiss())
        page.goto(file.as_uri())
        return page

    yield opened
    for context in contexts:
        context.close()
    assert [r for r in requests if not r.startswith("data:image/svg+xml;base64,")] == [(tmp_path / f"page{n}.html").as_uri() for n in range(len(contexts))]
    assert not complaints


def slider(page):
    return page.get_by_role("slider", name="Budget ε", exact=True)


def check(page, x, models, budget, user=0):
    "Everything that the page shows at this budget, against a fresh evaluation of the perturbed models."
    tables = page.locator("table").all()
    head, *rows = [[cell.inner_text() for cell in row.locator("th, td").all()] for row in tables[0].locator("tr").all()]
    assert head == ["metric", "BPR-MF", "of clean", "APR", "of clean"] and [r[0] for r in rows] == [f"HR@{K}", f"nDCG@{K}", "AUC"]
    for n, (model, table) in enumerate(zip(models.values(), tables[1:])):
        moved = model.perturbed(pgd(model, x.data, budget)) if budget else model
        clean, now = (evaluate(m, x.data, [K]) for m in (model, moved))
        for row, value, before in zip(rows, *((m.hr(K), m.ndcg(K), m.auc) for m in (now, clean))):
            assert row[1 + 2*n:3 + 2*n] == [f"{value:.4f}", f"{value/before:.0%}"]
        old, new = (top_items(m, x.data, LENGTH, x.users[[user]])[0][0].tolist() for m in (model, moved))
        shown = [[cell.inner_text() for cell in row.locator("td").all()] for row in table.locator("tbody tr").all()]
        assert [(place, item) for place, item, _ in shown] == [(str(p), str(x.data.item_ids[i])) for p, i in enumerate(new, 1)]
        for item, place, (_, _, mark) in zip(new, range(1, LENGTH + 1), shown):
            assert ("test item" in mark) == (item == x.tests[user])
            assert ("new" in mark) == (item not in old) and ("from" in mark) == (item in old and old.index(item) + 1 != place)
            if "from" in mark:
                assert f"from {old.index(item) + 1}" in mark and ("up" in mark) == (old.index(item) + 1 > place)
        left = [str(x.data.item_ids[i]) for i in old if i not in new]
        position = now.positions[x.data.test_users == x.users[user]][0] + 1
        text = table.locator("xpath=..").inner_text()
        assert f"left the list: {', '.join(left) or 'nothing'}\n" in text and f"at place {position}, without" in text
    status = page.get_by_role("status")
    assert status.get_attribute("aria-live") == "polite"
    assert status.inner_text().startswith(f"Budget {budget:g}: BPR-MF keeps {rows[1][2]} of its nDCG@{K}")


def test_results_are_the_report(report, explorer):
    attacked = report.frame.assign(budget=report.frame.epsilon).set_index(["model", "epsilon", "k"])
    for row in explorer.results.itertuples():
        there = attacked.loc[row.model, row.epsilon, row.k]
        assert (row.hr, row.ndcg, row.auc) == (there.hr, there.ndcg, there.auc)
    assert len(explorer.results) == len(report.frame) == 2*(1 + len(BUDGETS))


def test_keyboard(show, report, explorer):
    page = show(explorer)
    page.keyboard.press("Tab")
    assert slider(page).evaluate("e => e == document.activeElement")
    assert slider(page).get_attribute("aria-valuetext") == "budget 1"
    for key, budget in (("Home", 0), ("ArrowRight", 0.5), ("ArrowUp", 1), ("ArrowLeft", 0.5), ("End", 2)):
        page.keyboard.press(key)
        assert slider(page).get_attribute("aria-valuetext") == f"budget {budget:g}"
        check(page, explorer, report.models, budget)
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowDown")
    assert page.get_by_role("combobox", name="User", exact=True).input_value() == "1"
    check(page, explorer, report.models, 2, user=1)


def test_mouse(show, report, explorer):
    page = show(explorer)
    box = slider(page).bounding_box()
    before, line = page.get_by_role("status").inner_text(), page.locator("line.now")
    page.mouse.move(box["x"] + box["width"]/3, box["y"] + box["height"]/2)  # the second of four stops
    page.mouse.down()
    at = {0.5: line.get_attribute("x1")}
    check(page, explorer, report.models, 0.5)
    page.mouse.move(box["x"] + box["width"] + 5, box["y"], steps=4)
    page.mouse.up()
    at[2] = line.get_attribute("x1")
    check(page, explorer, report.models, 2)
    assert float(at[2]) > float(at[0.5]) and page.get_by_role("status").inner_text() != before
    page.get_by_role("combobox", name="User").select_option(label=str(explorer.data.user_ids[explorer.users[2]]))
    check(page, explorer, report.models, 2, user=2)


def test_without_scripts(show, report, explorer):
    page = show(explorer, scripts=False)
    check(page, explorer, report.models, 1)
    picture = page.get_by_role("img", name=f"nDCG@{K} over the budget")
    assert picture.bounding_box()["height"] > 100 and page.get_by_text("A still picture at budget 1").is_visible()
    assert page.get_by_role("slider").count() == 0
    assert not re.search(r"</?(script|style|svg)", page.locator("body").inner_text())


def test_colours_of_the_page(show, explorer):
    for scripts in (True, False):
        page = show(explorer, scripts=scripts)
        for cell in page.locator("td, th, caption, p").all():
            style = cell.evaluate("e => [getComputedStyle(e).color, getComputedStyle(e).backgroundColor]")
            assert style == ["rgb(1, 2, 3)", "rgba(0, 0, 0, 0)"]


def test_several_on_a_page(show, report, explorer):
    other = explore(report.models, report.data, [1, 3], report.data.user_ids[report.data.test_users[:1]], k=K)
    page = show(explorer, other, explorer)
    figures = page.get_by_role("group", name="Drag the budget")
    sliders = [figures.nth(n).get_by_role("slider") for n in range(3)]
    sliders[1].press("End")
    sliders[2].press("Home")
    assert [s.get_attribute("aria-valuetext") for s in sliders] == ["budget 1", "budget 3", "budget 0"]
    assert [figures.nth(n).get_by_role("status").inner_text().split(":")[0] for n in range(3)] == ["Budget 1", "Budget 3", "Budget 0"]


def test_hostile_names(show):
    ids = [f"{HOSTILE[n % len(HOSTILE)]} {n}" for n in range(12)]
    frame = pd.DataFrame([(f"{HOSTILE[u]} user", ids[(5*u + n) % 12]) for u in range(4) for n in range(4)], columns=["user", "item"])
    frame = pd.concat([frame, pd.DataFrame({"user": "rest", "item": ids})[:11]])
    data = interactions(frame, name=HOSTILE[0])
    rng = np.random.default_rng(0)
    models = {HOSTILE[0]: Factors(rng.normal(size=(5, 4)), rng.normal(size=(12, 4)))}
    x = explore(models, data, [1, 2], data.user_ids[:4], k=5, length=5)
    for scripts in (True, False):
        page = show(x, scripts=scripts)
        assert page.locator("body").inner_text().count(HOSTILE[0]) >= 3  # the model's name in two tables, and the data set's
        shown = page.locator("tbody td:nth-child(2)").all_inner_texts()[-5:]
        assert [" ".join(s.split()) for s in shown] == [" ".join(str(data.item_ids[i]).split()) for i in x.lists[0, 1, 0]]
        assert page.locator("[data-slot] *").count() == 0 and page.locator("script").count() == 1
        if scripts:
            slider(page).press("End")
            page.get_by_role("combobox").select_option(index=3)
            assert page.evaluate("window.hacked") is None
            assert page.locator("tbody td:nth-child(2)").all_inner_texts()[-1].split() == str(data.item_ids[x.lists[0, 2, 3, -1]]).split()
            assert page.get_by_role("img").get_attribute("aria-label").endswith(HOSTILE[0])
