"""`aspects-pii access sql`: the engine itself enforces what it prints.

The engine in process has no access management by SQL, but it starts with users, roles, grants and row policies from a
file, and its session is always that of a user called `default`. So the plan that the SQL is printed from is put into
such a file, with `default` in the place of the account under test; and every statement is parsed by the engine, too.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml
from pydantic import SecretStr

from sink.clickhouse.address import Address
from sink.clickhouse.client import ClickHouse
from sink.clickhouse.connection import ENGINE_OPTIONS
from sink.clickhouse.migrations import migrate
from sink.datasets.access import plan_access
from sink.datasets.build import build, find_events_kept
from sink.datasets.grants import AccessPlan, RoleNames, RowPolicy, render
from sink.datasets.learner_events import LEARNER_EVENTS
from sink.datasets.project import read_project
from sink.demo_data.lms import create_lms
from sink.errors import ReadOnlyError
from sink.ledger.pseudonym_key import set_pseudonym_key
from sink.pii_map import load_map
from sink.resources import find_resource
from sink.visibility import VIEWER_SCOPES
from tests.support import aspects

pytestmark = pytest.mark.needs_chdb_4(reason="chDB 3 reads no users file, so it knows no roles, grants and policies")

DATABASES = {"event_sink": "event_sink", "xapi": "xapi", "reporting": "reporting", "pii_ledger": "pii_ledger"}
NAMES = RoleNames()
PII_MAP = load_map(find_resource("config/pii.yaml"))
# Tables of people, and not the anonymised events, in which the map looks for people; those that are always there.
PEOPLE = [name for name, target in PII_MAP.targets.items() if not target.is_anonymised and not target.optional]
PLAN = plan_access(PII_MAP, DATABASES, NAMES)
SHOWN = sorted(
    d.name for d in read_project(find_resource("dbt_project")).datasets if d.is_shown and d.database == "reporting"
)
# The user of every session of the engine in process; here, somebody's LMS user name.
ME = "default"
# The driver hands rows to the engine in process in a file; over HTTP they come with the statement.
OF_THE_ENGINE = "GRANT FILE ON *.*"
# Who may do everything, and is confined by nothing.
ADMINISTRATOR = ""

COURSES = {"course-v1:Org+A+2026": "Org", "course-v1:Org+B+2026": "Org", "course-v1:Other+C+2026": "Other"}
A, B, C = COURSES
VIEWER = 77
LEARNER = 7


def write_users(path: Path, plan: AccessPlan, role: str, without: Sequence[str] = ()) -> Path:
    """A users file in which `default` has `role`, and the definer is itself."""
    root = ElementTree.Element("clickhouse")
    ElementTree.SubElement(ElementTree.SubElement(root, "profiles"), "default")
    ElementTree.SubElement(ElementTree.SubElement(root, "quotas"), "default")
    users = ElementTree.SubElement(root, "users")
    for user, account in ((ME, role), (plan.names.definer, plan.names.definer)):
        element = ElementTree.SubElement(users, user)
        ElementTree.SubElement(element, "password")
        ElementTree.SubElement(ElementTree.SubElement(element, "networks"), "ip").text = "::/0"
        ElementTree.SubElement(element, "profile").text = "default"
        ElementTree.SubElement(element, "quota").text = "default"
        grants = ElementTree.SubElement(element, "grants")
        for grant in plan.grants.get(account, ()):
            kept = [p for p in grant.privileges if p not in without]
            if kept:
                ElementTree.SubElement(grants, "query").text = f"GRANT {', '.join(kept)} ON {grant.on}"
        if account == ADMINISTRATOR:
            ElementTree.SubElement(grants, "query").text = "GRANT ALL ON *.*"
            continue
        if user == ME:
            ElementTree.SubElement(grants, "query").text = OF_THE_ENGINE
        _add_policies(element, plan.policies, account)
    ElementTree.ElementTree(root).write(path)
    return path


def _add_policies(user: ElementTree.Element, policies: Sequence[RowPolicy], account: str) -> None:
    """What policies come to for one account: permissive ones are alternatives."""
    filters: dict[tuple[str, str], list[str]] = {}
    for policy in policies:
        if account in policy.to or (not policy.to and account not in policy.unless):
            filters.setdefault((policy.database, policy.table), []).append(f"({policy.using})")
    databases = ElementTree.SubElement(user, "databases")
    for (database, table), conditions in filters.items():
        found = databases.find(database)
        element = ElementTree.SubElement(databases, database) if found is None else found
        text = "1" if "(1)" in conditions else " OR ".join(conditions)
        ElementTree.SubElement(ElementTree.SubElement(element, table), "filter").text = text


@contextmanager
def acting_as(
    role: str,
    folder: Path,
    plan: AccessPlan = PLAN,
    without: Sequence[str] = (),
) -> Iterator[None]:
    """Whatever starts the engine meanwhile is `role`; nothing else may have it open."""
    with pytest.MonkeyPatch.context() as patch:
        users = write_users(folder / f"users-{uuid.uuid4()}.xml", plan, role, without)
        # Without the first, the engine takes no notice of the second.
        (config := folder / "config.xml").write_text("<clickhouse/>")
        patch.setitem(ENGINE_OPTIONS, "config-file", str(config))
        patch.setitem(ENGINE_OPTIONS, "users_config", str(users))
        yield


@contextmanager
def connected(role: str, folder: Path, plan: AccessPlan = PLAN) -> Iterator[ClickHouse]:
    with acting_as(role, folder, plan), ClickHouse(find_address(folder)) as client:
        if role == ADMINISTRATOR:
            yield client
            return
        # With a file that it cannot read, the engine would let everybody do everything.
        assert is_refused(client, "CREATE DATABASE beyond_the_grants")
        yield client


def find_address(folder: Path) -> Address:
    return Address(f"chdb://{folder}/clickhouse", databases=DATABASES)


def is_refused(client: ClickHouse, sql: str, **values: Any) -> bool:
    """True where the engine says that it is not allowed; anything else that goes wrong is a failure."""
    try:
        client.execute(sql, **values)
    except ReadOnlyError as error:
        return error.code == 497
    return False


def read_courses(client: ClickHouse, dataset: str) -> set[str]:
    return set(client.column(f"SELECT DISTINCT course_key FROM $reporting.{dataset}"))


# ── What is printed ──────────────────────────────────────────────────────────────────────────────────────────────


def test_the_engine_understands_every_statement(aspects_pii: Callable[..., Any], tmp_path: Path) -> None:
    statements = []
    for options, environment in (
        ((), {}),
        (("--trust-dashboards", "--exempt", "an account's name"), {"CLICKHOUSE_CLUSTER": "aspects"}),
        (("--remove",), {}),
        (("--remove",), {"CLICKHOUSE_CLUSTER": "aspects"}),
    ):
        ran = aspects_pii("access", "sql", "--json", *options, **environment)
        assert ran.status == 0, ran.err
        assert len(ran.json["statements"]) > 30
        statements += ran.json["statements"]
    assert {statement.split()[0] for statement in statements} == {"CREATE", "GRANT", "DROP"}
    with ClickHouse(find_address(tmp_path)) as client:
        for statement in statements:
            # One statement, which the parser takes to its end.
            assert client.rows(f"EXPLAIN AST {statement}"), statement


def test_access_sql_is_a_script_without_a_password(aspects_pii: Callable[..., Any], tmp_path: Path) -> None:
    file = tmp_path / "access.sql"
    ran = aspects_pii("access", "sql", "-o", file, CLICKHOUSE_PASSWORD="a secret of the tests", CLICKHOUSE_USER="them")
    assert ran.status == 0, ran.err
    text = file.read_text()
    assert text == render(PLAN)
    assert "secret" not in text
    assert "PASSWORD" not in text.upper()
    assert "IDENTIFIED BY" not in text.upper()
    assert not (tmp_path / "clickhouse").exists(), "it connected"


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_access_sql_replaces_files_only(aspects_pii: Callable[..., Any], tmp_path: Path, kind: str) -> None:
    """An administrator runs what stands there: nobody may have it written elsewhere, or change it in between."""
    elsewhere, file = tmp_path / "elsewhere", tmp_path / "access.sql"
    elsewhere.write_text("somebody else's")
    if kind == "link":
        file.symlink_to(elsewhere)
    elif kind == "pipe":
        os.mkfifo(file)
    else:
        file.mkdir()
    ran = aspects_pii("access", "sql", "-o", file)
    assert ran.status == 2
    assert f"it is a {kind}" in ran.err
    assert elsewhere.read_text() == "somebody else's"


def test_access_sql_is_for_its_owner_whatever_the_umask(aspects_pii: Callable[..., Any], tmp_path: Path) -> None:
    file = tmp_path / "access.sql"
    file.write_text("older")
    before = os.umask(0)
    try:
        assert aspects_pii("access", "sql", "-o", file).status == 0
    finally:
        os.umask(before)
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.read_text() == render(PLAN)


def test_names_are_the_operators_choice(aspects_pii: Callable[..., Any]) -> None:
    ran = aspects_pii(
        *("access", "sql", "--json", "--sink-role", "a_sink", "--dbt-role", "a_dbt", "--dashboards-role", "looks"),
        CLICKHOUSE_DEFINER="reads_for_them",
        REPORTING_DATABASE="reports",
    )
    assert ran.status == 0, ran.err
    assert set(ran.json["grants"]) == {"a_sink", "a_dbt", "looks", "reads_for_them"}
    text = json.dumps(ran.json)
    assert "aspects_pii_dbt" not in text
    assert "`reporting`" not in text
    assert "SET DEFINER ON `reads_for_them`" in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--sink-role", "a role"), "sink role is not valid"),
        (("--dbt-role", "x`; DROP ROLE y"), "dbt role is not valid"),
        (("--dbt-role", "aspects_pii_sink"), "same name"),
        (("--exempt", ""), "empty"),
        (("-o", "/nowhere/at/all.sql"), "cannot be written"),
    ],
)
def test_access_sql_refuses_names_that_cannot_be(
    aspects_pii: Callable[..., Any], arguments: Sequence[str], words: str
) -> None:
    ran = aspects_pii("access", "sql", *arguments)
    assert ran.status == 2
    assert words in ran.err
    assert not ran.out


# ── The sink ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def lms(tmp_path: Path) -> str:
    url = f"sqlite:///{tmp_path}/lms.sqlite3"
    create_lms(url, users=60, courses=4)
    return url


def test_the_sink_can_do_its_work_with_its_role_alone(
    aspects_pii: Callable[..., Any], tmp_path: Path, lms: str
) -> None:
    on = {"ENABLE_PII": "true", "LMS_DATABASE_URL": lms}
    with acting_as(NAMES.sink, tmp_path):
        for arguments, environment in (
            (("init",), on),
            (("sync", "--json"), on),
            (("retire", str(LEARNER), "--scan", "--json"), on),
            (("sync", "--user-id", str(LEARNER)), on),
            (("verify", "--json"), on),
            (("sweep",), on),
            (("second-pass",), on),
            (("reconcile",), on),
            (("replay",), on),
            (("backfill-retired",), on),
            (("map", "check"), on),
            (("ledger", "show", "--json"), on),
            (("purge", "--yes"), {}),
            (("status",), {}),
        ):
            ran = aspects_pii(*arguments, **environment)
            assert ran.status == 0, (arguments, ran.err, ran.out)
            if arguments[0] == "sync" and "--json" in arguments:
                assert sum(count["inserted"] for count in ran.json["objects"]) > 60
            if arguments[0] == "retire":
                assert [retired["state"] for retired in ran.json["retirements"]] == ["erased"]


@pytest.mark.parametrize("match", [{"user_id": "id"}, {"username": "username"}], ids=["where they are", "rewritten"])
def test_the_sink_erases_rows_of_upstreams_tables_too(
    tmp_path: Path, aspects_pii: Callable[..., Any], match: dict[str, str]
) -> None:
    document = yaml.safe_load(find_resource("config/pii.yaml").read_text())
    document["targets"]["event_sink.course_enrollment"]["match"] = match
    del document["targets"]["event_sink.course_enrollment"]["empty_while_off"]
    (tmp_path / "pii.yaml").write_text(yaml.safe_dump(document))
    with ClickHouse(find_address(tmp_path)) as client:
        migrate(client)
        add_person(client, LEARNER)
        aspects.replace_enrolments(client)
        client.execute(
            "INSERT INTO $event_sink.course_enrollment (id, course_key, username, user_id, time_last_dumped) "
            "SELECT 1, {course:String}, {username:String}, {user:Int32}, '2026-01-01'",
            course=A,
            username=f"user{LEARNER}",
            user=LEARNER,
        )
    with acting_as(NAMES.sink, tmp_path, plan_access(load_map(tmp_path / "pii.yaml"), DATABASES)):
        ran = aspects_pii("retire", LEARNER, "--json", PII_MAP=str(tmp_path / "pii.yaml"))
        assert ran.status == 0, ran.err + ran.out
    with ClickHouse(find_address(tmp_path)) as client:
        assert client.rows("SELECT user_id, username FROM $event_sink.course_enrollment") == [(LEARNER, "")]


def test_the_sink_can_neither_change_the_ledger_nor_touch_what_is_not_its_own(tmp_path: Path) -> None:
    with ClickHouse(find_address(tmp_path)) as client:
        migrate(client)
    with connected(NAMES.sink, tmp_path) as client:
        for statement in (
            "DELETE FROM $pii_ledger.entries WHERE 1",
            "ALTER TABLE $pii_ledger.entries UPDATE detail = '' WHERE 1",
            "TRUNCATE TABLE $pii_ledger.entries",
            "DROP TABLE $pii_ledger.entries",
            "DELETE FROM $pii_ledger.role_assignments WHERE 1",
            "ALTER TABLE $pii_ledger.role_assignments UPDATE role = '' WHERE 1",
            "TRUNCATE TABLE $pii_ledger.role_assignments",
            "DROP TABLE $pii_ledger.role_assignments",
            "DROP TABLE $event_sink.course_enrollment",
            "DROP DATABASE $event_sink",
            "DELETE FROM $xapi.xapi_events_all WHERE 1",
            "INSERT INTO $xapi.xapi_events_all SELECT generateUUIDv4(), now64(6), ''",
            "INSERT INTO $event_sink.course_overviews (org) SELECT ''",
            "CREATE TABLE $event_sink.copy ENGINE = MergeTree ORDER BY user_id AS SELECT * FROM $event_sink.user_profile",
        ):
            assert is_refused(client, statement), statement


# ── dbt, dashboards, viewers ─────────────────────────────────────────────────────────────────────────────────────


def add_profile(client: ClickHouse, user_id: int, username: str) -> None:
    client.execute(
        "INSERT INTO $event_sink.user_profile (id, user_id, name, username, email, time_last_dumped) "
        "SELECT {id:Int64}, {id:Int64}, 'A Name', {username:String}, 'them@example.com', now64(6)",
        id=user_id,
        username=username,
    )


def add_person(client: ClickHouse, user_id: int) -> uuid.UUID:
    number = uuid.UUID(int=0x4000 << 64 | user_id)
    add_profile(client, user_id, f"user{user_id}")
    client.execute(
        "INSERT INTO $event_sink.external_id (external_user_id, external_id_type, username, user_id, time_last_dumped) "
        "SELECT {number:UUID}, 'xapi', {username:String}, {id:Int64}, now64(6)",
        number=number,
        id=user_id,
        username=f"user{user_id}",
    )
    return number


def add_learners(client: ClickHouse) -> None:
    """One in each course, for weeks."""
    for user_id, (course, org) in enumerate(COURSES.items(), LEARNER):
        statement = {
            "actor": {"account": {"name": str(add_person(client, user_id))}},
            "verb": {"id": "http://adlnet.gov/expapi/verbs/registered"},
            "object": {"id": f"http://lms.example.com/course/{course}"},
        }
        client.execute(
            "INSERT INTO $xapi.xapi_events_all SELECT generateUUIDv4(), '2026-01-02 00:00:00', {event:String}",
            event=json.dumps(statement),
        )
        client.execute(
            "INSERT INTO $event_sink.course_overviews (org, course_key, display_name, time_last_dumped) "
            "SELECT {org:String}, {course:String}, 'A course', '1'",
            org=org,
            course=course,
        )


def grant_role(client: ClickHouse, org: str = "", course: str = "", role: str = "instructor") -> None:
    client.execute(
        "INSERT INTO $event_sink.course_access (user_id, username, org, course_key, role, time_last_dumped) "
        "SELECT {id:Int64}, {username:String}, {org:String}, {course:String}, {role:String}, now64(6)",
        id=VIEWER,
        username=ME,
        org=org,
        course=course,
        role=role,
    )


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with learners in three courses: the sink keeps their statements, and dbt's role has built the datasets."""
    folder = tmp_path_factory.mktemp("built")
    with ClickHouse(find_address(folder)) as client:
        migrate(client)
        set_pseudonym_key(client, SecretStr("a secret of the tests"))
        add_learners(client)
        add_profile(client, VIEWER, ME)
    with connected(NAMES.sink, folder) as client:
        assert find_events_kept(client) == LEARNER_EVENTS
    with acting_as(NAMES.dbt, folder):
        build(find_address(folder), enable_pii=True, definer=NAMES.definer)
    return folder


@pytest.fixture
def roles(built: Path) -> Iterator[Callable[..., None]]:
    """Gives `default` a role in the LMS, for one test."""

    def give(**role: str) -> None:
        with connected(ADMINISTRATOR, built) as client:
            grant_role(client, **role)

    yield give
    with connected(ADMINISTRATOR, built) as client:
        client.execute("TRUNCATE TABLE $event_sink.course_access")
        client.execute("TRUNCATE TABLE $pii_ledger.entries")


def test_datasets_without_policies_show_everybody(built: Path) -> None:
    """There is something to hide."""
    with connected(ADMINISTRATOR, built) as client:
        for dataset in ("learners_at_risk", "learner_progress", "enrolled_learners", "fact_enrollments"):
            assert read_courses(client, dataset) == set(COURSES)
        assert client.value("SELECT count() FROM $reporting.dim_user_pii") >= len(COURSES)


def test_dbt_builds_views_that_read_with_the_definers_rights(built: Path) -> None:
    with connected(ADMINISTRATOR, built) as client:
        views = dict(
            client.rows(
                "SELECT name, create_table_query LIKE {clause:String} FROM system.tables "
                "WHERE startsWith(comment, '[aspects-pii] ') AND engine = 'View'",
                clause=f"%DEFINER = {NAMES.definer} SQL SECURITY DEFINER%",
            )
        )
    assert set(SHOWN) <= set(views)
    assert len(views) > 25
    assert [name for name, is_definer in views.items() if not is_definer] == []


def test_views_have_the_columns_that_staging_promises(built: Path) -> None:
    """Told the columns, ClickHouse checks them only when somebody looks."""
    with connected(ADMINISTRATOR, built) as client:
        staging = client.column("SELECT name FROM system.tables WHERE database = 'reporting' AND name LIKE 'stg\\_%'")
        assert len(staging) >= 8
        for name in staging:
            client.rows(f"SELECT * FROM $reporting.{name} LIMIT 1")


def test_the_sink_works_on_what_dbt_has_built(built: Path, tmp_path: Path, aspects_pii: Callable[..., Any]) -> None:
    """Retires, proves and opts out over views that are not its own."""
    shutil.copytree(built / "clickhouse", tmp_path / "clickhouse", symlinks=True)
    with acting_as(NAMES.sink, tmp_path):
        for arguments in (("retire", LEARNER), ("verify",), ("map", "check"), ("purge", "--yes"), ("status",)):
            ran = aspects_pii(*arguments)
            assert ran.status == 0, (arguments, ran.err, ran.out)
    with connected(ADMINISTRATOR, tmp_path) as client:
        left = client.column("SELECT name FROM system.tables WHERE database = 'reporting' ORDER BY name")
        assert "learners_at_risk" not in left
        rows = {name: client.value(f"SELECT count() FROM {client.table(name).sql}") for name in PEOPLE}
        assert client.value("SELECT count() FROM $xapi.xapi_events_all") > 0
    assert len(rows) >= 5
    assert set(rows.values()) == {0}


def test_dbt_sees_that_nothing_has_changed_and_that_a_policy_has(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def build_again(plan: AccessPlan) -> list[str]:
        said: list[str] = []
        with acting_as(NAMES.dbt, built, plan):
            build(find_address(built), enable_pii=True, definer=NAMES.definer, report=said.append)
        return said

    assert ["Nothing has changed" in line for line in build_again(PLAN)] == [True]
    monkeypatch.setattr("sink.datasets.build._run_dbt", lambda *_: None)
    policy = RowPolicy("by_hand", "reporting", VIEWER_SCOPES, "scope = 'org'", to=(NAMES.dbt,))
    changed = build_again(replace(PLAN, policies=(*PLAN.policies, policy)))
    assert [line.partition(": ")[2] for line in changed] == ["row policies and grants."]


def test_dbt_can_neither_read_nor_write_a_pii_table(built: Path) -> None:
    with connected(NAMES.dbt, built) as client:
        for name in PEOPLE:
            table = client.table(name).sql
            for statement in (
                f"SELECT * FROM {table}",
                f"SELECT count() FROM {table}",
                f"INSERT INTO {table} (user_id) SELECT 1",
                f"DELETE FROM {table} WHERE 1",
                f"TRUNCATE TABLE {table}",
                f"CREATE VIEW $reporting.peek AS SELECT * FROM {table}",
            ):
                assert is_refused(client, statement), statement
        for statement in (
            "SELECT * FROM $pii_ledger.pseudonym_key",
            "SELECT * FROM $xapi.xapi_events_all",
            "INSERT INTO $pii_ledger.entries (subject) SELECT ''",
            # The definer only reads; nor can dbt make a table to copy to, or take the sink's rights.
            f"CREATE MATERIALIZED VIEW $reporting.copy (n Int64) ENGINE = MergeTree ORDER BY n "
            f"DEFINER = {NAMES.definer} SQL SECURITY DEFINER AS SELECT user_id AS n FROM $event_sink.user_profile",
            "CREATE TABLE $reporting.copy (n Int64) ENGINE = MergeTree ORDER BY n",
            f"CREATE VIEW $reporting.peek (n Int64) DEFINER = {NAMES.sink} SQL SECURITY DEFINER AS SELECT 1 AS n",
            "CREATE VIEW $reporting.peek (n Int64) SQL SECURITY NONE AS SELECT 1 AS n",
            "SHOW ACCESS",
        ):
            assert is_refused(client, statement), statement


def test_dashboards_read_the_datasets_and_nothing_else(built: Path, roles: Callable[..., None]) -> None:
    roles(org="", course="")
    with connected(NAMES.dashboards, built) as client:
        for dataset in SHOWN:
            if dataset != VIEWER_SCOPES:
                client.rows(f"SELECT * FROM $reporting.{dataset} LIMIT 1")
        for statement in (
            *(
                f"SELECT count() FROM {client.table(name).sql}"
                for name, target in PII_MAP.targets.items()
                if not target.optional
            ),
            "SELECT * FROM $event_sink.user_pii",
            "SELECT * FROM $pii_ledger.entries",
            "SELECT * FROM $pii_ledger.tombstones",
            "SELECT * FROM $pii_ledger.restrictions",
            "SELECT * FROM $pii_ledger.withheld",
            "SELECT * FROM $pii_ledger.pseudonym_key",
            "SELECT * FROM $xapi.xapi_events_all",
            "SELECT * FROM $xapi.xapi_events_all_parsed",
            "SELECT * FROM $reporting.stg_event_sink__user_profiles",
            "SELECT * FROM $reporting.int_learners_joined",
            "SELECT * FROM $reporting.int_viewers_scoped",
            "CREATE VIEW $reporting.peek AS SELECT 1 AS n",
            f"CREATE VIEW $reporting.peek (n Int64) DEFINER = {NAMES.definer} SQL SECURITY DEFINER AS SELECT 1 AS n",
            "INSERT INTO $event_sink.course_access (user_id, username) SELECT 1, currentUser()",
        ):
            assert is_refused(client, statement), statement


@pytest.mark.parametrize(
    ("given", "seen"),
    [
        pytest.param({"org": "Org", "course": A}, {A}, id="instructor of a course"),
        pytest.param({"org": "Org", "course": B, "role": "staff"}, {B}, id="staff of a course"),
        pytest.param({"org": "Org"}, {A, B}, id="of an organisation"),
        pytest.param({}, {A, B, C}, id="of all courses"),
        pytest.param({"org": "Org", "course": A, "role": "beta_testers"}, set(), id="another role"),
        pytest.param(None, set(), id="no role"),
    ],
)
def test_a_viewer_sees_their_own_courses(
    built: Path, roles: Callable[..., None], given: dict[str, str] | None, seen: set[str]
) -> None:
    if given is not None:
        roles(**given)
    with connected(NAMES.dashboards, built) as client:
        assert read_courses(client, "learners_at_risk") == seen
        # What has no course is for whoever may see all of them.
        assert client.value("SELECT count() FROM $reporting.privacy_overview") == (seen == set(COURSES))


def test_a_viewer_sees_nothing_else_in_any_dataset_however_they_ask(built: Path, roles: Callable[..., None]) -> None:
    roles(org="Org", course=A)
    datasets = [
        d for d in read_project(find_resource("dbt_project")).datasets if d.name in SHOWN and d.name != VIEWER_SCOPES
    ]
    by_course = [dataset.name for dataset in datasets if "course_key" in dataset.columns]
    assert len(by_course) >= 7
    assert len(datasets) >= len(by_course) + 3
    with connected(NAMES.dashboards, built) as client:
        for dataset in datasets:
            if dataset.name not in by_course:
                assert client.value(f"SELECT count() FROM $reporting.{dataset.name}") == 0, dataset.name
            elif dataset.name == "dim_learner_last_course_visit":
                # Nobody has opened a page.
                assert read_courses(client, dataset.name) == set()
            else:
                assert read_courses(client, dataset.name) == {A}, dataset.name
        for sql in (
            "SELECT uniqExact(course_key) FROM $reporting.learner_progress WHERE 1 OR course_key != ''",
            "SELECT uniqExact(p.course_key) FROM $reporting.learner_progress AS p "
            "LEFT JOIN $reporting.enrolled_learners AS e USING (course_key)",
            "WITH everything AS (SELECT * FROM $reporting.learner_progress) SELECT uniqExact(course_key) FROM everything",
        ):
            assert client.value(sql) == 1


def test_a_retired_viewer_sees_nothing(built: Path, roles: Callable[..., None]) -> None:
    roles()
    with connected(NAMES.dashboards, built) as client:
        assert read_courses(client, "learners_at_risk") == set(COURSES)
    with connected(ADMINISTRATOR, built) as client:
        client.execute(
            "INSERT INTO $pii_ledger.entries (subject, at, action, request, detail) "
            "SELECT {subject:String}, now64(6), 'requested', generateUUIDv4(), ''",
            subject=str(VIEWER),
        )
    with connected(NAMES.dashboards, built) as client:
        for dataset in SHOWN:
            if dataset != VIEWER_SCOPES:
                assert client.value(f"SELECT count() FROM $reporting.{dataset}") == 0, dataset


def test_dashboards_that_are_trusted_see_everybody(built: Path) -> None:
    plan = plan_access(PII_MAP, DATABASES, NAMES, trust_dashboards=True)
    with connected(NAMES.dashboards, built, plan) as client:
        assert read_courses(client, "learners_at_risk") == set(COURSES)
        assert is_refused(client, "SELECT * FROM $event_sink.user_profile")


# ── Unknown is not zero ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def held(aspects_pii: Callable[..., Any], tmp_path: Path, lms: str) -> Path:
    on = {"ENABLE_PII": "true", "LMS_DATABASE_URL": lms}
    for arguments in (("init",), ("sync",)):
        assert aspects_pii(*arguments, **on).status == 0
    return tmp_path


def hide(plan: AccessPlan) -> AccessPlan:
    """The plan, and a policy that hides most people from the sink."""
    kept = tuple(p for p in plan.policies if (p.database, p.table) != ("event_sink", "user_profile"))
    hiding = RowPolicy("somebody_elses", "event_sink", "user_profile", "user_id > 100", to=(plan.names.sink,))
    return AccessPlan(plan.names, plan.grants, (*kept, hiding), plan.cluster)


def test_a_sink_that_rows_are_hidden_from_proves_nothing(aspects_pii: Callable[..., Any], held: Path) -> None:
    with acting_as(NAMES.sink, held, hide(PLAN)):
        verified = aspects_pii("verify", LEARNER, "--json")
        assert verified.status == 1
        assert [(f["place"], f["kind"]) for f in verified.json["findings"] if f["kind"] == "unchecked"] == [
            ("event_sink.user_profile", "unchecked")
        ]
        reason = verified.json["findings"][0]["reason"]
        assert "row policies (" in reason
        assert "may hide rows from user default" in reason
        assert "CREATE ROW POLICY" in reason
        retired = aspects_pii("retire", LEARNER, "--json")
        assert retired.status == 1
        assert retired.json["retirements"][0]["state"] == "failed"
        assert "row policies" in json.dumps(retired.json)
        purged = aspects_pii("purge", "--yes")
        assert purged.status == 1
        assert "row policies" in purged.err
    with acting_as(NAMES.sink, held):
        swept = aspects_pii("sweep", "--json")
        assert swept.status == 0, swept.err
        assert [retired["state"] for retired in swept.json["retirements"]] == ["erased"]


def test_a_sink_that_may_not_see_policies_proves_nothing(aspects_pii: Callable[..., Any], held: Path) -> None:
    with acting_as(NAMES.sink, held, without=["SHOW ROW POLICIES"]):
        verified = aspects_pii("verify", LEARNER, "--json")
    assert verified.status == 1
    assert [f["place"] for f in verified.json["findings"] if f["kind"] == "unchecked"] == ["row policies"]
    assert "GRANT SHOW ROW POLICIES" in verified.err + verified.out


def test_policies_that_let_the_sink_see_everything_are_fine(aspects_pii: Callable[..., Any], held: Path) -> None:
    with acting_as(NAMES.sink, held):
        with ClickHouse(find_address(held)) as client:
            assert client.value("SELECT count() FROM system.row_policies WHERE database = 'event_sink'") >= 4
        ran = aspects_pii("verify", "--json")
    assert (ran.status, ran.json["findings"]) == (0, []), ran.err


def test_a_sink_finds_what_is_not_mapped_where_it_may_read_no_row(aspects_pii: Callable[..., Any], held: Path) -> None:
    with connected(ADMINISTRATOR, held) as client:
        client.execute("CREATE DATABASE analytics")
        client.execute(
            "CREATE TABLE analytics.newsletter (email String, event String) ENGINE = MergeTree ORDER BY tuple()"
        )
    with acting_as(NAMES.sink, held):
        checked = aspects_pii("map", "check", "--json")
        retired = aspects_pii("retire", LEARNER, "--json")
    assert checked.json["suspects"] == ["analytics.newsletter.email"], checked.err
    assert [w["place"] for w in checked.json["warnings"]] == ["analytics.newsletter"]
    assert retired.status == 0, retired.out
    assert retired.json["retirements"][0]["receipt"]["suspects"] == ["analytics.newsletter.email"]
