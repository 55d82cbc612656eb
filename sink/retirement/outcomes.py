"""What is written down of retirements on their way: what was found, and what names them elsewhere.

.. no_pii: opaque user ids, counts, and names of tables.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sink.erasure.exemptions import is_exempt, list_not_pii, list_retained
from sink.erasure.named_texts import Texts, scan_for
from sink.ledger.entries import Action, Retirement
from sink.names import TableName
from sink.pii_map import SubjectId
from sink.retirement.batch import Batch
from sink.retirement.plan import Planned
from sink.store import Store


def record_found(store: Store, batch: Batch, planned: Planned) -> None:
    """Write down what is there before it goes; nothing where there is nothing."""
    entries = []
    for subject, retirement in batch.pending.items():
        if rows := {count.step.label: count.rows[subject] for count in planned.counts if subject in count.rows}:
            entries.append((subject, retirement.request, {"rows": rows}))
    if entries:
        store.ledger.record(Action.FOUND, entries)


@dataclass(frozen=True)
class Elsewhere:
    """Texts that name subjects of a batch, beside what the map erases."""

    places: dict[str, list[str]] = field(default_factory=dict)
    """Columns, and tables that could not be searched, by subject: they keep the retirement open."""
    details: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    """The same as the ledger has it for the next pass, with those that a rule had reached before they were searched."""
    texts: Texts = field(default_factory=Texts)


def find_named_elsewhere(
    store: Store, planned: Planned, retirements: Mapping[str, Retirement], subjects: Sequence[SubjectId], *, scan: bool
) -> Elsewhere:
    """What names `subjects` still: found by a search now, or by an earlier one and not settled since.

    Who was erased since cannot be searched for again unless the LMS still knows the names. Until then a place is settled
    where the map exempts it, or where a rule that was added since has found rows of the subject and erases the column.
    """
    texts = scan_for(store, subjects, planned.identities) if scan and subjects else Texts()
    searched = set(map(str, subjects)) - set(texts.unknown) if scan else set()
    elsewhere = Elsewhere(texts=texts)
    if not texts.findings and not any("elsewhere" in retirement.detail for retirement in retirements.values()):
        return elsewhere
    coverage = _Coverage(store, planned, retirements)
    for subject, retirement in retirements.items():
        places = {f.place: coverage.reaches(subject, f.place) for f in texts.findings if f.subject in (subject, None)}
        if subject not in searched:
            covered_then = retirement.detail.get("covered_elsewhere", [])
            for place in retirement.detail.get("elsewhere", []):
                if not coverage.settles(subject, place, was_covered=place in covered_then):
                    places.setdefault(place, place in covered_then)
        if places:
            elsewhere.places[subject] = list(places)
            elsewhere.details[subject] = {
                "elsewhere": list(places),
                "covered_elsewhere": [place for place, is_covered in places.items() if is_covered],
            }
    return elsewhere


class _Coverage:
    """What the map says of places as the ledger writes them, `database.table.column`."""

    def __init__(self, store: Store, planned: Planned, retirements: Mapping[str, Retirement]) -> None:
        self._steps = planned.plan.steps
        self._found = store.ledger.find_counts(list(retirements.values()))
        self._not_pii = list_not_pii(store)
        self._retained = list_retained(store.client, store.pii_map, redact_history=store.policy.redact_history)

    def reaches(self, subject: str, place: str) -> bool:
        """True where a rule has found rows of the subject and erases this column of theirs."""
        table, column = _read_place(place)
        return any(
            step.table.name == table
            and (step.rule.on_retire.delete or column in step.rule.on_retire.redact)
            and self._found.get(subject, {}).get(step.label, 0) > 0
            for step in self._steps
            if column is not None
        )

    def settles(self, subject: str, place: str, *, was_covered: bool) -> bool:
        """True where nothing has to be done about a place any more that was found earlier."""
        table, column = _read_place(place)
        if (table, None) in self._not_pii or (column is not None and is_exempt(self._not_pii, table, column)):
            return True
        if column is not None and (table, column) in self._retained:
            return True
        return not was_covered and self.reaches(subject, place)


def _read_place(place: str) -> tuple[TableName, str | None]:
    database, table, column = (*place.split(".", 2), "", "")[:3]
    return TableName(database, table), column or None
