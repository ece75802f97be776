"""How much epsilon, lambda and the embedding size matter to APR: nDCG clean and under PGD over a grid.

One item of each user is held out, and every model is judged on those items (to choose by) and on the test items (to report). A model
that is trained already is not trained again: its rows are kept in a file.
"""
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd

from .common import add_ray, circumstances, escaped, markdown, need_ray, study_parser, write_results

K = 100
ATTACK = 1.  # budget of PGD
KEYS = ["embedding_size", "seed", "epsilon", "adv_reg"]


@dataclass(frozen=True)
class Grid:
    "What is trained: BPR, then as many epochs again for each epsilon and lambda, and as the control without an adversary (0, 0)."
    dataset: str = "movielens-100k"
    sizes: tuple[int, ...] = (16, 64, 128)
    epsilons: tuple[float, ...] = (.1, .25, .5, 1., 2.)
    adv_regs: tuple[float, ...] = (.1, 1., 10.)
    seeds: tuple[int, ...] = (1, 2, 3)
    epochs: int = 100


QUICK = Grid(sizes=(16,), epsilons=(.5, 2.), adv_regs=(1.,), seeds=(1,), epochs=10)


def settings_of(grid: Grid) -> list[tuple[float, float]]:
    "(epsilon, lambda) of the control, then of APR."
    return [(0., 0.), *product(grid.epsilons, grid.adv_regs)]


def judged(model, data, seed: int) -> dict:
    "nDCG@K on validation and on test, clean and under PGD."
    from apr_tutorial.attack import pgd
    from apr_tutorial.evaluator import evaluate

    tables = {"": model, "_pgd": model.perturbed(pgd(model, data, ATTACK, seed))}
    return {f"{part}{name}": evaluate(m, data, [K], lists=False, validating=part == "validation").ndcg(K)
            for name, m in tables.items() for part in ("validation", "test")}


def trained(grid: Grid, data, size: int, seed: int, wanted: list[tuple[float, float]]) -> Iterator[dict]:
    "A row for each of the wanted settings; `user_length` and `item_length` are the mean row lengths of BPR before it is continued."
    from apr_tutorial.apr import APR
    from apr_tutorial.model import BPRMF, copy_of, fit

    bpr = BPRMF(data.num_users, data.num_items, size, seed=seed)
    fit(bpr, data, grid.epochs, seed=(seed, 0), progress=False)
    lengths = {f"{kind}_length": float(np.linalg.norm(rows, axis=1).mean()) for kind, rows in (("user", bpr.user_factors), ("item", bpr.item_factors))}
    for epsilon, adv_reg in wanted:
        model = copy_of(bpr, "apr")
        fit(model, data, grid.epochs, seed=(seed, 1), adversary=APR(epsilon, adv_reg) if epsilon else None, progress=False)
        yield dict(embedding_size=size, seed=seed, epsilon=epsilon, adv_reg=adv_reg) | lengths | judged(model, data, seed)


def cell(grid: Grid, data, job: tuple) -> list[dict]:
    "The rows of `trained`, for the (size, seed, wanted) of the job."
    return list(trained(grid, data, *job))


def run_grid(grid: Grid, state: Path, ray: str | None = None) -> pd.DataFrame:
    "All rows, those of the file `state` first; with the address of a Ray cluster each size and seed is a task."
    from apr_tutorial.data import hold_out, load_dataset, progress_bar
    from apr_tutorial.model import write_safely

    data, rows = hold_out(load_dataset(grid.dataset, progress=False)), pd.read_csv(state).to_dict("records") if state.exists() else []
    done = {tuple(row[k] for k in KEYS) for row in rows}
    with progress_bar(grid.dataset, total=len(grid.sizes)*len(grid.seeds)*len(settings_of(grid)), initial=len(done)) as bar:
        def keep(new: list[dict]):
            rows.extend(new)
            write_safely(state, lambda file: pd.DataFrame(rows).to_csv(file, index=False))
            bar.update(len(new))

        cells = [(size, seed, [s for s in settings_of(grid) if (size, seed, *s) not in done]) for size, seed in product(grid.sizes, grid.seeds)]
        cells = [job for job in cells if job[2]]
        if ray is None:
            for job in cells:
                for row in trained(grid, data, *job):
                    keep([row])
        else:
            from apr_tutorial.many import spread

            spread(partial(cell, grid, data), cells, ray, lambda job: f"{job[0]} factors, seed {job[1]}", kept=keep)
    wanted = set(product(grid.sizes, grid.seeds, settings_of(grid)))
    rows = [row for row in rows if (row["embedding_size"], row["seed"], (row["epsilon"], row["adv_reg"])) in wanted]
    return pd.DataFrame(rows).assign(dataset=grid.dataset).sort_values(KEYS, ignore_index=True)


def means(rows: pd.DataFrame) -> pd.DataFrame:
    "Mean over seeds of each setting, and what it keeps of the control's clean nDCG."
    found = rows.groupby(["embedding_size", "epsilon", "adv_reg"]).mean(numeric_only=True).drop(columns="seed").reset_index()
    control = found[found.epsilon == 0].set_index("embedding_size")
    relative = found.epsilon/((found.user_length + found.item_length)/2)
    return found.assign(relative=relative, **{f"{c} of control": found[c].to_numpy()/control[c.removesuffix("_pgd")].loc[found.embedding_size].to_numpy()
                                              for c in ("validation", "validation_pgd", "test", "test_pgd")})


def chart(rows: pd.DataFrame, grid: Grid):
    "Heat maps for each embedding size: clean nDCG above, under PGD below, on validation."
    import matplotlib.pyplot as plt

    from apr_tutorial.charts import GREY

    found = means(rows[rows.epsilon > 0].pipe(lambda apr: pd.concat([rows[rows.epsilon == 0], apr])))
    figure, axes = plt.subplots(2, len(grid.sizes), figsize=(1 + 3.2*len(grid.sizes), 5), layout="constrained", squeeze=False)
    figure.patch.set_alpha(0)
    for line, (column, name) in enumerate((("validation", "clean"), ("validation_pgd", f"PGD ε {ATTACK:g}"))):
        for ax, size in zip(axes[line], grid.sizes):
            part = found[(found.embedding_size == size) & (found.epsilon > 0)].pivot(index="adv_reg", columns="epsilon", values=column)
            image = ax.imshow(part, origin="lower", aspect="auto", cmap="cividis", vmin=found[found.epsilon > 0][column].min(), vmax=found[found.epsilon > 0][column].max())
            control = found[(found.embedding_size == size) & (found.epsilon == 0)][column].iloc[0]
            for (y, x), value in np.ndenumerate(part.to_numpy()):
                ax.text(x, y, f"{value:.3f}"[1:], ha="center", va="center", fontsize=8, color="black" if image.norm(value) > .55 else "white")
            ax.set_xticks(range(part.shape[1]), [f"{e:g}" for e in part.columns])
            ax.set_yticks(range(part.shape[0]), [f"{a:g}" for a in part.index])
            ax.set_title(f"{name}, d {size} (control {control:.3f})", fontsize=9, color=GREY)
            ax.tick_params(colors=GREY)
            ax.set_xlabel("ε", color=GREY)
            ax.set_ylabel("λ", color=GREY)
    return figure


def main():
    parser = study_parser("sensitivity", __doc__, "movielens-100k", seeds=3)
    parser.add_argument("--state", type=Path, help="file of finished rows (default: runs/sensitivity-DATASET.csv)")
    add_ray(parser)
    args = parser.parse_args()
    need_ray(args.ray)
    grid = Grid(args.dataset, seeds=tuple(range(1, args.seeds + 1))) if not args.quick else Grid(args.dataset, **{f: getattr(QUICK, f) for f in ("sizes", "epsilons", "adv_regs", "seeds", "epochs")})
    name = f"sensitivity-{Path(args.dataset).name}"
    rows = run_grid(grid, args.state or Path("runs")/f"{name}{'-quick' if args.quick else ''}.csv", args.ray)
    header = circumstances(("tensorflow", "numpy"), epochs=f"{grid.epochs} of BPR, then {grid.epochs}", seeds=" ".join(map(str, grid.seeds)), **{"epsilon of PGD": ATTACK})
    text = f"# Sensitivity of APR on {escaped(args.dataset)}\n\n{header}.\n\nnDCG@{K}, full ranking; means over seeds. relative: epsilon in units of BPR's mean row length.\n\n{markdown(means(rows).to_dict('records'))}"
    write_results(args.out, name, rows.to_dict("records"), text, chart(rows, grid))


if __name__ == "__main__":
    main()
