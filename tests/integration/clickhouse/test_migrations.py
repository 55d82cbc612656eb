"""Migrations: repeatable, recorded, never edited, and good for a single server as well as for a cluster."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sink.clickhouse.client import ClickHouse
from sink.clickhouse.migrations import OLDEST_MAJOR, Migration, find_pending, load_migrations, migrate, read_applied
from sink.errors import MigrationError, QueryError, SettingsError
from sink.installation import connect, find_address
from sink.settings import Settings, load_settings

NAMES = [migration.name for migration in load_migrations()]


@pytest.fixture
def client(settings: Settings) -> Iterator[ClickHouse]:
    """The engine in process, empty."""
    with connect(settings, creates=True) as client:
        yield client


def describe_schema(client: ClickHouse) -> list[tuple[object, ...]]:
    """Every table as the engine would create it."""
    return client.rows(
        "SELECT database, name, create_table_query FROM system.tables WHERE database IN {databases:Array(String)} ORDER BY 1, 2",
        databases=list(client.databases.values()),
    )


def test_names_are_in_order_and_unique() -> None:
    assert len(NAMES) >= 4
    assert sorted(NAMES) == NAMES
    assert [name[:4] for name in NAMES] == [f"{number:04}" for number in range(1, len(NAMES) + 1)]


def test_migrate_applies_everything_once(client: ClickHouse) -> None:
    assert read_applied(client) == {}
    assert [migration.name for migration in find_pending(client)] == NAMES
    assert migrate(client) == NAMES
    migrations = describe_schema(client)
    assert len(migrations) >= 8
    assert find_pending(client) == []
    assert migrate(client) == []
    assert describe_schema(client) == migrations
    assert list(read_applied(client)) == NAMES or sorted(read_applied(client)) == NAMES


def test_an_engine_older_than_the_oldest_is_told_so_and_left_alone(
    client: ClickHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    if int(client.server_version.partition(".")[0]) >= OLDEST_MAJOR:
        monkeypatch.setattr(ClickHouse, "server_version", "24.8.14.39")
    with pytest.raises(SettingsError, match=r"is 24\.8\.\d+\.\d+, and 25\.x is the oldest that is supported") as caught:
        migrate(client)
    assert caught.value.exit_status == 2
    assert describe_schema(client) == []


def test_looking_for_what_is_pending_changes_nothing(client: ClickHouse) -> None:
    find_pending(client)
    assert describe_schema(client) == []
    assert client.value("SELECT count() FROM system.databases WHERE name IN ('event_sink', 'pii_ledger')") == 0


def test_every_migration_can_be_repeated(client: ClickHouse) -> None:
    migrate(client)
    migrations = describe_schema(client)
    client.execute("TRUNCATE TABLE $pii_ledger.migrations")
    assert migrate(client) == NAMES
    assert describe_schema(client) == migrations


def test_migrations_keep_what_upstream_has_made(client: ClickHouse) -> None:
    client.execute("CREATE DATABASE $event_sink")
    client.execute(
        "CREATE TABLE $event_sink.user_profile (id Int32, user_id Int32, name String, dump_id UUID, time_last_dumped String) "
        "ENGINE = ReplacingMergeTree PARTITION BY user_id MOD 100 ORDER BY (id, time_last_dumped)"
    )
    client.insert(client.table("event_sink.user_profile"), ("id", "user_id", "name"), [(1, 2, "somebody")])
    migrate(client)
    assert client.rows("SELECT id, user_id, name FROM $event_sink.user_profile") == [(1, 2, "somebody")]


def test_databases_can_be_called_otherwise(tmp_path: Path) -> None:
    settings = load_settings(
        clickhouse_url=f"chdb://{tmp_path}/clickhouse",
        event_sink_database="sink_2",
        xapi_database="xapi_2",
        reporting_database="reporting_2",
        ledger_database="ledger_2",
    )
    with connect(settings, creates=True) as client:
        migrate(client)
        made = client.column(
            "SELECT DISTINCT database FROM system.tables WHERE database NOT ILIKE '%system%' ORDER BY 1"
        )
        assert {"sink_2", "xapi_2", "ledger_2"} <= set(made)
        assert not {"event_sink", "xapi", "pii_ledger", "reporting"} & set(made)


def test_edited_migration_is_found(client: ClickHouse) -> None:
    migrations = load_migrations()
    migrate(client, migrations)
    migrations[2] = Migration(migrations[2].name, migrations[2].sql + "-- one more thing\n")
    for look in (find_pending, migrate):
        with pytest.raises(MigrationError, match=rf"{NAMES[2]}\. Restore the files") as caught:
            look(client, migrations)
        assert NAMES[1] not in str(caught.value)


def test_failed_migration_stays_pending_and_is_repeated(client: ClickHouse) -> None:
    migrations = load_migrations()
    sql = "CREATE TABLE IF NOT EXISTS $event_sink.first (a Int8) ENGINE = MergeTree ORDER BY a;\n{}"
    broken = Migration("9998_two_tables", sql.format("CREATE TABL $event_sink.second (a Int8);"))
    with pytest.raises(QueryError, match="SYNTAX_ERROR"):
        migrate(client, [*migrations, broken, Migration("9999_later", "SELECT 1;")])
    assert sorted(read_applied(client)) == NAMES
    assert client.value("EXISTS TABLE $event_sink.first") == 1
    mended = Migration(
        "9998_two_tables",
        sql.format("CREATE TABLE IF NOT EXISTS $event_sink.second (a Int8) ENGINE = MergeTree ORDER BY a;"),
    )
    assert migrate(client, [*migrations, mended]) == ["9998_two_tables"]
    assert client.value("EXISTS TABLE $event_sink.second") == 1
    assert find_pending(client, [*migrations, mended]) == []


@pytest.mark.parametrize("names", [["1_first.sql"], ["first.sql"], ["0001_a.sql", "0001_b.sql"], ["0001_A-b.sql"]])
def test_file_with_a_wrong_name_is_refused(tmp_path: Path, names: list[str]) -> None:
    for name in names:
        (tmp_path / name).write_text("SELECT 1;")
    with pytest.raises(MigrationError, match=r"migrations are named 0001_what_it_does\.sql"):
        load_migrations(tmp_path)


def test_statements_are_split_at_semicolons_and_not_in_texts_or_comments() -> None:
    migration = Migration("0001_a", "-- one; two\nSELECT 'a;b', '--c' -- three;\n;\n\nSELECT 2;\n")
    assert list(migration.statements()) == ["SELECT 'a;b', '--c'", "SELECT 2"]


def test_a_statement_can_be_for_some_tables_only(client: ClickHouse) -> None:
    sql = """
    CREATE TABLE IF NOT EXISTS $event_sink.{0} (a Int8, b {1}) ENGINE = MergeTree ORDER BY a;
    -- It's ours; or not.
-- only where: event_sink.{0}.b is String
    -- Another remark.
    INSERT INTO $event_sink.{0} SELECT 1, 'one';
-- only where: event_sink.nowhere.b is String
    DROP TABLE $event_sink.{0};
    """
    migrations = [
        Migration("9998_ours", sql.format("ours", "String")),
        Migration("9999_not", sql.format("other", "UUID")),
    ]
    assert migrate(client, [*load_migrations(), *migrations])[-2:] == ["9998_ours", "9999_not"]
    assert client.rows("SELECT * FROM $event_sink.ours") == [(1, "one")]
    assert client.rows("SELECT * FROM $event_sink.other") == []


@pytest.mark.parametrize("cluster", [None, "aspects"])
def test_engine_can_parse_every_statement(client: ClickHouse, cluster: str | None) -> None:
    client.cluster = cluster
    statements = [statement for migration in load_migrations() for statement in migration.statements()]
    assert len(statements) >= 10
    for statement in statements:
        tree = "\n".join(client.column(f"EXPLAIN AST {statement}"))
        assert tree
        rendered = client.render(statement)
        # Rows go to one replica, which passes them on.
        is_ddl = not statement.startswith("INSERT")
        assert ("ON CLUSTER `aspects`" in rendered) == (bool(cluster) and is_ddl), rendered
        engine = [line for line in rendered.splitlines() if line.startswith("ENGINE")]
        assert all(("Replicated" in line) == bool(cluster) for line in engine), rendered


def test_record_of_migrations_is_replicated_too(client: ClickHouse) -> None:
    from sink.clickhouse import migrations

    client.cluster = "aspects"
    rendered = client.render(migrations._CREATE_RECORD)
    assert "ON CLUSTER `aspects`" in rendered
    assert "ENGINE = ReplicatedMergeTree" in rendered
    assert client.column(f"EXPLAIN AST {rendered}")


def test_every_setting_of_a_table_is_known_to_the_engine(client: ClickHouse) -> None:
    migrate(client)
    assert client.value("SELECT count() FROM system.tables WHERE engine_full LIKE '%old_parts_lifetime = 1%'") == 6


def test_applied_by_an_older_client_is_seen_by_a_new_one(settings: Settings) -> None:
    with connect(settings, creates=True) as client:
        migrate(client)
    with ClickHouse(find_address(settings)) as again:
        assert find_pending(again) == []
