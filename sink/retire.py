"""Retiring subjects: recorded first, hidden at once, scrubbed soon, proved, and only then done.

    retire    request, and work off what was requested
    sweep     work off whatever is open

Both end in `work_off`, which reads like the life of a retirement.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sink.caches import CacheLine
from sink.clickhouse.parts import read_clock, scrub, wait_for_mutations
from sink.derived import read_dependents, reload
from sink.erase import Plan, read_plan, require_sound
from sink.errors import (
    AspectsPiiError,
    BusyError,
    DatabaseError,
    ErasureError,
    LedgerError,
    RefusedError,
    SupersetError,
)
from sink.identity import Identities, ask_lms, read_identities
from sink.ledger.entries import Retirement
from sink.ledger.leases import hold
from sink.lms.database import LmsDatabase
from sink.pii_map import SubjectId
from sink.receipt import Receipt, TargetLine, format_time, list_not_covered, write_receipt
from sink.scan import can_scan
from sink.steps import Step
from sink.store import Store
from sink.verify import Report, scan_for, verify

# Below this a table is so small that one learner may well be most of it.
_SMALL_TABLE = 1_000
# Seconds to wait for another process that is erasing, and for mutations of others.
_WAIT_FOR_OTHERS = 30.0


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


@dataclass(frozen=True)
class StepCounts:
    """Rows of each subject that a step has to erase."""

    step: Step
    rows: dict[str, int]


def retire(
    store: Store,
    subjects: Sequence[SubjectId],
    *,
    actor: str | None = None,
    known: Identities | None = None,
    scan: bool = False,
    force: bool = False,
) -> list[Outcome]:
    """Retire `subjects`, one outcome each, in the order given.

    Args:
        store: the store to erase from.
        subjects: ids; repetitions count once.
        actor: opaque id of who asks; None for the system.
        known: other names of the subjects, beside those that the PII tables say.
        scan: also search every text of the databases for what the subjects are called; what is found is residue.
        force: carry out a plan that touches more of a table than the safeguard allows.

    Raises:
        LedgerError: the request could not be recorded, so nothing was done.
        DatabaseError: the same.
    """
    wanted = list(dict.fromkeys(subjects))
    retirements = store.ledger.request(wanted, actor)
    outcomes = {
        outcome.subject: outcome for outcome in work_off(store, retirements, known=known, scan=scan, force=force)
    }
    withdrawn = "it was withdrawn meanwhile"
    return [outcomes.get(str(subject), Outcome(str(subject), "failed", reason=withdrawn)) for subject in wanted]


def sweep(store: Store, *, force: bool = False) -> list[Outcome]:
    """Work off every retirement that is not proved yet, oldest first."""
    return list(work_off(store, store.ledger.find_open(), force=force))


@dataclass(frozen=True)
class Planned:
    """What retiring some subjects touches."""

    plan: Plan
    counts: list[StepCounts]
    identities: Identities

    def rows_of(self, subject: str) -> int:
        """Rows of one subject that still have to be erased."""
        return sum(count.rows.get(subject, 0) for count in self.counts)


def withdraw(store: Store, subjects: Sequence[SubjectId], *, actor: str | None = None) -> list[str]:
    """Take back retirements of which nothing was erased yet, and return whose.

    Raises:
        RefusedError: one of them was never requested, or its erasure has begun; none is withdrawn.
    """
    with hold(store.client, "erasing", wait=_WAIT_FOR_OTHERS):
        retirements = {r.subject: r for r in store.ledger.find(subjects)}
        begun = store.ledger.find_counts(list(retirements.values()))
        for subject in map(str, subjects):
            retirement = retirements.get(subject)
            if retirement is None or retirement.state == "withdrawn":
                raise RefusedError(f"{subject} is not being retired; nothing was withdrawn.")
            if subject in begun or retirement.state not in ("requested", "failed"):
                raise RefusedError(
                    f"The erasure of {subject} has begun and cannot be taken back; nothing was withdrawn."
                )
        store.ledger.record("withdrawn", [(r.subject, r.request, {}) for r in retirements.values()], actor)
    return [r.subject for r in retirements.values()]


def plan_retirement(
    store: Store, subjects: Sequence[SubjectId], known: Identities | None = None, *, scan: bool = False
) -> Planned:
    """What retiring `subjects` would touch. Changes nothing.

    Args:
        store: the store.
        subjects: ids.
        known: other names of the subjects, beside those that the PII tables say.
        scan: read those names although no rule needs them.

    Raises:
        MapError: the map cannot be carried out on the live schema.
        LmsError: the map searches by names, and the LMS cannot be asked for them.
    """
    plan = read_plan(
        store.client,
        store.pii_map,
        redact_history=store.policy.redact_history,
        secret=store.policy.pseudonym_secret,
    )
    require_sound(plan)
    identities = known or Identities()
    by_name = any(step.needs_identities for step in plan.steps)
    if scan or by_name:
        identities = identities.merge(read_identities(store.client, store.pii_map, subjects))
    if by_name and store.lms_url is not None:
        # The LMS replaces the address when retirement is asked for, and a copy before the request brings that here.
        identities = identities.merge(ask_lms(LmsDatabase(store.lms_url), subjects))
    counts = [
        StepCounts(step, step.count_left(store.client, subjects, identities, including_hidden=True))
        for step in plan.steps
    ]
    return Planned(plan, counts, identities)


def work_off(
    store: Store,
    retirements: Sequence[Retirement],
    *,
    known: Identities | None = None,
    scan: bool = False,
    force: bool = False,
) -> Iterator[Outcome]:
    """Erase, verify and record; a failure leaves the retirement open, with the reason."""
    if not retirements:
        return
    try:
        with hold(store.client, "erasing", wait=_WAIT_FOR_OTHERS):
            # While we waited, another process may have done it, or somebody may have withdrawn it.
            current = [r for r in store.ledger.find([r.subject for r in retirements]) if r.state != "withdrawn"]
            yield from _work_off_batches(store, current, known, scan, force)
    except (BusyError, DatabaseError) as error:
        yield from (Outcome(r.subject, "failed", reason=str(error)) for r in retirements)


def _work_off_batches(
    store: Store, retirements: Sequence[Retirement], known: Identities | None, scan: bool, force: bool
) -> Iterator[Outcome]:
    size = store.policy.retire_batch_size
    for start in range(0, len(retirements), size):
        batch = retirements[start : start + size]
        try:
            wait_for_mutations(store.client, store.policy.max_mutations, _WAIT_FOR_OTHERS)
            yield from _erase_batch(store, batch, known, scan, force)
        except LedgerError as error:
            yield from (Outcome(r.subject, "failed", reason=str(error)) for r in batch)
        except AspectsPiiError as error:
            yield from _record_failures(store, [(r, str(error)) for r in batch])


def _erase_batch(
    store: Store, batch: Sequence[Retirement], known: Identities | None, scan: bool, force: bool
) -> Iterator[Outcome]:
    planned = plan_retirement(store, parse_subjects(store, batch), known, scan=scan)
    finished = [r for r in batch if not r.is_open and not planned.rows_of(r.subject)]
    yield from _confirm(store, planned, finished)
    batch = [r for r in batch if r not in finished]
    if not batch:
        return
    _reopen(store, batch)
    if not force:
        _check_share(store, planned.counts)
    _record_counts(store, batch, planned.counts)
    failures = _hide(store, batch, planned)
    yield from _record_failures(store, failures)
    batch = [r for r in batch if r not in [failed for failed, _ in failures]]
    if not batch:
        return
    reloaded = reload(store.client, read_dependents(store.client, store.pii_map), store.policy.scrub_within)
    visible = verify(store.client, store.pii_map, planned.plan, parse_subjects(store, batch), planned.identities)
    hidden = [r for r in batch if not visible.residue_of(r.subject)]
    yield from _record_failures(store, [(r, _explain(visible, r)) for r in batch if r not in hidden])
    if not hidden:
        return
    hidden_at = store.ledger.record("hidden", [(r.subject, r.request, carry_over(r)) for r in hidden])
    scrubbed_at = scrub(store.client, planned.plan.tables, store.policy.scrub_within)
    proof = verify(
        store.client,
        store.pii_map,
        planned.plan,
        parse_subjects(store, hidden),
        planned.identities,
        scrubbed_at=scrubbed_at,
    )
    yield from _record_failures(store, [(r, _explain(proof, r)) for r in hidden if proof.residue_of(r.subject)])
    proved = [r for r in hidden if not proof.residue_of(r.subject)]
    elsewhere = _find_elsewhere(store, proved, planned, scan)
    named = [(r, _explain_elsewhere(elsewhere[r.subject])) for r in proved if r.subject in elsewhere]
    yield from _record_failures(store, named, elsewhere)
    proved = [r for r in proved if r.subject not in elsewhere]
    try:
        # Last, so that what a query under way has put into a cache goes too.
        told = store.caches.forget() if store.caches and proved else []
    except SupersetError as error:
        yield from _record_failures(store, [(r, f"erased, but cached results could not be: {error}") for r in proved])
        return
    yield from _record_erased(store, proved, planned.plan, reloaded, proof, hidden_at, scrubbed_at, told)


def _find_elsewhere(
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


def _explain_elsewhere(places: Sequence[str]) -> str:
    return f"texts outside the PII map name the subject: {', '.join(places)}. Add the tables to the map, or clean them"


def parse_subjects(store: Store, retirements: Sequence[Retirement]) -> list[SubjectId]:
    return [store.pii_map.subject.parse(retirement.subject) for retirement in retirements]


def _hide(store: Store, batch: Sequence[Retirement], planned: Planned) -> list[tuple[Retirement, str]]:
    """Erase for every reader; returns who could not be, and why.

    Where rows are found by another name of the subject, that name is needed until they are gone: the profile of whom
    anything is left is not touched.
    """
    failed: dict[str, str] = {}
    for count in planned.counts:
        step = count.step
        subjects = [s for s in parse_subjects(store, batch) if str(s) in count.rows and str(s) not in failed]
        step.hide(store.client, subjects, planned.identities, store.policy.retire_batch_size)
        if step.needs_identities:
            left = step.count_left(store.client, subjects, planned.identities)
            failed |= {subject: f"{step.table.name}: {rows} rows" for subject, rows in left.items()}
    return [(r, failed[r.subject]) for r in batch if r.subject in failed]


def _confirm(store: Store, planned: Planned, retirements: Sequence[Retirement]) -> Iterator[Outcome]:
    """Retirements that were proved before and of which no row is found: look again, write nothing."""
    if not retirements:
        return
    subjects = parse_subjects(store, retirements)
    report = verify(
        store.client,
        store.pii_map,
        planned.plan,
        subjects,
        planned.identities,
        scrubbed_at=max(r.scrubbed_at for r in retirements),
    )
    for retirement in retirements:
        if report.residue_of(retirement.subject):
            yield from _record_failures(store, [(retirement, _explain(report, retirement))])
        else:
            yield Outcome(retirement.subject, "already erased", receipt=retirement.detail.get("receipt"))


def _reopen(store: Store, batch: Sequence[Retirement]) -> None:
    closed = [r for r in batch if not r.is_open]
    if closed:
        store.ledger.record("reopened", [(r.subject, r.request, {"reason": "rows came back"}) for r in closed])


def _record_counts(store: Store, batch: Sequence[Retirement], counts: Sequence[StepCounts]) -> None:
    """Write down what is there before it goes; nothing where there is nothing."""
    entries = []
    for retirement in batch:
        rows = {c.step.label: c.rows[retirement.subject] for c in counts if retirement.subject in c.rows}
        if rows:
            entries.append((retirement.subject, retirement.request, {"rows": rows}))
    if entries:
        store.ledger.record("found", entries)


def _check_share(store: Store, counts: Sequence[StepCounts]) -> None:
    limit = store.policy.retire_max_share
    for count in counts:
        rows, touched = count.step.table.rows, sum(count.rows.values())
        if rows >= _SMALL_TABLE and touched > rows * limit:
            raise RefusedError(
                f"This would touch {touched} of {rows} rows of {count.step.table.name}, more than the share of {limit:g} "
                "that ASPECTS_RETIRE_MAX_SHARE allows. Look at the map and the ids, then insist with --force."
            )


def _record_failures(
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


def _explain(report: Report, retirement: Retirement) -> str:
    return "; ".join(str(finding) for finding in report.residue_of(retirement.subject)[:10])


def _record_erased(
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
