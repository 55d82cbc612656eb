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


_UNITS = (("day", 86_400), ("hour", 3_600), ("minute", 60))


def describe_seconds(seconds: float) -> str:
    """`4 s`, `3 minutes`, `2 hours 5 minutes`, `3 days 1 hour`: a duration as people say it, by its two largest units."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    left = round(seconds / 60) * 60
    said = []
    for name, size in _UNITS:
        count, left = divmod(left, size)
        if count:
            said.append(counted(count, name))
    return " ".join(said[:2])
