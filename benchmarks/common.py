"""What the benchmarks share: contestants in processes of their own, paired ratios, and results that are written whole."""
import argparse
import html
import importlib.util
import os
import platform
import re
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pandas as pd

SEED = 42
RESULTS = Path(__file__).parents[1] / "apr_tutorial/results"  # in the package, so that chapters find them wherever they run
CONTEXT = get_context("spawn")
LIBRARIES = ("tensorflow", "numpy", "cornac", "implicit")

Play = Callable  # what a contestant does when asked; its arguments and its answer travel through a pipe
Make = Callable[[], Play]  # sets a contestant up


class ContestantError(RuntimeError):
    "A contestant failed; the message names it."


def serve(pipe: Connection, make: Make):
    "The life of a worker: set up, then answer one call after the other until None comes or the parent is gone."
    if hasattr(os, "setpgrp"):
        os.setpgrp()  # so that what it starts ends with it
    try:
        began = time.perf_counter()
        play = make()
        pipe.send(("done", time.perf_counter() - began))
        while (call := next_call(pipe)) is not None:
            pipe.send(("done", play(*call)))
    except BaseException:
        pipe.send(("failed", traceback.format_exc()))


def next_call(pipe: Connection) -> tuple | None:
    "The arguments of the next call; None at the end."
    try:
        return pipe.recv()
    except EOFError:
        return None


class Worker:
    "A contestant in a process of its own, ready after the constructor returns; computes only while it is asked."

    def __init__(self, name: str, make: Make):
        self.name, (self.pipe, theirs) = name, CONTEXT.Pipe()
        self.process = CONTEXT.Process(target=serve, args=(theirs, make), name=name)
        self.process.start()
        theirs.close()
        try:
            self.set_up_seconds = self.answer()
        except BaseException:
            self.close()
            raise

    def answer(self):
        "What the worker sends. Raises `ContestantError`."
        try:
            kind, value = self.pipe.recv()
        except (EOFError, ConnectionError):
            self.process.join(5)
            raise ContestantError(f"{self.name}: the process ended without an answer (exit code {self.process.exitcode}).") from None
        if kind == "failed":
            raise ContestantError(f"{self.name} failed:\n{value}")
        return value

    def ask(self, *args):
        "Let the worker play once. Raises `ContestantError`."
        try:
            self.pipe.send(args)
        except (BrokenPipeError, ConnectionError):
            pass  # it has failed or died: `answer` says which
        return self.answer()

    def close(self):
        "End the process and what it started."
        try:
            self.pipe.send(None)
            self.process.join(2)
        except (BrokenPipeError, ConnectionError):
            pass
        if self.process.is_alive():
            stop_group(self.process.pid)
        self.process.join()
        self.pipe.close()

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_):
        self.close()


def stop_group(pid: int):
    "Kill a worker and the processes that it started."
    try:
        own = hasattr(os, "killpg") and os.getpgid(pid) == pid
        (os.killpg if own else os.kill)(pid, getattr(signal, "SIGKILL", signal.SIGTERM))
    except ProcessLookupError:
        pass


@dataclass(frozen=True)
class Contestant:
    "One bar of the chart: `make` returns a function (epochs, round) -> (seconds per epoch or evaluation, what was extrapolated)."
    name: str
    kind: str  # BPR, APR or evaluation
    make: Make


def schedule(names: Sequence[str], reference: str | None) -> list[str]:
    "Who plays when in a round: in order, the reference, where there is one, before each of the others."
    return list(names) if reference is None else [who for name in names if name != reference for who in (reference, name)]


def compete(contestants: Sequence[Contestant], rounds: int, epochs: int, dataset: str, reference: str | None = None) -> list[dict]:
    "One row for each turn of each round; the reference plays directly before each of the others."
    from apr_tutorial.data import progress_bar

    rows, turns = [], schedule([c.name for c in contestants], reference)
    with ExitStack() as stack:
        bar = stack.enter_context(progress_bar(dataset, total=len(contestants) + rounds*len(turns)))
        workers = {}
        for contestant in contestants:
            bar.set_postfix_str(f"set-up of {contestant.name}")
            workers[contestant.name] = contestant.kind, stack.enter_context(Worker(contestant.name, contestant.make))
            bar.update()
        for number in range(rounds):
            for turn, name in enumerate(turns):
                bar.set_postfix_str(f"round {number + 1}: {name}")
                kind, worker = workers[name]
                seconds, extrapolated = worker.ask(epochs, number)
                rows.append(dict(dataset=dataset, contestant=name, kind=kind, round=number + 1, turn=turn + 1, seconds=seconds,
                                 set_up_seconds=worker.set_up_seconds, extrapolated=extrapolated))
                bar.update()
    return rows


def paired_ratio(own: Sequence[float], reference: Sequence[float]) -> tuple[float, float, float]:
    "Median, least and greatest of own[n]/reference[n], round by round."
    own, reference = np.asarray(own, float), np.asarray(reference, float)
    if own.shape != reference.shape or not own.size:
        raise ValueError(f"{own.size} and {reference.size} rounds: pairs need the same number of both, at least one.")
    ratios = own/reference
    return float(np.median(ratios)), float(ratios.min()), float(ratios.max())


def escaped(text: str) -> str:
    "A name, perhaps of somebody's data, that stays text in Markdown: no HTML, no new cell, no new line."
    return " ".join(html.escape(text, quote=False).replace("|", r"\|").split())


def short(value) -> str:
    "A cell's text: three significant digits, without an exponent where that is readable."
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return "–"
    if not isinstance(value, (float, np.floating)):
        return escaped(str(value))
    return f"{value:,.0f}" if abs(value) >= 99.95 else f"{value:#.3g}".rstrip(".")


def markdown(rows: Iterable[dict]) -> str:
    "A Markdown table of rows with the same keys; numbers are aligned to the right."
    rows = list(rows)
    keys = list(rows[0])
    number = [isinstance(rows[0][k], (int, float, np.number)) for k in keys]
    lines = [keys, ["---:" if right else ":---" for right in number], *([short(row[k]) for k in keys] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def version_of(library: str) -> str:
    "The version of an installed library."
    try:
        return version(library)
    except PackageNotFoundError:
        return "not installed"


def processor() -> str:
    "The model name of the processor."
    try:
        return re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())[1].strip()
    except (OSError, TypeError):
        return platform.processor() or platform.machine()


def cores() -> int:
    "The processors that this process may use."
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def circumstances(libraries: Sequence[str] = LIBRARIES, **settings) -> str:
    "One line: versions, processor and settings."
    versions = [f"Python {platform.python_version()}", *(f"{name} {version_of(name)}" for name in libraries)]
    return "; ".join([", ".join(versions), f"{cores()} cores, {processor()}", ", ".join(f"{k} {v}" for k, v in settings.items())])


def need(*libraries: str):
    "Exit with code 2 and the remedy where a library is missing."
    missing = [name for name in libraries if importlib.util.find_spec(name) is None]
    if missing:
        print(f"Not installed: {', '.join(missing)}. This benchmark compares with them: pip install -e '.[bench]'", file=sys.stderr)
        raise SystemExit(2)


def add_ray(parser: argparse.ArgumentParser):
    "The option that spreads a study over a Ray cluster."
    parser.add_argument("--ray", metavar="ADDRESS", help="spread over a Ray cluster; local: the cores of this machine")


def need_ray(address: str | None):
    "Exit with code 2 and the remedy where Ray is asked for and missing."
    from apr_tutorial.data import DataError

    try:
        if address is not None:
            from apr_tutorial.many import installed_ray
            installed_ray()
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def write_results(folder: Path, name: str, rows: list[dict], text: str, figure):
    "name.csv, name.md and name.svg, each under its name only when it is complete."
    from apr_tutorial.model import write_safely

    def draw(file):
        figure.savefig(file, format="svg", metadata={"Date": None})

    write_safely(folder / f"{name}.csv", lambda file: file.write(pd.DataFrame(rows).to_csv(index=False).encode()))
    write_safely(folder / f"{name}.md", lambda file: file.write(text.encode()))
    write_safely(folder / f"{name}.svg", draw)
    print(f"{text}\nWritten: {folder / name}.csv, .md, .svg")


def run(main: Callable[[], None]):
    "Call `main`; a contestant's failure ends the program with its message and exit code 1."
    try:
        main()
    except ContestantError as error:
        sys.exit(str(error))


def results_folder(text: str) -> Path:
    "For `argparse`: a folder, which may be new. A file in its place or above it is refused before the work and not after it."
    path = Path(text).absolute()
    there = next(p for p in (path, *path.parents) if p.exists())
    if not there.is_dir():
        raise argparse.ArgumentTypeError(f"{there} is a file: name a folder")
    return Path(text)


def study_parser(name: str, doc: str, dataset: str, seeds: int) -> argparse.ArgumentParser:
    "The options that every study takes, with its own defaults."
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=doc.splitlines()[0])
    parser.add_argument("--dataset", default=dataset, help="a name or a folder, as for `run`")
    parser.add_argument("--seeds", type=int, default=seeds, help="number of seeds")
    parser.add_argument("--quick", action="store_true", help="a short trial; its numbers mean nothing")
    parser.add_argument("--out", type=results_folder, default=RESULTS, help="folder of the results")
    return parser
