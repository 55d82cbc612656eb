"""Which tables and columns the LMS database has, and whether those are there that are read.

.. no_pii: Names of tables and columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection

from sink.errors import LmsSchemaError
from sink.lms.connection import list_columns
from sink.lms.driver_errors import DriverErrors
from sink.lms.objects import OBJECTS

Columns = Mapping[str, Mapping[str, str | None]]
"""Table → column → character set (of MySQL)."""


def list_needed(objects: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """The columns, by table, that reading these columns of these objects takes."""
    needed: dict[str, list[str]] = {}
    for name, columns in objects.items():
        for table_name, names in OBJECTS[name].needs.items():
            needed.setdefault(table_name, []).extend(names)
        for source in (OBJECTS[name].columns[c] for c in columns):
            needed.setdefault(source.table, []).append(source.name)
    return needed


def read_columns(connection: Connection, tables: Iterable[str], errors: DriverErrors) -> Columns:
    """The columns of these tables that this user may read."""
    found: dict[str, dict[str, str | None]] = {}
    names = sorted(set(tables))
    for name, column_name, charset in errors.run(lambda: list_columns(connection, names)):
        found.setdefault(name.lower(), {})[column_name.lower()] = charset
    return found


def require_columns(place: str, found: Mapping[str, Mapping[str, Any]], needed: Mapping[str, Iterable[str]]) -> None:
    """Check that what is needed was found.

    Raises:
        LmsSchemaError: names every table and column that was not.
    """
    tables = sorted(name for name in needed if name not in found)
    columns = sorted(
        {f"{name}.{c}" for name, names in needed.items() if name in found for c in names if c not in found[name]}
    )
    missing = [
        f"{kind} {', '.join(names)}" for kind, names in (("the tables", tables), ("the columns", columns)) if names
    ]
    if missing:
        raise LmsSchemaError(
            f"{place} lacks {' and '.join(missing)}, or its user may not read them. Does "
            "ASPECTS_LMS_DATABASE_URL name the LMS database? Columns that your release does not have can be "
            "taken out of `keep` in the PII map."
        )
