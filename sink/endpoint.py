"""The embedded engine behind ClickHouse's HTTP protocol: `aspects-pii clickhouse`.

One process may open the engine's data folder; through this endpoint others (dbt, Superset, a second
`aspects-pii`) share it with the clients they already have. The protocol is that of a ClickHouse server
(https://clickhouse.com/docs/interfaces/http); what is not supported answers with an error, never silently.

A request without a session gets an engine handle of its own, so that nothing it sets or uses outlives it;
a session is a handle that stays. Insert bodies go from memory into the engine: no file holds them on the way.
Nothing here logs a query, a body or an address.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hmac
import ipaddress
import json
import re
import secrets
import socket
import sys
import threading
import time
import uuid
import zlib
from base64 import b64decode
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from email.parser import BytesParser
from email.policy import HTTP
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlencode

import lz4.frame  # type: ignore[import-untyped]
import uvicorn
from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from sink.client import ENGINE_OPTIONS, Address, ClickHouse
from sink.errors import UnreachableError, UsageError
from sink.names import check_identifier, quote

if sys.version_info >= (3, 14):  # pragma: no cover
    from compression import zstd
else:
    from backports import zstd

T = TypeVar("T")

MAX_BODY = 1 << 30
"""Largest body of a request, after decompression; it is held in memory."""

MAX_QUERIES = 16
"""Queries at work at a time; further ones wait."""

MAX_SESSIONS = 1000
SESSION_TIMEOUT = 60
MAX_SESSION_TIMEOUT = 3600

SHUTDOWN_GRACE = 10.0
"""Seconds that running queries have to end after SIGTERM before they are cancelled."""

# Parameters of the protocol that are no settings of the engine; all others are.
_PROTOCOL_PARAMETERS = frozenset(
    {
        "query", "database", "user", "password", "quota_key", "query_id", "default_format", "buffer_size",
        "wait_end_of_query", "client_protocol_version", "session_id", "session_timeout", "session_check",
        "close_session", "enable_http_compression", "send_progress_in_http_headers",
        "http_headers_progress_interval_ms", "readonly", "compress", "decompress", "role", "stacktrace",
    }
)  # fmt: skip

# Parameters that change what a request means and that the engine in process cannot honour.
_UNSUPPORTED_PARAMETERS = ("compress", "decompress", "role")

# By the name in the engine's message, as a server maps them (src/Server/HTTP/exceptionCodeToHTTPStatus.cpp); else 500.
_STATUS = {
    **dict.fromkeys(
        ["UNKNOWN_USER", "WRONG_PASSWORD", "AUTHENTICATION_FAILED", "SET_NON_GRANTED_ROLE", "ACCESS_DENIED"], 403
    ),
    **dict.fromkeys(
        [
            "BAD_ARGUMENTS", "CANNOT_COMPILE_REGEXP", "CANNOT_PARSE_TEXT", "CANNOT_PARSE_ESCAPE_SEQUENCE",
            "CANNOT_PARSE_QUOTED_STRING", "CANNOT_PARSE_DATE", "CANNOT_PARSE_DATETIME", "CANNOT_PARSE_NUMBER",
            "CANNOT_PARSE_DOMAIN_VALUE_FROM_STRING", "CANNOT_PARSE_IPV4", "CANNOT_PARSE_IPV6",
            "CANNOT_PARSE_INPUT_ASSERTION_FAILED", "CANNOT_PARSE_UUID", "DUPLICATE_COLUMN", "ILLEGAL_COLUMN",
            "UNKNOWN_ELEMENT_IN_AST", "UNKNOWN_TYPE_OF_AST_NODE", "THERE_IS_NO_COLUMN", "TOO_DEEP_AST", "TOO_BIG_AST",
            "UNEXPECTED_AST_STRUCTURE", "SYNTAX_ERROR", "INCORRECT_DATA", "TYPE_MISMATCH",
            "VALUE_IS_OUT_OF_RANGE_OF_DATA_TYPE",
        ],
        400,
    ),
    **dict.fromkeys(
        [
            "UNKNOWN_TABLE", "UNKNOWN_FUNCTION", "UNKNOWN_IDENTIFIER", "UNKNOWN_TYPE", "UNKNOWN_STORAGE",
            "UNKNOWN_DATABASE", "UNKNOWN_SETTING", "UNKNOWN_DIRECTION_OF_SORTING", "UNKNOWN_AGGREGATE_FUNCTION",
            "UNKNOWN_FORMAT", "UNKNOWN_DATABASE_ENGINE", "UNKNOWN_TYPE_OF_QUERY", "UNKNOWN_ROLE",
        ],
        404,
    ),
    "TIMEOUT_EXCEEDED": 408,
    "TOO_MANY_BYTES": 413,
    "QUERY_IS_TOO_LARGE": 413,
    "NOT_IMPLEMENTED": 501,
    "SOCKET_TIMEOUT": 503,
    "CANNOT_OPEN_FILE": 503,
    "CANNOT_SCHEDULE_TASK": 503,
}  # fmt: skip

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

_CONTENT_TYPES = {
    "TabSeparated": "text/tab-separated-values; charset=UTF-8",
    "TSV": "text/tab-separated-values; charset=UTF-8",
    "TabSeparatedWithNames": "text/tab-separated-values; charset=UTF-8",
    "TabSeparatedWithNamesAndTypes": "text/tab-separated-values; charset=UTF-8",
    "CSV": "text/csv; charset=UTF-8; header=absent",
    "CSVWithNames": "text/csv; charset=UTF-8; header=present",
    "JSON": "application/json; charset=UTF-8",
    "JSONCompact": "application/json; charset=UTF-8",
    "JSONEachRow": "application/x-ndjson; charset=UTF-8",
    "Native": "application/octet-stream",
    "RowBinary": "application/octet-stream",
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


# ── Statements ──────────────────────────────────────────────────────────────────────────────────────

_LEAD = re.compile(rb"(?:\s|--[^\n]*(?:\n|$)|/\*.*?\*/|\()*([A-Za-z]+)?", re.DOTALL)
# Everything that can hide a keyword comes first; text between the alternatives is skipped by the regex engine.
_TOKEN = re.compile(
    rb"""'(?:[^'\\]|\\.|'')*' | "(?:[^"\\]|\\.|"")*" | `(?:[^`\\]|\\.|``)*` | \$(?P<tag>\w*)\$.*?\$(?P=tag)\$
    | --[^\n]* | /\*.*?\*/ | (?P<open>[(\[{]) | (?P<close>[)\]}]) | (?P<end>;)
    | (?<![\w.$`"])(?P<word>FORMAT|VALUES|SELECT|WITH|INSERT|INPUT|INFILE|OUTFILE)(?![\w.$])""",
    re.DOTALL | re.IGNORECASE | re.VERBOSE,
)
_FORMAT_NAME = re.compile(rb"\s+([A-Za-z]\w*)")
_AFTER_FORMAT = re.compile(rb"\s+[A-Za-z]\w*\s*(?:;|SETTINGS\b|--|/\*|$)", re.IGNORECASE)
_AFTER_NAME = re.compile(rb"[ \t\f]*;?[ \t\f]*\r?\n?")
_AFTER_END = re.compile(rb"(?:\s|;|--[^\n]*(?:\n|$)|/\*.*?\*/)*", re.DOTALL)
_TABLE_NEXT = re.compile(rb"\b(?:INTO|TABLE)\s*$", re.IGNORECASE)


@dataclass(frozen=True)
class Statement:
    """What has to be known about a statement to run it: the engine does the parsing proper."""

    kind: str
    sql: bytes
    format: str | None = None
    data: bytes | None = None

    @property
    def reads(self) -> bool:
        """True for what has a result and changes nothing."""
        return self.kind in _READING


def read_statement(text: bytes) -> Statement:
    """Find the kind, the format, and where the data of an insert begins.

    Raises:
        ProtocolError: several statements, or one that would touch files of this host.
    """
    lead = _LEAD.match(text)
    kind = (lead[1] if lead and lead[1] else b"").decode().upper()
    if not kind:
        raise ProtocolError("SYNTAX_ERROR", "Syntax error: the query is empty or does not begin with a keyword.")
    depth, output, inserts, selects = 0, None, kind == "INSERT", False
    for token in _TOKEN.finditer(text):
        if token["open"]:
            depth += 1
        elif token["close"]:
            depth -= 1
        elif token["end"] and depth <= 0:
            rest = _AFTER_END.match(text, token.end())
            if rest and rest.end() != len(text):
                raise ProtocolError("SYNTAX_ERROR", "Syntax error (Multi-statements are not allowed).")
        elif token["word"]:
            word = token["word"].upper()
            if word == b"OUTFILE" and re.search(rb"\bINTO\s+$", text[max(0, token.start() - 64) : token.start()], re.I):
                raise ProtocolError("INTO_OUTFILE_NOT_ALLOWED", "INTO OUTFILE is not allowed.")
            if word == b"INSERT" and kind == "WITH" and depth <= 0:
                kind = "INSERT"
            elif word == b"FORMAT" and not inserts and depth <= 0 and _AFTER_FORMAT.match(text, token.end()):
                output = _format_name(text, token.end())
            elif inserts:
                if depth <= 0 and word in (b"SELECT", b"WITH"):
                    selects = True
                if word == b"INPUT" and selects:
                    raise ProtocolError("NOT_IMPLEMENTED", "INSERT … SELECT … FROM input() is not supported here.")
                if word == b"INFILE" and depth <= 0 and not selects:
                    raise ProtocolError("NOT_IMPLEMENTED", "INSERT … FROM INFILE is for clients, not for a server.")
                is_name = _TABLE_NEXT.search(text[max(0, token.start() - 64) : token.start()])
                if depth <= 0 and not selects and not is_name and word in (b"FORMAT", b"VALUES"):
                    return _split_insert(text, token.start(), token.end(), word)
    return Statement(kind, text, output)


def _format_name(text: bytes, position: int) -> str | None:
    match = _FORMAT_NAME.match(text, position)
    return match[1].decode() if match else None


def _split_insert(text: bytes, start: int, end: int, word: bytes) -> Statement:
    if word == b"VALUES":
        return Statement("INSERT", text[:start], "Values", text[end:])
    name = _FORMAT_NAME.match(text, end)
    if not name:
        raise ProtocolError("SYNTAX_ERROR", "Syntax error: FORMAT is not followed by a name.")
    data = _AFTER_NAME.match(text, name.end())
    return Statement("INSERT", text[:start], name[1].decode(), text[data.end() if data else name.end() :])


def _escape(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


# ── Requests ────────────────────────────────────────────────────────────────────────────────────────


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


def read_job(method: str, headers: Mapping[str, str], url: Mapping[str, str], body: bytes, max_body: int) -> Job:
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
    statement = read_statement(query + b"\n" + body if query and body else query or body)
    if (method == "GET" or given.get("readonly", "0") != "0") and statement.kind not in _ALLOWED_BY_GET:
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


def _read_form(content_type: str, body: bytes) -> dict[str, bytes]:
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


def _decompress(body: bytes, encoding: str, max_body: int) -> bytes:
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
            raise _too_large(max_body)
        if not frame.eof:
            raise ProtocolError("CANNOT_DECOMPRESS", "The compressed body is cut off.")
        body = frame.unused_data
    return bytes(result)


def _too_large(max_body: int) -> ProtocolError:
    return ProtocolError("TOO_MANY_BYTES", f"The body is larger than {max_body} bytes; send it in parts.")


def _choose_compression(headers: Mapping[str, str], given: Mapping[str, str]) -> str | None:
    if given.get("enable_http_compression", "0") == "0":
        return None
    accepted = {part.partition(";")[0].strip().lower() for part in headers.get("accept-encoding", "").split(",")}
    return next((name for name in ("lz4", "zstd", "gzip", "deflate") if name in accepted), None)


class _Compressor:
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
        piece = self._head + self._frame.compress(data)
        self._head = b""
        return piece + self._frame.flush() if last else piece


# ── The engine ──────────────────────────────────────────────────────────────────────────────────────


@dataclass
class _Session:
    handle: Any
    expires: float
    busy: bool = True


class Engine:
    """The engine's handles: one for each request, one for each session. Used by the pool's threads."""

    def __init__(self, folder: Path) -> None:
        """Start the engine, or join it where this process has started it already.

        Raises:
            DatabaseError: one of its subclasses says why it does not start.
        """
        self._address = Address(url=f"chdb://{folder}")
        # Held open so that the engine does not stop and start between requests.
        self._keeper = ClickHouse(self._address)
        self.version = self._keeper.server_version
        self.timezone = str(self._keeper.value("SELECT timezone()"))
        self._sessions: dict[str, _Session] = {}
        self._lock = threading.Lock()

    def open_handle(self) -> Any:
        """A new chDB connection, with nothing set."""
        import chdb

        return chdb.connect(f"{self._address.folder}?{urlencode(ENGINE_OPTIONS)}")

    def close(self) -> None:
        """End all sessions; the engine stops with its last handle."""
        with self._lock:
            sessions, self._sessions = list(self._sessions.values()), {}
        for session in sessions:
            session.handle.close()
        self._keeper.close()

    def cancel_queries(self) -> None:
        """Cancel whatever runs."""
        with contextlib.closing(self.open_handle()) as handle:
            handle.query("KILL QUERY WHERE query_id != queryID() ASYNC")

    def drop_expired_sessions(self) -> None:
        """End the sessions that nobody used for their time, and with them their temporary tables."""
        with self._lock:
            now = time.monotonic()
            expired = [name for name, session in self._sessions.items() if not session.busy and session.expires < now]
            sessions = [self._sessions.pop(name) for name in expired]
        for session in sessions:
            session.handle.close()

    def claim_session(self, job: Job) -> Any:
        """The handle of the job's session, which is the job's alone until `release_session`."""
        assert job.session is not None
        self.drop_expired_sessions()
        with self._lock:
            session = self._sessions.get(job.session)
            if session is not None:
                if session.busy:
                    raise ProtocolError("SESSION_IS_LOCKED", "Session is locked by a concurrent client.")
                session.busy = True
                return session.handle
            if job.session_check:
                raise ProtocolError("SESSION_NOT_FOUND", "Session not found.")
            if len(self._sessions) >= MAX_SESSIONS:
                raise ProtocolError("TOO_MANY_SIMULTANEOUS_QUERIES", f"There are {MAX_SESSIONS} sessions already.")
            session = _Session(self.open_handle(), 0.0)
            self._sessions[job.session] = session
            return session.handle

    def release_session(self, job: Job) -> None:
        """Let the next request of the session in, or end the session where the job asked for it."""
        assert job.session is not None
        with self._lock:
            session = self._sessions.get(job.session)
            if session is None:
                return
            session.busy = False
            session.expires = time.monotonic() + job.session_timeout
            if job.close_session:
                del self._sessions[job.session]
        if job.close_session:
            session.handle.close()


class Lease:
    """A handle for one job: prepared, and put back as it was found."""

    def __init__(self, engine: Engine, job: Job) -> None:
        """Prepare a handle.

        Raises:
            ProtocolError: the session is in use, or the database or a setting is unknown.
        """
        self._engine, self._job = engine, job
        self._undo: list[str] = []
        # A stream that is given up is closed by one thread while another may still fetch from it.
        self._lock = threading.Lock()
        self._closed = False
        self._stream: Any = None
        self._handle = engine.claim_session(job) if job.session else engine.open_handle()
        try:
            self._prepare()
        except BaseException:
            self.close()
            raise

    def _prepare(self) -> None:
        if self._job.session:
            self._remember()
        if self._job.database:
            self._query(f"USE {quote(self._job.database)}")
        if self._job.settings:
            self._query("SET " + ", ".join(f"{name} = {_escape(value)}" for name, value in self._job.settings.items()))
        if self._job.statement.data is not None and self._job.parameters:
            # Inserts with data take no bound values beside it.
            values = (f"param_{name} = {_escape(value)}" for name, value in self._job.parameters.items())
            self._query("SET " + ", ".join(values))

    def _remember(self) -> None:
        """Note how to put a session's handle back: what the address says is for one request only."""
        if self._job.database and self._job.statement.kind != "USE":
            current = self._query("SELECT currentDatabase()", "JSONCompactEachRow").bytes()
            self._undo.append(f"USE {quote(json.loads(current)[0])}")
        if self._job.settings:
            names = ", ".join(_escape(name) for name in self._job.settings)
            rows = self._query(
                f"SELECT name, value FROM system.settings WHERE changed AND name IN ({names})", "JSONCompactEachRow"
            ).bytes()
            changed = dict(json.loads(row) for row in rows.splitlines())
            undo = (f"{n} = {_escape(changed[n]) if n in changed else 'DEFAULT'}" for n in self._job.settings)
            self._undo.append("SET " + ", ".join(undo))

    def _query(self, sql: str | bytes, output: str = "TabSeparated", values: Mapping[str, str] | None = None) -> Any:
        try:
            return self._handle.query(sql, output, params=dict(values or {}))
        except RuntimeError as error:
            raise ProtocolError.from_engine(error) from None

    def run(self) -> tuple[bytes, dict[str, int]]:
        """Run the statement to its end: the result and the figures of its summary."""
        statement = self._job.statement
        if statement.data is not None:
            return b"", self._insert(statement)
        result = self._query(statement.sql, self._job.format, self._job.parameters)
        summary = {
            "read_rows": result.storage_rows_read(),
            "read_bytes": result.storage_bytes_read(),
            "written_rows": result.rows_written(),
            "written_bytes": result.bytes_written(),
            "result_rows": result.rows_read(),
            "elapsed_ns": int(result.elapsed() * 1e9),
        }
        return bytes(result.bytes()), summary

    def _insert(self, statement: Statement) -> dict[str, int]:
        try:
            inserter = self._handle.send_insert(statement.sql.decode(errors="surrogateescape"), statement.format)
            with inserter:
                view = memoryview(statement.data or b"")
                for start in range(0, len(view), 1 << 20):
                    inserter.append(view[start : start + (1 << 20)])
                done = inserter.finish()
        except RuntimeError as error:
            raise ProtocolError.from_engine(error) from None
        rows, size = done.rows_written, done.bytes_written
        # The engine counts from the handle's first use, not from this statement's, so its `elapsed` is left out.
        return {"read_rows": rows, "read_bytes": size, "written_rows": rows, "written_bytes": size, "result_rows": rows}

    def start(self) -> bytes:
        """Start the statement and return the first piece of its result, empty where there is none."""
        try:
            self._stream = self._handle.send_query(
                self._job.statement.sql, self._job.format, dict(self._job.parameters)
            )
        except RuntimeError as error:
            raise ProtocolError.from_engine(error) from None
        return self.fetch()

    def fetch(self) -> bytes:
        """The next piece of the result, empty at its end."""
        with self._lock:
            if self._closed:
                return b""
            try:
                for piece in self._stream:
                    if data := piece.bytes():
                        return bytes(data)
            except RuntimeError as error:
                raise ProtocolError.from_engine(error) from None
        return b""

    def close(self) -> None:
        """Put the handle back. Can be repeated."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            if self._stream is not None:
                with contextlib.suppress(RuntimeError):
                    self._stream.close()
            if not self._job.session:
                self._handle.close()
                return
            for sql in self._undo:
                # The database may have been dropped by the statement itself.
                with contextlib.suppress(RuntimeError):
                    self._handle.query(sql)
            self._engine.release_session(self._job)


# ── HTTP ────────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class _Guard:
    """Who may in."""

    user: str
    password: SecretStr
    hosts: frozenset[str] = field(default=frozenset({"127.0.0.1", "localhost", "::1"}))

    def check(self, request: Request) -> None:
        """Compare a request's credentials, wherever it carries them.

        Raises:
            ProtocolError: they are wrong or missing.
        """
        if not self.password.get_secret_value():
            self._refuse_browsers(request)
        user, password, given = _read_credentials(request)
        same_user = hmac.compare_digest(user.encode(), self.user.encode())
        same_password = hmac.compare_digest(password.encode(), self.password.get_secret_value().encode())
        if not (same_user and same_password):
            raise _authentication_failed(
                f"{user if same_user else 'User'}: Authentication failed: password is incorrect, "
                "or there is no user with such name.",
                given,
            )

    def _refuse_browsers(self, request: Request) -> None:
        """Without a password, any web page could reach the endpoint through its visitor's browser."""
        host = request.url.hostname or ""
        if request.headers.get("origin") or host not in self.hosts:
            raise _authentication_failed("Requests from web pages or under another host name need a password.", True)


def _authentication_failed(message: str, given: bool) -> ProtocolError:
    error = ProtocolError("AUTHENTICATION_FAILED", message)
    if not given:
        error.status = 401
        error.headers["WWW-Authenticate"] = 'Basic realm="ClickHouse server HTTP API"'
    return error


def _read_credentials(request: Request) -> tuple[str, str, bool]:
    """User, password, and whether there were any."""
    headers, url = request.headers, request.query_params
    in_headers = "x-clickhouse-user" in headers or "x-clickhouse-key" in headers
    basic = headers.get("authorization", "")
    in_url = "user" in url or "password" in url
    if in_headers + bool(basic) + in_url > 1:
        raise _authentication_failed("Invalid authentication: several ways are used simultaneously.", True)
    if in_headers:
        return headers.get("x-clickhouse-user", ""), headers.get("x-clickhouse-key", ""), True
    if basic:
        scheme, _, secret = basic.partition(" ")
        try:
            user, _, password = b64decode(secret, validate=True).decode().partition(":")
        except ValueError:
            scheme = ""
        if scheme.lower() != "basic":
            raise _authentication_failed("Invalid authentication: only Basic is supported.", True)
        return user, password, True
    return url.get("user", "default"), url.get("password", ""), in_url


class _Stream(StreamingResponse):
    """A result on its way; gives its lease and its slot back however the response ends."""

    def __init__(self, give_back: Callable[[], Any], *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._give_back = give_back

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await asyncio.shield(self._give_back())


class Endpoint:
    """The handlers, and what they share."""

    def __init__(self, folder: Path, user: str, password: SecretStr | None, max_body: int) -> None:
        self._folder = folder
        self._guard = _Guard(user, password or SecretStr(""))
        self._max_body = max_body
        self._slots = asyncio.Semaphore(MAX_QUERIES)
        self._threads: ThreadPoolExecutor
        self.engine: Engine

    @asynccontextmanager
    async def lifespan(self, _: Starlette) -> AsyncIterator[None]:
        """Hold the engine open while the app runs."""
        self._threads = ThreadPoolExecutor(MAX_QUERIES + 1, thread_name_prefix="clickhouse")
        self.engine = await self._in_thread(Engine, self._folder)
        sweeper = asyncio.create_task(self._sweep_sessions())
        try:
            yield
        finally:
            sweeper.cancel()
            await self._in_thread(self.engine.close)
            self._threads.shutdown()

    async def _in_thread(self, function: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, functools.partial(function, *arguments))

    async def _sweep_sessions(self) -> None:
        while True:
            await asyncio.sleep(5)
            await self._in_thread(self.engine.drop_expired_sessions)

    async def answer_ping(self, _: Request) -> Response:
        """`/ping` and `/replicas_status`: alive, whatever the queries do."""
        return PlainTextResponse("Ok.\n")

    async def answer_query(self, request: Request) -> Response:
        """`/`: run a statement."""
        try:
            self._guard.check(request)
            body = await self._read_body(request)
            if request.method == "GET" and not body and not request.query_params.get("query"):
                return PlainTextResponse("Ok.\n")
            job = await self._in_thread(
                read_job, request.method, request.headers, dict(request.query_params), body, self._max_body
            )
            return await self._run(job)
        except ProtocolError as error:
            return self._explain(error)
        except ClientDisconnect:
            return Response(status_code=499)
        except Exception as error:
            # The text of an unforeseen exception may quote a value.
            return self._explain(ProtocolError("UNKNOWN_EXCEPTION", f"The endpoint failed ({type(error).__name__})."))

    async def _read_body(self, request: Request) -> bytes:
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > self._max_body:
                raise _too_large(self._max_body)
        return bytes(body)

    async def _run(self, job: Job) -> Response:
        await self._slots.acquire()
        response: Response | None = None
        try:
            if job.streams:
                response = await self._start_stream(job)
                return response
            result, summary = await self._in_thread(self._run_to_end, job)
        finally:
            if not isinstance(response, _Stream):
                self._slots.release()
        headers = self._headers(job, has_result=job.statement.reads or bool(result))
        headers["X-ClickHouse-Summary"] = json.dumps({name: str(value) for name, value in summary.items()})
        return Response(result, headers=headers)

    def _run_to_end(self, job: Job) -> tuple[bytes, dict[str, int]]:
        lease = Lease(self.engine, job)
        try:
            result, summary = lease.run()
        finally:
            lease.close()
        return _Compressor(job.compression if result else None).compress(result, last=True), summary

    async def _start_stream(self, job: Job) -> Response:
        def start() -> tuple[Lease, bytes]:
            lease = Lease(self.engine, job)
            try:
                return lease, lease.start()
            except BaseException:
                lease.close()
                raise

        lease, first = await self._in_thread(start)
        tag = secrets.token_hex(8)

        async def give_back() -> None:
            try:
                await self._in_thread(lease.close)
            finally:
                self._slots.release()

        headers = self._headers(job, has_result=True) | {"X-ClickHouse-Exception-Tag": tag}
        return _Stream(give_back, self._stream(job, lease, first, tag), headers=headers)

    async def _stream(self, job: Job, lease: Lease, piece: bytes, tag: str) -> AsyncIterator[bytes]:
        compressor = _Compressor(job.compression)
        while piece:
            try:
                following = await self._in_thread(lease.fetch)
            except ProtocolError as error:
                yield compressor.compress(piece + _exception_block(error.text(self.engine.version), tag), last=True)
                # Breaks the connection, so that a client that does not know the block notices too.
                raise ConnectionAbortedError("a query failed after its result had begun") from None
            if not following:
                # Before the last bytes: who has read them may send the session's next request at once.
                await self._in_thread(lease.close)
            yield compressor.compress(piece, last=not following)
            piece = following

    def _headers(self, job: Job, *, has_result: bool) -> dict[str, str]:
        headers = {
            "X-ClickHouse-Server-Display-Name": "aspects-pii",
            "X-ClickHouse-Query-Id": re.sub(r"[^\x21-\x7e]", "_", job.query_id),
            "X-ClickHouse-Timezone": job.timezone or self.engine.timezone,
            "Content-Type": "text/plain; charset=UTF-8",
        }
        if has_result:
            headers["X-ClickHouse-Format"] = job.format
            headers["Content-Type"] = _CONTENT_TYPES.get(job.format, headers["Content-Type"])
            if job.compression:
                headers["Content-Encoding"] = job.compression
        return headers

    def _explain(self, error: ProtocolError) -> Response:
        headers = {"X-ClickHouse-Exception-Code": str(error.code), **error.headers}
        return PlainTextResponse(error.text(self.engine.version), error.status, headers)


def _exception_block(text: str, tag: str) -> bytes:
    """An error within a result that has begun: https://clickhouse.com/docs/interfaces/http, "exceptions in the stream"."""
    message = text.encode()
    return b"".join(
        (
            b"\r\n__exception__\r\n",
            tag.encode(),
            b"\r\n",
            message,
            f"{len(message)} {tag}".encode(),
            b"\r\n__exception__\r\n",
        )
    )


async def _answer_not_found(_: Request, __: Exception) -> Response:
    return PlainTextResponse("There is no handler here: queries go to /, /ping says whether the engine runs.\n", 404)


def create_app(
    folder: Path, *, user: str = "default", password: SecretStr | None = None, max_body: int = MAX_BODY
) -> Starlette:
    """The endpoint over the engine in `folder`, as an ASGI application; the engine runs while its lifespan does.

    Without a `password` requests must come under a loopback host name and not from a web page.
    `max_body` is the largest body in bytes.
    """
    endpoint = Endpoint(folder, user, password, max_body)
    app = Starlette(
        routes=[
            Route("/", endpoint.answer_query, methods=["GET", "POST"]),
            Route("/ping", endpoint.answer_ping),
            Route("/replicas_status", endpoint.answer_ping),
        ],
        exception_handlers={404: _answer_not_found},
        lifespan=endpoint.lifespan,
    )
    app.state.endpoint = endpoint
    return app


class _Server(uvicorn.Server):
    """uvicorn, saying when it is ready and returning when it was told to stop."""

    def __init__(self, app: Starlette, ready: Callable[[], None], cancel: Callable[[], None] | None = None) -> None:
        super().__init__(
            # No log of uvicorn's: its access log has addresses, and tracebacks may quote values.
            uvicorn.Config(
                app, log_config=None, log_level="critical", access_log=False, lifespan="on", server_header=False
            )
        )
        self._ready, self._cancel = ready, cancel

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._ready()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        # uvicorn's own raises the signal again at the end, which ends the process with its status.
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        with _handle_signals(self._stop):
            yield

    def _stop(self, number: int, frame: Any) -> None:
        if self._cancel and not self.should_exit:
            timer = threading.Timer(SHUTDOWN_GRACE, self._cancel)
            timer.daemon = True
            timer.start()
        self.handle_exit(number, frame)


@contextmanager
def _handle_signals(handler: Callable[[int, Any], None]) -> Iterator[None]:
    import signal

    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, original in before.items():
            signal.signal(number, original)


def _listen(host: str, port: int) -> tuple[socket.socket, str]:
    """A listening socket and its URL."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.create_server((host, port), family=family, backlog=128)
    except OSError as error:
        raise UsageError(
            f"Cannot listen on {host}, port {port}: {error.strerror}. Choose another port, or 0."
        ) from None
    shown = f"[{host}]" if family == socket.AF_INET6 else host
    return listener, f"http://{shown}:{listener.getsockname()[1]}"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def serve(
    folder: Path,
    host: str = "127.0.0.1",
    port: int = 8123,
    user: str = "default",
    password: SecretStr | None = None,
) -> None:
    """Serve the engine in `folder` until SIGTERM or SIGINT; prints one line with the address when ready.

    Port 0 takes a free one. Running queries are waited for, and cancelled after `SHUTDOWN_GRACE` seconds.

    Raises:
        UsageError: the address is not this host's own and there is no password, or it is in use.
        DatabaseError: one of its subclasses says why the engine does not start.
    """
    if not _is_loopback(host) and not (password and password.get_secret_value()):
        raise UsageError(
            f"{host} can be reached from other hosts, so a password is needed: set ASPECTS_CLICKHOUSE_PASSWORD, "
            "or listen on 127.0.0.1."
        )
    engine = Engine(folder)  # Here, where its exceptions reach the caller.
    listener, url = _listen(host, port)
    app = create_app(folder, user=user, password=password)

    def announce() -> None:
        sys.stdout.write(f"ClickHouse protocol on {url} (data in {folder})\n")
        sys.stdout.flush()

    try:
        _Server(app, announce, engine.cancel_queries).run(sockets=[listener])
    finally:
        listener.close()
        engine.close()


@contextmanager
def running(folder: Path, *, user: str = "default", password: SecretStr | None = None) -> Iterator[str]:
    """Serve the engine in `folder` from a thread of this process; yields the URL, on a free loopback port.

    Other connections of this process to the same folder go on working beside it.

    Raises:
        DatabaseError: one of its subclasses says why the engine does not start.
    """
    engine = Engine(folder)
    listener, url = _listen("127.0.0.1", 0)
    ready = threading.Event()
    server = _Server(create_app(folder, user=user, password=password), ready.set)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="clickhouse-endpoint")
    thread.start()
    try:
        while not ready.wait(0.1):
            if not thread.is_alive():
                raise UnreachableError("The endpoint did not start.")
        yield url
    finally:
        server.should_exit = True
        thread.join()
        listener.close()
        engine.close()
