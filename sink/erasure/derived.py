"""What is built on the targets: dictionaries, views, materialized views.

A dictionary serves a deleted subject until it is reloaded, and a refreshable view until it is refreshed.
Which ones there are is asked of the live schema, so that what somebody built beside the map is found too.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sink.clickhouse.catalog import Table, find_dependents, read_tables
from sink.clickhouse.lineage import find_storage
from sink.clickhouse.parts import require_scrubbed, scrub
from sink.names import TableName
from sink.store import Store


@dataclass(frozen=True)
class Dependent:
    """A dictionary, view or materialized view over one or more targets."""

    table: Table
    origins: frozenset[TableName]
    """The targets that it goes back to."""
    key: str | None
    """The column that holds the subject's id, where it has one."""


def read_dependents(store: Store) -> list[Dependent]:
    """What the configured databases build on the targets of the map, and what the map lists as derived."""
    client = store.client
    names = {client.table(name): target for name, target in store.pii_map.targets.items()}
    derived = {client.table(name): entry for name, entry in store.pii_map.derived.items()}
    tables = {**read_tables(client), **read_tables(client, [*names, *derived])}
    found = find_dependents(tables, names)
    dependents = []
    for name in sorted({*found, *(name for name in derived if name in tables)}):
        if name in names:
            continue
        origins = frozenset(found.get(name, ()))
        key = derived[name].key if name in derived else None
        if key is None:
            key = _guess_key(tables[name], {names[origin].rules[0].key for origin in origins})
        dependents.append(Dependent(tables[name], origins, key))
    return dependents


def _guess_key(table: Table, keys: Iterable[str]) -> str | None:
    """The column of a dictionary that is called as the targets call their key."""
    return next((key for key in sorted(keys) if table.is_dictionary and key in table.columns), None)


def reload(store: Store, dependents: Iterable[Dependent]) -> list[str]:
    """Make dictionaries and refreshable views read the targets again, and return their names.

    A refresh puts a new table in the place of the old one, whose files then stay for minutes (ClickHouse's
    `database_atomic_delay_before_drop_table_sec`); so the old one is emptied first, and readers see nothing for a moment.

    Args:
        store: the store.
        dependents: what `read_dependents` has found.

    Raises:
        DatabaseError: one of them could not be reloaded, so it may still serve what was erased.
        ErasureError: files of a refreshable view were still there after ASPECTS_SCRUB_WITHIN.
    """
    client = store.client
    reloaded = []
    for dependent in dependents:
        name = dependent.table.name
        if dependent.table.is_dictionary:
            client.execute(f"SYSTEM RELOAD DICTIONARY {name.sql} {client.on_cluster}")
        elif dependent.table.is_refreshable_view:
            storage = find_storage(dependent.table, read_tables(client))
            if storage is not None:
                client.execute(f"TRUNCATE TABLE {storage.sql} {client.on_cluster} SYNC")
                require_scrubbed(client, [storage], scrub(client, [storage], store.policy.scrub_within))
            client.execute(f"SYSTEM REFRESH VIEW {name.sql}")
            client.execute(f"SYSTEM WAIT VIEW {name.sql}")
        else:
            continue
        reloaded.append(str(name))
    return reloaded
