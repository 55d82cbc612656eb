"""Commands about retirements, single ones and all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sink.doors.cli.caution import confirm_retirement, require_known
from sink.doors.cli.common import Actor, DryRun, Force, Json, Scan, Yes, open_configured_store, print_json
from sink.doors.cli.display import Progress, print_lines, print_table, say
from sink.doors.cli.outcomes import describe_suspects, show_outcomes
from sink.doors.cli.stopping import describe_open, stopping_with
from sink.doors.cli.subjects import read_subjects
from sink.errors import UsageError
from sink.wording import choose, counted

if TYPE_CHECKING:
    from sink.erasure.expiry import Expired
    from sink.erasure.findings import Report
    from sink.erasure.suspects import Suspects
    from sink.pii_map import SubjectId
    from sink.retirement.plan import Planned
    from sink.store import Store

commands = typer.Typer()


@commands.command("retire")
def retire_command(
    user_ids: Annotated[
        list[str] | None, typer.Argument(help="Ids of users; - reads them from standard input.")
    ] = None,
    file: Annotated[Path | None, typer.Option("--file", help="A file with one id a line.")] = None,
    actor: Actor = None,
    force: Force = False,
    unknown: Annotated[
        bool,
        typer.Option(
            "--unknown",
            help="Also retire ids that neither the LMS nor this store knows. Whoever is given such an id later is never copied.",
        ),
    ] = False,
    yes: Yes = False,
    scan: Scan = False,
    leave_contested: Annotated[
        bool,
        typer.Option(
            "--leave-contested", help="Leave rows under a name that somebody else has too: they are that person's."
        ),
    ] = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> int:
    """Retire users: hide, erase, verify, write receipts. They never come back. On a terminal it asks first."""
    from sink.erasure.naming import ask_lms
    from sink.installation import find_lms
    from sink.retirement.plan import plan_retirement, require_small_share
    from sink.retirement.retire import retire

    settings, store = open_configured_store()
    lms = find_lms(settings) if scan else None
    with store, stopping_with(store, describe_open), Progress():
        subjects = list(dict.fromkeys(read_subjects(store.pii_map.subject, user_ids or [], file)))
        if not subjects:
            return _name_nobody(store, user_ids, file, as_json)
        # All of this before anything is recorded: a tombstone bars whoever has the id for ever.
        if dry_run or not (unknown and force):
            planned = plan_retirement(store, subjects)
            if not unknown:
                require_known(store, settings, subjects, planned)
            if dry_run:
                _show_retirement_plan(store, subjects, planned, as_json)
            require_small_share(store, planned, force=force)
        if dry_run:
            return 0
        if not yes:
            confirm_retirement(len(subjects), store.name)
        known = replace(ask_lms(lms, subjects), leaves_contested=leave_contested)
        outcomes = retire(store, subjects, actor=actor, known=known, scan=scan, force=force)
        return show_outcomes(outcomes, as_json, store.name)


def _name_nobody(store: Store, user_ids: Sequence[str] | None, file: Path | None, as_json: bool) -> int:
    """A list of nobody is done at once: a script may have nobody to retire today."""
    if "-" not in (user_ids or []) and file is None:
        # An argument that is empty is a variable that is not set.
        raise UsageError("Nobody is named. Give ids, --file FILE, or - for standard input.")
    if as_json:
        print_json({"store": store.name, "retirements": []})
    else:
        print_lines([f"Nobody is named, so there is nothing to retire on {store.name}."])
    return 0


def _show_retirement_plan(store: Store, subjects: Sequence[SubjectId], planned: Planned, as_json: bool) -> None:
    lines = [
        (str(c.step.table.name), c.step.action, ", ".join(c.step.columns), sum(c.rows.values())) for c in planned.counts
    ]
    if as_json:
        keys = ("target", "action", "columns", "rows")
        print_json(
            {
                "store": store.name,
                "subjects": len(subjects),
                "targets": [dict(zip(keys, line, strict=True)) for line in lines],
                "absent": planned.plan.absent,
                "contested": sorted(planned.contested),
            }
        )
    else:
        print_table(("target", "action", "columns", "rows"), lines)
        print_lines([f"Users who would be retired on {store.name}: {len(subjects):,}."])
        print_lines([f"{name} is absent." for name in planned.plan.absent])
        print_lines(
            [
                f"{s} would stay open: rows are under a name that somebody else has too."
                for s in sorted(planned.contested)
            ]
        )


@commands.command("sweep")
def sweep_command(
    force: Force = False,
    as_json: Json = False,
) -> int:
    """Work off every retirement that is not verified yet, and what the map keeps for so many days only; while PII is off,
    empty what other software has stored."""
    from sink.erasure.arrivals import empty_arrivals
    from sink.erasure.expiry import expire
    from sink.retirement.retire import sweep

    settings, store = open_configured_store()
    with store, stopping_with(store, describe_open), Progress():
        status = show_outcomes(sweep(store, force=force), as_json, store.name)
        for table, rows in ({} if settings.enable_pii else empty_arrivals(store)).items():
            what = f"{counted(rows, 'row')} of {table} held what other software has stored while PII is off"
            say(f"{what}; {choose(rows, 'it is', 'they are')} empty now.")
        _say_expired(expire(store, force=force))
        return status


def _say_expired(expired: Expired | None) -> None:
    for table, rows in (expired.rows if expired else {}).items():
        say(f"{counted(rows, 'row')} of {table}: kept for as long as the map says, and gone or emptied now.")
    for table, rows in (expired.left if expired else {}).items():
        say(f"{counted(rows, 'row')} of {table} wait for the next sweep.")


@commands.command("verify")
def verify_command(
    user_ids: Annotated[list[str] | None, typer.Argument(help="Ids of users; all retired ones if left out.")] = None,
    scan: Scan = False,
    as_json: Json = False,
) -> int:
    """Look for residue of users, or of everybody who was ever retired."""
    from sink.erasure.suspects import read_suspects
    from sink.erasure.verify import record_report, verify_subjects
    from sink.installation import find_lms

    settings, store = open_configured_store()
    lms = find_lms(settings) if scan else None
    with store, Progress():
        subjects = read_subjects(store.pii_map.subject, user_ids or [])
        report = verify_subjects(store, subjects or None, scan=scan, lms=lms)
        _show_report(report, read_suspects(store), as_json, store.name)
        # After what was found is said, as the ledger may not take it.
        record_report(store.ledger, report, everybody=not subjects)
    return 0 if report.is_proved else 1


def _show_report(report: Report, suspects: Suspects, as_json: bool, place: str) -> None:
    if as_json:
        said = {"clean": report.is_clean, "proved": report.is_proved, "suspects": suspects.places}
        print_json({"store": place, **asdict(report), **said})
    else:
        print_lines([*map(str, report.findings), *report.gaps])
        print_lines([f"Listed, and no residue: {finding}" for finding in report.listed])
        print_lines(report.describe_not_retired())
        result = "nothing is left." if report.is_proved else f"{counted(len(report.findings), 'finding')}."
        if report.with_gaps:
            result += f" {report.with_gaps} could not be looked for everywhere."
        print_lines(
            [f"{counted(report.subjects, 'subject')}, {counted(len(report.checked), 'place')} on {place}: {result}"]
        )
        print_lines(describe_suspects(suspects.places))


@commands.command("withdraw")
def withdraw_command(
    user_ids: Annotated[list[str], typer.Argument(help="Ids of users.")], actor: Actor = None, as_json: Json = False
) -> int:
    """Take back retirements of which nothing was erased yet."""
    from sink.retirement.retire import withdraw

    _, store = open_configured_store()
    with store:
        withdrawn = withdraw(store, read_subjects(store.pii_map.subject, user_ids), actor=actor)
    if as_json:
        print_json({"store": store.name, "withdrawn": withdrawn})
    else:
        print_lines([f"{subject}: withdrawn on {store.name}." for subject in withdrawn])
    return 0


@commands.command("reassign")
def reassign_command(
    leaving: Annotated[str, typer.Argument(metavar="FROM", help="Id of the user who leaves.")],
    heir: Annotated[str, typer.Argument(metavar="TO", help="Id of the user who takes over.")],
    asset: Annotated[
        list[str] | None, typer.Option("--asset", metavar="ID", help="Only this asset; may be repeated.")
    ] = None,
    actor: Actor = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> int:
    """Hand over what a leaving user owned, before or after the retirement."""
    from sink.erasure.reassign import reassign

    _, store = open_configured_store()
    with store:
        parties = read_subjects(store.pii_map.subject, [leaving, heir])
        result = reassign(store, parties[0], parties[1], assets=asset, actor=actor, dry_run=dry_run)
    if as_json:
        print_json({"store": store.name, **asdict(result), "dry_run": dry_run})
    else:
        print_table(("table", "rows"), sorted(result.rows.items()))
        print_lines([f"{name} is absent." for name in result.absent])
        verb = "would go" if dry_run else "went"
        rows = sum(result.rows.values())
        print_lines([f"{counted(rows, 'row')} {verb} from {result.leaving} to {result.heir} on {store.name}."])
    for name in result.unknown:
        say(f"{name}: neither {result.leaving} nor {result.heir} owns such an asset.")
    return 1 if result.unknown else 0
