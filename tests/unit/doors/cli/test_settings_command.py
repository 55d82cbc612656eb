"""`settings`: what is in effect and where it is from; no secret is shown, wherever it comes from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sink.settings import Settings, environment_name

Command = Callable[..., Any]

HIDDEN = "hidden-4711"


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    folder = tmp_path / "secrets"
    folder.mkdir()
    (folder / "aspects_receipt_key").write_text(HIDDEN)
    (folder / "aspects_receipt_key").chmod(0o600)
    return folder


def read(ran: Any) -> dict[str, dict[str, Any]]:
    return {setting["name"]: setting for setting in ran.json["settings"]}


def test_every_setting_is_listed_with_its_source(aspects_pii: Command, secrets: Path, tmp_path: Path) -> None:
    Path(".env").write_text(f"ASPECTS_XAPI_DATABASE=openedx\nASPECTS_WEB_TOKEN={HIDDEN}-token\nASPECTS_CONTACT=\n")
    ran = aspects_pii("settings", "--format", "json", ENABLE_PII="true", SECRETS_DIR=str(secrets))
    assert (ran.status, ran.err) == (0, "")
    shown = read(ran)
    assert list(shown) == [environment_name(field) for field in Settings.model_fields]
    expected = {
        "ASPECTS_ENABLE_PII": (True, "environment", None),
        "ASPECTS_XAPI_DATABASE": ("openedx", ".env file", str(tmp_path / ".env")),
        "ASPECTS_WEB_TOKEN": ("set", ".env file", str(tmp_path / ".env")),
        "ASPECTS_RECEIPT_KEY": ("set", "secret file", str(secrets / "aspects_receipt_key")),
        "ASPECTS_REPORTING_DATABASE": ("reporting", "default", None),
        "ASPECTS_CONTACT": (None, "default", None),
        "ASPECTS_LMS_DATABASE_URL": (None, "default", None),
    }
    for name, (value, source, file) in expected.items():
        assert (shown[name]["value"], shown[name]["source"], shown[name]["file"]) == (value, source, file), name
    assert ran.json["env_file"] == str(tmp_path / ".env")
    assert HIDDEN not in ran.out


@pytest.mark.parametrize("form", [(), ("--json",)], ids=["text", "json"])
def test_no_secret_is_shown(aspects_pii: Command, form: tuple[str, ...]) -> None:
    secret = {
        "CLICKHOUSE_PASSWORD": HIDDEN,
        "LMS_DATABASE_URL": f"mysql+pymysql://reader:{HIDDEN}@mysql/openedx",
        "PSEUDONYM_SECRET": f"{HIDDEN}-and-longer",
        "BROKER_URL": f"redis://:{HIDDEN}@redis/0",
        "EVENT_BUS_URL": f"redis://:{HIDDEN}@redis/0",
        "KAFKA_PASSWORD": HIDDEN,
        "WEB_TOKEN": f"{HIDDEN}-and-longer",
        "WEB_JWT_SECRET": HIDDEN,
        "PRIVACY_TOKEN": f"{HIDDEN}-and-longer",
        "SUPERSET_PASSWORD": HIDDEN,
        "SUPERSET_CLICKHOUSE_PASSWORD": HIDDEN,
        "RECEIPT_KEY": HIDDEN,
    }
    ran = aspects_pii("settings", *form, **secret)
    assert ran.status == 0
    assert HIDDEN not in ran.out + ran.err
    if form:
        shown = read(ran)
        hidden = {name for name, setting in shown.items() if setting["is_secret"]}
        assert hidden == {f"ASPECTS_{name}" for name in secret}
        assert {shown[name]["value"] for name in hidden} == {"set"}


def test_what_is_set_alone(aspects_pii: Command) -> None:
    ran = aspects_pii("settings", "--set", EVENT_STREAMS="a,b")
    names = [line.split()[0] for line in ran.out.splitlines()[1:-1]]
    assert names == [
        "ASPECTS_CLICKHOUSE_URL",
        "ASPECTS_CLICKHOUSE_PASSWORD",
        "ASPECTS_RECEIPTS_DIR",
        "ASPECTS_EVENT_STREAMS",
    ]
    assert "a, b" in ran.out
    assert ran.out.splitlines()[-1] == "4 settings are set, all others have their defaults."


def test_settings_that_are_not_valid_are_2(aspects_pii: Command) -> None:
    ran = aspects_pii("settings", BROKER_URL=f"nonsense-{HIDDEN}")
    assert (ran.status, ran.out) == (2, "")
    assert "ASPECTS_BROKER_URL is not valid" in ran.err
    assert HIDDEN not in ran.err
