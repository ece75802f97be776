"""The public address stands once; the tool that derives the copies from it can be trusted."""
import re
import sys

from address import NOT_OURS, address, files
from conftest import ROOT, run


NEW = "some-one", "else.where"


def tool(root, *arguments):
    return run(sys.executable, root / "tools/address.py", *arguments, cwd=root)


def set_address(root, user, repo):
    path = root / "settings.ini"
    text = re.sub(r"^user = .*", f"user = {user}", path.read_text(encoding="utf-8"), flags=re.M)
    path.write_text(re.sub(r"^repo = .*", f"repo = {repo}", text, flags=re.M), encoding="utf-8")


def test_no_stray_copy():
    check = tool(ROOT, "--check")
    assert check.returncode == 0, check.stdout + check.stderr


def test_round_trip(tree):
    before, (user, repo) = dict(files(tree)), address(tree)
    set_address(tree, *NEW)
    stale = tool(tree, "--check")
    assert stale.returncode == 1 and "CITATION.cff" in stale.stdout
    assert tool(tree).returncode == 0
    moved = dict(files(tree))
    assert not [name for name, text in moved.items() if name not in NOT_OURS and (f"/{user}/{repo}" in text or f"/{user}.github.io" in text)]
    assert all(url in moved["CITATION.cff"] for url in ("https://github.com/%s/%s" % NEW, "https://%s.github.io/%s" % NEW))
    assert tool(tree, "--check").returncode == 0
    assert tool(tree).stdout == "", "a second time it has nothing to do"
    set_address(tree, user, repo)
    assert tool(tree).returncode == 0
    assert dict(files(tree)) == before


def test_strays_are_found(tree):
    user, repo = address(tree)
    plants = {
        "tests/stray.py": f"URL = 'https://github.com/{user}/{repo}'\n",  # where nothing rewrites it
        "STALE.md": f"[clone](https://github.com/somebody-else/{repo}.git)\n",
        "PAGES.md": f"https://somebody-else.github.io/{repo}/data.html\n",
        "nbs/07_copied.ipynb": f"[![Open in Colab](badge.svg)](https://colab.research.google.com/github/{user}/{repo}/blob/main/nbs/00_data.ipynb)\n",
        "nbs/08_install.ipynb": r'if find_spec(\"apr_tutorial\") is None: %pip install -q \"git+https://github.com/a/b\"' + "\n",
    }
    for name, text in plants.items():
        (tree / name).write_text(text, encoding="utf-8")
    found = tool(tree, "--check").stdout.splitlines()
    assert sorted(line.split(":")[0] for line in found) == sorted(plants), found


def test_other_repositories_are_left_alone(tree):
    user, repo = address(tree)
    others = f"""https://github.com/hexiangnan/adversarial_personalized_ranking https://github.com/{user}/{repo}-data
https://github.com/{user}/other git+https://github.com/a/b https://raw.githubusercontent.com/sisinflab/x/{repo}.tsv\n"""
    (tree / "OTHERS.md").write_text(others, encoding="utf-8")
    set_address(tree, *NEW)
    assert tool(tree).returncode == 0 and tool(tree, "--check").returncode == 0
    assert (tree / "OTHERS.md").read_text(encoding="utf-8") == others
