"""Do the tests notice small mistakes? `python tools/mutate.py [MODULE …] [--sample N] [--at-least 85] [--list]`.

Makes mutants of apr_tutorial/{data,evaluator,attack,apr}.py, one small change each, and runs against each the tests of its module:
files of tests/, then the chapter's check cells. A mutant is killed by the first failure, or by using far more processor time
than the tests need. Prints the survivors and the rate for each module; the exit code is 1 below --at-least, 2 where tests fail as it is.

What changes: comparisons (boundary, direction), arithmetic, numbers (n to n + 1), True and False, `and` and `or`, `not`, signs,
conditions (negated), options (see OPTIONS), arguments given by name (left out), statements that call, raise or write into an
array (left out), calls (their first argument instead), results (None). Defaults of arguments are among the numbers.

What stays as it is, because no test should depend on it: texts and messages, annotations, imports, `__all__`, what only draws
(`plot_…` and progress bars), and the registry of public data sets, which is a copy of facts. Mutants that no test can kill,
because they do the same, count as survivors; EQUIVALENT says why they do.

TensorFlow is imported once; each mutant lives in a process forked from there, in which the package is not yet imported. The
chapter defines what the module exports, so its check cells run in the namespace of the mutated module.
"""
import argparse
import ast
import builtins
import contextlib
import copy
import gc
import importlib.util
import json
import os
import random
import re
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# The tests of each module, the quickest first; a notebook stands for its check cells.
TESTS = {"data": ("tests/test_data.py", "tests/test_download.py", "nbs/00_data.ipynb"),
         "evaluator": ("tests/test_evaluator.py", "nbs/02_evaluator.ipynb"),
         "attack": ("tests/test_attack.py", "tests/test_attacks.py", "nbs/03_attack.ipynb"),
         "apr": ("tests/test_models.py::test_an_adversary_is_the_papers_and_does_not_change", "tests/test_mutants.py::test_the_real_step_passes", "nbs/04_apr.ipynb")}
UNTESTED = {"DATASETS", "ECIR", "BIAS", "LogLines", "progress_bar", "__all__"}
OPTIONS = {"stable": "quicksort", "last": "first", "first": "last", "ignore": "raise", "utf-8-sig": "utf-8", "integer": "string",
           "string": "integer", "hr": "ndcg", "ndcg": "hr"}
# (module, function, change) -> why no test can tell.
EQUIVALENT = {
    ("data", "BITMAP_CELLS", "2**28 → 2**29"): "where the bitmap ends: memory, not answers",
    ("data", "Seen.__init__", "num_users * num_items <= BITMAP_CELLS → num_users * num_items < BITMAP_CELLS"): "where the bitmap ends: memory, not answers",
    ("data", "Seen.__init__", "num_users*num_items//8 + 1 → num_users*num_items//8 + 2"): "a byte more",
    ("data", "id_kind", "len(text) < 20 → len(text) <= 20"): "twenty digits are above 2^63 in any case",
    ("data", "id_kind", "len(text) < 20 → len(text) < 21"): "twenty digits are above 2^63 in any case",
    ("data", "check_test", "f.u.to_numpy(np.int64) << 32 → f.u.to_numpy(np.int64) << 33"): "a bit more between user and item",
    ("data", "interactions", "drop=True → drop=False"): "the old index becomes a column that nobody reads",
    ("data", "interactions", 'f.get("rating", 1) → f.get("rating", 2)'): "any rating above 0 is an interaction",
    ("data", "digest_of", "Path(path) → path"): "a convenience for who passes a text",
    ("data", "TIMEOUT", "5 → 6"): "how patient one is",
    ("data", "TIMEOUT", "20 → 21"): "how patient one is",
    ("data", "find_folder", "[fetch(source, file, progress) for file in source.digests][0] → [fetch(source, file, progress) for file in source.digests][1]"):
        "both files are in one folder",
    ("data", "sample_negatives", "rng.integers(… dtype=np.int32) → without"): "where it only fills an array of int32: other draws of the same law",
    ("data", "synthetic", "np.argsort(… axis=1) → without"): "the last axis is the default",
    ("data", "synthetic", '{"user": users, "item": items, "rating": 1} → {"user": users, "item": items, "rating": 2}'): "any rating above 0 is an interaction",
    ("data", "synthetic", "ignore_index=True → ignore_index=False"): "`interactions` numbers rows anew where numbers repeat",
    **{("evaluator", "", change): "speed and memory" for change in ("CELLS=256 → CELLS=257", "2 ** 26 → 2 * 26", "2**26 → 3**26", "2**26 → 2**27")},
    ("evaluator", "blocks", "max(1, min(BLOCK, CELLS//len(q))) → max(2, min(BLOCK, CELLS//len(q)))"): "for more than 2^26 items",
    ("evaluator", "blocks", "CELLS // len(q) → CELLS / len(q)"): "less than BLOCK only for more than 2^18 items",
    ("evaluator", "blocks", "len(chosen) < size → len(chosen) <= size"): "a copy",
    ("evaluator", "blocks", "np.matmul(… out=memory) → without"): "memory",
    ("evaluator", "blocks", "initial=0 → initial=1"): "of the minimum: it counts where entries are negative",
    ("evaluator", "blocks", "0 if b is None else farthest(b) → 1 if b is None else farthest(b)"): "1 beside the largest float32 is nothing",
    ("evaluator", "blocks", "largest < float(np.finfo(np.float32).max) → largest <= float(np.finfo(np.float32).max)"): "one number, to either side of which all is tested",
    ("evaluator", "excluded", "np.append(data.validation_users, -1) → np.append(data.validation_users, -2)"): "any number that is no user",
    ("evaluator", "excluded", "np.argsort(… kind='stable') → without"): "within a user the order has no meaning",
    ("evaluator", "excluded", "kind=\"stable\" → kind='quicksort'"): "within a user the order has no meaning",
    ("evaluator", "positions", "scores.reshape(-1) → scores.reshape(-2)"): "NumPy takes any negative number",
    ("evaluator", "evaluate", "10 → 11"): "only the largest of the lengths has an effect",
    ("evaluator", "evaluate", "50 → 51"): "only the largest of the lengths has an effect",
    ("evaluator", "interval", "stats.bootstrap(… batch=100) → without"): "memory",
    ("evaluator", "interval", "batch=100 → batch=101"): "memory",
    ("evaluator", "interval", "generator(seed) → seed"): "NumPy makes the same generator of a number and of a tuple with it",
    ("attack", "scale_rows", "np.divide(… out=np.zeros_like(rows)) → without"): "in the unit, rows of zeros are not read; in the result, memory just set free holds their zeros",
    ("attack", "scale_rows", "np.float32(length) → length"): "a rounding where the length is a float64 of NumPy",
    ("attack", "project_rows", "norms > epsilon → norms >= epsilon"): "a row of the right length scaled to that length",
    ("attack", "_add_up.body", "ids[k][:ids.shape[1] // 3] < factors.shape[0] - 1 → ids[k][:ids.shape[1] // 3] <= factors.shape[0] - 1"):
        "the spare row is 0, and so is its gradient",
    ("attack", "_add_up.body", "factors.shape[0] - 1 → factors.shape[0] + 1"): "the spare row is 0, and so is its gradient",
    ("attack", "_add_up.body", "factors.shape[0] - 1 → factors.shape[0] - 2"): "the row before the spare one is an item's, and these are users",
    ("attack", "_add_up.body", "reread(one) → one"): "speed: it only keeps XLA from computing rows twice",
    ("attack", "loss_gradient", "tf.convert_to_tensor(pack(model, 'sgd').factors) → pack(model, 'sgd').factors"): "XLA reads the variable as it reads its value",
    ("attack", "loss_gradient", "table_rows(triples, data, 4096) → table_rows(triples, data, 4097)"): "speed",
    ("attack", "climb", "scale_rows(g, 1) → scale_rows(g, 2)"): "twice the direction is the same direction",
    ("attack", "sweep", "lists=False → lists=True"): "speed",
}

OPERATORS = {ast.Lt: (ast.LtE, ast.GtE), ast.LtE: (ast.Lt, ast.Gt), ast.Gt: (ast.GtE, ast.LtE), ast.GtE: (ast.Gt, ast.Lt),
             ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,), ast.In: (ast.NotIn,), ast.NotIn: (ast.In,), ast.Is: (ast.IsNot,), ast.IsNot: (ast.Is,),
             ast.Add: (ast.Sub,), ast.Sub: (ast.Add,), ast.Mult: (ast.Div,), ast.Div: (ast.Mult,), ast.FloorDiv: (ast.Div,), ast.Mod: (ast.Mult,),
             ast.Pow: (ast.Mult,), ast.BitOr: (ast.BitAnd,), ast.BitAnd: (ast.BitOr,), ast.LShift: (ast.RShift,), ast.RShift: (ast.LShift,),
             ast.And: (ast.Or,), ast.Or: (ast.And,)}


@dataclass(frozen=True)
class Mutant:
    module: str
    line: int
    function: str
    change: str  # before → after
    source: str  # of the whole module

    def __str__(self):
        return f"apr_tutorial/{self.module}.py:{self.line} {self.function}: {self.change}"


def with_field(node, **fields):
    new = copy.copy(node)
    for name, value in fields.items():
        setattr(new, name, value)
    return new


def of_constant(node):
    "Other values of a literal."
    if isinstance(node.value, bool):
        yield ast.Constant(not node.value)
    elif isinstance(node.value, (int, float)):
        yield ast.Constant(node.value + 1)
    elif isinstance(node.value, str) and node.value in OPTIONS:
        yield ast.Constant(OPTIONS[node.value])


def of_expression(node):
    "What may stand in an expression's place."
    if isinstance(node, ast.Constant):
        yield from of_constant(node)
    elif isinstance(node, ast.Compare):
        for n, op in enumerate(node.ops):
            yield from (with_field(node, ops=[*node.ops[:n], other(), *node.ops[n + 1:]]) for other in OPERATORS[type(op)])
    elif isinstance(node, (ast.BinOp, ast.BoolOp)):
        yield from (with_field(node, op=other()) for other in OPERATORS.get(type(node.op), ()))
    elif isinstance(node, ast.UnaryOp):
        yield node.operand
    elif isinstance(node, ast.Call):
        if node.args and not getattr(node, "is_statement", False) and not isinstance(node.args[0], ast.Starred) and not (isinstance(node.func, ast.Name) and hasattr(builtins, node.func.id)):
            yield node.args[0]
        for keyword in node.keywords:
            if keyword.arg and not (isinstance(keyword.value, ast.Constant) and isinstance(keyword.value.value, bool)):
                yield with_field(node, keywords=[k for k in node.keywords if k is not keyword])
    elif isinstance(node, ast.IfExp):
        yield with_field(node, test=ast.UnaryOp(ast.Not(), node.test))


def of_statement(node):
    "(part of a statement, what may stand in its place.)"
    call = isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
    write = isinstance(node, ast.Assign) and not isinstance(node.targets[0], (ast.Name, ast.Tuple)) or isinstance(node, ast.AugAssign)
    if call or write or isinstance(node, ast.Raise):
        yield node, ast.Pass()
    if isinstance(node, ast.AugAssign):
        yield from ((node, with_field(node, op=other())) for other in OPERATORS.get(type(node.op), ()))
    if isinstance(node, ast.Return) and node.value:
        yield node.value, ast.Constant(None)
    if isinstance(node, (ast.If, ast.While)) and not isinstance(node.test, (ast.Compare, ast.UnaryOp)):
        yield node.test, ast.UnaryOp(ast.Not(), node.test)


def changes(node, function="", shown=None):
    "(function, node, replacement, what to show of it) of everything below `node` that is to be tested."
    if isinstance(node, (ast.Raise, ast.Expr)):  # an argument alone would be no statement, and trivially wrong after `raise`
        if inner := node.exc if isinstance(node, ast.Raise) else node.value:  # a bare `raise` has none
            inner.is_statement = True
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        if node.name.startswith("plot_") or node.name in UNTESTED:
            return
        function = f"{function}.{node.name}".strip(".")
    if isinstance(node, (ast.JoinedStr, ast.Import, ast.ImportFrom)) or isinstance(node, ast.With) and isinstance(node.body[-1], ast.Import):
        return
    if isinstance(node, ast.Call) and getattr(node.func, "id", "") in UNTESTED:
        return
    if isinstance(node, (ast.Assign, ast.AnnAssign)):
        target = node.targets[0] if isinstance(node, ast.Assign) else node.target
        if isinstance(target, ast.Name) and target.id in UNTESTED:
            return
        function = function or getattr(target, "id", "")
    if isinstance(node, ast.expr):
        yield from ((function, node, new, shown if isinstance(node, ast.Constant) else node) for new in of_expression(node))
    elif isinstance(node, ast.stmt):
        yield from ((function, old, new, old) for old, new in of_statement(node))
    if not isinstance(node, (ast.UnaryOp, ast.Tuple)):  # a sign or a bracket says little
        shown = node if isinstance(node, (ast.expr, ast.keyword, ast.AnnAssign)) else None
    for name, value in ast.iter_fields(node):
        if name not in ("annotation", "returns"):
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    yield from changes(child, function, shown)


def span(source, node):
    "Where a node begins and ends in the encoded source; Python's columns count bytes."
    lines = source.encode().splitlines(keepends=True)
    return tuple(sum(map(len, lines[:line - 1])) + column for line, column in ((node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset)))


def mutated(source, node, new, shown):
    "(the source with `node` replaced, what changed as short as can be understood)."
    text, whole = ast.unparse(new), source.encode()
    if isinstance(new, ast.expr) and not isinstance(new, (ast.Constant, ast.Name)):
        text = f"({text})"
    start, end = span(source, node)
    result = whole[:start] + text.encode() + whole[end:]
    if isinstance(node, ast.Call) and isinstance(new, ast.Call) and new.func is node.func:
        gone = next(k for k in node.keywords if k not in new.keywords)
        return result.decode(), f"{ast.unparse(node.func)}(… {gone.arg}={ast.unparse(gone.value)}) → without"
    if shown is None or shown is node:
        name = re.search(r"(\w+)(: *[^,=()]+)? *= *$", whole[:start].decode())
        before, after = ast.unparse(node), ast.unparse(new)
        if isinstance(node, ast.Constant) and name:
            before, after = f"{name[1]}={before}", f"{name[1]}={after}"
    else:
        first, last = span(source, shown)
        before, after = whole[first:last].decode(), result[first:last + len(result) - len(whole)].decode()
    return result.decode(), re.sub(r"\s+", " ", f"{before} → {after}")


def mutants(module, source):
    "Every mutant of a module that compiles, in the order of the lines."
    found = []
    for function, node, new, shown in changes(ast.parse(source)):
        text, change = mutated(source, node, new, shown)
        with contextlib.suppress(SyntaxError), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(text, module, "exec")
            found.append(Mutant(module, node.lineno, function, change, text))
    return sorted(found, key=lambda m: m.line)


def install(mutant, folder):
    "Import the package with the mutant in its module's place."
    path = Path(folder) / f"{mutant.module}.py"
    path.write_text(mutant.source, encoding="utf-8")
    name = f"apr_tutorial.{mutant.module}"
    spec = importlib.util.spec_from_file_location(name, path)
    package, module = importlib.import_module("apr_tutorial"), importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    setattr(package, mutant.module, module)
    spec.loader.exec_module(module)
    return module


def check_cells(notebook):
    "(number, source) of the code cells that export nothing."
    cells = json.loads((ROOT / notebook).read_text(encoding="utf-8"))["cells"]
    for number, cell in enumerate(cells):
        source = "".join(cell["source"])
        if cell["cell_type"] == "code" and not re.search(r"^#\| *(exports?\b|default_exp|eval: *false|slow)|^ *%", source, re.M):
            yield number, source


def run_notebook(notebook, module):
    import matplotlib.pyplot as plt
    for number, source in check_cells(notebook):
        try:
            exec(compile(source, f"{notebook}[{number}]", "exec"), vars(module))
        except BaseException:
            raise AssertionError(f"cell {number} of {notebook}") from None
        plt.close("all")


def run_pytest(file):
    import pytest

    class First:
        failed = "pytest itself"

        def pytest_runtest_logreport(self, report):
            if report.failed:
                self.failed = report.nodeid

    first = First()
    if pytest.main(["-x", "-q", "-p", "no:cacheprovider", "--assert=plain", file], plugins=[first]):
        raise AssertionError(first.failed)


def run_test(mutant, test, folder):
    "In the forked process. Returns what failed, or an empty text."
    os.environ |= {"MPLBACKEND": "agg", "IN_TEST": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    try:
        module = install(mutant, folder)
        run_notebook(test, module) if test.endswith(".ipynb") else run_pytest(test)
    except AssertionError as error:
        return str(error) or "import"
    except BaseException:
        return "import"
    return ""


def in_a_fork(mutant, test, seconds=None):
    "(what failed, processor seconds) of one test against one mutant; more than `seconds` is a failure, too."
    with tempfile.TemporaryDirectory() as folder:
        child = os.fork()
        if child == 0:
            os.setsid()
            if seconds:
                resource.setrlimit(resource.RLIMIT_CPU, (int(seconds) + 1, int(seconds) + 2))
            log = os.open(f"{folder}/log", os.O_WRONLY | os.O_CREAT)
            for stream in (1, 2):
                os.dup2(log, stream)
            os.chdir(ROOT)
            try:
                Path(folder, "result").write_text(run_test(mutant, test, folder), encoding="utf-8")
            except BaseException:
                traceback.print_exc()
            sys.stdout.flush()
            os._exit(0)
        status, usage = waited(child, 20*seconds + 60 if seconds else None)
        result = Path(folder, "result")
        failed = result.read_text(encoding="utf-8") if result.is_file() and status == 0 else "time or a crash"
        if failed and not seconds:
            print(Path(folder, "log").read_text(encoding="utf-8", errors="replace")[-3000:])
        return failed, usage.ru_utime + usage.ru_stime


def waited(child, limit):
    "Wait for a process and what it started; a process that waits for ever needs no processor time, so there is a (wide) limit of the clock too."
    until = time.monotonic() + limit if limit else float("inf")
    while True:
        pid, status, usage = os.wait4(child, os.WNOHANG)
        if pid:
            break
        if time.monotonic() > until:
            os.killpg(child, signal.SIGKILL)
            until = float("inf")
        time.sleep(.02)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    return status, usage


def killer(needed, mutant):
    "The test that kills the mutant, or an empty text; `needed` has the processor seconds of each test."
    for test, seconds in needed.items():
        failed, _ = in_a_fork(mutant, test, 3*seconds + 10)
        if failed:
            return f"{test}: {failed}" if failed in ("time or a crash", "import") else failed
    return ""


def preload(modules):
    "Whatever is slow to import, but nothing that runs an operation of TensorFlow: its threads would not survive a fork."
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    for path in (ROOT, ROOT / "tools"):
        sys.path.insert(0, str(path))
    names = ["pandas", "scipy.stats", "matplotlib.pyplot", "pooch", "requests", "tqdm", "pytest", "fastcore.test"]
    for name in names if modules == ["data"] else [*names, "tensorflow", "hypothesis", "sklearn.metrics"]:
        importlib.import_module(name)
    gc.freeze()  # or each process would look through all of TensorFlow for garbage


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("modules", nargs="*", choices=[*TESTS, []], metavar="MODULE", help=f"among {', '.join(TESTS)} (default: all)")
    parser.add_argument("--sample", type=int, help="no more than so many mutants of each module, chosen by --seed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="only functions whose name contains this")
    parser.add_argument("--tests", default="", help="only tests whose name contains this")
    parser.add_argument("--at-least", type=float, default=0, help="exit with 1 where a module's rate is lower, in per cent")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--list", action="store_true", help="print the mutants and run nothing")
    args = parser.parse_args()
    preload(args.modules)
    low = [module for module in args.modules or TESTS if rate_of(module, args) < args.at_least]
    if low:
        sys.exit(f"Less than {args.at_least:g} % killed: {', '.join(low)}")


def rate_of(module, args):
    "Try the mutants of a module, say what happened, and return the percentage that was killed."
    source = (ROOT / "apr_tutorial" / f"{module}.py").read_text(encoding="utf-8")
    chosen = [m for m in mutants(module, source) if args.only in m.function]
    if args.sample and args.sample < len(chosen):
        chosen = sorted(random.Random(args.seed).sample(chosen, args.sample), key=lambda m: m.line)
    if args.list or not chosen:
        print(*chosen, f"{module}: {len(chosen)} mutants", sep="\n")
        return 100
    needed = {}
    for test in (t for t in TESTS[module] if args.tests in t):
        failed, needed[test] = in_a_fork(Mutant(module, 0, "", "", source), test)
        if failed:
            print(f"{test} fails as it is: {failed}", file=sys.stderr)
            sys.exit(2)
    print(f"{module}: {len(chosen)} mutants;", ", ".join(f"{test} takes {seconds:.0f} s" for test, seconds in needed.items()), flush=True)
    found = []
    with get_context("fork").Pool(args.processes) as pool:  # not threads, from which one had better not fork
        for mutant, by in zip(chosen, pool.imap(partial(killer, needed), chosen)):
            found.append(by)
            if not by:
                why = EQUIVALENT.get((module, mutant.function, mutant.change))
                print(f"  survived: {mutant}" + (f" ({why})" if why else ""), flush=True)
    killers = Counter(re.split(r"::|: | of ", by)[-1 if by.startswith("cell") else 0] for by in found if by)
    rate = 100*sum(map(bool, found))/len(found)
    print(f"{module}: {sum(map(bool, found))} of {len(found)} killed, {rate:.1f} %;", ", ".join(f"{n} by {test}" for test, n in killers.most_common()), flush=True)
    return rate


if __name__ == "__main__":
    main()
