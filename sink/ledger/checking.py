"""Entries that cannot be right: finding them, and taking them out by entries of their own. Nothing is ever deleted.

.. no_pii: opaque ids; what is none is shown to nobody.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sink.clickhouse.client import ClickHouse, split_for_binding
from sink.errors import RefusedError, UsageError
from sink.ledger.details import find_problem_of_reason, is_name_of_an_entry, read_json
from sink.ledger.entries import Action, Ledger
from sink.ledger.rules import Course, Courses, find_problem
from sink.ledger.written import ask_ledger, list_written, read_courses
from sink.pii_map import Subject, is_opaque

_NAMED_BY_VOIDS = "SELECT DISTINCT JSONExtractString(detail, 'entry') FROM $pii_ledger.entries WHERE action = 'voided'"
TAKES_OUT_A_SOUND_ONE = "it takes out an entry that is right"


@dataclass(frozen=True)
class Flagged:
    """An entry that cannot be right."""

    entry: str
    """What it is called."""
    subject: str
    """Empty where what stands there is no opaque id."""
    at: str
    action: str
    """Empty where this version does not know it."""
    request: str
    reason: str


@dataclass(frozen=True)
class Voided:
    """Entries that were taken out, and what that changed."""

    entries: list[str]
    lifted: list[str]
    """Subjects that counted as retired before and do not now."""


def check_ledger(client: ClickHouse, subject: Subject) -> list[Flagged]:
    """Every entry that cannot be right and was not taken out, in the order of time.

    Args:
        client: the connection.
        subject: how the map reads ids.

    Raises:
        DatabaseError: the ledger could not be read.
    """
    until = client.now() + timedelta(days=1)
    courses = read_courses(client)
    taken_out = {name for (name,) in ask_ledger(client, _NAMED_BY_VOIDS)}
    wrong: list[Flagged] = []
    sound: set[str] = set()
    voids: dict[str, tuple[str, dict[str, Any]]] = {}
    for entry in list_written(client):
        problem = _judge(entry, subject, courses, until)
        if problem is not None and not entry["is_voided"]:
            wrong.append(_flag(entry, problem))
        if problem is None and entry["entry"] in taken_out:
            sound.add(entry["entry"])
        if problem is None and entry["action"] == Action.VOIDED:
            voids[entry["entry"]] = (read_json(entry["detail"])["entry"], entry)
    targets = {name: target for name, (target, _) in voids.items()}
    for name, (_, entry) in voids.items():
        if not entry["is_voided"] and _takes_out_a_sound_one(name, targets, sound):
            wrong.append(_flag(entry, TAKES_OUT_A_SOUND_ONE))
    return sorted(wrong, key=lambda found: (found.at, found.entry))


def _takes_out_a_sound_one(name: str, targets: Mapping[str, str], sound: Collection[str]) -> bool:
    """Whether a void takes out what is right; one that takes out a wrong void does not."""
    seen: list[str] = []
    while name in targets and name not in seen:
        seen.append(name)
        name = targets[name]
    # Each void on the way to an entry that is none makes wrong what was right before, and the other way round.
    return name in sound and len(seen) % 2 == 1


def judge_parsed(entry: Mapping[str, Any], subject: Subject | None, courses: Courses, until: Any) -> str | None:
    """Why an entry cannot be right, for itself and beside the others of its retirement; its detail is a JSON value."""
    return find_problem(entry, subject, until) or courses.get(
        (entry["subject"], entry["request"]), _IN_ORDER
    ).find_problem(entry["action"], entry["at"])


# Of a retirement that is not among those in question.
_IN_ORDER = Course(asked="9999")


def _judge(entry: Mapping[str, Any], subject: Subject, courses: Courses, until: Any) -> str | None:
    try:
        detail = read_json(entry["detail"] or "{}")
    except ValueError as error:
        return f"`detail`: {error}"
    return judge_parsed({**entry, "detail": detail}, subject, courses, until)


def _flag(entry: Mapping[str, Any], problem: str) -> Flagged:
    subject = entry["subject"] if is_opaque(entry["subject"]) else ""
    action = entry["action"] if entry["action"] in set(Action) else ""
    return Flagged(entry["entry"], subject, entry["at"], action, entry["request"], problem)


def void_entries(
    client: ClickHouse, subject: Subject, names: Sequence[str], reason: str, actor: str | None = None
) -> Voided:
    """Take out entries that cannot be right, by an entry for each that says why; all of them or none.

    Nobody whose erasure has begun stops being retired by that: the tombstone follows from what stands in the table.

    Args:
        client: the connection.
        subject: how the map reads ids.
        names: the entries, as `check_ledger` calls them.
        reason: why, in words that name nobody.
        actor: opaque id of who asks; None for the system.

    Raises:
        UsageError: an entry is not there, or the reason or the actor is none; nothing was written.
        RefusedError: an entry is right, or was taken out before; nothing was written.
        LedgerError: they may or may not have been taken out.
    """
    if problem := find_problem_of_reason(reason):
        raise UsageError(f"--reason: {problem}.")
    if actor is not None and not is_opaque(actor):
        raise UsageError("--actor: an actor is an opaque id, without @, / and blanks.")
    flagged = {found.entry: found for found in check_ledger(client, subject)}
    for position, name in enumerate(names, 1):
        if name not in flagged:
            _refuse(client, name, position)
    chosen = [flagged[name] for name in dict.fromkeys(names)]
    subjects = sorted({found.subject for found in chosen if found.subject})
    before = _find_tombstones(client, subjects)
    ledger = Ledger(client)
    ledger.record(
        Action.VOIDED, [("", uuid.UUID(f.request), {"entry": f.entry, "reason": reason}) for f in chosen], actor
    )
    after = _find_tombstones(client, subjects)
    return Voided([found.entry for found in chosen], sorted(before - after))


def _refuse(client: ClickHouse, name: str, position: int) -> None:
    if not is_name_of_an_entry(name):
        raise UsageError(f"ENTRY {position}: this names no entry. `aspects-pii ledger check` lists their names.")
    rows = ask_ledger(
        client,
        "SELECT toString(action), max(is_voided) FROM $pii_ledger.marked_entries WHERE entry = {name:String} GROUP BY 1",
        name=name,
    )
    if not rows:
        raise UsageError(f"There is no entry {name}. `aspects-pii ledger check` lists their names.")
    action, is_voided = rows[0]
    if is_voided:
        raise RefusedError(f"Entry {name} was taken out before; nothing was written.")
    advice = (
        " `aspects-pii withdraw` takes a request back of which nothing was erased." if action == "requested" else ""
    )
    raise RefusedError(f"Entry {name} is right and stays; nothing was written.{advice}")


def _find_tombstones(client: ClickHouse, subjects: Sequence[str]) -> set[str]:
    found: set[str] = set()
    for batch in split_for_binding(subjects):
        rows = ask_ledger(
            client,
            "SELECT subject FROM $pii_ledger.tombstones WHERE subject IN {subjects:Array(String)}",
            subjects=batch,
        )
        found |= {retired for (retired,) in rows}
    return found
