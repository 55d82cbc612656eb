"""Views that a refresh fills anew, and what else is built on the targets: forgotten, and never damaged."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from sink.clickhouse.client import ClickHouse
from sink.erasure.derived import read_dependents
from sink.erasure.identities import Identities
from sink.erasure.purge import plan_purge, purge
from sink.erasure.verify import verify_subjects
from sink.errors import ErasureError, ReadOnlyError
from sink.pii_map import Derived
from sink.retirement.retire import retire, sweep
from sink.store import Store
from tests.support.coverage_page import covers

CANARY = "Canary-Ibex"


@pytest.fixture
def people(store: Store) -> Store:
    """Ten people, of whom the first is the canary."""
    store.client.insert(
        store.client.table("event_sink.user_profile"),
        ["user_id", "name"],
        [(1, CANARY), *((n, f"Somebody {n}") for n in range(2, 11))],
    )
    return store


def make_view(store: Store, name: str, key: str = "user_id", to: str = "") -> None:
    """A refreshable view of the names of people, filled once."""
    storage = f"TO {to}" if to else "ENGINE = MergeTree ORDER BY tuple()"
    columns = f"({key} Int64, n String CODEC(NONE))"
    store.client.execute(
        f"CREATE MATERIALIZED VIEW {name} REFRESH EVERY 1 YEAR {'' if to else columns} {storage} "
        f"AS SELECT user_id AS {key}, name AS n FROM $event_sink.user_profile"
    )
    store.client.execute(f"SYSTEM WAIT VIEW {name}")


def count(store: Store, table: str) -> int:
    return int(store.client.value(f"SELECT count() FROM {table}"))


def find_files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and CANARY.encode() in path.read_bytes()]


def test_a_comment_does_not_make_an_ordinary_view_refreshable(people: Store) -> None:
    people.client.execute(
        "CREATE TABLE $reporting.log (user_id Int64, n String) ENGINE = MergeTree ORDER BY user_id",
    )
    people.client.execute(
        "CREATE MATERIALIZED VIEW $reporting.filler TO $reporting.log AS SELECT user_id, name AS n "
        "FROM $event_sink.user_profile COMMENT 'once this was REFRESH EVERY 1 DAY'"
    )
    people.client.execute("INSERT INTO $reporting.log SELECT 100 + number, 'text' FROM numbers(10)")
    assert retire(people, [1])[0].is_done
    assert count(people, "$reporting.log") == 10


def test_a_view_called_append_is_refreshed(people: Store) -> None:
    make_view(people, "$reporting.`APPEND`")
    assert retire(people, [1])[0].is_done
    assert count(people, "$reporting.`APPEND`") == 9


@covers("place", "refreshable views and their replaced copies", "erased")
def test_no_file_holds_who_was_in_a_view_and_the_replaced_copy_leaves_the_disk(people: Store, tmp_path: Path) -> None:
    make_view(people, "$reporting.names")
    outcome = retire(people, [1])[0]
    assert outcome.is_done, outcome.reason
    assert outcome.receipt is not None
    assert not any("replaced copies" in line for line in outcome.receipt["not_covered"])
    assert count(people, "$reporting.names") == 9
    assert find_files(tmp_path) == []
    assert people.client.value("SELECT count() FROM system.dropped_tables WHERE table LIKE '.tmp.inner%'") == 0
    assert people.client.value("SELECT count() FROM system.tables WHERE name LIKE '.tmp.inner%'") == 0


@covers("moment", "a refresh under way", "erased")
def test_a_refresh_that_began_before_the_erasure_brings_nobody_back(people: Store) -> None:
    people.client.execute(
        "CREATE MATERIALIZED VIEW $reporting.slow REFRESH EVERY 1 YEAR ENGINE = MergeTree ORDER BY who EMPTY AS "
        "SELECT user_id AS who, sleepEachRow(0.25) AS slept FROM $event_sink.user_profile"
    )
    people.client.execute("SYSTEM REFRESH VIEW $reporting.slow")
    assert retire(people, [1])[0].is_done
    assert people.client.column("SELECT who FROM $reporting.slow ORDER BY who") == list(range(2, 11))


def test_a_search_of_texts_looks_at_every_database(people: Store) -> None:
    people.client.execute("CREATE DATABASE beside")
    people.client.execute("CREATE TABLE beside.notes (n Int64, t String) ENGINE = MergeTree ORDER BY n")
    people.client.execute("INSERT INTO $event_sink.user_profile (user_id, username) SELECT 50, 'canary_ibex_50'")
    people.client.execute("INSERT INTO beside.notes SELECT 1, 'seen: canary_ibex_50'")
    outcome = retire(people, [50], scan=True)[0]
    assert not outcome.is_done
    assert "beside.notes.t" in outcome.reason


@covers("place", "refreshable views into a table", "erased")
def test_a_view_into_a_table_is_refreshed_and_the_replaced_table_leaves_the_disk(people: Store) -> None:
    people.client.execute("CREATE TABLE $reporting.t (user_id Int64, n String) ENGINE = MergeTree ORDER BY user_id")
    make_view(people, "$reporting.names", to="$reporting.t")
    outcome = retire(people, [1])[0]
    assert outcome.is_done, outcome.reason
    assert people.client.column("SELECT user_id FROM $reporting.t ORDER BY user_id") == list(range(2, 11))
    assert people.client.value("SELECT count() FROM system.dropped_tables WHERE table LIKE '.tmp.inner%'") == 0


@covers("place", "stopped views", "open")
def test_a_stopped_view_keeps_its_rows_and_the_retirement_stays_open(people: Store) -> None:
    make_view(people, "$reporting.names")
    people.client.execute("SYSTEM STOP VIEW $reporting.names")
    outcome, other = retire(people, [1, 999])
    assert not outcome.is_done
    assert "SYSTEM START VIEW reporting.names" in outcome.reason
    assert other.is_done, "who is not in the view is not held up by it"
    assert count(people, "$reporting.names") == 10
    people.client.execute("SYSTEM START VIEW $reporting.names")
    assert [swept.is_done for swept in sweep(people)] == [True]
    assert count(people, "$reporting.names") == 9


def test_a_stopped_view_in_which_nobody_can_be_looked_for_holds_up_everybody(people: Store) -> None:
    make_view(people, "$reporting.names", key="who")
    people.client.execute("SYSTEM STOP VIEW $reporting.names")
    assert not any(outcome.is_done for outcome in retire(people, [1, 999]))
    report = verify_subjects(people, [1])
    assert any("the view is stopped" in str(finding) for finding in report.findings)
    assert count(people, "$reporting.names") == 10


@covers("place", "views whose refresh fails", "open")
def test_a_view_whose_refresh_fails_keeps_its_rows_and_the_retirement_stays_open(people: Store) -> None:
    people.client.execute(
        "CREATE MATERIALIZED VIEW $reporting.names REFRESH EVERY 1 YEAR ENGINE = MergeTree ORDER BY user_id AS SELECT "
        "user_id, name AS n, throwIf((SELECT count() FROM $event_sink.user_profile) < 10) AS x FROM $event_sink.user_profile"
    )
    people.client.execute("SYSTEM WAIT VIEW $reporting.names")
    outcome = retire(people, [1])[0]
    assert not outcome.is_done
    assert "last refresh failed" in outcome.reason
    assert CANARY not in outcome.reason
    assert count(people, "$reporting.names") == 10
    people.client.execute("DROP TABLE $reporting.names SYNC")
    assert [swept.is_done for swept in sweep(people)] == [True]


def test_a_view_of_its_own_history_loses_no_row(people: Store) -> None:
    people.client.execute("CREATE TABLE $reporting.h (day Int64, n UInt64) ENGINE = MergeTree ORDER BY day")
    people.client.execute("INSERT INTO $reporting.h SELECT number, 10 FROM numbers(10)")
    people.client.execute(
        "CREATE MATERIALIZED VIEW $reporting.history REFRESH EVERY 1 YEAR TO $reporting.h EMPTY AS "
        "SELECT day, n FROM $reporting.h UNION ALL "
        "SELECT toInt64(99) AS day, count() AS n FROM $event_sink.user_profile"
    )
    outcome = retire(people, [1])[0]
    assert outcome.is_done, outcome.reason
    assert people.client.column("SELECT day FROM $reporting.h ORDER BY day") == list(range(10))


@covers("place", "views that append", "left")
def test_a_view_that_appends_is_left_alone(people: Store) -> None:
    people.client.execute("CREATE TABLE $reporting.h (user_id Int64, n String) ENGINE = MergeTree ORDER BY user_id")
    people.client.execute(
        "CREATE MATERIALIZED VIEW $reporting.log REFRESH EVERY 1 YEAR APPEND TO $reporting.h AS "
        "SELECT user_id, 'seen' AS n FROM $event_sink.user_profile"
    )
    people.client.execute("SYSTEM WAIT VIEW $reporting.log")
    retire(people, [1])
    assert count(people, "$reporting.h") == 10


def test_a_view_on_a_view_is_refreshed_after_it(people: Store) -> None:
    make_view(people, "$reporting.z_first")
    people.client.execute(
        "CREATE MATERIALIZED VIEW $reporting.a_second REFRESH EVERY 1 YEAR ENGINE = MergeTree ORDER BY user_id AS "
        "SELECT user_id, n FROM $reporting.z_first"
    )
    people.client.execute("SYSTEM WAIT VIEW $reporting.a_second")
    outcome = retire(people, [1])[0]
    assert outcome.is_done, outcome.reason
    assert outcome.receipt is not None
    assert outcome.receipt["reloaded"] == ["reporting.z_first", "reporting.a_second"]
    assert count(people, "$reporting.a_second") == 9


def test_purge_leaves_no_copy_and_says_where_it_cannot(people: Store) -> None:
    make_view(people, "$reporting.names")
    people.client.execute("SYSTEM STOP VIEW $reporting.names")
    with pytest.raises(ErasureError, match=r"reporting\.names holds \(the view is stopped"):
        purge(people, plan_purge(people, []), enabled=False)
    assert count(people, "$reporting.names") == 10
    people.client.execute("SYSTEM START VIEW $reporting.names")
    purge(people, plan_purge(people, []), enabled=False)
    assert count(people, "$reporting.names") == 0
    assert people.client.value("SELECT count() FROM system.dropped_tables WHERE table LIKE '.tmp.inner%'") == 0


@covers("place", "replaced copies that may not be dropped", "listed")
def test_a_copy_that_may_not_be_dropped_is_in_the_receipt(people: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    make_view(people, "$reporting.names")
    execute = ClickHouse.execute

    def refuse(self: ClickHouse, sql: str, *arguments: Any, **values: Any) -> None:
        if sql.startswith("UNDROP"):
            raise ReadOnlyError
        execute(self, sql, *arguments, **values)

    monkeypatch.setattr(ClickHouse, "execute", refuse)
    outcome = retire(people, [1])[0]
    assert outcome.is_done
    assert outcome.receipt is not None
    assert any("replaced copies of reporting.names" in line for line in outcome.receipt["not_covered"])
    assert count(people, "$reporting.names") == 9
    left = purge(people, plan_purge(people, []), enabled=False)
    assert "replaced copies of reporting.names" in left.copies[0]


def test_what_an_interruption_brought_back_is_dropped_the_next_time(people: Store) -> None:
    make_view(people, "$reporting.names")
    people.client.execute("SYSTEM REFRESH VIEW $reporting.names")
    people.client.execute("SYSTEM WAIT VIEW $reporting.names")
    copy = people.client.value("SELECT any(table) FROM system.dropped_tables WHERE table LIKE '.tmp.inner%'")
    people.client.execute(f"UNDROP TABLE $reporting.`{copy}`")
    assert retire(people, [1])[0].is_done
    assert people.client.value("SELECT count() FROM system.tables WHERE name = {copy:String}", copy=copy) == 0


BUILT_ON = {
    "in another database": (
        ["CREATE DATABASE beside"],
        "CREATE DICTIONARY beside.d (user_id UInt64, name String) PRIMARY KEY user_id SOURCE(CLICKHOUSE("
        "DB 'event_sink' TABLE 'user_profile')) LIFETIME(MIN 3600 MAX 7200) LAYOUT(HASHED())",
        "beside.d",
    ),
    "in default": (
        [],
        "CREATE DICTIONARY default.d (user_id UInt64, name String) PRIMARY KEY user_id SOURCE(CLICKHOUSE("
        "DB 'event_sink' TABLE 'user_profile')) LIFETIME(MIN 3600 MAX 7200) LAYOUT(HASHED())",
        "default.d",
    ),
    "through merge()": (
        [],
        "CREATE DICTIONARY $reporting.d (user_id UInt64, name String) PRIMARY KEY user_id SOURCE(CLICKHOUSE(QUERY "
        "'SELECT user_id, name FROM merge(\\'event_sink\\', \\'^user_prof\\')')) LIFETIME(MIN 3600 MAX 7200) LAYOUT(HASHED())",
        "reporting.d",
    ),
    "through a named collection": (
        ["CREATE NAMED COLLECTION IF NOT EXISTS people AS db = 'event_sink', `table` = 'user_profile'"],
        "CREATE DICTIONARY $reporting.d (user_id UInt64, name String) PRIMARY KEY user_id SOURCE(CLICKHOUSE(NAME people)) "
        "LIFETIME(MIN 3600 MAX 7200) LAYOUT(HASHED())",
        "reporting.d",
    ),
    "through a Merge table": (
        ["CREATE TABLE $reporting.m AS $event_sink.user_profile ENGINE = Merge('event_sink', '^user_profile$')"],
        "CREATE DICTIONARY $reporting.d (user_id UInt64, name String) PRIMARY KEY user_id SOURCE(CLICKHOUSE("
        "DB 'reporting' TABLE 'm')) LIFETIME(MIN 3600 MAX 7200) LAYOUT(HASHED())",
        "reporting.d",
    ),
    "through a Buffer table": (
        [
            "CREATE TABLE $reporting.b AS $event_sink.user_profile "
            "ENGINE = Buffer('event_sink', 'user_profile', 1, 10, 100, 10, 100, 1000, 10000)"
        ],
        "CREATE DICTIONARY $reporting.d (user_id UInt64, name String) PRIMARY KEY user_id SOURCE(CLICKHOUSE("
        "DB 'reporting' TABLE 'b')) LIFETIME(MIN 3600 MAX 7200) LAYOUT(HASHED())",
        "reporting.d",
    ),
}


@pytest.mark.parametrize("how", BUILT_ON)
@covers("place", "dictionaries in any database, through merge(), a named collection, Merge and Buffer tables", "erased")
def test_a_dictionary_forgets_the_subject(people: Store, how: str) -> None:
    before, dictionary, name = BUILT_ON[how]
    for statement in (*before, dictionary):
        people.client.execute(statement)
    assert count(people, name) == 10
    outcome = retire(people, [1])[0]
    assert outcome.is_done, outcome.reason
    assert outcome.receipt is not None
    assert name in outcome.receipt["reloaded"]
    assert people.client.value(f"SELECT dictHas('{name}', 1)") == 0


def test_a_dictionary_over_something_else_is_not_reloaded(people: Store) -> None:
    people.client.execute(
        "CREATE DICTIONARY $reporting.courses (id UInt64, title String) PRIMARY KEY id SOURCE(CLICKHOUSE("
        "QUERY 'SELECT 1 AS id, \\'name\\' AS title')) LIFETIME(0) LAYOUT(HASHED())"
    )
    assert "reporting.courses" not in {str(dependent.table.name) for dependent in read_dependents(people)}


def make_dictionary(store: Store, key: str = "user_id") -> None:
    """A dictionary of a copy of the profiles; `store` has the copy in its map."""
    store.client.execute(
        f"CREATE DICTIONARY $reporting.d ({key} UInt64, name String) PRIMARY KEY {key} SOURCE(CLICKHOUSE("
        f"QUERY 'SELECT user_id AS {key}, name FROM event_sink.user_profile')) LIFETIME(0) LAYOUT(HASHED())"
    )


def break_dictionaries(store: Store, patch: pytest.MonkeyPatch) -> None:
    """No dictionary can read its source: nobody has the rights that it needs any more, say."""
    real = store.client.execute

    def execute(sql: str, *arguments: Any, **values: Any) -> None:
        is_reload = sql.startswith("SYSTEM RELOAD DICTIONARY")
        if is_reload:
            real("ALTER TABLE $event_sink.user_profile RENAME COLUMN name TO called")
        try:
            real(sql, *arguments, **values)
        finally:
            if is_reload:
                real("ALTER TABLE $event_sink.user_profile RENAME COLUMN called TO name")

    patch.setattr(store.client, "execute", execute)


@covers("place", "dictionaries that could never read their source", "left")
def test_a_dictionary_that_was_never_loaded_stops_nobody(people: Store) -> None:
    people.client.execute(
        "CREATE DICTIONARY $reporting.d (user_id UInt64, missing String) PRIMARY KEY user_id SOURCE(CLICKHOUSE("
        "DB 'event_sink' TABLE 'user_profile')) LIFETIME(0) LAYOUT(HASHED())"
    )
    (outcome,) = retire(people, [1], scan=True, known=Identities({"1": {"username": frozenset(["ibex-4711"])}}))
    assert outcome.is_done, outcome.reason
    assert outcome.receipt is not None
    assert "reporting.d" not in outcome.receipt["reloaded"]
    purge(people, plan_purge(people, []), enabled=False)


@covers("place", "dictionaries that cannot be reloaded", "open")
def test_a_dictionary_that_cannot_be_reloaded_keeps_open_whom_it_serves(
    people: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_dictionary(people)
    assert count(people, "reporting.d") == 10
    with monkeypatch.context() as patch:
        break_dictionaries(people, patch)
        outcome, other = retire(people, [1, 999])
        assert not outcome.is_done
        assert "the dictionary could not be reloaded" in outcome.reason
        assert other.is_done, "who is not in the dictionary is not held up by it"
    assert [swept.is_done for swept in sweep(people)] == [True]
    assert people.client.value("SELECT dictHas('reporting.d', 1)") == 0


def test_a_dictionary_in_which_nobody_can_be_looked_for_holds_up_everybody(
    people: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_dictionary(people, key="who")
    assert count(people, "reporting.d") == 10
    break_dictionaries(people, monkeypatch)
    outcomes = retire(people, [1, 999])
    assert len(outcomes) == 2
    assert all("the dictionary could not be reloaded" in outcome.reason for outcome in outcomes)
    with pytest.raises(ErasureError, match="the dictionary could not be reloaded"):
        purge(people, plan_purge(people, []), enabled=False)


def test_a_view_without_the_column_that_the_map_names_is_told(people: Store) -> None:
    people.client.execute(
        "CREATE VIEW $reporting.named AS SELECT user_id, name FROM $event_sink.user_profile WHERE name = {wanted:String}"
    )
    derived = {**people.pii_map.derived, "reporting.named": Derived(match={"user_id": "id"})}
    store = dataclasses.replace(people, pii_map=people.pii_map.model_copy(update={"derived": derived}))
    (outcome,) = retire(store, [1])
    assert outcome.state == "failed"
    assert "reporting.named: it has no column user_id by which anybody can be looked for" in outcome.reason
