"""Closing retirements that are proved: what their receipts say, and the entries `erased`.

.. no_pii: opaque user ids, counts, and names of tables.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from sink.caches import CacheLine
from sink.erasure.findings import OF_A_TABLE, Report
from sink.erasure.former_names import find_kept
from sink.erasure.named_texts import NO_NAME, Texts
from sink.erasure.plan import NOBODY_NAMED
from sink.erasure.stays import list_exempt, list_stays
from sink.erasure.steps import Step
from sink.erasure.suspects import read_suspects
from sink.errors import ErasureError, SettingsError
from sink.ledger.entries import Action
from sink.retirement.batch import Batch, Outcome, Result
from sink.retirement.plan import Planned
from sink.retirement.receipt import (
    Receipt,
    TargetLine,
    add_earlier,
    describe_kept,
    format_time,
    list_not_covered,
)
from sink.retirement.receipt_files import ReceiptFile, find_recorded, issue_all
from sink.retirement.signatures import Signer, load_signer
from sink.store import Policy, Store

# What is said of whom nobody could search for.
NOT_SEARCHED = f"texts were not searched: {NO_NAME}"
_STAYS_OPEN = "The retirement stays open, and `aspects-pii sweep` finishes it."


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


def record_erased(store: Store, batch: Batch, proof: Proof) -> None:
    """Write the receipts, then close the retirements: a receipt that cannot be written leaves them open."""
    if not batch.pending:
        return
    policy = store.policy
    signer = _load_signer(policy)
    recorded = store.ledger.find_erasures(list(batch.pending.values()))
    outcomes, entries = [], []
    receipts = _compose_receipts(store, batch, proof, recorded)
    described = [(r, recorded.get(subject, []), proof.planned.rows_of(subject) == 0) for subject, r in receipts.items()]
    files = _issue(described, policy.receipts_dir, signer)
    for (subject, receipt), file in zip(receipts.items(), files, strict=True):
        detail = {
            "receipt": file.document,
            "file": file.path.name,
            "digest": file.digest,
            "scrubbed_at": int(proof.scrubbed_at.timestamp()),
            "questions": proof.planned.plan.questions,
        }
        entries.append((subject, batch.pending[subject].request, detail))
        rows = sum(line.rows_before for line in receipt.targets)
        not_asked = proof.report.places_not_asked(subject)
        unknown = subject in proof.texts.unknown
        reason = NOT_SEARCHED if unknown else ""
        outcomes.append(
            Outcome(subject, Result.ERASED, rows, reason, file.document, file.path, not_asked, not_searched=unknown)
        )
    store.ledger.record(Action.ERASED, entries)
    for outcome in outcomes:
        batch.finish(outcome)


def _compose_receipts(
    store: Store, batch: Batch, proof: Proof, recorded: Mapping[str, Sequence[Mapping[str, Any]]]
) -> dict[str, Receipt]:
    """What there is to say of everybody who is pending, by subject."""
    erased_at = store.client.now()
    found = store.ledger.find_counts(list(batch.pending.values()))
    kept = find_kept(store, list(batch.pending))
    suspects = read_suspects(store)
    plan = proof.planned.plan
    exempt = list_exempt(store.client, plan, batch.subjects, proof.planned.identities)
    stays = list_stays(store.pii_map, plan.present, redact_history=store.policy.redact_history)
    place = store.client.address.described
    untouched = [(step.label, _describe(step)) for step in plan.steps]
    absent = [TargetLine(target=name, action="none", absent=True) for name in plan.absent]
    receipts = {}
    for subject, retirement in batch.pending.items():
        rows = found.get(subject, {})
        lines = [replace(line, rows_before=rows[label]) if label in rows else line for label, line in untouched]
        lines += absent
        for detail in recorded.get(subject, ())[-1:]:
            if earlier := find_recorded(detail, store.policy.receipts_dir, str(retirement.request)):
                lines = add_earlier(lines, earlier.receipt.targets)
        receipts[subject] = Receipt(
            subject=subject,
            request=str(retirement.request),
            actor=retirement.actor,
            requested_at=format_time(retirement.requested_at),
            hidden_at=format_time(proof.hidden_at),
            erased_at=format_time(max(erased_at, proof.hidden_at)),
            nothing_was_stored=not any(line.rows_before for line in lines),
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
            store=place,
            institution=store.policy.institution,
            contact=store.policy.contact,
        )
    return receipts


def _list_not_covered_of(subject: str, proof: Proof) -> list[str]:
    not_searched = [f"texts: {NOT_SEARCHED}"] if subject in proof.texts.unknown else []
    return [*proof.report.not_asked_of(subject), *proof.texts.listed_of(subject), *not_searched]


def _load_signer(policy: Policy) -> Signer:
    try:
        return load_signer(policy.receipt_key, policy.receipt_signing_key)
    except SettingsError as error:
        raise ErasureError(
            f"The receipt could not be signed: {error} Put that right; then `aspects-pii sweep` finishes the retirement."
        ) from None


def _issue(
    receipts: Sequence[tuple[Receipt, Sequence[Mapping[str, Any]], bool]], folder: Path, signer: Signer
) -> list[ReceiptFile]:
    try:
        return issue_all(receipts, folder, signer)
    except OSError as error:
        raise ErasureError(
            f"The receipt could not be written to {folder} ({error.strerror}); check ASPECTS_RECEIPTS_DIR. {_STAYS_OPEN}"
        ) from None


def _describe(step: Step) -> TargetLine:
    """What a step does to a target, with no row of anybody found."""
    return TargetLine(
        target=str(step.table.name),
        action=step.action,
        columns=step.columns,
        pii={
            column: kind
            for column, kind in step.pii_types.items()
            if step.rule.on_retire.delete or column in step.rule.on_retire.redact
            if column.partition(".")[0] in step.table.columns or column in step.table.columns
        },
    )
