"""What a generated LMS holds: courses, who runs them, who learns what and how it goes. Needs no database.

.. no_pii: ids of generated users and courses.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Literal

from sink.demo_data.people import make_random

#: When the generated history ends, unless told otherwise.
UNTIL = datetime(2026, 6, 30, 12, 0, tzinfo=UTC)
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
    """One generated course."""

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
    outcome: Literal["passed", "failed", "active", "at_risk", "unenrolled"]


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
        raise ValueError("the end of the history needs a time zone")
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


def _make_course(number: int, until: datetime) -> DemoCourse:
    org = _ORGS[number % len(_ORGS)]
    name = _SUBJECTS[number % len(_SUBJECTS)]
    start = until - timedelta(days=180 - 5 * (number % 12))
    return DemoCourse(f"course-v1:{org}+C{number + 101}+{start.year}", org, name, start)


def list_enrollments(lms: DemoLms) -> Iterator[Enrollment]:
    """Who learns what and how it goes, by user."""
    number = 0
    for user_id in range(1, lms.users + 1):
        random = make_random(lms.seed, "enrollments", user_id)
        wanted = random.choices((0, 1, 2, 3), (4, 56, 28, 12))[0]
        for course in random.sample(lms.courses, min(wanted, len(lms.courses))):
            number += 1
            outcome = random.choices(("passed", "failed", "active", "at_risk", "unenrolled"), (30, 5, 38, 21, 6))[0]
            # Early enough for events before the end of the history.
            latest = lms.until - timedelta(days=40)
            span = (latest - course.start).total_seconds()
            created = course.start + timedelta(seconds=int(random.random() * span))
            mode = random.choices(("audit", "verified", "honor"), (70, 25, 5))[0]
            yield Enrollment(number, user_id, course, created, mode, outcome)  # type: ignore[arg-type]
