"""The processes that these tests run against: the engine behind HTTP, and a Superset of its own environment."""

from __future__ import annotations

import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import httpx

from tests.support import served

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
ENVIRONMENT = Path(os.environ.get("SUPERSET_VENV", ROOT / ".venv-superset"))
ADMIN = ("admin", "a password of the tests")
# Generous: a slow machine is no reason to fail.
_PATIENCE = 300.0


@dataclass(frozen=True)
class Ran:
    """What a command did."""

    status: int
    out: str
    err: str


def run_command(environment: Mapping[str, str], *arguments: object) -> Ran:
    """Run `aspects-pii` as an operator does, with these settings and no others."""
    ran = subprocess.run(
        [str(Path(sys.executable).parent / "aspects-pii"), *map(str, arguments)],
        env={**_without_settings(), **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    return Ran(ran.returncode, ran.stdout, ran.stderr)


@contextmanager
def serve_clickhouse(folder: Path) -> Iterator[str]:
    """`aspects-pii clickhouse` on a free port; yields its address."""
    environment = {"ASPECTS_CLICKHOUSE_URL": f"chdb://{folder}", **served.ENVIRONMENT}
    command = [str(Path(sys.executable).parent / "aspects-pii"), "clickhouse", "--port", "0"]
    with _running(command, {**_without_settings(), **environment}, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        match = re.search(r"http://\S+", line)
        assert match, f"the endpoint did not start: {line}"
        yield match[0]


class SupersetServer:
    """A Superset with metadata of its own in a folder, which can be started again with another configuration."""

    def __init__(self, folder: Path) -> None:
        """Make the metadata database and an administrator."""
        self.folder = folder
        self.log = folder / "superset.log"
        folder.mkdir(parents=True)
        self._environment = {
            **_without_settings(),
            "SUPERSET_CONFIG_PATH": str(HERE / "superset_config.py"),
            "SUPERSET_HOME": str(folder),
            "SUPERSET_SECRET_KEY": secrets.token_urlsafe(48),
            "FLASK_APP": "superset",
        }
        user, password = ADMIN
        self._superset("db", "upgrade")
        name = ("--firstname", "Admin", "--lastname", "Istrator", "--email", "admin@localhost")
        self._superset("fab", "create-admin", "--username", user, *name, "--password", password)
        self._superset("init")

    def _superset(self, *arguments: str) -> None:
        with self.log.open("a") as log:
            command = [str(ENVIRONMENT / "bin" / "superset"), *arguments]
            subprocess.run(command, env=self._environment, stdout=log, stderr=log, check=True, timeout=900)

    @contextmanager
    def running(self, **changes: str) -> Iterator[str]:
        """Serve it with one worker on a free port; yields the address."""
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        options = ["-b", f"127.0.0.1:{port}", "-w", "1", "-k", "gthread", "--threads", "8", "--timeout", "300"]
        command = [str(ENVIRONMENT / "bin" / "gunicorn"), *options, "superset.app:create_app()"]
        url = f"http://127.0.0.1:{port}"
        with self.log.open("a") as log, _running(command, {**self._environment, **changes}, log, log) as process:
            # /health says yes before the rest can be used.
            wait_until(lambda: process.poll() is not None or _answers(f"{url}/login/"))
            assert process.poll() is None, f"Superset did not start: {self.log.read_text()[-2000:]}"
            yield url


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for what will surely be."""
    deadline = time.monotonic() + _PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.2)


@contextmanager
def _running(
    command: Sequence[str],
    environment: Mapping[str, str],
    stdout: IO[str] | int | None = None,
    stderr: IO[str] | None = None,
) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        command,
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=30, trust_env=False).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False


def _without_settings() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(("ASPECTS_", "SUPERSET_", "DBT_"))}
