"""Time training until the hit rate on test reaches a threshold: this project against Cornac.

Settings are chosen on validation (one training item of each user held out: the last where there are timestamps, else a seeded random one)
from grids of the same size. Held-out items may be easier to find than test items, so the threshold of the test means nothing there: the
setting is chosen that is first within two per cent of the best validation HR@100 that any setting of its contestant reaches. With it, each
seed trains anew on all training pairs and is judged on test. Only training is timed, and this project's evaluator judges both.
"""
import argparse
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product

import numpy as np

from .common import RESULTS, SEED, Play, Worker, circumstances, markdown, need, results_folder, run, write_results

K = 100
NEAR = .98  # of the best validation HR@K: good enough to be chosen for speed
NAMES = ("apr_tutorial", "Cornac")
Setting = tuple[float, float]  # learning rate, reg
Curve = list[tuple[int, float, float]]  # (epochs, seconds of training, HR@K)


@dataclass(frozen=True)
class Plan:
    "What is run."
    dataset: str = "movielens-1m"
    threshold: float = .40
    seeds: tuple[int, ...] = (1, 2, 3)
    epochs: tuple[int, int] = (30, 120)  # at most, of each contestant
    chunk: int = 2                      # epochs of Cornac between two evaluations
    grids: tuple[tuple[Setting, ...], ...] = (tuple(product((.1, .15, .2), (0., .005, .01))), tuple(product((.03, .05, .1), (.003, .01, .03))))


QUICK = Plan("movielens-500", .25, (1,), (6, 6), 2, (((.1, 0.), (.2, .01)), ((.05, .01), (.1, .01))))


def splits(dataset: str) -> dict:
    "The data of choosing (True: validating) and of judging (False)."
    from apr_tutorial.data import hold_out, load_dataset

    data = load_dataset(dataset, progress=False)
    return {True: hold_out(data, SEED), False: data}


def hit_rate(data, validating: bool, *arrays: np.ndarray) -> float:
    "HR@K of factors."
    from apr_tutorial.evaluator import evaluate
    from apr_tutorial.model import Factors

    return evaluate(Factors(*arrays), data, k=(K,), lists=False, validating=validating).hr(K)


def ours(dataset: str) -> Play:
    "BPR with Adagrad. Each epoch's factors are kept and judged after training, so that sampling ahead gains nothing from the pauses."
    from apr_tutorial.model import BPRMF, fit

    data = splits(dataset)

    def play(setting: Setting, seed: int, validating: bool, epochs: int, threshold: float, chunk: int) -> Curve:
        now, kept = data[validating], []
        model = BPRMF(now.num_users, now.num_items, 64, seed=seed)

        def keep(model) -> dict:
            kept.append((np.array(model.user_factors), np.array(model.item_factors)))
            return {}
        history = fit(model, now, epochs=epochs, learning_rate=setting[0], reg=setting[1], seed=seed, monitor=keep, progress=False)
        seconds = history.frame.seconds.cumsum()
        return until([(n + 1, float(s), hit_rate(now, validating, *arrays)) for n, (s, arrays) in enumerate(zip(seconds, kept))], threshold)
    for validating in (True, False):
        play((.1, 0.), 0, validating, 1, 2., 1)
    return play


def cornac(dataset: str) -> Play:
    "BPR by SGD with an item bias. Trains in chunks, each from the factors of the one before; what a call costs by itself is subtracted."
    from .contestants import cornac_data, cornac_model, cornac_start

    data = splits(dataset)
    sets = {validating: cornac_data(d) for validating, d in data.items()}

    def seconds_of(train, start: dict, epochs: int, setting: Setting) -> float:
        model, began = cornac_model(start, epochs, *setting), time.perf_counter()
        model.fit(train)
        return time.perf_counter() - began

    def play(setting: Setting, seed: int, validating: bool, epochs: int, threshold: float, chunk: int) -> Curve:
        now, train, curve, total = data[validating], sets[validating], [], 0.
        start = cornac_start(train, seed)
        np.random.seed(seed)  # Cornac draws from NumPy's global generator
        idle = float(np.median([seconds_of(train, start, 0, setting) for _ in range(5)]))
        for done in range(chunk, epochs + 1, chunk):
            total += max(0., seconds_of(train, start, chunk, setting) - idle)
            curve.append((done, total, hit_rate(now, validating, *in_our_rows(start, train, now.num_users, now.num_items))))
            if curve[-1][2] >= threshold:
                break
        return curve
    for validating in (True, False):
        play((.05, .01), 0, validating, 1, 2., 1)
    return play


def in_our_rows(factors: dict[str, np.ndarray], train, num_users: int, num_items: int) -> tuple[np.ndarray, ...]:
    "Cornac's arrays (U, V, Bi) in the row order of the data; zeros where training knew nothing."
    out = []
    for name, rows, places in (("U", num_users, train.uid_map), ("V", num_items, train.iid_map), ("Bi", num_items, train.iid_map)):
        array = np.zeros((rows, *factors[name].shape[1:]), np.float32)
        array[list(places)] = factors[name][list(places.values())]
        out.append(array)
    return tuple(out)


def until(curve: Curve, threshold: float) -> Curve:
    "A curve up to the first point that reaches the threshold."
    reached = next((n for n, point in enumerate(curve) if point[2] >= threshold), len(curve) - 1)
    return curve[:reached + 1]


def seconds_to(curve: Curve, threshold: float) -> float:
    "Seconds until HR@K first reaches the threshold; infinite where it never does."
    return next((seconds for _, seconds, hr in curve if hr >= threshold), math.inf)


def choose(curves: dict[Setting, Curve]) -> Setting:
    "The setting that is first within two per cent of the best HR@K that any of them reaches."
    level = NEAR*max(hr for curve in curves.values() for *_, hr in curve)
    return min(curves, key=lambda setting: seconds_to(curves[setting], level))


def rows_of(curve: Curve, **labels) -> list[dict]:
    return [labels | dict(epoch=epoch, seconds=seconds, hr=hr) for epoch, seconds, hr in curve]


def race(plan: Plan, workers: Sequence[Worker], step) -> tuple[list[dict], list[Setting]]:
    "All curves, and the chosen setting of each contestant; the contestants take turns."
    rows, tried = [], [{} for _ in workers]

    def turn(n: int, setting: Setting, seed: int, validating: bool) -> Curve:
        curve = workers[n].ask(setting, seed, validating, plan.epochs[n], math.inf if validating else plan.threshold, plan.chunk)
        rows.extend(rows_of(curve, dataset=plan.dataset, contestant=NAMES[n], judged_on="validation" if validating else "test",
                            learning_rate=setting[0], reg=setting[1], seed=seed))
        step()
        return curve
    for pair in zip(*plan.grids):
        for n, setting in enumerate(pair):
            tried[n][setting] = turn(n, setting, SEED, True)
    chosen = [choose(curves) for curves in tried]
    for seed in plan.seeds:
        for n, setting in enumerate(chosen):
            turn(n, setting, seed, False)
    return rows, chosen


def test_curve(rows: list[dict], name: str, seed: int) -> Curve:
    "The curve of one contestant and seed on test."
    return [(r["epoch"], r["seconds"], r["hr"]) for r in rows if (r["contestant"], r["judged_on"], r["seed"]) == (name, "test", seed)]


def results(rows: list[dict], plan: Plan) -> list[dict]:
    "One row a seed: seconds of both, and their ratio."
    table = []
    for seed in plan.seeds:
        own, other = (seconds_to(test_curve(rows, name, seed), plan.threshold) for name in NAMES)
        table.append({"seed": seed, NAMES[0]: own, NAMES[1]: other, "ratio": own/other if math.isfinite(own + other) else math.nan})
    return table


def finding(table: list[dict], plan: Plan) -> str:
    "A title that says what was found."
    ratios = [row["ratio"] for row in table]
    if any(math.isnan(r) for r in ratios):
        return f"{plan.dataset}: HR@{K} = {plan.threshold:g} was not reached by both with every seed"
    return f"{plan.dataset}: to HR@{K} = {plan.threshold:g} takes {np.median(ratios):.2f} times Cornac's training time"


def report(table: list[dict], chosen: list[Setting], plan: Plan, header: str) -> str:
    "The table with its rule, as Markdown."
    shown = [{k: "not reached" if v == math.inf else v for k, v in row.items()} for row in table]
    settings = "; ".join(f"{name}: learning rate {rate:g}, reg {reg:g} of {len(grid)} settings" for name, (rate, reg), grid in zip(NAMES, chosen, plan.grids))
    return (f"# {finding(table, plan)}\n\n{header}\n\nSeconds of training until HR@{K} on test first reaches {plan.threshold:g}, by seed, and their ratio "
            f"({NAMES[0]} / {NAMES[1]}). {NAMES[0]} is judged after each epoch, {NAMES[1]} after every {plan.chunk}.\n\n{markdown(shown)}\n"
            f"Chosen on validation: {settings}. Rule: the setting that is first within {1 - NEAR:.0%} of the best HR@{K} on validation that any of the "
            "contestant's settings reaches.\n")


def chart(rows: list[dict], table: list[dict], plan: Plan):
    "HR@K on test against seconds of training, a line for each seed."
    from apr_tutorial.charts import COLOURS, GREY, add_legend, new_figure

    figure, (ax,) = new_figure(width=7.5)
    for name, colour in zip(NAMES, (COLOURS["bpr-mf"], COLOURS["bpr-mf-continued"])):
        for n, seed in enumerate(plan.seeds):
            _, seconds, hr = zip(*test_curve(rows, name, seed))
            ax.plot(seconds, hr, color=colour, alpha=.8, label=name if n == 0 else None)
    ax.axhline(plan.threshold, color=GREY, linestyle=":")
    ax.set(xlabel="seconds of training, log scale", ylabel=f"HR@{K} on test", xscale="log")
    add_legend(ax)
    figure.suptitle(finding(table, plan), color=GREY, fontsize=11)
    return figure


def main():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.time_to_quality", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="movielens-500, 2 settings, 1 seed, a lower threshold: a trial, not a measurement")
    parser.add_argument("--out", type=results_folder, default=RESULTS, help="folder of the results")
    args = parser.parse_args()
    need("cornac")
    from apr_tutorial.data import progress_bar

    plan = QUICK if args.quick else Plan()
    turns = 2*(len(plan.grids[0]) + len(plan.seeds))
    with (Worker(NAMES[0], partial(ours, plan.dataset)) as own, Worker(NAMES[1], partial(cornac, plan.dataset)) as other,
          progress_bar("time to quality", total=turns) as bar):
        rows, chosen = race(plan, (own, other), bar.update)
    table = results(rows, plan)
    header = circumstances(("tensorflow", "numpy", "cornac"), seeds=" ".join(map(str, plan.seeds)), **{"seed of the choice": SEED})
    write_results(args.out, "time_to_quality", rows, report(table, chosen, plan, header), chart(rows, table, plan))


if __name__ == "__main__":
    run(main)
