"""What `aspects-pii doctor` looks at on this host: settings, folders, keys, and who may read them.

.. no_pii: paths and modes.
"""

from __future__ import annotations

import os
import stat
from contextlib import ExitStack
from pathlib import Path

from sink.doors.cli.checks.examination import Area, Check, Finding, blame, fine, pass_over, warn_of
from sink.doors.cli.effective import find_env_file
from sink.doors.cli.folders import list_open_folders
from sink.installation import find_address, find_map, read_map
from sink.private_files import is_foreign
from sink.settings import Settings
from sink.wording import counted

_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_READABLE = stat.S_IRGRP | stat.S_IROTH


def describe_files(settings: Settings) -> Area:
    """The checks, in order."""
    look = _Files(settings)
    return Area(
        "this host",
        [
            Check("PII map", look.check_map, "Correct the file, or begin anew by `aspects-pii map init`."),
            Check("receipts folder", look.check_receipts, "Set ASPECTS_RECEIPTS_DIR to a folder of your own."),
            Check("folders", look.check_folders),
            Check("signatures", look.check_keys, "`aspects-pii receipt key FILE` makes one."),
            Check("secret files", look.check_secrets),
        ],
        ExitStack(),
    )


class _Files:
    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def check_map(self) -> Finding:
        targets = read_map(self._settings).targets
        whose = "the one that ships" if self._settings.pii_map is None else str(find_map(self._settings).resolve())
        return fine("PII map", f"{whose}, with {counted(len(targets), 'target')}")

    def check_receipts(self) -> Finding:
        what, folder = "receipts folder", self._settings.receipts_dir.expanduser().resolve()
        if folder.exists() and not folder.is_dir():
            return blame(what, f"{folder} is not a folder", "Set ASPECTS_RECEIPTS_DIR to a folder.")
        there = folder
        while not there.exists():
            there = there.parent
        if not os.access(there, os.W_OK | os.X_OK):
            return blame(
                what, f"{there} cannot be written", f"chown {os.geteuid()} {there}, or set ASPECTS_RECEIPTS_DIR."
            )
        if there != folder:
            return fine(what, f"{folder} is made with the first receipt")
        return fine(what, f"{folder}, mode {stat.S_IMODE(folder.stat().st_mode):04o}")

    def check_folders(self) -> list[Finding]:
        # Each line ends in the command that helps.
        found = [warn_of("folders", *line.rsplit(": ", 1)) for line in list_open_folders(self._settings)]
        which = "data and receipts" if find_address(self._settings).is_embedded else "receipts"
        return found or [fine("folders", f"nobody else may enter those of {which}")]

    def check_keys(self) -> Finding:
        path = self._settings.receipt_signing_key
        if path is not None:
            from sink.retirement.signatures import compute_fingerprint, read_private_key

            key = read_private_key(path).public_key()
            return fine("signatures", f"by the key in {path}, with the fingerprint {compute_fingerprint(key)}")
        if self._settings.receipt_key is not None:
            return fine("signatures", "by ASPECTS_RECEIPT_KEY")
        said = "receipts and exports of the ledger are not signed"
        return pass_over("signatures", said, "Set ASPECTS_RECEIPT_KEY, or ASPECTS_RECEIPT_SIGNING_KEY.")

    def check_secrets(self) -> list[Finding]:
        files = self._list_secret_files()
        if not files:
            return [pass_over("secret files", "there is no .env file, no folder of secrets and no key")]
        found = [finding for path in files if (finding := _judge_secret(path)) is not None]
        return found or [fine("secret files", f"{counted(len(files), 'file')}, which nobody else may read")]

    def _list_secret_files(self) -> list[Path]:
        from sink.settings import environment_name

        settings = self._settings
        files = [path for path in (find_env_file(), settings.receipt_signing_key) if path is not None]
        if settings.secrets_dir is not None:
            known = {environment_name(field).lower() for field in Settings.model_fields}
            folder = settings.secrets_dir.expanduser()
            files += sorted(path for path in folder.iterdir() if path.name.lower() in known)
        return files


def _judge_secret(path: Path) -> Finding | None:
    try:
        found = path.stat()
    except OSError as error:
        return blame("secret files", f"{path} cannot be read: {error.strerror}", "Make it readable for this user.")
    mode = stat.S_IMODE(found.st_mode)
    if is_foreign(found):
        # Containers get files with the owner that they have on the host.
        return warn_of(
            "secret files",
            f"{path} belongs to the user with the id {found.st_uid} (mode {mode:04o})",
            f"chown {os.geteuid()} {path}",
        )
    if mode & _READABLE:
        return warn_of("secret files", f"others may read {path} (mode {mode:04o})", f"chmod 600 {path}")
    return None
