"""Rows that wait in front of a table: in a Buffer's memory, or in the files of a Distributed table.

What waits there while the table is erased is written into it afterwards, so it is let in before.

.. no_pii: names of tables and counts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from sink.clickhouse.catalog import Table
from sink.clickhouse.client import ClickHouse
from sink.erasure.derived import read_all_tables
from sink.erasure.identities import Identities
from sink.erasure.steps import Step
from sink.errors import DatabaseError, QueryError
from sink.names import TableName
from sink.pii_map import SubjectId
from sink.store import Store


@dataclass(frozen=True)
class Queue:
    """A table in which rows of a target may wait."""

    table: Table
    targets: frozenset[TableName]

    @property
    def is_buffer(self) -> bool:
        """True where the rows are in memory, and can be read."""
        return self.table.engine == "Buffer"


def find_queues(store: Store) -> list[Queue]:
    """The Buffer and Distributed tables that write into targets of the map; those that write into others come after them."""
    engines = ["Buffer", "Distributed"]
    if not store.client.value(
        "SELECT count() FROM system.tables WHERE engine IN {engines:Array(String)}", engines=engines
    ):
        return []
    wanted = frozenset(map(store.client.table, store.pii_map.targets))
    waiting = {t.name: t for t in read_all_tables(store).values() if t.engine in engines}
    reached: dict[TableName, frozenset[TableName]] = {}
    while True:
        found = {}
        for name, table in waiting.items():
            if name in reached:
                continue
            read = table.reading.select({*wanted, *reached})
            if read:
                found[name] = frozenset().union(*(reached.get(other, frozenset([other])) for other in read))
        if not found:
            return [Queue(waiting[name], origins) for name, origins in reached.items()]
        reached |= found


def flush_queues(store: Store) -> None:
    """Let the rows in that wait for targets. What a server does not let us flush, whoever verifies finds.

    Raises:
        DatabaseError: for a reason that may pass.
    """
    client = store.client
    for queue in reversed(find_queues(store)):
        name = queue.table.name.sql
        try:
            if queue.is_buffer:
                client.execute(f"OPTIMIZE TABLE {name} {client.on_cluster}")
            else:
                client.execute(f"SYSTEM FLUSH DISTRIBUTED {client.on_cluster} {name}")
        except DatabaseError as error:
            if error.retriable:
                raise


def count_in_buffer(
    client: ClickHouse, queue: Queue, steps: Iterable[Step], subjects: Sequence[SubjectId], identities: Identities
) -> dict[str, int]:
    """Rows of each subject that are seen through a Buffer: those that wait, once the table behind it is erased.

    Raises:
        DatabaseError: rows wait in it, and it cannot be asked whose.
    """
    found: Counter[str] = Counter()
    for step in steps:
        if step.table.name in queue.targets:
            through = replace(step, table=replace(step.table, name=queue.table.name))
            try:
                found.update(through.count_left(client, subjects, identities))
            except QueryError:
                # It may lack columns of the table, or the table behind it may be gone.
                if _has_waiting_rows(client, queue):
                    raise
    return dict(found)


def _has_waiting_rows(client: ClickHouse, queue: Queue) -> bool:
    # Of a Buffer these are the bytes in its memory; its rows are counted with those of the table behind it.
    return bool(
        client.value(
            f"SELECT max(ifNull(total_bytes, 1)) FROM {client.replicas('system.tables')} "
            "WHERE database = {database:String} AND name = {table:String}",
            database=queue.table.name.database,
            table=queue.table.name.table,
        )
    )


def count_queued(client: ClickHouse, queue: Queue) -> int:
    """Files of rows that wait in a Distributed table, on any replica."""
    return int(
        client.value(
            f"SELECT sum(data_files) FROM {client.replicas('system.distribution_queue')} "
            "WHERE database = {database:String} AND table = {table:String}",
            database=queue.table.name.database,
            table=queue.table.name.table,
        )
    )
