"""What choosing an epoch on the test items flatters: nDCG on test and on validation after every epoch, seed by seed.

Each stage is trained twice, on everything and with an item of each user held out. Test figures come from the first, validation
figures from the second, as in a search followed by a training anew.
"""
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from .common import circumstances, escaped, markdown, study_parser, write_results

K = 100


def curve(model, data, epochs: int, seed: tuple, adversary=None) -> np.ndarray:
    "[epochs] nDCG@K after each epoch, on the validation items where they are held out, else on test."
    from apr_tutorial.evaluator import evaluate
    from apr_tutorial.model import fit

    validating = len(data.validation_users) > 0
    look = lambda m: {"ndcg": evaluate(m, data, [K], lists=False, validating=validating).ndcg(K)}  # noqa: E731
    return fit(model, data, epochs, seed=seed, adversary=adversary, monitor=look, progress=False).frame.ndcg.to_numpy()


def curves(data, epochs: int, seeds: range) -> Iterator[pd.DataFrame]:
    "For each seed a row for each model and epoch: BPR-MF, then APR from its last epoch."
    from apr_tutorial.apr import APR
    from apr_tutorial.data import hold_out, progress_bar
    from apr_tutorial.model import BPRMF, copy_of

    parts = {"test": data, "validation": hold_out(data)}
    with progress_bar(data.name, total=len(seeds)*len(parts)) as bar:
        for seed in seeds:
            found = {}
            for name, part in parts.items():
                bpr = BPRMF(data.num_users, data.num_items, seed=seed)
                found["bpr-mf", name] = curve(bpr, part, epochs, (seed, 0))
                found["apr", name] = curve(copy_of(bpr, "apr"), part, epochs, (seed, 1), APR())
                bar.update()
            for model in ("bpr-mf", "apr"):
                yield pd.DataFrame(dict(seed=seed, model=model, epoch=np.arange(1, epochs + 1), **{p: found[model, p].round(6) for p in parts}))


def ways(rows: pd.DataFrame) -> pd.DataFrame:
    "A row for each model and seed: test nDCG at the best test epoch, at the one that validation chose, and at the last."
    def three(group):
        best, chosen = group.test.idxmax(), group.validation.idxmax()
        return pd.Series(dict(test=group.test[best], validation=group.test[chosen], last=group.test.iloc[-1],
                              test_epoch=group.epoch[best], validation_epoch=group.epoch[chosen]))

    return rows.groupby(["model", "seed"], sort=False)[["epoch", "test", "validation"]].apply(three).reset_index()


def chart(rows: pd.DataFrame):
    "Test nDCG against the epoch, a line for each seed and a dot where validation stopped it."
    from apr_tutorial.charts import COLOURS, GREY, new_figure

    found = ways(rows)
    figure, axes = new_figure(rows.model.nunique(), width=9)
    for ax, (model, part) in zip(axes, rows.groupby("model", sort=False)):
        for _, line in part.groupby("seed"):
            ax.plot(line.epoch, line.test, color=COLOURS[model], alpha=.4)
        mine = found[found.model == model]
        ax.plot(mine.validation_epoch, mine.validation, "o", color=COLOURS[model], markeredgecolor=GREY)
        ax.set(xlabel="epoch", ylabel=f"nDCG@{K} on test")
        ax.set_title(f"{model}: test chooses {mine.test.mean()/mine.validation.mean() - 1:+.1%}", color=GREY)
    return figure


def main():
    parser = study_parser("selection", __doc__, "movielens-500", seeds=10)
    args = parser.parse_args()
    from apr_tutorial.data import load_dataset

    seeds, epochs = (range(1, 3), 5) if args.quick else (range(1, args.seeds + 1), 100)
    data = load_dataset(args.dataset, progress=False)
    rows = pd.concat(curves(data, epochs, seeds), ignore_index=True)
    header = circumstances(("tensorflow", "numpy"), epochs=f"{epochs} of BPR, then {epochs} of APR", seeds=f"1 to {seeds[-1]}")
    text = f"# Epochs chosen on test, on validation, and not at all: {escaped(data.name)}\n\n{header}.\n\nnDCG@{K} on test, full ranking.\n\n{markdown(ways(rows).to_dict('records'))}"
    write_results(args.out, f"selection-{Path(args.dataset).name}", rows.to_dict("records"), text, chart(rows))


if __name__ == "__main__":
    main()
