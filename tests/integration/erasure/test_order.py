"""Several rules of one table: none hides from another the rows that it is about."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from sink.erasure.coverage import check_map
from sink.erasure.purge import plan_purge, purge
from sink.pii_map import PiiMap
from sink.retirement.retire import retire
from sink.store import Store
from tests.support.coverage_page import covers

WithRules = Callable[..., Store]


def rule(column: str, source: str, redact: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"match": {column: source}, "on_retire": {"redact": redact, **more}}


@pytest.fixture
def with_rules(store: Store) -> WithRules:
    """A store with two users, one table, and rules for it."""

    def make(definition: str, rows: str, rules: list[dict[str, Any]], pii: dict[str, str]) -> Store:
        store.client.execute(f"CREATE TABLE $event_sink.answers {definition}")
        store.client.execute(f"INSERT INTO $event_sink.answers VALUES {rows}")
        store.client.insert(
            store.client.table("event_sink.user_profile"),
            ["user_id", "username", "email", "name"],
            [(u, f"user{u}", f"user{u}@example.com", f"User {u}") for u in (1, 2)],
        )
        document = store.pii_map.model_dump(include={"version", "subject", "targets"}, mode="json")
        document["targets"] = {
            name: document["targets"][name] for name in ("event_sink.user_profile", "event_sink.external_id")
        }
        document["targets"]["event_sink.answers"] = {"pii": pii, "rules": rules}
        return dataclasses.replace(store, pii_map=PiiMap.model_validate(document))

    return make


NAME_AND_MAIL = (
    "(username String, mail String, note String) ENGINE = MergeTree ORDER BY tuple()",
    "('user1','user1@example.com','secret'), ('user2','user2@example.com','other')",
    [
        rule("username", "username", {"username": "empty", "mail": "empty"}),
        rule("mail", "email", {"mail": "empty", "note": "empty"}),
    ],
    {"username": "username", "mail": "email_address", "note": "other"},
    [("", "", ""), ("user2", "user2@example.com", "other")],
)
ONE_KEY_TWICE = (
    "(username String, note String) ENGINE = MergeTree ORDER BY tuple()",
    "('user1','secret'), ('user2','other')",
    [rule("username", "username", {"username": "constant"}), rule("username", "username", {"note": "empty"})],
    {"username": "username", "note": "other"},
    [("Deleted User", ""), ("user2", "other")],
)
NAME_AND_ID = (
    "(user_id Int64, username String, note String) ENGINE = MergeTree ORDER BY tuple()",
    "(1,'user1','secret'), (2,'user2','other')",
    [
        rule("username", "username", {"username": "empty", "user_id": "default"}),
        rule("user_id", "id", {"note": "empty"}),
    ],
    {"username": "username", "user_id": "id", "note": "other"},
    [(0, "", ""), (2, "user2", "other")],
)
KEY_THAT_IS_COMPUTED = (
    "(mail String, lower_mail String MATERIALIZED lower(mail), note String) ENGINE = MergeTree ORDER BY tuple()",
    "('User1@example.com','secret'), ('user2@example.com','other')",
    [rule("mail", "email", {"mail": "empty"}), rule("lower_mail", "email", {"note": "empty"})],
    {"mail": "email_address", "lower_mail": "email_address", "note": "other"},
    [("", ""), ("user2@example.com", "other")],
)
STATEMENT_AND_PATH = (
    "(event String) ENGINE = MergeTree ORDER BY tuple()",
    """('{"actor":{"mbox":"mailto:user1@example.com"},"note":"secret"}'),"""
    """('{"actor":{"mbox":"mailto:user2@example.com"},"note":"other"}')""",
    [
        rule("event", "person", {"event": "person"}),
        rule("event.actor.mbox", "mailto:{email}", {"event.note": "empty"}),
    ],
    {"event": "other", "event.note": "other"},
    None,
)


# Whichever rule finds a row does whatever the other would, so that it may hide the row from that.
EITHER_DOES_ALL = (
    "(username String, mail String) ENGINE = MergeTree ORDER BY tuple()",
    "('user1','secret'), ('','user1@example.com'), ('user1','user1@example.com'), ('user2','other')",
    [
        rule("username", "username", {"username": "empty", "mail": "empty"}),
        rule("mail", "email", {"mail": "empty", "username": "empty"}),
    ],
    {"username": "username", "mail": "email_address"},
    [("", "")] * 3 + [("user2", "other")],
)


@pytest.mark.parametrize("is_reversed", [False, True])
@pytest.mark.parametrize(
    "case",
    [NAME_AND_MAIL, ONE_KEY_TWICE, NAME_AND_ID, KEY_THAT_IS_COMPUTED, STATEMENT_AND_PATH, EITHER_DOES_ALL],
    ids=["name and mail", "one key twice", "name and id", "a computed key", "statement and path", "either does all"],
)
@covers("key", "several rules of one table, of which one changes what another finds its rows by", "erased")
def test_rules_of_a_table_hide_no_rows_from_each_other(with_rules: WithRules, case: Any, is_reversed: bool) -> None:
    definition, rows, rules, pii, wanted = case
    store = with_rules(definition, rows, rules[::-1] if is_reversed else rules, pii)
    assert [problem for problem in check_map(store).problems if "answers" in problem.place] == []
    (outcome,) = retire(store, [1])
    assert outcome.state == "erased", outcome.reason
    found = sorted(store.client.rows("SELECT * FROM $event_sink.answers"))
    assert len(found) == rows.count("),") + 1
    assert not any("secret" in str(row) or "user1" in str(row) for row in found)
    assert any("other" in str(row) for row in found)
    if wanted is not None:
        assert found == wanted


def test_a_purge_takes_the_same_order(with_rules: WithRules) -> None:
    definition, rows, rules, pii, _ = NAME_AND_MAIL
    store = with_rules(definition, rows, rules, pii)
    purge(store, plan_purge(store, []), enabled=False)
    assert store.client.rows("SELECT * FROM $event_sink.answers") == [("", "", "")] * 2


EXEMPT = [
    rule("username", "username", {"kind": "empty"}),
    rule("user_id", "id", {"note": "empty"}, unless={"column": "kind", "values": ["keep"], "reason": "the law"}),
]


@pytest.mark.parametrize("rules", [EXEMPT, EXEMPT[::-1]])
@covers("key", "a rule that changes the column which an `unless` asks", "refused")
def test_a_rule_that_changes_what_an_exemption_asks_is_refused(
    with_rules: WithRules, rules: list[dict[str, Any]]
) -> None:
    """Afterwards nobody could tell which rows were left, and why."""
    store = with_rules(
        "(user_id Int64, username String, kind String, note String) ENGINE = MergeTree ORDER BY tuple()",
        "(1,'user1','keep','legal'), (1,'user1','x','secret')",
        rules,
        {"kind": "other", "note": "other", "username": "username"},
    )
    (problem,) = [problem for problem in check_map(store).problems if "answers" in problem.place]
    assert problem.reason == (
        "the rule for username changes kind, by which the rule for user_id tells the rows that it leaves"
    )
    (outcome,) = retire(store, [1])
    assert (outcome.state, "targets.event_sink.answers" in outcome.reason) == ("failed", True)
    assert sorted(store.client.column("SELECT note FROM $event_sink.answers")) == ["legal", "secret"]


@covers("key", "rules that change each other's keys", "refused")
def test_rules_that_change_each_others_keys_are_refused(with_rules: WithRules) -> None:
    store = with_rules(
        NAME_AND_MAIL[0],
        NAME_AND_MAIL[1],
        [
            rule("username", "username", {"username": "constant", "mail": "empty"}),
            rule("mail", "email", {"mail": "empty", "username": "empty"}),
        ],
        NAME_AND_MAIL[3],
    )
    (problem,) = [problem for problem in check_map(store).problems if "answers" in problem.place]
    assert problem.reason.endswith("(username, mail)") or problem.reason.endswith("(mail, username)")
    assert "Write what they redact under one of them" in problem.fix
    (outcome,) = retire(store, [1])
    assert (outcome.state, "targets.event_sink.answers" in outcome.reason) == ("failed", True)
