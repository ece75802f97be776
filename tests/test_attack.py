"""The chapter's attacks against plain references in float64, and at the borders of what they accept."""
import warnings
from dataclasses import FrozenInstanceError
from functools import partial

import numpy as np
import pytest
from scipy.stats import kstest

from apr_tutorial.attack import (Perturbation, before_after, check_epsilon, climb, fgsm, loss_gradient, pgd, project_rows, random_moves, random_noise,
                                 scale_rows, sweep)
from apr_tutorial.data import DataError, draw_triples, generator, synthetic
from apr_tutorial.evaluator import Metrics, evaluate, interval
from apr_tutorial.model import Factors

DATA = synthetic(40, 130, activity=15, seed=1)
EPSILONS = [0, .5, 1, 2, 4]


def model(bias=True, scale=.5):
    rng = np.random.default_rng(0)
    return Factors(rng.normal(0, scale, (40, 6)), rng.normal(0, scale, (130, 6)), rng.normal(0, scale, 130) if bias else None)


def same(a, b):
    return np.array_equal(a.users, b.users) and np.array_equal(a.items, b.items)


def test_the_budget_bounds_each_row():
    rows = np.array([[3., 4], [0, 5], [-5, 0]])  # as a whole they are longer than 5
    made = Perturbation(rows, rows, 5)
    assert hash(made) is not None and made != Perturbation(rows, rows, 5), "a move of its own, to be kept in a set or as a key"
    with pytest.raises(FrozenInstanceError):
        made.epsilon = 6
    Perturbation(0*rows, 0*rows, 0)
    Perturbation(rows*(1 + 5e-7), rows, 5)
    for wrong in (rows*(1 + 2e-6), rows*np.nan):
        for pair in ((wrong, rows), (rows, wrong)):
            with pytest.raises(ValueError, match="beyond epsilon 5"):
                Perturbation(*pair, 5)


@pytest.mark.parametrize("power", [-30, -3, 0, 3, 30])
def test_rows_are_scaled_and_projected(power):
    rows = np.array([[3, 4, 0], [0, 0, 0], [1, -2, 2], [0, 0, -1]])
    small = (rows*10.**power).astype("f4")
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # rows of zeros stay zero, and nothing is divided by 0
        np.testing.assert_allclose(scale_rows(small, 2.), 2*rows/np.maximum(lengths, 1), rtol=1e-6)
    if abs(power) < 10:
        np.testing.assert_allclose(project_rows(small, 3*10.**power), small*np.minimum(1, 3/np.maximum(lengths, 1)), rtol=1e-6)


def test_budgets_at_the_border():
    for good in (0, 1e-6, 1, 1e6):
        check_epsilon(good)
    for bad in (-1, 9.9e-7, 1000000.5, np.inf, np.nan):
        for refuse in (check_epsilon, *(partial(attack, model(), DATA) for attack in (random_noise, fgsm, pgd))):
            with pytest.raises(DataError, match="expected 0, or a finite number"):
                refuse(bad)


@pytest.mark.parametrize("bias", [False, True])
def test_the_gradient_over_several_batches_is_the_plain_sum(bias):
    m, (u, i, j) = model(bias), np.concatenate([draw_triples(DATA, generator(n)) for n in range(15)], axis=1)
    assert u.size > 2*4096 and u.size % 4096
    p, q = m.user_factors.astype(float), m.item_factors.astype(float)
    b = m.item_bias.astype(float) if bias else np.zeros(len(q))
    w = 1/(1 + np.exp((p[u]*(q[i] - q[j])).sum(1) + b[i] - b[j]))[:, None]
    users, items = np.zeros_like(p), np.zeros_like(q)
    for table, rows, values in ((users, u, -w*(q[i] - q[j])), (items, i, -w*p[u]), (items, j, w*p[u])):
        np.add.at(table, rows, values)
    for ours, plain in zip(loss_gradient(m, DATA, np.stack([u, i, j])), (users, items)):
        np.testing.assert_allclose(ours, plain, rtol=0, atol=1e-3)  # sums of hundreds of float32


def test_gradients_refuse_what_they_can_not_do():
    triples = draw_triples(DATA, generator(0))
    diverged = model()
    diverged.user_factors[7] = np.nan
    with pytest.raises(DataError, match="gradient of its loss is not finite"):
        loss_gradient(diverged, DATA, triples)
    with pytest.raises(DataError, match="41 users"):
        loss_gradient(Factors(np.ones((41, 2)), np.ones((130, 2))), DATA, triples)


def test_defaults():
    m = model()
    for attack in (random_noise, fgsm, pgd):
        assert same(attack(m, DATA, .5), attack(m, DATA, .5, seed=42)) and not same(attack(m, DATA, .5), attack(m, DATA, .5, seed=43))
    plain = pgd(m, DATA, .5)
    assert same(plain, pgd(m, DATA, .5, steps=10, fresh_negatives=True, random_start=False))
    assert not any(same(plain, pgd(m, DATA, .5, **other)) for other in (dict(steps=11), dict(fresh_negatives=False), dict(random_start=True)))


def test_starts_are_uniform_in_the_ball():
    wide = Factors(np.zeros((3000, 3)), np.zeros((2000, 3)))
    for moves in random_moves(wide, .7, generator(0)):
        lengths, directions = np.linalg.norm(moves, axis=1), moves/np.linalg.norm(moves, axis=1, keepdims=True)
        assert kstest((lengths/.7)**3, "uniform").pvalue > .01  # the volume within a radius
        assert abs(directions.mean(0)).max() < .05


@pytest.mark.parametrize("momentum", [0., .8])
@pytest.mark.parametrize("started", [False, True])
def test_climbing_is_projected_ascent(momentum, started):
    m, epsilon, steps = model(), .4, 4
    start = random_moves(m, epsilon, generator(0)) if started else None
    slopes = [[generator(step, n).standard_normal(f.shape).astype("f4") for n, f in enumerate((m.user_factors, m.item_factors))] for step in range(steps)]
    moved = []

    def gradient(now, step):
        moved.append(now)
        return slopes[step]
    made = climb(m, epsilon, gradient, steps=steps, momentum=momentum, start=start)
    for n, (factors, ours) in enumerate(((m.user_factors, made.users), (m.item_factors, made.items))):
        move = start[n].astype(float) if started else np.zeros(factors.shape)
        way = np.zeros(factors.shape)
        for step in range(steps):
            np.testing.assert_allclose((moved[step].user_factors, moved[step].item_factors)[n], factors + move, atol=1e-6)
            way = momentum*way + slopes[step][n]/np.linalg.norm(slopes[step][n], axis=1, keepdims=True)
            move = move + 2.5*epsilon/steps*way/np.linalg.norm(way, axis=1, keepdims=True)
            move = move*np.minimum(1, epsilon/np.linalg.norm(move, axis=1, keepdims=True))
        np.testing.assert_allclose(ours, move, atol=1e-6)
    assert len(moved) == steps
    default = climb(m, epsilon, lambda now, step: slopes[step % steps])
    assert same(default, climb(m, epsilon, lambda now, step: slopes[step % steps], steps=10, momentum=0., start=None))


def test_before_and_after():
    before, after = (Metrics(np.array(r), np.array([201, 201]), None, np.ones(201)) for r in ([0, 100], [2, 150]))
    frame = before_after(before, after)
    assert list(frame.index) == ["HR@100", "nDCG@100", "AUC"] and list(frame.columns) == ["before", "after", "decrease %"]
    np.testing.assert_allclose(frame, [[.5, .5, 0], [.5, .25, 50], [.75, .62, 100*(1 - .62/.75)]])
    np.testing.assert_allclose(before_after(before, after, k=2).loc["HR@2"], [.5, 0, 100])


def test_a_sweep_is_one_evaluation_after_the_other():
    few, seeds = synthetic(20, 60, activity=10, seed=1), []

    def attack(*args):
        seeds.append(args[-1])
        return random_noise(*args)
    for data, options, k, seed in ((DATA, {}, 100, 42), (few, dict(k=5, seed=7), 5, 7)):
        m = Factors(*(generator(n).normal(0, .5, (size, 6)) for n, size in enumerate((data.num_users, data.num_items))))
        frame = sweep(m, data, attack, EPSILONS, **options)
        assert frame.epsilon.tolist() == EPSILONS and list(frame.columns) == ["epsilon", "ndcg", "low", "high"]
        for row in frame.itertuples():
            values = evaluate(m.perturbed(random_noise(m, data, row.epsilon, seed)), data, k=[k]).values("ndcg", k)
            assert (row.ndcg, (row.low, row.high)) == (values.mean(), interval(values, seed))
    assert seeds == [42]*len(EPSILONS) + [7]*len(EPSILONS)
