"""Applying the map to everybody who was ever retired: again after a restore, or because the map has grown.

.. no_pii: works with opaque user ids.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from sink.erasure.naming import ask_lms
from sink.erasure.verify import find_unknown
from sink.ledger.chain import Trust
from sink.ledger.entries import Action
from sink.ledger.files import import_ledger, read_time_of_export
from sink.ledger.installation_id import read_installation
from sink.pii_map import SubjectId
from sink.progress import tell
from sink.retirement.batch import Outcome, fail_unreadable
from sink.retirement.plan import plan_retirement, require_small_share
from sink.retirement.retire import work_off
from sink.store import Store

if TYPE_CHECKING:
    from sink.lms.database import LmsDatabase


@dataclass(frozen=True)
class Replayed:
    """What was found of retired subjects, and what became of it."""

    retired: int
    """Subjects that are retired."""
    entries_restored: int
    """Entries of the ledger that a file had and the ledger had not."""
    rows: dict[str, int] = field(default_factory=dict)
    """Rows of retired subjects that were there, by table."""
    subjects: list[str] = field(default_factory=list)
    """Whose they were."""
    open: list[str] = field(default_factory=list)
    """Whose retirement was not proved before, or cannot be: an interrupted run, a failure, an id that the map cannot read."""
    outcomes: list[Outcome] = field(default_factory=list)
    not_asked: dict[str, list[str]] = field(default_factory=dict)
    """Where a rule finds rows by name, and whose name nobody knows, as place -> subjects."""
    exported_at: str | None = None
    """When the file was written, in UTC; None without a file, or where it does not say it."""

    @property
    def with_gaps(self) -> int:
        """How many could not be looked for everywhere."""
        return len({subject for subjects in self.not_asked.values() for subject in subjects})


def replay(
    store: Store, *, file: Path | None = None, trust: Trust | None = None, dry_run: bool = False, force: bool = False
) -> Replayed:
    """Apply the ledger's retirements again, after a restore from backup, and work off what is open.

    Args:
        store: the store that was restored.
        file: an exported ledger, for where the ledger itself was lost or is older than the file.
        trust: what the operator vouches for of the file.
        dry_run: only report what the restore has brought back; the file is looked at, and not imported.
        force: carry out a plan that touches more of a table than the safeguard allows.

    Raises:
        UsageError: the file is not whole, not ours, or has an entry that cannot be right; nothing was done.
        RefusedError: it would touch more of a table than ASPECTS_RETIRE_MAX_SHARE; nobody of that batch was reopened.
    """
    restored = _import(store, file, trust, dry_run=dry_run) if file else 0
    result = _reapply(store, "brought back by a restore", restored, None, dry_run, force, is_restored=True)
    if file:
        result = replace(result, exported_at=read_time_of_export(file))
    if not dry_run and (restored or result.subjects):
        detail = {"entries_restored": restored, "subjects": len(result.subjects), "rows": result.rows}
        store.ledger.record_event(Action.REPLAYED, detail)
    return result


def _import(store: Store, file: Path, trust: Trust | None, *, dry_run: bool) -> int:
    policy = store.policy
    installation = read_installation(store.client, policy.receipt_key, policy.pseudonym_secret)
    return import_ledger(store.client, store.pii_map.subject, installation, file, trust=trust, dry_run=dry_run)


def backfill_retired(
    store: Store, *, lms: LmsDatabase | None = None, dry_run: bool = False, force: bool = False
) -> Replayed:
    """Apply the map as it is now to everyone ever retired: a target or a column that was added later.

    Args:
        store: the store.
        lms: where the other names of retired users are asked for, as long as the LMS still has them.
        dry_run: only report what is there.
        force: carry out a plan that touches more of a table than the safeguard allows.

    Raises:
        RefusedError: it would touch more of a table than ASPECTS_RETIRE_MAX_SHARE; nobody of that batch was reopened.
    """
    return _reapply(store, "the map has grown", 0, lms, dry_run, force)


def _reapply(
    store: Store,
    reason: str,
    restored: int,
    lms: LmsDatabase | None,
    dry_run: bool,
    force: bool,
    *,
    is_restored: bool = False,
) -> Replayed:
    readable, unreadable = store.pii_map.subject.sort_out(store.ledger.tombstones())
    rows: dict[str, int] = {}
    found: list[str] = []
    open_before: list[str] = []
    outcomes: list[Outcome] = []
    not_asked: dict[str, list[str]] = {}
    # Who is erased is not found again, so that this goes on from where it was interrupted.
    done = 0
    for parsed in _split(readable, store.policy.retire_batch_size):
        tell("looking again", done, len(readable), "people")
        done += len(parsed)
        subjects = list(map(str, parsed))
        known = replace(ask_lms(lms, parsed), ignores_proofs=is_restored)
        planned = plan_retirement(store, parsed, known)
        returned = [subject for subject in subjects if planned.rows_of(subject) or subject in planned.contested]
        for count in planned.counts:
            if count.rows:
                name = str(count.step.table.name)
                rows[name] = rows.get(name, 0) + sum(count.rows.values())
        found += returned
        for place, unknown in find_unknown(store, planned.plan, parsed, planned.identities)[0].items():
            not_asked.setdefault(place, []).extend(unknown)
        still_open = [retirement.subject for retirement in store.ledger.find(subjects) if retirement.is_open]
        open_before += still_open
        concerned = list(dict.fromkeys([*returned, *still_open]))
        if concerned and not dry_run:
            require_small_share(store, planned, force=force)
            # Of some the request was taken out, and their erasure had begun.
            store.ledger.request([subject for subject in parsed if str(subject) in returned])
            store.ledger.reopen(store.ledger.find(returned), reason)
            outcomes += work_off(store, store.ledger.find(concerned), known=known, force=force)
    tell("looking again", done, len(readable), "people")
    known_subjects = {*map(str, readable), *unreadable}
    unreadable += [r.subject for r in store.ledger.find_open() if r.subject not in known_subjects]
    outcomes += [] if dry_run else map(fail_unreadable, unreadable)
    return Replayed(len(known_subjects), restored, rows, found, [*open_before, *unreadable], outcomes, not_asked)


def _split(items: Sequence[SubjectId], size: int) -> Iterator[Sequence[SubjectId]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
