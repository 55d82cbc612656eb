"""Living beside Aspects in one ClickHouse: how far its migrations are, what they have left, and where its events are.

From tutor-contrib-aspects 1.0 to 6.1: alembic keeps how far it is in `alembic_version`, in the database that
ASPECTS_ALEMBIC_MIGRATIONS_DATABASE names (`xapi` by default). Its migrations 0027, 0029, 0030 and 0032 rebuild tables that
`init` makes where they are missing. They expect them in Aspects' own shape: on ours, 0027 renames `user_profile` to
`old_user_profile`, fails, and fails ever after. So Aspects goes first. Its events come into the database `openedx` by Vector
or `xapi` by Ralph (ASPECTS_XAPI_SOURCE).

.. no_pii: names of tables, counts of rows and times.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from sink.clickhouse.catalog import read_tables
from sink.clickhouse.client import ClickHouse
from sink.errors import DatabaseError, ReadOnlyError, RefusedError
from sink.names import TableName
from sink.wording import counted

EVENTS_TABLE = "xapi_events_all"
"""As Aspects calls it, unless ASPECTS_RAW_XAPI_TABLE says otherwise."""

_VERSION_TABLE = "alembic_version"
# The last migration that rebuilds a table of a name that we make; those after it only add what is missing.
_REBUILT_UNTIL = "0032"
_LEFTOVERS = ("event_sink.old_user_profile", "event_sink.old_external_id", "xapi.old_xapi_events_all")
# What comes in is never so far behind where it is not the wrong table.
_BEHIND = timedelta(days=1)


@dataclass(frozen=True)
class AspectsVersion:
    """How far Aspects' migrations are in one database."""

    table: TableName
    """Where that is written."""
    version: str | None
    """Such as `0041`, empty before the first; None where we may not read it."""

    @property
    def is_settled(self) -> bool:
        """True where no migration is left that rebuilds what we make."""
        return self.version is not None and self.version >= _REBUILT_UNTIL


def read_aspects(client: ClickHouse) -> list[AspectsVersion]:
    """How far Aspects is, in each database where alembic has been; empty where Aspects is not."""
    names = client.rows("SELECT database, name FROM system.tables WHERE name = {name:String}", name=_VERSION_TABLE)
    return [AspectsVersion(name, _read_version(client, name)) for name in sorted(TableName(*row) for row in names)]


def _read_version(client: ClickHouse, name: TableName) -> str | None:
    columns = read_tables(client, [name])[name].columns
    if "version_num" not in columns:
        return None
    # A version replaces the one before it, once parts are merged.
    latest = "argMax(version_num, (dt, version_num))" if "dt" in columns else "max(version_num)"
    try:
        return str(client.value(f"SELECT {latest} FROM {name.sql}"))
    except ReadOnlyError:
        return None


def require_order(client: ClickHouse, *, with_aspects: bool = False) -> None:
    """Refuse to make tables that Aspects' migrations will trip over.

    Args:
        client: the connection.
        with_aspects: Aspects belongs into this ClickHouse, whether or not it has been here.

    Raises:
        RefusedError: it has to go first; the message says how.
        DatabaseError: ClickHouse cannot tell.
    """
    found = read_aspects(client)
    if with_aspects and not found:
        raise RefusedError(
            f"Aspects' migrations have not been here: no database has a table {_VERSION_TABLE}. They have to come first, or "
            "they will fail on our tables and cannot be run again. Run `tutor local do init --limit=aspects`, then this again."
        )
    ours = client.table("pii_ledger.migrations")
    is_first = not read_tables(client, [ours])
    for aspects in found:
        if aspects.is_settled or (aspects.version is None and not is_first):
            continue
        if aspects.version is None:
            raise RefusedError(
                f"Aspects is here, and how far its migrations are cannot be read: GRANT SELECT ON {aspects.table} to the "
                "account of ASPECTS_CLICKHOUSE_USER, then run this again."
            )
        raise RefusedError(
            f"Aspects' migrations have only come to {aspects.version or 'their beginning'} ({aspects.table}), and until "
            f"{_REBUILT_UNTIL} they rebuild tables that we make. " + _explain_way(client, is_first=is_first)
        )


def _explain_way(client: ClickHouse, *, is_first: bool) -> str:
    if is_first and not find_leftovers(client):
        return "Let Aspects finish first: `tutor local do init --limit=aspects`, then run this again."
    return (
        "They have met tables of ours and cannot go on. `aspects-pii docs compatibility`, 'When init came before "
        "Aspects', says how to bring both to an end; the ledger is not touched."
    )


def find_leftovers(client: ClickHouse) -> dict[TableName, int]:
    """Tables that an interrupted migration has left, with their rows. They are targets of the map that ships."""
    tables = read_tables(client, [client.table(name) for name in _LEFTOVERS])
    return {name: table.rows for name, table in sorted(tables.items())}


def explain_leftovers(client: ClickHouse) -> list[str]:
    """What to do about `find_leftovers`, for people."""
    return [
        f"{name} was left by a migration that was interrupted, and holds {counted(rows, 'row')}. Retirements "
        "erase them too, if the map has the table. `aspects-pii docs compatibility`, 'When init came before Aspects', says "
        "what to do."
        for name, rows in find_leftovers(client).items()
    ]


@dataclass(frozen=True)
class EventsTable:
    """A table of events, in whatever database."""

    name: TableName
    rows: int | None
    """None where only the servers behind it know."""
    newest: datetime | None = None
    """None where there is none, or we may not read it."""


def find_events_tables(client: ClickHouse, table: str = EVENTS_TABLE) -> list[EventsTable]:
    """The tables of this name in every database, the configured one first; it is there even where it is missing."""
    configured = client.table(f"xapi.{table}")
    rows = {
        TableName(database, name): count
        for database, name, count in client.rows(
            "SELECT database, name, total_rows FROM system.tables WHERE name = {name:String} AND NOT is_temporary",
            name=table,
        )
    }
    names = [configured, *sorted(set(rows) - {configured})]
    return [EventsTable(name, rows.get(name, 0), _read_newest(client, name, rows.get(name, 0))) for name in names]


def _read_newest(client: ClickHouse, name: TableName, rows: int | None) -> datetime | None:
    if rows == 0:
        return None
    try:
        newest = client.value(f"SELECT toDateTime(max(emission_time), 'UTC') FROM {name.sql}")
    except DatabaseError:
        # No table of events, or not ours to read: then what is known is that it has rows.
        return None
    return newest if isinstance(newest, datetime) else None


def explain_events(tables: Iterable[EventsTable]) -> list[str]:
    """Why datasets of the configured table, the first, would be empty or old, and which setting is meant; for people."""
    configured, *others = tables
    found = []
    for other in sorted(others, key=lambda other: other.rows or 0, reverse=True):
        setting = (
            f"Set ASPECTS_XAPI_DATABASE={other.name.database} if those are meant, then run `aspects-pii init` and "
            "`aspects-pii build`."
        )
        if other.rows and configured.rows == 0:
            found.append(f"{configured.name} has no events, and {other.name} has {other.rows}. {setting}")
        elif other.newest and configured.newest and other.newest - configured.newest > _BEHIND:
            found.append(
                f"The newest event of {configured.name} is of {configured.newest:%Y-%m-%d}, and that of {other.name} of "
                f"{other.newest:%Y-%m-%d}. {setting}"
            )
    return found
