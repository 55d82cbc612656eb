"""Rows that are found by what a person is called: each gets their own, and what cannot be told is not called erased."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import SecretStr
from sqlalchemy import text

from sink.clickhouse.client import WAIT_FOR_MUTATIONS as WAIT
from sink.demo_data.lms_tables import open_writable
from sink.erasure.purge import plan_purge, purge
from sink.erasure.verify import verify_subjects
from sink.pii_map import load_map
from sink.resources import find_resource
from sink.retirement.reconcile import second_pass
from sink.retirement.replay import backfill_retired, replay
from sink.retirement.retire import retire, sweep
from sink.settings import Settings
from sink.store import Store
from tests.support.coverage_page import covers
from tests.support.lms_writer import LmsWriter
from tests.support.small_lms import make_small_lms

NOW = datetime(2026, 1, 1, tzinfo=UTC)
BY_USERNAME = {"match": {"who": "username"}, "pii": {"who": "username"}, "on_retire": "delete"}
BY_ADDRESS = {
    "match": {"who": "mailto:{email}"},
    "pii": {"who": "email_address"},
    "on_retire": {"redact": {"who": "pseudonym"}},
}
MakeStore = Callable[..., Store]


@pytest.fixture
def with_notes(store: Store, tmp_path: Path) -> MakeStore:
    """The store with `event_sink.notes` in its map, which says by name whose a note is."""

    def make(target: dict[str, Any] = BY_USERNAME, *, placeholders: list[str] | None = None, lms: str = "") -> Store:
        document = yaml.safe_load(find_resource("config/pii.yaml").read_text())
        document["targets"]["event_sink.notes"] = target
        if placeholders is not None:
            document["subject"]["placeholders"] = placeholders
        path = tmp_path / "pii.yaml"
        path.write_text(yaml.safe_dump(document))
        url = SecretStr(lms) if lms else None
        return dataclasses.replace(store, pii_map=load_map(path), lms_url=url)

    store.client.execute("CREATE TABLE $event_sink.notes (who String, text String) ENGINE = MergeTree ORDER BY text")
    return make


@pytest.fixture
def lms_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/lms.sqlite3"


@pytest.fixture
def lms(lms_url: str) -> LmsWriter:
    """Users 1 to 5, `learner1` and so on."""
    return make_small_lms(lms_url)


def add_profiles(store: Store, *people: tuple[int, str, str]) -> None:
    """Profiles of (user id, user name, address)."""
    columns = ["user_id", "username", "email", "time_last_dumped"]
    store.client.insert(
        store.client.table("event_sink.user_profile"), columns, [(*person, str(NOW)) for person in people]
    )


def add_notes(store: Store, *who: str) -> None:
    """Two notes of each."""
    rows = [(name, f"{number}-{name}") for name in who for number in range(2)]
    store.client.insert(store.client.table("event_sink.notes"), ["who", "text"], rows)


def notes(store: Store) -> list[str]:
    """Who has notes, each note once."""
    return store.client.column("SELECT who FROM $event_sink.notes ORDER BY who")


def change(url: str, *statements: str) -> None:
    engine = open_writable(url)
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(text(statement))
    engine.dispose()


def say(store: Store, subjects: Sequence[int]) -> list[tuple[str, str, int]]:
    return [(o.subject, o.state, o.rows) for o in retire(store, subjects)]


@covers("key", "names that somebody else has too", "open")
def test_an_address_that_changed_hands_is_not_erased_and_the_retirement_says_why(
    with_notes: MakeStore, lms: LmsWriter, lms_url: str
) -> None:
    store = with_notes(BY_ADDRESS, lms=lms_url)
    add_profiles(store, (1, "ann", "desk@example.com"), (2, "bob", "desk@example.com"))
    add_notes(store, "mailto:desk@example.com", "mailto:learner1@example.com")
    (outcome,) = retire(store, [1])
    assert outcome.state == "failed"
    assert "event_sink.notes: 2 rows are under a name of 1 that somebody has, or had" in outcome.reason
    assert "desk" not in outcome.reason
    left = notes(store)
    assert left.count("mailto:desk@example.com") == 2
    assert "mailto:learner1@example.com" not in left
    assert [o.state for o in sweep(store)] == ["failed"]
    # By hand, as the reason asks for.
    store.client.execute("DELETE FROM $event_sink.notes WHERE who = 'mailto:desk@example.com'")
    assert [o.state for o in sweep(store)] == ["erased"]
    assert store.client.column("SELECT user_id FROM $event_sink.user_profile") == [2]


@covers("key", "names that somebody else has too, with --leave-contested", "listed")
def test_rows_that_are_somebody_elses_can_be_left_to_them(
    with_notes: MakeStore, aspects_pii: Callable[..., Any], tmp_path: Path
) -> None:
    store = with_notes()
    add_profiles(store, (1, "desk", ""), (2, "desk", ""))
    add_notes(store, "desk")
    store.client.close()
    map_file = str(tmp_path / "pii.yaml")
    ran = aspects_pii("retire", 1, "--dry-run", PII_MAP=map_file)
    assert "1 would stay open: rows are under a name that somebody else has too." in ran.out
    ran = aspects_pii("retire", 1, PII_MAP=map_file)
    assert (ran.status, "--leave-contested" in ran.out) == (1, True)
    ran = aspects_pii("retire", 1, "--leave-contested", "--json", PII_MAP=map_file)
    assert ran.status == 0
    lines = ran.json["retirements"][0]["receipt"]["not_covered"]
    assert [line for line in lines if line.startswith("event_sink.notes: 2 rows under a name that somebody else has")]
    # It stays decided.
    assert aspects_pii("verify", PII_MAP=map_file).status == 0
    assert aspects_pii("second-pass", PII_MAP=map_file, SECOND_PASS_AFTER="0").status == 0
    assert aspects_pii("retire", 1, PII_MAP=map_file).status == 0


def test_an_address_that_somebody_has_in_another_case_is_not_erased(with_notes: MakeStore) -> None:
    store = with_notes(BY_ADDRESS)
    add_profiles(store, (1, "ann", "Desk@Example.com"), (2, "bob", "desk@example.com"))
    add_notes(store, "mailto:desk@example.com", "mailto:Desk@Example.com")
    assert [state for _, state, _ in say(store, [1])] == ["failed"]
    assert len(notes(store)) == 4
    assert verify_subjects(store, [1]).with_residue == 1


def test_a_user_name_is_somebody_elses_only_where_it_is_spelt_alike(with_notes: MakeStore) -> None:
    store = with_notes()
    add_profiles(store, (1, "Ann", ""), (2, "ann", ""))
    add_notes(store, "Ann", "ann")
    assert say(store, [1]) == [("1", "erased", 3)]
    assert notes(store) == ["ann", "ann"]


def test_a_contested_name_without_rows_keeps_nobody_open(with_notes: MakeStore) -> None:
    store = with_notes()
    add_profiles(store, (1, "ann", ""), (2, "ann", ""))
    add_notes(store, "somebody")
    assert say(store, [1]) == [("1", "erased", 1)]


def test_a_name_that_only_retired_people_had_is_erased(with_notes: MakeStore) -> None:
    store = with_notes()
    add_profiles(store, (1, "ann", ""), (2, "ann", ""))
    retire(store, [1])
    add_notes(store, "ann", "bob")
    assert say(store, [2]) == [("2", "erased", 3)]
    assert notes(store) == ["bob", "bob"]


def test_in_one_batch_each_gets_their_own(with_notes: MakeStore, lms: LmsWriter, lms_url: str) -> None:
    """Two people have one name in different case, two more had one after the other."""
    redact = {"redact": {"who": "pseudonym"}}
    store = with_notes({**BY_USERNAME, "on_retire": redact}, lms=lms_url)
    add_profiles(store, (1, "Ann", ""), (2, "ann", ""), (3, "desk", ""), (4, "desk", ""))
    add_notes(store, "Ann", "ann", "desk", "learner4")
    assert [state for _, state, _ in say(store, [1, 2, 3, 4])] == ["erased"] * 4
    found = dict(store.client.rows("SELECT who, count() FROM $event_sink.notes GROUP BY who"))
    assert sorted(found.values()) == [2, 2, 2, 2]
    assert not found.keys() & {"Ann", "ann", "desk", "learner4"}


@covers("key", "addresses that the subject had before, as long as the LMS has them", "erased")
def test_addresses_that_the_subject_gave_up_are_erased_too(with_notes: MakeStore, lms: LmsWriter, lms_url: str) -> None:
    """What events of before say; an address that another account has by now is that one's."""
    store = with_notes(BY_ADDRESS, lms=lms_url)
    former = [["Quetzal@old.example.org", "2025-01-01"], ["learner2@example.com", "2025-02-01"]]
    lms.change_profile(1, meta=json.dumps({"old_emails": former}))
    add_profiles(store, (1, "ann", "learner1@example.com"))
    add_notes(store, "mailto:quetzal@old.example.org", "mailto:learner1@example.com", "mailto:learner2@example.com")
    assert [state for _, state, _ in say(store, [1])] == ["erased"]
    left = set(notes(store))
    assert "mailto:learner2@example.com" in left
    assert not left & {"mailto:quetzal@old.example.org", "mailto:learner1@example.com"}
    # And is known by a keyed hash, when the LMS has dropped it.
    lms.request_retirement(1)
    lms.retire(1)
    add_notes(store, "mailto:Quetzal@old.example.org")
    assert [state for _, state, _ in say(store, [1])] == ["erased"]
    assert "mailto:Quetzal@old.example.org" not in notes(store)


def test_who_has_a_name_is_asked_of_the_lms_too(with_notes: MakeStore, lms: LmsWriter, lms_url: str) -> None:
    store = with_notes(BY_ADDRESS, lms=lms_url)
    add_profiles(store, (1, "ann", "Learner2@Example.com"))
    add_notes(store, "mailto:learner2@example.com", "mailto:learner1@example.com")
    assert [state for _, state, _ in say(store, [1])] == ["failed"]
    assert notes(store).count("mailto:learner2@example.com") == 2
    assert "mailto:learner1@example.com" not in notes(store)


def test_who_had_a_name_before_an_unfinished_retirement_is_asked_of_the_lms_too(
    with_notes: MakeStore, lms: LmsWriter, lms_url: str
) -> None:
    store = with_notes(BY_ADDRESS, lms=lms_url)
    add_profiles(store, (1, "ann", "learner2@example.com"))
    add_notes(store, "mailto:learner2@example.com")
    lms.request_retirement(2)
    assert [state for _, state, _ in say(store, [1])] == ["failed"]
    assert [state for _, state, _ in say(store, [2])] == ["erased"]
    assert "mailto:learner2@example.com" not in notes(store)
    assert [o.state for o in sweep(store)] == ["erased"]


def test_live_users_are_asked_for_where_no_profile_is_stored(
    with_notes: MakeStore, lms: LmsWriter, lms_url: str
) -> None:
    """`retire 1500` of whom nothing was copied: four events still held the address."""
    store = with_notes(BY_ADDRESS, lms=lms_url)
    lms.register_user(1500, "late", "Late@example.com", "Late Comer")
    add_notes(store, "mailto:late@example.com", "mailto:Late@example.com", "mailto:learner1@example.com")
    assert say(store, [1500]) == [("1500", "erased", 4)]
    assert [who for who in notes(store) if "late" in who.lower()] == []
    assert notes(store).count("mailto:learner1@example.com") == 2


def test_values_that_several_status_rows_share_are_no_names(
    with_notes: MakeStore, lms: LmsWriter, lms_url: str
) -> None:
    """Some installations write one word into the status rows of whom they have retired: it is a name of many."""
    store = with_notes(lms=lms_url)
    for user_id in (2, 3):
        lms.request_retirement(user_id)
        lms.retire(user_id)
    change(lms_url, "UPDATE user_api_userretirementstatus SET original_username = 'guest', original_email = 'guest'")
    add_notes(store, "guest")
    assert [state for _, state, _ in say(store, [2, 3])] == ["erased", "erased"]
    assert notes(store) == ["guest", "guest"]


@pytest.mark.parametrize(("placeholders", "expected"), [(None, "anonymous"), (["Nobody"], "nobody"), ([], "")])
@covers("key", "placeholders", "left")
def test_placeholders_are_no_names(
    with_notes: MakeStore,
    lms: LmsWriter,
    lms_url: str,
    placeholders: list[str] | None,
    expected: str,
) -> None:
    """Where the LMS keeps the status row with a placeholder as original name, 500 foreign rows were deleted."""
    store = with_notes(lms=lms_url, placeholders=placeholders)
    lms.request_retirement(2)
    lms.retire(2)
    word = expected or "anonymous"
    change(lms_url, f"UPDATE user_api_userretirementstatus SET original_username = '{word}', original_email = ''")
    add_notes(store, word)
    assert [state for _, state, _ in say(store, [2])] == ["erased"]
    assert notes(store) == ([word, word] if expected else [])


MBOX_SHA1 = {
    "match": {"who": "sha1:mailto:{email}"},
    "pii": {"who": "email_address"},
    "on_retire": {"redact": {"who": "pseudonym"}},
}


def sha1_of(address: str) -> str:
    return hashlib.sha1(f"mailto:{address}".encode(), usedforsecurity=False).hexdigest()


def keep(store: Store, days: int) -> Store:
    policy = dataclasses.replace(store.policy, keep_former_names_days=days, second_pass_after=0)
    return dataclasses.replace(store, policy=policy)


@pytest.mark.parametrize(
    ("target", "late"),
    [
        (BY_USERNAME, "ann"),
        (BY_ADDRESS, "mailto:Ann@Example.com"),
        (BY_ADDRESS, "mailto:ann@example.com"),
        (MBOX_SHA1, sha1_of("ann@example.com")),
    ],
)
@covers("moment", "a row by name that comes late", "erased")
def test_a_late_row_is_recognised_when_every_name_is_gone(
    with_notes: MakeStore, target: dict[str, Any], late: str
) -> None:
    store = keep(with_notes(target), 30)
    add_profiles(store, (1, "ann", "Ann@Example.com"), (2, "bob", "bob@example.com"))
    others = ["bob", "mailto:bob@example.com", sha1_of("bob@example.com")]
    add_notes(store, *others)
    retire(store, [1])
    assert second_pass(store) == []
    add_notes(store, late)

    assert verify_subjects(store, [1]).with_residue == 1
    assert [(o.subject, o.state) for o in second_pass(store)] == [("1", "erased")]

    assert not {"ann", late} & set(notes(store))
    assert sum(who in others for who in notes(store)) == 6
    assert verify_subjects(store, [1]).is_clean


def test_a_target_that_was_added_later_is_backfilled_by_former_names(with_notes: MakeStore, store: Store) -> None:
    grown = with_notes(BY_USERNAME)
    first = with_notes(BY_ADDRESS)
    add_profiles(first, (1, "ann", "ann@example.com"))
    retire(first, [1])
    add_notes(grown, "ann", "bob")
    done = backfill_retired(grown)
    assert (done.subjects, [o.state for o in done.outcomes]) == (["1"], ["erased"])
    assert notes(grown) == ["bob", "bob"]


@pytest.mark.parametrize("target", [BY_ADDRESS, MBOX_SHA1])
def test_a_former_address_that_somebody_has_now_is_theirs(with_notes: MakeStore, target: dict[str, Any]) -> None:
    store = keep(with_notes(target), 30)
    key = sha1_of("desk@example.com") if target is MBOX_SHA1 else "mailto:desk@example.com"
    add_profiles(store, (1, "ann", "desk@example.com"))
    retire(store, [1])
    add_profiles(store, (2, "bob", "Desk@example.com"))
    # What was there of the retired one is erased: this came later, and is the new owner's.
    add_notes(store, key)
    assert second_pass(store) == []
    assert notes(store) == [key, key]
    assert verify_subjects(store, [1]).is_proved


def test_a_restore_brings_back_rows_that_may_be_either_persons(with_notes: MakeStore) -> None:
    store = keep(with_notes(), 30)
    add_profiles(store, (1, "ann", ""))
    retire(store, [1])
    add_profiles(store, (2, "ann", ""))
    add_notes(store, "ann")
    assert second_pass(store) == []
    (outcome,) = replay(store).outcomes
    assert "event_sink.notes: 2 rows are under a name of 1 that somebody has" in outcome.reason
    assert [o.state for o in sweep(store)] == ["failed"]
    assert notes(store) == ["ann", "ann"]


def test_whose_is_an_old_row_under_a_former_name_is_not_known(with_notes: MakeStore) -> None:
    """The target was not looked at when the erasure was proved."""
    grown, first = with_notes(BY_USERNAME), with_notes(BY_ADDRESS)
    add_profiles(first, (1, "ann", "ann@example.com"))
    retire(first, [1])
    add_profiles(first, (2, "ann", "ann2@example.com"))
    add_notes(grown, "ann")
    unmapped = {**grown.pii_map.targets, "event_sink.letters": grown.pii_map.targets["event_sink.notes"]}
    del unmapped["event_sink.notes"]
    grown.client.execute("CREATE TABLE $event_sink.letters AS $event_sink.notes")
    grown.client.execute("INSERT INTO $event_sink.letters SELECT * FROM $event_sink.notes")
    store = dataclasses.replace(grown, pii_map=grown.pii_map.model_copy(update={"targets": unmapped}))
    (finding,) = verify_subjects(store, [1]).findings
    assert (finding.place, finding.kind, finding.count) == ("event_sink.letters", "contested rows", 2)


@covers("place", "keyed hashes of former names", "listed")
def test_former_names_are_kept_as_keyed_hashes_and_the_receipt_says_until_when(with_notes: MakeStore) -> None:
    store = keep(with_notes(), 30)
    add_profiles(store, (1, "ann", "ann@example.com"))
    receipt = retire(store, [1])[0].receipt
    assert receipt is not None
    until = store.client.now() + timedelta(days=30)
    assert [line for line in receipt["not_covered"] if "keyed hashes" in line] == [
        f"keyed hashes of what the subject was called, kept until {until:%Y-%m-%d} to recognise rows that come late"
    ]
    rows = store.client.rows("SELECT subject, label, digest FROM $pii_ledger.former_names ORDER BY label")
    assert [row[:2] for row in rows] == [("1", "email"), ("1", "sha1:mailto:{email}"), ("1", "username")]
    assert all(re.fullmatch("[0-9a-f]{64}", row[2]) for row in rows)
    known = [hashlib.sha256(name.encode()).hexdigest() for name in ("ann", "ann@example.com")]
    assert not set(known) & {row[2] for row in rows}


def test_no_former_name_is_kept_where_the_operator_wants_none(with_notes: MakeStore) -> None:
    store = keep(with_notes(), 0)
    add_profiles(store, (1, "ann", ""))
    receipt = retire(store, [1])[0].receipt
    assert receipt is not None
    assert not [line for line in receipt["not_covered"] if "keyed hashes" in line]
    assert store.client.value("SELECT count() FROM $pii_ledger.former_names") == 0


def test_former_names_go_when_their_days_are_over(with_notes: MakeStore) -> None:
    store = keep(with_notes(), 30)
    add_profiles(store, (1, "ann", ""))
    retire(store, [1])
    store.client.execute("ALTER TABLE $pii_ledger.former_names UPDATE at = at - toIntervalDay(31) WHERE 1", WAIT)
    add_notes(store, "ann")
    assert second_pass(store) == []
    assert notes(store) == ["ann", "ann"]
    assert store.client.value("SELECT count() FROM $pii_ledger.former_names", {"apply_deleted_mask": 0}) == 0


def test_a_purge_drops_former_names(with_notes: MakeStore) -> None:
    store = keep(with_notes(), 30)
    add_profiles(store, (1, "ann", ""))
    retire(store, [1])
    assert store.client.value("SELECT count() FROM $pii_ledger.former_names") > 0
    purge(store, plan_purge(store, []), enabled=False)
    assert store.client.value("SELECT count() FROM $pii_ledger.former_names", {"apply_deleted_mask": 0}) == 0


def test_no_statement_of_a_recognition_names_anybody(with_notes: MakeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store = keep(with_notes(), 30)
    add_profiles(store, (1, "ann", ""))
    retire(store, [1])
    add_notes(store, "ann")
    texts: list[str] = []
    real = store.client.rows

    def record(sql: str, *arguments: Any, **values: Any) -> Any:
        texts.append(sql)
        return real(sql, *arguments, **values)

    monkeypatch.setattr(store.client, "rows", record)
    assert [o.state for o in second_pass(store)] == ["erased"]
    assert len(texts) > 20
    key = store.client.rows("SELECT inner_pad, outer_pad FROM $pii_ledger.pseudonym_key")[0]
    assert not [sql for sql in texts if "'ann'" in sql or any(pad in sql for pad in key)]


@pytest.fixture
def command(
    with_notes: MakeStore, aspects_pii: Callable[..., Any], settings: Settings, tmp_path: Path
) -> Callable[..., Any]:
    """Run a command with `event_sink.notes` in the map, of which somebody else has notes."""
    store = with_notes()
    add_notes(store, "bob")
    add_profiles(store, (1, "ann", ""), (3, "", ""))
    store.client.close()
    return lambda *arguments, **further: aspects_pii(*arguments, PII_MAP=str(tmp_path / "pii.yaml"), **further)


def test_who_cannot_be_looked_for_is_counted_and_is_no_success(command: Callable[..., Any]) -> None:
    ran = command("retire", 1, 99, "--unknown")
    assert ran.status == 1
    assert "99: nothing was stored." in ran.out
    assert "Could not be looked for by name in event_sink.notes: no name is known." in ran.out
    assert "1 of 2 retirements are erased and verified on chdb:///" in ran.out
    assert "\n1 could not be looked for everywhere." in ran.out
    again = command("retire", 99, "--json")
    assert again.status == 1
    assert [r["not_asked"] for r in again.json["retirements"]] == [["event_sink.notes"]]
    ran = command("verify")
    assert ran.status == 1
    assert "nothing is left" not in ran.out
    assert "event_sink.notes: 1 could not be looked for, since rows are found by name there" in ran.out
    assert ran.out.endswith("clickhouse: 0 findings. 1 could not be looked for everywhere.\n")
    assert command("sweep").status == 0


def test_who_has_no_name_by_the_profile_is_looked_for_by_that_answer(command: Callable[..., Any]) -> None:
    ran = command("retire", 1, 3)
    assert (ran.status, "could not be" in ran.out) == (0, False)
    ran = command("verify")
    assert (ran.status, "nothing is left" in ran.out) == (0, True)


def test_who_has_no_name_by_the_lms_is_looked_for_by_that_answer(
    command: Callable[..., Any], lms: LmsWriter, lms_url: str
) -> None:
    change(lms_url, "UPDATE auth_user SET username = '' WHERE id = 5")
    assert command("retire", 5, "--unknown", LMS_DATABASE_URL=lms_url).status == 0
    assert command("retire", 99, "--unknown", LMS_DATABASE_URL=lms_url).status == 1


def test_a_table_without_any_row_by_name_is_an_answer_for_everybody(
    with_notes: MakeStore, aspects_pii: Callable[..., Any], tmp_path: Path
) -> None:
    store = with_notes(BY_ADDRESS)
    add_notes(store, "https://lms.example.com/u/1", "mailto:")
    store.client.close()
    ran = aspects_pii(
        "retire", 99, "--unknown", PII_MAP=str(tmp_path / "pii.yaml"), PSEUDONYM_SECRET="a secret of the tests"
    )
    assert (ran.status, "could not be" in ran.out) == (0, False)


def test_who_was_proved_and_whose_names_are_not_kept_is_no_failure(command: Callable[..., Any]) -> None:
    assert command("retire", 1, KEEP_FORMER_NAMES_DAYS="0").status == 0
    ran = command("verify", KEEP_FORMER_NAMES_DAYS="0")
    assert ran.status == 0
    assert "event_sink.notes: 1 could not be looked for again; nothing was left of them" in ran.out
