"""`aspects-pii map`."""

from __future__ import annotations

from dataclasses import asdict

import typer

from sink.doors.cli.common import Json, open_configured_store, print_json
from sink.doors.cli.display import print_lines, print_table
from sink.wording import counted

commands = typer.Typer(help="The PII map: what is where, and whether anything is missing in it.", no_args_is_help=True)


@commands.command("check")
def map_check(as_json: Json = False) -> int:
    """Hold the map against the live schema: is there PII that no rule reaches?"""
    from sink.erasure import coverage

    _, store = open_configured_store()
    with store:
        found = coverage.check_map(store)
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
def map_show(as_json: Json = False) -> int:
    """What is where, and what a retirement does to it."""
    from sink.installation import read_map
    from sink.settings import load_settings

    pii_map = read_map(load_settings())
    if as_json:
        print_json(pii_map.model_dump(mode="json"))
        return 0
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
    return 0
