"""What is built on the targets: dictionaries, views, materialized views.

A dictionary serves a deleted subject until it is reloaded, and a refreshable view until it is refreshed.
Which ones there are is asked of the live schema, so that what somebody built beside the map is found too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from sink.clickhouse.catalog import Table, read_loadings, read_tables
from sink.clickhouse.client import ClickHouse
from sink.clickhouse.lineage import find_dependents
from sink.clickhouse.refreshes import drop_replaced_copies, refresh
from sink.erasure.exemptions import list_not_pii
from sink.erasure.named_tables import Column, names_anybody
from sink.erasure.plan import is_only_shown
from sink.errors import QueryError
from sink.names import TableName, find_database
from sink.pii_map import Target
from sink.store import Store


@dataclass(frozen=True)
class Dependent:
    """A dictionary, view or materialized view over one or more targets."""

    table: Table
    origins: frozenset[TableName]
    """The targets that it goes back to."""
    key: str | None
    """The column that holds the subject's id, where it has one."""

    @property
    def stuck(self) -> str:
        """Why it shows what it showed before, and what to do; empty where it does not."""
        name = self.table.name
        loading = self.table.loading
        if loading is not None and loading.is_loaded and loading.has_failed:
            return (
                "the dictionary could not be reloaded and may serve what was erased: see system.dictionaries, mend or drop it, "
                "then aspects-pii sweep"
            )
        state = self.table.refresh
        if state is None or not self.table.is_refreshable_view:
            return ""
        if state.is_stopped:
            return f"the view is stopped and may show what was erased: SYSTEM START VIEW {name}, then aspects-pii sweep"
        if state.has_failed:
            return (
                "the view's last refresh failed, so it may show what was erased: see system.view_refreshes, mend or drop "
                "the view, then aspects-pii sweep"
            )
        return ""


def read_all_tables(store: Store) -> dict[TableName, Table]:
    """Every table that we may see, but those in databases that the map exempts."""
    return read_tables(store.client, exempt=list_exempt_databases(store))


def list_exempt_databases(store: Store) -> list[str]:
    """The databases that the map exempts, by the names of this installation."""
    return [find_database(store.client.databases, name) for name in store.pii_map.exempt_databases]


def read_dependents(store: Store) -> list[Dependent]:
    """What any database builds on the targets of the map, and what the map lists as derived.

    What others are built on comes before them.
    """
    client = store.client
    derived = {client.table(name): entry for name, entry in store.pii_map.derived.items()}
    # What shows no PII by the map passes none on.
    harmless = {table for table, column in list_not_pii(store) if column is None}
    tables = {name: table for name, table in read_all_tables(store).items() if name not in harmless}
    names = list_targets(store, tables)
    found = find_dependents(tables, _list_holding_people(store, names, tables))
    dependents = []
    for name in dict.fromkeys([*found, *sorted(name for name in derived if name in tables)]):
        if name in names:
            continue
        origins = frozenset(found.get(name, ()))
        key = derived[name].key if name in derived else None
        if key is None:
            key = _guess_key(tables[name], {names[origin].rules[0].key for origin in origins})
        dependents.append(Dependent(tables[name], origins, key))
    return dependents


def list_targets(store: Store, tables: Mapping[TableName, Table]) -> dict[TableName, Target]:
    """The targets by the names of this installation, without those that are views here."""
    names = {store.client.table(name): name for name in store.pii_map.targets}
    return {
        table: store.pii_map.targets[name]
        for table, name in names.items()
        if table not in tables or not is_only_shown(store.pii_map, name, tables[table])
    }


def _list_holding_people(
    store: Store, targets: Mapping[TableName, Target], tables: Mapping[TableName, Table]
) -> list[TableName]:
    """The targets without anonymised events of which none names anybody: what is built on them is nobody's either."""
    anonymised = [name for name, target in targets.items() if target.is_anonymised and name in tables]
    columns = [Column(tables[name], rule) for name in anonymised for rule in targets[name].rules]
    named = names_anybody(store.client, columns)
    of_somebody = {column.table.name for column, is_named in zip(columns, named, strict=True) if is_named}
    return [name for name in targets if name not in anonymised or name in of_somebody]


def _guess_key(table: Table, keys: Iterable[str]) -> str | None:
    """The column of what holds a copy that is called as the targets call their key."""
    if not (table.is_dictionary or table.is_refreshable_view):
        return None
    return next((key for key in sorted(keys) if key in table.columns), None)


def reload(store: Store, dependents: Iterable[Dependent]) -> list[str]:
    """Make dictionaries and refreshable views read the targets again, and return the names of those that did.

    A view that is stopped, or whose query fails, keeps what it has, and so does a dictionary that cannot read its source;
    whoever verifies asks it, or says so. A view that adds
    to its rows, or reads them, is no copy of the targets, and is left alone: what it writes to has to be a target.

    Args:
        store: the store.
        dependents: what `read_dependents` has found.

    Raises:
        DatabaseError: one of them could not be reloaded, so it may still serve what was erased.
    """
    client = store.client
    reloaded = []
    for dependent in dependents:
        table = dependent.table
        if table.is_dictionary:
            if _reload_dictionary(client, table.name):
                reloaded.append(str(table.name))
        elif table.refresh is not None:
            if table.is_refreshable_view and refresh(client, table):
                reloaded.append(str(table.name))
            # Earlier refreshes have left copies too.
            drop_replaced_copies(client, table)
    return reloaded


def _reload_dictionary(client: ClickHouse, name: TableName) -> bool:
    """Have a dictionary read its source again; False where it cannot, and says so itself."""
    try:
        client.execute(f"SYSTEM RELOAD DICTIONARY {name.sql} {client.on_cluster}")
    except QueryError:
        state = read_loadings(client).get(name)
        if state is None or not state.has_failed:
            # It was not tried, for want of a privilege say, so nothing would tell what it serves.
            raise
        return False
    return True
