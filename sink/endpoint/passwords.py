"""The endpoint's password where nobody has set one: made once, and kept in a file beside the data.

.. no_pii: a password of this installation.
"""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

from pydantic import SecretStr

from sink.errors import UsageError
from sink.private_files import make_folder, write_new

_NAME = "endpoint-password"
_BYTES = 24


def find_password(folder: Path) -> tuple[SecretStr, Path]:
    """The password in the data folder `folder`, made where there is none, and the file that holds it.

    Raises:
        UsageError: the file can be read or written by others, holds nothing, or cannot be used.
    """
    path = folder / _NAME
    try:
        make_folder(folder)
        try:
            write_new(path, f"{secrets.token_urlsafe(_BYTES)}\n".encode())
        except FileExistsError:
            _require_private(path)
        password = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it holds no password"
        raise UsageError(f"{path} cannot be used: {reason}. Set ASPECTS_CLICKHOUSE_PASSWORD instead.") from None
    if not password:
        raise UsageError(f"{path} is empty. Take it away, and a password is made; or set ASPECTS_CLICKHOUSE_PASSWORD.")
    return SecretStr(password), path


def _require_private(path: Path) -> None:
    found = path.lstat()
    if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise UsageError(
            f"{path} is not this user's alone (mode {stat.S_IMODE(found.st_mode):04o}), so others may know the password. "
            "Take the file away, and a new password is made."
        )
