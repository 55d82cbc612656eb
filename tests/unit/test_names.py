"""Names in SQL: only harmless ones are taken from people, and whatever a server reports is quoted safely."""

from __future__ import annotations

import pytest

from sink.names import TableName, check_identifier, check_name, quote, quote_columns


@pytest.mark.parametrize("name", ["a", "_", "user_profile", "A1", "x" * 128])
def test_check_identifier_accepts(name: str) -> None:
    assert check_identifier(name) == name


@pytest.mark.parametrize("name", ["", "1a", "a b", "a-b", "a.b", "a`b", "a;b", "naïve", "a\n", "x" * 129])
def test_check_identifier_refuses(name: str) -> None:
    with pytest.raises(ValueError, match="letters, digits and underscores"):
        check_identifier(name)


@pytest.mark.parametrize("name", ["user_profile", "e-mail", "survey-2025", "Last Name", "größe", "lower(email)", "2nd"])
def test_check_name_accepts(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name", ["", " a", "a ", "a.b", "a`b", "a'b", 'a"b', "a\\", "$event_sink", "{a:Int8}", "a\n", "a\x00", "x" * 256]
)
def test_check_name_refuses(name: str) -> None:
    with pytest.raises(ValueError, match="a name has no dots"):
        check_name(name)


@pytest.mark.parametrize(
    ("name", "quoted"),
    [
        ("name", "`name`"),
        (".inner_id.0-1", "`.inner_id.0-1`"),
        ("a`b", "`a\\`b`"),
        ("a\\", "`a\\\\`"),
        ("a\\`b", "`a\\\\\\`b`"),
        ("größe", "`größe`"),
    ],
)
def test_quote(name: str, quoted: str) -> None:
    assert quote(name) == quoted


@pytest.mark.parametrize("name", ["", "a\x00b"])
def test_quote_refuses(name: str) -> None:
    with pytest.raises(ValueError, match="empty or hold a zero byte"):
        quote(name)


def test_table_name() -> None:
    table = TableName("event_sink", "a`b")
    assert table.sql == "`event_sink`.`a\\`b`"
    assert str(table) == "event_sink.a`b"


def test_quote_columns() -> None:
    assert quote_columns(["a", "b c"]) == "`a`, `b c`"
