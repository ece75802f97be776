"""Reading, splitting and drawing against plain Python, at the borders of what is accepted."""
import bz2
import gzip
import hashlib
import warnings
from collections import Counter
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import chisquare

from apr_tutorial import data as data_module
from apr_tutorial.data import (DATASETS, DataError, DownloadError, Interactions, Seen, SyntheticDataWarning, batches, cache_folder, draw_triples,
                               epoch_triples, find_folder, generator, hold_out, id_kind, interactions, label_rows, leave_one_out, load_dataset, part,
                               positives, read_file, read_folder, read_rows, sample_negatives, sha256, statistics, synthetic)

def pairs_of(data):
    return list(zip(data.user_ids[data.users].tolist(), data.item_ids[data.items].tolist()))


def held_out(data):
    return list(zip(data.user_ids[data.test_users].tolist(), data.item_ids[data.test_items].tolist()))


# Pairs

@pytest.mark.parametrize("bitmap", [None, False, True])
@pytest.mark.parametrize("shape", [(1, 1), (2, 5), (8, 8), (30, 43)])
def test_seen_is_a_set(shape, bitmap):
    rng = np.random.default_rng(0)
    for share in (.3, 1):
        owned = rng.random(shape) < share
        owned[0, 0] = owned[-1, -1] = True
        seen = Seen(*np.argwhere(owned).T.astype(np.int32), *shape, bitmap=bitmap)
        np.testing.assert_array_equal(seen(*np.indices(shape).reshape(2, -1)), owned.ravel())


def test_seen_of_more_cells_than_32_bits_count():
    users, items = np.array([0, 70_000, 99_999], np.int32), np.array([5, 99_999, 99_998], np.int32)
    seen = Seen(users, items, 100_000, 100_000)
    assert not seen.bitmap and Seen(users[:1], items[:1], 10, 10).bitmap
    assert seen(users, items).all() and not seen(users, np.roll(items, 1)).any()
    assert not seen(np.array([99_999], np.int32), np.array([99_999], np.int32)).any()


def test_interactions_do_not_change():
    data = Interactions("tiny", np.array([7, 9, 11]), np.array(list("abc")), np.array([0, 0, 0, 2]), np.array([0, 1, 2, 1]), None, np.array([1]), np.array([2]))
    assert hash(data) is not None and data != replace(data)
    with pytest.raises(FrozenInstanceError):
        data.name = "other"
    assert (data.num_users, data.num_items, len(data), data.synthetic, data.dropped, data.sources) == (3, 3, 4, False, {}, {})
    assert len(data.validation_users) == len(data.validation_items) == 0
    assert data.validation_users.dtype == data.validation_items.dtype == np.int32
    assert data.indptr.tolist() == [0, 3, 3, 4] and data.popularity.tolist() == [1, 2, 1]
    assert [data.items_of(u).tolist() for u in range(3)] == [[0, 1, 2], [], [1]]
    assert data.pairs.tolist() == [3]  # user 0 has every item
    assert data.seen([0, 1, 2], [2, 2, 1]).tolist() == [True, False, True]


# Ids

@pytest.mark.parametrize("text, kind", [
    ("0", "integer"), ("10", "integer"), (str(2**63 - 1), "integer"), (str(2**63), "above 2^63-1"), ("9"*19, "above 2^63-1"), ("9"*5000, "above 2^63-1"),
    ("007", "leading zeros"), ("00", "leading zeros"), ("", "empty"), (" \t", "empty"), ("a\tb", "control character"), ("a\x7f", "control character"),
    ("-1", "not an integer"), ("3.5", "not an integer"), ("nan", "not an integer"), ("1e3", "not an integer"), ("ann", "string"), ("u-1", "string")])
def test_kinds_of_ids(text, kind):
    assert kind in id_kind(text) and (kind in ("integer", "string")) == (id_kind(text) in ("integer", "string"))


def frame_of(ids, start, source=None):
    frame = pd.DataFrame({"user": ids}, index=range(start, start + len(ids)))
    if source:
        frame.attrs["source"] = source
    return frame


@pytest.mark.parametrize("kind", [lambda n: n, lambda n: f"u{n}"])
def test_ids_are_numbered_in_sorted_order(kind):
    columns = [[kind(n) for n in numbers] for numbers in ((10, 9, 2**40), (100, 9), (8, 7, 6, 10))]
    ids, rows = label_rows([frame_of(column, 1) for column in columns], "user")
    assert ids.tolist() == sorted(set(sum(columns, [])))
    assert [ids[r].tolist() for r in rows] == columns and all(r.dtype == np.int32 for r in rows)


@pytest.mark.parametrize("first, second, message", [
    (["a", "b"], ["c", "5"], "test, line 12: user id '5' is integer among string ids (line 1 has 'a')"),
    (["1", "2"], ["x"], "test, line 11: user id 'x' is string among integer ids (line 1 has '1')"),
    (["1", "x"], ["2"], "train, line 2: user id 'x' is string among integer ids"),
    (["1", "2"], ["3", "3.5"], "test, line 12: user id '3.5' is a number but not an integer from 0 to 2^63-1. An id is"),
    (["007"], ["1"], "train, line 1: user id '007' is a number with leading zeros, which integers lose (put a letter before it). An id is"),
    ([], [], "train: no rows; expected user, item, rating")])
def test_wrong_ids_are_named_with_their_line(first, second, message):
    with pytest.raises(DataError) as error:
        label_rows([frame_of(first, 1, "train"), frame_of(second, 11, "test")], "user")
    assert message in str(error.value)


# From rows to interactions

def latest(rows):
    "pair -> place of its latest row with a rating above 0, among equals the last."
    found = {}
    for n, (u, i, rating, time) in enumerate(rows):
        if rating > 0 and ((u, i) not in found or time >= rows[found[u, i]][3]):
            found[u, i] = n
    return found


def last_of_each(places, rows):
    "user -> place of the latest row, for users with at least two."
    count = Counter(rows[n][0] for n in places)
    held = {}
    for n in sorted(places):
        if count[rows[n][0]] > 1 and (rows[n][0] not in held or rows[n][3] >= rows[held[rows[n][0]]][3]):
            held[rows[n][0]] = n
    return held


@pytest.mark.parametrize("seed", range(60))
def test_rows_become_interactions(seed):
    rng = generator(seed)
    rows = [tuple(map(int, row)) for row in rng.integers([0, 0, -1, 0], [5, 6, 3, 4], (rng.integers(1, 60), 4))]
    log = pd.DataFrame(rows, columns=["user", "item", "rating", "timestamp"])
    places = latest(rows)
    held = last_of_each(places.values(), rows)
    if not held:
        with pytest.raises(DataError, match="no test interaction|nothing to learn from"):
            interactions(log)
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of users who have every item
        data = interactions(log, name="log")
    train = {pair: n for pair, n in places.items() if n not in held.values()}
    assert pairs_of(data) == sorted(train) and held_out(data) == sorted(rows[n][:2] for n in held.values())
    assert data.user_ids.tolist() == sorted({r[0] for r in rows}) and data.item_ids.tolist() == sorted({r[1] for r in rows})
    in_time = sorted(train.values(), key=lambda n: (rows[n][3], n))
    assert data.order.tolist() == [in_time.index(train[pair]) + 1 for pair in sorted(train)]
    kept = sum(r[2] > 0 for r in rows)
    assert data.dropped == {"rating <= 0": len(rows) - kept, "duplicates": kept - len(places)}
    assert (data.name, data.synthetic, data.sources) == ("log", False, {})
    assert all(a.dtype == np.int32 for a in (data.users, data.items, data.test_users, data.test_items))


def test_equal_times_are_decided_by_the_place_in_the_file():
    frame = pd.DataFrame({"u": np.repeat([0, 1], 100), "i": np.arange(200), "timestamp": np.tile([2, 1], 100)})
    train, test = leave_one_out(frame, 0)
    assert test.i.tolist() == [98, 198] and train.i.tolist() == [i for i in range(200) if i not in (98, 198)]
    pair, time = generator(0).integers(0, 3, (2, 3000))
    again = positives(pd.DataFrame({"u": 0, "i": pair, "rating": 1, "timestamp": time}), {})
    assert again.index.tolist() == sorted(np.flatnonzero((pair == i) & (time == 2))[-1] for i in range(3))


def test_without_times_a_seeded_row_is_held_out():
    frame = pd.DataFrame({"u": np.repeat(range(300), 4), "i": np.tile(range(4), 300)})
    test = leave_one_out(frame, 1)[1]
    assert test.u.tolist() == list(range(300))
    assert chisquare(np.bincount(test.i, minlength=4)).pvalue > .01
    assert test.equals(leave_one_out(frame, 1)[1]) and not test.equals(leave_one_out(frame, 2)[1])
    log = frame.rename(columns={"u": "user", "i": "item"})
    assert interactions(log).name == "data" and interactions(log).order is None
    assert held_out(interactions(log)) == held_out(interactions(log, seed=42)) != held_out(interactions(log, seed=43))


def test_two_frames():
    train = pd.DataFrame({"user": list("bab"), "item": [3, 9, 1]}, index=[5, 5, 6])  # a published log may come with any index
    test = pd.DataFrame({"user": ["c", "a"], "item": [1, 3], "rating": [1, 5]})
    with pytest.warns(UserWarning, match="pair: 1 test users have no training item"):
        data = interactions(train, test, "pair", synthetic=True, sources={"a": "b"})
    assert pairs_of(data) == [("a", 9), ("b", 1), ("b", 3)] and held_out(data) == [("a", 3), ("c", 1)]
    assert (data.order, data.synthetic, data.sources, data.dropped) == (None, True, {"a": "b"}, {"rating <= 0": 0, "duplicates": 0})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        interactions(train, test.iloc[1:])  # nothing to warn of


def test_users_with_every_item_are_kept_with_a_warning():
    train = pd.DataFrame({"user": [1, 1, 0], "item": [5, 6, 5]})
    with pytest.warns(UserWarning, match="data: users who have every item"):
        data = interactions(train, pd.DataFrame({"user": [0], "item": [6]}))
    assert pairs_of(data) == [(0, 5), (1, 5), (1, 6)] and data.pairs.tolist() == [0]


@pytest.mark.parametrize("train, test, message", [
    ([(0, 1), (1, 0)], [(0, 0), (1, 0)], "line 12: test item '0' of user '1' is also a training item"),
    ([(0, 1), (1, 0)], [(0, 0), (1, 2), (1, 3)], "line 13: a second test item for user '1'"),
    ([(0, 1)], [], "no test interaction"), ([], [(0, 1)], "no training interaction")])
def test_wrong_test_sets(train, test, message):
    def frame(pairs, start):
        rows = pairs or [(0, 1)]
        return pd.DataFrame({"user": [u for u, _ in rows], "item": [i for _, i in rows], "rating": int(bool(pairs))}, index=range(start, start + len(rows)))
    with pytest.raises(DataError, match=message):
        interactions(frame(train, 1), frame(test, 11))
    good = interactions(frame([(0, 1), (1, 0)], 1), frame([(0, 0), (1, 1)], 11))  # the same numbers, other pairs
    assert held_out(good) == [(0, 0), (1, 1)]


# Files

def write(path, text):
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


@pytest.mark.parametrize("name", ["log.tsv", "log.csv", "log.tsv.gz", "log.csv.gz"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_files_are_read_as_they_stand(name, end, tmp_path):
    comma = ".csv" in name
    lines = [["ann", "NA", "5", "1000000000000000001"], ["bob", '"x,y"' if comma else '"x', "0.5", "1000000000000000002"], [], ["cid", "3", "4", "7"]]
    path = write(tmp_path / name, "\ufeff" + end.join(("," if comma else "\t").join(line) for line in lines) + end)
    rows = read_rows(path)
    assert rows.columns.tolist() == ["user", "item", "rating", "timestamp"] and rows.index.tolist() == [1, 2, 4]
    assert rows.user.tolist() == ["ann", "bob", "cid"] and rows.item.tolist() == ["NA", "x,y" if comma else '"x', "3"]
    assert rows.rating.tolist() == [5, .5, 4] and rows.timestamp.tolist() == [1000000000000000001, 1000000000000000002, 7]  # as floats they would be equal
    assert rows.attrs["source"] == str(path)
    assert read_rows(write(path, (",1\n" if comma else "\t1\n").join(["7,007", "8,10", ""]).replace(",", "," if comma else "\t"))).item.tolist() == ["007", "10"]


@pytest.mark.parametrize("text, message", [
    ("a,b,c\na,b\n", "line 1: rating 'c' is not a number"), ("a,b,3\na,b\n", "line 2: rating '' is not a number"),
    ("a,b,3\na,c,4,5\n", "can't be read"), ("a,b\n", r"found 2 column\(s\).*commas"), ("a,b,3,4,5\n", r"found 5 column\(s\)"), ("", "can't be read"),
    ("a,b,3\na,c,inf\n", "line 2: rating 'inf' is not a number"), ("a,b,3\n\na,c,nan\n", "line 3: rating 'nan' is not a number"),
    ("a,b,3,4\na,b,4,noon\n", "line 2: timestamp 'noon'"), ("\n\n", "column|no rows|can't be read")])
def test_what_can_not_be_read(text, message, tmp_path):
    path = write(tmp_path / "log.csv", text)
    with pytest.raises(DataError, match=message) as error:
        read_rows(path)
    assert str(path) in str(error.value)


def test_separators_are_named(tmp_path):
    with pytest.raises(DataError, match=r"found 1 column\(s\).*tabs"):
        read_rows(write(tmp_path / "log.tsv", "a,b,3\n"))
    whole = write(tmp_path / "whole.tsv.gz", "a\tb\t3\n"*1000).read_bytes()
    (tmp_path / "cut.tsv.gz").write_bytes(whole[:-10])
    (tmp_path / "log.tsv.bz2").write_bytes(bz2.compress(b"a\tb\t3\n"))  # of compressed files only .gz
    for name in ("cut.tsv.gz", "log.tsv.bz2", "absent.tsv"):
        with pytest.raises(DataError, match="can't be read"):
            read_rows(tmp_path / name)


@pytest.mark.parametrize("header, places", [("user,item,rating,timestamp", ()), ("userId,movieId,rating,timestamp", ()), ("User,Product,Score,Date", ()),
                                            ("u,i,count,t", ()), ("item,user,rating,timestamp", "header is item, user"), ("user,rating,rating,time", "order must be"),
                                            ("user,item,rating,rating", "order must be"), ("user,item,time,rating", None)])
def test_headers(header, places, tmp_path):
    path = write(tmp_path / "log.csv", header + "\nann,b,3,4\n")
    with pytest.raises(DataError, match="line 1: rating '.*' is not a number"):
        read_rows(path)
    if places == ():
        assert read_rows(path, header=True).index.tolist() == [2]
    else:
        with pytest.raises(DataError, match=places or "line 1"):
            read_rows(path, header=True)
    assert read_rows(write(tmp_path / "bare.csv", "ann,b,3,4\n"), header=True).index.tolist() == [1]


def test_one_file(tmp_path):
    path = write(tmp_path / "log.of.mine.csv", "user,item,rating\n" + "".join(f"u{u},{i},5\n" for u in range(9) for i in range(u % 3, 5)))
    data = read_file(path)
    assert (data.name, data.sources, len(data)) == ("log", {path.name: hashlib.sha256(path.read_bytes()).hexdigest()}, 27)
    splits = {seed: held_out(read_file(path, seed)) for seed in (1, 2, 42, 43)}
    assert held_out(data) == splits[42] and len({str(s) for s in splits.values()}) == 4
    assert held_out(load_dataset(path)) == splits[42] and all(held_out(load_dataset(str(path), seed)) == splits[seed] for seed in splits)


def test_a_folder(tmp_path, monkeypatch):
    for name, text in (("trainingset.tsv", "1\t10\t5\n1\t11\t0\n2\t10\t1\n"), ("testset.tsv.gz", "1\t12\t5\n")):
        write(tmp_path / name, text)
    assert part(tmp_path, "testset.tsv") == tmp_path / "testset.tsv.gz" and part(tmp_path, "trainingset.tsv") == tmp_path / "trainingset.tsv"
    with pytest.raises(DataError, match="no other.tsv or other.tsv.gz"):
        part(tmp_path, "other.tsv")
    monkeypatch.chdir(tmp_path)
    for data, name in ((read_folder(Path()), tmp_path.name), (read_folder(tmp_path, "mine"), "mine"), (load_dataset(str(tmp_path)), tmp_path.name)):
        assert (data.name, pairs_of(data), held_out(data)) == (name, [(1, 10), (2, 10)], [(1, 12)])
        assert data.sources == {n: sha256(tmp_path / n) for n in ("trainingset.tsv", "testset.tsv.gz")}


# Public data sets

def test_a_folder_of_ones_own_comes_before_a_download(tmp_path, monkeypatch):
    fetched = []

    def fetch(source, file, progress=True, *args, **options):
        fetched.append((file, progress))
        return tmp_path / "cache" / source.name / file
    monkeypatch.setattr(data_module, "fetch", fetch)
    source = DATASETS["movielens-500"]
    monkeypatch.setenv("APR_TUTORIAL_DATA", str(tmp_path))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert find_folder(source) == tmp_path / "cache" / source.name
        assert fetched == [("trainingset.tsv", True), ("testset.tsv", True)]
        (tmp_path / source.name).mkdir()
        assert find_folder(source, False) == tmp_path / source.name and len(fetched) == 2
        monkeypatch.delenv("APR_TUTORIAL_DATA")
        assert find_folder(source, False) == tmp_path / "cache" / source.name and fetched[2:] == [("trainingset.tsv", False), ("testset.tsv", False)]
    monkeypatch.setenv("APR_TUTORIAL_DATA", str(tmp_path / "absent"))
    with pytest.warns(UserWarning, match="absent is no folder"):
        assert find_folder(source) == tmp_path / "cache" / source.name


def test_names(tmp_path, monkeypatch):
    for name, text in (("trainingset.tsv", "1\t10\t5\n"), ("testset.tsv", "1\t12\t5\n")):
        (tmp_path / "movielens-100k").mkdir(exist_ok=True)
        write(tmp_path / "movielens-100k" / name, text)
    monkeypatch.setenv("APR_TUTORIAL_DATA", str(tmp_path))
    data = load_dataset("movielens-100k")
    assert (data.name, held_out(data)) == ("movielens-100k", [(1, 12)])
    asked = []

    def offline(source, file, progress=None, *args, **options):
        asked.append(progress)
        raise DownloadError("no network")
    monkeypatch.setattr(data_module, "fetch", offline)
    with pytest.raises(DownloadError):
        load_dataset("movielens-500")
    with pytest.raises(DownloadError):
        load_dataset("movielens-500", progress=False)
    assert asked == [True, False]
    with pytest.warns(SyntheticDataWarning, match="no network"):
        assert load_dataset().synthetic
    assert load_dataset("synthetic").synthetic
    with pytest.raises(DataError, match="neither a file nor a folder"):
        load_dataset(str(tmp_path / "absent"))


def test_where_downloads_are_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("APR_TUTORIAL_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("APR_TUTORIAL_CACHE")
    assert "apr_tutorial" in str(cache_folder()) and cache_folder().is_absolute() and cache_folder() != tmp_path


def test_the_registry():
    source = DATASETS["movielens-500"]
    assert source.url("testset.tsv").endswith(f"/{source.repository}/{source.commit}/data/movielens-500/testset.tsv")
    assert list(source.digests) == ["trainingset.tsv", "testset.tsv"] and DATASETS["movielens-1m"].train + DATASETS["movielens-1m"].test == 1000209  # as published
    with pytest.raises(FrozenInstanceError):
        source.users = 3


# Validation

@pytest.mark.parametrize("timed", [True, False])
def test_the_last_item_is_held_out(timed):
    rng = np.random.default_rng(0)
    owned = rng.random((40, 12)) < .4
    owned[7] = False
    owned[7, 3] = True  # a single item stays
    users, items = np.argwhere(owned).T.astype(np.int32)
    order = rng.permutation(len(users)) if timed else None
    data = Interactions("log", np.arange(40), np.arange(12), users, items, order, np.array([1]), np.array([2]), dropped={"a": 1})
    held = hold_out(data)
    assert 7 not in held.validation_users and len(held.validation_users) == sum(owned.sum(1) > 1)
    taken, kept = set(zip(held.validation_users, held.validation_items)), list(zip(held.users, held.items))
    assert sorted([*taken, *kept]) == sorted(zip(users, items)) and kept == sorted(kept)
    assert (held.name, held.dropped, held.test_users, held.test_items) == ("log", {"a": 1}, data.test_users, data.test_items)
    if timed:
        time = {pair: t for pair, t in zip(zip(users, items), order)}
        assert all(time[u, i] == max(t for (v, _), t in time.items() if v == u) for u, i in taken)
        assert held.order.tolist() == [time[pair] for pair in kept]
    else:
        same = [np.array_equal(held.validation_items, hold_out(data, seed).validation_items) for seed in (42, 43)]
        assert held.order is None and same == [True, False]


# Drawing

def owners():
    "Twenty items; user 0 has every second one, user 1 none, user 2 all but the first."
    items = [np.arange(0, 20, 2), np.arange(1, 20)]
    return Interactions("owners", np.arange(3), np.arange(20), np.repeat([0, 2], [10, 19]).astype(np.int32), np.concatenate(items).astype(np.int32), None,
                        np.array([1]), np.array([1]))


def test_negatives_are_uniform_over_what_is_left():
    data, draws = owners(), 100_000
    users = np.tile(np.array([0, 1, 2], np.int32), draws)
    drawn = sample_negatives(data, users, generator(1))
    assert drawn.dtype == np.int32 and not data.seen(users, drawn).any()
    for user, left in ((0, np.arange(1, 20, 2)), (1, np.arange(20))):
        counts = np.bincount(drawn[users == user], minlength=20)
        assert counts[left].sum() == draws and chisquare(counts[left]).pvalue > 1e-3
    assert (drawn[users == 2] == 0).all()
    np.testing.assert_array_equal(drawn, sample_negatives(data, users, generator(1)))
    assert sample_negatives(data, users[:0], generator(1)).shape == (0,)


def test_triples():
    data = owners()
    for draw in (draw_triples, epoch_triples):
        users, items, negatives = triples = draw(data, generator(3))
        assert triples.dtype == np.int32 and sorted(zip(users, items)) == list(zip(data.users, data.items))
        assert not data.seen(users, negatives).any()
        assert ((users == data.users).all() and (items == data.items).all()) == (draw is draw_triples)
    every = replace(data, users=np.r_[data.users[:10], np.full(20, 2)].astype(np.int32), items=np.r_[data.items[:10], np.arange(20)].astype(np.int32))
    users, items, _ = draw_triples(every, generator(3))
    assert list(zip(users, items)) == list(zip(data.users[:10], data.items[:10]))  # who has every item is passed over
    assert len({str(epoch_triples(data, generator(*key))) for key in ((1,), (2,), (1, 2), (2, 1))}) == 4


@pytest.mark.parametrize("number, size, count", [(6, 3, 2), (7, 3, 3), (1, 5, 1), (0, 5, 0)])
def test_batches_lose_nothing(number, size, count):
    triples = np.arange(3*number, dtype=np.int32).reshape(3, number)
    for fill, options in ((-1, {}), (99, dict(fill=99))):
        made = batches(triples, size, **options)
        assert made.shape == (3, count, size) and made.dtype == np.int32
        np.testing.assert_array_equal(made.reshape(3, -1)[:, :number], triples)
        assert (made.reshape(3, -1)[:, number:] == fill).all()


def test_statistics():
    data = Interactions("tiny", np.arange(3), np.arange(11), np.array([0, 0, 0, 1, 1, 2, 2]), np.array([0, 1, 2, 0, 1, 0, 3]), None, np.array([0]), np.array([4]),
                        dropped={"duplicates": 7})
    assert statistics(data)["tiny"].to_dict() == {
        "Number of Users": 3, "Number of Items": 11, "Training User-Item Ratings": 7, "Test items": 1, "Density": "21.21%",
        "Interactions of a user (min, median, max)": "2, 2, 3", "Interactions of an item (min, median, max)": "0, 0, 3",
        "Share of the most popular 20 % of items": "71.4%", "Dropped: duplicates": 7}  # 3 + 2 of 7: two of eleven items
    few = Interactions("few", np.arange(2), np.arange(3), np.array([0, 0, 1]), np.array([0, 1, 0]), None, np.zeros(1, int), np.full(1, 2))
    assert statistics(few)["few"]["Share of the most popular 20 % of items"] == "66.7%"  # at least one item


# Generated data

def top_share(popularity):
    return np.sort(popularity)[::-1][:len(popularity)//10].sum()/popularity.sum()


@pytest.mark.parametrize("latent, temperature, zipf", [(8, 0, 0), (8, 0, .8), (2, 1.5, 0), (16, 1.5, 0), (4, .5, 1.2)])
def test_choices_follow_the_stated_model(latent, temperature, zipf):
    "The share of the most popular tenth, beside that of choices drawn anew by the chapter's formula."
    users, items = 1500, 300
    data = synthetic(users, items, latent=latent, temperature=temperature, zipf=zipf, activity=1e-3, seed=1)
    chosen = np.bincount(np.r_[data.items, data.test_items], minlength=items)
    assert chosen.sum() == 5*users, "the least that a user has is five"
    rng = np.random.default_rng(5)
    taste, trait = rng.normal(size=(users, latent)), rng.normal(size=(items, latent))
    logits = temperature*(taste @ trait.T)/latent**.5 - zipf*np.log(np.arange(1, items + 1))
    best = np.argsort(logits + rng.gumbel(size=logits.shape))[:, -5:]
    expected = np.bincount(best.ravel(), minlength=items)
    np.testing.assert_allclose(top_share(chosen), top_share(expected), rtol=.12)
    if zipf:
        np.testing.assert_allclose(chosen.max(), expected.max(), rtol=.12)


def test_activity_is_log_normal_within_bounds():
    data = synthetic(400, 3000, latent=2, activity=60, seed=3)
    counts = np.sort(np.diff(data.indptr) + 1)
    np.testing.assert_allclose(counts[[64, 200, 336]], [60/np.e, 60, 60*np.e], rtol=.2)  # a standard deviation on either side of the median
    for items, activity, count in ((9, 1e4, 4), (9, 1e-3, 4), (41, 1e4, 20), (41, 1e-3, 5)):  # half the items at most, rounded down
        assert (np.diff(synthetic(50, items, activity=activity, seed=1).indptr) + 1 == count).all()


def test_generated_data_are_whole_and_seeded():
    for users, items in ((1, 20), (30, 200)):
        data = synthetic(users, items, seed=3)
        assert (data.num_users, data.num_items, data.name, data.synthetic) == (users, items, "synthetic", True)
        assert not data.seen(data.test_users, data.test_items).any() and len(data.test_users) == users
    a, b = synthetic(), synthetic(500, 1500, latent=8, temperature=1.5, zipf=.8, activity=60, seed=42)
    assert pairs_of(a) == pairs_of(b) and held_out(a) == held_out(b) and (a.num_users, a.num_items) == (500, 1500)
    assert pairs_of(synthetic(30, 40, seed=42)) == pairs_of(synthetic(30, 40)) != pairs_of(synthetic(30, 40, seed=43))
