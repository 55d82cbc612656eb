"""Retention: what the map keeps for so many days goes with a sweep, nothing else does, and `map check` holds it to the schema."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from sink.doors.outcomes import expire_if_due
from sink.erasure import expiry
from sink.erasure.expiry import expire, is_due
from sink.errors import ErasureError
from sink.installation import open_store
from sink.rights.restriction import restrict
from sink.settings import load_settings
from sink.store import Store

NOW = datetime.now(UTC)
MAP: dict[str, Any] = {
    "version": 1,
    "subject": {"identifiers": {"email": "event_sink.user_profile.email"}},
    "targets": {
        "event_sink.user_profile": {
            "match": {"user_id": "id"},
            "pii": {"email": "email_address", "name": "name"},
            "on_retire": "delete",
        },
        "logs.seen": {
            "match": {"user_id": "id"},
            "pii": {"ip": "ip", "page": "other"},
            "on_retire": "delete",
            "retention": {"days": 30, "column": "at"},
        },
        "logs.typed": {
            "match": {"user_id": "id"},
            "pii": {"ip": "ip", "page": "other"},
            "on_retire": "delete",
            "retention": {"days": 30, "column": "at", "redact": {"ip": "null", "page": {"truncate": 1}}},
        },
    },
}
COLUMNS = ("number", "user_id", "at", "ip", "page")


@pytest.fixture
def command(aspects_pii: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """The command line, with this map."""
    monkeypatch.setenv("ASPECTS_PII_MAP", str(write_map(tmp_path, MAP)))
    assert aspects_pii("init").status == 0
    return aspects_pii


@pytest.fixture
def make_store(command: Any) -> Callable[[], Store]:
    """Open the store as the commands do; whoever opens it closes it."""
    return lambda: open_store(load_settings())


def write_map(folder: Path, document: dict[str, Any]) -> Path:
    path = folder / "pii.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def make_tables(store: Store, kind: str = "DateTime64(3)", order: str = "number", extra: str = "") -> None:
    store.client.execute("CREATE DATABASE logs")
    for table in ("seen", "typed"):
        store.client.execute(
            f"CREATE TABLE logs.{table} (number Int32, user_id Int64, at {kind}, ip Nullable(String), page String) "
            f"ENGINE = MergeTree ORDER BY {order} {extra}"
        )


def fill(store: Store, table: str, days: list[float], write: Callable[[datetime], Any] = lambda at: at) -> None:
    rows = [(n, n, write(NOW - timedelta(days=age)), "10.0.0.1", "/page") for n, age in enumerate(days, 1)]
    store.client.insert(store.client.table(f"logs.{table}"), COLUMNS, rows)


def numbers(store: Store, table: str, condition: str = "true") -> list[int]:
    return sorted(store.client.column(f"SELECT number FROM logs.{table} WHERE {condition}", {"apply_deleted_mask": 0}))


@pytest.mark.parametrize(
    ("kind", "write"),
    [
        ("DateTime64(9, 'Asia/Tokyo')", lambda at: at),
        ("DateTime", lambda at: at),
        ("Nullable(DateTime)", lambda at: at),
        ("Date", lambda at: at.date()),
        ("Date32", lambda at: at.date()),
        ("String", lambda at: at.isoformat(" ")),
        ("LowCardinality(String)", lambda at: at.isoformat(" ")),
    ],
)
def test_a_sweep_takes_what_is_old_and_leaves_the_rest(
    command: Any, make_store: Any, kind: str, write: Callable[[datetime], Any]
) -> None:
    with make_store() as store:
        make_tables(store, kind)
        fill(store, "seen", [400, 32, 28, 0, -1], write)
        fill(store, "typed", [400, 32, 28, 0, -1], write)
    ran = command("sweep", "--json")
    assert ran.status == 0
    assert "2 rows of logs.seen: kept for as long as the map says" in ran.err
    assert command("map", "check").status in (0, 1)
    with make_store() as store:
        assert numbers(store, "seen") == [3, 4, 5]
        assert numbers(store, "typed", "isNull(ip) AND page = '/'") == [1, 2]
        assert numbers(store, "typed", "ip = '10.0.0.1' AND page = '/page'") == [3, 4, 5]
        (entry,) = store.ledger.show(action="expired")
        assert entry.detail == {
            "rows": {"logs.seen": 2, "logs.typed": 2},
            "kept": {"logs.seen": 3, "logs.typed": 3},
        }
    # Again: nothing is due, which is on record too.
    assert command("sweep").err == ""
    with make_store() as store:
        assert store.ledger.show(action="expired")[-1].detail["rows"] == {}
        assert numbers(store, "seen") == [3, 4, 5]


def test_rows_without_a_time_stay(command: Any, make_store: Any) -> None:
    with make_store() as store:
        make_tables(store, "String")
        rows = [
            (1, 1, "", None, ""),
            (2, 2, "long ago", None, ""),
            (3, 3, "1970-01-01 00:00:00", None, ""),
            (4, 4, "2020-01-01", None, ""),
        ]
        store.client.insert(store.client.table("logs.seen"), COLUMNS, rows)
    assert command("sweep").status == 0
    ran = command("map", "check")
    assert "Warning: targets.logs.seen.retention: 2 rows have no time in at that can be read" in ran.out
    with make_store() as store:
        assert numbers(store, "seen") == [1, 2, 3]


def test_rows_of_restricted_people_stay_until_the_restriction_is_lifted(command: Any, make_store: Any) -> None:
    with make_store() as store:
        make_tables(store)
        fill(store, "seen", [400, 400, 400])
        restrict(store, [2])
    assert command("sweep").status == 0
    with make_store() as store:
        assert numbers(store, "seen") == [2]
    assert command("unrestrict", 2).status == 0
    assert command("sweep").status == 0
    with make_store() as store:
        assert numbers(store, "seen") == []


def test_statements_are_bounded_and_a_sweep_goes_on_where_the_last_one_ended(
    command: Any, make_store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expiry, "_ROWS_AT_ONCE", 2)
    monkeypatch.setattr(expiry, "_STATEMENTS", 2)
    with make_store() as store:
        make_tables(store)
        fill(store, "seen", [float(age) for age in range(31, 38)] + [1])
        found = expire(store)
        assert found is not None
        assert (found.rows["logs.seen"], found.left["logs.seen"]) == (4, 3)
        # The oldest first.
        assert numbers(store, "seen") == [1, 2, 3, 8]
        assert not is_due(store)
    ran = command("sweep")
    assert (ran.status, "3 rows of logs.seen" in ran.err) == (0, True)
    with make_store() as store:
        assert numbers(store, "seen") == [8]


def test_a_mistyped_number_takes_nothing_until_somebody_insists(command: Any, make_store: Any) -> None:
    with make_store() as store:
        make_tables(store)
        fill(store, "seen", [400.0] * 600 + [1.0] * 500)
    ran = command("sweep")
    assert (ran.status, "600 of 1,100 rows of logs.seen would go" in ran.err) == (1, True)
    with make_store() as store:
        assert len(numbers(store, "seen")) == 1100
        assert store.ledger.show(action="expired") == []
    assert command("sweep", "--force").status == 0
    with make_store() as store:
        assert len(numbers(store, "seen")) == 500


def test_without_a_retention_nothing_goes_and_nothing_is_recorded(
    command: Any, make_store: Any, tmp_path: Path
) -> None:
    document = yaml.safe_load(yaml.safe_dump(MAP))
    for name in ("logs.seen", "logs.typed"):
        del document["targets"][name]["retention"]
    with make_store() as store:
        make_tables(store)
        fill(store, "seen", [4000])
    write_map(tmp_path, document)
    assert command("sweep").status == 0
    with make_store() as store:
        assert (expire(store), is_due(store)) == (None, False)
        assert numbers(store, "seen") == [1]
        assert store.ledger.show(action="expired") == []


def test_what_cannot_be_carried_out_changes_no_table(command: Any, make_store: Any) -> None:
    with make_store() as store:
        make_tables(store, "Int64", order="(number, page)")
        with pytest.raises(ErasureError, match="at is Int64, and says no time"):
            expire(store)
        assert store.ledger.show(action="expired") == []
    ran = command("map", "check")
    assert ran.status == 1
    for place in ("seen", "typed"):
        assert f"targets.logs.{place}.retention: at is Int64, and says no time. Name a column with a date" in ran.out
    assert "targets.logs.typed.retention: page is part of the sort or partition key" in ran.out
    assert command("sweep").status == 1


@pytest.mark.parametrize(
    ("ttl", "agrees"),
    [
        ("TTL toDateTime(at) + INTERVAL 30 DAY", True),
        ("TTL at + toIntervalDay(30)", True),
        ("TTL toDateTime(at) + INTERVAL 10 DAY", False),
        ("TTL toDateTime(at) + INTERVAL 1 MONTH", False),
        ("TTL toDateTime(at) + INTERVAL 30 DAY DELETE WHERE number > 1", False),
    ],
)
def test_a_ttl_of_the_table_has_to_agree(command: Any, make_store: Any, ttl: str, agrees: bool) -> None:
    with make_store() as store:
        make_tables(store, "DateTime", extra=ttl)
    said = command("map", "check").out
    assert ("targets.logs.seen.retention: the table has a TTL of its own" in said) is not agrees
    # Columns that are emptied never agree with rows that go.
    assert "targets.logs.typed.retention: the table has a TTL of its own" in said


def test_worker_and_consumer_carry_it_out_once_a_day_and_log_what_they_cannot(
    command: Any, make_store: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with make_store() as store:
        make_tables(store)
        fill(store, "seen", [400, 1])
        assert is_due(store)
        expire_if_due(store)
        assert numbers(store, "seen") == [2]
        assert not is_due(store)
        fill(store, "seen", [400])
        expire_if_due(store)
        assert numbers(store, "seen") == [1, 2]
        store.client.execute("TRUNCATE TABLE $pii_ledger.entries")
        assert is_due(store)
        store.client.execute("DROP TABLE logs.typed")
        store.client.execute(
            "CREATE TABLE logs.typed (user_id Int64, ip String, page String) ENGINE = MergeTree ORDER BY ip"
        )
        expire_if_due(store)
        assert "there is no column at" in caplog.text
        assert numbers(store, "seen") == [1, 2]
        assert is_due(store)
