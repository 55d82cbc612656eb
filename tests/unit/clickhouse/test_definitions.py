"""What definitions say that they read and write, as the server writes them."""

from __future__ import annotations

import pytest

from sink.clickhouse.definitions import appends, find_target, read_definition
from sink.names import TableName

PEOPLE = TableName("sink", "people")
TABLES = [PEOPLE, TableName("sink", "courses"), TableName("other", "people"), TableName("own", "people")]


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("SELECT a FROM sink.people", {PEOPLE}),
        ("SELECT a FROM `sink`.`people` AS p INNER JOIN other.people AS o ON p.a = o.a", {PEOPLE, TABLES[2]}),
        ("SELECT people AS a FROM sink.courses WHERE b = 'sink'", {TABLES[1]}),
        ("SELECT a FROM people", {TABLES[3]}),
        ("SELECT a FROM merge('sink', '^peo')", {PEOPLE}),
        ("SELECT a FROM merge(REGEXP('^(sink|other)$'), '^people$')", {PEOPLE, TABLES[2]}),
        ("SELECT a FROM merge('^people$')", {TABLES[3]}),
        (r"SELECT a FROM merge('sink', '^\\pL')", {PEOPLE, TABLES[1]}),
        ("SELECT a FROM cluster('c', 'sink', 'people')", {PEOPLE}),
        ("SELECT a FROM cluster('c', sink.people)", {PEOPLE}),
        ("SELECT dictGet('sink.people', 'a', 1)", {PEOPLE}),
        ("SELECT dictGet('people', 'a', 1)", {TABLES[3]}),
        ("Buffer('sink', 'people', 1, 10, 100)", {PEOPLE}),
        ("Distributed('c', 'sink', 'people', rand())", {PEOPLE}),
        ("Merge('sink', '^people$')", {PEOPLE}),
        ("SELECT 1", set()),
    ],
)
def test_what_a_view_or_table_reads(text: str, read: set[TableName]) -> None:
    assert read_definition("own", text).select(TABLES) == read


@pytest.mark.parametrize(
    ("source", "read"),
    [
        ("CLICKHOUSE(DB 'sink' TABLE 'people')", {PEOPLE}),
        ("CLICKHOUSE(TABLE 'people')", {TABLES[3]}),
        ("CLICKHOUSE(QUERY 'SELECT a FROM sink.people')", {PEOPLE}),
        ("CLICKHOUSE(DB 'sink' QUERY 'SELECT a FROM people')", {PEOPLE}),
        ("CLICKHOUSE(NAME nc)", set(TABLES)),
        ("MYSQL(NAME nc)", set()),
    ],
)
def test_what_a_dictionary_reads(source: str, read: set[TableName]) -> None:
    text = f"CREATE DICTIONARY own.d (`people` Int64) PRIMARY KEY people SOURCE({source}) LIFETIME(1)"
    assert read_definition("own", text, is_dictionary=True).select(TABLES) == read


VIEW = "CREATE MATERIALIZED VIEW a.APPEND REFRESH EVERY 1 DAY"


def test_where_a_view_writes_and_whether_it_appends() -> None:
    assert find_target(f"{VIEW} APPEND TO b.`c d` (`x` String) AS SELECT 1") == TableName("b", "c d")
    assert appends(f"{VIEW} APPEND TO b.c (`x` String) AS SELECT 1")
    assert not appends(f"{VIEW} DEPENDS ON a.APPEND TO b.c (`x` String) AS SELECT 1 AS APPEND")
    assert find_target(f"{VIEW} (`x` String) ENGINE = Memory COMMENT 'TO b.c' AS SELECT 1") is None
