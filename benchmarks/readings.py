"""Which reading of a published study do its numbers follow? Each reading trained, and its distance from the result file measured.

BPR: the optimiser, the order of an epoch's visits, the item bias. APR: whether it goes on with BPR's accumulators, and whether the
last batch's perturbation is still in the tables when lists are written.
"""
import argparse
from collections.abc import Callable
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd

from .common import RESULTS, circumstances, markdown, results_folder, write_results
from .reproduce import BATCH, BUFFER, METRICS, SETTING, WIDTH, published, published_file

DATASET, KS, SEEDS, RATES, START = "movielens-100k", (50, 100), (1, 2), (.05, .01, .005), 100
SETTINGS = ((.001, .01), (.1, 1.), (1., .01), (1., .1), (1., 1.))  # (epsilon, lambda)
PUBLISHED_READING = "Adagrad, user by user"


def bpr_readings() -> dict[str, tuple]:
    "Name -> (optimiser, order, item bias)."
    from apr_tutorial.reproduction import UserByUser

    users = UserByUser(BUFFER)
    return {"SGD, user by user": ("sgd", users, True), "Adagrad, whole shuffle": ("adagrad", None, True), PUBLISHED_READING: ("adagrad", users, True),
            "Adagrad, users with replacement": ("adagrad", UserByUser(BUFFER, True), True), "Adagrad, user by user, no item bias": ("adagrad", users, False)}


def found(judged, data, **setting) -> list[dict]:
    "Rows of one evaluation."
    from apr_tutorial.evaluator import evaluate

    metrics = evaluate(judged, data, KS)
    return [setting | dict(k=k, hr=metrics.hr(k), ndcg=metrics.ndcg(k), coverage=metrics.coverage(k), arp=metrics.arp(k)) for k in KS]


def bpr(data, seed: int, rate: float, reading: str, epochs: int, every: int) -> list[dict]:
    "BPR under one reading, evaluated every `every` epochs."
    from apr_tutorial.model import BPRMF, fit

    optimizer, order, bias = bpr_readings()[reading]
    rows, count = [], iter(range(1, epochs + 1))

    def look(model) -> dict:
        if (epoch := next(count)) % every == 0:
            rows.extend(found(model, data, model="BPR", reading=reading, seed=seed, learning_rate=rate, epsilon=0., adv_reg=0., epoch=epoch))
        return {}
    fit(BPRMF(data.num_users, data.num_items, WIDTH, bias, seed), data, epochs, rate, optimizer, BATCH, seed=(seed, 0), monitor=look, progress=False, order=order)
    return rows


def apr(data, seed: int, epochs: int, every: int, tell: Callable) -> list[dict]:
    "APR from one BPR model, with kept and fresh accumulators; evaluated every `every` epochs, tables clean and with what the last batch left."
    from apr_tutorial.apr import APR
    from apr_tutorial.data import generator
    from apr_tutorial.model import BPRMF, batch_ids, copy_of, fit, read_arrays
    from apr_tutorial.reproduction import UserByUser, left_over

    order, start, rows = UserByUser(BUFFER), BPRMF(data.num_users, data.num_items, WIDTH, True, seed), []
    with TemporaryDirectory() as folder:
        fit(start, data, epochs, batch_size=BATCH, seed=(seed, 0), progress=False, order=order, checkpoint=Path(folder)/"bpr.npz")
        state = read_arrays(Path(folder)/"bpr.npz", "state")["state"]
    for (epsilon, adv_reg), (kept, accumulators) in product(SETTINGS, (("kept", state), ("fresh", None))):
        count = iter(range(1, epochs + 1))

        def look(model) -> dict:
            if (epoch := next(count)) % every == 0:
                batch = batch_ids(data, BATCH, generator(seed, 1, epoch - 1), order)[-1]
                for tables, judged in (("clean tables", model), ("last move left in", model.perturbed(left_over(model, data, batch, epsilon)))):
                    rows.extend(found(judged, data, model="APR", reading=f"accumulators {kept}, {tables}", seed=seed, learning_rate=.05, epsilon=epsilon,
                                      adv_reg=adv_reg, epoch=epochs + epoch))
            return {}
        fit(copy_of(start, "apr"), data, epochs, batch_size=BATCH, adversary=APR(epsilon, adv_reg), seed=(seed, 1), monitor=look, progress=False, order=order, state=accumulators)
        tell()
    return rows


def differences(rows: pd.DataFrame, theirs: pd.DataFrame) -> pd.DataFrame:
    "Ours (mean over seeds) relative to the published value, minus 1, for each reading, setting, epoch and k."
    keys = [*SETTING, "epoch", "k"]
    ours = rows.groupby(["model", "reading", *keys], sort=False)[list(METRICS)].mean().reset_index()
    both = ours.merge(theirs, on=keys, suffixes=("", " published"))
    return both[["model", "reading", *keys]].assign(**{m: both[m]/both[f"{m} published"] - 1 for m in METRICS})


def main():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.readings", description=__doc__.splitlines()[0])
    parser.add_argument("--published", type=Path, help="folder with the study's result files (default: $APR_TUTORIAL_DATA/../published)")
    parser.add_argument("--quick", action="store_true", help="a trial of a minute; its numbers mean nothing")
    parser.add_argument("--out", type=results_folder, default=RESULTS, help="folder of the results")
    args = parser.parse_args()
    file = published_file(DATASET, args.published)
    from apr_tutorial.charts import COLOURS, GREY, new_figure
    from apr_tutorial.data import load_dataset, progress_bar

    data, epochs, every = load_dataset(DATASET, progress=False), *((START, 50) if not args.quick else (3, 6))
    seeds, rates = (SEEDS, RATES) if not args.quick else (SEEDS[:1], RATES[:1])
    tasks, rows = list(product(seeds, rates, bpr_readings())), []
    with progress_bar("readings", total=len(tasks) + 2*len(SETTINGS)*len(seeds)) as bar:
        for task in tasks:
            rows += bpr(data, *task, 2*epochs, every)
            bar.update()
        for seed in seeds:
            rows += apr(data, seed, epochs, every//2, bar.update)
    theirs = published(file)
    table = differences(pd.DataFrame(rows), theirs.assign(epoch=theirs.epoch*2*epochs//200) if args.quick else theirs)
    means = 100*table.groupby(["model", "reading"], sort=False)[list(METRICS)].mean()
    figure, axes = new_figure(2, width=10, height=3.6)
    for ax, name in zip(axes, ("BPR", "APR")):
        means.loc[name].plot.barh(ax=ax, legend=name == "BPR", color=list(COLOURS.values())[:4])
        ax.axvline(0, color=GREY)
        ax.set(xlabel="mean difference from the published value, %", ylabel="")
        ax.invert_yaxis()
    text = (f"# Readings of a published study\n\n{circumstances(('tensorflow', 'numpy'), seeds=' '.join(map(str, seeds)))}.\n\nMean difference from the published value in per cent, "
            f"{DATASET}, k 50 and 100, epochs {every} to {2*epochs} (APR: {epochs + every//2} to {2*epochs}).\n\n{markdown(means.reset_index().to_dict('records'))}")
    write_results(args.out, f"readings-{DATASET}", table.to_dict("records"), text, figure)


if __name__ == "__main__":
    main()
