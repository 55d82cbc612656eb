"""Settings from files: a folder with one file a setting, as containers get their secrets.

Environment variables are shown by whatever describes a container, and inherited by every process. A file is neither.
"""

from __future__ import annotations

import difflib
import os
import stat
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_settings import PydanticBaseSettingsSource

from sink.errors import SettingsError
from sink.private_files import may_be_written

# .. no_pii: secrets of this installation, nobody's data.

FOLDER_FIELD = "secrets_dir"
"""The setting that names the folder; it cannot be in there itself."""

MIN_SIMILARITY = 0.85
"""How much a name must look like one of ours to be taken for a misspelt one."""


class FileText(str):
    """What a file said, and which one: the path may be shown, the text may not."""

    __slots__ = ("path",)

    def __new__(cls, text: str, path: Path) -> FileText:
        """Take the text and where it is from."""
        made = super().__new__(cls, text)
        made.path = path
        return made

    path: Path


class SecretFiles(PydanticBaseSettingsSource):
    """Source of settings below the environment and the `.env` file.

    The source that pydantic-settings brings (SecretsSettingsSource, seen with 2.16.3) warns of a missing folder and goes on, cuts
    spaces that may belong to a password, shows what an undecodable file holds, and lets a stale variable win over a new
    file without a word.
    """

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """See pydantic-settings; not used, as all files are looked at together."""
        raise NotImplementedError

    def __call__(self) -> dict[str, Any]:
        """The settings that are in files, by field.

        Raises:
            SettingsError: the folder or a file cannot be used, or a setting is given twice. Names the file.
        """
        folder = self.current_state.get(FOLDER_FIELD)
        if folder is None:
            return {}
        files = self._find(Path(folder).expanduser())
        for source, where in (("EnvSettingsSource", "the environment"), ("EnvFile", "the .env file")):
            for field in sorted(set(files) & set(self.settings_sources_data.get(source, {}))):
                raise SettingsError(
                    f"{self._prefix}{field.upper()} is set twice: in {where}, and by the file {files[field]}. "
                    "Take one of them away."
                )
        return {field: read_secret(path) for field, path in files.items()}

    @property
    def _prefix(self) -> str:
        return str(self.config.get("env_prefix", ""))

    def _find(self, folder: Path) -> dict[str, Path]:
        """The files by field; other software's files are passed over, but no near miss of ours."""
        known = {f"{self._prefix}{field}".lower(): field for field in self.settings_cls.model_fields}
        setting = f"{self._prefix}{FOLDER_FIELD}".upper()
        found: dict[str, Path] = {}
        try:
            paths = sorted(folder.iterdir())
        except OSError as error:
            raise SettingsError(
                f"{setting} is not valid: {folder} cannot be read: {error.strerror}. Example: {setting}=/run/secrets"
            ) from None
        for path in paths:
            name = path.name.lower()
            field = known.get(name)
            if field in found:
                raise SettingsError(f"{found[field]} and {path} are the same setting. Take one of them away.")
            if field == FOLDER_FIELD:
                raise SettingsError(
                    f"{path}: a folder of secrets cannot name itself. Set {setting} in the environment."
                )
            if field is not None:
                found[field] = path
            elif name.startswith(self._prefix.lower()) and (
                near := difflib.get_close_matches(name, known, n=1, cutoff=MIN_SIMILARITY)
            ):
                raise SettingsError(f"{path} is not a setting of aspects-pii. Did you mean {folder / near[0]}?")
        return found


def read_secret(path: Path) -> FileText:
    """The text of a file without the end of its last line.

    Raises:
        SettingsError: it cannot be read, others may write to it, it is not text, or is empty. Names the file, never the
            content.
    """
    try:
        if not path.is_file():
            raise SettingsError(f"{path} is not a file.")
        with path.open("rb") as file:
            found = os.fstat(file.fileno())
            # Its owner may be anybody: containers get files with the owner that they have on the host.
            if may_be_written(found):
                raise SettingsError(
                    f"{path} may be written by others (mode {stat.S_IMODE(found.st_mode):04o}). "
                    f"Run `chmod go-w {path}` once you have read it."
                )
            text = file.read().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise SettingsError(f"{path} is not UTF-8 text.") from None
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}.") from None
    text = text.removesuffix("\n").removesuffix("\r")
    if not text.strip():
        # An empty variable means the default; a file that is there was meant to say something.
        raise SettingsError(f"{path} is empty. Write the secret into it, or take the file away.")
    return FileText(text, path)
