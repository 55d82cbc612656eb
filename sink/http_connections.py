"""How long an HTTP connection may keep a server waiting, and which one goes where there are too many.

uvicorn (0.54.0) has a timeout between requests only: a client that sends nothing, or a byte now and then, is waited for
without end. And its `limit_concurrency` counts connections, so whoever opens enough of them closes the server to all.

.. no_pii: sockets and clocks.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Literal

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol


@dataclass(frozen=True)
class Limits:
    """What a client may take its time for."""

    headers_seconds: float = 10
    """For a request's headers, from the connection or from the first byte of the request after it."""
    body_seconds: float = 20
    """For a request's body; longer where at least `body_bytes_per_second` come."""
    body_bytes_per_second: int = 1_000
    connections: int = 500
    """Above it, whoever has kept the server waiting longest is closed. Fewer than the files that a process may open."""


class WatchedConnection(H11Protocol):
    """uvicorn's connection, closed where the client keeps it waiting for too long."""

    def __init__(self, *arguments: Any, limits: Limits, **options: Any) -> None:
        """Take the limits; everything else is uvicorn's."""
        super().__init__(*arguments, **options)
        self._limits = limits
        self._awaited: Literal["headers", "body"] | None = None
        self.since = self.loop.time()
        """When the connection came to what it is at now."""
        self._received = 0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_waiting(self) -> bool:
        """True where nothing is being done for the client, and it is the client's turn."""
        return self._awaited is not None or self.timeout_keep_alive_task is not None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See asyncio."""
        super().connection_made(transport)
        self._watch()
        self._make_room()

    def data_received(self, data: bytes) -> None:
        """See asyncio."""
        super().data_received(data)
        self._watch()
        self._received += len(data)

    def on_response_complete(self) -> None:
        """See uvicorn."""
        super().on_response_complete()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio."""
        self._wait_for(None)
        super().connection_lost(exc)

    def _watch(self) -> None:
        awaited = self._find_awaited()
        if awaited != self._awaited:
            self._wait_for(awaited)

    def _find_awaited(self) -> Literal["headers", "body"] | None:
        if self.transport.is_closing():
            return None
        if self.conn.their_state is h11.SEND_BODY:
            return "body"
        # Between requests uvicorn has a timer of its own.
        if self.conn.their_state is h11.IDLE and self.timeout_keep_alive_task is None:
            return "headers"
        return None

    def _wait_for(self, awaited: Literal["headers", "body"] | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._awaited, self.since, self._received = awaited, self.loop.time(), 0
        if awaited is not None:
            self._set_timer()

    def _set_timer(self) -> None:
        patience = self._limits.headers_seconds
        if self._awaited == "body":
            patience = self._limits.body_seconds + self._received / self._limits.body_bytes_per_second
        self._timer = self.loop.call_at(self.since + patience, self._expire, self._received)

    def _expire(self, received: int) -> None:
        if self._awaited == "body":
            if self.flow.read_paused or self.cycle.waiting_for_100_continue:
                # The application has not asked for more yet: the client is not to blame.
                self._wait_for("body")
                return
            if self._received > received:
                self._set_timer()
                return
        # Whoever does not send may not read either: nothing more is written.
        self.transport.abort()

    def _make_room(self) -> None:
        others = [c for c in self.connections if isinstance(c, WatchedConnection) and not c.transport.is_closing()]
        if len(others) > self._limits.connections:
            min((c for c in others if c.is_waiting), key=lambda c: c.since).transport.abort()
