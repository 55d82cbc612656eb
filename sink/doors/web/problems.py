"""Every request that is not carried out gets an answer of the same form: a status and problem details."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from sink.doors.web.models import ProblemDetails, RetireUser
from sink.errors import HttpProblemError
from sink.invalid_values import explain_invalid

# .. no_pii: names of fields; what was sent in them is not repeated.

_log = logging.getLogger(__name__)

RESPONSES: dict[int | str, dict[str, Any]] = {
    400: {"model": ProblemDetails, "description": "The request is not valid; nothing was recorded."},
    401: {"model": ProblemDetails, "description": "No valid token."},
    403: {"model": ProblemDetails, "description": "The token is somebody's who may not retire others."},
    413: {"model": ProblemDetails, "description": "The request is too large."},
    500: {"model": ProblemDetails, "description": "The retirement was not recorded."},
    503: {"model": ProblemDetails, "description": "The retirement was not recorded; try again."},
}
"""For the OpenAPI document."""

_FIELDS = frozenset(RetireUser.model_fields)


def add_error_handlers(app: FastAPI, retire_path: str) -> None:
    """Answer with problem details whatever goes wrong; `retire_path` is what a driver with a wrong address is told."""

    def answer(
        status: int,
        error: str,
        message: str,
        headers: Mapping[str, str] | None = None,
        fields: Mapping[str, str] | None = None,
    ) -> JSONResponse:
        problem = ProblemDetails(error=error, message=message, fields=dict(fields or {}))
        return JSONResponse(problem.model_dump(), status, dict(headers or {}))

    @app.exception_handler(HttpProblemError)
    async def refuse(_: Request, error: HttpProblemError) -> Response:
        return answer(error.status, error.error, error.message, error.headers)

    @app.exception_handler(RequestValidationError)
    async def explain(_: Request, error: RequestValidationError) -> Response:
        fields = {}
        for problem in error.errors():
            place = [str(part) for part in problem["loc"] if part != "body"]
            if problem["type"] == "json_invalid":
                place = []
            # Only names that we know: others are the caller's, and may be anything.
            name = place[0] if place and place[0] in _FIELDS else "body"
            fields[name] = explain_invalid(problem)
        return answer(400, "invalid", "The request is not valid; nothing was recorded.", fields=fields)

    @app.exception_handler(HTTPException)
    async def translate(request: Request, error: HTTPException) -> Response:
        if error.status_code == 404 and request.method not in ("GET", "HEAD"):
            # The driver takes 404 for "there is nothing about this user", and goes on.
            message = f"There is no such endpoint. The driver's is {retire_path}; check the address that it was given."
            return answer(400, "no_such_endpoint", message)
        if error.status_code == 400:
            return answer(
                400, "invalid", "The request is not valid; nothing was recorded.", fields={"body": "not JSON"}
            )
        words = {404: "not_found", 405: "method_not_allowed"}
        word = words.get(error.status_code, "invalid")
        return answer(error.status_code, word, f"HTTP {error.status_code}.", error.headers)

    @app.exception_handler(Exception)
    async def fail(_: Request, error: Exception) -> Response:
        # Its text may quote a value.
        _log.error("A request failed (%s)", type(error).__name__)
        return answer(500, "failed", "The request failed.")
