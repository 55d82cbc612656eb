"""The tables of a generated LMS, as the LMS has them.

.. pii: Generated rows on their way into the database; of nobody.
.. pii_types: id, name, username, email_address, location, phone_number, birth_date, gender, biography, image, other
.. pii_retirement: local_api
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import islice
from typing import Any

from sqlalchemy import (
    Boolean,
    Column,
    Connection,
    DateTime,
    Engine,
    Integer,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    create_engine,
    func,
    insert,
    make_url,
    select,
)
from sqlalchemy.dialects import mysql

from sink.demo_data.lms_description import UNTIL

_LONGTEXT = Text().with_variant(mysql.LONGTEXT(), "mysql", "mariadb")
_TIME = DateTime().with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")
_BATCH_ROWS = 5_000

METADATA = MetaData()


def _table(name: str, *items: Any) -> Table:
    return Table(
        name,
        METADATA,
        Column("id", Integer, primary_key=True),
        *items,
        mysql_charset="utf8mb4",
        mariadb_charset="utf8mb4",
        mysql_engine="InnoDB",
        mariadb_engine="InnoDB",
    )


def _times() -> tuple[Column[Any], Column[Any]]:
    return Column("created", _TIME, nullable=False), Column("modified", _TIME, nullable=False)


# The columns of the LMS's Django models; without their foreign keys, so that tests can have what must not be.
USERS = _table(
    "auth_user",
    Column("password", String(128), nullable=False),
    Column("last_login", _TIME),
    Column("is_superuser", Boolean, nullable=False),
    Column("username", String(150), nullable=False, unique=True),
    Column("first_name", String(150), nullable=False),
    Column("last_name", String(150), nullable=False),
    Column("email", String(254), nullable=False, unique=True),
    Column("is_staff", Boolean, nullable=False),
    Column("is_active", Boolean, nullable=False),
    Column("date_joined", _TIME, nullable=False),
)
PROFILES = _table(
    "auth_userprofile",
    Column("user_id", Integer, nullable=False, unique=True),
    Column("name", String(255), nullable=False),
    Column("meta", _LONGTEXT, nullable=False),
    Column("courseware", String(255), nullable=False),
    Column("language", String(255), nullable=False),
    Column("location", String(255), nullable=False),
    Column("year_of_birth", Integer),
    Column("gender", String(6)),
    Column("level_of_education", String(6)),
    Column("mailing_address", _LONGTEXT),
    Column("city", _LONGTEXT),
    Column("country", String(2)),
    Column("state", String(2)),
    Column("goals", _LONGTEXT),
    Column("bio", String(3000)),
    Column("profile_image_uploaded_at", _TIME),
    Column("phone_number", String(50)),
)
EXTERNAL_ID_TYPES = _table(
    "external_user_ids_externalidtype",
    *_times(),
    Column("name", String(32), nullable=False, unique=True),
    Column("description", _LONGTEXT, nullable=False),
)
EXTERNAL_IDS = _table(
    "external_user_ids_externalid",
    *_times(),
    # char(32) on MySQL and SQLite, native on MariaDB and PostgreSQL.
    Column("external_user_id", Uuid, nullable=False, unique=True),
    Column("external_id_type_id", Integer, nullable=False),
    Column("user_id", Integer, nullable=False),
    UniqueConstraint("user_id", "external_id_type_id"),
)
RETIREMENT_STATES = _table(
    "user_api_retirementstate",
    Column("state_name", String(30), nullable=False, unique=True),
    Column("state_execution_order", SmallInteger, nullable=False, unique=True),
    Column("is_dead_end_state", Boolean, nullable=False),
    Column("required", Boolean, nullable=False),
)
RETIREMENT_STATUSES = _table(
    "user_api_userretirementstatus",
    *_times(),
    Column("user_id", Integer, nullable=False, unique=True),
    Column("original_username", String(150), nullable=False),
    Column("original_email", String(254), nullable=False),
    Column("original_name", String(255), nullable=False),
    Column("retired_username", String(150), nullable=False),
    Column("retired_email", String(254), nullable=False),
    Column("current_state_id", Integer, nullable=False),
    Column("last_state_id", Integer, nullable=False),
    Column("responses", _LONGTEXT, nullable=False),
)
RETIREMENT_REQUESTS = _table(
    "user_api_userretirementrequest", *_times(), Column("user_id", Integer, nullable=False, unique=True)
)
ROLES = _table(
    "student_courseaccessrole",
    Column("user_id", Integer, nullable=False),
    Column("org", String(64), nullable=False),
    Column("course_id", String(255), nullable=False),
    Column("role", String(64), nullable=False),
    UniqueConstraint("user_id", "org", "course_id", "role"),
)
ENROLLMENTS = _table(
    "student_courseenrollment",
    Column("user_id", Integer, nullable=False),
    Column("course_id", String(255), nullable=False),
    Column("created", _TIME),
    Column("is_active", Boolean, nullable=False),
    Column("mode", String(100), nullable=False),
    UniqueConstraint("user_id", "course_id"),
)

EXTERNAL_TYPES = {"xapi": 1, "lti": 2}
RETIREMENT_STATE_ROWS = (
    ("PENDING", False, True),
    ("RETIRING_LMS_MISC", False, False),
    ("LMS_MISC_COMPLETE", False, False),
    ("RETIRING_LMS", False, False),
    ("LMS_COMPLETE", False, False),
    ("ERRORED", True, True),
    ("ABORTED", True, True),
    ("COMPLETE", True, True),
)


def open_writable(url: str) -> Engine:
    """An engine for the tables of this module."""
    address = make_url(url)
    backend = address.get_backend_name()
    if backend in ("mysql", "mariadb"):
        address = address.set(drivername="mysql+pymysql")
    elif backend == "postgresql":
        address = address.set(drivername="postgresql+psycopg")
    # SQLite lets nobody write while somebody reads; a copy under way may take longer than its five seconds.
    options = {"timeout": 60} if backend == "sqlite" else {}
    return create_engine(address, hide_parameters=True, connect_args=options)


def create_tables(connection: Connection) -> None:
    """Create the empty tables, with what the LMS's own migrations put into them."""
    METADATA.create_all(connection)
    now = make_naive(UNTIL)
    connection.execute(
        insert(EXTERNAL_ID_TYPES),
        [
            {"id": number, "name": name, "description": "", "created": now, "modified": now}
            for name, number in EXTERNAL_TYPES.items()
        ],
    )
    connection.execute(
        insert(RETIREMENT_STATES),
        [
            {
                "id": number,
                "state_name": name,
                "state_execution_order": number,
                "is_dead_end_state": dead,
                "required": required,
            }
            for number, (name, dead, required) in enumerate(RETIREMENT_STATE_ROWS, start=1)
        ],
    )


def insert_all(connection: Connection, table: Table, rows: Iterator[dict[str, Any]]) -> int:
    """Insert the rows in batches, and return how many there were."""
    total = 0
    while batch := list(islice(rows, _BATCH_ROWS)):
        connection.execute(insert(table), batch)
        total += len(batch)
    return total


def advance_sequences(connection: Connection) -> None:
    """PostgreSQL's sequences do not notice ids that were given."""
    for table in METADATA.sorted_tables:
        sequence = func.pg_get_serial_sequence(table.name, "id")
        connection.execute(select(func.setval(sequence, select(func.max(table.c.id)).scalar_subquery())))


def make_naive(time: datetime) -> datetime:
    """Django stores UTC in columns without a time zone."""
    return time.astimezone(UTC).replace(tzinfo=None)
