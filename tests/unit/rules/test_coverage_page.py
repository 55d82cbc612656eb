"""docs/erasure-coverage.md says what the tests show, and nothing else."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.support.coverage_page import KINDS, PAGE, RESULTS, read_rows, render

ROWS = list(read_rows())


def test_the_page_is_what_the_tests_say() -> None:
    assert PAGE.read_text(encoding="utf-8") == render(), (
        "docs/erasure-coverage.md is out of date: python -m tests.support.coverage_page > docs/erasure-coverage.md"
    )


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_rows(kind: str) -> None:
    assert [row for row in ROWS if row.kind == kind]


def test_every_mark_has_a_kind_and_a_result_that_the_page_explains() -> None:
    assert {row.kind for row in ROWS} <= set(KINDS)
    assert {row.result for row in ROWS} <= set(RESULTS)


def test_no_row_is_shown_twice_with_different_results() -> None:
    results = {(row.kind, row.what): row.result for row in ROWS}
    assert [row for row in ROWS if results[row.kind, row.what] != row.result] == []
    assert [row for row, times in Counter(ROWS).items() if times > 1] == []
