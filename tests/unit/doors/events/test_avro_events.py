"""Events of the bus, as bytes that a producer wrote; whether the pinned schemas are those of openedx-events."""

from __future__ import annotations

import subprocess
import sys
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.util import find_spec
from typing import Any

import pytest

from sink.doors.events.avro_events import EVENTS, decode_open_edx_event, read_headers
from sink.doors.events.work import Message, RoleReport, Work
from sink.errors import InvalidMessageError
from sink.ledger.role_trail import Operation, RoleChange, Source
from sink.resources import find_resource

REGISTRATION = "org.openedx.learning.student.registration.completed.v1"
ROLE = "org.openedx.learning.user.course_access_role.added.v1"
# Written by edx-event-bus-redis 0.6.1 and openedx-events 10.5.0.
JDOE = b"T\x01\x08jdoe jdoe@example.com\x10Jane Doe"
JDOE_STAFF = b"T\x01\x08jdoe jdoe@example.com\x00\x06Org0course-v1:Org+Course+Run\nstaff"


# Written by openedx-events 11.2.0 of what openedx-authz 1.23.0 sent.
ASSIGNED = "org.openedx.authz.role_assignment.created"
UNASSIGNED = "org.openedx.authz.role_assignment.deleted"
ALICE_ADMIN = b'\x0ecreated\x14user^alice"role^course_adminLcourse-v1^course-v1:OpenedX+CS101+2024\x02\n'
BOB_STAFF = b'\x0edeleted\x10user^bob"role^course_staff:course-v1^course-v1:OpenedX+*\x00'
EVENT = uuid.UUID("b73cffd4-eb94-11f1-846a-02fc00000001")
AT = datetime(2026, 11, 29, 1, 32, 18, 711188, tzinfo=UTC)
HEADERS = {b"id": str(EVENT).encode(), b"time": AT.isoformat().encode()}


def make_message(kind: str, data: bytes, headers: Mapping[bytes, bytes] = HEADERS) -> Message:
    return Message("topic", "1-0", {b"type": kind.encode(), b"event_data": data, **headers})


def test_a_registration_is_a_copy_of_everything() -> None:
    assert decode_open_edx_event(make_message(REGISTRATION, JDOE)) == Work("sync", (42,), (), kind=REGISTRATION)


def test_a_role_is_a_copy_of_the_roles() -> None:
    work = decode_open_edx_event(make_message(ROLE, JDOE_STAFF))
    change = RoleChange(EVENT, AT, Operation.GIVEN, "42", "staff", "course-v1:Org+Course+Run", Source.LMS, None)
    assert work == Work("sync", (42,), ("course_access",), role=RoleReport(change), kind=ROLE)


@pytest.mark.parametrize("headers", [{}, {b"id": b"1", b"time": b"now"}])
def test_a_role_without_headers_is_a_copy_all_the_same(headers: dict[bytes, bytes]) -> None:
    work = decode_open_edx_event(make_message(ROLE, JDOE_STAFF, headers))
    assert work == Work("sync", (42,), ("course_access",), kind=ROLE)


@pytest.mark.parametrize(
    ("kind", "data", "expected"),
    [
        (ASSIGNED, ALICE_ADMIN, ("alice", "given", "instructor", "course-v1:OpenedX+CS101+2024", "5")),
        (UNASSIGNED, BOB_STAFF, ("bob", "taken", "staff", "course-v1:OpenedX+*", None)),
    ],
)
def test_an_assignment_of_openedx_authz_has_a_name_for_an_id(kind: str, data: bytes, expected: tuple[Any, ...]) -> None:
    work = decode_open_edx_event(make_message(kind, data))
    assert work is not None
    assert work.role is not None
    change = work.role.change
    assert (work.role.username, change.operation, change.role, change.scope, change.actor) == expected
    assert (change.event, change.at, change.source, change.subject) == (EVENT, AT, "openedx-authz", "")
    assert (work.action, work.subjects, work.objects) == ("sync", (), ("course_access",))
    assert expected[0] not in repr(work)


@pytest.mark.parametrize(
    ("change", "headers", "field"),
    [
        ((b"\x14user^alice", b"\x14team^alice"), HEADERS, "subject is not a user"),
        ((b"role^course_admin", b"role^Alice Admin!"), HEADERS, "`role` cannot be right"),
        ((b"course-v1^course-v1:", b"alice@alice.alice.al"), HEADERS, "`scope` cannot be right"),
        ((b"", b""), {}, "`event` cannot be right"),
    ],
)
def test_an_assignment_that_cannot_be_right_is_invalid_and_not_quoted(
    change: tuple[bytes, bytes], headers: dict[bytes, bytes], field: str
) -> None:
    with pytest.raises(InvalidMessageError, match=field) as raised:
        decode_open_edx_event(make_message(ASSIGNED, ALICE_ADMIN.replace(*change), headers))
    assert "lice" not in str(raised.value)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        JDOE[:-1],
        JDOE + b"\x00",
        b"\x00" + JDOE[1:],
        b"\x53" + JDOE[1:],
        JDOE.replace(b"Jane", b"\xff\xff\xff\xff"),
    ],
)
def test_other_bytes_are_invalid_and_not_quoted(data: bytes) -> None:
    with pytest.raises(InvalidMessageError) as raised:
        decode_open_edx_event(make_message(REGISTRATION, data))
    assert raised.value.kind == REGISTRATION
    assert "jdoe" not in str(raised.value)
    assert (raised.value.__context__, raised.value.__cause__) == (None, None) or "jdoe" not in str(
        raised.value.__context__
    )


def test_every_byte_matters() -> None:
    """A message that was cut anywhere is invalid, never another user."""
    for length in range(len(JDOE)):
        with pytest.raises(InvalidMessageError):
            decode_open_edx_event(make_message(REGISTRATION, JDOE[:length]))


def test_other_kinds_are_passed_over() -> None:
    assert decode_open_edx_event(make_message("org.openedx.learning.course.enrollment.created.v1", b"?")) is None


def test_headers_pass_only_if_they_look_like_headers() -> None:
    good = {
        b"type": REGISTRATION.encode(),
        b"id": b"224b49e6-e57a-11f1-b806-02fc00000001",
        b"time": b"2026-11-21T07:06:54.932704+00:00",
    }
    assert len(read_headers(Message("topic", "1-0", good))) == 3
    assert len(read_headers(make_message(ASSIGNED, b""))) == 3
    bad = {b"type": b"org.openedx.Jane Doe.v1", b"id": b"jdoe@example.com", b"time": b"Jane Doe", b"source": b"Jane"}
    assert read_headers(Message("topic", "1-0", bad)) == {}


@pytest.mark.skipif(find_spec("openedx_events") is None, reason="openedx-events is not installed")
def test_the_pinned_schemas_are_those_of_openedx_events() -> None:
    script = find_resource("config/schemas/pin_schemas.py")
    assert {f"{kind}.avsc" for kind in EVENTS} == {path.name for path in script.parent.glob("*.avsc")}
    ran = subprocess.run([sys.executable, str(script), "--check"], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
