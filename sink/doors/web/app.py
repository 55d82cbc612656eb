"""The HTTP hook: `aspects-pii serve`.

It stands in for a service that Open edX's retirement driver knows (LICENSE_MANAGER), so that the driver can announce a
retirement without any change. The driver takes 404 for success and tries again after 5xx: an answer is 204 only when
the retirement is in the ledger, 5xx when it is not, and 404 never to a POST. Erasing is done afterwards, by a thread of
this process or by a worker.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse, Response
from fastapi.security import APIKeyHeader
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, generate_latest
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from sink.doors.events.sources import open_redis_streams, read_sources
from sink.doors.web.auth import Guard
from sink.doors.web.body_limit import BodyLimit, Problem
from sink.doors.web.desk import PROBE_TIMEOUT, Connection, Desk, Sweeper
from sink.errors import HttpProblemError, UsageError
from sink.installation import read_map
from sink.resources import VERSION
from sink.serving import SHUTDOWN_GRACE_SECONDS, Server, is_loopback, listen, running_in_thread
from sink.settings import Settings

# .. pii: A request may carry a user name: it is checked to be one, and neither kept nor logged.
# .. pii_types: username
# .. pii_retirement: consumer_api

_log = logging.getLogger(__name__)

RECORD_TIMEOUT = 20
"""Seconds that recording a retirement may take; after that the driver is told to come again."""

MAX_USER_ID = 2**53  # Exact in every JSON reader; far above what an LMS has.

_RETIRE_PATH = "/api/v1/retire_user/"
_GENERIC_PATH = "/api/v1/retire_learner/"


def _read_integer(value: Any) -> Any:
    # To JSON, 42.0 is an integer too.
    return int(value) if isinstance(value, float) and value.is_integer() else value


UserId = Annotated[
    int,
    Field(ge=1, le=MAX_USER_ID, description="The LMS's id of the user.", examples=[42]),
    BeforeValidator(_read_integer),
]


class RetireUser(BaseModel):
    """What the driver sends to a LICENSE_MANAGER."""

    model_config = ConfigDict(strict=True, hide_input_in_errors=True)

    lms_user_id: UserId
    original_username: str = Field("", description="Ignored: neither stored nor logged.", examples=["-"])


class RetireLearner(BaseModel):
    """What newer drivers send to services that they know by address only."""

    model_config = ConfigDict(strict=True, hide_input_in_errors=True)

    edx_lms_user_id: UserId


class Health(BaseModel):
    """Whether retirements can be recorded."""

    status: str = Field(description="`ok`, or `unavailable`.", examples=["ok"])
    clickhouse: bool = Field(description="Whether ClickHouse answers.")
    version: str = Field(description="Of aspects-pii.", examples=["0.1.0"])


_PROBLEMS: dict[int | str, dict[str, Any]] = {
    400: {"model": Problem, "description": "The request is not valid; nothing was recorded."},
    401: {"model": Problem, "description": "No valid token."},
    403: {"model": Problem, "description": "The token is somebody's who may not retire others."},
    413: {"model": Problem, "description": "The request is too large."},
    500: {"model": Problem, "description": "The retirement was not recorded."},
    503: {"model": Problem, "description": "The retirement was not recorded; try again."},
}
_AUTHORIZATION = APIKeyHeader(
    name="Authorization",
    scheme_name="authorization",
    description="`JWT <token>` or `Bearer <token>`: a token of the LMS, or the one of ASPECTS_WEB_TOKEN.",
    auto_error=False,
)


def _check_caller(request: Request, _: Annotated[str | None, Depends(_AUTHORIZATION)]) -> None:
    request.app.state.guard.check(request)


def create_app(settings: Settings) -> FastAPI:
    """The hook as an ASGI application; connections are made when they are needed.

    Raises:
        MapError: the map is not valid.
        SettingsError: the file of keys cannot be used.
        UsageError: there are keys of the LMS and no users.
    """
    pii_map = read_map(settings)
    desk = Desk(
        enabled=settings.enable_pii,
        recording=Connection(settings, timeout=RECORD_TIMEOUT, connect_timeout=5, retries=1),
        probing=Connection(settings, timeout=PROBE_TIMEOUT, connect_timeout=PROBE_TIMEOUT, retries=0),
        sweeper=Sweeper(Connection(settings)) if settings.web_sweep else None,
        streams=open_redis_streams(settings, list(read_sources(settings, pii_map.subject).decoders))
        if settings.event_bus_url
        else None,
    )
    registry = CollectorRegistry()
    registry.register(desk)
    requests = Counter("aspects_pii_http_requests", "Requests by answer.", ["path", "status"], registry=registry)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        if desk.sweeper is not None:
            desk.sweeper.start()
        try:
            yield
        finally:
            await run_in_threadpool(desk.close)

    app = FastAPI(
        title="aspects-pii",
        version=VERSION,
        description="Records that a learner is to be retired. Works whether storing PII is on or off.",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        redirect_slashes=False,
    )
    app.state.guard = Guard(settings)
    _add_endpoints(app, desk, registry)
    _add_error_handlers(app)
    app.add_middleware(BodyLimit, limit=settings.web_max_body)
    _describe(app)

    @app.middleware("http")
    async def count(request: Request, call_next: Callable[[Request], Any]) -> Response:
        response: Response = await call_next(request)
        known = {getattr(route, "path", "") for route in app.routes}
        path = request.url.path if request.url.path in known else "other"
        requests.labels(path, str(response.status_code)).inc()
        return response

    return app


def _add_endpoints(app: FastAPI, desk: Desk, registry: CollectorRegistry) -> None:
    def retire_user(body: RetireUser) -> Response:
        desk.record(body.lms_user_id)
        return Response(status_code=204)

    def retire_learner(body: RetireLearner) -> Response:
        desk.record(body.edx_lms_user_id)
        return Response(status_code=204)

    common: dict[str, Any] = {
        "methods": ["POST"],
        "status_code": 204,
        "response_class": Response,
        "responses": _PROBLEMS,
        "dependencies": [Depends(_check_caller)],
    }
    for path, endpoint, summary in (
        (_RETIRE_PATH, retire_user, "Retire a user, as the driver asks a LICENSE_MANAGER to"),
        (_GENERIC_PATH, retire_learner, "Retire a user, as the driver asks services known by address to"),
    ):
        app.add_api_route(path, endpoint, summary=summary, response_description="It is in the ledger.", **common)
        app.add_api_route(path.rstrip("/"), endpoint, include_in_schema=False, **common)

    @app.get(
        "/health",
        response_model=Health,
        responses={503: {"model": Health, "description": "ClickHouse does not answer."}},
    )
    def health() -> Response:
        """Whether retirements can be recorded."""
        there = desk.is_clickhouse_there()
        answer = Health(status="ok" if there else "unavailable", clickhouse=there, version=VERSION)
        return JSONResponse(answer.model_dump(), 200 if there else 503)

    @app.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    def metrics() -> Response:
        """For Prometheus: counts and ages, no ids."""
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


def _add_error_handlers(app: FastAPI) -> None:
    def answer(
        status: int,
        error: str,
        message: str,
        headers: Mapping[str, str] | None = None,
        fields: Mapping[str, str] | None = None,
    ) -> JSONResponse:
        problem = Problem(error=error, message=message, fields=dict(fields or {}))
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
                place, problem = [], {"msg": "not JSON"}
            # Only names that we know: others are the caller's, and may be anything.
            name = place[0] if place and place[0] in _FIELDS else "body"
            fields[name] = problem["msg"]
        return answer(400, "invalid", "The request is not valid; nothing was recorded.", fields=fields)

    @app.exception_handler(HTTPException)
    async def translate(request: Request, error: HTTPException) -> Response:
        if error.status_code == 404 and request.method not in ("GET", "HEAD"):
            # The driver takes 404 for "there is nothing about this user", and goes on.
            message = f"There is no such endpoint. The driver's is {_RETIRE_PATH}; check the address that it was given."
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


_FIELDS = frozenset({*RetireUser.model_fields, *RetireLearner.model_fields})


def _describe(app: FastAPI) -> None:
    """The OpenAPI document; FastAPI would announce 422, which is not what is answered."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
            for path in document["paths"].values():
                for operation in path.values():
                    operation["responses"].pop("422", None)
            for name in ("HTTPValidationError", "ValidationError"):
                document["components"]["schemas"].pop(name, None)
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


_SERVER_OPTIONS: dict[str, Any] = {"timeout_graceful_shutdown": SHUTDOWN_GRACE_SECONDS, "limit_concurrency": 200}


def serve_web(settings: Settings, host: str = "127.0.0.1", port: int = 8321) -> None:
    """Serve the hook until SIGTERM or SIGINT; prints one line with the address when ready. Port 0 takes a free one.

    Raises:
        UsageError: other hosts could reach it and callers need not authenticate, or the address is in use.
        SettingsError: the file of keys cannot be used.
        MapError: the map is not valid.
    """
    app = create_app(settings)
    if not is_loopback(host) and not app.state.guard.is_closed:
        raise UsageError(
            f"{host} can be reached from other hosts, so callers have to authenticate: set ASPECTS_WEB_TOKEN, or "
            "ASPECTS_WEB_JWT_SECRET or ASPECTS_WEB_JWT_PUBLIC_KEYS with ASPECTS_WEB_JWT_USERS, or listen on 127.0.0.1."
        )
    listener, url = listen(host, port)

    def announce() -> None:
        sys.stdout.write(f"Retirement hook on {url}{_RETIRE_PATH}\n")
        sys.stdout.flush()

    with listener:
        Server(app, announce, **_SERVER_OPTIONS).run(sockets=[listener])


@contextmanager
def serving(settings: Settings) -> Iterator[str]:
    """Serve the hook from a thread of this process; yields the URL, on a free loopback port."""
    with running_in_thread(create_app(settings), "retirement-hook", **_SERVER_OPTIONS) as url:
        yield url
