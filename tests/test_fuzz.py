"""Generated files and command lines: refused in the words of the contract, or the numbers that a plain oracle finds; never a traceback, never a hang.

`pytest tests/test_fuzz.py --fuzz 20000 --fuzz-seed 42` is the long run: so many inputs, the same ones for a seed."""
import faulthandler
import gzip
import hashlib
import json
import math
import os
import re
import shutil
import signal
import struct
import tempfile
import traceback
import warnings
import zlib
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from apr_tutorial import data as data_module
from apr_tutorial.data import DataError, load_dataset

SHARES = {"files": .5, "folders": .25, "shards": .1, "arrays": .1, "command lines": .05}
DEADLINE = 200  # seconds for one input; the machine may be busy


# The drive

class Hang(BaseException):
    "No `except Exception` takes this for an error of the input."


@contextmanager
def watchdog(stderr):
    "Ends what takes too long: by an exception, and where no Python code comes to its turn by the end of the process, with all stacks shown."
    def bark(*_, again=[]):
        if again:
            raise Hang(f"an input took more than {DEADLINE} seconds, twice over")
        again.append(signal.alarm(DEADLINE))  # the first time the machine may have slept

    faulthandler.dump_traceback_later(4 * DEADLINE, exit=True, file=stderr)
    if hasattr(signal, "SIGALRM"):
        before = signal.signal(signal.SIGALRM, bark)
        signal.alarm(DEADLINE)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        if hasattr(signal, "SIGALRM"):
            signal.alarm(0)
            signal.signal(signal.SIGALRM, before)


@pytest.fixture
def fuzz(pytestconfig, capsys):
    "`fuzz(kind, strategy, check)` gives `check` its share of the inputs, and says what became of them: how many of each word that it returned."
    def drive(kind, strategy, check):
        total, start = pytestconfig.getoption("--fuzz"), pytestconfig.getoption("--fuzz-seed")
        ends = Counter()
        with capsys.disabled():
            stderr = os.dup(2)

        @seed(start)
        @settings(max_examples=max(1, round(SHARES[kind] * total)), database=None, deadline=None, suppress_health_check=list(HealthCheck),
                  phases=[Phase.generate, Phase.shrink])
        @given(strategy)
        def every(drawn):
            with watchdog(stderr):
                ends[check(drawn)] += 1

        every()
        os.close(stderr)
        said = ", ".join(f"{count:,} {end}" for end, count in ends.most_common())
        with capsys.disabled():
            print(f"\n{ends.total():,} {kind}: {said}  [pytest tests/test_fuzz.py --fuzz {total} --fuzz-seed {start}]")
        return ends

    return drive


# Files: rows of cells, most of them good, with a flaw or two

INTEGERS = "0 1 2 7 10 11 30 999 1000000000000000000 9223372036854775807".split()
NAMES = ["a", "b", "B", "é", "日本", "=1+1", "<b>", "a b", " a", "a ", "n/a", "-", "u1", "\ufeffx", "a'b", "#c", "\u2028", "NA", "None", "True", "\U0001f600"]
ODD_IDS = ["", " ", "-1", "3.5", "nan", "inf", "007", "1e3", "9223372036854775808", "1_0", "+1", "٣", "１", "a\0", "\0", "\0a", "a\x7f", "\x85", 'a"b', '"a', '"', "a,b",
           "a\tb", "a\nb", "0x1", "9" * 30, "a", "5", "infinity", "-0", " 1", "1 ", "1\xa0", "\ufeff", "\ufeff1"]
RATINGS = ["5", "4.5", "1", "3", "5", "2", "0", "-1", "1e0", ".5", "5."]
ODD_NUMBERS = ["", " ", "nan", "inf", "-inf", "five", " 5", "5 ", "+3", "0x5", "1_0", "True", "1e400", "1e-400", "-0.0", "٣", "5f", "1,5", "1e", "e5", "--1", "1.2.3", "9" * 25, "NA",
               "9223372036854775808", "18446744073709551615", "-9223372036854775808", "1e18", "5\n", "\ufeff5", "5\0", "1E5", "None", "5%", "1 2", "infinity", "\xa05"]
TIMES = ["1", "2", "3", "10", "1700000000", "1700000000000000000", "1700000000000000001", "1700000000000000002", "-5", "2.5"]
HEADERS = [["user", "item", "rating", "timestamp"], ["userId", "movieId", "rating", "timestamp"], ["USER", "ITEM", "SCORE", "TIME"], ["item", "user", "rating", "timestamp"],
           ["u", "i", "value", "date"], ["user", "item", "timestamp", "rating"], ["a", "b", "stars", "d"], ["user", "item", "r", "t"], ["", "", "count", ""]]
BITS = [b"\0", b'"', b"\t", b",", b"\r", b"\n", b"\xff", b"\xef\xbb\xbf", b" ", b"-", b".", b"0", b"a", b"\xc3", b"\xed\xa0\x80", b"\x1a", b"''", b"\\", b"\n\n", b"\t\t\n", b",,\n"]


def seldom(draw, *others, usual):
    "`usual`, but once in twenty times."
    return draw(st.sampled_from(others)) if draw(st.integers(0, 19)) == 7 else usual


@st.composite
def cells(draw, users, items, width, unique=False):
    "Rows of text."
    row = st.tuples(st.sampled_from(users), st.sampled_from(items), st.sampled_from(RATINGS), st.sampled_from(TIMES))
    rows = draw(st.lists(row, min_size=seldom(draw, 0, usual=2), max_size=6 if unique else 12, unique_by=(lambda r: r[0]) if unique else None))
    rows = [list(r[:width]) for r in rows]
    for _ in range(seldom(draw, 1, 2, usual=0) if rows else 0):
        row, column = draw(st.sampled_from(rows)), draw(st.integers(0, width - 1))
        if column < len(row):
            row[column] = draw(st.sampled_from(ODD_IDS if column < 2 else ODD_NUMBERS))
        if draw(st.integers(0, 9)) == 0:
            row[column:] = draw(st.sampled_from([[], ["5"], ["1", "2", "3"]]))
    return rows


@st.composite
def written(draw, rows, comma, header=None):
    "The rows as bytes: separators, quotes, line ends, marks, encodings; a byte or two changed."
    separator = seldom(draw, "\t" if comma else ",", ";", usual="," if comma else "\t")
    quote = draw(st.sampled_from(["needed", "all", "none"])) if comma else "none"
    end = seldom(draw, "\r\n", "\r", usual="\n")

    def cell(text):
        wanted = quote == "all" or quote == "needed" and re.search(r'[",\r\n]', text)
        return '"' + text.replace('"', '""') + '"' if wanted else text

    lines = [separator.join(map(cell, row)) for row in ([header] if header else []) + rows]
    for _ in range(seldom(draw, 1, 2, usual=0)):
        lines.insert(draw(st.integers(0, len(lines))), draw(st.sampled_from(["", separator, 2 * separator, " ", 3 * separator])))
    text = seldom(draw, "\ufeff", "\ufeff\ufeff", usual="") + end.join(lines) + seldom(draw, "", 2 * end, usual=end)
    content = text.encode(seldom(draw, "utf-16", "latin-1", "cp1252", usual="utf-8"), "replace")
    for _ in range(seldom(draw, 1, 2, usual=0)):
        content = changed(draw, content, BITS)
    return content


def changed(draw, content, bits):
    "Some bytes of the content replaced, added or gone."
    start = draw(st.integers(0, len(content)))
    gone = seldom(draw, 1, 2, 30, usual=0) if draw(st.booleans()) else 1
    return content[:start] + draw(st.sampled_from([*bits, b""])) + content[start + gone:]


@st.composite
def packed(draw, content):
    "As gzip: in one piece or two, cut, with a byte changed, with something after it."
    half = len(content) // 2
    whole = seldom(draw, gzip.compress(content[:half], mtime=0) + gzip.compress(content[half:], mtime=0), content, usual=gzip.compress(content, mtime=0))
    after = seldom(draw, b"\0\0", b"rubbish", b"\x1f\x8b", usual=b"")
    how = seldom(draw, "cut", "change", usual="")
    if how == "cut":
        return whole[:draw(st.integers(0, len(whole)))]
    return (changed(draw, whole, [b"\xff", b"\0", b"\x01"]) if how else whole) + after


@st.composite
def contents(draw, suffix, pools=None, width=None, unique=False, header=False):
    "The bytes of a file with this suffix: a table, or a soup of signs."
    comma = ".csv" in suffix
    if not draw(st.integers(0, 11)):
        content = draw(st.one_of(st.binary(max_size=40), st.text('01a5"\t,\r\n\0 .-é\ufeff', max_size=60).map(str.encode), st.text(max_size=20).map(lambda t: t.encode("utf-8", "replace"))))
    else:
        pools, width = pools or draw(pools_of()), width or draw(st.sampled_from([3, 4]))
        names = seldom(draw, *HEADERS, usual=None) if header or not draw(st.integers(0, 15)) else None
        content = draw(written(draw(cells(*pools, width, unique)), comma, names and names[:width]))
    return draw(packed(content)) if suffix.endswith(".gz") else content


def pools_of():
    "The users and items of a file: few of one kind, so that they meet again."
    pool = st.sampled_from([INTEGERS, NAMES]).flatmap(lambda ids: st.integers(3, len(ids)).map(lambda n: ids[:n]))
    return st.tuples(pool, pool)


@st.composite
def files(draw):
    suffix = draw(st.sampled_from([".tsv", ".csv", ".csv", ".tsv.gz", ".csv.gz"]))
    return "log" + suffix, draw(contents(suffix, header=True)), draw(st.sampled_from([0, 42]))


@st.composite
def folders(draw):
    "Names and bytes of both files."
    pools = draw(pools_of())
    found = {}
    for which in ("training", "test"):
        width, suffix = draw(st.sampled_from([3, 4])), seldom(draw, ".tsv.gz", usual=".tsv")
        if draw(st.integers(0, 19)):
            other = draw(pools_of()) if not draw(st.integers(0, 9)) else pools
            found[f"{which}set{suffix}"] = draw(contents(suffix, other, width, unique=which == "test"))
    return found


# The oracle: the data format of the command line's contract, character by character. It shares no code with the package.

class Refused(Exception):
    "The oracle's word for DataError."


def unpacked(content):
    "gzip: members one after another, then zeros."
    text = b""
    if not content:
        raise Refused("nothing")
    while content:
        member = zlib.decompressobj(wbits=31)
        try:
            text += member.decompress(content)
        except zlib.error as error:
            raise Refused("gzip") from error
        if not member.eof:
            raise Refused("gzip is cut")
        content = member.unused_data.lstrip(b"\0")
    return text


def records(text, comma):
    "Lines of fields. With commas, a field that begins with a quote goes on to the next one that is alone, whatever stands between."
    rows, row, field, quoted, n = [], [], "", False, 0
    while n < len(text):
        sign, twice = text[n], text[n:n + 2] == '""'
        if quoted:
            if sign == '"' and not twice:
                quoted = False
            else:
                field += sign
                n += twice
        elif sign == '"' and comma and field == "" and (n == 0 or text[n - 1] in ",\r\n"):
            quoted = True
        elif sign == ("," if comma else "\t"):
            row, field = [*row, field], ""
        elif sign in "\r\n":
            n += text[n:n + 2] == "\r\n"
            rows, row, field = [*rows, [*row, field]], [], ""
        else:
            field += sign
        n += 1
    if quoted:
        raise Refused("an open quote")
    return [*rows, [*row, field]] if row or field or text[-1:] in ('"', "") else rows


def number(text):
    "int or float."
    if not re.fullmatch(r"[ ]*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?[ ]*", text, re.ASCII):
        raise Refused(f"no number: {text!r}")
    value = int(text) if re.fullmatch(r"[+-]?\d+", text.strip()) else float(text)
    if not math.isfinite(float(value)):
        raise Refused("infinite")
    return value


def column(texts):
    "Numbers that can be compared: exact where all are whole and of 64 bits."
    values = [number(t) for t in texts]
    if all(isinstance(v, int) for v in values) and (all(-2**63 <= v < 2**63 for v in values) or all(0 <= v < 2**64 for v in values)):
        return values
    return [float(v) for v in values]


def rows_of(path, header):
    "(user, item, rating, time or None) of each line."
    content = path.read_bytes()
    try:
        text = (unpacked(content) if path.name.endswith(".gz") else content).decode("utf-8")
    except UnicodeDecodeError as error:
        raise Refused("not UTF-8") from error
    lines = records(text.removeprefix("\ufeff"), ".csv" in path.name)
    if not lines or len(lines[0]) not in (3, 4) or max(map(len, lines)) > len(lines[0]):
        raise Refused("columns")
    lines = [line + [""] * (len(lines[0]) - len(line)) for line in lines if any(line)]
    words = [("user",), ("item", "movie", "product"), ("rating", "score", "stars", "value", "count"), ("time", "date")]
    if header and lines and any(word in lines[0][2].lower() for place in words for word in place):
        if any(word in name.lower() for n, name in enumerate(lines[0]) for m, place in enumerate(words) for word in place if n != m):
            raise Refused("another order")
        del lines[0]
    if not lines:
        raise Refused("no rows")
    users, items, *numbers = zip(*lines)
    ratings, *times = map(column, numbers)
    return list(zip(users, items, ratings, *times or [[None] * len(users)]))


def sorted_ids(texts):
    "What they are to the program, in order."
    def kind(text):
        if re.fullmatch("0|[1-9][0-9]*", text) and int(text) < 2**63:
            return int
        try:
            float(text)
        except ValueError:
            if text.strip() and not any(c < " " or c == "\x7f" for c in text):
                return str
        raise Refused(f"id {text!r}")
    kinds = {kind(text) for text in texts}
    if len(kinds) != 1:
        raise Refused("kinds of ids")
    return sorted(map(kinds.pop(), set(texts)))


def latest(rows, dropped):
    "The rows that count, in the order of the file: rating above 0, and of each pair the latest, the last of equals."
    chosen = {}
    for n, (user, item, rating, time) in enumerate(rows):
        dropped["rating <= 0"] += rating <= 0
        if rating > 0:
            dropped["duplicates"] += (user, item) in chosen
            before = chosen.get((user, item))
            if before is None or time is None or time >= rows[before][3]:
                chosen[user, item] = n
    return [rows[n] for n in sorted(chosen.values())]


def apart(rows, start):
    "Training and test rows: each user's latest, the last of equals, where there are two; without times the last of a random order."
    order = range(len(rows)) if rows and rows[0][3] is not None else np.random.default_rng(start).permutation(len(rows))
    held, many = {}, Counter(row[0] for row in rows)
    for n in order:
        user, time = rows[n][0], rows[n][3]
        if many[user] > 1 and (user not in held or time is None or time >= rows[held[user]][3]):
            held[user] = n
    return [row for n, row in enumerate(rows) if n not in held.values()], [rows[n] for n in sorted(held.values())]


def oracle(paths, start=42):
    "What `load_dataset` must find in one file, or in a training file and a test file."
    tables = [rows_of(path, header=len(paths) == 1) for path in paths]
    ids = [sorted_ids([row[n] for rows in tables for row in rows]) for n in range(2)]
    dropped = dict.fromkeys(("rating <= 0", "duplicates"), 0)
    tables = [latest(rows, dropped) for rows in tables]
    train, test = tables if len(tables) == 2 else apart(tables[0], start)
    own = [type(of[0]) for of in ids]
    pairs, held = ([tuple(kind(text) for kind, text in zip(own, row)) for row in rows] for rows in (train, test))
    if not train or not test or len({user for user, _ in held}) < len(held) or set(pairs) & set(held):
        raise Refused("no training or test item, or two, or one that is both")
    times = [row[3] for row in train]
    rank = {n: r for r, n in enumerate(sorted(range(len(train)), key=lambda n: times[n]), 1)} if times[0] is not None else None
    order = sorted(range(len(train)), key=lambda n: pairs[n])
    return SimpleNamespace(user_ids=ids[0], item_ids=ids[1], pairs=[pairs[n] for n in order], order=rank and [rank[n] for n in order], test=sorted(held), dropped=dropped,
                           sources={path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths})


def as_found(data):
    "The same of what the package found."
    pairs, test = (list(zip(data.user_ids[u].tolist(), data.item_ids[i].tolist())) for u, i in ((data.users, data.items), (data.test_users, data.test_items)))
    return SimpleNamespace(user_ids=data.user_ids.tolist(), item_ids=data.item_ids.tolist(), pairs=pairs, order=None if data.order is None else data.order.tolist(),
                           test=test, dropped=data.dropped, sources=data.sources)


def in_place(order, pairs):
    "Ranks within each user's pairs, from ranks over all."
    return order and [sum(other <= mine for other, (u, _) in zip(order, pairs) if u == user) for mine, (user, _) in zip(order, pairs)]


def same_as_oracle(read, paths, start=42, within=False):
    "`read(seed)` and the oracle: both refuse, or both find the same; of warnings only the two that the reader has, once each."
    try:
        wanted = oracle(paths, start)
        wanted.order = in_place(wanted.order, wanted.pairs) if within else wanted.order
    except Refused as refused:
        wanted = refused
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            found = as_found(read(start))
        except DataError as error:
            assert isinstance(wanted, Refused), f"refused in vain: {error}"
            assert not said and "\n" not in str(error).strip()
            return "refused"
    assert not isinstance(wanted, Refused), f"read, though {wanted}: {found}"
    assert found == wanted
    kinds = [re.search("no training item|every item", str(w.message)) for w in said]
    assert all(kinds) and len({k[0] for k in kinds}) == len(kinds), [str(w.message) for w in said]
    return "read"


def test_a_file(fuzz, tmp_path):
    def check(drawn):
        name, content, start = drawn
        (tmp_path / name).write_bytes(content)
        return same_as_oracle(lambda n: load_dataset(tmp_path / name, n), [tmp_path / name], start)

    assert fuzz("files", files(), check)["read"]


def test_a_folder(fuzz, tmp_path):
    def check(drawn):
        shutil.rmtree(tmp_path / "split", ignore_errors=True)
        (tmp_path / "split").mkdir()
        for name, content in drawn.items():
            (tmp_path / "split" / name).write_bytes(content)
        paths = [tmp_path / "split" / name for name in drawn]
        if len(paths) < 2:
            with pytest.raises(DataError):
                load_dataset(tmp_path / "split")
            return "refused"
        return same_as_oracle(lambda n: load_dataset(tmp_path / "split"), paths)

    assert fuzz("folders", folders(), check)["read"]


def test_shards(fuzz, tmp_path, monkeypatch):
    "The other reader, in pieces of two lines or three or many: the same as the oracle but for ranks in time, which are those within a user's pairs."
    pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install pyarrow")
    from apr_tutorial import shards

    def check(drawn):
        (name, content, start), lines = drawn
        monkeypatch.setattr(shards, "LINES", lines)
        (tmp_path / name).write_bytes(content)
        shutil.rmtree(tmp_path / "out", ignore_errors=True)

        def read(n):
            shards.shard(tmp_path / name, 1, tmp_path / "out", n, progress=False)
            data = shards.load_shard(tmp_path / "out", 0)
            return replace(data, order=data.order if data.order is None else np.array(in_place(data.order.tolist(), list(zip(data.users.tolist(), data.items.tolist())))))

        found = same_as_oracle(read, [tmp_path / name], start, within=True)
        assert (found == "read") == (tmp_path / "out").exists()
        return found

    assert fuzz("shards", st.tuples(files(), st.sampled_from([2, 3, 1000])), check)["read"]


# Arrays: valid files with some bytes changed

@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    "Good data with two kinds of ids, factors of them in small whole numbers (their scores are exact, and often equal), weights, a checkpoint."
    from apr_tutorial.model import BPRMF, Factors, fit, save_weights
    folder, rng = tmp_path_factory.mktemp("shelf"), np.random.default_rng(0)
    rows = [(u, i, n) for u in range(12) for n, i in enumerate(rng.permutation(20)[:7])]
    (folder / "log.tsv").write_text("".join(f"{10 * u}\t{1000 + 2 * i}\t5\t{n}\n" for u, i, n in rows))
    (folder / "names.csv").write_text("user,item,rating\n" + "".join(f'=u{u},"<b>{i}",5\n' for u, i, n in rows))
    (folder / "split").mkdir()
    for which, chosen in {"training": lambda n: n < 6, "test": lambda n: n == 6}.items():
        (folder / "split" / f"{which}set.tsv").write_text("".join(f"{10 * u}\t{1000 + 2 * i}\t5\n" for u, i, n in rows if chosen(n)))
    p, q = (rng.integers(-3, 4, (n, 3)).astype(np.float32) for n in (12, 20))
    for name, array in dict(P=p, Q=q, b=q[:, 0]).items():
        np.save(folder / f"{name}.npy", array)
    for name, kind in dict(double=">f8", short="<i2", half="<f2", bytes="u1").items():
        np.save(folder / f"{name}.npy", (p + 3).astype(kind))
    np.save(folder / "columns.npy", np.asfortranarray(p))
    (folder / "ids.txt").write_text("".join(f"{10 * u}\n" for u in reversed(range(12))))
    data = load_dataset(folder / "log.tsv")
    save_weights(folder / "W.npz", Factors(p, q, q[:, 0]), data)
    save_weights(folder / "L.npz", Factors(np.tile(p, 200), np.tile(q, 200), q[:, 0]), data)  # larger than what is read at a time
    save_weights(folder / "N.npz", Factors(p, q), load_dataset(folder / "names.csv"))
    fit(BPRMF(12, 20, 3), data, epochs=1, optimizer="sgd", batch_size=64, progress=False, checkpoint=folder / "C.npz")
    (folder / "done").mkdir()
    (folder / "done" / "report.json").write_text("{}")
    return folder


ARRAYS = ["P.npy", "double.npy", "short.npy", "half.npy", "bytes.npy", "columns.npy", "W.npz", "L.npz", "C.npz"]
SIGNS = [bytes([n]) for n in (0, 1, 2, 4, 8, 127, 128, 255)] + [c.encode() for c in "0 1 2 3 4 8 9 < > | f i u b O S c e , ( ) [ { ' } - # \n".split(" ")] + [b"<f2", b"<i1", b"True", b"1, ", b"PK\x05\x06"]

SWAPS = [(b"'<f4'", b"'<f2'"), (b"'<f4'", b"'<i2'"), (b"'<f4'", b"'>f4'"), (b"False", b"True "), (b"(12, 3)", b"(3, 12)"), (b"(12, 3)", b"(12, 1)"), (b"(12, 3)", b"(9, 4) "), (b"600)", b"500)"), (b"'<i8'", b"'<u8'"),
         (b"factors", b"Factors"), (b"_bias", b"_Bias"), (b"sha256", b"sha265"), (b'"epoch": 1', b'"epoch": 2'), (b"user_ids", b"item_ids"), (b"PK\x01\x02", b"PK\x01\x03")]


@st.composite
def changes(draw):
    "Which file, and what happens to it: (place as a share or in its first bytes, how many bytes go, which come), or (bytes, the first of which become these)."
    change = st.tuples(st.one_of(st.integers(0, 200), st.floats(0, 1)), st.sampled_from([1, 1, 1, 0, 2, 3, 60]), st.sampled_from([*SIGNS, b""]))
    made = draw(st.one_of(st.lists(change, max_size=3), st.lists(st.sampled_from(SWAPS), min_size=1, max_size=2)))
    return draw(st.sampled_from(ARRAYS)), made, seldom(draw, .5, .99, usual=1)


def apply(content, made, share):
    "The content after the changes, and then its first part."
    for place, *gone, come in made:
        if isinstance(place, bytes):
            content = content.replace(place, come, 1)
        else:
            place = int(place * len(content)) if isinstance(place, float) else place
            content = content[:place] + come + content[place + gone[0]:]
    return content[:int(share * len(content))]


def plain_array(content):
    "Shape and numbers of a `.npy` file, by the description of the format; None where it is of a kind that only NumPy knows."
    import ast
    assert content[:6] == b"\x93NUMPY" and content[6] in (1, 2, 3)
    size, start = (struct.unpack("<H", content[8:10])[0], 10) if content[6] == 1 else (struct.unpack("<I", content[8:12])[0], 12)
    header = ast.literal_eval(content[start:start + size].decode("latin1").strip())
    kind = re.fullmatch(r"([<>|=]?)([fiu])([1248])", str(header["descr"]))
    if kind is None:
        return None
    letter = {"f2": "e", "f4": "f", "f8": "d", "i1": "b", "i2": "h", "i4": "i", "i8": "q", "u1": "B", "u2": "H", "u4": "I", "u8": "Q"}[kind[2] + kind[3]]
    numbers = [n for n, in struct.iter_unpack((">" if kind[1] == ">" else "<") + letter, content[start + size:])]
    return np.array(numbers, float).reshape(header["shape"], order="F" if header["fortran_order"] else "C")


def test_arrays(fuzz, shelf, tmp_path):
    "A changed file is refused, or is what its own header says (.npy), or holds what the whole one did (.npz, which has checksums)."
    from apr_tutorial.audit import read_array
    from apr_tutorial.model import load_weights, read_arrays, read_checkpoint
    data = load_dataset(shelf / "log.tsv")

    def contents_of(path):
        if path.suffix == ".npy":
            return [read_array(path)]
        if path.name == "C.npz":
            arrays, *rest = read_checkpoint(path)
            return [*arrays.values(), np.array(str(rest))]
        model = load_weights(path, data)
        return [*read_arrays(path, "user_factors", "item_factors", "item_bias", "user_ids", "item_ids").values(), model.user_factors, model.item_factors, model.item_bias]

    def check(drawn):
        name, made, share = drawn
        whole = (shelf / name).read_bytes()
        content = apply(whole, made, share)
        (tmp_path / name).write_bytes(content)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            try:
                found = contents_of(tmp_path / name)
            except DataError as error:
                assert content != whole, error
                return "refused"
        assert len(said) <= 1, said
        if name.endswith(".npy"):
            wanted = plain_array(content)
            if wanted is None:
                assert found[0].dtype.kind != "O"
                return "read"
            assert np.array_equal(found[0], wanted, equal_nan=True) and found[0].shape == wanted.shape
        else:
            assert all(np.array_equal(a, b) and a.dtype == b.dtype for a, b in zip(found, contents_of(shelf / name), strict=True))
        return "read"

    assert fuzz("arrays", changes(), check)["read"]


# Command lines: words of the contract, good and bad, on good files, changed ones and generated ones

COMMON = {"--k": ("1 3 2,5 13 5,1,5".split(), "0 -1 x 14 999 1,, nan".split()), "--attacks": (["fgsm", "random", "fgsm,random", "pgd"], ["fgms", "", "fgsm,,pgd"]),
          "--attack-epsilons": ("1 0 0.5,2 0,1 1e3".split(), "-1 nan inf 1e-30 1e+30 x".split()), "--seed": ("0 7 42".split(), "-1 1.5 x 99999999999".split())}
OPTIONS = {
    "run": COMMON | {"--epochs": (["1"], "0 -1 x 1e3".split()), "--adversarial-epochs": (["1"], ["0"]), "--embedding-size": ("2 4".split(), "0 x 99999999999".split()),
                     "--batch-size": ("64 512".split(), ["0"]), "--learning-rate": ("0.05 0.5".split(), "0 -1 nan inf 1e30".split()), "--optimizer": (["sgd", "adagrad"], ["adam"]),
                     "--reg": (["0", "0.1"], ["-1", "nan"]), "--epsilon": (["0.5", "0"], ["-1", "nan", "1e30"]), "--adv-reg": (["1", "0"], ["-1"]), "--seeds": (["1"], ["0"]),
                     "--defences": (["apr"], ["vaccine", "apr,"]), "--select": (["last"], ["test", "validation,last"]), "--patience": ([], ["0", "3"]), "--checkpoint-every": (["1"], ["0"]),
                     "--strategy": ([], ["mirrored"]), "--exchange-every": ([], ["1"])},
    "audit": COMMON | {"--user-ids": (["ids.txt"], ["P.npy", "log.tsv", "absent"])},
    "recommend": {"--k": ("1 5 20".split(), "0 21 -1 x 1.5".split()), "--attack": (["none"], ["fgms", "pgd"]), "--epsilon": ([], "1 -1 nan".split()), "--seed": COMMON["--seed"]},
    "datasets": {}, "": {}}
SWITCHES = {"run": ["--item-bias", "--no-control", "--control", "--quiet", "--no-refit", "--resume"], "audit": ["--relative", "--quiet"]}
DATA = (["log.tsv", "names.csv", "split", "./log.tsv", "made"], ["absent", "", "movielens-5oo", "movielens-500", "P.npy", "done", "https://example.org/x.csv", "../../etc/passwd", "synthetic", "x" * 300])
OUT = (["out", "deep/er", "out é", "-o"], ["done", "P.npy", "P.npy/x", "", "x" * 300])
ODD = ["--help", "--", "-x", "--no-such", "extra", "", "--seed", "é", "--=", "--out=", "-", "--quiet=1", "@log.tsv", "--k="]
NEEDED = {"run": {"--epochs": "1", "--adversarial-epochs": "1", "--embedding-size": "2", "--attacks": "fgsm"}, "audit": {"--attacks": "fgsm"}}


@st.composite
def calls(draw):
    "A command, its options, and the files that it is to find: those made for it and the change of one that is there."
    command = seldom(draw, "", "datasets", "train", "Run", usual=draw(st.sampled_from(["run", "audit", "audit", "recommend", "recommend"])))
    known = OPTIONS.get(command, {})

    def value(good, bad):
        return seldom(draw, *bad, usual=draw(st.sampled_from(good))) if good else draw(st.sampled_from(bad))

    words = dict(NEEDED.get(command, {}))
    dataset = value(*DATA)
    if known:
        words |= {"--dataset": dataset, "--out": value(*OUT)}
    if command == "audit" and draw(st.booleans()):
        words |= {"--user-factors": seldom(draw, "Q.npy", "double.npy", "absent", usual="P.npy"), "--item-factors": seldom(draw, "P.npy", "W.npz", usual="Q.npy")}
        words |= {"--item-bias": seldom(draw, "P.npy", usual="b.npy")} if draw(st.booleans()) else {}
    elif command in ("audit", "recommend"):
        words["--weights"] = seldom(draw, "W.npz", "C.npz", "P.npy", "", usual="N.npz" if dataset == "names.csv" else draw(st.sampled_from(["W.npz", "L.npz"])))
    for name in draw(st.lists(st.sampled_from(sorted(n for n, (good, _) in known.items() if good) or ["--dataset"]), max_size=3, unique=True)) if known else ():
        words[name] = value(*known[name]) if name in known else dataset
    if known and seldom(draw, True, usual=False):
        name = draw(st.sampled_from(sorted(known)))
        words[name] = draw(st.sampled_from(known[name][1]))
    given = [word for pair in words.items() for word in pair]
    given += draw(st.lists(st.sampled_from(SWITCHES[command]), max_size=2, unique=True)) if command in SWITCHES else []
    if seldom(draw, True, usual=False):
        place = draw(st.integers(0, len(given)))
        given[place:place + draw(st.integers(0, 1))] = [draw(st.sampled_from(ODD))]
    made = draw(files()) if dataset == "made" else None
    if made:
        given = [made[0] if word == "made" else word for word in given]
    return [command] * bool(command) + given, made, draw(changes()) if seldom(draw, True, usual=False) else None


def snapshot(folder):
    "Every file and folder below, with its content."
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}


def last(given, option, default=None):
    "The value that counts: of an option given twice the last."
    return ([default] + [after for word, after in zip(given, given[1:]) if word == option])[-1]


def read_with_oracle(given):
    "What the oracle finds in the data set of a call."
    path = Path(last(given, "--dataset"))
    paths = [path / f"{which}set.tsv" for which in ("training", "test")] if path.is_dir() else [path]
    return oracle(paths, int(last(given, "--seed", 42)))


def scores_of(data, p, q, b):
    "User id, scores [I] in float64, which items are candidates, place of the test item (None where there is none)."
    place = {item: n for n, item in enumerate(data.item_ids)}
    test = dict(data.test)
    for user, row in zip(data.user_ids, np.asarray(p, float), strict=True):
        free = np.ones(len(place), bool)
        free[[place[i] for u, i in data.pairs if u == user]] = False
        yield user, np.asarray(q, float) @ row + (0 if b is None else np.asarray(b, float)), free, place[test[user]] if user in test else None


def metrics_of(data, p, q, b, k, slack):
    "Bounds of HR, nDCG and AUC, user by user: scores closer than `slack` may have either order, equal ones count against the model."
    found = []
    for _, scores, free, own in scores_of(data, p, q, b):
        if own is not None:
            found.append([(int((scores[free] >= scores[own] + way * slack).sum()) - (way < 1 or not slack), int(free.sum())) for way in (-1, 1)])
    worst, best = ([{"hr": r < k, "ndcg": (r < k) / math.log2(r + 2), "auc": 1 - r / max(n - 1, 1)} for r, n in rows] for rows in zip(*found))
    return {name: [sum(row[name] for row in rows) / len(rows) for rows in (worst, best)] for name in ("hr", "ndcg", "auc")}


def check_report(given, folder, command):
    "The clean rows of a report are those of the oracle; a budget of 0 changes nothing; the others are numbers that may be."
    report, data = json.loads((folder / "report.json").read_text(encoding="utf-8")), read_with_oracle(given)
    size = report["dataset"]
    assert [size[n] for n in ("num_users", "num_items", "num_train", "num_test")] == [len(data.user_ids), len(data.item_ids), len(data.pairs), len(data.test)]
    weights = dict(np.load(folder / "weights-bpr-mf.npz" if command == "run" else last(given, "--weights"))) if command == "run" or "--weights" in given else None
    if weights is None:
        order = [[int(i) for i in Path("ids.txt").read_text().split()].index(u) for u in data.user_ids] if "--user-ids" in given else slice(None)
        p, q, b = np.load(last(given, "--user-factors"))[order], np.load(last(given, "--item-factors")), np.load("b.npy") if "--item-bias" in given else None
    else:
        assert weights["user_ids"].tolist() == data.user_ids and weights["item_ids"].tolist() == data.item_ids
        p, q, b = weights["user_factors"], weights["item_factors"], weights.get("item_bias")
    slack = 1e-5 * np.abs(p).max() * np.abs(q).max() if command == "run" or "--relative" in given else 0
    clean = {}
    for row in report["results"]:
        assert all(math.isfinite(row[n]) for n in ("hr", "ndcg", "auc", "coverage", "arp")) and 0 <= row["ndcg"] <= row["hr"] <= 1 and 0 <= row["auc"] <= 1
        if row["attack"] == "none" and row["model"] in ("bpr-mf", "audited"):
            for name, (low, high) in metrics_of(data, p, q, b, row["k"], slack).items():
                assert low - 1e-9 <= row[name] <= high + 1e-9, (row, name, low, high)
        key = row["model"], row["k"], row["seed"]
        clean.setdefault(key, row)
        if row["epsilon"] == 0:
            assert all(row[n] == clean[key][n] for n in ("hr", "ndcg", "auc", "coverage", "arp"))
    assert len((folder / "metrics.csv").read_text().splitlines()) == 1 + len(report["results"]) >= 2


def check_lists(given, path):
    "The lists are those of the oracle, equal scores by row; after an attack only their form is known."
    data, weights = read_with_oracle(given), dict(np.load(last(given, "--weights")))
    k = min(int(last(given, "--k", min(100, len(data.item_ids)))), len(data.item_ids))
    lines = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]
    for user, scores, free, _ in scores_of(data, weights["user_factors"], weights["item_factors"], weights.get("item_bias")):
        wanted = sorted(np.flatnonzero(free), key=lambda n: (-scores[n], n))[:k]
        mine, lines = lines[:len(wanted)], lines[len(wanted):]
        assert [row[0] for row in mine] == [str(user)] * len(wanted)
        if last(given, "--attack", "none") == "none":
            assert [(item, float(score)) for _, item, score in mine] == [(str(data.item_ids[n]), scores[n]) for n in wanted]
        assert not {row[1] for row in mine} & {str(data.item_ids[n]) for n in np.flatnonzero(~free)} and mine == sorted(mine, key=lambda row: -float(row[2]))
    assert not lines


@pytest.fixture
def desk(shelf, tmp_path, monkeypatch):
    "A copy of the good files to work in, and no network."
    folder = tmp_path / "desk"
    shutil.copytree(shelf, folder)
    monkeypatch.chdir(folder)
    for name in ("APR_TUTORIAL_DATA", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"MPLBACKEND": "Agg", "APR_TUTORIAL_CACHE": str(tmp_path / "cache"), "https_proxy": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(data_module, "WAITS", ())
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def test_command_lines(fuzz, desk):
    "A code of the contract, no traceback, no file under a final name unless the code is 0, and then the numbers of the oracle."
    import apr_tutorial.audit, apr_tutorial.comparison, apr_tutorial.reproduction  # noqa: F401, E401: loaded before the clock runs
    from typer.testing import CliRunner

    from apr_tutorial.cli import app
    good = snapshot(desk)

    def check(drawn):
        given, made, damage = drawn
        if made:
            (desk / made[0]).write_bytes(made[1])
        if damage:
            name, changes_made, share = damage
            (desk / name).write_bytes(apply(good[name], changes_made, share))
        before = snapshot(desk)
        try:
            return judge(given, before, CliRunner().invoke(app, given))
        finally:
            for name in sorted(snapshot(desk), reverse=True):
                path = desk / name
                if name not in good and (path.is_file() or path.is_dir()):
                    path.unlink() if path.is_file() else path.rmdir()
            if damage:
                (desk / damage[0]).write_bytes(good[damage[0]])

    def judge(given, before, done):
        assert done.exception is None or isinstance(done.exception, SystemExit), "".join(traceback.format_exception(done.exception))
        assert done.exit_code in (0, 2, 3, 4) and "Traceback" not in done.output, done.output
        after = snapshot(desk)
        assert before.items() <= after.items()
        new = [name for name, content in after.items() if name not in before and content is not None]
        assert not [name for name in new if name.endswith((".partial", ".lock"))]
        if done.exit_code:
            assert not [name for name in new if done.exit_code == 2 or "checkpoints/" not in name], new
        elif new:
            out = Path(last(given, "--out"))
            check_lists(given, out) if given[0] == "recommend" else check_report(given, out, given[0])
        return f"{given[0]} done" if new else "help" if not done.exit_code else f"exit {done.exit_code}"

    ends = fuzz("command lines", calls(), check)
    assert any(name.endswith("done") for name in ends) and ends["exit 2"]
