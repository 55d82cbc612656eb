"""`aspects-pii sync`: what an operator sees, from SQLite into the engine in process and from MariaDB over HTTP.

The engine is started once for this file; each test has databases of its own in it.
"""

from __future__ import annotations

import itertools
import os
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import SecretStr
from sqlalchemy import Engine, create_engine, text

from sink.copying.sync import sync
from sink.demo_data.lms import create_lms
from sink.demo_data.lms_tables import METADATA, open_writable
from sink.demo_data.people import make_external_id
from sink.doors.cli import copying
from sink.endpoint.app import running
from sink.errors import BusyError
from sink.installation import open_store
from sink.ledger.leases import hold
from sink.ledger.role_trail import Operation, RoleChange, Source, record_changes
from sink.lms.authz import LEGACY_ROLES
from sink.lms.database import LmsDatabase
from sink.progress import Listener, listening
from sink.resources import find_resource
from sink.retirement.retire import retire
from sink.settings import load_settings
from sink.store import Store
from tests.support.authz_rows import grant, write_rules
from tests.support.lms_writer import LmsWriter

MARIADB = "mysql+pymysql://root@127.0.0.1:3306"
PASSWORD = "secret of the endpoint"
TABLES = ("user_profile", "external_id", "course_access")
BOOKKEEPING = ("dump_id", "time_last_dumped")
USERS = 60
# The first ten learn and do nothing else; from 50 on they run the courses.
LEARNER = 7

# Facts about upstream's layout: docs/upstream.md.
UPSTREAM_TABLES = (
    """
    CREATE TABLE $event_sink.user_profile (
        id Int32, user_id Int32, name String, meta String, courseware String, language String, location String,
        year_of_birth String, gender String, level_of_education String, mailing_address String, city String,
        country String, state String, goals String, bio String, profile_image_uploaded_at String, phone_number String,
        dump_id UUID, time_last_dumped String, username String, email String
    ) ENGINE = ReplacingMergeTree PARTITION BY user_id MOD 100 ORDER BY (id, time_last_dumped)
    """,
    """
    CREATE TABLE $event_sink.external_id (
        external_user_id UUID, external_id_type String, username String, user_id Int32, dump_id UUID,
        time_last_dumped String
    ) ENGINE = ReplacingMergeTree PARTITION BY user_id MOD 100 ORDER BY (external_user_id, time_last_dumped)
    """,
)


@dataclass
class Site:
    """An LMS database with `USERS` users, and a migrated store beside it."""

    url: str
    lms: LmsWriter
    run: Callable[..., Any]
    store: Store

    def sync(self, *arguments: object, expected: int = 0, **environment: str) -> Any:
        """Run the command; its JSON document, or what it printed where there is none."""
        ran = self.run("sync", "--json", *arguments, **environment)
        assert ran.status == expected, ran.err
        return {line["object"]: line for line in ran.json["objects"]} if ran.out else ran

    def state(self) -> dict[str, list[dict[str, Any]]]:
        """Every row of the PII tables that a query can reach, without the bookkeeping."""
        return {table: self.rows(table) for table in TABLES}

    def rows(self, table: str) -> list[dict[str, Any]]:
        name = self.store.client.table(f"event_sink.{table}")
        columns = self.store.client.column(
            "SELECT name FROM system.columns WHERE database = {d:String} AND table = {t:String} "
            "AND name NOT IN ('dump_id', 'time_last_dumped', 'dumped_at') ORDER BY name",
            d=name.database,
            t=name.table,
        )
        found = self.store.client.rows(f"SELECT {', '.join(columns)} FROM {name.sql}")
        return sorted((dict(zip(columns, row, strict=True)) for row in found), key=str)

    def one(self, user_id: int, table: str = "user_profile") -> dict[str, Any]:
        """The only row of a user."""
        (row,) = self.of(user_id, table)
        return row

    def of(self, user_id: int, table: str = "user_profile") -> list[dict[str, Any]]:
        return [row for row in self.rows(table) if row["user_id"] == user_id]

    def users(self, table: str = "user_profile") -> set[int]:
        return {row["user_id"] for row in self.rows(table)}

    def hidden(self, table: str) -> int:
        """Rows that a query does not show and that are still in a part."""
        client, name = self.store.client, self.store.client.table(f"event_sink.{table}").sql
        counts = [client.value(f"SELECT count() FROM {name}", {"apply_deleted_mask": mask}) for mask in (0, 1)]
        return int(counts[0] - counts[1])

    def parts(self) -> list[str]:
        return self.store.client.column(
            "SELECT concat(table, ' ', name) FROM system.parts WHERE database = {d:String} AND active ORDER BY 1",
            d=self.store.client.databases["event_sink"],
        )

    def execute(self, *statements: str) -> None:
        """Do to the LMS database what the LMS would not."""
        with _disposing(open_writable(self.url)) as engine, engine.begin() as connection:
            for statement in statements:
                connection.execute(text(statement))

    def ask(self, query: str) -> list[tuple[Any, ...]]:
        with _disposing(open_writable(self.url)) as engine, engine.connect() as connection:
            return [tuple(row) for row in connection.execute(text(query))]

    def widen(self, column: str, kind: str) -> None:
        """Let a column take what the LMS's does not; SQLite takes anything anywhere."""
        if not self.url.startswith("sqlite"):
            self.execute(f"ALTER TABLE auth_userprofile MODIFY {column} {kind}")

    def copy(self, *, batch_size: int = 20_000, progress: Listener = lambda *_: None) -> None:
        """Sync as the command does, with somebody looking on."""
        store = replace(self.store, policy=replace(self.store.policy, sync_batch_size=batch_size))
        with listening(progress):
            sync(store, LmsDatabase(self.url), enabled=True)


@contextmanager
def _disposing(engine: Engine) -> Iterator[Engine]:
    try:
        yield engine
    finally:
        engine.dispose()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sync") / "clickhouse"


@pytest.fixture(scope="module")
def endpoint(folder: Path) -> Iterator[str]:
    with running(folder, password=SecretStr(PASSWORD)) as url:
        yield url


_numbers = itertools.count(1)
BOTH = [
    pytest.param("SQLite, in process", id="SQLite, in process"),
    pytest.param("MariaDB, over HTTP", id="MariaDB, over HTTP", marks=pytest.mark.mariadb),
]
on_both = pytest.mark.parametrize("site", BOTH, indirect=True)


@pytest.fixture
def site(
    request: pytest.FixtureRequest,
    aspects_pii: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    endpoint: str,
    folder: Path,
    tmp_path: Path,
) -> Iterator[Site]:
    """A site with an LMS and an empty, migrated store."""
    kind = getattr(request, "param", "SQLite, in process")
    number = next(_numbers)
    for logical in ("event_sink", "xapi", "reporting", "ledger"):
        monkeypatch.setenv(f"ASPECTS_{logical.upper()}_DATABASE", f"site{number}_{logical}")
    monkeypatch.setenv("ASPECTS_ENABLE_PII", "true")
    monkeypatch.setenv("ASPECTS_CLICKHOUSE_URL", endpoint if "HTTP" in kind else f"chdb://{folder}")
    if "HTTP" in kind:
        monkeypatch.setenv("ASPECTS_CLICKHOUSE_PASSWORD", PASSWORD)
    with _lms_database(kind, tmp_path) as url:
        monkeypatch.setenv("ASPECTS_LMS_DATABASE_URL", url)
        create_lms(url, getattr(request.cls, "users", USERS), 3)
        lms = LmsWriter(url)
        with open_store(load_settings(), creates=True) as store:
            for statement in getattr(request.cls, "before_init", ()):
                store.client.execute("CREATE DATABASE IF NOT EXISTS $event_sink")
                store.client.execute(statement)
            # In process whatever the test is about: this costs half as much there.
            assert aspects_pii("init", CLICKHOUSE_URL=f"chdb://{folder}").status == 0
            yield Site(url, lms, aspects_pii, store)
            for database in store.client.databases.values():
                store.client.execute(f"DROP DATABASE IF EXISTS {database} SYNC")
        lms.close()


@contextmanager
def _lms_database(kind: str, tmp_path: Path) -> Iterator[str]:
    if "SQLite" in kind:
        yield f"sqlite:///{tmp_path}/lms.sqlite3"
        return
    name = f"aspects_pii_test_{uuid.uuid4().hex}"
    with _disposing(create_engine(f"{MARIADB}/")) as engine, engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
        try:
            yield f"{MARIADB}/{name}"
        finally:
            connection.execute(text(f"DROP DATABASE {name}"))


def summarise(line: dict[str, Any]) -> tuple[int, ...]:
    """(read, new, changed, unchanged, removed)"""
    return tuple(line[name] for name in ("read", "inserted", "changed", "unchanged", "removed"))


@on_both
def test_the_first_copy_brings_everything_and_the_second_writes_nothing(site: Site) -> None:
    first = site.run("sync")
    assert first.status == 0, first.err
    *table, where = first.out.splitlines()
    assert [line.split()[:3] for line in table] == [
        ["object", "read", "new"],
        ["user_profile", "60", "60"],
        ["external_id", "63", "63"],
        ["course_access", "11", "11"],
    ]
    assert where.startswith("Copied to ")
    # Progress is for people, and so are its numbers.
    assert "user_profile: 60 of 60 rows" in first.err

    lms = {row[0]: row[1:] for row in site.ask("SELECT id, username, email FROM auth_user")}
    names = dict(site.ask("SELECT user_id, name FROM auth_userprofile"))
    assert len(lms) == USERS
    assert {r["user_id"]: (r["username"], r["email"]) for r in site.rows("user_profile")} == lms
    assert {r["user_id"]: r["name"] for r in site.rows("user_profile")} == names
    assert site.one(LEARNER, "external_id")["external_user_id"] == make_external_id(1, LEARNER)

    before, parts = site.state(), site.parts()
    second = site.sync()
    assert {name: summarise(line) for name, line in second.items()} == {
        "user_profile": (60, 0, 0, 60, 0),
        "external_id": (63, 0, 0, 63, 0),
        "course_access": (11, 0, 0, 11, 0),
    }
    assert site.state() == before
    assert len(parts) >= 3
    assert site.parts() == parts


@on_both
def test_a_changed_profile_is_one_row_and_the_old_value_is_gone(site: Site) -> None:
    site.lms.change_profile(LEARNER, name="Old Name", bio=None)
    site.sync()
    site.lms.change_profile(LEARNER, name="New Name", bio="now with a text")
    done = site.sync()
    assert summarise(done["user_profile"]) == (60, 0, 1, 59, 0)
    assert site.one(LEARNER)["name"] == "New Name"
    assert site.one(LEARNER)["bio"] == "now with a text"
    old = site.store.client.value(
        "SELECT countIf(name = 'Old Name') FROM $event_sink.user_profile", {"apply_deleted_mask": 0}
    )
    assert old == 0
    assert site.hidden("user_profile") == 0
    assert len(site.rows("user_profile")) == USERS


@on_both
def test_sync_copies_the_users_and_objects_that_were_asked_for(site: Site) -> None:
    done = site.sync("--user-id", 3, "--user-id", LEARNER)
    assert {name: line["read"] for name, line in done.items()} == {
        "user_profile": 2,
        "external_id": 2,
        "course_access": 0,
    }
    assert site.users() == site.users("external_id") == {3, LEARNER}

    done = site.sync("--object", "external_id")
    assert list(done) == ["external_id"]
    assert site.users() == {3, LEARNER}
    assert len(site.users("external_id")) == USERS

    # Who left goes, and only who was asked for.
    site.sync()
    for user_id in (3, 4):
        site.lms.delete_user(user_id)
    done = site.sync("--user-id", 3, "--user-id", LEARNER)
    assert {name: line["removed_subjects"] for name, line in done.items()} == {
        "user_profile": 1,
        "external_id": 1,
        "course_access": 0,
    }
    assert site.users() == set(range(1, USERS + 1)) - {3}


def test_an_object_that_is_none_is_named(site: Site) -> None:
    ran = site.run("sync", "--object", "enrolments")
    assert ran.status == 2
    assert "user_profile, external_id, course_access" in ran.err


@on_both
def test_a_role_that_was_taken_away_is_gone(site: Site) -> None:
    ((course,),) = site.ask(f"SELECT course_id FROM student_courseaccessrole WHERE user_id = {USERS}")
    site.lms.grant_role(USERS, "DemoX", course, "staff")
    site.lms.grant_role(LEARNER, "DemoX", "", "staff")
    site.sync()
    assert {(r["course_key"], r["role"]) for r in site.of(USERS, "course_access")} == {
        (course, "instructor"),
        (course, "staff"),
    }
    assert site.one(LEARNER, "course_access")["course_key"] == ""

    site.execute(f"DELETE FROM student_courseaccessrole WHERE user_id = {LEARNER} OR role = 'instructor'")
    done = site.sync()
    assert done["course_access"]["removed"] == 4
    assert site.of(LEARNER, "course_access") == []
    assert [r["role"] for r in site.of(USERS, "course_access")] == ["staff"]
    assert site.hidden("course_access") == 0
    # They have lost a role, and are users as before.
    assert len(site.users()) == USERS


def test_all_course_roles_go_only_when_told_so(site: Site) -> None:
    """The LMS's superusers keep theirs, which does not make the others' removal less suspicious."""
    site.sync()
    before = site.state()
    site.execute("DELETE FROM student_courseaccessrole")
    ran = site.run("sync")
    assert ran.status == 1
    assert "of 9 people" in ran.err
    assert "casbin_rule, which its user does not see" in ran.err
    assert "--allow-removals" in ran.err
    assert site.state() == before
    assert site.sync("--allow-removals")["course_access"]["removed"] == 9
    assert {(row["org"], row["course_key"]) for row in site.rows("course_access")} == {("", "")}


def test_all_course_roles_go_with_the_share_that_lets_all_users_go(site: Site) -> None:
    site.sync()
    site.execute("DELETE FROM student_courseaccessrole", "UPDATE auth_user SET is_staff = 0, is_superuser = 0")
    assert site.sync(SYNC_MAX_REMOVED_SHARE="1")["course_access"]["removed"] == 11
    assert site.rows("course_access") == []


def test_the_only_role_of_all_goes_with_its_user(site: Site) -> None:
    """What one person is left of, no safeguard keeps."""
    site.execute(f"DELETE FROM student_courseaccessrole WHERE user_id != {USERS}")
    site.sync()
    site.execute("DELETE FROM student_courseaccessrole")
    assert site.sync("--user-id", USERS)["course_access"]["removed"] == 1


@on_both
def test_roles_that_moved_to_openedx_authz_stay(site: Site) -> None:
    """Its migration writes casbin's rules and empties the LMS's own table."""
    site.sync()
    before = site.rows("course_access")
    roles = site.ask(
        "SELECT u.username, r.role, r.org, r.course_id "
        "FROM student_courseaccessrole r JOIN auth_user u ON u.id = r.user_id"
    )
    assert len(roles) > 9
    names = {legacy: name for name, legacy in LEGACY_ROLES.items()}
    with _disposing(open_writable(site.url)) as engine, engine.begin() as connection:
        moved = [
            grant(number, name, names[role], course or (f"course-v1:{org}+*" if org else "course-v1:*"))
            for number, (name, role, org, course) in enumerate(roles, start=1)
        ]
        write_rules(connection, *moved)
    site.execute("DELETE FROM student_courseaccessrole")
    done = site.sync()["course_access"]
    assert (done["unchanged"], done["inserted"], done["removed"]) == (11, 0, 0)
    assert site.rows("course_access") == before

    site.execute("DELETE FROM casbin_rule WHERE v1 = 'role^course_staff'")
    assert site.sync()["course_access"]["removed"] > 0
    assert len(site.rows("course_access")) > 1
    site.execute("DELETE FROM casbin_rule")
    ran = site.run("sync")
    assert ran.status == 1
    assert "would take away every course role" in ran.err
    assert "does not see" not in ran.err


def test_roles_of_an_organisation_that_may_only_be_out_of_sight_stay(site: Site) -> None:
    """`authz.enable_course_authoring` may be on for one organisation, and a table that we may not read looks like none."""
    site.execute(
        "UPDATE student_courseaccessrole SET org = 'Moved' WHERE user_id > (SELECT max(id) - 2 FROM auth_user)"
    )
    site.sync()
    before = site.state()
    moved = {row["user_id"] for row in site.rows("course_access") if row["org"] == "Moved"}
    assert len(moved) == 2
    site.execute("DELETE FROM student_courseaccessrole WHERE org = 'Moved'")
    ran = site.run("sync")
    assert (ran.status, site.state()) == (1, before)
    assert "would take away all course roles in Moved, of 2 people" in ran.err
    assert "GRANT SELECT (ptype, v0, v1, v2)" in ran.err
    assert site.sync("--allow-removals")["course_access"]["removed_subjects"] == 2


def test_roles_that_the_lms_shows_to_be_gone_go(site: Site) -> None:
    """The organisation has another name, or nobody of it is active any more."""
    chosen = "user_id > (SELECT max(id) - 2 FROM auth_user)"
    site.execute(f"UPDATE student_courseaccessrole SET org = 'Moved' WHERE {chosen}")
    site.sync()
    site.execute(f"UPDATE student_courseaccessrole SET org = 'Renamed' WHERE {chosen}")
    assert site.sync()["course_access"]["removed"] >= 2
    assert "Moved" not in {row["org"] for row in site.rows("course_access")}
    site.execute(f"UPDATE auth_user SET is_active = 0 WHERE {chosen.replace('user_id', 'id')}")
    assert site.sync()["course_access"]["removed_subjects"] == 2


def test_the_last_role_of_an_organisation_goes_unless_openedx_authz_has_told_of_it(site: Site) -> None:
    site.execute(f"UPDATE student_courseaccessrole SET org = 'Moved' WHERE user_id = {USERS}")
    site.sync()
    before = site.state()
    (row,) = [row for row in site.rows("course_access") if row["org"] == "Moved"]
    site.execute("DELETE FROM student_courseaccessrole WHERE org = 'Moved'")
    told = RoleChange(
        *(uuid.uuid4(), datetime(2026, 1, 1, tzinfo=UTC), Operation.GIVEN, str(row["user_id"]), row["role"]),
        *(row["course_key"] or "course-v1:Moved+*", Source.AUTHZ, None),
    )
    record_changes(site.store.client, [told])
    for arguments in ((), ("--user-id", row["user_id"])):
        ran = site.run("sync", *arguments)
        assert (ran.status, site.state()) == (1, before)
        assert "would take away course roles in Moved, of 1 person" in ran.err
    taken = replace(told, event=uuid.uuid4(), at=told.at + timedelta(days=1), operation=Operation.TAKEN)
    record_changes(site.store.client, [taken])
    ran = site.run("sync", "--json")
    assert (ran.status, {line["object"]: line["removed"] for line in ran.json["objects"]}["course_access"]) == (0, 1)
    assert "Nobody has a course role in Moved any more" in ran.err
    assert "GRANT SELECT (ptype, v0, v1, v2)" in ran.err
    assert "Nobody has" not in site.run("sync").err


def test_the_last_role_of_an_organisation_goes_without_a_word_where_all_rules_are_seen(site: Site) -> None:
    site.execute(f"UPDATE student_courseaccessrole SET org = 'Moved' WHERE user_id = {USERS}")
    with _disposing(open_writable(site.url)) as engine, engine.begin() as connection:
        write_rules(connection)
    site.sync()
    site.execute("DELETE FROM student_courseaccessrole WHERE org = 'Moved'")
    ran = site.run("sync", "--json")
    assert (ran.status, {line["object"]: line["removed"] for line in ran.json["objects"]}["course_access"]) == (0, 1)
    assert "Nobody has" not in ran.err


@on_both
def test_a_user_who_left_the_lms_is_gone_in_files_too(site: Site, folder: Path) -> None:
    site.store.client.execute("ALTER TABLE $event_sink.user_profile MODIFY COLUMN name String CODEC(NONE)")
    canary = f"Canary-{uuid.uuid4()}"
    site.lms.change_profile(USERS, name=canary)
    site.sync()
    assert find_files_with(canary, folder)
    site.lms.delete_user(USERS)
    done = site.sync()
    assert [done[table]["removed_subjects"] for table in TABLES] == [1, 1, 1]
    assert [USERS in site.users(table) for table in TABLES] == [False, False, False]
    assert [site.hidden(table) for table in TABLES] == [0, 0, 0]
    assert find_files_with(canary, folder) == []


def find_files_with(marker: str, folder: Path) -> list[str]:
    found = subprocess.run(["grep", "-rlF", marker, str(folder)], capture_output=True, text=True, check=False)
    return found.stdout.split()


@on_both
class TestSafeguard:
    def expect_refusal(self, site: Site, *arguments: object) -> None:
        before, parts = site.state(), site.parts()
        ran = site.run("sync", *arguments)
        assert ran.status == 1
        assert "--allow-removals" in ran.err
        assert "ASPECTS_SYNC_MAX_REMOVED_SHARE" in ran.err
        assert site.state() == before
        assert site.parts() == parts

    def test_an_empty_lms_removes_nobody_unless_told(self, site: Site) -> None:
        site.sync()
        site.execute(*(f"DELETE FROM {table.name}" for table in reversed(METADATA.sorted_tables)))
        self.expect_refusal(site)
        self.expect_refusal(site, "--object", "course_access")
        self.expect_refusal(site, "--object", "external_id")
        self.expect_refusal(site, "--dry-run")
        done = site.sync("--allow-removals")
        assert [done[table]["removed"] for table in TABLES] == [60, 63, 11]
        assert site.state() == {table: [] for table in TABLES}

    def test_safeguard_checks_before_anything_is_written(self, site: Site) -> None:
        site.sync()
        # 5 % of 60 are 3.
        for user_id in (1, 2, 3, 4):
            site.lms.delete_user(user_id)
        site.lms.change_profile(LEARNER, name="New Name")
        self.expect_refusal(site)
        site.sync(SYNC_MAX_REMOVED_SHARE="0.1")
        assert site.users() == set(range(5, USERS + 1))
        assert site.one(LEARNER)["name"] == "New Name"

    def test_a_few_may_leave(self, site: Site) -> None:
        site.sync()
        for user_id in (1, 2, 3):
            site.lms.delete_user(user_id)
        assert site.sync()["user_profile"]["removed"] == 3


@on_both
def test_the_retired_are_never_written(site: Site) -> None:
    site.sync()
    assert [o.state for o in retire(site.store, [LEARNER, 8])] == ["erased", "erased"]
    # What the LMS does after it has announced a retirement: it saves the profile again.
    site.lms.change_profile(LEARNER, name="back again", goals="kept by the LMS")
    before = site.state()
    assert LEARNER not in site.users()
    for arguments in (
        (),
        ("--user-id", LEARNER),
        ("--user-id", LEARNER, "--object", "external_id"),
        ("--object", "user_profile"),
        ("--dry-run",),
        ("--allow-removals", "--batch-size", 20),
    ):
        done = site.sync(*arguments)
        assert sum(line["retired"] for line in done.values()) >= 1
        assert sum(line["inserted"] + line["changed"] + line["removed"] for line in done.values()) == 0
        assert site.state() == before


@on_both
@pytest.mark.parametrize("how", ["erased at once", "only recorded yet"])
def test_user_retired_while_the_copy_runs_is_not_there_afterwards(site: Site, how: str) -> None:
    """The one is in a batch that was written already, the other in one that comes."""
    written, coming = 2, 50
    done: list[int] = []

    def look(name: str, read: int, _total: int, _things: str) -> None:
        if name != "user_profile" or read < 10 or done:
            return
        done.append(read)
        if how == "erased at once":
            with open_store(load_settings()) as other:
                assert [o.state for o in retire(other, [written, coming])] == ["erased"] * 2
        else:
            site.store.ledger.request([written, coming], None)

    site.copy(batch_size=10, progress=look)
    assert done == [10]
    assert len(site.users()) == USERS - 2
    for table in TABLES:
        assert not {written, coming} & site.users(table)
        assert site.hidden(table) == 0


def write_map(path: Path, table: str, without: Sequence[str]) -> str:
    """The map that ships, but these columns are not kept; its path."""
    pii_map = yaml.safe_load(find_resource("config/pii.yaml").read_text())
    target = pii_map["targets"][f"event_sink.{table}"]
    target["keep"] = [column for column in target["keep"] if column not in without]
    path.write_text(yaml.safe_dump(pii_map))
    return str(path)


@on_both
def test_columns_that_are_no_longer_kept_are_emptied_in_files_too(site: Site, folder: Path, tmp_path: Path) -> None:
    for column in ("bio", "phone_number"):
        site.store.client.execute(f"ALTER TABLE $event_sink.user_profile MODIFY COLUMN {column} String CODEC(NONE)")
    canary = f"Canary-{uuid.uuid4()}"
    site.lms.change_profile(LEARNER, bio=f"bio {canary}", phone_number=canary, city="Quito")
    site.sync()
    assert find_files_with(canary, folder)

    chosen = write_map(tmp_path / "map.yaml", "user_profile", ["bio", "phone_number"])
    dry = site.sync("--dry-run", PII_MAP=chosen)
    assert dry["user_profile"]["purged_columns"] == ["bio", "phone_number"]
    assert site.one(LEARNER)["phone_number"] == canary

    ran = site.run("sync", PII_MAP=chosen)
    assert ran.status == 0, ran.err
    assert "user_profile: no longer kept, and emptied: bio, phone_number." in ran.out
    assert (site.one(LEARNER)["bio"], site.one(LEARNER)["phone_number"]) == ("", "")
    assert site.one(LEARNER)["city"] == "Quito"
    assert find_files_with(canary, folder) == []

    again = site.sync(PII_MAP=chosen)["user_profile"]
    assert (again["purged_columns"], summarise(again)) == ([], (60, 0, 0, 60, 0))
    # Kept again, it comes back.
    assert site.sync()["user_profile"]["changed"] >= 1
    assert site.one(LEARNER)["phone_number"] == canary


def write_map_with(path: Path, *keys: str) -> str:
    """The shipped map, with these entries more in what is kept of a profile."""
    pii_map = yaml.safe_load(find_resource("config/pii.yaml").read_text())
    pii_map["targets"]["event_sink.user_profile"]["keep"] += keys
    path.write_text(yaml.safe_dump(pii_map))
    return str(path)


def test_nothing_of_meta_is_stored_unless_the_map_names_it(site: Site) -> None:
    site.lms.change_profile(LEARNER, meta='{"session_id": "abc", "company": "Acme"}')
    site.sync()
    assert {row["meta"] for row in site.rows("user_profile")} == {""}


class TestMeta:
    """Extended profile fields: the keys that the map names, and no others."""

    @pytest.fixture
    def chosen(self, tmp_path: Path) -> str:
        return write_map_with(tmp_path / "map.yaml", "meta.company")

    def test_of_a_login_copies_nothing(self, site: Site, chosen: str) -> None:
        site.lms.change_profile(LEARNER, meta='{"company": "Acme", "session_id": "first"}')
        site.sync(PII_MAP=chosen)
        assert site.one(LEARNER)["meta"] == '{"company": "Acme"}'
        before = site.state()
        site.lms.change_profile(LEARNER, meta='{"session_id": "second", "company": "Acme"}')
        assert summarise(site.sync(PII_MAP=chosen)["user_profile"]) == (60, 0, 0, 60, 0)
        assert site.state() == before

    def test_loses_what_was_stored_of_other_keys_in_files_too(
        self, site: Site, chosen: str, folder: Path, tmp_path: Path
    ) -> None:
        site.store.client.execute("ALTER TABLE $event_sink.user_profile MODIFY COLUMN meta String CODEC(NONE)")
        site.sync()
        canary = f"Canary-{uuid.uuid4()}"
        text = f'{{"session_id": "{canary}", "company": "Acme"}}'
        site.lms.change_profile(LEARNER, meta=text)
        # As Aspects' own sink stores it.
        site.store.client.execute(
            "INSERT INTO $event_sink.user_profile SELECT * REPLACE ({text:String} AS meta, now64(6) AS time_last_dumped) "
            "FROM $event_sink.user_profile WHERE user_id = {id:Int64}",
            text=text,
            id=LEARNER,
        )
        assert find_files_with(canary, folder)
        done = site.sync(PII_MAP=chosen)["user_profile"]
        assert done["purged_columns"] == ["meta (keys that are not kept)"]
        assert summarise(done) == (60, 0, 0, 60, 0)
        assert site.one(LEARNER)["meta"] == '{"company": "Acme"}'
        assert find_files_with(canary, folder) == []

    @pytest.mark.parametrize(
        ("key", "message"),
        [
            ("meta", "`meta` is kept key by key. Write `meta.KEY`"),
            ("meta.session_id", "meta.session_id is never stored, as it opens the user's session"),
        ],
    )
    def test_is_kept_neither_as_a_whole_nor_with_the_session(
        self, site: Site, tmp_path: Path, key: str, message: str
    ) -> None:
        chosen = write_map_with(tmp_path / "map.yaml", key)
        ran = site.run("sync", PII_MAP=chosen)
        assert ran.status == 2
        assert f"targets.event_sink.user_profile.keep: {message}" in ran.err
        checked = site.run("map", "check", PII_MAP=chosen)
        assert checked.status == 1
        assert f"targets.event_sink.user_profile.keep: {message}" in checked.out


def test_column_that_cannot_be_left_out_is_named(site: Site, tmp_path: Path) -> None:
    chosen = write_map(tmp_path / "map.yaml", "external_id", ["external_user_id", "username"])
    ran = site.run("sync", PII_MAP=chosen)
    assert ran.status == 2
    said = "targets.event_sink.external_id.keep: external_user_id cannot be left out"
    assert said in ran.err
    assert said in site.run("map", "check", PII_MAP=chosen).out


@on_both
def test_a_bad_row_is_reported_and_the_rest_goes_on(site: Site) -> None:
    """Invalid UTF-8, too long, of the wrong type: what was stored of these users stays."""
    site.sync()
    before = site.state()
    site.widen("bio", "longblob")
    site.widen("gender", "varchar(200)")
    site.widen("year_of_birth", "varchar(200)")
    bytes_ = "CAST(x'ff436f6e646f72' AS TEXT)" if site.url.startswith("sqlite") else "x'ff436f6e646f72'"
    site.execute(
        f"UPDATE auth_userprofile SET name = 'Condor', bio = {bytes_} WHERE user_id = 2",
        "UPDATE auth_userprofile SET name = 'Condor', gender = 'Condor-Condor' WHERE user_id = 3",
        "UPDATE auth_userprofile SET name = 'Condor', year_of_birth = 'Condor' WHERE user_id = 4",
        "UPDATE auth_userprofile SET name = 'New Name' WHERE user_id = 5",
    )
    for arguments in ((), ("--batch-size", 20), ("--user-id", 2, "--user-id", 3, "--user-id", 4, "--user-id", 5)):
        ran = site.run("sync", "--json", *arguments)
        assert ran.status == 1
        bad = {line["object"]: line["bad"] for line in ran.json["objects"]}
        assert [(b["user_id"], b["column"]) for b in bad["user_profile"]] == [
            (2, "bio"),
            (3, "gender"),
            (4, "year_of_birth"),
        ]
        assert "user 2, row 1002, bio: not valid UTF-8. It was not copied." in ran.err
        assert "user 3, row 1003, gender: longer than 6 characters." in ran.err
        assert "user 4, row 1004, year_of_birth: not an integer." in ran.err
        assert "Condor" not in ran.err + ran.out
        assert site.one(5)["name"] == "New Name"
        others = [row for row in site.rows("user_profile") if row["user_id"] != 5]
        assert others == [row for row in before["user_profile"] if row["user_id"] != 5]


def test_an_anonymous_id_that_is_none_leaves_the_stored_one(site: Site) -> None:
    site.sync()
    site.execute(f"UPDATE external_user_ids_externalid SET external_user_id = 'Condor' WHERE user_id = {LEARNER}")
    ran = site.run("sync")
    assert ran.status == 1
    assert f"external_id: user {LEARNER}, row {LEARNER}, external_user_id: not a UUID." in ran.err
    assert site.one(LEARNER, "external_id")["external_user_id"] == make_external_id(1, LEARNER)


def test_a_bad_row_of_a_retired_user_fails_nothing(site: Site) -> None:
    site.sync()
    site.widen("gender", "varchar(200)")
    site.execute("UPDATE auth_userprofile SET gender = 'Condor-Condor' WHERE user_id IN (2, 3)")
    assert site.run("sync").status == 1
    for user_id in (2, 3):
        assert site.run("retire", user_id).status == 0
    ran = site.run("sync", "--json")
    assert ran.status == 0
    assert "was not copied" not in ran.err
    profiles = next(line for line in ran.json["objects"] if line["object"] == "user_profile")
    assert (profiles["bad"], profiles["retired"]) == ([], 2)
    assert profiles["read"] == profiles["retired"] + profiles["unchanged"]
    site.execute("UPDATE auth_userprofile SET gender = 'Condor-Condor' WHERE user_id = 4")
    again = site.run("sync")
    assert again.status == 1
    assert "user 4," in again.err
    assert "user 2," not in again.err


@on_both
def test_table_that_the_lms_lacks_is_named_before_anything_is_copied(site: Site) -> None:
    site.execute("DROP TABLE student_courseaccessrole", "ALTER TABLE auth_userprofile DROP COLUMN phone_number")
    ran = site.run("sync")
    assert ran.status == 1
    assert "student_courseaccessrole" in ran.err
    assert "auth_userprofile.phone_number" in ran.err
    assert site.state() == {table: [] for table in TABLES}


@on_both
class TestUpstreamTables:
    before_init = UPSTREAM_TABLES
    # Each has a partition of its own, and what a statement costs follows the partitions.
    users = 15

    def dump(self, site: Site, *times: str) -> None:
        """What upstream has written: every version of a profile, in its formats of time."""
        columns = ("id", "user_id", "name", "username", "email", "time_last_dumped")
        for at in times:
            rows = [(u + 1000, u, f"as of {at}", f"u{u}", f"u{u}@example.org", at) for u in range(1, self.users + 1)]
            site.store.client.insert(site.store.client.table("event_sink.user_profile"), columns, rows)
        ids = [(make_external_id(1, u), "xapi", f"u{u}", u, times[0]) for u in range(1, self.users + 1)]
        site.store.client.insert(
            site.store.client.table("event_sink.external_id"),
            ("external_user_id", "external_id_type", "username", "user_id", "time_last_dumped"),
            ids,
        )

    def test_are_filled(self, site: Site) -> None:
        site.sync()
        assert [len(site.rows(table)) for table in TABLES] == [15, 15, 11]
        parts = site.parts()
        assert site.sync()["user_profile"]["unchanged"] == 15
        assert site.parts() == parts

    def test_keep_one_row_a_subject(self, site: Site) -> None:
        # The same day with a T comes after any time of it with a blank, read as text.
        now = site.store.client.value("SELECT formatDateTime(now(), '%Y-%m-%dT%H:%i:%S+00:00', 'UTC')")
        self.dump(site, "2026-01-01 00:00:00.000001", "2026-01-02T00:00:00+00:00", now)
        assert len(site.rows("user_profile")) == 3 * self.users
        done = site.sync()
        assert done["user_profile"]["changed"] == self.users
        lms = dict(site.ask("SELECT user_id, name FROM auth_userprofile"))
        assert {row["user_id"]: row["name"] for row in site.rows("user_profile")} == lms
        assert [len(site.rows(table)) for table in TABLES] == [15, 15, 11]
        assert [site.hidden(table) for table in TABLES] == [0, 0, 0]
        assert site.sync()["user_profile"]["unchanged"] == self.users

    def test_versions_of_one_time_become_one(self, site: Site) -> None:
        client, table = site.store.client, site.store.client.table("event_sink.user_profile")
        site.sync("--object", "user_profile")
        client.execute(f"INSERT INTO {table.sql} SELECT * REPLACE (id + 5000 AS id) FROM {table.sql} WHERE user_id < 5")
        client.execute(
            f"INSERT INTO {table.sql} SELECT * REPLACE ('' AS time_last_dumped) FROM {table.sql} WHERE user_id = 9"
        )
        site.sync("--object", "user_profile")
        assert len(site.rows("user_profile")) == len(site.users()) == self.users
        assert {row["id"] - row["user_id"] for row in site.rows("user_profile")} == {1000}

    def test_a_column_of_the_sort_key_cannot_be_left_out(self, site: Site, tmp_path: Path) -> None:
        """Upstream's rows without their id would be one row to ClickHouse."""
        ran = site.run("sync", PII_MAP=write_map(tmp_path / "map.yaml", "user_profile", ["id", "bio"]))
        assert ran.status == 2
        assert "targets.event_sink.user_profile.keep: id cannot be left out" in ran.err
        assert site.rows("user_profile") == []


@on_both
def test_a_dry_run_counts_and_writes_nothing(site: Site) -> None:
    dry = site.sync("--dry-run")
    assert [dry[table]["inserted"] for table in TABLES] == [60, 63, 11]
    assert site.state() == {table: [] for table in TABLES}
    site.sync()
    site.lms.change_profile(LEARNER, name="New Name")
    site.lms.delete_user(USERS)
    before, parts = site.state(), site.parts()
    dry = site.sync("--dry-run")
    assert summarise(dry["user_profile"]) == (59, 0, 1, 58, 1)
    assert (site.state(), site.parts()) == (before, parts)
    really = site.sync()
    assert {t: summarise(really[t]) for t in TABLES} == {t: summarise(dry[t]) for t in TABLES}


def test_the_json_document_is_all_there_is_on_standard_output(site: Site) -> None:
    ran = site.run("sync", "--json")
    assert ran.json["dry_run"] is False
    assert [line["object"] for line in ran.json["objects"]] == list(TABLES)
    assert set(ran.json["objects"][0]) == {
        *("object", "read", "inserted", "changed", "unchanged", "retired", "removed", "removed_subjects"),
        *("purged_columns", "bad", "reader", "reader_note"),
    }


@on_both
def test_sync_while_pii_is_off_is_3(site: Site) -> None:
    for arguments in ((), ("--user-id", 7), ("--dry-run",), ("--allow-removals",)):
        ran = site.run("sync", *arguments, ENABLE_PII="false")
        assert ran.status == 3
        assert ran.err.strip() == "Error: Storing PII is off: set ASPECTS_ENABLE_PII=true to turn it on."
        assert ran.out == ""
    assert site.state() == {table: [] for table in TABLES}


@on_both
class TestBatches:
    users = 15

    def test_the_size_of_a_batch_does_not_matter(self, site: Site) -> None:
        site.sync("--batch-size", 7)
        before = site.state()
        site.sync("--batch-size", 20_000)
        assert site.state() == before
        site.lms.change_profile(1, name="New Name")
        site.lms.change_profile(15, name="Another New Name")
        site.lms.delete_user(3)
        site.lms.grant_role(2, "", "", "staff")
        one = site.sync("--batch-size", 1, "--allow-removals")
        assert summarise(one["user_profile"]) == (14, 0, 2, 12, 1)
        after = site.state()
        for table in TABLES:
            site.store.client.execute(f"TRUNCATE TABLE $event_sink.{table}")
        site.sync()
        assert site.state() == after


@on_both
def test_rows_from_the_future_are_superseded_all_the_same(site: Site) -> None:
    """The clock ran backwards, or another machine's is ahead."""
    site.lms.change_profile(LEARNER, name="Old Name")
    site.sync()
    site.store.client.execute(
        "CREATE TABLE $event_sink.ahead AS $event_sink.user_profile ENGINE = MergeTree ORDER BY user_id"
    )
    site.store.client.execute(
        "INSERT INTO $event_sink.ahead SELECT * REPLACE ("
        "toString(parseDateTime64BestEffort(time_last_dumped, 6, 'UTC') + toIntervalYear(30)) AS time_last_dumped) "
        "FROM $event_sink.user_profile"
    )
    site.store.client.execute("TRUNCATE TABLE $event_sink.user_profile")
    site.store.client.execute("INSERT INTO $event_sink.user_profile SELECT * FROM $event_sink.ahead")
    for name in ("New Name", "Newer Name"):
        site.lms.change_profile(LEARNER, name=name)
        assert site.sync()["user_profile"]["changed"] == 1
        assert site.one(LEARNER)["name"] == name
        site.store.client.execute("OPTIMIZE TABLE $event_sink.user_profile FINAL")
        assert site.one(LEARNER)["name"] == name
    assert site.sync()["user_profile"]["unchanged"] == USERS


def test_changes_of_many_are_few_statements(site: Site) -> None:
    """What one statement costs hardly depends on how many rows it touches."""
    site.sync()
    site.execute("UPDATE auth_userprofile SET goals = 'to change everything'")
    count = "SELECT count() FROM system.mutations WHERE database = {d:String}"
    database = site.store.client.databases["event_sink"]
    before = site.store.client.value(count, d=database)
    assert site.sync()["user_profile"]["changed"] == USERS
    assert len(site.rows("user_profile")) == USERS
    # One hides the old versions, one takes them off the disk.
    assert site.store.client.value(count, d=database) - before <= 2


@on_both
def test_full_copies_go_one_at_a_time(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying, "_LEASE_WAIT_SECONDS", 0.0)
    with hold(site.store.client, "sync"):
        refused = site.sync(expected=1)
        assert f"process {os.getpid()} on {socket.gethostname()}" in refused.err
        assert "Full copies go one at a time" in refused.err
        assert site.state() == {table: [] for table in TABLES}
        # Those of single users go on, and so does looking.
        assert site.sync("--dry-run")["user_profile"]["inserted"] == USERS
        assert site.sync("--user-id", LEARNER)["user_profile"]["inserted"] == 1
    assert site.sync()["user_profile"]["inserted"] == USERS - 1
    # It was let go, not left to run out.
    assert site.sync()["user_profile"]["unchanged"] == USERS


def test_a_full_copy_keeps_others_out_while_it_runs(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying, "_LEASE_WAIT_SECONDS", 0.0)
    told: list[str] = []

    def look(name: str, read: int, _total: int, _things: str) -> None:
        if name == "external_id" and read == 0:
            told.append(site.sync(expected=1).err)

    site.copy(progress=look)
    assert len(told) == 1
    assert "Another process is at this work" in told[0]


@on_both
def test_a_full_copy_that_was_killed_is_waited_for(site: Site) -> None:
    """Its lease runs out on its own, within less than the command waits."""
    site.store.client.execute(
        "INSERT INTO $pii_ledger.leases (name, holder, expires_at, owner) "
        "SELECT 'sync', generateUUIDv4(), now64(6, 'UTC') + 4, 'process 4711 on elsewhere'"
    )
    assert site.sync()["user_profile"]["inserted"] == USERS
    lasted = site.store.client.value(
        "SELECT max(dateDiff('millisecond', at, expires_at)) FROM $pii_ledger.leases WHERE owner != 'process 4711 on elsewhere'"
    )
    assert lasted <= 15_000 < copying._LEASE_WAIT_SECONDS * 1000


def test_a_lease_is_renewed_while_it_is_held(site: Site) -> None:
    def count() -> int:
        return int(site.store.client.value("SELECT count() FROM $pii_ledger.leases WHERE expires_at > at"))

    with hold(site.store.client, "sync", seconds=1):
        deadline = time.monotonic() + 120
        # Twice as many as one lease of a second takes.
        while count() < 12:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert not _can_hold(site.store)
    assert _can_hold(site.store)


def _can_hold(store: Store) -> bool:
    with suppress(BusyError), hold(store.client, "sync"):
        return True
    return False
