"""Values of the LMS as ClickHouse has them. A bad one costs its row, and is named by whose it is, never by what it says.

.. pii: Rows of profiles, ids and roles, in memory only.
.. pii_types: id, name, username, email_address, location, phone_number, birth_date, gender, biography, image, other
.. pii_retirement: consumer_api
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

Page = Sequence[Sequence[Any]]

#: Longer texts are refused: the LMS's longtext columns take 4 GiB, its forms a few kilobytes.
MAX_TEXT_BYTES = 1 << 20
UTF8_BYTES_PER_CHARACTER = 4


@dataclass(frozen=True)
class LmsColumn:
    """One column as ClickHouse has it, and where the LMS has it (facts of the LMS's Django models)."""

    kind: Literal["int", "text", "digits", "uuid", "datetime"]
    """`digits` is a number that ClickHouse has as text, empty where the LMS has NULL."""
    table: str
    name: str
    max_length: int | None = None
    """Characters; None for longtext, which ends at `MAX_TEXT_BYTES` bytes."""


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be copied: whose and why, never what it says."""

    user_id: int | None
    key: str
    """The row's primary key, empty where it has none."""
    column: str
    reason: str


@dataclass(frozen=True)
class Batch:
    """Rows of whole users: every row of a user is in one batch. Users come in ascending order."""

    rows: list[tuple[Any, ...]]
    bad: list[BadRow]
    last_user_id: int


class _BadValue(Exception):
    """A value cannot be copied; the argument says why, without the value."""


Converter = Callable[[Any], Any]


def convert_page(page: Page, converters: Sequence[tuple[str, Converter]]) -> Batch:
    """Rows of (user id, key, values …) as rows of converted values, and those that cannot be converted.

    Args:
        page: at least one row.
        converters: the column's name and its converter, for each value.
    """
    rows: list[tuple[Any, ...]] = []
    bad: list[BadRow] = []
    for row in page:
        user_id, key = row[:2]
        converted: list[Any] = []
        try:
            for (_, convert), value in zip(converters, row[2:], strict=True):
                converted.append(convert(value))
        except _BadValue as problem:
            row_key = str(key) if isinstance(key, int) else ""
            bad.append(BadRow(int(user_id), row_key, converters[len(converted)][0], str(problem)))
        else:
            rows.append(tuple(converted))
    return Batch(rows, bad, int(page[-1][0]))


def make_converter(source: LmsColumn) -> Converter:
    """What turns a driver's value of this column into ClickHouse's."""
    if source.kind == "text":
        return lambda value: _convert_text(value, source.max_length)
    return {"int": _convert_int, "digits": _convert_digits, "uuid": _convert_uuid, "datetime": _convert_datetime}[
        source.kind
    ]


def _convert_text(value: Any, max_length: int | None) -> str:
    if value is None:
        return ""
    limit = MAX_TEXT_BYTES if max_length is None else UTF8_BYTES_PER_CHARACTER * max_length
    reason = "longer than 1 MiB" if max_length is None else f"longer than {max_length} characters"
    # Before decoding: what was cut at the limit may end in the middle of a character.
    if isinstance(value, bytes) and len(value) > limit:
        raise _BadValue(reason)
    string = _decode(value)
    if len(string) > max_length if max_length is not None else len(string.encode()) > limit:
        raise _BadValue(reason)
    return string


def _decode(value: Any) -> str:
    if isinstance(value, str):
        return value
    if not isinstance(value, bytes):
        raise _BadValue("not a text")
    with suppress(UnicodeDecodeError):
        return value.decode()
    raise _BadValue("not valid UTF-8")


def _convert_int(value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    digits = _decode(value) if isinstance(value, bytes | str) else ""
    if not re.fullmatch(r"-?[0-9]{1,18}", digits):
        raise _BadValue("not an integer")
    return int(digits)


def _convert_digits(value: Any) -> str:
    return "" if value is None else str(_convert_int(value))


def _convert_uuid(value: Any) -> uuid.UUID:
    if isinstance(value, uuid.UUID):
        return value
    digits = _decode(value) if isinstance(value, bytes | str) else ""
    # char(32) on MySQL, with dashes from MariaDB's uuid.
    if not re.fullmatch(r"[0-9a-fA-F]{32}|[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", digits):
        raise _BadValue("not a UUID")
    return uuid.UUID(digits)


def _convert_datetime(value: Any) -> str:
    """ISO 8601 in UTC, as the LMS itself writes times; Django stores UTC in columns without a time zone."""
    if value is None:
        return ""
    if isinstance(value, bytes | str):
        string = _decode(value)
        value = None
        with suppress(ValueError):
            value = datetime.fromisoformat(string)
    if not isinstance(value, datetime):
        raise _BadValue("not a date and time")
    utc = value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    return utc.isoformat().replace("+00:00", "Z")


def read_original(value: Any) -> str:
    """A name from a status row; the LMS overwrites it with `redacted` before it deletes the row."""
    with suppress(_BadValue):
        string = "" if value is None else _decode(value)
        return "" if string == "redacted" else string
    return ""


def read_uuid(value: Any) -> str:
    """An anonymous id as ClickHouse writes it; empty where it is none."""
    with suppress(_BadValue):
        return str(_convert_uuid(value))
    return ""
