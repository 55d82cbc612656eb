"""Rows as upstream's sinks send them arrive in the tables that `init` makes, by the rules of older servers too."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sink.clickhouse.client import ClickHouse
from sink.clickhouse.migrations import load_migrations, migrate
from sink.installation import connect
from sink.settings import Settings
from tests.support.aspects_statements import DBT_USERS, SINK_ROWS, SINK_SETTINGS

THIS = "0014_times_as_text"
# ClickHouse's default before 26.5.
AS_BEFORE_26_5 = {"date_time_input_format": "basic"}


@pytest.fixture
def client(settings: Settings) -> Iterator[ClickHouse]:
    """The engine in process, with the migrations before this one."""
    with connect(settings, creates=True) as client:
        migrate(client, [migration for migration in load_migrations() if migration.name < THIS])
        yield client


def send(client: ClickHouse, table: str, at: str, user_id: int = 7, name: str = "Seven") -> None:
    """Insert a row as upstream's sink does."""
    row = SINK_ROWS[table].format(user_id=user_id, name=name, username=f"user{user_id}", at=at)
    client.execute(f"INSERT INTO $event_sink.{table} FORMAT CSV {row}", {**SINK_SETTINGS, **AS_BEFORE_26_5})


@pytest.mark.parametrize("table", SINK_ROWS)
def test_upstreams_row_arrives_by_the_rules_of_25_8(client: ClickHouse, table: str) -> None:
    send(client, table, "2026-01-31 10:00:00.123456+00:00")
    assert client.value(f"SELECT count() FROM $event_sink.{table}") == 0, "the rules are not those of 25.8"
    migrate(client)
    send(client, table, "2026-01-31 10:00:00.123456+00:00")
    assert client.rows(f"SELECT user_id, username, time_last_dumped, toString(dumped_at) FROM $event_sink.{table}") == [
        (7, "user7", "2026-01-31 10:00:00.123456+00:00", "2026-01-31 10:00:00.123456")
    ]


def test_the_latest_version_counts_whoever_wrote_it(client: ClickHouse) -> None:
    migrate(client)
    send(client, "user_profile", "2026-01-31 10:00:00.5+00:00", name="Later")
    send(client, "user_profile", "2026-01-31 10:00:00+00:00", name="Earlier")
    client.execute(
        "INSERT INTO $event_sink.user_profile (user_id, name, time_last_dumped) SELECT 7, 'Latest', '2026-01-31 10:00:01'"
    )
    send(client, "user_profile", "2026-01-31 10:00:00.75+00:00", name="Between")
    assert client.column("SELECT name FROM $event_sink.user_profile FINAL") == ["Latest"]


def test_rows_that_are_there_stay_and_nothing_else_is_left(client: ClickHouse) -> None:
    for user_id in (1, 2):
        client.execute(
            "INSERT INTO $event_sink.user_profile (id, user_id, name, time_last_dumped) "
            f"SELECT 100 + {user_id}, {user_id}, 'Somebody', '2026-01-31 10:00:00.123456'"
        )
        client.execute(
            "INSERT INTO $event_sink.external_id (external_user_id, external_id_type, user_id, time_last_dumped) "
            f"SELECT toUUID('00000000-0000-4000-8000-00000000000{user_id}'), 'xapi', {user_id}, '2026-01-31 10:00:00'"
        )
    # What Aspects has built on them stands in nobody's way.
    for statement in DBT_USERS:
        client.execute(statement)
    assert client.value("SELECT count() FROM $event_sink.user_pii") == 2
    migrate(client)
    profiles = "SELECT id, user_id, name, time_last_dumped FROM $event_sink.user_profile ORDER BY id"
    assert client.rows(profiles) == [(100 + n, n, "Somebody", "2026-01-31 10:00:00.123456") for n in (1, 2)]
    assert client.value("SELECT count() FROM $event_sink.external_id WHERE toYear(dumped_at) = 2026") == 2
    assert client.column("SELECT name FROM system.tables WHERE database = 'event_sink' AND name LIKE 'old_%'") == []
    client.execute("SYSTEM RELOAD DICTIONARY $event_sink.user_pii")
    assert client.value("SELECT count() FROM $event_sink.user_pii") == 2


@pytest.mark.parametrize("done", [2, 3])
def test_an_interrupted_migration_goes_on_where_it_was(client: ClickHouse, done: int) -> None:
    client.execute(
        "INSERT INTO $event_sink.user_profile (id, user_id, name, time_last_dumped) SELECT 101, 1, 'Somebody', '2026-01-31'"
    )
    (migration,) = [migration for migration in load_migrations() if migration.name == THIS]
    for statement in migration.statements()[:done]:
        client.execute(statement)
    migrate(client)
    assert client.rows("SELECT id, user_id, name, toString(dumped_at) FROM $event_sink.user_profile FINAL") == [
        (101, 1, "Somebody", "2026-01-31 00:00:00.000000")
    ]
    assert client.column("SELECT name FROM system.tables WHERE database = 'event_sink' AND name LIKE 'old_%'") == []
