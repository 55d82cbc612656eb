"""Everybody whom a text may name, for `sink.erasure.statements`: first who has to be asked for, then with the answers.

A text is read twice. `Asked` notes down what could be somebody's; ClickHouse says of all of it at once what it is and what
takes its place; `Invented` puts that there.

.. pii: Sees events with the people that they are about, in memory only.
.. pii_types: id, name, username, email_address, other
.. pii_retirement: consumer_api
"""

from __future__ import annotations

import re
import sys
import unicodedata
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache

from sink.erasure.found_by_value import MOST_WORDS
from sink.erasure.people import MAILTO, People, Person, list_addresses

# As `sink.erasure.found_by_value` splits texts: what it would find has to be found here.
_PIECE = re.compile(r"""["'`\\\[\](){}<>,;|=&:/\n\r\t\x1e]+""")
_WORD = re.compile(r"\S+")
_IDS = re.compile(
    r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}|(?<![0-9a-zA-Z])[0-9a-fA-F]{32}(?![0-9a-zA-Z])"
)
_SHORTEST = 3
_LONGEST = 300


@dataclass(frozen=True)
class Answer:
    """What takes the place of a value; `repr` shows none of it."""

    new: str = field(repr=False)
    name: str = field(repr=False)
    """What whoever it means is called now."""
    is_known: bool
    """True where somebody of the copy is called so."""
    is_sure: bool
    """True where a text that holds it means them."""
    named: str = field(default="", repr=False)
    """The new name of whoever has this full name; empty where nobody has."""


class Asked(People):
    """Nobody, and what was asked about."""

    searches_words = True

    def __init__(self, domains: Collection[str], longest: int) -> None:
        """Addresses are looked for at these domains, and of so many characters before the @."""
        super().__init__([])
        self.values: set[str] = set()
        self._domains = frozenset(domains)
        self._lengths = sorted({len(domain) for domain in domains}, reverse=True)
        self._longest = longest

    def identify(self, role: str, value: str) -> Person | None:
        """See `People`."""
        self.values.update((value, *list_addresses(value)) if role != "mbox_sha1sum" else (value,))
        return None

    def find_by_digest(self, value: str) -> Person | None:
        """See `People`."""
        self.values.add(value)
        return None

    def find_by_username(self, value: str) -> Person | None:
        """See `People`."""
        self.values.add(value)
        return None

    def list_words(self, text: str) -> Iterator[tuple[int, int, str]]:
        """See `People`."""
        self.values.update(text[start:end] for start, end in _split(text))
        return iter(())

    def list_at(self, folded: str, at: int) -> Iterator[tuple[int, int, Person]]:
        """See `People`."""
        for length in self._lengths:
            domain = folded[at + 1 : at + 1 + length]
            if domain in self._domains:
                self.values.update(f"{folded[start:at]}@{domain}" for start in range(max(0, at - self._longest), at))
        return iter(())


class Invented(People):
    """Everybody of whom a text was asked, with what takes their places."""

    searches_words = True

    def __init__(self, answers: Mapping[str, Answer]) -> None:
        self._answers = answers
        super().__init__(
            _Replaced(answer, answers, addresses=frozenset([value]))
            for value, answer in answers.items()
            if answer.is_known and _is_address(value)
        )

    def identify(self, role: str, value: str) -> Person | None:
        """See `People`. Every agent is somebody, known or not."""
        return self._find_known(value) or self.find_by_username(value)

    def find_by_digest(self, value: str) -> Person | None:
        """See `People`."""
        return self._find_known(value)

    def find_by_username(self, value: str) -> Person | None:
        """See `People`."""
        answer = self._answers.get(value)
        return _Replaced(answer, self._answers) if value and answer else None

    def list_words(self, text: str) -> Iterator[tuple[int, int, str]]:
        """See `People`."""
        for start, end in _split(text):
            answer = self._answers.get(text[start:end])
            if answer and (answer.is_sure or answer.named):
                yield start, end, answer.new if answer.is_sure else answer.named

    def _find_known(self, value: str) -> Person | None:
        for candidate in (value, *list_addresses(value)):
            answer = self._answers.get(candidate)
            if answer and answer.is_known:
                return _Replaced(answer, self._answers)
        return None


class _Replaced(Person):
    """Somebody of the copy."""

    def __init__(self, answer: Answer, answers: Mapping[str, Answer], addresses: frozenset[str] = frozenset()) -> None:
        super().__init__("", addresses=addresses)
        # Frozen as its parent is.
        object.__setattr__(self, "_answer", answer)
        object.__setattr__(self, "_answers", answers)

    _answer: Answer
    _answers: Mapping[str, Answer]

    @property
    def new_name(self) -> str:
        """See `Person`."""
        return self._answer.name

    def replace_identifier(self, old: str) -> str:
        """See `Person`. Each identifier of an agent has its own."""
        for candidate in list_addresses(old):
            answer = self._answers.get(candidate)
            if answer and answer.is_known and "@" in candidate:
                scheme = MAILTO if old.strip().lower().startswith(MAILTO) else ""
                return scheme + answer.new.removeprefix(MAILTO)
        answer = self._answers.get(old)
        return answer.new if answer else self._answer.new

    def replace_username(self, old: str) -> str:
        """See `Person`."""
        return self.replace_identifier(old)

    def replace_digest(self, old: str) -> str:
        """See `Person`."""
        return self._answers[old].new

    def replace_address(self, old: str, *, is_mailbox: bool) -> str:
        """See `Person`."""
        return (self._answers.get(old) or self._answer).new.removeprefix(MAILTO)


def _is_address(value: str) -> bool:
    """True for an address alone, as it stands in a text."""
    return "@" in value and value == value.strip() and not value.lower().startswith(MAILTO)


def _split(text: str) -> Iterator[tuple[int, int]]:
    """Where what may be somebody's name or id stands in a text: between signs, between blanks, and words in a row."""
    at = 0
    for found in (*_PIECE.finditer(text), None):
        end = found.start() if found else len(text)
        yield from _list_words(text, at, end)
        at = found.end() if found else end
    for found in _IDS.finditer(text):
        yield found.span()
    # A name may have a comma in it.
    words = [word.span() for word in _find_letters().finditer(text)]
    for first in range(len(words)):
        for last in range(first + 1, min(first + MOST_WORDS, len(words))):
            yield words[first][0], words[last][1]


def _list_words(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    piece = text[start:end].strip()
    if len(piece) < _SHORTEST:
        return
    start = text.index(piece, start)
    if len(piece) <= _LONGEST:
        yield start, start + len(piece)
    if piece.isalnum():
        return
    for word in _WORD.finditer(piece):
        size = len(word[0].rstrip(".!?"))
        if _SHORTEST <= size < len(piece):
            yield start + word.start(), start + word.start() + size


@cache
def _find_letters() -> re.Pattern[str]:
    """What words of a name are made of: letters, marks and digits.

    What Python does not know yet may be a letter to ClickHouse, whose tables are newer. Where it is none there either, a name
    is the same with it and without.
    """
    others = [
        char for char in map(chr, range(sys.maxunicode + 1)) if unicodedata.category(char) in ("Mn", "Mc", "Me", "Cn")
    ]
    ranges: list[list[str]] = []
    for char in others:
        if ranges and ord(char) == ord(ranges[-1][1]) + 1:
            ranges[-1][1] = char
        else:
            ranges.append([char, char])
    others_of_words = "".join(f"{re.escape(first)}-{re.escape(last)}" for first, last in ranges)
    return re.compile(rf"(?:[^\W_]|[{others_of_words}])+")
