"""Columns that may hold PII and that no retirement reaches, as far as the last `map check` and a look at the schema tell.

.. no_pii: names of tables and columns.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime

from sink.clickhouse.catalog import Table
from sink.erasure.survey import Survey, read_survey
from sink.ledger.entries import Action
from sink.store import Store


@dataclass(frozen=True)
class Suspects:
    """What is not in the map and may be PII."""

    places: list[str]
    """As database.table.column."""
    checked_at: datetime | None
    """When `map check` was run last, None where it never was."""
    newer: list[str]
    """Tables that were made or changed since, or all of them where there was no check: only their columns' names tell."""

    @property
    def lines(self) -> list[str]:
        """What a receipt says of them; nothing where there are none."""
        if not self.places:
            return []
        checked = (
            f"map check of {self.checked_at:%Y-%m-%d %H:%M} UTC" if self.checked_at else "no map check is on record"
        )
        return [f"columns that may hold PII and are not in the PII map ({checked}): {', '.join(self.places)}"]

    def without(self, accepted: Collection[str]) -> list[str]:
        """The places outside of the `accepted` tables, which are written database.table."""
        return [place for place in self.places if not any(place.startswith(f"{table}.") for table in accepted)]


def read_suspects(store: Store) -> Suspects:
    """What the last `map check` found, as far as it is there still and not in the map by now, and what the names tell now.

    One look at the schema, whatever the number of subjects.
    """
    survey = read_survey(store)
    newest = store.ledger.show(action=Action.MAP_CHECKED, limit=1)
    places = set(survey.find_suspects())
    if not newest:
        return Suspects(sorted(places), None, _list_newer(survey, None))
    entry = newest[0]
    places |= {place for place in entry.detail.get("suspects", []) if not survey.is_settled(place)}
    checked_at = entry.at.astimezone(UTC)
    return Suspects(sorted(places), checked_at, _list_newer(survey, checked_at))


def _list_newer(survey: Survey, checked_at: datetime | None) -> list[str]:
    return [str(table.name) for table in survey.tables.values() if _is_newer(table, checked_at)]


def _is_newer(table: Table, checked_at: datetime | None) -> bool:
    # The time of a definition has whole seconds.
    return checked_at is None or table.modified_at is None or table.modified_at >= checked_at.replace(microsecond=0)
