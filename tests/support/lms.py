"""The LMS in small as a process of its own, for tests to talk to."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from tests.support.paths import ROOT, SUPPORT

_PROJECT = SUPPORT / "lms_project"
_ENTRY_POINTS = """
[lms.djangoapp]
aspects_pii = sink.doors.plugin.apps:AspectsPiiConfig

[cms.djangoapp]
aspects_pii = sink.doors.plugin.apps:AspectsPiiConfig
"""


class LmsError(Exception):
    """A step raised; the name of its exception."""


@dataclass
class Lms:
    """A running LMS; `lms.call("create_user", username=…)` runs a function of steps.py."""

    child: subprocess.Popen[str]
    log: Path
    environment: Mapping[str, str]
    seconds: float = 0.0
    """How long the latest call took."""

    def call(self, step: str, *arguments: Any, **named: Any) -> Any:
        """Run a step and return what it returns.

        Raises:
            LmsError: the step raised.
        """
        assert self.child.stdin
        assert self.child.stdout
        self.child.stdin.write(json.dumps({"call": step, "arguments": arguments, **named}) + "\n")
        self.child.stdin.flush()
        line = self.child.stdout.readline()
        assert line, f"the LMS has ended:\n{self.read_log()}"
        answer = json.loads(line)
        self.seconds = answer["seconds"]
        if "error" in answer:
            raise LmsError(answer["error"])
        return answer["result"]

    def read_log(self) -> str:
        """What it has logged so far."""
        return self.log.read_text()

    def manage(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run `manage.py lms …` beside it."""
        return subprocess.run(
            [sys.executable, str(_PROJECT / "manage.py"), "lms", *arguments],
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            timeout=120,
        )


def name_sqlite(path: Path) -> dict[str, Any]:
    """A database in a file."""
    return {"ENGINE": "django.db.backends.sqlite3", "NAME": str(path), "OPTIONS": {"timeout": 20}}


def name_mariadb(name: str) -> dict[str, Any]:
    """A database of the MariaDB that services tests use."""
    return {"ENGINE": "django.db.backends.mysql", "NAME": name, "HOST": "127.0.0.1", "PORT": 3306, "USER": "root"}


@contextmanager
def run_lms(
    folder: Path,
    database: Mapping[str, Any],
    *,
    tokens: Mapping[str, Any] | None = None,
    variant: str = "lms",
    environment: Mapping[str, str] | None = None,
) -> Iterator[Lms]:
    """Make the database and start an LMS.

    Args:
        folder: where its configuration and its log go.
        database: Django's settings of the database.
        tokens: what the operator has written into the LMS's YAML.
        variant: lms or cms.
        environment: more variables.
    """
    configuration = folder / f"{variant}.json"
    configuration.write_text(json.dumps(tokens or {}))
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("ASPECTS_")}
    variables = {
        **inherited,
        "LMS_DATABASE": json.dumps(database),
        "LMS_CFG": str(configuration),
        "SERVICE_VARIANT": variant,
        "PYTHONPATH": os.pathsep.join([str(_PROJECT), str(ROOT), *_list_metadata(folder)]),
        **(environment or {}),
    }
    log = folder / f"{variant}.log"
    with log.open("a") as stderr:
        child = subprocess.Popen(
            [sys.executable, str(_PROJECT / "console.py")],
            env=variables,
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
        lms = Lms(child, log, variables)
        try:
            lms.call("migrate")
            yield lms
        finally:
            child.kill()
            child.communicate()


def _list_metadata(folder: Path) -> list[str]:
    """A folder with the plugin's entry points, where the installed package is too old to have them."""
    if any(point.name == "aspects_pii" for point in entry_points(group="lms.djangoapp")):
        return []
    metadata = folder / "metadata" / "aspects_pii_plugin-0.dist-info"
    metadata.mkdir(parents=True, exist_ok=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: aspects-pii-plugin\nVersion: 0\n")
    (metadata / "entry_points.txt").write_text(_ENTRY_POINTS)
    return [str(metadata.parent)]
