"""`aspects-pii ledger`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from sink.doors.cli.common import Actor, Json, open_configured_store, print_json
from sink.doors.cli.display import print_lines, print_table, say
from sink.errors import UsageError
from sink.ledger.checking import check_ledger, void_entries
from sink.ledger.files import Exported, export_ledger, write_ledger
from sink.ledger.installation_id import Installation, read_installation
from sink.ledger.role_trail import Operation, RoleChange, show_changes
from sink.store import Store
from sink.wording import counted

commands = typer.Typer(
    help="The audit log: exports, what cannot be right in it, and taking that out.", no_args_is_help=True
)


@commands.command("export")
def ledger_export(
    file: Annotated[Path, typer.Argument(help="File to write, a JSON line an entry; - is standard output.")],
    as_json: Json = False,
) -> int:
    """Write the ledger to a file that lives outside the backups, for `replay --from`."""
    to_output = str(file) == "-"
    if to_output and as_json:
        raise UsageError("`-` and --json both want standard output. Leave --json out, or name a file.")
    _, store = open_configured_store()
    with store:
        installation = read_installation(store.client, store.policy.receipt_key, store.policy.pseudonym_secret)
        exported = (
            _write_to_output(store, installation) if to_output else export_ledger(store.client, installation, file)
        )
    if to_output:
        say(f"{_count(exported)}. The installation is {installation.id}.")
    elif as_json:
        print_json({**asdict(exported), "file": file, "installation": installation.id})
    else:
        print_lines(
            [
                f"{counted(exported.entries, 'entry is', 'entries are')} in {file}"
                f"{_add_roles(exported)}. The installation is {installation.id}."
            ]
        )
    if wrong := exported.left_out + exported.mended:
        entries, left_out = counted(wrong, "entry", "entries"), counted(exported.left_out, "of them is", "of them are")
        say(
            f"Warning: {entries} cannot be right: {left_out} not in the file, and of the others "
            "what is wrong is not. `aspects-pii ledger check` lists them, `ledger void` takes them out."
        )
    return 1 if exported.left_out else 0


def _count(exported: Exported) -> str:
    return f"{counted(exported.entries, 'entry', 'entries')}{_add_roles(exported)}"


def _add_roles(exported: Exported) -> str:
    return f", with {counted(exported.roles, 'change')} of roles" if exported.roles else ""


def _write_to_output(store: Store, installation: Installation) -> Exported:
    try:
        return write_ledger(store.client, installation, sys.stdout.buffer)
    except OSError as error:
        # What could not be written is not tried again when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise UsageError(f"Standard output cannot be written: {error.strerror}.") from None


@commands.command("check")
def ledger_check(as_json: Json = False) -> int:
    """List entries that cannot be right, and end with 1 where there are any."""
    _, store = open_configured_store()
    with store:
        flagged = check_ledger(store.client, store.pii_map.subject)
    if as_json:
        print_json({"entries": [asdict(found) for found in flagged], "clean": not flagged})
    elif flagged:
        print_table(
            ("entry", "at", "subject", "action", "why it cannot be right"),
            [(f.entry, f.at, f.subject or "(no id)", f.action or "(unknown)", f.reason) for f in flagged],
        )
        entries = counted(len(flagged), "entry", "entries")
        print_lines([f"{entries} cannot be right. `aspects-pii ledger void ENTRY --reason TEXT` takes one out."])
    else:
        print_lines(["Every entry can be right."])
    return 1 if flagged else 0


@commands.command("void")
def ledger_void(
    entries: Annotated[list[str], typer.Argument(metavar="ENTRY", help="What `ledger check` calls it.")],
    reason: Annotated[str, typer.Option("--reason", help="Why, in a line that names nobody.")],
    actor: Actor = None,
    as_json: Json = False,
) -> int:
    """Take out entries that cannot be right, by entries of their own; nobody whose erasure has begun comes back by it."""
    _, store = open_configured_store()
    with store:
        voided = void_entries(store.client, store.pii_map.subject, entries, reason, actor)
    if as_json:
        print_json(asdict(voided))
    else:
        print_lines([f"{entry}: taken out." for entry in voided.entries])
        print_lines([f"{subject}: is not being retired any more." for subject in voided.lifted])
    return 0


@commands.command("show")
def ledger_show(
    subject: Annotated[str | None, typer.Option(help="Only about this subject.")] = None,
    action: Annotated[
        str | None, typer.Option(help="Only this action, such as erased; with --scope, given or taken.")
    ] = None,
    scope: Annotated[
        str | None,
        typer.Option(
            help="Instead: who was given which role in this course, organisation (`course-v1:ORG+*`) or all (`*`)."
        ),
    ] = None,
    actor: Annotated[str | None, typer.Option(help="Only asked for by this actor.")] = None,
    since: Annotated[datetime | None, typer.Option(help="From this time on, UTC.")] = None,
    until: Annotated[datetime | None, typer.Option(help="Before this time, UTC.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="The newest so many.")] = 100,
    as_json: Json = False,
) -> int:
    """Show entries, the newest last; with --scope, the audit trail of roles."""
    _, store = open_configured_store()
    if scope is not None:
        if action is not None and action not in [*Operation]:
            raise UsageError(f"--action: with --scope it is {' or '.join(Operation)}.")
        with store:
            changes = show_changes(
                store.client,
                scope=scope,
                subject=subject,
                operation=action,
                actor=actor,
                since=_utc(since),
                until=_utc(until),
                limit=limit,
            )
        _print_changes(changes, as_json=as_json)
        return 0
    with store:
        entries = store.ledger.show(
            subject=subject, action=action, actor=actor, since=_utc(since), until=_utc(until), limit=limit
        )
    if as_json:
        print_json([asdict(entry) for entry in entries])
    else:
        print_table(
            ("entry", "at", "subject", "action", "actor", "detail"),
            [
                (
                    e.entry,
                    e.at.isoformat(timespec="seconds"),
                    e.subject,
                    f"{e.action} (voided)" if e.is_voided else e.action,
                    e.actor or "system",
                    _brief(e.detail),
                )
                for e in entries
            ],
        )
    return 0


def _describe_change(change: RoleChange) -> dict[str, str | None]:
    told = change.describe()
    return {"action": told.pop("operation"), **told, "by": change.done_by}


def _print_changes(changes: Sequence[RoleChange], *, as_json: bool) -> None:
    if as_json:
        print_json([_describe_change(change) for change in changes])
        return
    print_table(
        ("at", "subject", "action", "role", "scope", "by", "source"),
        [
            (
                change.at.isoformat(timespec="seconds"),
                change.subject,
                change.operation.value,
                change.role,
                change.scope,
                change.done_by,
                change.source.value,
            )
            for change in changes
        ],
    )


def _utc(moment: datetime | None) -> datetime | None:
    return None if moment is None else moment.replace(tzinfo=moment.tzinfo or UTC)


def _brief(detail: dict[str, Any]) -> str:
    return json.dumps({name: value for name, value in detail.items() if name != "receipt"}) if detail else ""
