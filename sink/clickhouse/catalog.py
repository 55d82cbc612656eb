"""What the live schema says: tables, their columns and keys, and what is built on them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from sink.clickhouse.client import ClickHouse
from sink.names import TableName, quote

# Engines that show the rows of others. A dictionary has a copy, but one that is reloaded.
_WITHOUT_ROWS = ("View", "Dictionary", "Distributed", "Merge")


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
    rows: int = 0
    create_query: str = ""
    comment: str = ""
    uuid: str = ""

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
        return self.engine not in _WITHOUT_ROWS and not self.is_refreshable_view

    @property
    def is_dictionary(self) -> bool:
        """True for a dictionary, which serves a copy in memory until it is reloaded."""
        return self.engine == "Dictionary"

    @property
    def is_view(self) -> bool:
        """True for a view without rows of its own."""
        return self.engine == "View"

    @property
    def is_refreshable_view(self) -> bool:
        """True for a materialized view that replaces its rows on a schedule; one that appends keeps them."""
        if self.engine != "MaterializedView" or re.search(r"\bREFRESH (EVERY|AFTER)\b", self.create_query) is None:
            return False
        return re.search(r"\bAPPEND\b", self.create_query.partition(" AS SELECT")[0]) is None

    def mentions(self, other: TableName) -> bool:
        """True where the definition reads `other`, written with or without its database."""
        table = re.escape(other.table)
        qualified = rf"(?<![\w.`])`?{re.escape(other.database)}`?\.`?{table}`?(?![\w`])"
        # An unqualified name means the object's own database; dictionaries name theirs in DB '…'.
        bare = rf"(?<![\w.`])[`']?{table}[`']?(?![\w`.(])"
        text = self.create_query.partition("(")[2] or self.create_query
        if re.search(qualified, text):
            return True
        named_database = re.search(rf"\bDB '{re.escape(other.database)}'", text) is not None
        return (self.name.database == other.database or named_database) and re.search(bare, text) is not None


def read_tables(client: ClickHouse, names: Iterable[TableName] | None = None) -> dict[TableName, Table]:
    """Read the tables of `names`, or of all configured databases; missing ones are missing in the answer."""
    wanted = None if names is None else set(names)
    databases = sorted({name.database for name in wanted} if wanted is not None else client.databases.values())
    keys: dict[TableName, set[str]] = {}
    computed: dict[TableName, set[str]] = {}
    columns: dict[TableName, dict[str, str]] = {}
    for database, table, column, kind, is_key, is_computed in client.rows(
        "SELECT database, table, name, type, is_in_sorting_key OR is_in_partition_key, "
        "default_kind IN ('ALIAS', 'MATERIALIZED', 'EPHEMERAL') FROM system.columns "
        "WHERE database IN {databases:Array(String)} ORDER BY database, table, position",
        databases=databases,
    ):
        name = TableName(database, table)
        columns.setdefault(name, {})[column] = kind
        if is_key:
            keys.setdefault(name, set()).add(column)
        if is_computed:
            computed.setdefault(name, set()).add(column)
    tables = {}
    for database, table, engine, rows, create_query, comment, uuid in client.rows(
        "SELECT database, name, engine, ifNull(total_rows, 0), create_table_query, comment, toString(uuid) "
        "FROM system.tables "
        "WHERE database IN {databases:Array(String)} AND NOT is_temporary ORDER BY database, name",
        databases=databases,
    ):
        name = TableName(database, table)
        if wanted is not None and name not in wanted:
            continue
        tables[name] = Table(
            name=name,
            engine=engine,
            columns=columns.get(name, {}),
            key_columns=frozenset(keys.get(name, ())),
            computed_columns=frozenset(computed.get(name, ())),
            rows=rows,
            create_query=create_query,
            comment=comment,
            uuid=uuid,
        )
    return tables


def find_dependents(tables: dict[TableName, Table], roots: Iterable[TableName]) -> dict[TableName, set[TableName]]:
    """What is built on `roots`, directly or through others, as dependent -> the roots it goes back to."""
    origins: dict[TableName, set[TableName]] = {root: {root} for root in roots}
    known_roots = set(origins)
    dependents = [t for t in tables.values() if t.engine in ("View", "MaterializedView", "Dictionary", "LiveView")]
    changed = True
    while changed:
        changed = False
        for table in dependents:
            for source, roots_of_source in list(origins.items()):
                if source == table.name or not table.mentions(source):
                    continue
                known = origins.setdefault(table.name, set())
                if not roots_of_source <= known:
                    known |= roots_of_source
                    changed = True
    return {name: found for name, found in origins.items() if name not in known_roots}


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


def is_text(kind: str) -> bool:
    """True for the types of text columns."""
    return kind.removeprefix("LowCardinality(").removeprefix("Nullable(").startswith(("String", "FixedString"))


def is_nullable(kind: str) -> bool:
    """True for the types that can hold NULL."""
    return kind.startswith(("Nullable(", "LowCardinality(Nullable("))


def is_json(kind: str) -> bool:
    """True for ClickHouse's JSON type; JSON in a text column is text."""
    return kind.startswith("JSON")
