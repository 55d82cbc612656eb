"""Beside Aspects: its own migrations and ours in either order, what an interrupted one leaves, and where its events are.

With the statements of Aspects for the tables that both make. By hand all of its migrations were run (docs/compatibility.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from sink.clickhouse.aspects import EventsTable, explain_events, find_events_tables, read_aspects
from sink.clickhouse.client import ClickHouse
from sink.errors import QueryError
from sink.installation import connect, open_store
from sink.names import TableName
from sink.settings import load_settings
from tests.support.aspects_statements import MIGRATIONS, VERSION_TABLE
from tests.support.coverage_page import covers

Command = Callable[..., Any]


@pytest.fixture
def client(aspects_pii: Command) -> Iterator[ClickHouse]:
    """A ClickHouse in which Aspects has made its databases, and nothing else."""
    with connect(load_settings(), creates=True) as client:
        for database in ("event_sink", "xapi", "reporting"):
            client.execute(f"CREATE DATABASE ${database}")
        yield client


def migrate_aspects(client: ClickHouse, until: str = "9999") -> None:
    """What `alembic upgrade` does: from where it has come to, until one fails."""
    client.execute(VERSION_TABLE)
    (aspects,) = read_aspects(client)
    for version, statements in MIGRATIONS.items():
        if (aspects.version or "") < version <= until:
            for statement in statements:
                client.execute(statement)
            client.execute("INSERT INTO $xapi.alembic_version (version_num) SELECT {version:String}", version=version)


def describe_tables(client: ClickHouse) -> list[tuple[Any, ...]]:
    return client.rows(
        "SELECT name, engine_full FROM system.tables WHERE database IN ('event_sink', 'xapi') "
        "AND name IN ('user_profile', 'external_id', 'course_enrollment', 'xapi_events_all') ORDER BY name"
    )


def test_init_after_aspects_leaves_its_tables_as_they_are(aspects_pii: Command, client: ClickHouse) -> None:
    migrate_aspects(client)
    before = describe_tables(client)
    assert len(before) == 4
    assert aspects_pii("init", "--with-aspects").status == 0
    assert describe_tables(client) == before
    # And Aspects goes on from there.
    migrate_aspects(client)
    assert describe_tables(client) == before


@pytest.mark.parametrize("version", ["0026", "0031"])
def test_init_is_refused_until_aspects_has_rebuilt_its_tables(
    aspects_pii: Command, client: ClickHouse, version: str
) -> None:
    migrate_aspects(client, until=version)
    ran = aspects_pii("init")
    assert ran.status == 1
    assert f"only come to {version} (xapi.alembic_version)" in ran.err
    assert "tutor local do init --limit=aspects" in ran.err
    # Nothing of ours is in its way.
    assert client.value("SELECT count() FROM system.tables WHERE name IN ('course_access', 'entries')") == 0
    migrate_aspects(client)
    assert read_aspects(client)[0].is_settled
    assert aspects_pii("init").status == 0


def test_init_in_the_middle_of_what_is_left_of_aspects_works_with_both(
    aspects_pii: Command, client: ClickHouse
) -> None:
    migrate_aspects(client, until="0032")
    assert aspects_pii("init").status == 0
    migrate_aspects(client)
    assert read_aspects(client)[0].version == "0041"
    assert aspects_pii("init").status == 0
    assert client.value("SELECT count() FROM system.columns WHERE table = 'user_profile' AND name = 'username'") == 1


def test_init_with_aspects_is_refused_where_aspects_has_not_been(aspects_pii: Command) -> None:
    ran = aspects_pii("init", "--with-aspects")
    assert ran.status == 1
    assert "Aspects' migrations have not been here" in ran.err
    assert aspects_pii("init").status == 0


@pytest.fixture
def overtaken(aspects_pii: Command, client: ClickHouse) -> ClickHouse:
    """Our `init` came first, user 7 was copied, and Aspects' 0027 has failed on our table."""
    assert aspects_pii("init").status == 0
    row = "7, 'Seven of Nine', 'seven7', 'seven7@example.com'"
    client.execute(f"INSERT INTO $event_sink.user_profile (user_id, name, username, email) SELECT {row}")
    with pytest.raises(QueryError, match="NUMBER_OF_COLUMNS_DOESNT_MATCH"):
        migrate_aspects(client)
    assert client.value("SELECT count() FROM $event_sink.user_profile") == 0
    return client


def test_init_says_that_aspects_has_met_our_tables_and_status_what_is_left(
    aspects_pii: Command, overtaken: ClickHouse
) -> None:
    for command in ("init", "status"):
        ran = aspects_pii(command)
        assert ran.status == 1
        assert "`aspects-pii docs compatibility`, 'When init came before Aspects'" in ran.err, command
    assert "event_sink.old_user_profile was left" in aspects_pii("status").err


@covers("place", "what an interrupted migration of Aspects has left (`old_user_profile`)", "erased")
def test_what_a_failed_migration_has_left_is_erased_and_verified(aspects_pii: Command, overtaken: ClickHouse) -> None:
    with open_store(load_settings()) as store:
        store.ledger.request([7])
    found = aspects_pii("verify", 7)
    assert found.status == 1
    assert "event_sink.old_user_profile" in found.out + found.err
    assert aspects_pii("sweep").status == 0
    assert overtaken.value("SELECT count() FROM $event_sink.old_user_profile") == 0
    assert aspects_pii("verify", 7).status == 0


def test_what_a_failed_migration_has_left_is_purged(aspects_pii: Command, overtaken: ClickHouse) -> None:
    assert aspects_pii("purge", "--yes").status == 0
    assert overtaken.value("SELECT count() FROM $event_sink.old_user_profile") == 0


def test_the_way_out_brings_both_to_an_end(aspects_pii: Command, overtaken: ClickHouse) -> None:
    for statement in (
        "DROP DATABASE $event_sink SYNC",
        "DROP DATABASE $xapi SYNC",
        "TRUNCATE TABLE $pii_ledger.migrations",
        "CREATE DATABASE $event_sink",
        "CREATE DATABASE $xapi",
    ):
        overtaken.execute(statement)
    migrate_aspects(overtaken)
    assert aspects_pii("init", "--with-aspects").status == 0
    assert aspects_pii("status").status == 0


# --- where the events are


def add_event(client: ClickHouse, database: str, at: str) -> None:
    client.execute(f"CREATE DATABASE IF NOT EXISTS {database}")
    client.execute(
        f"CREATE TABLE IF NOT EXISTS {database}.xapi_events_all (event_id UUID, emission_time DateTime64(6), event String) "
        "ENGINE = ReplacingMergeTree ORDER BY (emission_time, event_id)"
    )
    client.execute(f"INSERT INTO {database}.xapi_events_all SELECT generateUUIDv4(), {{at:String}}, '{{}}'", at=at)


def test_status_says_which_database_has_the_events(aspects_pii: Command) -> None:
    aspects_pii("init")
    assert aspects_pii("status").status == 0
    with connect(load_settings()) as client:
        add_event(client, "openedx", "2026-01-31 10:00:00")
        assert [(str(table.name), table.rows) for table in find_events_tables(client)] == [
            ("xapi.xapi_events_all", 0),
            ("openedx.xapi_events_all", 1),
        ]
    ran = aspects_pii("status")
    assert ran.status == 1
    assert "xapi.xapi_events_all has no events, and openedx.xapi_events_all has 1." in ran.err
    assert "Set ASPECTS_XAPI_DATABASE=openedx" in ran.err
    assert aspects_pii("init", XAPI_DATABASE="openedx").status == 0
    assert aspects_pii("status", XAPI_DATABASE="openedx").status == 0


def test_build_says_which_database_has_the_events(aspects_pii: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Datasets of the wrong one are built all the same, and empty."""
    monkeypatch.setattr("sink.datasets.build._run_dbt", lambda *_: None)
    aspects_pii("init")
    quiet = aspects_pii("build")
    assert "has no events" not in quiet.out + quiet.err
    with connect(load_settings()) as client:
        add_event(client, "openedx", "2026-01-31 10:00:00")
    ran = aspects_pii("build")
    assert ran.status == 0
    assert "xapi.xapi_events_all has no events, and openedx.xapi_events_all has 1." in ran.out + ran.err
    assert "Set ASPECTS_XAPI_DATABASE=openedx" in ran.out + ran.err


def test_events_that_go_on_elsewhere_are_told_by_their_times(client: ClickHouse) -> None:
    add_event(client, "xapi", "2026-01-31 10:00:00")
    add_event(client, "openedx", "2026-02-01 09:00:00")
    assert explain_events(find_events_tables(client)) == []
    add_event(client, "openedx", "2026-03-01 10:00:00")
    (line,) = explain_events(find_events_tables(client))
    assert "xapi.xapi_events_all is of 2026-01-31, and that of openedx.xapi_events_all of 2026-03-01" in line


def test_no_events_anywhere_are_nothing_to_say() -> None:
    tables = [EventsTable(TableName(database, "xapi_events_all"), 0) for database in ("xapi", "openedx")]
    assert explain_events(tables) == []
