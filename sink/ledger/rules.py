"""What an entry of the ledger has to look like: by this whatever comes from a file or stands in the table is judged.

No reason quotes what it is about: a name or an address may stand where an id should.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from sink import actors
from sink.ledger.details import DETAILS, find_problem_of_detail
from sink.pii_map import Subject, is_opaque

# .. no_pii: opaque ids, counts, names of tables; what is none of these is refused, and not kept.

FIELDS = ("subject", "at", "action", "request", "actor", "detail")
"""What every entry has, in files and in the table."""
BEGUN = ("found", "hidden", "erased", "reopened")
"""Actions after which something of the subject may be gone, so that the request cannot be taken back."""
RESTRICTIONS = ("restricted", "unrestricted")
"""Actions about a restriction, which has a request of its own."""
OF_A_SUBJECT = ("requested", "failed", "withdrawn", *BEGUN, *RESTRICTIONS)
"""Actions that are about one subject; the others are about none."""

_EARLIEST = "2012-01-01 00:00:00.000000"
_TIME = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6}", re.ASCII)


def name_entry(entry: Mapping[str, Any]) -> str:
    """What `pii_ledger.marked_entries` calls a sound entry."""
    moment = datetime.fromisoformat(entry["at"]).replace(tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)
    parts = (entry["subject"], str(moment // timedelta(microseconds=1)), entry["action"], entry["request"])
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def find_problem(entry: Mapping[str, Any], subject: Subject | None, until: datetime) -> str | None:
    """Why an entry cannot be right, looked at for itself: the field, and what it should be; None where it can.

    Args:
        entry: its fields as a file has them: the time and the request as texts, the detail as a JSON value.
        subject: how the map reads ids; None where any opaque id will do.
        until: no entry is later.
    """
    action, detail = entry["action"], entry["detail"]
    if not isinstance(action, str) or action not in DETAILS:
        return "`action` is none that this version knows. Is the entry of a newer one? Then use that"
    return (
        _find_problem_of_subject(entry["subject"], action, subject)
        or _find_problem_of_time(entry["at"], until)
        or _find_problem_of_request(entry["request"])
        or _find_problem_of_actor(entry["actor"])
        or find_problem_of_detail(action, detail)
    )


def _find_problem_of_subject(value: Any, action: str, subject: Subject | None) -> str | None:
    if action not in OF_A_SUBJECT:
        return None if value == "" else f"`subject` is not empty, and entries `{action}` are about no one subject"
    if not isinstance(value, str) or not is_opaque(value):
        return "`subject` is no opaque id"
    if subject is not None and subject.recognise(value) is None:
        return f"`subject` is no id by `subject.type: {subject.type}` of the PII map"
    return None


def is_time(text: str) -> bool:
    """True for a time as files have it."""
    try:
        return bool(_TIME.fullmatch(text) and datetime.fromisoformat(text))
    except ValueError:
        return False


def _find_problem_of_time(value: Any, until: datetime) -> str | None:
    if not isinstance(value, str) or not is_time(value):
        return "`at` is no time as YYYY-MM-DD HH:MM:SS.ffffff"
    if value < _EARLIEST:
        return "`at` is before 2012"
    if value > f"{until:%Y-%m-%d %H:%M:%S.%f}":
        return "`at` is more than a day in the future"
    return None


def _find_problem_of_request(value: Any) -> str | None:
    try:
        is_one = isinstance(value, str) and str(uuid.UUID(value)) == value
    except ValueError:
        is_one = False
    return None if is_one else "`request` is no UUID in lower case"


def _find_problem_of_actor(value: Any) -> str | None:
    return (
        None
        if value is None or (isinstance(value, str) and actors.is_opaque(value))
        else "`actor` is neither null nor a number, a UUID or service:NAME"
    )


@dataclass(frozen=True)
class Course:
    """What the entries of one retirement, or of one restriction, say of one another, as times of files have it."""

    asked: str = ""
    """When it was asked for last; empty where it never was."""
    begun: str = ""
    """When something of the subject may have gone first; empty where nothing has."""
    restricted: str = ""
    """When the restriction began; empty where this is none."""

    def with_entry(self, action: str, at: str) -> Course:
        """The same, with one entry more."""
        if action == "requested":
            return replace(self, asked=max(self.asked, at))
        if action == "restricted":
            return replace(self, restricted=min(self.restricted or at, at))
        return replace(self, begun=min(self.begun or at, at)) if action in BEGUN else self

    def merge(self, other: Course) -> Course:
        """What both say together."""
        begun = min(self.begun or other.begun, other.begun or self.begun)
        restricted = min(self.restricted or other.restricted, other.restricted or self.restricted)
        return Course(max(self.asked, other.asked), begun, restricted)

    def find_problem(self, action: str, at: str) -> str | None:
        """Why an entry cannot be right beside the others of its retirement, or None."""
        if action in RESTRICTIONS:
            is_lifted_before = action == "unrestricted" and (not self.restricted or at < self.restricted)
            return "nothing was `restricted` for this subject under this `request` before" if is_lifted_before else None
        if action in OF_A_SUBJECT and action != "requested" and not self.asked:
            return "nothing was requested for this subject under this `request`"
        if action == "withdrawn" and self.begun and (self.begun < at or self.asked < at):
            return "a retirement is `withdrawn` whose erasure has begun"
        return None


Courses = dict[tuple[str, str], Course]
"""(subject, request) -> what its entries say of one another; of those that are in order not everyone has to be there."""
