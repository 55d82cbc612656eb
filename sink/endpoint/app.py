"""The embedded engine behind ClickHouse's HTTP protocol: `aspects-pii clickhouse`.

One process may open the engine's data folder; through this endpoint others (dbt, Superset, a second
`aspects-pii`) share it with the clients they already have. Nothing here logs a query, a body or an address.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from sink.endpoint.engine import Engine
from sink.endpoint.handlers import Endpoint
from sink.errors import UsageError
from sink.serving import Server, is_loopback, listen, running_in_thread

MAX_BODY_BYTES = 1 << 30


async def _answer_not_found(_: Request, __: Exception) -> Response:
    return PlainTextResponse("There is no handler here: queries go to /, /ping says whether the engine runs.\n", 404)


def create_app(
    folder: Path, *, user: str = "default", password: SecretStr | None = None, max_body_bytes: int = MAX_BODY_BYTES
) -> Starlette:
    """The endpoint over the engine in `folder`, as an ASGI application; the engine runs while its lifespan does.

    Without a `password` requests must come under a loopback host name and not from a web page.
    `max_body_bytes` is the largest body after decompression; it is held in memory.
    """
    endpoint = Endpoint(folder, user, password, max_body_bytes)
    return Starlette(
        routes=[
            Route("/", endpoint.answer_query, methods=["GET", "POST"]),
            Route("/ping", endpoint.answer_ping),
            Route("/replicas_status", endpoint.answer_ping),
        ],
        exception_handlers={404: _answer_not_found},
        lifespan=endpoint.lifespan,
    )


def serve(
    folder: Path,
    host: str = "127.0.0.1",
    port: int = 8123,
    user: str = "default",
    password: SecretStr | None = None,
) -> None:
    """Serve the engine in `folder` until SIGTERM or SIGINT; prints one line with the address when ready.

    Port 0 takes a free one. Running queries are waited for, and cancelled after `SHUTDOWN_GRACE_SECONDS` seconds.

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
