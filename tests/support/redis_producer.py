"""Sends events as an LMS does: openedx-events signals, handed to edx-event-bus-redis by openedx-events' own app.

    python redis_producer.py REDIS_URL < lines of JSON: [event, user id, topic prefix]

Each event is printed when it has been sent. In a process of its own, since it needs Django with settings. The people are
made up.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import django
from django.conf import settings

# Before Django is set up: openedx-events then looks for every signal that the configuration names.
from tests.support.authz_events import KINDS, PRODUCER_CONFIG, send_assignment

USER_TOPIC = "learning-user-lifecycle"
ROLE_TOPIC = "learning-course-access-role-lifecycle"
_KINDS = {
    "org.openedx.learning.student.registration.completed.v1": (USER_TOPIC, "user.pii.username"),
    "org.openedx.learning.auth.session.login.completed.v1": (USER_TOPIC, "user.pii.username"),
    "org.openedx.learning.user.course_access_role.added.v1": (ROLE_TOPIC, "course_access_role_data.user.pii.username"),
    "org.openedx.learning.user.course_access_role.removed.v1": (
        ROLE_TOPIC,
        "course_access_role_data.user.pii.username",
    ),
    "org.openedx.learning.course.passing.status.updated.v1": (USER_TOPIC, "course_passing_status.user.pii.username"),
}


def main(url: str) -> None:
    """Send what standard input says."""
    settings.configure(
        INSTALLED_APPS=["openedx_events"],
        EVENT_BUS_PRODUCER="edx_event_bus_redis.create_producer",
        EVENT_BUS_REDIS_CONNECTION_URL=url,
        EVENTS_SERVICE_NAME="lms",
        EVENT_BUS_PRODUCER_CONFIG={
            kind: {topic: {"event_key_field": key, "enabled": True}} for kind, (topic, key) in _KINDS.items()
        }
        | PRODUCER_CONFIG,
    )
    django.setup()
    from opaque_keys.edx.keys import CourseKey
    from openedx_events.learning import data, signals

    course_key = CourseKey.from_string("course-v1:Org+Course+Run")
    for line in sys.stdin:
        event, user_id, settings.EVENT_BUS_TOPIC_PREFIX = json.loads(line)
        pii = data.UserPersonalData(f"zaphod{user_id}", f"zaphod{user_id}@example.com", "Zaphod Beeblebrox")
        user = data.UserData(id=user_id, is_active=True, pii=pii)
        if event in KINDS:
            send_assignment(event, pii.username, 1, str(course_key))
            _finish(event)
            continue
        signal: Any = {
            "registration": signals.STUDENT_REGISTRATION_COMPLETED,
            "login": signals.SESSION_LOGIN_COMPLETED,
            "role added": signals.COURSE_ACCESS_ROLE_ADDED,
            "role removed": signals.COURSE_ACCESS_ROLE_REMOVED,
            "passing status": signals.COURSE_PASSING_STATUS_UPDATED,
        }[event]
        if event.startswith("role"):
            # As the LMS sends them: without the name.
            user = data.UserData(id=user_id, is_active=True, pii=data.UserPersonalData(pii.username, pii.email))
            role = data.CourseAccessRoleData(user=user, org_key="Org", course_key=course_key, role="staff")
            signal.send_event(course_access_role_data=role)
        elif event == "passing status":
            status = data.CoursePassingStatusData(
                is_passing=True, course=data.CourseData(course_key=course_key, display_name="Course"), user=user
            )
            signal.send_event(course_passing_status=status)
        else:
            signal.send_event(user=user)
        _finish(event)


def _finish(event: str) -> None:
    sys.stdout.write(f"{event}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
