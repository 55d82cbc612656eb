"""What no query reads and is on a disk all the same: dropped tables, detached tables, detached parts.

.. no_pii: names of tables, counts and times.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from sink.clickhouse.catalog import SYSTEM_DATABASES, WITHOUT_ROWS, list_detached
from sink.clickhouse.client import ClickHouse
from sink.clickhouse.refreshes import COPIES
from sink.names import TableName
from sink.wording import counted

# Where the engine keeps what a session makes for itself.
_TEMPORARY = "_temporary_and_external_tables"
_SHOWN = 20


def describe_set_aside(client: ClickHouse, known: Collection[TableName], exempt: Sequence[str]) -> list[str]:
    """What is on a disk of any replica and can be asked nothing, a sentence each.

    Args:
        client: the connection.
        known: tables of which detaching, whole or in parts, is a finding already.
        exempt: databases that are not looked at.
    """
    databases = [*SYSTEM_DATABASES, _TEMPORARY, *exempt]
    return [
        *_describe_dropped(client, databases),
        *_describe_detached(client, known, databases),
        *_describe_parts(client, known, databases),
    ]


def _describe_dropped(client: ClickHouse, databases: Sequence[str]) -> list[str]:
    # Copies that a refresh has replaced are told with their view. A view that CREATE OR REPLACE has replaced is listed too
    # (seen: 25.8), and has no files.
    rows = client.rows(
        f"SELECT concat(database, '.', table) AS name, max(table_dropped_time) FROM {client.replicas('system.dropped_tables')} "
        "WHERE database NOT IN {databases:Array(String)} AND NOT startsWith(table, {copies:String}) "
        "AND engine NOT IN {without_files:Array(String)} GROUP BY name ORDER BY name",
        databases=databases,
        copies=COPIES,
        without_files=list(WITHOUT_ROWS),
    )
    if not rows:
        return []
    until = max(time for _, time in rows)
    return [
        f"files of dropped tables, which ClickHouse removes by itself at {until} of its clock: "
        f"{_list_names(name for name, _ in rows)}"
    ]


def _describe_detached(client: ClickHouse, known: Collection[TableName], databases: Sequence[str]) -> list[str]:
    names = {name for name in list_detached(client) if name not in known and name.database not in databases}
    if not names:
        return []
    return [
        f"detached tables, whose rows are in their files and which no query reaches: {_list_names(map(str, names))}"
    ]


def _describe_parts(client: ClickHouse, known: Collection[TableName], databases: Sequence[str]) -> list[str]:
    rows = client.rows(
        f"SELECT database, table, count() FROM {client.replicas('system.detached_parts')} "
        "WHERE database NOT IN {databases:Array(String)} GROUP BY database, table ORDER BY database, table",
        databases=databases,
    )
    return [
        f"{counted(count, 'detached part')} of {database}.{table}, which is not in the PII map"
        for database, table, count in rows
        if TableName(database, table) not in known
    ]


def _list_names(names: Iterable[str]) -> str:
    listed = sorted(names)
    more = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    return ", ".join(listed[:_SHOWN]) + more
