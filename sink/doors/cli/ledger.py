"""`aspects-pii ledger`."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from sink.doors.cli.common import Json, open_configured_store, print_json
from sink.doors.cli.display import print_lines, print_table
from sink.ledger.files import export_ledger

commands = typer.Typer(help="The audit log.", no_args_is_help=True)


@commands.command("export")
def ledger_export(
    file: Annotated[Path, typer.Argument(help="File to write, a JSON line an entry.")], as_json: Json = False
) -> int:
    """Write the ledger to a file that lives outside the backups, for `replay --from`."""
    _, store = open_configured_store()
    with store:
        count = export_ledger(store.ledger, file)
    if as_json:
        print_json({"entries": count, "file": file})
    else:
        print_lines([f"{count} entries are in {file}."])
    return 0


@commands.command("show")
def ledger_show(
    subject: Annotated[str | None, typer.Option(help="Only about this subject.")] = None,
    action: Annotated[str | None, typer.Option(help="Only this action, such as erased.")] = None,
    actor: Annotated[str | None, typer.Option(help="Only asked for by this actor.")] = None,
    since: Annotated[datetime | None, typer.Option(help="From this time on, UTC.")] = None,
    until: Annotated[datetime | None, typer.Option(help="Before this time, UTC.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="The newest so many.")] = 100,
    as_json: Json = False,
) -> int:
    """Show entries, the newest last."""
    _, store = open_configured_store()
    with store:
        entries = store.ledger.show(
            subject=subject, action=action, actor=actor, since=_utc(since), until=_utc(until), limit=limit
        )
    if as_json:
        print_json([asdict(entry) for entry in entries])
    else:
        print_table(
            ("at", "subject", "action", "actor", "detail"),
            [
                (e.at.isoformat(timespec="seconds"), e.subject, e.action, e.actor or "system", _brief(e.detail))
                for e in entries
            ],
        )
    return 0


def _utc(moment: datetime | None) -> datetime | None:
    return None if moment is None else moment.replace(tzinfo=moment.tzinfo or UTC)


def _brief(detail: dict[str, Any]) -> str:
    return json.dumps({name: value for name, value in detail.items() if name != "receipt"}) if detail else ""
