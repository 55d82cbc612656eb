"""Places that no statement by id reaches: JSON, sort keys, keys by another name; on the real engine, by the map alone."""

from __future__ import annotations

import dataclasses
import json
import re
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from sink.erasure.verify import verify_subjects
from sink.pii_map import load_map
from sink.resources import find_resource
from sink.retirement.retire import retire
from sink.store import Store
from tests.support.coverage_page import covers
from tests.support.paths import ROOT

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ACTORS = {
    "xapi.xapi_events_all": {
        "match": {"event.actor.mbox": "mailto:{email}"},
        "pii": {"event.actor.mbox": "email_address"},
        "on_retire": {"redact": {"event.actor.mbox": "pseudonym"}},
    }
}


@pytest.fixture
def with_targets(store: Store, tmp_path: Path) -> Callable[[dict[str, Any]], Store]:
    """The store with further targets in its map."""

    def add(targets: dict[str, Any]) -> Store:
        document = yaml.safe_load(find_resource("config/pii.yaml").read_text())
        document["targets"].update(targets)
        path = tmp_path / "pii.yaml"
        path.write_text(yaml.safe_dump(document))
        return dataclasses.replace(store, pii_map=load_map(path))

    return add


def add_profiles(store: Store, users: range) -> None:
    store.client.insert(
        store.client.table("event_sink.user_profile"),
        ["user_id", "username", "email", "time_last_dumped"],
        [(u, f"user{u}", f"User{u}@Example.com", str(NOW)) for u in users],
    )


def add_events(store: Store, actors: list[str], per_actor: int = 2) -> None:
    rows = []
    for number, actor in enumerate(actors):
        for month in range(1, per_actor + 1):
            text = (
                f'{{ "id": "{uuid.uuid4()}", "actor": {{"mbox" : "{actor}", "objectType": "Agent"}},'
                f' "result": {{"score": {{"scaled": 0.50, "raw": 1e2}}}}, "note": "caf\\u00e9 {number}" }}'
            )
            rows.append((uuid.uuid4(), datetime(2026, month, 1, tzinfo=UTC), text))
    store.client.insert(store.client.table("xapi.xapi_events_all"), ["event_id", "emission_time", "event"], rows)


def events(store: Store) -> dict[uuid.UUID, tuple[datetime, str]]:
    rows = store.client.rows("SELECT event_id, emission_time, event FROM $xapi.xapi_events_all")
    found = {event_id: (time, text) for event_id, time, text in rows}
    assert len(found) == len(rows), "an event was doubled"
    return found


@covers("key", "addresses (mailto:)", "erased")
def test_mailto_actors_become_pseudonyms_and_nothing_else_changes(with_targets: Callable[..., Store]) -> None:
    store = with_targets(ACTORS)
    add_profiles(store, range(1, 6))
    add_events(store, [f"mailto:user{u}@example.com" for u in range(1, 6)])
    before = events(store)

    assert [(o.state, o.rows) for o in retire(store, [3])] == [("erased", 3)]

    after = events(store)
    assert len(after) == 10
    assert after.keys() == before.keys()
    changed = {event_id for event_id in before if before[event_id] != after[event_id]}
    assert len(changed) == 2
    pseudonyms = set()
    for event_id in changed:
        (time_before, text_before), (time_after, text_after) = before[event_id], after[event_id]
        actor = json.loads(text_after)["actor"]["mbox"]
        pseudonyms.add(actor)
        assert time_before == time_after
        assert text_after == text_before.replace("mailto:user3@example.com", actor)
    assert len(pseudonyms) == 1
    assert "user3" not in pseudonyms.pop()
    assert verify_subjects(store, [3]).is_clean


@covers("key", "hashes of addresses (mbox_sha1sum)", "erased")
def test_hashed_addresses_become_pseudonyms_too(with_targets: Callable[..., Store]) -> None:
    import hashlib

    target = {
        "match": {"event.actor.mbox_sha1sum": "sha1:mailto:{email}"},
        "pii": {"event.actor.mbox_sha1sum": "email_address"},
        "on_retire": {"redact": {"event.actor.mbox_sha1sum": "pseudonym"}},
    }
    store = with_targets({"xapi.xapi_events_all": target})
    add_profiles(store, range(1, 4))
    digests = {u: hashlib.sha1(f"mailto:user{u}@example.com".encode()).hexdigest() for u in range(1, 4)}
    rows = [(uuid.uuid4(), NOW, json.dumps({"actor": {"mbox_sha1sum": digest}})) for digest in digests.values()]
    store.client.insert(store.client.table("xapi.xapi_events_all"), ["event_id", "emission_time", "event"], rows)
    assert retire(store, [2])[0].rows == 2
    left = {json.loads(text)["actor"]["mbox_sha1sum"] for _, text in events(store).values()}
    assert len(left) == 3
    assert digests[2] not in left
    assert {digests[1], digests[3]} < left
    assert all(len(digest) == 40 for digest in left)


@covers("key", "columns of a sort key, by pseudonym", "erased")
def test_actors_in_sort_keys_and_what_was_derived_are_rewritten_without_feeding_views_twice(
    with_targets: Callable[..., Store],
) -> None:
    parsed = {
        "match": {"actor_id": "mailto:{email}"},
        "pii": {"actor_id": "email_address", "event.actor.mbox": "email_address"},
        "on_retire": {"redact": {"actor_id": "pseudonym", "event.actor.mbox": "pseudonym"}},
    }
    store = with_targets({**ACTORS, "xapi.parsed": parsed})
    store.client.execute(
        "CREATE TABLE $xapi.parsed (event_id UUID, actor_id String, event String, emission_time DateTime64(6)) "
        "ENGINE = MergeTree PARTITION BY toYYYYMM(emission_time) ORDER BY (actor_id, emission_time)"
    )
    store.client.execute(
        "CREATE MATERIALIZED VIEW $xapi.parsed_mv TO $xapi.parsed AS "
        "SELECT event_id, JSONExtractString(event, 'actor', 'mbox') AS actor_id, event, emission_time "
        "FROM $xapi.xapi_events_all"
    )
    store.client.execute("CREATE TABLE $xapi.feed (n UInt64) ENGINE = MergeTree ORDER BY n")
    store.client.execute(
        "CREATE MATERIALIZED VIEW $xapi.feed_mv TO $xapi.feed AS SELECT count() AS n FROM $xapi.parsed"
    )
    add_profiles(store, range(1, 6))
    add_events(store, [f"mailto:user{u}@example.com" for u in range(1, 6)])
    fed = store.client.value("SELECT sum(n) FROM $xapi.feed")

    assert retire(store, [4])[0].state == "erased"

    rows = store.client.rows("SELECT event_id, actor_id, event FROM $xapi.parsed")
    assert len(rows) == 10
    assert len({row[0] for row in rows}) == 10
    assert not [row for row in rows if "user4" in row[1] or "user4" in row[2]]
    assert {(row[1], json.loads(row[2])["actor"]["mbox"]) for row in rows} == {(row[1], row[1]) for row in rows}
    raw = {json.loads(text)["actor"]["mbox"] for _, text in events(store).values()}
    assert raw == {row[1] for row in rows}
    assert store.client.value("SELECT sum(n) FROM $xapi.feed") == fed == 10


@pytest.mark.parametrize("kind", ["String", "JSON"])
@covers("type", "paths into JSON", "erased")
def test_names_inside_json_are_replaced_and_absent_paths_stay_absent(
    with_targets: Callable[..., Store], kind: str
) -> None:
    asset = {
        "owned": True,
        "pii": {"metadata.creator": "name", "metadata.originData.creator.name": "name", "metadata.publisher": "name"},
        "rules": [
            {
                "match": {"createdBy": "id"},
                "on_retire": {
                    "redact": {
                        "metadata.creator": "constant",
                        "metadata.originData.creator.name": {"constant": "Nobody"},
                    },
                    "unless": {"column": "status", "values": ["Live"], "reason": "published under the author's name"},
                },
            },
            {"match": {"lastPublishedBy": "id"}, "on_retire": {"redact": {"metadata.publisher": "constant"}}},
        ],
    }
    store = with_targets({"content.asset": asset})
    store.client.execute("CREATE DATABASE content")
    store.client.execute(
        f"CREATE TABLE content.asset (id String, createdBy String, lastPublishedBy String, status String, metadata {kind}) "
        "ENGINE = MergeTree ORDER BY id"
    )
    full = {"creator": "Jane", "originData": {"creator": {"name": "Jane", "n": 1}}, "publisher": "Ann"}
    rows = [
        ("both", "7", "8", "Draft", full),
        ("absent", "7", "9", "Draft", {"title": "none"}),
        ("exempt", "7", "9", "Live", full),
        ("other", "5", "7", "Draft", full),
    ]
    store.client.insert(
        store.client.table("content.asset"),
        ["id", "createdBy", "lastPublishedBy", "status", "metadata"],
        [(*row[:4], json.dumps(row[4]) if kind == "String" else row[4]) for row in rows],
    )
    assert [(o.state, o.rows) for o in retire(store, [7])] == [("erased", 2)]
    found = {
        key: json.loads(text) for key, text in store.client.rows("SELECT id, toString(metadata) FROM content.asset")
    }
    assert found == {
        "both": {
            "creator": "Deleted User",
            "originData": {"creator": {"name": "Nobody", "n": 1}},
            "publisher": "Ann",
        },
        "absent": {"title": "none"},
        "exempt": full,
        "other": {**full, "publisher": "Deleted User"},
    }


@pytest.mark.parametrize(("arrays", "expected"), [("all", ["X", "X", "X"]), ("first", ["X", "b", "c"])])
@covers("type", "arrays in JSON", "erased")
def test_arrays_are_changed_as_the_map_says(
    with_targets: Callable[..., Store], arrays: str, expected: list[str]
) -> None:
    target = {
        "match": {"user_id": "id"},
        "pii": {"body.authors.name": "name"},
        "on_retire": {"redact": {"body.authors.name": {"constant": "X"}}, "arrays": arrays},
    }
    store = with_targets({"event_sink.posts": target})
    store.client.execute(
        "CREATE TABLE $event_sink.posts (user_id Int64, body String) ENGINE = MergeTree ORDER BY user_id"
    )
    body = json.dumps({"authors": [{"name": "a"}, {"name": "b"}, {"name": "c"}]})
    store.client.insert(store.client.table("event_sink.posts"), ["user_id", "body"], [(1, body), (2, body)])
    assert retire(store, [1])[0].state == "erased"
    found = dict(store.client.rows("SELECT user_id, body FROM $event_sink.posts"))
    assert [author["name"] for author in json.loads(found[1])["authors"]] == expected
    assert found[2] == body


def test_the_example_of_first_elements_in_the_documents_does_what_is_said(
    with_targets: Callable[..., Store],
) -> None:
    page = (ROOT / "docs" / "map.md").read_text().partition("`arrays: first` stops")[2]
    example = yaml.safe_load(re.search(r"\n( {4}targets:\n(?:    .*\n)+)", page)[1])  # type: ignore[index]
    before, after = re.findall(r'`(\{"authors.*?\]\})`', page)[:2]
    store = with_targets(example["targets"])
    store.client.execute("CREATE DATABASE content")
    store.client.execute(
        "CREATE TABLE content.paper (submittedBy Int64, document String) ENGINE = MergeTree ORDER BY submittedBy"
    )
    columns = ["submittedBy", "document"]
    store.client.insert(store.client.table("content.paper"), columns, [(1, before), (2, before)])
    assert retire(store, [1])[0].state == "erased"
    found = dict(store.client.rows("SELECT submittedBy, document FROM content.paper"))
    assert found == {1: after, 2: before}
    assert before != after


def test_computed_columns_and_sort_keys_without_a_value_are_rewritten_once(with_targets: Callable[..., Store]) -> None:
    target = {
        "match": {"user_id": "id"},
        "pii": {"body.author": "name"},
        "on_retire": {"redact": {"body.author": {"constant": "X"}}},
    }
    store = with_targets({"event_sink.posts": target})
    store.client.execute(
        "CREATE TABLE $event_sink.posts (user_id Int64, topic Nullable(String), body String, "
        "size UInt64 MATERIALIZED length(body), loud String ALIAS upper(body)) "
        "ENGINE = MergeTree ORDER BY (topic, user_id) SETTINGS allow_nullable_key = 1"
    )
    rows = [(1, None, '{"author": "Ann"}'), (1, "art", '{"author": "Ann"}'), (2, None, '{"author": "Bob"}')]
    store.client.insert(store.client.table("event_sink.posts"), ["user_id", "topic", "body"], rows)
    assert [(o.state, o.rows) for o in retire(store, [1])] == [("erased", 2)]
    assert store.client.rows(
        "SELECT user_id, topic, body, size, loud FROM $event_sink.posts ORDER BY user_id, topic"
    ) == [
        (1, "art", '{"author": "X"}', 15, '{"AUTHOR": "X"}'),
        (1, None, '{"author": "X"}', 15, '{"AUTHOR": "X"}'),
        (2, None, '{"author": "Bob"}', 17, '{"AUTHOR": "BOB"}'),
    ]


@covers("key", "user names", "erased")
def test_tables_keyed_by_username_are_erased_and_no_statement_names_anybody(with_targets: Callable[..., Store]) -> None:
    target = {"match": {"who": "username"}, "pii": {"who": "username"}, "on_retire": "delete"}
    store = with_targets({"event_sink.notes": target})
    store.client.execute("CREATE TABLE $event_sink.notes (who String, text String) ENGINE = MergeTree ORDER BY who")
    add_profiles(store, range(1, 6))
    store.client.insert(
        store.client.table("event_sink.notes"),
        ["who", "text"],
        [(f"user{u}", "x") for u in range(1, 6) for _ in range(2)],
    )
    assert retire(store, [3])[0].rows == 3
    assert store.client.column("SELECT DISTINCT who FROM $event_sink.notes ORDER BY who") == [
        "user1",
        "user2",
        "user4",
        "user5",
    ]
    commands = store.client.column("SELECT command FROM system.mutations")
    assert len(commands) >= 2
    assert not [command for command in commands if "user3" in command or "User3" in command]


@covers("key", "rows by name of whom no name is known", "listed")
def test_a_place_that_could_not_be_searched_is_on_the_receipt(with_targets: Callable[..., Store]) -> None:
    store = with_targets(ACTORS)
    add_events(store, ["mailto:user1@example.com"])
    receipt = retire(store, [99])[0].receipt
    assert receipt is not None
    assert [line for line in receipt["not_covered"] if line.startswith("xapi.xapi_events_all")]


@covers("place", "history tables", "erased")
def test_history_copies_are_redacted_where_the_operator_wants_it(with_targets: Callable[..., Store]) -> None:
    rule = {"match": {"user_id": "id"}, "pii": {"name": "name"}}
    store = with_targets(
        {
            "event_sink.certificate": {**rule, "on_retire": {"redact": {"name": "empty"}}},
            "event_sink.historical_certificate": {
                **rule,
                "on_retire": {"redact": {"name": "empty"}, "when": "redact_history"},
            },
        }
    )
    for table in ("certificate", "historical_certificate"):
        store.client.execute(
            f"CREATE TABLE $event_sink.{table} (user_id Int64, name String, at Int64) ENGINE = MergeTree ORDER BY (user_id, at)"
        )
        store.client.insert(
            store.client.table(f"event_sink.{table}"),
            ["user_id", "name", "at"],
            [(u, f"Jane {v}", v) for u in (1, 2) for v in range(3)],
        )

    def names(table: str) -> list[str]:
        return store.client.column(f"SELECT DISTINCT name FROM $event_sink.{table} WHERE user_id = 1 ORDER BY name")

    retire(store, [1])
    assert names("certificate") == [""]
    assert names("historical_certificate") == ["Jane 0", "Jane 1", "Jane 2"]
    switched_on = dataclasses.replace(store, policy=dataclasses.replace(store.policy, redact_history=True))
    assert retire(switched_on, [1])[0].state == "erased"
    assert names("historical_certificate") == [""]
    assert store.client.value("SELECT count() FROM $event_sink.historical_certificate") == 6


def test_map_check_warns_of_actors_that_are_addresses_until_a_rule_rewrites_them(store: Store) -> None:
    from sink.erasure.coverage import check_map

    targets = {name: target for name, target in store.pii_map.targets.items() if not name.startswith("xapi.")}
    without = dataclasses.replace(store, pii_map=store.pii_map.model_copy(update={"targets": targets}))
    add_events(store, ["mailto:user1@example.com"])
    warnings = check_map(without).warnings
    assert [warning.place for warning in warnings] == ["xapi.xapi_events_all.event.actor.mbox"]
    assert "user1" not in str(warnings[0])
    assert check_map(store).warnings == []
