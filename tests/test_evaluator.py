"""The evaluator against one user after the other in plain Python, on whole numbers, where nothing is rounded and ties abound."""
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pandas as pd
import pytest

from apr_tutorial import evaluator
from apr_tutorial.data import DataError, Interactions, synthetic
from apr_tutorial.evaluator import (Metrics, blocks, check_k, curve, evaluate, excluded, gini, interval, positions, recommend, table, tail, top_items,
                                    write_ranksys)
from apr_tutorial.model import Factors


def case(users, items, share, seed, bias):
    "A model of whole numbers, and data in which some users have a test item, some a validation item, and the last one no training item."
    rng = np.random.default_rng(seed)
    owned = rng.random((users, items)) < share
    owned[:, :3], owned[-1] = False, False
    hidden = [rng.choice(np.flatnonzero(~row), 2, replace=False) for row in owned]
    tested, validated = np.r_[0:users - 1:2, users - 1], np.r_[0:(users + 1)//2]
    us, its = np.argwhere(owned).T.astype(np.int32)
    data = Interactions("case", np.array([f"u{n:04}" for n in range(users)]), np.arange(items)*3 + 5, us, its, None,
                        tested.astype(np.int32), np.array([hidden[u][0] for u in tested], np.int32),
                        validated.astype(np.int32), np.array([hidden[u][1] for u in validated], np.int32))
    whole = lambda *shape: rng.integers(-2, 3, shape).astype("f4")
    return Factors(whole(users, 4), whole(items, 4), whole(items) if bias else None), data


CASES = {"small": (9, 12, .4, 0, False), "bias": (9, 12, .4, 1, True), "several blocks": (600, 30, .3, 2, True), "one user": (1, 4, 0, 3, False),
         "few candidates": (60, 6, .8, 4, True)}
each_case = pytest.mark.parametrize("model, data", [case(*args) for args in CASES.values()], ids=list(CASES))


def candidates(data, user, validating):
    held = [] if validating else data.validation_items[data.validation_users == user]
    return [i for i in range(data.num_items) if i not in data.items_of(user) and i not in held]


def scores(model, user):
    bias = 0 if model.item_bias is None else model.item_bias
    return model.item_factors @ model.user_factors[user] + bias


def plain(model, data, users, items, validating):
    "(position, candidates) of each user's item."
    found = []
    for user, item in zip(users, items):
        s, rest = scores(model, user), candidates(data, user, validating)
        found.append((sum(s[other] >= s[item] for other in rest if other != item), len(rest)))
    return np.transpose(found)


def plain_list(model, data, user, k):
    s = scores(model, user)
    best = sorted(candidates(data, user, False), key=lambda i: (-s[i], i))[:k]  # among equals the lower row
    return best + [-1]*(k - len(best)), [s[i] for i in best]


@each_case
def test_positions(model, data):
    test, validation = (data.test_users, data.test_items), (data.validation_users, data.validation_items)
    np.testing.assert_array_equal(positions(model, data), plain(model, data, *test, False))
    np.testing.assert_array_equal(positions(model, data, validating=False), plain(model, data, *test, False))
    np.testing.assert_array_equal(positions(model, data, validating=True), plain(model, data, *validation, True))


@each_case
def test_what_is_no_candidate(model, data):
    users = np.arange(data.num_users)[::-1]
    for validating in (False, True):
        rows, items = excluded(data, users, validating)
        assert (np.diff(rows) >= 0).all()
        for row, user in enumerate(users):
            np.testing.assert_array_equal(np.sort(items[rows == row]), np.setdiff1d(np.arange(data.num_items), candidates(data, user, validating)))


def test_users_beyond_the_last_with_a_validation_item():
    model, data = case(*CASES["small"])
    data = replace(data, validation_users=data.validation_users[:1], validation_items=data.validation_items[:1])
    for user in range(data.num_users):
        rows, items = excluded(data, np.array([user]), False)
        np.testing.assert_array_equal(np.sort(items), np.setdiff1d(np.arange(data.num_items), candidates(data, user, False)))


@each_case
@pytest.mark.parametrize("k", [1, 3, 100])
def test_lists(model, data, k):
    some = np.arange(data.num_users)[::-2]
    length = min(k, data.num_items)
    for asked, users in ((None, range(data.num_users)), (list(some), some), (some[:0], [])):
        items, values = top_items(model, data, k, asked)
        assert items.shape == values.shape == (len(users), length)
        for user, row, score in zip(users, items, values):
            best, theirs = plain_list(model, data, user, length)
            assert list(row) == best and list(score[:len(theirs)]) == theirs


@each_case
def test_recommendations(model, data):
    frame = recommend(model, data, k=3)
    rows = [(data.user_ids[u], data.item_ids[i], s) for u in range(data.num_users) for i, s in zip(*plain_list(model, data, u, 3))]
    assert list(frame.itertuples(index=False, name=None)) == rows
    for k in (0, data.num_items + 1):
        with pytest.raises(DataError, match=f"expected a whole number from 1 to {data.num_items}"):
            recommend(model, data, k)
    assert len(recommend(model, data, 1)) == data.num_users
    assert len(recommend(model, data, data.num_items)) == sum(len(candidates(data, u, False)) for u in range(data.num_users))


@each_case
def test_metrics(model, data):
    k = 3
    metrics = evaluate(model, data, k=[1, k])
    r, n = plain(model, data, data.test_users, data.test_items, False)
    lists = [[i for i in plain_list(model, data, u, k)[0] if i >= 0] for u in data.test_users]
    popularity = np.array([(data.items == i).sum() for i in range(data.num_items)])
    shown = np.array([sum(i in row for row in lists) for i in range(data.num_items)])
    np.testing.assert_array_equal(metrics.values("hr", k), r < k)
    np.testing.assert_allclose(metrics.values("ndcg", k), [1/np.log2(p + 2) if p < k else 0 for p in r])
    np.testing.assert_allclose(metrics.values("auc"), [1 - p/(m - 1) if m > 1 else 1 for p, m in zip(r, n)])
    np.testing.assert_array_equal(metrics.exposure(k), shown)
    expected = dict(k=k, hr=np.mean(r < k), ndcg=metrics.values("ndcg", k).mean(), auc=metrics.values("auc").mean(), coverage=np.sum(shown > 0),
                    arp=np.mean([popularity[row].mean() for row in lists]), gini=plain_gini(shown),
                    long_tail=np.mean([tail(popularity)[row].mean() for row in lists]))
    if popularity.any():
        got = table(metrics, [k])
        assert list(got.columns) == list(expected)
        np.testing.assert_allclose(got.iloc[0], list(expected.values()), rtol=1e-6)
    assert curve(metrics, "ndcg", 4).shape == (4,)
    np.testing.assert_allclose(curve(metrics, "ndcg", 4), [metrics.ndcg(n) for n in (1, 2, 3, 4)])
    np.testing.assert_array_equal(evaluate(model, data, k=[1], validating=True).positions, positions(model, data, True)[0])
    with pytest.raises(FrozenInstanceError):
        metrics.lists = None


def plain_gini(counts):
    "Mean absolute difference of two draws over twice the mean."
    return abs(np.subtract.outer(counts, counts)).mean()/(2*counts.mean())


def test_gini_and_tail():
    rng = np.random.default_rng(0)
    for n in range(1, 30):
        counts = rng.integers(0, 5, n) + (np.arange(n) == 0)
        np.testing.assert_allclose(gini(counts), plain_gini(counts), atol=1e-12)
    for n, share in ((200, .8), (200, .5), (7, .8)):
        popularity, head = rng.integers(1, 4, n), np.zeros(n, bool)
        for item in sorted(range(n), key=lambda i: (-popularity[i], i)):  # the fewest items, equally popular ones by row
            if popularity[head].sum() < share*popularity.sum():
                head[item] = True
        np.testing.assert_array_equal(tail(popularity, share), ~head)
        if share == .8:
            np.testing.assert_array_equal(tail(popularity), ~head)
    assert not tail(np.array([4, 1, 0]), .8)[0] and tail(np.array([4, 1, 0]), .8)[1]  # exactly four fifths are enough


@pytest.mark.parametrize("cells", [1, 90, 12_000])
def test_a_large_catalogue_gets_smaller_blocks(cells, monkeypatch):
    "30 items: blocks of 1, 3 and 256 users, however the users come; each user is in one of them, with the scores of this user."
    model, users = Factors(np.random.default_rng(0).normal(size=(600, 5)), np.random.default_rng(1).normal(size=(30, 5))), np.random.default_rng(2).permutation(600)[:500]
    monkeypatch.setattr(evaluator, "CELLS", cells)
    found = [(chosen, scores.copy()) for chosen, scores in blocks(model, users)]
    assert max(len(chosen) for chosen, _ in found) <= min(256, max(1, cells // 30))
    chosen, scores = (np.concatenate(parts) for parts in zip(*found))
    np.testing.assert_array_equal(np.sort(chosen), np.arange(500))
    np.testing.assert_allclose(scores, model.user_factors[users[chosen]] @ model.item_factors.T, atol=1e-5)


def test_scores_that_could_be_infinite_are_refused():
    "The bound is d times the largest user entry times the largest item entry, and the largest bias: just below and just above float32's 3.4e38."
    def refused(p, q, b=None, d=3):
        model = Factors(np.ones((2, d)), np.ones((2, d)), None if b is None else np.ones(2))
        model.user_factors[:], model.item_factors[:] = p, q
        if b is not None:
            model.item_bias[:] = b
        try:
            found = list(blocks(model, np.arange(2)))
        except DataError as error:
            assert "not finite" in str(error)
            return True
        return not np.isfinite(found[0][1]).all()
    for sign in (1, -1):
        for good in ((sign*1e19, 1e19), (1e19, sign*1e19), (sign*1e19, 1e19, 3e37), (1e19, 1e19, -3e37), (1e-30, sign*3e38), (sign*3e38, 1e-30)):
            assert not refused(*good)
        for bad in ((sign*1e19, 1e19, None, 4), (1e19, sign*1e19, None, 4), (sign*1e20, 1e20), (1e19, 1e19, sign*1e38), (1, np.nan), (np.nan, 1), (1, 1, np.nan)):
            assert refused(*bad)


def test_models_must_fit():
    model, data = case(*CASES["small"])
    larger = Factors(np.ones((10, 4)), np.ones((12, 4)))
    for use in (positions, lambda m, d: top_items(m, d, 2)):
        with pytest.raises(DataError, match="10 users"):
            use(larger, data)


def test_lengths_of_lists():
    data = synthetic(30, 120, activity=10, seed=1)
    model = Factors(np.random.default_rng(0).normal(size=(30, 3)), np.random.default_rng(1).normal(size=(120, 3)))
    most = max(data.num_items - len(data.items_of(u)) for u in data.test_users)
    check_k(data, [1, most])
    for wrong in (0, -1, most + 1):
        for use in (lambda: check_k(data, [1, wrong]), lambda: evaluate(model, data, k=[wrong])):
            with pytest.raises(DataError, match=f"k {wrong}: expected a whole number from 1 to {most}"):
                use()
    assert evaluate(model, data).lists.shape == (len(data.test_users), 100)
    bare = evaluate(model, data, lists=False)
    assert bare.lists is None and list(table(bare).columns) == ["k", "hr", "ndcg", "auc"]
    assert list(table(bare).k) == [10, 50, 100] and list(table(bare, [7]).k) == [7]
    np.testing.assert_array_equal(recommend(model, data), recommend(model, data, 100))


def test_a_single_candidate_is_at_the_best_place():
    only = Metrics(np.array([0]), np.array([1]), np.array([[2, -1]]), np.array([5, 0, 3]))
    assert (only.auc, only.hr(1), only.ndcg(1), only.arp(2), only.coverage(2)) == (1, 1, 1, 3, 1)
    assert list(Metrics(np.array([0]), np.array([1]), np.array([[0, 1]]), np.array([5, 0, 3])).exposure(2)) == [1, 1, 0]


def test_intervals():
    values = np.random.default_rng(0).normal(3, 2, 500)
    assert interval(values) == interval(values, seed=0, level=.95, resamples=2000)
    assert len({interval(values, **other) for other in ({}, dict(seed=1), dict(level=.5), dict(resamples=2001))}) == 4
    for level, z in ((.95, 1.96), (.5, .674)):
        low, high = (values.mean() + sign*z*values.std()/np.sqrt(len(values)) for sign in (-1, 1))
        np.testing.assert_allclose(interval(values, level=level), (low, high), atol=.02)  # the normal interval
    assert interval(np.full(5, .3)) == (.3, .3)
    for some in ([.1, .2, .9], [0., 1, 1]):
        low, high = interval(np.array(some))
        assert low < high
    skewed = np.random.default_rng(1).exponential(size=12)
    means = skewed[np.random.default_rng(2).integers(0, 12, (20000, 12))].mean(axis=1)
    np.testing.assert_allclose(interval(skewed, resamples=20000), np.quantile(means, [.025, .975]), rtol=.02)  # of the means themselves, uncorrected


def test_files_for_ranksys(tmp_path):
    frame = pd.DataFrame({"user": ['a "b"', "c"], "item": [3, 4], "score": [.5, -1.]})
    assert write_ranksys(tmp_path / "recs.tsv", frame) == tmp_path / "recs.tsv"
    assert (tmp_path / "recs.tsv").read_text() == 'a "b"\t3\t0.5\nc\t4\t-1.0\n'
