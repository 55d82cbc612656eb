"""Unique strings go in as one learner's name, e-mail, biography …, and are looked for in everything that is left behind."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

from sink.clickhouse.client import ClickHouse
from sink.demo_data.events import COURSE_ENROLLMENT_COLUMNS, COURSE_OVERVIEW_COLUMNS, course_overview_rows, event_rows
from sink.demo_data.lms import create_lms
from sink.demo_data.lms_description import UNTIL, DemoLms
from sink.demo_data.people import make_external_id
from tests.support import aspects
from tests.support.installation import Installation
from tests.support.lms_writer import LmsWriter

CANARY, OTHER, BAD = 1001, 1002, 1003
TEXT_COLUMNS = (
    *("name", "courseware", "language", "location", "mailing_address", "city", "goals", "bio"),
    *("phone_number", "gender", "level_of_education"),
)
PII_TABLES = ("user_profile", "external_id", "course_access", "course_enrollment")


def mark(number: int, column: str) -> str:
    """A text that is nowhere else, short enough for the column."""
    text = uuid.uuid5(uuid.NAMESPACE_OID, f"{number}:{column}").hex
    return f"qz{text[:4]}" if column in ("gender", "level_of_education") else f"Quetzal{text}"


def marks(number: int) -> list[str]:
    found = [mark(number, column) for column in (*TEXT_COLUMNS, "username", "email")]
    assert len(set(found)) == len(found)
    return found


def register(lms: LmsWriter, number: int, course: str) -> uuid.UUID:
    profile: dict[str, Any] = {column: mark(number, column) for column in TEXT_COLUMNS if column != "name"}
    profile["meta"] = json.dumps({"session_id": mark(number, "session")})
    external_id = lms.register_user(
        number, mark(number, "username"), f"{mark(number, 'email')}@example.org", mark(number, "name"), **profile
    )
    lms.grant_role(number, "DemoX", course, "staff")
    return external_id


def fill_aspects(client: ClickHouse, lms: DemoLms, ids: dict[int, uuid.UUID]) -> None:
    """What Aspects has put there: courses, enrolments, and events; and columns that a search of the files can read."""
    aspects.replace_enrolments(client)
    for table in PII_TABLES:
        columns = client.rows(
            "SELECT name, type FROM system.columns WHERE database = 'event_sink' AND table = {table:String} "
            "AND type LIKE '%String%'",
            table=table,
        )
        assert columns
        for column, kind in columns:
            if column != "time_last_dumped":
                client.execute(f"ALTER TABLE $event_sink.{table} MODIFY COLUMN {column} {kind} CODEC(NONE)")
    overviews = course_overview_rows(lms)
    client.insert(client.table("event_sink.course_overviews"), COURSE_OVERVIEW_COLUMNS, overviews)
    course, now = lms.courses[0].key, UNTIL
    rows = [
        (10_000 + u, course, str(now), True, "audit", mark(u, "username"), u, uuid.UUID(int=1), str(now)) for u in ids
    ]
    client.insert(client.table("event_sink.course_enrollment"), COURSE_ENROLLMENT_COLUMNS, rows)
    for batch in event_rows(lms):
        client.insert(client.table("xapi.xapi_events_all"), ("event_id", "emission_time", "event"), batch)
    # The canaries have done what the first learners did.
    for user, external_id in ids.items():
        client.execute(
            "INSERT INTO $xapi.xapi_events_all SELECT generateUUIDv4(), emission_time, "
            "replaceAll(event, {learner:String}, {canary:String}) FROM $xapi.xapi_events_all "
            "WHERE event LIKE concat('%', {learner:String}, '%')",
            learner=str(make_external_id(lms.seed, user - CANARY + 2)),
            canary=str(external_id),
        )


def read_events(client: ClickHouse) -> list[tuple[Any, ...]]:
    return client.rows("SELECT * FROM $xapi.xapi_events_all ORDER BY event_id")


def test_no_canary_is_anywhere(installation: Installation, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/lms.sqlite3"
    lms = create_lms(url, 30, 3)
    writer = LmsWriter(url)
    course = lms.courses[0].key
    ids = {user: register(writer, user, course) for user in (CANARY, OTHER)}
    # Reported by id, and never by what it says.
    register(writer, BAD, course)
    bad_name = f"{mark(BAD, 'name')}-" * 20
    writer.change_profile(BAD, name=bad_name)
    # Of whoever is copied, the old name must go as well.
    old = "Motmot" + uuid.uuid4().hex
    writer.change_profile(CANARY, name=old)
    sessions = [mark(user, "session") for user in (*ids, BAD)]
    canaries, everybody = [*marks(CANARY), old], [*marks(CANARY), *marks(OTHER), *marks(BAD), old, *sessions]

    installation.run("init")
    with installation.clickhouse() as client:
        fill_aspects(client, lms, ids)
        before = read_events(client)
    assert sum(str(ids[CANARY]) in row[2] for row in before) >= 3

    installation.run("sync", expected=1)
    writer.change_profile(CANARY, name=mark(CANARY, "name"))
    installation.run("sync", "--batch-size", 7, expected=1)
    assert f"user {BAD}, row 1033, name: longer than 255 characters." in installation.last_said()[1]
    installation.run("build")
    installation.run("status")
    installation.run("map", "check")
    installation.run("retire", CANARY, "--dry-run")

    # The searches find what is there; else they would prove nothing.
    assert installation.find_in_tables(*canaries) >= {
        *(f"event_sink.{table}" for table in (*PII_TABLES, "user_pii")),
        "reporting.dim_user_pii",
        "reporting.enrolled_learners",
    }
    assert installation.find_in_tables(old, *sessions) == set()
    assert installation.find_in_files(*sessions, below=installation.data) == set()
    for text in marks(CANARY):
        assert installation.find_in_files(text, below=installation.data)
    assert installation.find_in_files(*everybody, below=installation.left_behind) == set()

    installation.run("retire", CANARY, "--actor", "17")
    assert installation.find_in_files(*canaries) == set()
    assert installation.find_in_tables(*canaries) == set()
    # The LMS has them still, and cannot bring them back.
    installation.run("sync", expected=1)
    installation.run("verify", CANARY)
    installation.run("verify", "--json")
    installation.run("sweep")
    installation.run("reconcile")
    installation.run("retire", CANARY)
    assert installation.find_in_tables(*canaries) == set()
    assert installation.find_in_files(*canaries) == set()
    assert installation.find_in_tables(*marks(OTHER)) >= {f"event_sink.{table}" for table in PII_TABLES}

    installation.run("purge", "--dry-run", ENABLE_PII="false")
    installation.run("purge", "--yes", ENABLE_PII="false")
    entries = installation.run_json("ledger", "show", ENABLE_PII="false")
    assert {entry["action"] for entry in entries} >= {"requested", "hidden", "erased", "purged"}
    installation.run("ledger", "show", ENABLE_PII="false")
    installation.run("status", ENABLE_PII="false")

    assert installation.find_in_tables(*everybody) == set()
    assert installation.find_in_files(*everybody) == set()
    # The anonymous id is in the events, and in nothing that tells whose it is.
    external_ids = [str(external_id) for external_id in ids.values()]
    with_ids = {name.partition(".")[0] for name in installation.find_in_tables(*external_ids)}
    assert "xapi" in with_ids
    assert with_ids <= {"xapi", "reporting"}
    assert installation.find_in_files(*external_ids, below=installation.left_behind) == set()
    said = list((installation.left_behind / "said").iterdir())
    assert len(said) >= 30
    assert len(list((installation.left_behind / "receipts").iterdir())) == 1
    with installation.clickhouse() as client:
        assert read_events(client) == before
