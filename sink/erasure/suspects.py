"""Columns that may hold PII and that no retirement reaches, as far as the last `map check` and a look at the schema tell.

.. no_pii: names of tables and columns.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime

from sink.erasure.survey import read_survey
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
    """Tables outside the map that were made or changed since."""

    @property
    def lines(self) -> list[str]:
        """What a receipt says of them, and of how much was looked at."""
        lines = []
        if self.places:
            lines.append(f"columns that may hold PII and are not in the PII map: {', '.join(self.places)}")
        if self.checked_at is None:
            lines.append("columns outside the PII map, but for their names: no map check is on record")
        elif self.newer:
            lines.append(
                f"columns, but for their names, of tables that are newer than the map check of "
                f"{self.checked_at:%Y-%m-%d %H:%M} UTC: {', '.join(self.newer)}"
            )
        return lines

    def without(self, accepted: Collection[str]) -> list[str]:
        """The places outside of the `accepted` tables, which are written database.table."""
        return [place for place in self.places if not any(place.startswith(f"{table}.") for table in accepted)]


def read_suspects(store: Store) -> Suspects:
    """What the last `map check` found, as far as it is there still and not in the map by now, and what the names tell now.

    One look at the schema, whatever the number of subjects.
    """
    survey = read_survey(store)
    newest = store.ledger.show(action=Action.MAP_CHECKED, limit=1, with_voided=False)
    places = set(survey.find_suspects())
    if not newest:
        return Suspects(sorted(places), None, [])
    entry = newest[0]
    places |= {place for place in entry.detail.get("suspects", []) if not survey.is_settled(place)}
    checked_at = entry.at.astimezone(UTC)
    # The time of a definition has whole seconds.
    since = checked_at.replace(microsecond=0)
    newer = [str(table.name) for table in survey.list_unmapped() if table.modified_at and table.modified_at >= since]
    return Suspects(sorted(places), checked_at, newer)
