"""What the dashboards ask, on the engine: every dataset and chart, as whoever is looking. Superset itself: tests/superset."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from jinja2.sandbox import SandboxedEnvironment

from sink.clickhouse.address import Address
from sink.clickhouse.client import ClickHouse
from sink.clickhouse.migrations import migrate
from sink.dashboards.bundle import Bundle, load_bundle
from sink.datasets.build import build
from sink.ledger.pseudonym_key import set_pseudonym_key

# Names that are not the usual ones, so that none is taken for granted.
DATABASES = {name: f"site_{name}" for name in ("event_sink", "xapi", "reporting", "pii_ledger")}
A, B = "course-v1:Org+A+2026", "course-v1:Other+B+2026"
LEARNERS = {1: A, 2: A, 3: B}
# A name that would end a literal.
INSTRUCTOR_OF_A, STAFF_OF_OTHER, GLOBAL_STAFF, NOBODY = "o'brien\\", "staff", "global", "user3"
VIEWERS = {
    10: (INSTRUCTOR_OF_A, {"course_key": A, "org": "Org", "role": "instructor"}),
    11: (STAFF_OF_OTHER, {"course_key": "", "org": "Other", "role": "staff"}),
    12: (GLOBAL_STAFF, {"course_key": "", "org": "", "role": "staff"}),
}


def add_people(client: ClickHouse) -> None:
    for user_id, name in [*((i, f"user{i}") for i in LEARNERS), *((i, name) for i, (name, _) in VIEWERS.items())]:
        client.execute(
            "INSERT INTO $event_sink.user_profile (id, user_id, name, username, email, country, time_last_dumped) "
            "SELECT {id:Int64}, {id:Int64}, 'A Name', {username:String}, 'them@example.com', 'ES', now64(6)",
            id=user_id,
            username=name,
        )
    for user_id, (name, role) in VIEWERS.items():
        client.execute(
            "INSERT INTO $event_sink.course_access (user_id, username, org, course_key, role, time_last_dumped) "
            "SELECT {id:Int64}, {name:String}, {org:String}, {course_key:String}, {role:String}, now64(6)",
            id=user_id,
            name=name,
            org=role["org"],
            course_key=role["course_key"],
            role=role["role"],
        )
    for user_id, course in LEARNERS.items():
        number = uuid.UUID(int=0x4000 << 64 | user_id)
        client.execute(
            "INSERT INTO $event_sink.external_id (external_user_id, external_id_type, username, user_id, time_last_dumped) "
            "SELECT {number:UUID}, 'xapi', {name:String}, {id:Int64}, now64(6)",
            number=number,
            name=f"user{user_id}",
            id=user_id,
        )
        for verb in ("http://adlnet.gov/expapi/verbs/registered", "https://w3id.org/xapi/dod-isd/verbs/navigated"):
            client.execute(
                "INSERT INTO $xapi.xapi_events_all SELECT generateUUIDv4(), '2026-01-02 00:00:00', {event:String}",
                event=json.dumps(
                    {
                        "actor": {"account": {"name": str(number)}},
                        "verb": {"id": verb},
                        "object": {"id": f"http://lms.example.com/course/{course}"},
                    }
                ),
            )


@pytest.fixture(scope="module", params=[True, False], ids=["pii-on", "pii-off"])
def site(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[ClickHouse, Bundle]]:
    """An engine with the datasets built, and the bundle for it."""
    address = Address(f"chdb://{tmp_path_factory.mktemp('clickhouse')}", databases=DATABASES)
    with ClickHouse(address) as client:
        migrate(client)
        set_pseudonym_key(client)
        add_people(client)
        # What the datasets hold is tested elsewhere.
        build(
            address,
            ("--exclude-resource-type", "test", "--exclude-resource-type", "unit_test"),
            enable_pii=request.param,
        )
        bundle = load_bundle(
            enable_pii=request.param, language="es", databases=DATABASES, database_uri="clickhousedb://h"
        )
        yield client, bundle


def pick(bundle: Bundle, kind: str) -> list[dict[str, Any]]:
    found = [document for path, document in bundle.files.items() if path.startswith(f"{kind}/")]
    assert len(found) >= 6
    return found


def render(sql: str, viewer: str | None = None, roles: tuple[str, ...] = ()) -> str:
    """SQL as Superset sends it for somebody."""
    template = SandboxedEnvironment().from_string(sql)
    return template.render(current_username=lambda: viewer, current_user_roles=lambda: list(roles))


def test_a_dataset_has_the_columns_and_types_that_it_says(site: tuple[ClickHouse, Bundle]) -> None:
    client, bundle = site
    for dataset in pick(bundle, "datasets"):
        described = client.rows(f"DESCRIBE ({render(dataset['sql'])})")
        said = {column["column_name"]: column["type"] for column in dataset["columns"]}
        assert {name: kind for name, kind, *_ in described} == said, dataset["table_name"]


def test_the_engine_understands_what_every_chart_asks(site: tuple[ClickHouse, Bundle]) -> None:
    client, bundle = site
    datasets = {dataset["uuid"]: dataset for dataset in pick(bundle, "datasets")}
    for chart in pick(bundle, "charts"):
        dataset = datasets[chart["dataset_uuid"]]
        expressions = {metric["metric_name"]: metric["expression"] for metric in dataset["metrics"]}
        (query,) = json.loads(chart["query_context"])["queries"]
        columns = [c if isinstance(c, str) else c["sqlExpression"] for c in query["columns"]]
        selected = [*columns, *(f"{expressions[name]} AS {name}" for name in query.get("metrics", []))]
        where = f"WHERE {query['extras']['where']}" if query["extras"]["where"] else ""
        group = f"GROUP BY {', '.join(columns)}" if columns and query.get("metrics") else ""
        order = ", ".join(f"{name} {'ASC' if is_up else 'DESC'}" for name, is_up in query["orderby"])
        asked = f"SELECT {', '.join(selected)} FROM ({render(dataset['sql'], GLOBAL_STAFF)}) {where} {group}"
        client.rows(f"{asked} ORDER BY {order}" if order else asked)


@pytest.mark.parametrize("site", [True], indirect=True)
@pytest.mark.parametrize(
    ("viewer", "courses"),
    [
        (INSTRUCTOR_OF_A, {A}),
        (STAFF_OF_OTHER, {B}),
        (GLOBAL_STAFF, {A, B}),
        (NOBODY, set()),
        ("' or 1 = 1 --", set()),
        ("", set()),
        (None, set()),
    ],
    ids=["instructor", "organisation", "global", "nobody", "hostile", "empty", "without"],
)
def test_the_condition_alone_lets_a_viewer_see_their_courses(
    site: tuple[ClickHouse, Bundle], viewer: str | None, courses: set[str]
) -> None:
    client, bundle = site
    datasets = [d for d in pick(bundle, "datasets") if "viewer_scopes" in d["sql"]]
    assert len(datasets) == 5
    for dataset in datasets:
        seen = client.column(f"SELECT DISTINCT course_key FROM ({render(dataset['sql'], viewer)})")
        assert set(seen) == courses, dataset["table_name"]


def test_the_rule_alone_does_the_same(site: tuple[ClickHouse, Bundle]) -> None:
    client, bundle = site
    (rule,) = (rule for rule in bundle.rules if rule.filter_type == "Regular" and "viewer_scopes" in rule.clause)
    courses = f"(SELECT arrayJoin(['{A}', '{B}']) AS course_key, if(course_key = '{A}', 'Org', 'Other') AS org)"
    is_on = len(bundle.files) > 40
    for viewer, seen in ((INSTRUCTOR_OF_A, {A}), (STAFF_OF_OTHER, {B}), (GLOBAL_STAFF, {A, B}), (NOBODY, set())):
        found = client.column(f"SELECT course_key FROM {courses} WHERE ({render(rule.clause, viewer)})")
        # With PII off, roles are known by digests, and none was copied here.
        assert set(found) == (seen if is_on else set())


def test_privacy_is_for_its_role(site: tuple[ClickHouse, Bundle]) -> None:
    client, bundle = site
    (overview,) = (d for d in pick(bundle, "datasets") if d["table_name"] == "aspects_pii_privacy_overview")
    assert len(client.rows(render(overview["sql"], GLOBAL_STAFF, ("aspects_pii_privacy",)))) == 1
    assert client.rows(render(overview["sql"], GLOBAL_STAFF, ("Admin", "aspects_pii_course_staff"))) == []
    metrics = ", ".join(metric["expression"] for metric in overview["metrics"])
    (numbers,) = client.rows(f"SELECT {metrics} FROM ({render(overview['sql'], 'admin', ('Admin',))})")
    assert set(numbers) == {None}, "no number is not zero"
