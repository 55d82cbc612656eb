"""The ledger in a file: exported for safekeeping, imported after a restore.

.. no_pii: opaque ids and counts; a file that holds anything else is refused.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO

from sink import actors
from sink.clickhouse.client import ClickHouse, split_for_binding
from sink.errors import UsageError
from sink.ledger.chain import Lines, Trust, compose_lines, read_lines, refuse_line
from sink.ledger.checking import TAKES_OUT_A_SOUND_ONE, check_ledger, judge_parsed
from sink.ledger.details import read_detail, read_json
from sink.ledger.entries import Action
from sink.ledger.installation_id import Installation
from sink.ledger.restrictions import find_restrictions
from sink.ledger.role_trail import RoleChange, list_changes, read_change, record_changes
from sink.ledger.rules import Course, Courses, find_problem, is_time, name_entry
from sink.ledger.written import append_written, list_written, read_courses
from sink.pii_map import Subject
from sink.private_files import replace_private


@dataclass(frozen=True)
class Exported:
    """What went into a file."""

    entries: int
    left_out: int
    """Entries that cannot be right, so that no import would take them."""
    mended: int
    """Entries that went without what cannot be right of them: an actor, or a part of the detail."""
    roles: int
    """Changes of the audit trail of roles; those that cannot be right are passed over, as `ledger show` does."""


def export_ledger(client: ClickHouse, installation: Installation, path: Path) -> Exported:
    """Write the ledger to a file that only its owner can read, whole or not at all, and return what is in it.

    Raises:
        UsageError: the file cannot be written, or what has its name is no file.
        DatabaseError: the ledger could not be read.
    """
    export = _Export(client, installation)
    try:
        replace_private(path, export)
    except OSError as error:
        hint = (
            "Make the folder first" if isinstance(error, FileNotFoundError) else "For standard output the file is `-`"
        )
        raise UsageError(f"{path} cannot be written: {error.strerror}. {hint}.") from None
    return export.count()


def write_ledger(client: ClickHouse, installation: Installation, file: BinaryIO) -> Exported:
    """Write the ledger to what is open already, and return what is in it.

    Raises:
        OSError: it cannot be written.
        DatabaseError: the ledger could not be read.
    """
    export = _Export(client, installation)
    file.writelines(export)
    file.flush()
    return export.count()


class _Export:
    """The ledger as lines of text.

    Entries that were taken out stay out, and what cannot be right is not handed on: no file is refused because of it.
    """

    def __init__(self, client: ClickHouse, installation: Installation) -> None:
        self._client, self._installation = client, installation
        self._now = client.now()
        self._roles = 0
        self._sieve = _Sieve(read_courses(client), self._now + timedelta(days=1))

    def __iter__(self) -> Iterator[bytes]:
        entries = self._sieve.pick(list_written(self._client))
        at = f"{self._now:%Y-%m-%d %H:%M:%S.%f}"
        for line in compose_lines(self._installation, at, entries, self._list_changes()):
            yield f"{line}\n".encode()

    def _list_changes(self) -> Iterator[dict[str, str | None]]:
        for change in list_changes(self._client):
            self._roles += 1
            yield change.describe()

    def count(self) -> Exported:
        """What has gone into the lines."""
        return Exported(self._sieve.entries, self._sieve.left_out, self._sieve.mended, self._roles)


class _Sieve:
    """Lets through what an import takes, and counts the rest."""

    def __init__(self, courses: Courses, until: datetime) -> None:
        self._courses, self._until = courses, until
        self.entries = self.left_out = self.mended = 0

    def pick(self, written: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        for entry in written:
            if entry["is_voided"]:
                continue
            actor = entry["actor"] if entry["actor"] is None or actors.is_opaque(entry["actor"]) else None
            sound = {**entry, "actor": actor, "detail": read_detail(entry["action"], entry["detail"])}
            if judge_parsed(sound, None, self._courses, self._until):
                self.left_out += 1
                continue
            self.entries += 1
            # By what was dropped: versions write the same JSON in more than one way.
            self.mended += actor != entry["actor"] or _is_reduced(entry, sound["detail"])
            yield sound


def _is_reduced(entry: Mapping[str, Any], detail: Mapping[str, Any]) -> bool:
    try:
        return bool(read_json(entry["detail"] or "{}") != detail)
    except ValueError:
        return True


def import_ledger(
    client: ClickHouse,
    subject: Subject,
    installation: Installation,
    path: Path,
    *,
    trust: Trust | None = None,
    dry_run: bool = False,
) -> int:
    """Append what an exported file has and the ledger has not, and return the number of entries and of changes of roles.

    Args:
        client: the connection.
        subject: how the map reads ids.
        installation: whose ledger this is.
        path: the file.
        trust: what the operator vouches for.
        dry_run: only look at the file, and count.

    Raises:
        UsageError: the file is not whole, not ours, or has an entry that cannot be right; names the line. Nothing was
            written.
        LedgerError: it could not be written.
        DatabaseError: the ledger could not be read.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.") from None
    try:
        found = read_lines(content, installation, trust or Trust())
        _require_sound(client, subject, found.first, found.entries)
        changes = _read_changes(subject, found)
        if trust is not None and trust.unsigned:
            _require_nobody_shown(client, found.first, found.entries)
    except UsageError as error:
        raise UsageError(f"{path}, {error}") from None
    appended = append_written(client, found.entries, dry_run=dry_run)
    # An installation that has never run `init` since the upgrade can take entries, and has no trail.
    return appended + (record_changes(client, changes, dry_run=dry_run) if changes else 0)


def read_time_of_export(path: Path) -> str | None:
    """When an imported file was written, in UTC; None for one of an older version, which does not say it.

    Raises:
        UsageError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            at = read_json(file.readline().removeprefix(b"\xef\xbb\xbf").decode()).get("exported_at")
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.") from None
    return at[:19] if isinstance(at, str) and is_time(at) else None


def _read_changes(subject: Subject, found: Lines) -> list[RoleChange]:
    """The changes of roles of a file, or refuse it for the first that cannot be right.

    Nobody is retired or sees anything by them; an event that is known here stays as it is. Left out is a change of somebody
    who has no id as the map reads ids: an export cannot tell, and the entries are not to be lost for it.
    """
    changes = []
    for number, told in enumerate(found.changes, found.first + len(found.entries)):
        try:
            change = read_change(told)
        except ValueError as error:
            raise refuse_line(number, str(error)) from None
        if change.describe() != told:
            raise refuse_line(number, "a value is not as an export writes it")
        if subject.recognise(change.subject) is not None:
            changes.append(change)
    return changes


def _require_sound(client: ClickHouse, subject: Subject, first: int, entries: Sequence[Mapping[str, Any]]) -> None:
    """Refuse the file for the first entry that cannot be right; `first` is the number of the line of the first one."""
    until = client.now() + timedelta(days=1)
    for number, entry in enumerate(entries, first):
        if problem := find_problem(entry, subject, until):
            raise refuse_line(number, problem)
    owners = _read_owners(client, {entry["request"] for entry in entries})
    for number, entry in enumerate(entries, first):
        # What is about no one subject may name the request of one.
        if entry["subject"] and owners.setdefault(entry["request"], entry["subject"]) != entry["subject"]:
            raise refuse_line(number, "`request` is another subject's")
    courses = _read_courses(client, entries)
    for number, entry in enumerate(entries, first):
        if problem := judge_parsed(entry, subject, courses, until):
            raise refuse_line(number, problem)
    voids = [(n, e["detail"]["entry"]) for n, e in enumerate(entries, first) if e["action"] == Action.VOIDED]
    if voids:
        sound = {name_entry(entry) for entry in entries} | _find_sound(client, subject, {name for _, name in voids})
        for number, name in voids:
            if name in sound:
                raise refuse_line(number, TAKES_OUT_A_SOUND_ONE)


def _require_nobody_shown(client: ClickHouse, first: int, entries: Sequence[Mapping[str, Any]]) -> None:
    """Refuse an unsigned file that would show somebody again whom a restriction of this ledger withholds."""
    lifting = {e["subject"]: number for number, e in enumerate(entries, first) if e["action"] == Action.UNRESTRICTED}
    in_force = {str(found.request): found.subject for found in find_restrictions(client, list(lifting))}
    for number, entry in enumerate(entries, first):
        if entry["action"] == Action.UNRESTRICTED and entry["request"] in in_force:
            raise refuse_line(
                number,
                "it lifts a restriction that stands here, which a file without a signature cannot. If it was lifted, run "
                "`aspects-pii unrestrict` first",
            )


def _read_owners(client: ClickHouse, requests: set[str]) -> dict[str, str]:
    """Whose the requests are that the ledger has already."""
    owners: dict[str, str] = {}
    for batch in split_for_binding(sorted(requests)):
        owners |= client.rows(
            "SELECT toString(request), min(subject) FROM $pii_ledger.entries "
            "WHERE request IN {requests:Array(UUID)} AND subject != '' GROUP BY request",
            requests=[uuid.UUID(request) for request in batch],
        )
    return owners


def _read_courses(client: ClickHouse, entries: Sequence[Mapping[str, Any]]) -> Courses:
    """What the entries of the file say of one another, together with those of the ledger where that may matter."""
    courses: Courses = {}
    withdrawn = set()
    for entry in entries:
        key = (entry["subject"], entry["request"])
        courses[key] = courses.get(key, Course()).with_entry(entry["action"], entry["at"])
        if entry["action"] == Action.WITHDRAWN:
            withdrawn.add(key)
    in_question = sorted(
        {key[0] for key, course in courses.items() if not course.asked} | {key[0] for key in withdrawn}
    )
    for key, course in read_courses(client, [subject for subject in in_question if subject]).items():
        if key in courses:
            courses[key] = courses[key].merge(course)
    return courses


def _find_sound(client: ClickHouse, subject: Subject, names: set[str]) -> set[str]:
    """Which of the entries that are called so stand in the ledger and are right."""
    flagged = {found.entry for found in check_ledger(client, subject)}
    return {e["entry"] for e in list_written(client) if e["entry"] in names and not e["is_voided"]} - flagged
