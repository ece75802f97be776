"""Measure how time and memory grow with rows, pairs and candidates, each point in a process of its own."""
import argparse
import os
import re
import resource
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np

from .common import RESULTS, SEED, Play, Worker, circumstances, markdown, paired_ratio, results_folder, run, write_results

SIZE, BLOCK = 64, 256
METHODS = tuple((kind, optimizer) for kind in ("BPR", "APR") for optimizer in ("adagrad", "sgd"))
PARTS = {"rows": "users and items", "pairs": "training pairs", "evaluation": "users × items"}


@dataclass(frozen=True)
class Point:
    "One measurement: what grows, the sizes, and what is done with them."
    part: str  # one of `PARTS`
    users: int
    items: int
    pairs: int
    kind: str = "evaluation"  # or BPR, APR
    optimizer: str = ""

    name = property(lambda self: f"{self.part}, {self.kind} {self.optimizer}, {self.users:,} × {self.items:,}, {self.pairs:,} pairs")
    line = property(lambda self: f"{self.kind} {self.optimizer}".strip())
    size = property(lambda self: {"rows": self.users, "pairs": self.pairs, "evaluation": self.users*self.items}[self.part])


def points(quick: bool) -> list[Point]:
    "All points: rows grow with the pairs fixed, pairs with the rows fixed, and candidates."
    rows, fixed, table, pairs = ((10**3, 10**4), 10**4, (10**3, 10**3), (10**3, 10**4)) if quick else \
        ((10**4, 10**5, 10**6), 10**6, (10**5, 10**4), (10**5, 10**6, 10**7))
    people, wares = ((10**3,), (500, 5*10**3)) if quick else ((10**4, 10**5), (5*10**3, 5*10**4))
    methods = [m for m in METHODS if not quick or m[1] == "adagrad"]
    return [*(Point("rows", n, n, fixed, *method) for method in methods for n in rows),
            *(Point("pairs", *table, n, *method) for method in methods for n in pairs),
            *(Point("evaluation", u, i, 10*u) for u in people for i in wares)]


def uniform_pairs(users: int, items: int, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    "`count` different pairs, sorted by user, then item."
    keys = np.empty(0, np.int64)
    while len(keys) < count:
        keys = np.unique(np.r_[keys, rng.integers(0, users*items, count - len(keys) + count//50 + 1)])
    keys = np.sort(rng.permutation(keys)[:count])
    return (keys//items).astype(np.int32), (keys % items).astype(np.int32)


def generated(users: int, items: int, count: int, seed: int = SEED):
    "`Interactions` of uniform pairs with one test item for each user."
    from apr_tutorial.data import Interactions, generator, sample_negatives

    rng, everyone = generator(seed), np.arange(users, dtype=np.int32)
    pairs = uniform_pairs(users, items, count, rng)
    alone = Interactions("uniform", np.arange(users), np.arange(items), *pairs, None, everyone[:0], everyone[:0], synthetic=True)
    return Interactions("uniform", np.arange(users), np.arange(items), *pairs, None, everyone, sample_negatives(alone, everyone, rng), synthetic=True)


def status(field: str) -> float | None:
    "A field of this process's memory status in MB; None where the system does not tell."
    try:
        return int(re.search(rf"{field}:\s+(\d+)", Path("/proc/self/status").read_text())[1])/1024
    except (OSError, TypeError):
        return None


def peak() -> float:
    "Largest resident memory so far in MB. `getrusage` alone would count the parent's on Linux, where a process inherits the figure."
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    own = status("VmHWM")
    return used/(1024 if os.uname().sysname == "Linux" else 2**20) if own is None else own


def growth_of_memory(function: Callable) -> float:
    "By how many MB resident memory rises at most during a call; a lower bound where its peak can't be reset."
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass
    before = status("VmRSS") or peak()
    function()
    return peak() - before


def training(point: Point) -> Play:
    "A model of the point's size; asked, it trains for three epochs and tells their median. Factors start large, so that the adversary leaves them standing."
    from apr_tutorial.apr import APR
    from apr_tutorial.model import BPRMF, fit

    data = generated(point.users, point.items, point.pairs)
    model = BPRMF(point.users, point.items, SIZE, seed=SEED)
    model.assign(10*model.user_factors, 10*model.item_factors)
    options = dict(optimizer=point.optimizer, adversary=APR() if point.kind == "APR" else None, progress=False)
    fit(model, data, epochs=1, seed=SEED, **options)

    def play(number: int) -> dict:
        return dict(seconds=fit(model, data, epochs=3, seed=(SEED, number), **options).epoch_seconds, peak_mb=peak())
    return play


def product(p: np.ndarray, q: np.ndarray):
    "The matrix product alone, in the blocks of the evaluation."
    for start in range(0, len(p), BLOCK):
        p[start:start + BLOCK] @ q.T


def evaluating(point: Point) -> Play:
    "Random factors; asked, it times the product, then the evaluation."
    from apr_tutorial.evaluator import evaluate
    from apr_tutorial.model import Factors

    data, rng = generated(point.users, point.items, point.pairs), np.random.default_rng(SEED)
    p, q = (rng.standard_normal((n, SIZE), np.float32) for n in (point.users, point.items))
    model = Factors(p, q)
    product(p[:BLOCK], q)
    beyond = growth_of_memory(lambda: evaluate(model, data, k=(10,), lists=False))

    def seconds(function: Callable) -> float:
        began = time.perf_counter()
        function()
        return time.perf_counter() - began

    def play(number: int) -> dict:
        alone = seconds(lambda: product(p, q))
        return dict(product_seconds=alone, seconds=seconds(lambda: evaluate(model, data, k=(10,), lists=False)), beyond_mb=beyond, peak_mb=peak())
    return play


def measure(point: Point, rounds: int) -> list[dict]:
    "One row for each round of a point."
    with Worker(point.name, partial(evaluating if point.part == "evaluation" else training, point)) as worker:
        return [asdict(point) | dict(size=point.size, round=n + 1, set_up_seconds=worker.set_up_seconds) | worker.ask(n) for n in range(rounds)]


def medians(rows: list[dict]) -> list[dict]:
    "One row a point: median seconds, greatest peak; for evaluations the paired ratio to the product as well."
    found: dict[tuple, list[dict]] = {}
    for row in rows:
        found.setdefault(tuple(row[k] for k in ("part", "users", "items", "pairs", "kind", "optimizer")), []).append(row)
    return [group[0] | dict(seconds=float(np.median([r["seconds"] for r in group])), peak_mb=max(r["peak_mb"] for r in group), **against_product(group))
            for group in found.values()]


def against_product(group: list[dict]) -> dict:
    "Evaluation / product, paired by round; nothing for training."
    if "product_seconds" not in group[0]:
        return {}
    product_seconds = [r["product_seconds"] for r in group]
    return dict(product_seconds=float(np.median(product_seconds)), ratio=paired_ratio([r["seconds"] for r in group], product_seconds)[0])


def targets(found: list[dict]) -> list[dict]:
    "What grew by how much, beside the targets; the targets are for the full sizes."
    rows = []
    for part, limit, steps in (("rows", 2.3, 2), ("pairs", 11., 1)):
        for line in dict.fromkeys((r["kind"], r["optimizer"]) for r in found if r["part"] == part):
            same = sorted((r for r in found if r["part"] == part and (r["kind"], r["optimizer"]) == line), key=lambda r: r["size"])
            low, high = same[max(0, len(same) - 1 - steps)], same[-1]
            rows.append(target(f"seconds, {' '.join(line)}, {PARTS[part]} {low['size']:,} to {high['size']:,}", high["seconds"]/low["seconds"], limit, "×"))
    rows.append(target("peak memory of training", max(r["peak_mb"] for r in found if r["part"] == "rows")/1024, 4., "GB"))
    largest = max((r for r in found if r["part"] == "evaluation"), key=lambda r: r["size"])
    size = f"{largest['users']:,} users × {largest['items']:,} items"
    rows.append(target(f"evaluation / matrix product, {size}", largest["ratio"], 1.2, "×"))
    rows.append(target(f"memory of evaluation beyond the factors, {size}", largest["beyond_mb"], 200., "MB"))
    return rows


def target(what: str, value: float, limit: float, unit: str) -> dict:
    return {"what": what, "measured": float(value), "target": f"at most {limit:g} {unit}", "met": "yes" if value <= limit else "no"}


def report(found: list[dict], header: str, quick: bool) -> str:
    "Targets and points as Markdown."
    trained = [{"grows": PARTS[r["part"]], "method": f"{r['kind']} {r['optimizer']}", "users": f"{r['users']:,}", "items": f"{r['items']:,}",
                "pairs": f"{r['pairs']:,}", "seconds per epoch": r["seconds"], "peak MB": r["peak_mb"]} for r in found if r["part"] != "evaluation"]
    evaluated = [{"users": f"{r['users']:,}", "items": f"{r['items']:,}", "seconds": r["seconds"], "product alone": r["product_seconds"], "ratio": r["ratio"],
                  "MB beyond factors": r["beyond_mb"]} for r in found if r["part"] == "evaluation"]
    note = "A trial with small sizes: the targets are for the full ones.\n\n" if quick else ""
    return (f"# How time and memory grow\n\n{header}\n\n{note}{markdown(targets(found))}\n## Training\n\nUniform pairs; seconds are the median over the rounds of the median of three epochs, sampling included, "
            f"memory is the whole process with TensorFlow.\n\n{markdown(trained)}\n## Evaluation\n\nSeconds of `evaluate(lists=False)` and of the matrix product "
            f"in the same blocks of {BLOCK} users, in turn; the ratio is the median over the rounds.\n\n{markdown(evaluated)}")


def chart(found: list[dict]):
    "Seconds against each of the sizes, both scales logarithmic."
    from apr_tutorial.charts import COLOURS, GREY, add_legend, new_figure

    figure, axes = new_figure(len(PARTS), width=11)
    colours = dict(zip([f"{kind} {optimizer}" for kind, optimizer in METHODS], COLOURS.values()))
    for ax, (part, what) in zip(axes, PARTS.items()):
        here = [r for r in found if r["part"] == part]
        for line in dict.fromkeys(f"{r['kind']} {r['optimizer']}".strip() for r in here):
            same = sorted((r for r in here if f"{r['kind']} {r['optimizer']}".strip() == line), key=lambda r: r["size"])
            ax.plot([r["size"] for r in same], [r["seconds"] for r in same], marker="o", label=line, color=colours.get(line, COLOURS["bpr-mf"]))
            if part == "evaluation":
                ax.plot([r["size"] for r in same], [r["product_seconds"] for r in same], marker="x", linestyle=":", label="product alone", color=GREY)
        ax.set(xscale="log", yscale="log", xlabel=what, ylabel="seconds" if part == "evaluation" else "seconds per epoch")
        add_legend(ax)
    worst = [max(t["measured"] for t in targets(found) if PARTS[part] + " " in t["what"]) for part in ("rows", "pairs")]
    figure.suptitle(f"From the smaller to the larger size time grows at most {worst[0]:.1f}-fold with rows and {worst[1]:.1f}-fold with pairs",
                    color=GREY, fontsize=11)
    return figure


def main():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="small sizes, 2 rounds: a trial, not a measurement")
    parser.add_argument("--out", type=results_folder, default=RESULTS, help="folder of the results")
    args = parser.parse_args()
    if args.rounds < 1:
        parser.error("--rounds: expected at least 1")
    from apr_tutorial.data import progress_bar

    rounds, rows = 2 if args.quick else args.rounds, []
    with progress_bar("scaling", total=len(points(args.quick))) as bar:
        for point in points(args.quick):
            bar.set_postfix_str(point.name)
            rows += measure(point, rounds)
            bar.update()
    found = medians(rows)
    header = circumstances(("tensorflow", "numpy"), seed=SEED, rounds=rounds)
    write_results(args.out, "scaling", rows, report(found, header, args.quick), chart(found))


if __name__ == "__main__":
    run(main)
