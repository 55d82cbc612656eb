"""Which folders of this installation others may enter.

.. no_pii: paths and modes.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sink.settings import Settings


def list_open_folders(settings: Settings) -> list[str]:
    """What is to be said of the data folder and the folder of receipts, a line each; nothing where they are closed."""
    from sink.installation import find_address

    address = find_address(settings)
    folders = [("receipts", settings.receipts_dir.expanduser().resolve())]
    if address.is_embedded:
        folders.insert(0, ("data", address.folder))
    return [line for name, folder in folders for line in _describe(name, folder)]


def _describe(name: str, folder: Path) -> list[str]:
    from sink.private_files import is_foreign

    try:
        found = folder.stat()
    except OSError:
        return []  # Where there is none, it is made for its owner only.
    mode = f"mode {stat.S_IMODE(found.st_mode):04o}"
    if is_foreign(found):
        fix = f"chown -R {os.geteuid()} {folder}"
        return [f"The {name} folder {folder} belongs to the user with the id {found.st_uid} ({mode}): {fix}"]
    if found.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        return [f"Others may enter the {name} folder {folder} ({mode}): chmod 700 {folder}"]
    return []
