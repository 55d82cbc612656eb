"""The statements that count, typed and sorted by course, kept as they come in.

Read from the raw statements, each chart would take apart the JSON of all courses. A materialized view writes what counts
into a table of ours as it arrives, without the text; what was there before is read once, a few hours of statements at
a time. A process that is killed goes on where it was. The table holds actors as the statements name them, so it is a
target of the PII map like any other, and while a part is read nobody is erased.

Why so: docs/decisions/0027-kept-statements.md.

.. pii: An anonymous id as the actor, or an e-mail address where the LMS is set so (XAPI_AGENT_IFI_TYPE).
.. pii_types: id, email_address
.. pii_retirement: consumer_api
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from sink.clickhouse.catalog import Table, read_tables
from sink.clickhouse.client import ClickHouse
from sink.dbt_macros import render_macro
from sink.errors import RefusedError
from sink.ledger.leases import hold
from sink.names import TableName, quote_text
from sink.progress import tell

VERSION = 1
"""Goes up with every change of what the table holds; a build then fills a new one, and datasets read the old one meanwhile."""

LEARNER_EVENTS_PREFIX = "learner_events_v"
LEARNER_EVENTS = f"{LEARNER_EVENTS_PREFIX}{VERSION}"
"""The table, in the database of reports. The PII map has to name it."""
_FEED_ENDING = "_mv"
FEED = f"{LEARNER_EVENTS}{_FEED_ENDING}"
"""The materialized view that writes it."""
READER = "int_statements_read"
"""The dbt model that reads it."""

_MACRO_FILES = ("events", "xapi", "keys")
_STATEMENTS_AT_ONCE = 250_000
_HOUR_SECONDS = 3600
_WAIT_FOR_OTHERS_SECONDS = 300.0
_ONE_AT_A_TIME = "It reads the statements in; run this again when it has ended."

# What the table says of itself.
_MARK = "Statements that count, kept by aspects-pii."
_COMMENT = re.compile(
    rf"{re.escape(_MARK)} raw=(?P<raw>[0-9a-f-]+) feed=(?P<feed>[0-9a-f-]+) read=(?P<read>all|-?\d+|nothing)"
)

# No address stands in the sort key, where it could not be changed in place.
_COLUMNS = """
    org LowCardinality(String),
    course_key LowCardinality(String),
    emission_time DateTime64(6, 'UTC'),
    event_id UUID,
    actor_id String,
    object_id String,
    kind LowCardinality(String),
    enrollment_mode LowCardinality(String),
    score Nullable(Float64),
    outcome LowCardinality(String),
    is_success Bool,
    has_mbox Bool
"""
_ENGINE = """
    ENGINE = ${replicated}ReplacingMergeTree
    ORDER BY (org, course_key, emission_time, event_id)
    SETTINGS old_parts_lifetime = 1, cleanup_delay_period = 1, max_cleanup_delay_period = 1, cleanup_delay_period_random_add = 0
"""


@dataclass(frozen=True)
class _State:
    """What the comment of the table says."""

    raw: str
    """Id of the table of statements that it is filled from."""
    feed: str
    """Id of the materialized view."""
    read: str = "nothing"
    """How far what was there before is read: `nothing`, the hour that comes next, in seconds since 1970, or `all`."""

    @property
    def comment(self) -> str:
        return f"{_MARK} raw={self.raw} feed={self.feed} read={self.read}"


def compose_definition() -> str:
    """Everything that decides what the table holds, as one text."""
    return f"{_COLUMNS}{_ENGINE}{_compose_query('statements')}"


def find_kept(client: ClickHouse) -> str | None:
    """The table, where it is complete and still written; also for an account that does not see the statements."""
    name, feed = _find_table(client), _find_feed(client)
    tables = read_tables(client, [name, feed])
    state = _read_state(tables.get(name))
    is_written = state is not None and feed in tables and state.feed == tables[feed].uuid
    return name.table if state is not None and is_written and state.read == "all" else None


def keep_learner_events(client: ClickHouse, raw_table: str, *, anew: bool = False) -> str | None:
    """Have the table there and complete, and return its name; None where statements are in no table that can be followed.

    Args:
        client: the connection; it makes tables and views in the database of reports.
        raw_table: what the table of statements is called, in the database of events.
        anew: read everything again, so that what is not in the statements any more goes.

    Raises:
        BusyError: another process is at it, or somebody is erasing for long.
        RefusedError: there is a table of that name which is not ours.
        ReadOnlyError: the account may not do that.
        DatabaseError: ClickHouse refused.
    """
    raw = client.table(f"xapi.{raw_table}")
    statements = read_tables(client, [raw]).get(raw)
    if statements is None or not _can_be_followed(statements):
        return None
    state = None if anew else _read_current(client, statements)
    if state is None or state.read != "all":
        with hold(client, "learner_events", wait=_WAIT_FOR_OTHERS_SECONDS, advice=_ONE_AT_A_TIME):
            # Whoever had it may have done it, or a part of it.
            state = None if anew else _read_current(client, statements)
            _fill(client, raw, state or _make(client, statements))
    return LEARNER_EVENTS


def list_keeping(tables: Iterable[Table]) -> list[TableName]:
    """Those of `tables` that keep statements, and what writes them. Whatever reads them leaves restricted subjects out."""
    kept = [table.name for table in tables if table.comment.startswith(_MARK)]
    return [*kept, *(TableName(name.database, f"{name.table}{_FEED_ENDING}") for name in kept)]


def drop_former(client: ClickHouse) -> list[str]:
    """Drop tables of former versions that no dataset reads any more, and return their names."""
    names = client.column(
        "SELECT name FROM system.tables WHERE database = {database:String} AND startsWith(name, {prefix:String}) "
        "AND startsWith(comment, {mark:String}) AND name != {current:String} ORDER BY name",
        database=_find_table(client).database,
        prefix=LEARNER_EVENTS_PREFIX,
        mark=_MARK,
        current=LEARNER_EVENTS,
    )
    dropped = []
    for name in names:
        former = client.table(f"reporting.{name}")
        if not _is_read(client, former):
            feed = client.table(f"reporting.{name}{_FEED_ENDING}")
            client.execute(f"DROP VIEW IF EXISTS {feed.sql} $on_cluster SYNC")
            client.execute(f"DROP TABLE {former.sql} $on_cluster SYNC")
            dropped.append(name)
    return dropped


def _find_table(client: ClickHouse) -> TableName:
    return client.table(f"reporting.{LEARNER_EVENTS}")


def _find_feed(client: ClickHouse) -> TableName:
    return client.table(f"reporting.{FEED}")


def _compose_query(events: str, ending: str = "") -> str:
    return render_macro(_MACRO_FILES, "learner_events", events, ending)


def _can_be_followed(statements: Table) -> bool:
    """True where a materialized view sees every insert, and the columns are those that Aspects gives such a table."""
    columns = statements.columns
    return (
        statements.is_merge_tree
        and columns.get("event_id") == "UUID"
        and columns.get("emission_time", "").startswith("DateTime")
        and columns.get("event", "").startswith(("String", "JSON", "Object"))
    )


def _read_state(table: Table | None) -> _State | None:
    found = _COMMENT.search(table.comment) if table is not None else None
    return _State(**found.groupdict()) if found else None


def _read_current(client: ClickHouse, statements: Table) -> _State | None:
    """The state, where table, view and statements are still those that it speaks of."""
    name, feed = _find_table(client), _find_feed(client)
    tables = read_tables(client, [name, feed])
    state = _read_state(tables.get(name))
    if state is None or feed not in tables:
        return None
    return state if (state.raw, state.feed) == (statements.uuid, tables[feed].uuid) else None


def _make(client: ClickHouse, statements: Table) -> _State:
    """Make table and view; from then on what comes in is kept."""
    name, feed, raw = _find_table(client), _find_feed(client), statements.name
    former = read_tables(client, [name]).get(name)
    if former is not None and not former.comment.startswith(_MARK):
        raise RefusedError(f"{name} exists and was not made by aspects-pii. Rename or drop it, then build again.")
    if _is_read(client, name):
        # It would show a part of the figures as if they were all. The build that this is for makes it again.
        reader = client.table(f"reporting.{READER}")
        client.execute(f"DROP VIEW IF EXISTS {reader.sql} $on_cluster SYNC")
    # Who drops the database has the datasets built anew in it.
    client.execute("CREATE DATABASE IF NOT EXISTS $reporting $on_cluster")
    client.execute(f"DROP VIEW IF EXISTS {feed.sql} $on_cluster SYNC")
    client.execute(f"DROP TABLE IF EXISTS {name.sql} $on_cluster SYNC")
    client.execute(f"CREATE TABLE {name.sql} $on_cluster ({_COLUMNS}) {_ENGINE} COMMENT {quote_text(_MARK)}")
    client.execute(f"CREATE MATERIALIZED VIEW {feed.sql} $on_cluster TO {name.sql} AS {_compose_query(raw.sql)}")
    state = _State(statements.uuid, read_tables(client, [feed])[feed].uuid)
    _note(client, state)
    return state


def _is_read(client: ClickHouse, name: TableName) -> bool:
    """True where a dataset reads the table."""
    return bool(
        client.value(
            "SELECT count() FROM system.tables WHERE database = {database:String} AND engine = 'View' "
            "AND position(as_select, {table:String}) > 0",
            database=name.database,
            table=name.table,
        )
    )


def _fill(client: ClickHouse, raw: TableName, state: _State) -> None:
    """Read what was there before the view, oldest first. What is read twice counts once."""
    if state.read == "all":
        return
    # Of any time that can be written, whatever the zone of the column; whole hours, in seconds since 1970.
    hours = client.rows(
        "SELECT 3600 * intDiv(toUnixTimestamp64Second(toDateTime64(emission_time, 6, 'UTC')), 3600) AS aspects_pii_hour, "
        f"count() FROM {raw.sql} GROUP BY aspects_pii_hour ORDER BY aspects_pii_hour"
    )
    total = sum(count for _, count in hours)
    left = hours if state.read == "nothing" else [(hour, count) for hour, count in hours if hour >= int(state.read)]
    done = total - sum(count for _, count in left)
    for begin, end, count in _split(left):
        tell("reading statements", done, total, "statements")
        # What had been read before an erasure would be written after it.
        with hold(client, "erasing", wait=_WAIT_FOR_OTHERS_SECONDS):
            _read_hours(client, raw, begin, end)
        state = replace(state, read=str(end))
        _note(client, state)
        done += count
    tell("reading statements", total, total, "statements")
    _note(client, replace(state, read="all"))


def _split(hours: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int, int]]:
    """Hours that are read together: where they begin and end, and the statements in them."""
    begin, together = 0, 0
    for number, (hour, count) in enumerate(hours):
        begin = begin if together else hour
        together += count
        if together >= _STATEMENTS_AT_ONCE or number + 1 == len(hours):
            yield begin, hour + _HOUR_SECONDS, together
            together = 0


def _read_hours(client: ClickHouse, raw: TableName, begin: int, end: int) -> None:
    within = (
        "WHERE emission_time >= fromUnixTimestamp64Second({begin:Int64}, 'UTC') "
        "AND emission_time < fromUnixTimestamp64Second({end:Int64}, 'UTC')"
    )
    client.execute(f"INSERT INTO {_find_table(client).sql} {_compose_query(raw.sql, within)}", begin=begin, end=end)


def _note(client: ClickHouse, state: _State) -> None:
    name = _find_table(client)
    client.execute(f"ALTER TABLE {name.sql} $on_cluster MODIFY COMMENT {quote_text(state.comment)}")
