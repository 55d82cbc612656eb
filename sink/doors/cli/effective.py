"""The settings as they are in effect, and where each comes from. Of a secret only that it is set.

.. no_pii: settings of this installation.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sink.settings import Settings

_CREDENTIALS = re.compile(r"(//)[^/@\s]*@")


class Source(StrEnum):
    """Where a setting comes from."""

    DEFAULT = "default"
    ENVIRONMENT = "environment"
    ENV_FILE = ".env file"
    SECRET_FILE = "secret file"  # noqa: S105 - where a setting is from


@dataclass(frozen=True)
class Effective:
    """One setting."""

    name: str
    value: Any
    """`set` for a secret; None where there is no value."""
    is_secret: bool
    """Whether the value is not shown, as it is a password, a key, or an address that may hold one."""
    source: Source
    file: str | None = None
    """The path of the file that it is from, if it is from one."""

    @property
    def origin(self) -> str:
        """`environment`, the path of a file, or `default`."""
        return self.file or self.source.value

    @property
    def is_default(self) -> bool:
        """True where nobody has set it."""
        return self.source is Source.DEFAULT


def find_env_file() -> Path | None:
    """The `.env` file in use, absolute; None where there is none."""
    from sink.settings import ENV_FILE

    path = Path(ENV_FILE)
    return path.resolve() if path.is_file() else None


def list_effective(settings: Settings) -> list[Effective]:
    """Every setting, in the order in which they are documented."""
    from pydantic import SecretStr

    from sink.settings import environment_name

    origins = _list_origins(settings)
    found = []
    for field in type(settings).model_fields:
        name, value = environment_name(field), getattr(settings, field)
        source, file = origins.get(name, (Source.DEFAULT, None))
        kind = str(type(settings).model_fields[field].annotation)
        is_secret = isinstance(value, SecretStr) or SecretStr.__name__ in kind
        found.append(Effective(name, _describe(value), is_secret, source, file))
    return found


def _list_origins(settings: Settings) -> dict[str, tuple[Source, str | None]]:
    """Where what is set is from, by name; what comes later wins, as in `sink.settings`."""
    from sink.env_file import read_env_file

    origins: dict[str, tuple[Source, str | None]] = {}
    if settings.secrets_dir is not None:
        folder = settings.secrets_dir.expanduser().resolve()
        origins |= {path.name.upper(): (Source.SECRET_FILE, str(path)) for path in folder.iterdir()}
    env_file = find_env_file()
    if env_file is not None:
        values = read_env_file(env_file)
        origins |= {name.upper(): (Source.ENV_FILE, str(env_file)) for name, value in values.items() if value}
    return origins | {name.upper(): (Source.ENVIRONMENT, None) for name, value in os.environ.items() if value}


def _describe(value: Any) -> Any:
    from pydantic import SecretStr

    if isinstance(value, SecretStr):
        return "set" if value.get_secret_value() else None
    if isinstance(value, Path):
        return str(value.expanduser().resolve())
    if isinstance(value, str):
        # Addresses with a password are refused, or are secrets as a whole; should one come through, it is not shown.
        return _CREDENTIALS.sub(r"\1***@", value)
    return list(value) if isinstance(value, tuple) else value
