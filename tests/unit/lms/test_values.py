"""Values of the LMS, converted a column at once: the same as one by one."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, Literal

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sink.lms.values import BadRow, LmsColumn, convert_page, make_converter

Kind = Literal["int", "text", "digits", "uuid", "datetime"]
KINDS: tuple[Kind, ...] = ("int", "text", "digits", "uuid", "datetime")
TEXTS = st.one_of(
    st.text(max_size=6),
    st.sampled_from(
        ["a" * 5, "a" * 6, "é" * 5, "\0", "a\0b", "🙂" * 5, "🙂" * 6, "1", "-2", "2024-01-02 03:04:05", "x'y"]
    ),
    st.uuids().map(lambda u: u.hex),
    st.uuids().map(str),
)
VALUES = st.one_of(
    st.none(),
    TEXTS,
    TEXTS.map(lambda text: text.encode()),
    st.binary(max_size=6),
    st.sampled_from([b"\xff", b"\xc3", b"\xc3\xa9", b"a\0b", b"\xa9", b"0" * 31 + b"\n", b" " * 2 + b"0" * 30]),
    st.integers(),
    st.booleans(),
    st.uuids(),
    st.datetimes(),
    st.just(datetime(2024, 1, 2, tzinfo=timezone(timedelta(hours=2)))),
)


def convert(kind: Kind, values: list[Any]) -> tuple[list[Any], dict[int, str]]:
    return make_converter("column", LmsColumn(kind, "table", "column", 5)).convert(values)


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None)
@given(values=st.lists(VALUES, min_size=1, max_size=8))
@example(values=[b"a", b"\xc3", b"\xa9"])
@example(values=["0" * 32, None])
@example(values=[b"ab", None, b""])
@example(values=[True])
def test_a_column_is_converted_as_its_values_are_one_by_one(kind: Kind, values: list[Any]) -> None:
    converted, problems = convert(kind, values)
    assert len(converted) == len(values)
    for position, value in enumerate(values):
        (alone,), reasons = convert(kind, [value])
        assert (converted[position], problems.get(position)) == (alone, reasons.get(0))
        assert type(converted[position]) is type(alone)


def test_columns_of_a_kind_come_as_clickhouse_has_them() -> None:
    one = uuid.UUID("01234567-89ab-cdef-0123-456789abcdef")
    moment = datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert convert("text", [b"Zo\xc3\xab", None, b""]) == (["Zoë", "", ""], {})
    assert convert("text", ["Zoë", None]) == (["Zoë", ""], {})
    assert convert("int", [1, -2]) == ([1, -2], {})
    assert convert("digits", [1970, None]) == (["1970", ""], {})
    assert convert("uuid", [one.hex.upper().encode(), one.hex.encode()]) == ([str(one)] * 2, {})
    assert convert("uuid", [one, str(one)]) == ([str(one)] * 2, {})
    assert convert("datetime", [None, moment]) == (["", "2024-01-02T03:04:05Z"], {})


def test_a_bad_value_costs_its_row_and_names_the_first_column() -> None:
    converters = [make_converter(name, LmsColumn("text", "table", name, 5)) for name in ("first", "second")]
    page = [(1, 10, b"a", b"b"), (2, None, b"\xff", b"too long"), (3, 30, b"c", b"\xff"), (4, 40, None, b"d")]
    batch = convert_page(page, converters)
    assert batch.rows == [("a", "b"), ("", "d")]
    assert (batch.size, batch.last_user_id) == (2, 4)
    assert batch.bad == [BadRow(2, "", "first", "not valid UTF-8"), BadRow(3, "30", "second", "not valid UTF-8")]


def test_a_page_without_a_good_row_is_empty() -> None:
    batch = convert_page([(1, 1, b"\xff")], [make_converter("name", LmsColumn("text", "table", "name", 5))])
    assert (batch.rows, batch.size, len(batch.bad)) == ([], 0, 1)
