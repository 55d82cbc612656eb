"""The endpoint's answers: pings, results in one piece, results as they come, and errors.

.. pii: Statements, rows and results pass through in memory; nothing is kept or logged.
.. pii_types: id, name, username, email_address, location, phone_number, birth_date, gender, biography, image, other
.. pii_retirement: consumer_api
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import re
import secrets
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from sink.clickhouse.confinement import confine_engine_thread
from sink.endpoint.credentials import Account
from sink.endpoint.engine import Engine
from sink.endpoint.execution import QueryExecution
from sink.endpoint.protocol import Compressor, QueryRequest, read_query_request, too_large
from sink.endpoint.protocol_errors import find_code, find_status, write_text
from sink.errors import ProtocolError

T = TypeVar("T")

MAX_QUERIES = 16
"""Queries at work at a time; further ones wait."""

MAX_LARGE_BODIES = 4
"""Requests at work at a time whose body may become large; further ones wait before theirs is read."""

_LARGE_BODY_BYTES = 1 << 20
_SESSION_SWEEP_SECONDS = 5

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
    "Arrow": "application/octet-stream",
    "ArrowStream": "application/octet-stream",
    "Parquet": "application/octet-stream",
}


class _Stream(StreamingResponse):
    """A result on its way; gives its connection and its slot back however the response ends."""

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

    def __init__(self, folder: Path, account: Account, users_file: Path | None, max_body_bytes: int) -> None:
        self._folder = folder
        self._users_file = users_file
        self._account = account
        self._max_body_bytes = max_body_bytes
        self._slots = asyncio.Semaphore(MAX_QUERIES)
        self._large_bodies = asyncio.Semaphore(MAX_LARGE_BODIES)
        self._threads: ThreadPoolExecutor
        self.engine: Engine

    @asynccontextmanager
    async def lifespan(self, _: Starlette) -> AsyncIterator[None]:
        """Hold the engine open while the app runs."""
        begin = functools.partial(confine_engine_thread, self._folder)
        self._threads = ThreadPoolExecutor(MAX_QUERIES + 1, "clickhouse", begin)
        self.engine = await self._in_thread(Engine, self._folder, self._users_file)
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
            await asyncio.sleep(_SESSION_SWEEP_SECONDS)
            await self._in_thread(self.engine.drop_expired_sessions)

    async def answer_ping(self, _: Request) -> Response:
        """`/ping` and `/replicas_status`: alive, whatever the queries do."""
        return PlainTextResponse("Ok.\n")

    async def answer_query(self, request: Request) -> Response:
        """`/`: run a statement."""
        if request.method != "POST" and not request.query_params.get("query"):
            return PlainTextResponse("Ok.\n")
        try:
            self._account.check(request)
        except ProtocolError as error:
            return self._explain(error)
        async with self._large_bodies if _may_be_large(request) else contextlib.nullcontext():
            return await self._answer(request)

    async def _answer(self, request: Request) -> Response:
        try:
            body = await self._read_body(request)
            query = await self._in_thread(
                read_query_request,
                request.method,
                request.headers,
                dict(request.query_params),
                body,
                self._max_body_bytes,
            )
            return await self._run(query)
        except ProtocolError as error:
            return self._explain(error)
        except ClientDisconnect:
            return Response(status_code=499)
        except Exception as error:
            # The text of an unforeseen exception may quote a value.
            return self._explain(ProtocolError("UNKNOWN_EXCEPTION", f"The endpoint failed ({type(error).__name__})."))

    async def _read_body(self, request: Request) -> bytearray:
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > self._max_body_bytes:
                raise too_large(self._max_body_bytes)
        return body

    async def _run(self, query: QueryRequest) -> Response:
        await self._slots.acquire()
        response: Response | None = None
        try:
            execution = await self._in_thread(QueryExecution, self.engine, query)
            if execution.streams:
                response = await self._start_stream(query, execution)
                return response
            result, summary = await self._in_thread(_run_to_end, query, execution)
        finally:
            if not isinstance(response, _Stream):
                self._slots.release()
        headers = self._headers(query, execution, has_result=execution.statement.reads or bool(result))
        headers["X-ClickHouse-Summary"] = json.dumps({name: str(value) for name, value in summary.items()})
        return Response(result, headers=headers)

    async def _start_stream(self, query: QueryRequest, execution: QueryExecution) -> Response:
        first = await self._in_thread(_start, execution)
        if not first:
            # Nothing will be sent before which it could be closed.
            await self._in_thread(execution.close)
        tag = secrets.token_hex(8)

        async def give_back() -> None:
            try:
                await self._in_thread(execution.close)
            finally:
                self._slots.release()

        headers = self._headers(query, execution, has_result=True) | {"X-ClickHouse-Exception-Tag": tag}
        return _Stream(give_back, self._stream(query, execution, first, tag), headers=headers)

    async def _stream(
        self, query: QueryRequest, execution: QueryExecution, piece: bytes, tag: str
    ) -> AsyncIterator[bytes]:
        compressor = Compressor(query.compression)
        while piece:
            try:
                following = await self._in_thread(execution.fetch)
            except ProtocolError as error:
                yield compressor.compress(
                    piece + _exception_block(write_text(error, self.engine.version), tag), last=True
                )
                # Breaks the connection, so that a client that does not know the block notices too.
                raise ConnectionAbortedError("a query failed after its result had begun") from None
            if not following:
                # Before the last bytes: who has read them may send the session's next request at once.
                await self._in_thread(execution.close)
            yield compressor.compress(piece, last=not following)
            piece = following

    def _headers(self, query: QueryRequest, execution: QueryExecution, *, has_result: bool) -> dict[str, str]:
        headers = {
            "X-ClickHouse-Server-Display-Name": "aspects-pii",
            "X-ClickHouse-Query-Id": re.sub(r"[^\x21-\x7e]", "_", query.query_id),
            "X-ClickHouse-Timezone": query.timezone or self.engine.timezone,
            "Content-Type": "text/plain; charset=UTF-8",
        }
        if has_result:
            headers["X-ClickHouse-Format"] = execution.format
            headers["Content-Type"] = _CONTENT_TYPES.get(execution.format, headers["Content-Type"])
            if query.compression:
                headers["Content-Encoding"] = query.compression
        return headers

    def _explain(self, error: ProtocolError) -> Response:
        headers = {"X-ClickHouse-Exception-Code": str(find_code(error)), **error.headers}
        return PlainTextResponse(write_text(error, self.engine.version), find_status(error), headers)


def _may_be_large(request: Request) -> bool:
    """True for a body that is compressed, long, or of a length that nobody knows."""
    headers = request.headers
    if headers.get("content-encoding", "identity").lower() not in ("", "identity"):
        return True
    length = headers.get("content-length", "0" if "transfer-encoding" not in headers else "")
    return not length.isdecimal() or int(length) > _LARGE_BODY_BYTES


def _run_to_end(query: QueryRequest, execution: QueryExecution) -> tuple[bytes, dict[str, int]]:
    try:
        result, summary = execution.run()
    finally:
        execution.close()
    return Compressor(query.compression if result else None).compress(result, last=True), summary


def _start(execution: QueryExecution) -> bytes:
    try:
        return execution.start()
    except BaseException:
        execution.close()
        raise


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
