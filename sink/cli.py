"""The command line: every command reads the settings, opens the store, calls one function and prints what it says.

Exit status: 0 done and verified, 1 failed or residue found, 2 bad usage or settings, 3 refused because PII is off.
With `--json` one document goes to standard output; whatever is said to people goes to standard error.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import SecretStr

from sink import __version__, coverage, schema
from sink.caches import find_superset
from sink.display import Progress, print_lines, print_table, say
from sink.errors import AspectsPiiError, PiiDisabledError, SettingsError, SupersetError, UsageError
from sink.ledger import SubjectId
from sink.pii import Subject
from sink.purge import plan_purge, purge, require_off
from sink.replay import Replayed
from sink.retire import Outcome, plan_retirement, retire, sweep, withdraw
from sink.settings import Settings, load_settings
from sink.status import read_status
from sink.store import Store, open_store
from sink.verify import Report, record_report, verify_subjects

if TYPE_CHECKING:
    from sink.dashboards import Changes, Site
    from sink.superset import Superset

app = typer.Typer(
    name="aspects-pii",
    help="Opt-in PII store for Open edX Aspects, built so that the PII can be got rid of again.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
map_app = typer.Typer(help="The PII map: what is where, and whether anything is missing in it.", no_args_is_help=True)
ledger_app = typer.Typer(help="The audit log.", no_args_is_help=True)
access_app = typer.Typer(help="Who may do what on a ClickHouse server.", no_args_is_help=True)
app.add_typer(map_app, name="map")
app.add_typer(ledger_app, name="ledger")
app.add_typer(access_app, name="access")
dashboards_app = typer.Typer(help="The dashboards in Superset.", no_args_is_help=True)
app.add_typer(dashboards_app, name="dashboards")

# Newer Typers carry a Click of their own and do not export the exception that all its complaints derive from.
_CommandLineError: type[Exception] = typer.BadParameter.__mro__[2]

# A full copy that was killed blocks the next one for 15 seconds.
_WAIT_FOR_A_COPY = 20.0

Json = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would be done, and do nothing.")]
Scan = Annotated[
    bool, typer.Option("--scan", help="Also search every text of the databases for user name and e-mail address.")
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Actor = Annotated[str | None, typer.Option("--actor", help="Opaque id of who asks for this; the system if left out.")]


def main() -> None:
    """The console script."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit status."""
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")
    # Retries are announced with the exception as text; ours hold no values, but one line a try is noise.
    logging.getLogger("stamina").setLevel(logging.ERROR)
    try:
        result = app(args=list(arguments), standalone_mode=False)
    except AspectsPiiError as error:
        say(f"Error: {error}")
        return error.exit_status
    except typer.Exit as stop:
        return stop.exit_code
    except typer.Abort:
        say("Stopped.")
        return 1
    except _CommandLineError as error:
        error.show()  # type: ignore[attr-defined]
        return 2
    return result if isinstance(result, int) else 0


def _open() -> tuple[Settings, Store]:
    settings = load_settings()
    return settings, open_store(settings)


def _print_json(document: Any) -> None:
    typer.echo(json.dumps(document, indent=2, ensure_ascii=False, default=str))


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"aspects-pii {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show it.")
    ] = False,
) -> None:
    pass


@app.command()
def init(as_json: Json = False) -> int:
    """Apply the migrations: databases, PII tables, ledger."""
    from sink.pseudonym import set_pseudonym_key

    settings, store = _open()
    with store:
        applied = schema.migrate(store.client)
        set_pseudonym_key(store.client, settings.pseudonym_secret)
    if as_json:
        _print_json({"applied": applied})
    else:
        print_lines([f"Applied {name}." for name in applied] or ["Nothing to apply."])
    return 0


@app.command("sync")
def sync_command(
    objects: Annotated[
        list[str], typer.Option("--object", help="user_profile, external_id, course_access or all; may be repeated.")
    ] = ["all"],  # noqa: B006
    user_id: Annotated[
        list[int] | None, typer.Option("--user-id", min=1, help="Only this user; may be repeated.")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Rows copied at a time.")] = None,
    allow_removals: Annotated[
        bool, typer.Option("--allow-removals", help="Remove users who left the LMS, however many they are.")
    ] = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> int:
    """Copy profiles, anonymous ids and course roles from the LMS: only what changed.

    While PII is off, `--object course_access` copies who may see which course, with a digest for the user name.
    """
    from sink.lms import OBJECTS, LmsDatabase
    from sink.sync import WITHOUT_PII, sync

    settings = load_settings(**({} if batch_size is None else {"sync_batch_size": batch_size}))
    chosen = tuple(OBJECTS) if "all" in objects else tuple(dict.fromkeys(objects))
    for name in chosen:
        if name not in OBJECTS:
            raise UsageError(f"--object {name}: possible are {', '.join(OBJECTS)} and all.")
    if not settings.enable_pii and chosen != WITHOUT_PII:
        raise PiiDisabledError
    lms = LmsDatabase(_require_lms(settings))
    with open_store(settings) as store, Progress() as progress:
        counts = sync(
            store,
            lms,
            enabled=settings.enable_pii,
            objects=chosen,
            user_ids=user_id,
            dry_run=dry_run,
            allow_removals=allow_removals,
            wait=_WAIT_FOR_A_COPY,
            progress=progress.update,
        )
    if as_json:
        _print_json({"dry_run": dry_run, "objects": [asdict(count) for count in counts]})
    else:
        head = ("object", "read", "new", "changed", "unchanged", "removed", "retired", "bad")
        print_table(
            head,
            [(c.object, c.read, c.inserted, c.changed, c.unchanged, c.removed, c.retired, len(c.bad)) for c in counts],
        )
        for count in counts:
            if count.purged_columns:
                print_lines([f"{count.object}: no longer kept, and emptied: {', '.join(count.purged_columns)}."])
    bad = [(count.object, row) for count in counts for row in count.bad]
    for name, row in bad:
        say(f"{name}: user {row.user_id}, row {row.key}, {row.column}: {row.reason}. It was not copied.")
    return 1 if bad else 0


def _require_lms(settings: Settings) -> SecretStr:
    if settings.lms_database_url is None:
        raise SettingsError(
            "ASPECTS_LMS_DATABASE_URL is not set. "
            "Example: ASPECTS_LMS_DATABASE_URL=mysql+pymysql://reader:secret@mysql:3306/openedx"
        )
    return settings.lms_database_url


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []})
def build(context: typer.Context) -> int:
    """Run the dbt project against the configured ClickHouse; arguments go to `dbt build`."""
    from sink.client import Address
    from sink.warehouse import build as build_datasets

    settings = load_settings()
    build_datasets(
        Address.from_settings(settings),
        context.args,
        enable_pii=settings.enable_pii,
        pseudonym_secret=settings.pseudonym_secret,
        definer=settings.clickhouse_definer,
        report=say,
    )
    return 0


@app.command("retire")
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
    from sink.identity import ask_lms
    from sink.lms import LmsDatabase

    settings, store = _open()
    lms = LmsDatabase(settings.lms_database_url) if scan and settings.lms_database_url else None
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
        _print_json(
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


@app.command("sweep")
def sweep_command(
    force: Annotated[bool, typer.Option("--force", help="Even where it touches much of a table.")] = False,
    as_json: Json = False,
) -> int:
    """Work off every retirement that is not verified yet."""
    _, store = _open()
    with store:
        return _show_outcomes(sweep(store, force=force), as_json)


def _show_outcomes(outcomes: Sequence[Outcome], as_json: bool) -> int:
    if as_json:
        _print_json({"retirements": [_outcome_document(outcome) for outcome in outcomes]})
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
    if outcome.state == "failed":
        return f"{outcome.subject}: failed, and stays open: {outcome.reason}"
    if outcome.state == "already erased":
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


@app.command("verify")
def verify_command(
    user_ids: Annotated[list[str] | None, typer.Argument(help="Ids of users; all retired ones if left out.")] = None,
    scan: Scan = False,
    as_json: Json = False,
) -> int:
    """Look for residue of users, or of everybody who was ever retired."""
    from sink.lms import LmsDatabase

    settings, store = _open()
    lms = LmsDatabase(settings.lms_database_url) if scan and settings.lms_database_url else None
    with store:
        subjects = _read_subjects(store.pii_map.subject, user_ids or [], None)
        report = verify_subjects(store, subjects or None, scan=scan, lms=lms)
        _show_report(report, as_json)
        # After what was found is said, as the ledger may not take it.
        record_report(store.ledger, report, everybody=not subjects)
    return 0 if report.is_clean else 1


def _show_report(report: Report, as_json: bool) -> None:
    if as_json:
        _print_json({**asdict(report), "clean": report.is_clean})
    else:
        print_lines([str(finding) for finding in report.findings])
        print_lines(
            [
                f"{report.subjects} subjects, {len(report.checked)} places: "
                + ("nothing is left." if report.is_clean else f"{len(report.findings)} findings.")
            ]
        )


@app.command("reconcile")
def reconcile_command(
    force: Annotated[bool, typer.Option("--force", help="Even where it touches much of a table.")] = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> int:
    """Retire whoever the LMS has retired and no event told us of."""
    from sink.lms import LmsDatabase
    from sink.reconcile import reconcile

    settings = load_settings()
    lms = LmsDatabase(_require_lms(settings))
    with open_store(settings) as store:
        result = reconcile(store, lms, dry_run=dry_run, force=force)
    if as_json:
        documents = [_outcome_document(outcome) for outcome in result.outcomes]
        _print_json({"in_lms": result.in_lms, "missed": result.missed, "retirements": documents})
        return 0 if all(outcome.is_done for outcome in result.outcomes) else 1
    print_lines([f"{result.in_lms} users are retired in the LMS, {len(result.missed)} of them were not here."])
    if dry_run:
        print_lines(result.missed)
        return 0
    return _show_outcomes(result.outcomes, as_json) if result.outcomes else 0


@app.command("second-pass")
def second_pass_command(
    force: Annotated[bool, typer.Option("--force", help="Even where it touches much of a table.")] = False,
    as_json: Json = False,
) -> int:
    """Look again at every erasure that is older than ASPECTS_SECOND_PASS_AFTER, and erase what came back."""
    from sink.reconcile import second_pass

    _, store = _open()
    with store:
        return _show_outcomes(second_pass(store, force=force), as_json)


@app.command("withdraw")
def withdraw_command(
    user_ids: Annotated[list[str], typer.Argument(help="Ids of users.")], actor: Actor = None, as_json: Json = False
) -> int:
    """Take back retirements of which nothing was erased yet."""
    _, store = _open()
    with store:
        withdrawn = withdraw(store, _read_subjects(store.pii_map.subject, user_ids, None), actor=actor)
    if as_json:
        _print_json({"withdrawn": withdrawn})
    else:
        print_lines([f"{subject}: withdrawn." for subject in withdrawn])
    return 0


@app.command("backfill-retired")
def backfill_command(
    force: Annotated[bool, typer.Option("--force", help="Even where it touches much of a table.")] = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> int:
    """Apply the map as it is now to everyone ever retired."""
    from sink.lms import LmsDatabase
    from sink.replay import backfill_retired

    settings = load_settings()
    lms = LmsDatabase(settings.lms_database_url) if settings.lms_database_url else None
    with open_store(settings) as store:
        return _show_replayed(backfill_retired(store, lms=lms, dry_run=dry_run, force=force), dry_run, as_json)


@app.command("replay")
def replay_command(
    file: Annotated[Path | None, typer.Option("--from", help="A file that `ledger export` has written.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Even where it touches much of a table.")] = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> int:
    """After a restore from backup: apply the ledger's retirements again."""
    from sink.replay import replay

    _, store = _open()
    with store:
        return _show_replayed(replay(store, file=file, dry_run=dry_run, force=force), dry_run, as_json)


def _show_replayed(result: Replayed, dry_run: bool, as_json: bool) -> int:
    if as_json:
        document = {name: value for name, value in asdict(result).items() if name != "outcomes"}
        _print_json({**document, "retirements": [_outcome_document(outcome) for outcome in result.outcomes]})
        return 0 if all(outcome.is_done for outcome in result.outcomes) else 1
    if result.entries_restored:
        print_lines([f"{result.entries_restored} entries of the ledger were restored."])
    print_table(("table", "rows of retired users"), sorted(result.rows.items()))
    print_lines([f"{result.retired} users are retired; rows of {len(result.subjects)} of them were there."])
    return 0 if dry_run or not result.outcomes else _show_outcomes(result.outcomes, as_json)


@app.command("reassign")
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
    from sink.reassign import reassign

    _, store = _open()
    with store:
        parties = _read_subjects(store.pii_map.subject, [leaving, heir], None)
        result = reassign(store, parties[0], parties[1], assets=asset, actor=actor, dry_run=dry_run)
    if as_json:
        _print_json({**asdict(result), "dry_run": dry_run})
    else:
        print_table(("table", "rows"), sorted(result.rows.items()))
        print_lines([f"{name} is absent." for name in result.absent])
        verb = "would go" if dry_run else "went"
        print_lines([f"{sum(result.rows.values())} rows {verb} from {result.leaving} to {result.heir}."])
    for name in result.unknown:
        say(f"{name}: neither {result.leaving} nor {result.heir} owns such an asset.")
    return 1 if result.unknown else 0


@app.command("purge")
def purge_command(
    force: Annotated[bool, typer.Option("--force", help="Although PII is on.")] = False,
    actor: Actor = None,
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> int:
    """Opt out: remove all PII and everything built on it. Tombstones and ledger stay."""
    from sink.errors import RefusedError
    from sink.warehouse import list_datasets

    settings, store = _open()
    with store:
        plan = plan_purge(store, list_datasets(store.client))
        if as_json:
            _print_json({"dry_run": dry_run, "plan": [asdict(line) for line in plan.lines]})
        else:
            print_table(
                ("object", "action", "columns", "rows"),
                [(line.name, line.action, ", ".join(line.columns), line.rows) for line in plan.lines],
            )
        if dry_run:
            return 0
        require_off(settings.enable_pii, force)
        if not yes:
            if not sys.stdin.isatty():
                raise RefusedError("Nobody is there to be asked. Use --yes.")
            typer.confirm("Remove all of this for good?", abort=True, err=True)
        purge(store, plan, enabled=settings.enable_pii, force=force, actor=actor)
    if not as_json:
        print_lines(["Purged and verified: no PII is left. Tombstones and ledger stay."])
    if settings.superset_url is not None:
        _purge_dashboards(settings, as_json)
    return 0


def _purge_dashboards(settings: Settings, as_json: bool) -> None:
    """Take the dashboards out of Superset. The PII is gone already: that does not wait for Superset."""
    from sink.dashboards import remove

    try:
        with _open_superset(settings) as superset:
            changes = remove(superset, _describe_site(settings))
    except SupersetError as error:
        raise SupersetError(
            f"No PII is left, but the dashboards are still in Superset. {error} Then run `aspects-pii purge` again."
        ) from None
    if not as_json:
        _print_changes(changes)


@app.command("status")
def status_command(as_json: Json = False) -> int:
    """The flag, what is held, open retirements and the age of the oldest, versions."""
    settings, store = _open()
    with store:
        status = read_status(store, enabled=settings.enable_pii)
    if as_json:
        _print_json({**asdict(status), "healthy": status.is_healthy})
    else:
        age = "-" if status.oldest_open_seconds is None else f"{status.oldest_open_seconds:.0f} s"
        print_table(
            ("", ""),
            [
                ("PII", "on" if status.enabled else "off"),
                ("ClickHouse", f"{status.clickhouse} ({status.versions['clickhouse']})"),
                ("aspects-pii", status.versions["aspects-pii-sink"]),
                ("subjects held", status.subjects),
                *((name, "absent" if rows is None else rows) for name, rows in status.rows.items()),
                *((f"retirements {state}", count) for state, count in status.retirements.items()),
                ("open", status.open),
                ("oldest open", age),
            ],
        )
        for failed in status.failed:
            print_lines([f"{failed['subject']}: {failed['reason']}"])
    for warning in status.warnings:
        say(f"Warning: {warning}")
    return 0 if status.is_healthy else 1


@map_app.command("check")
def map_check(as_json: Json = False) -> int:
    """Hold the map against the live schema: is there PII that no rule reaches?"""
    settings, store = _open()
    with store:
        found = coverage.check_map(store.client, store.pii_map, secret=settings.pseudonym_secret)
    if as_json:
        _print_json({**asdict(found), "complete": found.is_complete})
    else:
        print_lines([f"{name}: absent." for name in found.absent])
        print_lines([str(problem) for problem in found.problems])
        print_lines([f"Warning: {warning}" for warning in found.warnings])
        print_lines([f"{len(found.targets)} targets, {len(found.absent)} absent, {len(found.problems)} problems."])
    return 0 if found.is_complete else 1


@map_app.command("show")
def map_show(as_json: Json = False) -> int:
    """What is where, and what a retirement does to it."""
    from sink.pii import load_map
    from sink.store import find_map

    pii_map = load_map(find_map(load_settings()))
    if as_json:
        _print_json(pii_map.model_dump(mode="json"))
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


@ledger_app.command("export")
def ledger_export(
    file: Annotated[Path, typer.Argument(help="File to write, a JSON line an entry.")], as_json: Json = False
) -> int:
    """Write the ledger to a file that lives outside the backups, for `replay --from`."""
    from sink.replay import export_ledger

    _, store = _open()
    with store:
        count = export_ledger(store, file)
    if as_json:
        _print_json({"entries": count, "file": file})
    else:
        print_lines([f"{count} entries are in {file}."])
    return 0


@ledger_app.command("show")
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
    _, store = _open()
    with store:
        entries = store.ledger.show(
            subject=subject, action=action, actor=actor, since=_utc(since), until=_utc(until), limit=limit
        )
    if as_json:
        _print_json([asdict(entry) for entry in entries])
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
    from datetime import UTC

    return None if moment is None else moment.replace(tzinfo=moment.tzinfo or UTC)


def _brief(detail: dict[str, Any]) -> str:
    return json.dumps({name: value for name, value in detail.items() if name != "receipt"}) if detail else ""


@dashboards_app.command("install")
def dashboards_install(as_json: Json = False) -> int:
    """Put dashboards, roles and rules into Superset, or put right those that are there."""
    from sink.dashboards import install

    settings = load_settings()
    with _open_superset(settings) as superset:
        changes = install(superset, _describe_site(settings), enable_pii=settings.enable_pii)
    if settings.superset_clickhouse_user is None:
        say(
            "Warning: Superset reaches ClickHouse as ASPECTS_CLICKHOUSE_USER, who may do more than it needs. "
            "Set ASPECTS_SUPERSET_CLICKHOUSE_USER."
        )
    return _show_changes(changes, as_json)


@dashboards_app.command("remove")
def dashboards_remove(as_json: Json = False) -> int:
    """Take everything of ours out of Superset: dashboards, charts, datasets, connection, roles, rules."""
    from sink.dashboards import remove

    settings = load_settings()
    with _open_superset(settings) as superset:
        return _show_changes(remove(superset, _describe_site(settings)), as_json)


@dashboards_app.command("export")
def dashboards_export(
    file: Annotated[Path, typer.Option("--output", "-o", help="The ZIP file to write.")], as_json: Json = False
) -> int:
    """Write the dashboards as a ZIP for Superset's own import; roles and rules are not in it."""
    from sink.dashboards import export

    settings = load_settings()
    export(_describe_site(settings), file, enable_pii=settings.enable_pii)
    if as_json:
        _print_json({"file": file})
    else:
        print_lines([f"The dashboards are in {file}. Superset will ask for the password of ClickHouse."])
    return 0


def _open_superset(settings: Settings) -> Superset:
    address = find_superset(settings)
    if address is None:
        raise SettingsError(
            "ASPECTS_SUPERSET_URL is not set. Example: ASPECTS_SUPERSET_URL=https://superset.example.org"
        )
    from sink.superset import Superset

    return Superset(address)


def _describe_site(settings: Settings) -> Site:
    from sink.client import Address
    from sink.dashboards import describe_site

    return describe_site(
        Address.from_settings(settings),
        url=settings.superset_clickhouse_url,
        user=settings.superset_clickhouse_user,
        password=settings.superset_clickhouse_password,
        language=settings.superset_language,
    )


def _show_changes(changes: Changes, as_json: bool) -> int:
    if as_json:
        _print_json(asdict(changes))
    else:
        _print_changes(changes)
    return 0


def _print_changes(changes: Changes) -> None:
    for verb, counts in (("installed", changes.installed), ("removed", changes.removed)):
        if counts:
            things = ", ".join(f"{count} {kind}{'' if count == 1 else 's'}" for kind, count in counts.items())
            print_lines([f"Superset: {verb} {things}."])
    if not changes.installed and not changes.removed:
        print_lines(["Superset: there was nothing to remove."])
    print_lines(changes.kept)


@access_app.command("sql")
def access_sql(
    output: Annotated[Path | None, typer.Option("-o", "--output", help="File to write instead.")] = None,
    sink_role: Annotated[
        str, typer.Option(help="Role of whoever runs aspects-pii, but for the datasets.")
    ] = "aspects_pii_sink",
    dbt_role: Annotated[str, typer.Option(help="Role of whoever builds the datasets.")] = "aspects_pii_dbt",
    dashboards_role: Annotated[str, typer.Option(help="Role of whoever looks at datasets.")] = "aspects_pii_dashboards",
    exempt: Annotated[
        list[str] | None, typer.Option(help="A user or role that the row policies leave alone; may be repeated.")
    ] = None,
    trust_dashboards: Annotated[
        bool, typer.Option("--trust-dashboards", help="Show the dashboards' role every row: Superset alone filters.")
    ] = False,
    remove: Annotated[bool, typer.Option("--remove", help="What takes roles, policies and definer out again.")] = False,
    as_json: Json = False,
) -> int:
    """Print SQL for a server's administrator: roles, least grants, row policies, the definer. Connects nowhere."""
    from sink.access import RoleNames, describe, plan_access, render
    from sink.pii import load_map
    from sink.store import find_map

    settings = load_settings()
    definer = settings.clickhouse_definer or RoleNames.definer
    plan = plan_access(
        load_map(find_map(settings)),
        settings.databases,
        RoleNames(sink_role, dbt_role, dashboards_role, definer),
        cluster=settings.clickhouse_cluster,
        trust_dashboards=trust_dashboards,
        exempt=exempt or (),
    )
    text = json.dumps(describe(plan, remove=remove), indent=2) + "\n" if as_json else render(plan, remove=remove)
    if output is None:
        typer.echo(text, nl=False)
        return 0
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{output} cannot be written: {error.strerror}.") from None
    say(f"{output}: run it as an administrator of the server, such as clickhouse-client --queries-file {output}")
    return 0


@app.command("clickhouse")
def clickhouse_command(
    host: Annotated[
        str, typer.Option(help="Address to listen on; others than loopback need a password.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8123,
) -> int:
    """Serve the embedded engine over ClickHouse's HTTP protocol, so that several processes can use it."""
    from sink.client import Address
    from sink.endpoint import serve

    settings = load_settings()
    address = Address.from_settings(settings)
    if not address.is_embedded:
        raise UsageError(
            f"ASPECTS_CLICKHOUSE_URL is a server already ({address.url}). Set it to chdb:///FOLDER to serve one."
        )
    serve(address.folder, host=host, port=port, user=address.user, password=address.password)
    return 0


@app.command("worker")
def worker_command(
    beat: Annotated[bool, typer.Option(help="Also send what is on schedule; one worker has to.")] = True,
    concurrency: Annotated[int | None, typer.Option(min=1, help="Processes.")] = None,
) -> int:
    """Run the Celery worker and its schedule."""
    from sink.tasks import run_worker

    return run_worker(load_settings(), beat=beat, concurrency=concurrency)


@app.command("consume")
def consume_command(
    once: Annotated[bool, typer.Option("--once", help="Work off what is there, and end.")] = False,
    as_json: Json = False,
) -> int:
    """Read the Open edX event bus and streams of JSON events."""
    from sink.events import run_consumer

    counts = run_consumer(load_settings(), once=once)
    if as_json:
        _print_json(asdict(counts))
    else:
        print_table(("", ""), list(asdict(counts).items()))
    return 1 if once and counts.failed else 0


@app.command("heartbeat")
def heartbeat_command(
    name: Annotated[str, typer.Argument(help="worker or consumer.")],
    as_json: Json = False,
) -> int:
    """Whether the worker or consumer of this host or container is at work; for health checks."""
    from sink.heartbeat import check

    age = check(load_settings().heartbeat_dir, name)
    if as_json:
        _print_json({"name": name, "age_seconds": age})
    else:
        print_lines([f"The {name} gave a sign of life {age:.0f} s ago."])
    return 0


@app.command("serve")
def serve_command(
    host: Annotated[
        str, typer.Option(help="Address to listen on; others than loopback need authentication.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8321,
) -> int:
    """Serve the HTTP hook that Open edX's retirement driver calls."""
    from sink.web import serve_web

    serve_web(load_settings(), host=host, port=port)
    return 0


@app.command("demo")
def demo_command(
    folder: Annotated[Path, typer.Option(help="Where everything goes.")] = Path("aspects-pii-demo"),
    users: Annotated[int, typer.Option(min=100, help="Users of the generated LMS.")] = 10_000,
    seed: Annotated[int, typer.Option(help="The same seed makes the same data.")] = 1,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the folder for a look around.")] = False,
) -> int:
    """The whole story on generated data, embedded, in about a minute."""
    from sink.demo import run_demo

    return run_demo(folder, users=users, seed=seed, keep=keep)
