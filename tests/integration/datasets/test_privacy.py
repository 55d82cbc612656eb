"""What a data protection officer sees: where the installation stands, and each retirement, as the ledger has it."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from sink.clickhouse.migrations import migrate
from sink.datasets.build import build
from sink.demo_data.lms import create_lms
from sink.installation import open_store
from sink.ledger.entries import Action
from sink.ledger.files import export_ledger, import_ledger
from sink.ledger.installation_id import read_installation
from sink.ledger.written import list_written
from sink.retirement.retire import retire, withdraw
from sink.retirement.status import read_status
from sink.settings import Settings, load_settings
from sink.store import Store

OVERVIEW = (
    *("pii_enabled", "subjects_held", "open_retirements", "oldest_open_requested_at", "oldest_open_days"),
    *("retired_subjects", "residue_found", "last_verified_at", "last_synced_at"),
)
USERS = 15


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """PII on, everything below one folder for all tests of this file."""
    folder = tmp_path_factory.mktemp("privacy")
    create_lms(f"sqlite:///{folder}/lms.sqlite3", USERS, 3)
    return load_settings(
        enable_pii=True,
        clickhouse_url=f"chdb://{folder}/clickhouse",
        receipts_dir=folder / "receipts",
        lms_database_url=f"sqlite:///{folder}/lms.sqlite3",
        pseudonym_secret="a secret of the tests",
    )


@pytest.fixture(scope="module")
def held(settings: Settings) -> Iterator[Store]:
    """Nobody is copied yet; the datasets are built."""
    with open_store(settings, creates=True) as store:
        migrate(store.client)
        build_privacy(store, enabled=True)
        yield store


@pytest.fixture
def command(
    held: Store, settings: Settings, monkeypatch: pytest.MonkeyPatch, aspects_pii: Callable[..., Any]
) -> Callable[..., Any]:
    """Run a command on the store of this file."""
    monkeypatch.setenv("ASPECTS_CLICKHOUSE_URL", settings.clickhouse_url)
    monkeypatch.setenv("ASPECTS_RECEIPTS_DIR", str(settings.receipts_dir))
    assert settings.lms_database_url is not None
    monkeypatch.setenv("ASPECTS_LMS_DATABASE_URL", settings.lms_database_url.get_secret_value())
    monkeypatch.setenv("ASPECTS_PSEUDONYM_SECRET", "a secret of the tests")
    return aspects_pii


def build_privacy(store: Store, *, enabled: bool) -> None:
    chosen = ["--select", "+privacy_overview", "+privacy_retirements", "--exclude-resource-type", "test"]
    build(store.client.address, chosen, enable_pii=enabled, pseudonym_secret=store.policy.pseudonym_secret)


def overview(store: Store) -> dict[str, Any]:
    rows = store.client.rows(f"SELECT {', '.join(OVERVIEW)} FROM $reporting.privacy_overview")
    assert len(rows) == 1
    return dict(zip(OVERVIEW, rows[0], strict=True))


def retirements(store: Store, *subjects: int) -> list[dict[str, Any]]:
    names = (
        *("subject", "request", "state", "requested_at", "requested_month", "hidden_at", "erased_at", "days_open"),
        "reason",
    )
    rows = store.client.rows(
        f"SELECT {', '.join(names)} FROM $reporting.privacy_retirements "
        "WHERE subject IN {subjects:Array(String)} ORDER BY requested_at, subject",
        subjects=[str(subject) for subject in subjects],
    )
    return [dict(zip(names, row, strict=True)) for row in rows]


def add_entry(store: Store, subject: int, request: uuid.UUID, action: str, at: str, **detail: Any) -> None:
    store.client.execute(
        "INSERT INTO $pii_ledger.entries (subject, at, action, request, detail) "
        "SELECT {subject:String}, parseDateTime64BestEffort({at:String}, 6, 'UTC'), {action:String}, {request:UUID}, "
        "{detail:String}",
        subject=str(subject),
        at=at,
        action=action,
        request=request,
        detail=json.dumps(detail),
    )


def last(store: Store, action: str) -> dict[str, Any]:
    return store.ledger.show(action=action)[-1].detail


def test_overview_of_nothing_says_unknown_and_not_zero(held: Store) -> None:
    assert overview(held) == {
        **dict.fromkeys(OVERVIEW, None),
        **{"pii_enabled": True, "subjects_held": 0, "open_retirements": 0, "retired_subjects": 0},
    }
    assert held.client.value("SELECT count() FROM $reporting.privacy_retirements") == 0


def test_a_full_copy_is_on_record_with_counts_and_a_copy_of_some_is_not(held: Store, command: Any) -> None:
    assert command("sync", "--user-id", 3, ENABLE_PII="true").status == 0
    assert command("sync", "--dry-run", ENABLE_PII="true").status == 0
    assert overview(held)["last_synced_at"] is None
    assert held.ledger.show(action="synced") == []
    assert command("sync", ENABLE_PII="true").status == 0
    seen = overview(held)
    assert seen["last_synced_at"] is not None
    assert seen["subjects_held"] == USERS == read_status(held, enabled=True).subjects
    detail = last(held, "synced")
    assert detail["pii"] is True
    assert set(detail["objects"]) == {"user_profile", "external_id", "course_access"}
    assert detail["objects"]["user_profile"] == {
        **dict.fromkeys(("changed", "removed", "retired", "bad"), 0),
        **{"read": USERS, "inserted": USERS - 1},
    }
    before = seen["last_synced_at"]
    assert command("sync", "--object", "course_access", ENABLE_PII="false").status == 0
    assert overview(held)["last_synced_at"] > before
    assert last(held, "synced")["pii"] is False


def test_a_retirement_is_one_row_from_its_request_to_its_proof(held: Store) -> None:
    held.ledger.request([4])
    (row,) = retirements(held, 4)
    assert (row["state"], row["hidden_at"], row["erased_at"], row["reason"]) == ("requested", None, None, "")
    assert row["requested_month"] == row["requested_at"].date().replace(day=1)
    assert row["days_open"] >= 0
    seen = overview(held)
    assert (seen["open_retirements"], seen["retired_subjects"]) == (1, 1)
    assert seen["oldest_open_requested_at"] == row["requested_at"] == held.ledger.find_open()[0].requested_at
    assert seen["oldest_open_days"] >= 0
    # Shown nowhere, and held until it is erased.
    assert seen["subjects_held"] == USERS
    assert [outcome.state for outcome in retire(held, [4])] == ["erased"]
    (row,) = retirements(held, 4)
    assert row["state"] == "erased"
    assert row["requested_at"] <= row["hidden_at"] <= row["erased_at"]
    elapsed = (row["erased_at"] - row["requested_at"]).total_seconds()
    assert row["days_open"] * 86_400 == pytest.approx(elapsed, abs=0.001)
    seen = overview(held)
    assert (seen["open_retirements"], seen["retired_subjects"], seen["subjects_held"]) == (0, 1, USERS - 1)
    assert (seen["oldest_open_requested_at"], seen["oldest_open_days"]) == (None, None)


def test_reopened_retirement_is_not_late_for_the_time_in_between(held: Store) -> None:
    request = uuid.uuid4()
    add_entry(held, 901, request, "requested", "2026-01-01 00:00:00")
    add_entry(held, 901, request, "hidden", "2026-01-01 12:00:00")
    add_entry(held, 901, request, "erased", "2026-01-02 00:00:00")
    add_entry(held, 901, request, "reopened", "2026-03-01 00:00:00", reason="rows came back")
    add_entry(held, 901, request, "failed", "2026-03-02 00:00:00", reason="event_sink.user_profile: 1 rows")
    (row,) = retirements(held, 901)
    assert (row["state"], row["erased_at"]) == ("failed", None)
    assert row["reason"] == "event_sink.user_profile: 1 rows"
    assert row["hidden_at"] == datetime(2026, 1, 1, 12, tzinfo=UTC)
    assert overview(held)["oldest_open_requested_at"] == datetime(2026, 1, 1, tzinfo=UTC)
    # A line that was written twice counts once.
    for _ in range(2):
        add_entry(held, 901, request, "erased", "2026-03-03 00:00:00")
    (row,) = retirements(held, 901)
    assert (row["state"], row["erased_at"]) == ("erased", datetime(2026, 3, 3, tzinfo=UTC))
    assert row["days_open"] == pytest.approx(3)
    assert row["requested_month"].isoformat() == "2026-01-01"


def test_a_request_that_was_withdrawn_and_made_again_is_two_rows(held: Store) -> None:
    held.ledger.request([902])
    withdraw(held, [902])
    assert overview(held)["open_retirements"] == 0
    held.ledger.request([902])
    assert [row["state"] for row in retirements(held, 902)] == ["withdrawn", "requested"]
    assert len({row["request"] for row in retirements(held, 902)}) == 2
    assert overview(held)["open_retirements"] == 1 == len(held.ledger.find_open())
    assert [outcome.state for outcome in retire(held, [902])] == ["erased"]


def test_a_verification_is_on_record_and_only_one_of_everybody_answers_for_everybody(held: Store, command: Any) -> None:
    assert overview(held)["residue_found"] is None
    assert command("verify", 4).status == 0
    assert last(held, "verified")["everybody"] is False
    assert overview(held)["residue_found"] is None
    assert command("verify").status == 0
    tombstones = len(held.ledger.tombstones())
    assert tombstones >= 3
    assert last(held, "verified") == {
        **{"everybody": True, "subjects": tombstones, "with_residue": 0, "findings": 0, "not_asked": 0},
        "scanned": False,
    }
    seen = overview(held)
    assert seen["residue_found"] == 0
    assert seen["last_verified_at"] is not None
    # Somebody is back, past our doors; one look at another does not change what is known.
    held.client.execute("INSERT INTO $event_sink.user_profile (id, user_id, name) SELECT 4, 4, 'Back'")
    assert command("verify").status == 1
    assert command("verify", 902).status == 0
    assert overview(held)["residue_found"] == 1
    assert overview(held)["last_verified_at"] > seen["last_verified_at"]
    assert [outcome.state for outcome in retire(held, [4])] == ["erased"]
    assert command("verify").status == 0
    assert overview(held)["residue_found"] == 0


def test_place_that_could_not_be_asked_is_residue_of_everybody(held: Store, command: Any) -> None:
    held.client.execute(
        "CREATE DICTIONARY $event_sink.broken (user_id Int64, name String) PRIMARY KEY user_id "
        "SOURCE(CLICKHOUSE(QUERY 'SELECT user_id, absent AS name FROM $event_sink.user_profile')) "
        "LAYOUT(HASHED()) LIFETIME(0)"
    )
    try:
        assert command("verify").status == 1
        assert overview(held)["residue_found"] == len(held.ledger.tombstones())
    finally:
        held.client.execute("DROP DICTIONARY $event_sink.broken")


def test_entries_about_no_one_change_no_state_and_travel_with_the_ledger(held: Store, tmp_path: Path) -> None:
    states, tombstones = held.ledger.count_states(), held.ledger.tombstones()
    held.ledger.record_event(Action.SYNCED, {"pii": True, "objects": {}})
    held.ledger.record_event(Action.VERIFIED, {"everybody": True, "subjects": 3, "with_residue": 0})
    assert (held.ledger.count_states(), held.ledger.tombstones()) == (states, tombstones)
    assert {"synced", "verified"} <= {entry["action"] for entry in list_written(held.client)}
    installation = read_installation(held.client)
    assert export_ledger(held.client, installation, tmp_path / "ledger.jsonl").entries == len(held.ledger.show())
    assert import_ledger(held.client, held.pii_map.subject, installation, tmp_path / "ledger.jsonl") == 0


def test_overview_without_pii_is_the_same_but_for_the_flag(held: Store) -> None:
    """The last of this file: the datasets stay without PII."""
    before, rows = overview(held), retirements(held, 4, 901, 902)
    build_privacy(held, enabled=False)
    after = overview(held)
    assert after == {**before, "pii_enabled": False, "oldest_open_days": after["oldest_open_days"]}
    assert retirements(held, 4, 901, 902) == rows
