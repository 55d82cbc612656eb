"""Running an ASGI application: on which socket, until when, and without a log that could quote values.

.. no_pii: sockets and signals.
"""

from __future__ import annotations

import ipaddress
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import uvicorn

from sink.errors import UnreachableError, UsageError
from sink.http_connections import Limits, WatchedConnection

# What requests have to end in once the server is told to stop.
SHUTDOWN_GRACE_SECONDS = 10
_START_TIMEOUT_SECONDS = 30.0


class Server(uvicorn.Server):
    """uvicorn, saying when it is ready and returning when it was told to stop."""

    def __init__(
        self,
        app: Any,
        ready: Callable[[], None],
        cancel: Callable[[], None] | None = None,
        limits: Limits | None = None,
        **options: Any,
    ) -> None:
        """Take the application.

        Args:
            app: an ASGI application.
            ready: called once it answers.
            cancel: called when requests have not ended `SHUTDOWN_GRACE_SECONDS` seconds after the signal to stop.
            limits: how long clients may keep it waiting.
            options: further options of `uvicorn.Config`.
        """
        # No log of uvicorn's: its access log has addresses, and tracebacks may quote values.
        quiet: dict[str, Any] = {"log_config": None, "log_level": "critical", "access_log": False}
        http = cast("type[WatchedConnection]", partial(WatchedConnection, limits=limits or Limits()))
        super().__init__(
            uvicorn.Config(
                refuse_two_lengths(app), http=http, ws="none", lifespan="on", server_header=False, **quiet, **options
            )
        )
        self._ready, self._cancel = ready, cancel

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """See uvicorn."""
        await super().startup(sockets)
        if self.started:
            self._ready()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """See uvicorn, whose own (0.54.0, since its pull request 1600) raises the signal again at the end.

        That would end the process with the signal's status instead of 0.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, original in before.items():
                signal.signal(number, original)

    def _stop(self, number: int, frame: Any) -> None:
        if self._cancel and not self.should_exit:
            timer = threading.Timer(SHUTDOWN_GRACE_SECONDS, self._cancel)
            timer.daemon = True
            timer.start()
        self.handle_exit(number, frame)


def refuse_two_lengths(app: Any) -> Any:
    """Put before an ASGI application: 400 to a request with both Content-Length and Transfer-Encoding.

    A proxy may go by the other one of the two, and see another request in what follows.
    """

    async def judge(scope: Any, receive: Any, send: Any) -> None:
        names = {name for name, _ in scope.get("headers", ())}
        if not names >= {b"content-length", b"transfer-encoding"}:
            await app(scope, receive, send)
            return
        headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
        await send({"type": "http.response.start", "status": 400, "headers": headers})
        await send(
            {"type": "http.response.body", "body": b"Content-Length and Transfer-Encoding exclude each other.\n"}
        )

    return judge


@contextmanager
def running_in_thread(app: Any, name: str, **options: Any) -> Iterator[str]:
    """Serve `app` from a thread of this process; yields the URL, on a free loopback port.

    Raises:
        UnreachableError: it did not start.
    """
    listener, url = listen("127.0.0.1", 0)
    ready = threading.Event()
    server = Server(app, ready.set, **options)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name=name)
    thread.start()
    waited = 0.0
    try:
        while not ready.wait(0.1):
            waited += 0.1
            if not thread.is_alive() or waited > _START_TIMEOUT_SECONDS:
                raise UnreachableError(f"The server of {name} did not start.")
        yield url
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


def listen(host: str, port: int) -> tuple[socket.socket, str]:
    """A listening socket and its URL; port 0 takes a free one.

    Raises:
        UsageError: the address is in use, or is none of this host's.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.create_server((host, port), family=family, backlog=128)
        # asyncio does this only for sockets that name their protocol, and `create_server` names none; without it every
        # answer on a kept connection waits 40 ms (uvicorn's issue 3149, seen with 0.54.0).
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except OSError as error:
        raise UsageError(
            f"Cannot listen on {host}, port {port}: {error.strerror}. Choose another port, or 0."
        ) from None
    shown = f"[{host}]" if family == socket.AF_INET6 else host
    return listener, f"http://{shown}:{listener.getsockname()[1]}"


def is_loopback(host: str) -> bool:
    """True where only this host can reach the address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
