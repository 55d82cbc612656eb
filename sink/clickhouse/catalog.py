"""What the live schema says: tables, their columns and keys, and what is built on them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from sink.clickhouse.client import ClickHouse
from sink.clickhouse.definitions import Reading, appends, find_target, read_definition
from sink.clickhouse.driver_errors import NOT_IMPLEMENTED, UNKNOWN_TABLE
from sink.errors import DatabaseError
from sink.names import TableName, quote

SYSTEM_DATABASES = ("system", "information_schema", "INFORMATION_SCHEMA")
# What such a database shows is kept by others.
_ELSEWHERE = ("MySQL", "PostgreSQL", "SQLite", "DataLakeCatalog", "S3", "HDFS", "Filesystem")
_VIEWS = ("View", "MaterializedView", "Dictionary", "LiveView")
# Engines that pass rows on, to and from tables that they name.
_PASSING_ON = ("Buffer", "Distributed", "Merge", "Alias")
# Engines that show the rows of others. A dictionary has a copy, but one that is reloaded; a Buffer's is for seconds.
WITHOUT_ROWS = ("View", "Dictionary", *_PASSING_ON)


@dataclass(frozen=True)
class Refresh:
    """Where a refreshable view stands, by `system.view_refreshes`."""

    is_stopped: bool
    """By SYSTEM STOP VIEW: it takes no refresh, and says nothing of it."""
    has_failed: bool
    """Its last refresh failed, so that it shows what was there before."""


@dataclass(frozen=True)
class Loading:
    """Where a dictionary stands, by `system.dictionaries` of every replica."""

    is_loaded: bool
    """It serves what it has read; else a query of it would have it read its source first."""
    has_failed: bool
    """It could not read its source the last time, so that it serves what it had before, if anything."""


@dataclass(frozen=True)
class Table:
    """A table, view or dictionary of the live schema."""

    name: TableName
    engine: str
    columns: dict[str, str] = field(default_factory=dict)
    """Name -> type, in order."""
    key_columns: frozenset[str] = frozenset()
    """Columns of the sort or partition key, which ALTER … UPDATE cannot change."""
    computed_columns: frozenset[str] = frozenset()
    """Columns that nobody writes: ALIAS, MATERIALIZED, EPHEMERAL."""
    materialized: dict[str, str] = field(default_factory=dict)
    """MATERIALIZED columns, with what each is computed from."""
    expressions: dict[str, str] = field(default_factory=dict)
    """Column -> what it is computed from where nobody writes it: DEFAULT, ALIAS, MATERIALIZED."""
    rows: int = 0
    is_empty: bool = False
    """True where no part has a row for sure, hidden ones included: of a cluster nobody can tell from here."""
    create_query: str = ""
    query: str = ""
    """What a view reads, without what stands before it."""
    engine_full: str = ""
    comment: str = ""
    uuid: str = ""
    modified_at: datetime | None = None
    """When its definition was made or changed."""
    refresh: Refresh | None = None
    """Of a refreshable view."""
    loading: Loading | None = None
    """Of a dictionary."""
    feeds: frozenset[TableName] = frozenset()
    """Materialized views that the engine knows to read this."""
    loads: frozenset[TableName] = frozenset()
    """What the engine knows that this cannot do without."""

    @property
    def stored_columns(self) -> dict[str, str]:
        """Name -> type of the columns that a row is written with, in order."""
        return {column: kind for column, kind in self.columns.items() if column not in self.computed_columns}

    @property
    def is_merge_tree(self) -> bool:
        """True where rows can be deleted and updated."""
        return self.engine.endswith("MergeTree")

    @property
    def has_rows(self) -> bool:
        """True where rows are kept that somebody has to erase."""
        return self.engine not in WITHOUT_ROWS and not self.is_refreshable_view

    @property
    def is_dictionary(self) -> bool:
        """True for a dictionary, which serves a copy in memory until it is reloaded."""
        return self.engine == "Dictionary"

    @property
    def serves_nothing(self) -> bool:
        """True for a dictionary that could never read its source: it has nobody, and a query of it fails."""
        return self.loading is not None and self.loading.has_failed and not self.loading.is_loaded

    @property
    def is_view(self) -> bool:
        """True for a view without rows of its own."""
        return self.engine == "View"

    @property
    def is_refreshable_view(self) -> bool:
        """True for a materialized view that a refresh fills anew; one that appends, or reads its own rows, keeps them."""
        if self.refresh is None or appends(self.create_query):
            return False
        return not self.reading.select({self.name, *filter(None, [self.storage])})

    @property
    def storage(self) -> TableName | None:
        """The table that holds a materialized view's rows, None for what is none."""
        if self.engine != "MaterializedView":
            return None
        inner = f".inner_id.{self.uuid}" if self.uuid.strip("0-") else f".inner.{self.name.table}"
        return find_target(self.create_query) or TableName(self.name.database, inner)

    @property
    def is_inner(self) -> bool:
        """True for the nameless table behind a materialized view."""
        return self.name.table.startswith((".inner.", ".inner_id."))

    @property
    def reading(self) -> Reading:
        """What the definition reads."""
        text = self.create_query if self.is_dictionary else self.query
        if self.engine in _PASSING_ON:
            text = self.engine_full
        return read_definition(self.name.database, text, is_dictionary=self.is_dictionary)

    @property
    def shows_others(self) -> bool:
        """True where what is read here is, or was, in other tables."""
        return self.engine in (*_VIEWS, *_PASSING_ON)


def is_there(client: ClickHouse, name: TableName) -> bool:
    """True where there is a table, view or dictionary of that name; for whoever need know no more of it."""
    return bool(
        client.value(
            "SELECT count() FROM system.tables WHERE database = {database:String} AND name = {table:String}",
            database=name.database,
            table=name.table,
        )
    )


def read_tables(
    client: ClickHouse, names: Iterable[TableName] | None = None, *, exempt: Iterable[str] = ()
) -> dict[TableName, Table]:
    """Read the tables of `names`; or of every database, but the engine's own and those that are `exempt`.

    What is missing, or not to be seen by us, is missing in the answer.
    """
    wanted = None if names is None else set(names)
    databases = sorted({name.database for name in wanted}) if wanted is not None else _list_databases(client, exempt)
    # What is not asked for need not be composed: the definition of every view of a database takes a while.
    tables_asked = None if wanted is None else sorted({name.table for name in wanted})
    columns = _read_columns(client, databases, tables_asked)
    refreshes: dict[TableName, Refresh] | None = None
    loadings: dict[TableName, Loading] | None = None
    tables = {}
    for database, table, uuid, feeds_databases, feeds, loads_databases, loads, *values in client.rows(
        "SELECT database, name, toString(uuid), dependencies_database, dependencies_table, "
        "loading_dependencies_database, loading_dependencies_table, engine, total_rows, "
        "create_table_query, as_select, engine_full, comment, toUnixTimestamp(metadata_modification_time) FROM system.tables "
        "WHERE database IN {databases:Array(String)} AND NOT is_temporary "
        f"{'' if tables_asked is None else 'AND name IN {tables:Array(String)}'} ORDER BY database, name",
        databases=databases,
        tables=tables_asked or [],
    ):
        name = TableName(database, table)
        if wanted is not None and name not in wanted:
            continue
        engine, rows, create_query, query, engine_full, comment, modified_at = values
        if engine == "MaterializedView" and refreshes is None:
            refreshes = _read_refreshes(client)
        if engine == "Dictionary" and loadings is None:
            loadings = read_loadings(client)
        tables[name] = Table(
            name=name,
            engine=engine,
            **columns.get(name, {}),
            rows=rows or 0,
            is_empty=rows == 0 and engine.endswith("MergeTree") and not client.cluster,
            create_query=create_query,
            query=query,
            engine_full=engine_full,
            comment=comment,
            uuid=uuid,
            modified_at=datetime.fromtimestamp(modified_at, UTC),
            refresh=(refreshes or {}).get(name) if engine == "MaterializedView" else None,
            loading=(loadings or {}).get(name),
            feeds=frozenset(map(TableName, feeds_databases, feeds)),
            loads=frozenset(map(TableName, loads_databases, loads)),
        )
    return tables


def _list_databases(client: ClickHouse, exempt: Iterable[str]) -> list[str]:
    """Every database with tables of this ClickHouse that we may see."""
    return client.column(
        "SELECT name FROM system.databases WHERE name NOT IN {exempt:Array(String)} "
        "AND engine NOT IN {elsewhere:Array(String)} ORDER BY name",
        exempt=[*SYSTEM_DATABASES, *exempt],
        elsewhere=list(_ELSEWHERE),
    )


def _read_columns(
    client: ClickHouse, databases: list[str], tables: list[str] | None
) -> dict[TableName, dict[str, Any]]:
    """What `Table` says of columns, by table; of those that are called like one of `tables`, if any are given."""
    found: dict[TableName, dict[str, Any]] = {}
    keys: dict[TableName, set[str]] = {}
    computed: dict[TableName, set[str]] = {}
    for database, table, column, kind, is_key, default_kind, expression in client.rows(
        "SELECT database, table, name, type, is_in_sorting_key OR is_in_partition_key, default_kind, default_expression "
        "FROM system.columns WHERE database IN {databases:Array(String)} "
        f"{'' if tables is None else 'AND table IN {tables:Array(String)}'} ORDER BY database, table, position",
        databases=databases,
        tables=tables or [],
    ):
        name = TableName(database, table)
        of_table = found.setdefault(name, {"columns": {}, "expressions": {}, "materialized": {}})
        of_table["columns"][column] = kind
        if expression:
            of_table["expressions"][column] = expression
        if default_kind == "MATERIALIZED":
            of_table["materialized"][column] = expression
        if is_key:
            keys.setdefault(name, set()).add(column)
        if default_kind in ("ALIAS", "MATERIALIZED", "EPHEMERAL"):
            computed.setdefault(name, set()).add(column)
    for name, of_table in found.items():
        of_table["key_columns"] = frozenset(keys.get(name, ()))
        of_table["computed_columns"] = frozenset(computed.get(name, ()))
    return found


def _read_refreshes(client: ClickHouse) -> dict[TableName, Refresh]:
    return {
        TableName(database, view): Refresh(status == "Disabled", bool(has_failed))
        for database, view, status, has_failed in client.rows(
            "SELECT database, view, status, exception != '' FROM system.view_refreshes"
        )
    }


def read_loadings(client: ClickHouse) -> dict[TableName, Loading]:
    """Where dictionaries stand; one replica is enough that serves what was there before, or could not read its source."""
    return {
        TableName(database, name): Loading(bool(is_loaded), bool(has_failed))
        for database, name, is_loaded, has_failed in client.rows(
            "SELECT database, name, max(startsWith(toString(status), 'LOADED')), max(last_exception != '') "
            f"FROM {client.replicas('system.dictionaries')} GROUP BY database, name"
        )
    }


def find_detached(client: ClickHouse, names: Iterable[TableName]) -> set[TableName]:
    """Those of `names` that are detached: no query reaches them, and their rows are in their files."""
    wanted = set(names)
    return wanted & list_detached(client) if wanted else set()


def list_detached(client: ClickHouse) -> set[TableName]:
    """Every detached table."""
    try:
        return _read_detached(client, "")
    except DatabaseError as error:
        # Older than 24.9, where nobody can tell.
        if error.code == UNKNOWN_TABLE:
            return set()
        if error.code != NOT_IMPLEMENTED:
            raise
    # One database that cannot detach, as those of the engines SQLite and MySQL, makes the question fail for all (seen: 25.8).
    found = set()
    for database in client.column("SELECT name FROM system.databases"):
        try:
            found |= _read_detached(client, "WHERE database = {database:String}", database=database)
        except DatabaseError as error:
            if error.code != NOT_IMPLEMENTED:
                raise
    return found


def _read_detached(client: ClickHouse, where: str, **values: Any) -> set[TableName]:
    rows = client.rows(f"SELECT database, table FROM system.detached_tables {where}", **values)
    return {TableName(database, table) for database, table in rows}


def read_path(table: Table, path: str) -> str:
    """The expression that reads a column, or a path into a JSON column, as far as it is there.

    The keys of a path are checked when the map is loaded: they hold no quotes, blanks or backslashes.
    """
    column, *keys = path.split(".")
    if not keys:
        return quote(column)
    if is_json(table.columns[column]):
        return f"ifNull(toString({'.'.join(map(quote, [column, *keys]))}), '')"
    arguments = ", ".join([quote(column), *(f"'{key}'" for key in keys)])
    kind = f"JSONType({arguments})"
    return (
        f"multiIf({kind} = 'String', JSONExtractString({arguments}), {kind} = 'Null', '', JSONExtractRaw({arguments}))"
    )


def list_checks(client: ClickHouse, name: TableName) -> list[str]:
    """The names of a table's CHECK constraints, as its definition writes them."""
    definition = client.value(
        "SELECT create_table_query FROM system.tables WHERE database = {database:String} AND name = {table:String}",
        database=name.database,
        table=name.table,
    )
    return re.findall(r"CONSTRAINT (`(?:[^`\\]|\\.)+`|\w+) CHECK", str(definition))


def is_text(kind: str) -> bool:
    """True for the types of text columns."""
    return kind.removeprefix("LowCardinality(").removeprefix("Nullable(").startswith(("String", "FixedString"))


def find_length(kind: str) -> int:
    """The bytes that a text of this type can have at most; 0 where there is no limit, or it is no text."""
    found = re.search(r"\bFixedString\((\d+)\)", kind) if is_text(kind) else None
    return int(found[1]) if found else 0


def is_nullable(kind: str) -> bool:
    """True for the types that can hold NULL."""
    return kind.startswith(("Nullable(", "LowCardinality(Nullable("))


def is_json(kind: str) -> bool:
    """True for ClickHouse's JSON type; JSON in a text column is text."""
    return kind.startswith("JSON")
