"""JSON events, explained by a mapping: which ones count, whom they are about, and what is done.

The mapping that ships is config/events.yaml; docs/event-bus.md says what can stand in one.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from sink.actors import is_opaque
from sink.doors.events.work import Action, Message, RoleReport, Work
from sink.errors import InvalidMessageError
from sink.ledger.role_trail import Operation, Source, read_change
from sink.lms.authz import name_role, name_scope, read_username
from sink.pii_map import Subject, SubjectId
from sink.yaml_files import load_model

# .. pii: Events may carry names beside ids; only ids are taken from them, or a user name where a role has no id.
# .. pii_types: name, username
# .. pii_retirement: consumer_api

MAX_BODY_BYTES = 1 << 20
"""JSON that is longer is not read."""

_MAX_ID_LENGTH = 256


def _check_path(path: str) -> str:
    if not all(path.split(".")):
        raise ValueError("a path into an event is written key.key.key")
    return path


EventPath = Annotated[str, AfterValidator(_check_path)]
Expected = str | int | bool


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class EventRule(_Model):
    """One kind of event."""

    when: dict[EventPath, Expected] = Field(
        min_length=1, description="What makes an event one of this kind; others are passed over."
    )
    require: dict[EventPath, Expected] = Field(
        default_factory=dict, description="What a valid event of this kind says; others are dead letters."
    )
    filled: list[EventPath] = Field(default_factory=list, description="What a valid event of this kind does not omit.")
    action: Literal[Action, "role"] = Field(description="retire, sync, reassign or role.")
    subject: EventPath = Field(description="Where the id of the one whom it is about is.")
    also: list[EventPath] = Field(default_factory=list, description="Where lists of ids are to which the same is done.")
    heir: EventPath | None = Field(None, description="For reassign: where the id of the one who takes over is.")
    asset: EventPath | None = Field(
        None, description="For reassign: where the id of the only asset is, or a list of them; everything if left out."
    )
    actor: EventPath | None = Field(None, description="Where the id of the one who asks is.")
    change: Operation | None = Field(None, description="For role: given or taken.")
    role: EventPath | None = Field(None, description="For role: where its name is.")
    scope: EventPath | None = Field(
        None, description="For role: where the key of the course is, or what covers several."
    )
    event: EventPath | None = Field(None, description="For role: where the id of the event is, a UUID.")
    at: EventPath | None = Field(None, description="For role: where the time is, as ISO 8601 has it.")

    @model_validator(mode="after")
    def _heir_only_to_reassign(self) -> EventRule:
        if (self.action == "reassign") != (self.heir is not None):
            raise ValueError("`reassign` needs `heir`, and nothing else has one")
        if self.asset is not None and self.action != "reassign":
            raise ValueError("only `reassign` has `asset`")
        if self.action in ("reassign", "role") and self.also:
            raise ValueError(f"`{self.action}` is about one subject; leave `also` out")
        of_roles = (self.change, self.role, self.scope, self.event, self.at)
        if any((self.action == "role") != (one is not None) for one in of_roles):
            raise ValueError("`role` needs `change`, `role`, `scope`, `event` and `at`, and nothing else has them")
        return self


class EventMap(_Model):
    """The whole mapping."""

    version: Literal[1]
    events: dict[str, EventRule] = Field(min_length=1)


def load_event_map(path: Path) -> EventMap:
    """Read and validate a mapping.

    Raises:
        MapError: names the file, the path of the line and what is wrong with it.
    """
    return load_model(path, EventMap, setting="ASPECTS_EVENT_MAP")


def make_json_decoder(event_map: EventMap, subject: Subject, field: str) -> Callable[[Message], Work | None]:
    """A decoder of messages that carry JSON in `field`."""

    def decode(message: Message) -> Work | None:
        return read_event(event_map, subject, _parse(message.fields.get(field.encode()), field))

    return decode


def read_event(event_map: EventMap, subject: Subject, event: Any) -> Work | None:
    """What an event asks for, by the first rule that is about it; None where none is.

    Raises:
        InvalidMessageError: a rule is about it, and it does not say what it has to.
    """
    for kind, rule in event_map.events.items():
        if all(_is_equal(find_value(event, path), wanted) for path, wanted in rule.when.items()):
            return _apply(kind, rule, subject, event)
    return None


def _apply(kind: str, rule: EventRule, subject: Subject, event: Any) -> Work:
    for path, wanted in rule.require.items():
        if not _is_equal(find_value(event, path), wanted):
            raise InvalidMessageError(f"{path} is not {wanted}", kind)
    for path in rule.filled:
        if _is_blank(find_value(event, path)):
            raise InvalidMessageError(f"{path} is empty", kind)
    if rule.action == "role":
        return _report_role(kind, rule, subject, event)
    subjects = [_require_id(subject, event, rule.subject, kind)]
    unusable = []
    for path in rule.also:
        found, bad = _read_ids(subject, find_value(event, path))
        subjects += found
        if bad:
            # The others are retired all the same: what is certain must not wait for what is not.
            unusable.append(f"{path}: {bad} of {bad + len(found)} are not ids; the others were taken")
    heir = _require_id(subject, event, rule.heir, kind) if rule.heir else None
    if heir in subjects:
        raise InvalidMessageError("the one who leaves and the one who takes over are the same", kind)
    return Work(
        rule.action,
        tuple(dict.fromkeys(subjects)),
        heir=heir,
        assets=_read_assets(find_value(event, rule.asset), rule.asset, kind) if rule.asset else None,
        actor=_read_actor(find_value(event, rule.actor)) if rule.actor else None,
        kind=kind,
        unusable="; ".join(unusable),
    )


def _report_role(kind: str, rule: EventRule, subject: Subject, event: Any) -> Work:
    """A role for the audit trail, and whose roles are copied; openedx-authz says by name whose it is."""
    found = {
        name: find_value(event, path)
        for name, path in (("event", rule.event), ("at", rule.at), ("role", rule.role), ("scope", rule.scope))
        if path is not None
    }
    who = find_value(event, rule.subject)
    username = read_username(who) if isinstance(who, str) else ""
    subjects = () if username else (_require_id(subject, event, rule.subject, kind),)
    actor = _read_actor(find_value(event, rule.actor)) if rule.actor else None
    if all(isinstance(found[name], str) for name in ("role", "scope")) and name_role(found["role"]):
        found |= {"role": name_role(found["role"]), "scope": name_scope(found["scope"])}
    source = Source.AUTHZ if username else Source.OTHER
    told = {**found, "operation": rule.change, "source": source, "actor": actor}
    try:
        # Any id, until the name is looked up.
        change = read_change({**told, "subject": str(subjects[0]) if subjects else "0"})
    except ValueError as error:
        raise InvalidMessageError(str(error), kind) from None
    report = RoleReport(change if subjects else replace(change, subject=""), username)
    return Work("sync", subjects, ("course_access",), role=report, kind=kind)


def find_value(event: Any, path: str) -> Any:
    """The value at a dotted path, None where there is none."""
    for key in path.split("."):
        if not isinstance(event, dict):
            return None
        event = event.get(key)
    return event


def _parse(body: bytes | None, field: str) -> dict[str, Any]:
    if body is None:
        raise InvalidMessageError(f"the field `{field}` is missing")
    if len(body) > MAX_BODY_BYTES:
        raise InvalidMessageError(f"it is longer than {MAX_BODY_BYTES} bytes")
    try:
        event = json.loads(body)
    except (ValueError, RecursionError):
        event = None
    if not isinstance(event, dict):
        raise InvalidMessageError("it is not a JSON object")
    return event


def _is_equal(value: Any, wanted: Expected) -> bool:
    if isinstance(value, str) and isinstance(wanted, str):
        # `User` and `user` are the same to those who send these events.
        return value.strip().casefold() == wanted.casefold()
    return type(value) is type(wanted) and bool(value == wanted)


def _is_blank(value: Any) -> bool:
    return value is None or value == [] or value == {} or (isinstance(value, str) and not value.strip())


def _require_id(subject: Subject, event: Any, path: str, kind: str) -> SubjectId:
    found = _parse_id(subject, find_value(event, path))
    if found is None:
        raise InvalidMessageError(f"{path} is not an id", kind)
    return found


def _read_ids(subject: Subject, value: Any) -> tuple[list[SubjectId], int]:
    """Ids out of a list, and how many of its elements are none."""
    if _is_blank(value):
        return [], 0
    found = [_parse_id(subject, element) for element in (value if isinstance(value, list) else [value])]
    ids = [one for one in found if one is not None]
    return ids, len(found) - len(ids)


def _read_assets(value: Any, path: str, kind: str) -> tuple[str, ...]:
    """What is to be handed over; an event that should name it and does not must not hand over everything."""
    found = [str(one) for one in (value if isinstance(value, list) else [value]) if isinstance(one, str | int)]
    if not found or any(not one.strip() or len(one) > _MAX_ID_LENGTH for one in found) or isinstance(value, bool):
        raise InvalidMessageError(f"{path} names no asset", kind)
    return tuple(found)


def _parse_id(subject: Subject, value: Any) -> SubjectId | None:
    if isinstance(value, bool) or not isinstance(value, int | str) or len(str(value)) > _MAX_ID_LENGTH:
        return None
    try:
        found = subject.parse(str(value))
    except ValueError:
        return None
    return found if isinstance(found, int) or found.isprintable() else None


def _read_actor(value: Any) -> str | None:
    text = "" if isinstance(value, bool) or not isinstance(value, int | str) else str(value)
    return text if is_opaque(text) else None
