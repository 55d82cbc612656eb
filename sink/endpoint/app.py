"""The embedded engine behind ClickHouse's HTTP protocol: `aspects-pii clickhouse`.

One process may open the engine's data folder; through this endpoint others (dbt, Superset, a second
`aspects-pii`) share it with the clients they already have. Nothing here logs a query, a body or an address.
"""

from __future__ import annotations

import asyncio
import functools
import hmac
import json
import re
import secrets
import sys
from base64 import b64decode
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from sink.endpoint.engine import Engine, Lease
from sink.endpoint.protocol import Compressor, Job, read_job, too_large
from sink.endpoint.protocol_errors import find_code, find_status, write_text
from sink.errors import ProtocolError, UsageError
from sink.serving import Server, is_loopback, listen, running_in_thread

T = TypeVar("T")

MAX_BODY = 1 << 30
"""Largest body of a request, after decompression; it is held in memory."""

MAX_QUERIES = 16
"""Queries at work at a time; further ones wait."""

_LOOPBACK_NAMES = frozenset({"127.0.0.1", "localhost", "::1"})

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


@dataclass
class _Guard:
    """Who may in."""

    user: str
    password: SecretStr

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
        if request.headers.get("origin") or host not in _LOOPBACK_NAMES:
            raise _authentication_failed("Requests from web pages or under another host name need a password.", True)


def _authentication_failed(message: str, given: bool) -> ProtocolError:
    if given:
        return ProtocolError("AUTHENTICATION_FAILED", message)
    headers = {"WWW-Authenticate": 'Basic realm="ClickHouse server HTTP API"'}
    return ProtocolError("AUTHENTICATION_FAILED", message, status=401, headers=headers)


def _read_credentials(request: Request) -> tuple[str, str, bool]:
    """User, password, and whether there were any."""
    headers, url = request.headers, request.query_params
    in_headers = "x-clickhouse-user" in headers or "x-clickhouse-key" in headers
    basic = headers.get("authorization", "")
    in_url = "user" in url or "password" in url
    if in_headers + bool(basic) + in_url > 1:
        raise _authentication_failed("Invalid authentication: several ways are used simultaneously.", True)
    if in_headers:
        user, password = headers.get("x-clickhouse-user", ""), headers.get("x-clickhouse-key", "")
        # Header values arrive decoded byte by byte.
        return _utf8(user), _utf8(password), True
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


def _utf8(value: str) -> str:
    return value.encode("latin-1").decode(errors="replace")


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
            if request.method != "POST" and not body and not request.query_params.get("query"):
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

    async def _read_body(self, request: Request) -> bytearray:
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > self._max_body:
                raise too_large(self._max_body)
        return body

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
        return Compressor(job.compression if result else None).compress(result, last=True), summary

    async def _start_stream(self, job: Job) -> Response:
        def start() -> tuple[Lease, bytes]:
            lease = Lease(self.engine, job)
            try:
                return lease, lease.start()
            except BaseException:
                lease.close()
                raise

        lease, first = await self._in_thread(start)
        if not first:
            # Nothing will be sent before which it could be closed.
            await self._in_thread(lease.close)
        tag = secrets.token_hex(8)

        async def give_back() -> None:
            try:
                await self._in_thread(lease.close)
            finally:
                self._slots.release()

        headers = self._headers(job, has_result=True) | {"X-ClickHouse-Exception-Tag": tag}
        return _Stream(give_back, self._stream(job, lease, first, tag), headers=headers)

    async def _stream(self, job: Job, lease: Lease, piece: bytes, tag: str) -> AsyncIterator[bytes]:
        compressor = Compressor(job.compression)
        while piece:
            try:
                following = await self._in_thread(lease.fetch)
            except ProtocolError as error:
                yield compressor.compress(
                    piece + _exception_block(write_text(error, self.engine.version), tag), last=True
                )
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
        headers = {"X-ClickHouse-Exception-Code": str(find_code(error)), **error.headers}
        return PlainTextResponse(write_text(error, self.engine.version), find_status(error), headers)


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
    if not is_loopback(host) and not (password and password.get_secret_value()):
        raise UsageError(
            f"{host} can be reached from other hosts, so a password is needed: set ASPECTS_CLICKHOUSE_PASSWORD, "
            "or listen on 127.0.0.1."
        )
    engine = Engine(folder)  # Here, where its exceptions reach the caller.
    listener, url = listen(host, port)
    app = create_app(folder, user=user, password=password)

    def announce() -> None:
        sys.stdout.write(f"ClickHouse protocol on {url} (data in {folder})\n")
        sys.stdout.flush()

    try:
        Server(app, announce, engine.cancel_queries).run(sockets=[listener])
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
    try:
        with running_in_thread(create_app(folder, user=user, password=password), "clickhouse-endpoint") as url:
            yield url
    finally:
        engine.close()
