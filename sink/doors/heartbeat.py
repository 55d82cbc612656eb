"""Signs of life: a file that a loop writes as long as it turns, and the look at it from outside.

A process that runs can still be stuck. So the file is written by the loop itself, and says until when the next sign is
due: soon while the loop waits for work, later while it is at work that may take long.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sink.errors import HeartbeatError, SettingsError, UsageError

# .. no_pii: times.

WORKER = "worker"
CONSUMER = "consumer"
NAMES = (WORKER, CONSUMER)

WAITING = 30.0
"""Seconds after a sign in which the next one is due while the loop waits for work."""

WORKING = 1_800.0
"""The same for a loop that does its work itself and meanwhile gives no sign; an erasure or a copy may take long."""


class Heartbeat:
    """The signs of one process; does nothing without a folder."""

    def __init__(self, folder: Path | None, name: str) -> None:
        """Take the folder and what the process is called there.

        Raises:
            SettingsError: the folder cannot be written to.
        """
        self._file = None if folder is None else folder / name
        if self._file is None:
            return
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            # Of a process before this one.
            self._file.unlink(missing_ok=True)
        except OSError as error:
            raise SettingsError(
                f"ASPECTS_HEARTBEAT_DIR is not valid: {folder} cannot be written to: {error.strerror}. "
                "Example: ASPECTS_HEARTBEAT_DIR=/tmp/aspects-pii"
            ) from None

    def beat(self, within: float = WAITING) -> None:
        """Give a sign, and say that the next one is due `within` so many seconds.

        A sign that cannot be written is left out: work does not stop for it, and whoever looks sees that it is missing.
        """
        if self._file is None:
            return
        new = self._file.with_suffix(".new")
        try:
            new.write_text(json.dumps({"at": time.time(), "within": within}))
            new.replace(self._file)
        except OSError:
            return

    @contextmanager
    def working(self) -> Iterator[None]:
        """While work is under way that gives no sign."""
        self.beat(WORKING)
        try:
            yield
        finally:
            self.beat()


def check(folder: Path | None, name: str) -> float:
    """The age of the last sign of a process, in seconds.

    Raises:
        SettingsError: there is no folder.
        UsageError: no process has this name.
        HeartbeatError: there is no sign, or the next one is overdue.
    """
    if name not in NAMES:
        raise UsageError(f"{name} gives no signs of life: {' and '.join(NAMES)} do.")
    if folder is None:
        raise SettingsError("ASPECTS_HEARTBEAT_DIR is not set. Example: ASPECTS_HEARTBEAT_DIR=/tmp/aspects-pii")
    try:
        sign = json.loads((folder / name).read_text())
        at, within = float(sign["at"]), float(sign["within"])
    except FileNotFoundError:
        raise HeartbeatError(f"The {name} has given no sign of life in {folder} yet.") from None
    except (OSError, ValueError, TypeError, KeyError):
        raise HeartbeatError(f"{folder / name} cannot be read as a sign of life.") from None
    age = time.time() - at
    # A clock that was put back makes it negative; then nothing is known.
    if not -within <= age <= within:
        raise HeartbeatError(
            f"The last sign of life of the {name} is {age:.0f} s old; one was due within {within:.0f} s."
        )
    return age
