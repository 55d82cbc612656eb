"""An LMS database and its xAPI events, made up: for `aspects-pii demo`, for tests and for benchmarks.

Everything follows from the seed: a person from the seed and the user id, what they did from the seed, the user id and
the time that the story ends. So the events need no look into the database, and two runs are the same.

Needs Faker, which comes with the extra `embedded`.

.. pii: Made up names, e-mail addresses and profiles; of nobody.
.. pii_types: id, name, username, email_address, location, phone_number, birth_date, gender, biography, image, other
.. pii_retirement: local_api
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterator
from datetime import datetime, timedelta
from random import Random
from typing import Any, Literal

from sink.demo_data.lms import DemoLms, Enrollment, list_enrollments
from sink.demo_data.people import make_email, make_external_id, make_random, make_username

LMS_URL = "http://lms.example.org"


# What Aspects has in ClickHouse beside the events.

COURSE_ENROLLMENT_COLUMNS = (
    *("id", "course_key", "created", "is_active", "mode", "username", "user_id"),
    *("dump_id", "time_last_dumped"),
)
COURSE_OVERVIEW_COLUMNS = (
    *("org", "course_key", "display_name", "course_start", "course_end", "enrollment_start", "enrollment_end"),
    *("self_paced", "course_data_json", "created", "modified", "dump_id", "time_last_dumped"),
)


def course_enrollment_rows(lms: DemoLms, batch_size: int = 10_000) -> Iterator[list[tuple[Any, ...]]]:
    """Rows of `event_sink.course_enrollment`, in the order of `COURSE_ENROLLMENT_COLUMNS`."""
    dump_id = make_external_id(lms.seed, 0, "dump")
    dumped = str(lms.until)

    def rows() -> Iterator[tuple[Any, ...]]:
        for e in list_enrollments(lms):
            username = make_username(lms.seed, e.user_id)
            is_active = e.fate != "unenrolled"
            yield e.id, e.course.key, str(e.created), is_active, e.mode, username, e.user_id, dump_id, dumped

    return _split(rows(), batch_size)


def course_overview_rows(lms: DemoLms) -> list[tuple[Any, ...]]:
    """Rows of `event_sink.course_overviews`, in the order of `COURSE_OVERVIEW_COLUMNS`."""
    dump_id = make_external_id(lms.seed, 0, "dump")
    times = str(lms.until)
    return [
        (c.org, c.key, c.name, str(c.start), "", "", "", False, "{}", times, times, dump_id, times) for c in lms.courses
    ]


# xAPI statements. Verbs and types: ADL's and TinCan's vocabularies as the LMS's xAPI transformers use them.

ActorType = Literal["external_id", "mbox", "mbox_sha1sum"]
"""The LMS's setting XAPI_AGENT_IFI_TYPE."""

_COURSE_TYPE = "http://adlnet.gov/expapi/activities/course"
_MODE = "https://w3id.org/xapi/acrossx/extensions/type"
_GRADE = "http://www.tincanapi.co.uk/activitytypes/grade_classification"
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


def event_rows(
    lms: DemoLms, *, actor_type: ActorType = "external_id", batch_size: int = 10_000
) -> Iterator[list[EventRow]]:
    """What the learners did in the half year before the end of the story; each enrolment in the order of time.

    Args:
        lms: what `create_lms` or `describe_lms` has returned.
        actor_type: how the LMS names its actors; all but `external_id` put e-mail addresses, or hashes of them, into
            the events.
        batch_size: rows in a list.
    """

    def rows() -> Iterator[EventRow]:
        for enrollment in list_enrollments(lms):
            actor = _make_actor(lms, enrollment.user_id, actor_type)
            random = make_random(lms.seed, "events", enrollment.id)
            for time, verb, score in _live(enrollment, lms.until, random):
                event_id = uuid.UUID(int=random.getrandbits(128), version=4)
                yield event_id, time, _write_statement(event_id, time, actor, verb, score, enrollment, random)

    return _split(rows(), batch_size)


def _split(rows: Iterator[Any], size: int) -> Iterator[list[Any]]:
    batch = []
    for row in rows:
        batch.append(row)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _make_actor(lms: DemoLms, user_id: int, actor_type: ActorType) -> dict[str, Any]:
    if actor_type == "external_id":
        name = str(make_external_id(lms.seed, user_id))
        return {"objectType": "Agent", "account": {"homePage": LMS_URL, "name": name}}
    mailto = f"mailto:{make_email(lms.seed, user_id)}"
    if actor_type == "mbox":
        return {"objectType": "Agent", "mbox": mailto}
    # SHA-1 is what xAPI prescribes here.
    return {"objectType": "Agent", "mbox_sha1sum": hashlib.sha1(mailto.encode(), usedforsecurity=False).hexdigest()}


def _live(enrollment: Enrollment, until: datetime, random: Random) -> Iterator[tuple[datetime, str, float | None]]:
    """One learner's way through one course: when, which verb, with which score; in the order of time."""
    start, fate = enrollment.created, enrollment.fate
    # When they were last seen. Who is at risk has not come back for more than a week.
    if fate == "active":
        end = until - timedelta(minutes=random.randrange(6 * 24 * 60))
    elif fate == "at_risk":
        end = start + (until - timedelta(days=9) - start) * (0.1 + 0.9 * random.random())
    elif fate == "unenrolled":
        end = start + timedelta(days=1 + random.randrange(20))
    else:
        end = start + (until - timedelta(hours=2) - start) * (0.5 + 0.5 * random.random())
    yield start, "registered", None
    visits = random.randrange(1, 4) + (1 if fate in ("passed", "failed") else 0)
    seconds = (end - start).total_seconds()
    # The last visit is at the end; a visit takes less than half an hour.
    times = [*sorted(random.random() * 0.9 for _ in range(visits - 1)), 1.0]
    score, time = 0.0, start
    for share in times:
        time = max(time + timedelta(seconds=30), start + timedelta(seconds=seconds * share - 1800))
        yield time, "navigated", None
        if random.random() < 0.6:
            time += timedelta(seconds=random.randrange(5, 120))
            yield time, "played", None
            time += timedelta(seconds=random.randrange(30, 600))
            yield time, "paused", None
        if random.random() < 0.7:
            time += timedelta(seconds=random.randrange(30, 600))
            good = {"passed": 0.8, "failed": 0.3}.get(fate, 0.6)
            score = round(min(1.0, max(0.0, random.gauss(good, 0.15))), 2)
            yield time, "evaluated", score
    if fate in ("passed", "failed"):
        score = round(random.uniform(0.6, 1.0) if fate == "passed" else random.uniform(0.0, 0.49), 2)
        yield time + timedelta(seconds=1), "earned", score
        yield time + timedelta(seconds=2), fate, score
    elif fate == "unenrolled":
        yield time + timedelta(seconds=60), "unregistered", None
    elif score:
        yield time + timedelta(seconds=1), "earned", round(score * 0.4, 2)


def _write_statement(
    event_id: uuid.UUID,
    time: datetime,
    actor: dict[str, Any],
    verb: str,
    score: float | None,
    enrollment: Enrollment,
    random: Random,
) -> str:
    course = enrollment.course
    course_activity: dict[str, Any] = {
        "id": f"{LMS_URL}/course/{course.key}",
        "objectType": "Activity",
        "definition": {"type": _COURSE_TYPE, "name": {"en-US": course.name}},
    }
    context: dict[str, Any] = {"extensions": {"https://w3id.org/xapi/openedx/extension/transformer-version": "demo"}}
    if verb in _BLOCKS:
        kind, activity = _BLOCKS[verb]
        block = f"block-v1:{course.key.removeprefix('course-v1:')}+type@{kind}+block@{random.randrange(30):032x}"
        target: dict[str, Any] = {
            "id": f"{LMS_URL}/xblock/{block}",
            "objectType": "Activity",
            "definition": {"type": activity},
        }
        context["contextActivities"] = {"parent": [course_activity]}
    else:
        target = course_activity
    if verb in ("registered", "unregistered"):
        target["definition"]["extensions"] = {_MODE: enrollment.mode}
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
        result: dict[str, Any] = {"score": {"scaled": score, "raw": score * 100, "min": 0, "max": 100}}
        if verb == "evaluated":
            result["success"] = score >= 0.5
        if verb in ("earned", "passed", "failed"):
            result["extensions"] = {_GRADE: "Pass" if score >= 0.5 else "Fail"}
        statement["result"] = result
    return json.dumps(statement, ensure_ascii=False)
