"""Commands that make up for what was missed: by an event, by the map as it was, or by a backup."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from sink.doors.cli.common import DryRun, Force, Json, open_configured_store, print_json
from sink.doors.cli.display import print_lines, print_table
from sink.doors.cli.outcomes import describe_as_json, show_outcomes
from sink.doors.cli.stopping import describe_repeated, stopping_with
from sink.errors import UsageError
from sink.installation import find_lms, open_lms, open_store
from sink.ledger.chain import Trust
from sink.retirement.reconcile import reconcile, second_pass
from sink.retirement.replay import Replayed, backfill_retired, replay
from sink.settings import load_settings

commands = typer.Typer()


@commands.command("reconcile")
def reconcile_command(
    force: Force = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> int:
    """Retire whoever the LMS has retired and no event told us of."""
    settings = load_settings()
    lms = open_lms(settings)
    with open_store(settings) as store, stopping_with(store, describe_repeated("reconcile")):
        result = reconcile(store, lms, dry_run=dry_run, force=force)
    if as_json:
        documents = [describe_as_json(outcome) for outcome in result.outcomes]
        print_json({"store": store.name, "in_lms": result.in_lms, "missed": result.missed, "retirements": documents})
        return 0 if all(outcome.is_done for outcome in result.outcomes) else 1
    print_lines(
        [f"{result.in_lms} users are retired in the LMS, {len(result.missed)} of them were not on {store.name}."]
    )
    if dry_run:
        print_lines(result.missed)
        return 0
    return show_outcomes(result.outcomes, as_json, store.name) if result.outcomes else 0


@commands.command("second-pass")
def second_pass_command(
    force: Force = False,
    as_json: Json = False,
) -> int:
    """Look again at every erasure that is older than ASPECTS_SECOND_PASS_AFTER, and erase what came back."""
    _, store = open_configured_store()
    with store, stopping_with(store, describe_repeated("second-pass")):
        return show_outcomes(second_pass(store, force=force), as_json, store.name)


@commands.command("backfill-retired")
def backfill_command(
    force: Force = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> int:
    """Apply the map as it is now to everyone ever retired, and work off what is open."""
    settings = load_settings()
    lms = find_lms(settings)
    with open_store(settings) as store, stopping_with(store, describe_repeated("backfill-retired")):
        result = backfill_retired(store, lms=lms, dry_run=dry_run, force=force)
        return _show_replayed(result, dry_run, as_json, store.name)


@commands.command("replay")
def replay_command(
    file: Annotated[Path | None, typer.Option("--from", help="A file that `ledger export` has written.")] = None,
    installation: Annotated[
        str | None,
        typer.Option(metavar="ID", help="The file is of this other installation, or of this one before a loss."),
    ] = None,
    unsigned: Annotated[
        bool,
        typer.Option(
            "--unsigned", help="Take a file whose signature cannot be checked, since you know where it is from."
        ),
    ] = False,
    force: Force = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> int:
    """After a restore from backup: apply the ledger's retirements again, and work off what is open."""
    if file is None and (installation or unsigned):
        raise UsageError("--installation and --unsigned are about a file; name it with --from.")
    _, store = open_configured_store()
    trust = Trust(installation, unsigned)
    with store, stopping_with(store, describe_repeated("replay")):
        result = replay(store, file=file, trust=trust, dry_run=dry_run, force=force)
        return _show_replayed(result, dry_run, as_json, store.name)


def _show_replayed(result: Replayed, dry_run: bool, as_json: bool, place: str) -> int:
    if as_json:
        document = {name: value for name, value in asdict(result).items() if name != "outcomes"}
        retirements = [describe_as_json(outcome) for outcome in result.outcomes]
        print_json({"store": place, **document, "retirements": retirements})
        return 0 if all(outcome.is_done for outcome in result.outcomes) and not result.with_gaps else 1
    if result.entries_restored:
        verb = "would be" if dry_run else "were"
        print_lines([f"{result.entries_restored} entries of the ledger {verb} restored."])
    print_table(("table", "rows of retired users"), sorted(result.rows.items()))
    print_lines([f"{result.retired} users are retired; rows of {len(result.subjects)} of them were on {place}."])
    if result.open:
        print_lines([f"{len(result.open)} retirements were open."])
    print_lines(
        [
            f"{table}: {len(subjects)} could not be looked for, since rows are found by name there and none is known."
            for table, subjects in result.not_asked.items()
        ]
    )
    status = 0 if dry_run or not result.outcomes else show_outcomes(result.outcomes, as_json, place)
    return status or int(result.with_gaps > 0)
