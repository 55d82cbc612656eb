"""Texts that name the subject and are in none of the subject's rows: found as `verify --scan` finds residue.

A text that stands in a row that the map says is somebody else's belongs to that person, and is counted and not given out.

.. pii: Texts that name the subject pass through, with whatever else they say, in memory only.
.. pii_types: id, name, username, email_address, other
.. pii_retirement: consumer_api
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from sink.clickhouse.catalog import Table
from sink.clickhouse.client import ClickHouse
from sink.erasure.identities import Identities
from sink.erasure.scan import MATCHING, express_matches, searching
from sink.erasure.text_columns import TextTable
from sink.errors import DatabaseError
from sink.names import TableName
from sink.pii_map import SubjectId
from sink.rights.selections import Kind, Selection
from sink.store import Store


@dataclass(frozen=True)
class Place:
    """Columns of a table that name the subject outside of the subject's rows."""

    table: Table
    columns: list[str]
    """Those that do, in which the texts are nobody else's."""
    in_rows_of_others: dict[str, int] = field(default_factory=dict)
    """Column -> rows of other people that name the subject."""
    perhaps: dict[str, int] = field(default_factory=dict)
    """Column -> rows with a word that the subject is called too, and that may mean something else."""


@dataclass(frozen=True)
class Mentions:
    """Where the subject is named, while what is looked for stands in the session."""

    client: ClickHouse
    places: list[Place]
    unsearched: list[str]
    """Tables that could not be searched, so that nobody knows what they say."""
    _selections: Mapping[TableName, Sequence[Selection]] = field(repr=False)

    def express_cells(self, place: Place) -> str:
        """A query of `row`, `place`, `text`, `subject`, `is_sure` and `is_meant` of the columns of a place."""
        outside = express_outside(self._selections.get(place.table.name, ()))
        return express_matches(self.client, place.table.name, place.columns, outside)

    def bind(self, place: Place) -> dict[str, Any]:
        """What is bound to that query."""
        return _bind(self._selections.get(place.table.name, ()))


@contextmanager
def find_mentions(
    store: Store,
    subject: SubjectId,
    identities: Identities,
    selections: Sequence[Selection],
    leave_out: Sequence[TableName],
) -> Iterator[Mentions]:
    """Search every text of every table for what the subject is called, but the rows that `selections` give.

    Args:
        store: the store.
        subject: who is looked for.
        identities: what the subject is called, full names included.
        selections: the subject's rows.
        leave_out: tables that are not looked at.

    Raises:
        DatabaseError: the schema could not be read, or ClickHouse does not answer.
    """
    of_tables: dict[TableName, list[Selection]] = {}
    for selection in selections:
        of_tables.setdefault(selection.table.name, []).append(selection)
    places: list[Place] = []
    unsearched: list[str] = []
    with searching(store, [subject], identities) as tables:
        for table in tables:
            if table.name in leave_out:
                continue
            try:
                places.append(_look(store, table, of_tables.get(table.name, [])))
            except DatabaseError as error:
                if error.retriable:
                    raise
                unsearched.append(str(table.name))
        named = [place for place in places if place.columns or place.in_rows_of_others or place.perhaps]
        yield Mentions(store.client, named, unsearched, of_tables)


def _look(store: Store, texts: TextTable, selections: Sequence[Selection]) -> Place:
    cells = express_matches(store.client, texts.name, texts.columns, express_outside(selections))
    rows = store.client.rows(
        "SELECT place, uniqExactIf(row, is_sure AND is_meant), uniqExactIf(row, NOT (is_sure AND is_meant)) "
        f"FROM ({cells}) GROUP BY place ORDER BY place",
        MATCHING,
        **_bind(selections),
    )
    sure = {texts.columns[place]: int(count) for place, count, _ in rows if count}
    perhaps = {texts.columns[place]: int(count) for place, _, count in rows if count}
    of_others = {column for column in sure if _is_of_others(store, selections, column)}
    return Place(
        texts.table,
        [column for column in sure if column not in of_others],
        {column: count for column, count in sure.items() if column in of_others},
        perhaps,
    )


def _is_of_others(store: Store, selections: Sequence[Selection], column: str) -> bool:
    """True where every row of the table is about one person, by a key of the map, and the column speaks of that person."""
    if not any(selection.kind is Kind.ROWS for selection in selections):
        return False
    rules = [
        rule for s in selections for target in [store.pii_map.targets.get(s.target)] if target for rule in target.rules
    ]
    return not any(rule.is_about_text and rule.key == column for rule in rules)


def express_outside(selections: Sequence[Selection]) -> str:
    """WHERE and the rows that none of `selections` gives."""
    outside = " AND ".join([f"NOT ifNull({selection.condition}, 0)" for selection in selections])
    return f"WHERE {outside}" if outside else ""


def _bind(selections: Sequence[Selection]) -> dict[str, Any]:
    """What is bound to that."""
    return {name: value for selection in selections for name, value in selection.values.items()}
