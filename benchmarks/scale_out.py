"""What several workers cost and keep: seconds an epoch, seconds and bytes of an exchange, and HR@100 beside one process.

Each worker is a process with one core of its own (cores are shared where there are more workers than cores). Seconds are medians over
epochs, ratios are to one process with one core in the same run. The ranking of more than two workers comes from the simulation in one
process, which gives the bits of real workers (`make two-workers`).
"""
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from .common import circumstances, cores, markdown, study_parser, write_results

WORKERS, SIZES, K = (1, 2, 4), (2**12, 2**16, 2**20, 2**23), 100
DEFENCES = ("bpr", "apr")


class Plan(NamedTuple):
    "A way to share training."
    workers: int = 1
    every: int | None = None  # steps between exchanges; None: an epoch
    batch: int = 512  # triples in a step of each worker

    def __str__(self):
        return f"{self.workers}" + (f", every {self.every:g}" if self.every else "") + (f", batches of {self.batch:g}" if self.batch != 512 else "")


# The last two: as many triples in a step of all workers as one process has.
PLANS = (Plan(1), Plan(2), Plan(8), Plan(8, 60), Plan(8, batch=64), Plan(8, 480, 64))


def one_core_each(rank: int):
    "Give this process one core, the next for the next rank, and TensorFlow one thread. Before TensorFlow computes anything."
    if hasattr(os, "sched_setaffinity"):
        mine = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {mine[rank % len(mine)]})
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(2)  # a collective waits in one of them


def loopback() -> int:
    "Bytes that the loopback interface has carried; 0 where the system doesn't say."
    file = Path("/proc/net/dev")
    lines = file.read_text().splitlines() if file.exists() else []
    return next((int(line.split(":")[1].split()[0]) for line in lines if line.strip().startswith("lo:")), 0)


def adversaries() -> dict:
    from apr_tutorial.apr import APR

    return dict(zip(DEFENCES, (None, APR())))


def exchanges(team, repeats: int) -> list[dict]:
    "Seconds and bytes of a sum of so many floats."
    import tensorflow as tf

    rows = []
    for size in SIZES:
        x, seconds = tf.zeros([size]), []
        team.sum(x)
        before = loopback()
        for _ in range(repeats):
            began = time.perf_counter()
            team.sum(x)
            seconds.append(time.perf_counter() - began)
        rows.append(dict(kind="exchange", size=4*size, seconds=float(np.median(seconds)), bytes=(loopback() - before)/repeats))
    return rows


def work(out: Path, dataset: str, epochs: int, rank: int, workers: int):
    "A worker's part: epochs of BPR and of APR, then sums of several sizes. The chief writes what it took."
    one_core_each(rank)
    from apr_tutorial.data import load_dataset
    from apr_tutorial.distributed import MultiWorker
    from apr_tutorial.model import BPRMF, fit

    team = MultiWorker(timeout=300) if workers > 1 else None
    data, rows = load_dataset(dataset, progress=False), []
    for name, adversary in adversaries().items():
        model, before = BPRMF(data.num_users, data.num_items), loopback()
        frame = fit(model, data, epochs, adversary=adversary, progress=False, strategy=team).frame
        rows.append(dict(kind=name, size=len(data), seconds=float(frame.seconds.median()), bytes=(loopback() - before)/epochs))
    if team:
        rows += exchanges(team, 3 if epochs < 5 else 20)
    if rank == 0:
        pd.DataFrame(rows).assign(workers=workers).to_csv(out, index=False)


def timed(dataset: str, epochs: int, workers: int, folder: Path) -> pd.DataFrame:
    "What the workers of one run measured. Raises `RuntimeError` where one fails."
    from apr_tutorial.distributed import local_cluster

    out = folder/f"{workers}.csv"
    command = [sys.executable, "-m", "benchmarks.scale_out", "--worker", out, "--dataset", dataset, "--epochs", epochs, "--workers", workers]
    configs = local_cluster(workers)
    running = [subprocess.Popen([*map(str, command), "--rank", str(rank)], env={**os.environ, "TF_CONFIG": config} if workers > 1 else None,
                                stderr=subprocess.PIPE, text=True) for rank, config in enumerate(configs)]
    try:
        said = [process.communicate(timeout=1800)[1] for process in running]
    finally:
        for process in running:
            process.kill()
    failed = [text for process, text in zip(running, said) if process.returncode]
    if failed:
        raise RuntimeError(f"a worker of {workers} failed:\n{failed[0][-2000:]}")
    return pd.read_csv(out)


def trained(data, epochs: int, seed: int, batch: int, team, monitor=None) -> tuple:
    "BPR, from it APR after as many epochs more, and the history of APR."
    from apr_tutorial.model import BPRMF, copy_of, fit

    bpr = BPRMF(data.num_users, data.num_items, seed=seed)
    fit(bpr, data, epochs, seed=(seed, 0), batch_size=batch, progress=False, strategy=team)
    apr = copy_of(bpr, "apr")
    history = fit(apr, data, epochs, seed=(seed, 1), batch_size=batch, adversary=adversaries()["apr"], monitor=monitor, progress=False, strategy=team)
    return bpr, apr, history


def by_workers(plan: Plan, train: Callable):
    "What `train(team)` returns: of one process, or of the first of the plan's simulated workers."
    from apr_tutorial.distributed import simulate

    return train(None) if plan.workers == 1 else simulate(plan.workers, train, plan.every)[0]


def accuracy(dataset: str, epochs: int, seeds: range, plans: Sequence[Plan]) -> pd.DataFrame:
    "HR@K of BPR and then of APR, for each plan."
    from apr_tutorial.attack import fgsm
    from apr_tutorial.data import load_dataset, progress_bar
    from apr_tutorial.evaluator import evaluate

    data, rows = load_dataset(dataset, progress=False), []
    score = lambda model: evaluate(model, data, [K], lists=False).hr(K)  # noqa: E731
    with progress_bar(data.name, total=len(seeds)*len(plans)) as bar:
        for seed in seeds:
            for plan in plans:
                for name, model in zip(DEFENCES, by_workers(plan, lambda team: trained(data, epochs, seed, plan.batch, team))):
                    attacked = model.perturbed(fgsm(model, data, .5, seed))
                    rows.append(dict(**plan._asdict(), seed=seed, kind=name, epochs=epochs, hr=round(score(model), 6), hr_fgsm=round(score(attacked), 6)))
                bar.update()
    return pd.DataFrame(rows)


def curves(dataset: str, epochs: int, plans: Sequence[Plan], every: int = 20) -> pd.DataFrame:
    "HR@K of APR after every so many epochs, of one seed, from BPR of as many epochs. Where is the top, and when?"
    from apr_tutorial.data import load_dataset, progress_bar
    from apr_tutorial.evaluator import evaluate

    data, rows = load_dataset(dataset, progress=False), []
    for plan in progress_bar(f"{data.name}, curves", iterable=plans):
        def curve(team):
            epoch = count(1)
            hr = lambda m: evaluate(m, data, [K], lists=False).hr(K) if next(epoch) % every == 0 else np.nan  # noqa: E731
            return trained(data, epochs, 1, plan.batch, team, lambda m: {"hr": hr(m)})[2].frame[["epoch", "hr"]].dropna()

        rows.append(by_workers(plan, curve).assign(**plan._asdict()))
    return pd.concat(rows).round(6)[[*Plan._fields, "epoch", "hr"]]


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    "Speed beside one worker."
    alone = rows[rows.workers == 1].set_index("kind").seconds
    return rows.assign(speed=[alone.get(kind, np.nan)/seconds for kind, seconds in zip(rows.kind, rows.seconds)])


def ways(rows: pd.DataFrame) -> list[str]:
    "The plan of each row, in words."
    return [str(Plan(w, None if pd.isna(e) else e, b)) for w, e, b in zip(rows.workers, rows.every, rows.batch)]


def chart(rows: pd.DataFrame, value: str, label: str):
    "A panel for BPR and one for APR: the value against the way of sharing, a dot for each row."
    from apr_tutorial.charts import COLOURS, GREY, new_figure

    figure, axes = new_figure(2, width=8, height=4)
    for ax, kind in zip(axes, DEFENCES):
        mine = rows[rows.kind == kind]
        ax.plot(ways(mine) if "every" in mine else mine.workers.astype(str), mine[value], "o", color=COLOURS[{"bpr": "bpr-mf"}.get(kind, kind)])
        ax.set(xlabel="workers", ylabel=label, ylim=(0, 1.1*rows[value].max()))
        ax.tick_params("x", rotation=30 if "every" in mine else 0)
        ax.set_title(kind.upper(), color=GREY)
    return figure


def lines(rows: pd.DataFrame):
    "HR@K against the epoch, a line for each way to share."
    from apr_tutorial.charts import add_legend, new_figure

    figure, (ax,) = new_figure()
    for way, mine in rows.assign(way=ways(rows)).groupby("way", sort=False):
        ax.plot(mine.epoch, mine.hr, label=way)
    ax.set(xlabel="epochs of APR", ylabel=f"HR@{K}")
    add_legend(ax)
    return figure


def main():
    parser = study_parser("scale_out", __doc__, "movielens-1m", seeds=3)
    parser.add_argument("--epochs", type=int, help="epochs of the accuracy (default: 100); of the times a tenth")
    parser.add_argument("--part", choices=("accuracy", "curves", "times"), help="one part only")
    for name in ("--worker", "--rank", "--workers"):
        parser.add_argument(name, type=Path if name == "--worker" else int, help="used by the program itself")
    args = parser.parse_args()
    epochs = args.epochs or (2 if args.quick else 100)
    if args.worker:
        return work(args.worker, args.dataset, epochs, args.rank, args.workers)
    name, about = Path(args.dataset).name, circumstances(("tensorflow", "numpy"), epochs=epochs)
    if args.part in (None, "times"):
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            counts = WORKERS[:2] if args.quick else WORKERS
            rows = summary(pd.concat([timed(args.dataset, max(2, epochs//10), w, Path(folder)) for w in counts], ignore_index=True)).assign(cores=cores())
        text = f"# Seconds and bytes of several workers on {args.dataset}\n\n{about}.\n\nOne core for each worker, {cores()} cores in all. seconds: of an epoch, or of a sum of size bytes. speed: against one worker.\n\n{markdown(rows.to_dict('records'))}"
        write_results(args.out, f"scale-out-times-{name}", rows.round(6).to_dict("records"), text, chart(rows, "speed", "times as fast as one"))
    plans = PLANS[:3] if args.quick else PLANS
    if args.part in (None, "curves"):
        rows = curves(args.dataset, epochs, plans, max(1, epochs//20))
        text = f"# HR@{K} of APR, epoch by epoch, by several workers on {args.dataset}\n\n{about}.\n\nSeed 1. every: steps between exchanges; none: once an epoch. batch: triples in a step of each worker.\n\n{markdown(rows.fillna('').to_dict('records'))}"
        write_results(args.out, f"scale-out-curves-{name}", rows.to_dict("records"), text, lines(rows))
    if args.part in (None, "accuracy"):
        rows = accuracy(args.dataset, epochs, range(1, args.seeds + 1), plans)
        means = rows.assign(every=rows.every.fillna(0)).groupby(["kind", *Plan._fields])[["hr", "hr_fgsm"]].agg(["mean", "std"])
        means.columns = [" ".join(c) for c in means.columns]
        text = f"# HR@{K} of several workers on {args.dataset}\n\n{about}.\n\nBPR, then APR for as many epochs; hr_fgsm under FGSM at epsilon 0.5. every: steps between exchanges, 0: once an epoch. batch: triples in a step of each worker. Seeds 1 to {args.seeds}.\n\n{markdown(means.reset_index().to_dict('records'))}"
        write_results(args.out, f"scale-out-accuracy-{name}", rows.to_dict("records"), text, chart(rows, "hr", f"HR@{K}"))


if __name__ == "__main__":
    main()
