"""The receipt of a retirement: what was covered and what was not, with counts and times, and no PII."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from sink.caches import CacheLine
from sink.resources import VERSION
from sink.retirement.stays import StayLine

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


@dataclass(frozen=True)
class TargetLine:
    """What happened to one target."""

    target: str
    action: str
    columns: list[str] = field(default_factory=list)
    rows_before: int = 0
    rows_after: int = 0
    absent: bool = False


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
    software: str = f"aspects-pii-sink {VERSION}"
    version: int = 1

    def to_dict(self, key: SecretStr | None = None) -> dict[str, Any]:
        """The receipt as JSON has it, signed where there is a key."""
        document = {**asdict(self), "not_covered": list(self.not_covered)}
        if key is not None:
            document["signature"] = {"algorithm": "HMAC-SHA256", "value": sign(document, key)}
        return document


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


def sign(document: dict[str, Any], key: SecretStr) -> str:
    """HMAC-SHA256 over the document without its signature, as JSON with sorted keys and no blanks."""
    unsigned = {name: value for name, value in document.items() if name != "signature"}
    message = json.dumps(unsigned, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    return hmac.new(key.get_secret_value().encode(), message, hashlib.sha256).hexdigest()


def is_signed_by(document: dict[str, Any], key: SecretStr) -> bool:
    """True where the document's signature was made with `key` and nothing was changed since."""
    value = document.get("signature", {}).get("value", "")
    return hmac.compare_digest(str(value), sign(document, key))


def write_receipt(document: dict[str, Any], folder: Path) -> Path:
    """Write a receipt to `folder`, whole or not at all, and return where it is."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / f"{document['request']}.json"
    partial = path.with_suffix(f".{os.getpid()}.partial")
    partial.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.replace(path)
    return path


def format_time(moment: datetime) -> str:
    """ISO 8601 in UTC."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds")
