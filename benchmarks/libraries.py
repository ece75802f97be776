"""BPR of this project, of Cornac and of implicit on one split, before our evaluator and each library's own: what differs, and why.

Each contestant has the same number of epochs, factors and learning rates to try; the rate is chosen by nDCG@100 on validation items (one
training item of each user held out), never on test. With it each seed trains anew on all training
pairs. The libraries train with one thread, so that a seed gives the same again.
"""
import argparse
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pandas as pd

from .common import RESULTS, SEED, circumstances, markdown, need, results_folder, run, write_results

KS, SIZE, REG = (10, 100), 64, .01
OURS, OUR_BIAS, OUR_REG = "ours: Adagrad", "ours: Adagrad, item bias", "ours: Adagrad, item bias, reg"
OUR_SGD, OUR_SMALL = "ours: SGD, item bias, reg", "ours: SGD, item bias, reg, batch 32"
CORNAC, CORNAC_PLAIN, CORNAC_POPULAR = "Cornac BPR", "Cornac BPR without bias", "Cornac WBPR"
IMPLICIT, UNVERIFIED, CONSTANT = "implicit BPR", "implicit BPR, unverified negatives", "all scores equal"
Values = dict[tuple[str, int | str], float]  # (metric, k) -> value; k is "" where a metric has none


@dataclass(frozen=True)
class Plan:
    "What is run."
    dataset: str = "movielens-100k"
    epochs: int = 100
    rates: tuple[float, ...] = (.005, .01, .02, .05, .1, .2)
    seeds: tuple[int, ...] = (1, 2, 3)
    users: int | None = None  # test users; None: all


# Training: (data, epochs, learning rate, seed) -> the library's own model

def ours(data, epochs: int, rate: float, seed: int, bias: bool = False, **options):
    from apr_tutorial.model import BPRMF, fit

    model = BPRMF(data.num_users, data.num_items, SIZE, item_bias=bias, seed=seed)
    fit(model, data, epochs=epochs, learning_rate=rate, seed=seed, progress=False, **options)
    return model


def cornac(data, epochs: int, rate: float, seed: int, kind: str = "BPR", bias: bool = True):
    from cornac import models

    model = getattr(models, kind)(k=SIZE, max_iter=epochs, learning_rate=rate, lambda_reg=REG, use_bias=bias, seed=seed)
    return model.fit(cornac_splits(data).train_set)


def implicit(data, epochs: int, rate: float, seed: int, verify: bool = True):
    from implicit.cpu.bpr import BayesianPersonalizedRanking

    model = BayesianPersonalizedRanking(factors=SIZE, learning_rate=rate, regularization=REG, iterations=epochs, num_threads=1,
                                        verify_negative_samples=verify, random_state=seed)
    model.fit(matrix(data, data.users, data.items), show_progress=False)
    return model


CONTESTANTS = {OURS: partial(ours), OUR_BIAS: partial(ours, bias=True), OUR_REG: partial(ours, bias=True, reg=REG),
               OUR_SGD: partial(ours, bias=True, reg=REG, optimizer="sgd"),
               OUR_SMALL: partial(ours, bias=True, reg=REG, optimizer="sgd", batch_size=32),
               CORNAC: partial(cornac), CORNAC_PLAIN: partial(cornac, bias=False), CORNAC_POPULAR: partial(cornac, kind="WBPR"),
               IMPLICIT: partial(implicit), UNVERIFIED: partial(implicit, verify=False)}
EFFECTS = (("item bias", OURS, OUR_BIAS), ("regulariser of .01", OUR_BIAS, OUR_REG), ("SGD instead of Adagrad", OUR_REG, OUR_SGD),
           ("batches of 32 instead of 512", OUR_SGD, OUR_SMALL), ("what is left between ours and Cornac", OUR_SMALL, CORNAC),
           ("item bias, in Cornac", CORNAC_PLAIN, CORNAC), ("negatives by popularity, in Cornac", CORNAC, CORNAC_POPULAR),
           ("what is left between Cornac and implicit", CORNAC_POPULAR, IMPLICIT),
           ("negatives that are not verified, in implicit", IMPLICIT, UNVERIFIED))


# What the libraries take

def triples(users: np.ndarray, items: np.ndarray) -> list[tuple[int, int, float]]:
    return list(zip(users.tolist(), items.tolist(), [1.]*len(users)))


def cornac_splits(data, exclude_unknowns: bool = True):
    "Cornac's method with our split; ids are our row numbers."
    from cornac.eval_methods.base_method import BaseMethod

    return BaseMethod.from_splits(triples(data.users, data.items), triples(data.test_users, data.test_items), exclude_unknowns=exclude_unknowns)


def matrix(data, users: np.ndarray, items: np.ndarray):
    "Pairs as implicit takes them."
    from scipy.sparse import csr_matrix

    return csr_matrix((np.ones(len(users), np.float32), (users, items)), (data.num_users, data.num_items))


def numbered(data):
    "The same data with row numbers for ids."
    return replace(data, user_ids=np.arange(data.num_users), item_ids=np.arange(data.num_items))


def factors_of(model, data):
    "A trained model as our evaluator takes it."
    from apr_tutorial.foreign_models import from_cornac, from_implicit
    from apr_tutorial.model import Factors

    home = type(model).__module__.split(".")[0]
    if home not in ("cornac", "implicit"):
        return model
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*ranked last")
        return Factors(**(from_cornac(model, numbered(data)) if home == "cornac" else from_implicit(model)))


def to_cornac(model, data, exclude_unknowns: bool = True):
    "Our factors as a model of Cornac."
    from cornac.models import BPR

    train, b = cornac_splits(data, exclude_unknowns).train_set, model.item_bias
    users, items = list(train.uid_map), list(train.iid_map)
    b = np.zeros(data.num_items, np.float32) if b is None else b
    start = {"U": model.user_factors[users], "V": model.item_factors[items], "Bi": b[items]}
    return BPR(k=model.user_factors.shape[1], trainable=False, init_params=start).fit(train)


def to_implicit(model):
    "Our factors as a model of implicit, which keeps the bias as a last column."
    from implicit.cpu.bpr import BayesianPersonalizedRanking

    p, q, b = model.user_factors, model.item_factors, model.item_bias
    out = BayesianPersonalizedRanking(factors=p.shape[1], num_threads=1)
    out.user_factors = np.column_stack([p, np.ones(len(p), np.float32)])
    out.item_factors = np.column_stack([q, np.zeros(len(q), np.float32) if b is None else b])
    return out


# Judges

def judged_by_us(metrics) -> Values:
    return {(name, k): getattr(metrics, name)(k) for name in ("hr", "ndcg") for k in KS} | {("auc", ""): metrics.auc}


def judged_by_cornac(model, data, exclude_unknowns: bool = True) -> Values:
    "Cornac's Recall, NDCG and AUC; Recall is named hr."
    from cornac.eval_methods.base_method import ranking_eval
    from cornac.metrics import AUC, NDCG, Recall
    from threadpoolctl import threadpool_limits

    splits = cornac_splits(data, exclude_unknowns)
    asked = {("hr", k): Recall(k) for k in KS} | {("ndcg", k): NDCG(k) for k in KS} | {("auc", ""): AUC()}
    with threadpool_limits(1):  # on a busy computer its threads wait for each other longer than they work
        found, _ = ranking_eval(model, list(asked.values()), splits.train_set, splits.test_set, exclude_unknowns=exclude_unknowns)
    return dict(zip(asked, map(float, found)))


def judged_by_implicit(model, data) -> Values:
    "implicit's precision, ndcg, map and auc, each at k; precision is named hr."
    from implicit.evaluation import ranking_metrics_at_k

    train, test = matrix(data, data.users, data.items), matrix(data, data.test_users, data.test_items)
    found = {k: ranking_metrics_at_k(model, train, test, K=k, show_progress=False, num_threads=1) for k in KS}
    return {({"precision": "hr"}.get(name, name), k): float(value) for k in KS for name, value in found[k].items()}


# What the libraries' judges must say, from our evaluator alone

def known_only(model, data):
    "Model and data without the items that occur nowhere in training, and without the users whose test item is one of them."
    from apr_tutorial.model import Factors

    keep, b = data.popularity > 0, model.item_bias
    row, tested = np.cumsum(keep) - 1, keep[data.test_items]
    smaller = replace(data, item_ids=data.item_ids[keep], items=row[data.items], test_users=data.test_users[tested],
                      test_items=row[data.test_items[tested]])
    return Factors(model.user_factors, model.item_factors[keep], None if b is None else b[keep]), smaller


def cornac_would_say(model, data) -> Values:
    "Our judgement of what is known to training."
    from apr_tutorial.evaluator import evaluate

    return judged_by_us(evaluate(*known_only(model, data), k=KS, lists=False))


def implicit_would_say(model, data) -> Values:
    "MAP is the reciprocal rank; AUC counts training items as worse than the test item, and half of the items beyond k where it is a miss."
    from apr_tutorial.evaluator import evaluate

    metrics = evaluate(model, data, k=KS, lists=False)
    r, others = metrics.positions, data.num_items - 1
    special = {k: {"map": (r < k)/(r + 1), "auc": np.where(r < k, 1 - r/others, (others - k)/(2*others))} for k in KS}
    return ({(name, k): getattr(metrics, name)(k) for name in ("hr", "ndcg") for k in KS}
            | {(name, k): float(values.mean()) for k in KS for name, values in special[k].items()})


def ties(model, data) -> int:
    "Test users whose test item shares its score with another candidate."
    from apr_tutorial.evaluator import blocks, excluded

    count = 0
    for block, scores in blocks(model, data.test_users):
        own = scores[np.arange(len(scores)), data.test_items[block]]
        scores[excluded(data, data.test_users[block], validating=False)] = np.nan
        count += int(((scores == own[:, None]).sum(axis=1) > 1).sum())
    return count


def skipped(data) -> tuple[float, float]:
    "Share of draws that hit an item of the user's own: uniform over the items of training, and by popularity."
    sizes = np.diff(data.indptr)[data.users]
    mass = np.bincount(data.users, data.popularity[data.items], minlength=data.num_users)[data.users]
    return float(sizes.mean()/(data.popularity > 0).sum()), float(mass.mean()/len(data))


# The run

def rows_of(values: Values, **labels) -> list[dict]:
    return [labels | dict(metric=metric, k=k, value=value) for (metric, k), value in values.items()]


def judge(name: str, model, data, everywhere: bool = False, **labels) -> list[dict]:
    "Rows of one trained model: ours, its library's own, and what that had to be; `everywhere`: both libraries' judges."
    from apr_tutorial.evaluator import evaluate

    factors = factors_of(model, data)
    found = {"ours": judged_by_us(evaluate(factors, data, k=KS, lists=False)) | {("ties", ""): ties(factors, data)}}
    for home, said, would in (("Cornac", judged_by_cornac, cornac_would_say), ("implicit", judged_by_implicit, implicit_would_say)):
        own = type(model).__module__.startswith(home.lower())
        if own or everywhere:
            theirs = model if own else to_cornac(factors, data) if home == "Cornac" else to_implicit(factors)
            who = "own" if own else home
            found |= {who: said(theirs, data), f"predicted {who}": would(factors, data)}
    return [row for who, values in found.items() for row in rows_of(values, contestant=name, **labels, judge=who)]


def setting(rate: float, plan: Plan) -> str:
    return f"learning rate {rate:g}, {plan.epochs} epochs"


def choose(name: str, held, plan: Plan, step: Callable) -> tuple[float, list[dict]]:
    "The learning rate with the best nDCG@100 on validation, and all that were tried."
    from apr_tutorial.evaluator import evaluate

    tried = {}
    for rate in plan.rates:
        model = factors_of(CONTESTANTS[name](held, plan.epochs, rate, SEED), held)
        tried[rate] = evaluate(model, held, k=KS, lists=False, validating=True).ndcg(100)
        step()
    rows = [dict(contestant=name, setting=setting(rate, plan), seed=SEED, judge="ours", metric="validation ndcg", k=100, value=value)
            for rate, value in tried.items()]
    return max(tried, key=tried.get), rows


def compare(data, plan: Plan, step: Callable) -> tuple[list[dict], dict[str, float]]:
    "All rows, and the chosen learning rates."
    from apr_tutorial.data import hold_out
    from apr_tutorial.model import Factors

    held, rows, chosen = hold_out(data, SEED), [], {}
    for name, train in CONTESTANTS.items():
        chosen[name], tried = choose(name, held, plan, step)
        rows += tried
        for seed in plan.seeds:
            rows += judge(name, train(data, plan.epochs, chosen[name], seed), data, everywhere=name == OURS and seed == plan.seeds[0],
                          setting=setting(chosen[name], plan), seed=seed)
            step()
    constant = Factors(np.zeros((data.num_users, 1), np.float32), np.zeros((data.num_items, 1), np.float32))
    return rows + judge(CONSTANT, constant, data, everywhere=True, setting="no training", seed=SEED), chosen


# The report

def spread(values: pd.Series) -> str:
    "Mean ± standard deviation over seeds."
    return f"{values.mean():.4f}" + (f" ± {values.std():.4f}" if len(values) > 1 else "")


def standings(frame: pd.DataFrame) -> list[dict]:
    "The table: a row for each contestant and judge."
    columns = {"HR@100": ("hr", 100), "nDCG@100": ("ndcg", 100), "HR@10": ("hr", 10), "nDCG@10": ("ndcg", 10), "AUC": ("auc", "")}
    out = []
    shown = frame[~frame.judge.str.startswith("predicted") & ~frame.metric.str.startswith("validation")]
    for (name, who), part in shown.groupby(["contestant", "judge"], sort=False):
        cells = {title: part.value[(part.metric == metric) & (part.k == k)] for title, (metric, k) in columns.items()}
        if cells["AUC"].empty:
            cells["AUC"] = part.value[(part.metric == "auc") & (part.k == 100)]
        out.append({"contestant": name, "judge": who, "seeds": part.seed.nunique()} | {title: spread(values) for title, values in cells.items()})
    return out


def means(frame: pd.DataFrame, name: str, metric: str, k: int | str = "", who: str = "ours") -> np.ndarray:
    "The values of all seeds."
    return frame.value[(frame.contestant == name) & (frame.judge == who) & (frame.metric == metric) & (frame.k == k)].to_numpy(float)


def effects(frame: pd.DataFrame) -> list[dict]:
    "What each difference in training changes, by our judge."
    out = []
    for what, before, after in EFFECTS:
        row = {"difference": what, "from": before, "to": after}
        for title, metric, k in (("HR@100", "hr", 100), ("nDCG@100", "ndcg", 100), ("AUC", "auc", "")):
            one, two = means(frame, before, metric, k), means(frame, after, metric, k)
            noise = np.sqrt(one.var(ddof=1) + two.var(ddof=1)) if len(one) > 1 else np.nan
            row[title] = f"{two.mean() - one.mean():+.4f}" + (f" ± {noise:.4f}" if len(one) > 1 else "")
        out.append(row)
    return out


def beyond_noise(frame: pd.DataFrame) -> str:
    "The differences in training that change nDCG@100 by more than twice the root of the summed variances over seeds."
    pairs = [(what, means(frame, before, "ndcg", 100), means(frame, after, "ndcg", 100)) for what, before, after in EFFECTS]
    return "; ".join(what for what, a, b in pairs if len(a) > 1 and abs(b.mean() - a.mean()) > 2*np.sqrt(a.var(ddof=1) + b.var(ddof=1))) or "nowhere"


def farthest(frame: pd.DataFrame, who: str) -> float:
    "The greatest difference between what a library's judge said and what our evaluator predicts."
    keys, theirs = ["contestant", "seed", "metric", "k"], ["own", who]
    chosen = frame[(frame.contestant != CONSTANT) & ((frame.judge.str.removeprefix("predicted ") == who)
                   | (frame.judge.str.removeprefix("predicted ").eq("own") & frame.contestant.str.startswith(who)))]
    said = chosen[chosen.judge.isin(theirs)].set_index(keys).value
    predicted = chosen[~chosen.judge.isin(theirs)].set_index(keys).value
    return float((said - predicted).abs().max())


def explained(frame: pd.DataFrame, data) -> str:
    "The differences of evaluators with the numbers that this run found."
    lost, unknown = int((data.popularity[data.test_items] == 0).sum()), int((data.popularity == 0).sum())
    users, most = len(data.test_users), data.num_items - 1
    flat = lambda metric: ", ".join(f"{means(frame, CONSTANT, metric, 100, who)[0]:.4f} by {whose}"
                                    for who, whose in (("ours", "our judge"), ("Cornac", "Cornac's"), ("implicit", "implicit's")))
    tied = {name: sorted(set(means(frame, name, "ties").astype(int).tolist())) for name in CONTESTANTS}
    tied_text = "; ".join(f"{name}: {', '.join(map(str, n))}" for name, n in tied.items() if any(n)) or "none of them"
    return f"""## From the evaluator

The first four are proved by this run: with them our evaluator predicts every number of Cornac's judge to within {farthest(frame, 'Cornac'):.1g}, and
every number of implicit's to within {farthest(frame, 'implicit'):.1g} (rows `predicted …` of the .csv; one hit is {1/len(data.test_users):.1g}). What
the names in brackets do was read in the source: Cornac's as installed, implicit's in its repository, for its package holds none.

1. **Other names, same thing.** With one test item a user, Cornac's Recall@k (`Recall.compute`: hits / test items) and implicit's
   precision (`ranking_metrics_at_k`: hits / min(k, test items)) are HR@k. Their nDCG@k is ours: the ideal is 1. implicit's MAP@k is the mean
   of 1/rank up to k. Cornac's own Precision@k, hits / k, would be HR@k / k.
2. **Users left out.** Cornac's `ranking_eval` drops unknown items unless told otherwise (`exclude_unknowns=True`; so does the constructor
   of `BaseMethod`, but `BaseMethod.from_splits` does not). The test items of {lost} of {users} users occur nowhere in training: we and implicit
   count these users, Cornac does not. So its HR and nDCG of a model of its own are ours times {users}/{users - lost} = {users/(users - lost):.4f}.
3. **Candidates left out.** Cornac's AUC also loses the {unknown} unknown candidates. We rank them last in its models, where they are easy to beat and
   hopeless as test items. Otherwise it is ours: `AUC.compute` asks for a strictly greater score, as we do.
4. **implicit's AUC stops at k and counts training items.** `ranking_metrics_at_k` looks at the best k only. A test item at place r < k
   (0 is best) gets 1 - r/{most}: all {most} other items of the catalogue are its negatives, training items among them, and these are never above
   it. A test item beyond gets ({most} - k)/(2·{most}) wherever it is, {(most - 100)/(2*most):.4f} for k = 100. So it depends on k and is no AUC.
5. **Ties.** We count them against the model. In Cornac `Recommender.rank` leaves them to `argpartition`, in implicit the top-k's heap takes
   what comes first in the catalogue. Where all scores are equal, HR@100 is {flat("hr")};
   nDCG@100 is {flat("ndcg")}. In trained models ties are few.
   Test users whose test item is tied, of {users}: {tied_text}.
   The {lost} users of item 2 tie in the libraries' models: implicit leaves the factors of such items at zero, and we rank them last in Cornac's.
"""


def learned(frame: pd.DataFrame, data) -> str:
    "The differences of training."
    uniform, popular = skipped(data)
    return f"""## From the training

By our evaluator; mean after minus mean before, ± the root of the summed variances over seeds. Learning rates are chosen for each contestant anew.

{markdown(effects(frame))}
nDCG@100 changes by more than twice its ± here: {beyond_noise(frame)}.

- **Item bias.** Cornac (`use_bias=True`) and implicit (the last column of its factors) learn one; the tutorial's model has none by default.
- **Regulariser.** Both libraries take lambda times the rows of each triple, .01 by default, as ours does when asked; our default is 0.
- **Optimiser.** Both do plain SGD, triple after triple (`_fit_sgd`, `bpr_update`); the tutorial takes Adagrad and adds up a batch's gradients.
- **Negatives.** Ours are uniform over all items, drawn again until the user has not the item. Cornac's BPR draws uniformly over the items of
  training, implicit a random *interaction*, so that popular items come more often, as in Cornac's WBPR. Both pass over a draw that the user
  has: in expectation {uniform:.1%} of uniform draws, {popular:.1%} of draws by popularity, so many updates fewer in an epoch. With
  `verify_negative_samples=False` implicit trains on these too, as if they were not liked.
- **Pairs.** Ours visits every pair once an epoch; the libraries draw as many with replacement. This, the start (uniform in ±1/128 against a
  normal of .01), the draws passed over and what remains of the batch are left between "{OUR_SMALL}" and "{CORNAC}".
"""


def choices(frame: pd.DataFrame, chosen: dict[str, float], plan: Plan) -> list[dict]:
    "Validation nDCG@100 of every learning rate."
    out = []
    for name, best in chosen.items():
        values = dict(zip(plan.rates, means(frame, name, "validation ndcg", 100)))
        edge = len(plan.rates) > 2 and best in (min(plan.rates), max(plan.rates))
        out.append({"contestant": name} | {f"{rate:g}": f"{v:.4f}" for rate, v in values.items()}
                   | {"chosen": f"{best:g}" + (", at the edge" if edge else "")})
    return out


def finding(frame: pd.DataFrame, plan: Plan) -> str:
    "A title that says what was found."
    found = {name: means(frame, name, "ndcg", 100).mean() for name in (OURS, CORNAC, IMPLICIT)}
    return f"{plan.dataset}: nDCG@100 by one evaluator: " + ", ".join(f"{name} {value:.3f}" for name, value in found.items())


def report(frame: pd.DataFrame, chosen: dict[str, float], data, plan: Plan) -> str:
    "All of it as Markdown."
    header = circumstances(epochs=plan.epochs, factors=SIZE, seeds=" ".join(map(str, plan.seeds)),
                           **{"seed of the choice": SEED, "test users": len(data.test_users)})
    return f"""# {finding(frame, plan)}

{header}

{markdown(standings(frame))}
Judge: `ours` is this project's evaluator, `own` the library's; `Cornac` and `implicit` judge factors that were trained elsewhere. Mean ±
standard deviation over seeds. AUC of implicit's judge is its auc at 100. "reg" is .01, as in all models of the libraries.

{explained(frame, data)}
{learned(frame, data)}
## How the learning rates were chosen

nDCG@100 on validation items by our evaluator, seed {SEED}; the same rates for each contestant, never on test.

{markdown(choices(frame, chosen, plan))}"""


def chart(frame: pd.DataFrame, plan: Plan):
    "nDCG@100 and AUC of each contestant, a mark for each seed and judge."
    from apr_tutorial.charts import COLOURS, GREY, add_legend, new_figure

    figure, axes = new_figure(2, width=10)
    names = list(CONTESTANTS)[::-1]
    looks = {"ours": ("our evaluator", COLOURS["bpr-mf"], "o"), "own": ("the library's own", COLOURS["accent"], "x")}
    for ax, (title, metric, keys) in zip(axes, (("nDCG@100", "ndcg", (100,)), ("AUC (implicit's own: at 100)", "auc", ("", 100)))):
        for who, (label, colour, marker) in looks.items():
            points = [(value, y) for y, name in enumerate(names) for k in keys for value in means(frame, name, metric, k, who)]
            ax.plot(*zip(*points), marker, color=colour, label=label, markerfacecolor="none", alpha=.8)
        ax.set(xlabel=title, yticks=range(len(names)))
        ax.set_yticklabels(names if ax is axes[0] else [], color=GREY, fontsize=9)
    add_legend(axes[1])
    figure.suptitle(finding(frame, plan), color=GREY, fontsize=11)
    return figure


def plan_of(dataset: str, seeds: int, quick: bool) -> Plan:
    return Plan(dataset, 2, (.05, .1), (1,), 100) if quick else Plan(dataset, seeds=tuple(range(1, seeds + 1)))


def first_users(data, count: int | None):
    "The data with the first `count` test users only."
    return replace(data, test_users=data.test_users[:count], test_items=data.test_items[:count])


def main(argv: Sequence[str] | None = None):
    parser = argparse.ArgumentParser(prog="python -m benchmarks.libraries", description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", default="movielens-100k", help="name of a data set, or a folder or file")
    parser.add_argument("--seeds", type=int, default=3, help="how many models of each contestant")
    parser.add_argument("--quick", action="store_true", help="2 epochs, 1 seed, 100 test users: a trial, not a measurement")
    parser.add_argument("--out", type=results_folder, default=RESULTS, help="folder of the results")
    args = parser.parse_args(argv)
    if args.seeds < 1:
        parser.error("--seeds: expected at least 1")
    need("cornac", "implicit")
    from apr_tutorial.data import load_dataset, progress_bar

    plan = plan_of(args.dataset, args.seeds, args.quick)
    data = first_users(load_dataset(plan.dataset, progress=False), plan.users)
    with progress_bar("libraries", total=len(CONTESTANTS)*(len(plan.rates) + len(plan.seeds))) as bar:
        rows, chosen = compare(data, plan, bar.update)
    frame = pd.DataFrame(rows)
    write_results(args.out, f"libraries-{data.name}", rows, report(frame, chosen, data, plan), chart(frame, plan))


if __name__ == "__main__":
    run(main)
