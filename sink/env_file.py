"""The `.env` file of the working directory, and whether somebody else may have written it.

A folder that several people use may hold a `.env` of any of them. Whoever could write it would learn the password: the
address that the password is sent to stands in the same file.

.. no_pii: secrets of this installation, nobody's data.
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Mapping
from pathlib import Path

from dotenv import dotenv_values
from pydantic_settings import DotEnvSettingsSource

from sink.errors import SettingsError
from sink.private_files import is_foreign, may_be_written


class EnvFile(DotEnvSettingsSource):
    """The source of pydantic-settings, reading nothing that others may have written."""

    def _load_env_vars(self) -> Mapping[str, str | None]:
        values = read_env_file(Path(str(self.env_file)))
        # As pydantic-settings does it: names in small letters, and an empty value means the default.
        return {name.lower(): value for name, value in values.items() if value != ""}


def read_env_file(path: Path) -> dict[str, str | None]:
    """The variables in a file; none where there is no file of this name.

    Raises:
        SettingsError: others own it or may write to it, it cannot be read, or it is not text. Names the file.
    """
    try:
        # The link first: whoever owns it chooses the file that it leads to.
        _require_own(path, path.lstat())
        if not (path.is_file() or path.is_fifo()):
            return {}
        with path.open("rb") as file:
            _require_own(path, os.fstat(file.fileno()))
            text = file.read().decode("utf-8")
    except FileNotFoundError:
        return {}
    except UnicodeDecodeError:
        raise SettingsError(f"{path} is not UTF-8 text.") from None
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}.") from None
    return dict(dotenv_values(stream=io.StringIO(text)))


def _require_own(path: Path, found: os.stat_result) -> None:
    if stat.S_ISDIR(found.st_mode) or stat.S_ISCHR(found.st_mode):
        return  # Nothing is read from either.
    file, mode = path.absolute(), stat.S_IMODE(found.st_mode)
    if is_foreign(found):
        raise SettingsError(
            f"{file} belongs to the user with the id {found.st_uid} (mode {mode:04o}), who could have the password sent "
            f"anywhere. Run `chown {os.geteuid()} {file}` once you have read it, or work in another folder."
        )
    if not stat.S_ISLNK(found.st_mode) and may_be_written(found):
        raise SettingsError(
            f"{file} may be written by others (mode {mode:04o}), who could have the password sent anywhere. "
            f"Run `chmod go-w {file}` once you have read it, or work in another folder."
        )
