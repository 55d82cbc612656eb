"""Events of the bus, as bytes that a producer wrote; whether the pinned schemas are those of openedx-events."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec

import pytest

from sink.doors.events.avro_events import EVENTS, decode_open_edx_event, read_headers
from sink.doors.events.work import Message, Work
from sink.errors import InvalidMessageError
from sink.resources import find_resource

REGISTRATION = "org.openedx.learning.student.registration.completed.v1"
ROLE = "org.openedx.learning.user.course_access_role.added.v1"
# Written by edx-event-bus-redis 0.6.1 and openedx-events 10.5.0.
JDOE = b"T\x01\x08jdoe jdoe@example.com\x10Jane Doe"
JDOE_STAFF = b"T\x01\x08jdoe jdoe@example.com\x00\x06Org0course-v1:Org+Course+Run\nstaff"


def make_message(kind: str, data: bytes) -> Message:
    return Message("topic", "1-0", {b"type": kind.encode(), b"event_data": data})


def test_a_registration_is_a_copy_of_everything() -> None:
    assert decode_open_edx_event(make_message(REGISTRATION, JDOE)) == Work("sync", (42,), (), kind=REGISTRATION)


def test_a_role_is_a_copy_of_the_roles() -> None:
    assert decode_open_edx_event(make_message(ROLE, JDOE_STAFF)) == Work("sync", (42,), ("course_access",), kind=ROLE)


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
    bad = {b"type": b"org.openedx.Jane Doe.v1", b"id": b"jdoe@example.com", b"time": b"Jane Doe", b"source": b"Jane"}
    assert read_headers(Message("topic", "1-0", bad)) == {}


@pytest.mark.skipif(find_spec("openedx_events") is None, reason="openedx-events is not installed")
def test_the_pinned_schemas_are_those_of_openedx_events() -> None:
    script = find_resource("config/schemas/pin_schemas.py")
    assert {f"{kind}.avsc" for kind in EVENTS} == {path.name for path in script.parent.glob("*.avsc")}
    ran = subprocess.run([sys.executable, str(script), "--check"], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
