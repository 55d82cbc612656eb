"""Nothing but the subject is touched: each way in which rows of others were once lost, doubled or changed."""

from __future__ import annotations

import dataclasses
import json
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from sink.clickhouse.connection import ENGINE_OPTIONS
from sink.erasure.coverage import check_map
from sink.erasure.problems import Problem
from sink.erasure.pseudonyms import keyed_hash, spell_as_before
from sink.erasure.purge import plan_purge, purge
from sink.erasure.reassign import reassign
from sink.erasure.verify import verify_subjects
from sink.erasure.work import find_works
from sink.errors import ErasureError, MapError, QueryError, RefusedError, SettingsError
from sink.installation import open_store
from sink.pii_map import PiiMap
from sink.retirement.retire import retire, sweep
from sink.retirement.status import read_status
from sink.settings import Settings
from sink.store import Store
from tests.support.coverage_page import covers
from tests.support.erasure_model import Killed, Killer

NAMES = {"redact": {"username": "constant"}}
PSEUDONYMS = {"redact": {"username": "pseudonym"}}

WithTarget = Callable[..., Store]


@pytest.fixture
def with_target(store: Store) -> WithTarget:
    """A store with three users and one table: columns and engine as in CREATE TABLE, and a rule."""

    def make(
        definition: str, on_retire: Any, match: dict[str, str] | None = None, rows: str = "", **target: Any
    ) -> Store:
        store.client.execute(f"CREATE TABLE $event_sink.answers {definition}")
        if rows:
            store.client.execute(f"INSERT INTO $event_sink.answers {rows}", {"optimize_on_insert": 0})
        store.client.insert(
            store.client.table("event_sink.user_profile"),
            ["user_id", "username", "email", "name"],
            [(u, f"user{u}", f"user{u}@example.com", f"User {u}") for u in (1, 2, 3)],
        )
        document = store.pii_map.model_dump(include={"version", "subject", "targets"}, mode="json")
        pii = dict.fromkeys([*on_retire["redact"]], "username") if "redact" in on_retire else {"username": "username"}
        document["targets"] = {
            name: document["targets"][name] for name in ("event_sink.user_profile", "event_sink.external_id")
        }
        document["targets"]["event_sink.answers"] = {
            "match": match or {"username": "username"},
            "pii": {**pii, **target.pop("pii", {})},
            "on_retire": on_retire,
            **target,
        }
        return dataclasses.replace(store, pii_map=PiiMap.model_validate(document))

    return make


def find_problems(store: Store) -> list[Problem]:
    return [problem for problem in check_map(store).problems if problem.place.startswith("targets.")]


def kill_a_hand_over(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hand over from 1 to 2 in a process that dies before the new rows are attached."""
    real = store.client.execute

    def stop(sql: str, *arguments: Any, **values: Any) -> None:
        if "ATTACH PARTITION" in sql:
            raise Killed
        real(sql, *arguments, **values)

    with monkeypatch.context() as patch:
        patch.setattr(store.client, "execute", stop)
        with pytest.raises(Killed):
            reassign(store, 1, 2)


def read_answers(store: Store, columns: str = "*") -> Counter[Any]:
    return Counter(store.client.rows(f"SELECT {columns} FROM $event_sink.answers"))


@covers("type", "rows that become alike", "erased")
def test_rows_that_become_alike_are_kept_one_by_one(with_target: WithTarget) -> None:
    rows = "VALUES ('c1','user1','yes'), ('c1','user1','yes'), ('c1','user2','yes'), ('c1','user2','a unique answer')"
    store = with_target(
        "(course String, username String, answer String) ENGINE = MergeTree ORDER BY course", NAMES, rows=rows
    )
    assert [outcome.state for outcome in retire(store, [1])] == ["erased"]
    assert [outcome.state for outcome in retire(store, [2])] == ["erased"]
    assert read_answers(store) == {
        ("c1", "Deleted User", "yes"): 3,
        ("c1", "Deleted User", "a unique answer"): 1,
    }


def test_a_purge_keeps_every_row_that_it_makes_like_another(with_target: WithTarget) -> None:
    rows = "SELECT 'c1', concat('user', toString(number)), 'yes' FROM numbers(3000)"
    store = with_target(
        "(course String, username String, answer String) ENGINE = MergeTree ORDER BY course", NAMES, rows=rows
    )
    purge(store, plan_purge(store, []), enabled=False)
    assert read_answers(store) == {("c1", "Deleted User", "yes"): 3000}


@covers("key", "Nullable sort keys with NULL", "erased")
def test_rows_with_nulls_in_the_sort_key_stay_as_many(with_target: WithTarget) -> None:
    rows = "SELECT if(number % 2, NULL, 'c'), concat('user', toString(number % 3 + 1)) FROM numbers(30)"
    definition = (
        "(course Nullable(String), username String) ENGINE = MergeTree ORDER BY (course, username) "
        "SETTINGS allow_nullable_key = 1"
    )
    store = with_target(definition, PSEUDONYMS, rows=rows)
    assert [outcome.state for outcome in retire(store, [1])] == ["erased"]
    found = read_answers(store)
    assert found.total() == 30
    assert {username for _, username in found if username.startswith("user")} == {"user2", "user3"}
    assert found[None, "user2"] == found["c", "user2"] == 5


@covers("engine", "MergeTree with a TTL", "erased")
def test_rows_that_a_ttl_is_about_to_drop_block_nothing(with_target: WithTarget) -> None:
    rows = "SELECT 'c', 'user1', now() - toIntervalDay(number) FROM numbers(10)"
    definition = "(course String, username String, at DateTime) ENGINE = MergeTree ORDER BY (course, username)"
    store = with_target(definition, PSEUDONYMS, rows=rows)
    store.client.execute("SYSTEM STOP TTL MERGES $event_sink.answers")
    store.client.execute("SYSTEM STOP MERGES $event_sink.answers")
    store.client.execute(
        "ALTER TABLE $event_sink.answers MODIFY TTL at + INTERVAL 5 DAY SETTINGS materialize_ttl_after_modify = 0"
    )
    store.client.execute("SYSTEM START MERGES $event_sink.answers")
    assert [outcome.state for outcome in retire(store, [1])] == ["erased"]
    found = read_answers(store, "username")
    assert set(found.values()) <= {5, 6, 10}
    assert ("user1",) not in found


@pytest.mark.parametrize("on_retire", [NAMES, {"delete": True}], ids=["redact", "delete"])
@pytest.mark.parametrize("match", [{"username": "username"}, {"user_id": "id"}], ids=["by name", "by id"])
@covers("engine", "MergeTree with projections", "erased")
def test_a_table_with_a_projection_is_erased_like_any_other(
    with_target: WithTarget, on_retire: dict[str, Any], match: dict[str, str]
) -> None:
    definition = (
        "(user_id Int64, username String, PROJECTION p (SELECT username, count() GROUP BY username)) "
        "ENGINE = MergeTree ORDER BY user_id"
    )
    rows = "SELECT number % 3 + 1, concat('user', toString(number % 3 + 1)) FROM numbers(30)"
    store = with_target(definition, on_retire, match, rows)
    assert find_problems(store) == []
    assert [outcome.state for outcome in retire(store, [1])] == ["erased"]
    found = read_answers(store)
    assert found[2, "user2"] == found[3, "user3"] == 10
    assert found.total() == (20 if "delete" in on_retire else 30)
    counted = store.client.rows("SELECT username, count() FROM $event_sink.answers GROUP BY username")
    assert "user1" not in dict(counted)


@covers("engine", "SummingMergeTree, columns outside its key", "erased")
def test_summing_rows_are_redacted_without_being_added_twice(with_target: WithTarget) -> None:
    definition = "(course String, username String, n Int64) ENGINE = SummingMergeTree(n) ORDER BY (course)"
    store = with_target(definition, NAMES, rows="VALUES ('a', 'user1', 6), ('b', 'user1', 12), ('c', 'user2', 1)")
    assert [outcome.state for outcome in retire(store, [1])] == ["erased"]
    store.client.execute("OPTIMIZE TABLE $event_sink.answers FINAL")
    assert read_answers(store) == {("a", "Deleted User", 6): 1, ("b", "Deleted User", 12): 1, ("c", "user2", 1): 1}


@pytest.mark.parametrize("engine", ["SummingMergeTree(n)", "CollapsingMergeTree(n)"])
@covers("engine", "SummingMergeTree and CollapsingMergeTree, columns of their keys", "refused")
def test_new_sort_keys_are_refused_where_the_engine_would_add_rows_up(with_target: WithTarget, engine: str) -> None:
    definition = f"(course String, username String, n Int8) ENGINE = {engine} ORDER BY (course, username)"
    store = with_target(definition, PSEUDONYMS, rows="VALUES ('a', 'user1', 1)")
    problems = find_problems(store)
    assert len(problems) == 1
    assert "could add rows with a new key to those of others" in str(problems[0])
    with pytest.raises(MapError):
        plan_purge(store, [])


@covers("engine", "handing over in engines that add rows up", "refused")
def test_handing_over_is_refused_where_the_engine_would_add_rows_up(with_target: WithTarget) -> None:
    definition = (
        "(course String, owner Int64, username String, n Int64) ENGINE = SummingMergeTree(n) ORDER BY (course, owner)"
    )
    rows = "VALUES ('a', 1, 'user1', 18), ('a', 2, 'user2', 6)"
    store = with_target(definition, NAMES, {"owner": "id"}, rows, owned=True)
    with pytest.raises(RefusedError, match="sort or partition key"):
        reassign(store, 1, 2)
    assert read_answers(store) == {("a", 1, "user1", 18): 1, ("a", 2, "user2", 6): 1}


def test_handing_over_is_refused_where_the_heirs_rows_could_be_replaced(with_target: WithTarget) -> None:
    columns = "(owner Int64, course String, username String, ver UInt32)"
    definition = f"{columns} ENGINE = ReplacingMergeTree(ver) ORDER BY (owner, course)"
    store = with_target(
        definition, NAMES, {"owner": "id"}, "VALUES (1, 'c', 'user1', 5), (2, 'c', 'user2', 1)", owned=True
    )
    with pytest.raises(RefusedError, match="replace those of others"):
        reassign(store, 1, 2)
    assert read_answers(store) == {(1, "c", "user1", 5): 1, (2, "c", "user2", 1): 1}


def test_rows_of_the_heir_that_come_between_a_copy_and_its_attaching_take_nobodys_place(
    with_target: WithTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    definition = "(owner Int64, username String, course String) ENGINE = MergeTree ORDER BY (owner, course)"
    rows = "VALUES (1, 'user1', 'c1'), (1, 'user1', 'c2'), (3, 'user3', 'c1')"
    store = with_target(definition, {"redact": {"username": "empty"}}, {"owner": "id"}, rows, owned=True)
    real = store.client.execute

    def write_first(sql: str, *arguments: Any, **values: Any) -> None:
        if "ATTACH PARTITION" in sql:
            real("INSERT INTO $event_sink.answers VALUES (2, 'user2', 'c1'), (2, 'user2', 'c2')")
        real(sql, *arguments, **values)

    monkeypatch.setattr(store.client, "execute", write_first)
    reassign(store, 1, 2)
    assert read_answers(store) == {(2, "user2", "c1"): 2, (2, "user2", "c2"): 2, (3, "user3", "c1"): 1}


def test_rows_of_the_heir_that_come_after_a_kill_take_nobodys_place(
    with_target: WithTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    definition = "(owner Int64, username String, course String) ENGINE = MergeTree ORDER BY (owner, course)"
    rows = "VALUES (1, 'user1', 'c1'), (1, 'user1', 'c2')"
    store = with_target(definition, {"redact": {"username": "empty"}}, {"owner": "id"}, rows, owned=True)
    real = store.client.execute
    kill_a_hand_over(store, monkeypatch)
    real(
        "ALTER TABLE $event_sink.answers MODIFY SETTING max_bytes_to_merge_at_max_space_in_pool = 1, "
        "max_bytes_to_merge_at_min_space_in_pool = 1"
    )
    real("INSERT INTO $event_sink.answers VALUES (2, 'user2', 'c1')")
    real("INSERT INTO $event_sink.answers VALUES (2, 'user2', 'c2')")
    assert sweep(store) == []
    assert read_answers(store) == {(2, "user2", "c1"): 2, (2, "user2", "c2"): 2}


def test_a_ttl_of_a_column_doubles_no_row(with_target: WithTarget) -> None:
    definition = (
        "(course String, username String, note String TTL at + INTERVAL 1 DAY, at DateTime) "
        "ENGINE = MergeTree ORDER BY (course, username)"
    )
    store = with_target(definition, PSEUDONYMS)
    store.client.execute(
        "ALTER TABLE $event_sink.answers MODIFY SETTING max_bytes_to_merge_at_max_space_in_pool = 1, "
        "max_bytes_to_merge_at_min_space_in_pool = 1"
    )
    store.client.execute("SYSTEM STOP TTL MERGES $event_sink.answers")
    store.client.execute(
        "INSERT INTO $event_sink.answers SELECT 'c', concat('user', toString(number % 3 + 1)), 'n', toDateTime('2020-01-01') "
        "FROM numbers(9)"
    )
    assert [outcome.state for outcome in retire(store, [1])] == ["erased"]
    sweep(store)
    assert read_answers(store, "username").total() == 9


def test_a_table_that_is_detached_meanwhile_keeps_what_it_takes_to_go_on(
    with_target: WithTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = "SELECT 'c', concat('user', toString(number % 3 + 1)) FROM numbers(9)"
    store = with_target(
        "(course String, username String) ENGINE = MergeTree ORDER BY (course, username)", PSEUDONYMS, rows=rows
    )
    real = store.client.execute
    killed: list[str] = []

    def stop(sql: str, *arguments: Any, **values: Any) -> None:
        if killed or "DELETE FROM `event_sink`.`answers`" in sql:
            killed.append(sql)
            raise Killed
        real(sql, *arguments, **values)

    with monkeypatch.context() as patch:
        patch.setattr(store.client, "execute", stop)
        with pytest.raises(Killed):
            retire(store, [1])
    store.client.execute("TRUNCATE TABLE $pii_ledger.leases")
    store.client.execute("DETACH TABLE $event_sink.answers")
    assert [outcome.state for outcome in sweep(store)] == ["failed"]
    assert len(find_works(store.client)) == 1
    store.client.execute("ATTACH TABLE $event_sink.answers")
    assert [outcome.state for outcome in sweep(store)] == ["erased"]
    found = read_answers(store)
    assert found.total() == 9
    assert found["c", "user2"] == found["c", "user3"] == 3
    assert find_works(store.client) == []


def test_a_mutation_whose_helpers_somebody_has_dropped_stops_nobody(with_target: WithTarget) -> None:
    rows = "SELECT 'c', concat('user', toString(number % 3 + 1)) FROM numbers(9)"
    store = with_target("(course String, username String) ENGINE = MergeTree ORDER BY course", NAMES, rows=rows)
    helper = "`pii_ledger`.`erasing_0123456789abcdef_values`"
    store.client.execute(f"CREATE TABLE {helper} (username String) ENGINE = MergeTree ORDER BY username")
    store.client.execute("SYSTEM STOP MERGES $event_sink.answers")
    store.client.execute(
        "ALTER TABLE $event_sink.answers UPDATE username = 'x' WHERE username IN (SELECT username FROM "
        f"{helper}) AND course = 'c'",
        {"allow_nondeterministic_mutations": 1, "mutations_sync": 0},
    )
    store.client.execute(f"DROP TABLE {helper} SYNC")
    store.client.execute("SYSTEM START MERGES $event_sink.answers")
    deadline = time.monotonic() + 30
    failing = "SELECT count() FROM system.mutations WHERE NOT is_done AND latest_fail_reason != ''"
    while not store.client.value(failing) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert [outcome.state for outcome in retire(store, [1])] == ["erased"]
    assert {username for _, username in read_answers(store)} == {"Deleted User", "user2", "user3"}


def test_materialized_times_and_random_numbers_stay_what_they_were(with_target: WithTarget) -> None:
    definition = (
        "(course String, username String, low String MATERIALIZED lower(username), at DateTime64(6) MATERIALIZED now64(6), "
        "id UUID MATERIALIZED generateUUIDv4()) ENGINE = MergeTree ORDER BY (course, username)"
    )
    store = with_target(definition, PSEUDONYMS, rows="VALUES ('c', 'user1'), ('c', 'user2')")
    before = set(store.client.rows("SELECT at, id FROM $event_sink.answers"))
    assert [outcome.state for outcome in retire(store, [1])] == ["erased"]
    assert set(store.client.rows("SELECT at, id FROM $event_sink.answers")) == before
    assert store.client.value("SELECT count() FROM $event_sink.answers WHERE low = lower(username)") == 2


@pytest.mark.parametrize("match", [{"username": "username"}, {"user_id": "id"}], ids=["by name", "by id"])
def test_null_stays_null(with_target: WithTarget, match: dict[str, str]) -> None:
    definition = "(user_id Int64, username String, note Nullable(String)) ENGINE = MergeTree ORDER BY user_id"
    rows = "VALUES (1, 'user1', NULL), (1, 'user1', '\\0'), (1, 'user1', 'a')"
    store = with_target(definition, {"redact": {"note": "constant"}}, match, rows)
    assert [outcome.state for outcome in retire(store, [1])] == ["erased"]
    assert read_answers(store, "note") == {(None,): 1, ("Deleted User",): 2}


def test_more_than_a_hundred_partitions_are_no_obstacle(with_target: WithTarget) -> None:
    rows = "SELECT number, 'user1' FROM numbers(120)"
    store = with_target(
        "(n UInt32, username String) ENGINE = MergeTree PARTITION BY n ORDER BY username SETTINGS max_parts_in_total = 10000",
        PSEUDONYMS,
    )
    store.client.execute(f"INSERT INTO $event_sink.answers {rows}", {"max_partitions_per_insert_block": 0})
    assert [outcome.state for outcome in retire(store, [1])] == ["erased"]
    assert read_answers(store, "username").total() == 120


def test_a_purge_reaches_keys_that_are_no_text(with_target: WithTarget) -> None:
    definition = "(username String, note String) ENGINE = MergeTree ORDER BY tuple()"
    rows = "SELECT unhex(concat('FF', hex(toString(number)))), 'Canary left' FROM numbers(2100)"
    store = with_target(definition, {"redact": {"note": "constant"}}, rows=rows)
    purge(store, plan_purge(store, []), enabled=False)
    assert read_answers(store, "note") == {("Deleted User",): 2100}


OWNED = "(id UInt32, owner Int64, username String, title String) ENGINE = MergeTree ORDER BY (owner, id)"
OWNED_ROWS = "SELECT number, number % 3 + 1, concat('user', toString(number % 3 + 1)), 'title' FROM numbers(12)"


@covers("moment", "a hand-over that is killed", "erased")
def test_a_killed_hand_over_is_seen_and_finished_whatever_comes_next(
    with_target: WithTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = with_target(OWNED, {"redact": {"username": "empty"}}, {"owner": "id"}, OWNED_ROWS, owned=True)
    killer = Killer(store, monkeypatch.setattr)
    killer.arm(1_000)
    assert reassign(store, 1, 2).rows == {"event_sink.answers": 4}
    statements = killer.count
    assert statements > 10
    wanted = read_answers(store)
    assert wanted.total() == 12
    interrupted = 0
    for at in range(statements):
        store.client.execute("TRUNCATE TABLE $event_sink.answers SYNC")
        store.client.execute(f"INSERT INTO $event_sink.answers {OWNED_ROWS}")
        killer.arm(at)
        with pytest.raises(Killed):
            reassign(store, 1, 2)
        killer.restart()
        store.client.execute("TRUNCATE TABLE $pii_ledger.leases")
        if find_works(store.client):
            interrupted += 1
            assert "interrupted changes" in {finding.kind for finding in verify_subjects(store, [9]).findings}, at
            assert any("interrupted" in warning for warning in read_status(store, enabled=True).warnings), at
        if at % 2:
            assert sweep(store) == []
            assert find_works(store.client) == [], at
        # Somebody else is handed over first: what was interrupted is finished or taken back all the same.
        reassign(store, 3, 2)
        reassign(store, 2, 3)
        assert find_works(store.client) == [], at
        reassign(store, 1, 3)
        assert read_answers(store, "id, owner, username, title") == {(n, 3, "user3", "title"): 1 for n in range(12)}, at
    assert interrupted > 5


@covers("moment", "ADD COLUMN between a kill and the next attempt", "erased")
def test_a_column_that_is_added_between_a_kill_and_the_next_attempt_stops_nothing(
    with_target: WithTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = with_target(OWNED, {"redact": {"username": "empty"}}, {"owner": "id"}, OWNED_ROWS, owned=True)
    real = store.client.execute
    kill_a_hand_over(store, monkeypatch)
    real("ALTER TABLE $event_sink.answers ADD COLUMN more String DEFAULT 'm', DROP COLUMN title")
    reassign(store, 1, 2)
    assert find_works(store.client) == []
    assert read_answers(store, "owner, username, more") == {(2, "user2", "m"): 8, (3, "user3", "m"): 4}


@pytest.mark.parametrize(
    ("column", "redaction"),
    [
        ("username String MATERIALIZED lower(course)", "empty"),
        ("username String ALIAS lower(course)", "empty"),
        ("username FixedString(20)", "hash"),
        ("username FixedString(4)", {"constant": "Somebody"}),
    ],
)
@covers("type", "what ClickHouse would refuse to change", "refused")
def test_what_the_engine_will_refuse_is_a_problem_of_the_map(
    with_target: WithTarget, column: str, redaction: Any
) -> None:
    definition = f"(user_id Int64, course String, {column}) ENGINE = MergeTree ORDER BY user_id"
    store = with_target(definition, {"redact": {"username": redaction}}, {"user_id": "id"})
    problems = find_problems(store)
    assert len(problems) == 1
    assert problems[0].place.startswith("targets.event_sink.answers")


@covers("type", "the version column of a ReplacingMergeTree", "refused")
def test_a_version_column_is_a_problem_of_the_map(with_target: WithTarget) -> None:
    definition = "(user_id Int64, username UInt64) ENGINE = ReplacingMergeTree(username) ORDER BY user_id"
    store = with_target(definition, {"redact": {"username": "default"}}, {"user_id": "id"})
    assert "CANNOT_UPDATE_COLUMN" in str(find_problems(store))


@covers("type", "MATERIALIZED and ALIAS columns", "erased")
def test_computed_columns_follow_what_they_are_computed_from(with_target: WithTarget) -> None:
    definition = (
        "(username String, low String MATERIALIZED lower(username), up String ALIAS upper(username), "
        "tmp String EPHEMERAL 'x', CONSTRAINT named CHECK length(username) > 3) ENGINE = MergeTree ORDER BY tuple()"
    )
    store = with_target(definition, NAMES, rows="(username) VALUES ('user1'), ('user2')")
    assert find_problems(store) == []
    assert [outcome.state for outcome in retire(store, [1])] == ["erased"]
    assert read_answers(store, "username, low, up") == {
        ("Deleted User", "deleted user", "DELETED USER"): 1,
        ("user2", "user2", "USER2"): 1,
    }


@covers("type", "texts that are not UTF-8", "erased")
def test_texts_that_are_no_utf8_are_changed_byte_by_byte(with_target: WithTarget) -> None:
    definition = "(username String, doc String, other String) ENGINE = MergeTree ORDER BY tuple()"
    digits = b'{"who": "user1", "place": "M\xe9xico"}'.hex()
    rows = f"SELECT 'user1', unhex('{digits}'), unhex('4DE97869636F')"
    redact = {"redact": {"doc.who": "empty", "other": {"truncate": 4}}}
    store = with_target(definition, redact, rows=rows)
    assert [outcome.state for outcome in retire(store, [1])] == ["erased"]
    found = store.client.rows("SELECT hex(doc), hex(other) FROM $event_sink.answers")
    assert [(bytes.fromhex(doc), bytes.fromhex(other)) for doc, other in found] == [
        (b'{"who": "", "place": "M\xe9xico"}', b"M\xe9xi")
    ]


@pytest.mark.parametrize("bad", ["[" * 1_000 + "]" * 1_000, '{"who": "user1", "cut'], ids=["nested", "truncated"])
@covers("type", "JSON that cannot be changed", "open")
def test_one_row_that_cannot_be_changed_stops_nobody_else(with_target: WithTarget, bad: str) -> None:
    definition = "(username String, doc String) ENGINE = MergeTree ORDER BY tuple()"
    store = with_target(definition, {"redact": {"doc.who.name": "empty"}})
    good = json.dumps({"who": {"name": "user2"}})
    text = bad if bad.startswith("{") else '{"who": {"name": "user1", "deep": ' + bad + ', "cut'
    store.client.insert(
        store.client.table("event_sink.answers"), ["username", "doc"], [("user1", text), ("user2", good)]
    )
    outcomes = {outcome.subject: outcome for outcome in retire(store, [1, 2])}
    assert outcomes["2"].state == "erased"
    assert outcomes["1"].state == "failed"
    assert "holds no valid JSON in doc" in outcomes["1"].reason
    findings = [f for f in verify_subjects(store, [1]).findings if f.place == "event_sink.answers"]
    assert [(finding.subject, finding.kind) for finding in findings] == [("1", "rows")]
    store.client.execute("ALTER TABLE $event_sink.answers DELETE WHERE username = 'user1'", {"mutations_sync": 2})
    assert [outcome.state for outcome in sweep(store)] == ["erased"]


@pytest.mark.parametrize(
    ("kind", "value", "redaction", "expected"),
    [
        ("Date", "'2020-02-02'", "default", "1970-01-01"),
        ("Array(String)", "['a', 'b']", "default", "[]"),
        ("String", "'text'", {"expression": "concat('by ', course)"}, "by c"),
    ],
)
def test_defaults_and_expressions_work_by_name_too(
    with_target: WithTarget, kind: str, value: str, redaction: Any, expected: str
) -> None:
    definition = f"(course String, username String, more {kind}) ENGINE = MergeTree ORDER BY course"
    rows = f"SELECT 'c', username, {value} FROM VALUES('username String', 'user1', 'user2')"
    store = with_target(definition, {"redact": {"more": redaction, "username": "empty"}}, rows=rows)
    assert [outcome.state for outcome in retire(store, [1])] == ["erased"]
    found = dict(store.client.rows("SELECT username, toString(more) FROM $event_sink.answers"))
    assert found[""] == expected
    assert found["user2"] != expected


@covers("place", "detached parts of a target that held the subject", "open")
def test_a_part_that_was_set_aside_keeps_those_open_whom_the_table_held_and_nobody_else(
    with_target: WithTarget,
) -> None:
    definition = "(user_id Int64, username String) ENGINE = MergeTree ORDER BY user_id PARTITION BY user_id"
    store = with_target(definition, NAMES, {"user_id": "id"}, "VALUES (1, 'user1'), (3, 'user3')")
    store.client.execute("ALTER TABLE $event_sink.answers DETACH PARTITION 3")
    outcomes = {outcome.subject: outcome for outcome in retire(store, [1, 2])}
    assert outcomes["1"].state == "failed"
    assert "DROP DETACHED PART" in outcomes["1"].reason
    assert outcomes["2"].state == "erased"
    receipt = outcomes["2"].receipt
    assert receipt is not None
    assert any("event_sink.answers: 1 detached part" in line for line in receipt["not_covered"])


def test_a_table_that_refuses_stops_nobody_who_is_not_in_it(with_target: WithTarget) -> None:
    definition = "(user_id Int64, username String) ENGINE = MergeTree ORDER BY user_id"
    store = with_target(definition, {"redact": {"username": "null"}}, {"user_id": "id"}, "VALUES (1, 'user1')")
    store.client.execute("ALTER TABLE $event_sink.answers MODIFY COLUMN username Nullable(String)")
    real = store.client.execute

    def refuse(sql: str, *arguments: Any, **values: Any) -> None:
        real(sql.replace("UPDATE `username` = NULL", "UPDATE `no_such` = NULL"), *arguments, **values)

    store.client.execute = refuse  # type: ignore[method-assign]
    outcomes = {outcome.subject: outcome for outcome in retire(store, [1, 2])}
    assert outcomes["1"].state == "failed"
    assert outcomes["2"].state == "erased"


@pytest.mark.parametrize("kind", ["Array(String)", "Map(String, String)", "Tuple(String, String)"])
def test_a_name_in_a_container_is_refused_with_the_fix(with_target: WithTarget, kind: str) -> None:
    definition = f"(username {kind}, note String) ENGINE = MergeTree ORDER BY tuple()"
    store = with_target(definition, {"redact": {"note": "constant"}}, pii={"note": "other"})
    (problem,) = find_problems(store)
    assert "Keep one row a person" in problem.fix


def test_a_purge_ends_where_ids_are_no_text(with_target: WithTarget) -> None:
    rows = "SELECT if(number = 0, '1', unhex('FF31')), 'Canary left' FROM numbers(2)"
    definition = "(who String, note String) ENGINE = MergeTree ORDER BY tuple()"
    store = with_target(definition, {"redact": {"note": "hash"}}, {"who": "id"}, rows)
    purge(store, plan_purge(store, []), enabled=False)
    found = read_answers(store, "note")
    assert found.total() == 2
    assert ("Canary left",) not in found


OTHERS = {
    "a partition is dropped": ["ALTER TABLE $event_sink.answers DROP PARTITION 'a'"],
    "a partition is moved": [
        "CREATE TABLE $event_sink.archive AS $event_sink.answers",
        "ALTER TABLE $event_sink.answers MOVE PARTITION 'a' TO TABLE $event_sink.archive",
    ],
    "a partition is replaced": [
        "CREATE TABLE $event_sink.other AS $event_sink.answers",
        "INSERT INTO $event_sink.other VALUES ('a','user2',2),('a','user9',9)",
        "ALTER TABLE $event_sink.answers REPLACE PARTITION 'a' FROM $event_sink.other",
    ],
    "rows are deleted": ["ALTER TABLE $event_sink.answers DELETE WHERE n = 1 SETTINGS mutations_sync = 2"],
    "the table is rebuilt": [
        "CREATE TABLE $event_sink.other AS $event_sink.answers",
        "EXCHANGE TABLES $event_sink.other AND $event_sink.answers",
        "INSERT INTO $event_sink.answers VALUES ('a','user2',2),('a','user9',9)",
    ],
}


@pytest.mark.parametrize("what", OTHERS)
@pytest.mark.parametrize("marker", ["ATTACH PARTITION", "DELETE FROM"])
@covers("moment", "rows that others remove between a kill and the next attempt", "erased")
def test_rows_that_others_removed_after_a_kill_do_not_come_back(
    with_target: WithTarget, monkeypatch: pytest.MonkeyPatch, what: str, marker: str
) -> None:
    rows = "VALUES ('a','user1',1), ('a','user1',1), ('a','user2',2), ('b','user1',3), ('b','user3',4)"
    store = with_target(
        "(course String, username String, n Int32) ENGINE = MergeTree PARTITION BY course ORDER BY (course, username)",
        PSEUDONYMS,
        rows=rows,
    )
    kill_at(store, monkeypatch, marker, lambda: retire(store, [1]))
    for sql in OTHERS[what]:
        store.client.execute(sql)
    wanted = read_answers(store, "course, n")
    if marker == "DELETE FROM":
        # The new rows stood beside the old ones.
        wanted = Counter({row: count if row[1] in (2, 4, 9) else count // 2 for row, count in wanted.items()})
    assert [outcome.state for outcome in sweep(store)] == ["erased"]
    assert read_answers(store, "course, n") == wanted
    assert not [name for name in store.client.column("SELECT username FROM $event_sink.answers") if name == "user1"]
    assert find_works(store.client) == []


def test_a_change_of_which_a_part_shows_is_not_gone_on_with_over_rows_that_others_removed(
    with_target: WithTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither way would be right; the reason names what to compare."""
    rows = "VALUES ('a','user1',1), ('b','user1',3), ('b','user3',4)"
    store = with_target(
        "(course String, username String, n Int32) ENGINE = MergeTree PARTITION BY course ORDER BY (course, username)",
        PSEUDONYMS,
        rows=rows,
    )
    kill_at(store, monkeypatch, "ATTACH PARTITION", lambda: retire(store, [1]), after=1)
    store.client.execute("ALTER TABLE $event_sink.answers DROP PARTITION 'b'")
    (work,) = find_works(store.client)
    (outcome,) = sweep(store)
    assert outcome.state == "failed"
    assert f"1 of 2 old rows is there. Compare it with {work.table('old')}" in outcome.reason
    assert read_answers(store)["a", "user1", 1] == 1, "nothing is begun beside what is half done"
    store.client.execute("DELETE FROM $event_sink.answers WHERE username NOT LIKE 'user%'")
    store.client.execute(f"DROP TABLE {work.table('log').sql}")
    assert [outcome.state for outcome in sweep(store)] == ["erased"]
    assert len(read_answers(store)) == 1


def kill_at(
    store: Store, monkeypatch: pytest.MonkeyPatch, marker: str, do: Callable[[], Any], *, after: int = 0
) -> None:
    """Have a process die at a statement that has `marker` in it, when it has carried out `after` of them; its lease ends."""
    real, seen = store.client.execute, 0

    def stop(sql: str, *arguments: Any, **values: Any) -> None:
        nonlocal seen
        if marker in sql and "answers" in sql:
            if seen == after:
                raise Killed
            seen += 1
        real(sql, *arguments, **values)

    with monkeypatch.context() as patch:
        patch.setattr(store.client, "execute", stop)
        with pytest.raises(Killed):
            do()
    store.client.execute("TRUNCATE TABLE $pii_ledger.leases")


def make_look_alike(secret: SecretStr | None = None) -> str:
    """A name that looks like a pseudonym of ours: as anybody could make one of an earlier version, or with a key."""
    pseudonym = keyed_hash(secret or SecretStr("a guess at the secret"), "pseudonym", 1)
    return pseudonym if secret else spell_as_before(pseudonym)


@pytest.mark.parametrize("redaction", ["pseudonym", "hash"])
@pytest.mark.parametrize("match", [{"username": "username"}, {"user_id": "id"}], ids=["by name", "by id"])
@covers("type", "a name that looks like a pseudonym", "erased")
def test_a_name_that_looks_like_a_pseudonym_goes(
    with_target: WithTarget, match: dict[str, str], redaction: str
) -> None:
    look_alike = make_look_alike()
    definition = "(user_id Int64, username String, handle String) ENGINE = MergeTree ORDER BY tuple()"
    store = with_target(definition, {"redact": {"username": redaction, "handle": redaction}}, match)
    store.client.insert(
        store.client.table("event_sink.user_profile"), ["user_id", "username"], [(7, look_alike), (8, "user8")]
    )
    store.client.insert(
        store.client.table("event_sink.answers"),
        ["user_id", "username", "handle"],
        [(7, look_alike, look_alike), (8, "user8", look_alike)],
    )
    assert [outcome.state for outcome in retire(store, [7])] == ["erased"]
    found = read_answers(store)
    assert found.total() == 2
    assert found[8, "user8", look_alike] == 1
    assert sum(look_alike in row for row in found) == 1


@pytest.mark.parametrize("redaction", ["pseudonym", "hash"])
@pytest.mark.parametrize("match", [{"username": "username"}, {"user_id": "id"}], ids=["by name", "by id"])
def test_a_pseudonym_of_the_subject_stays_as_an_earlier_version_wrote_it(
    with_target: WithTarget, match: dict[str, str], redaction: str
) -> None:
    definition = "(user_id Int64, username String, handle String) ENGINE = MergeTree ORDER BY tuple()"
    store = with_target(definition, {"redact": {"handle": redaction}}, match)
    secret = store.policy.pseudonym_secret
    assert secret is not None
    hashed = keyed_hash(secret, "pseudonym" if redaction == "pseudonym" else "username", 1)
    rows = [(1, "user1", spell_as_before(hashed)), (1, "user1", "a canary")]
    store.client.insert(store.client.table("event_sink.answers"), ["user_id", "username", "handle"], rows)
    assert [outcome.state for outcome in retire(store, [1])] == ["erased"]
    assert read_answers(store, "handle") == {(spell_as_before(hashed),): 1, (hashed,): 1}


def test_a_pseudonym_of_somebody_else_stays_in_a_row_found_by_name(with_target: WithTarget) -> None:
    definition = "(username String, handle String) ENGINE = MergeTree ORDER BY tuple()"
    store = with_target(definition, {"redact": {"handle": "pseudonym"}})
    others = make_look_alike(store.policy.pseudonym_secret)
    store.client.insert(
        store.client.table("event_sink.answers"), ["username", "handle"], [("user2", others), ("user2", "a canary")]
    )
    assert [(outcome.state, outcome.rows) for outcome in retire(store, [2])] == [("erased", 2)]
    found = read_answers(store, "handle")
    assert found.total() == 2
    assert found[others,] == 1
    assert ("a canary",) not in found


@covers("moment", "opting out, where a row cannot be changed", "open")
def test_a_purge_says_which_rows_it_left_and_why_and_purges_the_rest(with_target: WithTarget) -> None:
    definition = "(username String, doc String) ENGINE = MergeTree ORDER BY tuple()"
    store = with_target(definition, {"redact": {"doc.who": "empty"}})
    rows = [("user1", '{"who": "user1", cut'), ("user2", '{"who": "user2"}')]
    store.client.insert(store.client.table("event_sink.answers"), ["username", "doc"], rows)
    with pytest.raises(
        ErasureError, match=r"1 row of event_sink\.answers \(a row holds no valid JSON in doc; correct or delete it\)"
    ):
        purge(store, plan_purge(store, []), enabled=False)
    assert read_answers(store) == {rows[0]: 1, ("user2", '{"who": ""}'): 1}
    assert store.client.value("SELECT count() FROM $event_sink.user_profile") == 0
    store.client.execute("ALTER TABLE $event_sink.answers DELETE WHERE username = 'user1'", {"mutations_sync": 2})
    purge(store, plan_purge(store, []), enabled=False)


def test_a_table_that_refuses_a_purge_is_named_and_stops_no_other(with_target: WithTarget) -> None:
    definition = "(user_id Int64, username String) ENGINE = MergeTree ORDER BY user_id"
    store = with_target(definition, NAMES, {"user_id": "id"}, "VALUES (1, 'user1')")
    real = store.client.execute

    def refuse(sql: str, *arguments: Any, **values: Any) -> None:
        real(sql.replace("`answers`  UPDATE", "`answers`  UPDATE `no_such` = 1,"), *arguments, **values)

    store.client.execute = refuse  # type: ignore[method-assign]
    with pytest.raises(ErasureError, match=r"1 row of event_sink\.answers \(.*NO_SUCH_COLUMN"):
        purge(store, plan_purge(store, []), enabled=False)
    assert store.client.value("SELECT count() FROM $event_sink.user_profile") == 0
    store.client.execute = real  # type: ignore[method-assign]
    purge(store, plan_purge(store, []), enabled=False)
    assert read_answers(store) == {(1, "Deleted User"): 1}


@covers("type", "a text that grows out of its FixedString", "open")
def test_a_text_that_grows_out_of_its_column_stops_nobody_else(with_target: WithTarget) -> None:
    definition = "(id UInt32, event FixedString(90)) ENGINE = MergeTree ORDER BY id"
    tight, roomy = (
        json.dumps({"actor": {"mbox": f"mailto:user{user}@example.com"}, "o": "x" * rest})
        for user, rest in ((1, 25), (2, 0))
    )
    rows = f"VALUES (1, '{tight}'), (2, '{roomy}')"
    store = with_target(definition, {"redact": {"event": "person"}}, {"event": "person"}, rows, pii={"event": "other"})
    outcomes = {outcome.subject: outcome for outcome in retire(store, [1, 2])}
    assert outcomes["2"].state == "erased", outcomes["2"].reason
    assert outcomes["1"].state == "failed"
    assert outcomes["1"].reason.startswith("event_sink.answers: what takes the place of a text in event has ")
    assert "the column is FixedString(90); widen it (ALTER TABLE … MODIFY COLUMN)" in outcomes["1"].reason
    texts = dict(store.client.rows("SELECT id, toString(event) FROM $event_sink.answers"))
    assert texts[1].rstrip("\0") == tight
    assert "user2" not in texts[2]
    with pytest.raises(ErasureError, match=r"1 row of event_sink\.answers \(what takes the place of a text in event"):
        purge(store, plan_purge(store, []), enabled=False)
    store.client.execute("ALTER TABLE $event_sink.answers MODIFY COLUMN event FixedString(120)")
    assert [outcome.state for outcome in sweep(store)] == ["erased"]


@pytest.mark.parametrize(
    ("kind", "path", "redaction"),
    [
        ("JSON(age UInt32)", "age", {"constant": "gone"}),
        # It would be read as a number again, and count as not erased for ever.
        ("JSON(age UInt32)", "age", {"constant": "7"}),
        ("JSON(age UInt32)", "age", "null"),
        ("JSON(name FixedString(20))", "name", "hash"),
        ("JSON(born Date)", "born", "empty"),
        ("JSON(a JSON(born Date))", "a.born", "empty"),
        ("JSON(a Array(JSON(born Date)))", "a.born", "empty"),
        ("JSON(a Array(String))", "a", "empty"),
        ("JSON(`a.b` UInt32)", "a.b", "pseudonym"),
    ],
)
@covers("type", "JSON paths whose type cannot hold what takes a value's place", "refused")
def test_a_path_whose_type_cannot_hold_the_redaction_is_a_problem_of_the_map(
    with_target: WithTarget, kind: str, path: str, redaction: Any
) -> None:
    definition = f"(username String, doc {kind}) ENGINE = MergeTree ORDER BY tuple()"
    store = with_target(definition, {"redact": {f"doc.{path}": redaction}})
    (problem,) = find_problems(store)
    assert problem.place == f"targets.event_sink.answers.redact.doc.{path}"
    assert f"does not fit {path} in {kind}" in problem.reason
    assert "Declare the path as String" in problem.fix
    (outcome,) = retire(store, [1])
    assert problem.fix in outcome.reason


@pytest.mark.parametrize(
    ("kind", "value", "path", "redaction", "expected"),
    [
        ("JSON(age Nullable(UInt32))", {"age": 5}, "age", "null", {}),
        ("JSON(name String, age UInt32)", {"name": "Ann", "age": 5}, "name", "hash", {"age": 5}),
        ("JSON(name FixedString(40))", {"name": "Ann".ljust(40)}, "name", {"constant": "x" * 40}, {"name": "x" * 40}),
        ("JSON(a Array(JSON(n String)))", {"a": [{"n": "Ann"}]}, "a.n", "empty", {"a": [{"n": ""}]}),
        ("JSON(max_dynamic_paths = 2)", {"age": 5}, "age", {"constant": "gone"}, {"age": "gone"}),
    ],
)
@covers("type", "JSON paths with types", "erased")
def test_a_path_whose_type_can_hold_the_redaction_is_erased(
    with_target: WithTarget, kind: str, value: Any, path: str, redaction: Any, expected: Any
) -> None:
    definition = f"(username String, doc {kind}) ENGINE = MergeTree ORDER BY tuple()"
    rows = f"VALUES ('user1', '{json.dumps(value)}'), ('user2', '{json.dumps(value)}')"
    store = with_target(definition, {"redact": {f"doc.{path}": redaction}}, rows=rows)
    assert find_problems(store) == []
    (outcome,) = retire(store, [1])
    assert outcome.state == "erased", outcome.reason
    found = dict(store.client.rows("SELECT username, toString(doc) FROM $event_sink.answers"))
    after = json.loads(found["user1"])
    assert {key: after[key] for key in expected} == expected
    assert "Ann" not in found["user1"]
    assert after.get("age") != 5 or "age" in expected
    assert json.loads(found["user2"]) == value


@pytest.mark.parametrize("match", [{"username": "username"}, {"user_id": "id"}], ids=["by name", "by id"])
@pytest.mark.parametrize(
    "expression", ["toString(toInt64(concat('0', raw)))", "toString(intDiv(1, length(raw) - 3))"], ids=["text", "zero"]
)
@covers("type", "a row for which an expression of the map cannot be computed", "open")
def test_a_row_that_an_expression_fails_on_stops_nobody_else(
    with_target: WithTarget, match: dict[str, str], expression: str
) -> None:
    definition = "(user_id Int64, username String, note String, raw String) ENGINE = MergeTree ORDER BY user_id"
    rows = "VALUES (1, 'user1', 'n', 'x-y'), (2, 'user2', 'n', '12'), (3, 'user3', 'n', '9')"
    store = with_target(definition, {"redact": {"note": {"expression": expression}}}, match, rows)
    assert [outcome.state for outcome in retire(store, [2])] == ["erased"]
    outcomes = {outcome.subject: outcome for outcome in retire(store, [1, 3, 4])}
    assert [outcomes[subject].state for subject in ("1", "3", "4")] == ["failed", "erased", "erased"]
    assert outcomes["1"].reason.startswith(
        "event_sink.answers: a row has values for which the expression of note cannot"
    )
    assert "correct the row" in outcomes["1"].reason
    notes = dict(store.client.rows("SELECT user_id, note FROM $event_sink.answers"))
    assert notes[1] == "n"
    assert "n" not in {notes[2], notes[3]}
    findings = [str(f) for f in verify_subjects(store, [1]).findings if f.place == "event_sink.answers"]
    assert findings == ["event_sink.answers: 1 row of 1"]
    with pytest.raises(ErasureError, match=r"event_sink\.answers \(a row has values for which the expression of note"):
        purge(store, plan_purge(store, []), enabled=False)
    assert store.client.value("SELECT count() FROM system.mutations WHERE NOT is_done") == 0
    store.client.execute("ALTER TABLE $event_sink.answers UPDATE raw = '7' WHERE user_id = 1", {"mutations_sync": 2})
    purge(store, plan_purge(store, []), enabled=False)


@covers("type", "a CHECK constraint that a new sort key violates", "refused")
def test_a_constraint_that_the_redaction_violates_is_foreseen_and_named(with_target: WithTarget) -> None:
    columns = "username String, note String, CONSTRAINT short CHECK length(username) < 20"
    definition = f"({columns}) ENGINE = MergeTree ORDER BY username"
    store = with_target(definition, PSEUDONYMS, rows="VALUES ('user1', 'n'), ('user2', 'n')")
    (problem,) = find_problems(store)
    assert "username violates a CHECK constraint of the table (short)" in problem.reason
    assert "erasing_" not in str(problem)
    outcomes = {outcome.subject: outcome for outcome in retire(store, [1, 3])}
    assert (outcomes["1"].state, outcomes["3"].state) == ("failed", "erased")
    assert outcomes["1"].reason.startswith("event_sink.answers: what takes the place of values in username violates")
    assert "(short); change the constraint (ALTER TABLE … DROP CONSTRAINT" in outcomes["1"].reason
    assert read_answers(store) == {("user1", "n"): 1, ("user2", "n"): 1}
    assert find_works(store.client) == []
    store.client.execute("ALTER TABLE $event_sink.answers DROP CONSTRAINT short")
    assert find_problems(store) == []
    assert [outcome.state for outcome in sweep(store)] == ["erased"]


@covers("type", "a CHECK constraint that the new sort key of one row violates", "open")
def test_a_row_whose_new_key_violates_a_constraint_stops_nobody_else(with_target: WithTarget) -> None:
    definition = (
        "(username String, strict UInt8, CONSTRAINT short CHECK strict = 0 OR length(username) < 20) "
        "ENGINE = MergeTree ORDER BY username"
    )
    store = with_target(definition, PSEUDONYMS, rows="VALUES ('user1', 1), ('user2', 0), ('user3', 0)")
    outcomes = {outcome.subject: outcome for outcome in retire(store, [1, 2, 3])}
    assert [outcomes[subject].state for subject in ("1", "2", "3")] == ["failed", "erased", "erased"]
    assert "(short)" in outcomes["1"].reason
    found = read_answers(store)
    assert found.total() == 3
    assert found["user1", 1] == 1
    assert not {("user2", 0), ("user3", 0)} & set(found)


@pytest.mark.parametrize("match", [{"user_id": "id"}, {"username": "username"}], ids=["by id", "by name"])
@pytest.mark.parametrize("column", ["subject", "digest", "spelt", "found_key", "differs", "aspects_pii"])
@covers("type", "columns that are called as our own queries call things", "erased")
def test_a_column_may_be_called_anything(with_target: WithTarget, match: dict[str, str], column: str) -> None:
    store = with_target(
        f"(user_id Int64, username String, `{column}` String) ENGINE = MergeTree ORDER BY user_id",
        {"redact": {column: "empty"}},
        match=match,
        rows="VALUES (1, 'user1', 'of User 1'), (2, 'user2', 'of User 2')",
    )
    assert [(outcome.state, outcome.reason) for outcome in retire(store, [1])] == [("erased", "")]
    assert read_answers(store, f"user_id, `{column}`") == {(1, ""): 1, (2, "of User 2"): 1}
    purge(store, plan_purge(store, []), enabled=False)
    assert read_answers(store, f"user_id, `{column}`") == {(1, ""): 1, (2, ""): 1}


@pytest.mark.parametrize("column", ["text_digest", "digest"])
def test_a_text_about_people_may_be_called_anything(with_target: WithTarget, column: str) -> None:
    rows = """VALUES ('{"mbox": "mailto:user1@example.com"}'), ('{"mbox": "mailto:user2@example.com"}')"""
    store = with_target(
        f"(`{column}` String) ENGINE = MergeTree ORDER BY tuple()",
        {"redact": {column: "person"}},
        match={column: "person"},
        rows=rows,
    )
    assert [outcome.state for outcome in retire(store, [1])] == ["erased"]
    found = [text for (text,) in read_answers(store)]
    assert len(found) == 2
    assert not [text for text in found if "user1@" in text]
    assert [text for text in found if "user2@" in text]


@pytest.fixture
def under_profile(
    settings: Settings, migrated: Callable[[Path], None], tmp_path: Path
) -> Callable[..., AbstractContextManager[Store]]:
    """A store whose user has a profile, with settings as in users.xml and constraints."""

    @contextmanager
    def opened(constraint: str = "", **profile: str) -> Iterator[Store]:
        if not (folder := Path(settings.clickhouse_url.removeprefix("chdb://"))).exists():
            migrated(folder)
        written = "".join(f"<{name}>{value}</{name}>" for name, value in profile.items())
        bound = f"<constraints><{constraint}><const/></{constraint}></constraints>" if constraint else ""
        (users := tmp_path / f"users-{uuid.uuid4()}.xml").write_text(
            f"<clickhouse><profiles><default>{written}{bound}</default></profiles><users><default><password/>"
            "<profile>default</profile><access_management>1</access_management></default></users></clickhouse>"
        )
        (config := tmp_path / "config.xml").write_text("<clickhouse/>")
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(ENGINE_OPTIONS, "config-file", str(config))
            patch.setitem(ENGINE_OPTIONS, "users_config", str(users))
            with open_store(settings) as store:
                yield store

    return opened


@covers("moment", "a profile that cuts results, ends queries early or leaves rows out", "erased")
def test_a_profile_that_cuts_answers_loses_no_row_and_hides_none(
    under_profile: Callable[..., AbstractContextManager[Store]],
) -> None:
    profile = {
        "limit": "1",
        "max_rows_to_read": "100000",
        "read_overflow_mode": "break",
        "additional_table_filters": "{'event_sink.answers': 'n = 1'}",
        "transform_null_in": "1",
        "enable_positional_arguments": "0",
        "enable_named_columns_in_function_tuple": "1",
        "aggregate_functions_null_for_empty": "1",
        "lightweight_delete_mode": "lightweight_update_force",
    }
    cutting = {name: profile[name] for name in ("max_rows_to_read", "read_overflow_mode")}
    others = {name: value for name, value in profile.items() if name not in cutting}
    with under_profile(**others) as store:
        client = store.client
        client.execute(
            "CREATE TABLE $event_sink.answers (username String, n UInt8) ENGINE = MergeTree ORDER BY username "
            "SETTINGS index_granularity = 1"
        )
        for _ in range(3):
            client.execute("INSERT INTO $event_sink.answers VALUES ('user1', 1), ('user1', 2), ('user2', 2)")
        client.insert(client.table("event_sink.user_profile"), ["user_id", "username"], [(1, "user1"), (2, "user2")])
        mapped = with_answers(store)
        assert [(outcome.state, outcome.reason) for outcome in retire(mapped, [1])] == [("erased", "")]
        found = read_answers(store)
        assert {row: rows for row, rows in found.items() if row[0].startswith("user")} == {("user2", 2): 3}
        assert found.total() == 9
        assert client.column("SELECT user_id FROM $event_sink.user_profile") == [2]
    with under_profile(**cutting) as store, pytest.raises(QueryError, match="TOO_MANY_ROWS"):
        # It fails, where it lost rows before.
        store.client.rows("SELECT max(number) FROM numbers(1000000) WHERE number % 7 = 0")


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [("limit", "7", "bound to a setting that cuts answers"), ("final", "1", "bound to final = 1")],
)
def test_a_profile_that_may_not_be_changed_is_named(
    under_profile: Callable[..., AbstractContextManager[Store]], name: str, value: str, reason: str
) -> None:
    with pytest.raises(SettingsError, match=reason), under_profile(name, **{name: value}):
        pass


def with_answers(store: Store) -> Store:
    """The store with `answers` in its map, whose key is rewritten."""
    document = store.pii_map.model_dump(include={"version", "subject", "targets"}, mode="json")
    document["targets"] = {
        name: document["targets"][name] for name in ("event_sink.user_profile", "event_sink.external_id")
    }
    rule = {"match": {"username": "username"}, "pii": {"username": "username"}, "on_retire": PSEUDONYMS}
    document["targets"]["event_sink.answers"] = rule
    return dataclasses.replace(store, pii_map=PiiMap.model_validate(document))


@covers("key", "names that are no UTF-8", "erased")
@pytest.mark.parametrize("what", [NAMES, PSEUDONYMS, "delete"], ids=["in place", "in the sort key", "delete"])
def test_rows_under_a_name_that_is_no_utf8_are_found(with_target: WithTarget, what: Any) -> None:
    order = "username" if what == PSEUDONYMS else "n"
    store = with_target(
        f"(username String, n UInt8) ENGINE = MergeTree ORDER BY {order}",
        what,
        rows=r"VALUES ('Zo\xE9', 1), ('Zo\xE8', 2), ('ZoÃ©', 3)",
    )
    client = store.client
    client.execute(
        r"INSERT INTO $event_sink.user_profile (user_id, username) SELECT 4, 'Zo\xE9' UNION ALL SELECT 5, 'Zo\xE8'"
    )
    assert [(outcome.state, outcome.not_asked) for outcome in retire(store, [4])] == [("erased", [])]
    found = dict(client.rows("SELECT n, hex(username) FROM $event_sink.answers"))
    assert found.get(1) != "5A6FE9"
    assert (found[2], found[3]) == ("5A6FE8", "ZoÃ©".encode().hex().upper())
    assert verify_subjects(store, [4]).is_proved


def test_a_name_that_is_no_utf8_within_other_letters_cannot_be_looked_for(with_target: WithTarget) -> None:
    store = with_target(
        "(username String, n UInt8) ENGINE = MergeTree ORDER BY n",
        NAMES,
        match={"username": "user:{username}"},
        rows=r"VALUES ('user:Zo\xE9', 1)",
    )
    store.client.execute(r"INSERT INTO $event_sink.user_profile (user_id, username) SELECT 4, 'Zo\xE9'")
    (outcome,) = retire(store, [4])
    assert (outcome.state, outcome.not_asked) == ("erased", ["event_sink.answers"])


STORAGE = """
<clickhouse><storage_configuration>
  <disks><other><path>{folder}/</path></other></disks>
  <policies><elsewhere><volumes><only><disk>other</disk></only></volumes></elsewhere></policies>
</storage_configuration></clickhouse>
"""


@pytest.mark.parametrize(
    "engine_settings",
    [
        "storage_policy = 'elsewhere'",
        "index_granularity = 16, index_granularity_bytes = 0",
        "storage_policy = 'elsewhere', index_granularity = 3",
    ],
)
@covers("engine", "MergeTree on other disks, or without adaptive granules, columns of the sort key", "erased")
def test_keys_are_rewritten_on_any_disk_and_in_granules_of_any_size(
    settings: Settings, migrated: Callable[[Path], None], tmp_path: Path, engine_settings: str
) -> None:
    migrated(Path(settings.clickhouse_url.removeprefix("chdb://")))
    (tmp_path / "other").mkdir()
    (config := tmp_path / "config.xml").write_text(STORAGE.format(folder=tmp_path / "other"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ENGINE_OPTIONS, "config-file", str(config))
        with open_store(settings) as store:
            client = store.client
            client.execute(
                "CREATE TABLE $event_sink.answers (username String, n UInt32) ENGINE = MergeTree ORDER BY username "
                f"SETTINGS {engine_settings}"
            )
            client.execute(
                "INSERT INTO $event_sink.answers SELECT concat('user', toString(number % 3)), number FROM numbers(300)"
            )
            client.insert(
                client.table("event_sink.user_profile"), ["user_id", "username"], [(1, "user1"), (2, "user2")]
            )
            mapped = with_answers(store)
            assert [(o.state, o.reason) for o in retire(mapped, [1])] == [("erased", "")]
            found = dict(client.rows("SELECT username, sum(n) FROM $event_sink.answers GROUP BY username"))
            assert {name: total for name, total in found.items() if name.startswith("user")} == {
                "user0": sum(range(0, 300, 3)),
                "user2": sum(range(2, 300, 3)),
            }
            assert sum(found.values()) == sum(range(300))
