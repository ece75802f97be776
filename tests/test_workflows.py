"""What GitHub runs and reads: checked here, offline, by the tools that know the formats."""
import os
import re
import shutil
import sys
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, run

WORKFLOWS = sorted(ROOT.glob(".github/workflows/*.yml"))
ENVIRONMENT = Path(sys.prefix)
each_workflow = pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)


def tool(name):
    "The program of that name beside this Python. Where there is none the test is skipped aloud."
    where = os.pathsep.join(map(str, (Path(sys.executable).parent, ENVIRONMENT / "bin", ENVIRONMENT / "cffconvert/bin")))
    return shutil.which(name, path=where) or pytest.skip(f"no {name} on this Python: make test installs it where it can")


def zizmor(folder):
    return run(tool("zizmor"), "--offline", "--no-progress", "--strict-collection", "--config", ROOT / ".github/zizmor.yml", folder)


def test_zizmor_finds_nothing(tmp_path):
    found = zizmor(ROOT / ".github")
    assert found.returncode == 0 and "No findings" in found.stdout, found.stdout + found.stderr
    (tmp_path / ".github/workflows").mkdir(parents=True)
    careless = (ROOT / ".github/workflows/site.yml").read_text(encoding="utf-8").replace("run: make site", "run: make ${{ github.head_ref }}").replace("persist-credentials: false", "{}")
    (tmp_path / ".github/workflows/site.yml").write_text(careless, encoding="utf-8")
    found = zizmor(tmp_path)
    assert found.returncode > 10 and "artipacked" in found.stdout and "template-injection" in found.stdout, found.stdout + found.stderr


def test_workflows_keep_the_schema(tmp_path):
    check = tool("check-jsonschema"), "--builtin-schema", "vendor.github-workflows"
    done = run(*check, *WORKFLOWS)
    assert done.returncode == 0, done.stdout + done.stderr
    (tmp_path / "broken.yml").write_text((ROOT / ".github/workflows/site.yml").read_text(encoding="utf-8").replace("runs-on", "run-on"), encoding="utf-8")
    assert run(*check, tmp_path / "broken.yml").returncode == 1


def test_citation_file(tmp_path):
    validate = tool("cffconvert"), "--validate", "--infile"
    done = run(*validate, ROOT / "CITATION.cff")
    assert done.returncode == 0 and "valid" in done.stdout, done.stdout + done.stderr
    (tmp_path / "CITATION.cff").write_text((ROOT / "CITATION.cff").read_text(encoding="utf-8").replace("authors:", "writers:"), encoding="utf-8")
    assert run(*validate, tmp_path / "CITATION.cff").returncode != 0


@each_workflow
def test_actions_are_released_versions(workflow):
    used = re.findall(r"uses: *(\S+)", workflow.read_text(encoding="utf-8"))
    assert used and not [u for u in used if not re.fullmatch(r"[\w./-]+@(v\d+\.\d+\.\d+|[0-9a-f]{40})", u)]


@each_workflow
def test_permissions_are_the_least(workflow):
    "Nothing but reading the tree; the job that publishes the site may do that, and can't read the tree."
    content = yaml.safe_load(workflow.read_text(encoding="utf-8"))
    for name, job in content["jobs"].items():
        granted = job.get("permissions", content["permissions"])
        assert granted == ({"pages": "write", "id-token": "write"} if name == "deploy" else {"contents": "read"}), name
        assert "timeout-minutes" in job, name
        assert not any("run" in step for step in job["steps"]) or granted == {"contents": "read"}, name
    assert "pull_request_target" not in content[True] and "secrets." not in workflow.read_text(encoding="utf-8")
