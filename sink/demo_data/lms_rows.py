"""The rows of a generated LMS, table by table.

.. pii: Generated names, e-mail addresses and profiles; of nobody.
.. pii_types: id, name, username, email_address, location, phone_number, birth_date, gender, biography, image, other
.. pii_retirement: local_api
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from random import Random
from typing import Any

from sink.demo_data.lms_description import DemoLms, list_enrollments
from sink.demo_data.lms_tables import EXTERNAL_TYPES, make_naive
from sink.demo_data.people import LOCALES, make_external_id, make_person, make_pools, make_random

Rows = Iterator[dict[str, Any]]


def make_user_rows(lms: DemoLms) -> Rows:
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


def make_profile_rows(lms: DemoLms) -> Rows:
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


def make_external_id_rows(lms: DemoLms) -> Rows:
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


def make_role_rows(lms: DemoLms) -> Rows:
    roles = [(user_id, key, "instructor") for key, user_id in lms.instructors.items()]
    roles += [(user_id, key, "staff") for key, user_id in lms.staff.items()]
    orgs = {course.key: course.org for course in lms.courses}
    rows = [(user_id, orgs[key], key, role) for user_id, key, role in roles]
    rows += [(user_id, org, "", "staff") for org, user_id in lms.org_staff.items()]
    # A role that shows nobody anything.
    rows += [(1, lms.courses[0].org, lms.courses[0].key, "beta_testers")] if lms.courses else []
    for number, (user_id, org, course_id, role) in enumerate(rows, start=1):
        yield {"id": number, "user_id": user_id, "org": org, "course_id": course_id, "role": role}


def make_enrollment_rows(lms: DemoLms) -> Rows:
    for enrollment in list_enrollments(lms):
        yield {
            "id": enrollment.id,
            "user_id": enrollment.user_id,
            "course_id": enrollment.course.key,
            "created": make_naive(enrollment.created),
            "is_active": enrollment.outcome != "unenrolled",
            "mode": enrollment.mode,
        }
