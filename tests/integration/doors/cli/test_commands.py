"""The command line as an operator meets it: exit statuses, one JSON document, clear errors, no secret anywhere."""

from __future__ import annotations

import io
import json
import sys
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import typer

from sink.doors.cli.main import app
from sink.installation import connect, open_store
from sink.ledger.entries import Action
from sink.ledger.role_trail import Operation, RoleChange, Source, record_changes
from sink.resources import VERSION
from sink.settings import load_settings
from tests.support.lms_writer import LmsWriter

Command = Callable[..., Any]

CANARY = "canary-7c2e"
REPORTING = (
    ("init",),
    ("status",),
    ("map", "check"),
    ("map", "show"),
    ("verify",),
    ("sweep",),
    ("ledger", "show"),
    ("retire", "1", "--dry-run"),
    ("purge", "--dry-run"),
)


@pytest.fixture
def stored(aspects_pii: Command, migrated: Callable[[Path], None], tmp_path: Path) -> Command:
    """The command line, with profiles of users 1 to 5 stored."""
    migrated(tmp_path / "clickhouse")
    with connect(load_settings()) as client:
        columns = ("id", "user_id", "name", "username", "email")
        rows = [(n, n, f"{CANARY} {n}", f"{CANARY}_{n}", f"{CANARY}{n}@example.org") for n in range(1, 6)]
        client.insert(client.table("event_sink.user_profile"), columns, rows)
        access = ("user_id", "username", "org", "course_key", "role")
        client.insert(client.table("event_sink.course_access"), access, [(1, f"{CANARY}_1", "", "", "staff")])
    return aspects_pii


def count_profiles() -> int:
    """What is left in the table."""
    with connect(load_settings()) as client:
        return int(client.value("SELECT count() FROM $event_sink.user_profile"))


# --- usage


def test_version(aspects_pii: Command) -> None:
    shown = aspects_pii("--version")
    assert (shown.status, shown.out) == (0, f"aspects-pii {VERSION}\n")


def test_help_names_every_command(aspects_pii: Command) -> None:
    shown = aspects_pii("--help")
    assert shown.status == 0
    names = list(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    assert len(names) >= 20
    for name in names:
        assert f"  {name} " in shown.out
        helped = aspects_pii(name, "--help")
        assert (helped.status, "Usage:" in helped.out) == (0, True)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("status", "--jason"), "--jason"),
        (("nothing",), "nothing"),
        (("map", "nothing"), "nothing"),
        (("--verbosely",), "--verbosely"),
        (("sync", "--user-id", "abc"), "--user-id"),
        (("sync", "--user-id", "0"), "--user-id"),
        (("ledger", "show", "--since", "yesterday"), "--since"),
        (("clickhouse", "--port", "70000"), "--port"),
    ],
)
def test_wrong_usage_is_2_and_names_it(aspects_pii: Command, arguments: tuple[str, ...], named: str) -> None:
    ran = aspects_pii(*arguments)
    assert ran.status == 2
    assert named in ran.err
    assert ran.out == ""


@pytest.mark.parametrize("arguments", [(), ("map",), ("ledger",)])
def test_no_command_shows_the_help(aspects_pii: Command, arguments: tuple[str, ...]) -> None:
    ran = aspects_pii(*arguments)
    assert ran.status == 2
    assert "Usage:" in ran.out + ran.err


def test_main_exits_with_the_status(monkeypatch: pytest.MonkeyPatch) -> None:
    from sink.doors.cli.main import main

    monkeypatch.setattr(sys, "argv", ["aspects-pii", "nothing"])
    # What it says of its process is taken back at the end.
    monkeypatch.setattr("sink.clickhouse.confinement._confines_engine_threads", False)
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2


# --- settings


@pytest.mark.parametrize("command", [("status",), ("sync",), ("map", "show"), ("retire", "1"), ("clickhouse",)])
def test_malformed_setting_is_2_and_names_it_with_an_example(aspects_pii: Command, command: tuple[str, ...]) -> None:
    ran = aspects_pii(*command, ENABLE_PII="perhaps")
    assert ran.status == 2
    assert "ASPECTS_ENABLE_PII is not valid" in ran.err
    assert "Example: ASPECTS_ENABLE_PII=true" in ran.err
    assert ran.out == ""


def test_misspelt_setting_is_2_and_names_the_right_one(aspects_pii: Command) -> None:
    ran = aspects_pii("status", ENABLED_PII="true")
    assert ran.status == 2
    assert "ASPECTS_ENABLED_PII is not a setting of aspects-pii. Did you mean ASPECTS_ENABLE_PII=true?" in ran.err


def test_env_file_is_read(aspects_pii: Command) -> None:
    Path(".env").write_text("ASPECTS_ENABLE_PII=true\nASPECTS_LEDGER_DATABASE=ledger_2\n")
    assert aspects_pii("init").status == 0
    status = aspects_pii("status", "--json")
    assert status.json["enabled"] is True
    with connect(load_settings()) as client:
        assert client.value("EXISTS TABLE ledger_2.entries") == 1


def test_map_with_a_mistake_is_2_and_names_its_path(aspects_pii: Command, tmp_path: Path) -> None:
    path = tmp_path / "pii.yaml"
    path.write_text("version: 1\nsubject: {}\ntargets: {a.b: {match: {c: id}, pii: {d: nome}, on_retire: delete}}\n")
    ran = aspects_pii("map", "show", PII_MAP=str(path))
    assert ran.status == 2
    assert f"{path}: targets.a.b.pii.d: " in ran.err


SECRETS = {
    "CLICKHOUSE_PASSWORD": f"{CANARY}-password",
    "LMS_DATABASE_URL": f"mysql+pymysql://reader:{CANARY}-lms@127.0.0.1:1/openedx",
    "RECEIPT_KEY": f"{CANARY}-receipt-key",
    "PSEUDONYM_SECRET": f"{CANARY}-pseudonym",
    "BROKER_URL": f"redis://:{CANARY}-broker@127.0.0.1:1/0",
    "EVENT_BUS_URL": f"redis://:{CANARY}-bus@127.0.0.1:1/0",
}


def test_secrets_are_never_shown(stored: Command) -> None:
    for command in (*REPORTING, ("retire", "1"), ("sync",)):
        ran = stored(*command, ENABLE_PII="true", **SECRETS)
        assert ran.status != 2, command
        assert ran.out + ran.err
        assert CANARY not in ran.out + ran.err, command


@pytest.mark.parametrize("name", SECRETS)
def test_secrets_are_not_in_errors(aspects_pii: Command, name: str) -> None:
    broken = {**SECRETS, name: "ü" * 8 if name == "PSEUDONYM_SECRET" else SECRETS[name], "MAX_MUTATIONS": "none"}
    ran = aspects_pii("status", **broken)
    assert ran.status == 2
    assert CANARY not in ran.out + ran.err


def test_secrets_are_not_in_errors_of_a_server(aspects_pii: Command) -> None:
    ran = aspects_pii("status", CLICKHOUSE_URL="http://127.0.0.1:1", CLICKHOUSE_RETRIES="0", **SECRETS)
    assert ran.status == 1
    assert "http://127.0.0.1:1 cannot be reached" in ran.err
    assert CANARY not in ran.out + ran.err


# --- JSON


def test_json_is_one_document_on_standard_output(stored: Command) -> None:
    for command in REPORTING:
        ran = stored(*command, "--json", ENABLE_PII="true")
        assert ran.status == 0, command
        assert isinstance(json.loads(ran.out), dict | list), command
        assert CANARY not in ran.out + ran.err, command


def test_json_of_a_retirement(stored: Command) -> None:
    ran = stored("retire", "1", "99", "--unknown", "--actor", "17", "--json")
    assert ran.status == 0
    first, second = ran.json["retirements"]
    assert (first["subject"], first["state"], first["rows"], first["reason"]) == ("1", "erased", 2, None)
    assert first["receipt"]["actor"] == "17"
    assert Path(first["receipt_path"]).exists()
    assert (second["subject"], second["rows"]) == ("99", 0)
    entries = stored("ledger", "show", "--subject", "1", "--json").json
    assert entries[0]["action"] == "requested"
    assert entries[-1]["action"] == "erased"


def test_roles_are_shown_by_scope(stored: Command) -> None:
    course = "course-v1:OpenedX+CS101+2024"
    at = datetime(2026, 11, 29, 12, tzinfo=UTC)
    told = (
        (0, "given", "staff", course, Source.AUTHZ, "17"),
        (1, "given", "staff", "course-v1:OpenedX+*", Source.AUTHZ, None),
        (2, "taken", "staff", course, Source.LMS, None),
        (3, "given", "library_admin", "lib:OpenedX:x", Source.AUTHZ, "17"),
    )
    with connect(load_settings()) as client:
        record_changes(
            client,
            [
                RoleChange(uuid.uuid4(), at + timedelta(hours=n), Operation(done), "1", role, scope, source, actor)
                for n, done, role, scope, source, actor in told
            ],
        )
    shown = stored("ledger", "show", "--scope", course, "--json").json
    assert [(line["action"], line["scope"], line["by"]) for line in shown] == [
        ("given", course, "17"),
        ("given", "course-v1:OpenedX+*", "system"),
        ("taken", course, "unknown"),
    ]
    assert {line["subject"] for line in shown} == {"1"}
    table = stored("ledger", "show", "--scope", "*", "--action", "given", "--actor", "17").out
    assert "library_admin" in table
    assert table.count("given") == 2
    refused = stored("ledger", "show", "--scope", "*", "--action", "erased")
    assert (refused.status, refused.out) == (2, "")
    assert "--action: with --scope it is given or taken" in refused.err
    # An audit trail is no entry of the ledger, and a purge leaves both.
    assert stored("ledger", "show", "--json").json == []
    assert stored("purge", "--yes").status == 0
    assert len(stored("ledger", "show", "--scope", "*", "--json").json) == 4


def test_json_of_a_purge_is_one_document(stored: Command) -> None:
    ran = stored("purge", "--yes", "--json")
    assert ran.status == 0
    assert ran.json["dry_run"] is False
    assert count_profiles() == 0


# --- PII off


def test_sync_with_pii_off_is_3_with_one_sentence(aspects_pii: Command) -> None:
    aspects_pii("init")
    ran = aspects_pii("sync", **SECRETS)
    assert ran.status == 3
    assert ran.out == ""
    assert ran.err == "Error: Storing PII is off: set ASPECTS_ENABLE_PII=true to turn it on.\n"


def test_sync_says_who_read(stored: Command, lms: LmsWriter, lms_url: str) -> None:
    settings = {"ENABLE_PII": "true", "LMS_DATABASE_URL": lms_url}
    lines = stored("sync", "--allow-removals", **settings, LMS_READER="clickhouse").out.splitlines()
    assert {"user_profile: ClickHouse itself read the LMS.", "external_id: ClickHouse itself read the LMS."} < set(
        lines
    )
    by_python = stored("sync", "--json", **settings).json["objects"]
    assert {(line["reader"], line["inserted"], line["changed"]) for line in by_python} == {("python", 0, 0)}
    refused = stored("sync", **settings, LMS_READER="somebody")
    assert refused.status == 2
    assert "ASPECTS_LMS_READER" in refused.err


def test_sync_with_pii_off_makes_no_data_folder(aspects_pii: Command, tmp_path: Path) -> None:
    assert aspects_pii("sync").status == 3
    assert not (tmp_path / "clickhouse").exists()


def test_retire_works_with_pii_off(stored: Command) -> None:
    assert stored("status", "--json").json["enabled"] is False
    assert stored("retire", "1").status == 0
    assert count_profiles() == 4
    assert stored("verify", "1").status == 0


def test_verify_and_sweep_work_with_pii_off(stored: Command) -> None:
    assert stored("verify").status == 0
    assert stored("sweep").status == 0


def test_purge_works_with_pii_off(stored: Command) -> None:
    assert stored("purge", "--yes").status == 0
    assert count_profiles() == 0


def test_purge_with_pii_on_is_refused_unless_forced(stored: Command) -> None:
    ran = stored("purge", "--yes", ENABLE_PII="true")
    assert ran.status == 1
    assert "ASPECTS_ENABLE_PII=false" in ran.err
    assert "--force" in ran.err
    assert count_profiles() == 5
    assert stored("purge", "--yes", "--force", ENABLE_PII="true").status == 0
    assert count_profiles() == 0


def test_purge_asks_and_does_nothing_where_nobody_is_there(stored: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    ran = stored("purge")
    # The command was called in a way that cannot be: nothing has failed.
    assert ran.status == 2
    assert ran.err == "Error: Standard input is not a terminal, so nobody can be asked. Pass --yes to confirm.\n"
    assert count_profiles() == 5


def test_purge_asks_somebody_who_says_no(stored: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdin", Terminal("n\n"))
    ran = stored("purge", "--json")
    assert ran.status == 1
    assert "Stopped." in ran.err
    assert count_profiles() == 5


def test_held_pii_while_it_is_off_is_a_warning(stored: Command) -> None:
    ran = stored("status")
    assert ran.status == 1
    assert "PII is off, but PII of 5 subjects is held. Run `aspects-pii purge`." in ran.err
    assert stored("status", ENABLE_PII="true").status == 0


# --- whom to retire


def test_retire_from_standard_input(stored: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("# asked for on Monday\n1\n\n 2 \n"))
    ran = stored("retire", "-", "3")
    assert ran.status == 0
    assert count_profiles() == 2
    assert "3 of 3 retirements are erased and verified on chdb:///" in ran.out


def test_retire_from_a_file(stored: Command, tmp_path: Path) -> None:
    path = tmp_path / "ids.txt"
    path.write_text("# asked for on Monday\n\n1\n2\n2\n  # and on Tuesday\n3\n")
    assert stored("retire", "--file", path).status == 0
    assert count_profiles() == 2


@pytest.mark.parametrize("text", ["", "\n\n", "# nobody today\n"])
def test_a_list_of_nobody_is_a_success_that_says_so(
    stored: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str
) -> None:
    path = tmp_path / "ids.txt"
    path.write_text(text)
    for arguments in (("-",), ("--file", path)):
        monkeypatch.setattr(sys, "stdin", io.StringIO(text))
        ran = stored("retire", *arguments)
        assert (ran.status, ran.err) == (0, "")
        assert ran.out == f"Nobody is named, so there is nothing to retire on chdb://{tmp_path}/clickhouse.\n"
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    assert stored("retire", "-", "--json").json["retirements"] == []
    assert stored("ledger", "show", "--json").json == []


def test_bad_line_is_2_named_by_number_and_not_quoted(stored: Command, tmp_path: Path) -> None:
    path = tmp_path / "ids.txt"
    path.write_text(f"# comment\n1\n{CANARY}@example.org\n2\n")
    ran = stored("retire", "--file", path)
    assert ran.status == 2
    assert f"{path}, line 3: this is not an id" in ran.err
    assert CANARY not in ran.out + ran.err
    assert count_profiles() == 5
    assert stored("ledger", "show", "--json").json == []


def test_bad_line_of_standard_input_is_named_by_number(stored: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"1\n{CANARY}\n"))
    ran = stored("retire", "-")
    assert ran.status == 2
    assert "standard input, line 2: this is not an id" in ran.err
    assert CANARY not in ran.err


def test_bad_argument_is_2_and_not_quoted(stored: Command) -> None:
    for text in (CANARY, "0", "1.5", "1;2", ""):
        ran = stored("retire", text)
        assert ran.status == 2, text
        assert CANARY not in ran.out + ran.err
    assert count_profiles() == 5


def test_file_that_is_none(stored: Command, tmp_path: Path) -> None:
    ran = stored("retire", "--file", tmp_path / "nothing.txt")
    assert ran.status == 2
    assert "nothing.txt: No such file or directory" in ran.err
    (tmp_path / "bytes").write_bytes(b"\xff\xfe1\n")
    assert "not UTF-8" in stored("retire", "--file", tmp_path / "bytes").err


def test_byte_order_mark_and_windows_line_ends_are_read(stored: Command, tmp_path: Path) -> None:
    path = tmp_path / "ids.txt"
    path.write_bytes(b"\xef\xbb\xbf1\r\n2\r\n")
    ran = stored("retire", "--file", path)
    assert ran.status == 0, ran.err
    assert count_profiles() == 3


def test_retire_without_an_id_is_2(stored: Command) -> None:
    ran = stored("retire")
    assert ran.status == 2
    assert "Nobody is named" in ran.err


def test_dry_run_does_nothing(stored: Command) -> None:
    ran = stored("retire", "1", "2", "--dry-run", "--json")
    assert ran.status == 0
    rows = {target["target"]: target["rows"] for target in ran.json["targets"]}
    assert rows["event_sink.user_profile"] == 2
    assert stored("purge", "--dry-run").status == 0
    assert count_profiles() == 5
    assert stored("ledger", "show", "--json").json == []


def test_commands_before_init_say_what_to_run(aspects_pii: Command) -> None:
    for command in (("retire", "1"), ("verify",), ("sweep",), ("ledger", "show"), ("purge", "--yes")):
        ran = aspects_pii(*command)
        assert ran.status == 2, command
        assert "aspects-pii init" in ran.err, command


def test_text_of_a_cell_is_no_markup(stored: Command) -> None:
    with open_store(load_settings()) as store:
        store.ledger.record_event(Action.FAILED, {"reason": "[bold]officer[/bold]"})
    assert "[bold]officer[/bold]" in stored("ledger", "show").out


def test_names_do_not_steer_the_terminal(stored: Command) -> None:
    with connect(load_settings()) as client:
        client.execute("CREATE TABLE $event_sink.`a\\x1b[2J` (email String) ENGINE = MergeTree ORDER BY tuple()")
        client.execute("INSERT INTO $event_sink.`a\\x1b[2J` SELECT 'somebody@example.org'")
    ran = stored("map", "check")
    assert ran.status == 1
    assert "a\\x1b[2J" in ran.out + ran.err
    assert "\x1b" not in ran.out + ran.err


# --- the ledger, for people


def test_the_ledger_is_shown_with_times_in_utc_and_words(stored: Command) -> None:
    assert stored("retire", "1").status == 0
    assert stored("map", "check").status == 0
    lines = stored("ledger", "show").out.splitlines()
    assert lines[0].split("  ")[0] == "entry"
    assert "at (UTC)" in lines[0]
    about_1 = [line.split()[4] for line in lines[1:] if line.split()[3] == "1"]
    assert about_1 == ["requested", "found", "hidden", "erased"]
    assert " map checked " in lines[-1]
    assert "targets: " in lines[-1]
    assert not any("{" in line or "_at" in line for line in lines)
    for written in ("map_checked", "map checked", "Map Checked"):
        shown = stored("ledger", "show", "--action", written, "--json").json
        assert [entry["action"] for entry in shown] == ["map_checked"]
    assert all(datetime.fromisoformat(entry["at"]).tzinfo for entry in shown)


def test_an_action_that_there_is_not_is_refused_with_the_list(stored: Command) -> None:
    ran = stored("ledger", "show", "--action", "forgotten")
    assert (ran.status, ran.out) == (2, "")
    assert ran.err.startswith("Error: --action forgotten: there is no such action. There are requested, ")
    assert all(action.value in ran.err for action in Action)
