"""Commands about retirements, single ones and all of them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from sink.doors.cli.common import Actor, DryRun, Json, Scan, open_configured_store, print_json
from sink.doors.cli.display import print_lines, print_table, say
from sink.erasure.verify import Report, record_report, verify_subjects
from sink.errors import UsageError
from sink.installation import find_lms, open_lms, open_store
from sink.pii_map import Subject, SubjectId
from sink.retirement.batch import Outcome, Result
from sink.retirement.plan import plan_retirement
from sink.retirement.replay import Replayed
from sink.retirement.retire import retire, sweep, withdraw
from sink.settings import load_settings
from sink.store import Store

commands = typer.Typer()


@commands.command("retire")
def retire_command(
    user_ids: Annotated[
        list[str] | None, typer.Argument(help="Ids of users; - reads them from standard input.")
    ] = None,
    file: Annotated[Path | None, typer.Option("--file", help="A file with one id a line.")] = None,
    actor: Actor = None,
    force: Annotated[bool, typer.Option("--force", help="Even where it touches much of a table.")] = False,
    scan: Scan = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> int:
    """Retire users: hide, erase, verify, write receipts. They never come back."""
    from sink.erasure.identities import ask_lms

    settings, store = open_configured_store()
    lms = find_lms(settings) if scan else None
    with store:
        subjects = _read_subjects(store.pii_map.subject, user_ids or [], file)
        if not subjects:
            raise UsageError("Nobody is named. Give ids, --file FILE, or - for standard input.")
        if dry_run:
            return _show_retirement_plan(store, subjects, as_json)
        known = ask_lms(lms, subjects)
        return _show_outcomes(retire(store, subjects, actor=actor, known=known, scan=scan, force=force), as_json)


def _show_retirement_plan(store: Store, subjects: Sequence[SubjectId], as_json: bool) -> int:
    planned = plan_retirement(store, subjects)
    lines = [
        (str(c.step.table.name), c.step.action, ", ".join(c.step.columns), sum(c.rows.values())) for c in planned.counts
    ]
    if as_json:
        keys = ("target", "action", "columns", "rows")
        print_json(
            {
                "subjects": len(subjects),
                "targets": [dict(zip(keys, line, strict=True)) for line in lines],
                "absent": planned.plan.absent,
            }
        )
    else:
        print_table(("target", "action", "columns", "rows"), lines)
        print_lines([f"{name} is absent." for name in planned.plan.absent])
    return 0


@commands.command("sweep")
def sweep_command(
    force: Annotated[bool, typer.Option("--force", help="Even where it touches much of a table.")] = False,
    as_json: Json = False,
) -> int:
    """Work off every retirement that is not verified yet."""
    _, store = open_configured_store()
    with store:
        return _show_outcomes(sweep(store, force=force), as_json)


def _show_outcomes(outcomes: Sequence[Outcome], as_json: bool) -> int:
    if as_json:
        print_json({"retirements": [_outcome_document(outcome) for outcome in outcomes]})
    else:
        for outcome in outcomes:
            print_lines([_describe_outcome(outcome)])
        done = sum(outcome.is_done for outcome in outcomes)
        print_lines(
            [f"{done} of {len(outcomes)} retirements are erased and verified." if outcomes else "Nothing is open."]
        )
    return 0 if all(outcome.is_done for outcome in outcomes) else 1


def _outcome_document(outcome: Outcome) -> dict[str, Any]:
    return {
        "subject": outcome.subject,
        "state": outcome.state,
        "rows": outcome.rows,
        "reason": outcome.reason or None,
        "receipt": outcome.receipt,
        "receipt_path": outcome.receipt_path,
    }


def _describe_outcome(outcome: Outcome) -> str:
    if outcome.state is Result.FAILED:
        return f"{outcome.subject}: failed, and stays open: {outcome.reason}"
    if outcome.state is Result.ALREADY_ERASED:
        return f"{outcome.subject}: was erased before, and nothing came back."
    if outcome.rows == 0:
        return f"{outcome.subject}: nothing was stored. Receipt: {outcome.receipt_path}"
    return f"{outcome.subject}: {outcome.rows} rows erased. Receipt: {outcome.receipt_path}"


def _read_subjects(subject: Subject, arguments: Sequence[str], file: Path | None) -> list[SubjectId]:
    """Ids from the command line, a file and standard input; blank lines and lines with # are passed over."""
    texts: list[tuple[str, str]] = []
    for argument in arguments:
        if argument == "-":
            texts += [
                (f"standard input, line {n}", line)
                for n, line in enumerate(sys.stdin.read().removeprefix("\ufeff").splitlines(), 1)
            ]
        else:
            texts.append(("command line", argument))
    if file is not None:
        try:
            lines = file.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"--file {file}: {getattr(error, 'strerror', None) or 'it is not UTF-8 text'}") from None
        texts += [(f"{file}, line {number}", line) for number, line in enumerate(lines, 1)]
    subjects = []
    for where, text in texts:
        if not text.strip() or text.lstrip().startswith("#"):
            continue
        try:
            subjects.append(subject.parse(text))
        except ValueError as error:
            # Not the text itself: somebody may have given a name instead of an id.
            raise UsageError(f"{where}: this is not an id: {error}.") from None
    return subjects


@commands.command("verify")
def verify_command(
    user_ids: Annotated[list[str] | None, typer.Argument(help="Ids of users; all retired ones if left out.")] = None,
    scan: Scan = False,
    as_json: Json = False,
) -> int:
    """Look for residue of users, or of everybody who was ever retired."""

    settings, store = open_configured_store()
    lms = find_lms(settings) if scan else None
    with store:
        subjects = _read_subjects(store.pii_map.subject, user_ids or [], None)
        report = verify_subjects(store, subjects or None, scan=scan, lms=lms)
        _show_report(report, as_json)
        # After what was found is said, as the ledger may not take it.
        record_report(store.ledger, report, everybody=not subjects)
    return 0 if report.is_clean else 1


def _show_report(report: Report, as_json: bool) -> None:
    if as_json:
        print_json({**asdict(report), "clean": report.is_clean})
    else:
        print_lines([str(finding) for finding in report.findings])
        print_lines(
            [
                f"{report.subjects} subjects, {len(report.checked)} places: "
                + ("nothing is left." if report.is_clean else f"{len(report.findings)} findings.")
            ]
        )


@commands.command("reconcile")
def reconcile_command(
    force: Annotated[bool, typer.Option("--force", help="Even where it touches much of a table.")] = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> int:
    """Retire whoever the LMS has retired and no event told us of."""
    from sink.retirement.reconcile import reconcile

    settings = load_settings()
    lms = open_lms(settings)
    with open_store(settings) as store:
        result = reconcile(store, lms, dry_run=dry_run, force=force)
    if as_json:
        documents = [_outcome_document(outcome) for outcome in result.outcomes]
        print_json({"in_lms": result.in_lms, "missed": result.missed, "retirements": documents})
        return 0 if all(outcome.is_done for outcome in result.outcomes) else 1
    print_lines([f"{result.in_lms} users are retired in the LMS, {len(result.missed)} of them were not here."])
    if dry_run:
        print_lines(result.missed)
        return 0
    return _show_outcomes(result.outcomes, as_json) if result.outcomes else 0


@commands.command("second-pass")
def second_pass_command(
    force: Annotated[bool, typer.Option("--force", help="Even where it touches much of a table.")] = False,
    as_json: Json = False,
) -> int:
    """Look again at every erasure that is older than ASPECTS_SECOND_PASS_AFTER, and erase what came back."""
    from sink.retirement.reconcile import second_pass

    _, store = open_configured_store()
    with store:
        return _show_outcomes(second_pass(store, force=force), as_json)


@commands.command("withdraw")
def withdraw_command(
    user_ids: Annotated[list[str], typer.Argument(help="Ids of users.")], actor: Actor = None, as_json: Json = False
) -> int:
    """Take back retirements of which nothing was erased yet."""
    _, store = open_configured_store()
    with store:
        withdrawn = withdraw(store, _read_subjects(store.pii_map.subject, user_ids, None), actor=actor)
    if as_json:
        print_json({"withdrawn": withdrawn})
    else:
        print_lines([f"{subject}: withdrawn." for subject in withdrawn])
    return 0


@commands.command("backfill-retired")
def backfill_command(
    force: Annotated[bool, typer.Option("--force", help="Even where it touches much of a table.")] = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> int:
    """Apply the map as it is now to everyone ever retired."""
    from sink.retirement.replay import backfill_retired

    settings = load_settings()
    lms = find_lms(settings)
    with open_store(settings) as store:
        return _show_replayed(backfill_retired(store, lms=lms, dry_run=dry_run, force=force), dry_run, as_json)


@commands.command("replay")
def replay_command(
    file: Annotated[Path | None, typer.Option("--from", help="A file that `ledger export` has written.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Even where it touches much of a table.")] = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> int:
    """After a restore from backup: apply the ledger's retirements again."""
    from sink.retirement.replay import replay

    _, store = open_configured_store()
    with store:
        return _show_replayed(replay(store, file=file, dry_run=dry_run, force=force), dry_run, as_json)


def _show_replayed(result: Replayed, dry_run: bool, as_json: bool) -> int:
    if as_json:
        document = {name: value for name, value in asdict(result).items() if name != "outcomes"}
        print_json({**document, "retirements": [_outcome_document(outcome) for outcome in result.outcomes]})
        return 0 if all(outcome.is_done for outcome in result.outcomes) else 1
    if result.entries_restored:
        print_lines([f"{result.entries_restored} entries of the ledger were restored."])
    print_table(("table", "rows of retired users"), sorted(result.rows.items()))
    print_lines([f"{result.retired} users are retired; rows of {len(result.subjects)} of them were there."])
    return 0 if dry_run or not result.outcomes else _show_outcomes(result.outcomes, as_json)


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
        parties = _read_subjects(store.pii_map.subject, [leaving, heir], None)
        result = reassign(store, parties[0], parties[1], assets=asset, actor=actor, dry_run=dry_run)
    if as_json:
        print_json({**asdict(result), "dry_run": dry_run})
    else:
        print_table(("table", "rows"), sorted(result.rows.items()))
        print_lines([f"{name} is absent." for name in result.absent])
        verb = "would go" if dry_run else "went"
        print_lines([f"{sum(result.rows.values())} rows {verb} from {result.leaving} to {result.heir}."])
    for name in result.unknown:
        say(f"{name}: neither {result.leaving} nor {result.heir} owns such an asset.")
    return 1 if result.unknown else 0
