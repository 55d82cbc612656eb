"""Copying from the LMS into the PII tables: only what changed, never a tombstoned user.

The LMS has no time of last change, so a batch is compared with what is stored, in ClickHouse. A batch lives in
a temporary table of the session, which is in memory only: a process that is killed leaves nothing behind outside
the tables of the map. Each statement can be repeated, and a sync that was killed is simply run again.

While PII is off only course roles are copied, into a table of their own, with a keyed digest in the place of the user
name: datasets show courses to their staff then, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

from sink.clickhouse.client import WAIT_FOR_MUTATIONS
from sink.clickhouse.parts import drop_hidden_rows, scrub
from sink.copying.batches import (
    CopyCounts,
    compare_batch,
    count_bad,
    create_batch_table,
    drop_compared,
    write_batch,
)
from sink.copying.copies import WITHOUT_PII, Copy, plan_copies
from sink.copying.engine_reading import Choice, EngineReading, choose_readings
from sink.copying.meta import META, drop_other_keys
from sink.copying.removals import (
    check_removals,
    count_rows,
    delete_users,
    delete_versions,
    find_gone_rows,
    find_leavers,
    find_superseded,
    find_tombstoned,
    forget_digests,
    hides_names,
)
from sink.errors import PiiDisabledError
from sink.ledger.entries import Action
from sink.ledger.leases import hold
from sink.lms.database import LmsDatabase
from sink.lms.objects import OBJECTS
from sink.lms.snapshot import Snapshot
from sink.lms.values import BadRow
from sink.names import quote
from sink.progress import tell
from sink.store import Store

# .. pii: Copies profiles, anonymous ids and course roles from the LMS into the PII tables.
# .. pii_types: id, name, username, email_address, location, phone_number, birth_date, gender, biography, image, other
# .. pii_retirement: consumer_api

# Full copies go one at a time. The lease of one that was killed stands for so long.
_LEASE = "sync"
_LEASE_SECONDS = 15.0
_ONE_AT_A_TIME = "Full copies go one at a time: wait until that one has ended, or end it and wait 15 seconds."

_ROWS = "rows"


def sync(
    store: Store,
    lms: LmsDatabase,
    *,
    enabled: bool,
    objects: Sequence[str] = (),
    user_ids: Sequence[int] | None = None,
    dry_run: bool = False,
    allow_removals: bool = False,
    wait: float = 0,
) -> list[CopyCounts]:
    """Make the PII tables say what the LMS says.

    A copy of all users holds the lease `sync` meanwhile, so that there is one at a time, whichever door it came in by.

    Args:
        store: where to copy to.
        lms: where to copy from.
        enabled: ASPECTS_ENABLE_PII; without it `objects` can only be `WITHOUT_PII`.
        objects: names from `sink.lms.objects.OBJECTS`; all of them if empty.
        user_ids: only these users; all if None.
        dry_run: count what would be done, and do nothing.
        allow_removals: remove users however many they are.
        wait: how many seconds to wait for another full copy to end.

    Raises:
        PiiDisabledError: storing PII is off, and it is not only course roles that were asked for.
        BusyError: another process is making a full copy; nothing was copied.
        LmsSchemaError: the LMS database lacks something that is read; nothing was copied.
        RefusedError: more subjects would go than the safeguard allows, all course roles, or some that may only be out of our
            sight; nothing was copied.
        MigrationError: the tables are not there; `init` has not run.
        BusyError: an erasure took so long that whom it overtook could not be looked at; copying again does that.
        LedgerError: everything was copied, but that could not be recorded.
    """
    if not enabled and tuple(objects) != WITHOUT_PII:
        raise PiiDisabledError
    with _hold_lease(store, wait) if user_ids is None and not dry_run else nullcontext():
        copies = plan_copies(store, objects or tuple(OBJECTS), enabled=enabled)
        lms.check_schema({copy.object: copy.source_columns for copy in copies})
        with lms.snapshot() as snapshot:
            choices = choose_readings(store, snapshot, copies, user_ids)
            leavers = {
                copy.object: find_leavers(store, snapshot, copy, user_ids, choices[copy.object].reading)
                for copy in copies
            }
            if not allow_removals:
                for copy in copies:
                    check_removals(store, snapshot, copy, leavers[copy.object], user_ids)
            counts = [
                _sync_object(store, snapshot, c, leavers[c.object], user_ids, choices[c.object], dry_run)
                for c in copies
            ]
        if not dry_run:
            # What must not be kept must not stay in a replaced part either.
            rewritten = [
                c.table.name
                for c, count in zip(copies, counts, strict=True)
                if count.has_forgotten and not hides_names(store, c)
            ]
            if enabled and "course_access" in [copy.object for copy in copies]:
                rewritten += forget_digests(store)
            scrub(store.client, rewritten, store.policy.scrub_within)
            if user_ids is None:
                store.ledger.record_event(Action.SYNCED, {"pii": enabled, "objects": _summarise(counts)})
    return counts


def _summarise(counts: Sequence[CopyCounts]) -> dict[str, dict[str, int]]:
    """What the ledger keeps of a full copy."""
    names = ("read", "inserted", "changed", "removed", "retired")
    return {c.object: {**{name: getattr(c, name) for name in names}, "bad": len(c.bad)} for c in counts}


def _hold_lease(store: Store, wait: float) -> AbstractContextManager[None]:
    return hold(store.client, _LEASE, wait=wait, seconds=_LEASE_SECONDS, advice=_ONE_AT_A_TIME)


def _sync_object(
    store: Store,
    snapshot: Snapshot,
    copy: Copy,
    leavers: Sequence[int],
    user_ids: Sequence[int] | None,
    choice: Choice,
    dry_run: bool,
) -> CopyCounts:
    counts = CopyCounts(copy.object, choice.reader, choice.reason)
    counts.purged_columns = _purge_columns(store, copy, dry_run)
    _copy_batches(store, snapshot, copy, counts, user_ids, choice.reading, dry_run)
    counts.removed_subjects = len(leavers)
    counts.removed += count_rows(store, copy, leavers)
    if not dry_run:
        delete_users(store, copy, leavers)
        # A retirement that was recorded while a batch was under way must not lose against it.
        tombstoned = find_tombstoned(store, copy)
        counts.removed += count_rows(store, copy, tombstoned)
        delete_users(store, copy, tombstoned)
        # An old name or address is not kept.
        delete_versions(store, copy, find_superseded(store, copy, user_ids))
        if not hides_names(store, copy):
            drop_hidden_rows(store.client, copy.table.name)
    return counts


def _copy_batches(
    store: Store,
    snapshot: Snapshot,
    copy: Copy,
    counts: CopyCounts,
    user_ids: Sequence[int] | None,
    reading: EngineReading | None,
    dry_run: bool,
) -> None:
    """Write what differs, batch by batch, and remove what the LMS no longer has of their users."""
    total = reading.count_rows(copy) if reading else snapshot.count_rows(copy.object, user_ids)
    tell(copy.object, 0, total, _ROWS)
    filled_batches = (
        _fill_by_engine(store, snapshot, copy, reading) if reading else _fill(store, snapshot, copy, user_ids)
    )
    for filled in filled_batches:
        # A batch answers for everybody after the last user of the one before.
        verdicts = compare_batch(store, copy, {"low": filled.low, "high": filled.high}, counts)
        unclear = sorted({bad.user_id for bad in filled.bad if bad.user_id is not None})
        gone = find_gone_rows(store, copy, unclear) if filled.is_whole and _has_several_rows(copy) else []
        counts.removed += len(gone)
        if not dry_run:
            if verdicts["inserted"] or verdicts["changed"]:
                write_batch(store, copy)
            delete_versions(store, copy, gone)
        count_bad(store, filled.bad, counts)
        counts.read += verdicts.total() + len(filled.bad)
        tell(copy.object, counts.read, total, _ROWS)
    store.client.execute(f"DROP TEMPORARY TABLE IF EXISTS {quote(copy.temporary)}")
    drop_compared(store, copy)


class _Filled(NamedTuple):
    """Users whose rows are in the temporary table of a batch."""

    low: int
    """They come after this one."""
    high: int
    bad: Sequence[BadRow] = ()
    is_whole: bool = True
    """Whether a row of theirs that is stored and not among these is gone."""


def _has_several_rows(copy: Copy) -> bool:
    return copy.object != "user_profile"


def _fill(
    store: Store, snapshot: Snapshot, copy: Copy, user_ids: Sequence[int] | None, within: tuple[int, int] | None = None
) -> Iterator[_Filled]:
    """Batches that Python reads; the users `within` limits where what is stored of them is."""
    low = -1
    for batch in snapshot.rows(copy.object, copy.source_columns, store.policy.sync_batch_size, user_ids):
        create_batch_table(store, copy, batch)
        yield _Filled(*(within or (low, batch.last_user_id)), batch.bad)
        low = batch.last_user_id


def _fill_by_engine(store: Store, snapshot: Snapshot, copy: Copy, reading: EngineReading) -> Iterator[_Filled]:
    """Batches that ClickHouse reads, and between them those of the users whom it leaves to Python."""
    for low, high in reading.split(copy):
        reading.fill(copy, low, high)
        if _has_several_rows(copy):
            reading.set_aside(copy, (versions.user_id for versions in find_gone_rows(store, copy)))
        left = reading.list_odd(copy)
        yield _Filled(low, high, is_whole=False)
        if left:
            yield from _fill(store, snapshot, copy, left, (low, high))
    reading.drop(copy)


def _purge_columns(store: Store, copy: Copy, dry_run: bool) -> list[str]:
    """Empty the columns that the map no longer keeps, and take out the keys of `meta` that it does not keep."""
    default = {column: f"defaultValueOfTypeName({{type_{i}:String}})" for i, column in enumerate(copy.dropped)}
    types: dict[str, Any] = {f"type_{i}": copy.table.columns[column] for i, column in enumerate(copy.dropped)}
    # `IS DISTINCT FROM`, which ClickHouse 25.8 does not know.
    differs = {c: f"ifNull({quote(c)} != {d}, isNull({quote(c)}) != isNull({d}))" for c, d in default.items()}
    filled = [
        column
        for i, column in enumerate(copy.dropped)
        if store.client.value(
            f"SELECT count() FROM {copy.table.name.sql} WHERE {differs[column]}",
            None,
            **{f"type_{i}": types[f"type_{i}"]},
        )
    ]
    if filled and not dry_run:
        assignments = ", ".join(f"{quote(column)} = {default[column]}" for column in filled)
        store.client.execute(
            f"ALTER TABLE {copy.table.name.sql} {store.client.on_cluster} UPDATE {assignments} WHERE true",
            WAIT_FOR_MUTATIONS,
            **types,
        )
    if META in copy.columns and drop_other_keys(store.client, copy.table.name, copy.meta_keys, dry_run=dry_run):
        filled.append(f"{META} (keys that are not kept)")
    return filled
