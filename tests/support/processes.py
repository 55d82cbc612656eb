"""Programs as processes of their own, which can be killed and started again; and waiting for what they do."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support import served
from tests.support.paths import ROOT

#: Waits are this patient; none of them is about speed.
PATIENCE = 300.0


def wait_until(condition: Callable[[], Any], explain: Callable[[], str] = lambda: "", pause: float = 0.2) -> Any:
    """What the condition says, once it says something; asked every `pause` seconds.

    A condition that takes long is asked less often: it would take the processor from what it waits for.
    """
    deadline = time.monotonic() + PATIENCE
    while True:
        asked_at = time.monotonic()
        if said := condition():
            return said
        now = time.monotonic()
        assert now < deadline, f"waited in vain\n{explain()}"
        time.sleep(max(pause, 4 * (now - asked_at)))


def die_with_us(command: Sequence[str]) -> list[str]:
    """The same command; the kernel kills it when this process ends, where it can be told so.

    A run that was killed would leave somebody behind who takes the messages of the next one.
    """
    return [*(["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []), *command]


def take_port() -> int:
    """A port that is free now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def is_listening(port: int) -> bool:
    """True where somebody takes connections."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


@dataclass
class Process:
    """A program that can be killed and started again; a process group of its own."""

    name: str
    command: Sequence[str]
    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    port: int = 0
    """Where it listens once it has started; 0 where it does not."""
    child: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        """What all of its lives have printed."""
        return self.folder / f"{self.name}.log"

    def read_log(self) -> str:
        """The same as text."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def start(self, *, wait: bool = True) -> None:
        """Start it, and wait until it listens, where it does."""
        assert self.child is None
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("ASPECTS_")}
        with self.log.open("ab") as output:
            self.child = subprocess.Popen(
                die_with_us(self.command),
                env={**inherited, "PYTHONPATH": str(ROOT), **served.ENVIRONMENT, **self.environment},
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        if wait and self.port:
            wait_until(lambda: is_listening(self.port) or self._has_ended(), self.read_log)
            assert not self._has_ended(), self.read_log()

    def _has_ended(self) -> bool:
        return self.child is None or self.child.poll() is not None

    def kill(self) -> None:
        """SIGKILL to all of it at once, as when a host goes down."""
        if self.child is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.child.pid, signal.SIGKILL)
            self.child.wait()
            self.child = None

    def stop(self) -> int:
        """SIGTERM; the exit status, once it has ended."""
        assert self.child is not None
        self.child.terminate()
        return self.child.wait(PATIENCE)

    def send(self, number: signal.Signals) -> None:
        """A signal to its first process."""
        assert self.child is not None
        self.child.send_signal(number)

    def restart(self) -> None:
        """Kill it and start it again."""
        self.kill()
        self.start()


@contextmanager
def running(process: Process) -> Iterator[Process]:
    """Start it now; killed at the end."""
    try:
        process.start()
        yield process
    finally:
        process.kill()


def name_program(name: str, *arguments: object) -> list[str]:
    """The command line of a program of `tests.support.programs`."""
    return [sys.executable, "-m", f"tests.support.programs.{name}", *map(str, arguments)]


def make_endpoint(folder: Path, data: Path) -> Process:
    """ClickHouse's protocol over the engine, whose data is in `data`."""
    port = take_port()
    return Process("endpoint", name_program("endpoint", data, port), folder, port=port)


def make_redis(folder: Path) -> Process:
    """A Redis that has forgotten everything when it is started again."""
    port = take_port()
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    return Process("redis", command, folder, port=port)


def make_worker(folder: Path, name: str = "worker", **environment: str) -> Process:
    """A Celery worker with its schedule."""
    return Process(name, name_program("worker"), folder, environment)


def make_consumer(folder: Path, name: str = "consumer", **environment: str) -> Process:
    """`aspects-pii consume`."""
    return Process(name, name_program("consumer"), folder, environment)
