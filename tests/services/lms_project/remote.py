"""The LMS in small and a Celery worker as processes of their own, for tests to talk to."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).parent
ROOT = PROJECT.parents[2]
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
            [sys.executable, str(PROJECT / "manage.py"), "lms", *arguments],
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
    **environment: str,
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
        "PYTHONPATH": os.pathsep.join([str(PROJECT), str(ROOT), *_list_metadata(folder)]),
        **environment,
    }
    log = folder / f"{variant}.log"
    with log.open("a") as stderr:
        child = subprocess.Popen(
            [sys.executable, str(PROJECT / "console.py")],
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


_WORK = """
import sys
from sink.ledger import leases
from sink.doors.worker.app import run_worker
from sink.settings import load_settings
lease._SECONDS, lease._RENEW_EVERY = 2, 0.5
sys.exit(run_worker(load_settings()))
"""


@dataclass
class Worker:
    """A Celery worker as a process group of its own, with the schedule beside it."""

    child: subprocess.Popen[bytes]
    log: Path

    def kill(self) -> None:
        """End every process of it at once, as a host that goes down does."""
        with suppress(ProcessLookupError):
            os.killpg(self.child.pid, signal.SIGKILL)
        self.child.wait()

    def stop(self) -> int:
        """SIGTERM, and its exit status."""
        self.child.terminate()
        return self.child.wait(timeout=30)

    def read_log(self) -> str:
        """What all workers of this folder have logged so far."""
        return self.log.read_text()


@contextmanager
def run_worker(folder: Path, **environment: str) -> Iterator[Worker]:
    """Start a worker with these settings, leases of killed workers ending after two seconds; killed at the end."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("ASPECTS_")}
    log = folder / "worker.log"
    with log.open("a") as output:
        child = subprocess.Popen(
            [sys.executable, "-c", _WORK],
            env={**inherited, "PYTHONPATH": str(ROOT), **environment},
            cwd=folder,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        worker = Worker(child, log)
        try:
            yield worker
        finally:
            worker.kill()
