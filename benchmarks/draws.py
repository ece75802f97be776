"""What one draw of an attack, and one seed of a model, hide: every attack drawn several times, on models of several seeds.

Three questions of one kind, all at epsilon 1 and nDCG@100. Which attack takes most? What does a perturbation take that was made on another model?
And what is lost where a model's rows have the mean lengths of another's? The chapters *End to end* and *Stronger attacks* show the answers.
"""
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from .common import circumstances, markdown, study_parser, write_results

SEED, DRAWS, EPSILON, K = 42, 4, 1., 100
MODELS = ("bpr-mf", "bpr-mf-continued", "apr")


def attacks_of() -> dict:
    "Name -> attack."
    from apr_tutorial.attack import fgsm, pgd, random_noise
    from apr_tutorial.stronger_attacks import momentum, pgd_restarts

    return {"random": random_noise, "fgsm": fgsm, "pgd": pgd, "pgd, restarts": pgd_restarts, "momentum": momentum,
            "pgd, kept": partial(pgd, fresh_negatives=False), "momentum, kept": partial(momentum, fresh_negatives=False), "pgd, 50 steps": partial(pgd, steps=50)}


def at_lengths(model, user: float, item: float):
    "The same ranking from rows of these mean lengths."
    from apr_tutorial.model import Factors

    tables = [rows*(wanted/np.linalg.norm(rows, axis=1).mean()) for rows, wanted in ((model.user_factors, user), (model.item_factors, item))]
    return Factors(*tables, name=model.name)


def rows_of(models: dict, data, draws: int) -> Iterator[dict]:
    "A row for each question, model, other (the attack; the model that was attacked; the model whose lengths are taken) and draw."
    from apr_tutorial.attack import pgd
    from apr_tutorial.data import draw_triples, generator
    from apr_tutorial.evaluator import evaluate
    from apr_tutorial.stronger_attacks import mean_loss

    ndcg = lambda model: evaluate(model, data, [K], lists=False).ndcg(K)
    clean = {name: ndcg(model) for name, model in models.items()}
    means = {name: [np.linalg.norm(rows, axis=1).mean() for rows in (m.user_factors, m.item_factors)] for name, m in models.items()}
    triples = draw_triples(data, generator(SEED, 0))
    row = lambda question, model, other, draw, moved: dict(question=question, model=model, other=other, draw=draw, clean=clean[model],
                                                           ndcg=ndcg(moved), loss=mean_loss(moved, triples))
    for draw in range(SEED, SEED + draws):
        made = {name: pgd(model, data, EPSILON, draw) for name, model in models.items()}
        for name, model in models.items():
            for attack, function in attacks_of().items():
                delta = made[name] if attack == "pgd" else function(model, data, EPSILON, draw)
                yield row("attack", name, attack, draw, model.perturbed(delta))
            for other in models:
                yield row("made on", name, other, draw, model.perturbed(made[other]))
                scaled = at_lengths(model, *means[other])
                yield row("lengths of", name, other, draw, scaled.perturbed(pgd(scaled, data, EPSILON, draw)))


def summary(frame: pd.DataFrame) -> list[dict]:
    "For each question, model and other: the share lost, its mean, and its standard deviation over seeds and over the draws within a seed."
    lost = frame.assign(lost=1 - frame.ndcg/frame.clean)
    rows = []
    for keys, group in lost.groupby(["question", "model", "other"], sort=False):
        seeds = group.groupby("seed").lost
        rows.append(dict(zip(("question", "model", "other"), keys)) | {"lost": group.lost.mean(), "± over seeds": seeds.mean().std(ddof=1),
                                                                      "± over draws": np.sqrt(seeds.var(ddof=1).mean())})
    return rows


def plot(frame: pd.DataFrame):
    "The share that each draw of each attack takes: a dot for each seed and draw."
    from apr_tutorial.charts import COLOURS, new_figure

    figure, (ax,) = new_figure(width=7.2)
    found = frame[frame.question == "attack"].assign(lost=lambda x: 1 - x.ndcg/x.clean)
    names = list(found.other.unique())
    for shift, (model, rows) in zip((-.2, 0, .2), found.groupby("model", sort=False)):
        ax.plot([names.index(name) + shift for name in rows.other], rows.lost, ".", alpha=.6, color=COLOURS[model], label=model)
    ax.set_xticks(range(len(names)), [name.replace(", ", ",\n") for name in names])
    ax.set(ylabel=f"share of nDCG@{K} lost", ylim=(0, None))
    ax.legend()
    return figure


def main():
    parser = study_parser("draws", __doc__, "movielens-500", seeds=4)
    parser.add_argument("--draws", type=int, default=DRAWS, help="draws of each attack on each model")
    args = parser.parse_args()
    from apr_tutorial.apr import APR
    from apr_tutorial.data import load_dataset
    from apr_tutorial.end_to_end import Runner, Settings, train_models

    data, epochs, rows = load_dataset(args.dataset), 3 if args.quick else 100, []
    for seed in range(SEED, SEED + args.seeds):
        trained = train_models(data, Settings(epochs, epochs), {"apr": APR()}, seed, Runner(progress=False))
        rows += [row | dict(seed=seed) for row in rows_of({name: trained[name][0] for name in MODELS}, data, args.draws)]
    frame = pd.DataFrame(rows).round(6)
    header = circumstances(("tensorflow", "numpy"), epochs=f"{epochs} of BPR, then {epochs}", seeds=args.seeds, draws=args.draws, epsilon=EPSILON)
    text = f"# Draws of attacks on {args.dataset}\n\n{header}.\n\nShare of nDCG@{K} lost.\n\n{markdown(summary(frame))}"
    write_results(args.out, f"draws-{Path(args.dataset).name}", frame.to_dict("records"), text, plot(frame))


if __name__ == "__main__":
    main()
