"""Course roles as openedx-authz writes them: in casbin's rules, by user name, role and scope.

Where `authz.enable_course_authoring` is on, for everybody, an organisation or a course, the LMS keeps course roles here
and takes them out of `student_courseaccessrole`. It reads both at once, and so does `sink.lms.snapshot`.

Facts, from openedx-authz 1.23.0 (api/data.py, constants/roles.py, engine/enforcer.py), casbin-django-orm-adapter 1.7.0 (the
table) and openedx-platform (common/djangoapps/student/roles.py), read in August 2026:

- A role that somebody has is a rule `g, user^NAME, role^ROLE, SCOPE` in `casbin_rule`. The enforcer compares names with
  regard to case.
- A scope of courses is `course-v1^course-v1:ORG+COURSE+RUN`, `course-v1^course-v1:ORG+*` for all of an organisation, or
  `course-v1^course-v1:*` for all. Scopes of libraries begin with `lib^`.
- `LEGACY_ROLES` are the roles that the LMS itself knows, by another name. `course_editor` and `course_auditor` are of
  Studio only, and the LMS passes them over.

Pure but for the statements, which `sink.lms.snapshot` runs.

.. pii: User names, as rules have them, in memory only.
.. pii_types: username
.. pii_retirement: consumer_api
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from sqlalchemy import Select, and_, column, select, table

RULES = table("casbin_rule", *map(column, ("ptype", "v0", "v1", "v2")))
COLUMNS = ("ptype", "v0", "v1", "v2")

LEGACY_ROLES = {
    "course_admin": "instructor",
    "course_staff": "staff",
    "course_limited_staff": "limited_staff",
    "course_data_researcher": "data_researcher",
    "course_beta_tester": "beta_testers",
    "ccx_coach": "ccx_coach",
}

_SEPARATOR = "^"
_USER = "user"
_ROLE = "role"
_COURSES = "course-v1^course-v1:"
_SCOPE = re.compile(
    # All courses of everybody, of an organisation, or one. Keys as opaque-keys has them: three parts, none with a plus.
    r"course-v1\^(?P<key>course-v1:(?:\*|(?P<org>[^+*]+)\+(?:\*|[^+*]+\+[^+*]+)))"
)


class CourseRole(NamedTuple):
    """What one rule says, in the words of `student_courseaccessrole`."""

    username: str
    org: str
    course_key: str
    """Empty for a whole organisation; both are empty for all courses."""
    role: str


def select_rules(roles: Collection[str], usernames: Sequence[str] | None = None) -> Select[Any]:
    """Rules that may give one of these roles of the LMS, as (subject, role, scope); only of these people."""
    names = [f"{_ROLE}{_SEPARATOR}{name}" for name, legacy in LEGACY_ROLES.items() if legacy in roles]
    condition = and_(RULES.c.ptype == "g", RULES.c.v1.in_(names), RULES.c.v2.like(f"{_COURSES}%"))
    if usernames is not None:
        condition = and_(condition, RULES.c.v0.in_([f"{_USER}{_SEPARATOR}{name}" for name in usernames]))
    return select(RULES.c.v0, RULES.c.v1, RULES.c.v2).where(condition)


def read_rule(row: Sequence[Any]) -> CourseRole | None:
    """A rule of `select_rules`; None where it gives nobody a role in the LMS.

    MySQL finds rules without regard to case, so each is looked at once more.
    """
    subject, role, scope = map(_decode, row)
    username = read_username(subject)
    legacy = LEGACY_ROLES.get(strip_namespace(role, _ROLE))
    found = _SCOPE.fullmatch(scope)
    if not username or legacy is None or found is None:
        return None
    course_key = "" if found["key"].endswith("*") else found["key"]
    return CourseRole(username, found["org"] or "", course_key, legacy)


def name_role(role: str) -> str:
    """What the LMS calls the role of `role^NAME`; the same name where it has none for it."""
    name = strip_namespace(role, _ROLE)
    return LEGACY_ROLES.get(name, name)


def read_username(subject: str) -> str:
    """The user name of `user^NAME`; empty where it is anything else."""
    return strip_namespace(subject, _USER)


def name_scope(scope: str) -> str:
    """The key of `NAMESPACE^KEY`, as people write it."""
    return scope.partition(_SEPARATOR)[2]


def cover_courses(org: str, course_key: str) -> str:
    """How openedx-authz writes the scope of a role of the LMS: a course, all of an organisation, or everything."""
    return course_key or (f"course-v1:{org}+*" if org else "*")


def strip_namespace(text: str, namespace: str) -> str:
    """What follows `namespace^`; nothing where the text does not begin with it."""
    before, separator, key = text.partition(_SEPARATOR)
    return key if separator and before == namespace else ""


def _decode(value: Any) -> str:
    if isinstance(value, bytes):
        with suppress(UnicodeDecodeError):
            return value.decode()
        return ""
    return value if isinstance(value, str) else ""
