"""The plugin in a real Django project with the LMS's models, signals and plugin loader."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pymysql
import pytest

from sink.clickhouse import migrations
from sink.installation import open_store
from sink.settings import Settings, load_settings
from tests.support.lms import Lms, LmsError, name_mariadb, name_sqlite, run_lms
from tests.support.paths import ROOT
from tests.support.processes import make_worker, running, wait_until
from tests.support.redis_server import emptied, name_database
from tests.support.served import serving

pytestmark = pytest.mark.redis

BROKER = name_database(12)
HEAVY = (
    "chdb",
    "clickhouse_connect",
    "dbt",
    "pydantic",
    "sqlalchemy",
    "typer",
    "sink.doors.cli.main",
    "sink.doors.worker.tasks",
)
COURSE = "course-v1:Org+Course+Run"


class Messages:
    """What waits in the queue, oldest first."""

    def __init__(self, client: Any) -> None:
        self.client = client

    def take(self) -> list[tuple[str, Any]]:
        """(task, argument) of each, and empty the queue."""
        raw = self.client.lrange("aspects_pii", 0, -1)[::-1]
        self.client.delete("aspects_pii")
        taken = []
        for message in map(json.loads, raw):
            assert message["content-type"] == "application/json"
            arguments, options, _ = json.loads(base64.b64decode(message["body"]))
            assert options == {}
            [argument] = arguments
            taken.append((message["headers"]["task"].removeprefix("aspects_pii."), argument))
        return taken

    def dump(self) -> str:
        """Everything in the database, bodies decoded, as text."""
        values: list[str] = []
        for key in self.client.scan_iter():
            kind = self.client.type(key)
            raw = (
                self.client.lrange(key, 0, -1)
                if kind == b"list"
                else self.client.hvals(key)
                if kind == b"hash"
                else [self.client.get(key)]
                if kind == b"string"
                else self.client.smembers(key)
                if kind == b"set"
                else self.client.zrange(key, 0, -1)
            )
            values += [repr(key), *map(repr, raw)]
            values += [repr(base64.b64decode(json.loads(v)["body"])) for v in raw if v.startswith(b'{"body"')]
        return "\n".join(values)


@pytest.fixture
def messages() -> Iterator[Messages]:
    with emptied(BROKER) as client:
        yield Messages(client)


def name_tokens(**more: Any) -> dict[str, Any]:
    return {"ASPECTS_ENABLE_PII": True, "ASPECTS_PII_BROKER_URL": BROKER, **more}


#: The first is what a later openedx-events could have (lms_project), the second what nobody has.
EVENTS = ("org.openedx.learning.user.retired.v1", "org.openedx.learning.user.vanished.v1")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lms]:
    """One LMS for the tests that only look at what it sends."""
    folder = tmp_path_factory.mktemp("lms")
    tokens = name_tokens(ASPECTS_PII_RETIREMENT_EVENTS=list(EVENTS))
    with run_lms(folder, name_sqlite(folder / "lms.db"), tokens=tokens) as lms:
        yield lms


@pytest.fixture
def lms(shared: Lms, messages: Messages) -> Iterator[Lms]:
    """The same, as configured, with an empty queue."""
    yield shared
    for name, value in name_tokens().items():
        shared.call("change_setting", name, value)


@pytest.fixture
def user(lms: Lms, messages: Messages) -> int:
    """A new user, whose registration nobody waits for any more."""
    name = f"u{uuid.uuid4().hex[:12]}"
    user_id: int = lms.call("create_user", name, f"{name}@example.com", "Jane Doe", city="Oslo")
    messages.take()
    return user_id


def test_registration_sends_the_user_once(lms: Lms, messages: Messages) -> None:
    user_id = lms.call("create_user", "registering", "registering@example.com", "Jane Doe")
    assert messages.take() == [("sync_user", user_id)]


def test_changes_are_sent_by_id(lms: Lms, messages: Messages, user: int) -> None:
    for step, arguments in (
        ("change_profile", {"goals": "to learn"}),
        ("change_email", {"email": f"new{user}@example.com"}),
        ("reset_external_id", {}),
        ("add_role", {"course_id": COURSE}),
        ("remove_role", {"course_id": COURSE}),
    ):
        lms.call(step, user, **arguments)
        assert messages.take() == [("sync_user", user)], step


def test_changes_that_are_not_copied_are_not_sent(lms: Lms, messages: Messages, user: int) -> None:
    lms.call("log_in", user)
    lms.call("enroll", user, COURSE)
    assert messages.take() == []


def test_a_login_that_changes_only_the_session_sends_nothing(lms: Lms, messages: Messages, user: int) -> None:
    for session in ("first", "second", None):
        lms.call("set_login_session", user, session)
        assert messages.take() == [], session
    lms.call("set_login_session", user, "third", company="Acme")
    assert messages.take() == [("sync_user", user)]
    # What was decided of one save is not carried over to the next.
    lms.call("change_profile", user, goals="to go on")
    assert messages.take() == [("sync_user", user)]


def test_saves_in_one_transaction_are_one_message(lms: Lms, messages: Messages, user: int) -> None:
    lms.call("change_profile", user, times=5, goals="again and again")
    assert messages.take() == [("sync_user", user)]


def test_users_in_one_transaction_are_one_message(lms: Lms, messages: Messages) -> None:
    user_ids = lms.call("create_users", 2_500, "bulk")
    assert messages.take() == []
    lms.call("change_profiles", user_ids, times=2, goals="all")
    taken = messages.take()
    assert [task for task, _ in taken] == ["sync_users"] * 3
    assert [user_id for _, batch in taken for user_id in batch] == user_ids


def test_rolled_back_changes_are_not_sent(lms: Lms, messages: Messages, user: int) -> None:
    assert lms.call("change_profile_and_fail", user, goals="never") == "rolled back"
    assert messages.take() == []
    # Nor is what follows in the same thread taken for a repetition of it.
    lms.call("change_profile", user, goals="to stay")
    assert messages.take() == [("sync_user", user)]


def test_a_savepoint_that_is_rolled_back_takes_only_its_own(lms: Lms, messages: Messages, user: int) -> None:
    other = lms.call("create_user", f"other{user}", f"other{user}@example.com", "Jim")
    messages.take()
    lms.call("change_profile_after_savepoint", user, other)
    assert messages.take() == [("sync_user", other)]


@pytest.mark.parametrize("older_release", [False, True])
def test_retirement_is_sent_from_both_signals(lms: Lms, messages: Messages, user: int, older_release: bool) -> None:
    lms.call("request_retirement", user)
    assert messages.take() == [("sync_user", user)]
    lms.call("start_retirement", user)
    assert messages.take() == []
    lms.call("retire_misc", user)
    assert messages.take() == [("retire_user", user)]
    lms.call("retire", user, older_release=older_release)
    assert sorted(messages.take()) == [("retire_user", user), ("sync_user", user)]


def test_an_event_that_is_named_as_a_retirement_is_sent_as_one(lms: Lms, messages: Messages, user: int) -> None:
    lms.call("send_event", EVENTS[0], user)
    assert messages.take() == [("retire_user", user)]
    # Whatever other events say of users.
    lms.call("send_event", "org.openedx.learning.auth.session.login.completed.v1", user)
    assert messages.take() == []


def test_an_event_that_the_lms_does_not_have_is_logged_and_harms_nothing(lms: Lms) -> None:
    assert f"openedx-events has no event {EVENTS[1]} here" in lms.read_log()
    assert EVENTS[0] not in lms.read_log()


def test_a_retirement_that_fails_in_the_lms_is_not_sent(lms: Lms, messages: Messages, user: int) -> None:
    lms.call("request_retirement", user)
    messages.take()
    with pytest.raises(LmsError, match="Refused"):
        lms.call("retire", user, fail=True)
    assert messages.take() == []


def test_retirements_alone_are_sent_without_pii(lms: Lms, messages: Messages, user: int) -> None:
    lms.call("change_setting", "ASPECTS_ENABLE_PII", False)
    lms.call("change_profile", user, goals="to be left alone")
    lms.call("add_role", user, COURSE)
    lms.call("request_retirement", user)
    assert messages.take() == []
    lms.call("run_retirement", user)
    assert messages.take() == [("retire_user", user)] * 2


@pytest.mark.parametrize("enabled", [True, False])
def test_roles_of_openedx_authz_are_sent_by_id(lms: Lms, messages: Messages, user: int, enabled: bool) -> None:
    """For the audit trail whether PII is on or off, since it holds ids; and, while it is on, to be copied."""
    lms.call("change_setting", "ASPECTS_ENABLE_PII", enabled)
    for event, operation in (("assigned", "given"), ("unassigned", "taken")):
        lms.call("assign_role", user, COURSE, actor_id=5, event=event)
        (task, told), *others = messages.take()
        assert task == "record_role"
        assert uuid.UUID(told.pop("event"))
        assert datetime.fromisoformat(told.pop("at")).tzinfo is not None
        assert told == {
            "operation": operation,
            "source": "openedx-authz",
            "subject": str(user),
            "actor": "5",
            "role": "role^course_staff",
            "scope": f"course-v1^{COURSE}",
        }
        assert others == ([("sync_user", user)] if enabled else [])


def test_roles_that_the_lms_announces_are_sent_for_the_audit_trail(lms: Lms, messages: Messages, user: int) -> None:
    for course, event in ((COURSE, "added"), (None, "removed")):
        lms.call("announce_role", user, course, event)
        ((task, told),) = messages.take()
        assert task == "record_role"
        assert (told["subject"], told["role"], told["org"], told["course_key"]) == (
            str(user),
            "staff",
            "Org",
            course or "",
        )
        assert (told["operation"], told["actor"]) == ({"added": "given", "removed": "taken"}[event], None)


def test_a_role_that_a_retirement_takes_is_known_by_the_former_name(lms: Lms, messages: Messages, user: int) -> None:
    lms.call("request_retirement", user)
    messages.take()
    lms.call("retire_from_openedx_authz", user, COURSE)
    taken = [told for task, told in messages.take() if task == "record_role"]
    assert [told["subject"] for told in taken] == [str(user)]


def test_a_role_of_a_name_that_nobody_has_is_not_sent_and_not_logged(lms: Lms, messages: Messages) -> None:
    lms.call("assign_role_to_nobody", "trillian", COURSE)
    assert messages.take() == []
    assert "somebody whom the LMS does not know" in lms.read_log()
    assert "trillian" not in lms.read_log()


def test_messages_and_logs_say_nothing_about_the_user(lms: Lms, messages: Messages) -> None:
    secrets = {"username": "zaphod", "email": "zaphod@example.com", "name": "Zaphod Beeblebrox", "city": "Betelgeuse"}
    user_id = lms.call("create_user", **secrets)
    lms.call("assign_role", user_id, COURSE)
    lms.call("announce_role", user_id, COURSE)
    lms.call("request_retirement", user_id)
    lms.call("run_retirement", user_id)
    lms.call("change_setting", "ASPECTS_PII_BROKER_URL", "redis://:a-password@127.0.0.1:1/0")
    lms.call("change_profile", user_id, bio="Zaphod was here")
    dump = messages.dump()
    assert dump.count("retire_user") >= 2
    assert dump.count("record_role") >= 2
    for text in (*secrets.values(), "retired__user_", "a-password"):
        assert text not in dump
        assert text not in lms.read_log()


def test_the_lms_goes_on_without_a_broker(lms: Lms, messages: Messages, user: int) -> None:
    lms.call("change_setting", "ASPECTS_PII_BROKER_URL", "redis://127.0.0.1:1/0")
    lms.call("change_profile", user, goals="to go on")
    lms.call("request_retirement", user)
    lms.call("run_retirement", user)
    log = lms.read_log()
    assert f"`aspects-pii sync` finds it: {user}" in log
    assert f"`aspects-pii reconcile` finds it: {user}" in log
    assert "127.0.0.1:1" not in log


def count_connections(listener: socket.socket) -> int:
    """How many have knocked since it was asked last."""
    number = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            listener.accept()[0].close()
            number += 1
    return number


def test_a_broker_that_does_not_answer_is_waited_for_once(lms: Lms, messages: Messages, user: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.setblocking(False)
        lms.call("change_setting", "ASPECTS_PII_BROKER_URL", f"redis://127.0.0.1:{silent.getsockname()[1]}/0")
        lms.call("forget_failures")
        lms.call("change_profile", user, goals="first")
        assert lms.seconds > 0.9
        assert count_connections(silent) == 1
        lms.call("change_profile", user, goals="second")
        assert count_connections(silent) == 0
        lms.call("request_retirement", user)
        lms.call("start_retirement", user)
        lms.call("retire_misc", user)
        assert lms.seconds > 0.9
        assert count_connections(silent) == 1
    # Back again: the first retirement that gets through ends the pause.
    lms.call("change_setting", "ASPECTS_PII_BROKER_URL", BROKER)
    lms.call("retire_misc", user)
    lms.call("change_profile", user, goals="third")
    assert messages.take() == [("retire_user", user), ("sync_user", user)]


def test_retirements_without_a_broker_address_are_logged(lms: Lms, messages: Messages, user: int) -> None:
    lms.call("change_setting", "ASPECTS_PII_BROKER_URL", None)
    lms.call("request_retirement", user)
    lms.call("run_retirement", user)
    assert "ASPECTS_PII_BROKER_URL is not set" in lms.read_log()
    assert messages.take() == []


def test_the_lms_keeps_its_own_celery_and_stays_light(lms: Lms, messages: Messages, user: int) -> None:
    lms.call("change_profile", user, goals="to be sent")
    assert lms.call("name_celery_app") == "lms"
    assert lms.call("list_modules", *HEAVY) == []
    keys = {key.decode() for key in messages.client.scan_iter()}
    assert keys == {"aspects_pii", "_kombu.binding.aspects_pii", "_kombu.binding_permanent.aspects_pii"} & keys
    assert "aspects_pii" in keys


def test_settings_come_from_the_environment_or_from_the_configuration(messages: Messages, tmp_path: Path) -> None:
    database = name_sqlite(tmp_path / "lms.db")
    environment = {"ASPECTS_ENABLE_PII": "true", "ASPECTS_BROKER_URL": BROKER}
    with run_lms(tmp_path, database, environment=environment) as lms:
        assert lms.call("read_setting", "ASPECTS_ENABLE_PII") is True
        assert lms.call("read_setting", "ASPECTS_PII_BROKER_URL") == BROKER
    tokens = {"ASPECTS_ENABLE_PII": "false", "ASPECTS_PII_BROKER_URL": "redis://configured"}
    with run_lms(tmp_path, database, tokens=tokens, environment=environment) as lms:
        assert lms.call("read_setting", "ASPECTS_ENABLE_PII") is False
        assert lms.call("read_setting", "ASPECTS_PII_BROKER_URL") == "redis://configured"


def test_studio_sends_changes_of_course_teams(messages: Messages, tmp_path: Path) -> None:
    database = name_sqlite(tmp_path / "lms.db")
    with run_lms(tmp_path, database, tokens=name_tokens(), variant="cms") as studio:
        user_id = studio.call("create_user", "author", "author@example.com", "Author")
        messages.take()
        studio.call("add_role", user_id, COURSE)
    assert messages.take() == [("sync_user", user_id)]


def test_a_project_without_open_edx_loads_it() -> None:
    script = """
import django
from django.conf import settings
settings.configure(
    INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "sink.doors.plugin.apps.AspectsPiiConfig"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    ASPECTS_ENABLE_PII=False,
)
django.setup()
from django.core.management import call_command
call_command("migrate", verbosity=0)
from django.contrib.auth.models import User
User.objects.create(username="somebody")
"""
    ran = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (ran.returncode, ran.stderr) == (0, "")


class TestCommands:
    """Management commands: those of `aspects-pii`, with the settings of the LMS."""

    @pytest.fixture
    def environment(self, tmp_path: Path) -> dict[str, str]:
        return {
            "ASPECTS_CLICKHOUSE_URL": f"chdb://{tmp_path}/clickhouse",
            "ASPECTS_RECEIPTS_DIR": f"{tmp_path}/receipts",
        }

    @pytest.fixture
    def site(self, messages: Messages, tmp_path: Path, environment: dict[str, str]) -> Iterator[Lms]:
        settings = load_settings(clickhouse_url=environment["ASPECTS_CLICKHOUSE_URL"])
        with open_store(settings, creates=True) as store:
            migrations.migrate(store.client)
        with run_lms(tmp_path, name_sqlite(tmp_path / "lms.db"), tokens=name_tokens(), environment=environment) as lms:
            yield lms

    def test_sync_retire_status_and_purge(self, site: Lms) -> None:
        user_id = site.call("create_user", "jane", "jane@example.com", "Jane")
        site.call("create_user", "jim", "jim@example.com", "Jim")
        synced = site.manage("aspects_pii_sync", "--object", "user_profile", "--json")
        assert synced.returncode == 0, synced.stderr
        assert json.loads(synced.stdout)["objects"][0]["inserted"] == 2
        retired = site.manage("aspects_pii_retire", str(user_id), "--json")
        assert retired.returncode == 0, retired.stderr
        assert json.loads(retired.stdout)["retirements"][0]["state"] == "erased"
        status = json.loads(site.manage("aspects_pii_status", "--json").stdout)
        assert status["enabled"] is True
        assert status["subjects"] == 1
        refused = site.manage("aspects_pii_purge", "--yes")
        assert refused.returncode == 1
        assert "aspects-pii purge ended with status 1" in refused.stderr
        purged = site.manage("aspects_pii_purge", "--yes", ASPECTS_ENABLE_PII="false")
        assert purged.returncode == 0, purged.stderr

    def test_exit_status_and_help_are_those_of_the_command(self, site: Lms) -> None:
        assert site.manage("aspects_pii_sync", ASPECTS_ENABLE_PII="false").returncode == 3
        assert site.manage("aspects_pii_retire", "not-an-id").returncode == 2
        shown = site.manage("aspects_pii_sync", "--help")
        assert shown.returncode == 0
        assert "--object" in shown.stdout
        with pytest.raises(LmsError, match="CommandError"):
            site.call("call_command", "aspects_pii_retire", ["not-an-id"])


@pytest.fixture
def database() -> Iterator[tuple[dict[str, Any], str]]:
    """The LMS's database: Django's settings of it, and its SQLAlchemy address."""
    name = f"aspects_pii_test_{uuid.uuid4().hex}"
    with pymysql.connect(host="127.0.0.1", user="root") as connection, connection.cursor() as cursor:
        cursor.execute(f"CREATE DATABASE {name} CHARACTER SET utf8mb4")
        yield name_mariadb(name), f"mysql+pymysql://root@127.0.0.1/{name}"
        cursor.execute(f"DROP DATABASE {name}")


def read_people(settings: Settings) -> dict[int, str]:
    """Goals by user; nothing while profiles and anonymous ids are of different users."""
    with open_store(settings) as store:
        people: dict[int, str] = dict(store.client.rows("SELECT user_id, goals FROM $event_sink.user_profile FINAL"))
        known = store.client.column("SELECT DISTINCT user_id FROM $event_sink.external_id FINAL")
    return people if set(known) == set(people) else {}


def read_states(settings: Settings) -> dict[str, str]:
    with open_store(settings) as store:
        return {r.subject: r.state for r in (*store.ledger.find_open(), *store.ledger.find_erased())}


@pytest.mark.mariadb
def test_changes_and_retirements_go_from_the_lms_through_the_worker(
    messages: Messages, tmp_path: Path, database: tuple[dict[str, Any], str]
) -> None:
    """Registered, changed, retired; one message is lost with the broker's memory, and the LMS is asked instead."""

    with serving(tmp_path / "clickhouse") as url:
        settings = load_settings(clickhouse_url=url)
        with open_store(settings, creates=True) as store:
            migrations.migrate(store.client)
        environment = {
            "ASPECTS_ENABLE_PII": "true",
            "ASPECTS_CLICKHOUSE_URL": url,
            "ASPECTS_BROKER_URL": BROKER,
            "ASPECTS_LMS_DATABASE_URL": database[1],
            "ASPECTS_RECEIPTS_DIR": str(tmp_path / "receipts"),
            "ASPECTS_RECONCILE_EVERY": "2",
            "ASPECTS_SYNC_MAX_REMOVED_SHARE": "1",
        }
        with run_lms(tmp_path, database[0], tokens=name_tokens()) as lms:
            stays, leaves, lost = (
                lms.call("create_user", name, f"{name}@example.com", f"Name of {name}") for name in ("ann", "bob", "cy")
            )
            with running(make_worker(tmp_path, **environment)) as worker:
                wait_until(lambda: set(read_people(settings)) == {stays, leaves, lost}, worker.read_log)
                lms.call("change_profile", stays, goals="changed")
                for user_id in (leaves, lost):
                    lms.call("request_retirement", user_id)
                lms.call("run_retirement", leaves)
                wait_until(lambda: read_states(settings) == {str(leaves): "erased"}, worker.read_log)
                wait_until(lambda: read_people(settings).get(stays) == "changed", worker.read_log)
                worker.kill()
            # The signals of this one reach the broker, which forgets them.
            lms.call("run_retirement", lost)
            messages.client.flushdb()
            with running(make_worker(tmp_path, **environment)) as worker:
                wait_until(
                    lambda: read_states(settings) == {str(leaves): "erased", str(lost): "erased"}, worker.read_log
                )
                # An old event, and a save that comes after.
                lms.call("change_profile", leaves, goals="back again")
                lms.call("change_profile", stays, goals="changed again")
                wait_until(lambda: read_people(settings) == {stays: "changed again"}, worker.read_log)
                assert worker.stop() == 0
            assert read_people(settings) == {stays: "changed again"}
            for log in (worker.read_log(), lms.read_log()):
                assert "@example.com" not in log
                assert "Name of" not in log
