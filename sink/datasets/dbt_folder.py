"""Where dbt works: a temporary folder that is removed however a build ends.

dbt writes the SQL of its models and a cache there. They hold no PII, and yet nothing is to pile up.

.. no_pii: SQL without values.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PREFIX = "aspects-pii-dbt-"

# Whoever has started it holds the other end of its standard input, which closes however that process ends. Then dbt makes
# way for what removes the folder: to start a program ends all threads of the one before at once.
_PROGRAM = """
import os, sys, threading

def make_way():
    os.read(0, 1)
    remove = "import shutil, sys; shutil.rmtree(sys.argv[1], ignore_errors=True)"
    os.execv(sys.executable, [sys.executable, "-I", "-c", remove, {folder!r}])

threading.Thread(target=make_way, daemon=True).start()
from dbt.cli.main import cli
cli()
"""


def compose_program(folder: Path) -> str:
    """The Python program that runs dbt until it has ended, or until its standard input is closed."""
    return _PROGRAM.format(folder=str(folder))


@contextmanager
def working_folder() -> Iterator[Path]:
    """Make a folder for one run of dbt; removed at the end, with what runs left that were killed together with dbt."""
    _remove_stale(Path(tempfile.gettempdir()))
    with tempfile.TemporaryDirectory(prefix=_PREFIX) as folder, contextlib.ExitStack() as held:
        # Where there are no locks nobody takes it for a left one either.
        with contextlib.suppress(OSError):
            held.enter_context(_locked(Path(folder), fcntl.LOCK_EX))
        yield Path(folder)


@contextmanager
def _locked(folder: Path, how: int) -> Iterator[None]:
    file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(file, how)
        yield
    finally:
        os.close(file)


def _remove_stale(temporary: Path) -> None:
    for folder in temporary.glob(f"{_PREFIX}*"):
        # One that is empty may be another process's, which has not come to lock it.
        with contextlib.suppress(OSError), _locked(folder, fcntl.LOCK_EX | fcntl.LOCK_NB):
            if folder.stat().st_uid == os.geteuid() and any(folder.iterdir()):
                shutil.rmtree(folder, ignore_errors=True)
