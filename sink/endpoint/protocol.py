"""What a request to the endpoint says, and how it is refused: the parts that need no engine.

The protocol is that of a ClickHouse server (https://clickhouse.com/docs/interfaces/http). What is not supported
is refused here, so that nothing is left out silently.
"""

from __future__ import annotations

import sys
import uuid
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from email.parser import BytesParser
from email.policy import HTTP
from typing import Any

import lz4.frame  # type: ignore[import-untyped]

from sink.errors import ProtocolError
from sink.names import check_identifier

if sys.version_info >= (3, 14):  # pragma: no cover
    from compression import zstd
else:
    from backports import zstd

SESSION_TIMEOUT_SECONDS = 60
MAX_SESSION_TIMEOUT_SECONDS = 3600

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

# How much of a compressed body is unpacked at a time, and out of how much of it: what is left is copied for each frame.
_STEP_BYTES = 1 << 20
_WINDOW_BYTES = 1 << 16
# Clients compress blocks of many rows; frames of a few bytes would cost more than they bring.
_MAX_FRAMES = 100_000


@dataclass(frozen=True)
class QueryRequest:
    """What one request asks."""

    query: bytes
    """The statement, or its beginning, from the address or a form."""
    body: bytes | bytearray
    """The statement, the rest of it, or the data of an insert."""
    readonly: str | None
    """The engine's setting for the request, where it may only read."""
    settings: Mapping[str, str]
    parameters: Mapping[str, str]
    database: str | None
    session: str | None
    session_timeout_seconds: float
    session_check: bool
    close_session: bool
    default_format: str
    """Of a result whose statement names none."""
    buffered: bool
    compression: str | None
    query_id: str
    timezone: str | None


def read_query_request(
    method: str, headers: Mapping[str, str], url: Mapping[str, str], body: bytes | bytearray, max_body_bytes: int
) -> QueryRequest:
    """Understand a request.

    Raises:
        ProtocolError: it is malformed, or asks for what is not supported.
    """
    given = dict(url)
    body = _decompress(body, headers.get("content-encoding", "identity"), max_body_bytes)
    if headers.get("content-type", "").startswith("multipart/form-data"):
        form = _read_form(headers["content-type"], body)
        body = form.pop("query", b"")
        given |= {name: value.decode(errors="surrogateescape") for name, value in form.items()}
    for name in _UNSUPPORTED_PARAMETERS:
        if given.get(name, "0") not in ("", "0"):
            raise ProtocolError("NOT_IMPLEMENTED", f"The parameter `{name}` is not supported by the embedded engine.")
    readonly = given.get("readonly", "0")
    if method != "POST" or readonly != "0":
        # As a server has it: who asks by GET may change settings and nothing else.
        readonly = "1" if readonly == "1" else "2"
        if given.get("session_id"):
            # The engine does not let go of the setting, and a session is a connection that stays.
            raise ProtocolError(
                "NOT_IMPLEMENTED", "A request that only reads has no session here: use POST, or leave session_id out."
            )
    try:
        settings = {check_identifier(k): v for k, v in given.items() if _is_setting(k)}
        parameters = {check_identifier(k[6:]): v for k, v in given.items() if k.startswith("param_")}
        timeout = float(given.get("session_timeout", SESSION_TIMEOUT_SECONDS))
    except ValueError:
        raise ProtocolError("BAD_ARGUMENTS", "The name of a setting or the session's timeout is not valid.") from None
    if not 0 < timeout <= MAX_SESSION_TIMEOUT_SECONDS:
        raise ProtocolError(
            "INVALID_SESSION_TIMEOUT", f"A session's timeout is at most {MAX_SESSION_TIMEOUT_SECONDS} seconds."
        )
    return QueryRequest(
        query=given.get("query", "").encode(errors="surrogateescape"),
        body=body,
        readonly=None if readonly == "0" else readonly,
        settings=settings,
        parameters=parameters,
        database=given.get("database") or headers.get("x-clickhouse-database") or None,
        session=given.get("session_id") or None,
        session_timeout_seconds=timeout,
        session_check=given.get("session_check") == "1",
        close_session=given.get("close_session") == "1",
        default_format=given.get("default_format") or headers.get("x-clickhouse-format") or "TabSeparated",
        buffered=given.get("wait_end_of_query", "0") != "0",
        compression=_choose_compression(headers, given),
        query_id=given.get("query_id") or str(uuid.uuid4()),
        timezone=given.get("session_timezone"),
    )


def _is_setting(name: str) -> bool:
    return name not in _PROTOCOL_PARAMETERS and not name.startswith("param_")


def _read_form(content_type: str, body: bytes | bytearray) -> dict[str, bytes]:
    """The text fields of a form. Read in memory: python-multipart, which Starlette 1.10.0 uses, puts large parts into files."""
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


def _decompress(body: bytes | bytearray, encoding: str, max_body_bytes: int) -> bytes | bytearray:
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
    result, frame, frames = bytearray(), None, 0
    for start in range(0, len(body), _WINDOW_BYTES):
        window = bytes(memoryview(body)[start : start + _WINDOW_BYTES])
        while window:
            if frame is None:
                frame, frames = makers[encoding](), frames + 1
            if frames > _MAX_FRAMES:
                raise ProtocolError("TOO_MANY_BYTES", f"The body has more than {_MAX_FRAMES} compressed frames.")
            try:
                for piece in _unpack(frame, window):
                    result += piece
                    if len(result) > max_body_bytes:
                        raise too_large(max_body_bytes)
            except (zlib.error, zstd.ZstdError, RuntimeError, EOFError):
                raise ProtocolError("CANNOT_DECOMPRESS", "The body cannot be decompressed.") from None
            window, frame = (frame.unused_data, None) if frame.eof else (b"", frame)
    if frame is not None:
        raise ProtocolError("CANNOT_DECOMPRESS", "The compressed body is cut off.")
    return result


def _unpack(frame: Any, body: bytes) -> Iterator[bytes]:
    """Piece by piece, so that a small body that becomes a huge one is noticed before it is there."""
    while not frame.eof:
        piece = frame.decompress(body, _STEP_BYTES)
        # zlib gives back what it has not come to; the others keep it.
        body = getattr(frame, "unconsumed_tail", b"")
        if not piece and not body:
            return
        yield piece


def too_large(max_body_bytes: int) -> ProtocolError:
    """The answer to a body that would not fit into memory."""
    return ProtocolError("TOO_MANY_BYTES", f"The body is larger than {max_body_bytes} bytes; send it in parts.")


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
