"""What became of retirements: recorded in the ledger, and stated in a receipt."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sink.caches import CacheLine
from sink.clickhouse.parts import read_clock
from sink.erasure.plan import Plan
from sink.erasure.scan import can_scan
from sink.erasure.steps import Step
from sink.erasure.verify import Report, scan_for
from sink.errors import ErasureError, LedgerError
from sink.ledger.entries import Retirement
from sink.pii_map import SubjectId
from sink.retirement.plan import Planned, StepCounts
from sink.retirement.receipt import Receipt, TargetLine, format_time, list_not_covered, write_receipt
from sink.store import Store


@dataclass(frozen=True)
class Outcome:
    """What became of one retirement."""

    subject: str
    state: str
    """`erased`, `failed` or, for a repetition that found nothing, `already erased`."""
    rows: int = 0
    reason: str = ""
    receipt: dict[str, Any] | None = None
    receipt_path: Path | None = None

    @property
    def is_done(self) -> bool:
        """True where nothing of the subject is left and that is proved."""
        return self.state in ("erased", "already erased")


def find_elsewhere(
    store: Store, retirements: Sequence[Retirement], planned: Planned, scan: bool
) -> dict[str, list[str]]:
    """Texts outside the map that name a subject, as subject -> columns.

    What a search has found counts until a search no longer finds it, or the map has the table or the exemption: who was
    erased since cannot be searched for again unless the LMS still knows the names.
    """
    covered = {str(table) for table in planned.plan.tables}
    found: dict[str, list[str]] = {}
    for retirement in retirements:
        if scan and can_scan(store.pii_map, retirement.subject, planned.identities):
            continue
        places = retirement.detail.get("elsewhere", [])
        if left := [p for p in places if p.rpartition(".")[0] not in covered and p not in store.pii_map.not_pii]:
            found[retirement.subject] = left
    for finding in scan_for(store, parse_subjects(store, retirements), planned.identities) if scan else []:
        for subject in [finding.subject] if finding.subject else [r.subject for r in retirements]:
            places = found.setdefault(subject, [])
            places.extend({finding.place} - set(places))
    return found


def carry_over(retirement: Retirement) -> dict[str, Any]:
    """What the next entry of a retirement has to repeat, since only the last one is looked at."""
    return {name: value for name, value in retirement.detail.items() if name == "elsewhere"}


def explain_elsewhere(places: Sequence[str]) -> str:
    return f"texts outside the PII map name the subject: {', '.join(places)}. Add the tables to the map, or clean them"


def parse_subjects(store: Store, retirements: Sequence[Retirement]) -> list[SubjectId]:
    return [store.pii_map.subject.parse(retirement.subject) for retirement in retirements]


def record_counts(store: Store, batch: Sequence[Retirement], counts: Sequence[StepCounts]) -> None:
    """Write down what is there before it goes; nothing where there is nothing."""
    entries = []
    for retirement in batch:
        rows = {c.step.label: c.rows[retirement.subject] for c in counts if retirement.subject in c.rows}
        if rows:
            entries.append((retirement.subject, retirement.request, {"rows": rows}))
    if entries:
        store.ledger.record("found", entries)


def record_failures(
    store: Store, failures: Sequence[tuple[Retirement, str]], elsewhere: Mapping[str, list[str]] | None = None
) -> Iterator[Outcome]:
    if not failures:
        return
    entries = []
    for retirement, reason in failures:
        places = (elsewhere or {}).get(retirement.subject)
        detail = {**carry_over(retirement), **({"elsewhere": places} if places else {}), "reason": reason}
        entries.append((retirement.subject, retirement.request, detail))
    # Where the ledger cannot be written the retirement is still open in it; only the reason is lost.
    with contextlib.suppress(LedgerError):
        store.ledger.record("failed", entries)
    yield from (Outcome(r.subject, "failed", reason=reason) for r, reason in failures)


def explain(report: Report, retirement: Retirement) -> str:
    return "; ".join(str(finding) for finding in report.residue_of(retirement.subject)[:10])


def record_erased(
    store: Store,
    retirements: Sequence[Retirement],
    plan: Plan,
    reloaded: list[str],
    proof: Report,
    hidden_at: datetime,
    scrubbed_at: int,
    told: list[CacheLine],
) -> Iterator[Outcome]:
    """Write the receipts, then close the retirements: a receipt that cannot be written leaves them open."""
    erased_at = datetime.fromtimestamp(read_clock(store.client), UTC)
    outcomes = []
    found = store.ledger.find_counts(retirements)
    for retirement in retirements:
        lines = [_describe(step, found.get(retirement.subject, {})) for step in plan.steps]
        lines += [TargetLine(target=name, action="none", absent=True) for name in plan.absent]
        rows = sum(line.rows_before for line in lines)
        document = Receipt(
            subject=retirement.subject,
            request=str(retirement.request),
            actor=retirement.actor,
            requested_at=format_time(retirement.requested_at),
            hidden_at=format_time(hidden_at),
            erased_at=format_time(max(erased_at, hidden_at)),
            nothing_was_stored=rows == 0,
            targets=lines,
            reloaded=reloaded,
            verified=proof.checked,
            verified_in_files=True,
            caches=told,
            not_covered=[*list_not_covered(told), *proof.not_asked_of(retirement.subject)],
        ).to_dict(store.policy.receipt_key)
        path = _write(document, store.policy.receipts_dir)
        outcomes.append(Outcome(retirement.subject, "erased", rows, "", document, path))
    if outcomes:
        closing = [
            (r.subject, r.request, {"receipt": o.receipt, "scrubbed_at": scrubbed_at})
            for r, o in zip(retirements, outcomes, strict=True)
        ]
        store.ledger.record("erased", closing)
    yield from outcomes


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
