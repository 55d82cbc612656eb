"""Events that name people, with the map that ships: nothing is done where there are none, and all of it where there are."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
import uuid
from datetime import UTC, datetime
from typing import Any

import pytest
import yaml
from pydantic import SecretStr

from sink.erasure.coverage import check_map
from sink.erasure.plan import find_secret, read_plan
from sink.erasure.pseudonyms import PSEUDONYM, is_pseudonym, keyed_hash
from sink.erasure.purge import plan_purge, purge
from sink.erasure.verify import verify_subjects
from sink.pii_map import PiiMap
from sink.resources import find_resource
from sink.retirement.retire import retire
from sink.store import Store
from tests.support.coverage_page import covers

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ANONYMOUS = {"account": {"homePage": "https://lms.example.net", "name": "5b1f4ad6-0b52-4b84-8a3c-1b6cf0a0c1de"}}


def add_profiles(store: Store, *users: int) -> None:
    store.client.insert(
        store.client.table("event_sink.user_profile"),
        ["user_id", "username", "email"],
        [(u, f"quokka_{u}", f"Quokka{u}@Example.org") for u in users],
    )


def add_events(store: Store, *texts: str | bytes) -> None:
    for text in texts:
        raw = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
        store.client.execute(
            "INSERT INTO $xapi.xapi_events_all (event_id, emission_time, event) "
            "SELECT {event:UUID}, {time:DateTime64(6)}, unhex({text:String})",
            repeatable=False,
            event=uuid.uuid4(),
            time=NOW,
            text=raw.hex(),
        )


def read_events(store: Store) -> list[bytes]:
    found = store.client.column("SELECT hex(event) FROM $xapi.xapi_events_all ORDER BY event")
    return [bytes.fromhex(digits) for digits in found]


def name(user: int, **more: Any) -> dict[str, Any]:
    return {"mbox": f"mailto:quokka{user}@example.org", "name": f"Quokka {user}", **more}


def statement(actor: dict[str, Any], **more: Any) -> str:
    return json.dumps(
        {"id": str(uuid.uuid4()), "actor": actor, "verb": {"id": "http://adlnet.gov/expapi/verbs/answered"}, **more}
    )


def test_nothing_is_done_where_no_statement_names_anybody_and_only_what_is_new_is_looked_at(store: Store) -> None:
    add_profiles(store, 1, 2)
    add_events(store, *(statement(ANONYMOUS) for _ in range(3)))
    plan = read_plan(store)
    assert [step.label for step in plan.steps if step.table.name.database == "xapi"] == []
    assert plan.idle == ["xapi.xapi_events_all.event"]
    looked_at = store.client.value("SELECT max(max_block) FROM $pii_ledger.named_tables")
    assert looked_at == store.client.value(
        "SELECT max(max_block_number) FROM system.parts WHERE table = 'xapi_events_all' AND active"
    )
    add_events(store, statement(name(1)))
    assert [step.label for step in read_plan(store).steps if step.table.name.database == "xapi"] == [
        "xapi.xapi_events_all.event"
    ]


def test_all_that_a_statement_says_of_a_person_goes_and_everything_else_stays(store: Store) -> None:
    add_profiles(store, 1, 2)
    digest = hashlib.sha1(b"mailto:quokka1@example.org").hexdigest()
    of_one = [
        statement(name(1)),
        statement({"mbox_sha1sum": digest}),
        statement({"objectType": "Group", "member": [name(1), name(2)]}),
        statement(ANONYMOUS, context={"instructor": name(1), "team": {"member": [name(2)]}}),
        statement({"mbox": "MAILTO:Quokka1@EXAMPLE.org"}, authority=name(1)),
    ]
    of_others = [statement(ANONYMOUS), statement(name(2)), '{"n": 1.50, "e": 1e400, "x": NaN}']
    add_events(store, *of_one, *of_others)
    outcome = retire(store, [1])[0]
    assert outcome.state == "erased", outcome.reason
    assert outcome.rows == 1 + len(of_one)
    after = read_events(store)
    assert len(after) == len(of_one) + len(of_others)
    assert set(of_others) <= {text.decode() for text in after}
    everything = b"".join(after).lower()
    assert b"quokka1" not in everything
    assert b"quokka 1" not in everything
    assert digest.encode() not in everything
    assert everything.count(b"mailto:quokka2@example.org") == 3
    secret = find_secret(store)
    assert secret is not None
    assert everything.count(keyed_hash(secret, PSEUDONYM, 1).encode()) == 6
    assert verify_subjects(store, [1]).is_clean
    assert outcome.receipt is not None
    assert ("xapi.xapi_events_all", 5) in [(t["target"], t["rows_before"]) for t in outcome.receipt["targets"]]


def test_texts_that_no_parser_of_clickhouse_reads_lose_the_address_too(store: Store) -> None:
    add_profiles(store, 1)
    texts = [
        b'{"actor": {"mbox": "mailto:quokka1@example.org"}, "odd": "\\ud800", "deep": '
        + b"[" * 3_000
        + b"]" * 3_000
        + b"}",
        b'{"actor": {"mbox": "mailto:quokka1%40example.org", "name": "M\xe9"}}',
        b'\xef\xbb\xbf {"actor": {"mbox": "mailto:Zoe <quokka1@example.org>"}, "n": NaN}\n{"more": 1}',
        b'{"actor": {"mbox": "mailto:quokka1@example.org"}, "cut": "of',
    ]
    add_events(store, *texts)
    outcome = retire(store, [1])[0]
    assert outcome.state == "erased", outcome.reason
    after = read_events(store)
    assert len(after) == 4
    assert not any(b"quokka1" in text.lower() for text in after)
    assert sum(b'"cut": "of' in text for text in after) == 1
    assert sum(b"[" * 3_000 in text for text in after) == 1


def test_two_in_one_batch_get_a_pseudonym_each(store: Store) -> None:
    add_profiles(store, 1, 2, 3)
    add_events(store, *(statement(name(u)) for u in (1, 2, 3)))
    assert [outcome.state for outcome in retire(store, [1, 2])] == ["erased", "erased"]
    actors = sorted(json.loads(text)["actor"]["mbox"] for text in read_events(store))
    assert len(set(actors)) == 3
    assert actors[-1] == "mailto:quokka3@example.org"
    secret = find_secret(store)
    assert secret is not None
    assert all(is_pseudonym(secret, actor) for actor in actors[:2])


def test_a_purge_takes_everybody_known_or_not(store: Store) -> None:
    add_profiles(store, 1)
    anonymous = statement(ANONYMOUS)
    add_events(store, statement(name(1)), statement(name(77)), statement(name(77)), anonymous)
    purge(store, plan_purge(store, []), enabled=False)
    after = [json.loads(text) for text in read_events(store)]
    assert len(after) == 4
    named = [event["actor"] for event in after if "mbox" in event["actor"]]
    assert len(named) == 3
    secret = find_secret(store)
    assert secret is not None
    assert all(is_pseudonym(secret, actor["mbox"]) for actor in named)
    assert {actor["name"] for actor in named} == {"Deleted User"}
    assert len({actor["mbox"] for actor in named}) == 2
    assert json.loads(anonymous) in after
    purge(store, plan_purge(store, []), enabled=False)
    assert [json.loads(text) for text in read_events(store)] == after


def test_the_key_that_init_makes_is_enough(store: Store) -> None:
    keyless = dataclasses.replace(store, policy=dataclasses.replace(store.policy, pseudonym_secret=None))
    add_profiles(keyless, 1)
    add_events(keyless, statement(name(1)))
    assert [problem for problem in check_map(keyless).problems if "SECRET" in str(problem)] == []
    assert retire(keyless, [1])[0].state == "erased"
    secret = find_secret(keyless)
    assert isinstance(secret, SecretStr)
    (text,) = read_events(keyless)
    assert json.loads(text)["actor"]["mbox"] == f"mailto:{keyed_hash(secret, PSEUDONYM, 1)}@retired.invalid"


def test_what_comes_after_a_table_was_emptied_is_looked_at(store: Store) -> None:
    add_profiles(store, 1)
    add_events(store, *(statement(ANONYMOUS) for _ in range(6)))
    assert read_plan(store).idle == ["xapi.xapi_events_all.event"]
    table = store.client.table("xapi.xapi_events_all").sql
    for sql in (f"TRUNCATE TABLE {table} SYNC", f"DETACH TABLE {table}", f"ATTACH TABLE {table}"):
        store.client.execute(sql)
    add_events(store, statement(name(1)))
    assert retire(store, [1])[0].state == "erased"
    (text,) = read_events(store)
    assert b"quokka1" not in text


def test_a_receipt_says_that_statements_were_not_searched(store: Store) -> None:
    add_profiles(store, 1)
    add_events(store, statement(ANONYMOUS, result={"response": "quokka_1"}))
    receipt = retire(store, [1])[0].receipt
    assert receipt is not None
    assert "xapi.xapi_events_all.event" not in receipt["verified"]
    assert any(line.startswith("xapi.xapi_events_all.event: no statement") for line in receipt["not_covered"])


def with_rule_by_path(store: Store, on_retire: Any, **pii: str) -> Store:
    """The map that ships, with a further rule for statements, which finds them by the address of their actor."""
    document = yaml.safe_load(find_resource("config/pii.yaml").read_text())
    target = document["targets"]["xapi.xapi_events_all"]
    by_text = {name: target.pop(name) for name in ("match", "on_retire")}
    target["rules"] = [{"match": {"event.actor.mbox": "mailto:{email}"}, "on_retire": on_retire}, by_text]
    target["pii"].update(pii)
    return dataclasses.replace(store, pii_map=PiiMap.model_validate(document))


@pytest.mark.parametrize(
    ("on_retire", "pii"),
    [({"redact": {"event.note": "empty"}}, {"event.note": "other"}), ({"delete": True}, {})],
    ids=["redact", "delete"],
)
@covers("key", "a text that is searched for people, and a path into it", "erased")
def test_a_rule_by_path_beside_a_rule_for_people_stops_nobody(
    store: Store, on_retire: dict[str, Any], pii: dict[str, str]
) -> None:
    store = with_rule_by_path(store, on_retire, **pii)
    add_profiles(store, 1, 2)
    mine = json.dumps({"actor": {"mbox": "mailto:Quokka1@Example.org"}, "note": "a canary"})
    others = json.dumps({"actor": ANONYMOUS, "note": "of somebody else"})
    add_events(store, mine, others)
    assert [outcome.state for outcome in retire(store, [2, 1])] == ["erased", "erased"]
    after = read_events(store)
    assert others.encode() in after
    assert len(after) == (1 if "delete" in on_retire else 2)
    assert not any(b"canary" in text or b"uokka1" in text for text in after)
    assert plan_purge(store, []).lines


UPDATES = {"enable_lightweight_update": 1}


@pytest.fixture
def updatable(store: Store) -> Store:
    """A store whose events can be changed by lightweight UPDATEs, and whose events name nobody yet."""
    store.client.execute(
        "ALTER TABLE $xapi.xapi_events_all MODIFY SETTING enable_block_number_column = 1, enable_block_offset_column = 1"
    )
    add_profiles(store, 1)
    add_events(store, statement(ANONYMOUS), statement(ANONYMOUS, verb="a canary"))
    store.client.execute("OPTIMIZE TABLE $xapi.xapi_events_all FINAL")
    # What was made in the second of a look is looked at once more, whatever it is.
    time.sleep(1.1)
    assert read_plan(store).idle == ["xapi.xapi_events_all.event"]
    return store


@covers("moment", "a lightweight UPDATE", "erased")
def test_a_name_that_a_lightweight_update_brings_is_found_and_leaves_the_files(updatable: Store) -> None:
    updatable.client.execute(
        f"UPDATE $xapi.xapi_events_all SET event = '{statement(name(1))}' WHERE event LIKE '%a canary%'", UPDATES
    )
    outcome = retire(updatable, [1])[0]
    assert outcome.state == "erased", outcome.reason
    after = read_events(updatable)
    assert len(after) == 2
    assert not any(b"uokka" in text for text in after)
    parts = updatable.client.column("SELECT name FROM system.parts WHERE table = 'xapi_events_all'")
    assert parts
    assert not any(part.startswith("patch-") for part in parts)


def test_rows_that_a_lightweight_update_has_hidden_leave_the_files(updatable: Store) -> None:
    updatable.client.execute(
        f"UPDATE $xapi.xapi_events_all SET event = '{statement(name(1))}' WHERE event LIKE '%a canary%'", UPDATES
    )
    updatable.client.execute(
        "DELETE FROM $xapi.xapi_events_all WHERE event LIKE '%quokka1@%'",
        {**UPDATES, "lightweight_delete_mode": "lightweight_update_force"},
    )
    outcome = retire(updatable, [1])[0]
    assert outcome.state == "erased", outcome.reason
    hidden = updatable.client.rows("SELECT event FROM $xapi.xapi_events_all", {"apply_deleted_mask": 0})
    assert len(hidden) == 1
    assert not any("uokka" in text for (text,) in hidden)
