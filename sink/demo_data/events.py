"""The xAPI events of a generated LMS, and the tables of Aspects that name its courses and enrollments.

Everything follows from the seed: a person from the seed and the user id, what they did from the seed, the user id and
the time that the history ends. So the events need no look into the database, and two runs are the same.

Needs Faker, which comes with the extra `embedded`.

.. pii: Generated usernames and anonymous ids; of nobody.
.. pii_types: id, username
.. pii_retirement: local_api
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import islice
from random import Random
from typing import Any

from sink.demo_data.lms_description import DemoCourse, DemoLms, Enrollment, list_enrollments
from sink.demo_data.people import make_external_id, make_random, make_username

LMS_URL = "http://lms.example.org"
_BATCH_ROWS = 10_000
_PASSING_GRADE = 0.5


# What Aspects has in ClickHouse beside the events.

COURSE_ENROLLMENT_COLUMNS = (
    *("id", "course_key", "created", "is_active", "mode", "username", "user_id"),
    *("dump_id", "time_last_dumped"),
)
COURSE_OVERVIEW_COLUMNS = (
    *("org", "course_key", "display_name", "course_start", "course_end", "enrollment_start", "enrollment_end"),
    *("self_paced", "course_data_json", "created", "modified", "dump_id", "time_last_dumped"),
)


def course_enrollment_rows(lms: DemoLms) -> Iterator[list[tuple[Any, ...]]]:
    """Rows of `event_sink.course_enrollment`, in the order of `COURSE_ENROLLMENT_COLUMNS`."""
    dump_id = make_external_id(lms.seed, 0, "dump")
    dumped = str(lms.until)

    def rows() -> Iterator[tuple[Any, ...]]:
        for e in list_enrollments(lms):
            username = make_username(lms.seed, e.user_id)
            is_active = e.outcome != "unenrolled"
            yield e.id, e.course.key, str(e.created), is_active, e.mode, username, e.user_id, dump_id, dumped

    return _split(rows())


def course_overview_rows(lms: DemoLms) -> list[tuple[Any, ...]]:
    """Rows of `event_sink.course_overviews`, in the order of `COURSE_OVERVIEW_COLUMNS`."""
    dump_id = make_external_id(lms.seed, 0, "dump")
    times, data = str(lms.until), json.dumps({"lowest_passing_grade": _PASSING_GRADE})
    return [
        (c.org, c.key, c.name, str(c.start), "", "", "", False, data, times, times, dump_id, times) for c in lms.courses
    ]


# xAPI statements. Verbs and types: ADL's and TinCan's vocabularies as the LMS's xAPI transformers use them.

_COURSE_TYPE = "http://adlnet.gov/expapi/activities/course"
_MODE = "https://w3id.org/xapi/acrossx/extensions/type"
_GRADE = "http://www.tincanapi.co.uk/activitytypes/grade_classification"
_ATTEMPT = "http://id.tincanapi.com/extension/attempt-id"
_VERBS = {
    "registered": "http://adlnet.gov/expapi/verbs/registered",
    "unregistered": "http://id.tincanapi.com/verb/unregistered",
    "navigated": "https://w3id.org/xapi/dod-isd/verbs/navigated",
    "played": "https://w3id.org/xapi/video/verbs/played",
    "paused": "https://w3id.org/xapi/video/verbs/paused",
    "evaluated": "https://w3id.org/xapi/acrossx/verbs/evaluated",
    "earned": "http://id.tincanapi.com/verb/earned",
    "passed": "http://adlnet.gov/expapi/verbs/passed",
    "failed": "http://adlnet.gov/expapi/verbs/failed",
}
_BLOCKS = {
    "navigated": ("sequential", "http://adlnet.gov/expapi/activities/module"),
    "played": ("video", "https://w3id.org/xapi/video/activity-type/video"),
    "paused": ("video", "https://w3id.org/xapi/video/activity-type/video"),
    "evaluated": ("problem", "http://adlnet.gov/expapi/activities/cmi.interaction"),
}

EventRow = tuple[uuid.UUID, datetime, str]
"""event_id, emission_time, event: the columns of `xapi.xapi_events_all`."""


def event_rows(lms: DemoLms) -> Iterator[list[EventRow]]:
    """What the learners did in the half year before the end of the history; each enrollment in the order of time.

    Args:
        lms: what `create_lms` or `describe_lms` has returned.
    """

    def rows() -> Iterator[EventRow]:
        for enrollment in list_enrollments(lms):
            actor = _make_actor(lms, enrollment.user_id)
            random = make_random(lms.seed, "events", enrollment.id)
            for time, verb, score in _simulate_learner(enrollment, lms.until, random):
                event_id = uuid.UUID(int=random.getrandbits(128), version=4)
                yield event_id, time, _write_statement(event_id, time, actor, verb, score, enrollment, random)

    return _split(rows())


def _split(rows: Iterator[Any]) -> Iterator[list[Any]]:
    while batch := list(islice(rows, _BATCH_ROWS)):
        yield batch


def _make_actor(lms: DemoLms, user_id: int) -> dict[str, Any]:
    name = str(make_external_id(lms.seed, user_id))
    return {"objectType": "Agent", "account": {"homePage": LMS_URL, "name": name}}


Step = tuple[datetime, str, float | None]
"""When, which verb, with which score."""


def _simulate_learner(enrollment: Enrollment, until: datetime, random: Random) -> Iterator[Step]:
    """One learner's way through one course, in the order of time."""
    start, outcome = enrollment.created, enrollment.outcome
    duration = _find_last_visit(enrollment, until, random) - start
    yield start, "registered", None
    score, time = 0.0, start
    for share in _place_visits(outcome, random):
        planned = start + timedelta(seconds=duration.total_seconds() * share - 1800)
        visit_at = max(time + timedelta(seconds=30), planned)
        for step in _simulate_visit(visit_at, outcome, random):
            yield step
            time, score = step[0], score if step[2] is None else step[2]
    if outcome in ("passed", "failed"):
        score = round(random.uniform(0.6, 1.0) if outcome == "passed" else random.uniform(0.0, 0.49), 2)
        yield time + timedelta(seconds=1), "earned", score
        yield time + timedelta(seconds=2), outcome, score
    elif outcome == "unenrolled":
        yield time + timedelta(seconds=60), "unregistered", None
    elif score:
        yield time + timedelta(seconds=1), "earned", round(score * 0.4, 2)


def _find_last_visit(enrollment: Enrollment, until: datetime, random: Random) -> datetime:
    """When a learner was last seen. Who is at risk has not come back for more than a week."""
    start = enrollment.created
    match enrollment.outcome:
        case "active":
            return until - timedelta(minutes=random.randrange(6 * 24 * 60))
        case "at_risk":
            return start + (until - timedelta(days=9) - start) * (0.1 + 0.9 * random.random())
        case "unenrolled":
            return start + timedelta(days=1 + random.randrange(20))
        case _:
            return start + (until - timedelta(hours=2) - start) * (0.5 + 0.5 * random.random())


def _place_visits(outcome: str, random: Random) -> list[float]:
    """Where each visit lies between enrolling (0) and the last one (1)."""
    count = random.randrange(1, 4) + (1 if outcome in ("passed", "failed") else 0)
    return [*sorted(random.random() * 0.9 for _ in range(count - 1)), 1.0]


def _simulate_visit(time: datetime, outcome: str, random: Random) -> Iterator[Step]:
    """What a learner does in one visit, which takes less than half an hour."""
    yield time, "navigated", None
    if random.random() < 0.6:
        time += timedelta(seconds=random.randrange(5, 120))
        yield time, "played", None
        time += timedelta(seconds=random.randrange(30, 600))
        yield time, "paused", None
    if random.random() < 0.7:
        time += timedelta(seconds=random.randrange(30, 600))
        mean = {"passed": 0.8, "failed": 0.3}.get(outcome, 0.6)
        yield time, "evaluated", round(min(1.0, max(0.0, random.gauss(mean, 0.15))), 2)


def _write_statement(
    event_id: uuid.UUID,
    time: datetime,
    actor: dict[str, Any],
    verb: str,
    score: float | None,
    enrollment: Enrollment,
    random: Random,
) -> str:
    course = _write_course(enrollment.course)
    context: dict[str, Any] = {"extensions": {"https://w3id.org/xapi/openedx/extension/transformer-version": "demo"}}
    target = course
    if verb in _BLOCKS:
        target = _write_block(verb, enrollment.course, random)
        context["contextActivities"] = {"parent": [course]}
    if verb in ("registered", "unregistered"):
        target["definition"]["extensions"] = {_MODE: enrollment.mode}
    if verb == "evaluated":
        # Upstream's `problem_events` reads all three; a statement without an attempt stops its builds.
        target["definition"]["interactionType"] = "choice"
        target["definition"]["extensions"] = {_ATTEMPT: 1 + event_id.int % 3}
    statement: dict[str, Any] = {
        "id": str(event_id),
        "version": "1.0.3",
        "actor": actor,
        "verb": {"id": _VERBS[verb], "display": {"en": verb}},
        "object": target,
        "context": context,
        "timestamp": time.isoformat(),
    }
    if score is not None:
        statement["result"] = _write_result(verb, score)
    return json.dumps(statement, ensure_ascii=False)


def _write_course(course: DemoCourse) -> dict[str, Any]:
    return {
        "id": f"{LMS_URL}/course/{course.key}",
        "objectType": "Activity",
        "definition": {"type": _COURSE_TYPE, "name": {"en-US": course.name}},
    }


def _write_block(verb: str, course: DemoCourse, random: Random) -> dict[str, Any]:
    kind, activity = _BLOCKS[verb]
    block = f"block-v1:{course.key.removeprefix('course-v1:')}+type@{kind}+block@{random.randrange(30):032x}"
    return {"id": f"{LMS_URL}/xblock/{block}", "objectType": "Activity", "definition": {"type": activity}}


def _write_result(verb: str, score: float) -> dict[str, Any]:
    result: dict[str, Any] = {"score": {"scaled": score, "raw": score * 100, "min": 0, "max": 100}}
    if verb == "evaluated":
        result["success"] = score >= _PASSING_GRADE
        result["response"] = f"choice_{int(score * 3)}"
    if verb in ("earned", "passed", "failed"):
        result["extensions"] = {_GRADE: "Pass" if score >= _PASSING_GRADE else "Fail"}
    return result
