"""A rule that cannot be carried out on the table that it names is told by place, reason and fix."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import SecretStr

from sink.clickhouse.catalog import Table
from sink.erasure.problems import Problem, find_problems
from sink.names import TableName
from sink.pii_map import Rule

NAME = TableName("event_sink", "people")
COLUMNS = {"user_id": "Int64", "name": "String", "maybe": "Nullable(String)", "born": "Date", "extra": "JSON"}
SECRET = SecretStr("a secret of the tests")


def find(on_retire: Any, *, key: str = "user_id", secret: SecretStr | None = SECRET, **changes: Any) -> list[Problem]:
    table = Table(NAME, **{"engine": "MergeTree", "columns": COLUMNS, **changes})
    return find_problems("event_sink.people", Rule(match={key: "id"}, on_retire=on_retire), table, secret)


@pytest.mark.parametrize(
    "on_retire",
    [
        "delete",
        {"redact": {"name": "hash", "maybe": None, "born": "default", "extra.a.b": "constant"}},
        {"redact": {"name": "empty"}, "unless": {"column": "maybe", "values": ["x"], "reason": "why"}},
    ],
)
def test_a_rule_that_fits(on_retire: Any) -> None:
    assert find(on_retire) == []


@pytest.mark.parametrize(
    ("on_retire", "place", "reason"),
    [
        ({"redact": {"nick": "empty"}}, "", "there is no column nick"),
        ({"redact": {"born.day": "empty"}}, "", "born.day is a path into born, which is Date and not JSON"),
        ({"redact": {"name": None}}, ".redact.name", "null does not fit into String"),
        ({"redact": {"born": "empty"}}, ".redact.born", "empty needs a text column, and this is Date"),
        ({"redact": {"extra.a": "default"}}, ".redact.extra.a", "default cannot be put into JSON"),
    ],
)
def test_a_rule_that_does_not(on_retire: Any, place: str, reason: str) -> None:
    (problem,) = find(on_retire)
    assert (problem.place, problem.reason) == (f"targets.event_sink.people{place}", reason)
    assert problem.fix.endswith(".")
    assert str(problem) == f"{problem.place}: {problem.reason}. {problem.fix}"


def test_what_hangs_on_the_table_or_the_settings() -> None:
    assert [p.reason for p in find("delete", engine="Memory")] == ["rows of a Memory cannot be erased"]
    hashed = {"redact": {"name": "hash"}}
    assert [p.reason for p in find(hashed, secret=None)] == ["a keyed hash needs ASPECTS_PSEUDONYM_SECRET"]
    (problem,) = find(hashed, key_columns=frozenset(["name"]))
    assert problem.reason == "the column is in the sort or partition key, which ClickHouse cannot update"
    assert find({"redact": {"name": "pseudonym"}}, key_columns=frozenset(["name"])) == []
    assert find({"redact": {"name": "hash"}, "then": "delete"}, key_columns=frozenset(["name"])) == []
