"""Shards beside the whole: the same data whatever the log looks like, the same refusals from every piece, the same positions; bounded memory."""
import gzip
import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT))
pq = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed: pip install pyarrow")

from apr_tutorial import shards  # noqa: E402
from apr_tutorial.data import DataError, load_dataset, statistics  # noqa: E402
from apr_tutorial.shards import load_shard, open_shards, shard, shard_evaluate  # noqa: E402
from benchmarks.shards import measure, write_log  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")


def rows(seed=0, lines=300, users=23, items=31):
    "User, item, rating: with repetitions, zeros, users with one item, items and users that have nothing but zeros."
    rng = np.random.default_rng(seed)
    found = pd.DataFrame({"user": rng.integers(users, size=lines), "item": rng.integers(items, size=lines), "rating": rng.integers(5, size=lines)})
    return pd.concat([found, pd.DataFrame([(900, 1, 3), (901, 2, 0), (0, 902, 0)], columns=found.columns)]).sample(frac=1, random_state=seed)


def as_text(frame, sep="\t", header=False): return frame.to_csv(sep=sep, header=header, index=False)


def named(frame): return frame.assign(user="ü" + frame.user.astype(str), item=[f"n{i}" if i % 2 else f"Ω {i}" for i in frame.item])


FRAME = rows()
TIED = np.random.default_rng(1).integers(20, size=len(FRAME))
LOGS = {
    "no times.tsv": as_text(FRAME),
    "times.tsv": as_text(FRAME.assign(time=TIED)),
    "fractions.tsv": as_text(FRAME.assign(time=TIED / 7)),
    "nanoseconds.tsv": as_text(FRAME.assign(time=1_700_000_000_000_000_000 + TIED)),
    "a fraction at the end.tsv": as_text(FRAME.assign(time=[*map(str, 1_700_000_000_000_000_000 + TIED[:-1]), "0.5"])),
    "names.tsv": as_text(named(FRAME).assign(time=TIED)),
    "names.csv": as_text(named(FRAME).assign(item=lambda f: f.item + ', "x"'), ",", header=True),
    "large ids.csv": as_text(FRAME.assign(user=FRAME.user + (2**63 - 1000), item=FRAME.item * 10**15), ","),
    "header.csv": "\ufeff" + as_text(FRAME.assign(time=TIED), ",", header=True),
    "blank lines.tsv": as_text(FRAME).replace("\n", "\n\n", 9) + "\n" * 20,
    "windows.tsv": as_text(FRAME).replace("\n", "\r\n"),
    "packed.tsv.gz": as_text(FRAME.assign(time=TIED)),
    "few users.tsv": as_text(FRAME.assign(user=FRAME.user % 3)),
    "a full user.tsv": as_text(pd.DataFrame({"user": [0] * 9 + [1, 1], "item": [*range(8), 8, 0, 1], "rating": 1, "time": range(11)}).iloc[[*range(8), 9, 10]])}


def written(folder, name, text):
    content = text.encode()
    (folder / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return folder / name


def same(found, whole):
    for name in ("user_ids", "item_ids", "users", "items", "test_users", "test_items", "popularity"):
        np.testing.assert_array_equal(getattr(found, name), getattr(whole, name), name)
    assert found.user_ids.dtype.kind in (whole.user_ids.dtype.kind, "O") and found.users.dtype == whole.users.dtype
    assert (found.name, found.dropped, found.sources) == (whole.name, whole.dropped, whole.sources)
    assert (found.order is None) == (whole.order is None)
    if whole.order is not None:  # equal among the pairs of each user
        np.testing.assert_array_equal(*(np.lexsort((data.order, data.users)) for data in (found, whole)))


@pytest.mark.parametrize("name", LOGS)
@pytest.mark.parametrize("lines", [7, 10**6])
def test_a_log(name, lines, tmp_path, monkeypatch):
    "In pieces of seven lines, and at once."
    monkeypatch.setattr(shards, "LINES", lines)
    path = written(tmp_path, name, LOGS[name])
    whole, made = load_dataset(path, 5), shard(path, 2, tmp_path / "out", 5, progress=False)
    same(load_shard(tmp_path / "out", 0, world=1), whole)
    assert statistics(made).equals(statistics(whole)) and len(made) == len(whole)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["manifest.parquet", "shard-00000.parquet", "shard-00001.parquet"]
    parts = [load_shard(tmp_path / "out", rank) for rank in range(2)]
    np.testing.assert_array_equal(np.sort(np.concatenate([p.own for p in parts])), np.arange(whole.num_users))
    for p in parts:
        keep = np.isin(whole.users, p.own)
        np.testing.assert_array_equal([p.users, p.items], [whole.users[keep], whole.items[keep]])
        np.testing.assert_array_equal(p.user_ids, whole.user_ids[p.own])
        np.testing.assert_array_equal(np.flatnonzero(p.mine), p.own)
        np.testing.assert_array_equal(p.indptr, np.searchsorted(p.users, np.arange(whole.num_users + 1)))


@pytest.mark.parametrize("timed", [False, True])
@pytest.mark.parametrize("frame", [FRAME, named(FRAME)], ids=["numbers", "names"])
def test_a_published_split(frame, timed, tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "LINES", 11)
    data = frame.assign(time=TIED) if timed else frame
    test = data[data.rating > 0].drop_duplicates("user")
    train = data.merge(test[["user", "item"]], how="left", indicator=True).query("_merge == 'left_only'").drop(columns="_merge")
    (tmp_path / "split").mkdir()
    written(tmp_path / "split", "trainingset.tsv", as_text(train))
    written(tmp_path / "split", "testset.tsv.gz", as_text(test[["user", "item", "rating"]]))
    shard(tmp_path / "split", 3, tmp_path / "out", progress=False)
    same(load_shard(tmp_path / "out", 0, world=1), load_dataset(tmp_path / "split"))


@pytest.mark.parametrize("line", [1, 2, 6, 7, 8, 15, 300])
@pytest.mark.parametrize("wrong", ["x\t1\t5", "1\t2.5\t5", "007\t1\t5", "\t1\t5", "1\t1\tfive", "1\t1\tinf", "1\t1\t5\t5\t5", "1\t9223372036854775808\t5"])
def test_the_same_words_from_every_piece(wrong, line, tmp_path, monkeypatch):
    "The error of `load_dataset`, its line included, and nothing left."
    monkeypatch.setattr(shards, "LINES", 7)
    lines = as_text(FRAME).splitlines()
    lines[line - 1] = wrong
    path = written(tmp_path, "log.tsv", "\n".join(lines) + "\n")
    said = []
    for work in (load_dataset, lambda path: shard(path, 2, tmp_path / "out", progress=False)):
        with pytest.raises(DataError) as caught:
            work(path)
        said.append(str(caught.value))
    assert said[0] == said[1] and ("line" in said[0] or line == 1) and [p.name for p in tmp_path.iterdir()] == ["log.tsv"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    "A log with 7 test users in three shards, for reading only; and the whole of it."
    folder = tmp_path_factory.mktemp("made")
    shard(path := written(folder, "log.tsv", as_text(rows(3, 400, users=40).assign(time=range(403)))), 3, folder / "out", progress=False)
    return folder / "out", load_dataset(path)


def test_ranks_share_the_shards(made):
    folder, whole = made
    owned = [load_shard(folder, rank, 2).own for rank in range(2)]
    assert [len(o) for o in owned] == [sum(e["users"] for e in open_shards(folder).facts["shards"][rank::2]) for rank in range(2)]
    assert sorted(np.concatenate(owned)) == list(range(whole.num_users))
    for rank, world in [(2, 2), (-1, 2), (0, 4), (0, 0)]:
        with pytest.raises(DataError, match="expected"):
            load_shard(folder, rank, world)


@pytest.mark.parametrize("size", [1, 2, 3, 40])
def test_positions(size, made, tmp_path):
    "Every position is that of one process, also where a shard has one test user, or the whole has."
    from apr_tutorial.evaluator import evaluate
    from apr_tutorial.model import Factors
    text = as_text(rows(3, 400, users=size).assign(time=range(403)))
    path = written(tmp_path, "log.tsv", text)
    whole, rng = load_dataset(path), np.random.default_rng(0)
    shard(path, min(3, size), tmp_path / "out", progress=False)
    p, q = (rng.normal(size=(n, 33)).astype(np.float32) for n in (whole.num_users, whole.num_items))
    q[5:] = q[rng.integers(5, size=len(q) - 5)] * (1 + 1e-7 * rng.integers(-1, 2, (len(q) - 5, 1)))  # scores that tie, or miss a tie by one bit
    model = Factors(p, q.astype(np.float32))
    one, several = evaluate(model, whole, [1]), shard_evaluate(model, tmp_path / "out", [1], lists=True)
    for name in ("positions", "candidates", "lists", "popularity"):
        np.testing.assert_array_equal(getattr(several, name), getattr(one, name), name)


def test_a_lone_user_is_scored_like_the_rest():
    from apr_tutorial.evaluator import blocks
    from apr_tutorial.model import Factors
    rng = np.random.default_rng(0)
    for bias in (None, rng.normal(size=333)):
        model = Factors(rng.normal(size=(50, 17)), rng.normal(size=(333, 17)), bias)
        together = next(blocks(model, np.arange(50)))[1].copy()
        assert not np.array_equal(together[0], together[1])
        for user in range(50):
            np.testing.assert_array_equal(next(blocks(model, np.array([user])))[1][0], together[user])


def test_a_part_trains(made):
    "Sampling and a short training need nothing but the part."
    from apr_tutorial.model import BPRMF, fit
    folder, whole = made
    part, model = load_shard(folder, 1), BPRMF(whole.num_users, whole.num_items, 4, seed=0)
    before = model.user_factors.copy()
    fit(model, part, 2, progress=False)
    changed = (model.user_factors != before).any(axis=1)
    assert changed.any() and not changed[~part.mine].any()


@pytest.mark.parametrize("every", [None, 3])
def test_workers_read_their_shards(every, made, monkeypatch, tmp_path):
    """Workers that read shards come to what workers with the whole come to where users have the same owners, to the bit; also when
    stopped and resumed. Whoever has another part, none, or one that another has, is refused."""
    from apr_tutorial import distributed
    from apr_tutorial.apr import APR
    from apr_tutorial.model import BPRMF, fit
    folder, whole = made
    parts = [load_shard(folder, rank, 2) for rank in range(2)]
    dealt = np.select([part.mine for part in parts], range(2), -1)
    assert (dealt >= 0).all()

    def trained(data_of, epochs=(3,), checkpoint=None):
        def work(team):
            for n in epochs:
                model = BPRMF(whole.num_users, whole.num_items, 4, seed=0)
                fit(model, data_of(team), n, batch_size=16, adversary=APR(), progress=False, strategy=team, checkpoint=checkpoint)
            return model
        return distributed.simulate(2, work, every)

    monkeypatch.setattr(distributed, "owners", lambda data, workers: dealt)
    expected = trained(lambda team: whole)
    for found in (trained(lambda team: parts[team.rank]), trained(lambda team: parts[team.rank], (1, 3), tmp_path / "checkpoint.npz")):
        for model in found:
            np.testing.assert_array_equal(model.user_factors, expected[0].user_factors)
            np.testing.assert_array_equal(model.item_factors, expected[0].item_factors)
    with pytest.raises(DataError, match="belongs to 2 of 2 workers, expected 1. Give each worker its own part"):
        trained(lambda team: parts[dealt[0]])
    with pytest.raises(DataError, match="belongs to 0 of 2"):
        trained(lambda team: load_shard(folder, team.rank))
    with pytest.raises(DataError, match="the training data differ"):  # the two parts exchanged
        trained(lambda team: parts[1 - team.rank], checkpoint=tmp_path / "checkpoint.npz")
    with pytest.raises(DataError, match="synchronous steps draw from all users"):
        distributed.simulate(2, lambda team: fit(BPRMF(whole.num_users, whole.num_items, 4), parts[team.rank], 1, strategy=team.synchronous))


def test_a_part_without_pairs(tmp_path):
    "Whose users have every item: all workers are told, and nobody waits."
    from apr_tutorial.distributed import simulate
    from apr_tutorial.model import BPRMF, fit

    pairs = [(u, i) for u in range(4) for i in range(5 if u < 2 else 3)]
    (tmp_path / "trainingset.tsv").write_text("".join(f"{u}\t{i}\t5\n" for u, i in pairs), encoding="utf-8")
    (tmp_path / "testset.tsv").write_text("2\t4\t5\n3\t4\t5\n", encoding="utf-8")
    shard(tmp_path, 4, tmp_path / "shards")

    def refusal(team):
        with pytest.raises(DataError) as caught:
            fit(BPRMF(4, 5), load_shard(tmp_path / "shards", team.rank, team.world), 1, progress=False, strategy=team)
        return str(caught.value)

    said = simulate(4, refusal)
    assert len(set(said)) == 1 and "of 4 has no pairs to learn from" in said[0]


def test_another_finishes_while_one_waits(tmp_path):
    "Its set is not overwritten."
    from threading import Timer

    from filelock import FileLock

    (tmp_path / "log.tsv").write_text(as_text(rows()), encoding="utf-8")
    out = tmp_path / "shards"
    out.mkdir()
    lock = FileLock(out / ".lock", thread_local=False)
    lock.acquire()
    finish = Timer(.3, lambda: ((out / "manifest.parquet").write_bytes(b"finished"), lock.release()))
    finish.start()
    with pytest.raises(DataError, match="holds a set of shards already"):
        shard(tmp_path / "log.tsv", 2, out)
    finish.join()
    assert (out / "manifest.parquet").read_bytes() == b"finished"


def test_a_part_is_not_taken_for_the_whole(made, tmp_path):
    "Rows of all users and ids of some: what would pair them is refused."
    from apr_tutorial.evaluator import recommend
    from apr_tutorial.model import BPRMF, Lists, save_weights
    folder, whole = made
    part, model = load_shard(folder, 1), BPRMF(whole.num_users, whole.num_items, 4, seed=0)
    for misuse in (lambda: save_weights(tmp_path / "w.npz", model, part), lambda: Lists(model, part), lambda: recommend(model, part, 3)):
        with pytest.raises(DataError, match="a part that knows the ids of"):
            misuse()
    assert not list(tmp_path.iterdir())
    assert len(recommend(model, load_shard(folder, 0, world=1), 3))


def altered(path, key, change):
    table = pq.read_table(path)
    metadata = dict(table.schema.metadata)
    metadata[key] = change(metadata[key])
    pq.write_table(table.replace_schema_metadata(metadata), path)


DAMAGE = {
    "no manifest": (lambda f: (f / "manifest.parquet").unlink(), "no manifest.parquet, so no finished set of shards"),
    "an empty manifest": (lambda f: (f / "manifest.parquet").write_bytes(b""), "manifest.parquet: is not a manifest"),
    "half a manifest": (lambda f: (f / "manifest.parquet").write_bytes((f / "manifest.parquet").read_bytes()[:200]), "is not a manifest"),
    "a shard as manifest": (lambda f: (f / "shard-00000.parquet").replace(f / "manifest.parquet"), "is not a manifest"),
    "a later format": (lambda f: altered(f / "manifest.parquet", b"apr_tutorial", lambda note: json.dumps(json.loads(note) | dict(format=2))), "format 2; this version reads format 1"),
    "a changed size": (lambda f: altered(f / "manifest.parquet", b"apr_tutorial", lambda note: json.dumps(json.loads(note) | dict(users=1))), "its checksum differs"),
    "no list": (lambda f: altered(f / "manifest.parquet", b"apr_tutorial", lambda note: b"[]"), "is not a manifest"),
    "no shard": (lambda f: (f / "shard-00001.parquet").unlink(), "shard-00001.parquet: can't be read"),
    "a short shard": (lambda f: (f / "shard-00001.parquet").write_bytes((f / "shard-00001.parquet").read_bytes()[:-1]), "shard-00001.parquet: is not the shard that"),
    "another shard": (lambda f: (f / "shard-00000.parquet").replace(f / "shard-00001.parquet"), "shard-00001.parquet: is not the shard that"),
    "a folder": (lambda f: [(f / "shard-00001.parquet").unlink(), (f / "shard-00001.parquet").mkdir()], "shard-00001.parquet: can't be read")}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage(damage, tmp_path):
    shard(written(tmp_path, "log.tsv", as_text(FRAME)), 2, tmp_path / "out", progress=False)
    change, message = DAMAGE[damage]
    change(tmp_path / "out")
    with pytest.raises(DataError, match=message):
        load_shard(tmp_path / "out", 1)


def test_a_builder_that_was_killed(tmp_path):
    "What it leaves is no set of shards, and is cleared away by the next."
    path = written(tmp_path, "log.tsv", as_text(FRAME))
    script = ("import os, signal, sys\nfrom apr_tutorial import shards\n"
              "shards.write_manifest = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\nshards.shard(sys.argv[1], 2, sys.argv[2], progress=False)")
    done = subprocess.run([sys.executable, "-c", script, path, tmp_path / "out"], cwd=ROOT, capture_output=True, timeout=120)
    assert done.returncode == -9 and list((tmp_path / "out").glob(".sharding-*/shard-*"))
    with pytest.raises(DataError, match="no finished set"):
        open_shards(tmp_path / "out")
    shard(path, 2, tmp_path / "out", progress=False)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["manifest.parquet", "shard-00000.parquet", "shard-00001.parquet"]


def test_without_pyarrow(tmp_path):
    "The package and its command say how to get it; nothing is written."
    path = written(tmp_path, "log.tsv", as_text(FRAME))
    script = "import sys; sys.modules['pyarrow'] = None; sys.argv[0] = 'apr-tutorial'; from apr_tutorial.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", script, "shard", "--dataset", path, "--shards", "2", "--out", tmp_path / "out"], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and "pip install pyarrow" in done.stderr and "Traceback" not in done.stderr and not (tmp_path / "out").exists()


def test_memory(tmp_path):
    "Two hundred thousand lines: without TensorFlow, and in hardly more memory than fifty thousand."
    peaks = [measure("shard", write_log(tmp_path / f"{n}.tsv", n), tmp_path / f"out-{n}") for n in (50_000, 200_000)]
    assert not any(p["tensorflow"] for p in peaks) and peaks[1]["peak_mb"] < 400, peaks


@pytest.mark.long
@pytest.mark.parametrize("timestamps", [True, False])
def test_memory_of_ten_million(timestamps, tmp_path):
    found = measure("shard", write_log(tmp_path / "log.tsv", 10**7, timestamps), tmp_path / "out")
    print(found)
    assert found["peak_mb"] < 1000 and not found["tensorflow"]
    assert sum(entry["users"] for entry in open_shards(tmp_path / "out").facts["shards"]) == 500_000
