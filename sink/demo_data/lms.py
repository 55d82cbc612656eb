"""A generated LMS: users, profiles, external ids, roles and enrollments."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from random import Random
from typing import Any, Literal

from sink.demo_data.lms_tables import (
    ENROLLMENTS,
    EXTERNAL_IDS,
    EXTERNAL_TYPES,
    PROFILES,
    ROLES,
    UNTIL,
    USERS,
    advance_sequences,
    create_tables,
    insert_all,
    make_naive,
    open_writable,
)
from sink.demo_data.people import LOCALES, make_external_id, make_person, make_pools, make_random

_ORGS = ("DemoX", "OpenU", "TecNorte")
_SUBJECTS = (
    "Introduction to Statistics",
    "Data Protection in Practice",
    "Linear Algebra",
    "Modern Poetry",
    "Databases at Scale",
    "Public Health",
    "Renewable Energy",
    "History of Science",
    "Machine Learning",
    "Academic Writing",
    "Microeconomics",
    "Astronomy for Everyone",
)


@dataclass(frozen=True)
class DemoCourse:
    """One made-up course."""

    key: str
    org: str
    name: str
    start: datetime


@dataclass(frozen=True)
class DemoLms:
    """What was made: enough to make the events too, and nothing of what the people are called."""

    seed: int
    users: int
    """They have the ids 1 to `users`."""
    until: datetime
    courses: tuple[DemoCourse, ...]
    instructors: dict[str, int]
    """Course key → a user who is its instructor and nothing else."""
    staff: dict[str, int]
    """Course key → a user who is its staff and nothing else."""
    org_staff: dict[str, int]
    """Organisation → a user who is staff of all its courses."""
    global_staff: tuple[int, ...]
    counts: dict[str, int] = field(default_factory=dict)
    """Table → rows."""


@dataclass(frozen=True)
class Enrollment:
    """One learner in one course, and how it went."""

    id: int
    user_id: int
    course: DemoCourse
    created: datetime
    mode: str
    fate: Literal["passed", "failed", "active", "at_risk", "unenrolled"]


def describe_lms(users: int = 10_000, courses: int = 12, seed: int = 1, until: datetime = UNTIL) -> DemoLms:
    """Who and what will be in the LMS database.

    Raises:
        ValueError: there are too few users for everybody who runs the courses, or times have no time zone.
    """
    made = tuple(_make_course(number, until) for number in range(courses))
    orgs = sorted({course.org for course in made})
    if users < 2 * courses + len(orgs) + 2:
        raise ValueError(f"{courses} courses need at least {2 * courses + len(orgs) + 2} users")
    if until.tzinfo is None:
        raise ValueError("the end of the story needs a time zone")
    # They come last, so that the first users are plain learners.
    ids = iter(range(users, 0, -1))
    return DemoLms(
        seed=seed,
        users=users,
        until=until,
        courses=made,
        instructors={course.key: next(ids) for course in made},
        staff={course.key: next(ids) for course in made},
        org_staff={org: next(ids) for org in orgs},
        global_staff=(next(ids), next(ids)),
    )


def create_lms(
    url: str,
    users: int = 10_000,
    courses: int = 12,
    seed: int = 1,
    until: datetime = UNTIL,
    *,
    native_uuid: bool = True,
) -> DemoLms:
    """Create the LMS tables and fill them.

    Args:
        url: SQLAlchemy address of an empty database that exists; a file that need not exist for SQLite.
        users: how many users.
        courses: how many courses.
        seed: the same seed makes the same data.
        until: when the story ends.
        native_uuid: on MariaDB, have anonymous ids as `uuid`, as Django 5 does, instead of char(32).

    Returns:
        What was made.
    """
    lms = describe_lms(users, courses, seed, until)
    engine = open_writable(url, native_uuid=native_uuid)
    try:
        with engine.begin() as connection:
            create_tables(connection)
            counts = {
                table.name: insert_all(connection, table, rows)
                for table, rows in (
                    (USERS, _user_rows(lms)),
                    (PROFILES, _profile_rows(lms)),
                    (EXTERNAL_IDS, _external_id_rows(lms)),
                    (ROLES, _role_rows(lms)),
                    (ENROLLMENTS, _enrollment_rows(lms)),
                )
            }
            if connection.dialect.name == "postgresql":
                advance_sequences(connection)
    finally:
        engine.dispose()
    lms.counts.update(counts)
    return lms


def _make_course(number: int, until: datetime) -> DemoCourse:
    org = _ORGS[number % len(_ORGS)]
    name = _SUBJECTS[number % len(_SUBJECTS)]
    start = until - timedelta(days=180 - 5 * (number % 12))
    return DemoCourse(f"course-v1:{org}+C{number + 101}+{start.year}", org, name, start)


def _user_rows(lms: DemoLms) -> Iterator[dict[str, Any]]:
    for user_id in range(1, lms.users + 1):
        person = make_person(lms.seed, user_id)
        random = make_random(lms.seed, "user", user_id)
        yield {
            "id": user_id,
            "password": "!",
            "last_login": None
            if random.random() < 0.1
            else make_naive(lms.until - timedelta(hours=random.randrange(4000))),
            "is_superuser": user_id == lms.global_staff[1],
            "username": person.username,
            # The LMS fills them only where somebody signs in through another service.
            "first_name": person.first_name if random.random() < 0.1 else "",
            "last_name": person.last_name if random.random() < 0.1 else "",
            "email": person.email,
            "is_staff": user_id == lms.global_staff[0],
            "is_active": True,
            "date_joined": make_naive(lms.until - timedelta(days=200 + random.randrange(900))),
        }


def _profile_rows(lms: DemoLms) -> Iterator[dict[str, Any]]:
    pools = make_pools(lms.seed)
    for user_id in range(1, lms.users + 1):
        person = make_person(lms.seed, user_id)
        random = make_random(lms.seed, "profile", user_id)
        pool = pools[person.place]

        def maybe(share: float, value: Any, random: Random = random) -> Any:
            return value if random.random() < share else None

        city, street = random.choice(pool.places)
        text = random.choice(pool.texts)
        yield {
            # Not the same as the user's.
            "id": user_id + 1000,
            "user_id": user_id,
            "name": f"{person.first_name} {person.last_name}",
            "meta": json.dumps({"session_id": str(random.getrandbits(32))}) if random.random() < 0.2 else "",
            "courseware": "course.xml",
            "language": LOCALES[person.place][:2] if random.random() < 0.5 else "",
            "location": city[:255] if random.random() < 0.2 else "",
            "year_of_birth": maybe(0.8, lms.until.year - 16 - int(random.triangular(0, 60, 12))),
            "gender": maybe(0.7, random.choices(("f", "m", "o"), (48, 48, 4))[0]),
            "level_of_education": maybe(0.7, random.choice(("p", "m", "b", "a", "hs", "jhs", "none", "other"))),
            "mailing_address": maybe(0.15, f"{street}\n{city}"),
            "city": maybe(0.4, city),
            "country": maybe(0.8, person.country),
            "state": maybe(0.5, random.choice(("CA", "NY", "TX", "WA"))) if person.country == "US" else None,
            "goals": maybe(0.3, text),
            "bio": maybe(0.2, f"{text} {random.choice(pool.texts)}"),
            "profile_image_uploaded_at": maybe(
                0.1, make_naive(lms.until - timedelta(minutes=random.randrange(200_000)))
            ),
            "phone_number": maybe(0.1, f"+1555{random.randrange(10**7):07d}"),
        }


def _external_id_rows(lms: DemoLms) -> Iterator[dict[str, Any]]:
    number = 0
    for user_id in range(1, lms.users + 1):
        kinds = ("xapi", "lti") if user_id % 20 == 0 else ("xapi",)
        for kind in kinds:
            number += 1
            yield {
                "id": number,
                "created": make_naive(lms.until - timedelta(days=180)),
                "modified": make_naive(lms.until - timedelta(days=180)),
                "external_user_id": make_external_id(lms.seed, user_id, kind),
                "external_id_type_id": EXTERNAL_TYPES[kind],
                "user_id": user_id,
            }


def _role_rows(lms: DemoLms) -> Iterator[dict[str, Any]]:
    roles = [(user_id, key, "instructor") for key, user_id in lms.instructors.items()]
    roles += [(user_id, key, "staff") for key, user_id in lms.staff.items()]
    orgs = {course.key: course.org for course in lms.courses}
    rows = [(user_id, orgs[key], key, role) for user_id, key, role in roles]
    rows += [(user_id, org, "", "staff") for org, user_id in lms.org_staff.items()]
    # A role that shows nobody anything.
    rows += [(1, lms.courses[0].org, lms.courses[0].key, "beta_testers")] if lms.courses else []
    for number, (user_id, org, course_id, role) in enumerate(rows, start=1):
        yield {"id": number, "user_id": user_id, "org": org, "course_id": course_id, "role": role}


def list_enrollments(lms: DemoLms) -> Iterator[Enrollment]:
    """Who learns what and how it goes, by user."""
    number = 0
    for user_id in range(1, lms.users + 1):
        random = make_random(lms.seed, "enrollments", user_id)
        wanted = random.choices((0, 1, 2, 3), (4, 56, 28, 12))[0]
        for course in random.sample(lms.courses, min(wanted, len(lms.courses))):
            number += 1
            fate = random.choices(("passed", "failed", "active", "at_risk", "unenrolled"), (30, 5, 38, 21, 6))[0]
            # Early enough for a life before the end of the story.
            latest = lms.until - timedelta(days=40)
            span = (latest - course.start).total_seconds()
            created = course.start + timedelta(seconds=int(random.random() * span))
            mode = random.choices(("audit", "verified", "honor"), (70, 25, 5))[0]
            yield Enrollment(number, user_id, course, created, mode, fate)  # type: ignore[arg-type]


def _enrollment_rows(lms: DemoLms) -> Iterator[dict[str, Any]]:
    for enrollment in list_enrollments(lms):
        yield {
            "id": enrollment.id,
            "user_id": enrollment.user_id,
            "course_id": enrollment.course.key,
            "created": make_naive(enrollment.created),
            "is_active": enrollment.fate != "unenrolled",
            "mode": enrollment.mode,
        }
