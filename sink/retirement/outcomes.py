"""What is written down of retirements: what was found, what names them elsewhere, and what was proved, with receipts.

.. no_pii: opaque user ids, counts, and names of tables.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from sink.caches import CacheLine
from sink.erasure.exemptions import is_exempt, list_not_pii, list_retained
from sink.erasure.findings import OF_A_TABLE, Report
from sink.erasure.former_names import find_kept
from sink.erasure.named_texts import NO_NAME, Texts, scan_for
from sink.erasure.plan import NOBODY_NAMED
from sink.erasure.steps import Step
from sink.erasure.suspects import read_suspects
from sink.errors import ErasureError
from sink.ledger.entries import Action, Retirement
from sink.names import TableName
from sink.pii_map import SubjectId
from sink.retirement.batch import Batch, Outcome, Result
from sink.retirement.plan import Planned
from sink.retirement.receipt import (
    Receipt,
    TargetLine,
    describe_kept,
    format_time,
    list_not_covered,
    write_receipt,
)
from sink.retirement.stays import list_exempt, list_stays
from sink.store import Store

# What is said of whom nobody could search for.
NOT_SEARCHED = f"texts were not searched: {NO_NAME}"


@dataclass(frozen=True)
class Proof:
    """What the retirements of a batch that reach their end have in common."""

    planned: Planned
    reloaded: list[str]
    """Dictionaries and views that read the targets again."""
    hidden_at: datetime
    scrubbed_at: datetime
    """The time, by ClickHouse's clock in seconds, until which no file holds what was replaced."""
    report: Report
    """What was asked after the scrubbing, with nothing found of those who are pending still."""
    caches: list[CacheLine]
    """What was told to forget."""
    texts: Texts = field(default_factory=Texts)
    """What a search of all texts found, if there was one."""
    results: list[str] = field(default_factory=list)
    """Results of queries that ClickHouse keeps and that could not be dropped."""


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


def record_erased(store: Store, batch: Batch, proof: Proof) -> None:
    """Write the receipts, then close the retirements: a receipt that cannot be written leaves them open."""
    if not batch.pending:
        return
    erased_at = store.client.now()
    found = store.ledger.find_counts(list(batch.pending.values()))
    kept = find_kept(store, list(batch.pending))
    suspects = read_suspects(store)
    plan = proof.planned.plan
    present = {n: str(store.client.table(n)) for n in store.pii_map.targets if n not in plan.absent}
    exempt = list_exempt(store.client, plan, batch.subjects, proof.planned.identities)
    stays = list_stays(store.pii_map, present, redact_history=store.policy.redact_history)
    outcomes = []
    for subject, retirement in batch.pending.items():
        lines = [_describe(step, found.get(subject, {})) for step in plan.steps]
        lines += [TargetLine(target=name, action="none", absent=True) for name in plan.absent]
        rows = sum(line.rows_before for line in lines)
        document = Receipt(
            subject=subject,
            request=str(retirement.request),
            actor=retirement.actor,
            requested_at=format_time(retirement.requested_at),
            hidden_at=format_time(proof.hidden_at),
            erased_at=format_time(max(erased_at, proof.hidden_at)),
            nothing_was_stored=rows == 0,
            targets=lines,
            reloaded=proof.reloaded,
            verified=proof.report.checked,
            verified_in_files=True,
            caches=proof.caches,
            stays=[*stays, *exempt.get(subject, ())],
            suspects=suspects.places,
            map_checked_at=format_time(suspects.checked_at) if suspects.checked_at else None,
            not_covered=[
                *list_not_covered(proof.caches),
                *_list_not_covered_of(subject, proof),
                # Of tables in which no row of the subject was found.
                *(str(finding) for finding in proof.report.findings if finding.kind in OF_A_TABLE),
                *describe_kept(kept.get(subject)),
                *proof.report.passing,
                *(f"{place}: {NOBODY_NAMED}" for place in plan.idle),
                *proof.results,
                *suspects.lines,
            ],
        ).to_dict(store.policy.receipt_key)
        path = _write(document, store.policy.receipts_dir)
        not_asked = proof.report.places_not_asked(subject)
        unknown = subject in proof.texts.unknown
        reason = NOT_SEARCHED if unknown else ""
        outcomes.append(Outcome(subject, Result.ERASED, rows, reason, document, path, not_asked, not_searched=unknown))
    store.ledger.record(
        Action.ERASED,
        [
            (
                o.subject,
                batch.pending[o.subject].request,
                {"receipt": o.receipt, "scrubbed_at": int(proof.scrubbed_at.timestamp())},
            )
            for o in outcomes
        ],
    )
    for outcome in outcomes:
        batch.finish(outcome)


def _list_not_covered_of(subject: str, proof: Proof) -> list[str]:
    not_searched = [f"texts: {NOT_SEARCHED}"] if subject in proof.texts.unknown else []
    return [*proof.report.not_asked_of(subject), *proof.texts.listed_of(subject), *not_searched]


def _write(document: dict[str, Any], folder: Path) -> Path:
    try:
        return write_receipt(document, folder)
    except OSError as error:
        raise ErasureError(
            f"The receipt could not be written to {folder} ({error.strerror}); check ASPECTS_RECEIPTS_DIR. "
            "The retirement stays open, and `aspects-pii sweep` finishes it."
        ) from None


def _describe(step: Step, found: dict[str, int]) -> TargetLine:
    return TargetLine(
        target=str(step.table.name), action=step.action, columns=step.columns, rows_before=found.get(step.label, 0)
    )
