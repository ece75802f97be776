"""Time epochs and evaluations of this project and of others, one after the other, round by round."""
import argparse
from functools import partial

import pandas as pd

from . import contestants as c
from .common import RESULTS, SEED, Contestant, circumstances, compete, markdown, need, paired_ratio, results_folder, run, write_results

OURS, NOTEBOOK, CORNAC = "apr_tutorial", "original notebook", "Cornac BPR"


def on_500(dataset: str, quick: bool) -> list[Contestant]:
    "This project and the original notebook."
    few = 3 if quick else 20
    return [Contestant(f"{OURS} BPR", "BPR", partial(c.ours, dataset)),
            Contestant(f"{NOTEBOOK} BPR", "BPR", partial(c.notebook, dataset, count=few)),
            Contestant(f"{OURS} APR", "APR", partial(c.ours, dataset, adversarial=True)),
            Contestant(f"{NOTEBOOK} APR", "APR", partial(c.notebook, dataset, True, 1 if quick else 2)),
            Contestant(f"{OURS} evaluation", "evaluation", partial(c.our_evaluation, dataset)),
            Contestant(f"{NOTEBOOK} evaluation", "evaluation", partial(c.notebook_evaluation, dataset, 5 if quick else 50))]


def on_1m(dataset: str, quick: bool) -> list[Contestant]:
    "All variants of this project, two libraries, and the step of the paper's authors."
    few = 10 if quick else 100
    own = [Contestant(f"{OURS} {kind} {optimizer}", kind, partial(c.ours, dataset, optimizer, kind == "APR"))
           for kind in ("BPR", "APR") for optimizer in ("adagrad", "sgd", "rowwise-adagrad")]
    return [Contestant(CORNAC, "BPR", partial(c.cornac_bpr, dataset)), Contestant("implicit BPR", "BPR", partial(c.implicit_bpr, dataset)), *own,
            Contestant("paper's step BPR", "BPR", partial(c.dense, dataset, count=few)),
            Contestant("paper's step APR", "APR", partial(c.dense, dataset, True, few))]


LINE_UPS = {"movielens-500": on_500, "movielens-1m": on_1m}


def summary(rows: list[dict]) -> list[dict]:
    "One row a contestant: median seconds, and the ratio to its reference as median and range over the rounds."
    frame = pd.DataFrame(rows).sort_values(["round", "turn"], ignore_index=True)
    return [dict(contestant=name, kind=own.kind.iloc[0], seconds=float(own.seconds.median()),
                 **dict(zip(("ratio", "least", "most"), paired_ratio(*pairs(own, frame)))),
                 set_up=float(own.set_up_seconds.iloc[0]), extrapolated=own.extrapolated.iloc[0])
            for name, own in frame.groupby("contestant", sort=False)]


def pairs(own: pd.DataFrame, frame: pd.DataFrame) -> tuple[pd.Series, pd.Series]:
    "What is divided by what: seconds by Cornac's of the turn before, or the original notebook's of the same round by seconds."
    if CORNAC in set(frame.contestant):
        return own.seconds, own.seconds if own.contestant.iloc[0] == CORNAC else frame.seconds[own.index - 1]
    return frame.seconds[frame.contestant == f"{NOTEBOOK} {own.kind.iloc[0]}"], own.seconds


def words(cornac: bool) -> tuple[str, str]:
    "What the ratio means: a column's title and a sentence."
    if cornac:
        return "ratio to Cornac", f"The ratio divides a contestant's seconds by those of {CORNAC} in the turn before: below 1 is faster."
    return "times faster", f"The ratio divides the seconds of the {NOTEBOOK} by a contestant's in the same round: times faster than the {NOTEBOOK}."


def finding(found: list[dict], dataset: str) -> str:
    "A title that says what was found."
    own = {row["contestant"]: row["ratio"] for row in found}
    if any(name == CORNAC for name in own):
        return f"{dataset}: an epoch of BPR takes {own[f'{OURS} BPR adagrad']:.2f}, one of APR {own[f'{OURS} APR adagrad']:.2f} times that of Cornac's BPR"
    return f"{dataset}: " + ", ".join(f"{kind} {own[f'{OURS} {kind}']:,.0f}" for kind in ("BPR", "APR", "evaluation")) + f" times faster than the {NOTEBOOK}"


def report(found: list[dict], dataset: str, header: str) -> str:
    "The table with its circumstances, as Markdown."
    column, sentence = words(any(row["contestant"] == CORNAC for row in found))
    rows = [{"contestant": row["contestant"], "median seconds": row["seconds"], column: row["ratio"], "least": row["least"], "most": row["most"],
             "set-up seconds": row["set_up"], "extrapolated": row["extrapolated"]} for row in found]
    return (f"# {finding(found, dataset)}\n\n{header}\n\nSeconds are those of one epoch (or of one evaluation of all users), the median over the rounds. "
            f"{sentence} Median, least and greatest over the rounds.\n\n{markdown(rows)}\n"
            "The times of this project include sampling and leave out compilation, which is in the set-up, as are reading the data and warming up. "
            "The paper's step is timed without sampling.\n")


def chart(found: list[dict], rows: list[dict], dataset: str):
    "Horizontal bars on a logarithmic scale; the lines go from the fastest to the slowest round."
    from apr_tutorial.charts import COLOURS, GREY, new_figure

    frame = pd.DataFrame(rows).groupby("contestant").seconds
    least, most, unit = frame.min(), frame.max(), "s"
    figure, (ax,) = new_figure(width=8.5, height=1.4 + .36*len(found))
    for place, row in enumerate(found):
        name, colour = row["contestant"], COLOURS["bpr-mf"] if row["contestant"].startswith(OURS) else COLOURS["bpr-mf-continued"]
        ax.barh(place, row["seconds"], color=colour, alpha=.85)
        ax.plot([least[name], most[name]], [place, place], color=GREY, linewidth=2)
        ax.annotate(f" {row['seconds']:.3g} {unit}", (most[name], place), va="center", color=GREY, fontsize=9)
    ax.set_xscale("log")
    ax.set_xlim(float(least.min())/3, float(most.max())*3)
    ax.set_yticks(range(len(found)), [row["contestant"] for row in found])
    ax.invert_yaxis()
    ax.set(xlabel="seconds, log scale (bar: median; line: fastest to slowest round)")
    figure.suptitle(finding(found, dataset), color=GREY, fontsize=10)
    return figure


def measure(dataset: str, args: argparse.Namespace):
    "Measure on one data set and write the results."
    rounds, epochs = (2, 1) if args.quick else (args.rounds, args.epochs_per_round)
    line_up = LINE_UPS[dataset](dataset, args.quick)
    rows = compete(line_up, rounds, epochs, dataset, CORNAC if CORNAC in [c.name for c in line_up] else None)
    found = summary(rows)
    text = report(found, dataset, circumstances(**{"seed": SEED, "rounds": rounds, "epochs a round": epochs}))
    write_results(args.out, f"speed-{dataset}", rows, text, chart(found, rows, dataset))


def main():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed", description=__doc__)
    parser.add_argument("--dataset", choices=[*LINE_UPS, "all"], default="all")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--epochs-per-round", type=int, default=10)
    parser.add_argument("--quick", action="store_true", help="2 rounds of 1 epoch with few batches: a trial, not a measurement")
    parser.add_argument("--out", type=results_folder, default=RESULTS, help="folder of the results")
    args = parser.parse_args()
    if args.rounds < 1 or args.epochs_per_round < 1:
        parser.error("--rounds and --epochs-per-round: expected at least 1")
    chosen = list(LINE_UPS) if args.dataset == "all" else [args.dataset]
    if "movielens-1m" in chosen:
        need("cornac", "implicit")
    for dataset in chosen:
        measure(dataset, args)


if __name__ == "__main__":
    run(main)
