"""What the details of entries say, action by action, and how much of one can be read.

.. no_pii: counts, reasons, names of tables; what is none of these is passed over.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from sink.pii_map import is_opaque

GROUNDS = ("accuracy", "unlawful", "claims", "objection")
"""Why somebody may be restricted: the cases of GDPR article 18 (1), in its order."""
_NAME_OF_AN_ENTRY = re.compile(r"[0-9a-f]{16}")
# Seconds of the year 9999 are more than a time has.
_LATEST_SECONDS = 253_402_300_799
_LARGEST = 2**63 - 1
# What we write is nested a few levels deep; Python cannot read or write what is nested without end.
_DEPTH = 50
_DIGITS = 20
REASON_LENGTH = 200
"""A reason for taking an entry out is at most so long."""


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _LARGEST


def _is_moment(value: Any) -> bool:
    return _is_count(value) and value <= _LATEST_SECONDS


def _is_id(value: Any) -> bool:
    return isinstance(value, str) and is_opaque(value)


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _are_counts(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_count, value.values()))


def _are_counts_of_objects(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_are_counts, value.values()))


def is_name_of_an_entry(value: Any) -> bool:
    """True for what `pii_ledger.marked_entries` calls an entry."""
    return isinstance(value, str) and _NAME_OF_AN_ENTRY.fullmatch(value) is not None


def _is_reason(value: Any) -> bool:
    return isinstance(value, str) and find_problem_of_reason(value) is None


def _is_ground(value: Any) -> bool:
    return value in GROUNDS


_ELSEWHERE: dict[str, Callable[[Any], bool]] = {"elsewhere": _are_names, "covered_elsewhere": _are_names}
# What each action writes down. Versions differ in how much they say, so that nothing has to be there but below.
DETAILS: dict[str, dict[str, Callable[[Any], bool]]] = {
    "requested": {},
    "found": {"rows": _are_counts},
    "hidden": _ELSEWHERE,
    "erased": {
        "receipt": _is_object,
        "file": _is_text,
        "digest": _is_text,
        "scrubbed_at": _is_moment,
        # Which rules by other names than the id there were: one that comes later has proved nothing of the subject.
        "questions": _are_names,
    },
    "failed": {**_ELSEWHERE, "reason": _is_text},
    "reopened": {"reason": _is_text},
    "withdrawn": {},
    "restricted": {"ground": _is_ground},
    "unrestricted": {},
    "synced": {"pii": _is_flag, "objects": _are_counts_of_objects},
    "verified": {
        "everybody": _is_flag,
        "subjects": _is_count,
        "with_residue": _is_count,
        "findings": _is_count,
        "not_asked": _is_count,
        "scanned": _is_flag,
    },
    "purge_begun": {"tables": _is_count},
    "purged": {"rows": _are_counts, "dropped": _is_count, "suspects": _are_names, "accepted": _are_names},
    "reassigned": {"from": _is_id, "to": _is_id, "rows": _are_counts, "assets": _is_count},
    "replayed": {"entries_restored": _is_count, "subjects": _is_count, "rows": _are_counts},
    "map_checked": {"targets": _is_count, "absent": _is_count, "problems": _is_count, "suspects": _are_names},
    "emptied": {"rows": _are_counts},
    "expired": {"rows": _are_counts, "kept": _are_counts},
    "searched": {
        "texts": _is_count,
        "found": _is_count,
        "retired": _is_count,
        "prefix": _is_flag,
        "shown": _is_flag,
        "lms": _is_flag,
    },
    "exported": {"of": _is_id, "rows": _are_counts, "encrypted": _is_flag},
    "anonymised": {"databases": _are_names, "rows": _are_counts},
    "voided": {"entry": is_name_of_an_entry, "reason": _is_reason},
}
"""The actions that this version knows, with what each says beside the fields of an entry."""
_REQUIRED = {"voided": {"entry", "reason"}, "exported": {"of"}}


def read_json(text: str) -> Any:
    """The value that a JSON text stands for, read strictly.

    Raises:
        ValueError: it is none, holds a name twice or a number that JSON has not, or is nested too deeply; quotes nothing.
    """
    try:
        value = json.loads(
            text, object_pairs_hook=_read_object, parse_constant=_refuse_constant, parse_int=read_integer
        )
    except (json.JSONDecodeError, RecursionError):
        raise ValueError("this is not JSON") from None
    if text.count("[") + text.count("{") > _DEPTH and _is_deeper(value, _DEPTH):
        raise ValueError("this is nested too deeply")
    return value


def _read_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name stands twice in an object")
    return found


def read_integer(digits: str) -> int:
    """A whole number of a JSON text.

    Raises:
        ValueError: it has more digits than anything that is counted; Python refuses thousands in words of its own.
    """
    if len(digits) > _DIGITS:
        raise ValueError("a number has too many digits")
    return int(digits)


def _refuse_constant(_: str) -> Any:
    raise ValueError("a number is none that JSON has")


def _is_deeper(value: Any, depth: int) -> bool:
    if not isinstance(value, dict | list):
        return False
    inner = value.values() if isinstance(value, dict) else value
    return depth == 0 or any(_is_deeper(one, depth - 1) for one in inner)


def read_detail(action: str, text: str) -> dict[str, Any]:
    """Of the detail of an entry in the table what is as it should be: nothing, where it is no JSON object at all.

    Nothing either of what an action says that this version does not know: nobody can tell what it is.
    """
    try:
        detail = read_json(text)
    except ValueError:
        return {}
    if not isinstance(detail, dict):
        return {}
    known = DETAILS.get(action, {})
    return {name: value for name, value in detail.items() if name in known and known[name](value)}


def find_problem_of_reason(reason: str) -> str | None:
    """Why a text cannot be the reason for taking an entry out, or None."""
    if not reason.strip() or len(reason) > REASON_LENGTH:
        return f"a reason has 1 to {REASON_LENGTH} characters"
    if "@" in reason:
        return "a reason names nobody, and has no @ in it"
    if not reason.isprintable():
        return "a reason is one line of text"
    return None


def find_problem_of_detail(action: str, detail: Any) -> str | None:
    """Why a JSON value cannot be the detail of an entry of a known action, or None."""
    if not isinstance(detail, dict):
        return "`detail` is no JSON object"
    known = DETAILS[action]
    if set(detail) - set(known):
        return f"`detail` says what entries `{action}` do not say"
    for name, value in detail.items():
        if not known[name](value):
            return f"`detail.{name}` is not what entries `{action}` say"
    for name in sorted(_REQUIRED.get(action, set()) - set(detail)):
        return f"`detail.{name}` is missing"
    return None
