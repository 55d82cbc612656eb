"""The figures of the datasets: who has passed, who is at risk, and in which organisation, beside those of Aspects.

Statements have the shapes of xapi-db-load's (`xapi_grade`, `xapi_problem`, `xapi_registration`, `xapi_navigation`). What
Aspects makes of them follows the rules of aspects-dbt 8.0 (`grading_events`, `dim_learner_most_recent_course_state`,
`dim_learner_most_recent_course_grade`, `dim_student_status`) and of its query for learners at risk.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import pytest

from sink.clickhouse.address import Address
from sink.clickhouse.client import ClickHouse
from sink.clickhouse.migrations import migrate
from sink.datasets.build import build

DATABASES = {name: name for name in ("event_sink", "xapi", "reporting", "pii_ledger")}
NOW = datetime.now(UTC).replace(microsecond=0)
LMS = "http://localhost:18000"
COURSES = ["course-v1:Org0+DemoX+2bc51b", "course-v1:Org0+DemoX+81bba1", "course-v1:Org1+DemoX+1937e7"]
CCX = "ccx-v1:Org2+DemoX+2026+ccx@1"
OLD = "Org3/DemoX/2012"
LIBRARY = "library-v1:Org4+Problems"
GRADED_ONLY = "course-v1:Org5+DemoX+bare"
ACTORS = [uuid.UUID(int=0x5000 << 64 | number) for number in range(1, 61)]

COURSE_TYPE = "http://adlnet.gov/expapi/activities/course"
GRADE = "http://www.tincanapi.co.uk/activitytypes/grade_classification"
VERBS = {
    "registered": "http://adlnet.gov/expapi/verbs/registered",
    "unregistered": "http://id.tincanapi.com/verb/unregistered",
    "passed": "http://adlnet.gov/expapi/verbs/passed",
    "earned": "http://id.tincanapi.com/verb/earned",
    "evaluated": "https://w3id.org/xapi/acrossx/verbs/evaluated",
    "navigated": "https://w3id.org/xapi/dod-isd/verbs/navigated",
}


@dataclass(frozen=True)
class Fact:
    """One statement: which actor did what in which course, when; a grade with or without a word on it."""

    actor: uuid.UUID
    course: str
    at: datetime
    verb: str
    score: float | None = None
    classification: str = ""
    block: str = ""

    def write(self) -> tuple[uuid.UUID, datetime, str]:
        address = f"{LMS}/course/{self.course}"
        activity: dict[str, Any] = {"id": address, "objectType": "Activity", "definition": {"type": COURSE_TYPE}}
        statement: dict[str, Any] = {
            "actor": {"account": {"homePage": LMS, "name": str(self.actor)}, "objectType": "Agent"},
            "verb": {"id": VERBS[self.verb], "display": {"en": self.verb}},
            "object": activity,
            "context": {},
            "timestamp": self.at.isoformat(),
            "version": "1.0.3",
        }
        if self.verb in ("registered", "unregistered"):
            activity["definition"]["extensions"] = {"https://w3id.org/xapi/acrossx/extensions/type": "audit"}
        if self.block:
            statement["object"] = {"id": f"{LMS}/xblock/{self.block}", "objectType": "Activity", "definition": {}}
        if self.verb not in ("registered", "unregistered", "passed"):
            statement["context"]["contextActivities"] = {"parent": [activity]}
        if self.score is not None:
            score = {"scaled": self.score, "raw": self.score * 100, "min": 0.0, "max": 100}
            statement["result"] = {"score": score}
        if self.classification:
            statement["result"]["extensions"] = {GRADE: self.classification}
        return uuid.uuid4(), self.at, json.dumps(statement)


def simulate() -> list[Fact]:
    """What xapi-db-load makes at random, with a seed: grades of courses and of sections, answers, visits, enrolments."""
    random, facts = Random(12), []
    for course in COURSES:
        for actor in ACTORS:
            start = NOW - timedelta(days=60)
            facts.append(Fact(actor, course, start, "registered"))
            for _ in range(random.randrange(2, 9)):
                at = start + timedelta(seconds=random.randrange(3600, 60 * 24 * 3600))
                score = random.randint(0, 100) / 100
                section = f"block-v1:{course[10:]}+type@sequential+block@{random.randrange(9):032x}"
                classification = "Pass" if score > 0.65 else "Fail"
                facts.append(
                    random.choice(
                        [
                            Fact(actor, course, at, "earned", score, classification),
                            Fact(actor, course, at, "earned", score, classification),
                            Fact(actor, course, at, "earned", score, block=section),
                            Fact(actor, course, at, "evaluated", score, block=section.replace("sequential", "problem")),
                            Fact(actor, course, at, "passed"),
                            Fact(actor, course, at, "navigated", block=section),
                            Fact(actor, course, at, random.choice(["registered", "unregistered"])),
                        ]
                    )
                )
    return facts


Key = tuple[str, str]


def reckon_as_upstream(facts: list[Fact]) -> dict[Key, tuple[str, str, float]]:
    """(course, actor): state, enrolment and grade, each of the latest statement that says so."""
    state: dict[Key, str] = {}
    enrollment: dict[Key, str] = {}
    grade: dict[Key, float] = {}
    for fact in sorted(facts, key=lambda fact: fact.at):
        key = (fact.course, str(fact.actor))
        if fact.verb in ("registered", "unregistered"):
            enrollment[key] = fact.verb
        if fact.verb == "passed" or fact.classification:
            state[key] = "failed" if fact.classification == "Fail" else "passed"
        if fact.verb == "earned" and not fact.block:
            grade[key] = fact.score or 0
    return {key: (state.get(key, "failed"), enrolled, grade.get(key, 0)) for key, enrolled in enrollment.items()}


def list_special() -> list[Fact]:
    """Courses under keys of other kinds, and grades without a word."""
    when = NOW - timedelta(days=20)
    facts = [Fact(ACTORS[0], course, when, "registered") for course in (CCX, OLD, LIBRARY)]
    for actor, score in ((ACTORS[0], 0.7), (ACTORS[1], 0.4)):
        facts.append(Fact(actor, GRADED_ONLY, when, "registered"))
        facts.append(Fact(actor, GRADED_ONLY, when + timedelta(hours=1), "earned", score))
    # A policy with several grades: the LMS writes the letter.
    facts.append(Fact(ACTORS[2], GRADED_ONLY, when, "registered"))
    facts.append(Fact(ACTORS[2], GRADED_ONLY, when + timedelta(hours=1), "earned", 0.55, "C"))
    return facts


SIMULATED = simulate()


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouse]:
    """Everybody is known; the datasets of learners are built."""
    address = Address(f"chdb://{tmp_path_factory.mktemp('clickhouse')}", databases=DATABASES)
    with ClickHouse(address) as client:
        migrate(client)
        rows = [fact.write() for fact in SIMULATED + list_special()]
        client.insert(client.table("xapi.xapi_events_all"), ["event_id", "emission_time", "event"], rows)
        profiles = [(n, n, f"user{n}", f"user{n}@example.com") for n in range(1, len(ACTORS) + 1)]
        client.insert(client.table("event_sink.user_profile"), ["id", "user_id", "username", "email"], profiles)
        ids = [(actor, "xapi", n) for n, actor in enumerate(ACTORS, start=1)]
        client.insert(client.table("event_sink.external_id"), ["external_user_id", "external_id_type", "user_id"], ids)
        overviews = [
            ("Org5", GRADED_ONLY, "Bare grades", json.dumps({"lowest_passing_grade": 0.5})),
            ("Org0", COURSES[0], "Demo", json.dumps({"lowest_passing_grade": 0.0})),
        ]
        columns = ["org", "course_key", "display_name", "course_data_json"]
        client.insert(client.table("event_sink.course_overviews"), columns, overviews)
        chosen = ("+dim_student_status", "+learners_at_risk", "+learner_progress", "+viewer_scopes")
        build(address, ["--select", *chosen, "--exclude-resource-type", "test"], enable_pii=True)
        yield client


def test_student_status_is_what_aspects_makes_of_the_same_statements(built: ClickHouse) -> None:
    rows = built.rows(
        "SELECT course_key, actor_id, approving_state, enrollment_status, round(course_grade, 4) "
        "FROM $reporting.dim_student_status WHERE course_key IN {courses:Array(String)}",
        courses=COURSES,
    )
    expected = reckon_as_upstream(SIMULATED)
    assert len(rows) == len(expected) == len(COURSES) * len(ACTORS)
    assert {(course, actor): tuple(rest) for course, actor, *rest in rows} == expected
    # Whoever has a Pass without a statement of passing is among them.
    assert len({key for key, (state, *_) in expected.items() if state == "passed"}) > 40


def test_learners_at_risk_are_those_of_aspects_and_those_who_never_came(built: ClickHouse) -> None:
    visits: dict[Key, datetime] = {}
    for fact in SIMULATED:
        if fact.verb == "navigated":
            key = (fact.course, str(fact.actor))
            visits[key] = max(fact.at, visits.get(key, fact.at))
    status = reckon_as_upstream(SIMULATED)
    failing = {key for key, (state, enrolled, _) in status.items() if (state, enrolled) == ("failed", "registered")}
    recent = {key for key, at in visits.items() if at > NOW - timedelta(days=7)}
    rows = built.rows(
        "SELECT course_key, toString(external_user_id) FROM $reporting.learners_at_risk "
        "WHERE course_key IN {courses:Array(String)}",
        courses=COURSES,
    )
    assert len(rows) == len(failing - recent) > 20
    assert {tuple(row) for row in rows} == failing - recent


def test_progress_says_passed_for_a_letter_and_for_a_grade_that_reaches_the_passing_grade(built: ClickHouse) -> None:
    progress = "SELECT username, grade, is_passed FROM $reporting.learner_progress WHERE course_key = {course:String}"
    assert built.rows(f"{progress} ORDER BY username", course=GRADED_ONLY) == [
        ("user1", 0.7, True),
        ("user2", 0.4, False),
        ("user3", 0.55, True),
    ]


@pytest.mark.parametrize(
    ("course", "org", "run"), [(CCX, "Org2", "2026"), (OLD, "Org3", "2012"), (LIBRARY, "Org4", "library")]
)
def test_staff_of_an_organisation_see_courses_under_keys_of_every_kind(
    built: ClickHouse, course: str, org: str, run: str
) -> None:
    built.execute("TRUNCATE TABLE $event_sink.course_access")
    columns = ["user_id", "org", "course_key", "role"]
    built.insert(built.table("event_sink.course_access"), columns, [(9, org, "", "instructor")])
    seen = built.rows(
        "SELECT course_key, org, course_run FROM $reporting.learners_at_risk "
        "WHERE org IN (SELECT org FROM $reporting.viewer_scopes(viewer = 'user9') WHERE scope = 'org')"
    )
    assert seen == [(course, org, run)]
