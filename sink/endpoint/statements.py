"""Statements as the protocol brings them: what they are, and where their data begins."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from sink.errors import ProtocolError

READING = frozenset({"SELECT", "WITH", "FROM", "SHOW", "DESCRIBE", "DESC", "EXISTS", "EXPLAIN", "CHECK"})


_COMMENT = rb"--[^\n]*+|/\*.*?\*/"
_LEAD = re.compile(rb"(?:\s|\(|" + _COMMENT + rb")*+([A-Za-z]+)?", re.DOTALL)
# What can hide a keyword comes first; the text between the alternatives is skipped at the regex engine's speed.
_TOKEN = re.compile(
    rb"""'(?:[^'\\]++|\\.|'')*+' | "(?:[^"\\]++|\\.|"")*+" | `(?:[^`\\]++|\\.|``)*+` | \$(?P<tag>\w*)\$.*?\$(?P=tag)\$
    | """
    + _COMMENT
    + rb""" | (?P<open>[(\[{]) | (?P<close>[)\]}]) | (?P<end>;)
    | (?<![\w.$])(?P<word>FORMAT|VALUES|SELECT|WITH|SETTINGS(?=\s+\w+\s*=)|INSERT(?=\s+INTO\b)|INPUT(?=\s*\()|INFILE
        |INTO\s+OUTFILE)(?![\w.$])""",
    re.DOTALL | re.IGNORECASE | re.VERBOSE,
)
_OUTPUT_FORMAT = re.compile(rb"\s+([A-Za-z]\w*)\s*(?:;|SETTINGS\b|--|/\*|$)", re.IGNORECASE)
_INPUT_FORMAT = re.compile(rb"\s+([A-Za-z]\w*)[ \t\f]*;?[ \t\f]*\r?\n?")
_NOTHING = re.compile(rb"(?:\s|;|" + _COMMENT + rb")*+\Z", re.DOTALL)
_BEFORE_NAME = re.compile(rb"\b(?:INTO|TABLE)\s*\Z", re.IGNORECASE)


@dataclass(frozen=True)
class Statement:
    """What has to be known about a statement to run it: the engine does the parsing proper.

    `data` is there for an insert that brings its rows along, in `format`; `sql` then ends where they would be
    named, and `settings` is what stands between that and the format.
    """

    kind: str
    sql: bytes | bytearray
    format: str | None = None
    data: Sequence[memoryview] | None = None
    settings: bytes | bytearray = b""

    @property
    def reads(self) -> bool:
        """True for what has a result and changes nothing."""
        return self.kind in READING


def read_statement(text: bytes | bytearray) -> Statement:
    """Find the kind, the format, and where the data of an insert begins.

    Raises:
        ProtocolError: several statements, or one that would read or write files of this host.
    """
    lead = _LEAD.match(text)
    kind = (lead[1] if lead and lead[1] else b"").decode().upper()
    if not kind:
        raise ProtocolError("SYNTAX_ERROR", "Syntax error: the query is empty or does not begin with a keyword.")
    if kind == "INSERT":
        return _read_insert(text)
    output, depth = None, 0
    for token in _TOKEN.finditer(text):
        depth += bool(token["open"]) - bool(token["close"])
        word = (token["word"] or b"").upper()
        if token["end"]:
            _check_nothing_follows(text, token.end())
        elif word.endswith(b"OUTFILE"):
            raise ProtocolError("INTO_OUTFILE_NOT_ALLOWED", "INTO OUTFILE is not allowed.")
        elif word == b"INSERT" and kind == "WITH":
            kind = "INSERT"
        elif word == b"FORMAT" and depth <= 0 and (name := _OUTPUT_FORMAT.match(text, token.end())):
            output = name[1].decode()
    return Statement(kind, text, output)


def _read_insert(text: bytes | bytearray) -> Statement:
    depth, selects = 0, False
    target_ends: int | None = None
    for token in _TOKEN.finditer(text):
        depth += bool(token["open"]) - bool(token["close"])
        word = (token["word"] or b"").upper()
        if token["end"]:
            _check_nothing_follows(text, token.end())
        elif word == b"INFILE":
            raise ProtocolError("NOT_IMPLEMENTED", "FROM INFILE reads a client's file, which a server does not have.")
        elif word == b"INPUT":
            raise ProtocolError(
                "NOT_IMPLEMENTED", "The table function input() is not supported by the embedded engine."
            )
        elif depth > 0 or _BEFORE_NAME.search(text, max(0, token.start() - 64), token.start()):
            continue
        elif word in (b"SELECT", b"WITH"):
            selects = True
        elif word == b"SETTINGS" and target_ends is None:
            target_ends = token.start()
        elif word == b"VALUES" and not selects:
            ends = token.start() if target_ends is None else target_ends
            rows = [memoryview(text)[token.end() :]]
            return Statement("INSERT", text[:ends], "Values", rows, text[ends : token.start()])
        elif word == b"FORMAT" and not selects:
            name = _INPUT_FORMAT.match(text, token.end())
            if not name:
                raise ProtocolError("SYNTAX_ERROR", "Syntax error: FORMAT is not followed by a name.")
            ends = token.start() if target_ends is None else target_ends
            rows = [memoryview(text)[name.end() :]]
            return Statement("INSERT", text[:ends], name[1].decode(), rows, text[ends : token.start()])
    return Statement("INSERT", text)


def _check_nothing_follows(text: bytes | bytearray, position: int) -> None:
    if not _NOTHING.match(text, position):
        raise ProtocolError("SYNTAX_ERROR", "Syntax error (Multi-statements are not allowed).")


def join_statement(query: bytes, body: bytes | bytearray) -> Statement:
    """The statement of a request that may have a part of it in its address and the rest, or the data, in its body.

    Raises:
        ProtocolError: like `read_statement`.
    """
    if not query or not body:
        return read_statement(query or body)
    statement = read_statement(query)
    if statement.data is None:
        return read_statement(query + b"\n" + body)
    # Not joined to one text: the body may be large.
    begun = [memoryview(bytes(piece) + b"\n") for piece in statement.data if piece]
    return replace(statement, data=[*begun, memoryview(body)])
