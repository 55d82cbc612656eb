"""What the manifest of a subject access package says: which tables, columns and files there are, and what is not in it.

.. no_pii: the subject's opaque id, names of tables and columns, counts and digests.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from sink.clickhouse.catalog import Table
from sink.clickhouse.client import ClickHouse
from sink.pii_map import PiiMap
from sink.resources import VERSION
from sink.rights.package import Member

FORMAT = "aspects-pii subject access package"
FORMAT_VERSION = 1
# What a target says of how it is copied and erased; all else that it says is about the processing, and is given out.
_NOT_ABOUT_PROCESSING = frozenset({"pii", "keep", "rules", "owned", "optional", "empty_while_off", "asset"})


@dataclass(frozen=True)
class FileOfRows:
    """A file with rows of one table."""

    member: Member
    format: str
    rows: int

    def describe(self) -> dict[str, Any]:
        """The file as the manifest has it."""
        return {
            "name": self.member.name,
            "format": self.format,
            "rows": self.rows,
            "bytes": self.member.bytes,
            "sha256": self.member.sha256,
        }


@dataclass(frozen=True)
class Column:
    """A column of which values are given out."""

    name: str
    type: str
    pii_type: str | None
    """The OEP-30 type, None where the map names none."""
    description: str


@dataclass(frozen=True)
class Part:
    """What the package has of one table."""

    table: str
    kind: str
    """`rows`, `events` or `mentions`."""
    description: str
    processing: Mapping[str, Any]
    """What the map says of the target beside columns and rules, such as purposes and retention."""
    found_by: Sequence[str]
    columns: Sequence[Column]
    rows: int
    files: Sequence[FileOfRows]
    first: bytes = field(default=b"", repr=False)
    """The first lines of JSON, for the page."""
    rows_under_shared_names: int = 0
    """Rows under a name that somebody else has too: whose they are is not known, and they are not in the package."""


@dataclass(frozen=True)
class Contents:
    """What is said of a whole package."""

    subject: str
    installation: str
    collected_from: datetime
    collected_until: datetime
    language: str
    institution: str | None
    contact: str | None
    lms_asked: bool
    with_events: bool
    with_mentions: bool
    parts: Sequence[Part]
    absent: Sequence[str] = ()
    of_others: Mapping[str, int] = field(default_factory=dict)
    """Column -> rows of other people that name the subject."""
    perhaps: Mapping[str, int] = field(default_factory=dict)
    """Column -> rows with a word that may mean the subject."""
    unsearched: Sequence[str] = ()
    """Tables that could not be searched for texts that name the subject."""

    @property
    def rows(self) -> int:
        """Rows of all parts."""
        return sum(part.rows for part in self.parts)


def list_columns(client: ClickHouse, table: Table, names: Sequence[str], pii_types: Mapping[str, str]) -> list[Column]:
    """Columns with what the live schema and the map say of them; of a path into JSON its type counts for the column."""
    comments = dict(
        client.rows(
            "SELECT name, comment FROM system.columns WHERE database = {database:String} AND table = {table:String}",
            database=table.name.database,
            table=table.name.table,
        )
    )
    of_columns = {path.partition(".")[0]: kind for path, kind in pii_types.items()} | dict(pii_types)
    return [Column(n, table.columns[n], of_columns.get(n), str(comments.get(n, ""))) for n in names]


def describe_processing(pii_map: PiiMap, target: str) -> dict[str, Any]:
    """What the map says of why and how long a target is held, as far as it says so."""
    if target not in pii_map.targets:
        return {}
    said = pii_map.targets[target].model_dump(mode="json", exclude=set(_NOT_ABOUT_PROCESSING))
    return {name: value for name, value in said.items() if value not in (None, "", [], {}, False)}


def compose(contents: Contents, members: Sequence[Member]) -> dict[str, Any]:
    """The manifest as a JSON object."""
    return {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "software": f"aspects-pii {VERSION}",
        "subject": contents.subject,
        "collected": {
            "from": _format_time(contents.collected_from),
            "until": _format_time(contents.collected_until),
            "installation": contents.installation,
            "store": "ClickHouse, by the PII map",
            "lms_asked_for_names": contents.lms_asked,
        },
        "responsible": {"institution": contents.institution, "contact": contents.contact},
        "language": contents.language,
        "rows": contents.rows,
        "parts": [_describe_part(part) for part in contents.parts],
        "not_included": _describe_missing(contents),
        "files": [{"name": m.name, "bytes": m.bytes, "sha256": m.sha256} for m in members],
    }


def _describe_part(part: Part) -> dict[str, Any]:
    return {
        "table": part.table,
        "kind": part.kind,
        "description": part.description,
        "processing": dict(part.processing),
        "found_by": list(part.found_by),
        "rows": part.rows,
        "rows_under_shared_names": part.rows_under_shared_names,
        "columns": [
            {"name": c.name, "type": c.type, "pii_type": c.pii_type, "description": c.description} for c in part.columns
        ],
        "files": [file.describe() for file in part.files],
    }


def _describe_missing(contents: Contents) -> dict[str, Any]:
    return {
        "events": not contents.with_events,
        "mentions": not contents.with_mentions,
        "absent_tables": list(contents.absent),
        "rows_of_others_that_name_the_subject": dict(contents.of_others),
        "rows_that_may_name_the_subject": dict(contents.perhaps),
        "tables_not_searched": list(contents.unsearched),
    }


def serialize(document: Mapping[str, Any]) -> bytes:
    """The manifest as a file."""
    return (json.dumps(document, ensure_ascii=False, indent=2) + "\n").encode()


def _format_time(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
