"""Run notebooks in place on movielens-500 and save them clean: `python tools/run_notebooks.py [NAME.ipynb …] [--any-data]`.

Each runs in a fresh process, with the outputs of before removed. Cells marked `eval: false` are not run. A notebook with a cell
that fails is left as it was, and the exit code is 1.
"""
import argparse
import os
import re
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path

NBS = Path(__file__).resolve().parents[1] / "nbs"


def real_data():
    "Does `auto` mean the pinned files of movielens-500? Files in the user's own folder are not verified on loading."
    from apr_tutorial.data import DATASETS, load_dataset

    found = {f"sha256:{digest}" for digest in load_dataset("auto").sources.values()}
    return found == set(DATASETS["movielens-500"].digests.values())


def as_on_screen(cell):
    "Progress bars rewrite their line after a carriage return: keep what a reader would see at the end."
    for output in cell.get("outputs", []):
        if output["output_type"] == "stream":
            output["text"] = re.sub(r"[^\n]*\r(?=[^\n])", "", "".join(output["text"])).splitlines(True)


def run(path):
    "Run one notebook and save it. Returns the error's text, or None."
    from execnb.nbio import read_nb, write_nb
    from execnb.shell import CaptureShell
    from nbdev.clean import nbdev_clean
    from nbdev.process import NBProcessor

    nb = read_nb(path)
    skip = [c.cell_type != "code" or c.directives_.get("eval:") == ["false"] for c in NBProcessor(path).nb.cells]
    for cell in nb.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    os.chdir(path.parent)
    shell = CaptureShell(path)
    try:
        shell.run_all(nb, exc_stop=True, preproc=lambda cell: skip[cell.idx_], postproc=as_on_screen)
    except BaseException:
        return shell.prettytb(path.name)
    write_nb(nb, path)
    nbdev_clean.__wrapped__(str(path))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME.ipynb")
    parser.add_argument("--any-data", action="store_true", help="run on whatever data there are, synthetic ones included")
    args = parser.parse_args()
    paths = [NBS / Path(name).name for name in args.names] or sorted(NBS.glob("[!_.]*.ipynb"))
    if missing := [str(p) for p in paths if not p.is_file()]:
        sys.exit(f"No such notebook: {', '.join(missing)}")
    if not (args.any_data or real_data()):
        sys.exit("The data are not the real movielens-500, so the outputs would mislead: nothing was run. "
                 "Connect to the network, set APR_TUTORIAL_DATA, or add --any-data.")
    failed = []
    for path in paths:
        start = time.time()
        try:
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                error = pool.submit(run, path).result()
        except BrokenProcessPool:
            error = "The process died."
        print(f"{path.name}: {'FAILED after' if error else 'done in'} {time.time() - start:.0f} s", flush=True)
        if error:
            print(error, file=sys.stderr, flush=True)
            failed.append(path.name)
    if failed:
        sys.exit(f"Left as they were: {', '.join(failed)}")


if __name__ == "__main__":
    main()
