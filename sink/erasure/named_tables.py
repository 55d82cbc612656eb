"""Whether a table of statements names anybody at all: looked at once, and then only at what is new.

The LMS names the actors of its events by anonymous ids unless it is told otherwise. Searching all events for a person's
address would make each retirement as long as the events are many, for nothing.

.. no_pii: ids of tables, numbers of blocks.
"""

from __future__ import annotations

import re

from sink.clickhouse.catalog import Table
from sink.clickhouse.client import INCLUDING_HIDDEN, ClickHouse
from sink.names import quote

# What stands in a statement that names an agent otherwise than by an account; keys of xAPI are written in small letters.
_NAMING = ("mbox", "mailto", "MAILTO", "Mailto", "openid")
# A merge takes away the parts that were to be looked at.
_ATTEMPTS = 5
# A lightweight UPDATE writes new values of rows into parts of their own, which `_part` never names: the rows are in the
# partition that the patch's partition is called after.
_PATCH = re.compile(r"patch-[0-9a-f]{32}-(.*)")

Part = tuple[str, str, int, int]
"""Name, partition, last block, and when it was made, in seconds."""
Parts = list[Part]


def names_anybody(client: ClickHouse, table: Table, column: str) -> bool:
    """True where a text of the column names an agent by an address, or where that cannot be told.

    What was looked at is written down.

    Raises:
        DatabaseError: it could not be read or written.
    """
    seen: dict[str, tuple[int, int]] = {}
    for partition, block, at, is_named in client.rows(
        "SELECT partition_id, max(max_block), toUnixTimestamp(max(at)), max(is_named) FROM $pii_ledger.named_tables "
        "WHERE table_id = {table:UUID} AND column_name = {column:String} GROUP BY partition_id",
        table=table.uuid,
        column=column,
    ):
        if is_named:
            return True
        seen[partition] = (block, at)
    for _ in range(_ATTEMPTS):
        parts = _list_parts(client, table)
        new = [part for part in parts if _is_new(part, seen.get(part[1]))]
        if not new:
            return False
        is_named = _look(client, table, column, new)
        if is_named or set(new) <= set(_list_parts(client, table)):
            _write_down(client, table, column, new, is_named=is_named)
            return is_named
    return True


def _is_new(part: Part, seen: tuple[int, int] | None) -> bool:
    """True where a part may hold what was not looked at.

    Numbers of blocks begin anew where the newest parts are gone and the server was restarted; then the time tells. What a
    merge has put together is looked at once more.
    """
    return seen is None or part[2] > seen[0] or part[3] >= seen[1]


def _list_parts(client: ClickHouse, table: Table) -> Parts:
    return client.rows(
        "SELECT name, partition_id, max_block_number, toUnixTimestamp(modification_time) FROM system.parts "
        "WHERE database = {database:String} AND table = {table:String} AND active AND rows > 0",
        database=table.name.database,
        table=table.name.table,
    )


def _look(client: ClickHouse, table: Table, column: str, parts: Parts) -> bool:
    patched = {patch[1] for _, partition, *_ in parts if (patch := _PATCH.fullmatch(partition))}
    found = client.rows(
        f"SELECT 1 FROM {table.name.sql} "
        "WHERE (_part IN {parts:Array(String)} OR _partition_id IN {patched:Array(String)}) "
        f"AND multiSearchAny(toString({quote(column)}), {{words:Array(String)}}) LIMIT 1",
        INCLUDING_HIDDEN,
        parts=[name for name, *_ in parts],
        patched=sorted(patched),
        words=list(_NAMING),
    )
    return bool(found)


def _write_down(client: ClickHouse, table: Table, column: str, parts: Parts, *, is_named: bool) -> None:
    blocks: dict[str, int] = {}
    for _, partition, block, _ in parts:
        blocks[partition] = max(block, blocks.get(partition, block))
    client.insert(
        client.table("pii_ledger.named_tables"),
        ["table_id", "column_name", "partition_id", "max_block", "is_named"],
        [(table.uuid, column, partition, block, int(is_named)) for partition, block in blocks.items()],
        repeatable=True,
    )
