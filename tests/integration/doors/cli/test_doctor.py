"""`doctor`: each thing that goes wrong on a first day, broken for real, is named with its fix, and nothing is changed."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from sink.doors.cli.checks.clickhouse import judge_clock
from sink.doors.cli.checks.examination import Area, Check, State, examine, fine
from sink.endpoint.app import create_app
from sink.endpoint.credentials import Account
from sink.errors import SettingsError
from sink.installation import connect
from sink.lms.passed import PassedQueries
from sink.serving import running_in_thread
from sink.settings import load_settings
from tests.support import served
from tests.support.lms_writer import LmsWriter
from tests.support.superset_fake import PASSWORD, USER, FakeSuperset

Command = Callable[..., Any]

NOWHERE = "127.0.0.1:9"
AREAS = ["settings", "this host", "ClickHouse", "LMS", "broker", "event bus", "Superset", "HTTP hook"]


def look(command: Command, **settings: str) -> tuple[int, dict[tuple[str, str], list[dict[str, str]]]]:
    """The exit status, and what was said of each thing."""
    ran = command("doctor", "--format", "json", **settings)
    said: dict[tuple[str, str], list[dict[str, str]]] = {}
    for check in ran.json["checks"]:
        said.setdefault((check["area"], check["what"]), []).append(check)
    assert ran.err == ""
    assert "Traceback" not in ran.out
    return ran.status, said


def find(found: dict[tuple[str, str], list[dict[str, str]]], area: str, what: str) -> dict[str, str]:
    (only,) = found[(area, what)]
    return only


# --- the whole


def test_a_fresh_installation_is_looked_at_and_left_as_it_is(aspects_pii: Command, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    status, found = look(aspects_pii)
    assert status == 1
    assert list(dict.fromkeys(area for area, _ in found)) == AREAS
    reachable = find(found, "ClickHouse", "reachable")
    assert (reachable["state"], reachable["fix"]) == ("problem", "Run `aspects-pii init`.")
    # What could not be looked at is not called right.
    later = [check for (area, what), (check,) in found.items() if area == "ClickHouse" and what != "reachable"]
    assert len(later) == 10
    assert {check["state"] for check in later} == {"not looked at"}
    assert sorted(tmp_path.rglob("*")) == before


def test_with_a_store_there_is_no_problem_and_the_report_is_for_people(stored: Command) -> None:
    ran = stored("doctor", ENABLE_PII="true")
    assert (ran.status, ran.err) == (0, "")
    lines = ran.out.splitlines()
    assert any(line.startswith("ok             ClickHouse, reachable: chdb://") for line in lines)
    assert "warning        ClickHouse, datasets: none is built" in lines
    assert "               Fix: Run `aspects-pii build`." in lines
    assert lines[-1].startswith("0 problems, ")
    quiet = stored("doctor", "--quiet", ENABLE_PII="true").out.splitlines()
    assert quiet[-1] == lines[-1]
    assert not [line for line in quiet if line.startswith("ok ")]


def test_everything_at_its_best(stored: Command, lms: LmsWriter, lms_url: str, tmp_path: Path) -> None:
    assert stored("map", "check").status == 0
    with connect(load_settings()) as client:
        client.execute(
            "CREATE VIEW $reporting.enrolled_learners AS SELECT 1 COMMENT '[aspects-pii] PII on. Something.'"
        )
        client.insert(
            client.table("xapi.xapi_events_all"),
            ("event_id", "emission_time", "event"),
            [(EVENT, "2026-01-01 00:00:00", "{}")],
        )
    key = tmp_path / "receipts.pem"
    assert stored("receipt", "key", key).status == 0
    status, found = look(
        stored, ENABLE_PII="true", LMS_DATABASE_URL=lms_url, RECEIPT_SIGNING_KEY=str(key), WEB_TOKEN="x" * 20
    )
    states = {place: [check["state"] for check in checks] for place, checks in found.items()}
    skipped = {place for place, state in states.items() if state == ["not looked at"]}
    assert skipped == {
        ("ClickHouse", "Aspects' migrations"),
        ("HTTP hook", "page"),
        ("broker", "reachable"),
        ("event bus", "reachable"),
        ("Superset", "reachable"),
    }
    assert all(state == ["ok"] for place, state in states.items() if place not in skipped), found
    assert status == 0


EVENT = "8c0d9b52-52b0-4d6f-9a53-6a0b8f7b0f5e"


def test_settings_that_are_not_valid_are_2_and_nothing_else_is_called_right(aspects_pii: Command) -> None:
    status, found = look(aspects_pii, ENABLE_PII="perhaps", BROKER_URL="nonsense")
    assert status == 2
    said = " ".join(check["said"] for check in found[("settings", "valid")])
    assert "ASPECTS_ENABLE_PII is not valid" in said
    assert "ASPECTS_BROKER_URL is not valid" in said
    assert "nonsense" not in said
    assert {check["state"] for (area, _), checks in found.items() if area != "settings" for check in checks} == {
        "not looked at"
    }


# --- ClickHouse, the store, the map, what is stored


def test_a_wrong_port_of_clickhouse(aspects_pii: Command) -> None:
    status, found = look(aspects_pii, CLICKHOUSE_URL=f"http://{NOWHERE}")
    reachable = find(found, "ClickHouse", "reachable")
    assert (status, reachable["state"]) == (1, "problem")
    assert f"http://{NOWHERE} cannot be reached" in reachable["said"]
    assert "ASPECTS_CLICKHOUSE_URL" in reachable["fix"]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """The engine in the data folder of `stored`, over HTTP."""
    with served.serving(tmp_path / "clickhouse") as url:
        yield url


def test_a_wrong_password_of_clickhouse(stored: Command, server: str) -> None:
    _, found = look(stored, CLICKHOUSE_URL=server)
    assert find(found, "ClickHouse", "reachable")["state"] == "ok"
    assert find(found, "ClickHouse", "clock")["state"] == "ok"
    status, found = look(stored, CLICKHOUSE_URL=server, CLICKHOUSE_PASSWORD="a wrong one")
    assert status == 1
    assert "refused user default" in find(found, "ClickHouse", "reachable")["said"]
    assert "a wrong one" not in str(found)


READING = """<clickhouse><profiles><default/></profiles><quotas><default/></quotas><users><default>
<password/><networks><ip>::/0</ip></networks><profile>default</profile><quota>default</quota>
<grants><query>GRANT SHOW, SELECT, dictGet ON *.*</query></grants>
</default></users></clickhouse>"""


def test_an_account_that_may_only_read_lacks_rights(stored: Command, tmp_path: Path) -> None:
    users = tmp_path / "users.xml"
    users.write_text(READING)
    app = create_app(tmp_path / "clickhouse", Account("default", served.PASSWORD), users_file=users)
    with running_in_thread(app, "engine") as url:
        status, found = look(stored, CLICKHOUSE_URL=url)
    rights = find(found, "ClickHouse", "rights")
    assert (status, rights["state"]) == (1, "problem")
    assert "default lacks CREATE DATABASE ON event_sink.*" in rights["said"]
    assert "aspects-pii access sql" in rights["fix"]


def test_a_cluster_that_is_none(stored: Command, server: str) -> None:
    _, found = look(stored, CLICKHOUSE_URL=server, CLICKHOUSE_CLUSTER="aspects")
    cluster = find(found, "ClickHouse", "cluster")
    assert (cluster["state"], cluster["said"]) == ("problem", "aspects is not a cluster of this server")


def test_a_version_that_is_too_old(stored: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sink.clickhouse.client.ClickHouse.server_version", "24.8.14.39")
    status, found = look(stored)
    assert status == 1
    assert find(found, "ClickHouse", "version") == {
        "what": "version",
        "state": "problem",
        "said": "24.8.14.39; 25.8 is the oldest that is supported",
        "fix": "Upgrade ClickHouse to 25.8.",
        "area": "ClickHouse",
    }


@pytest.mark.parametrize(
    ("sql", "what", "state", "said", "fix"),
    [
        ("DROP TABLE $pii_ledger.entries", "store", "problem", "there is none", "aspects-pii init"),
        (
            "ALTER TABLE $pii_ledger.migrations DELETE WHERE name LIKE '0015%' SETTINGS mutations_sync = 2",
            "store",
            "problem",
            "1 migration is pending",
            "aspects-pii init",
        ),
        (
            "CREATE TABLE $xapi.alembic_version (version_num String) ENGINE = MergeTree ORDER BY version_num "
            "AS SELECT '0027'",
            "Aspects' migrations",
            "problem",
            "they are at 0027",
            "tutor local do init",
        ),
        (
            "CREATE TABLE $reporting.newsletter (email String) ENGINE = MergeTree ORDER BY email",
            "PII map",
            "warning",
            "reporting.newsletter.email",
            "aspects-pii map check",
        ),
        (
            "CREATE VIEW $reporting.enrolled_learners AS SELECT 1 COMMENT '[aspects-pii] PII on. Something.'",
            "datasets",
            "warning",
            "1 dataset was built while it was on",
            "aspects-pii build",
        ),
        ("SELECT 1", "stored people", "warning", "PII of 5 subjects is held", "aspects-pii purge"),
        ("SELECT 1", "events", "warning", "xapi.xapi_events_all has none", "ASPECTS_XAPI_DATABASE"),
    ],
)
def test_what_is_wrong_in_clickhouse(stored: Command, sql: str, what: str, state: str, said: str, fix: str) -> None:
    with connect(load_settings()) as client:
        client.execute(sql)
    status, found = look(stored)
    assert status == (1 if state == "problem" else 0)
    (check,) = [check for check in found[("ClickHouse", what)] if check["state"] == state]
    assert said in check["said"]
    assert fix in check["fix"]


def test_events_in_another_database(stored: Command) -> None:
    with connect(load_settings()) as client:
        client.execute("CREATE DATABASE openedx")
        client.execute(
            "CREATE TABLE openedx.xapi_events_all AS $xapi.xapi_events_all ENGINE = MergeTree ORDER BY event_id"
        )
        client.execute("INSERT INTO openedx.xapi_events_all (event_id) SELECT generateUUIDv4()")
    _, found = look(stored)
    events = find(found, "ClickHouse", "events")
    assert "ASPECTS_XAPI_DATABASE=openedx" in events["said"]


@pytest.mark.parametrize(("apart", "state"), [(0, "ok"), (4, "ok"), (60, "warning"), (-60, "warning")])
def test_clocks_that_differ(apart: float, state: str) -> None:
    from datetime import UTC, datetime, timedelta

    now = datetime.now(UTC)
    finding = judge_clock("clock", "ClickHouse", now + timedelta(seconds=apart), now, now)
    assert finding.state == state
    if state == "warning":
        assert "60 s apart" in finding.said
        assert "NTP" in finding.fix


# --- this host


def test_a_map_that_is_not_valid(stored: Command, tmp_path: Path) -> None:
    path = tmp_path / "pii.yaml"
    path.write_text("version: 1\nsubject: {}\ntargets: {}\nderivedd: {}\n")
    status, found = look(stored, PII_MAP=str(path))
    assert status == 1
    said = find(found, "this host", "PII map")
    assert str(path) in said["said"]
    assert "aspects-pii map init" in said["fix"]


def test_folders_and_files_that_others_may_use(stored: Command, tmp_path: Path) -> None:
    receipts, secrets, key = tmp_path / "receipts", tmp_path / "secrets", tmp_path / "receipts.pem"
    receipts.mkdir()
    receipts.chmod(0o755)
    (tmp_path / "clickhouse").chmod(0o750)
    secrets.mkdir()
    (secrets / "aspects_receipt_key").write_text("a secret of the tests")
    (secrets / "aspects_receipt_key").chmod(0o644)
    Path(".env").write_text("ASPECTS_ENABLE_PII=true\n")
    Path(".env").chmod(0o640)
    stored("receipt", "key", key)
    key.chmod(0o604)
    status, found = look(stored, SECRETS_DIR=str(secrets), RECEIPT_SIGNING_KEY=str(key))
    folders = found[("this host", "folders")]
    assert [(check["state"], check["fix"]) for check in folders] == [
        ("warning", f"chmod 700 {tmp_path / 'clickhouse'}"),
        ("warning", f"chmod 700 {receipts}"),
    ]
    files = {check["fix"] for check in found[("this host", "secret files")]}
    assert files == {f"chmod 600 {path}" for path in (tmp_path / ".env", key, secrets / "aspects_receipt_key")}
    # With such a key nothing can be signed.
    assert (status, find(found, "this host", "signatures")["state"]) == (1, "problem")
    assert "a secret of the tests" not in str(found)


def test_a_receipts_folder_that_is_a_file(stored: Command, tmp_path: Path) -> None:
    (tmp_path / "receipts").write_text("")
    status, found = look(stored)
    assert (status, find(found, "this host", "receipts folder")["state"]) == (1, "problem")


def test_a_receipts_folder_that_cannot_be_written(
    stored: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Root may write everywhere, so what a refusal looks like is played here.
    monkeypatch.setattr("sink.doors.cli.checks.files.os.access", lambda *_: False)
    status, found = look(stored)
    check = find(found, "this host", "receipts folder")
    assert (status, check["state"]) == (1, "problem")
    assert str(tmp_path) in check["said"]
    assert "chown" in check["fix"]


# --- the LMS


def test_an_lms_without_a_table(stored: Command, lms: LmsWriter, lms_url: str) -> None:
    assert find(look(stored, LMS_DATABASE_URL=lms_url)[1], "LMS", "schema")["state"] == "ok"
    with sqlite3.connect(lms_url.removeprefix("sqlite:///")) as database:
        database.execute("DROP TABLE student_courseaccessrole")
    database.close()
    status, found = look(stored, LMS_DATABASE_URL=lms_url)
    schema = find(found, "LMS", "schema")
    assert (status, schema["state"]) == (1, "problem")
    assert "student_courseaccessrole" in schema["said"]


def test_an_lms_that_clickhouse_is_to_read(
    stored: Command, lms: LmsWriter, lms_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ("LMS", "read by ClickHouse") not in look(stored, LMS_DATABASE_URL=lms_url)[1]
    _, found = look(stored, LMS_DATABASE_URL=lms_url, LMS_READER="clickhouse")
    assert find(found, "LMS", "read by ClickHouse")["state"] == "ok"
    # Every name is another one to the engine.
    monkeypatch.setattr(PassedQueries, "write_sample", lambda *_: "SELECT id, 'x' AS username FROM auth_user")
    status, found = look(stored, LMS_DATABASE_URL=lms_url, LMS_READER="clickhouse")
    read = find(found, "LMS", "read by ClickHouse")
    assert (status, read["state"]) == (1, "problem")
    assert "another database" in read["said"]
    _, found = look(stored, LMS_DATABASE_URL=lms_url, LMS_COLLECTION="lms")
    assert find(found, "LMS", "read by ClickHouse")["state"] == "warning"


@pytest.mark.parametrize("url", ["sqlite:////nowhere/lms.sqlite3", "mysql+pymysql://reader:hidden@127.0.0.1:9/openedx"])
def test_an_lms_that_cannot_be_reached(stored: Command, url: str) -> None:
    status, found = look(stored, LMS_DATABASE_URL=url)
    assert (status, find(found, "LMS", "reachable")["state"]) == (1, "problem")
    assert find(found, "LMS", "schema")["state"] == "not looked at"
    assert "hidden" not in str(found)


# --- services


def test_services_that_cannot_be_reached(stored: Command) -> None:
    status, found = look(
        stored,
        BROKER_URL=f"redis://:hidden@{NOWHERE}/0",
        EVENT_BUS_URL=f"redis://:hidden@{NOWHERE}/0",
        SUPERSET_URL=f"http://{NOWHERE}",
        SUPERSET_USER="aspects_pii",
        SUPERSET_PASSWORD="hidden",
    )
    assert status == 1
    for area in ("broker", "event bus", "Superset"):
        check = find(found, area, "reachable")
        assert check["state"] == "problem", area
        assert check["fix"], area
    assert "hidden" not in str(found)


def test_a_superset_that_is_not_as_it_has_to_be(stored: Command) -> None:
    fake = FakeSuperset()
    with running_in_thread(fake.app, "fake-superset") as url:
        settings = {"SUPERSET_URL": url, "SUPERSET_USER": USER, "SUPERSET_PASSWORD": PASSWORD}
        assert find(look(stored, **settings)[1], "Superset", "reachable")["state"] == "ok"
        wrong = look(stored, **{**settings, "SUPERSET_PASSWORD": "a wrong one"})[1]
        assert "refused ASPECTS_SUPERSET_USER" in find(wrong, "Superset", "reachable")["said"]
        fake.flags.clear()
        off = find(look(stored, **settings)[1], "Superset", "reachable")
    assert (off["state"], "ENABLE_TEMPLATE_PROCESSING" in off["said"]) == ("problem", True)
    assert fake.changes == 0


def test_a_hook_with_keys_and_no_users(stored: Command) -> None:
    _, found = look(stored, WEB_JWT_SECRET="x" * 40)
    assert "ASPECTS_WEB_JWT_USERS" in find(found, "HTTP hook", "callers")["said"]


def test_the_page_for_the_officer(stored: Command) -> None:
    _, found = look(stored, PRIVACY_PAGE="true")
    assert "nobody could sign in" in find(found, "HTTP hook", "page")["said"]
    _, found = look(stored, PRIVACY_PAGE="true", PRIVACY_TOKEN="x" * 20)
    assert find(found, "HTTP hook", "page")["said"] == "one signs in with the token of ASPECTS_PRIVACY_TOKEN"


# --- how it looks


def test_a_check_that_does_not_end_is_a_problem_and_holds_up_nothing() -> None:
    stuck = threading.Event()

    def wait() -> Any:
        stuck.wait()
        return fine("second", "at last")

    area = Area(
        "somewhere",
        [
            Check("first", lambda: fine("first", "it is")),
            Check("second", wait, "Start it again."),
            Check("third", lambda: fine("third", "it is")),
        ],
        ExitStack(),
    )
    try:
        found = list(examine(area, 0.2))
    finally:
        stuck.set()
    assert [(finding.what, finding.state) for finding in found] == [
        ("first", State.OK),
        ("second", State.PROBLEM),
        ("third", State.NOT_LOOKED_AT),
    ]
    assert found[1].said == "It gave no answer within 0.2 s."
    assert found[1].fix == "Start it again."
    assert {finding.area for finding in found} == {"somewhere"}


def test_a_check_that_fails_is_a_problem_in_our_words() -> None:
    def refuse() -> Any:
        raise SettingsError("ASPECTS_X is not set.")

    def stumble() -> Any:
        raise ZeroDivisionError("a secret")

    area = Area("x", [Check("one", refuse, "Set it."), Check("two", stumble)], ExitStack())
    one, two = examine(area, 5)
    assert (one.state, one.said, one.fix) == (State.PROBLEM, "ASPECTS_X is not set.", "Set it.")
    assert (two.state, two.said) == (State.PROBLEM, "It could not be looked at (ZeroDivisionError).")
