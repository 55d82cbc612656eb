"""Whether a column names anybody at all: looked at once, and then only at what is new.

The LMS names the actors of its events by anonymous ids unless it is told otherwise. Searching all events, and all that is
made of them, for a person's address would make each retirement as long as the events are many, for nothing.

.. no_pii: ids of tables, numbers of blocks.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from sink.clickhouse.catalog import Table, read_path
from sink.clickhouse.client import INCLUDING_HIDDEN, ClickHouse
from sink.erasure.keys import Spelling, express_compared
from sink.names import TableName, quote
from sink.pii_map import Rule

# What stands in a statement that names an agent otherwise than by an account; keys of xAPI are written in small letters.
_NAMING = ("mbox", "mailto", "MAILTO", "Mailto", "openid")
# A SHA-1 in hexadecimal. An anonymous id of the LMS is a UUID, which is shorter.
_DIGEST = "^[0-9a-f]{40}$"
# A merge takes away the parts that were to be looked at.
_ATTEMPTS = 5
# A lightweight UPDATE writes new values of rows into parts of their own, which `_part` never names: the rows are in the
# partition that the patch's partition is called after.
_PATCH = re.compile(r"patch-[0-9a-f]{32}-(.*)")


class Column(NamedTuple):
    """A column, or path, by which a rule finds its rows."""

    table: Table
    rule: Rule


class Part(NamedTuple):
    """A part of a table."""

    name: str
    partition: str
    block: int
    """Its last block."""
    at: int
    """When it was made, in seconds."""


_Seen = Mapping[str, tuple[int, int]]
"""Partition -> up to which block it was looked at, and when."""


def can_tell(rule: Rule) -> bool:
    """True where a key that names somebody shows by itself that it does: as an address, or as the digest of one."""
    return rule.is_about_text or rule.is_hashed or bool(rule.affixes and rule.affixes[0])


def names_anybody(client: ClickHouse, columns: Sequence[Column]) -> list[bool]:
    """Of each column, whether a row names somebody as its rule says; True where that cannot be told.

    What was looked at is written down.

    Raises:
        DatabaseError: it could not be read or written.
    """
    told = [column for column in columns if can_tell(column.rule)]
    if not told or _has_more_shards(client):
        return [True] * len(columns)
    known = _read_known(client, told)
    parts = _list_parts(client, told)
    found = []
    for column in columns:
        seen = known.get((column.table.uuid, _label(column.rule)), {})
        found.append(not can_tell(column.rule) or seen is None or _look_at(client, column, seen, parts))
    return found


def _has_more_shards(client: ClickHouse) -> bool:
    """True where rows stand on other hosts than this one's replicas: only parts of this one are looked at."""
    if not client.cluster:
        return False
    sql = "SELECT uniqExact(shard_num) FROM system.clusters WHERE cluster = {cluster:String}"
    return bool(client.value(sql, cluster=client.cluster) != 1)


def _look_at(client: ClickHouse, column: Column, seen: _Seen, parts: Mapping[TableName, list[Part]]) -> bool:
    there = parts.get(column.table.name, [])
    for _ in range(_ATTEMPTS):
        new = [part for part in there if _is_new(part, seen.get(part.partition))]
        if not new:
            return False
        is_named = _look(client, column, new)
        there = _list_parts(client, [column]).get(column.table.name, [])
        if is_named or set(new) <= set(there):
            _write_down(client, column, new, is_named=is_named)
            return is_named
    return True


def _is_new(part: Part, seen: tuple[int, int] | None) -> bool:
    """True where a part may hold what was not looked at.

    Numbers of blocks begin anew where the newest parts are gone and the server was restarted; then the time tells. What a
    merge has put together is looked at once more.
    """
    return seen is None or part.block > seen[0] or part.at >= seen[1]


def _label(rule: Rule) -> str:
    """What is written down as the column: several rules may look at one for different things."""
    return rule.key if rule.is_about_text else f"{rule.key}: {rule.template}"


def _read_known(client: ClickHouse, columns: Iterable[Column]) -> dict[tuple[str, str], _Seen | None]:
    """How far columns were looked at; None of one that names somebody."""
    known: dict[tuple[str, str], dict[str, tuple[int, int]] | None] = {}
    for table, label, partition, block, at, is_named in client.rows(
        "SELECT toString(table_id), column_name, partition_id, max(max_block), toUnixTimestamp(max(at)), max(is_named) "
        "FROM $pii_ledger.named_tables WHERE toString(table_id) IN {tables:Array(String)} "
        "GROUP BY table_id, column_name, partition_id",
        tables=sorted({column.table.uuid for column in columns}),
    ):
        seen = known.setdefault((table, label), {})
        if is_named or seen is None:
            known[table, label] = None
        else:
            seen[partition] = (block, at)
    return dict(known)


def _list_parts(client: ClickHouse, columns: Iterable[Column]) -> dict[TableName, list[Part]]:
    names = {column.table.name for column in columns}
    parts: dict[TableName, list[Part]] = {}
    for database, table, *part in client.rows(
        "SELECT database, table, name, partition_id, max_block_number, toUnixTimestamp(modification_time) FROM system.parts "
        "WHERE database IN {databases:Array(String)} AND table IN {tables:Array(String)} AND active AND rows > 0",
        databases=sorted({name.database for name in names}),
        tables=sorted({name.table for name in names}),
    ):
        parts.setdefault(TableName(database, table), []).append(Part(*part))
    return parts


def _look(client: ClickHouse, column: Column, parts: Sequence[Part]) -> bool:
    patched = {patch[1] for part in parts if (patch := _PATCH.fullmatch(part.partition))}
    found = client.rows(
        f"SELECT 1 FROM {column.table.name.sql} "
        "WHERE (_part IN {parts:Array(String)} OR _partition_id IN {patched:Array(String)}) "
        f"AND {_express_naming(column)} LIMIT 1",
        INCLUDING_HIDDEN,
        parts=[part.name for part in parts],
        patched=sorted(patched),
        wanted=_bind_naming(column.rule),
    )
    return bool(found)


def _express_naming(column: Column) -> str:
    """The condition that finds a row that names somebody, by `{wanted}`."""
    rule = column.rule
    if rule.is_about_text:
        return f"multiSearchAny(toString({quote(rule.key)}), {{wanted:Array(String)}})"
    key = f"ifNull(toString({read_path(column.table, rule.key)}), '')"
    compared = express_compared(key, rule, Spelling.CASE)
    return f"{'match' if rule.is_hashed else 'startsWith'}({compared}, {{wanted:String}})"


def _bind_naming(rule: Rule) -> str | list[str]:
    if rule.is_about_text:
        return list(_NAMING)
    return _DIGEST if rule.is_hashed else (rule.affixes or ("", ""))[0].lower()


def _write_down(client: ClickHouse, column: Column, parts: Sequence[Part], *, is_named: bool) -> None:
    blocks: dict[str, int] = {}
    for part in parts:
        blocks[part.partition] = max(part.block, blocks.get(part.partition, part.block))
    table, label = column.table.uuid, _label(column.rule)
    client.insert(
        client.table("pii_ledger.named_tables"),
        ["table_id", "column_name", "partition_id", "max_block", "is_named"],
        [(table, label, partition, block, int(is_named)) for partition, block in blocks.items()],
        repeatable=True,
    )
