"""Which tables and columns can be searched for texts, whatever their engine and type.

.. no_pii: names of tables and columns.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from sink.clickhouse.catalog import Table
from sink.clickhouse.client import ClickHouse
from sink.erasure.exemptions import NotPii, is_exempt
from sink.names import TableName, quote, quote_columns

# What these show stands in a table, which is searched itself.
_SHOW_OTHERS = frozenset(
    {"View", "MaterializedView", "LiveView", "WindowView", "Distributed", "Merge", "Alias", "Loop"}
)
# They keep nothing, or reading takes from a queue what others wait for.
_KEEP_NOTHING = frozenset(
    {"Null", "GenerateRandom", "FuzzJSON", "FuzzQuery", "Executable", "ExecutablePool"}
    | {"Kafka", "RabbitMQ", "NATS", "FileLog", "S3Queue", "AzureQueue"}
)
# Their rows lie outside of ClickHouse, where no retirement of ours reaches.
_KEEP_ELSEWHERE = frozenset(
    {"MySQL", "PostgreSQL", "MaterializedPostgreSQL", "SQLite", "MongoDB", "Redis", "ODBC", "JDBC", "URL", "HDFS"}
    | {"S3", "AzureBlobStorage", "COSN", "OSS", "GCS", "ExternalDistributed", "ArrowFlight", "YTsaurus", "TimeSeries"}
    | {
        "Iceberg",
        "IcebergS3",
        "IcebergAzure",
        "IcebergHDFS",
        "IcebergLocal",
        "DeltaLake",
        "DeltaLakeS3",
        "Hudi",
        "Paimon",
    }
)
_NOT_READ = _SHOW_OTHERS | _KEEP_NOTHING | _KEEP_ELSEWHERE
# Where the engine keeps what tables are made of: comments, texts of views, words of Enum types.
_DEFINITIONS = {"tables": ["create_table_query"], "databases": ["comment"]}
_QUOTED = re.compile(r"'(?:[^'\\]|\\.)*'")
# In `Array(…)`, `Map(…)`, `Tuple(…)`, `Nested(…)`, `Variant(…)`, `Nullable(…)` or a state of an aggregate function too.
_TEXT = re.compile(r"\b(String|FixedString|Enum8|Enum16|JSON|Object|Dynamic)\b")


@dataclass(frozen=True)
class TextTable:
    """A table with columns that may hold texts."""

    table: Table
    columns: list[str]

    @property
    def name(self) -> TableName:
        """The table."""
        return self.table.name


def holds_text(kind: str) -> bool:
    """True for types with texts in them, however deep."""
    return _TEXT.search(_QUOTED.sub("''", kind)) is not None


def list_text_tables(client: ClickHouse, tables: Mapping[TableName, Table], not_pii: NotPii) -> list[TextTable]:
    """Tables that keep texts of their own, with the columns in which they stand.

    Columns that are computed when they are read (ALIAS) or never stored (EPHEMERAL) hold nothing of their own.

    Raises:
        DatabaseError: the live schema could not be read.
    """
    not_stored = {
        (TableName(database, table), column)
        for database, table, column in client.rows(
            "SELECT database, table, name FROM system.columns WHERE default_kind IN ('ALIAS', 'EPHEMERAL')"
        )
    }
    found = []
    for table in tables.values():
        if table.engine in _NOT_READ or table.serves_nothing:
            continue
        columns = [
            column
            for column, kind in table.columns.items()
            if holds_text(kind)
            and (table.name, column) not in not_stored
            and not is_exempt(not_pii, table.name, column)
        ]
        if columns:
            found.append(TextTable(table, columns))
    return found


def list_definitions(not_pii: NotPii) -> list[TextTable]:
    """The engine's own tables in which a definition can name somebody."""
    names = {TableName("system", name): columns for name, columns in _DEFINITIONS.items()}
    return [
        TextTable(Table(name, "System"), columns)
        for name, columns in names.items()
        if not any(is_exempt(not_pii, name, column) for column in columns)
    ]


def read_cells(client: ClickHouse, table: TableName, columns: list[str], condition: str = "") -> str:
    """A query of every cell of some columns that is not empty, as `row`, `place` (the column's in `columns`) and `text`."""
    cells = ", ".join(
        f"(toUInt16({place}), ifNull(toString({quote(column)}), ''))" for place, column in enumerate(columns)
    )
    # Rows of a cluster come here as they are: what texts are compared with is in this session.
    read = f"SELECT {quote_columns(columns)} FROM {client.replicas(table.sql)} {condition}"
    return f"""
        SELECT aspects_pii_row AS row, aspects_pii_cell.1 AS place, aspects_pii_cell.2 AS text
        FROM (
            SELECT rowNumberInAllBlocks() AS aspects_pii_row,
                   arrayJoin(arrayFilter(cell -> cell.2 != '', [{cells}])) AS aspects_pii_cell
            FROM ({read})
        )
    """
