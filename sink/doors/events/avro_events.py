"""Events of the Open edX event bus, read with pinned schemas.

Bare Avro has no schema with it: config/schemas/ holds what openedx-events 11.2.0 writes, and a field added there
makes a message unreadable here. Of the names and addresses in an event one leaves this module: openedx-authz says by user
name whose role it is, and the LMS database knows the id.
"""

from __future__ import annotations

import functools
import io
import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import fastavro

from sink.doors.events.work import VALUE, Message, RoleReport, Work
from sink.errors import InvalidMessageError, translated
from sink.ledger.role_trail import Operation, Source, read_change
from sink.lms.authz import cover_courses, name_role, name_scope, read_username
from sink.pii_map import Subject
from sink.resources import find_resource

# .. pii: Names and e-mail addresses come with an event; only the id is taken from it, or the user name where it has none.
# .. pii_types: username, email_address, name
# .. pii_retirement: consumer_api

_log = logging.getLogger(__name__)

_ROLE_ADDED = "org.openedx.learning.user.course_access_role.added.v1"
_ROLE_REMOVED = "org.openedx.learning.user.course_access_role.removed.v1"
_ASSIGNED = "org.openedx.authz.role_assignment.created"
_UNASSIGNED = "org.openedx.authz.role_assignment.deleted"
_ROLES = ("course_access",)

# Event type: where the user's id is, and which objects are copied because of it (all where none is named).
EVENTS: Mapping[str, tuple[Sequence[str], Sequence[str]]] = {
    "org.openedx.learning.student.registration.completed.v1": (("user", "id"), ()),
    "org.openedx.learning.auth.session.login.completed.v1": (("user", "id"), ()),
    _ROLE_ADDED: (("course_access_role_data", "user", "id"), _ROLES),
    _ROLE_REMOVED: (("course_access_role_data", "user", "id"), _ROLES),
    # By name: `_read_assignment`.
    _ASSIGNED: ((), _ROLES),
    _UNASSIGNED: ((), _ROLES),
}
_OPERATIONS = {
    _ROLE_ADDED: Operation.GIVEN,
    _ROLE_REMOVED: Operation.TAKEN,
    _ASSIGNED: Operation.GIVEN,
    _UNASSIGNED: Operation.TAKEN,
}

# Confluent's frame around a value: a zero, and the number of the schema in a registry.
_FRAME_BYTES = 5


def decode_open_edx_event(message: Message) -> Work | None:
    """Read one message as edx-event-bus-redis 0.6.1 writes them: headers as fields, Avro in `event_data`.

    Returns:
        Whom to copy again; None for kinds of event that are not read.

    Raises:
        InvalidMessageError: it is not such a message, or was written with another schema.
    """
    kind = message.fields.get(b"type", b"").decode("ascii", "replace")
    if not kind:
        raise InvalidMessageError("the field `type` is missing")
    if kind not in EVENTS:
        return None
    data = message.fields.get(b"event_data")
    if data is None:
        raise InvalidMessageError("the field `event_data` is missing", kind)
    path, objects = EVENTS[kind]
    event: Any = _read(kind, data)
    if not path:
        return Work(
            "sync", (), tuple(objects), role=_read_assignment(kind, message, event["role_assignment"]), kind=kind
        )
    value = event
    for key in path:
        value = value[key]
    try:
        user_id = Subject(type="integer").parse(str(value))
    except ValueError:
        raise InvalidMessageError(f"{'.'.join(path)} is not an id", kind) from None
    role = _read_role(kind, message, str(user_id), event["course_access_role_data"]) if kind in _OPERATIONS else None
    return Work("sync", (user_id,), tuple(objects), role=role, kind=kind)


def decode_framed_event(message: Message) -> Work | None:
    """Read one message as edx-event-bus-kafka 6.1.0 writes them: headers, and Avro in Confluent's frame.

    Returns:
        Whom to copy again; None for kinds of event that are not read.

    Raises:
        InvalidMessageError: it is not such a message, or was written with another schema.
    """
    fields = dict(message.fields)
    value = fields.pop(VALUE.encode(), b"")
    kind = fields.get(b"type", b"").decode("ascii", "replace")
    if not kind:
        raise InvalidMessageError("the header `ce_type` is missing")
    if kind in EVENTS and (value[:1] != b"\0" or len(value) <= _FRAME_BYTES):
        raise InvalidMessageError("it is not framed: a zero and the number of a schema come before the Avro", kind)
    fields[b"event_data"] = value[_FRAME_BYTES:]
    return decode_open_edx_event(Message(message.stream, message.id, fields))


def _read_assignment(kind: str, message: Message, told: Any) -> RoleReport:
    """What openedx-authz says of a role, by user name.

    Raises:
        InvalidMessageError: it is not about a user, or something in it cannot be right.
    """
    username = read_username(told["subject"])
    if not username:
        raise InvalidMessageError("role_assignment.subject is not a user", kind)
    change = {
        "role": name_role(told["role"]),
        "scope": name_scope(told["scope"]),
        "source": Source.AUTHZ,
        "actor": told["actor_id"],
    }
    try:
        return report_role(_OPERATIONS[kind], read_headers(message), change, username=username)
    except ValueError as error:
        raise InvalidMessageError(f"role_assignment: {error}", kind) from None


def _read_role(kind: str, message: Message, subject: str, told: Any) -> RoleReport | None:
    """What the LMS says of a role; nothing where it cannot be right, which does not keep the roles from being copied."""
    scope = cover_courses(told["org_key"], told["course_key"])
    change = {"subject": subject, "role": told["role"], "scope": scope, "source": Source.LMS}
    try:
        return report_role(_OPERATIONS[kind], read_headers(message), change)
    except ValueError as error:
        _log.warning("%s %s is not in the audit trail of roles: %s", message.stream, message.id, error)
        return None


def report_role(
    operation: str, headers: Mapping[str, str], change: dict[str, Any], *, username: str = ""
) -> RoleReport:
    """A report for the audit trail, from an event's headers and what it says; without a subject where it has a name.

    Raises:
        ValueError: names what cannot be right, without quoting it.
    """
    told = {"operation": operation, "event": headers.get("id"), "at": headers.get("time"), **change}
    if username:
        # Any id, until the name is looked up.
        return RoleReport(replace(read_change({**told, "subject": "0"}), subject=""), username)
    return RoleReport(read_change(told))


def _read(kind: str, data: bytes) -> Any:
    body = io.BytesIO(data)
    # Whatever it stumbles over, its message may quote a value.
    with translated(lambda _: InvalidMessageError("it is not Avro of the pinned schema", kind)):
        event = fastavro.schemaless_reader(body, _load_schema(kind), None)
    if body.read(1):
        raise InvalidMessageError("it is longer than the pinned schema says; was a field added?", kind)
    return event


@functools.cache
def _load_schema(kind: str) -> Any:
    return fastavro.parse_schema(json.loads(find_resource(f"config/schemas/{kind}.avsc").read_text(encoding="utf-8")))


def read_headers(message: Message) -> dict[str, str]:
    """What of a message's headers identifies it, each only if it looks like what it should be."""
    shapes = {
        # Those of openedx-authz have no version.
        b"type": rb"org\.openedx(\.[a-z0-9_]{1,40}){1,9}",
        b"id": rb"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}",
        b"time": rb"[0-9T:.+Z-]{10,40}",
    }
    found = {name: message.fields.get(name, b"") for name in shapes}
    return {name.decode(): found[name].decode() for name, shape in shapes.items() if re.fullmatch(shape, found[name])}
