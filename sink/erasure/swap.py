"""Putting new rows in the places of old ones, so that no row is lost or doubled, wherever this is interrupted.

1. the new rows go into a table of the same shape beside the target, which feeds no materialized view;
2. which rows they replace goes into a second table, as digests; when it is complete it is marked so;
3. the old rows are deleted, by a statement that names these tables only;
4. the new rows' partitions are attached to the target, which feeds no materialized view either;
5. both tables are dropped.

Killed before the mark, it starts over; killed after it, `finish` goes on from there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sink.clickhouse.catalog import Table, is_json, is_nullable, read_tables
from sink.clickhouse.client import WAIT_FOR_MUTATIONS, ClickHouse
from sink.errors import ErasureError
from sink.names import TableName, quote, quote_columns

# .. pii: Writes rows of the users being retired, with what takes the place of their values.
# .. pii_types: id, name, username, email_address, other
# .. pii_retirement: consumer_api

_COMPLETE = "complete"
# A temporary table of the session: digest of the old row, and the new values.
_NEW_VALUES = "aspects_pii_patch"


@dataclass(frozen=True)
class Swap:
    """Rows of a table, and what takes their places."""

    table: Table
    condition: str
    """Finds the rows, and perhaps others."""
    values: Mapping[str, Any] = field(repr=False)
    """What is bound to `condition`."""
    columns: list[str]
    """The columns that get new values."""
    new_values: Mapping[str, tuple[Any, ...]] = field(repr=False)
    """The rows, as digest -> their new values of `columns`, as text."""
    deletes: bool
    """True where nothing takes their places."""
    pii_columns: set[str]

    def carry_out(self, client: ClickHouse) -> None:
        """Do it, and wait until it is done.

        Raises:
            ErasureError: the new rows are not as many as the old ones; nothing was changed.
            DatabaseError: it could not be finished; `finish` goes on.
        """
        new, old = new_rows(self.table.name), old_rows(self.table.name)
        digest = express_digest(self.table.stored_columns)
        keys = "".join(f"{quote(column)}, " for column in self._list_harmless_keys())
        client.execute(f"CREATE TABLE {new.sql} {client.on_cluster} AS {self.table.name.sql}")
        client.execute(
            f"CREATE TABLE {old.sql} {client.on_cluster} ENGINE = MergeTree ORDER BY digest AS "
            f"SELECT {keys}{digest} AS digest FROM {self.table.name.sql} WHERE 0"
        )
        self._send_new_values(client)
        found = f"{self.condition} AND {digest} IN (SELECT digest FROM {quote(_NEW_VALUES)})"
        if not self.deletes:
            self._fill(client, new, found, digest)
        client.execute(
            f"INSERT INTO {old.sql} SELECT {keys}{digest} FROM {self.table.name.sql} WHERE {found}",
            repeatable=False,
            **self.values,
        )
        client.execute(f"DROP TEMPORARY TABLE IF EXISTS {quote(_NEW_VALUES)}")
        if not self.deletes:
            _require_same_count(client, new, old)
        client.execute(f"ALTER TABLE {old.sql} {client.on_cluster} MODIFY COMMENT '{_COMPLETE}'")
        finish(client, self.table.name)

    def _list_harmless_keys(self) -> list[str]:
        """The columns of the sort and partition key that say nothing about the person, and by which a row is found."""
        return [
            column
            for column, kind in self.table.columns.items()
            # A NULL is never IN anything.
            if column in self.table.key_columns and column not in self.pii_columns and not is_nullable(kind)
        ]

    def _send_new_values(self, client: ClickHouse) -> None:
        definitions = "".join(f", {quote(column)} Nullable(String)" for column in self.columns)
        client.execute(f"DROP TEMPORARY TABLE IF EXISTS {quote(_NEW_VALUES)}")
        client.execute(f"CREATE TEMPORARY TABLE {quote(_NEW_VALUES)} (digest String{definitions})")
        rows = [(digest, *values) for digest, values in self.new_values.items()]
        client.insert(_NEW_VALUES, ["digest", *self.columns], rows)

    def _fill(self, client: ClickHouse, new: TableName, found: str, digest: str) -> None:
        stored = self.table.stored_columns
        chosen = ", ".join(
            _cast(f"new.{quote(column)}", kind) if column in self.columns else f"old.{quote(column)}"
            for column, kind in stored.items()
        )
        client.execute(
            f"INSERT INTO {new.sql} ({quote_columns(list(stored))}) SELECT {chosen} "
            f"FROM (SELECT *, {digest} AS digest FROM {self.table.name.sql} WHERE {found}) AS old "
            f"INNER JOIN {quote(_NEW_VALUES)} AS new ON old.digest = new.digest",
            # A replacing engine would take rows with one key together before they are counted.
            {"optimize_on_insert": 0},
            repeatable=False,
            **self.values,
        )


def finish(client: ClickHouse, table: TableName) -> None:
    """Go on with a swap in `table` from where it was interrupted; nothing where none was.

    Raises:
        DatabaseError: it could not be finished; everything that is needed to go on is still there.
    """
    new, old = new_rows(table), old_rows(table)
    tables = read_tables(client, [table, new, old])
    if old in tables and tables[old].comment == _COMPLETE:
        _delete_old_rows(client, tables[table], tables[old])
        if new in tables:
            _attach_new_rows(client, tables[table], new)
    # The new rows go first: without them, what is marked complete only has its rows deleted once more.
    for leftover in (new, old):
        client.execute(f"DROP TABLE IF EXISTS {leftover.sql} {client.on_cluster} SYNC")


def _delete_old_rows(client: ClickHouse, table: Table, old: Table) -> None:
    keys = quote_columns([column for column in old.columns if column != "digest"])
    # By the sort key first, so that only the granules that hold the rows are read.
    by_key = f"({keys}) IN (SELECT {keys} FROM {old.name.sql}) AND " if keys else ""
    digest = express_digest(table.stored_columns)
    client.execute(
        f"DELETE FROM {table.name.sql} {client.on_cluster} "
        f"WHERE {by_key}{digest} IN (SELECT digest FROM {old.name.sql})",
        {**WAIT_FOR_MUTATIONS, "allow_nondeterministic_mutations": 1},
    )


def _attach_new_rows(client: ClickHouse, table: Table, new: TableName) -> None:
    digest = express_digest(table.stored_columns)
    partitions = client.column(
        "SELECT DISTINCT partition_id FROM system.parts WHERE database = {database:String} AND table = {table:String} "
        "AND active ORDER BY partition_id",
        database=new.database,
        table=new.table,
    )
    for partition in partitions:
        there = client.value(
            f"SELECT count() FROM {table.name.sql} WHERE _partition_id = {{partition:String}} AND {digest} IN "
            f"(SELECT {digest} FROM {new.sql} WHERE _partition_id = {{partition:String}})",
            partition=partition,
        )
        wanted = client.value(
            f"SELECT count() FROM {new.sql} WHERE _partition_id = {{partition:String}}", partition=partition
        )
        if there < wanted:
            client.execute(
                f"ALTER TABLE {table.name.sql} ATTACH PARTITION ID {{partition:String}} FROM {new.sql}",
                repeatable=False,
                partition=partition,
            )


def _require_same_count(client: ClickHouse, new: TableName, old: TableName) -> None:
    wanted, found = (client.value(f"SELECT count() FROM {name.sql}") for name in (old, new))
    if wanted != found:
        raise ErasureError(
            f"{wanted} rows were to be replaced by {found}; nothing was changed. `aspects-pii sweep` tries again."
        )


def express_digest(columns: Iterable[str]) -> str:
    """The content of a row as 32 hexadecimal digits."""
    texts = ", ".join(f"ifNull(toString({quote(column)}), '\\0')" for column in columns)
    return f"hex(sipHash128({texts}))"


def new_rows(table: TableName) -> TableName:
    """The table beside `table` that holds what takes the places of its rows."""
    return TableName(table.database, f"{table.table}__aspects_pii_new")


def old_rows(table: TableName) -> TableName:
    """The table beside `table` that says which of its rows are replaced."""
    return TableName(table.database, f"{table.table}__aspects_pii_replaced")


def _cast(expression: str, kind: str) -> str:
    if is_nullable(kind):
        return expression
    return f"CAST(assumeNotNull({expression}), 'JSON')" if is_json(kind) else f"assumeNotNull({expression})"
