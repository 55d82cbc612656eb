"""What `--scan` found stays open until somebody has seen to that very column."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from sink.erasure.identities import Identities
from sink.erasure.verify import verify_subjects
from sink.pii_map import load_map
from sink.resources import find_resource
from sink.retirement.replay import backfill_retired
from sink.retirement.retire import retire, sweep
from sink.store import Store
from tests.support.coverage_page import covers

TICKETS = "reporting.tickets"
BY_NAME_ONLY = {
    "match": {"user_id": "id"},
    "pii": {"username": "username"},
    "on_retire": {"redact": {"username": "empty"}},
}
MapOf = Callable[..., Store]


@pytest.fixture
def with_map(store: Store, tmp_path: Path) -> MapOf:
    """The store with targets, and exemptions, added to its map."""

    def change(targets: dict[str, Any], not_pii: dict[str, str] | None = None) -> Store:
        document = yaml.safe_load(find_resource("config/pii.yaml").read_text())
        document["targets"].update(targets)
        document["not_pii"].update(not_pii or {})
        path = tmp_path / "map.yaml"
        path.write_text(yaml.safe_dump(document))
        return dataclasses.replace(store, pii_map=load_map(path))

    return change


@pytest.fixture
def tickets(store: Store) -> None:
    """Two people with profiles; the address of the first is in the body of the first one's ticket."""
    add_profiles(store)
    store.client.execute(
        "CREATE TABLE $reporting.tickets (user_id Int64, username String, body String) ENGINE = MergeTree ORDER BY user_id"
    )
    store.client.insert(
        store.client.table(TICKETS),
        ["user_id", "username", "body"],
        [(1, "learner_1", "write to learner_1@example.com"), (2, "learner_2", "thanks")],
    )


def add_profiles(store: Store) -> None:
    store.client.insert(
        store.client.table("event_sink.user_profile"),
        ["user_id", "name", "username", "email", "bio", "time_last_dumped"],
        [
            (1, "Quetzal Canary", "learner_1", "learner_1@example.com", "", "2026-01-01 00:00:00"),
            (2, "Somebody Else", "learner_2", "learner_2@example.com", "", "2026-01-01 00:00:00"),
        ],
    )


def states(outcomes: list[Any]) -> list[str]:
    return [str(outcome.state) for outcome in outcomes]


@pytest.mark.usefixtures("tickets")
def test_sweep_does_not_close_what_was_found_in_another_column_of_a_target(with_map: MapOf) -> None:
    store = with_map({TICKETS: BY_NAME_ONLY})
    (outcome,) = retire(store, [1], scan=True)
    assert outcome.state == "failed"
    assert "reporting.tickets.body" in outcome.reason
    assert "reporting.tickets.username" not in outcome.reason
    assert states(sweep(store)) == ["failed"]
    assert states(sweep(store)) == ["failed"]


@pytest.mark.usefixtures("tickets")
@pytest.mark.parametrize("how", ["delete", {"redact": {"username": "empty", "body": "empty"}}])
def test_sweep_closes_it_once_a_rule_erases_that_column(with_map: MapOf, how: Any) -> None:
    retire(with_map({TICKETS: BY_NAME_ONLY}), [1], scan=True)
    pii = {"username": "username", "body": "other"}
    mended = with_map({TICKETS: {"match": {"user_id": "id"}, "pii": pii, "on_retire": how}})
    assert states(sweep(mended)) == ["erased"]
    assert mended.client.value("SELECT countIf(body LIKE '%example.com%') FROM $reporting.tickets") == 0


@pytest.mark.usefixtures("tickets")
def test_sweep_does_not_close_it_where_the_rule_finds_no_row_of_the_subject(store: Store, with_map: MapOf) -> None:
    store.client.execute("ALTER TABLE $reporting.tickets DELETE WHERE user_id = 1")
    store.client.execute("INSERT INTO $reporting.tickets VALUES (2, 'learner_2', 'ask learner_1@example.com')")
    retire(store, [1], scan=True)
    pii = {"username": "username", "body": "other"}
    mended = with_map({TICKETS: {"match": {"user_id": "id"}, "pii": pii, "on_retire": "delete"}})
    assert states(sweep(mended)) == ["failed"]


@pytest.mark.usefixtures("tickets")
def test_sweep_closes_it_once_the_column_is_no_pii(with_map: MapOf) -> None:
    targets = {TICKETS: BY_NAME_ONLY}
    retire(with_map(targets), [1], scan=True)
    assert states(sweep(with_map(targets, {f"{TICKETS}.username": "of courses"}))) == ["failed"]
    assert states(sweep(with_map(targets, {f"{TICKETS}.body": "cleaned by hand"}))) == ["erased"]


def test_sweep_does_not_close_what_a_rule_had_reached_when_it_was_found(store: Store) -> None:
    add_profiles(store)
    store.client.execute("ALTER TABLE $event_sink.user_profile UPDATE bio = 'a friend of learner_1' WHERE user_id = 2")
    (outcome,) = retire(store, [1], scan=True)
    assert "event_sink.user_profile.bio" in outcome.reason
    assert states(sweep(store)) == ["failed"]
    assert states(sweep(store)) == ["failed"]


@pytest.mark.usefixtures("tickets")
def test_a_target_that_is_retained_keeps_no_search_open(with_map: MapOf) -> None:
    retained = {
        "match": {"user_id": "id"},
        "pii": {"username": "username", "body": "other"},
        "on_retire": {"retain": "the law on invoices"},
    }
    store = with_map({TICKETS: retained})
    (outcome,) = retire(store, [1], scan=True)
    assert outcome.state == "erased"
    assert outcome.receipt is not None
    said = sorted(line for line in outcome.receipt["not_covered"] if line.startswith(TICKETS))
    assert said == [
        "reporting.tickets.body: 1 text of 1 stays: retained: the law on invoices",
        "reporting.tickets.username: 1 text of 1 stays: retained: the law on invoices",
    ]


def test_words_are_in_the_receipt_and_keep_nothing_open(store: Store) -> None:
    store.client.insert(store.client.table("event_sink.user_profile"), ["user_id", "username"], [(1, "honor")])
    store.client.execute("CREATE TABLE $reporting.modes (mode String) ENGINE = MergeTree ORDER BY mode")
    store.client.execute("INSERT INTO $reporting.modes VALUES ('honor'), ('audit')")
    (outcome,) = retire(store, [1], scan=True)
    assert outcome.is_done
    assert outcome.receipt is not None
    assert [line for line in outcome.receipt["not_covered"] if "reporting.modes" in line] == [
        "reporting.modes.mode: 1 text with a word that 1 is called and that may mean another"
    ]


def test_whoever_is_erased_already_is_searched_for_by_what_the_lms_knows(store: Store) -> None:
    add_profiles(store)
    assert states(retire(store, [1])) == ["erased"]
    store.client.execute("CREATE TABLE $reporting.mails (x String) ENGINE = Log")
    store.client.execute("INSERT INTO $reporting.mails VALUES ('to learner_1@example.com')")
    known = Identities({"1": {"email": frozenset(["learner_1@example.com"])}})
    (outcome,) = retire(store, [1], known=known, scan=True)
    assert outcome.state == "failed"
    assert "reporting.mails.x" in outcome.reason
    assert states(sweep(store)) == ["failed"]
    store.client.execute("TRUNCATE TABLE $reporting.mails")
    assert states(retire(store, [1], known=known, scan=True)) == ["erased"]


def test_whoever_nobody_can_name_was_not_searched_for(store: Store) -> None:
    (first,) = retire(store, [1], scan=True)
    assert (first.state, first.is_proved) == ("erased", False)
    assert "texts were not searched" in first.reason
    assert first.receipt is not None
    assert any("texts were not searched" in line for line in first.receipt["not_covered"])
    (again,) = retire(store, [1], scan=True)
    assert (again.state, again.is_proved) == ("already erased", False)
    assert retire(store, [1])[0].is_proved
    assert states(sweep(store)) == []


def test_retire_with_scan_of_somebody_without_a_name_ends_with_1(aspects_pii: Callable[..., Any]) -> None:
    assert aspects_pii("init").status == 0
    for _ in range(2):
        done = aspects_pii("retire", "1", "--scan", "--unknown")
        assert done.status == 1
        assert "texts were not searched" in done.out
    assert aspects_pii("retire", "1").status == 0


def test_a_table_that_cannot_be_searched_keeps_it_open(store: Store, with_map: MapOf) -> None:
    add_profiles(store)
    store.client.execute("CREATE TABLE $reporting.seen (x String) ENGINE = Set")
    (outcome,) = retire(store, [1], scan=True)
    assert outcome.state == "failed"
    assert "reporting.seen" in outcome.reason
    assert states(sweep(store)) == ["failed"]
    assert states(sweep(with_map({}, {"reporting.seen": "codes of courses"}))) == ["erased"]


def test_verify_lists_words_apart(store: Store) -> None:
    store.client.execute("CREATE TABLE $reporting.modes (mode String) ENGINE = MergeTree ORDER BY mode")
    store.client.execute("INSERT INTO $reporting.modes VALUES ('honor'), ('audit')")
    store.client.insert(store.client.table("event_sink.user_profile"), ["user_id", "username"], [(1, "honor")])
    report = verify_subjects(store, [1], scan=True)
    assert {finding.place for finding in report.findings} == {"event_sink.user_profile"}
    assert [(finding.place, str(finding.kind)) for finding in report.listed if "modes" in finding.place] == [
        ("reporting.modes.mode", "words")
    ]


# --- a rule that is added when the profile is gone


def map_tickets(key: str, holds: str) -> dict[str, Any]:
    """The table of tickets, as an operator adds it after `--scan` has found somebody in it."""
    pii = {"username": "username", "body": "other"}
    return {TICKETS: {"match": {key: holds}, "pii": pii, "on_retire": "delete"}}


def without_hashes(store: Store) -> Store:
    return dataclasses.replace(store, policy=dataclasses.replace(store.policy, keep_former_names_days=0))


@covers("moment", "a rule by name that is added when nobody knows the name any more", "listed")
@pytest.mark.usefixtures("tickets")
def test_a_rule_by_name_that_comes_after_the_erasure_proves_nothing_where_nobody_knows_the_name(
    store: Store, with_map: MapOf
) -> None:
    assert states(retire(without_hashes(store), [1])) == ["erased"]
    later = without_hashes(with_map(map_tickets("username", "username")))
    report = verify_subjects(later)
    assert (report.is_proved, report.not_asked) == (False, {TICKETS: ["1"]})
    (outcome,) = retire(later, [1])
    assert (outcome.state, outcome.is_proved, list(outcome.not_asked)) == ("already erased", False, [TICKETS])
    assert backfill_retired(later).not_asked == {TICKETS: ["1"]}


@pytest.mark.usefixtures("tickets")
def test_a_rule_by_name_beside_one_that_was_proved_proves_nothing_of_its_own(store: Store, with_map: MapOf) -> None:
    by_id = map_tickets("user_id", "id")
    store.client.execute("INSERT INTO $reporting.tickets VALUES (0, 'learner_1', 'without an id')")
    assert states(retire(without_hashes(with_map(by_id)), [1])) == ["erased"]
    both = map_tickets("user_id", "id")
    rules = [{key: by_id[TICKETS][key] for key in ("match", "on_retire")}, {"match": {"username": "username"}}]
    rules[1]["on_retire"] = "delete"
    both[TICKETS] = {"pii": by_id[TICKETS]["pii"], "rules": rules}
    report = verify_subjects(without_hashes(with_map(both)))
    assert (report.is_proved, report.not_asked, report.not_asked_again) == (False, {TICKETS: ["1"]}, {})


@pytest.mark.usefixtures("tickets")
def test_a_rule_by_name_that_comes_after_the_erasure_finds_the_rows_by_keyed_hashes(
    store: Store, with_map: MapOf
) -> None:
    with_names = with_map({"reporting.notes": {**map_tickets("username", "username")[TICKETS]}})
    with_names.client.execute("CREATE TABLE $reporting.notes AS $reporting.tickets ENGINE = MergeTree ORDER BY user_id")
    assert states(retire(with_names, [1])) == ["erased"]
    later = with_map(map_tickets("username", "username"))
    assert [str(finding) for finding in verify_subjects(later).findings] == ["reporting.tickets: 1 row of 1"]
    assert states(backfill_retired(later).outcomes) == ["erased"]
    assert later.client.column("SELECT username FROM $reporting.tickets") == ["learner_2"]
    assert verify_subjects(later).is_proved


@pytest.mark.usefixtures("tickets")
def test_a_rule_by_id_that_comes_after_the_erasure_finds_the_rows(store: Store, with_map: MapOf) -> None:
    assert states(retire(without_hashes(store), [1])) == ["erased"]
    later = without_hashes(with_map(map_tickets("user_id", "id")))
    assert states(backfill_retired(later).outcomes) == ["erased"]
    assert verify_subjects(later).is_proved


@pytest.mark.usefixtures("tickets")
def test_backfill_retired_ends_with_1_where_nobody_knows_the_name(
    store: Store, with_map: MapOf, aspects_pii: Callable[..., Any], tmp_path: Path
) -> None:
    assert states(retire(without_hashes(store), [1])) == ["erased"]
    with_map(map_tickets("username", "username"))
    store.client.close()
    ran = aspects_pii("backfill-retired", PII_MAP=str(tmp_path / "map.yaml"), KEEP_FORMER_NAMES_DAYS="0")
    assert ran.status == 1
    assert f"{TICKETS}: 1 could not be looked for" in ran.out
