"""Bad input at every entry point, as one table: what is refused, how, in which words, and that no file is left; then what is odd and right."""
import gzip
import importlib
import json
import os
import pickle
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import traceback
import warnings
import zipfile
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Callable, NamedTuple

import numpy as np
import pandas as pd
import pytest

from apr_tutorial.data import DataError, interactions, load_dataset

posix = pytest.mark.skipif(os.name != "posix", reason="this platform lacks the means")
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux")
root = pytest.mark.skipif(getattr(os, "geteuid", lambda: 1)() != 0, reason="only root may mount a small disk; the limit of a file's size stands for it")
USERS, ITEMS = 12, 20


class Case(NamedTuple):
    "`entry` called with `given`, in a folder with the good files and `files`, ends with `expected`: an exit code, or an exception."
    id: str
    entry: str
    given: list | Callable
    expected: int | type
    message: str  # a regular expression
    files: dict = {}
    around: Callable = nullcontext
    marks: tuple = ()


# Files: what is good, and how the bad ones are made

def rows(users=USERS):
    "Seven items of 20 for each user, the latest of which is held out."
    rng = np.random.default_rng(0)
    return [f"{10 * u}\t{1000 + 2 * i}\t5\t{n}" for u in range(users) for n, i in enumerate(rng.permutation(ITEMS)[:7])]


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    "Good files: a log, a published split, factors, weights, and checkpoints of one epoch."
    from apr_tutorial.model import BPRMF, Factors, fit, save_weights
    folder, rng = tmp_path_factory.mktemp("shelf"), np.random.default_rng(0)
    (folder / "log.tsv").write_text("\n".join(rows()) + "\n")
    (folder / "split").mkdir()
    (folder / "split" / "trainingset.tsv").write_text("\n".join(r for n, r in enumerate(rows()) if n % 7 < 6) + "\n")
    (folder / "split" / "testset.tsv").write_text("\n".join(r for n, r in enumerate(rows()) if n % 7 == 6) + "\n")
    data = load_dataset(folder / "log.tsv")
    assert (data.num_users, data.num_items) == (USERS, ITEMS)
    p, q = rng.standard_normal((USERS, 4)), rng.standard_normal((ITEMS, 4))
    for name, array in dict(P=p, Q=q, b=q[:, 0]).items():
        np.save(folder / f"{name}.npy", array)
    save_weights(folder / "W.npz", Factors(p, q), data)
    fit(BPRMF(USERS, ITEMS, 4), data, checkpoint=folder / "C.npz", **QUICK)
    return folder


@pytest.fixture
def desk(shelf, monkeypatch):
    "A copy of the good files to work in, where others may look too; temporary files go there."
    folder = Path(tempfile.mkdtemp())
    shutil.copytree(shelf, folder, dirs_exist_ok=True)
    folder.chmod(0o777)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setenv("MPLBACKEND", "Agg")
    yield folder
    shutil.rmtree(folder)


def put(files):
    "Write `files`: name -> text, bytes, an array, or a function of the path."
    for name, content in files.items():
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        if callable(content):
            content(path)
        elif isinstance(content, np.ndarray):
            np.save(path, content, allow_pickle=True)
        else:
            path.write_bytes(content.encode() if isinstance(content, str) else content)


def snapshot(folder):
    "Every file and folder below, with its content."
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}


def npy(header, content=b"", version=1):
    "The bytes of a `.npy` file with this header."
    size = struct.pack("<H" if version == 1 else "<I", len(header))
    return b"\x93NUMPY" + bytes([version, 0]) + size + header.encode() + content


def described(shape, descr="'<f4'"): return f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n"


def npz(**arrays): return lambda path: np.savez(path, **arrays)


def weights(**other):
    "The good weights with these arrays instead; None takes one away."
    return lambda path: np.savez(path, **{k: v for k, v in (dict(np.load("W.npz")) | other).items() if v is not None})


def checkpoint(note=None, **other):
    "The good checkpoint with these arrays, and these entries of its note, instead; its checksum is right."
    def write(path):
        from apr_tutorial.model import fingerprint
        arrays = dict(np.load("C.npz"))
        if note is not None:
            arrays["note"] = np.array(json.dumps(json.loads(str(arrays["note"])) | note) if isinstance(note, dict) else note)
        arrays = arrays | other
        del arrays["sha256"]
        np.savez(path, sha256=np.array("" if "factors" in other and other["factors"].dtype == object else fingerprint(arrays)), **arrays)
    return write


def narrowed(path):
    "Larger than what is read at a time, so that a header that promises fewer bytes is believed."
    np.savez(path, user_factors=np.ones((USERS, 500), np.float32), item_factors=np.ones((ITEMS, 500), np.float32))
    path.write_bytes(path.read_bytes().replace(b"<f4", b"<f2"))


def cut(source, share=.5): return lambda path: path.write_bytes(Path(source).read_bytes()[:int(share * Path(source).stat().st_size)])


def folder_at(path): path.mkdir()


def pipe(path): os.mkfifo(path)


def needs(files): return (posix,) if any(content is pipe for content in files.values()) else ()


def loop(path): path.symlink_to(path.name)


class Payload:
    "Unpickled, it makes a file."
    def __reduce__(self): return Path.touch, (Path("harmed"),)


def payloads(size):
    array = np.empty(size, object)
    array[:] = Payload()
    return array


def packed(text, broken=None):
    "gzip of a text, with one byte changed."
    content = bytearray(gzip.compress(text.encode()))
    if broken is not None:
        content[broken] ^= 0xff
    return bytes(content)


def bomb(path):
    "200 MB of one digit in 200 kB."
    with gzip.open(path, "wb", compresslevel=1) as file:
        for _ in range(200):
            file.write(b"7" * 2**20)


# Surroundings that fail

@contextmanager
def small_files():
    "No file may grow beyond 1000 bytes: as on a full disk, with another word for it."
    import resource
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def mounted(options, filler=b""):
    "A disk at `disk`, with something on it."
    os.mkdir("disk")
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", "disk"], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"root may not mount here: {done.stderr.strip()}")
    try:
        if filler:
            Path("disk/filler").write_bytes(filler)
        yield
        assert [p.name for p in Path("disk").rglob("*") if p.is_file()] in ([], ["filler"])
    finally:
        subprocess.run(["umount", "disk"], check=True)
        os.rmdir("disk")


def full_disk(): return mounted("size=4k", bytes(4096))


def read_only_disk(): return mounted("ro")


@contextmanager
def as_nobody():
    "Root may do all, so it becomes nobody for a while; files of mode 0 can't be read and the folder `locked` not be written."
    os.mkdir("locked", 0o500)
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def secret(content):
    def write(path):
        path.write_text(content)
        path.chmod(0)
    return write


# The table. First what readers refuse: the same words from the function and from each command.

GOOD = "0\t1\t5\n0\t2\t5\n1\t1\t5\n1\t3\t5\n"
LOG = "\n".join(rows()) + "\n"


def split(train, test=GOOD): return {"bad/trainingset.tsv": train, "bad/testset.tsv": test}


READ = [  # id, data set, message, files
    ("missing file", "absent.csv", r"dataset 'absent.csv': neither a file nor a folder, nor one of movielens-500", {}),
    ("no name", "", r"dataset '': neither", {}),
    ("name like a public one", "movielens-5oo", r"nor one of movielens-500", {}),
    ("name in capitals", "MovieLens-500", r"nor one of movielens-500", {}),
    ("name with ..", "movielens-500/../../movielens-500", r"dataset 'movielens-500/\.\./\.\./movielens-500': neither", {}),
    ("path with .. to no data", "../../../../../../../etc/hostname", r"etc/hostname", {}),
    ("URL", "https://example.org/ratings.csv", r"dataset 'https://example.org/ratings.csv': neither", {}),
    ("file URL", "file:///etc/hostname", r"dataset 'file:///etc/hostname': neither", {}),
    ("name with NUL", "log.tsv\0.csv", r"neither", {}),
    ("endless name", "x" * 5000, r"dataset 'xxx", {}),
    ("device", "/dev/null", r"neither", {}),
    ("pipe", "pipe.csv", r"dataset 'pipe.csv': neither", {"pipe.csv": pipe}),
    ("link to itself", "loop.csv", r"dataset 'loop.csv': neither", {"loop.csv": loop}),
    ("folder that is empty", "bad", r"bad: no trainingset.tsv or trainingset.tsv.gz", {"bad": folder_at}),
    ("folder without test", "bad", r"bad: no testset.tsv", {"bad/trainingset.tsv": GOOD}),
    ("folder where a file should be", "bad", r"bad: no trainingset.tsv", {"bad/trainingset.tsv": folder_at, "bad/testset.tsv": GOOD}),
    ("pipe where a file should be", "bad", r"bad: no testset.tsv", {"bad/trainingset.tsv": GOOD, "bad/testset.tsv": pipe}),
    ("folder named like a file", "bad.csv", r"bad.csv: no trainingset.tsv", {"bad.csv": folder_at}),
    ("empty file", "bad.tsv", r"bad.tsv: can't be read", {"bad.tsv": ""}),
    ("empty gzip", "bad.tsv.gz", r"bad.tsv.gz: can't be read", {"bad.tsv.gz": b""}),
    ("gzip of nothing", "bad.tsv.gz", r"bad.tsv.gz: can't be read", {"bad.tsv.gz": packed("")}),
    ("blank lines alone", "bad.tsv", r"bad.tsv: ", {"bad.tsv": "\n\n\n"}),
    ("separators alone", "bad.csv", r"bad.csv: no rows", {"bad.csv": ",,\n,,\n"}),
    ("two byte order marks", "bad.csv", r"line 2: user id '0' is integer among string ids", {"bad.csv": "\ufeff\ufeff0,1,5\n0,2,5\n"}),
    ("header alone", "bad.csv", r"bad.csv: no rows", {"bad.csv": "user,item,rating\n"}),
    ("header in a folder", "bad", r"trainingset.tsv, line 1: rating 'rating'", split("user\titem\trating\n" + GOOD)),
    ("header in another order", "bad.csv", r"bad.csv, line 1: the header is item, user, rating; the order must be", {"bad.csv": "item,user,rating\n0,1,5\n"}),
    ("rating last", "bad.csv", r"line 1: .*the order must be", {"bad.csv": "user,item,timestamp,rating\n0,1,5,5\n"}),
    ("header twice", "bad.csv", r"line 2: rating 'rating'", {"bad.csv": "user,item,rating\nuser,item,rating\n0,1,5\n"}),
    ("commas in a .tsv", "bad.tsv", r"bad.tsv: found 1 column\(s\), .*separated by tabs", {"bad.tsv": GOOD.replace("\t", ",")}),
    ("tabs in a .csv", "bad.csv", r"bad.csv: found 1 column\(s\), .*separated by commas", {"bad.csv": GOOD}),
    ("semicolons", "bad.csv", r"bad.csv: found 1 column\(s\)", {"bad.csv": GOOD.replace("\t", ";")}),
    ("two columns", "bad.csv", r"bad.csv: found 2 column\(s\)", {"bad.csv": "0,1\n0,2\n"}),
    ("five columns", "bad.csv", r"bad.csv: found 5 column\(s\)", {"bad.csv": "0,1,5,1,1\n0,2,5,1,1\n"}),
    ("a row too long", "bad.csv", r"line 2", {"bad.csv": "0,1,5\n0,2,5,7,7\n"}),
    ("a row too short", "bad.csv", r"bad.csv, line 2: rating ''", {"bad.csv": "0,1,5\n0,2\n"}),
    ("an open quote", "bad.csv", r"bad.csv", {"bad.csv": '0,1,5\n0,"2,5\n0,3,5\n'}),
    ("text among integer users", "bad.csv", r"bad.csv, line 2: user id 'ann' is string among integer ids \(line 1 has '0'\)", {"bad.csv": "0,1,5\nann,2,5\n"}),
    ("text among integer items, in the test file", "bad", r"testset.tsv, line 1: item id 'emma'", split(GOOD, "0\temma\t5\n")),
    ("a number among names", "bad.csv", r"line 2: user id '7' is integer among string ids", {"bad.csv": "ann,1,5\n7,2,5\n"}),
    ("negative id", "bad.csv", r"line 2: item id '-2'", {"bad.csv": "0,1,5\n0,-2,5\n"}),
    ("fractional id", "bad.csv", r"line 2: item id '2.5'", {"bad.csv": "0,1,5\n0,2.5,5\n"}),
    ("NaN id", "bad.csv", r"line 2: user id 'nan'", {"bad.csv": "0,1,5\nnan,2,5\n"}),
    ("infinite id", "bad.csv", r"line 2: user id 'inf'", {"bad.csv": "0,1,5\ninf,2,5\n"}),
    ("id above 2^63-1", "bad.csv", r"line 2: item id '9223372036854775808' is an integer above 2\^63-1", {"bad.csv": f"0,1,5\n0,{2**63},5\n"}),
    ("id of a thousand digits", "bad.csv", r"line 2: item id '9+' is an integer above 2\^63-1", {"bad.csv": f"0,1,5\n0,{'9' * 1000},5\n"}),
    ("empty id", "bad.csv", r"line 2: user id '' is empty", {"bad.csv": "0,1,5\n,2,5\n"}),
    ("id with leading zeros", "bad.csv", r"user id '07' is a number with leading zeros", {"bad.csv": "07,1,5\n8,2,5\n"}),
    ("tab in an id", "bad.csv", r"control character", {"bad.csv": '1,"a\tb",5\n1,c,5\n'}),
    ("NUL in an id", "bad.tsv", r"bad.tsv", {"bad.tsv": "a\t1\t5\na\0b\t2\t5\na\t3\t5\n"}),
    ("word for a rating", "bad.csv", r"bad.csv, line 2: rating 'good' is not a number", {"bad.csv": "0,1,5\n0,2,good\n"}),
    ("word for the first rating", "bad.csv", r"line 1: rating 'five'", {"bad.csv": "ann,3,five,100\nann,4,5,100\n"}),
    ("NaN rating", "bad.csv", r"line 1: rating 'nan'", {"bad.csv": "1,2,nan\n1,3,5\n1,4,2\n"}),
    ("infinite rating", "bad.csv", r"line 2: rating 'inf'", {"bad.csv": "0,1,5\n0,2,inf\n"}),
    ("word for a timestamp", "bad.csv", r"line 2: timestamp 'today'", {"bad.csv": "0,1,5,1\n0,2,5,today\n"}),
    ("not UTF-8", "bad.csv", r"bad.csv: can't be read: .*utf-8", {"bad.csv": b"0,1,5\n0,\xff\xfe2,5\n"}),
    ("UTF-16", "bad.csv", r"bad.csv: can't be read: .*utf-8", {"bad.csv": GOOD.replace("\t", ",").encode("utf-16")}),
    ("truncated gzip", "bad.tsv.gz", r"bad.tsv.gz: can't be read: Compressed file ended", {"bad.tsv.gz": packed(LOG)[:-30]}),
    ("corrupt gzip", "bad.tsv.gz", r"bad.tsv.gz: can't be read", {"bad.tsv.gz": packed(LOG, 60)}),
    ("gzip with a wrong checksum", "bad.tsv.gz", r"bad.tsv.gz: can't be read: CRC", {"bad.tsv.gz": packed(LOG, -8)}),
    ("rubbish after gzip", "bad.tsv.gz", r"bad.tsv.gz: can't be read", {"bad.tsv.gz": packed(LOG) + b"rubbish"}),
    ("no gzip", "bad.tsv.gz", r"bad.tsv.gz: can't be read: Not a gzipped file", {"bad.tsv.gz": LOG}),
    ("zip", "bad.tsv.zip", r"bad.tsv.zip: ", {"bad.tsv.zip": b"PK\x03\x04zz"}),
    ("gzip bomb", "bad.tsv.gz", r"unpacks to more than", {"bad.tsv.gz": bomb}),
    ("two test items of one user", "bad", r"testset.tsv, line 2: a second test item for user '0'", split("0\t1\t5\n", "0\t2\t5\n0\t3\t5\n")),
    ("test item in train", "bad", r"testset.tsv, line 1: test item '2' of user '0' is also a training item", split(GOOD, "0\t2\t5\n")),
    ("no test", "bad", r"no test interaction", split(GOOD, "0\t9\t0\n")),
    ("no train", "bad", r"no training interaction", split("0\t1\t0\n", "0\t2\t5\n")),
    ("nobody with two items", "bad.csv", r"no test interaction: at least one user needs two", {"bad.csv": "0,1,5\n1,2,5\n"}),
    ("one user with one item, twice", "bad.csv", r"no test interaction", {"bad.csv": "0,1,5\n0,1,4\n"}),
]

COMMANDS = {
    "run": ["--out", "out", "--quiet", "--epochs", "1", "--adversarial-epochs", "1", "--embedding-size", "2", "--optimizer", "sgd", "--batch-size", "64"],
    "audit": ["--out", "out", "--quiet", "--attacks", "fgsm", "--attack-epsilons", "1"],
    "recommend": ["--out", "out"], "shard": ["--out", "out", "--shards", "2", "--quiet"], "datasets": [], "": []}
WHICH = {"run": ["--dataset"], "audit": ["--weights", "W.npz", "--dataset"], "recommend": ["--weights", "W.npz", "--dataset"], "shard": ["--dataset"]}

TABLE = [Case(f"{entry}: {name}", entry, (lambda d, s=source: load_dataset(s)) if entry == "load" else [*WHICH[entry], source],
              DataError if entry == "load" else 2, message, files, marks=needs(files))
         for name, source, message, files in READ for entry in ("load", *(WHICH if name != "gzip bomb" else ["run"]))]


# Then the options of the commands, for good data.

def options(entry, *cases, given=(), expected=2):
    "Rows (id, options, message[, files[, surroundings[, marks]]]) of one command."
    global TABLE
    TABLE += [Case(f"{entry or 'no command'}: {name}", entry, [*given, *asked], expected, message, *more) for name, asked, message, *more in cases]


NUMBERS = {  # option: what it refuses
    "--epochs": "0 -1 1.5 nan x", "--adversarial-epochs": "0 -1", "--embedding-size": "0 -1 10000000000000", "--batch-size": "0 -3", "--seed": "-1 99999999999999999999",
    "--seeds": "0", "--checkpoint-every": "0 -1", "--learning-rate": "0 -1 nan inf 1e-300 x", "--reg": "-1 nan inf", "--epsilon": "-1 nan inf", "--adv-reg": "-1 nan inf",
    "--attack-epsilons": "-1 nan inf 1e-30 1e+30 1,x 1,,2 0.5;1", "--k": "0 -1 1.5 x nan 5,,6 15 5,999 " + "1" * 400}
options("run", *[(f"{option} {value[:20]}", [option, value], rf"{option.split('-')[-1].rstrip('s')}.*(expected|valid)")
                 for option, values in NUMBERS.items() for value in values.split()],
        *[(f"{option} with nothing", [option, ""], option) for option in ("--k", "--attack-epsilons", "--attacks", "--defences", "--epochs", "--learning-rate", "--out")],
        ("k larger than the candidates", ["--k", "15"], r"k 15: expected a whole number from 1 to 14, the largest number of candidates that a test user of log has"),
        ("attack", ["--attacks", "fgms"], r"--attacks 'fgms': expected some of random, fgsm, pgd"),
        ("defence", ["--defences", "apr,vaccine"], r"--defences 'vaccine': expected some of apr"),
        ("budget of a defence that has none", ["--defences", "sharpcf", "--epsilon", "nan"], r"epsilon nan"),
        ("optimizer", ["--optimizer", "adam"], r"optimizer 'adam': expected one of adagrad"),
        ("select on the test", ["--select", "test"], r"--select 'test': expected last or validation"),
        ("patience without a search", ["--patience", "3"], r"go with --select validation"),
        ("no refit without a search", ["--no-refit"], r"go with --select validation"),
        ("no patience", ["--select", "validation", "--patience", "0"], r"--patience.*0"),
        ("option of another command", ["--weights", "W.npz"], r"No such option"),
        ("option without its value", ["--seed"], r"--seed.*requires an argument"),
        ("an argument too many", ["log.tsv"], r"unexpected extra argument"),
        ("out is a file", ["--out", "P.npy"], r"--out P.npy: is a file"),
        ("out below a file", ["--out", "P.npy/below"], r"--out P.npy/below: .*in the way"),
        ("out is a device", ["--out", "/dev/null"], r"--out /dev/null: is a file"),
        ("out exists, finished", ["--out", "done"], r"--out done: holds a finished report", {"done/report.json": "{}"}),
        ("out exists, unfinished", ["--out", "half"], r"--out half: holds an unfinished run. Add --resume", {"half/checkpoints/bpr-mf-42.npz": "x"}),
        ("checkpoints that say not of what", ["--out", "half", "--resume"], r"half/checkpoints/run.json: can't be read.*Remove half/checkpoints", {"half/checkpoints/bpr-mf-42.npz": checkpoint()}),
        ("checkpoints of something else", ["--out", "half", "--resume"], r"half/checkpoints/run.json", {"half/checkpoints/bpr-mf-42.npz": "", "half/checkpoints/run.json": "{"}),
        given=["--dataset", "log.tsv"])
options("run", ("nothing to hold out", ["--dataset", "bad", "--k", "1", "--select", "validation"], r"none can be held out", split("0\t1\t1\n1\t2\t1\n", "0\t2\t1\n")),
        ("everybody has everything", ["--dataset", "bad", "--k", "1"], r"every user has every item; there are no pairs", split("0\t1\t1\n", "1\t1\t1\n")))
options("run", ("divergence", ["--epsilon", "1e30", "--no-control"], r"apr, epoch 1: a loss of nan.*Lower learning_rate"), given=["--dataset", "log.tsv"], expected=4)

P, Q = ["--user-factors", "P.npy"], ["--item-factors", "Q.npy"]
good = np.random.default_rng(0).standard_normal((USERS, 4))
TABLES = [  # of users: id, message, content
    ("missing", r"bad.npy: not a readable .npy", {}),
    ("empty", r"bad.npy: not a readable .npy", {"bad.npy": b""}),
    ("a folder", r"bad.npy: not a readable .npy", {"bad.npy": folder_at}),
    ("a pipe", r"bad.npy: not a readable .npy", {"bad.npy": pipe}),
    ("text", r"bad.npy: not a readable .npy.*another kind of file", {"bad.npy": "1 2 3\n"}),
    ("truncated", r"bad.npy: not a readable .npy", {"bad.npy": cut("P.npy")}),
    ("an npz", r"bad.npy: is an .npz", {"bad.npy": lambda path: path.write_bytes(Path("W.npz").read_bytes())}),
    ("half an npz", r"bad.npy: not a readable .npy", {"bad.npy": cut("W.npz")}),
    ("objects", r"bad.npy: not a readable .npy.*never loaded", {"bad.npy": payloads(USERS)}),
    ("a pickle", r"bad.npy: not a readable .npy.*never loaded", {"bad.npy": pickle.dumps(Payload())}),
    ("a header of terabytes", r"bad.npy: not a readable .npy", {"bad.npy": npy(described((10**12, 4)))}),
    ("a header beyond 2^63", r"bad.npy: not a readable .npy", {"bad.npy": npy(described((2**63, 4)))}),
    ("a header with negative sizes", r"bad.npy: ", {"bad.npy": npy(described((-12, 4)))}),
    ("a header that claims to be 2 GB", r"bad.npy: not a readable .npy", {"bad.npy": b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**31) + b"x"}),
    ("a header of 9000 brackets", r"bad.npy: not a readable .npy", {"bad.npy": npy("[" * 9000)}),
    ("a header of 9000 signs", r"bad.npy: not a readable .npy", {"bad.npy": npy("-" * 9000 + "1")}),
    ("a header with a list as key", r"bad.npy: not a readable .npy", {"bad.npy": npy("{[]: 1}")}),
    ("a header of another version", r"bad.npy: not a readable .npy", {"bad.npy": npy(described((12, 4)), version=9)}),
    ("more than its header says", r"bad.npy: not a readable .npy.*goes on after the array", {"bad.npy": lambda path: path.write_bytes(Path("P.npy").read_bytes().replace(b"<f8", b"<f4"))}),
    ("transposed", r"user_factors: shape \(4, 12\); log has 12 users. Is the table transposed", {"bad.npy": good.T.copy()}),
    ("too few rows", r"user_factors: 11 rows; log has 12 users", {"bad.npy": good[1:]}),
    ("the items'", r"user_factors: 20 rows; log has 12 users", {"bad.npy": np.resize(good, (ITEMS, 4))}),
    ("one dimension", r"user_factors: shape \(12,\), expected 2 dimensions", {"bad.npy": good[:, 0]}),
    ("no dimension", r"user_factors: shape \(\), expected 2", {"bad.npy": np.array(3.)}),
    ("no rows", r"user_factors: shape \(0, 4\)", {"bad.npy": good[:0]}),
    ("no columns", r"user_factors: shape \(12, 0\)", {"bad.npy": good[:, :0]}),
    ("other widths", r"user_factors have 8 columns, item_factors 4: they must agree", {"bad.npy": np.c_[good, good]}),
    ("NaN", r"user_factors: row 5 is not finite", {"bad.npy": np.where(np.arange(USERS)[:, None] == 5, np.nan, good)}),
    ("infinite", r"user_factors: row 0 is not finite", {"bad.npy": good * np.inf}),
    ("beyond float32", r"user_factors: row 0 is not finite in float32", {"bad.npy": 1e300 * good}),
    ("zeros", r"user_factors: every row is zero", {"bad.npy": 0 * good}),
    ("too large", r"too large", {"bad.npy": 1e38 * good}),
    ("too small", r"too small for float32", {"bad.npy": 1e-32 * good}),
    ("letters", r"user_factors: dtype <U1, expected real numbers", {"bad.npy": np.full((USERS, 4), "x")}),
    ("complex", r"user_factors: dtype complex128, expected real numbers", {"bad.npy": good + 1j}),
    ("booleans", r"user_factors: dtype bool, expected real numbers", {"bad.npy": good > 0}),
    ("dates", r"user_factors: dtype datetime64", {"bad.npy": np.zeros((USERS, 4), "M8[s]")}),
    ("records", r"user_factors: dtype", {"bad.npy": np.zeros((USERS, 4), [("a", "f4")])})]
options("audit", *[(f"user factors {name}", ["--user-factors", "bad.npy", *Q], message, files, nullcontext, needs(files))
                   for name, message, files in TABLES],
        ("item factors transposed", [*P, "--item-factors", "bad.npy"], r"item_factors: shape \(4, 20\); log has 20 items. Is the table transposed",
         {"bad.npy": np.ones((4, ITEMS))}),
        ("tables swapped", ["--user-factors", "Q.npy", "--item-factors", "P.npy"], r"are the two tables swapped\?"),
        ("no factors", [], r"--user-factors and --item-factors: give both, or --weights"),
        ("one table", P, r"give both, or --weights"),
        ("weights and factors", ["--weights", "W.npz", *Q], r"--item-factors and --weights: give one of them"),
        ("weights without a name", ["--weights", ""], r"--weights.*empty"),
        ("factors without a name", ["--user-factors", " ", *Q], r"--user-factors.*empty"),
        ("a bias too short", [*P, *Q, "--item-bias", "bad.npy"], r"item_bias has 19 entries for 20 items", {"bad.npy": np.zeros(19)}),
        ("a bias with two dimensions", [*P, *Q, "--item-bias", "P.npy"], r"item_bias: shape \(12, 4\), expected 1"),
        ("a bias with NaN", [*P, *Q, "--item-bias", "bad.npy"], r"item_bias: row 0 is not finite", {"bad.npy": np.full(ITEMS, np.nan)}),
        *[(f"ids {name}", [*P, *Q, "--user-ids", "ids.txt"], message, files) for name, message, files in [
            ("missing", r"ids.txt: can't be read as text", {}), ("in a folder", r"ids.txt: can't be read as text", {"ids.txt": folder_at}),
            ("not UTF-8", r"ids.txt: can't be read as text", {"ids.txt": b"\xff\n"}), ("empty", r"user_ids: 0 ids for 12 rows", {"ids.txt": ""}),
            ("unknown", r"user_ids: 'nobody' is unknown to the data", {"ids.txt": "nobody\n" + "".join(f"{10 * u}\n" for u in range(1, 12))}),
            ("twice", r"user_ids: '10' is there more than once", {"ids.txt": "10\n" + "".join(f"{10 * u}\n" for u in range(1, 12))}),
            ("too few", r"user_ids: 11 ids for 12 rows", {"ids.txt": "".join(f"{10 * u}\n" for u in range(11))})]],
        ("k larger than the candidates", [*P, *Q, "--k", "500"], r"k 500: expected a whole number from 1 to 14"),
        ("attack", [*P, *Q, "--attacks", "fgms"], r"--attacks 'fgms': expected some of random"),
        *[(f"budget {value}", [*P, *Q, "--attack-epsilons", value], rf"epsilons? '?{value}") for value in ("-1", "nan", "inf", "1e-30")],
        ("out without a name", [*P, *Q, "--out", ""], r"--out.*empty"),
        ("out is a file", [*P, *Q, "--out", "Q.npy"], r"--out Q.npy: is a file"),
        ("out exists, finished", [*P, *Q, "--out", "done"], r"--out done: holds a finished report", {"done/report.json": "{}"}),
        ("out exists, unfinished", [*P, *Q, "--out", "half"], r"--out half: holds an unfinished run. Name another folder", {"half/checkpoints/bpr-mf-42.npz": "x"}),
        given=["--dataset", "log.tsv"])

WEIGHTS = [  # id, message, content
    ("missing", r"bad.npz: not a readable .npz", {}),
    ("empty", r"bad.npz: not a readable .npz", {"bad.npz": b""}),
    ("a folder", r"bad.npz: not a readable .npz", {"bad.npz": folder_at}),
    ("a pipe", r"bad.npz: not a readable .npz", {"bad.npz": pipe}),
    ("text", r"bad.npz: not a readable .npz.*another kind of file", {"bad.npz": LOG}),
    ("truncated", r"bad.npz: not a readable .npz", {"bad.npz": cut("W.npz")}),
    ("a .npy", r"bad.npz: not a readable .npz file \(it holds one array", {"bad.npz": cut("P.npy", 1)}),
    ("a zip of something else", r"bad.npz: no array named user_factors, item_factors; it holds readme.txt", {"bad.npz": lambda p: zipfile.ZipFile(p, "w").writestr("readme.txt", "x")}),
    ("an archive of nothing", r"bad.npz: no array named user_factors, item_factors; it holds none", {"bad.npz": npz()}),
    ("a large table with a damaged header", r"bad.npz: not a readable .npz.*user_factors.npy does not match its checksum", {"bad.npz": narrowed}),
    ("without item factors", r"bad.npz: no array named item_factors; it holds", {"bad.npz": weights(item_factors=None)}),
    ("objects", r"bad.npz: not a readable .npz.*never loaded", {"bad.npz": weights(user_factors=payloads(USERS))}),
    ("ids of objects", r"bad.npz: not a readable .npz.*never loaded", {"bad.npz": weights(user_ids=payloads(USERS))}),
    ("a pickle", r"bad.npz: not a readable .npz.*never loaded", {"bad.npz": pickle.dumps(Payload())}),
    ("a bomb", r"bad.npz: not a readable .npz file \(it would unpack to [\d,]+ bytes\)", {"bad.npz": lambda p: np.savez_compressed(p, user_factors=np.zeros((USERS, 10**6)), item_factors=good)}),
    ("NaN", r"user_factors: row 0 is not finite", {"bad.npz": weights(user_factors=np.full((USERS, 4), np.nan))}),
    ("other widths", r"user_factors have 4 columns, item_factors 3", {"bad.npz": weights(item_factors=np.ones((ITEMS, 3)))}),
    ("no array but bytes", r"user_factors: dtype", {"bad.npz": lambda p: [zipfile.ZipFile(p, "w").writestr("item_factors", "x"), zipfile.ZipFile(p, "a").writestr("user_factors", "x")]}),
    ("other users", r"bad.npz: its users are not those of log", {"bad.npz": weights(user_ids=np.arange(USERS))}),
    ("too few users", r"bad.npz: its users are not those of log \(11 rows for 12 users\)", {"bad.npz": weights(user_factors=good[1:])}),
    ("another split", r"bad.npz: trained on another split of log.*give the seed of the run", {"bad.npz": weights(train_checksum=np.array(7))})]
options("recommend", *[(f"weights {name}", ["--weights", "bad.npz"], message, files, nullcontext, needs(files)) for name, message, files in WEIGHTS],
        ("weights of other data", ["--dataset", "synthetic"], r"W.npz: its users are not those of synthetic"),
        ("k 0", ["--k", "0"], r"--k.*0"), ("k of a fraction", ["--k", "1.5"], r"--k.*integer"),
        ("k larger than the items", ["--k", "21"], r"k 21: expected a whole number from 1 to 20, the number of items of log"),
        ("attack", ["--attack", "pgd,fgsm", "--epsilon", "1"], r"--attack 'pgd,fgsm': expected one of none, random, fgsm, pgd"),
        ("attack without a budget", ["--attack", "pgd"], r"--attack and --epsilon go together"), ("budget without an attack", ["--epsilon", "1"], r"go together"),
        *[(f"budget {value}", ["--attack", "fgsm", "--epsilon", value], rf"epsilon {value}") for value in ("-1", "nan", "inf", "1e-30")],
        ("out without a name", ["--out", ""], r"--out.*empty"), ("out is a folder", ["--out", "split"], r"--out split: is a folder"),
        ("out below a file", ["--out", "P.npy/recs.tsv"], r"P.npy: can't be made, a file is in the way"), ("out is a device", ["--out", "/dev/null"], r"/dev/null: is not a regular file"),
        ("out is a pipe", ["--out", "pipe"], r"pipe: is not a regular file", {"pipe": pipe}, nullcontext, (posix,)),
        given=["--weights", "W.npz", "--dataset", "log.tsv"])
options("shard", *[(f"{value} shards", ["--shards", value], r"--shards.*(expected|valid)") for value in ("0", "-1", "1.5", "5000")],
        ("more shards than users", ["--shards", "13"], r"shards 13: log has 12 users; expected no more shards than users"),
        ("generated data", ["--dataset", "synthetic"], r"dataset 'synthetic': neither a file nor a folder"),
        ("out without a name", ["--out", ""], r"--out.*empty"), ("out is a file", ["--out", "P.npy"], r"P.npy: is a file; name a folder"),
        ("out below a file", ["--out", "P.npy/below"], r"P.npy/below: can't be made, a file is in the way"), ("out is a device", ["--out", "/dev/null"], r"/dev/null: is a file"),
        ("out exists, finished", ["--out", "done"], r"done: holds a set of shards already", {"done/manifest.parquet": ""}),
        given=["--dataset", "log.tsv"])
options("datasets", ("an argument", ["movielens-500"], r"unexpected extra argument"), ("an option", ["--out", "x"], r"No such option"))
options("", ("nothing", [], r"Usage"), ("no such command", ["train"], r"No such command 'train'"))


# Disks and rights

DISK = [("run", ["--dataset", "log.tsv", "--epochs", "2", "--checkpoint-every", "1"], "checkpoints/[a-z0-9-]+.(npz|json)"), ("audit", [*P, *Q, "--dataset", "log.tsv"], "[a-z_]+.(png|csv)"),
        ("recommend", ["--weights", "W.npz", "--dataset", "log.tsv"], "out|recs"), ("shard", ["--dataset", "log.tsv"], "")]
for entry, given, name in DISK:
    options(entry, ("full disk", [*given, "--out", "disk/recs"], rf"No space left on device.*{name}", {}, full_disk, (linux, root)),
            ("file too large", [*given, "--out", "new"], r"File too large.*new", {}, small_files, (posix,)),
            ("read-only disk", [*given, "--out", "disk/recs"], r"Read-only file system", {}, read_only_disk, (linux, root)),
            ("locked folder", [*given, "--out", "locked/recs"], r"locked.*Permission denied|Permission denied.*locked", {}, as_nobody, (posix,)),
            ("in /proc", [*given, "--out", "/proc/recs/recs"], r"/proc/recs", {}, nullcontext, (linux,)), expected=3)
options("run", ("name too long for a folder", ["--dataset", "log.tsv", "--out", "x" * 300], r"--out x+: can't be written \(File name too long\)"), expected=3)
SECRET = [("run", ["--dataset", "secret.tsv"]), ("audit", [*P, *Q, "--dataset", "secret.tsv"]), ("audit", ["--user-factors", "secret.tsv", *Q, "--dataset", "log.tsv"]),
          ("recommend", ["--weights", "secret.tsv", "--dataset", "log.tsv"]), ("shard", ["--dataset", "secret.tsv"])]
for n, (entry, given) in enumerate(SECRET):
    options(entry, (f"unreadable {n}", given, r"secret.tsv: .*Permission denied", {"secret.tsv": secret(LOG)}, as_nobody, (posix,)))
TABLE.append(Case("load: unreadable", "load", lambda d: load_dataset("secret.tsv"), DataError, r"secret.tsv: can't be read: .*Permission denied", {"secret.tsv": secret(LOG)}, as_nobody, (posix,)))


# Then functions. `d` holds good data, and a model of it.

QUICK = dict(epochs=1, optimizer="sgd", batch_size=64, progress=False)


def functions(entry, *cases, expected=DataError):
    "Rows (id, function of the good things, message[, files[, surroundings[, marks]]])."
    global TABLE
    TABLE += [Case(f"{entry}: {name}", entry, function, expected, message, *more) for name, function, message, *more in cases]


def training(**settings):
    def call(d):
        from apr_tutorial.model import BPRMF, fit
        return fit(settings.get("model") or BPRMF(USERS, ITEMS, 4), d.data, **QUICK | {k: v for k, v in settings.items() if k != "model"})
    return call


def adversarial(*values):
    def call(d):
        from apr_tutorial.apr import APR
        return training(adversary=APR(*values))(d)
    return call


functions("fit", *[(f"{name} {value}", training(**{name: value}), rf"{name} {value}: expected")
                   for name, values in dict(epochs=[-1, 1.5, np.nan], batch_size=[0, -1, 1.5], learning_rate=[0, -1, np.nan, np.inf], reg=[-1, np.nan, np.inf],
                                            checkpoint_every=[0, -1, 1.5], seed=[-1]).items() for value in values],
          ("optimizer", training(optimizer="adam"), r"optimizer 'adam'"),
          *[(f"epsilon {value}", adversarial(value), rf"epsilon {value}: expected a number of at least 0") for value in (-1, np.nan, np.inf)],
          *[(f"adv_reg {value}", adversarial(.5, value), rf"adv_reg {value}: expected") for value in (-1, np.nan, np.inf)],
          ("a model of other data", lambda d: training(model=d.other)(d), r"factors has 3 users and 20 items, log 12 and 20"),
          ("a state of another shape", training(state=np.zeros(3)), r"state: shape \(3,\)"),
          ("everybody has everything", lambda d: training(model=d.none.model)(SimpleNamespace(data=d.none.data)), r"every user has every item; there are no pairs"))
functions("fit", ("a model with NaN", lambda d: training(model=d.broken)(d), r"factors, epoch 1: a loss of nan"), expected=None)
functions("checkpoint", *[(name, training(checkpoint="bad.npz"), message, {"bad.npz": content}, nullcontext, marks) for name, message, content, *marks in [
    ("empty", r"bad.npz: not a readable .npz", b""), ("text", r"bad.npz: not a readable .npz", "x"), ("a folder", r"bad.npz: not a readable .npz", folder_at),
    ("a pipe", r"bad.npz: not a readable .npz", pipe, posix), ("truncated", r"bad.npz: not a readable .npz", cut("C.npz")), ("a pickle", r"never loaded", pickle.dumps(Payload())),
    ("weights", r"bad.npz: no array named factors, state.*no checkpoint of this program. Remove it", weights()),
    ("that was changed", r"bad.npz: its checksum does not match", lambda path: np.savez(path, **dict(np.load("C.npz")) | dict(factors=np.zeros(3)))), ("a note of objects", r"never loaded", checkpoint(note=None, **{"factors": payloads(3)})),
    *[(f"a foreign note {note}", r"bad.npz: .*(no|not a) checkpoint of this program|bad.npz: made under other settings", checkpoint(note=note))
      for note in ("hello", "{}", "[1]", "null", '{"spec": {}, "epoch": 0, "rows": []}', '{"spec": {}, "epoch": -3, "rows": []}', '{"spec": [], "epoch": 0, "rows": []}')],
    ("epochs that are not there", r"bad.npz: .*(no|not a) checkpoint of this program", checkpoint(note=dict(epoch=5))), ("rows that are none", r"bad.npz: .*(no|not a) checkpoint of this program", checkpoint(note=dict(rows=[1]))),
    ("an epoch of text", r"bad.npz: .*(no|not a) checkpoint of this program", checkpoint(note=dict(epoch="1"))),
    ("factors of another shape", r"bad.npz: its tables have other shapes or numbers", checkpoint(factors=np.zeros((3, 4), np.float32))),
    ("factors of another dtype", r"bad.npz: its tables have other shapes or numbers", checkpoint(factors=np.zeros((USERS + ITEMS + 1, 4)))),
    ("text for factors", r"bad.npz: its tables have other shapes or numbers", checkpoint(factors=np.full((USERS + ITEMS + 1, 4), "x")))]],
    ("other settings", training(checkpoint="C.npz", learning_rate=.1), r"C.npz: made under other settings: learning_rate was 0.05, is 0.1"),
    ("other data", lambda d: training(checkpoint="C.npz")(SimpleNamespace(data=replace(d.data, items=d.data.items[::-1].copy()))), r"C.npz: made under other settings: the training data differ"),
    ("another seed", training(checkpoint="C.npz", seed=1), r"seed was \[42\], is \[1\]"), ("fewer epochs than it holds", training(checkpoint="C.npz", epochs=0), r"C.npz: holds 1 epochs, 0 were asked for"))
functions("checkpoint", ("that can't be written", training(checkpoint="new.npz"), r"File too large.*new.npz", {}, small_files, (posix,)), expected=OSError)


def named(module, function, *args, **more):
    "A call of a function of the package on the good things: strings with a dot name them."
    def call(d):
        found = getattr(importlib.import_module(f"apr_tutorial.{module}"), function)
        value = lambda a: getattr(d, a[1:]) if isinstance(a, str) and a.startswith(".") else a
        return found(*map(value, args), **{k: value(v) for k, v in more.items()})
    return call


functions("evaluate", *[(f"k {k}", named("evaluator", "evaluate", ".model", ".data", k=[k]), rf"k {k}: expected a whole number from 1 to 14") for k in (0, -1, 2.5, 15, np.nan, "3")],
          ("no k", named("evaluator", "evaluate", ".model", ".data", k=[]), r"k: none given"),
          ("a model of other data", named("evaluator", "evaluate", ".other", ".data", k=[3]), r"factors has 3 users"),
          ("a model with NaN", named("evaluator", "evaluate", ".broken", ".data", k=[3]), r"scores are not finite"),
          ("a model too large", lambda d: named("evaluator", "evaluate", d.huge, ".data", k=[3])(d), r"scores are not finite"),
          ("validation that nobody held out", named("evaluator", "evaluate", ".model", ".data", k=[3], validating=True), r"no validation items"))
functions("recommend()", *[(f"k {k}", named("evaluator", "recommend", ".model", ".data", k), rf"k {k}: expected a whole number from 1 to 20") for k in (0, -1, 2.5, 21, np.nan)],
          ("a model of other data", named("evaluator", "recommend", ".other", ".data", 3), r"factors has 3 users"),
          ("a model with NaN", named("evaluator", "recommend", ".broken", ".data", 3), r"scores are not finite"))
functions("attack", *[(f"{attack} with epsilon {value}", named("attack", attack, ".model", ".data", value), rf"epsilon {value}: expected 0, or")
                      for attack in ("random_noise", "fgsm", "pgd") for value in (-1, np.nan, np.inf, 1e-30)],
          ("fgsm on other data", named("attack", "fgsm", ".other", ".data", 1), r"factors has 3 users"),
          ("fgsm on NaN", named("attack", "fgsm", ".broken", ".data", 1), r"gradient of its loss is not finite"))
functions("audit()", *[(name, named("audit", "audit", *tables, ".data", **{"k": [3]} | more), message) for name, tables, more, message in [
    ("None", (None, ".q"), {}, r"user_factors: dtype object"), ("rows of unequal lengths", ([[1, 2], [3]], ".q"), {}, r"user_factors: rows of unequal lengths"),
    ("objects", (good.astype(object), ".q"), {}, r"user_factors: dtype object"), ("tables swapped", (".q", ".p"), {}, r"swapped\?"), ("transposed", (good.T, ".q"), {}, r"transposed\?"),
    ("no k", (".p", ".q"), dict(k=[]), r"k: none given"), ("k 0", (".p", ".q"), dict(k=[0]), r"k 0: expected"), ("a seed below 0", (".p", ".q"), dict(seed=-1), r"seed -1: expected"),
    ("epsilon NaN", (".p", ".q"), dict(epsilons=[np.nan]), r"epsilon nan: expected"), ("an id twice", (".p", ".q"), dict(user_ids=[0] * USERS), r"user_ids: '0' is there more than once")]])
functions("experiment", *[(f"{name} {value}", lambda d, s={name: value}: d.experiment(**s), rf"{name}:? ('?{value}|none given)") for name, values in
                          dict(epochs=[-1, 1.5], adversarial_epochs=[-1, 1.5], embedding_size=[0, 2.5], learning_rate=[np.nan], batch_size=[0], seeds=[()], optimizer=["adam"]).items() for value in values],
          ("a seed below 0", lambda d: d.experiment(seeds=(-1,)), r"seed -1: expected"), ("k too large", lambda d: d.experiment(k=(15,)), r"k 15: expected"),
          ("epsilon NaN", lambda d: d.experiment(attack_epsilons=(np.nan,)), r"epsilon nan: expected"))
functions("factors", *[(f"{name} {value}", lambda d, s={name: value}: named("model", "BPRMF", **dict(num_users=3, num_items=4, embedding_size=2) | s)(d), rf"{name} {value}: expected a whole number of at least 1")
                       for name in ("num_users", "num_items", "embedding_size") for value in (0, -1, 2.5)],
          ("transposed", named("model", "from_factors", np.ones((4, 3)), np.ones((4, 5))), r"user_factors have 3 columns, item_factors 5: they must agree.*transposed\?"))
functions("weights", ("saved of another model", named("model", "save_weights", "new.npz", ".other", ".data"), r"factors has 3 users"),
          ("saved with NaN", named("model", "save_weights", "new.npz", ".broken", ".data"), r"user_factors: row 0 is not finite"),
          ("saved to a folder", named("model", "save_weights", "split", ".model", ".data"), r"split: is not a regular file"),
          ("saved below a file", named("model", "save_weights", "P.npy/new.npz", ".model", ".data"), r"P.npy: can't be made, a file is in the way"),
          *[(f"loaded, {name}", named("model", "load_weights", "bad.npz", ".data"), message, files, nullcontext, needs(files)) for name, message, files in WEIGHTS])
functions("weights", ("saved where there is no room", named("model", "save_weights", "new.npz", ".model", ".data"), r"File too large.*new.npz", {}, small_files, (posix,)), expected=OSError)
functions("export", ("to a folder with something in it", named("model", "export_lists", "split", ".model", ".data"), r"split: exists already"),
          ("to a file", named("model", "export_lists", "P.npy", ".model", ".data"), r"P.npy: exists already"),
          ("below a file", named("model", "export_lists", "P.npy/1", ".model", ".data"), r"P.npy: can't be made"),
          ("in another format", named("model", "export_lists", "new", ".model", ".data", "onnx"), r"format 'onnx'"),
          ("of another model", named("model", "export_lists", "new", ".other", ".data"), r"factors has 3 users"),
          ("of NaN", named("model", "export_lists", "new", ".broken", ".data"), r"user_factors: row 0 is not finite"))


def frame(**columns): return named("data", "interactions", pd.DataFrame(columns))


functions("frames", ("no item", frame(user=[1, 1]), r"data: no column item"), ("no rows", frame(user=[], item=[]), r"no rows"),
          ("a missing id", frame(user=["a", "a", None], item=[1, 2, 3]), r"line 2: user id is missing"), ("fractions for ids", frame(user=[1.5, 1.5], item=[1, 2]), r"user id '1.5' is a number but not an integer"),
          ("NaN for a rating", frame(user=[1, 1], item=[1, 2], rating=[1, np.nan]), r"line 1: rating 'nan'"), ("a word for a rating", frame(user=[1, 1], item=[1, 2], rating=["5", "x"]), r"line 1: rating 'x'"),
          ("NaN for a timestamp", frame(user=[1, 1], item=[1, 2], timestamp=[1, np.nan]), r"line 1: timestamp 'nan'"))


# The drive

@pytest.fixture(scope="module")
def things():
    "What functions are called with: good data and a model, a broken one, one of other data, data without pairs, a quick experiment."
    from apr_tutorial.end_to_end import Runner, Settings, run_experiment
    from apr_tutorial.model import Factors
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log.tsv"
        path.write_text(LOG)
        data = load_dataset(path)
    p, q = good.astype(np.float32), np.random.default_rng(1).standard_normal((ITEMS, 4)).astype(np.float32)
    broken, huge = Factors(p, q), Factors(1e30 * p, 1e30 * q)
    broken.user_factors = np.full_like(p, np.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        none = interactions(pd.DataFrame(dict(user=[0], item=[1])), pd.DataFrame(dict(user=[1], item=[1])))
    quick = dict(epochs=1, adversarial_epochs=1, embedding_size=2, optimizer="sgd", batch_size=64, k=(3,), attack_epsilons=(1.,))
    experiment = lambda **settings: run_experiment(data, Settings(**quick | settings), runner=Runner(progress=False))
    return SimpleNamespace(data=data, p=p, q=q, model=Factors(p, q), broken=broken, huge=huge, other=Factors(p[:3], q), experiment=experiment,
                           none=SimpleNamespace(data=none, model=Factors(np.ones((2, 2)), np.ones((1, 2)))))


def invoke(entry, given):
    "Exit code and everything said by a command in this process; an exception that it lets out is a bug."
    from typer.testing import CliRunner
    from apr_tutorial.cli import app
    done = CliRunner().invoke(app, [*filter(None, [entry]), *COMMANDS[entry], *given])
    assert done.exception is None or isinstance(done.exception, SystemExit), "".join(traceback.format_exception(done.exception))
    assert len([line for line in done.output.splitlines() if line.startswith("error: ")]) <= 1
    return done.exit_code, " ".join(done.output.replace("│", " ").split())


def import_all():
    "Whatever is loaded late must not be loaded under a limit."
    import apr_tutorial.audit, apr_tutorial.cli, apr_tutorial.comparison, apr_tutorial.reproduction  # noqa: F401, E401
    invoke("run", ["--no-such-option"])


assert len({case.id for case in TABLE}) == len(TABLE) >= 100


@pytest.mark.parametrize("case", [pytest.param(case, id=case.id, marks=case.marks) for case in TABLE])
def test_bad_input(case, desk, things):
    "Refused with this code or exception, in these words, and nothing in the folder has changed."
    import_all()
    put(case.files)
    before = snapshot(desk)
    if isinstance(case.expected, int):
        with case.around():
            code, said = invoke(case.entry, case.given)
        assert code == case.expected, said
        assert "Traceback" not in said
    else:
        from apr_tutorial.model import TrainingDiverged
        with case.around(), pytest.raises(case.expected or TrainingDiverged) as caught:
            case.given(things)
        said = " ".join(str(caught.value).split())
    assert re.search(case.message, said), said
    after = snapshot(desk)
    new = {name: content for name, content in after.items() if name not in before and name != "locked"}
    assert all(after[name] == content for name, content in before.items()) and "harmed" not in after
    allowed = "checkpoints" if case.expected in (3, 4) else None  # a stage that was whole, before what failed
    assert not [name for name, content in new.items() if content is not None and (allowed is None or allowed not in name)], new.keys()
    assert not [name for name in new if name.endswith(".partial")]


# What lies outside: the places that the environment names

@pytest.mark.parametrize("variable, place, code, message", [
    ("APR_TUTORIAL_CACHE", "P.npy", 3, "Check the network and that .* can be written"), ("APR_TUTORIAL_CACHE", "locked", 3, "Check the network and that .*locked|Permission denied.*locked"),
    ("APR_TUTORIAL_DATA", "home", 2, "home/movielens-500: no trainingset.tsv")])
@posix
def test_bad_places(variable, place, code, message, desk, monkeypatch):
    "A cache that is a file or locked, and a mirror without files; nothing is fetched."
    import_all()
    (desk / "home" / "movielens-500").mkdir(parents=True)
    for name in ("APR_TUTORIAL_DATA", "APR_TUTORIAL_CACHE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setenv(variable, str(desk / place))
    before = snapshot(desk)
    with as_nobody():
        found, said = invoke("run", ["--dataset", "movielens-500"])
    assert found == code and re.search(message, said) and "Traceback" not in said, said
    assert snapshot(desk) == before | {"locked": None}


@pytest.mark.parametrize("place", ["P.npy", "absent"])
def test_datasets_wherever_the_places_are(place, desk, monkeypatch):
    monkeypatch.setenv("APR_TUTORIAL_DATA", str(desk / place))
    monkeypatch.setenv("APR_TUTORIAL_CACHE", str(desk / place))
    before = snapshot(desk)
    code, said = invoke("datasets", [])
    assert code == 0 and said.count("not here yet") == 3 and snapshot(desk) == before


# What is odd and right

def trained(data, **settings):
    "A model after two epochs on the data, evaluated: all figures are finite."
    from apr_tutorial.evaluator import evaluate, recommend, table
    from apr_tutorial.model import BPRMF, fit
    model = BPRMF(data.num_users, data.num_items, 2)
    history = fit(model, data, **QUICK | dict(epochs=2) | settings)
    found = table(evaluate(model, data, k=[1]), [1])
    assert np.isfinite(found.to_numpy(float)).all() and np.isfinite(history.frame.to_numpy(float)).all() and np.isfinite(model.user_factors).all()
    assert not set(zip(recommend(model, data, 1).user, recommend(model, data, 1).item)) & set(zip(data.user_ids[data.users], data.item_ids[data.items]))
    return model


def data_of(text, name="odd.tsv"):
    put({name: text})
    return load_dataset(name)


def test_large_ids(desk):
    data = data_of(f"{10**18}\t{2**63 - 1}\t5\t1\n{10**18}\t{10**18}\t5\t2\n0\t{10**18}\t5\t1\n0\t7\t5\t2\n")
    assert data.user_ids.tolist() == [0, 10**18] and data.item_ids.tolist() == [7, 10**18, 2**63 - 1]
    trained(data)


@pytest.mark.parametrize("text", [b"\xef\xbb\xbf" + LOG.encode(), LOG.replace("\n", "\r\n").encode(), LOG.rstrip("\n").encode(), LOG.replace("\n", "\n\n", 5).encode()])
def test_a_mark_and_line_ends(text, desk):
    "A BOM, CRLF, a last line without an end, blank lines: the same data."
    odd, plain = data_of(text), load_dataset("log.tsv")
    assert all(np.array_equal(getattr(odd, n), getattr(plain, n)) for n in ("user_ids", "item_ids", "users", "items", "order", "test_users", "test_items"))


def test_duplicates_are_counted(desk):
    data = data_of("0\t1\t5\t1\n0\t2\t5\t2\n0\t1\t4\t3\n0\t3\t0\t4\n")
    assert data.dropped == {"rating <= 0": 1, "duplicates": 1} and data.item_ids[data.test_items] == [1]  # the latest of the two, and 3 is no positive


def test_a_test_user_without_training(desk):
    put(split("0\t1\t5\n0\t2\t5\n", "0\t3\t5\n1\t1\t5\n"))
    with pytest.warns(UserWarning, match="1 test users have no training item; they count"):
        data = load_dataset("bad")
    assert data.test_users.tolist() == [0, 1]
    trained(data)


def test_a_user_with_every_item(desk):
    put(split("0\t1\t5\n0\t2\t5\n0\t3\t5\n1\t1\t5\n", "1\t2\t5\n"))
    with pytest.warns(UserWarning, match="every item teach nothing"):
        data = load_dataset("bad")
    start = np.array(data.pairs)
    assert len(start) == 1  # of the other user
    trained(data)


def test_an_item_never_trained(desk):
    "It is a candidate and can be the test item; training, which draws it as a negative, leaves it finite."
    put(split("0\t1\t5\n0\t9\t0\n1\t2\t5\n", "0\t8\t5\n"))
    data = load_dataset("bad")
    assert data.item_ids.tolist() == [1, 2, 8, 9] and data.popularity.tolist() == [1, 1, 0, 0]
    trained(data)


def test_one_user(desk):
    data = data_of("7\t1\t5\t1\n7\t2\t5\t2\n")
    assert (data.num_users, data.num_items, len(data)) == (1, 2, 1)
    trained(data)
    put({"one.npy": np.ones((1, 2)), "two.npy": np.array([[1., 2], [3, 4]])})
    code, said = invoke("audit", ["--user-factors", "one.npy", "--item-factors", "two.npy", "--dataset", "odd.tsv"])
    assert code == 0 and "k 10, 50, 100 dropped" in said, said
    assert finite(json.loads(Path("out/report.json").read_text())["results"])


def finite(found): return pd.DataFrame(found).select_dtypes("number").stack().pipe(np.isfinite).all()


def test_one_item_is_ranked_but_not_trained_on(things):
    from apr_tutorial.evaluator import evaluate
    assert evaluate(things.none.model, things.none.data, k=[1]).ndcg(1) == 1  # there is no other; `fit` refuses, see the table


def test_data_smaller_than_a_batch(things):
    "Padding changes nothing."
    small = trained(things.data, batch_size=len(things.data))
    assert np.allclose(small.user_factors, trained(things.data, batch_size=4096).user_factors, rtol=0, atol=1e-6)


def test_no_epochs(things):
    from apr_tutorial.model import BPRMF
    model = BPRMF(USERS, ITEMS, 4)
    history = training(model=model, epochs=0)(things)
    assert len(history.frame) == 0 and np.array_equal(model.user_factors, BPRMF(USERS, ITEMS, 4).user_factors)


def test_epsilon_0_and_default_k(desk):
    "Budgets of 0 are allowed, and change nothing; default lengths that the candidates can't fill are dropped, aloud."
    code, said = invoke("run", ["--dataset", "log.tsv", "--epsilon", "0", "--attack-epsilons", "0"])
    assert code == 0 and "k 50, 100 dropped: log has too few candidates" in said, said
    found = pd.DataFrame(json.loads(Path("out/report.json").read_text())["results"])
    assert set(found.k) == {10} and finite(found) and (found.groupby("model").ndcg.nunique() == 1).all()


@pytest.mark.parametrize("kind", [np.float16, np.int8, ">f8", np.longdouble, "Fortran", "list"])
def test_kinds_of_factors(kind, things):
    "Whatever numbers they are: the audit of their float32."
    from apr_tutorial.attack import fgsm
    from apr_tutorial.audit import audit
    tables = [np.round(8 * t) for t in (things.p, things.q)]  # which all kinds can hold
    given = [np.asfortranarray(t) if kind == "Fortran" else t.tolist() if kind == "list" else t.astype(kind) for t in tables]
    frames = [audit(*pair, things.data, attacks={"fgsm": fgsm}, epsilons=[1], k=[3]).frame for pair in (tables, given)]
    pd.testing.assert_frame_equal(*frames)


def test_foreign_members_are_left_alone(desk, things):
    "An archive may hold more than the weights: it is not read, so what is pickled in it can't do harm."
    from apr_tutorial.model import load_weights
    put({"W2.npz": weights(notes=payloads(3))})
    with zipfile.ZipFile("W2.npz", "a") as archive:
        archive.writestr("../harmed", "x")
    model = load_weights("W2.npz", load_dataset("log.tsv"))
    assert np.array_equal(model.user_factors, load_weights("W.npz", load_dataset("log.tsv")).user_factors)
    assert not list(desk.rglob("harmed")) and not (desk.parent / "harmed").exists()


def test_nothing_to_lose(desk):
    "Where every test item is ranked last the clean nDCG is 0: no share of it, in words or pictures, is nan."
    data = load_dataset("log.tsv")
    put({"low.npy": -1e6 * np.bincount(data.test_items, minlength=ITEMS).astype(float)})
    given = ["audit", *P, *Q, "--item-bias", "low.npy", "--dataset", "log.tsv", "--k", "1", "--attacks", "fgsm,pgd", "--attack-epsilons", "0.5", "--out", "out"]
    from typer.testing import CliRunner
    from apr_tutorial.cli import app
    done = CliRunner().invoke(app, given)
    assert done.exit_code == 0 and "nan" not in done.output and "identical" not in done.output, done.output  # Matplotlib: identical limits
    results = json.loads(Path("out/report.json").read_text())["results"]
    assert {row["ndcg"] for row in results} == {0} and finite(results)
    from apr_tutorial.end_to_end import extremes
    assert "nan" not in extremes({"bpr-mf": np.nan, "apr": .5})
