"""The embedded engine behind ClickHouse's HTTP protocol: `aspects-pii clickhouse`.

One process may open the engine's data folder; through this endpoint others (dbt, Superset, a second
`aspects-pii`) share it with the clients they already have. There is always a password: whoever is on this host, or has
a web page open there, can reach a loopback address. Nothing here logs a query, a body or an address.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from shlex import quote

from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from sink.clickhouse.confinement import confine, confine_engine_thread, confine_engine_threads
from sink.clickhouse.connection import make_data_folder
from sink.endpoint.credentials import Account
from sink.endpoint.engine import Engine, read_options
from sink.endpoint.handlers import Endpoint
from sink.endpoint.passwords import find_password
from sink.errors import SettingsError, UsageError
from sink.resources import find_resource
from sink.serving import Server, is_loopback, listen, running_in_thread

MAX_BODY_BYTES = 1 << 28


async def _answer_not_found(_: Request, __: Exception) -> Response:
    return PlainTextResponse("There is no handler here: queries go to /, /ping says whether the engine runs.\n", 404)


def create_app(
    folder: Path,
    account: Account,
    *,
    users_file: Path | None = None,
    max_body_bytes: int = MAX_BODY_BYTES,
) -> Starlette:
    """The endpoint over the engine in `folder`, as an ASGI application; the engine runs while its lifespan does.

    `max_body_bytes` is the largest body after decompression; it is held in memory.
    """
    endpoint = Endpoint(folder, account, users_file, max_body_bytes)
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
    users_file: Path | None = None,
    *,
    confined: bool = True,
) -> None:
    """Serve the engine in `folder` until SIGTERM or SIGINT; says where it is, and how to come in, when ready.

    Port 0 takes a free one. Running queries are waited for, and cancelled after `SHUTDOWN_GRACE_SECONDS` seconds.
    Without a password, or with an empty one, one is made and kept in the data folder.

    This process, from here on, can reach nothing beside the data folder, whatever the engine is asked, unless `confined` is
    False; where the kernel cannot see to that, standard error says so.

    Raises:
        UsageError: the address is not this host's own and no password was set, or it is in use; or the file of the
            password that was made cannot be used.
        SettingsError: the users file is not one.
        DatabaseError: one of its subclasses says why the engine does not start.
    """
    kept: Path | None = None
    if password is None or not password.get_secret_value():
        if not is_loopback(host):
            raise UsageError(
                f"{host} can be reached from other hosts, so a password has to be set: ASPECTS_CLICKHOUSE_PASSWORD. "
                "Or listen on 127.0.0.1."
            )
        password, kept = find_password(folder)
    options = read_options(users_file)
    listener, url = listen(host, port)
    # Before the engine starts threads, which would not be confined.
    files = [Path(options[name]) for name in ("config-file", "users_config") if name in options]
    make_data_folder(folder)
    # This process as a whole, or nothing of it.
    confine_engine_threads(False)
    if confined and (open_to := confine(folder, files)):
        sys.stderr.write(
            f"Whoever has the password can reach {', '.join(open_to)} from here: this needs Linux 5.13 with Landlock.\n"
        )
    try:
        engine = Engine(folder, users_file)  # Here, where its exceptions reach the caller.
    except BaseException:
        listener.close()
        raise
    if users_file is None and engine.granted:
        raise SettingsError(
            f"The engine did not read {find_resource('config/engine')}, which keeps it from files and addresses."
        )
    app = create_app(folder, Account(user, password), users_file=users_file)

    def announce() -> None:
        sys.stdout.write(f"ClickHouse protocol on {url} (data in {folder})\n")
        if kept is not None:
            sys.stdout.write(
                "In another terminal:\n"
                f"  export ASPECTS_CLICKHOUSE_URL={url} ASPECTS_CLICKHOUSE_USER={quote(user)}\n"
                f'  export ASPECTS_CLICKHOUSE_PASSWORD="$(cat {quote(str(kept))})"\n'
            )
        sys.stdout.flush()

    try:
        Server(app, announce, engine.cancel_queries).run(sockets=[listener])
    finally:
        listener.close()
        engine.close()


@contextmanager
def running(folder: Path, *, password: SecretStr, user: str = "default") -> Iterator[str]:
    """Serve the engine in `folder` from a thread of this process; yields the URL, on a free loopback port.

    Other connections of this process to the same folder go on working beside it.

    Raises:
        DatabaseError: one of its subclasses says why the engine does not start.
    """
    make_data_folder(folder)
    with ThreadPoolExecutor(1, initializer=partial(confine_engine_thread, folder)) as thread:
        engine = thread.submit(Engine, folder).result()
        app = create_app(folder, Account(user, password))
        try:
            with running_in_thread(app, "clickhouse-endpoint") as url:
                yield url
        finally:
            thread.submit(engine.close).result()
