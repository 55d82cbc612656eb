"""Retiring subjects: recorded first, hidden at once, scrubbed soon, proved, and only then done.

    retire    request, and work off what was requested
    sweep     work off whatever is open

Both end in `work_off`, which reads like the life of a retirement.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import datetime

from sink.caches import CacheLine
from sink.clickhouse.parts import scrub, wait_for_mutations
from sink.clickhouse.query_cache import forget_results
from sink.erasure.derived import read_dependents, reload
from sink.erasure.findings import OF_A_TABLE, Report
from sink.erasure.former_names import remember
from sink.erasure.identities import Identities
from sink.erasure.interrupted import finish_interrupted, require_finished
from sink.erasure.named_texts import Texts
from sink.erasure.queues import flush_queues
from sink.erasure.verify import verify
from sink.erasure.work import find_works
from sink.errors import (
    AspectsPiiError,
    BusyError,
    DatabaseError,
    ErasureError,
    LedgerError,
    RefusedError,
    SupersetError,
    UnreachableError,
)
from sink.ledger.entries import Action, Retirement, State
from sink.ledger.leases import hold
from sink.pii_map import SubjectId
from sink.progress import tell, track
from sink.retirement.batch import Batch, Outcome, Result, carry_over, fail_unreadable
from sink.retirement.closing import NOT_SEARCHED, Proof, record_erased
from sink.retirement.outcomes import find_named_elsewhere, record_found
from sink.retirement.plan import Planned, plan_retirement, require_small_share
from sink.store import Store
from sink.wording import counted

# How long to wait for another process that is erasing, and for mutations of others.
_WAIT_FOR_OTHERS_SECONDS = 30.0
# A reason names so many findings, and no more.
_SHOWN_FINDINGS = 10


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
    outcomes = {o.subject: o for o in work_off(store, retirements, known=known, scan=scan, force=force)}
    withdrawn = "it was withdrawn meanwhile"
    return [outcomes.get(str(s), Outcome(str(s), Result.FAILED, reason=withdrawn)) for s in wanted]


def sweep(store: Store, *, force: bool = False) -> list[Outcome]:
    """Finish changes that were interrupted, and work off every retirement that is not proved yet, oldest first.

    Raises:
        ErasureError: no retirement is open, and an interrupted change cannot be finished.
        BusyError: no retirement is open, and somebody else is erasing.
    """
    store.ledger.note_progress()
    retirements = store.ledger.find_open()
    if not retirements and find_works(store.client):
        with hold(store.client, "erasing", wait=_WAIT_FOR_OTHERS_SECONDS):
            require_finished(store.client)
    return work_off(store, retirements, force=force)


def withdraw(store: Store, subjects: Sequence[SubjectId], *, actor: str | None = None) -> list[str]:
    """Take back retirements of which nothing was erased yet, and return whose.

    Raises:
        RefusedError: one of them was never requested, or its erasure has begun; none is withdrawn.
    """
    with hold(store.client, "erasing", wait=_WAIT_FOR_OTHERS_SECONDS):
        retirements = {r.subject: r for r in store.ledger.find(subjects)}
        begun = store.ledger.find_begun(list(retirements.values()))
        for subject in map(str, subjects):
            retirement = retirements.get(subject)
            if retirement is None or retirement.state is State.WITHDRAWN:
                raise RefusedError(f"{subject} is not being retired; nothing was withdrawn.")
            if subject in begun or retirement.state not in (State.REQUESTED, State.FAILED):
                raise RefusedError(
                    f"The erasure of {subject} has begun and cannot be taken back; nothing was withdrawn."
                )
        store.ledger.record(Action.WITHDRAWN, [(r.subject, r.request, {}) for r in retirements.values()], actor)
    return [r.subject for r in retirements.values()]


def work_off(
    store: Store,
    retirements: Sequence[Retirement],
    *,
    known: Identities | None = None,
    scan: bool = False,
    force: bool = False,
) -> list[Outcome]:
    """Erase, verify and record; a failure leaves the retirement open, with the reason.

    Returns:
        An outcome for each of `retirements` that was not withdrawn meanwhile, in the order in which they ended.
    """
    _, unreadable = store.pii_map.subject.sort_out(retirement.subject for retirement in retirements)
    outcomes = {subject: fail_unreadable(subject) for subject in unreadable}
    retirements = [retirement for retirement in retirements if retirement.subject not in outcomes]
    if not retirements:
        return list(outcomes.values())
    try:
        with hold(store.client, "erasing", wait=_WAIT_FOR_OTHERS_SECONDS):
            # While we waited, another process may have done it, or somebody may have withdrawn it.
            current = store.ledger.find([retirement.subject for retirement in retirements])
            current = [retirement for retirement in current if retirement.state is not State.WITHDRAWN]
            size = store.policy.retire_batch_size
            for start in range(0, len(current), size):
                tell("retiring", start, len(current), "people")
                outcomes |= _work_off_batch(store, current[start : start + size], known, scan=scan, force=force)
            tell("retiring", len(current), len(current), "people")
    except (BusyError, DatabaseError) as error:
        for retirement in retirements:
            outcomes.setdefault(retirement.subject, Outcome(retirement.subject, Result.FAILED, reason=str(error)))
    return list(outcomes.values())


def _work_off_batch(
    store: Store, retirements: Sequence[Retirement], known: Identities | None, *, scan: bool, force: bool
) -> dict[str, Outcome]:
    batch = Batch(store, retirements)
    try:
        wait_for_mutations(store.client, store.policy.max_mutations, _WAIT_FOR_OTHERS_SECONDS)
        _erase(store, batch, known, scan=scan, force=force)
    except LedgerError as error:
        batch.fail_pending(str(error), recorded=False)
    except AspectsPiiError as error:
        batch.fail_pending(str(error))
    return batch.outcomes


def _erase(store: Store, batch: Batch, known: Identities | None, *, scan: bool, force: bool) -> None:
    """The life of a retirement. Whoever a step ends leaves the batch, and the steps after it are about the others."""
    unfinished = {str(work.target): reason for work, reason in finish_interrupted(store.client).items()}
    flush_queues(store)
    standing = list(batch.pending.values())
    planned = plan_retirement(store, batch.subjects, known, scan=scan, retirements=standing)
    planned = replace(planned, unfinished=unfinished)
    confirm_erased(store, batch, planned, scan=scan)
    # Before anything is written down: a plan that is refused reopens nobody.
    require_small_share(store, planned, force=force)
    batch.reopen("rows came back")
    record_found(store, batch, planned)
    remember(store, batch.subjects, planned.identities)
    hide(store, batch, planned)
    reloaded = reload_dependents(store, batch)
    drop_visible(store, batch, planned)
    hidden_at = record_hidden(store, batch)
    scrubbed_at = scrub_targets(store, batch, planned)
    report = drop_unproved(store, batch, planned, scrubbed_at)
    texts = drop_named_elsewhere(store, batch, planned, batch.pending, scan=scan)
    results = forget_results(store.client) if batch.pending else []
    caches = forget_caches(store, batch)
    record_erased(store, batch, Proof(planned, reloaded, hidden_at, scrubbed_at, report, caches, texts, results))


def confirm_erased(store: Store, batch: Batch, planned: Planned, *, scan: bool) -> None:
    """Whoever was proved before and of whom no row is found: look again, and write nothing where nothing is found."""
    closed = {s: r for s, r in batch.pending.items() if not r.is_open and not planned.rows_of(s)}
    if not closed:
        return
    scrubbed_at = max(retirement.scrubbed_at for retirement in closed.values())
    report = _verify(store, planned, batch.parse(closed), scrubbed_at)
    batch.fail(_explain_residue(report, planned, closed))
    texts = drop_named_elsewhere(store, batch, planned, [s for s in closed if s in batch.pending], scan=scan)
    for subject, retirement in closed.items():
        if subject in batch.pending:
            receipt, not_asked = retirement.detail.get("receipt"), report.places_not_asked(subject)
            unknown = subject in texts.unknown
            reason = NOT_SEARCHED if unknown else ""
            outcome = Outcome(subject, Result.ALREADY_ERASED, 0, reason, receipt, None, not_asked, not_searched=unknown)
            batch.finish(outcome)


def hide(store: Store, batch: Batch, planned: Planned) -> None:
    """Erase for every reader.

    Where rows are found by another name of the subject, that name is needed until they are gone: the profile of whom
    anything is left is not touched, nor that of whom a name is somebody else's too.
    """
    sources = {store.client.table(s.rpartition(".")[0]) for s in store.pii_map.subject.identifiers.values()}
    for count in track("erasing", planned.counts, "rules"):
        step = count.step
        held = planned.contested if step.table.name in sources else frozenset()
        subjects = batch.parse([s for s in batch.pending if s in count.rows and s not in held])
        if not subjects:
            continue
        if reason := planned.unfinished.get(str(step.table.name)):
            # What is half done would be done again beside it.
            batch.fail({str(subject): f"{step.table.name}: {reason}" for subject in subjects})
            continue
        try:
            refused = step.hide(store.client, subjects, planned.identities, store.policy.retire_batch_size)
        except UnreachableError:
            raise
        except (DatabaseError, ErasureError) as error:
            # One table that cannot be changed stops nobody who is not in it.
            batch.fail({str(subject): f"{step.table.name}: {error}" for subject in subjects})
            continue
        batch.fail(refused)
        if step.needs_identities:
            subjects = [subject for subject in subjects if str(subject) in batch.pending]
            left = step.count_left(store.client, subjects, planned.identities)
            batch.fail({subject: f"{step.table.name}: {counted(rows, 'row')}" for subject, rows in left.items()})


def reload_dependents(store: Store, batch: Batch) -> list[str]:
    """Have dictionaries and refreshable views read the targets again, and return which."""
    if not batch.pending:
        return []
    return reload(store, read_dependents(store))


def drop_visible(store: Store, batch: Batch, planned: Planned) -> None:
    """Whoever a query still shows has failed."""
    if batch.pending:
        batch.fail(_explain_residue(_verify(store, planned, batch.subjects), planned, batch.pending))


def record_hidden(store: Store, batch: Batch) -> datetime:
    """Say that no query shows them any more, and return since when."""
    return store.ledger.record(
        Action.HIDDEN, [(subject, r.request, carry_over(r)) for subject, r in batch.pending.items()]
    )


def scrub_targets(store: Store, batch: Batch, planned: Planned) -> datetime:
    """Take what was hidden or replaced off the disks, and return the time until which that is to be proved."""
    return scrub(store.client, planned.plan.tables if batch.pending else [], store.policy.scrub_within)


def drop_unproved(store: Store, batch: Batch, planned: Planned, scrubbed_at: datetime) -> Report:
    """Look once more, in files too: of whoever anything is found has failed."""
    report = _verify(store, planned, batch.subjects, scrubbed_at) if batch.pending else Report(0)
    batch.fail(_explain_residue(report, planned, batch.pending))
    return report


def drop_named_elsewhere(
    store: Store, batch: Batch, planned: Planned, subjects: Collection[str], *, scan: bool
) -> Texts:
    """Whomever a text outside the map names stays open, until a person has seen to that.

    Returns:
        What a search of texts found beside, of those who are pending still.
    """
    retirements = {subject: batch.pending[subject] for subject in subjects}
    elsewhere = find_named_elsewhere(store, planned, retirements, batch.parse(retirements), scan=scan)
    batch.fail(
        {
            subject: f"texts outside the PII map name the subject, or could not be searched: {', '.join(places)}. "
            "Add the columns to the map, or name them under `not_pii` once they are clean; then sweep, or retire with "
            "--scan while the LMS knows the names"
            for subject, places in elsewhere.places.items()
        },
        elsewhere.details,
    )
    return elsewhere.texts


def forget_caches(store: Store, batch: Batch) -> list[CacheLine]:
    """Have results forgotten that are kept outside of ClickHouse, and return where.

    This comes last, so that what a query under way has put into a cache goes too.
    """
    if store.caches is None or not batch.pending:
        return []
    try:
        return store.caches.forget()
    except SupersetError as error:
        batch.fail_pending(f"erased, but cached results could not be: {error}")
        return []


def _verify(
    store: Store, planned: Planned, subjects: Sequence[SubjectId], scrubbed_at: datetime | None = None
) -> Report:
    return verify(store, planned.plan, subjects, planned.identities, scrubbed_at=scrubbed_at)


def _explain_residue(report: Report, planned: Planned, subjects: Collection[str]) -> dict[str, str]:
    """Why retirements stay open, by subject: findings of their own, of tables that held them, and of everything."""
    found: dict[str, list[str]] = {}
    for finding in report.findings:
        if finding.subject is not None:
            concerned: Collection[str] = [finding.subject] if finding.subject in subjects else []
        elif finding.kind in OF_A_TABLE:
            concerned = [subject for subject in subjects if finding.place in planned.held.get(subject, ())]
        else:
            concerned = subjects
        for subject in concerned:
            found.setdefault(subject, []).append(str(finding))
    return {subject: "; ".join(texts[:_SHOWN_FINDINGS]) for subject, texts in found.items()}
