"""Two processes of this machine train one model. Is it the model of one process? Exit code 1 where it is not.

In step (`team.synchronous`) they must agree with one process up to rounding, for BPR and for APR. Exchanging changes they must agree
with the simulation in one process bit for bit. And both must hold the same factors.
"""
import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

EPOCHS, SECONDS = 3, 300


def trained(team, how=lambda team: team):
    "Factors after BPR and then APR; `how` makes a strategy of the team, None trains in this process alone."
    from apr_tutorial.apr import APR
    from apr_tutorial.data import synthetic
    from apr_tutorial.model import BPRMF, fit

    data, found = synthetic(200, 400, activity=30), {}
    model = BPRMF(data.num_users, data.num_items)
    for name, adversary in {"BPR": None, "APR": APR()}.items():
        fit(model, data, EPOCHS, seed=(1, len(found)), adversary=adversary, progress=False, strategy=team and how(team))
        found |= {f"{name} users": model.user_factors, f"{name} items": model.item_factors}
    return found


def work(out):
    "A worker's part: train in step, then exchanging once an epoch and every five steps; keep what came of it."
    import numpy as np

    from apr_tutorial.distributed import MultiWorker, tf

    tf.get_logger().setLevel("ERROR")  # it warns of the several shapes that are compiled on purpose
    team, found = MultiWorker(timeout=60), {}
    for name, every, how in (("in step", None, lambda team: team.synchronous), ("exchange", None, lambda team: team), ("exchange 5", 5, lambda team: team)):
        team.every = every
        found |= {f"{name}, {key}": rows for key, rows in trained(team, how).items()}
    np.savez(out, **found)


def started(out, config):
    return subprocess.Popen([sys.executable, __file__, "--worker", out], env={**os.environ, "TF_CONFIG": config}, stderr=subprocess.PIPE, text=True)


def both(folder):
    "Arrays by name, of each of the two workers. Ends both where one fails."
    import numpy as np

    from apr_tutorial.distributed import local_cluster

    outs = [folder/f"{rank}.npz" for rank in range(2)]
    workers = [started(*pair) for pair in zip(outs, local_cluster(2))]
    try:
        said = [worker.communicate(timeout=SECONDS)[1] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    for worker, text in zip(workers, said):
        if worker.returncode:
            sys.exit(f"a worker failed with exit code {worker.returncode}:\n{text[-2000:]}")
    return [dict(np.load(out, allow_pickle=False)) for out in outs]


def verdict(workers, expected, tolerance):
    "A line for each array, and whether all is right: in step within the tolerance, exchanging to the bit, both workers the same."
    lines, good = [], True
    for name, rows in workers[0].items():
        way, key = name.split(", ")
        apart, same = float(abs(rows - expected[way][key]).max()), bool((rows == workers[1][name]).all())
        right = same and apart <= (tolerance if way == "in step" else 0)
        against = "one process" if way == "in step" else "its simulation"
        lines.append(f"{name:<24} largest difference from {against}: {apart:.1e}; the two workers {'agree' if same else 'DIFFER'}{'' if right else '   WRONG'}")
        good &= right
    return lines, good


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tolerance", type=float, default=1e-4, help="largest difference of a factor that passes")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        return work(args.worker)
    with tempfile.TemporaryDirectory() as folder:
        first, second = both(Path(folder))
    from apr_tutorial.distributed import simulate, tf

    tf.get_logger().setLevel("ERROR")
    expected = {"in step": trained(None), "exchange": simulate(2, trained)[0], "exchange 5": simulate(2, trained, every=5)[0]}
    lines, right = verdict([first, second], expected, args.tolerance)
    print(*lines, sep="\n")
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
