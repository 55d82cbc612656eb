"""The settings: where they come from, what is refused, and that no secret leaves them."""

from __future__ import annotations

import os
import pickle
import traceback
from pathlib import Path

import pytest

from sink.errors import SettingsError
from sink.settings import Settings, environment_name, load_settings

SECRETS = (
    "clickhouse_password",
    "lms_database_url",
    "receipt_key",
    "pseudonym_secret",
    "broker_url",
    "event_bus_url",
)


def test_load_settings_default_is_off_and_embedded() -> None:
    settings = load_settings()
    assert settings.enable_pii is False
    assert settings.clickhouse_url.startswith("chdb://")
    assert all(getattr(settings, name) is None for name in SECRETS if name != "clickhouse_password")


def test_every_setting_has_a_description_and_an_example() -> None:
    fields = Settings.model_fields
    assert len(fields) > 20
    for name, field in fields.items():
        assert field.description, name
        assert field.examples, name


def test_every_example_is_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, field in Settings.model_fields.items():
        for example in field.examples or []:
            with monkeypatch.context() as patch:
                patch.setenv(environment_name(name), str(example))
                load_settings()


def test_environment_name() -> None:
    assert environment_name("enable_pii") == "ASPECTS_ENABLE_PII"


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("ASPECTS_ENABLE_PII", "perhaps", "boolean"),
        ("ASPECTS_CLICKHOUSE_URL", "tcp://clickhouse:9000", "begins with chdb://"),
        ("ASPECTS_CLICKHOUSE_URL", "chdb://", "names a folder"),
        ("ASPECTS_CLICKHOUSE_URL", "http://", "names a host"),
        ("ASPECTS_CLICKHOUSE_URL", "http://clickhouse:port", "a host and a port"),
        ("ASPECTS_CLICKHOUSE_URL", "http://clickhouse:99999", "a host and a port"),
        ("ASPECTS_CLICKHOUSE_URL", "http://[clickhouse", "not an address"),
        ("ASPECTS_CLICKHOUSE_URL", "http://someone:hunter2@clickhouse:8123", "settings of their own"),
        ("ASPECTS_CLICKHOUSE_URL", "https://clickhouse:8443/a/path", "path"),
        ("ASPECTS_CLICKHOUSE_URL", "https://clickhouse:8443?password=hunter2", "path"),
        ("ASPECTS_CLICKHOUSE_CLUSTER", "aspects`; DROP", "letters, digits and underscores"),
        ("ASPECTS_EVENT_SINK_DATABASE", "event-sink", "letters, digits and underscores"),
        ("ASPECTS_CLICKHOUSE_TIMEOUT", "0.5", "integer"),
        ("ASPECTS_CLICKHOUSE_RETRIES", "-1", "greater than or equal to 0"),
        ("ASPECTS_SYNC_MAX_REMOVED_SHARE", "1.5", "less than or equal to 1"),
        ("ASPECTS_LMS_DATABASE_URL", "hunter2", "not an SQLAlchemy address"),
        ("ASPECTS_LMS_DATABASE_URL", "mysql://reader:hunter2@host:port/openedx", "not an SQLAlchemy address"),
        ("ASPECTS_PSEUDONYM_SECRET", "hunter2", "at least 16"),
    ],
)
def test_malformed_value_is_named_with_an_example_and_not_shown(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, reason: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    message = str(caught.value)
    assert name in message
    assert reason in message
    assert f"Example: {name}=" in message
    assert caught.value.exit_status == 2
    everything = "".join(traceback.format_exception(caught.value)) + repr(pickle.loads(pickle.dumps(caught.value)))
    assert "hunter2" not in everything


def test_all_malformed_values_are_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASPECTS_ENABLE_PII", "perhaps")
    monkeypatch.setenv("ASPECTS_MAX_MUTATIONS", "none")
    with pytest.raises(SettingsError, match=r"ASPECTS_ENABLE_PII.*\n.*ASPECTS_MAX_MUTATIONS"):
        load_settings()


def test_two_databases_of_one_name_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    # A backup of the others is to be restored without the ledger, which therefore is alone in its database.
    monkeypatch.setenv("ASPECTS_LEDGER_DATABASE", "event_sink")
    with pytest.raises(SettingsError, match="ASPECTS_LEDGER_DATABASE"):
        load_settings()


@pytest.mark.parametrize("name", ["ASPECTS_ENABLE_PI", "ASPECTS_ENABLED_PII", "ASPECTS_CLICKHOUSE_PASWORD"])
def test_misspelt_name_in_the_environment_is_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "hunter2")
    with pytest.raises(SettingsError, match=f"{name} is not a setting of aspects-pii. Did you mean ASPECTS_") as caught:
        load_settings()
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("name", ["ASPECTS_DOCKER_IMAGE", "ASPECTS_PII_CACHE_LIFETIME", "ASPECTS_RAW_XAPI_TABLE"])
def test_foreign_name_in_the_environment_is_passed_over(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    # Aspects itself has settings of this prefix, in the same environment.
    monkeypatch.setenv(name, "something")
    load_settings()


def test_env_file_is_read() -> None:
    Path(".env").write_text("ASPECTS_ENABLE_PII=true\nASPECTS_CLICKHOUSE_USER='somebody'\nOTHER=1\n")
    settings = load_settings()
    assert settings.enable_pii
    assert settings.clickhouse_user == "somebody"


def test_environment_wins_over_env_file(monkeypatch: pytest.MonkeyPatch) -> None:
    Path(".env").write_text("ASPECTS_ENABLE_PII=true\n")
    monkeypatch.setenv("ASPECTS_ENABLE_PII", "false")
    assert not load_settings().enable_pii


def test_unknown_name_in_env_file_is_refused_with_the_list() -> None:
    Path(".env").write_text("ASPECTS_DOCKER_IMAGE=x\n")
    with pytest.raises(SettingsError, match="ASPECTS_DOCKER_IMAGE is not a setting"):
        load_settings()


def test_env_file_that_cannot_be_read_as_text_is_named() -> None:
    Path(".env").write_bytes(b"ASPECTS_CLICKHOUSE_PASSWORD=\xff\xfehunter2\n")
    with pytest.raises(SettingsError, match=r"\.env") as caught:
        load_settings()
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


def test_empty_value_means_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASPECTS_CLICKHOUSE_USER", "")
    assert load_settings().clickhouse_user == "default"


def test_secrets_are_not_in_repr_or_dump(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SECRETS:
        monkeypatch.setenv(environment_name(name), "redis://canary-secret-value@host/0")
    settings = load_settings()
    assert os.environ["ASPECTS_BROKER_URL"].startswith("redis://canary")
    shown = f"{settings!r} {settings} {settings.model_dump()} {settings.model_dump_json()}"
    assert "canary-secret-value" not in shown


def test_settings_cannot_be_changed() -> None:
    settings = load_settings()
    with pytest.raises(ValueError, match="frozen"):
        settings.enable_pii = True


def test_databases_are_listed_by_their_names_in_the_map() -> None:
    settings = load_settings(event_sink_database="sink_2")
    assert settings.databases == {
        "event_sink": "sink_2",
        "xapi": "xapi",
        "reporting": "reporting",
        "pii_ledger": "pii_ledger",
    }
