"""Commands that go on: the endpoint, the worker, the consumer, the hook; and the demo."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from sink.doors.cli.common import Json, print_json
from sink.doors.cli.display import print_lines, print_table
from sink.doors.cli.speech import say_more
from sink.errors import UsageError

commands = typer.Typer()


@commands.command("clickhouse")
def clickhouse_command(
    host: Annotated[
        str, typer.Option(help="Address to listen on; others than loopback need a password that is set.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8123,
    unconfined: Annotated[
        bool,
        typer.Option(
            "--unconfined", help="Let statements reach files and hosts, as ASPECTS_CLICKHOUSE_USERS_FILE grants."
        ),
    ] = False,
) -> int:
    """Serve the embedded engine over ClickHouse's HTTP protocol, so that several processes can use it."""
    from sink.endpoint.app import serve
    from sink.installation import find_address
    from sink.settings import load_settings

    settings = load_settings()
    address = find_address(settings)
    if not address.is_embedded:
        raise UsageError(
            f"ASPECTS_CLICKHOUSE_URL is a server already ({address.url}). Set it to chdb:///FOLDER to serve one."
        )
    serve(
        address.folder,
        host=host,
        port=port,
        user=address.user,
        password=address.password,
        users_file=settings.clickhouse_users_file,
        confined=not unconfined,
    )
    return 0


@commands.command("worker")
def worker_command(
    beat: Annotated[bool, typer.Option(help="Also send what is on schedule; one worker has to.")] = True,
    concurrency: Annotated[int | None, typer.Option(min=1, help="Processes.")] = None,
) -> int:
    """Run the Celery worker and its schedule."""
    from celery import signals

    from sink.doors.worker.app import run_worker
    from sink.settings import load_settings

    settings = load_settings()
    say_more()
    signals.setup_logging.connect(_keep_log)
    return run_worker(settings, beat=beat, concurrency=concurrency)


def _keep_log(**_: object) -> None:
    """Celery asks whether somebody else sets up the log, and otherwise sets up one of its own, in another form."""


@commands.command("consume")
def consume_command(
    once: Annotated[bool, typer.Option("--once", help="Work off what is there, and end.")] = False,
    as_json: Json = False,
) -> int:
    """Read the Open edX event bus and streams of JSON events."""
    from sink.doors.events.consumer import run_consumer
    from sink.settings import load_settings

    if not once:
        say_more()
    counts = run_consumer(load_settings(), once=once)
    if as_json:
        print_json(asdict(counts))
    else:
        print_table(("", ""), list(asdict(counts).items()))
    return 1 if once and counts.failed else 0


@commands.command("heartbeat")
def heartbeat_command(
    name: Annotated[str, typer.Argument(help="worker or consumer.")],
    as_json: Json = False,
) -> int:
    """Whether the worker or consumer of this host or container is at work; for health checks."""
    from sink.doors.heartbeat import check as check_heartbeat
    from sink.settings import load_settings

    age = check_heartbeat(load_settings().heartbeat_dir, name)
    if as_json:
        print_json({"name": name, "age_seconds": age.total_seconds()})
    else:
        print_lines([f"The {name} gave a sign of life {age.total_seconds():.0f} s ago."])
    return 0


@commands.command("serve")
def serve_command(
    host: Annotated[
        str, typer.Option(help="Address to listen on; others than loopback need authentication.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8321,
) -> int:
    """Serve the HTTP hook that Open edX's retirement driver calls."""
    from sink.doors.web.app import serve_web
    from sink.settings import load_settings

    say_more()
    serve_web(load_settings(), host=host, port=port)
    return 0


@commands.command("demo")
def demo_command(
    context: typer.Context,
    folder: Annotated[Path, typer.Option(help="Where everything goes.")] = Path("aspects-pii-demo"),
    users: Annotated[int, typer.Option(min=100, help="Users of the generated LMS.")] = 10_000,
    seed: Annotated[int, typer.Option(help="The same seed makes the same data.")] = 1,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the folder for a look around.")] = False,
) -> int:
    """The whole story on generated data, embedded, in about a minute."""
    from sink.doors.cli.demo import run_demo

    return run_demo(context.obj, folder, users=users, seed=seed, keep=keep)
