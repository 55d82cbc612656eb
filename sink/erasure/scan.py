"""Searching every text of the configured databases for what a subject was called: residue that no map knows of.

.. pii: Holds user names and e-mail addresses of the users being looked for, in memory only.
.. pii_types: username, email_address
.. pii_retirement: consumer_api
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from sink.clickhouse.catalog import Table
from sink.clickhouse.client import INCLUDING_HIDDEN, ClickHouse
from sink.erasure.derived import read_all_tables
from sink.erasure.identities import Identities
from sink.names import TableName, quote
from sink.pii_map import PiiMap, SubjectId
from sink.store import Store

# Shorter names are in every other word.
_SHORTEST = 4
_SEARCHABLE = ("String", "FixedString", "JSON", "Array", "Map", "Tuple", "Nested", "Variant", "Dynamic")

NotPii = set[tuple[TableName, str | None]]
"""(table, column), or (table, None) for a whole table, that the map says is no PII."""


@dataclass(frozen=True)
class Hit:
    """A column in which a subject's user name or address stands."""

    table: TableName
    column: str
    subject: str
    rows: int

    @property
    def place(self) -> str:
        """The column, as a finding names it."""
        return f"{self.table}.{self.column}"


def scan(store: Store, subjects: Sequence[SubjectId], identities: Identities) -> list[Hit]:
    """Search every text column of every table that holds rows, arrays and JSON included.

    Anonymous ids are not searched for: they are what the anonymised events keep.

    Raises:
        DatabaseError: a table could not be searched, so nothing is known about it.
    """
    not_pii = list_not_pii(store)
    columns = {
        table.name: found
        for table in read_all_tables(store).values()
        if table.is_merge_tree or table.engine == "Memory"
        if (found := _list_searchable(table, not_pii))
    }
    hits = []
    for subject in subjects:
        if names := _list_names(store.pii_map, subject, identities):
            for table, searched in columns.items():
                hits += _search(store.client, table, searched, str(subject), names)
    return hits


def can_scan(pii_map: PiiMap, subject: SubjectId, identities: Identities) -> bool:
    """True where a name or address of the subject is known that is long enough to be searched for."""
    return bool(_list_names(pii_map, subject, identities))


def list_not_pii(store: Store) -> NotPii:
    """What the map lists under `not_pii`, by the names of this installation."""
    listed: NotPii = set()
    for name in store.pii_map.not_pii:
        database, table, *column = name.split(".", 2)
        listed.add((store.client.table(f"{database}.{table}"), column[0] if column else None))
    return listed


def _list_names(pii_map: PiiMap, subject: SubjectId, identities: Identities) -> set[str]:
    """The names and addresses of a subject, but those that are too short."""
    names: set[str] = set()
    for identifier, source in pii_map.subject.identifiers.items():
        target, _, column = source.rpartition(".")
        if pii_map.targets[target].pii[column] != "id":
            names |= {value for value in identities.of(subject, identifier) if len(value) >= _SHORTEST}
    return names


def _list_searchable(table: Table, not_pii: NotPii) -> list[str]:
    if (table.name, None) in not_pii:
        return []
    return [
        column
        for column, kind in table.columns.items()
        if (table.name, column) not in not_pii and any(word in kind for word in _SEARCHABLE)
    ]


def _search(client: ClickHouse, table: TableName, columns: Sequence[str], subject: str, names: set[str]) -> list[Hit]:
    # As a word of its own: a user name is often part of another one.
    pattern = f"(^|[^a-z0-9_.-])({'|'.join(sorted(re.escape(name.lower()) for name in names))})($|[^a-z0-9_-])"
    counts = ", ".join(
        f"countIf(match(lowerUTF8(toString({quote(column)})), {{pattern:String}}))" for column in columns
    )
    row = client.rows(f"SELECT {counts} FROM {client.replicas(table.sql)}", INCLUDING_HIDDEN, pattern=pattern)[0]
    return [Hit(table, column, subject, int(rows)) for column, rows in zip(columns, row, strict=True) if rows]
