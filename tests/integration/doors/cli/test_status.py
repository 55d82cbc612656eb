"""`status`: what was done last, what has not ended, which settings are in effect and where they are from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sink.errors import QueryError
from sink.installation import connect
from sink.settings import Settings, load_settings

Command = Callable[..., Any]

SECRETS = {"RECEIPT_KEY": "hidden-1", "LMS_DATABASE_URL": "sqlite:////hidden-2", "CLICKHOUSE_PASSWORD": "hidden-3"}


def make_dataset(flag: str) -> None:
    """A relation that says of itself what one built by the dbt project says (see tests/integration/datasets)."""
    with connect(load_settings()) as client:
        client.execute(f"CREATE VIEW $reporting.enrolled_learners AS SELECT 1 COMMENT '[aspects-pii] {flag}Something.'")


def read_settings(ran: Any) -> dict[str, tuple[Any, str]]:
    return {setting["name"]: (setting["value"], setting["origin"]) for setting in ran.json["settings"]}


# --- a purge that has not ended


def test_a_purge_that_is_interrupted_is_on_record_and_in_status(
    stored: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(*_: object) -> None:
        raise QueryError("the engine went away")

    with monkeypatch.context() as patch:
        patch.setattr("sink.erasure.purge.forget_everything", fail)
        assert stored("purge", "--yes").status == 1
    entries = stored("ledger", "show", "--json").json
    assert [entry["action"] for entry in entries] == ["purge_begun"]
    assert entries[0]["detail"]["tables"] > 0
    ran = stored("status", ENABLE_PII="true")
    assert ran.status == 1
    assert f"A purge of chdb://{tmp_path}/clickhouse began at 20" in ran.err
    assert "has not ended" in ran.err
    assert stored("status", "--json").json["purge_begun_at"] is not None


def test_a_purge_that_ends_closes_what_has_begun(stored: Command) -> None:
    assert stored("purge", "--yes").status == 0
    assert [entry["action"] for entry in stored("ledger", "show", "--json").json] == ["purge_begun", "purged"]
    ran = stored("status", "--json")
    assert (ran.status, ran.json["purge_begun_at"]) == (0, None)
    assert ran.json["last"]["purge"] is not None


def test_a_purge_that_is_refused_has_not_begun(stored: Command) -> None:
    assert stored("purge", "--yes", ENABLE_PII="true").status == 1
    assert stored("ledger", "show", "--json").json == []


# --- what the datasets say


@pytest.mark.parametrize(
    ("flag", "enabled", "said"),
    [
        ("PII off. ", "true", "PII is on and of 5 subjects held, but 1 dataset was built while it was off"),
        ("PII on. ", "false", "PII is off and of 5 subjects held, but 1 dataset was built while it was on"),
    ],
)
def test_datasets_that_say_otherwise_than_the_setting_are_a_warning(
    stored: Command, flag: str, enabled: str, said: str
) -> None:
    make_dataset(flag)
    ran = stored("status", ENABLE_PII=enabled)
    assert ran.status == 1
    assert said in ran.err


def test_datasets_that_say_what_the_setting_says_are_none(stored: Command) -> None:
    make_dataset("PII on. ")
    ran = stored("status", ENABLE_PII="true")
    assert ran.status == 0, ran.err
    assert "1 built with PII on" in ran.out
    ran = stored("status", "--json", ENABLE_PII="true")
    assert (ran.json["datasets"]["with_pii"], ran.json["datasets"]["without_pii"]) == (1, 0)
    assert ran.json["last"]["build"] is not None


def test_datasets_of_an_older_version_are_counted_apart(stored: Command) -> None:
    make_dataset("")
    ran = stored("status", ENABLE_PII="true")
    assert (ran.status, "1 built with an older version" in ran.out) == (0, True)


# --- what was done last


def test_what_was_done_last_is_shown(stored: Command) -> None:
    assert stored("status", "--json").json["last"] == {"sync": None, "verify": None, "purge": None, "build": None}
    assert stored("verify").status == 0
    last = stored("status", "--json").json["last"]
    assert last["verify"].startswith("20")
    assert last["purge"] is None
    assert "last sync" in stored("status").out


# --- settings


def test_settings_say_where_they_are_from(stored: Command, tmp_path: Path) -> None:
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    (secrets / "aspects_receipt_key").write_text("hidden")
    Path(".env").write_text("ASPECTS_MAX_MUTATIONS=7\n")
    ran = stored("status", "--json", RETIRE_MAX_SHARE="0.25", SECRETS_DIR=str(secrets))
    settings = read_settings(ran)
    assert set(settings) == {f"ASPECTS_{field.upper()}" for field in Settings.model_fields}
    assert settings["ASPECTS_MAX_MUTATIONS"] == (7, f"{tmp_path}/.env")
    assert settings["ASPECTS_RETIRE_MAX_SHARE"] == (0.25, "environment")
    assert settings["ASPECTS_RECEIPT_KEY"] == ("set", str(secrets / "aspects_receipt_key"))
    assert settings["ASPECTS_SYNC_BATCH_SIZE"] == (20_000, "default")
    assert settings["ASPECTS_BROKER_URL"] == (None, "default")


def test_the_environment_wins_over_the_file_and_an_empty_variable_does_not(stored: Command, tmp_path: Path) -> None:
    Path(".env").write_text("ASPECTS_MAX_MUTATIONS=7\nASPECTS_SCRUB_WITHIN=8\n")
    settings = read_settings(stored("status", "--json", MAX_MUTATIONS="9", SCRUB_WITHIN=""))
    assert settings["ASPECTS_MAX_MUTATIONS"] == (9, "environment")
    assert settings["ASPECTS_SCRUB_WITHIN"] == (8, f"{tmp_path}/.env")


def test_only_what_is_set_is_in_the_text(stored: Command) -> None:
    ran = stored("status", RETIRE_MAX_SHARE="0.25")
    assert "ASPECTS_RETIRE_MAX_SHARE" in ran.out
    assert "ASPECTS_SYNC_BATCH_SIZE" not in ran.out


def test_of_a_secret_is_said_that_it_is_set(stored: Command) -> None:
    for options in ((), ("--json",)):
        ran = stored("status", *options, **SECRETS)
        assert "hidden" not in ran.out + ran.err
        assert all(f"ASPECTS_{name}" in ran.out for name in SECRETS)


def test_map_env_file_and_signature_are_named(stored: Command, tmp_path: Path) -> None:
    plain = stored("status")
    assert "not signed" in plain.out
    assert stored("status", "--json").json["env_file"] is None
    Path(".env").write_text("ASPECTS_RECEIPT_KEY=hidden\n")
    ran = stored("status", "--json")
    assert ran.json["env_file"] == f"{tmp_path}/.env"
    assert ran.json["receipts_signed"] is True
    assert Path(ran.json["pii_map"]).is_absolute()
    assert f"{tmp_path}/.env" in stored("status").out
