"""`aspects-pii retire`, `sweep`, `verify`: what an operator sees, on our tables and on upstream's."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from sink.clickhouse import migrations
from sink.erasure.verify import verify_subjects
from sink.errors import ErasureError, LedgerError, MigrationError, RefusedError
from sink.installation import open_store
from sink.ledger.checking import check_ledger
from sink.ledger.entries import Action
from sink.retirement.reconcile import second_pass
from sink.retirement.replay import backfill_retired
from sink.retirement.retire import retire, sweep
from sink.settings import Settings, load_settings
from sink.store import Store
from tests.support import aspects

CANARY = "Canary-Quetzal"

# As upstream makes it: ordered by id and time, so that every version of a profile stays.
UPSTREAM_PROFILE = """
CREATE TABLE $event_sink.user_profile (
    id Int32, user_id Int32, name String, username String, email String, time_last_dumped String, dump_id UUID
) ENGINE = ReplacingMergeTree PARTITION BY user_id MOD 100 ORDER BY (id, time_last_dumped)
"""


@pytest.fixture(params=["in process", "over HTTP"])
def any_store(request: pytest.FixtureRequest, settings: Settings, tmp_path: Path) -> Iterator[Store]:
    """A migrated store at both kinds of address."""
    if request.param == "in process":
        with open_store(settings, creates=True) as store:
            migrations.migrate(store.client)
            yield store
        return
    from sink.endpoint.app import running

    with running(tmp_path / "served", password=SecretStr("secret")) as url:
        values = settings.model_dump() | {"clickhouse_url": url, "clickhouse_password": SecretStr("secret")}
        with open_store(load_settings(**values), creates=True) as store:
            migrations.migrate(store.client)
            yield store


def fill(store: Store, users: range) -> None:
    """Profiles, ids, roles, enrolments and events of `users`, with the canary in every text."""
    client, now = store.client, datetime(2026, 1, 1, tzinfo=UTC)
    ids = {user: uuid.UUID(int=user) for user in users}
    client.insert(
        client.table("event_sink.user_profile"),
        ["id", "user_id", "name", "username", "email", "bio", "time_last_dumped"],
        [
            (u, u, f"{CANARY} name {u}", f"{CANARY}-{u}", f"{CANARY}{u}@example.com", f"{CANARY} bio", str(now))
            for u in users
        ],
    )
    client.insert(
        client.table("event_sink.external_id"),
        ["external_user_id", "external_id_type", "username", "user_id", "time_last_dumped"],
        [(ids[u], "xapi", f"{CANARY}-{u}", u, str(now)) for u in users],
    )
    client.insert(
        client.table("event_sink.course_access"),
        ["user_id", "username", "org", "course_key", "role", "time_last_dumped"],
        [(u, f"{CANARY}-{u}", "Org", "course-v1:Org+1+1", "staff", now) for u in users],
    )
    aspects.replace_enrolments(client)
    client.insert(
        client.table("event_sink.course_enrollment"),
        ["id", "course_key", "username", "user_id"],
        [(u, "course-v1:Org+1+1", f"{CANARY}-{u}", u) for u in users],
    )
    client.insert(
        client.table("xapi.xapi_events_all"),
        ["event_id", "emission_time", "event"],
        [
            (uuid.uuid4(), now, json.dumps({"actor": {"account": {"name": str(ids[u])}}}))
            for u in users
            for _ in range(3)
        ],
    )


def subjects_in(store: Store, table: str) -> set[int]:
    return set(store.client.column(f"SELECT user_id FROM {store.client.table(table).sql}"))


def events(store: Store) -> list[tuple[object, ...]]:
    return store.client.rows("SELECT * FROM $xapi.xapi_events_all ORDER BY event_id")


def test_retired_users_are_gone_and_the_others_and_the_events_are_not(any_store: Store) -> None:
    fill(any_store, range(1, 101))
    before = events(any_store)

    outcomes = retire(any_store, [42, 7])

    assert [(o.subject, o.state, o.rows) for o in outcomes] == [("42", "erased", 4), ("7", "erased", 4)]
    others = set(range(1, 101)) - {42, 7}
    for table in ("event_sink.user_profile", "event_sink.external_id", "event_sink.course_access"):
        assert subjects_in(any_store, table) == others
    usernames = dict(any_store.client.rows("SELECT user_id, username FROM $event_sink.course_enrollment"))
    assert len(usernames) == 100
    assert {user for user, name in usernames.items() if name == ""} == {42, 7}
    assert len(before) == 300
    assert events(any_store) == before
    assert verify_subjects(any_store, [42, 7]).is_clean


def test_hidden_rows_are_scrubbed_too(store: Store) -> None:
    fill(store, range(1, 11))
    retire(store, [3])
    for table in ("user_profile", "external_id", "course_access"):
        hidden = store.client.value(
            f"SELECT count() FROM $event_sink.{table} WHERE user_id = 3", {"apply_deleted_mask": 0}
        )
        assert hidden == 0
    names = store.client.column("SELECT name FROM system.parts WHERE database = 'event_sink' AND NOT active")
    assert names == []


def test_retired_user_is_in_no_file(settings: Settings, tmp_path: Path) -> None:
    marker = "Xylophone-4711"
    with open_store(settings, creates=True) as store:
        migrations.migrate(store.client)
        # Compression would hide the marker from a search of the files.
        for column in ("name", "email"):
            store.client.execute(f"ALTER TABLE $event_sink.user_profile MODIFY COLUMN {column} String CODEC(NONE)")
        store.client.insert(
            store.client.table("event_sink.user_profile"),
            ["user_id", "name", "email"],
            [(1, "Somebody Else", "else@example.com"), (2, marker, f"{marker}@example.com")],
        )
        assert find_files_with(marker, tmp_path)
        assert retire(store, [2])[0].state == "erased"
        assert find_files_with(marker, tmp_path) == []
        assert find_files_with("Somebody Else", tmp_path)


def find_files_with(marker: str, folder: Path) -> list[str]:
    found = subprocess.run(["grep", "-rlF", marker, str(folder)], capture_output=True, text=True, check=False)
    return found.stdout.split()


def test_tables_that_upstream_made_are_retired_with_every_version(settings: Settings) -> None:
    with open_store(settings, creates=True) as store:
        store.client.execute("CREATE DATABASE IF NOT EXISTS $event_sink")
        store.client.execute(UPSTREAM_PROFILE)
        migrations.migrate(store.client)
        rows = [
            (u, u, f"{CANARY} {v}", f"u{u}", f"u{u}@example.com", f"2026-01-0{v} 00:00:00")
            for u in range(1, 300)
            for v in (1, 2)
        ]
        store.client.insert(
            store.client.table("event_sink.user_profile"),
            ["id", "user_id", "name", "username", "email", "time_last_dumped"],
            rows,
        )
        outcome = retire(store, [42])[0]
        assert (outcome.state, outcome.rows) == ("erased", 2)
        assert store.client.value("SELECT count() FROM $event_sink.user_profile") == 596
        assert 42 not in subjects_in(store, "event_sink.user_profile")


def test_a_dictionary_that_somebody_built_forgets_the_user_at_once(any_store: Store) -> None:
    fill(any_store, range(1, 11))
    any_store.client.execute(
        "CREATE DICTIONARY $event_sink.people (user_id UInt64, name String) PRIMARY KEY user_id "
        "SOURCE(CLICKHOUSE(QUERY 'SELECT user_id, name FROM event_sink.user_profile')) "
        "LAYOUT(HASHED()) LIFETIME(MIN 3600 MAX 7200)"
    )
    assert any_store.client.value("SELECT count() FROM $event_sink.people") == 10
    outcome = retire(any_store, [5])[0]
    assert outcome.receipt is not None
    assert outcome.receipt["reloaded"] == ["event_sink.people"]
    assert any_store.client.value("SELECT count() FROM $event_sink.people") == 9


def test_retirement_of_many_users_is_one_statement_a_target(store: Store) -> None:
    fill(store, range(1, 201))
    retire(store, list(range(1, 101)))
    commands = store.client.rows(
        "SELECT table, countIf(command LIKE '%_row_exists%'), countIf(command LIKE '%username%') "
        "FROM system.mutations WHERE database = 'event_sink' GROUP BY table ORDER BY table"
    )
    assert commands == [
        ("course_access", 1, 0),
        ("course_enrollment", 0, 1),
        ("external_id", 1, 0),
        ("user_profile", 1, 0),
    ]


def test_a_user_who_was_never_there_is_a_success_that_says_so(aspects_pii: Callable[..., Any]) -> None:
    assert aspects_pii("init").status == 0
    ran = aspects_pii("retire", "4242", "--unknown")
    assert ran.status == 0
    assert "4242: nothing was stored" in ran.out


def test_retiring_again_writes_nothing(store: Store) -> None:
    fill(store, range(1, 11))
    retire(store, [5])
    entries = len(store.ledger.show())
    assert [o.state for o in retire(store, [5])] == ["already erased"]
    assert len(store.ledger.show()) == entries


def test_rows_that_came_back_reopen_the_retirement(store: Store) -> None:
    fill(store, range(1, 11))
    retire(store, [5])
    fill(store, range(5, 6))
    assert not verify_subjects(store).is_clean
    assert [o.state for o in retire(store, [5])] == ["erased"]
    assert [e.action for e in store.ledger.show(subject="5")].count("reopened") == 1
    assert verify_subjects(store).is_clean


def test_the_receipt_counts_and_names_no_value(any_store: Store, tmp_path: Path) -> None:
    fill(any_store, range(1, 11))
    outcome = retire(any_store, [5], actor="17")[0]
    assert outcome.receipt_path is not None
    text = outcome.receipt_path.read_text()
    receipt = json.loads(text)
    rows = {line["target"]: (line["action"], line["rows_before"], line["rows_after"]) for line in receipt["targets"]}
    assert rows == {
        "event_sink.user_profile": ("delete", 1, 0),
        "event_sink.external_id": ("delete", 1, 0),
        "event_sink.course_access": ("delete", 1, 0),
        "event_sink.course_access_keyed": ("delete", 0, 0),
        "event_sink.course_enrollment": ("redact", 1, 0),
    }
    assert receipt["actor"] == "17"
    assert receipt["requested_at"] <= receipt["hidden_at"] <= receipt["erased_at"]
    assert CANARY not in text
    assert str(uuid.UUID(int=5)) not in text


def test_a_failure_leaves_the_retirement_open_and_sweep_finishes_it(store: Store) -> None:
    fill(store, range(1, 11))
    # What a view shows cannot be erased.
    store.client.execute("RENAME TABLE $event_sink.course_enrollment TO $event_sink.enrolments_before")
    store.client.execute("CREATE VIEW $event_sink.course_enrollment AS SELECT * FROM $event_sink.enrolments_before")
    outcome = retire(store, [5])[0]
    assert outcome.state == "failed"
    assert "event_sink.course_enrollment" in outcome.reason
    assert [r.subject for r in store.ledger.find_open()] == ["5"]
    assert store.ledger.tombstones() == ["5"]

    store.client.execute("DROP VIEW $event_sink.course_enrollment")
    store.client.execute("RENAME TABLE $event_sink.enrolments_before TO $event_sink.course_enrollment")
    assert [(o.subject, o.state, o.rows) for o in sweep(store)] == [("5", "erased", 4)]
    assert store.ledger.find_open() == []


def test_retirement_that_could_not_be_recorded_erases_nothing(store: Store) -> None:
    fill(store, range(1, 11))
    store.client.execute("RENAME TABLE $pii_ledger.entries TO $pii_ledger.elsewhere")
    with pytest.raises(MigrationError, match="aspects-pii init"):
        retire(store, [5])
    assert 5 in subjects_in(store, "event_sink.user_profile")


def test_an_erasure_that_cannot_be_recorded_stays_open(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(store, range(1, 11))
    real = store.ledger.record

    def refuse_erased(action: str, entries: object, actor: str | None = None) -> datetime:
        if action == "erased":
            raise LedgerError
        return real(action, entries, actor)  # type: ignore[arg-type]

    monkeypatch.setattr(store.ledger, "record", refuse_erased)
    assert [o.state for o in retire(store, [5])] == ["failed"]
    monkeypatch.undo()
    assert [r.subject for r in store.ledger.find_open()] == ["5"]
    assert [(o.state, o.rows) for o in sweep(store)] == [("erased", 4)]


def test_a_plan_that_touches_much_of_a_table_is_refused_unless_forced(store: Store) -> None:
    fill(store, range(1, 2001))
    outcomes = retire(store, list(range(1, 1900)))
    assert len(outcomes) == 1899
    assert {o.state for o in outcomes} == {"failed"}
    assert "--force" in outcomes[0].reason
    assert len(subjects_in(store, "event_sink.user_profile")) == 2000
    assert {o.state for o in sweep(store, force=True)} == {"erased"}
    assert len(subjects_in(store, "event_sink.user_profile")) == 101


def test_dry_run_shows_the_plan_and_changes_nothing(aspects_pii: Callable[..., Any], settings: Settings) -> None:
    with open_store(settings, creates=True) as store:
        migrations.migrate(store.client)
        fill(store, range(1, 11))
    ran = aspects_pii("retire", 5, 6, "--dry-run", "--json")
    assert ran.status == 0
    plan = {line["target"]: line["rows"] for line in ran.json["targets"]}
    assert plan["event_sink.user_profile"] == 2
    with open_store(settings) as store:
        assert store.ledger.show() == []
        assert len(subjects_in(store, "event_sink.user_profile")) == 10


def test_a_subject_that_the_map_cannot_read_fails_alone(store: Store) -> None:
    fill(store, range(1, 11))
    # As somebody has written it into the table.
    store.ledger.record(Action.REQUESTED, [("../../x", uuid.uuid4(), {})])
    store.ledger.request([5])
    # It is no id, and may be what somebody is called.
    name = f"(entry {check_ledger(store.client, store.pii_map.subject)[0].entry})"
    outcomes = {outcome.subject: outcome for outcome in sweep(store)}
    assert {subject: str(outcome.state) for subject, outcome in outcomes.items()} == {
        name: "failed",
        "5": "erased",
    }
    assert "subject.type" in outcomes[name].reason
    assert [r.subject for r in store.ledger.find_open()] == [name]


def test_who_was_proved_before_is_not_failed_by_what_stops_the_others(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(store, range(1, 11))
    assert [o.state for o in retire(store, [5])] == ["erased"]
    monkeypatch.setattr("sink.retirement.retire.scrub", refuse_to_scrub)
    assert [(o.subject, str(o.state)) for o in retire(store, [5, 6])] == [("5", "already erased"), ("6", "failed")]
    assert [r.state for r in store.ledger.find([5])] == ["erased"]


def list_actions(store: Store, subject: int) -> list[str]:
    return [entry.action for entry in store.ledger.show(subject=str(subject))]


def test_a_guard_leaves_who_was_proved_before_as_they_are(store: Store) -> None:
    fill(store, range(1, 2001))
    assert [o.state for o in retire(store, [5])] == ["erased"]
    actions = list_actions(store, 5)
    # A row comes back, and the batch that would erase it again is refused.
    fill(store, range(5, 6))
    outcomes = {o.subject: o for o in retire(store, list(range(1, 1900)))}
    assert len(outcomes) == 1899
    assert (outcomes["5"].state, outcomes["5"].was_erased) == ("failed", True)
    assert "--force" in outcomes["5"].reason
    assert list_actions(store, 5) == actions
    assert (outcomes["6"].state, outcomes["6"].was_erased) == ("failed", False)
    assert list_actions(store, 6) == ["requested", "failed"]


def test_a_map_that_cannot_be_carried_out_leaves_who_was_proved_before_as_they_are(
    aspects_pii: Callable[..., Any], settings: Settings
) -> None:
    aspects_pii("init")
    with open_store(settings) as store:
        fill(store, range(1, 11))
        assert [o.state for o in retire(store, [5])] == ["erased"]
        actions = list_actions(store, 5)
        store.client.execute("RENAME TABLE $event_sink.course_enrollment TO $event_sink.enrolments_before")
        store.client.execute("CREATE VIEW $event_sink.course_enrollment AS SELECT * FROM $event_sink.enrolments_before")
    ran = aspects_pii("retire", 5)
    assert ran.status == 2
    assert "targets.event_sink.course_enrollment" in ran.err
    with open_store(settings) as store:
        assert list_actions(store, 5) == actions


@pytest.mark.parametrize("again", [second_pass, backfill_retired])
def test_a_guard_reopens_nobody(store: Store, again: Callable[[Store], Any]) -> None:
    fill(store, range(1, 2001))
    retire(store, list(range(1, 1900)), force=True)
    entries = len(store.ledger.show(limit=100_000))
    fill(store, range(1, 1900))
    store = dataclasses.replace(store, policy=dataclasses.replace(store.policy, second_pass_after=0))
    with pytest.raises(RefusedError, match="ASPECTS_RETIRE_MAX_SHARE"):
        again(store)
    assert store.ledger.count_states() == {"erased": 1899}
    assert len(store.ledger.show(limit=100_000)) == entries


def refuse_to_scrub(*_: object) -> int:
    """A disk that does not let go."""
    raise ErasureError("old parts are still there")
