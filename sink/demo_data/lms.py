"""A generated LMS: users, profiles, external ids, roles and enrollments, written into a database.

.. pii: Generated names, e-mail addresses and profiles; of nobody.
.. pii_types: id, name, username, email_address, location, phone_number, birth_date, gender, biography, image, other
.. pii_retirement: local_api
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Engine

from sink.demo_data.lms_description import UNTIL, DemoLms, describe_lms
from sink.demo_data.lms_rows import (
    make_enrollment_rows,
    make_external_id_rows,
    make_profile_rows,
    make_role_rows,
    make_user_rows,
)
from sink.demo_data.lms_tables import (
    ENROLLMENTS,
    EXTERNAL_IDS,
    PROFILES,
    ROLES,
    USERS,
    advance_sequences,
    create_tables,
    insert_all,
    open_writable,
)


def create_lms(
    url: str,
    users: int = 10_000,
    courses: int = 12,
    seed: int = 1,
    until: datetime = UNTIL,
) -> DemoLms:
    """Create the LMS tables and fill them.

    Args:
        url: SQLAlchemy address of an empty database that exists; a file that need not exist for SQLite.
        users: how many users.
        courses: how many courses.
        seed: the same seed makes the same data.
        until: when the generated history ends.

    Returns:
        What was made.
    """
    lms = describe_lms(users, courses, seed, until)
    engine = open_writable(url)
    try:
        fill_lms(engine, lms)
    finally:
        engine.dispose()
    return lms


def fill_lms(engine: Engine, lms: DemoLms) -> None:
    """Create the tables in an empty database and fill them; counts the rows in `lms`."""
    with engine.begin() as connection:
        create_tables(connection)
        for table, rows in (
            (USERS, make_user_rows(lms)),
            (PROFILES, make_profile_rows(lms)),
            (EXTERNAL_IDS, make_external_id_rows(lms)),
            (ROLES, make_role_rows(lms)),
            (ENROLLMENTS, make_enrollment_rows(lms)),
        ):
            lms.counts[table.name] = insert_all(connection, table, rows)
        if connection.dialect.name == "postgresql":
            advance_sequences(connection)
