"""The settings as they are in effect, and where each comes from. Of a secret only that it is set.

.. no_pii: settings of this installation.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from sink.env_file import read_env_file
from sink.settings import ENV_FILE, Settings, environment_name

_DEFAULT = "default"


@dataclass(frozen=True)
class Effective:
    """One setting."""

    name: str
    value: Any
    """`set` for a secret; None where there is no value."""
    origin: str
    """`environment`, the path of a file, or `default`."""

    @property
    def is_default(self) -> bool:
        """True where nobody has set it."""
        return self.origin == _DEFAULT


def find_env_file() -> Path | None:
    """The `.env` file in use, absolute; None where there is none."""
    path = Path(ENV_FILE)
    return path.resolve() if path.is_file() else None


def list_effective(settings: Settings) -> list[Effective]:
    """Every setting, in the order in which they are documented."""
    origins = _list_origins(settings)
    return [
        Effective(
            environment_name(field),
            _describe(getattr(settings, field)),
            origins.get(environment_name(field), _DEFAULT),
        )
        for field in Settings.model_fields
    ]


def _list_origins(settings: Settings) -> dict[str, str]:
    """Where what is set is from, by name; what comes later wins, as in `sink.settings`."""
    origins: dict[str, str] = {}
    if settings.secrets_dir is not None:
        folder = settings.secrets_dir.expanduser().resolve()
        origins |= {path.name.upper(): str(path) for path in folder.iterdir()}
    env_file = find_env_file()
    if env_file is not None:
        origins |= {name.upper(): str(env_file) for name, value in read_env_file(env_file).items() if value}
    return origins | {name.upper(): "environment" for name, value in os.environ.items() if value}


def _describe(value: Any) -> Any:
    if isinstance(value, SecretStr):
        return "set" if value.get_secret_value() else None
    if isinstance(value, Path):
        return str(value.expanduser().resolve())
    return list(value) if isinstance(value, tuple) else value
