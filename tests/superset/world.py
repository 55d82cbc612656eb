"""The LMS and the events that the dashboards show, and who looks at them. Everybody is generated.

.. no_pii: The people are generated.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy import create_engine, text

from sink.demo_data.events import (
    COURSE_ENROLLMENT_COLUMNS,
    COURSE_OVERVIEW_COLUMNS,
    course_enrollment_rows,
    course_overview_rows,
    event_rows,
)
from sink.demo_data.lms import create_lms
from sink.demo_data.lms_description import DemoLms
from sink.demo_data.people import make_username
from sink.installation import open_store
from sink.settings import load_settings
from tests.support import served

SEED = 11
# Each look at a chart reads all events: few are enough, unless somebody wants pretty pictures.
USERS = 1_500 if "SCREENSHOTS" in os.environ else 400


@dataclass(frozen=True)
class World:
    """What was made, and the ids of those who look."""

    lms: DemoLms
    lms_url: str
    courses: tuple[str, str, str]
    """A, B and C."""
    everywhere: int
    """Global staff."""
    of_a: int
    of_b_and_c: int
    nobody: int
    """A learner of many courses without a role in any."""

    def username(self, user_id: int) -> str:
        """What the LMS, and so Superset, calls a user."""
        return make_username(self.lms.seed, user_id)


def make_world(folder: Path) -> World:
    """Make an LMS in a file."""
    url = f"sqlite:///{folder}/lms.sqlite3"
    until = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=1)
    lms = create_lms(url, users=USERS, courses=6, seed=SEED, until=until)
    a, b, c = (course.key for course in lms.courses[:3])
    second = lms.instructors[b]
    org = next(course.org for course in lms.courses if course.key == c)
    engine = create_engine(url)
    with engine.begin() as connection:
        last: int = connection.execute(text("SELECT max(id) FROM student_courseaccessrole")).scalar_one()
        connection.execute(
            text(
                "INSERT INTO student_courseaccessrole (id, user_id, org, course_id, role) "
                "VALUES (:id, :user, :org, :course, 'instructor')"
            ),
            {"id": last + 1, "user": second, "org": org, "course": c},
        )
    engine.dispose()
    return World(lms, url, (a, b, c), lms.global_staff[0], lms.instructors[a], second, nobody=2)


def load_events(world: World, clickhouse_url: str) -> None:
    """What Aspects would have put into ClickHouse."""
    settings = load_settings(clickhouse_url=clickhouse_url, clickhouse_password=served.PASSWORD)
    with open_store(settings) as store:
        client = store.client
        for enrolments in course_enrollment_rows(world.lms):
            client.insert(client.table("event_sink.course_enrollment"), COURSE_ENROLLMENT_COLUMNS, enrolments)
        overviews: Sequence[tuple[object, ...]] = course_overview_rows(world.lms)
        client.insert(client.table("event_sink.course_overviews"), COURSE_OVERVIEW_COLUMNS, overviews)
        for events in event_rows(world.lms):
            client.insert(client.table("xapi.xapi_events_all"), ("event_id", "emission_time", "event"), events)
