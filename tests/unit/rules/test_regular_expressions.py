"""Regular expressions that ClickHouse rewrites to something else (`optimize_rewrite_regexp_functions`, on by default from 25.8).

A connection of ours switches that off, but mutations and datasets run with the settings of others.
"""

from __future__ import annotations

import re

import pytest

from tests.support.paths import ROOT

SOURCES = sorted(
    [*(ROOT / "sink").rglob("*.py"), *(ROOT / "dbt_project").rglob("*.sql"), *(ROOT / "sql").rglob("*.sql")]
)
# Up to 26.1 this gives nothing where nothing fits (ClickHouse/ClickHouse#93434).
ALONE = re.compile(r"replaceRegexpOne\([^\n]*, '\\+[01]'\)")
# This gives the first occurrence and not the last (ClickHouse/ClickHouse#116922, mended by #117228).
GREEDY = re.compile(r"extract\([^\n]*'\^\.\*")


def test_what_is_looked_for_is_recognised() -> None:
    assert len(SOURCES) > 300
    assert ALONE.search(r"""f"replaceRegexpOne({seen}, '{_HEADERS}', '\\\\1')" """)
    assert not ALONE.search(r"""replaceRegexpOne({plain}, '{groups}', '\\\\1-\\\\2')""")
    assert GREEDY.search("extract(h, '^.*(a)')")


@pytest.mark.parametrize("rewritten", [ALONE, GREEDY])
def test_nothing_is_written_that_is_rewritten_to_something_else(rewritten: re.Pattern[str]) -> None:
    assert [str(path) for path in SOURCES if rewritten.search(path.read_text())] == []
