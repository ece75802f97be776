"""Is apr_tutorial/ what the notebooks export, and are the notebooks clean? `python tools/check_export.py` exits 1 if not.

Both are made anew in a copy of the tree and compared with it. So the check changes no file, needs no git, can run before a
commit, and also finds modules whose notebook is gone.
"""
import os
import shutil
import sys
import tempfile
from difflib import unified_diff
from pathlib import Path

from nbdev.clean import nbdev_clean
from nbdev.doclinks import nbdev_export

ROOT = Path(__file__).resolve().parents[1]


def contents(root):
    files = [*root.glob("apr_tutorial/**/*.py"), *root.glob("nbs/[!_.]*.ipynb")]
    return {p.relative_to(root).as_posix(): p.read_text(encoding="utf-8") for p in files}


def fresh(root, copy):
    "The contents of `root` with everything that nbdev makes made anew, in the folder `copy`."
    shutil.copytree(root / "nbs", copy / "nbs", ignore=shutil.ignore_patterns(".*", "nbdev.yml"))
    shutil.copy(root / "settings.ini", copy)
    (copy / "apr_tutorial").mkdir()
    if (root / "apr_tutorial/__init__.py").is_file():  # of which nbdev writes one line only
        shutil.copy(root / "apr_tutorial/__init__.py", copy / "apr_tutorial")
    os.environ.pop("IN_TEST", None)  # under it nbdev_export silently does nothing
    os.chdir(copy)
    nbdev_export.__wrapped__()
    nbdev_clean.__wrapped__()
    return contents(copy)


def main():
    have = contents(ROOT)
    with tempfile.TemporaryDirectory() as folder:
        want = fresh(ROOT, Path(folder))
        os.chdir(ROOT)
    wrong = sorted(name for name in have.keys() | want.keys() if have.get(name) != want.get(name))
    for name in wrong:
        print(f"{name}: " + ("not clean" if name.endswith(".ipynb") else "not what the notebooks export"))
        if name.endswith(".py"):
            old, new = (files.get(name, "").splitlines() for files in (have, want))
            print(*list(unified_diff(old, new, "as it is", "as exported", lineterm=""))[:30], sep="\n")
    if wrong:
        sys.exit("Run `make export`, and delete modules that no notebook exports.")
    print(f"Export check: {len(have)} files agree.")


if __name__ == "__main__":
    main()
