"""Data folders that are made once a run, and copied by whoever needs one."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path

FOLDER = "TESTS_TEMPLATES"
"""The environment variable that names where all processes of a run have them; without it, each has its own."""


def copy_template(name: str, make: Callable[[Path], None], target: Path, own: Path) -> None:
    """Copy the template `name`, which `make` makes where there is none yet, to `target`, which must not exist.

    Args:
        name: the same for what is the same.
        make: fills the folder that it is given, which does not exist yet.
        target: where the copy goes.
        own: where the templates of this process are if it has no part in a run.
    """
    folder = Path(os.environ.get(FOLDER, own))
    folder.mkdir(parents=True, exist_ok=True)
    template = folder / name
    with (folder / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not template.exists():
            # A maker that fails or is killed leaves no template.
            making = folder / f"{name}.making"
            shutil.rmtree(making, ignore_errors=True)
            make(making)
            making.rename(template)
    shutil.copytree(template, target, symlinks=True)
