"""What is granted follows from the map, the migrations and the dbt project; each role has what it needs and no more."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from sink.clickhouse.migrations import list_statements
from sink.datasets.access import SYSTEM_TABLES, plan_access
from sink.datasets.grants import AccessPlan, Grant, RoleNames, render
from sink.datasets.project import Dataset, Project, read_project, read_schema
from sink.errors import UsageError
from sink.pii_map import Retention, load_map
from sink.resources import find_resource
from sink.visibility import VIEWER_SCOPES, render_visible_to

NAMES = RoleNames()
DATABASES = {"event_sink": "event_sink", "xapi": "xapi", "reporting": "reporting", "pii_ledger": "pii_ledger"}
PII_MAP = load_map(find_resource("config/pii.yaml"))
PROJECT = read_project(find_resource("dbt_project"))
PLAN = plan_access(PII_MAP, DATABASES)
PII_TABLES = {name for name, target in PII_MAP.targets.items() if not target.is_anonymised}
# They print grants, or are about the embedded engine, which grants nothing.
WITHOUT_GRANTS = ("sink.datasets.access", "sink.doors.cli.demo", "sink.endpoint.engine", "sink.endpoint.execution")


def find_grants(plan: AccessPlan, role: str, privilege: str = "") -> set[str]:
    """The tables on which `role` has `privilege`, or any, as database.table."""
    return {
        f"{grant.database}.{grant.table}"
        for grant in plan.grants[role]
        if grant.name is None and (not privilege or privilege in grant.privileges)
    }


def test_plan_is_not_empty() -> None:
    assert len(PII_TABLES) >= 5
    assert len(PROJECT.datasets) > 25
    assert len(PLAN.policies) > 50
    assert set(PLAN.grants) == {NAMES.sink, NAMES.dbt, NAMES.dashboards, NAMES.definer}


def test_pii_tables_are_read_by_the_sink_and_the_definer_alone() -> None:
    assert not find_grants(PLAN, NAMES.dbt) & PII_TABLES
    assert not find_grants(PLAN, NAMES.dashboards) & PII_TABLES
    assert not find_grants(PLAN, NAMES.dbt) & {"event_sink.*", "xapi.*", "pii_ledger.*"}
    everywhere = [grant.privileges for grant in PLAN.grants[NAMES.dbt] if grant.on == "*.*"]
    assert everywhere == [("SHOW ROW POLICIES",)]
    assert {grant.privileges for grant in PLAN.grants[NAMES.definer]} == {("SELECT",)}
    assert {grant.privileges for grant in PLAN.grants[NAMES.dashboards]} == {("SELECT",)}


def test_pii_tables_are_written_by_the_sink() -> None:
    for privilege in ("INSERT", "ALTER DELETE", "ALTER UPDATE"):
        assert find_grants(PLAN, NAMES.sink, privilege) >= PII_TABLES


def test_the_sink_changes_events_and_deletes_none() -> None:
    assert "xapi.xapi_events_all" in find_grants(PLAN, NAMES.sink, "ALTER UPDATE")
    for privilege in ("INSERT", "ALTER DELETE"):
        assert "xapi.xapi_events_all" not in find_grants(PLAN, NAMES.sink, privilege)


def test_dashboards_read_the_database_of_reports_only() -> None:
    assert {grant.database for grant in PLAN.grants[NAMES.dashboards]} == {"reporting"}
    granted = {grant.table for grant in PLAN.grants[NAMES.dashboards]}
    assert granted == {d.name for d in PROJECT.datasets if d.is_shown and d.database == "reporting"}
    assert len(granted) >= 9
    assert VIEWER_SCOPES in granted


@pytest.mark.parametrize("table", ["entries", "role_assignments"])
def test_the_ledger_and_the_trail_of_roles_are_append_only_for_everybody(table: str) -> None:
    granted = {
        role: grant.privileges
        for role, grants in PLAN.grants.items()
        for grant in grants
        if (grant.database, grant.table) == ("pii_ledger", table)
    }
    assert NAMES.sink in granted
    for role, privileges in granted.items():
        # An index of what is there changes nothing of it.
        indexes = {"ALTER ADD INDEX", "ALTER MATERIALIZE INDEX"} if role == NAMES.sink else set()
        assert set(privileges) <= {"SELECT", "INSERT", "CREATE TABLE"} | indexes, role


def test_a_table_of_a_migration_and_a_target_of_the_map_are_granted_without_being_listed_twice() -> None:
    statements = [*list_statements(), "CREATE TABLE IF NOT EXISTS $pii_ledger.notes (n Int8) ENGINE = ${replicated}Log"]
    targets = {**PII_MAP.targets, "certificates.history": PII_MAP.targets["event_sink.user_profile"]}
    plan = plan_access(
        PII_MAP.model_copy(update={"targets": targets}), DATABASES, schema=read_schema(statements, replicated=True)
    )
    assert "pii_ledger.notes" in find_grants(plan, NAMES.sink, "INSERT")
    assert Grant(("TABLE ENGINE",), name="ReplicatedLog") in plan.grants[NAMES.sink]
    assert "certificates.history" in find_grants(plan, NAMES.sink, "ALTER DELETE")
    assert "certificates.*" in find_grants(plan, NAMES.sink, "SELECT")
    hidden = [p for p in plan.policies if (p.database, p.table) == ("certificates", "history")]
    assert [(p.using, p.to, p.unless) for p in hidden] == [
        ("1", (NAMES.sink, NAMES.definer), ()),
        ("0", (), (NAMES.sink, NAMES.definer)),
    ]


def test_a_dataset_is_shown_to_whoever_has_its_course_its_organisation_or_everything() -> None:
    project = Project(
        (
            Dataset("reporting", "by_course", True, ("course_key", "org")),
            Dataset("reporting", "totals", True, ("learners",)),
            Dataset("reporting", "a_step", False, ("course_key",)),
            Dataset("reporting", VIEWER_SCOPES, True, ("scope", "org", "course_key")),
            Dataset("xapi", "events", True, ("course_key",)),
        ),
        (),
    )
    plan = plan_access(PII_MAP, DATABASES, project=project)
    using = {p.table: p.using for p in plan.policies if p.name == "aspects_pii_others" and p.database == "reporting"}
    # Upstream's stored copy of names is a table of the map.
    assert set(using) == {"by_course", "totals", "a_step", "fact_video_engagement"}
    assert using["by_course"] == render_visible_to("currentUser()", "reporting")
    assert using["totals"] == render_visible_to("currentUser()", "reporting", has_course=False, has_org=False)
    assert using["a_step"] == "0"
    assert "xapi" not in {p.database for p in plan.policies}


def test_every_policy_for_others_comes_with_one_for_those_who_see_everything() -> None:
    services = {(p.database, p.table): p for p in PLAN.policies if p.name == "aspects_pii_services"}
    others = {(p.database, p.table): p for p in PLAN.policies if p.name == "aspects_pii_others"}
    assert services.keys() == others.keys()
    for place, policy in services.items():
        assert policy.using == "1"
        assert policy.to == others[place].unless
        assert not others[place].to


def test_whom_an_operator_exempts_is_left_alone_and_nobody_else() -> None:
    plan = plan_access(PII_MAP, DATABASES, exempt=["a report's account"])
    assert all("a report's account" in (*policy.to, *policy.unless) for policy in plan.policies)
    assert [policy.using for policy in plan.policies] == [policy.using for policy in PLAN.policies]


def test_trust_in_dashboards_ends_at_the_datasets() -> None:
    plan = plan_access(PII_MAP, DATABASES, trust_dashboards=True)
    trusted = {(p.database, p.table) for p in plan.policies if NAMES.dashboards in (*p.to, *p.unless)}
    assert trusted == {(d.database, d.name) for d in PROJECT.datasets if d.is_shown and d.database == "reporting"} - {
        ("reporting", VIEWER_SCOPES)
    }


def test_a_cluster_gets_every_statement() -> None:
    plan = plan_access(PII_MAP, DATABASES, cluster="aspects")
    statements = [*plan.statements(), *plan.removals()]
    assert len(statements) > 100
    assert all("ON CLUSTER `aspects`" in statement for statement in statements)
    assert Grant(("TABLE ENGINE",), name="ReplicatedMergeTree") in plan.grants[NAMES.sink]


def test_statements_can_be_run_again_and_removals_take_out_all_that_was_made() -> None:
    made = [s for s in PLAN.statements() if s.startswith("CREATE")]
    assert all("IF NOT EXISTS" in s or "OR REPLACE" in s for s in made)
    granted = [s for s in PLAN.statements() if s.startswith("GRANT")]
    assert len(granted) == len(PLAN.grants)
    assert all(s.endswith("WITH REPLACE OPTION") for s in granted)
    assert len(list(PLAN.removals())) == len(made)
    assert all("IF EXISTS" in s for s in PLAN.removals())
    assert render(PLAN) == render(plan_access(PII_MAP, DATABASES))


def test_other_names_of_databases_go_everywhere() -> None:
    plan = plan_access(PII_MAP, {name: f"our_{name}" for name in DATABASES})
    text = render(plan)
    assert not [name for name in DATABASES if f"`{name}`." in text]
    assert "`our_reporting`.`viewer_scopes`(viewer = currentUser())" in text


@pytest.mark.parametrize("what", ["sink", "dbt", "dashboards", "definer"])
@pytest.mark.parametrize("name", ["", "a b", "a`b", "1a", "a;b", "ä"])
def test_a_name_that_cannot_stand_in_sql_is_refused(what: str, name: str) -> None:
    with pytest.raises(UsageError, match=f"{what} role is not valid"):
        replace(NAMES, **{what: name})


def test_every_system_table_that_is_read_is_granted() -> None:
    root = Path(find_resource("sql")).parent
    modules = {
        ".".join(path.relative_to(root).with_suffix("").parts): path.read_text()
        for path in (root / "sink").rglob("*.py")
        if "_data" not in path.parts
    }
    assert len(modules) > 60
    assert set(WITHOUT_GRANTS) <= set(modules), "a module that is named here has gone; name the one that it became"
    used = {
        name
        for module, text in modules.items()
        if module not in WITHOUT_GRANTS
        for name in re.findall(r"(?:FROM |JOIN |')system\.(\w+)", text)
    }
    assert len(used) >= 5
    # The driver reads the settings. The directories matter only to the embedded engine, which grants nothing.
    assert (used | {"settings"}) - {"user_directories"} == set(SYSTEM_TABLES)


def test_the_readers_of_files_find_what_is_there() -> None:
    schema = read_schema(list_statements())
    assert set(schema.databases) == set(DATABASES)
    assert ("pii_ledger", "migrations") in schema.tables
    assert ("event_sink", "user_profile") in schema.tables
    assert ("pii_ledger", "marked_entries") in schema.read_by["pii_ledger", "tombstones"]
    assert schema.read_by["pii_ledger", "marked_entries"] == (("pii_ledger", "entries"),)
    assert schema.engines == ("MergeTree", "ReplacingMergeTree")
    assert ("event_sink", "user_profile") in PROJECT.sources
    assert ("pii_ledger", "withheld") in PROJECT.sources
    assert schema.read_by["pii_ledger", "withheld"] == (("pii_ledger", "tombstones"), ("pii_ledger", "restrictions"))
    assert Dataset("event_sink", "user_pii", True, ("user_id", "external_user_id", "username", "name", "email")) in (
        PROJECT.datasets
    )
    unknown = [d.name for d in PROJECT.datasets if d.is_shown and not d.columns]
    assert not unknown, "their contracts say nothing, so that nobody could see their own rows"


def test_sink_makes_helper_tables_in_the_database_of_the_ledger_and_nowhere_else() -> None:
    made = find_grants(plan_access(PII_MAP, DATABASES), NAMES.sink, "CREATE TABLE")
    assert "pii_ledger.erasing_*" in made
    assert [place for place in made if "erasing" in place] == ["pii_ledger.erasing_*"]
    clauses = [grant.clause for grant in plan_access(PII_MAP, DATABASES).grants[NAMES.sink]]
    assert any(clause.endswith("ON `pii_ledger`.`erasing_`*") for clause in clauses)


def test_the_sink_deletes_events_where_the_map_keeps_them_for_so_many_days_only() -> None:
    kept = {"days": 30, "column": "emission_time"}
    events = PII_MAP.targets["xapi.xapi_events_all"].model_copy(update={"retention": Retention.model_validate(kept)})
    pii_map = PII_MAP.model_copy(update={"targets": {**PII_MAP.targets, "xapi.xapi_events_all": events}})
    assert "xapi.xapi_events_all" in find_grants(plan_access(pii_map, DATABASES), NAMES.sink, "ALTER DELETE")
