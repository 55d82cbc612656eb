"""What commands share: their options, the store, JSON.

A command imports what does its work when it runs: SQLAlchemy, httpx, Celery and the servers take seconds to load, and
`aspects-pii --help` needs none of them. What is loaded in any case is imported at the top.
"""

from __future__ import annotations

import json
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sink.actors import check_actor
from sink.doors.cli.speech import escape_json

if TYPE_CHECKING:
    from sink.settings import Settings
    from sink.store import Store


class Format(StrEnum):
    """The form of a report."""

    TEXT = "text"
    JSON = "json"


Json = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]
FormatOption = Annotated[Format, typer.Option("--format", help="text or json.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would be done, and do nothing.")]
Scan = Annotated[
    bool, typer.Option("--scan", help="Also search every text of the databases for names and e-mail addresses.")
]
Force = Annotated[bool, typer.Option("--force", help="Even where it touches much of a table.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Actor = Annotated[
    str | None,
    typer.Option(
        "--actor",
        callback=check_actor,
        help="Opaque id of who asks: a number, a UUID, or service:NAME; the system if left out.",
    ),
]


def open_configured_store() -> tuple[Settings, Store]:
    """The settings, and the store that they describe."""
    from sink.installation import open_store
    from sink.settings import load_settings

    settings = load_settings()
    return settings, open_store(settings)


def print_json(document: Any) -> None:
    """Print the one document of a command with `--json`."""
    typer.echo(escape_json(json.dumps(document, indent=2, ensure_ascii=False, default=_describe_value)))


def _describe_value(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)
