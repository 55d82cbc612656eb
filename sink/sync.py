"""Copying from the LMS into the PII tables: only what changed, never a tombstoned user.

The LMS has no time of last change, so a batch is compared with what is stored, in ClickHouse. A batch lives in
a temporary table of the session, which is in memory only: a process that is killed leaves nothing behind outside
the tables of the map. Each statement can be repeated, and a sync that was killed is simply run again.

While PII is off only course roles are copied, into a table of their own, with a keyed digest in the place of the user
name: datasets show courses to their staff then, too.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sink.clickhouse.catalog import Table, is_text, read_tables
from sink.clickhouse.client import WAIT_FOR_MUTATIONS, split_for_binding
from sink.clickhouse.parts import delete_rows, drop_hidden_rows, scrub
from sink.errors import MigrationError, PiiDisabledError, RefusedError, UsageError
from sink.ledger.leases import hold
from sink.ledger.pseudonym_key import read_viewer_digest, set_pseudonym_key
from sink.lms.database import LmsDatabase, Snapshot
from sink.lms.objects import OBJECTS
from sink.lms.values import BadRow, Batch
from sink.names import TableName, quote, quote_columns
from sink.pii_map import Target
from sink.store import Store

# .. pii: Copies profiles, anonymous ids and course roles from the LMS into the PII tables.
# .. pii_types: id, name, username, email_address, location, phone_number, birth_date, gender, biography, image, other
# .. pii_retirement: consumer_api

# What makes a row the same row. Of several versions of it the latest counts.
IDENTITY = {
    "user_profile": ("user_id",),
    "external_id": ("user_id", "external_id_type"),
    "course_access": ("user_id", "org", "course_key", "role"),
}
#: What can be copied while PII is off.
WITHOUT_PII = ("course_access",)
_KEYED = "event_sink.course_access_keyed"
# What it has in the place of the user name.
_VIEWER = "viewer"
# Losing one's role is not leaving: such rows come and go, and only an LMS without any user is suspicious.
_COME_AND_GO = ("course_access",)
_BOOKKEEPING = ("dump_id", "time_last_dumped")
_USERS_AT_ONCE = 10_000
_ALWAYS = 2**63 - 1
# Seconds to wait for an erasure to end before who was written in mid-erasure is looked at again.
_WAIT_FOR_ERASURE = 600.0
# Full copies go one at a time. The lease of one that was killed stands for so many seconds.
_LEASE = "sync"
_LEASE_LASTS = 15.0
_ONE_AT_A_TIME = "Full copies go one at a time: wait until that one has ended, or end it and wait 15 seconds."
_UUID_COLUMNS = ("external_user_id",)
_INTEGER_COLUMNS = ("id", "user_id")

Versions = tuple[int, str, int]
"""Versions of one row: the user, the row's identity as text, and the time (in microseconds) before which they were written."""

Progress = Callable[[str, int, int], None]
"""Called with the object, the rows read so far and the rows in all."""


@dataclass
class Counts:
    """What a sync did to one object; rows, but `removed_subjects`."""

    object: str
    read: int = 0
    inserted: int = 0
    changed: int = 0
    unchanged: int = 0
    retired: int = 0
    """Rows of tombstoned users, which were not copied."""
    removed: int = 0
    removed_subjects: int = 0
    purged_columns: list[str] = field(default_factory=list)
    """Columns that the map no longer keeps and that were emptied."""
    bad: list[BadRow] = field(default_factory=list)

    @property
    def has_forgotten(self) -> bool:
        """True where people or columns went for good, and not only an old value for a new one."""
        return bool(self.removed or self.purged_columns)


@dataclass(frozen=True)
class Copy:
    """One object on its way into one table."""

    object: str
    table: Table
    columns: tuple[str, ...]
    """What is copied, without bookkeeping."""
    dropped: tuple[str, ...]
    """What the map does not keep, and the table has."""
    version: datetime
    dump_id: uuid.UUID
    digest: Callable[[str], str] | None = None
    """Makes of a user name what is stored of it while PII is off."""

    @property
    def source_columns(self) -> tuple[str, ...]:
        """What is read from the LMS for `columns`."""
        return tuple("username" if column == _VIEWER else column for column in self.columns)

    def convert(self, rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
        """What is stored of rows of `source_columns`."""
        if self.digest is None:
            return rows
        digest, at = self.digest, self.columns.index(_VIEWER)
        return [(*row[:at], digest(row[at]), *row[at + 1 :]) for row in rows]

    @property
    def identity(self) -> tuple[str, ...]:
        """The columns that make a row the same row."""
        return IDENTITY[self.object]

    @property
    def at(self) -> str:
        """The expression of the time when a row was written, which makes the latest version of it."""
        return _express_time(self.table)

    @property
    def temporary(self) -> str:
        """The temporary table that a batch is sent to."""
        return f"batch_{self.object}"


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
    progress: Progress = lambda *_: None,
) -> list[Counts]:
    """Make the PII tables say what the LMS says.

    A copy of all users holds the lease `sync` meanwhile, so that there is one at a time, whichever door it came in by.

    Args:
        store: where to copy to.
        lms: where to copy from.
        enabled: ASPECTS_ENABLE_PII; without it `objects` can only be `WITHOUT_PII`.
        objects: names from `sink.lms.OBJECTS`; all of them if empty.
        user_ids: only these users; all if None.
        dry_run: count what would be done, and do nothing.
        allow_removals: remove users however many they are.
        wait: how many seconds to wait for another full copy to end.
        progress: told how far it has got.

    Raises:
        PiiDisabledError: storing PII is off, and it is not only course roles that were asked for.
        BusyError: another process is making a full copy; nothing was copied.
        LmsSchemaError: the LMS database lacks something that is read; nothing was copied.
        RefusedError: more subjects would go than the safeguard allows; nothing was copied.
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
            leavers = {copy.object: _find_leavers(store, snapshot, copy, user_ids) for copy in copies}
            if not allow_removals:
                for copy in copies:
                    _check_removals(store, snapshot, copy, leavers[copy.object])
            counts = [_sync_object(store, snapshot, c, leavers[c.object], user_ids, dry_run, progress) for c in copies]
        if not dry_run:
            # What must not be kept must not stay in a replaced part either.
            rewritten = [
                c.table.name
                for c, count in zip(copies, counts, strict=True)
                if count.has_forgotten and not _hides_names(store, c)
            ]
            if enabled and "course_access" in [copy.object for copy in copies]:
                rewritten += _forget_digests(store)
            scrub(store.client, rewritten, store.policy.scrub_within)
            if user_ids is None:
                store.ledger.record_event("synced", {"pii": enabled, "objects": _summarise(counts)})
    return counts


def _summarise(counts: Sequence[Counts]) -> dict[str, dict[str, int]]:
    """What the ledger keeps of a full copy."""
    names = ("read", "inserted", "changed", "removed", "retired")
    return {c.object: {**{name: getattr(c, name) for name in names}, "bad": len(c.bad)} for c in counts}


def _forget_digests(store: Store) -> list[TableName]:
    """Empty the roles by digest: with PII on nobody updates them, and names count. Returns the table if it had rows."""
    name = store.client.table(_KEYED)
    table = read_tables(store.client, [name]).get(name)
    if table is None or not table.rows:
        return []
    delete_rows(store.client, name, "true")
    drop_hidden_rows(store.client, name)
    return [name]


def _hold_lease(store: Store, wait: float) -> AbstractContextManager[None]:
    return hold(store.client, _LEASE, wait=wait, seconds=_LEASE_LASTS, advice=_ONE_AT_A_TIME)


def plan_copies(store: Store, objects: Iterable[str], *, enabled: bool = True) -> list[Copy]:
    """Which columns of which object go into which table.

    Args:
        store: where to copy to.
        objects: names from `sink.lms.OBJECTS`.
        enabled: store PII; else the key of the pseudonyms is read, and made where there is none.

    Raises:
        UsageError: the map does not say what to keep of an object, or keeps what cannot be.
        MigrationError: a table is missing.
    """
    places = {name: f"event_sink.{name}" if enabled else _KEYED for name in objects}
    names = {name: store.client.table(place) for name, place in places.items()}
    tables = read_tables(store.client, names.values())
    version = _read_clock(store, list(tables.values()))
    dump_id = uuid.uuid4()
    copies = []
    for name, table_name in names.items():
        target = store.pii_map.targets.get(places[name])
        if target is None:
            raise UsageError(f"The map has no target {places[name]}, so nothing of it can be stored. Add the target.")
        table = tables.get(table_name)
        if table is None:
            raise MigrationError(f"The table {table_name} does not exist. Run `aspects-pii init`.")
        columns = _choose_columns(name, places[name], target, table)
        dropped = [
            c for c in target.pii_columns if c in table.columns and c not in columns and c not in table.key_columns
        ]
        digest = None if enabled else _make_digest(store)
        copies.append(Copy(name, table, columns, tuple(sorted(dropped)), version, dump_id, digest))
    return copies


def _make_digest(store: Store) -> Callable[[str], str]:
    # With the key that the next build would take, or its viewers would be others than these.
    set_pseudonym_key(store.client, store.policy.pseudonym_secret)
    return read_viewer_digest(store.client)


def _choose_columns(name: str, place: str, target: Target, table: Table) -> tuple[str, ...]:
    available = list(OBJECTS[name].columns)
    needed = set(IDENTITY[name])
    if place == _KEYED:
        available[available.index("username")] = _VIEWER
        needed.add(_VIEWER)
    keep = list(target.keep or available)
    for column in keep:
        if column not in available:
            raise UsageError(f"targets.{place}.keep: the LMS has no {column}. Possible: {', '.join(available)}.")
        if column not in table.columns:
            raise MigrationError(
                f"The table {table.name} has no column {column}. Run `aspects-pii init`, or correct `keep`."
            )
    # Rows that are alike in the columns of the sort key are one row to ClickHouse, and what is in it cannot be emptied.
    needed |= {column for column in available if column in table.key_columns}
    if missing := sorted(needed - set(keep)):
        raise UsageError(f"targets.{place}.keep: {', '.join(missing)} cannot be left out.")
    return tuple(keep)


def _read_clock(store: Store, tables: Sequence[Table]) -> datetime:
    """The time that the rows of this sync carry: now, but later than any row's that is there, whatever the clocks say."""
    latest = [f"SELECT max({_express_time(table)}) AS at FROM {table.name.sql}" for table in tables]
    value = store.client.value(
        f"SELECT greatest(now64(6, 'UTC'), max(at) + toIntervalMicrosecond(1)) FROM ({' UNION ALL '.join(latest)})"
    )
    assert isinstance(value, datetime)
    return value


def _express_time(table: Table) -> str:
    """Upstream's tables have times as text, and not all of them in one format."""
    if is_text(table.columns["time_last_dumped"]):
        return "parseDateTime64BestEffortOrZero(time_last_dumped, 6, 'UTC')"
    return "toDateTime64(time_last_dumped, 6, 'UTC')"


def _find_leavers(store: Store, snapshot: Snapshot, copy: Copy, user_ids: Sequence[int] | None) -> list[int]:
    """Users with rows here and none in the LMS; tombstoned ones are not counted, they are gone for another reason."""
    client = store.client
    client.execute("DROP TEMPORARY TABLE IF EXISTS present")
    client.execute("CREATE TEMPORARY TABLE present (user_id Int64)")
    for ids in _list_present(snapshot, copy, user_ids):
        client.insert("present", ("user_id",), [(user_id,) for user_id in ids])
    scope = "" if user_ids is None else "AND user_id IN {user_ids:Array(Int64)}"
    leavers = client.column(
        f"SELECT DISTINCT toInt64(user_id) AS user_id FROM {copy.table.name.sql} "
        "WHERE user_id NOT IN (SELECT user_id FROM present) "
        f"AND user_id NOT IN (SELECT user_id FROM $pii_ledger.tombstones) {scope} ORDER BY user_id",
        None,
        **({} if user_ids is None else {"user_ids": list(user_ids)}),
    )
    client.execute("DROP TEMPORARY TABLE present")
    return leavers


def _list_present(snapshot: Snapshot, copy: Copy, user_ids: Sequence[int] | None) -> Iterator[list[int]]:
    if user_ids is None:
        yield from snapshot.user_ids(copy.object)
        return
    for batch in snapshot.rows(copy.object, ("user_id",), _USERS_AT_ONCE, user_ids):
        yield sorted(
            {int(row[0]) for row in batch.rows} | {bad.user_id for bad in batch.bad if bad.user_id is not None}
        )


def _check_removals(store: Store, snapshot: Snapshot, copy: Copy, leavers: Sequence[int]) -> None:
    if copy.object in _COME_AND_GO and next(snapshot.user_ids("user_profile"), []):
        return
    held = store.client.value(f"SELECT uniqExact(user_id) FROM {copy.table.name.sql}")
    limit = store.policy.sync_max_removed_share
    if len(leavers) > held * limit:
        raise RefusedError(
            f"This sync would remove {len(leavers)} of {held} users from {copy.table.name}, more than the share of "
            f"{limit:g} that ASPECTS_SYNC_MAX_REMOVED_SHARE allows; nothing was copied. Is ASPECTS_LMS_DATABASE_URL "
            "the right database? If those users really left, run it again with --allow-removals."
        )


def _sync_object(
    store: Store,
    snapshot: Snapshot,
    copy: Copy,
    leavers: Sequence[int],
    user_ids: Sequence[int] | None,
    dry_run: bool,
    progress: Progress,
) -> Counts:
    counts = Counts(copy.object)
    counts.purged_columns = _purge_columns(store, copy, dry_run)
    total = snapshot.count_rows(copy.object, user_ids)
    progress(copy.object, 0, total)
    batches = snapshot.rows(copy.object, copy.source_columns, store.policy.sync_batch_size, user_ids)
    low = -1
    for batch in batches:
        # A batch answers for everybody after the last user of the one before.
        scope: dict[str, Any] = {"low": low, "high": batch.last_user_id}
        _create_batch_table(store, copy, batch)
        _count_batch(store, copy, scope, counts)
        gone = [] if copy.object == "user_profile" else _find_gone_rows(store, copy, batch)
        counts.removed += len(gone)
        if not dry_run:
            _write_batch(store, copy, scope)
            _delete_versions(store, copy, gone)
        counts.bad += batch.bad
        counts.read += len(batch.rows) + len(batch.bad)
        progress(copy.object, counts.read, total)
        low = batch.last_user_id
    store.client.execute(f"DROP TEMPORARY TABLE IF EXISTS {quote(copy.temporary)}")
    counts.removed_subjects = len(leavers)
    counts.removed += sum(_count_rows(store, copy, ids) for ids in split_for_binding(leavers))
    if not dry_run:
        _delete_users(store, copy, leavers)
        # A retirement that was recorded while a batch was under way must not lose against it.
        tombstoned = _find_tombstoned(store, copy)
        counts.removed += sum(_count_rows(store, copy, ids) for ids in split_for_binding(tombstoned))
        _delete_users(store, copy, tombstoned)
        # An old name or address is not kept.
        _delete_versions(store, copy, _find_superseded(store, copy, user_ids))
        if not _hides_names(store, copy):
            drop_hidden_rows(store.client, copy.table.name)
    return counts


def _purge_columns(store: Store, copy: Copy, dry_run: bool) -> list[str]:
    """Empty the columns that the map no longer keeps."""
    default = {column: f"defaultValueOfTypeName({{type_{i}:String}})" for i, column in enumerate(copy.dropped)}
    types: dict[str, Any] = {f"type_{i}": copy.table.columns[column] for i, column in enumerate(copy.dropped)}
    filled = [
        column
        for i, column in enumerate(copy.dropped)
        if store.client.value(
            f"SELECT count() FROM {copy.table.name.sql} WHERE {quote(column)} IS DISTINCT FROM {default[column]}",
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
    return filled


def _create_batch_table(store: Store, copy: Copy, batch: Batch) -> None:
    store.client.execute(f"DROP TEMPORARY TABLE IF EXISTS {quote(copy.temporary)}")
    definitions = ", ".join(f"{quote(column)} {_batch_type(column)}" for column in copy.columns)
    store.client.execute(f"CREATE TEMPORARY TABLE {quote(copy.temporary)} ({definitions})")
    store.client.insert(copy.temporary, copy.columns, copy.convert(batch.rows))


def _batch_type(column: str) -> str:
    return "UUID" if column in _UUID_COLUMNS else "Int64" if column in _INTEGER_COLUMNS else "String"


def express_key(copy: Copy) -> str:
    return f"tuple({', '.join(f'toString({quote(column)})' for column in copy.identity)})"


def express_digest(copy: Copy) -> str:
    """The content of a row as one number; texts, since upstream's tables have other types than ours."""
    return f"sipHash128({', '.join(f'ifNull(toString({quote(column)}), {chr(39) * 2})' for column in copy.columns)})"


def _stored(copy: Copy) -> str:
    """What is stored of the users whom a batch answers for: of each row the latest version.

    Where two versions are of the same time none can be told to be the latest: the row then counts as changed, and
    the version that is written supersedes both.
    """
    return (
        f"SELECT {express_key(copy)} AS key, "
        f"if(uniqExact({copy.at}) = count(), argMax({express_digest(copy)}, {copy.at}), toFixedString('', 16)) AS digest "
        f"FROM {copy.table.name.sql} WHERE user_id > {{low:Int64}} AND user_id <= {{high:Int64}} GROUP BY key"
    )


def _count_batch(store: Store, copy: Copy, scope: dict[str, Any], counts: Counts) -> None:
    retired, inserted, changed, unchanged = store.client.rows(
        f"""
        WITH stored AS ({_stored(copy)}),
             compared AS (
                 SELECT user_id IN (SELECT user_id FROM $pii_ledger.tombstones) AS is_retired,
                        {express_key(copy)} IN (SELECT key FROM stored) AS is_known,
                        ({express_key(copy)}, {express_digest(copy)}) IN (SELECT key, digest FROM stored) AS is_same
                 FROM {quote(copy.temporary)}
             )
        SELECT countIf(is_retired),
               countIf(NOT is_retired AND NOT is_known),
               countIf(NOT is_retired AND is_known AND NOT is_same),
               countIf(NOT is_retired AND is_same)
        FROM compared
        """,
        **scope,
    )[0]
    counts.retired += retired
    counts.inserted += inserted
    counts.changed += changed
    counts.unchanged += unchanged


def _write_batch(store: Store, copy: Copy, scope: dict[str, Any]) -> None:
    columns = quote_columns(copy.columns)
    store.client.execute(
        f"""
        INSERT INTO {copy.table.name.sql} ({columns}, {quote_columns(_BOOKKEEPING)})
        WITH stored AS ({_stored(copy)})
        SELECT {columns}, {{dump_id:UUID}}, parseDateTime64BestEffort({{version:String}}, 6, 'UTC')
        FROM {quote(copy.temporary)}
        WHERE user_id NOT IN (SELECT user_id FROM $pii_ledger.tombstones)
          AND ({express_key(copy)}, {express_digest(copy)}) NOT IN (SELECT key, digest FROM stored)
        """,
        repeatable=False,
        dump_id=copy.dump_id,
        version=copy.version.isoformat(),
        **scope,
    )


def _find_gone_rows(store: Store, copy: Copy, batch: Batch) -> list[Versions]:
    """Rows of users of this batch that the LMS no longer has; users with bad rows are left alone."""
    unclear = sorted({bad.user_id for bad in batch.bad if bad.user_id is not None})
    rows = store.client.rows(
        f"""
        SELECT DISTINCT toInt64(user_id), toString({express_key(copy)}) FROM {copy.table.name.sql}
        WHERE user_id IN (SELECT user_id FROM {quote(copy.temporary)})
          AND user_id NOT IN {{unclear:Array(Int64)}}
          AND {express_key(copy)} NOT IN (SELECT {express_key(copy)} FROM {quote(copy.temporary)})
        """,
        unclear=unclear,
    )
    named = _find_named(store, copy) if rows else set()
    return [(user_id, key, _ALWAYS) for user_id, key in rows if user_id not in named]


def _count_rows(store: Store, copy: Copy, ids: Sequence[int]) -> int:
    return int(
        store.client.value(
            f"SELECT count() FROM {copy.table.name.sql} WHERE user_id IN {{ids:Array(Int64)}}", ids=list(ids)
        )
    )


def _find_tombstoned(store: Store, copy: Copy) -> list[int]:
    """Tombstoned users of whom rows are there, and whose names no open retirement needs: that removes them itself."""
    found = _select_tombstoned(store, copy)
    if not found:
        return []
    # In this order: who is retired between the two is not found yet, and left to the retirement.
    named = _find_named(store, copy)
    written = named & set(_select_tombstoned(store, copy, "AND dump_id = {dump_id:UUID}", dump_id=copy.dump_id))
    if written:
        # What this copy wrote may have come after the erasure's last look. While we hold the lease nobody erases: who
        # is open now will be looked for once more, and who is not has been overtaken by the copy.
        with hold(store.client, "erasing", wait=_WAIT_FOR_ERASURE):
            named = _find_named(store, copy)
    return [user_id for user_id in found if user_id not in named]


def _select_tombstoned(store: Store, copy: Copy, condition: str = "", **values: Any) -> list[int]:
    return store.client.column(
        f"SELECT DISTINCT toInt64(user_id) FROM {copy.table.name.sql} "
        f"WHERE user_id IN (SELECT user_id FROM $pii_ledger.tombstones) {condition}",
        None,
        **values,
    )


def _find_named(store: Store, copy: Copy) -> set[int]:
    """Users whose retirement is open and searches by what this table says that they are called."""
    identifiers = store.pii_map.subject.identifiers
    rules = store.pii_map.rules(redact_history=store.policy.redact_history)
    sources = {source for _, _, rule in rules if not rule.is_by_id for source in rule.sources if source in identifiers}
    if f"event_sink.{copy.object}" not in {identifiers[source].rpartition(".")[0] for source in sources}:
        return set()
    return {int(retirement.subject) for retirement in store.ledger.find_open()}


def _hides_names(store: Store, copy: Copy) -> bool:
    """True where rows are hidden that an open retirement reads names from; then it takes them off the disk, not we."""
    named = sorted(_find_named(store, copy))
    return any(
        store.client.value(
            f"SELECT countIf(NOT _row_exists) FROM {copy.table.name.sql} WHERE user_id IN {{ids:Array(Int64)}}",
            {"apply_deleted_mask": 0},
            ids=batch,
        )
        for batch in split_for_binding(named)
    )


def _delete_users(store: Store, copy: Copy, ids: Sequence[int]) -> None:
    for batch in split_for_binding(ids):
        delete_rows(store.client, copy.table.name, "user_id IN {ids:Array(Int64)}", ids=list(batch))


def _find_superseded(store: Store, copy: Copy, user_ids: Sequence[int] | None) -> list[Versions]:
    """Every version of a row but the latest."""
    scope = "" if user_ids is None else "WHERE user_id IN {user_ids:Array(Int64)}"
    rows = store.client.rows(
        f"""
        SELECT toInt64(user_id) AS user_id, toString({express_key(copy)}) AS key, toUnixTimestamp64Micro(max({copy.at}))
        FROM {copy.table.name.sql} {scope} GROUP BY user_id, key HAVING min({copy.at}) < max({copy.at})
        """,
        None,
        **({} if user_ids is None else {"user_ids": list(user_ids)}),
    )
    named = _find_named(store, copy) if rows else set()
    return [(user_id, key, newest) for user_id, key, newest in rows if user_id not in named]


def _delete_versions(store: Store, copy: Copy, versions: Sequence[Versions]) -> None:
    for batch in split_for_binding(versions):
        delete_rows(
            store.client,
            copy.table.name,
            f"user_id IN {{ids:Array(Int64)}} AND toUnixTimestamp64Micro({copy.at}) < "
            f"transform(toString({express_key(copy)}), {{keys:Array(String)}}, {{before:Array(Int64)}}, toInt64(0))",
            ids=sorted({user_id for user_id, _, _ in batch}),
            keys=[key for _, key, _ in batch],
            before=[before for _, _, before in batch],
        )
