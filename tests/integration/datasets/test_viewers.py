"""Who may see which course: `viewer_scopes`, from the LMS to the answer, with PII on and off."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import text

from sink.clickhouse.client import ClickHouse
from sink.clickhouse.migrations import migrate
from sink.copying.copies import WITHOUT_PII
from sink.copying.sync import sync
from sink.datasets.build import build, list_datasets
from sink.demo_data.lms_tables import create_tables, open_writable
from sink.endpoint.app import running
from sink.erasure.purge import plan_purge, purge
from sink.installation import open_store
from sink.lms.database import LmsDatabase
from sink.lms.objects import COURSE_ROLES
from sink.resources import find_resource
from sink.settings import load_settings
from sink.store import Store
from sink.visibility import render_visible_to
from tests.support.authz_rows import grant, write_rules
from tests.support.lms_writer import LmsWriter

COURSE, OTHER, ELSEWHERE = "course-v1:Org+A+1", "course-v1:Org+B+1", "course-v1:Else+A+1"
Scopes = list[tuple[str, str, str]]
IN_COURSE: Scopes = [("course", "Org", COURSE)]
EVERYTHING: Scopes = [("global", "", "")]
PASSWORD = SecretStr("secret of the endpoint")

# name: (organisation, course, role) as the LMS has it, and what they may see.
PEOPLE: dict[str, tuple[tuple[str, str, str] | None, Scopes]] = {
    "ann": (("Org", COURSE, "staff"), IN_COURSE),
    "bob": (("Org", "", "instructor"), [("org", "Org", "")]),
    "lim": (("Org", OTHER, "limited_staff"), [("course", "Org", OTHER)]),
    "eve": (None, EVERYTHING),
    "sue": (None, EVERYTHING),
    "odd": (("", COURSE, "staff"), [("course", "", COURSE)]),
    "ray": (("Org", COURSE, "data_researcher"), []),
    "bea": (("Org", COURSE, "beta_testers"), []),
    "leo": (None, []),
    "ina": (("Org", COURSE, "instructor"), []),
    "ret": (("Org", COURSE, "staff"), IN_COURSE),
    "old": (("Org", COURSE, "staff"), IN_COURSE),
    "tim": (("Org", COURSE, "staff"), IN_COURSE),
    "kim": (None, []),
}
# The same for roles that openedx-authz keeps: role and scope, as it has them.
IN_AUTHZ: dict[str, tuple[str, str, Scopes]] = {
    "cai": ("course_limited_staff", COURSE, IN_COURSE),
    "ono": ("course_staff", "course-v1:Org+*", [("org", "Org", "")]),
    "pia": ("course_admin", "course-v1:*", EVERYTHING),
    "dan": ("course_data_researcher", COURSE, []),
    "ben": ("course_beta_tester", COURSE, []),
    "coe": ("ccx_coach", COURSE, []),
    "edi": ("course_editor", COURSE, []),
    "lia": ("library_admin", "lib:Org:slug", []),
}
PEOPLE |= {name: (None, scopes) for name, (_, _, scopes) in IN_AUTHZ.items()}
IDS = {name: number for number, name in enumerate(PEOPLE, start=1)}


@dataclass
class Site:
    """An LMS, and a store with the datasets over it."""

    url: str
    store: Store
    enabled: bool

    def sync(self, *names: str) -> None:
        sync(
            self.store,
            LmsDatabase(self.url),
            enabled=self.enabled,
            objects=() if self.enabled else WITHOUT_PII,
            user_ids=[IDS[name] for name in names] or None,
        )

    def build(self, *, enabled: bool) -> None:
        policy = self.store.policy
        chosen = ["--select", "+viewer_scopes", "--exclude-resource-type", "test"]
        address = self.store.client.address
        build(address, chosen, enable_pii=enabled, pseudonym_secret=policy.pseudonym_secret)

    def change(self, statement: str) -> None:
        engine = open_writable(self.url)
        with engine.begin() as connection:
            connection.execute(text(statement))
        engine.dispose()

    def scopes(self, name: str, client: ClickHouse | None = None) -> Scopes:
        query = "SELECT scope, org, course_key FROM $reporting.viewer_scopes(viewer = {viewer:String}) ORDER BY ALL"
        return (client or self.store.client).rows(query, viewer=name)

    def texts(self) -> str:
        """Everything that is stored beside the PII tables of an installation with PII on."""
        rows = self.store.client.rows("SELECT * FROM $event_sink.course_access_keyed")
        return f"{rows}{self.store.client.rows('SELECT * FROM $pii_ledger.entries')}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("viewers")


@pytest.fixture(scope="module", params=[True, False], ids=["on", "off"])
def site(folder: Path, request: pytest.FixtureRequest) -> Iterator[Site]:
    enabled = bool(request.param)
    name = "on" if enabled else "off"
    url = f"sqlite:///{folder}/{name}.sqlite3"
    fill_lms(url)
    settings = load_settings(
        enable_pii=enabled,
        clickhouse_url=f"chdb://{folder}/clickhouse",
        event_sink_database=f"{name}_sink",
        xapi_database=f"{name}_xapi",
        reporting_database=f"{name}_reporting",
        ledger_database=f"{name}_ledger",
        pseudonym_secret="a secret of the tests",
    )
    with open_store(settings, creates=True) as store:
        migrate(store.client)
        site = Site(url, store, enabled)
        site.sync()
        site.build(enabled=enabled)
        yield site


def fill_lms(url: str) -> None:
    engine = open_writable(url)
    with engine.begin() as connection:
        create_tables(connection)
    engine.dispose()
    with closing(LmsWriter(url)) as lms:
        for name, (role, _) in PEOPLE.items():
            lms.register_user(IDS[name], name, f"{name}@example.com", name.title())
            if role:
                lms.grant_role(IDS[name], *role)
    engine = open_writable(url)
    with engine.begin() as connection:
        for column, value, name in (("is_staff", 1, "eve"), ("is_superuser", 1, "sue"), ("is_active", 0, "ina")):
            connection.execute(text(f"UPDATE auth_user SET {column} = {value} WHERE username = '{name}'"))
        write_rules(connection, *(grant(IDS[name], name, role, scope) for name, (role, scope, _) in IN_AUTHZ.items()))
    engine.dispose()


def test_viewer_sees_what_the_lms_lets_them_see(site: Site) -> None:
    assert {name: site.scopes(name) for name in PEOPLE} == {name: scopes for name, (_, scopes) in PEOPLE.items()}


@pytest.mark.parametrize("name", ["", "nobody", "ANN", "ann ", "%", "' OR 1=1 --", "0"])
def test_unknown_viewer_sees_nothing(site: Site, name: str) -> None:
    assert site.scopes(name) == []


def test_scopes_over_http_are_the_same(site: Site, folder: Path) -> None:
    with running(folder / "clickhouse", password=PASSWORD) as url:
        address = replace(site.store.client.address, url=url, password=PASSWORD)
        with ClickHouse(address) as client:
            assert site.scopes("bob", client) == [("org", "Org", "")]
            assert site.scopes("leo", client) == []
            # As dashboards write it.
            assert client.rows("SELECT scope FROM $reporting.viewer_scopes(viewer = 'ann')") == [("course",)]


@pytest.fixture
def own(site: Site) -> ClickHouse:
    """A dataset with a row for each of three courses."""
    client = site.store.client
    client.execute("CREATE TABLE IF NOT EXISTS $reporting.own (org String, course_key String) ENGINE = Memory")
    client.execute("TRUNCATE TABLE $reporting.own")
    for org, course in (("Org", COURSE), ("Org", OTHER), ("Else", ELSEWHERE)):
        client.execute("INSERT INTO $reporting.own SELECT {org:String}, {course:String}", org=org, course=course)
    return client


def read_courses(client: ClickHouse, query: str) -> dict[str, list[str]]:
    """What each of some viewers sees of `own`."""
    return {
        name: sorted(course for _, course in client.rows(query, viewer=name))
        for name in ("ann", "bob", "eve", "leo", "")
    }


SEEN = {"ann": [COURSE], "bob": [COURSE, OTHER], "eve": [ELSEWHERE, COURSE, OTHER], "leo": [], "": []}


def test_the_conditions_of_the_documentation_hold(own: ClickHouse) -> None:
    found = re.findall(r"```sql\n(.+?)```", (find_resource("docs") / "access.md").read_text(), re.DOTALL)
    conditions = [c.replace("reporting.learners_at_risk", "reporting.own") for c in found if "learners_at_risk" in c]
    assert len(conditions) == 1
    for condition in conditions:
        query = condition.replace("reporting.", "$reporting.").replace("'somebody'", "{viewer:String}")
        assert read_courses(own, query) == SEEN


def test_the_condition_of_the_macro_holds(own: ClickHouse) -> None:
    reporting = own.table("reporting.own").database
    columns: dict[str, tuple[bool, bool]] = {"both": (True, True), "org": (False, True), "neither": (False, False)}
    seen = {}
    for which, (has_course, has_org) in columns.items():
        condition = render_visible_to("{viewer:String}", reporting, has_course=has_course, has_org=has_org)
        seen[which] = read_courses(own, f"SELECT org, course_key FROM $reporting.own WHERE {condition}")
    assert seen == {
        "both": SEEN,
        "org": SEEN | {"ann": []},
        # What has neither is for whoever may see all courses.
        "neither": SEEN | {"ann": [], "bob": []},
    }


def test_a_retired_member_of_staff_sees_nothing_at_once(site: Site) -> None:
    assert site.scopes("ret") == IN_COURSE
    site.store.ledger.request([IDS["ret"]])
    assert site.scopes("ret") == []
    assert site.scopes("ann") == IN_COURSE


def test_new_name_counts_from_the_next_copy_on(site: Site) -> None:
    site.change("UPDATE auth_user SET username = 'new' WHERE username = 'old'")
    site.sync()
    assert site.scopes("new") == IN_COURSE
    assert site.scopes("old") == []


def test_an_account_that_is_deactivated_and_a_role_that_is_taken_away_are_gone_with_the_next_copy(site: Site) -> None:
    site.change("UPDATE auth_user SET is_active = 0 WHERE username = 'sue'")
    site.change(f"DELETE FROM student_courseaccessrole WHERE user_id = {IDS['odd']}")
    site.sync()
    assert (site.scopes("sue"), site.scopes("odd")) == ([], [])


def test_a_name_that_would_fit_two_people_is_nobodys(site: Site) -> None:
    """An account was renamed and another took its name; the second one was copied and the first one was not."""
    site.change("UPDATE auth_user SET username = 'tom' WHERE username = 'tim'")
    site.change("UPDATE auth_user SET username = 'tim' WHERE username = 'kim'")
    site.sync("kim")
    if site.enabled:
        assert site.scopes("tim") == []
    site.sync()
    assert site.scopes("tim") == []
    assert site.scopes("tom") == IN_COURSE
    # Two members of staff under one name.
    if site.enabled:
        insert = "user_profile (id, user_id, username, time_last_dumped) SELECT {lim:Int64}, {lim:Int64}, 'ann'"
    else:
        insert = (
            "course_access_keyed (user_id, org, course_key, role, viewer, time_last_dumped) "
            "SELECT {lim:Int64}, 'Org', 'course', 'staff', "
            "(SELECT any(viewer) FROM $event_sink.course_access_keyed WHERE user_id = {ann:Int64})"
        )
    site.store.client.execute(
        f"INSERT INTO $event_sink.{insert}, now64(6) + toIntervalDay(1)", ann=IDS["ann"], lim=IDS["lim"]
    )
    assert site.scopes("ann") == []
    site.sync()
    assert (site.scopes("ann"), site.scopes("lim")) == (IN_COURSE, [("course", "Org", OTHER)])


def test_no_name_is_stored_while_pii_is_off(site: Site) -> None:
    digests = site.store.client.column("SELECT DISTINCT viewer FROM $event_sink.course_access_keyed")
    if site.enabled:
        assert digests == []
        return
    assert len(digests) >= 5
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in digests)
    for table in ("user_profile", "external_id", "course_access"):
        assert site.store.client.value(f"SELECT count() FROM $event_sink.{table}") == 0
    stored = site.texts()
    assert not [name for name in PEOPLE if re.search(rf"\b{name}\b", stored)]


def test_digests_follow_another_secret_at_the_next_copy(site: Site) -> None:
    other = replace(site.store.policy, pseudonym_secret=SecretStr("another secret of the tests"))
    changed = Site(site.url, replace(site.store, policy=other), site.enabled)
    changed.sync()
    assert changed.scopes("ann") == IN_COURSE
    site.sync()
    assert site.scopes("ann") == IN_COURSE


def test_purge_and_the_switch_to_the_other_side(site: Site) -> None:
    """The last of this file: it leaves the site with PII as it was not."""
    store = site.store
    purge(store, plan_purge(store, list_datasets(store.client)), enabled=False)
    for table in ("user_profile", "course_access", "course_access_keyed"):
        assert store.client.value(f"SELECT count() FROM $event_sink.{table}") == 0
    other = Site(site.url, store, not site.enabled)
    other.sync()
    other.build(enabled=other.enabled)
    assert other.scopes("ann") == IN_COURSE
    assert other.scopes("leo") == []
    # And back again, without a purge: the next copy of roles puts the digests away.
    site.sync()
    site.build(enabled=site.enabled)
    assert site.scopes("ann") == IN_COURSE
    assert bool(store.client.value("SELECT count() FROM $event_sink.course_access_keyed")) is not site.enabled


def test_the_roles_are_those_that_are_copied() -> None:
    project: Any = (find_resource("dbt_project") / "dbt_project.yml").read_text()
    assert re.search(r"viewer_roles: \[(.+)\]", project)[1].split(", ") == list(COURSE_ROLES)  # type: ignore[index]
