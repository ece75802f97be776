"""What no single example shows: over random models, data and budgets, attacks keep to their budget, and raise the loss that they climb."""
from functools import partial

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from apr_tutorial.attack import fgsm, key, loss_gradient, pgd, random_noise, scale_rows
from apr_tutorial.data import Interactions, draw_triples, generator
from apr_tutorial.model import Factors
from apr_tutorial.stronger_attacks import momentum, pgd_restarts, targeted, turned

# Users, items, factors. XLA compiles once for each shape, with and without bias; so shapes are few and contents vary.
SHAPES = [(1, 2, 1), (2, 3, 2), (5, 4, 3), (3, 12, 8), (12, 5, 16), (20, 30, 4), (30, 20, 64)]
KEPT = dict(fresh_negatives=False)
ATTACKS = {"random": random_noise, "fgsm": fgsm, "pgd": pgd, "pgd random start": partial(pgd, steps=3, random_start=True),
           "momentum": partial(momentum, steps=5), "restarts": partial(pgd_restarts, restarts=2, steps=3), "restarts kept": partial(pgd_restarts, restarts=2, steps=2, **KEPT)}
powers = partial(st.floats, allow_nan=False)


@st.composite
def cases(draw):
    "A model and data of one of the shapes, an item that somebody does not own, a budget, a seed."
    users, items, d = draw(st.sampled_from(SHAPES))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    owned = rng.random((users, items)) < draw(powers(.05, .95))
    owned[0, :2] = True, False
    at = np.argwhere(owned).T.astype(np.int32)
    data = Interactions("random", np.arange(users), np.arange(items), *at, None, np.array([0], np.int32), np.array([1], np.int32))
    scale = 10**draw(powers(-2, 1))
    bias = rng.normal(0, scale, items) if draw(st.booleans()) else None
    model = Factors(rng.normal(0, scale, (users, d)), rng.normal(0, scale, (items, d)), bias)
    return model, data, 10**draw(powers(-3, 1)), draw(st.integers(0, 10))


def over_cases(check, examples=200):
    "Run `check` on random cases, and give what it returned for each."
    found = []

    @settings(max_examples=examples, deadline=None, derandomize=True, database=None)
    @given(cases())
    def each(case):
        found.append(check(*case))

    each()
    assert len(found) >= examples
    return found


def loss(model, triples, delta=None):
    "Summed BPR loss in float64."
    p, q = model.user_factors.astype(float), model.item_factors.astype(float)
    if delta is not None:
        p, q = p + delta.users, q + delta.items
    b = np.zeros(len(q)) if model.item_bias is None else model.item_bias.astype(float)
    u, i, j = triples
    return np.logaddexp(0, -((p[u]*(q[i] - q[j])).sum(1) + b[i] - b[j])).sum()


def within(delta, epsilon):
    lengths = [np.linalg.norm(rows.astype(float), axis=1) for rows in (delta.users, delta.items)]
    return delta.epsilon == epsilon and max(x.max() for x in lengths) <= epsilon*(1 + 1e-6)


def test_no_row_moves_further_than_epsilon():
    def check(model, data, epsilon, seed):
        made = {name: attack(model, data, epsilon, seed) for name, attack in ATTACKS.items()}
        made["targeted"] = targeted(model, data, epsilon, seed, target=1, k=1, steps=4)
        made["turned"] = turned(made["random"], model, Factors(model.user_factors[::-1], model.item_factors, model.item_bias))
        assert {name for name, delta in made.items() if not within(delta, epsilon)} == set()

    print(f"{len(over_cases(check))} cases, {len(ATTACKS) + 2} attacks each")


def test_a_small_fgsm_step_does_not_lower_its_own_loss():
    def check(model, data, epsilon, seed):
        triples = draw_triples(data, generator(seed, key("fgsm")))
        small = max(1e-6, 1e-4*min(epsilon, np.linalg.norm(model.item_factors, axis=1).mean()))
        before, after = loss(model, triples), loss(model, triples, fgsm(model, data, small, seed))
        assert after >= before*(1 - 1e-12)  # float64 sums
        return after > before

    risen = over_cases(check)
    print(f"{len(risen)} cases; the loss rose in {np.mean(risen):.1%}, and fell in none")
    assert np.mean(risen) > .9


def test_pgd_beats_fgsm_on_one_kept_set():
    def check(model, data, epsilon, seed):
        kept = draw_triples(data, generator(seed, key("pgd"), 0))
        step = pgd(model, data, epsilon, seed, steps=1, **KEPT)
        for rows, g in zip((step.users, step.items), loss_gradient(model, data, kept)):
            np.testing.assert_allclose(rows, scale_rows(g, epsilon), atol=1e-5*epsilon)  # one step of PGD is FGSM on its triples
        one, ten = (loss(model, kept, d) for d in (step, pgd(model, data, epsilon, seed, **KEPT)))
        return ten >= one*(1 - 1e-6)  # where both end in one point, they differ by float32 rounding

    better = over_cases(check)
    print(f"{len(better)} cases; PGD at least as strong as FGSM in {np.mean(better):.1%}")
    assert np.mean(better) >= .95
