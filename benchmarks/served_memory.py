"""What parameter servers hold: memory of each beyond one with tiny tables, after training and a checkpoint, on this machine.

`python -m benchmarks.served_memory` writes apr_tutorial/results/served-memory.csv, which chapter 22 shows. Linux only: it reads /proc.
"""
import argparse
import os
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pandas as pd

from benchmarks.common import RESULTS, results_folder

ROWS, WIDTH, LIMIT = 1_000_000, 64, 300  # limit in seconds

CHIEF = """
import sys, tempfile
from apr_tutorial.servers import Served
servers = Served(timeout=120)
import numpy as np
from apr_tutorial.data import synthetic
from apr_tutorial.model import Factors, fit
rows, width = map(int, sys.argv[1:3])
data = synthetic(2000, 400, activity=30)
data = __import__("dataclasses").replace(data, item_ids=np.arange(rows - data.num_users - 1))
rng = np.random.default_rng(1)
model = Factors(*(rng.normal(0, .01, (n, width)).astype(np.float32) for n in (data.num_users, data.num_items)))
servers.whole = False
with tempfile.TemporaryDirectory() as folder:
    fit(model, data, 1, batch_size=512, progress=False, strategy=servers)
    for figure in ("VmRSS", "VmHWM"): print(*(line.split()[1] for pid in sys.argv[3:] for line in open(f"/proc/{pid}/status") if line.startswith(figure)), flush=True)
    servers.run.path = __import__("pathlib").Path(folder)/"served.npz"
    servers.run.save()
    print(*(line.split()[1] for pid in sys.argv[3:] for line in open(f"/proc/{pid}/status") if line.startswith("VmHWM")), flush=True)
"""


@contextmanager
def serving(found, limit=LIMIT):
    "The servers and workers of `local_servers`, each a process by kind and number; ended with the block."
    code = "from apr_tutorial.servers import serve; import os; serve(120); os._exit(0)"
    others = {key: subprocess.Popen(["timeout", "-s", "KILL", str(limit), sys.executable, "-c", code], env={**os.environ, "TF_CONFIG": text})
              for key, text in found.items() if key[0] != "chief"}
    try:
        yield others
    finally:
        for process in others.values():
            process.kill()
            process.wait()


def inside(process):
    "The process that `timeout` has started."
    return Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[0]


def measure(servers, rows=ROWS, width=WIDTH):
    "kB of each server after an epoch: now, at most so far, and at most after a checkpoint."
    from apr_tutorial.servers import local_servers

    found = local_servers(servers)
    with serving(found) as others:
        while not all(Path(f"/proc/{p.pid}/task/{p.pid}/children").read_text().split() for p in others.values()):
            if any(p.poll() is not None for p in others.values()):
                raise RuntimeError("a server ended before it began; what it said stands above.")
        pids = [inside(process) for (kind, _), process in others.items() if kind == "ps"]
        command = ["timeout", "-s", "KILL", str(LIMIT), sys.executable, "-c", CHIEF, str(rows), str(width), *pids]
        done = subprocess.run(command, env={**os.environ, "TF_CONFIG": found["chief", 0]}, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"the chief failed with exit code {done.returncode}:\n{done.stderr[-2000:]}")
    return [[int(n) for n in line.split()] for line in done.stdout.splitlines()[-3:]]


def beyond_empty(servers, rows=ROWS, width=WIDTH):
    "MB that the fullest server holds after training beyond one of the same cluster with tiny tables; the same for the most it ever held, checkpoint included."
    full, empty = measure(servers, rows, width), measure(servers, 3000, width)
    return [max(a - b for a, b in zip(full[n], empty[n]))*1024/1e6 for n in (0, 2)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=results_folder, default=RESULTS, help="folder of the result")
    parser.add_argument("--servers", default="1,2,4", help="numbers of servers, with commas")
    args = parser.parse_args()
    rows = []
    for n in map(int, args.servers.split(",")):
        held, most = beyond_empty(n)
        rows.append(dict(servers=n, rows=ROWS, width=WIDTH, megabytes=round(held), megabytes_at_most=round(most)))
        print(rows[-1], flush=True)
    with tempfile.NamedTemporaryFile("w", dir=args.out, delete=False) as file:
        pd.DataFrame(rows).to_csv(file, index=False)
    os.chmod(file.name, 0o644)
    os.replace(file.name, args.out/"served-memory.csv")


if __name__ == "__main__":
    main()
