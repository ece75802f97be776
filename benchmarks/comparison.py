"""All defences from one start, under one attack: what each keeps, and which differences are more than luck.

The same call of `run_experiment` as `apr-tutorial run --defences …`, kept so that the chapters *End to end* and *Defences compared* can show
it without waiting. The rows are the report's. Beside them, the place of each test item within the first k, so that users can be paired.
Beyond the defences of the table stand their controls: APR triple by triple, and defences with another budget.
"""
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from .common import circumstances, escaped, markdown, study_parser, write_results

SEED = 42  # the first; the others follow
KEYS = ["model", "attack", "epsilon", "seed"]


def controls() -> dict:
    "Name -> defence, of what a defence must be compared with before its idea gets the credit; a number is an epsilon other than APR's."
    from apr_tutorial.apr import APR
    from apr_tutorial.defences import NoiseTraining, PamaCF, TripleAPR

    return {"apr-triple": TripleAPR(), "apr-triple 0.25": TripleAPR(.25), "apr 0.25": APR(.25), "pamacf 1": PamaCF(1.), "noise 2": NoiseTraining(2.)}


def places_of(report) -> pd.DataFrame:
    "A row for each model and seed, clean and under the attack of the pictures; a column for each test user: the place from 0, empty beyond the first k."
    from apr_tutorial.end_to_end import headline

    attack, epsilon, _ = headline(report)
    shown = {key: ndcg for key, ndcg in report.users.items() if key[1:3] in (("none", 0.), (attack, epsilon))}
    with np.errstate(divide="ignore"):
        places = np.rint(2**(1/np.stack(list(shown.values()))) - 2)  # nDCG of a single item: 1/log2(place + 2), or 0
    table = pd.DataFrame(places).replace(np.inf, np.nan).astype("Int64")
    return pd.concat([pd.DataFrame(list(shown), columns=KEYS), table], axis=1)


def summary(report) -> list[dict]:
    "For each model: nDCG clean and attacked, mean and standard deviation over seeds, and the verdicts against the control and APR under attack."
    from apr_tutorial.comparison import verdicts
    from apr_tutorial.end_to_end import LABELS, headline

    attack, epsilon, k = headline(report)
    found, judged = report.at(k).set_index(["model", "attack", "epsilon"]), verdicts(report)
    said = judged[judged.attack == attack].set_index(["model", "reference"]).verdict
    rows = []
    for name in report.models:
        (clean, clean_sd), (hit, hit_sd) = found.loc[name, "none", 0.], found.loc[name, attack, epsilon]
        rows.append({"model": LABELS.get(name, name), "clean": clean, "± clean": clean_sd, "attacked": hit, "± attacked": hit_sd, "lost": 1 - hit/clean}
                    | {f"against {LABELS.get(r, r)}": said.get((name, r)) for r in ("bpr-mf-continued", "apr")})
    return rows


def main():
    parser = study_parser("comparison", __doc__, "movielens-500", seeds=4)
    args = parser.parse_args()
    from apr_tutorial.comparison import plot_tradeoff
    from apr_tutorial.data import load_dataset
    from apr_tutorial.defences import DEFENCES, defence_of
    from apr_tutorial.end_to_end import Runner, Settings, headline, run_experiment
    from apr_tutorial.model import write_safely

    epochs = 3 if args.quick else 100
    settings = Settings(epochs, epochs, seeds=tuple(range(SEED, SEED + args.seeds)))
    defences = {name: defence_of(name) for name in DEFENCES}
    report = run_experiment(load_dataset(args.dataset), settings, defences=defences | controls(), runner=Runner(progress=False))
    name, (attack, epsilon, k) = Path(args.dataset).name, headline(report)
    header = circumstances(("tensorflow", "numpy"), epochs=f"{epochs} of BPR, then {epochs}", seeds=" ".join(map(str, settings.seeds)), attack=f"{attack} at epsilon {epsilon:g}")
    text = f"# Defences compared on {escaped(args.dataset)}\n\n{header}.\n\nnDCG@{k}, full ranking; ±: standard deviation over seeds. Verdicts under attack: bootstrap over users, paired, 95 %.\n\n{markdown(summary(report))}"
    places = places_of(report)
    write_safely(args.out/f"places-{name}.csv", lambda file: places.to_csv(file, index=False))
    shown = replace(report, models={name: model for name, model in report.models.items() if name not in controls()})
    write_results(args.out, f"comparison-{name}", report.frame.round(6).to_dict("records"), text, plot_tradeoff(shown))


if __name__ == "__main__":
    main()
