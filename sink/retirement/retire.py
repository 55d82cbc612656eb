"""Retiring subjects: recorded first, hidden at once, scrubbed soon, proved, and only then done.

    retire    request, and work off what was requested
    sweep     work off whatever is open

Both end in `work_off`, which reads like the life of a retirement.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sink.clickhouse.parts import scrub, wait_for_mutations
from sink.erasure.derived import read_dependents, reload
from sink.erasure.identities import Identities
from sink.erasure.verify import verify
from sink.errors import AspectsPiiError, BusyError, DatabaseError, LedgerError, RefusedError, SupersetError
from sink.ledger.entries import Retirement
from sink.ledger.leases import hold
from sink.pii_map import SubjectId
from sink.retirement.outcomes import (
    Outcome,
    carry_over,
    explain,
    explain_elsewhere,
    find_elsewhere,
    parse_subjects,
    record_counts,
    record_erased,
    record_failures,
)
from sink.retirement.plan import Planned, check_share, plan_retirement
from sink.store import Store

# Seconds to wait for another process that is erasing, and for mutations of others.
_WAIT_FOR_OTHERS = 30.0


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
            yield from record_failures(store, [(r, str(error)) for r in batch])


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
        check_share(store, planned.counts)
    record_counts(store, batch, planned.counts)
    failures = _hide(store, batch, planned)
    yield from record_failures(store, failures)
    batch = [r for r in batch if r not in [failed for failed, _ in failures]]
    if not batch:
        return
    reloaded = reload(store.client, read_dependents(store.client, store.pii_map), store.policy.scrub_within)
    visible = verify(store.client, store.pii_map, planned.plan, parse_subjects(store, batch), planned.identities)
    hidden = [r for r in batch if not visible.residue_of(r.subject)]
    yield from record_failures(store, [(r, explain(visible, r)) for r in batch if r not in hidden])
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
    yield from record_failures(store, [(r, explain(proof, r)) for r in hidden if proof.residue_of(r.subject)])
    proved = [r for r in hidden if not proof.residue_of(r.subject)]
    elsewhere = find_elsewhere(store, proved, planned, scan)
    named = [(r, explain_elsewhere(elsewhere[r.subject])) for r in proved if r.subject in elsewhere]
    yield from record_failures(store, named, elsewhere)
    proved = [r for r in proved if r.subject not in elsewhere]
    try:
        # Last, so that what a query under way has put into a cache goes too.
        told = store.caches.forget() if store.caches and proved else []
    except SupersetError as error:
        yield from record_failures(store, [(r, f"erased, but cached results could not be: {error}") for r in proved])
        return
    yield from record_erased(store, proved, planned.plan, reloaded, proof, hidden_at, scrubbed_at, told)


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
            yield from record_failures(store, [(retirement, explain(report, retirement))])
        else:
            yield Outcome(retirement.subject, "already erased", receipt=retirement.detail.get("receipt"))


def _reopen(store: Store, batch: Sequence[Retirement]) -> None:
    closed = [r for r in batch if not r.is_open]
    if closed:
        store.ledger.record("reopened", [(r.subject, r.request, {"reason": "rows came back"}) for r in closed])
