"""Memory and time of sharding a log, and of loading it, each in a process of its own. Writes apr_tutorial/results/shards.csv."""
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

RESULTS = Path(__file__).resolve().parents[1] / "apr_tutorial" / "results"
WORK = {"shard": "from apr_tutorial.shards import shard; shard(sys.argv[1], 8, sys.argv[2], progress=False)",
        "load": "from apr_tutorial.data import load_dataset; load_dataset(sys.argv[1])"}
CHILD = r"""
import json, os, re, resource, sys, time
began = time.perf_counter()
{work}
status = "/proc/self/status"  # Linux: what getrusage knows began with the memory of the process that started this one
peak = (int(re.search(r"VmHWM:\s*(\d+)", open(status).read())[1]) / 2**10 if os.path.exists(status)
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10))
print(json.dumps(dict(seconds=time.perf_counter() - began, peak_mb=peak, tensorflow="tensorflow" in sys.modules)))
"""


def write_log(path: Path, lines: int, timestamps: bool = True, seed: int = 0, piece: int = 10**5) -> Path:
    "A log of random users (20 lines each) and items (popular ones more often), in the order of time; never in memory as a whole."
    rng, users, items = np.random.default_rng(seed), max(2, lines // 20), max(100, lines // 200)
    with open(path, "w", encoding="utf-8") as file:
        for start in range(0, lines, piece):
            n = min(piece, lines - start)
            columns = dict(user=rng.integers(users, size=n), item=(items * rng.random(n) ** 2).astype(int), rating=rng.integers(6, size=n))
            pd.DataFrame(columns | (dict(time=start + np.arange(n)) if timestamps else {})).to_csv(file, sep="\t", header=False, index=False)
    return path


def measure(how: str, *arguments) -> dict:
    "Seconds, the peak of resident memory, and whether TensorFlow was loaded, of a process that does it."
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", CHILD.format(work=WORK[how]), *map(str, arguments)], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return json.loads(done.stdout)


def main(sizes=(10**5, 10**6, 10**7)):
    rows = []
    for lines in sizes:
        with tempfile.TemporaryDirectory() as folder:
            log = write_log(Path(folder) / "log.tsv", lines)
            for how in WORK:
                found = measure(how, log, Path(folder) / "shards")
                rows.append(dict(how=how, lines=lines, seconds=round(found["seconds"], 2), peak_mb=round(found["peak_mb"])))
                print(rows[-1], flush=True)
    pd.DataFrame(rows).to_csv(RESULTS / "shards.csv", index=False)


if __name__ == "__main__":
    main()
