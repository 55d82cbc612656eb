"""`aspects-pii restrict` and `aspects-pii unrestrict`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sink.doors.cli.common import Actor, DryRun, Json, open_configured_store, print_json
from sink.doors.cli.display import print_lines, say
from sink.doors.cli.outcomes import list_subjects
from sink.doors.cli.subjects import read_subjects
from sink.errors import UsageError
from sink.ledger.details import GROUNDS
from sink.ledger.restrictions import list_restricted
from sink.pii_map import SubjectId
from sink.retirement.plan import plan_retirement
from sink.retirement.unknown import find_without_trace
from sink.rights.restriction import Restricted, Shown, restrict, unrestrict
from sink.store import Store
from sink.wording import choose

commands = typer.Typer()

UserIds = Annotated[list[str] | None, typer.Argument(help="Ids of users; - reads them from standard input.")]
File = Annotated[Path | None, typer.Option("--file", help="A file with one id a line.")]


def _check_ground(ground: str | None) -> str | None:
    if ground is not None and ground not in GROUNDS:
        raise typer.BadParameter(f"it is one of {', '.join(GROUNDS)}")
    return ground


@commands.command("restrict")
def restrict_command(
    user_ids: UserIds = None,
    file: File = None,
    ground: Annotated[
        str | None,
        typer.Option(
            "--ground",
            callback=_check_ground,
            help=f"Why, for the ledger: {', '.join(GROUNDS)} (GDPR article 18 (1), a to d).",
        ),
    ] = None,
    unknown: Annotated[bool, typer.Option("--unknown", help="Also ids of whom nothing is held here.")] = False,
    listed: Annotated[bool, typer.Option("--list", help="Only list who is restricted.")] = False,
    actor: Actor = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> int:
    """Keep users' PII and show it in no dataset and dashboard, until `unrestrict`."""
    _, store = open_configured_store()
    with store:
        if listed:
            return _show_list(store, as_json)
        subjects = _read(store, user_ids, file)
        if not unknown:
            _require_held(store, subjects)
        found = restrict(store, subjects, ground=ground, actor=actor, dry_run=dry_run)
        _show_restricted(found, store.name, dry_run=dry_run, as_json=as_json)
    return 0 if found.is_proved else 1


@commands.command("unrestrict")
def unrestrict_command(
    user_ids: UserIds = None,
    file: File = None,
    actor: Actor = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> int:
    """Lift restrictions: the datasets show these users again. Tell them before you do (GDPR article 18 (3))."""
    _, store = open_configured_store()
    with store:
        lifted, shown = unrestrict(store, _read(store, user_ids, file), actor=actor, dry_run=dry_run)
        if as_json:
            print_json({"store": store.name, "dry_run": dry_run, "lifted": lifted, "left": shown.left})
        else:
            what = "would not be restricted any more" if dry_run else "not restricted any more"
            print_lines([f"{subject}: {what} on {store.name}." for subject in lifted])
        for line in shown.left:
            say(f"May go on leaving them out for a while: {line}.")
    return 1 if shown.left else 0


def _read(store: Store, user_ids: list[str] | None, file: Path | None) -> list[SubjectId]:
    subjects = list(dict.fromkeys(read_subjects(store.pii_map.subject, user_ids or [], file)))
    if not subjects:
        raise UsageError("Nobody is named. Give ids, --file FILE, or - for standard input.")
    return subjects


def _require_held(store: Store, subjects: list[SubjectId]) -> None:
    """Make sure that no id is mistyped: whoever asked would go on being shown.

    Raises:
        UsageError: of an id nothing is held; nothing was recorded.
    """
    strangers = find_without_trace(store, subjects, plan_retirement(store, subjects))
    if strangers:
        raise UsageError(
            f"Nothing was recorded: {store.name} holds nothing of {list_subjects(strangers)}. Correct the ids, or insist "
            "with --unknown."
        )


def _show_list(store: Store, as_json: bool) -> int:
    subjects = list_restricted(store.client)
    if as_json:
        print_json({"store": store.name, "restricted": subjects})
    else:
        print_lines([*subjects, f"Users who are restricted on {store.name}: {len(subjects):,}."])
    return 0


def _show_restricted(found: Restricted, place: str, *, dry_run: bool, as_json: bool) -> None:
    shown = found.shown
    if as_json:
        print_json(
            {
                "store": place,
                "dry_run": dry_run,
                "restricted": found.new,
                "already": found.already,
                "retired": found.tombstoned,
                "shown": list(map(str, shown.findings)),
                "not_asked": shown.not_asked,
                "left": shown.left,
                "proved": found.is_proved and not dry_run,
            }
        )
    else:
        verb = "would be restricted" if dry_run else "restricted"
        print_lines([f"{subject}: {verb} on {place}." for subject in found.new])
        print_lines([f"{subject}: was restricted before." for subject in found.already])
        print_lines([f"{subject}: is retired, so that nothing shows them." for subject in found.tombstoned])
        if not dry_run and found.is_proved and (found.new or found.already):
            print_lines(["No dictionary and no view with ids of users shows them."])
    _warn(shown)


def _warn(shown: Shown) -> None:
    for finding in shown.findings:
        say(f"Still shown: {finding}.")
    if shown.findings:
        say("Datasets of an older version need `aspects-pii build`; what others have made is theirs to put right.")
    for line in shown.left:
        say(f"May still show them: {line}.")
    if shown.not_asked:
        they, number = ", ".join(shown.not_asked), len(shown.not_asked)
        say(
            f"Not looked at: {they}. Others have made {choose(number, 'it', 'them')}, without ids of users: "
            f"{choose(number, 'it leaves', 'they leave')} nobody out."
        )
