"""Refreshing materialized views, and taking the copies off the disk that a refresh has replaced.

A refresh puts a new table in the place of the old one, at once and whole, and drops the old one, whose files ClickHouse
keeps for minutes in case somebody wants it back. It is brought back, under the name that only
refreshes use, and dropped for good. So nothing is emptied before what takes its place is there.
"""

from __future__ import annotations

from sink.clickhouse.catalog import Table
from sink.clickhouse.client import ClickHouse
from sink.errors import DatabaseError, QueryError
from sink.names import TableName
from sink.wording import counted

_REFRESH_FAILED = 730
COPIES = ".tmp.inner_id."
"""How the names of what refreshes fill, or have replaced, begin."""


def refresh(client: ClickHouse, view: Table) -> bool:
    """Fill a view anew, and wait for it.

    Returns:
        False where the view is stopped or its query fails: it shows what it showed before, and nothing was changed.

    Raises:
        DatabaseError: it is not known whether it was refreshed.
    """
    if view.refresh is None or view.refresh.is_stopped:
        return False
    try:
        client.execute(f"SYSTEM REFRESH VIEW {view.name.sql}")
        client.execute(f"SYSTEM WAIT VIEW {view.name.sql}")
    except QueryError as error:
        if error.code != _REFRESH_FAILED:
            raise
        return False
    return True


def drop_replaced_copies(client: ClickHouse, view: Table) -> None:
    """Take what refreshes have replaced off the disk, as far as the server lets us.

    `describe_replaced_copies` tells what is left. Killed in between, the old copy is a table under the name that the
    refreshes use, and goes the next time.
    """
    copy = _name_copy(view)
    _drop_left(client, view, copy)
    # As often as there are copies: without a UUID the newest one comes back.
    for database in client.column("SELECT database FROM system.dropped_tables WHERE table = {copy:String}", copy=copy):
        name = TableName(database, copy)
        try:
            client.execute(f"UNDROP TABLE {name.sql}", repeatable=False)
            client.execute(f"DROP TABLE {name.sql} SYNC", repeatable=False)
        except DatabaseError as error:
            if error.retriable:
                raise
            # Gone by itself meanwhile, or not allowed: what is left is told afterwards.
            return


def _drop_left(client: ClickHouse, view: Table, copy: str) -> None:
    """Drop what is no dropped table any more since we were interrupted, unless a refresh is filling it."""
    for database in client.column(
        "SELECT database FROM system.tables WHERE name = {copy:String} AND (SELECT count() FROM system.view_refreshes "
        "WHERE database = {database:String} AND view = {view:String} AND status LIKE 'Running%') = 0",
        copy=copy,
        database=view.name.database,
        view=view.name.table,
    ):
        client.execute(f"DROP TABLE IF EXISTS {TableName(database, copy).sql} SYNC")


def describe_replaced_copies(client: ClickHouse, view: Table) -> list[str]:
    """What is left of replaced copies on the disk of any replica, and until when; nothing where nothing is."""
    count, until = client.rows(
        f"SELECT count(), max(table_dropped_time) FROM {client.replicas('system.dropped_tables')} "
        "WHERE table = {copy:String}",
        copy=_name_copy(view),
    )[0]
    if not count:
        return []
    return [
        f"files of {counted(count, 'replaced copy', 'replaced copies')} of {view.name}, which ClickHouse removes by itself at "
        f"{until} of its clock"
    ]


def _name_copy(view: Table) -> str:
    """What a refresh calls the table that it fills, and later the one that it has replaced."""
    return f"{COPIES}{view.uuid}"
