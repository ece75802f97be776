"""Train BPR and APR as a published study did, and lay its result file beside ours, row by row.

The study is 'The Idiosyncratic Effects of Adversarial Training on Bias' (Anelli et al., RecSys 2021), whose result files are public. Its
numbers fit Adagrad with an item bias, batches that are not shuffled globally, APR that goes on with BPR's accumulators, and lists of APR
that were written while the last batch's perturbation was still in the tables (chapter 'Do the numbers hold?' shows how we know). All
of that is done here; beside the lists of the perturbed tables stand those of the clean ones.

Each training is kept on disk every 25 epochs, so a run that was stopped goes on where it was.
"""
import argparse
import json
import os
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import dataclass, replace
from itertools import product
from multiprocessing import connection, parent_process
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from .common import CONTEXT, RESULTS, add_ray, circumstances, cores, markdown, need_ray, results_folder, write_results

KS = (10, 50, 100)
EVERY = 25  # epochs between two evaluations, as published
WIDTH, BATCH, BUFFER = 64, 512, 5120
SETTING = ["learning_rate", "epsilon", "adv_reg"]
COLUMNS = {"LearnRate": "learning_rate", "Epsilon": "epsilon", "Alpha": "adv_reg", "Epoch": "epoch", "Top-K": "k",
           "Recall": "hr", "nDCG": "ndcg", "Coverage": "coverage", "ARP": "arp", "PC_Pop": "hr_head", "PC_Tail": "hr_tail"}
METRICS = ("hr", "ndcg", "coverage", "arp")
HEAD = .2  # share of the items, the most popular ones, that the study calls the head


@dataclass(frozen=True)
class Plan:
    "What is trained: BPR at each rate up to `epochs`; APR from BPR at the first rate and `start` epochs, up to `end`."
    dataset: str
    rates: tuple[float, ...] = (.05, .01, .005)
    start: int = 100
    epochs: int = 200
    end: int = 200
    budgets: tuple[tuple[float, float], ...] = ()  # (epsilon, lambda)
    seeds: tuple[int, ...] = (1, 2, 3)
    validated: tuple[float, ...] = (.05, .01, .005)  # the rates whose epochs are also chosen on validation
    every: int = EVERY


GRID = tuple((e, a) for e in (.001, .01, .1, 1.) for a in (.001, .01, .1, 1., 10.))
PLANS = {"movielens-100k": Plan("movielens-100k", budgets=GRID),
         "movielens-1m": Plan("movielens-1m", start=1000, epochs=1000, end=1300, budgets=((1., .1), (1., 1.), (.1, 10.)), validated=(.05,))}
PUBLISHED = {"movielens-100k": "idiosyncratic-movielens-100k.csv", "movielens-1m": "idiosyncratic-movielens-1m.csv.gz"}


@dataclass(frozen=True)
class Chain:
    "Trainings that follow from each other, the work of one process: BPR at one rate, and at the first rate APR from it."
    plan: Plan
    rate: float
    seed: int
    validating: bool
    folder: Path

    def path(self, epsilon: float, adv_reg: float, ending: str) -> Path:
        part = "validation" if self.validating else "test"
        return self.folder/f"{part}-seed{self.seed}-rate{self.rate:g}-eps{epsilon:g}-reg{adv_reg:g}.{ending}"


def short_of(plan: Plan) -> Plan:
    "A trial of a few minutes: one rate, two budgets, two seeds, an eighth of the epochs or less; compares with nothing."
    return replace(plan, rates=plan.rates[:1], start=10, epochs=20, end=20, budgets=plan.budgets[-2:], seeds=(1, 2), every=5)


def chains(plan: Plan, folder: Path) -> list[Chain]:
    "All chains: the long ones on test first, then the others, seed by seed."
    parts = [(rate, validating) for rate in plan.rates for validating in (False, True) if not validating or rate in plan.validated]
    first, *others = ([(seed, *part) for seed in plan.seeds] for part in parts)
    rest = sorted((chain for group in others for chain in group), key=lambda chain: chain[0])
    return [Chain(plan, rate, seed, validating, folder) for seed, rate, validating in (*first, *rest)]


def evaluations(plan: Plan) -> int:
    "How many evaluations all chains make."
    bpr, apr = plan.epochs//plan.every, len(plan.budgets)*((plan.end - plan.start)//plan.every)
    return len(plan.seeds)*((len(plan.rates) + len(set(plan.validated) & set(plan.rates)))*bpr + (1 + (plan.rates[0] in plan.validated))*apr)


def data_of(chain: Chain):
    "The data of a chain: whole, or with a validation item held out for each user (the same for every seed)."
    from apr_tutorial.data import hold_out, load_dataset

    data = load_dataset(chain.plan.dataset, progress=False)
    return hold_out(data) if chain.validating else data


def work(chain: Chain):
    "Train and evaluate a chain, as far as its files don't hold it already."
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from apr_tutorial.apr import APR
    from apr_tutorial.model import BPRMF, copy_of, read_arrays, write_safely

    plan, data = chain.plan, data_of(chain)
    bpr = BPRMF(data.num_users, data.num_items, WIDTH, True, chain.seed)
    adversarial = chain.rate == plan.rates[0] and plan.budgets
    first = plan.start if adversarial else plan.epochs
    model = trained(chain, data, bpr, 0, first, (0., 0.))
    if adversarial and any(epochs_in(chain.path(*b, "csv")) < (plan.end - plan.start)//plan.every for b in plan.budgets):
        state = read_arrays(chain.path(0., 0., "npz"), "state")["state"]
        for budget in plan.budgets:
            trained(chain, data, copy_of(model, "apr"), plan.start, plan.end, budget, APR(*budget), state)
    if plan.epochs > first:
        more = chain.path(0., 0., "more.npz")  # the checkpoint at `start` stays: APR begins there
        if not more.exists():
            write_safely(more, lambda file: file.write(chain.path(0., 0., "npz").read_bytes()))
        trained(chain, data, bpr, 0, plan.epochs, (0., 0.), checkpoint=more)


def trained(chain: Chain, data, start, begin: int, end: int, budget: tuple[float, float], adversary=None, state=None, checkpoint=None):
    "The model after `end` epochs, `begin` of them already in `start`; evaluated on the way."
    from apr_tutorial.model import copy_of, fit, write_safely
    from apr_tutorial.reproduction import UserByUser

    table, checkpoint, order, seed = chain.path(*budget, "csv"), checkpoint or chain.path(*budget, "npz"), UserByUser(BUFFER), (chain.seed, begin)
    rows = pd.read_csv(table).to_dict("records") if table.exists() else []
    done = max((row["epoch"] for row in rows), default=begin)
    for epoch in sorted({*range(max(done, begin) + chain.plan.every, end + 1, chain.plan.every), end}):
        model = copy_of(start, start.name)
        fit(model, data, epoch - begin, chain.rate, "adagrad", BATCH, adversary=adversary, seed=seed, checkpoint=checkpoint, checkpoint_every=10**9,
            progress=False, order=order, state=state)
        if epoch <= done:
            continue
        rows += judged(chain, data, model, epoch, budget, seed + (epoch - begin - 1,), order)
        write_safely(table, lambda file: pd.DataFrame(rows).to_csv(file, index=False))
    return model


def judged(chain: Chain, data, model, epoch: int, budget: tuple[float, float], key: tuple, order) -> list[dict]:
    "Rows of one evaluation; of APR on test also with the last batch's perturbation left in the tables, as the study wrote its lists."
    from apr_tutorial.data import generator
    from apr_tutorial.evaluator import evaluate
    from apr_tutorial.model import batch_ids
    from apr_tutorial.reproduction import left_over

    models = {"clean": model}
    if budget[0] and not chain.validating:
        models["left over"] = model.perturbed(left_over(model, data, batch_ids(data, BATCH, generator(*key), order)[-1], budget[0]))
    rows = []
    for tables, judged_model in models.items():
        found = evaluate(judged_model, data, KS, lists=not chain.validating, validating=chain.validating)
        for k in KS:
            row = dict(part="validation" if chain.validating else "test", learning_rate=chain.rate, epsilon=budget[0], adv_reg=budget[1], seed=chain.seed,
                       epoch=epoch, tables=tables, k=k, hr=found.hr(k), ndcg=found.ndcg(k), ndcg_sd=float(found.values("ndcg", k).std(ddof=1)))
            rows.append(row if chain.validating else row | dict(coverage=found.coverage(k), arp=found.arp(k), **by_group(found, data, k)))
    return rows


def groups_of(data) -> tuple[np.ndarray, np.ndarray]:
    "[T] is the user's test item in the head, the most popular fifth? In the tail, another item with training interactions?"
    head = np.isin(data.test_items, np.argsort(-data.popularity, kind="stable")[:int(HEAD*data.num_items)])
    return head, ~head & (data.popularity[data.test_items] > 0)


def by_group(found, data, k: int) -> dict:
    "HR of the users whose test item is in the head, and in the tail."
    return {f"hr_{name}": float(found.values("hr", k)[group].mean()) for name, group in zip(("head", "tail"), groups_of(data))}


def end_with_parent():
    "In a process of the pool: end when the program that started it is gone, killed perhaps."
    def watch():
        connection.wait([parent_process().sentinel])
        os._exit(1)
    threading.Thread(target=watch, daemon=True).start()


def epochs_in(path: Path) -> int:
    "How many evaluations a file holds."
    return pd.read_csv(path, usecols=["epoch"]).epoch.nunique() if path.exists() else 0


def run_all(plan: Plan, folder: Path, jobs: int, ray: str | None = None) -> pd.DataFrame:
    "All rows, from files where they are there, else from training in `jobs` processes, or in tasks of a Ray cluster that sees the folder."
    from apr_tutorial.data import progress_bar

    if ray is not None:
        from apr_tutorial.many import spread

        spread(work, chains(plan, folder.absolute()), ray, lambda chain: f"seed {chain.seed}, rate {chain.rate:g}", folder, progress=True)
        return read_all(folder)
    todo, total = chains(plan, folder), evaluations(plan)
    count = lambda: sum(epochs_in(path) for path in folder.glob("*-seed*.csv"))
    if jobs == 0:
        return read_all(folder)
    with ProcessPoolExecutor(jobs, CONTEXT, end_with_parent) as pool, progress_bar(plan.dataset, total=total, unit="evaluation") as bar:
        waiting, began, told = {pool.submit(work, chain) for chain in todo}, time.monotonic(), 0
        try:
            while waiting:
                ended, waiting = wait(waiting, 5, FIRST_COMPLETED)
                for future in ended:
                    future.result()
                bar.update(count() - bar.n)
                if bar.disable and time.monotonic() - began - told > 60:  # a log file: one line a minute
                    told = time.monotonic() - began
                    print(f"{plan.dataset}: {count()} of {total} evaluations, {told/60:.0f} min", file=sys.stderr, flush=True)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return read_all(folder)


def read_all(folder: Path) -> pd.DataFrame:
    "The rows of all files."
    frames = [pd.read_csv(path) for path in sorted(folder.glob("*-seed*.csv"))]
    if not frames:
        sys.exit(f"{folder}: nothing there yet.")
    return pd.concat(frames, ignore_index=True).sort_values(["part", *SETTING, "seed", "epoch", "tables", "k"], ignore_index=True)


def published(path: Path) -> pd.DataFrame:
    "The study's file in our names; where a setting was run twice, the run with more rows."
    found = pd.read_csv(path)[["TotEpoch", *COLUMNS]].rename(columns=COLUMNS)
    rows = found.groupby([*SETTING, "TotEpoch"]).k.transform("size")
    return found[rows == rows.groupby([found[c] for c in SETTING]).transform("max")].drop(columns="TotEpoch")


def as_published(rows: pd.DataFrame) -> pd.DataFrame:
    "Test rows judged as the study did: APR with the last perturbation in its tables."
    return rows[(rows.part == "test") & (rows.tables == np.where(rows.epsilon > 0, "left over", "clean"))]


def compare(rows: pd.DataFrame, theirs: pd.DataFrame, users: int) -> pd.DataFrame:
    """Published and ours (mean over seeds) at the same setting, epoch and k, metric by metric.

    `low`, `high`: where one more run of ours would lie with probability .95 (Student's t over seeds); `user_error`: half the width of
    the published run's own 95 % interval over users (for HR and nDCG, from the spread over users).
    """
    keys, out = [*SETTING, "epoch", "k"], []
    groups = as_published(rows).groupby(keys)
    spread = groups.ndcg_sd.mean()
    for metric in (*METRICS, *[m for m in ("hr_head", "hr_tail") if m in rows]):
        ours = groups[metric].agg(ours="mean", sd="std", seeds="size").reset_index().merge(theirs[[*keys, metric]].rename(columns={metric: "published"}), on=keys)
        reach = stats.t.ppf(.975, ours.seeds - 1)*ours.sd*np.sqrt(1 + 1/ours.seeds)  # nan where there is one seed
        error = (np.sqrt(ours.published*(1 - ours.published)/users) if metric == "hr" else
                 ours.merge(spread.reset_index(), on=keys).ndcg_sd/np.sqrt(users) if metric == "ndcg" else np.nan)
        out.append(ours.assign(metric=metric, difference=ours.ours/ours.published.replace(0, np.nan) - 1, low=ours.ours - reach, high=ours.ours + reach, user_error=1.96*error))
    found = pd.concat(out, ignore_index=True)
    if "hr_head" in rows:
        (head, tail), parts = test_groups(theirs, users)/users, {m: found[found.metric == m].reset_index(drop=True) for m in ("hr", "hr_head", "hr_tail")}
        mixed = head*parts["hr_head"].ours + tail*parts["hr_tail"].ours
        found = pd.concat([found, parts["hr"].assign(metric="hr_mix", ours=mixed, difference=mixed/parts["hr"].published - 1, sd=np.nan, low=np.nan, high=np.nan)], ignore_index=True)
    return found.assign(outside=(found.published < found.low) | (found.published > found.high))


def test_groups(theirs: pd.DataFrame, users: int) -> np.ndarray:
    "How many of the study's test items are in the head, and in the tail: hits of all = items of the head × their HR + items of the tail × theirs."
    return np.linalg.lstsq(theirs[["hr_head", "hr_tail"]].to_numpy(), users*theirs.hr.to_numpy(), rcond=None)[0]


def summary(table: pd.DataFrame) -> list[dict]:
    "Median absolute and mean signed relative difference, by metric and model, at k 50 and 100."
    long = table[table.k >= 50].assign(model=np.where(table[table.k >= 50].epsilon > 0, "APR", "BPR"))
    parts = [(("HR and nDCG", "both"), long[long.metric.isin(["hr", "ndcg"])])] + list(long.groupby(["metric", "model"]))
    return [dict(metric=m, model=model, rows=len(part), **{"median |difference| %": 100*part.difference.abs().median(), "mean difference %": 100*part.difference.mean(),
                 "outside our interval": int(part.outside.sum())}) for (m, model), part in parts]


def chosen_epochs(rows: pd.DataFrame, k: int = 100) -> dict:
    "Setting -> the epoch with the best nDCG on validation, mean over the seeds that were validated: one epoch for all seeds."
    held = rows[(rows.part == "validation") & (rows.k == k)].groupby([*SETTING, "epoch"]).ndcg.mean()
    return {setting: int(found.idxmax()[-1]) for setting, found in held.groupby(SETTING)}


def one_setting(rows: pd.DataFrame, setting: tuple) -> pd.DataFrame:
    "The rows of a setting (rate, epsilon, lambda)."
    return rows[(rows[SETTING].to_numpy() == np.array(setting)).all(axis=1)]


def half_width(values: pd.Series) -> float:
    "Half of the 95 % interval of a mean over seeds (Student's t); nan for one seed."
    return float(stats.t.ppf(.975, len(values) - 1)*values.std()/np.sqrt(len(values))) if len(values) > 1 else np.nan


def selections(rows: pd.DataFrame, theirs: pd.DataFrame, k: int = 100) -> list[dict]:
    "HR and nDCG at `k` with the epoch chosen in three ways, by setting: mean over seeds and its 95 % interval, beside the published best."
    test, chosen, out = rows[(rows.part == "test") & (rows.k == k)], chosen_epochs(rows, k), []
    for setting, ours in test[test.tables == "clean"].groupby(SETTING):
        other = one_setting(theirs[theirs.k == k], setting)
        as_they = as_published(one_setting(test, setting))
        best = lambda found, metric: found.loc[found.groupby("seed")[metric].idxmax()]
        ways = {"test, as published": best(as_they, "hr"), "test": best(ours, "hr"), "validation": ours[ours.epoch == chosen.get(setting)], "last": best(ours, "epoch")}
        for way, got in ways.items():
            row = dict(zip(SETTING, setting)) | dict(way=way, seeds=len(got), epochs=" ".join(map(str, got.sort_values("seed").epoch)))
            for m in METRICS:
                row |= {m: got[m].mean(), f"{m} ±": half_width(got[m])}
            top = other.loc[other.hr.idxmax()] if len(other) and way == "test, as published" else None
            out.append(row | {f"published {m}": np.nan if top is None else top[m] for m in ("hr", "ndcg", "epoch")})
    return out


def bias(rows: pd.DataFrame) -> list[dict]:
    "Coverage and ARP of APR against BPR at its first rate, each at the epoch that validation chose: paired over seeds, with a 95 % interval."
    test, chosen, out = rows[(rows.part == "test") & (rows.tables == "clean")], chosen_epochs(rows), []
    first = (float(rows.learning_rate.max()), 0., 0.)
    for k, (setting, epoch) in product(KS, chosen.items()):
        if setting[1] == 0 or first not in chosen:
            continue
        base, part = (one_setting(test[(test.k == k) & (test.epoch == e)], s).set_index("seed") for s, e in ((first, chosen[first]), (setting, epoch)))
        for m in METRICS:
            change = (part[m]/base[m] - 1).dropna()
            mean, half = change.mean(), half_width(change)
            out.append(dict(zip(SETTING, setting)) | dict(k=k, metric=m, seeds=len(change), bpr=base[m].mean(), apr=part[m].mean(), change=mean, low=mean - half, high=mean + half))
    return out


def report(plan: Plan, table: pd.DataFrame, chosen: Sequence[dict], changes: Sequence[dict], header: str, counts: Sequence) -> str:
    "The Markdown text; `counts`: test items of head and tail, published and ours."
    outside = table[table.outside & table.metric.isin(["hr", "ndcg"])]
    shown = outside[[*SETTING, "epoch", "k", "metric", "published", "user_error", "ours", "low", "high", "difference"]]
    ways = [{c: ("–" if isinstance(v, float) and np.isnan(v) else f"{v:.4f}" if isinstance(v, float) and c not in SETTING + ["published epoch"] else v) for c, v in row.items()
             if not c.startswith(("coverage", "arp"))} for row in chosen]
    return (f"# Published and ours on {plan.dataset}\n\n{header}.\n\nFull ranking, ties against the model, k 50 and 100; ours: mean over seeds at the published epoch, "
            f"judged as published (APR with the last batch's perturbation in its tables). Outside: the published value lies where one more run of ours would lie with probability under .05.\n\n"
            f"{markdown(summary(table))}\nTest items in the head (the most popular fifth) and in the tail: {counts[0][0]:.1f} and {counts[0][1]:.1f} by the published file (its HR, PC_Pop and PC_Tail tell), "
            f"{counts[1][0]} and {counts[1][1]} here. Where these differ, the file comes from another split. hr_mix: our HR with their mix of head and tail.\n\n## The epoch chosen on test, on validation, and the last\n\nHR and nDCG at 100 on test. 'test, as published' takes each run's best epoch on test, of the tables as the study left them; "
            f"'test' the same of clean tables: both flatter, and neither is a result. 'validation': one epoch for all seeds, chosen by nDCG@100 on held-out items; trained on all pairs. ±: 95 % interval of the mean over seeds.\n\n{markdown(ways)}\n"
            f"## Coverage and popularity of APR against BPR, both chosen on validation\n\n{markdown(changes) if changes else 'None yet.'}\n"
            f"## Rows of HR and nDCG outside our interval: {len(outside)} of {int(table.metric.isin(['hr', 'ndcg']).sum())}\n\n{markdown(shown.to_dict('records')) if len(shown) else 'None.'}\n")


def chart(plan: Plan, rows: pd.DataFrame, theirs: pd.DataFrame):
    "nDCG@100 against the epoch: published and ours, BPR at each rate, and APR."
    from apr_tutorial.charts import COLOURS, GREY, add_legend, new_figure

    figure, axes = new_figure(2, width=10, height=4)
    ours, theirs = (f[f.k == 100] for f in (as_published(rows), theirs))
    apr = [tuple(s) for s in ours.loc[ours.epsilon > 0, SETTING].drop_duplicates().to_numpy()]
    shown = apr if len(apr) <= 4 else [s for s in apr if s[1:] in ((.1, 1.), (1., .1), (1., 1.), (1., 10.))]
    for ax, settings, letter in zip(axes, ([s for s in ours.loc[ours.epsilon == 0, SETTING].drop_duplicates().itertuples(index=False, name=None)], shown), ("BPR", "APR")):
        for setting, colour in zip(sorted(settings, reverse=True), COLOURS.values()):
            own, other = (one_setting(f, setting).sort_values("epoch") for f in (ours, theirs))
            band = own.groupby("epoch").ndcg.agg(["mean", "min", "max"])
            name = f"rate {setting[0]:g}" if letter == "BPR" else f"ε {setting[1]:g}, λ {setting[2]:g}"
            ax.plot(band.index, band["mean"], color=colour, label=name)
            ax.fill_between(band.index, band["min"], band["max"], color=colour, alpha=.2, linewidth=0)
            if len(own):
                other = other[(other.epoch >= own.epoch.min()) & (other.epoch <= own.epoch.max())]
            ax.plot(other.epoch, other.ndcg, "o", color=colour, markersize=3)
        ax.set(xlabel="epoch", ylabel="nDCG@100", title=f"{letter}: lines ours, dots published")
        ax.title.set_color(GREY)
        add_legend(ax)
    return figure


def published_file(dataset: str, folder: Path | None) -> Path:
    "The study's file in `folder`, by default the one beside the data. Raises `SystemExit`."
    file = (folder or Path(os.environ.get("APR_TUTORIAL_DATA", "data"))/".."/"published")/PUBLISHED[dataset]
    if not file.is_file():
        sys.exit(f"{file}: not there. --published names the folder with the study's result files; see benchmarks/README.md.")
    return file


def same_protocol(folder: Path, plan: Plan, data):
    "Refuse a folder whose files were made otherwise. Raises `SystemExit`."
    from apr_tutorial.model import checksum, write_safely

    protocol = dict(dataset=plan.dataset, start=plan.start, every=plan.every, embedding_size=WIDTH, batch_size=BATCH, buffer=BUFFER, train=checksum(data))
    note = folder/"protocol.json"
    if note.exists() and json.loads(note.read_text()) != protocol:
        sys.exit(f"{folder}: holds trainings made otherwise ({note}). Remove it, or name another --state.")
    write_safely(note, lambda file: file.write(json.dumps(protocol, indent=1).encode()))


def main():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reproduce", description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", choices=PLANS, default="movielens-100k")
    parser.add_argument("--published", type=Path, help="folder with the study's result files (default: $APR_TUTORIAL_DATA/../published)")
    parser.add_argument("--seeds", type=int, help="number of seeds (default: 3)")
    parser.add_argument("--jobs", type=int, default=cores(), help="processes (default: one for each core); 0: no training, results of what is there")
    parser.add_argument("--quick", action="store_true", help="a trial of a few minutes; its numbers mean nothing")
    parser.add_argument("--state", type=Path, help="folder of unfinished work (default: runs/reproduce-DATASET)")
    parser.add_argument("--out", type=results_folder, default=RESULTS, help="folder of the results")
    add_ray(parser)
    args = parser.parse_args()
    need_ray(args.ray)
    plan = PLANS[args.dataset] if args.seeds is None else replace(PLANS[args.dataset], seeds=tuple(range(1, args.seeds + 1)))
    plan = short_of(plan) if args.quick else plan
    file = published_file(plan.dataset, args.published)
    state = args.state or Path("runs")/f"reproduce-{plan.dataset}{'-quick' if args.quick else ''}"
    from apr_tutorial.data import load_dataset
    from apr_tutorial.model import write_safely

    data = load_dataset(plan.dataset)
    theirs, users = published(file), len(data.test_users)
    same_protocol(state, plan, data)
    rows = run_all(plan, state, args.jobs, args.ray)
    table, chosen, changes = compare(rows, theirs, users), selections(rows, theirs), bias(rows)
    header = circumstances(("tensorflow", "numpy"), seeds=" ".join(map(str, plan.seeds)))
    counts = test_groups(theirs, users), [int(group.sum()) for group in groups_of(data)]
    groups = [dict(dataset=plan.dataset, file=whose, head=head, tail=tail) for whose, (head, tail) in zip(("published", "ours"), counts)]
    for name, further in (("compared", table), ("selected", chosen), ("bias", changes), ("groups", groups)):
        write_safely(args.out/f"{name}-{plan.dataset}.csv", lambda file: pd.DataFrame(further).to_csv(file, index=False, float_format="%.6g"))
    rows = rows.round(6)
    write_results(args.out, f"reproduce-{plan.dataset}", rows.to_dict("records"), report(plan, table, chosen, changes, header, counts), chart(plan, rows, theirs))


if __name__ == "__main__":
    main()
