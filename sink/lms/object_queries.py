"""What is asked of the LMS's tables for an object: by us, page by page, and by an engine that reads them itself.

.. no_pii: Names of tables and columns, and ids.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    BINARY,
    BLOB,
    BigInteger,
    ColumnElement,
    CompoundSelect,
    Select,
    bindparam,
    cast,
    func,
    literal_column,
    select,
    union_all,
)
from sqlalchemy.dialects import mysql

from sink.lms.objects import OBJECTS, PARTS, TABLES, USERS, Part
from sink.lms.schema import Columns
from sink.lms.values import MAX_TEXT_BYTES, UTF8_BYTES_PER_CHARACTER, LmsColumn

Express = Callable[[LmsColumn, ColumnElement[Any]], ColumnElement[Any]]


@dataclass(frozen=True)
class ObjectQueries:
    """The statements for one database."""

    backend: str
    columns: Columns

    def select_rows(
        self,
        object_name: str,
        columns: Sequence[str],
        ids: Sequence[int] | None,
        *,
        express: Express | None = None,
        high: int | None = None,
    ) -> Select[Any] | CompoundSelect[Any]:
        """Rows of users above the parameter `low`, by user: id, key, columns.

        Args:
            object_name: a name from `OBJECTS`.
            columns: which of its columns.
            ids: only these users; all if None.
            express: how a column is brought; as `bring` does it if None.
            high: only users up to this one.
        """
        parts = []
        for part in PARTS[object_name]:
            values = [
                self._take(part, OBJECTS[object_name].columns[name], name, express or self.bring) for name in columns
            ]
            statement = select(USERS.c.id.label("subject_id"), part.key.label("row_key"), *values)
            statement = statement.select_from(part.source).where(USERS.c.id > bindparam("low", type_=BigInteger))
            if part.condition is not None:
                statement = statement.where(part.condition)
            if high is not None:
                statement = statement.where(USERS.c.id <= high)
            if ids is not None:
                statement = statement.where(USERS.c.id.in_(ids))
            parts.append(statement)
        whole = parts[0] if len(parts) == 1 else union_all(*parts)
        return whole.order_by("subject_id")

    @staticmethod
    def _take(part: Part, source: LmsColumn, name: str, express: Express) -> ColumnElement[Any]:
        if name in part.constants:
            return literal_column(f"'{part.constants[name]}'").label(name)
        return express(source, TABLES[source.table].c[source.name]).label(name)

    def bring(self, source: LmsColumn, value: ColumnElement[Any]) -> ColumnElement[Any]:
        """The expression that brings a column: texts cut above what is accepted, and as bytes where a driver decodes."""
        if source.kind != "text":
            return value
        longest = MAX_TEXT_BYTES if source.max_length is None else UTF8_BYTES_PER_CHARACTER * source.max_length
        if self.backend == "sqlite":
            # As a blob, since SQLite's substr ends a text at a zero byte.
            return func.substr(cast(value, BLOB), 1, longest + 1)
        cut: ColumnElement[Any] = func.substr(value, 1, longest + 1)
        charset = self.columns.get(source.table, {}).get(source.name)
        if charset is not None:
            # The server converts what is in another character set; a blob has none and comes as it is.
            cut = cast(cast(cut, mysql.CHAR(charset="utf8mb4")), BINARY)
        return cut
