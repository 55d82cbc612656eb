"""The defects that were found in comparable software (A5 to A17 of our survey), each with a test that fails if we had it."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from sink.clickhouse import migrations
from sink.copying.sync import sync
from sink.erasure.steps import DirectStep
from sink.erasure.verify import verify_subjects
from sink.installation import open_store
from sink.lms.database import LmsDatabase
from sink.pii_map import load_map
from sink.resources import find_resource
from sink.retirement.retire import retire
from sink.settings import Settings
from sink.store import Store
from tests.support import aspects
from tests.support.lms_writer import LmsWriter
from tests.support.small_lms import make_small_lms

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def lms(tmp_path: Path) -> Iterator[LmsWriter]:
    """An LMS with users 1 to 5."""
    with closing(make_small_lms(f"sqlite:///{tmp_path}/lms.sqlite3")) as writer:
        yield writer


@pytest.fixture
def database(tmp_path: Path, lms: LmsWriter) -> LmsDatabase:
    return LmsDatabase(f"sqlite:///{tmp_path}/lms.sqlite3")


def profiles(store: Store) -> list[int]:
    return store.client.column("SELECT user_id FROM $event_sink.user_profile ORDER BY user_id")


# A5
def test_statement_that_was_accepted_is_not_taken_for_an_erasure(
    store: Store, database: LmsDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync(store, database, enabled=True)
    monkeypatch.setattr(DirectStep, "hide", lambda *_: None)
    assert retire(store, [3])[0].state == "failed"
    assert [retirement.subject for retirement in store.ledger.find_open()] == ["3"]


# A6
def test_target_that_does_not_exist_is_said_and_stops_nothing(store: Store, database: LmsDatabase) -> None:
    sync(store, database, enabled=True)
    store.client.execute("DROP TABLE $event_sink.course_access SYNC")
    outcome = retire(store, [3])[0]
    assert outcome.state == "erased"
    assert outcome.receipt is not None
    absent = [line["target"] for line in outcome.receipt["targets"] if line["absent"] and ".old_" not in line["target"]]
    assert absent == ["event_sink.course_access"]


# A7
def test_opting_out_does_not_disable_retirement(
    aspects_pii: Callable[..., Any], settings: Settings, database: LmsDatabase
) -> None:
    with open_store(settings, creates=True) as store:
        migrations.migrate(store.client)
        sync(store, database, enabled=True)
    assert aspects_pii("retire", 3, ENABLE_PII="false").status == 0
    with open_store(settings) as store:
        assert profiles(store) == [1, 2, 4, 5]


# A8
def test_saves_after_the_announcement_do_not_bring_anybody_back(
    store: Store, lms: LmsWriter, database: LmsDatabase
) -> None:
    sync(store, database, enabled=True)
    lms.request_retirement(3)
    lms.retire_misc(3)
    retire(store, [3])
    sync(store, database, enabled=True, user_ids=[3])
    lms.retire(3)
    sync(store, database, enabled=True, user_ids=[3])
    sync(store, database, enabled=True)
    assert profiles(store) == [1, 2, 4, 5]
    for table in ("external_id", "course_access"):
        assert 3 not in store.client.column(f"SELECT user_id FROM $event_sink.{table}")
    assert verify_subjects(store).is_clean


# A9
def test_user_name_in_enrolments_goes_too(store: Store) -> None:
    aspects.replace_enrolments(store.client)
    table = store.client.table("event_sink.course_enrollment")
    store.client.insert(table, ["id", "username", "user_id"], [(1, "learner3", 3), (2, "learner4", 4)])
    retire(store, [3])
    assert store.client.rows("SELECT id, username FROM $event_sink.course_enrollment ORDER BY id") == [
        (1, ""),
        (2, "learner4"),
    ]


# A10
def test_actors_that_are_addresses_are_erased_by_the_map_that_ships(
    store: Store, settings: Settings, aspects_pii: Callable[..., Any]
) -> None:
    store.client.insert(
        store.client.table("event_sink.user_profile"),
        ["user_id", "username", "email"],
        [(1, "a_user", "a@example.com")],
    )
    store.client.insert(
        store.client.table("xapi.xapi_events_all"),
        ["event_id", "emission_time", "event"],
        [(uuid.uuid4(), NOW, '{"actor": {"mbox": "mailto:a@example.com"}}')],
    )
    store.client.close()
    assert aspects_pii("map", "check").status == 0
    ran = aspects_pii("retire", "1")
    assert ran.status == 0, ran.err
    with open_store(settings) as again:
        (event,) = again.client.column("SELECT event FROM $xapi.xapi_events_all")
    assert "a@example.com" not in event + ran.out + ran.err
    assert event.endswith('@retired.invalid"}}')


# A11
def test_bad_row_is_named_and_the_others_are_copied(store: Store, lms: LmsWriter, database: LmsDatabase) -> None:
    lms.change_profile(3, year_of_birth="about 1990")
    counts = {count.object: count for count in sync(store, database, enabled=True)}
    assert [(bad.user_id, bad.column) for bad in counts["user_profile"].bad] == [(3, "year_of_birth")]
    assert profiles(store) == [1, 2, 4, 5]


# A12
def test_old_versions_of_a_profile_are_not_kept(store: Store, lms: LmsWriter, database: LmsDatabase) -> None:
    sync(store, database, enabled=True)
    lms.change_profile(3, name="New Name")
    sync(store, database, enabled=True)
    names = store.client.column(
        "SELECT name FROM $event_sink.user_profile WHERE user_id = 3", {"apply_deleted_mask": 0}
    )
    assert names == ["New Name"]


# A13
def test_columns_that_are_not_kept_never_arrive(store: Store, database: LmsDatabase, tmp_path: Path) -> None:
    document = yaml.safe_load(find_resource("config/pii.yaml").read_text())
    document["targets"]["event_sink.user_profile"]["keep"] = ["id", "user_id", "name", "username", "email"]
    path = tmp_path / "pii.yaml"
    path.write_text(yaml.safe_dump(document))
    sync(dataclasses.replace(store, pii_map=load_map(path)), database, enabled=True)
    rows = store.client.rows("SELECT name, bio, goals FROM $event_sink.user_profile")
    assert len(rows) == 5
    assert all(name and not bio and not goals for name, bio, goals in rows)


# A14. Course roles may be copied, with digests in place of names: tests/integration/datasets/test_viewers.py.
@pytest.mark.parametrize("object_name", ["user_profile", "external_id", "all"])
def test_sync_of_any_object_heeds_the_flag(aspects_pii: Callable[..., Any], object_name: str) -> None:
    aspects_pii("init")
    ran = aspects_pii("sync", "--object", object_name, ENABLE_PII="false")
    assert ran.status == 3


# A15
def test_retirement_that_clickhouse_did_not_record_is_not_a_success(aspects_pii: Callable[..., Any]) -> None:
    ran = aspects_pii("retire", 3, CLICKHOUSE_URL="http://127.0.0.1:9", CLICKHOUSE_RETRIES="0")
    assert ran.status == 1
    assert "cannot be reached" in ran.err


# A16
def test_definitions_hold_no_password(settings: Settings) -> None:
    with open_store(settings, creates=True) as store:
        migrations.migrate(store.client)
        definitions = store.client.column(
            "SELECT create_table_query FROM system.tables WHERE database IN ('event_sink', 'pii_ledger')"
        )
    assert len(definitions) >= 6
    assert not [text for text in definitions if "PASSWORD" in text.upper()]


# A17
def test_receipt_names_caches_that_are_out_of_reach(store: Store) -> None:
    receipt = retire(store, [3])[0].receipt
    assert receipt is not None
    assert [line for line in receipt["not_covered"] if "Superset" in line]
