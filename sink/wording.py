"""How numbers of things are said to people.

.. no_pii: numbers, and words of ours.
"""

from __future__ import annotations


def counted(number: int, one: str, several: str | None = None) -> str:
    """`1 row`, `2 rows`, `1,000 rows are`: the number with the word, or words, that go with it.

    Args:
        number: how many.
        one: what is said of one.
        several: what is said of none and of several; `one` with an s if left out.
    """
    return f"{number:,} {one if number == 1 else several or one + 's'}"


def choose(number: int, one: str, several: str) -> str:
    """The same without the number."""
    return one if number == 1 else several
