"""Changes to a generated LMS."""

from __future__ import annotations

import hashlib
import uuid
from typing import Any

from sqlalchemy import Engine, delete, insert, select, update

from sink.demo_data.lms_description import UNTIL
from sink.demo_data.lms_tables import (
    ENROLLMENTS,
    EXTERNAL_IDS,
    EXTERNAL_TYPES,
    PROFILES,
    RETIREMENT_REQUESTS,
    RETIREMENT_STATE_ROWS,
    RETIREMENT_STATUSES,
    ROLES,
    USERS,
    make_naive,
    open_writable,
)
from sink.demo_data.people import make_external_id


def open_lms(url: str, *, native_uuid: bool = True) -> Engine:
    """An engine for the tables of a generated LMS.

    Args:
        url: SQLAlchemy address of the database.
        native_uuid: on MariaDB, have anonymous ids as `uuid`, as Django 5 does, instead of char(32).
    """
    engine = open_writable(url)
    if not native_uuid:
        # SQLAlchemy (2.1.9) decides by the server's version when it connects first, and offers no option.
        engine.connect().close()
        engine.dialect.supports_native_uuid = False
    return engine


class LmsWriter:
    """Does to the database what the LMS does, step by step.

    The steps of a retirement are those of the LMS's own pipeline, in their order: `request_retirement`, then either
    `cancel_retirement`, or `retire_misc`, `retire`, `complete_retirement` and, much later, `clean_up_retirement`.
    """

    def __init__(self, url: str, *, native_uuid: bool = True) -> None:
        """Open a database that `create_lms` or `create_tables` has filled; `native_uuid` as in `open_lms`."""
        self._engine = open_lms(url, native_uuid=native_uuid)

    def close(self) -> None:
        """Give up the connections."""
        self._engine.dispose()

    def register_user(self, user_id: int, username: str, email: str, name: str, **profile: Any) -> uuid.UUID:
        """Add a user with a profile and an anonymous id, which is returned."""
        external_id = make_external_id(0, user_id)
        now = make_naive(UNTIL)
        user: dict[str, Any] = dict.fromkeys(("password", "first_name", "last_name"), "")
        user |= dict.fromkeys(("is_staff", "is_superuser"), False)
        user |= {"id": user_id, "username": username, "email": email, "is_active": True, "date_joined": now}
        blank = dict.fromkeys(("meta", "courseware", "language", "location"), "")
        ids = {"external_user_id": external_id, "external_id_type_id": EXTERNAL_TYPES["xapi"], "user_id": user_id}
        with self._engine.begin() as connection:
            connection.execute(insert(USERS), user)
            connection.execute(insert(PROFILES), {**blank, "user_id": user_id, "name": name, **profile})
            connection.execute(insert(EXTERNAL_IDS), {**ids, "created": now, "modified": now})
        return external_id

    def change_profile(self, user_id: int, **values: Any) -> None:
        """Save other values in a profile."""
        with self._engine.begin() as connection:
            connection.execute(update(PROFILES).where(PROFILES.c.user_id == user_id), values)

    def grant_role(self, user_id: int, org: str, course_key: str, role: str) -> None:
        """Add a role in a course, in an organisation (no course), or everywhere (neither)."""
        with self._engine.begin() as connection:
            connection.execute(insert(ROLES), {"user_id": user_id, "org": org, "course_id": course_key, "role": role})

    def delete_user(self, user_id: int) -> None:
        """Delete a user and everything that belongs to them, as nobody does in an LMS but by hand."""
        with self._engine.begin() as connection:
            for table in (PROFILES, EXTERNAL_IDS, ROLES, ENROLLMENTS):
                connection.execute(delete(table).where(table.c.user_id == user_id))
            connection.execute(delete(USERS).where(USERS.c.id == user_id))

    def request_retirement(self, user_id: int) -> None:
        """The learner asks to be forgotten: PENDING, and the e-mail address is the retired one from here."""
        now = make_naive(UNTIL)
        with self._engine.begin() as connection:
            who = select(USERS.c.username, USERS.c.email, PROFILES.c.name).where(USERS.c.id == user_id)
            found = connection.execute(who.join_from(USERS, PROFILES, PROFILES.c.user_id == USERS.c.id)).one()
            username, email, name = map(str, found)
            retired = f"retired__user_{_hash(username)}"
            retired_email = f"retired__user_{_hash(email)}@retired.invalid"
            pending = _state_id("PENDING")
            connection.execute(insert(RETIREMENT_REQUESTS), {"user_id": user_id, "created": now, "modified": now})
            status: dict[str, Any] = {"original_username": username, "original_email": email, "original_name": name}
            status |= {"retired_username": retired, "retired_email": retired_email, "responses": ""}
            status |= {"user_id": user_id, "created": now, "modified": now}
            connection.execute(
                insert(RETIREMENT_STATUSES), {**status, "current_state_id": pending, "last_state_id": pending}
            )
            connection.execute(update(USERS).where(USERS.c.id == user_id), {"email": retired_email, "password": "!"})

    def cancel_retirement(self, user_id: int) -> None:
        """The learner takes it back in time: status and request go, the e-mail address returns."""
        with self._engine.begin() as connection:
            email = select(RETIREMENT_STATUSES.c.original_email).where(RETIREMENT_STATUSES.c.user_id == user_id)
            original: str = connection.execute(email).scalar_one()
            connection.execute(update(USERS).where(USERS.c.id == user_id), {"email": original})
            for table in (RETIREMENT_STATUSES, RETIREMENT_REQUESTS):
                connection.execute(delete(table).where(table.c.user_id == user_id))

    def set_retirement_state(self, user_id: int, state: str) -> None:
        """Move on to another state, as the retirement driver does; `last_state` is the one before."""
        status = RETIREMENT_STATUSES
        with self._engine.begin() as connection:
            current = connection.execute(select(status.c.current_state_id).where(status.c.user_id == user_id))
            values = {"last_state_id": current.scalar_one(), "current_state_id": _state_id(state)}
            connection.execute(update(status).where(status.c.user_id == user_id), values)

    def retire_misc(self, user_id: int) -> None:
        """The first step of the LMS, which announces the retirement and saves neither user nor profile."""
        self.set_retirement_state(user_id, "RETIRING_LMS_MISC")
        self.set_retirement_state(user_id, "LMS_MISC_COMPLETE")

    def retire(self, user_id: int) -> None:
        """The second step: clears what the LMS clears, and keeps what it keeps.

        That is language, level_of_education, state, goals, courseware, and the anonymous id.
        """
        self.set_retirement_state(user_id, "RETIRING_LMS")
        cleared: dict[str, Any] = dict.fromkeys(("name", "meta", "location"), "")
        cleared |= dict.fromkeys(("year_of_birth", "gender", "mailing_address", "city", "country", "bio"))
        cleared |= {"phone_number": None, "profile_image_uploaded_at": None}
        self.change_profile(user_id, **cleared)
        with self._engine.begin() as connection:
            status = RETIREMENT_STATUSES
            columns = select(status.c.retired_username, status.c.retired_email).where(status.c.user_id == user_id)
            username, email = connection.execute(columns).one()
            user = {"first_name": "", "last_name": "", "is_active": False, "username": username, "email": email}
            connection.execute(update(USERS).where(USERS.c.id == user_id), user)
        self.set_retirement_state(user_id, "LMS_COMPLETE")

    def complete_retirement(self, user_id: int) -> None:
        """The driver's last state."""
        self.set_retirement_state(user_id, "COMPLETE")

    def clean_up_retirement(self, user_id: int) -> None:
        """Long after: the status goes, the request stays for ever."""
        with self._engine.begin() as connection:
            connection.execute(delete(RETIREMENT_STATUSES).where(RETIREMENT_STATUSES.c.user_id == user_id))


def _state_id(name: str) -> int:
    return next(number for number, state in enumerate(RETIREMENT_STATE_ROWS, start=1) if state[0] == name)


def _hash(value: str) -> str:
    # As the LMS does it, with a salt of ours.
    return hashlib.sha1(f"demo{value.lower()}".encode(), usedforsecurity=False).hexdigest()
