"""Numbers of things, as people are told."""

from __future__ import annotations

import pytest

from sink.wording import choose, counted, describe_seconds


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


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.4, "0 s"),
        (119, "119 s"),
        (120, "2 minutes"),
        (3_600, "1 hour"),
        (3_660, "1 hour 1 minute"),
        (7_500, "2 hours 5 minutes"),
        (90_061, "1 day 1 hour"),
    ],
)
def test_a_duration_has_its_two_largest_units(seconds: float, said: str) -> None:
    assert describe_seconds(seconds) == said
