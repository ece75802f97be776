"""The public address stands once, as `user` and `repo` in settings.ini; every other copy is derived from it.

`python tools/address.py` rewrites the copies, `python tools/address.py --check` lists those that are stale or where they can't be
rewritten, and exits 1 if there are any. The previous address is what CITATION.cff still says.
"""
import argparse
import os
import re
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Where a copy may stand; and where it is not ours to look: nbdev_export writes _modidx.py from settings.ini.
DERIVED = re.compile(r"[^/]+\.(md|cff)|_quarto\.yml|nbs/[^/]+\.(ipynb|yml)|\.github/.*")
NOT_OURS = ("settings.ini", "apr_tutorial/_modidx.py")
# These two name this project, whatever address they give: a notebook's install cell and a Colab badge.
INSTALL = re.compile(r"(find_spec\(\\?[\"']apr_tutorial\\?[\"']\).{0,80}?git\+https://github\.com/)[\w.-]+/[\w.-]*\w", re.S)
BADGE = re.compile(r"(\[!\[Open in Colab\]\([^)]*\)\]\(https://colab\.research\.google\.com/github/)[\w.-]+/[\w.-]+(/blob/main/nbs/)([\w.-]+)(?=\))")


def address(root):
    ini = ConfigParser()
    ini.read(root / "settings.ini", encoding="utf-8")
    return ini["DEFAULT"]["user"], ini["DEFAULT"]["repo"]


def previous(root):
    return tuple(re.search(r"^repository-code: .*/([^/\s]+)/([^/\s]+)$", (root / "CITATION.cff").read_text(encoding="utf-8"), re.M).groups())


def copies(user, repo):
    "A pattern of every copy of an address: USER/REPO in a link, and the site USER.github.io/REPO."
    user, repo = re.escape(user), re.escape(repo)
    return re.compile(rf"(?<=[/:]){user}(?P<site>\.github\.io)?/{repo}(?![\w-]|\.(?!git\b)\w)")


def names(root, which="-co"):
    "Every file that git tracks (`-c`) or would (`-o`); in a tree without git, every one that no command wrote."
    git = subprocess.run(["git", "ls-files", which, "--exclude-standard", "-z"], cwd=root, capture_output=True, text=True)
    if git.returncode == 0:
        return sorted({name for name in git.stdout.split("\0") if (root / name).is_file()})
    found = []
    for folder, folders, here in os.walk(root):
        folders[:] = [f for f in folders if f in (".ci", ".github") or not re.match(r"[._]|(runs|build|dist)$|.*\.egg-info$", f)]
        found += [(Path(folder) / name).relative_to(root).as_posix() for name in here]
    return sorted(found)


def files(root, which="-co"):
    "Name and text of every text file among `names`."
    for name in names(root, which):
        try:
            yield name, (root / name).read_text(encoding="utf-8")
        except UnicodeDecodeError:
            pass


def rewritten(name, text, old, new):
    "`text` of the file `name`, with every copy of the project's address made that of `new`."
    if not DERIVED.fullmatch(name):
        return text
    text = copies(*old).sub(lambda m: f"{new[0]}{m['site'] or ''}/{new[1]}", text)
    text = INSTALL.sub(rf"\g<1>{new[0]}/{new[1]}", text)
    own = Path(name).name if re.fullmatch(r"nbs/\d\d_.*\.ipynb", name) else None  # a chapter's badge opens that chapter
    return BADGE.sub(lambda m: f"{m[1]}{new[0]}/{new[1]}{m[2]}{own or m[3]}", text)


def problems(root):
    old, new = previous(root), address(root)
    user, repo = map(re.escape, new)
    namesake = re.compile(rf"(?:github(?:usercontent)?\.com[/:]|google\.com/github/|/gh/)(?!{user}/)[\w.-]+/{repo}(?![\w-])"
                          rf"|//(?!{user}\.)[\w-]+\.github\.io/{repo}(?![\w-])")
    for name, text in files(root):
        if name in NOT_OURS:
            continue
        should = rewritten(name, text, old, new).splitlines()
        for number, (line, wanted) in enumerate(zip(text.splitlines(), should), 1):
            if line != wanted:
                yield f"{name}:{number}: stale, should be {wanted.strip()}"
            elif match := namesake.search(line):
                yield f"{name}:{number}: stale, or another's: {match[0]}"
            elif not DERIVED.fullmatch(name) and any(copies(*pair).search(line) for pair in (old, new)):
                yield f"{name}:{number}: a copy where it can't be rewritten: {line.strip()}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing, list what is wrong")
    if parser.parse_args().check:
        found = list(problems(ROOT))
        for problem in found:
            print(problem)
        return bool(found)
    old, new = previous(ROOT), address(ROOT)
    for name, text in files(ROOT):
        if (changed := rewritten(name, text, old, new)) != text:
            (ROOT / name).write_text(changed, encoding="utf-8")
            print(name)


if __name__ == "__main__":
    sys.exit(main())
