"""The made-up LMS: reproducible, plausible, and the same for whoever only knows the seed."""

from __future__ import annotations

import json
import uuid
from collections import Counter, defaultdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from sink.demo_data.events import (
    COURSE_ENROLLMENT_COLUMNS,
    COURSE_OVERVIEW_COLUMNS,
    course_enrollment_rows,
    course_overview_rows,
    event_rows,
)
from sink.demo_data.lms import create_lms
from sink.demo_data.lms_description import DemoLms, describe_lms, list_enrollments
from sink.demo_data.people import make_external_id, make_person, make_pools
from sink.lms.database import LmsDatabase
from sink.lms.objects import OBJECTS
from tests.support.lms_writer import LmsWriter

USERS = 600


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[DemoLms, str]:
    url = f"sqlite:///{tmp_path_factory.mktemp('lms')}/lms.db"
    return create_lms(url, USERS, 4), url


def read(url: str, name: str) -> list[dict[str, Any]]:
    columns = tuple(OBJECTS[name].columns)
    with LmsDatabase(url).snapshot() as snapshot:
        batches = list(snapshot.rows(name, columns, 10_000))
    assert not any(batch.bad for batch in batches)
    return [dict(zip(columns, row, strict=True)) for batch in batches for row in batch.rows]


def test_seed_gives_the_same_data_again(made: tuple[DemoLms, str], tmp_path: Path) -> None:
    lms, url = made
    again = create_lms(f"sqlite:///{tmp_path}/again.db", USERS, 4)
    other = create_lms(f"sqlite:///{tmp_path}/other.db", USERS, 4, seed=2)
    assert again == lms
    assert list(event_rows(again)) == list(event_rows(lms))
    for name in OBJECTS:
        assert read(f"sqlite:///{tmp_path}/again.db", name) == read(url, name)
    assert read(f"sqlite:///{tmp_path}/other.db", "user_profile") != read(url, "user_profile")
    assert list(event_rows(other)) != list(event_rows(lms))


def test_people_are_plausible(made: tuple[DemoLms, str]) -> None:
    profiles = read(made[1], "user_profile")
    assert len(profiles) == made[0].counts["auth_user"] == USERS
    assert len({p["email"] for p in profiles}) == USERS
    assert all(p["name"].strip() and "@" in p["email"] for p in profiles)
    assert not all(p["name"].isascii() for p in profiles)
    for column in ("year_of_birth", "country", "gender", "bio", "goals", "phone_number", "city"):
        filled = sum(bool(p[column]) for p in profiles)
        assert 0 < filled < USERS, column
    assert all(10 <= 2026 - int(p["year_of_birth"]) <= 90 for p in profiles if p["year_of_birth"])


def test_courses_have_people_who_run_them(made: tuple[DemoLms, str]) -> None:
    lms, url = made
    access = {(row["user_id"], row["org"], row["course_key"], row["role"]) for row in read(url, "course_access")}
    assert len(lms.courses) == 4
    for course in lms.courses:
        assert (lms.instructors[course.key], course.org, course.key, "instructor") in access
        assert (lms.staff[course.key], course.org, course.key, "staff") in access
        assert (lms.org_staff[course.org], course.org, "", "staff") in access
    assert len(lms.global_staff) == 2
    assert all((user_id, "", "", "staff") in access for user_id in lms.global_staff)
    assert len(access) == 4 + 4 + len(lms.org_staff) + 2


@pytest.fixture(scope="module")
def statements(made: tuple[DemoLms, str]) -> list[tuple[uuid.UUID, datetime, dict[str, Any]]]:
    return [(i, at, json.loads(event)) for rows in event_rows(made[0]) for i, at, event in rows]


Statements = list[tuple[uuid.UUID, datetime, dict[str, Any]]]


def course_of(statement: dict[str, Any]) -> str:
    parents = statement["context"].get("contextActivities", {}).get("parent", [statement["object"]])
    assert parents[0]["definition"]["type"] == "http://adlnet.gov/expapi/activities/course"
    return str(parents[0]["id"]).rpartition("/")[2]


def test_events_are_statements_of_known_learners(made: tuple[DemoLms, str], statements: Statements) -> None:
    lms, url = made
    known = {str(row["external_user_id"]) for row in read(url, "external_id") if row["external_id_type"] == "xapi"}
    courses = {course.key for course in lms.courses}
    assert 10 <= len(statements) / USERS <= 20
    assert len({i for i, _, _ in statements}) == len(statements)
    for event_id, at, statement in statements:
        assert statement["id"] == str(event_id)
        assert statement["timestamp"] == at.isoformat()
        assert statement["actor"]["account"]["name"] in known
        assert course_of(statement) in courses
        assert lms.until - timedelta(days=185) <= at <= lms.until


def test_stories_begin_with_enrolling_and_go_forward(made: tuple[DemoLms, str], statements: Statements) -> None:
    stories: dict[tuple[str, str], list[tuple[datetime, str]]] = defaultdict(list)
    for _, at, statement in statements:
        key = (statement["actor"]["account"]["name"], course_of(statement))
        stories[key].append((at, statement["verb"]["display"]["en"]))
    assert len(stories) == made[0].counts["student_courseenrollment"]
    for story in stories.values():
        assert story[0][1] == "registered"
        assert [at for at, _ in story] == sorted(at for at, _ in story)
        assert "unregistered" not in [verb for _, verb in story[:-1]]


def test_outcomes_show_in_the_events(made: tuple[DemoLms, str], statements: Statements) -> None:
    lms = made[0]
    last: dict[tuple[str, str], datetime] = {}
    verbs: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for _, at, statement in statements:
        key = (statement["actor"]["account"]["name"], course_of(statement))
        last[key] = max(at, last.get(key, at))
        verbs[key][statement["verb"]["display"]["en"]] += 1
    outcomes: Counter[str] = Counter()
    for e in list_enrollments(lms):
        key = (str(make_external_id(lms.seed, e.user_id)), e.course.key)
        outcomes[e.outcome] += 1
        assert (verbs[key]["passed"] == 1) == (e.outcome == "passed")
        assert (verbs[key]["failed"] == 1) == (e.outcome == "failed")
        assert (verbs[key]["unregistered"] == 1) == (e.outcome == "unenrolled")
        if e.outcome == "active":
            assert lms.until - last[key] <= timedelta(days=7)
        elif e.outcome == "at_risk":
            assert lms.until - last[key] > timedelta(days=7)
    assert set(outcomes) == {"passed", "failed", "active", "at_risk", "unenrolled"}
    assert 0.1 < outcomes["at_risk"] / outcomes.total() < 0.35


def test_answers_carry_what_aspects_reads_of_them(statements: Statements) -> None:
    answers = [event for _, _, event in statements if event["verb"]["display"]["en"] == "evaluated"]
    assert len(answers) > 500
    for event in answers:
        definition, result = event["object"]["definition"], event["result"]
        # Upstream casts the first to Int16 and the second to Bool, which an empty text is neither of.
        assert definition["extensions"]["http://id.tincanapi.com/extension/attempt-id"] in (1, 2, 3)
        assert result["success"] in (True, False)
        assert (definition["interactionType"], result["response"][:7]) == ("choice", "choice_")


def test_rows_for_aspects(made: tuple[DemoLms, str]) -> None:
    lms, url = made
    names = {p["user_id"]: p["username"] for p in read(url, "user_profile")}
    rows = [row for batch in course_enrollment_rows(lms) for row in batch]
    assert len(rows) == lms.counts["student_courseenrollment"]
    columns = COURSE_ENROLLMENT_COLUMNS
    assert all(len(row) == len(columns) for row in rows)
    assert all(row[columns.index("username")] == names[row[columns.index("user_id")]] for row in rows)
    overviews = course_overview_rows(lms)
    assert [row[1] for row in overviews] == [course.key for course in lms.courses]
    assert all(len(row) == len(COURSE_OVERVIEW_COLUMNS) for row in overviews)


def test_the_history_can_end_any_time() -> None:
    until = datetime(2027, 1, 5, tzinfo=UTC)
    lms = describe_lms(50, 3, until=until)
    times = [at for rows in event_rows(lms) for _, at, _ in rows]
    assert len(times) > 300
    assert until - timedelta(days=7) < max(times) <= until


def test_too_few_users_or_no_time_zone() -> None:
    with pytest.raises(ValueError, match="at least"):
        describe_lms(20, 12)
    with pytest.raises(ValueError, match="time zone"):
        describe_lms(until=datetime(2027, 1, 5))  # noqa: DTZ001


def test_repr_shows_nobody(made: tuple[DemoLms, str]) -> None:
    person = make_person(1, 5)
    shown = repr((made[0], person, make_pools(1)))
    assert person.username not in shown
    assert person.first_name not in shown


def test_retiring_keeps_what_the_lms_keeps(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/lms.db"
    create_lms(url, 50, 2)
    writer = LmsWriter(url)
    writer.change_profile(7, goals="g", state="NY", language="en", level_of_education="m", bio="b", city="c")
    before = {row["user_id"]: row for row in read(url, "user_profile")}
    writer.request_retirement(7)
    pending = {row["user_id"]: row for row in read(url, "user_profile")}[7]
    assert pending["email"].endswith("@retired.invalid")
    assert pending | {"email": ""} == before[7] | {"email": ""}
    writer.retire_misc(7)
    assert {row["user_id"]: row for row in read(url, "user_profile")}[7] == pending
    writer.retire(7)
    writer.close()
    after = {row["user_id"]: row for row in read(url, "user_profile")}
    assert after[7]["username"].startswith("retired__user_")
    kept = ("id", "user_id", "courseware", "language", "level_of_education", "state", "goals")
    assert {c: after[7][c] for c in kept} == {c: before[7][c] for c in kept}
    assert not any(after[7][c] for c in after[7] if c not in (*kept, "username", "email"))
    assert len([row for row in read(url, "external_id") if row["user_id"] == 7]) == 1
    del after[7], before[7]
    assert after == before
