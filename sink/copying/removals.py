"""Rows that have to go: of users who left the LMS, of users who are tombstoned, and versions that were superseded."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from sink.clickhouse.catalog import read_tables
from sink.clickhouse.client import INCLUDING_HIDDEN, split_for_binding
from sink.clickhouse.parts import delete_rows, drop_hidden_rows
from sink.copying.copies import KEYED, Copy, express_key
from sink.copying.engine_reading import EngineReading
from sink.copying.unseen_roles import require_seen_roles
from sink.errors import RefusedError
from sink.ledger.leases import hold
from sink.lms.snapshot import Snapshot
from sink.names import TableName, quote
from sink.store import Store
from sink.wording import counted

# Losing one's role is not leaving: such rows come and go, and only that all of them go at once is suspicious.
_COME_AND_GO = ("course_access",)
_USERS_AT_ONCE = 10_000
# Later than any time, in microseconds since 1970.
_END_OF_TIME = 2**63 - 1
# For an erasure to end, before who was written in mid-erasure is looked at again.
_WAIT_FOR_ERASURE_SECONDS = 600.0


class Versions(NamedTuple):
    """Versions of one row that have to go."""

    user_id: int
    key: str
    """What makes the row the same row, as text."""
    before: int
    """They were written before this, in microseconds since 1970."""


def forget_digests(store: Store) -> list[TableName]:
    """Empty the roles by digest: with PII on nobody updates them, and names count. Returns the table if it had rows."""
    name = store.client.table(KEYED)
    table = read_tables(store.client, [name]).get(name)
    if table is None or not table.rows:
        return []
    delete_rows(store.client, name, "true")
    drop_hidden_rows(store.client, name)
    return [name]


def find_leavers(
    store: Store, snapshot: Snapshot, copy: Copy, user_ids: Sequence[int] | None, reading: EngineReading | None = None
) -> list[int]:
    """Users with rows here and none in the LMS; tombstoned ones are not counted, they are gone for another reason.

    Where ClickHouse reads the LMS it says who seems to have left, and the snapshot whether they have.
    """
    if reading is None:
        client = store.client
        client.execute(f"DROP TEMPORARY TABLE IF EXISTS {quote(copy.present)}")
        client.execute(f"CREATE TEMPORARY TABLE {quote(copy.present)} (user_id Int64)")
        for ids in _list_present(snapshot, copy, user_ids):
            client.insert_columns(copy.present, ("user_id",), [ids])
        leavers = _find_absent(store, copy, user_ids)
        client.execute(f"DROP TEMPORARY TABLE {quote(copy.present)}")
        return leavers
    reading.fill_present(copy)
    absent = _find_absent(store, copy, user_ids)
    there = {user_id for ids in _list_present(snapshot, copy, absent) for user_id in ids}
    return [user_id for user_id in absent if user_id not in there]


def _find_absent(store: Store, copy: Copy, user_ids: Sequence[int] | None) -> list[int]:
    """Users with rows here who are not in the temporary table of those that the LMS has."""
    scope = "" if user_ids is None else "AND user_id IN {user_ids:Array(Int64)}"
    return store.client.column(
        f"SELECT DISTINCT toInt64(user_id) AS user_id FROM {copy.table.name.sql} "
        f"WHERE user_id NOT IN (SELECT user_id FROM {quote(copy.present)}) "
        f"AND user_id NOT IN (SELECT user_id FROM $pii_ledger.tombstones) {scope} ORDER BY user_id",
        None,
        **({} if user_ids is None else {"user_ids": list(user_ids)}),
    )


def _list_present(snapshot: Snapshot, copy: Copy, user_ids: Sequence[int] | None) -> Iterator[list[int]]:
    if user_ids is None:
        yield from snapshot.user_ids(copy.object)
        return
    for batch in snapshot.rows(copy.object, ("user_id",), _USERS_AT_ONCE, user_ids):
        yield sorted(
            {int(row[0]) for row in batch.rows} | {bad.user_id for bad in batch.bad if bad.user_id is not None}
        )


def check_removals(
    store: Store, snapshot: Snapshot, copy: Copy, leavers: Sequence[int], user_ids: Sequence[int] | None
) -> None:
    """Refuse to remove more people than ASPECTS_SYNC_MAX_REMOVED_SHARE allows, all course roles, or roles out of our sight.

    Raises:
        RefusedError: they would go; it says what may be wrong, and how to have them removed all the same.
    """
    limit = store.policy.sync_max_removed_share
    if copy.object in _COME_AND_GO and next(snapshot.user_ids("user_profile"), []):
        if limit < 1:
            if user_ids is None:
                _check_roles(store, snapshot, copy, leavers)
            require_seen_roles(store, snapshot, copy, user_ids)
        return
    held = store.client.value(f"SELECT uniqExact(user_id) FROM {copy.table.name.sql}")
    if len(leavers) > held * limit:
        raise RefusedError(
            f"This sync would remove {len(leavers)} of {counted(held, 'user')} from {copy.table.name}, more than the share of "
            f"{limit:g} that ASPECTS_SYNC_MAX_REMOVED_SHARE allows; nothing was copied. Is ASPECTS_LMS_DATABASE_URL "
            "the right database? If those users really left, run it again with --allow-removals."
        )


def _check_roles(store: Store, snapshot: Snapshot, copy: Copy, leavers: Sequence[int]) -> None:
    # Who sees all courses has no course role: an LMS always has a superuser, and these stay when the others go.
    holders = store.client.column(
        f"SELECT DISTINCT toInt64(user_id) AS user_id FROM {copy.table.name.sql} "
        "WHERE (org != '' OR course_key != '') AND user_id NOT IN (SELECT user_id FROM $pii_ledger.tombstones)"
    )
    if not holders or not set(holders) <= set(leavers):
        return
    unseen = "" if snapshot.has_rules else ", which its user does not see; may that user read it"
    raise RefusedError(
        f"This sync would take away every course role in {copy.table.name}, of {counted(len(holders), 'person', 'people')}; "
        "nothing was copied. Is ASPECTS_LMS_DATABASE_URL the right database? Roles are read from student_courseaccessrole "
        f"and, where `authz.enable_course_authoring` is on, from casbin_rule{unseen}. If those people really have none any "
        "more, run it again with --allow-removals."
    )


def find_gone_rows(store: Store, copy: Copy, unclear: Sequence[int] = ()) -> list[Versions]:
    """Rows of users of this batch that the LMS no longer has; `unclear` are users of whom rows are not in it.

    Nor are users looked at who have a row that is odd (`sink.copying.engine_reading`).
    """
    rows = store.client.rows(
        f"""
        SELECT DISTINCT toInt64(user_id), toString({express_key(copy)}) FROM {copy.table.name.sql}
        WHERE user_id IN (SELECT user_id FROM {quote(copy.temporary)})
          AND user_id NOT IN {{unclear:Array(Int64)}}
          AND user_id NOT IN (SELECT user_id FROM {quote(copy.temporary)} WHERE is_odd)
          AND {express_key(copy)} NOT IN (SELECT {express_key(copy)} FROM {quote(copy.temporary)})
        """,
        unclear=list(unclear),
    )
    named = _find_named(store, copy) if rows else set()
    return [Versions(user_id, key, _END_OF_TIME) for user_id, key in rows if user_id not in named]


def count_rows(store: Store, copy: Copy, ids: Sequence[int]) -> int:
    sql = f"SELECT count() FROM {copy.table.name.sql} WHERE user_id IN {{ids:Array(Int64)}}"
    return sum(int(store.client.value(sql, ids=batch)) for batch in split_for_binding(ids))


def find_tombstoned(store: Store, copy: Copy) -> list[int]:
    """Tombstoned users who still have rows here, but those whose open retirement needs the names and removes them."""
    found = _select_tombstoned(store, copy)
    if not found:
        return []
    # In this order: who is retired between the two is not found yet, and left to the retirement.
    named = _find_named(store, copy)
    written = named & set(_select_tombstoned(store, copy, "AND dump_id = {dump_id:UUID}", dump_id=copy.dump_id))
    if written:
        # What this copy wrote may have come after the erasure's last look. While we hold the lease nobody erases: who
        # is open now will be looked for once more, and who is not has been overtaken by the copy.
        with hold(store.client, "erasing", wait=_WAIT_FOR_ERASURE_SECONDS):
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
    asked = [(store.client.table(name), rule) for name, _, rule in rules if not rule.is_by_id]
    tables = read_tables(store.client, [table for table, _ in asked])
    sources = {source for table, rule in asked if table in tables for source in rule.sources if source in identifiers}
    if f"event_sink.{copy.object}" not in {identifiers[source].rpartition(".")[0] for source in sources}:
        return set()
    # Who has no number for an id has no row in a table of the LMS.
    return {int(r.subject) for r in store.ledger.find_open() if re.fullmatch(r"[1-9][0-9]{0,17}", r.subject)}


def hides_names(store: Store, copy: Copy) -> bool:
    """True where rows are hidden that an open retirement reads names from; then it takes them off the disk, not we."""
    named = sorted(_find_named(store, copy))
    return any(
        store.client.value(
            f"SELECT countIf(NOT _row_exists) FROM {copy.table.name.sql} WHERE user_id IN {{ids:Array(Int64)}}",
            INCLUDING_HIDDEN,
            ids=batch,
        )
        for batch in split_for_binding(named)
    )


def delete_users(store: Store, copy: Copy, ids: Sequence[int]) -> None:
    for batch in split_for_binding(ids):
        delete_rows(store.client, copy.table.name, "user_id IN {ids:Array(Int64)}", ids=list(batch))


def find_superseded(store: Store, copy: Copy, user_ids: Sequence[int] | None) -> list[Versions]:
    """Every version of a row but the latest."""
    scope = "" if user_ids is None else "WHERE user_id IN {user_ids:Array(Int64)}"
    rows = store.client.rows(
        f"""
        SELECT toInt64(user_id) AS user_id, toString({express_key(copy)}) AS key, toUnixTimestamp64Micro(max({copy.written_at}))
        FROM {copy.table.name.sql} {scope} GROUP BY user_id, key HAVING min({copy.written_at}) < max({copy.written_at})
        """,
        None,
        **({} if user_ids is None else {"user_ids": list(user_ids)}),
    )
    named = _find_named(store, copy) if rows else set()
    return [Versions(user_id, key, newest) for user_id, key, newest in rows if user_id not in named]


def delete_versions(store: Store, copy: Copy, outdated: Sequence[Versions]) -> None:
    for batch in split_for_binding(outdated):
        delete_rows(
            store.client,
            copy.table.name,
            f"user_id IN {{ids:Array(Int64)}} AND toUnixTimestamp64Micro({copy.written_at}) < "
            f"transform(toString({express_key(copy)}), {{keys:Array(String)}}, {{before:Array(Int64)}}, toInt64(0))",
            ids=sorted({versions.user_id for versions in batch}),
            keys=[versions.key for versions in batch],
            before=[versions.before for versions in batch],
        )
