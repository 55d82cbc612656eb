"""New rows for a table whose sort or partition key holds what has to change, which no mutation can update.

1. The new rows go into a table of the same shape beside it, which feeds no materialized view and where nothing expires.
2. The old rows go into another one, and for each partition it is written down how many rows are to come and how many such
   rows were there before.
3. Each partition is attached, which feeds no materialized view either, and that is written down. Whether one that an
   interruption left in doubt was attached, its parts tell; where merges have taken parts away, the counts do.
4. The old rows are deleted, by a statement that names the table that has them too.

An interrupted swap is finished from its third step on, if the old rows are all still there. Where others have deleted, moved
or replaced some of them, it is forgotten, and what is to be done is found anew; unless readers see a new row already.

Engines that add rows up, or cancel them, are refused before: counts would tell nothing (`sink.erasure.problems`).

.. pii: Writes rows of the users being retired, with what takes the place of their values.
.. pii_types: id, name, username, email_address, other
.. pii_retirement: consumer_api
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from sink.clickhouse.catalog import Table, read_tables
from sink.clickhouse.client import ClickHouse
from sink.clickhouse.parts import express_delete
from sink.erasure.new_values import NewValues, express_content
from sink.erasure.work import Work, ended_on_failure, start
from sink.errors import ErasureError, QueryError
from sink.names import TableName, quote, quote_columns
from sink.wording import choose, counted

COPYING = {
    # A replacing engine would take rows with one key together before they are counted.
    "optimize_on_insert": 0,
    # The server's guard is against mistakes of people.
    "max_partitions_per_insert_block": 0,
    # What a column was computed from may be gone, or have been the time.
    "insert_allow_materialized_columns": 1,
}

# Every MergeTree says its index_granularity. Texts in them are names of policies and disks.
_SAME_SETTINGS = r"\\b(?:storage_policy|disk|index_granularity|index_granularity_bytes) = (?:[0-9]+|\'[^\'\\\\]*\')"


def swap(client: ClickHouse, table: Table, new: NewValues) -> None:
    """Put new rows in the places of the old ones, and wait until that is done.

    Raises:
        ErasureError: the new rows are not as many as the old ones; nothing was changed.
        DatabaseError: the engine refused; what is needed to go on or back is still there.
    """
    work = start(client, table.name)
    with ended_on_failure(client, work):
        new.send(client, work)
        _make_rows(client, work, table, new)
        _write_down(client, work, table)
        _require_same(client, work)
    finish(client, work, interrupted=False)
    work.end(client)


def finish(client: ClickHouse, work: Work, *, interrupted: bool = True) -> None:
    """Go on with a swap from where it was interrupted; nothing where it can be forgotten.

    Args:
        client: the connection.
        work: the swap.
        interrupted: False where nobody but the caller has begun it, so that nothing is in doubt.

    Raises:
        ErasureError: it cannot be gone on with, since rows are not what they were; everything is still there.
        DatabaseError: the engine refused. Where no new row can be seen yet, nothing was changed and the swap is forgotten;
            else everything that is needed to go on is still there.
    """
    progress = _read_progress(client, work)
    if progress is None:
        return
    table = read_tables(client, [work.target]).get(work.target)
    if table is None:
        return
    if interrupted and progress.find_left(client, work):
        there, copied = _count_old_rows(client, work)
        if there != copied and progress.nothing_shows(client, work):
            return
        if there != copied:
            raise ErasureError(
                _explain(work, f"{there} of {counted(copied, 'old row')} {choose(there, 'is', 'are')} there")
            )
    try:
        _match_columns(client, work, table)
        _attach(client, work, progress, in_doubt=interrupted)
    except QueryError:
        if progress.nothing_shows(client, work):
            work.end(client)
        raise
    content = express_content(_list_common(client, work, "old"))
    work.mutate(
        client,
        f"{express_delete(client, work.target)} WHERE {content} IN (SELECT {content} FROM {work.table('old').sql})",
    )


@dataclass(frozen=True)
class _Progress:
    """How far a swap is."""

    to_attach: dict[str, tuple[int, int, list[str]]]
    """Partition -> rows that are to come, such rows that were there before, and the parts that were."""

    attached: int
    """Partitions that are noted as attached."""

    def nothing_shows(self, client: ClickHouse, work: Work) -> bool:
        """True where no reader sees a new row."""
        return not self.attached and self.find_left(client, work) == set(self.to_attach)

    def find_left(self, client: ClickHouse, work: Work) -> set[str]:
        """The partitions that have still to be attached."""
        return {partition for partition in self.to_attach if not self.is_there(client, work, partition)}

    def is_there(self, client: ClickHouse, work: Work, partition: str) -> bool:
        """True where a partition that is not noted as attached is attached all the same."""
        wanted, before, parts = self.to_attach[partition]
        there = _list_parts(client, work.target, partition)
        coming = Counter(_list_parts(client, work.table("rows"), partition).values())
        if coming <= Counter(content for name, content in there.items() if name not in parts):
            return True
        if set(parts) <= set(there):
            return False
        # Merges have taken away the parts that would tell.
        alike = _count_alike(client, work, partition)
        if before < alike < before + wanted:
            raise ErasureError(_explain(work, "whether its new rows are there cannot be told"))
        return alike > before


def _make_rows(client: ClickHouse, work: Work, table: Table, new: NewValues) -> None:
    written = [*table.stored_columns, *list_independent(table, [*new.columns, *new.expressions])]
    _fill(client, work, table, new, "rows", written, ", ".join(new.express(work, column) for column in written))
    _fill(client, work, table, new, "old", written, quote_columns(written))


def list_independent(table: Table, changed: Sequence[str]) -> list[str]:
    """MATERIALIZED columns that nothing that changes goes into: they stay what they were, a time or a random number say."""
    return [
        column
        for column, expression in table.materialized.items()
        if not any(re.search(rf"\b{re.escape(name)}\b", expression) for name in changed)
    ]


def _fill(
    client: ClickHouse, work: Work, table: Table, new: NewValues, role: str, written: list[str], chosen: str
) -> None:
    _copy_shape(client, work, table, role)
    client.execute(
        f"INSERT INTO {work.table(role).sql} ({quote_columns(written)}) "
        f"SELECT {chosen} FROM {table.name.sql} WHERE {new.express_meant(work)}",
        COPYING,
        repeatable=False,
    )


def _copy_shape(client: ClickHouse, work: Work, table: Table, role: str) -> None:
    clauses = _read_clauses(client, table)
    name = work.table(role)
    # A MergeTree whatever the table's engine is: here nothing is taken together, and parts stay what they are.
    client.execute(
        f"CREATE TABLE {name.sql} $on_cluster AS {table.name.sql} ENGINE = MergeTree {clauses}, "
        "allow_nullable_key = 1, max_bytes_to_merge_at_max_space_in_pool = 1, "
        f"max_bytes_to_merge_at_min_space_in_pool = 1 COMMENT {work.comment}"
    )
    if " TTL " not in read_tables(client, [name])[name].create_query:
        return
    # Nothing expires in the copy: values of columns would, and old rows would not be known again.
    for column in table.columns:
        with suppress(QueryError):
            client.execute(f"ALTER TABLE {name.sql} $on_cluster MODIFY COLUMN {quote(column)} REMOVE TTL")


def _read_clauses(client: ClickHouse, table: Table) -> str:
    """The clauses of CREATE TABLE that say how and where the table lies, as the server writes them, settings last.

    A part goes over only where disks and granules are the same.
    """
    return client.value(  # type: ignore[no-any-return]
        "SELECT concat("
        "if(partition_key = '', '', concat('PARTITION BY (', partition_key, ') ')), "
        "'ORDER BY (', if(sorting_key = '', 'tuple()', sorting_key), ')', "
        "if(primary_key = '' OR primary_key = sorting_key, '', concat(' PRIMARY KEY (', primary_key, ')')), "
        "if(sampling_key = '', '', concat(' SAMPLE BY (', sampling_key, ')')), "
        # Of the settings of the engine, those that stand behind the last of its clauses.
        f"' SETTINGS ', arrayStringConcat(extractAll(splitByString(' SETTINGS ', engine_full)[-1], '{_SAME_SETTINGS}'), ', ')) "
        "FROM system.tables WHERE database = {database:String} AND name = {table:String}",
        database=table.name.database,
        table=table.name.table,
    )


def _write_down(client: ClickHouse, work: Work, table: Table) -> None:
    definitions = "partition String, wanted UInt64, before UInt64, parts Array(String), is_attached UInt8"
    log = work.create(client, "log", definitions, "partition")
    counts = client.rows(f"SELECT _partition_id, count() FROM {work.table('rows').sql} GROUP BY 1 ORDER BY 1")
    wanted = client.value(f"SELECT count() FROM {work.table('old').sql}")
    found = sum(rows for _, rows in counts)
    if wanted != found:
        raise ErasureError(
            f"{counted(wanted, 'row')} of {table.name} {choose(wanted, 'was', 'were')} to be replaced by {found}; nothing was "
            "changed. "
            "`aspects-pii sweep` tries again."
        )
    # One insert, which is there whole or not at all.
    client.insert(
        log,
        ["partition", "wanted", "before", "parts", "is_attached"],
        [
            (
                partition,
                rows,
                _count_alike(client, work, partition),
                list(_list_parts(client, work.target, partition)),
                0,
            )
            for partition, rows in counts
        ],
    )


def _require_same(client: ClickHouse, work: Work) -> None:
    """Make sure that no row came meanwhile that is to the letter like an old one, and would be deleted with it.

    Raises:
        ErasureError: one came; nothing was changed.
    """
    there, copied = _count_old_rows(client, work)
    if there != copied:
        raise ErasureError(
            f"Rows of {work.target} came, or went, while others were copied; nothing was changed. "
            "`aspects-pii sweep` tries again."
        )


def _count_old_rows(client: ClickHouse, work: Work) -> tuple[int, int]:
    """Rows of the target that are to the letter like an old one, and how many were copied."""
    content = express_content(_list_common(client, work, "old"))
    old = work.table("old").sql
    there, copied = client.rows(
        f"SELECT (SELECT count() FROM {work.target.sql} WHERE {content} IN (SELECT {content} FROM {old})), "
        f"(SELECT count() FROM {old})"
    )[0]
    return int(there), int(copied)


def _explain(work: Work, reason: str) -> str:
    return (
        f"A change of {work.target} was interrupted when a part of its new rows was in place, and rows of the table were "
        f"changed since: {reason}. Compare it with {work.table('old')} and {work.table('rows')}, which hold the old rows and "
        f"the new ones; put it right; then drop {work.table('log')}, and `aspects-pii sweep` goes on"
    )


def _read_progress(client: ClickHouse, work: Work) -> _Progress | None:
    log = work.table("log")
    if log not in read_tables(client, [log]):
        return None
    rows = client.rows(
        "SELECT partition, max(wanted), max(before), argMax(parts, wanted), max(is_attached) "
        f"FROM {log.sql} GROUP BY partition ORDER BY partition"
    )
    if not rows:
        return None
    to_attach = {
        partition: (wanted, before, list(parts))
        for partition, wanted, before, parts, is_attached in rows
        if not is_attached
    }
    return _Progress(to_attach, len(rows) - len(to_attach))


def _attach(client: ClickHouse, work: Work, progress: _Progress, *, in_doubt: bool) -> None:
    for partition in progress.to_attach:
        if not (in_doubt and progress.is_there(client, work, partition)):
            client.execute(
                f"ALTER TABLE {work.target.sql} ATTACH PARTITION ID {{partition:String}} FROM {work.table('rows').sql}",
                repeatable=False,
                partition=partition,
            )
        _note_attached(client, work, partition)


def _note_attached(client: ClickHouse, work: Work, partition: str) -> None:
    client.insert(
        work.table("log"),
        ["partition", "wanted", "before", "parts", "is_attached"],
        [(partition, 0, 0, [], 1)],
        repeatable=True,
    )


def _list_parts(client: ClickHouse, table: TableName, partition: str) -> dict[str, str]:
    """The parts of a partition with a hash of what is in them; an attached part keeps it."""
    rows = client.rows(
        "SELECT name, hash_of_all_files FROM system.parts WHERE database = {database:String} AND table = {table:String} "
        "AND partition_id = {partition:String} AND active ORDER BY name",
        database=table.database,
        table=table.table,
        partition=partition,
    )
    return dict(rows)


def _count_alike(client: ClickHouse, work: Work, partition: str) -> int:
    """Rows of a partition of the target that look like one of the new rows."""
    content = express_content(_list_common(client, work, "rows"))
    return int(
        client.value(
            f"SELECT count() FROM {work.target.sql} WHERE _partition_id = {{partition:String}} AND {content} IN "
            f"(SELECT {content} FROM {work.table('rows').sql} WHERE _partition_id = {{partition:String}})",
            partition=partition,
        )
    )


def _list_common(client: ClickHouse, work: Work, role: str) -> list[str]:
    """The stored columns that a helper table and the target have in common: somebody may have changed the target."""
    helper = work.table(role)
    tables = read_tables(client, [helper, work.target])
    return [column for column in tables[helper].stored_columns if column in tables[work.target].stored_columns]


def _match_columns(client: ClickHouse, work: Work, table: Table) -> None:
    """Give the new rows the columns that somebody has added to the table meanwhile, or taken away from it."""
    rows = work.table("rows")
    there = read_tables(client, [rows])[rows]
    for column in there.columns:
        if column not in table.columns:
            client.execute(f"ALTER TABLE {rows.sql} $on_cluster DROP COLUMN {quote(column)}")
    for column in table.columns:
        if column not in there.columns:
            definition = _read_definition(client, table, column)
            client.execute(f"ALTER TABLE {rows.sql} $on_cluster ADD COLUMN {quote(column)} {definition}")


def _read_definition(client: ClickHouse, table: Table, column: str) -> str:
    """A column's type and default, as the server writes them."""
    return client.value(  # type: ignore[no-any-return]
        "SELECT concat(type, if(default_kind = '', '', concat(' ', default_kind, ' ', default_expression))) "
        "FROM system.columns WHERE database = {database:String} AND table = {table:String} AND name = {column:String}",
        database=table.name.database,
        table=table.name.table,
        column=column,
    )


def keeps_rows_apart(engine: str) -> bool:
    """True for engines that keep every row, or the last of those with one key: a new key puts no figures together."""
    return engine.removeprefix("Replicated").removeprefix("Shared") in ("MergeTree", "ReplacingMergeTree")
