"""A text as different readers take it: with JSON escapes and percent signs decoded, and where each character came from.

.. pii: Sees events with the people that they are about, in memory only.
.. pii_types: id, name, username, email_address, other
.. pii_retirement: consumer_api
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

_ESCAPE = re.compile(
    r"\\u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})|\\u([0-9a-fA-F]{4})|\\([\"\\/bfnrt])"
)
_NAMED = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
PERCENT = re.compile(r"(?:%[0-9a-fA-F]{2})+")


@dataclass(frozen=True)
class Reading:
    """A decoded text."""

    text: str
    starts: Sequence[int]
    """Where each character begins in the text that was decoded, and at last where that text ends."""


def plain(text: str) -> Reading:
    """The text as it is."""
    return Reading(text, range(len(text) + 1))


def unescape(reading: Reading) -> Reading:
    """JSON's escapes decoded; what is no escape stays."""
    return _decode(reading, _ESCAPE, _decode_escape) if "\\" in reading.text else reading


def unpercent(reading: Reading) -> Reading:
    """Percent encoding decoded; a byte that is not UTF-8 becomes a surrogate."""
    return _decode(reading, PERCENT, _decode_percent) if "%" in reading.text else reading


Decoder = Callable[["re.Match[str]"], Iterator[tuple[int, str]]]


def _decode(reading: Reading, pattern: re.Pattern[str], decode: Decoder) -> Reading:
    parts: list[str] = []
    starts: list[int] = []
    at = 0
    for found in pattern.finditer(reading.text):
        parts.append(reading.text[at : found.start()])
        starts += reading.starts[at : found.start()]
        for offset, character in decode(found):
            parts.append(character)
            starts.append(reading.starts[found.start() + offset])
        at = found.end()
    if at == 0:
        return reading
    parts.append(reading.text[at:])
    starts += reading.starts[at:]
    return Reading("".join(parts), starts)


def _decode_escape(found: re.Match[str]) -> Iterator[tuple[int, str]]:
    high, low, unit, letter = found.groups()
    if letter:
        yield 0, _NAMED.get(letter, letter)
    elif unit:
        yield 0, chr(int(unit, 16))
    else:
        yield 0, chr(0x10000 + ((int(high, 16) & 0x3FF) << 10) + (int(low, 16) & 0x3FF))


def _decode_percent(found: re.Match[str]) -> Iterator[tuple[int, str]]:
    offset = 0
    for character in bytes.fromhex(found[0].replace("%", "")).decode("utf-8", "surrogateescape"):
        yield offset, character
        offset += 3 * len(character.encode("utf-8", "surrogateescape"))
