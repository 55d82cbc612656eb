"""What becomes of the dashboards: people retire, PII is turned off, everything is taken out. One test follows the other."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from sink.demo_data.people import make_person
from sink.installation import open_store
from sink.settings import load_settings
from tests.superset.conftest import COURSE_STAFF, OFFICER, PRIVACY, Site
from tests.superset.viewer import find_text, read_rows

PSEUDONYM = re.compile(r"Learner [0-9A-Z]{4}-[0-9A-Z]{2}")


def choose_learner(site: Site) -> int:
    """Somebody of B or C who shows on every dashboard with people: at risk, with activity."""
    with open_store(load_settings(clickhouse_url=site.environment["ASPECTS_CLICKHOUSE_URL"])) as store:
        learner: int = store.client.value(
            "SELECT user_id FROM $reporting.learners_at_risk "
            "WHERE course_key IN {courses:Array(String)} ORDER BY days_absent DESC LIMIT 1",
            courses=list(site.world.courses[1:]),
        )
    return learner


def add_cached_dataset(site: Site) -> int:
    """What an operator may well have: a dataset of their own on the same connection, whose results are kept."""
    connection = site.admin.list("database")[0]["id"]
    body = {"database": connection, "schema": "reporting", "table_name": "learner_progress"}
    answer = site.admin.http.post("/api/v1/dataset/", json=body)
    assert answer.status_code == 201, answer.text
    number: int = answer.json()["id"]
    answer = site.admin.http.put(f"/api/v1/dataset/{number}", json={"cache_timeout": 3_600})
    assert answer.status_code == 200, answer.text
    return number


def test_a_retired_learner_is_gone_from_every_chart_and_cache(site: Site) -> None:
    learner = choose_learner(site)
    names = [site.world.username(learner), make_person(site.world.lms.seed, learner).email]
    dataset = add_cached_dataset(site)
    ask: dict[str, Any] = {"columns": ["username"]}
    for is_cached in (False, True):
        answer = site.admin.ask(dataset, ask)
        assert bool(answer.json()["result"][0]["is_cached"]) is is_cached
        assert find_text(read_rows(answer), names[:1]) == names[:1]
    with site.log_in(site.world.username(site.world.everywhere)) as viewer:
        assert find_text(site.ask_every_chart(viewer), names) == names
        ran = site.succeed("retire", learner, "--json")
        shown = site.ask_every_chart(viewer)
    assert len(shown) > 20
    assert find_text(shown, names) == []
    answer = site.admin.ask(dataset, ask)
    assert not answer.json()["result"][0]["is_cached"]
    assert find_text(read_rows(answer), names) == []
    (line,) = json.loads(ran.out)["retirements"][0]["receipt"]["caches"]
    assert line["datasets"] == len(site.find("dataset"))
    assert site.admin.http.delete(f"/api/v1/dataset/{dataset}").status_code == 200


def test_a_retired_member_of_staff_sees_nothing(site: Site) -> None:
    user = site.world.of_b_and_c
    with site.log_in(site.world.username(user)) as viewer:
        before = site.ask_every_chart(viewer)
        assert len(before["Who to write to"]) > 10
        site.succeed("retire", user)
        after = site.ask_every_chart(viewer)
    assert len(after) == len(before)
    values = [value for rows in after.values() for row in rows for value in row.values()]
    assert len(values) > 5
    assert set(values) <= {0, None}


def test_the_privacy_dashboard_shows_retirements_by_id(site: Site) -> None:
    with site.log_in(OFFICER) as officer:
        shown = site.ask_every_chart(officer)
    erased = shown["Who was erased when"]
    assert len(erased) >= 2
    assert str(site.world.of_b_and_c) in json.dumps(erased)
    assert find_text(shown, [site.world.username(site.world.of_b_and_c)]) == []


def test_another_language_changes_titles_and_no_number(site: Site) -> None:
    english = site.find("chart")
    dashboards = site.find("dashboard")
    site.succeed("dashboards", "install", SUPERSET_LANGUAGE="es")
    spanish = site.find("chart")
    assert sorted(spanish.values()) == sorted(english.values())
    assert len(spanish.keys() - english.keys()) > 20
    assert not site.find("dashboard").keys() & dashboards.keys() - {"Privacy"}
    site.succeed("dashboards", "install")
    assert site.find("chart") == english


def test_with_pii_off_pseudonyms_are_shown_and_dashboards_of_people_are_gone(site: Site) -> None:
    # Without user names, staff are known by keyed digests of them.
    site.succeed("sync", "--object", "course_access", ENABLE_PII="false")
    site.succeed("build", "--quiet", ENABLE_PII="false")
    ran = site.succeed("dashboards", "install", "--json", ENABLE_PII="false")
    assert json.loads(ran.out)["removed"]["dashboard"] >= 1
    with open_store(load_settings(clickhouse_url=site.environment["ASPECTS_CLICKHOUSE_URL"])) as store:
        people: list[str] = store.client.column("SELECT username FROM $event_sink.user_profile")
    assert len(people) > 100
    with site.log_in(site.world.username(site.world.everywhere)) as viewer:
        titles = {row["dashboard_title"] for row in viewer.list("dashboard")}
        shown = site.ask_every_chart(viewer)
    assert "Who our learners are" not in titles
    assert "Learners to reach" in titles
    assert find_text(shown, [*people, "@example", "@mail"]) == []
    assert len(set(PSEUDONYM.findall(json.dumps(shown)))) > 50
    site.succeed("build", "--quiet")
    site.succeed("dashboards", "install")


def test_removing_takes_everything_out(site: Site) -> None:
    site.succeed("dashboards", "remove")
    for kind in ("dashboard", "chart", "dataset", "database", "rowlevelsecurity"):
        assert site.admin.list(kind) == []
    assert not {COURSE_STAFF, PRIVACY} & {role["name"] for role in site.admin.list("security/roles")}
    # The accounts are Superset's; what they could do is gone.
    with site.log_in(site.world.username(site.world.everywhere)) as viewer:
        assert viewer.get("/api/v1/dashboard/", q="(page:0)").status_code in (401, 403)


def test_purging_takes_the_dashboards_along(site: Site, tmp_path: Path) -> None:
    site.succeed("dashboards", "install")
    assert len(site.admin.list("dashboard")) == 4
    ran = site.succeed("purge", "--yes", ENABLE_PII="false")
    assert "Superset: removed 4 dashboards" in ran.out
    assert site.admin.list("dashboard") == []
    with open_store(load_settings(clickhouse_url=site.environment["ASPECTS_CLICKHOUSE_URL"])) as store:
        assert store.client.value("SELECT count() FROM $event_sink.user_profile") == 0
