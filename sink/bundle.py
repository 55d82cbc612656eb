"""The Superset bundle: dashboards, charts, datasets, and who may see them, composed from `config/dashboards`.

Nothing here talks to Superset; `sink.superset` does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Role:
    """A role of Superset: the datasets (by `table_name`) and the dashboards (by slug) that it opens."""

    name: str
    datasets: tuple[str, ...]
    dashboards: tuple[str, ...]


@dataclass(frozen=True)
class Rule:
    """A rule of Superset's row level security.

    `Regular` holds for whoever has one of the roles, `Base` for everybody else.
    """

    name: str
    kind: Literal["Regular", "Base"]
    clause: str
    datasets: tuple[str, ...]
    roles: tuple[str, ...]


@dataclass(frozen=True)
class Bundle:
    """What is installed: documents by their path inside the bundle, and what Superset's bundles have no place for."""

    files: Mapping[str, dict[str, Any]]
    roles: tuple[Role, ...]
    rules: tuple[Rule, ...]


def load_bundle(*, enable_pii: bool, language: str, databases: Mapping[str, str], database_uri: str) -> Bundle:
    """Compose the bundle from `config/dashboards`.

    Args:
        enable_pii: without PII, what exists only with it is left out.
        language: `en` or a folder of `config/dashboards/locale`.
        databases: ClickHouse databases by the names that the map uses (`Settings.databases`).
        database_uri: SQLAlchemy address by which Superset reaches ClickHouse; a password in it is taken out.

    Raises:
        SettingsError: there is no translation into the language.
    """
    raise NotImplementedError


def pack(bundle: Bundle) -> bytes:
    """The bundle as a ZIP that Superset imports: one root folder, the same bytes each time, no password."""
    raise NotImplementedError
