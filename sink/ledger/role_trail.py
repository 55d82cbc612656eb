"""The audit trail of roles: who gave whom which role where, and who took it, as events told us.

A row holds ids, the name of a role and the key of a course. Rows are only ever appended, and nothing is derived from them for a
retirement: after one the trail says of the user what it said before, an id. Each event is written once. Whether it changed
anything only the view `pii_ledger.role_changes` says, since an event that lies between two others may come after both.

.. no_pii: opaque ids, names of roles, keys of courses.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from sink.actors import is_opaque as is_opaque_actor
from sink.clickhouse.client import ClickHouse, split_for_binding
from sink.ledger.written import ask_ledger
from sink.pii_map import is_opaque


class Operation(StrEnum):
    """What was done with the role."""

    GIVEN = "given"
    TAKEN = "taken"


class Source(StrEnum):
    """Who keeps the role, and tells of it."""

    AUTHZ = "openedx-authz"
    """It says who did it, or that nobody did, which is the system."""
    LMS = "course_access_role"
    """It does not say who did it."""
    OTHER = "other"
    """Whatever a mapping of JSON events takes roles from."""


_ROLE = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")
# Keys of opaque-keys, in either of their ways, and what covers several of them. None is an address: an @ stands only before
# the number of a custom course.
_SCOPE = re.compile(r"\*|[a-z][a-z0-9-]{0,20}:[\w.:+~*-]{1,230}(\+ccx@[0-9]{1,10})?|[\w.-]{1,80}(/[\w.-]{1,80}){2}")
# What is asked for, what covers it, and what it covers.
_IS_COVERED = """
    scope = {scope:String}
    OR (endsWith(scope, '*') AND startsWith({scope:String}, substring(scope, 1, length(scope) - 1)))
    OR (endsWith({scope:String}, '*') AND startsWith(scope, substring({scope:String}, 1, length({scope:String}) - 1)))
"""
_EARLIEST = datetime(2012, 1, 1, tzinfo=UTC)
_LATEST = datetime(2200, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class RoleChange:
    """One role that somebody was given, or that was taken."""

    event: uuid.UUID
    at: datetime
    operation: Operation
    subject: str
    """Whose role it is, by id."""
    role: str
    scope: str
    """The key of a course or library, `course-v1:ORG+*` for all of an organisation, or `*`."""
    source: Source
    actor: str | None
    """Who did it, by id."""

    @property
    def done_by(self) -> str:
        """Who did it, for people."""
        return self.actor or ("system" if self.source is Source.AUTHZ else "unknown")

    def describe(self) -> dict[str, str | None]:
        """As JSON has it; `read_change` reads it."""
        return {
            "event": str(self.event),
            "at": self.at.isoformat(),
            "operation": self.operation.value,
            "subject": self.subject,
            "role": self.role,
            "scope": self.scope,
            "source": self.source.value,
            "actor": self.actor,
        }


FIELDS = ("event", "at", "operation", "subject", "role", "scope", "source", "actor")
_PAGE = 10_000


def read_change(told: Any) -> RoleChange:
    """Read what `RoleChange.describe` wrote, or an event that says as much.

    An actor who is no opaque id is left out, since it may be a name.

    Raises:
        ValueError: names the field that cannot be right, without what stands in it.
    """
    if not isinstance(told, dict):
        raise ValueError("it is no object")
    actor = told.get("actor")
    return RoleChange(
        _read(told, "event", lambda text: uuid.UUID(text)),
        _read(told, "at", _read_time),
        _read(told, "operation", Operation),
        _read(told, "subject", lambda text: text if is_opaque(text) else _refuse()),
        _read(told, "role", lambda text: text if _ROLE.fullmatch(text) else _refuse()),
        _read(told, "scope", lambda text: text if _SCOPE.fullmatch(text) else _refuse()),
        _read(told, "source", Source),
        str(actor) if actor is not None and is_opaque_actor(str(actor)) else None,
    )


def record_changes(client: ClickHouse, changes: Iterable[RoleChange], *, dry_run: bool = False) -> int:
    """Append those whose event is not there yet, or only count them; returns how many they are.

    Raises:
        MigrationError: the table is not there; `init` has not run.
        DatabaseError: they may or may not have been written; recording them again does no harm.
    """
    told = {change.event: change for change in changes}
    for batch in split_for_binding(list(told)):
        sql = "SELECT event FROM $pii_ledger.role_assignments WHERE event IN {events:Array(UUID)}"
        for (event,) in ask_ledger(client, sql, events=batch):
            told.pop(event, None)
    rows = [[getattr(change, name) for name in FIELDS] for change in told.values()]
    # What two doors write at the same moment the view shows once.
    if rows and not dry_run:
        client.insert(client.table("pii_ledger.role_assignments"), FIELDS, rows, repeatable=True)
    return len(rows)


def list_changes(client: ClickHouse) -> Iterator[RoleChange]:
    """Everything that events told us, each event once, whether it changed anything or not; what cannot be right is left out.

    Raises:
        MigrationError: the trail is not there; `init` has not run.
        DatabaseError: it could not be read.
    """
    after = uuid.UUID(int=0)
    while rows := ask_ledger(
        client,
        f"SELECT {', '.join(FIELDS)} FROM $pii_ledger.role_assignments WHERE event > {{after:UUID}} "
        "ORDER BY event LIMIT 1 BY event LIMIT {size:UInt64}",
        after=after,
        size=_PAGE,
    ):
        after = rows[-1][0]
        yield from _read_rows(rows)


def list_given(client: ClickHouse, source: Source, subjects: Sequence[str]) -> set[tuple[str, str, str]]:
    """The roles that these people were given last, by this source, as (subject, role, scope).

    Raises:
        MigrationError: the trail is not there; `init` has not run.
        DatabaseError: it could not be read.
    """
    found: set[tuple[str, str, str]] = set()
    for batch in split_for_binding(sorted(set(subjects))):
        found |= set(
            ask_ledger(
                client,
                "SELECT subject, toString(role), scope FROM $pii_ledger.role_assignments "
                "WHERE source = {source:String} AND subject IN {subjects:Array(String)} "
                "GROUP BY subject, role, scope HAVING argMax(operation, (at, event)) = 'given'",
                source=source.value,
                subjects=batch,
            )
        )
    return found


def show_changes(
    client: ClickHouse,
    *,
    scope: str | None = None,
    subject: str | None = None,
    operation: str | None = None,
    actor: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    limit: int = 1000,
) -> list[RoleChange]:
    """The newest `limit` changes that fit, oldest first.

    Args:
        client: where the trail is.
        scope: those in it and, where it is one course of an organisation, those for the whole organisation and for
            all; where it ends in an asterisk, those of everything that begins so. `*` is everything.
        subject: whose role it is.
        operation: given or taken.
        actor: who did it.
        since: from this time on.
        until: before this time.
        limit: how many.

    Raises:
        MigrationError: the trail is not there; `init` has not run.
        DatabaseError: it could not be read.
    """
    conditions: dict[str, tuple[str, Any]] = {
        f"({_IS_COVERED})": ("scope", scope),
        "subject = {subject:String}": ("subject", subject),
        "operation = {operation:String}": ("operation", operation),
        "actor = {actor:String}": ("actor", actor),
        "at >= {since:DateTime64(6, 'UTC')}": ("since", since),
        "at < {until:DateTime64(6, 'UTC')}": ("until", until),
    }
    used = {text: pair for text, pair in conditions.items() if pair[1] is not None}
    where = f"WHERE {' AND '.join(used)}" if used else ""
    rows = ask_ledger(
        client,
        f"SELECT {', '.join(FIELDS)} FROM $pii_ledger.role_changes {where} "
        "ORDER BY at DESC, source, subject, role, event LIMIT {limit:UInt64}",
        limit=limit,
        **dict(used.values()),
    )
    return _read_rows(reversed(rows))


def _read_rows(rows: Iterable[Sequence[Any]]) -> list[RoleChange]:
    """Rows of the table, which somebody else may have written to: those that cannot be right are passed over."""
    found = []
    for row in rows:
        told = dict(zip(FIELDS, row, strict=True))
        try:
            found.append(read_change({**told, "event": str(told["event"]), "at": told["at"].isoformat()}))
        except ValueError:
            continue
    return found


def _read(told: dict[str, Any], name: str, convert: Any) -> Any:
    value = told.get(name)
    try:
        return convert(value if isinstance(value, str) else _refuse())
    except ValueError:
        raise ValueError(f"`{name}` cannot be right") from None


def _read_time(text: str) -> datetime:
    time = datetime.fromisoformat(text)
    if time.tzinfo is None:
        time = time.replace(tzinfo=UTC)
    return time.astimezone(UTC) if _EARLIEST <= time <= _LATEST else _refuse()


def _refuse() -> Any:
    raise ValueError
