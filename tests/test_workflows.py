"""The workflows of the repository's host: what they may do, and that what they call is there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tomli
import yaml

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
PROJECT = tomli.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

every_workflow = pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)


def load(workflow: Path) -> dict[Any, Any]:
    return dict(yaml.safe_load(workflow.read_text(encoding="utf-8")))


def jobs(workflow: Path) -> Iterator[dict[str, Any]]:
    yield from load(workflow)["jobs"].values()


def commands(workflow: Path) -> set[str]:
    """What the steps run."""
    return {step["run"] for job in jobs(workflow) for step in job["steps"] if "run" in step}


@every_workflow
def test_actions_are_pinned_to_a_commit(workflow: Path) -> None:
    used = re.findall(r"uses: (.+)$", workflow.read_text(encoding="utf-8"), re.MULTILINE)
    assert used
    for action in used:
        assert re.fullmatch(r"[\w.-]+/[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", action)


@every_workflow
def test_a_job_may_read_the_repository_and_no_more(workflow: Path) -> None:
    assert load(workflow)["permissions"] == {}
    for job in jobs(workflow):
        publishes = any("pypi-publish" in step.get("uses", "") for step in job["steps"])
        allowed = {"id-token": "write"} if publishes else {"contents": "read"}
        assert job.get("permissions", {}).items() <= allowed.items()
        assert not publishes or (job["permissions"] == allowed and job["environment"] == "pypi")
        for step in job["steps"]:
            if "checkout" in step.get("uses", ""):
                assert step["with"] == {"persist-credentials": False}


@every_workflow
def test_make_has_each_target(workflow: Path) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = [run.split()[1] for run in commands(workflow) if run.startswith("make ")]
    assert targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_ci_does_what_a_change_must_pass_on_every_python() -> None:
    ci = ROOT / ".github" / "workflows" / "ci.yml"
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    must = set(re.findall(r"^make (?!setup|--)[\w-]+$", script, re.MULTILINE))
    assert must
    assert must <= commands(ci)
    pythons = load(ci)["jobs"]["test"]["strategy"]["matrix"]["python"]
    known = [name.rpartition(" ")[2] for name in PROJECT["classifiers"] if "Python :: 3." in name]
    assert pythons == known


def test_one_job_waits_for_all_others() -> None:
    found = load(ROOT / ".github" / "workflows" / "ci.yml")["jobs"]
    assert set(found["check"]["needs"]) == set(found) - {"check"}
