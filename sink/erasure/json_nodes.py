"""Where the values of a JSON text stand, byte by byte, whoever wrote it.

Python's `json` writes what other readers refuse (NaN, lone surrogates, any depth), and a column holds what nobody
checked: bytes that are not UTF-8, several documents one a line, a text that was cut off. So nothing here recurses,
nothing is decoded before it is asked for, and what is broken is read as far as it goes.

.. pii: Sees events with the people that they are about, in memory only.
.. pii_types: id, name, username, email_address, other
.. pii_retirement: consumer_api
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, NamedTuple

from sink.erasure.readings import plain, unescape

Kind = Literal["object", "array", "string", "scalar", "key"]

# A FixedString is filled up with NUL; RS begins each document of a JSON text sequence.
_BLANKS = re.compile(rb"(?:[\x00\t\n\x0b\x0c\r\x1e ]|\xef\xbb\xbf)*+")
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+("|\\?\Z)', re.DOTALL)
_SCALAR = re.compile(rb"(?:-?(?:(?:0|[1-9]\d*+)(?:\.\d+)?(?:[eE][-+]?\d+)?|Infinity)|NaN|true|false|null)(?![\w.+-])")
_NO_PARENT = -1


@dataclass(slots=True)
class Node:
    """A value, or the key before one, and the bytes that it takes."""

    kind: Kind
    start: int
    end: int
    parent: int
    """Its object or array, as an index; -1 for a document."""
    key: str | None = None
    """Under which key of an object it stands."""
    is_whole: bool = True
    """False for a string that the end of the text cut off."""


class Document(NamedTuple):
    """What a text holds, in its order."""

    nodes: list[Node]
    is_json: bool
    """False where something in it is no JSON; the nodes are what could be read all the same."""


def read_nodes(text: bytes) -> Document:
    """Read all documents of a text; whatever the bytes are, nothing is raised.

    After a fault the next line is read as a document of its own.
    """
    reader = _Reader(text)
    is_json = reader.read(0)
    while (line_end := text.find(b"\n", reader.at)) >= 0:
        reader.read(line_end + 1)
    reader.close_all()
    return Document(reader.nodes, is_json)


def decode_string(raw: bytes) -> str:
    """The value of a JSON string with its quotes; a byte that is not UTF-8 becomes a surrogate, as Python has it."""
    return unescape(plain(unquote(raw))).text


def unquote(raw: bytes) -> str:
    """What stands between the quotes of a JSON string, its escapes as they are."""
    return raw[1 : -1 if raw.endswith(b'"') and len(raw) > 1 else None].decode("utf-8", "surrogateescape")


class _Reader:
    """Reads tokens and keeps track of what is open."""

    def __init__(self, text: bytes) -> None:
        self.nodes: list[Node] = []
        self.at = 0
        self._text = text
        self._open: list[int] = []
        self._key: str | None = None
        self._separated = True
        """True where a value or a key may follow: at the beginning, after a comma."""

    @property
    def is_at_end(self) -> bool:
        return self.at >= len(self._text)

    def read(self, at: int) -> bool:
        """Read documents from `at`; False where a fault stopped it there, at `self.at`."""
        self.close_all()
        self.at = at
        self._skip_blanks()
        while not self.is_at_end:
            if not self._read_token():
                return False
            self._skip_blanks()
        return not self._open and bool(self.nodes) and self.nodes[-1].is_whole

    def close_all(self) -> None:
        """Whatever is open ends here."""
        while self._open:
            self._close()
        self._key, self._separated = None, True

    def _read_token(self) -> bool:
        character = self._text[self.at : self.at + 1]
        container = self.nodes[self._open[-1]].kind if self._open else None
        if container and character == (b"}" if container == "object" else b"]"):
            self.at += 1
            return self._key is None and self._close()
        if container and not self._separated:
            if character != b",":
                return False
            self.at += 1
            self._separated = True
            return True
        if container == "object" and self._key is None:
            return character == b'"' and self._read_key()
        return self._read_value(character)

    def _read_value(self, character: bytes) -> bool:
        if character in (b"{", b"["):
            self._add("object" if character == b"{" else "array", self.at + 1)
            self._open.append(len(self.nodes) - 1)
            self._separated = True
            return True
        if character == b'"':
            self._add_string("string")
        elif found := _SCALAR.match(self._text, self.at):
            self._add("scalar", found.end())
        else:
            return False
        self._separated = not self._open
        return True

    def _read_key(self) -> bool:
        key = self._add_string("key")
        self._skip_blanks()
        if not self._text.startswith(b":", self.at):
            return False
        self.at += 1
        self._key = key
        return True

    def _add_string(self, kind: Kind) -> str:
        found = _STRING.match(self._text, self.at)
        assert found, "the end of the text ends a string too"
        self._add(kind, found.end())
        self.nodes[-1].is_whole = bool(found[1] == b'"')
        return decode_string(found[0]) if kind == "key" else ""

    def _add(self, kind: Kind, end: int) -> None:
        parent = self._open[-1] if self._open else _NO_PARENT
        self.nodes.append(Node(kind, self.at, end, parent, self._key))
        self.at, self._key = end, None

    def _close(self) -> bool:
        self.nodes[self._open.pop()].end = self.at
        self._separated = not self._open
        return True

    def _skip_blanks(self) -> None:
        found = _BLANKS.match(self._text, self.at)
        assert found
        self.at = found.end()
