"""What is not a live table: each place where a person may be left is emptied, is a finding, or is in the receipt."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from sink.erasure.verify import verify_subjects
from sink.errors import QueryError
from sink.pii_map import PiiMap
from sink.resources import find_resource
from sink.retirement.retire import retire, sweep
from sink.store import Store
from tests.support.coverage_page import covers

CANARY = "Canary-Ibex"

WithTarget = Callable[..., Store]


@pytest.fixture
def with_target(store: Store) -> WithTarget:
    """Two people with profiles, and one more table with a rule; the first person has the canary's name."""

    def make(definition: str, rows: str = "", **target: Any) -> Store:
        client = store.client
        client.execute("ALTER TABLE $event_sink.user_profile MODIFY COLUMN username String CODEC(NONE)")
        client.insert(
            client.table("event_sink.user_profile"),
            ["user_id", "username", "email"],
            [(1, CANARY, f"{CANARY}@example.org"), (2, "user2", "user2@example.org")],
        )
        client.execute(f"CREATE TABLE $event_sink.answers {definition}")
        if rows:
            client.execute(f"INSERT INTO $event_sink.answers {rows}")
        document = store.pii_map.model_dump(include={"version", "subject", "targets"}, mode="json")
        names = ("event_sink.user_profile", "event_sink.external_id")
        document["targets"] = {name: document["targets"][name] for name in names}
        document["targets"]["event_sink.answers"] = {
            "match": {"user_id": "id"},
            "pii": {"username": "username"},
            "on_retire": "delete",
            **target,
        }
        return dataclasses.replace(store, pii_map=PiiMap.model_validate(document))

    return make


PLAIN = "(user_id Int64, username String CODEC(NONE)) ENGINE = MergeTree ORDER BY user_id"
TWO = f"VALUES (1, '{CANARY}'), (2, 'user2')"


def find_files(folder: Path, text: str = CANARY) -> list[str]:
    """The files in which a text stands, or in whose names."""
    found = [path for path in (folder / "clickhouse").rglob("*") if path.is_file()]
    return [str(path) for path in found if text in str(path) or text.encode() in path.read_bytes()]


def retire_first(store: Store) -> dict[str, Any]:
    """Retire the first person, and return the receipt."""
    outcome = retire(store, [1])[0]
    assert outcome.state == "erased", outcome.reason
    assert outcome.receipt is not None
    jsonschema.validate(outcome.receipt, json.loads(find_resource("docs/receipt.schema.json").read_text()))
    return outcome.receipt


@pytest.mark.parametrize("partition", ["username", "(username, user_id)", "substring(username, 1, 1)"])
@pytest.mark.parametrize("on_retire", ["delete", {"redact": {"username": "pseudonym"}}], ids=["deleted", "redacted"])
@covers("place", "`partition.dat` and `minmax_*.idx` of a partition by a person's value", "erased")
def test_the_files_of_a_partition_that_a_person_names_are_gone(
    with_target: WithTarget, tmp_path: Path, partition: str, on_retire: Any
) -> None:
    store = with_target(f"{PLAIN} PARTITION BY {partition}", TWO, on_retire=on_retire)
    assert any("partition.dat" in name or "minmax_username" in name for name in find_files(tmp_path))
    retire_first(store)
    assert find_files(tmp_path) == []
    assert ("user2",) in store.client.rows("SELECT username FROM $event_sink.answers")


@covers("place", "emptied parts that stay on the disk", "open")
def test_an_emptied_part_that_stays_on_the_disk_is_residue(with_target: WithTarget) -> None:
    store = with_target(f"{PLAIN} PARTITION BY username SETTINGS remove_empty_parts = 0", TWO)
    store = dataclasses.replace(store, policy=dataclasses.replace(store.policy, scrub_within=1))
    outcome = retire(store, [1])[0]
    assert outcome.state == "failed"
    assert "event_sink.answers: 1 old part" in outcome.reason
    store.client.execute("ALTER TABLE $event_sink.answers MODIFY SETTING remove_empty_parts = 1")
    store = dataclasses.replace(store, policy=dataclasses.replace(store.policy, scrub_within=60))
    assert sweep(store)[0].state == "erased"


@pytest.mark.parametrize(
    "target",
    [
        {"on_retire": "delete"},
        {"on_retire": {"redact": {"username": "constant"}}},
        {"on_retire": {"redact": {"username": "hash"}}},
        {"on_retire": {"redact": {"username": "constant"}}, "match": {"username": "username"}},
        {"on_retire": "delete", "match": {"username": "username"}},
        {"on_retire": {"redact": {"username": "pseudonym"}}, "match": {"username": "username"}},
    ],
    ids=["delete", "redact", "hash", "redact by name", "delete by name", "pseudonym by name"],
)
@covers("place", "`mutation_*.txt`", "erased")
def test_files_of_mutations_hold_nobody(with_target: WithTarget, tmp_path: Path, target: dict[str, Any]) -> None:
    # A projection makes mutations of deletes.
    definition = "(user_id Int64, username String CODEC(NONE), PROJECTION p (SELECT count() GROUP BY user_id))"
    store = with_target(f"{definition} ENGINE = MergeTree ORDER BY user_id", TWO, **target)
    retire_first(store)
    texts = [path.read_text() for path in (tmp_path / "clickhouse").rglob("mutation_*.txt")]
    assert any("DELETE" in text or "UPDATE" in text for text in texts)
    assert not any(CANARY.lower() in text.lower() for text in texts)
    assert find_files(tmp_path) == []


@covers("place", "skip indexes and statistics", "erased")
def test_indexes_and_statistics_of_a_redacted_column_are_made_anew(with_target: WithTarget, tmp_path: Path) -> None:
    columns = (
        "(user_id Int64, username String CODEC(NONE), INDEX a username TYPE minmax, INDEX b username TYPE set(100), "
        "INDEX c username TYPE bloom_filter) ENGINE = MergeTree ORDER BY user_id "
        "SETTINGS auto_statistics_types = 'minmax, uniq', min_bytes_for_wide_part = 0"
    )
    store = with_target(columns, TWO, on_retire={"redact": {"username": "constant"}})
    assert len(find_files(tmp_path)) > 1
    retire_first(store)
    assert find_files(tmp_path) == []


@covers("place", "dropped tables", "listed")
def test_a_dropped_table_is_in_the_receipt_until_its_files_are_gone(with_target: WithTarget, tmp_path: Path) -> None:
    store = with_target(PLAIN)
    store.client.execute(f"CREATE TABLE $event_sink.old {PLAIN}")
    store.client.execute(f"INSERT INTO $event_sink.old {TWO}")
    store.client.execute("DROP TABLE $event_sink.old")
    receipt = retire_first(store)
    assert find_files(tmp_path) != []
    (line,) = [line for line in receipt["not_covered"] if "dropped tables" in line]
    assert line.endswith(": event_sink.old")
    assert "removes by itself at 20" in line
    store.client.execute("UNDROP TABLE $event_sink.old")
    store.client.execute("DROP TABLE $event_sink.old SYNC")
    assert find_files(tmp_path) == []
    assert verify_subjects(store, [1]).passing == []


@covers("place", "detached tables outside the map", "listed")
def test_a_detached_table_that_is_no_target_is_in_the_receipt(with_target: WithTarget, tmp_path: Path) -> None:
    store = with_target(PLAIN)
    store.client.execute("CREATE DATABASE beside")
    store.client.execute(f"CREATE TABLE beside.aside {PLAIN}")
    store.client.execute(f"INSERT INTO beside.aside {TWO}")
    store.client.execute("DETACH TABLE beside.aside PERMANENTLY")
    receipt = retire_first(store)
    assert find_files(tmp_path) != []
    assert [line for line in receipt["not_covered"] if "detached tables" in line and "beside.aside" in line]


@covers("place", "detached parts of tables outside the map", "listed")
def test_detached_parts_of_a_table_that_is_no_target_are_in_the_receipt(
    with_target: WithTarget, tmp_path: Path
) -> None:
    store = with_target(PLAIN)
    store.client.execute(f"CREATE TABLE $event_sink.aside {PLAIN}")
    store.client.execute(f"INSERT INTO $event_sink.aside {TWO}")
    store.client.execute("ALTER TABLE $event_sink.aside DETACH PARTITION tuple()")
    receipt = retire_first(store)
    assert find_files(tmp_path) != []
    assert [line for line in receipt["not_covered"] if line.startswith("1 detached part of event_sink.aside")]


@covers("place", "rows that wait in a Buffer", "erased")
def test_rows_that_wait_in_a_buffer_are_let_in_and_erased(with_target: WithTarget, tmp_path: Path) -> None:
    store = with_target(PLAIN)
    make_buffer(store)
    store.client.execute(f"INSERT INTO $event_sink.waiting {TWO}")
    assert store.client.value("SELECT count() FROM $event_sink.answers") == 0
    retire_first(store)
    store.client.execute("OPTIMIZE TABLE $event_sink.waiting")
    assert store.client.rows("SELECT * FROM $event_sink.answers") == [(2, "user2")]
    assert find_files(tmp_path) == []


@covers("place", "rows in a Buffer that may not be flushed", "open")
def test_rows_that_stay_in_a_buffer_keep_open_whose_they_are(
    with_target: WithTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = with_target(PLAIN)
    make_buffer(store)
    store.client.execute(f"INSERT INTO $event_sink.waiting VALUES (1, '{CANARY}')")
    real = store.client.execute

    def refuse(sql: str, *arguments: Any, **values: Any) -> None:
        if sql.startswith("OPTIMIZE"):
            raise QueryError("Not enough privileges.", 497, "ACCESS_DENIED")
        real(sql, *arguments, **values)

    monkeypatch.setattr(store.client, "execute", refuse)
    outcomes = {outcome.subject: outcome for outcome in retire(store, [1, 2])}
    assert outcomes["1"].state == "failed"
    assert "event_sink.waiting: 1 row of 1" in outcomes["1"].reason
    assert outcomes["2"].state == "erased"
    monkeypatch.undo()
    assert sweep(store)[0].state == "erased"


def make_buffer(store: Store) -> None:
    store.client.execute(
        "CREATE TABLE $event_sink.waiting AS $event_sink.answers "
        "ENGINE = Buffer('event_sink', 'answers', 1, 10000, 10000, 1000000, 1000000, 1000000000, 1000000000)"
    )


@pytest.mark.parametrize("columns", ["(name String)", "(user_id Int64)", "(user_id Int64, other String)"])
def test_a_buffer_that_cannot_be_asked_and_is_empty_stops_nobody(with_target: WithTarget, columns: str) -> None:
    store = with_target(PLAIN)
    store.client.execute(
        f"CREATE TABLE $event_sink.waiting {columns} "
        "ENGINE = Buffer('event_sink', 'answers', 1, 10000, 10000, 1000000, 1000000, 1000000000, 1000000000)"
    )
    assert [(outcome.state, outcome.reason) for outcome in retire(store, [1, 2])] == [("erased", ""), ("erased", "")]


def test_a_buffer_that_cannot_be_asked_and_holds_rows_is_named(
    with_target: WithTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = with_target(PLAIN)
    store.client.execute(
        "CREATE TABLE $event_sink.waiting (other String) "
        "ENGINE = Buffer('event_sink', 'answers', 1, 10000, 10000, 1000000, 1000000, 1000000000, 1000000000)"
    )
    store.client.execute("INSERT INTO $event_sink.waiting VALUES ('x')")
    monkeypatch.setattr("sink.retirement.retire.flush_queues", lambda _: None)
    (outcome,) = retire(store, [1])
    assert outcome.state == "failed"
    assert outcome.reason.startswith("queues: ClickHouse refused")


@covers("place", "the query cache", "erased")
def test_the_query_cache_is_emptied_when_nobody_can_read_the_subject_any_more(
    with_target: WithTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = with_target(PLAIN, TWO)
    seen: list[int] = []
    real = store.client.execute

    def watch(sql: str, *arguments: Any, **values: Any) -> None:
        if sql.startswith("SYSTEM DROP QUERY CACHE"):
            seen.append(store.client.value("SELECT count() FROM $event_sink.answers WHERE user_id = 1"))
        real(sql, *arguments, **values)

    monkeypatch.setattr(store.client, "execute", watch)
    receipt = retire_first(store)
    assert seen == [0]
    assert not any("query cache" in line for line in receipt["not_covered"])


@covers("place", "a query cache that may not be emptied", "listed")
def test_a_query_cache_that_may_not_be_emptied_is_in_the_receipt(
    with_target: WithTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = with_target(PLAIN, TWO)
    real = store.client.execute

    def refuse(sql: str, *arguments: Any, **values: Any) -> None:
        if sql.startswith("SYSTEM DROP QUERY CACHE"):
            raise QueryError("Not enough privileges.", 497, "ACCESS_DENIED")
        real(sql, *arguments, **values)

    monkeypatch.setattr(store.client, "execute", refuse)
    receipt = retire_first(store)
    assert [line for line in receipt["not_covered"] if "GRANT SYSTEM DROP QUERY CACHE" in line]


@pytest.mark.parametrize("match", [{"user_id": "id"}, {"username": "username"}], ids=["by id", "by name"])
@pytest.mark.parametrize(
    "on_retire", [{"delete": True}, {"redact": {"username": "constant"}}], ids=["delete", "redact"]
)
@covers("place", "rows that an exemption keeps, with their number", "listed")
def test_rows_that_an_exemption_keeps_are_counted_in_the_receipt(
    with_target: WithTarget, on_retire: dict[str, Any], match: dict[str, str]
) -> None:
    unless = {"column": "status", "values": ["disputed", "open"], "reason": "The case is not closed."}
    store = with_target(
        "(user_id Int64, username String, status String) ENGINE = MergeTree ORDER BY user_id",
        f"VALUES (1, '{CANARY}', 'open'), (1, '{CANARY}', 'disputed'), (1, '{CANARY}', ''), (2, 'user2', 'open')",
        match=match,
        on_retire={**on_retire, "unless": unless},
    )
    stays = [line for line in retire_first(store)["stays"] if line["target"] == "event_sink.answers"]
    assert stays == [
        {
            "target": "event_sink.answers",
            "columns": ["username"],
            "reason": "status is disputed or open: The case is not closed.",
            "rows": 2,
        }
    ]
    assert (
        store.client.value("SELECT count() FROM $event_sink.answers WHERE username = {name:String}", name=CANARY) == 2
    )


@covers("place", "backups, frozen parts (`shadow/`), logs, caches of files", "listed")
def test_backups_logs_and_caches_of_files_are_in_the_receipt(with_target: WithTarget, tmp_path: Path) -> None:
    store = with_target(PLAIN, TWO)
    store.client.execute("ALTER TABLE $event_sink.answers FREEZE WITH NAME 'before'")
    receipt = retire_first(store)
    left = find_files(tmp_path)
    assert left
    assert all("/shadow/" in name for name in left)
    for words in ("shadow/", "system.query_log", "caches of files", "in comments, texts of views"):
        assert [line for line in receipt["not_covered"] if words in line]


@pytest.mark.parametrize(
    "statement",
    [
        f"CREATE VIEW $reporting.about AS SELECT * FROM event_sink.user_profile WHERE username = '{CANARY}-4711'",
        f"CREATE TABLE $reporting.about (user_id Int64 COMMENT 'as of {CANARY}-4711') ENGINE = MergeTree ORDER BY user_id",
        f"CREATE TABLE $reporting.about (who Enum8('{CANARY}-4711' = 1)) ENGINE = MergeTree ORDER BY who",
        f"CREATE DATABASE about COMMENT 'of {CANARY}-4711'",
    ],
    ids=["view", "comment", "enum", "database"],
)
@covers("place", "comments, texts of views, Enum words, with --scan", "open")
def test_a_definition_that_names_somebody_keeps_the_retirement_open_where_texts_are_searched(
    with_target: WithTarget, statement: str
) -> None:
    store = with_target(PLAIN)
    store.client.insert(
        store.client.table("event_sink.user_profile"), ["user_id", "username"], [(3, f"{CANARY}-4711"), (4, "user4")]
    )
    store.client.execute(statement)
    outcomes = {outcome.subject: outcome for outcome in retire(store, [3, 4], scan=True)}
    assert outcomes["3"].state == "failed"
    assert (
        "system.tables.create_table_query" in outcomes["3"].reason or "system.databases.comment" in outcomes["3"].reason
    )
    assert outcomes["4"].state == "erased", outcomes["4"].reason
