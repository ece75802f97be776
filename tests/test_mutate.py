"""Is what tools/mutate.py says about the tests true? It makes the mutants it should, and tells the killed from the survivors."""
import sys

import mutate
import pytest
from conftest import ROOT, run

SOURCE = '''"Module."
LIMIT: int = 3
def count(rows: list, least: float = 1.5, *, strict=True) -> int:
    "How many."
    if not rows or len(rows) > LIMIT: raise ValueError(f"{len(rows) + 1} rows")
    rows[0] = max(rows, key=abs)
    return sum(r - 1 <= least for r in rows)
def plot_rows(ax): ax.plot(1 + 1)
'''


def test_mutants_of_a_small_module():
    changes = {(m.line, m.function, m.change) for m in mutate.mutants("small", SOURCE)}
    assert changes == {
        (2, "LIMIT", "LIMIT: int = 3 → LIMIT: int = 4"), (3, "count", "least=1.5 → least=2.5"), (3, "count", "strict=True → strict=False"),
        (5, "count", "not rows or len(rows) > LIMIT → not (not rows or len(rows) > LIMIT)"), (5, "count", "not rows or len(rows) > LIMIT → not rows and len(rows) > LIMIT"),
        (5, "count", "not rows → rows"), (5, "count", "len(rows) > LIMIT → len(rows) >= LIMIT"), (5, "count", "len(rows) > LIMIT → len(rows) <= LIMIT"),
        (5, "count", "raise ValueError(f'{len(rows) + 1} rows') → pass"), (6, "count", "rows[0] = max(rows, key=abs) → pass"), (6, "count", "rows[0] → rows[1]"),
        (6, "count", "max(… key=abs) → without"), (7, "count", "sum((r - 1 <= least for r in rows)) → None"), (7, "count", "r - 1 <= least → r - 1 < least"),
        (7, "count", "r - 1 <= least → r - 1 > least"), (7, "count", "r - 1 → r + 1"), (7, "count", "r - 1 → r - 2")}


def test_each_changes_one_place():
    for mutant in mutate.mutants("small", SOURCE):
        different = [n for n, pair in enumerate(zip(SOURCE.splitlines(), mutant.source.splitlines()), 1) if pair[0] != pair[1]]
        assert different == [mutant.line] and len(mutant.source.splitlines()) == len(SOURCE.splitlines())


def test_a_bare_raise_has_no_inside():
    made = mutate.mutants("small", "def f():\n    try: g()\n    except ValueError:\n        raise\n")
    assert [(m.line, m.change) for m in made] == [(2, "g() → pass"), (4, "raise → pass")]


@pytest.mark.long
def test_what_no_test_can_tell_is_still_there():
    made = {(m.module, m.function, m.change) for module in mutate.TESTS for m in mutate.mutants(module, (ROOT / "apr_tutorial" / f"{module}.py").read_text(encoding="utf-8"))}
    assert set(mutate.EQUIVALENT) - made == set()


def tried(*options):
    process = run(sys.executable, ROOT / "tools" / "mutate.py", *options, env={"TF_CPP_MIN_LOG_LEVEL": "3"}, timeout=3 * 3600)
    print(process.stdout)
    return process.returncode, process.stdout


@pytest.mark.long
def test_the_killed_and_the_survivors_are_told_apart():
    code, said = tried("data", "--tests", "test_data", "--only", "generator", "--at-least", "100")
    assert code == 0 and "2 of 2 killed, 100.0 %; 2 by tests/test_data.py" in said
    code, said = tried("data", "--tests", "test_download", "--only", "generator", "--at-least", "1")
    assert code == 1 and "survived: apr_tutorial/data.py" in said and "0 of 2 killed" in said


@pytest.mark.long
def test_the_tests_kill_most_mutants():
    code, said = tried("--at-least", "85")
    assert code == 0
