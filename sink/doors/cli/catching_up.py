"""Commands that make up for what was missed: by an event, by the map as it was, or by a backup."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sink.doors.cli.common import DryRun, Force, Json, open_configured_store, print_json
from sink.doors.cli.display import Progress, print_lines, print_table
from sink.doors.cli.outcomes import describe_as_json, show_outcomes
from sink.doors.cli.stopping import describe_repeated, stopping_with
from sink.errors import UsageError
from sink.wording import choose, counted

if TYPE_CHECKING:
    from sink.retirement.replay import Replayed

commands = typer.Typer()


@commands.command("reconcile")
def reconcile_command(
    force: Force = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> int:
    """Retire whoever the LMS has retired and no event told us of."""
    from sink.installation import open_lms, open_store
    from sink.retirement.reconcile import reconcile
    from sink.settings import load_settings

    settings = load_settings()
    lms = open_lms(settings)
    with open_store(settings) as store, stopping_with(store, describe_repeated("reconcile")), Progress():
        result = reconcile(store, lms, dry_run=dry_run, force=force)
    if as_json:
        documents = [describe_as_json(outcome) for outcome in result.outcomes]
        print_json({"store": store.name, "in_lms": result.in_lms, "missed": result.missed, "retirements": documents})
        return 0 if all(outcome.is_done for outcome in result.outcomes) else 1
    retired, missed = counted(result.in_lms, "user is", "users are"), len(result.missed)
    were = counted(missed, "of them was", "of them were")
    print_lines([f"{retired} retired in the LMS, {were} not on {store.name}."])
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
    from sink.retirement.reconcile import second_pass

    _, store = open_configured_store()
    with store, stopping_with(store, describe_repeated("second-pass")), Progress():
        return show_outcomes(second_pass(store, force=force), as_json, store.name)


@commands.command("backfill-retired")
def backfill_command(
    force: Force = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> int:
    """Apply the map as it is now to everyone ever retired, and work off what is open."""
    from sink.installation import find_lms, open_store
    from sink.retirement.replay import backfill_retired
    from sink.settings import load_settings

    settings = load_settings()
    lms = find_lms(settings)
    with open_store(settings) as store, stopping_with(store, describe_repeated("backfill-retired")), Progress():
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
    from sink.ledger.chain import Trust
    from sink.retirement.replay import replay

    if file is None and (installation or unsigned):
        raise UsageError("--installation and --unsigned are about a file; name it with --from.")
    _, store = open_configured_store()
    trust = Trust(installation, unsigned)
    with store, stopping_with(store, describe_repeated("replay")), Progress():
        result = replay(store, file=file, trust=trust, dry_run=dry_run, force=force)
        return _show_replayed(result, dry_run, as_json, store.name)


def _show_replayed(result: Replayed, dry_run: bool, as_json: bool, place: str) -> int:
    if as_json:
        document = {name: value for name, value in asdict(result).items() if name != "outcomes"}
        retirements = [describe_as_json(outcome) for outcome in result.outcomes]
        print_json({"store": place, **document, "retirements": retirements})
        return 0 if all(outcome.is_done for outcome in result.outcomes) and not result.with_gaps else 1
    if result.entries_restored:
        verb = "would be" if dry_run else choose(result.entries_restored, "was", "were")
        print_lines([f"{counted(result.entries_restored, 'entry', 'entries')} of the ledger {verb} restored."])
    if result.exported_at:
        print_lines([f"The file was written at {result.exported_at} UTC: who was retired since then is not in it."])
    print_table(("table", "rows of retired users"), sorted(result.rows.items()))
    retired = counted(result.retired, "user is", "users are")
    print_lines([f"{retired} retired; rows of {len(result.subjects):,} of them were on {place}."])
    if result.open:
        print_lines([f"{counted(len(result.open), 'retirement was', 'retirements were')} open."])
    print_lines(
        [
            f"{table}: {len(subjects)} could not be looked for, since rows are found by name there and none is known."
            for table, subjects in result.not_asked.items()
        ]
    )
    status = 0 if dry_run or not result.outcomes else show_outcomes(result.outcomes, as_json, place)
    return status or int(result.with_gaps > 0)
