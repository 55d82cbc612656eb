"""Finding the addresses of people in a text, and the digests of them, as words of their own, however they are written.

.. pii: Sees events with the people that they are about, in memory only.
.. pii_types: id, name, username, email_address, other
.. pii_retirement: consumer_api
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from sink.erasure.people import MAILTO, People, Person, fold
from sink.erasure.readings import PERCENT, Reading, plain, unescape, unpercent

_DIGEST = re.compile(r"(?<![0-9a-z])[0-9a-f]{40}(?![0-9a-z])", re.IGNORECASE | re.ASCII)
# What may stand inside an address; at its edge it belongs to the sentence.
_INSIDE_LOCAL = ".+-'"
_INSIDE_DOMAIN = ".-"


class Mention(NamedTuple):
    """Where somebody is named, and what takes the place."""

    start: int
    end: int
    new: str


def find_mentions(text: str, people: People, *, is_json_string: bool, is_key: bool = False) -> list[Mention]:
    """What a text says of `people` for sure, in order and apart from each other.

    Args:
        text: what stands between the quotes of a JSON string, or any text.
        people: whom to look for.
        is_json_string: the escapes in it are escapes for sure. In any other text they may be, or not.
        is_key: it is the key of a value, in which a word is no name.
    """
    found: set[Mention] = set()
    for reading in _list_readings(text, is_json_string):
        words = people.list_words(reading.text) if people.searches_words and not is_key else ()
        for start, end, new in (*_find(reading.text, people), *words):
            found.add(Mention(reading.starts[start], reading.starts[end], new))
    apart: list[Mention] = []
    for mention in sorted(found, key=lambda mention: (mention.start, -mention.end)):
        if not apart or mention.start >= apart[-1].end:
            apart.append(mention)
    return apart


def replace_mentions(text: str, mentions: Sequence[Mention]) -> str:
    """The text with all of them replaced; they are in order and apart from each other."""
    parts = []
    at = 0
    for start, end, new in mentions:
        parts += [text[at:start], new]
        at = end
    return "".join([*parts, text[at:]])


def _list_readings(text: str, is_json_string: bool) -> Iterator[Reading]:
    first = plain(text)
    unescaped = unescape(first)
    if not is_json_string and unescaped is not first:
        yield from _list_percent_readings(first)
    yield from _list_percent_readings(unescaped)
    # A JSON text within a JSON text. Elsewhere `\b` is more likely the end of a domain's name.
    if unescaped.text.lstrip().startswith(("{", "[", '"')):
        nested = unescape(unescaped)
        if nested is not unescaped:
            yield from _list_percent_readings(nested)


def _list_percent_readings(reading: Reading) -> Iterator[Reading]:
    """A reading, and what it is with percent signs decoded: once, twice, and as often as anybody encodes."""
    yield reading
    for _ in range(3):
        decoded = unpercent(reading)
        if decoded is reading:
            return
        yield decoded
        reading = decoded


def _find(text: str, people: People) -> Iterator[tuple[int, int, str]]:
    for found in _DIGEST.finditer(text):
        if person := people.find_by_digest(found[0]):
            yield found.start(), found.end(), person.replace_digest(found[0])
    if "@" not in text:
        return
    folded = fold(text)
    at = folded.find("@")
    while at >= 0:
        for start, end, person in people.list_at(folded, at):
            if _begins(text, start, end) and _ends(text, end):
                yield from _find_around(text, folded, start, end, person)
                break
        at = folded.find("@", at + 1)


def _find_around(text: str, folded: str, start: int, end: int, person: Person) -> Iterator[tuple[int, int, str]]:
    """The address with its `mailto:`, and the name before it in `Zoe <a@x>`."""
    address = text[start:end]
    new = person.replace_address(address, is_mailbox=False)
    if folded.endswith(MAILTO, 0, start):
        start -= len(MAILTO)
        new = f"{MAILTO}{person.replace_address(address, is_mailbox=True)}"
    yield start, end, new
    if text[start - 1 : start] != "<" or text[end : end + 1] != ">":
        return
    before = folded[: start - 1].rstrip(" \t\r\n\"'\\")
    for name in person.full_names:
        if name.strip() and before.endswith(fold(name.strip())):
            yield len(before) - len(name.strip()), len(before), person.new_name


def _begins(text: str, start: int, end: int) -> bool:
    """Whether an address begins there, and is not the end of a longer one."""
    if start == 0:
        return True
    before = text[start - 1]
    if _joins(before):
        return False
    if before == "'" and text.startswith("'", end):
        return True
    return not (before in _INSIDE_LOCAL and start > 1 and _joins(text[start - 2]))


def _ends(text: str, end: int) -> bool:
    """Whether an address ends there, and is not the beginning of a longer one."""
    after = text[end : end + 2]
    if not after:
        return True
    if PERCENT.match(text, end):
        # What follows is seen when the percent sign is decoded.
        return False
    if after[0] != "_" and _joins(after[0]):
        return False
    return not (after[0] in _INSIDE_DOMAIN and len(after) > 1 and _joins(after[1]))


def _joins(character: str) -> bool:
    """Whether a character next to an address belongs to it; scripts without blanks between words do not."""
    return character == "_" or (character.isalnum() and unicodedata.category(character) != "Lo")
