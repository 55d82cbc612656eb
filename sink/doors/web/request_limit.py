"""Only so many requests are worked off at a time; more are told to come again."""

from __future__ import annotations

from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from sink.doors.web.models import ProblemDetails


class RequestLimit:
    """Answers 503 to requests while `limit` others are being worked off."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self._app, self._limit, self._running = app, limit, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if self._running >= self._limit:
            problem = ProblemDetails(error="busy", message="Too many requests at a time. Try again.")
            await JSONResponse(problem.model_dump(), 503)(scope, receive, send)
            return
        self._running += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._running -= 1
