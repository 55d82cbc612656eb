"""Changing one value inside a JSON text, and nothing else: blanks, order, numbers and escapes stay as they were.

Reading a statement into objects and writing it again would turn `1.50` into `1.5` and lose repeated keys; an event
must come out of a retirement as it went in, but for the person.

.. pii: Sees events with the people that they are about, in memory only.
.. pii_types: id, name, username, email_address, other
.. pii_retirement: consumer_api
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

Arrays = Literal["all", "first"]
_DECODER = json.JSONDecoder()
_BLANKS = " \t\n\r"


class Span(NamedTuple):
    """Where a value stands in the text, and what it is."""

    start: int
    end: int
    value: Any


def find_values(text: str, path: Sequence[str], arrays: Arrays = "all") -> list[Span]:
    """Every value at `path`, in the order of the text; elements of arrays on the way are looked into.

    Args:
        text: a JSON document.
        path: the keys from the top.
        arrays: look into all elements of an array, or only as far as the first that has the rest of the path.

    Raises:
        ValueError: the text is not JSON.
    """
    return list(_walk(text, _skip_blanks(text, 0), tuple(path), arrays))


def replace_values(text: str, path: Sequence[str], replacement: Callable[[Any], Any], arrays: Arrays = "all") -> str:
    """The text with every value at `path` replaced; where the path is absent, the text as it was.

    Args:
        text: a JSON document.
        path: the keys from the top.
        replacement: takes a value and gives the one to take its place; the same value changes nothing.
        arrays: see `find_values`.

    Raises:
        ValueError: the text is not JSON.
    """
    for span in reversed(find_values(text, path, arrays)):
        new = replacement(span.value)
        if new != span.value:
            text = text[: span.start] + json.dumps(new, ensure_ascii=False) + text[span.end :]
    return text


def _walk(text: str, start: int, path: tuple[str, ...], arrays: Arrays) -> Iterator[Span]:
    if not path:
        value, end = _DECODER.raw_decode(text, start)
        yield Span(start, end, value)
    elif text.startswith("{", start):
        for key, at in _members(text, start):
            if key == path[0]:
                yield from _walk(text, at, path[1:], arrays)
    elif text.startswith("[", start):
        for at in _elements(text, start):
            found = list(_walk(text, at, path, arrays))
            yield from found
            if found and arrays == "first":
                return


def _members(text: str, start: int) -> Iterator[tuple[str, int]]:
    """The keys of the object at `start`, each with where its value begins."""
    at = _skip_blanks(text, start + 1)
    while not text.startswith("}", at):
        if not text.startswith('"', at):
            raise ValueError("a key is expected")
        key, at = _DECODER.raw_decode(text, at)
        at = _skip_blanks(text, _expect(text, _skip_blanks(text, at), ":"))
        yield key, at
        at = _skip_separator(text, _DECODER.raw_decode(text, at)[1], "}")


def _elements(text: str, start: int) -> Iterator[int]:
    """Where each element of the array at `start` begins."""
    at = _skip_blanks(text, start + 1)
    while not text.startswith("]", at):
        yield at
        at = _skip_separator(text, _DECODER.raw_decode(text, at)[1], "]")


def _skip_separator(text: str, at: int, closing: str) -> int:
    at = _skip_blanks(text, at)
    return at if text.startswith(closing, at) else _skip_blanks(text, _expect(text, at, ","))


def _expect(text: str, at: int, character: str) -> int:
    if not text.startswith(character, at):
        raise ValueError(f"{character} is expected")
    return at + 1


def _skip_blanks(text: str, at: int) -> int:
    while at < len(text) and text[at] in _BLANKS:
        at += 1
    return at
