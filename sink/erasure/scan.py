"""Searching every text of the configured databases for what a subject was called: residue that no map knows of.

.. pii: Holds user names and e-mail addresses of the users being looked for, in memory only.
.. pii_types: username, email_address
.. pii_retirement: consumer_api
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sink.clickhouse.catalog import Table, read_tables
from sink.clickhouse.client import INCLUDING_HIDDEN, ClickHouse
from sink.erasure.identities import Identities
from sink.names import quote
from sink.pii_map import PiiMap, SubjectId

# Shorter names are in every other word.
_SHORTEST = 4
_SEARCHABLE = ("String", "FixedString", "JSON", "Array", "Map", "Tuple", "Nested", "Variant", "Dynamic")


@dataclass(frozen=True)
class Hit:
    """A column in which a subject's user name or address stands."""

    table: str
    column: str
    subject: str
    rows: int


def scan(client: ClickHouse, pii_map: PiiMap, subjects: Sequence[SubjectId], identities: Identities) -> list[Hit]:
    """Search every text column of every table that holds rows, arrays and JSON included.

    Anonymous ids are not searched for: they are what the anonymised events keep.

    Raises:
        DatabaseError: a table could not be searched, so nothing is known about it.
    """
    names = [name for name, source in pii_map.subject.identifiers.items() if _is_personal(pii_map, source)]
    tables = [table for table in read_tables(client).values() if table.is_merge_tree or table.engine == "Memory"]
    hits = []
    for subject in subjects:
        needles = {v for name in names for v in identities.of(subject, name) if len(v) >= _SHORTEST}
        if needles:
            hits += [hit for table in tables for hit in _search(client, table, str(subject), needles)]
    return [
        hit for hit in hits if f"{hit.table}.{hit.column}" not in pii_map.not_pii and hit.table not in pii_map.not_pii
    ]


def can_scan(pii_map: PiiMap, subject: SubjectId, identities: Identities) -> bool:
    """True where a name or address of the subject is known that is long enough to be searched for."""
    names = [name for name, source in pii_map.subject.identifiers.items() if _is_personal(pii_map, source)]
    return any(len(value) >= _SHORTEST for name in names for value in identities.of(subject, name))


def _is_personal(pii_map: PiiMap, source: str) -> bool:
    table, _, column = source.rpartition(".")
    return pii_map.targets[table].pii[column] != "id"


def _search(client: ClickHouse, table: Table, subject: str, needles: set[str]) -> Iterator[Hit]:
    columns = [column for column, kind in table.columns.items() if any(word in kind for word in _SEARCHABLE)]
    if not columns:
        return
    # As a word of its own: a user name is often part of another one.
    pattern = f"(^|[^a-z0-9_.-])({'|'.join(sorted(re.escape(needle.lower()) for needle in needles))})($|[^a-z0-9_-])"
    counts = ", ".join(
        f"countIf(match(lowerUTF8(toString({quote(column)})), {{pattern:String}}))" for column in columns
    )
    row = client.rows(f"SELECT {counts} FROM {client.replicas(table.name.sql)}", INCLUDING_HIDDEN, pattern=pattern)[0]
    yield from (Hit(str(table.name), c, subject, int(n)) for c, n in zip(columns, row, strict=True) if n)
