"""What is written down of retirements: what was found, what names them elsewhere, and what was proved, with receipts.

.. no_pii: opaque user ids, counts, and names of tables.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from sink.caches import CacheLine
from sink.erasure.former_names import find_kept
from sink.erasure.plan import Plan
from sink.erasure.scan import can_scan, list_not_pii
from sink.erasure.steps import Step
from sink.erasure.suspects import read_suspects
from sink.erasure.verify import OF_A_TABLE, Report, scan_for
from sink.errors import ErasureError
from sink.ledger.entries import Action
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
from sink.retirement.stays import list_stays
from sink.store import Store


@dataclass(frozen=True)
class Proof:
    """What the retirements of a batch that reach their end have in common."""

    plan: Plan
    reloaded: list[str]
    """Dictionaries and views that read the targets again."""
    hidden_at: datetime
    scrubbed_at: datetime
    """The time, by ClickHouse's clock in seconds, until which no file holds what was replaced."""
    report: Report
    """What was asked after the scrubbing, with nothing found of those who are pending still."""
    caches: list[CacheLine]
    """What was told to forget."""


def record_found(store: Store, batch: Batch, planned: Planned) -> None:
    """Write down what is there before it goes; nothing where there is nothing."""
    entries = []
    for subject, retirement in batch.pending.items():
        if rows := {count.step.label: count.rows[subject] for count in planned.counts if subject in count.rows}:
            entries.append((subject, retirement.request, {"rows": rows}))
    if entries:
        store.ledger.record(Action.FOUND, entries)


def find_named_elsewhere(store: Store, batch: Batch, planned: Planned, *, scan: bool) -> dict[str, list[str]]:
    """Texts outside the map that name somebody of the batch, as subject -> columns.

    What a search has found counts until a search no longer finds it, or the map has the table or the exemption: who was
    erased since cannot be searched for again unless the LMS still knows the names.
    """
    exempt = list_not_pii(store)
    settled = {str(table) for table in planned.plan.tables} | {str(table) for table, column in exempt if column is None}
    settled_columns = {f"{table}.{column}" for table, column in exempt if column is not None}
    found: dict[str, list[str]] = {}
    for subject, retirement in batch.pending.items():
        if scan and can_scan(store.pii_map, subject, planned.identities):
            continue
        places = retirement.detail.get("elsewhere", [])
        if left := [p for p in places if p not in settled_columns and p.rpartition(".")[0] not in settled]:
            found[subject] = left
    for finding in scan_for(store, batch.subjects, planned.identities) if scan and batch.pending else []:
        for subject in [finding.subject] if finding.subject else batch.pending:
            places = found.setdefault(subject, [])
            if finding.place not in places:
                places.append(finding.place)
    return found


def record_erased(store: Store, batch: Batch, proof: Proof) -> None:
    """Write the receipts, then close the retirements: a receipt that cannot be written leaves them open."""
    if not batch.pending:
        return
    erased_at = store.client.now()
    found = store.ledger.find_counts(list(batch.pending.values()))
    kept = find_kept(store, list(batch.pending))
    suspects = read_suspects(store)
    present = {n: str(store.client.table(n)) for n in store.pii_map.targets if n not in proof.plan.absent}
    stays = list_stays(store.pii_map, present, redact_history=store.policy.redact_history)
    outcomes = []
    for subject, retirement in batch.pending.items():
        lines = [_describe(step, found.get(subject, {})) for step in proof.plan.steps]
        lines += [TargetLine(target=name, action="none", absent=True) for name in proof.plan.absent]
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
            stays=stays,
            suspects=suspects.places,
            map_checked_at=format_time(suspects.checked_at) if suspects.checked_at else None,
            not_covered=[
                *list_not_covered(proof.caches),
                *proof.report.not_asked_of(subject),
                # Of tables in which no row of the subject was found.
                *(str(finding) for finding in proof.report.findings if finding.kind in OF_A_TABLE),
                *describe_kept(kept.get(subject)),
                *proof.report.passing,
                *suspects.lines,
            ],
        ).to_dict(store.policy.receipt_key)
        path = _write(document, store.policy.receipts_dir)
        not_asked = proof.report.places_not_asked(subject)
        outcomes.append(Outcome(subject, Result.ERASED, rows, "", document, path, not_asked))
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
