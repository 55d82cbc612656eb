"""Workflows: actions are pinned by commit, what they run is there, and nothing is released that was not checked."""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from typing import Any

import pytest
import yaml

from tests.support.paths import ROOT

FILES = sorted((ROOT / ".github/workflows").glob("*.yml"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def read(name: str) -> dict[str, Any]:
    """A workflow's jobs."""
    jobs: dict[str, Any] = yaml.safe_load((ROOT / f".github/workflows/{name}.yml").read_text())["jobs"]
    return jobs


def list_steps(jobs: dict[str, Any]) -> list[dict[str, Any]]:
    return [step for job in jobs.values() for step in job.get("steps", [])]


def test_every_action_is_pinned_by_commit_and_says_its_version() -> None:
    used = [line.strip() for file in FILES for line in file.read_text().splitlines() if "uses:" in line]
    assert len(used) >= 10
    pinned = re.compile(r"(- )?uses: (\./\S+|[\w.-]+(/[\w.-]+)+@[0-9a-f]{40} # v\d+\.\d+\.\d+)")
    assert [line for line in used if not pinned.fullmatch(line)] == []


def test_an_action_is_pinned_to_one_commit_everywhere() -> None:
    pins = {pin for file in FILES for pin in re.findall(r"uses: ([^\s@]+)@([0-9a-f]{40})", file.read_text())}
    assert len(pins) >= 8
    assert len({action for action, _ in pins}) == len(pins)


def test_make_targets_that_are_run_are_there() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    steps = [step["run"] for file in FILES for step in list_steps(read(file.stem)) if "run" in step]
    asked = {target for run in steps for target in re.findall(r"\bmake ([\w-]+)", run)}
    assert asked >= {"test-engines", "test-superset", "audit"}
    assert asked - targets == set()


def test_ci_runs_on_every_python_that_is_supported() -> None:
    lowest = PROJECT["requires-python"].removeprefix(">=").partition(",")[0]
    tried = read("ci")["check"]["strategy"]["matrix"]["python"]
    assert tried[0] == lowest
    classified = [one.rpartition(" ")[2] for one in PROJECT["classifiers"] if re.search(r"Python :: 3\.\d+$", one)]
    assert classified == tried
    page = (ROOT / "docs/by-hand.md").read_text()
    assert f"Python {tried[0]} to {tried[-1]}" in page


def test_nothing_is_released_before_it_is_checked_and_signed() -> None:
    jobs = read("release")
    assert jobs["check"]["uses"] == "./.github/workflows/ci.yml"
    for name in ("files", "image"):
        assert jobs[name]["needs"] == "check"
        assert any("attest-build-provenance" in step.get("uses", "") for step in jobs[name]["steps"])
    assert sorted(jobs["publish"]["needs"]) == ["files", "image"]
    # Only the job that publishes may write to the repository, and only these three may say who they are.
    assert {name for name, job in jobs.items() if job.get("permissions", {}).get("contents") == "write"} == {"publish"}
    assert {name for name, job in jobs.items() if "id-token" in job.get("permissions", {})} == {
        "files",
        "image",
        "publish",
    }


@pytest.mark.parametrize(("tag", "status"), [(f"v{PROJECT['version']}", 0), ("v9.9.9", 1)])
def test_a_tag_that_is_not_the_version_is_refused(tag: str, status: int) -> None:
    (step,) = [step for step in list_steps(read("release")) if step.get("name") == "The tag is the version"]
    ran = subprocess.run(
        ["bash", "-ec", step["run"]], cwd=ROOT, env={"GITHUB_REF_NAME": tag, "PATH": os.environ["PATH"]}, check=False
    )
    assert ran.returncode == status
