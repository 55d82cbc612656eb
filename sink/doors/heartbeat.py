"""Heartbeats: a file that a loop writes as long as it turns, and the check of it from outside.

A process that runs can still be stuck. So the file is written by the loop itself, and says within which time the next
heartbeat is due: soon while the loop waits for work, later while it is at work that may take long.
"""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sink.errors import HeartbeatError, SettingsError, UsageError
from sink.private_files import open_new

# .. no_pii: times.

WORKER = "worker"
CONSUMER = "consumer"
NAMES = (WORKER, CONSUMER)

IDLE_SECONDS = 30.0
"""Within this time the next heartbeat is due while the loop waits for work."""

BUSY_SECONDS = 1_800.0
"""The same for a loop that does its work itself and meanwhile cannot beat; an erasure or a copy may take long."""


class Heartbeat:
    """The heartbeat of one process; does nothing without a folder."""

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

    def beat(self, within_seconds: float = IDLE_SECONDS) -> None:
        """Write that the process is alive, and within which time it will say so again.

        What cannot be written is left out: work does not stop for it, and whoever checks sees that it is missing.
        """
        if self._file is None:
            return
        new = self._file.with_suffix(".new")
        try:
            # The folder may be one of a temporary folder that others have made: no link of theirs is followed.
            new.unlink(missing_ok=True)
            with open(new, "x", opener=open_new, encoding="utf-8") as file:
                json.dump({"at": datetime.now(UTC).isoformat(), "within_seconds": within_seconds}, file)
            new.replace(self._file)
        except OSError:
            return

    @contextmanager
    def working(self) -> Iterator[None]:
        """While work is under way that cannot beat."""
        self.beat(BUSY_SECONDS)
        try:
            yield
        finally:
            self.beat()


def check(folder: Path | None, name: str) -> timedelta:
    """The age of the last heartbeat of a process.

    Raises:
        SettingsError: there is no folder.
        UsageError: no process has this name.
        HeartbeatError: there is none, or the next one is overdue.
    """
    if name not in NAMES:
        raise UsageError(f"{name} gives no signs of life: {' and '.join(NAMES)} do.")
    if folder is None:
        raise SettingsError("ASPECTS_HEARTBEAT_DIR is not set. Example: ASPECTS_HEARTBEAT_DIR=/tmp/aspects-pii")
    try:
        if not stat.S_ISREG((folder / name).lstat().st_mode):
            # A pipe would be waited for.
            raise ValueError("no file")
        written = json.loads((folder / name).read_text())
        age = datetime.now(UTC) - datetime.fromisoformat(written["at"])
        within = timedelta(seconds=written["within_seconds"])
    except FileNotFoundError:
        raise HeartbeatError(f"The {name} has given no sign of life in {folder} yet.") from None
    except (OSError, ValueError, TypeError, KeyError):
        raise HeartbeatError(f"{folder / name} cannot be read as a sign of life.") from None
    # A clock that was put back makes it negative; then nothing is known.
    if not -within <= age <= within:
        raise HeartbeatError(
            f"The last sign of life of the {name} is {age.total_seconds():.0f} s old; "
            f"one was due within {within.total_seconds():.0f} s."
        )
    return age
