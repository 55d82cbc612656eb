"""Who sees what, and every way round it that we could think of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest

from sink.installation import open_store
from sink.settings import load_settings
from tests.superset.conftest import COURSE_STAFF, OFFICER, Site
from tests.superset.viewer import Viewer, find_text, read_rows

AT_RISK, PROGRESS, PRIVACY = (
    "aspects_pii_learners_at_risk",
    "aspects_pii_learner_progress",
    "aspects_pii_privacy_overview",
)
CONTACTS = "Who to write to"


def list_people(site: Site) -> dict[str, set[str]]:
    """Course → user names of its learners, as ClickHouse has them, without Superset."""
    people: dict[str, set[str]] = {}
    with open_store(load_settings(clickhouse_url=site.environment["ASPECTS_CLICKHOUSE_URL"])) as store:
        for course, username in store.client.rows("SELECT course_key, username FROM $reporting.enrolled_learners"):
            people.setdefault(course, set()).add(username)
    return people


def count_at_risk(site: Site, *courses: str) -> int:
    with open_store(load_settings(clickhouse_url=site.environment["ASPECTS_CLICKHOUSE_URL"])) as store:
        return int(
            store.client.value(
                "SELECT count() FROM $reporting.learners_at_risk WHERE course_key IN {courses:Array(String)}",
                courses=list(courses),
            )
        )


def list_courses(answer: Any) -> set[str]:
    return {row["course_key"] for row in read_rows(answer)}


@pytest.fixture(scope="module")
def datasets(site: Site) -> dict[str, int]:
    """The numbers of the datasets by name."""
    return site.find("dataset")


@pytest.fixture
def instructor(site: Site) -> Iterator[Viewer]:
    """The instructor of course A, who tries to see more."""
    with site.log_in(site.world.username(site.world.of_a)) as viewer:
        yield viewer


def test_each_sees_the_learners_of_their_courses_and_no_others_in_every_chart(site: Site) -> None:
    world, people = site.world, list_people(site)
    a, b, c = world.courses
    everybody = set().union(*people.values())
    expected = {
        world.everywhere: everybody,
        world.of_a: people[a],
        world.of_b_and_c: people[b] | people[c],
        world.nobody: set(),
    }
    contacts = {world.everywhere: tuple(people), world.of_a: (a,), world.of_b_and_c: (b, c), world.nobody: ()}
    assert len(people[a]) > 50
    assert len(everybody - people[a]) > 50
    for user_id, allowed in expected.items():
        with site.log_in(world.username(user_id)) as viewer:
            shown = site.ask_every_chart(viewer)
        assert len(shown) > 20
        assert find_text(shown, sorted(everybody - allowed)) == []
        assert len(shown[CONTACTS]) == count_at_risk(site, *contacts[user_id])
        assert bool(find_text(shown, sorted(allowed))) == bool(allowed)
        if not allowed:
            numbers = [value for rows in shown.values() for row in rows for value in row.values()]
            assert len(numbers) > 5
            assert set(numbers) <= {0, None}


def test_course_staff_see_nothing_of_the_privacy_dashboard_and_the_other_way_round(site: Site) -> None:
    with site.log_in(OFFICER) as officer:
        dashboards = {row["dashboard_title"] for row in officer.list("dashboard")}
        shown = site.ask_every_chart(officer)
    assert dashboards == {"Privacy"}
    assert len(shown) > 5
    assert find_text(shown, sorted(set().union(*list_people(site).values()))) == []
    with site.log_in(site.world.username(site.world.everywhere)) as staff:
        assert "Privacy" not in {row["dashboard_title"] for row in staff.list("dashboard")}


def test_asking_for_other_courses_gives_nothing(site: Site, instructor: Viewer, datasets: Mapping[str, int]) -> None:
    others = [{"col": "course_key", "op": "IN", "val": list(site.world.courses[1:])}]
    for dataset in (AT_RISK, PROGRESS):
        answer = instructor.ask(datasets[dataset], {"columns": ["course_key"], "filters": others})
        assert answer.status_code == 200
        assert read_rows(answer) == []


@pytest.mark.parametrize(
    "where",
    [
        "1 = 1 OR 1 = 1",
        "1 = 1) OR (1 = 1",
        "1 = 1)) OR ((1 = 1",
        "1 = 1 OR course_key != '' --",
        "1 = 1 /* ",
        "course_key IN (SELECT course_key FROM reporting.learner_progress)",
        "1 = 1 UNION ALL SELECT username FROM reporting.learner_progress",
        "{{ '1 = 1) OR (1 = 1' }}",
        "1 = 1; SELECT 1",
        "{% set current_username = 'x' %} 1 = 1 OR 1 = 1",
    ],
)
@pytest.mark.parametrize("place", ["where", "having"])
def test_a_condition_of_ones_own_does_not_widen_what_is_seen(
    site: Site, instructor: Viewer, datasets: Mapping[str, int], where: str, place: str
) -> None:
    query: dict[str, Any] = {"columns": ["course_key"], "extras": {place: where}}
    if place == "having":
        query |= {"metrics": ["count_learners"], "columns": ["course_key"]}
    answer = instructor.ask(datasets[AT_RISK], query)
    if answer.status_code == 200:
        assert list_courses(answer) <= {site.world.courses[0]}
    else:
        assert answer.status_code in (400, 403, 422, 500)


@pytest.mark.parametrize(
    "expression",
    [
        "(SELECT count() FROM reporting.learner_progress)",
        "(SELECT groupArray(email) FROM event_sink.user_profile)",
        "max((SELECT max(email) FROM reporting.learner_progress))",
        "count() FROM reporting.learner_progress --",
        "1) FROM (SELECT 1) UNION ALL (SELECT count() FROM reporting.learner_progress",
    ],
)
@pytest.mark.parametrize("place", ["metric", "column", "order", "filter"])
def test_sql_of_ones_own_reads_no_other_table(
    site: Site, instructor: Viewer, datasets: Mapping[str, int], expression: str, place: str
) -> None:
    metric = {"expressionType": "SQL", "sqlExpression": expression, "label": "mine"}
    column = {"expressionType": "SQL", "sqlExpression": expression, "label": "mine"}
    queries: dict[str, dict[str, Any]] = {
        "metric": {"metrics": [metric]},
        "column": {"columns": [column]},
        "order": {"columns": ["course_key"], "orderby": [[metric, True]]},
        "filter": {"columns": ["course_key"], "filters": [{"col": column, "op": "!=", "val": "x"}]},
    }
    answer = instructor.ask(datasets[AT_RISK], queries[place])
    if answer.status_code != 200:
        assert answer.status_code in (400, 403, 422, 500)
        return
    # Some filters are passed over; then it is as if they had not been there.
    assert place == "filter"
    assert list_courses(answer) <= {site.world.courses[0]}
    assert find_text(answer.json()["result"][0]["query"], ["user_profile", "learner_progress"]) == []


@pytest.mark.parametrize("kind", ["samples", "drill_detail", "full", "results"])
@pytest.mark.parametrize("form", ["json", "csv"])
def test_every_kind_of_answer_is_filtered(
    site: Site, instructor: Viewer, datasets: Mapping[str, int], kind: str, form: str
) -> None:
    body = {
        "datasource": {"id": datasets[PROGRESS], "type": "table"},
        "queries": [{"columns": ["course_key", "username"], "row_limit": 50_000}],
        "result_format": form,
        "result_type": kind,
    }
    answer = instructor.http.post("/api/v1/chart/data", json=body)
    if answer.status_code != 200:
        assert answer.status_code in (400, 403, 404)
        return
    a, people = site.world.courses[0], list_people(site)
    assert find_text(answer.text, sorted(set().union(*people.values()) - people[a])) == []


def test_a_table_can_be_downloaded(site: Site, instructor: Viewer, datasets: Mapping[str, int]) -> None:
    body = {
        "datasource": {"id": datasets[AT_RISK], "type": "table"},
        "queries": [{"columns": ["username"], "row_limit": 50_000}],
        "result_format": "csv",
        "result_type": "full",
    }
    answer = instructor.http.post("/api/v1/chart/data", json=body)
    assert answer.status_code == 200
    assert len(answer.text.strip().splitlines()) == 1 + count_at_risk(site, site.world.courses[0])


def test_a_filter_offers_only_what_its_reader_may_see(
    site: Site, instructor: Viewer, datasets: Mapping[str, int]
) -> None:
    answer = instructor.ask(datasets[AT_RISK], {"columns": ["course_key"], "metrics": ["count_learners"]})
    assert list_courses(answer) == {site.world.courses[0]}


def test_datasets_of_another_role_are_closed(instructor: Viewer, datasets: Mapping[str, int]) -> None:
    assert instructor.ask(datasets[PRIVACY], {"columns": []}).status_code == 403


def test_sql_lab_and_datasets_of_ones_own_are_closed(
    site: Site, instructor: Viewer, datasets: Mapping[str, int]
) -> None:
    connection = site.admin.list("database")[0]["id"]
    sql = "SELECT email FROM event_sink.user_profile"
    attempts = [
        instructor.http.post("/api/v1/sqllab/execute/", json={"database_id": connection, "sql": sql}),
        instructor.http.post(
            "/api/v1/dataset/", json={"database": connection, "schema": "reporting", "table_name": "x", "sql": sql}
        ),
        instructor.http.post(
            "/api/v1/dataset/", json={"database": connection, "schema": "reporting", "table_name": "learner_progress"}
        ),
        instructor.http.put(f"/api/v1/dataset/{datasets[AT_RISK]}", json={"sql": sql}),
        instructor.http.delete(f"/api/v1/dataset/{datasets[AT_RISK]}"),
        instructor.http.get("/api/v1/rowlevelsecurity/"),
        instructor.http.get("/api/v1/security/roles/"),
        instructor.http.get("/api/v1/database/"),
    ]
    assert {answer.status_code for answer in attempts} <= {403, 404, 405}


def test_a_name_that_would_end_a_literal_is_nobodys(site: Site, datasets: Mapping[str, int]) -> None:
    for name in ("o'brien' OR '1'='1", "') OR 1 = 1 --", "{{ 1 }}", "\\"):
        site.add_user(name, COURSE_STAFF)
        with site.log_in(name) as viewer:
            answer = viewer.ask(datasets[PROGRESS], {"columns": ["course_key"]})
        assert answer.status_code == 200
        assert read_rows(answer) == []


def test_access_to_every_dataset_is_not_enough_without_the_role(site: Site, datasets: Mapping[str, int]) -> None:
    # Alpha may use all data that Superset has; whose name has every course in the LMS, without our role.
    name = site.world.username(site.world.lms.global_staff[1])
    site.add_user(name, "Alpha")
    with site.log_in(name) as viewer:
        answer = viewer.ask(datasets[PROGRESS], {"columns": ["course_key"]})
    assert answer.status_code == 200
    assert read_rows(answer) == []


@contextmanager
def without_rules(site: Site) -> Iterator[None]:
    rules = site.admin.list("rowlevelsecurity")
    assert len(rules) == 4
    for rule in rules:
        assert site.admin.http.delete(f"/api/v1/rowlevelsecurity/{rule['id']}").status_code == 200
    try:
        yield
    finally:
        site.succeed("dashboards", "install")
        assert len(site.admin.list("rowlevelsecurity")) == 4


@contextmanager
def without_condition(site: Site, dataset: int) -> Iterator[None]:
    sql = site.admin.get(f"/api/v1/dataset/{dataset}").json()["result"]["sql"]
    bare = sql[: sql.lower().index("where")]
    answer = site.admin.http.put(f"/api/v1/dataset/{dataset}", json={"sql": bare})
    assert answer.status_code == 200, answer.text
    try:
        yield
    finally:
        site.succeed("dashboards", "install")
        assert site.admin.get(f"/api/v1/dataset/{dataset}").json()["result"]["sql"] == sql


def test_each_layer_holds_alone(site: Site, instructor: Viewer, datasets: Mapping[str, int]) -> None:
    query = {"columns": ["course_key"]}
    dataset, a = datasets[PROGRESS], site.world.courses[0]
    with without_rules(site):
        assert list_courses(instructor.ask(dataset, query)) == {a}
    with without_condition(site, dataset):
        assert list_courses(instructor.ask(dataset, query)) == {a}
    # These two are all there is in Superset: what they keep back is really there.
    with without_rules(site), without_condition(site, dataset):
        assert len(list_courses(instructor.ask(dataset, query))) == len(site.world.lms.courses)
    assert list_courses(instructor.ask(dataset, query)) == {a}


def test_results_are_kept_for_nobody(instructor: Viewer, datasets: Mapping[str, int]) -> None:
    for _ in range(2):
        answer = instructor.ask(datasets[PROGRESS], {"columns": ["username"]})
        assert answer.status_code == 200
        assert answer.json()["result"][0]["is_cached"] in (None, False)


def test_without_templates_nothing_is_installed_and_nothing_is_shown(site: Site, datasets: Mapping[str, int]) -> None:
    name = site.world.username(site.world.everywhere)
    with site.log_in(name) as viewer:
        assert len(list_courses(viewer.ask(datasets[PROGRESS], {"columns": ["course_key"]}))) > 3
    with site.server.running(WITHOUT_TEMPLATES="1") as url:
        ran = site.run("dashboards", "install", SUPERSET_URL=url)
        assert ran.status == 1
        assert "ENABLE_TEMPLATE_PROCESSING" in ran.err
        with site.log_in(name, url) as viewer:
            answer = viewer.ask(datasets[PROGRESS], {"columns": ["course_key"]})
    # The condition is then a text that is nobody's name.
    assert answer.status_code == 200
    assert read_rows(answer) == []
