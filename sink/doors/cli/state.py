"""Commands about the whole: opting out, and where things stand."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sink.doors.cli.common import Actor, DryRun, Json, Yes, open_configured_store, print_json
from sink.doors.cli.dashboards import purge_dashboards
from sink.doors.cli.display import Progress, print_lines, print_table, say, warn
from sink.doors.cli.effective import find_env_file, list_effective
from sink.doors.cli.folders import list_open_folders
from sink.doors.cli.stopping import describe_purged, stopping_with
from sink.errors import UsageError
from sink.wording import choose, describe_seconds

if TYPE_CHECKING:
    from sink.datasets.build import Built
    from sink.retirement.status import Status
    from sink.settings import Settings

commands = typer.Typer()


@commands.command("purge")
def purge_command(
    force: Annotated[bool, typer.Option("--force", help="Although PII is on.")] = False,
    actor: Actor = None,
    accept: Annotated[
        list[str] | None,
        typer.Option("--accept", metavar="TABLE", help="A table that is not in the map and may stay; may be repeated."),
    ] = None,
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> int:
    """Opt out: remove all PII and everything built on it. Tombstones and ledger stay."""
    from sink.datasets.build import list_datasets
    from sink.erasure.purge import plan_purge, purge, require_off

    settings, store = open_configured_store()
    with store, stopping_with(store, describe_purged), Progress():
        plan = plan_purge(store, list_datasets(store.client))
        if as_json:
            lines = [asdict(line) for line in plan.lines]
            print_json({"store": store.name, "dry_run": dry_run, "plan": lines, "suspects": plan.suspects.places})
        else:
            print_table(
                ("object", "action", "columns", "rows"),
                [(line.name, line.action, ", ".join(line.columns), line.rows) for line in plan.lines],
            )
        if dry_run:
            if not as_json:
                print_lines([f"{place}: not in the PII map, and stays." for place in plan.suspects.places])
            return 0
        require_off(settings.enable_pii, force)
        if not yes:
            if not sys.stdin.isatty():
                raise UsageError("Standard input is not a terminal, so nobody can be asked. Pass --yes to confirm.")
            typer.confirm(f"Remove all of this from {store.name} for good?", abort=True, err=True)
        left = purge(store, plan, enabled=settings.enable_pii, force=force, accept=accept or (), actor=actor)
    for line in left.kept:
        say(f"Kept on {store.name} by the PII map: {line}.")
    for line in left.copies:
        say(f"Purged on {store.name}, but for {line}.")
    if left.suspects:
        are, them = choose(len(left.suspects), "is", "are"), choose(len(left.suspects), "it", "them")
        say(
            f"Purged on {store.name} what the PII map names. {', '.join(left.suspects)} may hold PII and {are} not in it: "
            f"add {them} to the map and purge again, name {them} under `not_pii`, or accept the table with --accept."
        )
    elif not as_json and not left.copies:
        what = "no PII is left but what the PII map keeps" if left.kept else "no PII is left"
        print_lines([f"Purged and verified on {store.name}: {what}. Tombstones and ledger stay."])
    if settings.superset_url is not None:
        purge_dashboards(settings, as_json)
    return 1 if left.suspects or left.copies else 0


@commands.command("status")
def status_command(as_json: Json = False) -> int:
    """The flag, what is held, open retirements and the age of the oldest, what was done last, settings, versions."""
    from sink.installation import find_map
    from sink.retirement.status import read_status

    settings, store = open_configured_store()
    with store:
        status = read_status(store, enabled=settings.enable_pii)
    effective, open_folders = list_effective(settings), list_open_folders(settings)
    if as_json:
        print_json(
            {
                **asdict(status),
                "healthy": status.is_healthy,
                "pii_map": find_map(settings).resolve(),
                "env_file": find_env_file(),
                "open_folders": open_folders,
                "settings": [{**asdict(setting), "origin": setting.origin} for setting in effective],
            }
        )
    else:
        print_table(("", ""), [*_describe_status(status), *_describe_files(settings, status)])
        print_lines([f"{failed['subject']}: {failed['reason']}" for failed in status.failed])
        print_table(
            ("setting", "value", "from"),
            [
                (setting.name, "" if setting.value is None else setting.value, setting.origin)
                for setting in effective
                if not setting.is_default
            ],
        )
    for warning in [*status.warnings, *open_folders]:
        warn(warning)
    return 0 if status.is_healthy else 1


def _describe_status(status: Status) -> list[tuple[str, Any]]:
    age = "-" if status.oldest_open_seconds is None else describe_seconds(status.oldest_open_seconds)
    return [
        ("PII", "on" if status.enabled else "off"),
        ("datasets", _describe_datasets(status.datasets)),
        ("ClickHouse", f"{status.clickhouse} ({status.versions['clickhouse']})"),
        ("aspects-pii", status.versions["aspects-pii-sink"]),
        ("subjects held", status.subjects),
        *((name, "absent" if rows is None else rows) for name, rows in status.rows.items()),
        *((f"retirements {state}", count) for state, count in status.retirements.items()),
        ("open", "unknown" if status.open is None else status.open),
        ("oldest open", age),
        ("restricted", "unknown" if status.restricted is None else status.restricted),
        *((f"last {work}", at or "never") for work, at in status.last.items()),
    ]


def _describe_datasets(built: Built) -> str:
    counts = {"PII on": built.with_pii, "PII off": built.without_pii, "an older version": built.unknown}
    return ", ".join(f"{count} built with {what}" for what, count in counts.items() if count) or "none"


def _describe_files(settings: Settings, status: Status) -> list[tuple[str, Any]]:
    from sink.installation import find_map

    return [
        ("PII map", find_map(settings).resolve()),
        (".env", find_env_file() or "none"),
        ("receipts", f"{settings.receipts_dir.resolve()} ({'signed' if status.receipts_signed else 'not signed'})"),
    ]
