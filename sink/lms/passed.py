"""What an engine asks the LMS database that reads it itself: one SELECT for each range of users, passed on as it stands.

Both tables of an object are joined by the database, so that all of a range is as it was at one moment. Values come as they
are in `sink.lms.object_queries`, or as text where an engine would make something else of them than we do (zero dates, UUIDs).

.. pii: User names of a few accounts, in memory only.
.. pii_types: username
.. pii_retirement: consumer_api
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import (
    CHAR,
    TEXT,
    ColumnElement,
    Connection,
    Executable,
    Select,
    bindparam,
    case,
    cast,
    func,
    literal_column,
    select,
    text,
)

from sink.lms.driver_errors import DriverErrors
from sink.lms.object_queries import ObjectQueries
from sink.lms.objects import OBJECTS, USERS
from sink.lms.schema import list_needed
from sink.lms.values import LmsColumn, Page

# Stands for a value that only we can judge.
_ODD = "?"
_SAMPLE = 50
_INTEGERS = ("tinyint", "smallint", "mediumint", "int", "integer", "bigint")
_TEXTS = ("char", "varchar", "tinytext", "text", "mediumtext", "longtext", "character varying")
_TYPES: Mapping[str, tuple[str, ...]] = {
    "int": _INTEGERS,
    "digits": _INTEGERS,
    "text": _TEXTS,
    "uuid": ("uuid", *_TEXTS),
    "datetime": ("datetime", "timestamp", "timestamp with time zone", "timestamp without time zone"),
}
_MYSQL_TYPES = """
SELECT table_name, column_name, data_type FROM information_schema.columns
WHERE table_schema = database() AND table_name IN :tables
"""
_POSTGRES_TYPES = """
SELECT table_name, column_name, data_type FROM information_schema.columns
WHERE table_schema = ANY (current_schemas(false)) AND table_name IN :tables
"""


@dataclass(frozen=True)
class PassedQueries:
    """The queries for one database, beside the connection of a snapshot."""

    _connection: Connection
    _object_queries: ObjectQueries
    _errors: DriverErrors

    @property
    def backend(self) -> str:
        """`mysql` (MariaDB too), `postgresql` or `sqlite`."""
        return self._errors.backend

    @property
    def file(self) -> str:
        """The file of SQLite; empty for others."""
        database = self._connection.engine.url.database or ""
        return str(Path(database).absolute()) if self.backend == "sqlite" else ""

    def explain_types(self, object_name: str, columns: Sequence[str]) -> str:
        """Why an engine may make something else of these columns than we do; empty where it does not.

        Raises:
            LmsError: the database refuses to say it.
        """
        if self.backend == "sqlite":
            return ""
        if self.backend == "postgresql":
            encoding = self._fetch(text("SHOW server_encoding"))[0][0]
            if encoding != "UTF8":
                return f"its encoding is {encoding}"
        tables = sorted(list_needed({object_name: columns}))
        sql = _MYSQL_TYPES if self.backend == "mysql" else _POSTGRES_TYPES
        query = text(sql).bindparams(bindparam("tables", expanding=True))
        rows = self._fetch(query, tables=tables)
        types = {(str(row[0]).lower(), str(row[1]).lower()): str(row[2]).lower() for row in rows}
        sources = [OBJECTS[object_name].columns[name] for name in columns]
        odd = [s for s in sources if types.get((s.table, s.name)) not in _TYPES[s.kind]]
        return f"{odd[0].table}.{odd[0].name} has another type than in the LMS's models" if odd else ""

    def write_user_ids(self, object_name: str) -> str:
        """Whose rows the object has: an id for each row, in the column `subject_id`."""
        return self._write(self._object_queries.select_rows(object_name, (), None), low=-1)

    def write_rows(self, object_name: str, columns: Sequence[str], low: int, high: int) -> str:
        """The rows of users above `low` up to `high`, with columns of these names."""
        return self._write(
            self._object_queries.select_rows(object_name, columns, None, express=self._express, high=high), low=low
        )

    def read_sample(self) -> dict[int, bytes]:
        """User names of the oldest and the newest accounts, by id, by which a database is known."""
        found: dict[int, bytes] = {}
        for order in (USERS.c.id, USERS.c.id.desc()):
            statement = self._name_users().order_by(order).limit(_SAMPLE)
            for user_id, name in self._fetch(statement):
                found[int(user_id)] = name if isinstance(name, bytes) else str(name or "").encode()
        return found

    def write_sample(self, user_ids: Sequence[int]) -> str:
        """User names of these accounts, with columns `id` and `username`."""
        return self._write(self._name_users().where(USERS.c.id.in_(user_ids)))

    def _name_users(self) -> Select[Any]:
        source = OBJECTS["user_profile"].columns["username"]
        return select(USERS.c.id, self._object_queries.bring(source, USERS.c.username).label("username"))

    def _express(self, source: LmsColumn, value: ColumnElement[Any]) -> ColumnElement[Any]:
        """As `ObjectQueries.bring`, but what an engine would read otherwise is text."""
        if source.kind == "text":
            return self._object_queries.bring(source, value)
        if self.backend == "sqlite":
            # It may hold anything, whatever a column is declared as, and the engine reads an empty blob as NULL.
            fitting = (
                func.typeof(value).in_(("integer", "null"))
                if source.kind in ("int", "digits")
                else func.coalesce(value, "-") != ""
            )
            return case((fitting, cast(value, TEXT)), else_=_ODD)
        if source.kind in ("int", "digits"):
            return value
        if source.kind == "datetime" and self.backend == "postgresql":
            # ISO 8601 whatever the DateStyle.
            return func.to_json(value).op("#>>")(literal_column("'{}'"))
        return cast(value, CHAR if self.backend == "mysql" else TEXT)

    def _fetch(self, statement: Executable, **values: Any) -> Page:
        page: Page = self._errors.run(lambda: self._connection.execute(statement, values).all())
        return page

    def _write(self, statement: Any, **values: int) -> str:
        """The text of a statement, in which ids stand, and no other values."""
        bound = statement.order_by(None).params(**values)
        return str(bound.compile(self._connection.engine, compile_kwargs={"literal_binds": True}))
