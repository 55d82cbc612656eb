"""What Aspects stores of people while PII is off: its sink of enrolments writes user names, whatever the flag says."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sink.erasure.arrivals import count_arrivals
from sink.installation import open_store
from sink.settings import load_settings
from tests.support import aspects

Command = Callable[..., Any]
NAMES = "SELECT groupUniqArray(username) FROM $event_sink.course_enrollment"
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


def test_user_names_that_come_while_pii_is_off_are_in_status_and_the_sweep_empties_them(
    stored: Command, url: str
) -> None:
    assert stored("purge", "--yes").status == 0
    assert stored("status").status == 0
    dump(url)
    ran = stored("status")
    assert ran.status == 1
    assert "other software has stored it in 5 rows of event_sink.course_enrollment" in ran.err
    swept = stored("sweep")
    assert (swept.status, ask(url, NAMES)) == (0, [""])
    assert "5 rows of event_sink.course_enrollment" in swept.err
    assert ask(url, "SELECT count() FROM $event_sink.course_enrollment") == 5
    assert stored("status").status == 0
    entries = stored("ledger", "show", "--action", "emptied", "--json").json
    assert [entry["detail"] for entry in entries] == [{"rows": {"event_sink.course_enrollment": 5}}]


def test_a_sweep_with_nothing_to_empty_writes_nothing(stored: Command) -> None:
    assert stored("sweep").status == 0
    assert stored("ledger", "show", "--json").json == []


def test_user_names_of_enrolments_stay_while_pii_is_on(stored: Command, url: str) -> None:
    dump(url)
    assert stored("sweep", ENABLE_PII="true").status == 0
    assert len(ask(url, NAMES)) == 5


def test_only_plain_redactions_by_id_are_carried_out_for_everybody(url: str) -> None:
    with open_store(load_settings(clickhouse_url=url)) as store:
        assert [name for name, target in store.pii_map.targets.items() if target.empty_while_off] == [
            "event_sink.course_enrollment"
        ]
        assert count_arrivals(store) == {}
