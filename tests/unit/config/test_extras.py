"""What the package brings into environments that are not ours: nothing that takes back what stands there.

The pins are upstream's (`tests/support/lms_pins`, each with its source and time), and so is what pinned packages require
(`requires.json`, from their published metadata). What is not pinned there is taken as it is installed here.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.paths import ROOT

PINS = ROOT / "tests" / "support" / "lms_pins"
PUBLISHED: dict[str, list[str]] = json.loads((PINS / "requires.json").read_text())
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OURS = "aspects-pii-sink"


class Environment:
    """An environment of somebody else's: its Python and what it pins."""

    def __init__(self, file: Path) -> None:
        lines = file.read_text().splitlines()
        (self.python,) = (line.removeprefix("# python ") for line in lines if line.startswith("# python "))
        entries = " ".join(line for line in lines if not line.startswith("#")).split()
        self.pins = dict(entry.split("==") for entry in entries)

    def find_conflicts(self, wanted: Iterable[str]) -> set[str]:
        """What of it pip would have to change so that these can be installed as well, and who wants that."""
        found: set[str] = set()
        seen: set[str] = set()
        queue = [(Requirement(text), frozenset[str](), OURS) for text in wanted]
        while queue:
            requirement, extras, by = queue.pop()
            if requirement.marker is not None and not any(
                requirement.marker.evaluate({"extra": extra, "python_version": self.python, "sys_platform": "linux"})
                for extra in ("", *extras)
            ):
                continue
            name = canonicalize_name(requirement.name)
            pin = self.pins.get(name)
            if pin is not None and not requirement.specifier.contains(pin, prereleases=True):
                found.add(f"{by} wants {name}{requirement.specifier}, and {pin} is there")
                continue
            key = f"{name}=={pin}{sorted(requirement.extras)}"
            if key not in seen:
                seen.add(key)
                ours = frozenset(requirement.extras)
                queue += [(Requirement(text), ours, name) for text in self.list_requirements(name)]
        return found

    def list_requirements(self, name: str) -> list[str]:
        if name == OURS:
            return [*PROJECT["dependencies"]]
        if (pin := self.pins.get(name)) is None:
            return requires(name) or []
        assert f"{name}=={pin}" in PUBLISHED, f"add what {name} {pin} requires to {PINS / 'requires.json'}"
        return PUBLISHED[f"{name}=={pin}"]


ENVIRONMENTS = {file.stem: Environment(file) for file in sorted(PINS.glob("*.txt"))}
LMS = [name for name in ENVIRONMENTS if not name.startswith("driver")]


def test_the_environments_are_those_of_two_lms_and_of_the_driver() -> None:
    assert [*ENVIRONMENTS] == ["2026-01", "2026-04", "driver-2026-11"]
    assert len(ENVIRONMENTS["2026-04"].pins) > 250
    assert {ENVIRONMENTS[name].pins["redis"] for name in LMS} == {"7.1.0", "7.4.0"}


@pytest.mark.parametrize("name", LMS)
def test_the_extra_lms_leaves_everything_in_an_lms_as_it_is(name: str) -> None:
    wanted = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["lms"]]
    assert ENVIRONMENTS[name].find_conflicts(wanted) == set()


def test_the_bare_package_leaves_everything_in_the_drivers_environment_as_it_is() -> None:
    assert ENVIRONMENTS["driver-2026-11"].find_conflicts(PROJECT["dependencies"]) == set()


@pytest.mark.parametrize("name", LMS)
def test_celery_with_redis_in_the_core_would_take_redis_back(name: str) -> None:
    (conflict,) = ENVIRONMENTS[name].find_conflicts([*PROJECT["dependencies"], "celery[redis]>=5.4,<6"])
    assert conflict.startswith("kombu wants redis!=")
    assert conflict.endswith(f"and {ENVIRONMENTS[name].pins['redis']} is there")


def test_every_extra_that_talks_to_redis_brings_its_client() -> None:
    server = PROJECT["optional-dependencies"]["server"]
    assert [Requirement(text).name for text in server if "redis" in text] == ["celery", "redis"]
    for extra in ("embedded", "kafka"):
        assert f"{OURS}[server]" in PROJECT["optional-dependencies"][extra]
    assert not [text for text in PROJECT["dependencies"] if "redis" in text]
