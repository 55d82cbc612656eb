"""What Aspects stores of people while PII is off: its sink of enrolments writes user names, whatever the flag says.

In the table that `init` makes they go by themselves; in the one that Aspects has made, the sweep empties them.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sink.clickhouse.migrations import load_migrations, migrate
from sink.erasure.arrivals import count_arrivals
from sink.installation import open_store
from sink.settings import load_settings
from tests.support import aspects
from tests.support.aspects_statements import ENROLMENT_ROW, SINK_SETTINGS
from tests.support.processes import wait_until

Command = Callable[..., Any]
NAMES = "SELECT groupUniqArray(username) FROM $event_sink.course_enrollment"
REPLACED_PARTS = "SELECT count() FROM system.parts WHERE table = 'course_enrollment' AND NOT active"
COLUMNS = list(aspects.MIGRATIONS["event_sink.course_enrollment"]["columns"])


def dump(url: str) -> None:
    """What upstream's command sends: every enrolment, with the columns in the order of its own table."""
    rows = [
        (n, aspects.COURSE, "2026-01-01", True, "audit", f"canary{n}", n, uuid.uuid4(), f"2026-01-01 00:00:0{n}")
        for n in range(1, 6)
    ]
    with open_store(load_settings(clickhouse_url=url)) as store:
        store.client.insert(store.client.table("event_sink.course_enrollment"), COLUMNS, rows)


def ask(url: str, sql: str) -> Any:
    with open_store(load_settings(clickhouse_url=url)) as store:
        return store.client.value(sql)


@pytest.fixture
def url(stored: Command, tmp_path: Path) -> str:
    """A store with the tables of `init`."""
    return f"chdb://{tmp_path}/clickhouse"


@pytest.fixture
def upstream(url: str) -> str:
    """The same, but for the table of enrolments, which Aspects has made; `init` has been here after it."""
    with open_store(load_settings(clickhouse_url=url)) as store:
        aspects.replace_enrolments(store.client)
        store.client.execute(
            "ALTER TABLE $pii_ledger.migrations DELETE WHERE name LIKE '0016%' SETTINGS mutations_sync = 2"
        )
        assert migrate(store.client) == ["0016_enrolments_without_names"]
    return url


def test_user_names_go_by_themselves_from_the_table_that_init_makes(url: str) -> None:
    dump(url)
    with open_store(load_settings(clickhouse_url=url)) as store:
        for number in (6, 7):
            row = ENROLMENT_ROW.format(id=number, user_id=number, username=f"canary{number}")
            store.client.execute(f"INSERT INTO $event_sink.course_enrollment FORMAT CSV {row}", SINK_SETTINGS)
        wait_until(lambda: store.client.value(NAMES) == [""])
        # And the parts that held them are off the disk.
        wait_until(lambda: not store.client.value(REPLACED_PARTS))
        assert store.client.value("SELECT uniqExact(user_id) FROM $event_sink.course_enrollment") == 7
        assert count_arrivals(store) == {}


def test_what_was_there_before_goes_when_init_comes_to_it(url: str) -> None:
    with open_store(load_settings(clickhouse_url=url)) as store:
        client = store.client
        client.execute("DROP TABLE $event_sink.course_enrollment SYNC")
        client.execute("TRUNCATE TABLE $pii_ledger.migrations")
        migrate(client, [migration for migration in load_migrations() if migration.name < "0016"])
        client.execute("INSERT INTO $event_sink.course_enrollment (id, username) VALUES (1, 'canary')")
        assert client.value(NAMES) == ["canary"]
        assert migrate(client) == ["0016_enrolments_without_names"]
        wait_until(lambda: client.value(NAMES) == [""])


def test_user_names_that_come_while_pii_is_off_are_in_status_and_the_sweep_empties_them(
    stored: Command, upstream: str
) -> None:
    assert stored("purge", "--yes").status == 0
    assert stored("status").status == 0
    dump(upstream)
    ran = stored("status")
    assert ran.status == 1
    assert "other software has stored it in 5 rows of event_sink.course_enrollment" in ran.err
    swept = stored("sweep")
    assert (swept.status, ask(upstream, NAMES)) == (0, [""])
    assert "5 rows of event_sink.course_enrollment" in swept.err
    assert ask(upstream, "SELECT count() FROM $event_sink.course_enrollment") == 5
    assert stored("status").status == 0
    entries = stored("ledger", "show", "--action", "emptied", "--json").json
    assert [entry["detail"] for entry in entries] == [{"rows": {"event_sink.course_enrollment": 5}}]


def test_a_sweep_with_nothing_to_empty_writes_nothing(stored: Command) -> None:
    assert stored("sweep").status == 0
    assert stored("ledger", "show", "--json").json == []


def test_user_names_stay_in_the_table_of_aspects_while_pii_is_on(stored: Command, upstream: str) -> None:
    dump(upstream)
    assert stored("sweep", ENABLE_PII="true").status == 0
    assert len(ask(upstream, NAMES)) == 5


def test_only_plain_redactions_by_id_are_carried_out_for_everybody(url: str) -> None:
    with open_store(load_settings(clickhouse_url=url)) as store:
        assert [name for name, target in store.pii_map.targets.items() if target.empty_while_off] == [
            "event_sink.course_enrollment"
        ]
        assert count_arrivals(store) == {}
