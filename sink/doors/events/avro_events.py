"""Events of the Open edX event bus, read with pinned schemas.

Bare Avro has no schema with it: config/schemas/ holds what openedx-events 10.5.0 writes, and a field added there
makes a message unreadable here. Of the names and addresses in an event nothing leaves this module.
"""

from __future__ import annotations

import functools
import io
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import fastavro

from sink.doors.events.work import VALUE, Message, Work
from sink.errors import InvalidMessageError, translated
from sink.pii_map import Subject
from sink.resources import find_resource

# .. pii: Names and e-mail addresses come with an event; only the id is taken from it.
# .. pii_types: username, email_address, name
# .. pii_retirement: consumer_api

# Event type: where the user's id is, and which objects are copied because of it (all where none is named).
EVENTS: Mapping[str, tuple[Sequence[str], Sequence[str]]] = {
    "org.openedx.learning.student.registration.completed.v1": (("user", "id"), ()),
    "org.openedx.learning.auth.session.login.completed.v1": (("user", "id"), ()),
    "org.openedx.learning.user.course_access_role.added.v1": (
        ("course_access_role_data", "user", "id"),
        ("course_access",),
    ),
    "org.openedx.learning.user.course_access_role.removed.v1": (
        ("course_access_role_data", "user", "id"),
        ("course_access",),
    ),
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
    value: Any = _read(kind, data)
    for key in path:
        value = value[key]
    try:
        user_id = Subject(type="integer").parse(str(value))
    except ValueError:
        raise InvalidMessageError(f"{'.'.join(path)} is not an id", kind) from None
    return Work("sync", (user_id,), tuple(objects), kind=kind)


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
        b"type": rb"org\.openedx(\.[a-z0-9_]{1,40}){1,8}\.v[0-9]{1,3}",
        b"id": rb"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}",
        b"time": rb"[0-9T:.+Z-]{10,40}",
    }
    found = {name: message.fields.get(name, b"") for name in shapes}
    return {name.decode(): found[name].decode() for name, shape in shapes.items() if re.fullmatch(shape, found[name])}
