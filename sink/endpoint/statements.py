"""Statements as the protocol brings them. The engine parses them; here is read what it makes of them.

`formatQuerySingleLine` takes any text as a value, refuses several statements in one, and writes the one down in a form
without comments, with one way of quoting. What the protocol needs is read from that form.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from sink.errors import ProtocolError

# .. no_pii: statements; values in them are passed over.

Format = Callable[[bytes], str]
"""The engine's `formatQuerySingleLine`; raises `ProtocolError` where the text is not one statement."""

READING = frozenset({"SELECT", "WITH", "SHOW", "DESCRIBE", "EXISTS", "EXPLAIN", "CHECK"})

# The data of an insert may be large, and begins within this; a server reads no longer head (`max_query_size`).
_HEAD_BYTES = 1 << 18
_MAX_STATEMENT_BYTES = 1 << 24
# Words before the data that look like its beginning and are not it.
_MAX_TRIED = 100

_TOKEN = re.compile(r"'(?:[^'\\]|\\.)*+'|`(?:[^`\\]|\\.)*+`|\w++|\S", re.DOTALL)
# A comment is bounded, so that many that never end cost no more than one look at each.
_COMMENT = rb"/\*(?:[^*]|\*(?!/)){0,1000}\*/|--[^\n]*"
_BEGINNING = re.compile(rb"\b(?:FORMAT(?:\s|" + _COMMENT + rb")+\w+|VALUES)\b", re.IGNORECASE)
# Rows as VALUES has them, up to what ends the statement.
_QUOTED = rb"'(?:[^'\\]|\\.)*+'|`(?:[^`\\]|\\.)*+`|\"(?:[^\"\\]|\\.)*+\""
_ROWS = re.compile(rb"(?:[^;'\"`/-]++|" + _QUOTED + rb"|" + _COMMENT + rb"|[/-])*+", re.DOTALL)
_NOTHING = re.compile(rb"(?:[\s;]++|" + _COMMENT + rb")*+")
_END_OF_LINE = re.compile(rb"[ \t\f]*;?[ \t\f]*\r?\n?")


@dataclass(frozen=True)
class Token:
    """A word, a quoted text or a sign of a statement in the engine's form."""

    text: str
    start: int
    depth: int
    """How many brackets are open before it."""


@dataclass(frozen=True)
class Statement:
    """What has to be known about a statement to run it."""

    kind: str
    """Its first word."""
    sql: bytes
    format: str | None = None
    """Of its result, or of `data`."""
    data: Sequence[memoryview] | None = None
    """The rows of an insert that brings them along."""
    tokens: Sequence[Token] = ()

    @property
    def reads(self) -> bool:
        """True for what has a result and changes nothing."""
        return self.kind in READING

    def insert_from(self, source: str) -> bytes:
        """The insert with `source` in the place of its data.

        Args:
            source: a clause such as `FROM INFILE '…'`.
        """
        place = next(
            token.start
            for number, token in enumerate(self.tokens)
            if token.depth == 0 and (token.text == "FORMAT" or _begins_settings(self.tokens, number))
        )
        text = self.sql.decode(errors="surrogateescape")
        return f"{text[:place]}{source} {text[place:]}".encode(errors="surrogateescape")


def read_statement(query: bytes, body: bytes | bytearray, format_query: Format) -> Statement:
    """Understand the statement of a request, part of which may be in its address, and the rest, or the data, in its body.

    Raises:
        ProtocolError: it is not one statement, or would read a client's file.
    """
    if query and body:
        try:
            begun = _read(query, format_query)
        except ProtocolError:
            begun = None
        if begun and begun.data is not None:
            # Not joined to one text: the body may be large.
            pieces = [memoryview(bytes(piece) + b"\n") for piece in begun.data if piece.nbytes]
            return _require_one(
                Statement(begun.kind, begun.sql, begun.format, [*pieces, memoryview(body)], begun.tokens)
            )
        return _require_one(_read(query + b"\n" + body, format_query))
    return _require_one(_read(query or body, format_query))


def _require_one(statement: Statement) -> Statement:
    """The statement, where no other one follows its rows: the engine would pass over it without a word.

    Raises:
        ProtocolError: another one follows.
    """
    if (statement.format or "").upper() != "VALUES":
        return statement
    pieces = iter(statement.data or ())
    for piece in pieces:
        rows = _ROWS.match(piece)
        end = rows.end() if rows else 0
        if bytes(piece[end : end + 1]) == b";" and not all(_is_nothing(rest) for rest in (piece[end:], *pieces)):
            raise ProtocolError(
                "SYNTAX_ERROR", "Syntax error: something follows the rows. Send one statement at a time."
            )
    return statement


def _is_nothing(data: memoryview) -> bool:
    found = _NOTHING.match(data)
    return found is not None and found.end() == data.nbytes


def _read(text: bytes | bytearray, format_query: Format) -> Statement:
    head = bytes(text[:_HEAD_BYTES])
    try:
        normal = format_query(head)
    except ProtocolError:
        if len(text) <= len(head):
            raise
        if len(text) > _MAX_STATEMENT_BYTES:
            raise ProtocolError(
                "TOO_MANY_BYTES", f"A statement without its data is at most {_MAX_STATEMENT_BYTES} bytes."
            ) from None
        head = bytes(text)
        normal = format_query(head)
    tokens = list(_split(normal))
    kind = tokens[0].text.upper()
    brings_data = kind == "INSERT" and not _list_outer(tokens) & {"SELECT", "WITH", "FROM"}
    if not brings_data and len(head) < len(text):
        # What fits by chance into the head goes on after it.
        normal = format_query(head := bytes(text))
        tokens = list(_split(normal))
    if kind != "INSERT":
        return Statement(kind, head, _find_format(tokens), tokens=tokens)
    outer = _list_outer(tokens)
    if "INFILE" in outer:
        raise ProtocolError("NOT_IMPLEMENTED", "FROM INFILE reads a client's file, which a server does not have.")
    if any(token.text.lower() == "input" and following.text == "(" for token, following in pairwise(tokens)):
        raise ProtocolError("NOT_IMPLEMENTED", "The table function input() is not supported by the embedded engine.")
    if not brings_data:
        return Statement(kind, head, tokens=tokens)
    start = _find_data(head, normal, format_query)
    sql = normal.encode(errors="surrogateescape")
    return Statement(kind, sql, _find_format(tokens), [memoryview(text)[start:]], tokens)


def _list_outer(tokens: Sequence[Token]) -> set[str]:
    return {token.text for token in tokens if token.depth == 0}


def _find_data(head: bytes, normal: str, format_query: Format) -> int:
    """Where the data begins: after the first text that alone is the same statement to the engine."""
    for number, found in enumerate(_BEGINNING.finditer(head)):
        if number == _MAX_TRIED:
            break
        try:
            is_whole = format_query(head[: found.end()]) == normal
        except ProtocolError:
            continue
        if is_whole:
            end = _END_OF_LINE.match(head, found.end()) if found[0].upper() != b"VALUES" else None
            return end.end() if end else found.end()
    raise ProtocolError(
        "SYNTAX_ERROR",
        "Syntax error: where the data begins cannot be told. End the statement with FORMAT and its name.",
    )


def _split(normal: str) -> Iterator[Token]:
    depth = 0
    for found in _TOKEN.finditer(normal):
        text = found[0]
        if text in ")]}":
            depth -= 1
        yield Token(text, found.start(), depth)
        if text in "([{":
            depth += 1


def _begins_settings(tokens: Sequence[Token], number: int) -> bool:
    return tokens[number].text == "SETTINGS" and [token.text for token in tokens[number + 2 : number + 3]] == ["="]


def _find_format(tokens: Sequence[Token]) -> str | None:
    """The name after the last FORMAT outside of brackets, where nothing but settings follows it."""
    places = [number for number, token in enumerate(tokens) if token.depth == 0 and token.text == "FORMAT"]
    if not places or not (name := tokens[places[-1] + 1 : places[-1] + 2]):
        return None
    after = places[-1] + 2
    return name[0].text if after >= len(tokens) or _begins_settings(tokens, after) else None
