"""The receipt of a retirement: what was covered and what was not, with counts and times, and no PII."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from sink.caches import CacheLine
from sink.erasure.stays import StayLine
from sink.resources import VERSION

# .. no_pii: opaque user ids, counts, and names of tables and columns.

# What no statement of ours reaches. A data protection officer has to see to these.
_CACHES = "Superset's caches and saved results"
_CACHES_TOLD = "what Superset keeps without a list of it: results in other caches, saved results, filters and links"
NOT_COVERED = (
    "backups of ClickHouse and of its disks, and parts that ALTER TABLE … FREEZE has put under shadow/",
    "system.query_log and the other logs of ClickHouse",
    "caches of files that ClickHouse keeps for remote disks",
    "names in comments, texts of views and words of Enum types, unless --scan was asked for",
    _CACHES,
    "downloads and exports made from dashboards",
    "the LMS itself, whose own retirement does that",
)
_ENCODER = json.JSONEncoder(sort_keys=True, ensure_ascii=False)
# What says when, by what and in whose place a receipt was written, beside what it says of the retirement.
_CIRCUMSTANCES = ("requested_at", "hidden_at", "erased_at", "map_checked_at", "software", "supersedes", "signatures")


@dataclass(frozen=True)
class TargetLine:
    """What happened to one target."""

    target: str
    action: str
    columns: list[str] = field(default_factory=list)
    rows_before: int = 0
    """Rows that were found, by all passes of the retirement."""
    rows_after: int = 0
    absent: bool = False
    pii: dict[str, str] = field(default_factory=dict)
    """The columns that were erased, and what they held, as OEP-30 types."""


@dataclass(frozen=True)
class Superseded:
    """The receipt in whose place another one is."""

    file: str
    sha256: str | None = None
    """Of its bytes; None where the file is gone and the ledger of that time kept no digest."""


@dataclass(frozen=True)
class Receipt:
    """The statement about one retirement, valid against docs/receipt.schema.json."""

    subject: str
    request: str
    actor: str | None
    requested_at: str
    hidden_at: str
    erased_at: str
    nothing_was_stored: bool
    targets: list[TargetLine]
    reloaded: list[str]
    verified: list[str]
    """Tables, dictionaries and views that were asked for the subject and had nothing."""
    verified_in_files: bool
    caches: list[CacheLine] = field(default_factory=list)
    """What keeps results outside of ClickHouse and was told to forget them."""
    stays: list[StayLine] = field(default_factory=list)
    """What the map lists and leaves, with the reason."""
    suspects: list[str] = field(default_factory=list)
    """Columns that may hold PII and are not in the map."""
    map_checked_at: str | None = None
    """When `map check` was run last."""
    not_covered: Sequence[str] = NOT_COVERED
    store: str = ""
    """Which store this is about: the address of ClickHouse, absolute and without a password."""
    institution: str | None = None
    """Who is responsible."""
    contact: str | None = None
    """How to reach them."""
    supersedes: Superseded | None = None
    """The receipt that was issued before under the same request."""
    software: str = f"aspects-pii-sink {VERSION}"
    version: int = 2

    def to_dict(self) -> dict[str, Any]:
        """The receipt as JSON has it, without a signature."""
        members: dict[str, Any] = {**vars(self), "not_covered": list(self.not_covered)}
        for name in ("targets", "caches", "stays"):
            members[name] = [{**vars(line)} for line in members[name]]
        return {**members, "supersedes": self.supersedes and {**vars(self.supersedes)}}


def describe_kept(until: datetime | None) -> list[str]:
    """What a receipt says about keyed hashes of former names, where some are kept."""
    if until is None:
        return []
    return [
        f"keyed hashes of what the subject was called, kept until {until:%Y-%m-%d} to recognise rows that come late"
    ]


def list_not_covered(caches: Sequence[CacheLine]) -> list[str]:
    """`NOT_COVERED`, and of caches that were told only what they cannot be told."""
    return [_CACHES_TOLD if caches and line == _CACHES else line for line in NOT_COVERED]


def add_earlier(lines: Sequence[TargetLine], earlier: Sequence[TargetLine]) -> list[TargetLine]:
    """The lines of a receipt with what an earlier one under the same request has found and the ledger does not say.

    A table may have left the map since, or the ledger may have been restored without its counts: what was erased
    stays said.
    """
    before = {_name(line): line for line in earlier if line.rows_before}
    merged = []
    for line in lines:
        known = before.pop(_name(line), line)
        merged.append(replace(line, rows_before=max(line.rows_before, known.rows_before)))
    present = {line.target for line in lines if not line.absent}
    return merged + [line for line in before.values() if line.target not in present]


def _name(line: TargetLine) -> tuple[str, ...]:
    return (line.target, line.action, *line.columns)


def says_all_of(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """True where `one` says what `other` does, but for when and by what it was written.

    It may say more of what is not covered: files of dropped tables, say, are gone after some minutes.
    """
    is_covered = set(other["not_covered"]) <= set(one["not_covered"])
    return is_covered and _read_facts(one) == _read_facts(other)


def _read_facts(document: Mapping[str, Any]) -> dict[str, Any]:
    facts = {name: value for name, value in document.items() if name not in (*_CIRCUMSTANCES, "not_covered")}
    facts["caches"] = [{**line, "told_at": None} for line in document.get("caches", ())]
    return facts


def serialize(document: Mapping[str, Any]) -> bytes:
    """A receipt as its file has it: the same bytes whoever writes it, so that the ledger can give a lost one back."""
    members = (
        f"{_write_plain(name)}: {_indent(_to_json(value)) if isinstance(value, list | dict) else _write_plain(value)}"
        for name, value in sorted(document.items())
    )
    return ("{\n  " + ",\n  ".join(members) + "\n}\n").encode()


@lru_cache(maxsize=1024)
def _indent(text: str) -> str:
    """A member as `json.dumps` with an indent of 2 writes it, whose encoder is written in Python for that.

    The receipts of a batch have most of their members in common.
    """
    return json.dumps(json.loads(text), indent=2, ensure_ascii=False).replace("\n", "\n  ")


# 1, 1.0 and True are equal, and written differently.
@lru_cache(maxsize=1024, typed=True)
def _write_plain(value: str | float | bool | None) -> str:
    return _to_json(value)


def _to_json(value: Any) -> str:
    return _ENCODER.encode(value)


def compute_digest(data: bytes) -> str:
    """What the ledger knows a receipt by: SHA-256 of the bytes of its file, as `sha256sum` prints it."""
    return hashlib.sha256(data).hexdigest()


def format_time(moment: datetime) -> str:
    """ISO 8601 in UTC."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds")
