"""Draw the picture that links to the site are shown with, from the saved study: `python tools/draw_card.py`."""
from pathlib import Path

import pandas as pd
from apr_tutorial.charts import COLOURS
from matplotlib import pyplot as plt

ROOT = Path(__file__).resolve().parents[1]
NAMES = {"bpr-mf": "BPR-MF", "bpr-mf-continued": "trained longer", "apr": "APR"}


def draw(rows):
    "1200 × 630 points of light: nDCG@100 of three models, clean and under attack."
    figure, ax = plt.subplots(figsize=(12, 6.3), facecolor="white")
    figure.subplots_adjust(left=.24, right=.93, top=.66, bottom=.1)
    for y, (model, name) in enumerate(NAMES.items()):
        of = rows[(rows.model == model) & (rows.k == 100)]
        clean = of[of.attack == "none"].ndcg.mean()
        under = of[(of.attack == "pgd") & (of.epsilon == 1)].ndcg.mean()
        ax.annotate("", (under, y), (clean, y), arrowprops=dict(arrowstyle="-|>", color=COLOURS[model], lw=5, mutation_scale=34))
        ax.plot(clean, y, "o", color=COLOURS[model], markersize=18)
        ax.text((clean + under) / 2, y - .2, f"−{1 - under / clean:.0%}", ha="center", color=COLOURS[model], fontsize=24, weight="bold")
    ax.set(yticks=range(3), ylim=(2.5, -.6), xlim=(0, .1), xlabel="nDCG@100 on movielens-500, before and after a bounded attack (mean of four seeds)")
    ax.set_yticklabels(NAMES.values(), fontsize=24)
    ax.tick_params(length=0)
    ax.xaxis.label.set_size(15)
    ax.spines[["top", "right", "left"]].set_visible(False)
    figure.text(.05, .87, "Adversarial training of recommenders", fontsize=35, weight="bold")
    figure.text(.05, .77, "a tutorial that runs: train, attack, defend, attack again", fontsize=24, color="#555555")
    return figure


if __name__ == "__main__":
    draw(pd.read_csv(ROOT / "apr_tutorial/results/comparison-movielens-500.csv")).savefig(ROOT / "nbs/images/card.png", dpi=100)
