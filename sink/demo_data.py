"""An LMS database and its xAPI events, made up: for `aspects-pii demo`, for tests and for benchmarks.

Everything follows from the seed: a person from the seed and the user id, what they did from the seed, the user id and
the time that the story ends. So the events need no look into the database, and two runs are the same.

Needs Faker, which comes with the extra `embedded`.

.. pii: Made up names, e-mail addresses and profiles; of nobody.
.. pii_types: id, name, username, email_address, location, phone_number, birth_date, gender, biography, image, other
.. pii_retirement: local_api
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from random import Random
from typing import Any, Literal

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
    delete,
    func,
    insert,
    make_url,
    select,
    update,
)
from sqlalchemy.dialects import mysql

#: When the made-up story ends, unless told otherwise.
UNTIL = datetime(2026, 6, 30, 12, 0, tzinfo=UTC)
LMS_URL = "http://lms.example.org"

_LOCALES = ("en_US", "es_ES", "de_DE", "fr_FR", "pt_BR", "pl_PL", "ja_JP", "uk_UA")
_COUNTRIES = ("US", "ES", "DE", "FR", "BR", "PL", "JP", "UA", "IN", "NG", "MX", "CO")
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
_LONGTEXT = Text().with_variant(mysql.LONGTEXT(), "mysql", "mariadb")
_TIME = DateTime().with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")
_ROWS_AT_ONCE = 5_000

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

_EXTERNAL_TYPES = {"xapi": 1, "lti": 2}
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
                table.name: _insert_all(connection, table, rows)
                for table, rows in (
                    (USERS, _user_rows(lms)),
                    (PROFILES, _profile_rows(lms)),
                    (EXTERNAL_IDS, _external_id_rows(lms)),
                    (ROLES, _role_rows(lms)),
                    (ENROLLMENTS, _enrollment_rows(lms)),
                )
            }
            if connection.dialect.name == "postgresql":
                _advance_sequences(connection)
    finally:
        engine.dispose()
    lms.counts.update(counts)
    return lms


def open_writable(url: str, *, native_uuid: bool = True) -> Engine:
    """An engine for the tables of this module."""
    address = make_url(url)
    backend = address.get_backend_name()
    if backend in ("mysql", "mariadb"):
        address = address.set(drivername="mysql+pymysql")
    elif backend == "postgresql":
        address = address.set(drivername="postgresql+psycopg")
    engine = create_engine(address, hide_parameters=True)
    if not native_uuid:
        # SQLAlchemy finds out when it connects first.
        engine.connect().close()
        engine.dialect.supports_native_uuid = False
    return engine


def create_tables(connection: Connection) -> None:
    """Create the empty tables, with what the LMS's own migrations put into them."""
    METADATA.create_all(connection)
    now = make_naive(UNTIL)
    connection.execute(
        insert(EXTERNAL_ID_TYPES),
        [
            {"id": number, "name": name, "description": "", "created": now, "modified": now}
            for name, number in _EXTERNAL_TYPES.items()
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


def make_external_id(seed: int, user_id: int, kind: str = "xapi") -> uuid.UUID:
    """The anonymous id of a user."""
    digest = hashlib.blake2b(f"{seed}:{user_id}:{kind}".encode(), digest_size=16).digest()
    return uuid.UUID(bytes=digest, version=4)


def make_username(seed: int, user_id: int) -> str:
    """The username of a user."""
    return _make_person(seed, user_id).username


def make_email(seed: int, user_id: int) -> str:
    """The e-mail address of a user."""
    return _make_person(seed, user_id).email


@dataclass(frozen=True)
class _Person:
    first_name: str = field(repr=False)
    last_name: str = field(repr=False)
    username: str = field(repr=False)
    email: str = field(repr=False)
    country: str = field(repr=False)
    place: int = field(repr=False)


@dataclass(frozen=True)
class _Pool:
    """Names of one language, drawn once and used again and again: Faker is slow."""

    first_names: tuple[str, ...] = field(repr=False)
    last_names: tuple[str, ...] = field(repr=False)
    places: tuple[tuple[str, str], ...] = field(repr=False)
    """City and street."""
    texts: tuple[str, ...] = field(repr=False)


@lru_cache(maxsize=4)
def _make_pools(seed: int) -> tuple[_Pool, ...]:
    from faker import Faker

    pools = []
    for locale in _LOCALES:
        fake = Faker(locale)
        fake.seed_instance(seed)
        pools.append(
            _Pool(
                tuple(fake.first_name() for _ in range(80)),
                tuple(fake.last_name() for _ in range(120)),
                tuple((fake.city(), fake.street_address()) for _ in range(40)),
                tuple(fake.sentence(12) for _ in range(40)),
            )
        )
    return tuple(pools)


def make_random(lms_seed: int, purpose: str, number: int) -> Random:
    return Random(f"{lms_seed}:{purpose}:{number}")  # noqa: S311 - made-up data


def _make_person(seed: int, user_id: int) -> _Person:
    random = make_random(seed, "person", user_id)
    language = random.randrange(len(_LOCALES))
    pool = _make_pools(seed)[language]
    username = f"{random.choice(('learner', 'student', 'user', 'reader'))}_{random.randrange(16**4):04x}_{user_id}"
    return _Person(
        random.choice(pool.first_names),
        random.choice(pool.last_names),
        username,
        f"{username}@{random.choice(('example.org', 'example.com', 'mail.example.net'))}",
        _COUNTRIES[language] if random.random() < 0.7 else random.choice(_COUNTRIES),
        language,
    )


def _make_course(number: int, until: datetime) -> DemoCourse:
    org = _ORGS[number % len(_ORGS)]
    name = _SUBJECTS[number % len(_SUBJECTS)]
    start = until - timedelta(days=180 - 5 * (number % 12))
    return DemoCourse(f"course-v1:{org}+C{number + 101}+{start.year}", org, name, start)


def _insert_all(connection: Connection, table: Table, rows: Iterator[dict[str, Any]]) -> int:
    total = 0
    batch: list[dict[str, Any]] = []
    for row in rows:
        batch.append(row)
        if len(batch) == _ROWS_AT_ONCE:
            connection.execute(insert(table), batch)
            total += len(batch)
            batch = []
    if batch:
        connection.execute(insert(table), batch)
    return total + len(batch)


def _advance_sequences(connection: Connection) -> None:
    """PostgreSQL's sequences do not notice ids that were given."""
    for table in METADATA.sorted_tables:
        sequence = func.pg_get_serial_sequence(table.name, "id")
        connection.execute(select(func.setval(sequence, select(func.max(table.c.id)).scalar_subquery())))


def make_naive(time: datetime) -> datetime:
    """Django stores UTC in columns without a time zone."""
    return time.astimezone(UTC).replace(tzinfo=None)


def _user_rows(lms: DemoLms) -> Iterator[dict[str, Any]]:
    for user_id in range(1, lms.users + 1):
        person = _make_person(lms.seed, user_id)
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
    pools = _make_pools(lms.seed)
    for user_id in range(1, lms.users + 1):
        person = _make_person(lms.seed, user_id)
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
            "language": _LOCALES[person.place][:2] if random.random() < 0.5 else "",
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
                "external_id_type_id": _EXTERNAL_TYPES[kind],
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


# What Aspects has in ClickHouse beside the events.

COURSE_ENROLLMENT_COLUMNS = (
    *("id", "course_key", "created", "is_active", "mode", "username", "user_id"),
    *("dump_id", "time_last_dumped"),
)
COURSE_OVERVIEW_COLUMNS = (
    *("org", "course_key", "display_name", "course_start", "course_end", "enrollment_start", "enrollment_end"),
    *("self_paced", "course_data_json", "created", "modified", "dump_id", "time_last_dumped"),
)


def course_enrollment_rows(lms: DemoLms, batch_size: int = 10_000) -> Iterator[list[tuple[Any, ...]]]:
    """Rows of `event_sink.course_enrollment`, in the order of `COURSE_ENROLLMENT_COLUMNS`."""
    dump_id = make_external_id(lms.seed, 0, "dump")
    dumped = str(lms.until)

    def rows() -> Iterator[tuple[Any, ...]]:
        for e in list_enrollments(lms):
            username = make_username(lms.seed, e.user_id)
            is_active = e.fate != "unenrolled"
            yield e.id, e.course.key, str(e.created), is_active, e.mode, username, e.user_id, dump_id, dumped

    return _split(rows(), batch_size)


def course_overview_rows(lms: DemoLms) -> list[tuple[Any, ...]]:
    """Rows of `event_sink.course_overviews`, in the order of `COURSE_OVERVIEW_COLUMNS`."""
    dump_id = make_external_id(lms.seed, 0, "dump")
    times = str(lms.until)
    return [
        (c.org, c.key, c.name, str(c.start), "", "", "", False, "{}", times, times, dump_id, times) for c in lms.courses
    ]


# xAPI statements. Verbs and types: ADL's and TinCan's vocabularies as the LMS's xAPI transformers use them.

ActorType = Literal["external_id", "mbox", "mbox_sha1sum"]
"""The LMS's setting XAPI_AGENT_IFI_TYPE."""

_COURSE_TYPE = "http://adlnet.gov/expapi/activities/course"
_MODE = "https://w3id.org/xapi/acrossx/extensions/type"
_GRADE = "http://www.tincanapi.co.uk/activitytypes/grade_classification"
_VERBS = {
    "registered": "http://adlnet.gov/expapi/verbs/registered",
    "unregistered": "http://id.tincanapi.com/verb/unregistered",
    "navigated": "https://w3id.org/xapi/dod-isd/verbs/navigated",
    "played": "https://w3id.org/xapi/video/verbs/played",
    "paused": "https://w3id.org/xapi/video/verbs/paused",
    "evaluated": "https://w3id.org/xapi/acrossx/verbs/evaluated",
    "earned": "http://id.tincanapi.com/verb/earned",
    "passed": "http://adlnet.gov/expapi/verbs/passed",
    "failed": "http://adlnet.gov/expapi/verbs/failed",
}
_BLOCKS = {
    "navigated": ("sequential", "http://adlnet.gov/expapi/activities/module"),
    "played": ("video", "https://w3id.org/xapi/video/activity-type/video"),
    "paused": ("video", "https://w3id.org/xapi/video/activity-type/video"),
    "evaluated": ("problem", "http://adlnet.gov/expapi/activities/cmi.interaction"),
}

EventRow = tuple[uuid.UUID, datetime, str]
"""event_id, emission_time, event: the columns of `xapi.xapi_events_all`."""


def event_rows(
    lms: DemoLms, *, actor_type: ActorType = "external_id", batch_size: int = 10_000
) -> Iterator[list[EventRow]]:
    """What the learners did in the half year before the end of the story; each enrolment in the order of time.

    Args:
        lms: what `create_lms` or `describe_lms` has returned.
        actor_type: how the LMS names its actors; all but `external_id` put e-mail addresses, or hashes of them, into
            the events.
        batch_size: rows in a list.
    """

    def rows() -> Iterator[EventRow]:
        for enrollment in list_enrollments(lms):
            actor = _make_actor(lms, enrollment.user_id, actor_type)
            random = make_random(lms.seed, "events", enrollment.id)
            for time, verb, score in _live(enrollment, lms.until, random):
                event_id = uuid.UUID(int=random.getrandbits(128), version=4)
                yield event_id, time, _write_statement(event_id, time, actor, verb, score, enrollment, random)

    return _split(rows(), batch_size)


def _split(rows: Iterator[Any], size: int) -> Iterator[list[Any]]:
    batch = []
    for row in rows:
        batch.append(row)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _make_actor(lms: DemoLms, user_id: int, actor_type: ActorType) -> dict[str, Any]:
    if actor_type == "external_id":
        name = str(make_external_id(lms.seed, user_id))
        return {"objectType": "Agent", "account": {"homePage": LMS_URL, "name": name}}
    mailto = f"mailto:{make_email(lms.seed, user_id)}"
    if actor_type == "mbox":
        return {"objectType": "Agent", "mbox": mailto}
    # SHA-1 is what xAPI prescribes here.
    return {"objectType": "Agent", "mbox_sha1sum": hashlib.sha1(mailto.encode(), usedforsecurity=False).hexdigest()}


def _live(enrollment: Enrollment, until: datetime, random: Random) -> Iterator[tuple[datetime, str, float | None]]:
    """One learner's way through one course: when, which verb, with which score; in the order of time."""
    start, fate = enrollment.created, enrollment.fate
    # When they were last seen. Who is at risk has not come back for more than a week.
    if fate == "active":
        end = until - timedelta(minutes=random.randrange(6 * 24 * 60))
    elif fate == "at_risk":
        end = start + (until - timedelta(days=9) - start) * (0.1 + 0.9 * random.random())
    elif fate == "unenrolled":
        end = start + timedelta(days=1 + random.randrange(20))
    else:
        end = start + (until - timedelta(hours=2) - start) * (0.5 + 0.5 * random.random())
    yield start, "registered", None
    visits = random.randrange(1, 4) + (1 if fate in ("passed", "failed") else 0)
    seconds = (end - start).total_seconds()
    # The last visit is at the end; a visit takes less than half an hour.
    times = [*sorted(random.random() * 0.9 for _ in range(visits - 1)), 1.0]
    score, time = 0.0, start
    for share in times:
        time = max(time + timedelta(seconds=30), start + timedelta(seconds=seconds * share - 1800))
        yield time, "navigated", None
        if random.random() < 0.6:
            time += timedelta(seconds=random.randrange(5, 120))
            yield time, "played", None
            time += timedelta(seconds=random.randrange(30, 600))
            yield time, "paused", None
        if random.random() < 0.7:
            time += timedelta(seconds=random.randrange(30, 600))
            good = {"passed": 0.8, "failed": 0.3}.get(fate, 0.6)
            score = round(min(1.0, max(0.0, random.gauss(good, 0.15))), 2)
            yield time, "evaluated", score
    if fate in ("passed", "failed"):
        score = round(random.uniform(0.6, 1.0) if fate == "passed" else random.uniform(0.0, 0.49), 2)
        yield time + timedelta(seconds=1), "earned", score
        yield time + timedelta(seconds=2), fate, score
    elif fate == "unenrolled":
        yield time + timedelta(seconds=60), "unregistered", None
    elif score:
        yield time + timedelta(seconds=1), "earned", round(score * 0.4, 2)


def _write_statement(
    event_id: uuid.UUID,
    time: datetime,
    actor: dict[str, Any],
    verb: str,
    score: float | None,
    enrollment: Enrollment,
    random: Random,
) -> str:
    course = enrollment.course
    course_activity: dict[str, Any] = {
        "id": f"{LMS_URL}/course/{course.key}",
        "objectType": "Activity",
        "definition": {"type": _COURSE_TYPE, "name": {"en-US": course.name}},
    }
    context: dict[str, Any] = {"extensions": {"https://w3id.org/xapi/openedx/extension/transformer-version": "demo"}}
    if verb in _BLOCKS:
        kind, activity = _BLOCKS[verb]
        block = f"block-v1:{course.key.removeprefix('course-v1:')}+type@{kind}+block@{random.randrange(30):032x}"
        target: dict[str, Any] = {
            "id": f"{LMS_URL}/xblock/{block}",
            "objectType": "Activity",
            "definition": {"type": activity},
        }
        context["contextActivities"] = {"parent": [course_activity]}
    else:
        target = course_activity
    if verb in ("registered", "unregistered"):
        target["definition"]["extensions"] = {_MODE: enrollment.mode}
    statement: dict[str, Any] = {
        "id": str(event_id),
        "version": "1.0.3",
        "actor": actor,
        "verb": {"id": _VERBS[verb], "display": {"en": verb}},
        "object": target,
        "context": context,
        "timestamp": time.isoformat(),
    }
    if score is not None:
        result: dict[str, Any] = {"score": {"scaled": score, "raw": score * 100, "min": 0, "max": 100}}
        if verb == "evaluated":
            result["success"] = score >= 0.5
        if verb in ("earned", "passed", "failed"):
            result["extensions"] = {_GRADE: "Pass" if score >= 0.5 else "Fail"}
        statement["result"] = result
    return json.dumps(statement, ensure_ascii=False)


class LmsWriter:
    """Does to the database what the LMS does, step by step; for the demo and for tests.

    The steps of a retirement are those of the LMS's own pipeline, in their order: `request_retirement`, then either
    `cancel_retirement`, or `retire_misc`, `retire`, `complete_retirement` and, much later, `clean_up_retirement`.
    """

    def __init__(self, url: str, *, native_uuid: bool = True) -> None:
        """Open a database that `create_lms` or `create_tables` has filled; `native_uuid` as there."""
        self._engine = open_writable(url, native_uuid=native_uuid)

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
        ids = {"external_user_id": external_id, "external_id_type_id": _EXTERNAL_TYPES["xapi"], "user_id": user_id}
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
