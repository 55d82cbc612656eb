"""The HTTP hook: `aspects-pii serve`.

It stands in for a service that Open edX's retirement driver knows (LICENSE_MANAGER), so that the driver can announce a
retirement without any change. The driver takes 404 for success and tries again after 5xx: an answer is 204 only when
the retirement is in the ledger, 5xx when it is not, and 404 never to a POST. Erasing is done afterwards, by a thread of
this process or by a worker.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse, RedirectResponse, Response
from fastapi.security import APIKeyHeader
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, generate_latest
from starlette.concurrency import run_in_threadpool

from sink.doors.events.sources import open_redis_streams, read_sources
from sink.doors.web.auth import Guard
from sink.doors.web.body_limit import BodyLimit
from sink.doors.web.models import Health, RetireUser
from sink.doors.web.privacy.actions import OfficerActions
from sink.doors.web.privacy.app import LARGEST_RECEIPT_BYTES, PrivacyPage
from sink.doors.web.privacy.officers import Officers
from sink.doors.web.privacy.pages import HOME
from sink.doors.web.problems import RESPONSES, add_error_handlers
from sink.doors.web.request_limit import RequestLimit
from sink.doors.web.service import PROBE_TIMEOUT_SECONDS, Connection, RetirementService, Sweeper
from sink.errors import UsageError
from sink.installation import find_address, read_map
from sink.resources import VERSION
from sink.serving import SHUTDOWN_GRACE_SECONDS, Server, is_loopback, listen, running_in_thread
from sink.settings import Settings

# .. no_pii: of a request only the user's id is read; see `models` for what else may be in one.

RECORD_TIMEOUT_SECONDS = 20
"""How long recording a retirement may take; after that the driver is told to come again."""

_REQUESTS_AT_A_TIME = 200
_log = logging.getLogger(__name__)

_RETIRE_PATH = "/api/v1/retire_user/"

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
        UsageError: there are keys of the LMS and no users, or nobody could sign in to the page for the data protection officer.
    """
    pii_map = read_map(settings)
    guard, officers = Guard(settings), Officers(settings) if settings.privacy_page else None
    service = RetirementService(
        enabled=settings.enable_pii,
        recording=Connection(settings, pii_map, timeout=RECORD_TIMEOUT_SECONDS, connect_timeout=5, retries=1),
        probing=Connection(
            settings, pii_map, timeout=PROBE_TIMEOUT_SECONDS, connect_timeout=PROBE_TIMEOUT_SECONDS, retries=0
        ),
        sweeper=Sweeper(Connection(settings, pii_map)) if settings.web_sweep else None,
        streams=open_redis_streams(settings, list(read_sources(settings, pii_map.subject).decoders))
        if settings.event_bus_url
        else None,
    )
    actions = OfficerActions(settings, pii_map, service.wake)
    registry = CollectorRegistry()
    registry.register(service)
    requests = Counter("aspects_pii_http_requests", "Requests by answer.", ["path", "status"], registry=registry)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        if service.sweeper is not None:
            service.sweeper.start()
        try:
            yield
        finally:
            await run_in_threadpool(service.close)
            await run_in_threadpool(actions.close)

    app = FastAPI(
        title="aspects-pii",
        version=VERSION,
        description="Records that a learner is to be retired. Works whether storing PII is on or off.",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        redirect_slashes=False,
    )
    app.state.guard, app.state.officers = guard, officers
    _add_endpoints(app, service, registry)
    if officers is not None:
        _add_privacy_page(app, PrivacyPage(actions, officers, settings.institution, settings.contact))
    add_error_handlers(app, _RETIRE_PATH)
    # Inside of the other: a request counts once its body is there, so that nobody keeps others out by sending slowly.
    app.add_middleware(RequestLimit, limit=_REQUESTS_AT_A_TIME)
    larger = {} if officers is None else {f"{HOME}/receipts": LARGEST_RECEIPT_BYTES}
    app.add_middleware(BodyLimit, limit=settings.web_max_body, larger=larger)
    _describe(app)

    @app.middleware("http")
    async def count(request: Request, call_next: Callable[[Request], Any]) -> Response:
        response: Response = await call_next(request)
        requests.labels(_name_path(app, request.url.path), str(response.status_code)).inc()
        return response

    return app


def _name_path(app: FastAPI, path: str) -> str:
    """A path as the metrics have it: one of ours, or `other`, whatever callers make up."""
    known = {getattr(route, "path", "") for route in app.routes}
    if HOME in known and path.startswith(f"{HOME}/"):
        return HOME
    return path if path in known else "other"


def _add_privacy_page(app: FastAPI, page: PrivacyPage) -> None:
    app.add_route(HOME, lambda _: RedirectResponse(f"{HOME}/", 303), methods=["GET"], include_in_schema=False)
    app.mount(HOME, page.make_app())


def _add_endpoints(app: FastAPI, service: RetirementService, registry: CollectorRegistry) -> None:
    def retire_user(body: RetireUser) -> Response:
        service.record(body.lms_user_id)
        return Response(status_code=204)

    common: dict[str, Any] = {
        "methods": ["POST"],
        "status_code": 204,
        "response_class": Response,
        "responses": RESPONSES,
        "dependencies": [Depends(_check_caller)],
    }
    summary = "Retire a user, as the driver asks a LICENSE_MANAGER to"
    app.add_api_route(_RETIRE_PATH, retire_user, summary=summary, response_description="It is in the ledger.", **common)
    app.add_api_route(_RETIRE_PATH.rstrip("/"), retire_user, include_in_schema=False, **common)

    @app.get(
        "/health",
        response_model=Health,
        responses={503: {"model": Health, "description": "ClickHouse does not answer."}},
    )
    def health() -> Response:
        """Whether retirements can be recorded."""
        there = service.is_clickhouse_up()
        answer = Health(status="ok" if there else "unavailable", clickhouse=there, version=VERSION)
        return JSONResponse(answer.model_dump(), 200 if there else 503)

    @app.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    def metrics() -> Response:
        """For Prometheus: counts and ages, no ids."""
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


def _describe(app: FastAPI) -> None:
    """The OpenAPI document.

    FastAPI 0.165.0 announces 422 for every endpoint, which is not what is answered here, and has no option to leave it
    out (https://github.com/fastapi/fastapi/issues/3424).
    """

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


_SERVER_OPTIONS: dict[str, Any] = {"timeout_graceful_shutdown": SHUTDOWN_GRACE_SECONDS}


def serve_web(settings: Settings, host: str = "127.0.0.1", port: int = 8321) -> None:
    """Serve the hook until SIGTERM or SIGINT; prints one line with the address when ready. Port 0 takes a free one.

    Raises:
        UsageError: other hosts could reach it and callers need not authenticate, or the address is in use.
        SettingsError: the file of keys cannot be used.
        MapError: the map is not valid.
    """
    app = create_app(settings)
    if not is_loopback(host) and not app.state.guard.requires_authentication:
        raise UsageError(
            f"{host} can be reached from other hosts, so callers have to authenticate: set ASPECTS_WEB_TOKEN, or "
            "ASPECTS_WEB_JWT_SECRET or ASPECTS_WEB_JWT_PUBLIC_KEYS with ASPECTS_WEB_JWT_USERS, or listen on 127.0.0.1."
        )
    listener, url = listen(host, port)
    # Here: while the engine is loaded, it works in a folder of its own.
    store = find_address(settings).described

    def announce() -> None:
        sys.stdout.write(f"Retirement hook on {url}{_RETIRE_PATH}\n")
        sys.stdout.flush()
        _log.info("Authentication: %s", app.state.guard.describe())
        if app.state.officers is not None:
            _log.info("Page for the data protection officer: %s%s/, with %s", url, HOME, app.state.officers.describe())
        _log.info("Store: %s", store)
        _log.info("Retirements are worked off %s", "here" if settings.web_sweep else "by a worker, or by `sweep`")
        _log.info("Waiting for the retirement driver; %s/health says whether they can be recorded", url)

    with listener:
        Server(app, announce, **_SERVER_OPTIONS).run(sockets=[listener])


@contextmanager
def serving(settings: Settings) -> Iterator[str]:
    """Serve the hook from a thread of this process; yields the URL, on a free loopback port."""
    with running_in_thread(create_app(settings), "retirement-hook", **_SERVER_OPTIONS) as url:
        yield url
