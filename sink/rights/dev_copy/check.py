"""Whether anything of the original is left in a copy: every text of every table of it, by value.

What people were called is compared with all texts as `map check` compares it, every row of them, decoded and as they stand.

.. no_pii: names of tables and columns, and counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from sink.clickhouse.catalog import Table, read_tables
from sink.clickhouse.client import ClickHouse
from sink.clickhouse.parts import count_detached_parts
from sink.clickhouse.set_aside import describe_set_aside
from sink.erasure.derived import Dependent, reload
from sink.erasure.found_by_value import compare_table
from sink.erasure.text_columns import TextTable, list_text_tables
from sink.errors import DatabaseError
from sink.names import TableName
from sink.progress import track
from sink.rights.dev_copy.inventing import Inventing
from sink.rights.dev_copy.targets import Copy, is_helper
from sink.store import Store
from sink.wording import counted


def find_left(store: Store, copy: Copy, inventing: Inventing) -> list[str]:
    """What of a copy holds something of the original, or could not be looked at; a sentence each.

    Dictionaries and refreshable views of the copy read again first.

    Raises:
        DatabaseError: the schema could not be read.
    """
    client = store.client
    tables = {
        name: table
        for name, table in read_tables(client).items()
        if name.database in copy.databases and not is_helper(name)
    }
    found = list(_reload(store, tables))
    for text_table in track("comparing", list_text_tables(client, tables, copy.not_pii), "tables"):
        found += _compare(client, inventing, text_table)
    for name, count in count_detached_parts(client, list(tables)).items():
        found.append(f"{name}: {counted(count, 'detached part')}, which ALTER TABLE … DROP DETACHED PART removes")
    others = client.column(
        "SELECT name FROM system.databases WHERE name NOT IN {copied:Array(String)}", copied=copy.databases
    )
    return [*found, *describe_set_aside(client, list(tables), others)]


def _reload(store: Store, tables: Mapping[TableName, Table]) -> Iterator[str]:
    """Have whatever keeps a copy read again; yield what did not."""
    for name, table in tables.items():
        if not (table.is_dictionary or table.refresh is not None):
            continue
        dependent = Dependent(table, frozenset(), None)
        try:
            reload(store, [dependent])
        except DatabaseError as error:
            yield f"{name}: it could not be made to read again: {error}"
        again = read_tables(store.client, [name]).get(name, table)
        if again.refresh is not None and (again.refresh.is_stopped or again.refresh.has_failed):
            yield f"{name}: the view is stopped, or its query fails, so that it keeps what it has; drop it from the copy"


def _compare(client: ClickHouse, inventing: Inventing, texts: TextTable) -> Iterator[str]:
    try:
        matches = compare_table(client, inventing.originals.sql, texts.table, texts.columns)
    except DatabaseError as error:
        yield f"{texts.name}: its texts could not be looked at: {error}"
        return
    for column, match in matches.items():
        if kinds := match.list_kinds(with_ids=True):
            count = match.count(with_ids=True)
            yield f"{texts.name}.{column}: {counted(count, 'text holds', 'texts hold')} {' and '.join(kinds)} of the original"
