"""`aspects-pii map`."""

from __future__ import annotations

from dataclasses import asdict, replace
from enum import StrEnum
from typing import Annotated

import typer

from sink.doors.cli.common import Json, open_configured_store, print_json
from sink.doors.cli.display import escape, print_lines, print_table, say
from sink.erasure import coverage
from sink.erasure.problems import Problem
from sink.errors import UsageError
from sink.installation import read_map
from sink.pii_map import PiiMap
from sink.resources import find_resource
from sink.rights.record import compose_record
from sink.rights.record_formats import write_csv, write_json, write_markdown
from sink.settings import Settings, load_settings
from sink.wording import counted


class Output(StrEnum):
    """How `map show` writes."""

    TEXT = "text"
    MARKDOWN = "md"
    JSON = "json"
    CSV = "csv"


commands = typer.Typer(help="The PII map: what is where, and whether anything is missing in it.", no_args_is_help=True)


@commands.command("check")
def map_check(as_json: Json = False) -> int:
    """Hold the map against the live schema: is there PII that no rule reaches, and can `sync` copy what the map keeps?"""
    # What reads an LMS is loaded where it is needed.
    from sink.copying.copies import find_keep_problems

    _, store = open_configured_store()
    with store:
        found = coverage.check_map(store)
        # What keeps a copy from being made is as wrong as what an erasure cannot reach.
        keep = [Problem(*problem) for problem in find_keep_problems(store)]
        found = replace(found, problems=sorted({*found.problems, *keep}, key=str))
        if as_json:
            print_json({**asdict(found), "complete": found.is_complete})
        else:
            print_lines([f"{name}: absent." for name in found.absent])
            print_lines([str(problem) for problem in found.problems])
            print_lines([f"Warning: {warning}" for warning in found.warnings])
            targets, problems = counted(len(found.targets), "target"), counted(len(found.problems), "problem")
            print_lines([f"{targets}, {len(found.absent):,} absent, {problems}."])
        # After what was found is said, as the ledger may not take it.
        coverage.record_coverage(store.ledger, found)
    return 0 if found.is_complete else 1


@commands.command("show")
def map_show(
    output: Annotated[
        Output, typer.Option("--format", help="text; or the record of processing (GDPR article 30) as md, json or csv.")
    ] = Output.TEXT,
    as_json: Json = False,
) -> int:
    """What is where, and what a retirement does to it; or the record of processing. Asks no ClickHouse."""
    settings = load_settings()
    pii_map = read_map(settings)
    if output is not Output.TEXT:
        if as_json:
            raise UsageError("--json prints the map, and --format the record of processing. Say one of them.")
        _show_record(pii_map, settings, output)
    elif as_json:
        print_json(pii_map.model_dump(mode="json"))
    else:
        _show_map(pii_map)
    return 0


def _show_record(pii_map: PiiMap, settings: Settings, output: Output) -> None:
    activities = compose_record(pii_map, find_resource("dbt_project"))
    if output is Output.JSON:
        print_json(write_json(activities, settings.institution, settings.contact))
    elif output is Output.CSV:
        typer.echo(escape(write_csv(activities)), nl=False)
    else:
        typer.echo(escape(write_markdown(activities, settings.institution, settings.contact)), nl=False)
    unsaid = [activity.table for activity in activities if not activity.is_complete]
    if unsaid:
        number = counted(len(unsaid), "target has", "targets have")
        say(f"{number} no purpose, legal basis or source in the map: {', '.join(unsaid)}.")


def _show_map(pii_map: PiiMap) -> None:
    rows = []
    for name, target in pii_map.targets.items():
        for rule in target.rules:
            what = rule.on_retire
            action = what.retain or ", ".join(
                [*(f"redact {c}" for c in what.redact), *(["delete"] if what.delete else [])]
            )
            rows.append((name, f"{rule.key} = {rule.template}", ", ".join(target.pii), action))
    print_table(("target", "subject", "PII", "on retirement"), rows)
    print_lines([f"Derived: {', '.join(pii_map.derived) or 'nothing'}."])
