"""Deleting rows, and waiting until no part on any disk holds them.

A lightweight DELETE hides rows at once, a mutation rewrites the parts that hold them, and the engine removes the old
parts later. Each step is a function here; `sink.erasure` decides which rows.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any

from sink.clickhouse.client import WAIT_FOR_MUTATIONS, ClickHouse
from sink.errors import ErasureError, OverloadedError
from sink.names import TableName

# ClickHouse keeps a replaced part for a second or two: looked for often from then on, since a retirement waits for nothing else.
_FIRST_PAUSE_SECONDS = 0.8
_SHORT_PAUSE_SECONDS = 0.1
_OFTEN = 20
# What a lightweight UPDATE has written stays active beside the parts that it is applied to, until those have it.
_IS_PATCH = "startsWith(name, 'patch-')"
# Replaced, or emptied: a part without rows keeps the value of its partition, which may be a person's, until it is dropped.
_IS_OLD = (
    "(NOT active AND toUnixTimestamp(remove_time) <= {before:UInt32} "
    f"OR (rows = 0 AND partition_id != 'all' OR {_IS_PATCH}) "
    "AND toUnixTimestamp(modification_time) <= {before:UInt32})"
)
_CLEANUP_SETTINGS = (
    "old_parts_lifetime = 1",
    "cleanup_delay_period = 1",
    "max_cleanup_delay_period = 1",
    "cleanup_delay_period_random_add = 0",
)


def delete_rows(client: ClickHouse, table: TableName, condition: str, **values: Any) -> None:
    """Hide the rows that fit, and wait until that is done. `drop_hidden_rows` takes them off the disk."""
    client.execute(f"{express_delete(client, table)} WHERE {condition}", WAIT_FOR_MUTATIONS, **values)


def express_delete(client: ClickHouse, table: TableName) -> str:
    """How a statement that deletes rows of `table` begins; `WHERE …` follows.

    A lightweight DELETE hides rows at once. ClickHouse refuses it for a table with projections (seen: 26.9, code 344),
    where a mutation takes the rows out instead.
    """
    projections = client.value(
        "SELECT count() FROM system.projections WHERE database = {database:String} AND table = {table:String}",
        database=table.database,
        table=table.table,
    )
    if projections:
        return f"ALTER TABLE {table.sql} {client.on_cluster} DELETE"
    return f"DELETE FROM {table.sql} {client.on_cluster}"


def drop_hidden_rows(client: ClickHouse, table: TableName) -> None:
    """Rewrite the parts of a table that hold rows which a lightweight DELETE has hidden, or an UPDATE has given new values."""
    # Rows that a patch hides are hidden in the parts themselves first.
    if _count_active(client, table, _IS_PATCH):
        client.execute(f"ALTER TABLE {table.sql} {client.on_cluster} APPLY PATCHES", WAIT_FOR_MUTATIONS)
    if _count_active(client, table, f"has_lightweight_delete AND NOT {_IS_PATCH}"):
        client.execute(f"ALTER TABLE {table.sql} {client.on_cluster} APPLY DELETED MASK", WAIT_FOR_MUTATIONS)


def _find_with_hidden_rows(client: ClickHouse, tables: Sequence[TableName]) -> list[TableName]:
    """Those of `tables` for which `drop_hidden_rows` has something to do, on any replica."""
    return list(_count_parts(client, "system.parts", tables, f"active AND (has_lightweight_delete OR {_IS_PATCH})"))


def _count_active(client: ClickHouse, table: TableName, condition: str) -> int:
    return int(
        client.value(
            f"SELECT count() FROM {client.replicas('system.parts')} WHERE database = {{database:String}} "
            f"AND table = {{table:String}} AND active AND {condition}",
            database=table.database,
            table=table.table,
        )
    )


def scrub(client: ClickHouse, tables: Iterable[TableName], within: float) -> datetime:
    """Take hidden rows and replaced parts of `tables` off the disk, on every replica, as far as that is done in time.

    Returns:
        The time, by ClickHouse's clock, until which nothing that was replaced is left; whether any is left after
        `within` seconds, `count_old_parts` tells.
    """
    names = list(tables)
    for table in _find_with_hidden_rows(client, names):
        drop_hidden_rows(client, table)
    before = client.now()
    deadline = time.monotonic() + within
    pauses = _list_pauses()
    waiting = _find_with_old_parts(client, names, before)
    for table in waiting:
        _hasten_cleanup(client, table)
    while waiting and time.monotonic() <= deadline:
        time.sleep(next(pauses))
        waiting = _find_with_old_parts(client, waiting, before)
    return before


def _list_pauses() -> Iterator[float]:
    """Seconds to wait between one look and the next, without an end."""
    yield _FIRST_PAUSE_SECONDS
    yield from [_SHORT_PAUSE_SECONDS] * _OFTEN
    pause = _SHORT_PAUSE_SECONDS
    while True:
        pause = min(pause * 1.5, 5)
        yield pause


def _find_with_old_parts(client: ClickHouse, tables: Sequence[TableName], before: datetime) -> list[TableName]:
    """Those of `tables` of which parts that were replaced, or emptied, until `before` still lie on a disk, on any replica."""
    return list(count_old_parts(client, tables, before))


def require_scrubbed(client: ClickHouse, tables: Iterable[TableName], before: datetime) -> None:
    """Make sure that `scrub` came to its end.

    Raises:
        ErasureError: parts that were replaced until `before` are still there.
    """
    if waiting := sorted(map(str, _find_with_old_parts(client, list(tables), before))):
        raise ErasureError(
            f"Replaced parts of {', '.join(waiting)} are still on the disk after ASPECTS_SCRUB_WITHIN. "
            "Run it again, or see what reads them in system.processes."
        )


def _hasten_cleanup(client: ClickHouse, table: TableName) -> None:
    # Upstream's tables keep replaced parts for eight minutes, and look only then.
    definition = client.value(
        "SELECT engine_full FROM system.tables WHERE database = {database:String} AND name = {table:String}",
        database=table.database,
        table=table.table,
    )
    if not all(re.search(rf"(?<!\w){setting}(?!\d)", definition) for setting in _CLEANUP_SETTINGS):
        client.execute(f"ALTER TABLE {table.sql} {client.on_cluster} MODIFY SETTING {', '.join(_CLEANUP_SETTINGS)}")
    # The thread that cleans up may have gone to sleep for minutes under the old settings.
    client.execute(f"SYSTEM START CLEANUP {client.on_cluster} {table.sql}")


def wait_for_mutations(client: ClickHouse, limit: int, within: float) -> None:
    """Wait while more than `limit` mutations of anybody are unfinished: one more would only queue up.

    Raises:
        OverloadedError: after `within` seconds there were still too many.
    """
    deadline = time.monotonic() + within
    while (running := _count_mutations(client)) > limit:
        if time.monotonic() > deadline:
            raise OverloadedError(
                f"{running} mutations are unfinished, more than ASPECTS_MAX_MUTATIONS={limit}. See system.mutations; "
                "`aspects-pii sweep` tries again."
            )
        time.sleep(1)


def _count_mutations(client: ClickHouse) -> int:
    return int(client.value(f"SELECT count() FROM {client.replicas('system.mutations')} WHERE NOT is_done"))


def count_old_parts(client: ClickHouse, tables: Sequence[TableName], before: datetime) -> dict[TableName, int]:
    """Parts of each table that were replaced, or emptied, until `before` and still lie on a disk, on any replica."""
    # ClickHouse notes the time of a part in whole seconds.
    return _count_parts(client, "system.parts", tables, _IS_OLD, before=int(before.timestamp()))


def count_detached_parts(client: ClickHouse, tables: Sequence[TableName]) -> dict[TableName, int]:
    """Parts of each table that were set aside and that no statement reaches, on any replica."""
    return _count_parts(client, "system.detached_parts", tables, "true")


def _count_parts(
    client: ClickHouse, parts: str, tables: Sequence[TableName], condition: str, **values: Any
) -> dict[TableName, int]:
    """Parts of each of `tables` that are as the condition says; tables without any are left out."""
    rows = client.rows(
        f"SELECT database, table, count() FROM {client.replicas(parts)} "
        f"WHERE database IN {{databases:Array(String)}} AND table IN {{tables:Array(String)}} AND {condition} "
        "GROUP BY database, table",
        databases=sorted({name.database for name in tables}),
        tables=sorted({name.table for name in tables}),
        **values,
    )
    counts = {TableName(database, table): int(count) for database, table, count in rows}
    return {name: counts[name] for name in tables if name in counts}
