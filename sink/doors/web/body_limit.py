"""Requests whose body is too long are refused before it is read."""

from __future__ import annotations

from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sink.doors.web.models import ProblemDetails


class BodyLimit:
    """Answers 413 to bodies that are too long, before they are read, or as soon as it shows."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self._app, self._limit = app, limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length) > self._limit:
            await self._refuse(scope, receive, send)
            return
        received, body = 0, bytearray()
        while True:
            message = await receive()
            if message["type"] != "http.request":
                return
            body += message.get("body", b"")
            received = len(body)
            if received > self._limit:
                await self._refuse(scope, receive, send)
                return
            if not message.get("more_body"):
                break
        whole = iter([{"type": "http.request", "body": bytes(body), "more_body": False}])

        async def replay() -> Message:
            return next(whole, None) or await receive()

        await self._app(scope, replay, send)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        problem = ProblemDetails(error="too_large", message=f"A request has {self._limit} bytes at most.")
        response = JSONResponse(problem.model_dump(), 413, {"Connection": "close"})
        await response(scope, receive, send)
