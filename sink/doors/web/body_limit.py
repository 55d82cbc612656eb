"""Requests whose body is too long are refused before it is read."""

from __future__ import annotations

from collections.abc import Mapping

from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sink.doors.web.models import ProblemDetails


class BodyLimit:
    """Answers 413 to bodies that are too long, before they are read, or as soon as it shows."""

    def __init__(self, app: ASGIApp, limit: int, larger: Mapping[str, int] | None = None) -> None:
        """Take the limit in bytes, and those of paths that have a larger one."""
        self._app, self._limit, self._larger = app, limit, dict(larger or {})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit = max(self._limit, self._larger.get(scope["path"], 0))
        headers = dict(scope["headers"])
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length) > limit:
            await self._refuse(limit, scope, receive, send)
            return
        received, body = 0, bytearray()
        while True:
            message = await receive()
            if message["type"] != "http.request":
                return
            body += message.get("body", b"")
            received = len(body)
            if received > limit:
                await self._refuse(limit, scope, receive, send)
                return
            if not message.get("more_body"):
                break
        whole = iter([{"type": "http.request", "body": bytes(body), "more_body": False}])

        async def replay() -> Message:
            return next(whole, None) or await receive()

        await self._app(scope, replay, send)

    async def _refuse(self, limit: int, scope: Scope, receive: Receive, send: Send) -> None:
        problem = ProblemDetails(error="too_large", message=f"A request has {limit} bytes at most.")
        response = JSONResponse(problem.model_dump(), 413, {"Connection": "close"})
        await response(scope, receive, send)
