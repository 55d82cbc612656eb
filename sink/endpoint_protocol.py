"""What a request to the endpoint says, and how it is refused: the parts that need no engine.

The protocol is that of a ClickHouse server (https://clickhouse.com/docs/interfaces/http). What is not supported
is refused here, so that nothing is left out silently.
"""

from __future__ import annotations

import re
import sys
import uuid
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from email.parser import BytesParser
from email.policy import HTTP
from typing import Any

import lz4.frame  # type: ignore[import-untyped]

from sink.names import check_identifier

if sys.version_info >= (3, 14):  # pragma: no cover
    from compression import zstd
else:
    from backports import zstd

SESSION_TIMEOUT = 60
MAX_SESSION_TIMEOUT = 3600

# Parameters of the protocol; all others are settings of the engine or values to bind.
_PROTOCOL_PARAMETERS = frozenset(
    {
        *("query", "database", "default_format", "query_id", "user", "password", "quota_key", "role", "stacktrace"),
        *("session_id", "session_timeout", "session_check", "close_session", "readonly", "client_protocol_version"),
        *("buffer_size", "wait_end_of_query", "compress", "decompress", "enable_http_compression"),
        *("send_progress_in_http_headers", "http_headers_progress_interval_ms"),
        # A setting, but of a server's own HTTP interface; clickhouse-connect sends it with every request.
        "cancel_http_readonly_queries_on_client_close",
    }
)

# Parameters that change what a request means and that the engine in process cannot honour.
_UNSUPPORTED_PARAMETERS = ("compress", "decompress", "role")

# HTTP status by the error's name, as a server has it (src/Server/HTTP/exceptionCodeToHTTPStatus.cpp); else 500.
_STATUS = {
    name: status
    for status, names in {
        400: "BAD_ARGUMENTS CANNOT_COMPILE_REGEXP CANNOT_PARSE_TEXT CANNOT_PARSE_ESCAPE_SEQUENCE "
        "CANNOT_PARSE_QUOTED_STRING CANNOT_PARSE_DATE CANNOT_PARSE_DATETIME CANNOT_PARSE_NUMBER "
        "CANNOT_PARSE_DOMAIN_VALUE_FROM_STRING CANNOT_PARSE_IPV4 CANNOT_PARSE_IPV6 CANNOT_PARSE_UUID "
        "CANNOT_PARSE_INPUT_ASSERTION_FAILED DUPLICATE_COLUMN ILLEGAL_COLUMN UNKNOWN_ELEMENT_IN_AST "
        "UNKNOWN_TYPE_OF_AST_NODE THERE_IS_NO_COLUMN TOO_DEEP_AST TOO_BIG_AST UNEXPECTED_AST_STRUCTURE SYNTAX_ERROR "
        "INCORRECT_DATA TYPE_MISMATCH VALUE_IS_OUT_OF_RANGE_OF_DATA_TYPE",
        403: "UNKNOWN_USER WRONG_PASSWORD AUTHENTICATION_FAILED SET_NON_GRANTED_ROLE ACCESS_DENIED",
        404: "UNKNOWN_TABLE UNKNOWN_FUNCTION UNKNOWN_IDENTIFIER UNKNOWN_TYPE UNKNOWN_STORAGE UNKNOWN_DATABASE "
        "UNKNOWN_SETTING UNKNOWN_DIRECTION_OF_SORTING UNKNOWN_AGGREGATE_FUNCTION UNKNOWN_FORMAT "
        "UNKNOWN_DATABASE_ENGINE UNKNOWN_TYPE_OF_QUERY UNKNOWN_ROLE",
        408: "TIMEOUT_EXCEEDED",
        413: "TOO_MANY_BYTES QUERY_IS_TOO_LARGE",
        501: "NOT_IMPLEMENTED",
        503: "SOCKET_TIMEOUT CANNOT_OPEN_FILE CANNOT_SCHEDULE_TASK",
    }.items()
    for name in names.split()
}

# The codes of the errors that arise here and not in the engine (src/Common/ErrorCodes.cpp).
_CODES = {
    "BAD_ARGUMENTS": 36,
    "NOT_IMPLEMENTED": 48,
    "SYNTAX_ERROR": 62,
    "UNKNOWN_FORMAT": 73,
    "UNKNOWN_COMPRESSION_METHOD": 89,
    "READONLY": 164,
    "TOO_MANY_SIMULTANEOUS_QUERIES": 202,
    "CANNOT_DECOMPRESS": 271,
    "TOO_MANY_BYTES": 307,
    "INTO_OUTFILE_NOT_ALLOWED": 358,
    "SESSION_NOT_FOUND": 372,
    "SESSION_IS_LOCKED": 373,
    "INVALID_SESSION_TIMEOUT": 374,
    "AUTHENTICATION_FAILED": 516,
    "UNKNOWN_EXCEPTION": 1002,
}

# A stream gives each block as a document of its own: only formats without header and footer can be joined.
_STREAMED_FORMATS = frozenset({"Native", "TabSeparated", "TSV", "CSV", "RowBinary", "JSONEachRow"})
# Names with which chDB returns Python objects instead of bytes.
_PYTHON_FORMATS = frozenset({"arrowtable", "dataframe", "datastore"})

_READING = frozenset({"SELECT", "WITH", "FROM", "SHOW", "DESCRIBE", "DESC", "EXISTS", "EXPLAIN", "CHECK"})
_ALLOWED_BY_GET = _READING | {"SET", "USE"}


class ProtocolError(Exception):
    """What is answered instead of a result: ClickHouse's code, its name and a message for the client."""

    def __init__(self, name: str, message: str, code: int | None = None, headers: Mapping[str, str] | None = None):
        super().__init__(name)
        self.name = name
        self.code = _CODES[name] if code is None else code
        self.message = message
        self.headers = dict(headers or {})
        self.status = _STATUS.get(name, 500)

    @classmethod
    def from_engine(cls, error: Exception) -> ProtocolError:
        """The same as the engine's exception, whose text goes to the client as a server's does."""
        text = str(error)
        match = re.search(r"Code: (\d+)\. ", text)
        if not match:
            return cls("UNKNOWN_EXCEPTION", text)
        message = re.sub(r" \(version [^()]*\)\s*$", "", text[match.start() :])
        names = re.findall(r"\(([A-Z][A-Z0-9_]+)\)", message)
        return cls(names[-1] if names else "UNKNOWN_EXCEPTION", message, int(match[1]))

    def text(self, version: str) -> str:
        """The body of the answer, in a server's form."""
        message = self.message
        if not message.startswith("Code: "):
            message = f"Code: {self.code}. DB::Exception: {message} ({self.name})"
        return f"{message} (version {version})\n"


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
        return self.kind in _READING


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


@dataclass(frozen=True)
class Job:
    """One request, understood."""

    statement: Statement
    settings: Mapping[str, str]
    parameters: Mapping[str, str]
    database: str | None
    session: str | None
    session_timeout: float
    session_check: bool
    close_session: bool
    format: str
    buffered: bool
    compression: str | None
    query_id: str
    timezone: str | None

    @property
    def streams(self) -> bool:
        """True where the result goes out as it comes, instead of once it is complete."""
        return not self.buffered and self.format in _STREAMED_FORMATS and self.statement.kind in ("SELECT", "WITH")


def read_job(
    method: str, headers: Mapping[str, str], url: Mapping[str, str], body: bytes | bytearray, max_body: int
) -> Job:
    """Understand a request.

    Raises:
        ProtocolError: it is malformed, or asks for what is not supported.
    """
    given = dict(url)
    body = _decompress(body, headers.get("content-encoding", "identity"), max_body)
    if headers.get("content-type", "").startswith("multipart/form-data"):
        form = _read_form(headers["content-type"], body)
        body = form.pop("query", b"")
        given |= {name: value.decode(errors="surrogateescape") for name, value in form.items()}
    for name in _UNSUPPORTED_PARAMETERS:
        if given.get(name, "0") not in ("", "0"):
            raise ProtocolError("NOT_IMPLEMENTED", f"The parameter `{name}` is not supported by the embedded engine.")
    query = given.get("query", "").encode(errors="surrogateescape")
    statement = join_statement(query, body)
    if (method != "POST" or given.get("readonly", "0") != "0") and statement.kind not in _ALLOWED_BY_GET:
        raise ProtocolError(
            "READONLY", "Cannot execute query in readonly mode: GET only reads. Use POST for modifying queries."
        )
    output = statement.format if statement.reads else None
    output = output or given.get("default_format") or headers.get("x-clickhouse-format") or "TabSeparated"
    if output.lower() in _PYTHON_FORMATS or not output.isalnum():
        raise ProtocolError("UNKNOWN_FORMAT", "Unknown output format.")
    try:
        settings = {check_identifier(k): v for k, v in given.items() if _is_setting(k)}
        parameters = {check_identifier(k[6:]): v for k, v in given.items() if k.startswith("param_")}
        timeout = float(given.get("session_timeout", SESSION_TIMEOUT))
    except ValueError:
        raise ProtocolError("BAD_ARGUMENTS", "The name of a setting or the session's timeout is not valid.") from None
    if not 0 < timeout <= MAX_SESSION_TIMEOUT:
        raise ProtocolError("INVALID_SESSION_TIMEOUT", f"A session's timeout is at most {MAX_SESSION_TIMEOUT} seconds.")
    return Job(
        statement=statement,
        settings=settings,
        parameters=parameters,
        database=given.get("database") or headers.get("x-clickhouse-database") or None,
        session=given.get("session_id") or None,
        session_timeout=timeout,
        session_check=given.get("session_check") == "1",
        close_session=given.get("close_session") == "1",
        format=output,
        buffered=given.get("wait_end_of_query", "0") != "0",
        compression=_choose_compression(headers, given),
        query_id=given.get("query_id") or str(uuid.uuid4()),
        timezone=given.get("session_timezone"),
    )


def _is_setting(name: str) -> bool:
    return name not in _PROTOCOL_PARAMETERS and not name.startswith("param_")


def _read_form(content_type: str, body: bytes | bytearray) -> dict[str, bytes]:
    """The text fields of a form. Read in memory: form libraries put large parts into files."""
    head = b"Content-Type: " + content_type.encode("latin-1") + b"\r\n\r\n"
    form: dict[str, bytes] = {}
    for part in BytesParser(policy=HTTP).parsebytes(head + body).walk():
        name = part.get_param("name", header="content-disposition")
        if part.is_multipart() or not isinstance(name, str):
            continue
        if part.get_filename() is not None:
            raise ProtocolError("NOT_IMPLEMENTED", "External data is not supported by the embedded engine.")
        value = part.get_payload(decode=True)
        form[name] = value if isinstance(value, bytes) else b""
    return form


def _decompress(body: bytes | bytearray, encoding: str, max_body: int) -> bytes | bytearray:
    """Undo a Content-Encoding. Clients compress block by block, so there may be several frames."""
    makers: dict[str, Callable[[], Any]] = {
        "gzip": lambda: zlib.decompressobj(wbits=31),
        "deflate": lambda: zlib.decompressobj(wbits=15),
        "zstd": zstd.ZstdDecompressor,
        "lz4": lz4.frame.LZ4FrameDecompressor,
    }
    encoding = encoding.lower()
    if encoding in ("", "identity"):
        return body
    if encoding not in makers:
        raise ProtocolError("UNKNOWN_COMPRESSION_METHOD", "Send the body as gzip, deflate, zstd, lz4 or uncompressed.")
    result = bytearray()
    while body:
        frame = makers[encoding]()
        try:
            result += frame.decompress(body, max_body - len(result) + 1)
        except (zlib.error, zstd.ZstdError, RuntimeError, EOFError):
            raise ProtocolError("CANNOT_DECOMPRESS", "The body cannot be decompressed.") from None
        if len(result) > max_body:
            raise too_large(max_body)
        if not frame.eof:
            raise ProtocolError("CANNOT_DECOMPRESS", "The compressed body is cut off.")
        body = frame.unused_data
    return result


def too_large(max_body: int) -> ProtocolError:
    """The answer to a body that would not fit into memory."""
    return ProtocolError("TOO_MANY_BYTES", f"The body is larger than {max_body} bytes; send it in parts.")


def _choose_compression(headers: Mapping[str, str], given: Mapping[str, str]) -> str | None:
    if given.get("enable_http_compression", "0") == "0":
        return None
    accepted = {part.partition(";")[0].strip().lower() for part in headers.get("accept-encoding", "").split(",")}
    return next((name for name in ("lz4", "zstd", "gzip", "deflate") if name in accepted), None)


class Compressor:
    """Compresses a result piece by piece into one frame."""

    def __init__(self, encoding: str | None) -> None:
        self._frame: Any = None
        self._head = b""
        if encoding == "lz4":
            self._frame = lz4.frame.LZ4FrameCompressor()
            self._head = self._frame.begin()
        elif encoding == "zstd":
            self._frame = zstd.ZstdCompressor()
        elif encoding:
            self._frame = zlib.compressobj(1, wbits=31 if encoding == "gzip" else 15)

    def compress(self, data: bytes, *, last: bool = False) -> bytes:
        """The next piece of the frame."""
        if self._frame is None:
            return data
        piece: bytes = self._head + self._frame.compress(data)
        self._head = b""
        if last:
            piece += self._frame.flush()
        return piece
