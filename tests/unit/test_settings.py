"""The settings: where they come from, what is refused, and that no secret leaves them."""

from __future__ import annotations

import os
import pickle
import traceback
from pathlib import Path

import pytest

from sink.datasets import build
from sink.errors import SettingsError
from sink.installation import find_address
from sink.settings import Settings, environment_name, load_settings

SECRETS = (
    "clickhouse_password",
    "lms_database_url",
    "receipt_key",
    "pseudonym_secret",
    "broker_url",
    "event_bus_url",
)


@pytest.fixture(autouse=True)
def nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the password either that all other tests have."""
    monkeypatch.delenv("ASPECTS_CLICKHOUSE_PASSWORD")


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
        if name == "secrets_dir":
            continue  # It has to be there.
        for example in field.examples or []:
            with monkeypatch.context() as patch:
                patch.setenv(environment_name(name), str(example))
                load_settings()


def test_environment_name() -> None:
    assert environment_name("enable_pii") == "ASPECTS_ENABLE_PII"


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("ASPECTS_ENABLE_PII", "perhaps", "true or false"),
        ("ASPECTS_CLICKHOUSE_URL", "tcp://clickhouse:9000", "must begin with chdb://"),
        ("ASPECTS_CLICKHOUSE_URL", "chdb://", "must name a folder"),
        ("ASPECTS_CLICKHOUSE_URL", "http://", "must name a host"),
        ("ASPECTS_CLICKHOUSE_URL", "http://clickhouse:port", "a host and a port"),
        ("ASPECTS_CLICKHOUSE_URL", "http://clickhouse:99999", "a host and a port"),
        ("ASPECTS_CLICKHOUSE_URL", "http://[clickhouse", "not an address"),
        ("ASPECTS_CLICKHOUSE_URL", "http://someone:hunter2@clickhouse:8123", "settings of their own"),
        ("ASPECTS_CLICKHOUSE_URL", "https://clickhouse:8443/a/path", "path"),
        ("ASPECTS_CLICKHOUSE_URL", "https://clickhouse:8443?password=hunter2", "path"),
        ("ASPECTS_CLICKHOUSE_CLUSTER", "aspects`; DROP", "letters, digits and underscores"),
        ("ASPECTS_EVENT_SINK_DATABASE", "event-sink", "letters, digits and underscores"),
        ("ASPECTS_CLICKHOUSE_TIMEOUT", "0.5", "a whole number"),
        ("ASPECTS_CLICKHOUSE_RETRIES", "-1", "0 or more"),
        ("ASPECTS_SYNC_MAX_REMOVED_SHARE", "1.5", "has to be 1 or less"),
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


def test_databases_of_one_name_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
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


def give_away(path: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """Make a file somebody else's, and return whose: really, or by being somebody else where only root can do it."""
    if os.geteuid() == 0:
        os.chown(path, 4711, -1, follow_symlinks=False)
        return 4711
    owner = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    return owner


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o664, 0o777])
def test_env_file_that_others_may_write_is_refused(mode: int) -> None:
    Path(".env").write_text("ASPECTS_CLICKHOUSE_PASSWORD=hunter2\n")
    Path(".env").chmod(mode)
    file = Path(".env").absolute()
    message = refuse()
    assert f"{file} may be written by others (mode {mode:04o})" in message
    assert f"`chmod go-w {file}`" in message
    Path(".env").chmod(mode & ~0o022)
    assert load_settings().clickhouse_password.get_secret_value() == "hunter2"


def test_env_file_of_somebody_else_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    Path(".env").write_text("ASPECTS_CLICKHOUSE_PASSWORD=hunter2\n")
    Path(".env").chmod(0o644)
    owner = give_away(Path(".env"), monkeypatch)
    file = Path(".env").absolute()
    message = refuse()
    assert f"{file} belongs to the user with the id {owner} (mode 0644)" in message
    assert f"`chown {os.geteuid()} {file}`" in message


def test_env_file_of_root_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    Path(".env").write_text("ASPECTS_ENABLE_PII=true\n")
    if os.geteuid() == 0:
        monkeypatch.setattr(os, "geteuid", lambda: 4711)
    assert load_settings().enable_pii


@pytest.mark.parametrize("whose", ["link", "file", "writable file"])
def test_env_link_is_judged_as_the_file_that_it_leads_to(
    whose: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "target"
    target.write_text("ASPECTS_CLICKHOUSE_PASSWORD=hunter2\n")
    target.chmod(0o644)
    Path(".env").symlink_to(target)
    assert load_settings().clickhouse_password.get_secret_value() == "hunter2"
    if whose == "writable file":
        target.chmod(0o666)
    else:
        give_away(Path(".env") if whose == "link" else target, monkeypatch)
    assert str(Path(".env").absolute()) in refuse()


def test_folder_that_is_called_env_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    # So some call a virtual environment.
    Path(".env").mkdir()
    Path(".env").chmod(0o777)
    give_away(Path(".env"), monkeypatch)
    assert not load_settings().enable_pii


@pytest.mark.parametrize("mode", [0o420, 0o402, 0o666])
def test_secret_file_that_others_may_write_is_refused(secrets: Path, mode: int) -> None:
    file = secrets / "aspects_clickhouse_password"
    file.write_text("hunter2")
    file.chmod(mode)
    message = refuse()
    assert f"{file} may be written by others (mode {mode:04o})" in message
    assert f"`chmod go-w {file}`" in message


def test_secret_file_of_somebody_else_is_read(secrets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Compose mounts the files of whoever owns them on the host.
    file = secrets / "aspects_clickhouse_password"
    file.write_text("hunter2")
    file.chmod(0o444)
    give_away(file, monkeypatch)
    assert load_settings().clickhouse_password.get_secret_value() == "hunter2"


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


@pytest.fixture
def secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of secrets, which the environment names."""
    folder = tmp_path / "secrets"
    folder.mkdir()
    monkeypatch.setenv("ASPECTS_SECRETS_DIR", str(folder))
    return folder


def refuse(**overrides: object) -> str:
    """The message of what `load_settings` raises; what was in the files stands nowhere in it."""
    with pytest.raises(SettingsError) as caught:
        load_settings(**overrides)
    assert caught.value.exit_status == 2
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))
    return str(caught.value)


def test_every_secret_can_come_from_a_file(secrets: Path) -> None:
    """Whatever is kept from being shown, by its type; a field that is added is tried too."""
    fields = [name for name, field in Settings.model_fields.items() if "SecretStr" in str(field.annotation)]
    assert set(SECRETS) < set(fields)
    for name in fields:
        # Of one kind that is valid for all of them.
        (secrets / environment_name(name).lower()).write_text(f"redis://:{name}-is-long-enough@host/0\n")
    settings = load_settings()
    for name in fields:
        value = getattr(settings, name).get_secret_value()
        assert (value, type(value)) == (f"redis://:{name}-is-long-enough@host/0", str), name


def test_other_settings_can_come_from_a_file_too(secrets: Path) -> None:
    (secrets / "aspects_clickhouse_user").write_text("somebody\n")
    (secrets / "ASPECTS_WEB_JWT_USERS").write_text("one,two\n")
    (secrets / "aspects_enable_pii").write_text("true")
    settings = load_settings()
    assert (settings.clickhouse_user, settings.web_jwt_users, settings.enable_pii) == ("somebody", ("one", "two"), True)


@pytest.mark.parametrize(
    ("content", "value"),
    [
        (b"hunter2", "hunter2"),
        (b"hunter2\n", "hunter2"),
        (b"hunter2\r\n", "hunter2"),
        (b"\xef\xbb\xbfhunter2\n", "hunter2"),
        (b" hunter2 \n", " hunter2 "),
        (b"hunter2\n\n", "hunter2\n"),
        ("hünter2\n".encode(), "hünter2"),
    ],
)
def test_the_end_of_the_last_line_is_no_part_of_a_secret(secrets: Path, content: bytes, value: str) -> None:
    (secrets / "aspects_clickhouse_password").write_bytes(content)
    assert load_settings().clickhouse_password.get_secret_value() == value


def test_files_of_others_are_passed_over(secrets: Path) -> None:
    (secrets / "mysql_root_password").write_text("hunter2")
    (secrets / "aspects_superset_admin").write_text("hunter2")
    # As Kubernetes has them: links through a hidden folder that is exchanged as a whole.
    (secrets / "..2026_11_21").mkdir()
    (secrets / "..2026_11_21" / "aspects_clickhouse_password").write_text("hunter3")
    (secrets / "..data").symlink_to("..2026_11_21")
    (secrets / "aspects_clickhouse_password").symlink_to(Path("..data", "aspects_clickhouse_password"))
    assert load_settings().clickhouse_password.get_secret_value() == "hunter3"


def test_files_are_not_read_without_a_folder(secrets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (secrets / "aspects_clickhouse_password").write_text("hunter2")
    monkeypatch.delenv("ASPECTS_SECRETS_DIR")
    assert load_settings().clickhouse_password.get_secret_value() == ""


def test_the_env_file_can_name_the_folder(secrets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ASPECTS_SECRETS_DIR")
    Path(".env").write_text(f"ASPECTS_SECRETS_DIR={secrets}\n")
    (secrets / "aspects_clickhouse_password").write_text("hunter3")
    assert load_settings().clickhouse_password.get_secret_value() == "hunter3"


@pytest.mark.parametrize(
    "name", ["aspects_clickhouse_pasword", "ASPECTS_CLICKHOUSE_PASSWORD.txt", "aspects_enabled_pii"]
)
def test_misspelt_file_is_refused(secrets: Path, name: str) -> None:
    (secrets / name).write_text("hunter2")
    message = refuse()
    assert f"{secrets / name} is not a setting of aspects-pii. Did you mean {secrets}/aspects_" in message


def test_a_secret_that_is_given_twice_is_refused(secrets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = secrets / "aspects_clickhouse_password"
    file.write_text("hunter2")
    monkeypatch.setenv("ASPECTS_CLICKHOUSE_PASSWORD", "hunter2 of last year")
    message = refuse()
    assert "ASPECTS_CLICKHOUSE_PASSWORD is set twice: in the environment" in message
    assert str(file) in message
    # An empty variable says nothing, as everywhere.
    monkeypatch.setenv("ASPECTS_CLICKHOUSE_PASSWORD", "")
    assert load_settings().clickhouse_password.get_secret_value() == "hunter2"
    Path(".env").write_text("ASPECTS_CLICKHOUSE_PASSWORD=hunter2\n")
    assert "in the .env file" in refuse()
    Path(".env").unlink()
    (secrets / "ASPECTS_CLICKHOUSE_PASSWORD").write_text("hunter2")
    assert "the same setting" in refuse()


def test_value_that_a_program_asks_for_wins_over_a_file(secrets: Path) -> None:
    (secrets / "aspects_sync_batch_size").write_text("7")
    assert load_settings(sync_batch_size=9).sync_batch_size == 9


def test_a_file_that_cannot_be_used_is_named(secrets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = secrets / "aspects_receipt_key"
    for content, reason in ((b"", "is empty"), (b" \n", "is empty"), (b"\xff\xfehunter2", "is not UTF-8 text")):
        file.write_bytes(content)
        assert f"{file} {reason}" in refuse()
    file.unlink()
    file.symlink_to(secrets / "absent")
    assert f"{file} is not a file" in refuse()
    file.unlink()
    file.mkdir()
    assert f"{file} is not a file" in refuse()
    file.rmdir()
    file.write_text("hunter2")

    def deny(path: Path, mode: str) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    # The tests may run as root, who can read everything.
    monkeypatch.setattr(Path, "open", deny)
    assert f"{file} cannot be read: Permission denied" in refuse()


def test_a_file_that_is_not_valid_is_named(secrets: Path) -> None:
    (secrets / "aspects_pseudonym_secret").write_text("hunter2\n")
    (secrets / "aspects_lms_database_url").write_text("mysql://reader:hunter2@host:port/openedx")
    (secrets / "aspects_sync_batch_size").write_text("hunter2")
    lines = refuse().splitlines()
    assert len(lines) == 3
    for line in lines:
        name = line.split(" ")[0]
        assert f"{name} ({secrets / name.lower()}) is not valid" in line


def test_a_folder_that_cannot_be_used_is_named(secrets: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (secrets / "aspects_secrets_dir").write_text(str(secrets))
    assert "cannot name itself" in refuse()
    for folder in (tmp_path / "absent", secrets / "aspects_secrets_dir"):
        monkeypatch.setenv("ASPECTS_SECRETS_DIR", str(folder))
        message = refuse()
        assert f"ASPECTS_SECRETS_DIR is not valid: {folder} cannot be read" in message
        assert "Example: ASPECTS_SECRETS_DIR=/run/secrets" in message


def test_dbt_gets_the_password_from_the_file_and_nothing_of_the_folder(secrets: Path) -> None:
    (secrets / "aspects_clickhouse_password").write_text("hunter2\n")
    (secrets / "aspects_web_token").write_text("hunter2 and sixteen\n")
    environment = build._make_environment(find_address(load_settings()), enable_pii=False)
    assert environment["DBT_ENV_SECRET_CLICKHOUSE_PASSWORD"] == "hunter2"
    assert [name for name, value in environment.items() if "hunter2" in value] == ["DBT_ENV_SECRET_CLICKHOUSE_PASSWORD"]
    assert "ASPECTS_SECRETS_DIR" not in environment
