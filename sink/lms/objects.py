"""What is read from the LMS: its tables, and the objects that they make.

.. no_pii: Names of tables and columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    ColumnElement,
    FromClause,
    TableClause,
    and_,
    column,
    literal_column,
    or_,
    select,
    table,
)

from sink.lms.values import LmsColumn


@dataclass(frozen=True)
class LmsObject:
    """What `sync` copies into one table."""

    name: str
    columns: Mapping[str, LmsColumn]
    """By the names that ClickHouse has."""
    needs: Mapping[str, Sequence[str]]
    """Tables and columns that are read whatever is asked for."""


USERS = table(
    "auth_user",
    column("id", BigInteger),
    *map(column, ("username", "email")),
    *(column(name, Boolean) for name in ("is_active", "is_staff", "is_superuser")),
)
ROLES = table("student_courseaccessrole", *map(column, ("id", "user_id", "org", "course_id", "role")))
EXTERNAL_IDS = table(
    "external_user_ids_externalid", *map(column, ("id", "user_id", "external_user_id", "external_id_type_id"))
)
EXTERNAL_ID_TYPES = table("external_user_ids_externalidtype", *map(column, ("id", "name")))
REQUESTS = table("user_api_userretirementrequest", column("user_id", BigInteger))
STATUSES = table(
    "user_api_userretirementstatus",
    column("user_id", BigInteger),
    *map(column, ("original_username", "original_email", "retired_username", "retired_email")),
    *map(column, ("current_state_id", "last_state_id")),
)
STATES = table("user_api_retirementstate", *map(column, ("id", "state_name")))

# limited_staff is staff in the LMS, but not in Studio: it inherits the permissions of staff there
# (student/roles.py, BASE_ROLE), the instructor dashboard's among them.
COURSE_ROLES = ("staff", "instructor", "limited_staff")

# Characters, as in the LMS's models; None for longtext.
_PROFILE_LENGTHS = {
    "name": 255,
    "meta": None,
    "courseware": 255,
    "language": 255,
    "location": 255,
    "gender": 6,
    "level_of_education": 6,
    "mailing_address": None,
    "city": None,
    "country": 2,
    "state": 2,
    "goals": None,
    "bio": 3000,
    "phone_number": 50,
}


def _profile(name: str) -> LmsColumn:
    return LmsColumn("text", "auth_userprofile", name, _PROFILE_LENGTHS[name])


_USERNAME = LmsColumn("text", "auth_user", "username", 150)

OBJECTS: dict[str, LmsObject] = {
    "user_profile": LmsObject(
        "user_profile",
        {
            "id": LmsColumn("int", "auth_userprofile", "id"),
            "user_id": LmsColumn("int", "auth_user", "id"),
            "name": _profile("name"),
            "username": _USERNAME,
            "email": LmsColumn("text", "auth_user", "email", 254),
            **{name: _profile(name) for name in ("meta", "courseware", "language", "location")},
            "year_of_birth": LmsColumn("digits", "auth_userprofile", "year_of_birth"),
            **{name: _profile(name) for name in ("gender", "level_of_education", "mailing_address", "city")},
            **{name: _profile(name) for name in ("country", "state", "goals", "bio")},
            "profile_image_uploaded_at": LmsColumn("datetime", "auth_userprofile", "profile_image_uploaded_at"),
            "phone_number": _profile("phone_number"),
        },
        needs={"auth_user": ("id",), "auth_userprofile": ("id", "user_id")},
    ),
    "external_id": LmsObject(
        "external_id",
        {
            "external_user_id": LmsColumn("uuid", EXTERNAL_IDS.name, "external_user_id"),
            "external_id_type": LmsColumn("text", EXTERNAL_ID_TYPES.name, "name", 32),
            "username": _USERNAME,
            "user_id": LmsColumn("int", "auth_user", "id"),
        },
        needs={
            "auth_user": ("id",),
            EXTERNAL_IDS.name: ("id", "user_id", "external_id_type_id"),
            EXTERNAL_ID_TYPES.name: ("id",),
        },
    ),
    "course_access": LmsObject(
        "course_access",
        {
            "user_id": LmsColumn("int", "auth_user", "id"),
            "username": _USERNAME,
            "org": LmsColumn("text", ROLES.name, "org", 64),
            "course_key": LmsColumn("text", ROLES.name, "course_id", 255),
            "role": LmsColumn("text", ROLES.name, "role", 64),
        },
        needs={
            "auth_user": ("id", "is_active", "is_staff", "is_superuser"),
            ROLES.name: ("id", "user_id", "org", "course_id", "role"),
        },
    ),
}
RETIREMENT = {
    "auth_user": ("id", "username", "email"),
    REQUESTS.name: ("user_id",),
    STATUSES.name: (
        *("user_id", "original_username", "original_email", "retired_username", "retired_email"),
        *("current_state_id", "last_state_id"),
    ),
    STATES.name: ("id", "state_name"),
}


@dataclass(frozen=True)
class Part:
    """Where rows of an object come from; an object with several parts is their union."""

    source: FromClause
    key: ColumnElement[Any]
    condition: ColumnElement[bool] | None = None
    constants: Mapping[str, str] = field(default_factory=dict)
    """Columns of the object that are the same in every row of this part."""


PROFILES = table(
    "auth_userprofile",
    *map(column, ("id", "user_id", "year_of_birth", "profile_image_uploaded_at", *_PROFILE_LENGTHS)),
)
TABLES: dict[str, TableClause] = {t.name: t for t in (USERS, PROFILES, EXTERNAL_IDS, EXTERNAL_ID_TYPES, ROLES)}

_HAS_GLOBAL_ROLE_ROW = (
    select(ROLES.c.id)
    .where(ROLES.c.user_id == USERS.c.id, ROLES.c.org == "", ROLES.c.course_id == "", ROLES.c.role == "staff")
    .exists()
)
PARTS: dict[str, tuple[Part, ...]] = {
    "user_profile": (Part(USERS.join(PROFILES, PROFILES.c.user_id == USERS.c.id), PROFILES.c.id),),
    "external_id": (
        Part(
            USERS.join(EXTERNAL_IDS, EXTERNAL_IDS.c.user_id == USERS.c.id).join(
                EXTERNAL_ID_TYPES, EXTERNAL_ID_TYPES.c.id == EXTERNAL_IDS.c.external_id_type_id
            ),
            EXTERNAL_IDS.c.id,
        ),
    ),
    "course_access": (
        # The LMS does not honour the role of an account that is not active (student/roles.py, RoleBase.has_user).
        Part(
            USERS.join(ROLES, ROLES.c.user_id == USERS.c.id),
            ROLES.c.id,
            and_(USERS.c.is_active, ROLES.c.role.in_(COURSE_ROLES)),
        ),
        Part(
            USERS,
            literal_column("NULL"),
            and_(USERS.c.is_active, or_(USERS.c.is_staff, USERS.c.is_superuser), ~_HAS_GLOBAL_ROLE_ROW),
            {"org": "", "course_key": "", "role": "staff"},
        ),
    ),
}
