"""Each thing that a map can have done to a value, and what is built on targets, on the real engine."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import SecretStr

from sink.erasure.plan import read_plan, require_valid_plan
from sink.erasure.pseudonyms import keyed_hash
from sink.erasure.purge import plan_purge, purge
from sink.erasure.verify import verify_subjects
from sink.errors import MapError
from sink.pii_map import load_map
from sink.resources import find_resource
from sink.retirement.retire import retire
from sink.store import Store
from tests.support.coverage_page import covers

MakeStore = Callable[[dict[str, Any]], Store]


@pytest.fixture
def with_target(store: Store, tmp_path: Path) -> MakeStore:
    """The store with `event_sink.people` in its map, retired as the test says."""

    def add(on_retire: Any) -> Store:
        document = yaml.safe_load(find_resource("config/pii.yaml").read_text())
        document["targets"]["event_sink.people"] = {
            "match": {"user_id": "id"},
            "pii": {"text": "name", "maybe": "other", "born": "birth_date"},
            "on_retire": on_retire,
        }
        path = tmp_path / "pii.yaml"
        path.write_text(yaml.safe_dump(document))
        return dataclasses.replace(store, pii_map=load_map(path))

    store.client.execute(
        "CREATE TABLE $event_sink.people (user_id Int64, text String, maybe Nullable(String), born Date, status String) "
        "ENGINE = MergeTree ORDER BY user_id"
    )
    store.client.execute(
        "INSERT INTO $event_sink.people SELECT number + 1, 'Émile Zola', 'perhaps', '1990-05-05', "
        "if(number = 2, 'legal hold', 'free') FROM numbers(3)"
    )
    return add


SECRET = SecretStr("a secret of the tests")


@pytest.mark.parametrize(
    ("on_retire", "expected"),
    [
        ({"redact": {"maybe": None}}, ("Émile Zola", None, "1990-05-05")),
        ({"redact": {"text": "empty"}}, ("", "perhaps", "1990-05-05")),
        ({"redact": {"text": "constant"}}, ("Deleted User", "perhaps", "1990-05-05")),
        ({"redact": {"text": {"constant": "it's \\ gone"}}}, ("it's \\ gone", "perhaps", "1990-05-05")),
        ({"redact": {"born": "default"}}, ("Émile Zola", "perhaps", "1970-01-01")),
        ({"redact": {"text": {"truncate": 1}}}, ("É", "perhaps", "1990-05-05")),
        ({"redact": {"text": "hash"}}, (keyed_hash(SECRET, "name", 1), "perhaps", "1990-05-05")),
        ({"redact": {"born": {"expression": "toStartOfYear(born)"}}}, ("Émile Zola", "perhaps", "1990-01-01")),
        ({"retain": "a court wants it"}, ("Émile Zola", "perhaps", "1990-05-05")),
    ],
)
@covers("type", "String, Nullable, Date", "erased")
def test_redaction_puts_what_the_map_says_in_the_place_of_a_value(
    with_target: MakeStore, on_retire: dict[str, Any], expected: tuple[Any, ...]
) -> None:
    store = with_target(on_retire)
    assert retire(store, [1])[0].state == "erased"
    query = "SELECT text, maybe, toString(born) FROM $event_sink.people WHERE user_id = {user:Int64}"
    assert store.client.rows(query, user=1) == [expected]
    assert store.client.rows(query, user=2) == [("Émile Zola", "perhaps", "1990-05-05")]
    assert verify_subjects(store, [1]).is_clean


def test_rows_are_redacted_before_they_are_deleted_where_the_map_asks_for_both(with_target: MakeStore) -> None:
    store = with_target({"redact": {"text": "empty"}, "then": "delete"})
    outcome = retire(store, [1])[0]
    assert outcome.state == "erased"
    commands = store.client.column(
        "SELECT command FROM system.mutations WHERE table = 'people' ORDER BY create_time, mutation_id"
    )
    assert "UPDATE text" in commands[0]
    assert "_row_exists" in commands[1]
    assert store.client.column("SELECT user_id FROM $event_sink.people ORDER BY user_id") == [2, 3]


def test_an_expression_may_have_a_percent_sign_where_everybody_is_meant(with_target: MakeStore) -> None:
    """The driver takes it for a format where a statement has values and no placeholder."""
    store = with_target({"redact": {"born": {"expression": "toDate(toYear(born) % 1)"}}})
    purge(store, plan_purge(store, []), enabled=False)
    assert store.client.column("SELECT DISTINCT toString(born) FROM $event_sink.people") == ["1970-01-01"]


@covers("place", "rows under `unless`", "left")
def test_exempted_rows_stay_as_they_are(with_target: MakeStore) -> None:
    exempt = {"column": "status", "values": ["legal hold"], "reason": "pending case"}
    store = with_target({"redact": {"text": "empty"}, "unless": exempt})
    assert [o.state for o in retire(store, [1, 3])] == ["erased", "erased"]
    assert store.client.column("SELECT text FROM $event_sink.people ORDER BY user_id") == [
        "",
        "Émile Zola",
        "Émile Zola",
    ]


@pytest.mark.parametrize(
    "expression",
    [
        "",
        "text; DROP TABLE x",
        "text -- note",
        "/* note */ ''",
        "'' # note",
        "lower(status",
        "lower(status))",
        "'x') FROM system.one WHERE ('1'",
        "'x'), ('y'",
        "'x",
        "{user:Int64}",
        "'$event_sink'",
        "(SELECT status FROM event_sink.people LIMIT 1)",
        "(TABLE event_sink.people)",
        "exists(SELECT 1)",
        "toString(status IN event_sink.user_profile)",
        "toString(status IN people)",
        "`file`('/etc/hostname')",
        "file('/etc/hostname')",
        "url('http://example.com')",
        "dictGet('event_sink.people', 'name', user_id)",
        "joinGet('a', 'b', user_id)",
        "getSetting('max_threads')",
        "toString(throwIf(user_id = 2))",
        "toString(sleep(1))",
        "toString(rand())",
        "toString(now())",
        "toString(count())",
        "toString(row_number() OVER ())",
        "arrayStringConcat(arrayMap(x -> (SELECT 1), [1]))",
        "toString(tuple(*))",
        "status AS text",
        "nobody",
    ],
)
@covers("type", "expressions that reach beyond the row", "refused")
def test_an_expression_that_reaches_beyond_the_row_is_refused(with_target: MakeStore, expression: str) -> None:
    with pytest.raises(MapError, match=r"targets\.event_sink\.people"):
        require_valid_plan(read_plan(with_target({"redact": {"text": {"expression": expression}}})))


@pytest.mark.parametrize(
    "expression",
    [
        "lower(text)",
        "concat('x', text)",
        "`text`",
        "concat('user of ', text)",
        "maybe",
        "toString(born)",
        "people.text",
    ],
)
def test_an_expression_that_shows_what_goes_is_refused_with_the_fix(with_target: MakeStore, expression: str) -> None:
    (problem,) = read_plan(with_target({"redact": {"text": {"expression": expression}}})).problems
    assert problem.place == "targets.event_sink.people.redact.text"
    assert problem.fix.startswith(("Use `constant`", "Correct"))


def test_an_expression_of_a_computed_column_is_refused(with_target: MakeStore) -> None:
    store = with_target({"redact": {"text": {"expression": "loud"}}})
    store.client.execute("ALTER TABLE $event_sink.people ADD COLUMN loud String ALIAS upper(text)")
    (problem,) = read_plan(store).problems
    assert problem.reason == "loud is computed from other columns, and may show what goes"


def test_an_expression_has_to_fit_its_column(with_target: MakeStore) -> None:
    (problem,) = read_plan(with_target({"redact": {"born": {"expression": "'never'"}}})).problems
    assert problem.reason == "ClickHouse cannot put it into `born`, which is Date"


@pytest.mark.parametrize(
    ("column", "expression", "expected"),
    [
        ("text", "concat('user ', toString(user_id))", "user 1"),
        ("text", "if(status IN ('free', 'sold'), 'a -- b; (', status)", "a -- b; ("),
        ("text", "CASE WHEN empty(text) THEN '' ELSE upper(`status`) END", "FREE"),
        ("text", "status || '-' || substring(status FROM 1 FOR 1)", "free-f"),
        ("born", "toDate('2000-01-01') + INTERVAL 1 DAY", "2000-01-02"),
        ("born", "makeDate(toYear(born), 1, 1)", "1990-01-01"),
    ],
)
def test_an_expression_over_what_stays_takes_the_place_of_what_goes(
    with_target: MakeStore, column: str, expression: str, expected: str
) -> None:
    store = with_target({"redact": {column: {"expression": expression}}})
    assert retire(store, [1])[0].state == "erased"
    assert store.client.value(f"SELECT toString({column}) FROM $event_sink.people WHERE user_id = 1") == expected
    assert [o.state for o in retire(store, [1])] == ["already erased"]


def test_a_hash_is_alike_in_all_columns_of_a_type_and_different_for_others() -> None:
    assert keyed_hash(SECRET, "name", 1) == keyed_hash(SECRET, "name", "1")
    others = {
        keyed_hash(SECRET, "name", 2),
        keyed_hash(SECRET, "username", 1),
        keyed_hash(SecretStr("x" * 16), "name", 1),
    }
    assert len(others | {keyed_hash(SECRET, "name", 1)}) == 4


def test_a_refreshable_view_forgets_the_subject_and_its_files_do_too(store: Store, tmp_path: Path) -> None:
    store.client.execute("ALTER TABLE $event_sink.user_profile MODIFY COLUMN name String CODEC(NONE)")
    store.client.insert(
        store.client.table("event_sink.user_profile"), ["user_id", "name"], [(1, "Canary-Ibex"), (2, "Somebody")]
    )
    store.client.execute(
        "CREATE MATERIALIZED VIEW $reporting.names REFRESH EVERY 1 DAY "
        "(user_id Int64, name String CODEC(NONE)) ENGINE = MergeTree ORDER BY user_id "
        "AS SELECT user_id, name FROM event_sink.user_profile"
    )
    store.client.execute("SYSTEM WAIT VIEW $reporting.names")
    assert store.client.value("SELECT count() FROM $reporting.names") == 2
    outcome = retire(store, [1])[0]
    assert outcome.state == "erased", outcome.reason
    assert outcome.receipt is not None
    assert outcome.receipt["reloaded"] == ["reporting.names"]
    assert store.client.column("SELECT name FROM $reporting.names") == ["Somebody"]
    files = [path for path in tmp_path.rglob("*") if path.is_file() and b"Canary-Ibex" in path.read_bytes()]
    assert files == []
