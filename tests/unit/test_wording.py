"""Numbers of things, as people are told."""

from __future__ import annotations

import pytest

from sink.wording import choose, counted


@pytest.mark.parametrize(
    ("number", "said"),
    [(0, "0 rows"), (1, "1 row"), (2, "2 rows"), (1_000, "1,000 rows"), (1_000_001, "1,000,001 rows")],
)
def test_a_number_goes_with_its_word(number: int, said: str) -> None:
    assert counted(number, "row") == said


def test_a_number_goes_with_its_verb() -> None:
    assert [counted(n, "entry is", "entries are") for n in (0, 1, 2)] == [
        "0 entries are",
        "1 entry is",
        "2 entries are",
    ]
    assert [choose(n, "was", "were") for n in (0, 1, 2)] == ["were", "was", "were"]
