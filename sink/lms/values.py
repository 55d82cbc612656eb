"""Values of the LMS as ClickHouse has them. A bad one costs its row, and is named by whose it is, never by what it says.

.. pii: Rows of profiles, ids and roles, in memory only.
.. pii_types: id, name, username, email_address, location, phone_number, birth_date, gender, biography, image, other
.. pii_retirement: consumer_api
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, Literal

Page = Sequence[Sequence[Any]]

#: Longer texts are refused: the LMS's longtext columns take 4 GiB, its forms a few kilobytes.
MAX_TEXT_BYTES = 1 << 20
UTF8_BYTES_PER_CHARACTER = 4
_UUID_DIGITS = 32
# Hardly any text has it; where one does, texts are decoded one by one.
_SEPARATOR = b"\0"


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

    columns: list[list[Any]]
    """The values of each column, as many in each as there are good rows."""
    bad: list[BadRow]
    last_user_id: int

    @property
    def size(self) -> int:
        """How many good rows there are."""
        return len(self.columns[0]) if self.columns else 0

    @property
    def rows(self) -> list[tuple[Any, ...]]:
        """The same, row by row."""
        return list(zip(*self.columns, strict=True))


class _BadValue(Exception):
    """A value cannot be copied; the argument says why, without the value."""


@dataclass(frozen=True)
class Converter:
    """What turns a driver's values of one column into ClickHouse's."""

    name: str
    one: Callable[[Any], Any]
    """Converts a value, or raises `_BadValue`."""
    all: Callable[[Sequence[Any]], list[Any] | None]
    """Converts a column at once, which costs a tenth; None where a value is not as nearly all are."""

    def convert(self, values: Sequence[Any]) -> tuple[list[Any], dict[int, str]]:
        """The values of a column, and why some could not be converted, by their position; theirs is None."""
        converted = self.all(values)
        if converted is not None:
            return converted, {}
        converted, problems = [], {}
        for position, value in enumerate(values):
            try:
                converted.append(self.one(value))
            except _BadValue as problem:
                converted.append(None)
                problems[position] = str(problem)
        return converted, problems


def convert_page(page: Page, converters: Sequence[Converter]) -> Batch:
    """Rows of (user id, key, values …) as columns of converted values, and those that cannot be converted.

    Args:
        page: at least one row.
        converters: one for each value.
    """
    user_ids, keys, *values = zip(*page, strict=True)
    columns: list[list[Any]] = []
    bad: dict[int, BadRow] = {}
    for converter, column in zip(converters, values, strict=True):
        converted, problems = converter.convert(column)
        columns.append(converted)
        for position, reason in problems.items():
            key = str(keys[position]) if isinstance(keys[position], int) else ""
            # Of several bad values of a row the first is named.
            bad.setdefault(position, BadRow(int(user_ids[position]), key, converter.name, reason))
    if bad:
        columns = [[value for position, value in enumerate(column) if position not in bad] for column in columns]
    return Batch(columns, [bad[position] for position in sorted(bad)], int(user_ids[-1]))


def make_converter(name: str, source: LmsColumn) -> Converter:
    """What converts the column `source`, which is called `name`."""
    if source.kind == "text":
        limit = source.max_length
        return Converter(name, partial(_convert_text, max_length=limit), partial(_convert_texts, max_length=limit))
    one, many = {
        "int": (_convert_int, _convert_ints),
        "digits": (_convert_digits, _convert_all_digits),
        "uuid": (_convert_uuid, _convert_uuids),
        "datetime": (_convert_datetime, _convert_datetimes),
    }[source.kind]
    return Converter(name, one, many)


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


def _convert_texts(values: Sequence[Any], max_length: int | None) -> list[str] | None:
    kinds = set(map(type, values)) - {type(None)}
    if not kinds <= {bytes} and kinds != {str}:
        return None
    texts = [v or "" for v in values] if kinds == {str} else _decode_all([v or b"" for v in values])
    # What was cut at the limit is longer than this too.
    longest = MAX_TEXT_BYTES // UTF8_BYTES_PER_CHARACTER if max_length is None else max_length
    return texts if texts is not None and max(map(len, texts)) <= longest else None


def _decode_all(values: Sequence[bytes]) -> list[str] | None:
    try:
        texts = _SEPARATOR.join(values).decode().split(_SEPARATOR.decode())
    except UnicodeDecodeError:
        return None
    return texts if len(texts) == len(values) else None


def _convert_ints(values: Sequence[Any]) -> list[int] | None:
    return list(values) if set(map(type, values)) == {int} else None


def _convert_all_digits(values: Sequence[Any]) -> list[str] | None:
    return ["" if v is None else str(v) for v in values] if set(map(type, values)) <= {int, type(None)} else None


def _convert_uuids(values: Sequence[Any]) -> list[str] | None:
    """Of 32 digits each, as MySQL and SQLite have them."""
    texts = _convert_texts(values, _UUID_DIGITS)
    if texts is None or not re.fullmatch(r"(?:[0-9a-fA-F]{32},)+", ",".join([*texts, ""])):
        return None
    return [f"{t[:8]}-{t[8:12]}-{t[12:16]}-{t[16:20]}-{t[20:]}".lower() for t in texts]


def _convert_datetimes(values: Sequence[Any]) -> list[str] | None:
    # Most profiles have none.
    with suppress(_BadValue):
        return ["" if value is None else _convert_datetime(value) for value in values]
    return None


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


def _convert_uuid(value: Any) -> str:
    if isinstance(value, uuid.UUID):
        return str(value)
    digits = _decode(value) if isinstance(value, bytes | str) else ""
    # char(32) on MySQL, with dashes from MariaDB's uuid.
    if not re.fullmatch(r"[0-9a-fA-F]{32}|[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", digits):
        raise _BadValue("not a UUID")
    return str(uuid.UUID(digits))


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


def read_former_emails(value: Any) -> frozenset[str]:
    """The addresses that a profile's `meta` says the user had before: pairs of an address and when it was given up.

    From `do_email_change_request` in common/djangoapps/student/views/management.py. What is anything else says nothing.
    """
    try:
        meta = json.loads(read_original(value) or "{}")
    except (ValueError, RecursionError):
        return frozenset()
    listed = meta.get("old_emails") if isinstance(meta, dict) else None
    pairs = listed if isinstance(listed, list) else []
    found = (pair[0] for pair in pairs if isinstance(pair, list) and pair)
    return frozenset(address for address in found if isinstance(address, str) and "@" in address)


def read_uuid(value: Any) -> str:
    """An anonymous id as ClickHouse writes it; empty where it is none."""
    with suppress(_BadValue):
        return _convert_uuid(value)
    return ""
