"""Commands that bring data in: migrations, the copy from the LMS, the datasets."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from sink.doors.cli.common import DryRun, Json, print_json
from sink.doors.cli.display import Progress, print_lines, print_table, say, warn
from sink.doors.cli.folders import list_open_folders
from sink.doors.cli.speech import LogLevel, get_speech
from sink.doors.cli.stopping import describe_copied, stopping_with
from sink.errors import PiiDisabledError, UsageError

if TYPE_CHECKING:
    from sink.clickhouse.client import ClickHouse

commands = typer.Typer()


# A full copy that was killed blocks the next one for 15 seconds.
_LEASE_WAIT_SECONDS = 20.0
_DBT_LEVELS = {LogLevel.DEBUG: "debug", LogLevel.INFO: "info", LogLevel.WARNING: "warn", LogLevel.ERROR: "error"}


@commands.command()
def init(
    with_aspects: Annotated[
        bool,
        typer.Option("--with-aspects", help="Refuse where Aspects' own migrations have not been here; they go first."),
    ] = False,
    as_json: Json = False,
) -> int:
    """Apply the migrations: databases, PII tables, ledger. No other command but `demo` makes a store.

    Where Aspects shares this ClickHouse, its own migrations have to be applied before.
    """
    from sink.clickhouse import migrations
    from sink.clickhouse.aspects import require_order
    from sink.clickhouse.database_names import find_moved
    from sink.datasets.build import find_events_kept
    from sink.datasets.learner_events import LEARNER_EVENTS
    from sink.installation import open_store
    from sink.ledger.installation_id import read_installation_id
    from sink.ledger.pseudonym_key import set_pseudonym_key
    from sink.settings import load_settings

    settings = load_settings()
    with open_store(settings, creates=True) as store:
        require_order(store.client, with_aspects=with_aspects)
        with _nobody_erasing(store.client):
            moved = find_moved(store.client)
            applied = migrations.migrate(store.client)
        set_pseudonym_key(store.client, settings.pseudonym_secret)
        read_installation_id(store.client)
        if settings.clickhouse_definer and f"reporting.{LEARNER_EVENTS}" in store.pii_map.targets:
            # The account that builds may not.
            with Progress():
                find_events_kept(store.client, report=warn)
    if as_json:
        print_json({"applied": applied, "store": store.name})
    else:
        print_lines([f"Applied {name}." for name in applied] or ["Nothing to apply."])
        print_lines([f"The store is on {store.name}."])
    for logical, noted, configured in moved:
        warn(
            f"{logical} is the database {configured} from now on. What is left in {noted} is named by `aspects-pii map check`."
        )
    for line in list_open_folders(settings):
        warn(line)
    return 0


@contextmanager
def _nobody_erasing(client: ClickHouse) -> Iterator[None]:
    """A migration may move rows from one table to another; what is erased meanwhile would be in one of them still."""
    from sink.clickhouse import migrations
    from sink.clickhouse.catalog import read_tables
    from sink.ledger.leases import hold

    if not read_tables(client, [client.table("pii_ledger.leases")]) or not migrations.find_pending(client):
        yield
        return
    with hold(client, "erasing", wait=_LEASE_WAIT_SECONDS):
        yield


@commands.command("sync")
def sync_command(
    objects: Annotated[
        list[str], typer.Option("--object", help="user_profile, external_id, course_access or all; may be repeated.")
    ] = ["all"],  # noqa: B006
    user_id: Annotated[
        list[int] | None, typer.Option("--user-id", min=1, help="Only this user; may be repeated.")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Rows copied at a time.")] = None,
    allow_removals: Annotated[
        bool,
        typer.Option(
            "--allow-removals", help="Remove users who left the LMS, and course roles, however many they are."
        ),
    ] = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> int:
    """Copy profiles, anonymous ids and course roles from the LMS: only what changed.

    While PII is off, `--object course_access` copies who may see which course, with a digest for the user name.
    """
    from sink.copying.copies import WITHOUT_PII
    from sink.copying.sync import sync
    from sink.installation import open_lms, open_store
    from sink.lms.objects import OBJECTS
    from sink.settings import load_settings

    settings = load_settings(**({} if batch_size is None else {"sync_batch_size": batch_size}))
    chosen = tuple(OBJECTS) if "all" in objects else tuple(dict.fromkeys(objects))
    for name in chosen:
        if name not in OBJECTS:
            raise UsageError(f"--object {name}: possible are {', '.join(OBJECTS)} and all.")
    if not settings.enable_pii and chosen != WITHOUT_PII:
        raise PiiDisabledError
    lms = open_lms(settings)
    with open_store(settings) as store, stopping_with(store, describe_copied), Progress():
        counts = sync(
            store,
            lms,
            enabled=settings.enable_pii,
            objects=chosen,
            user_ids=user_id,
            dry_run=dry_run,
            allow_removals=allow_removals,
            wait=_LEASE_WAIT_SECONDS,
        )
    if as_json:
        print_json({"store": store.name, "dry_run": dry_run, "objects": [asdict(count) for count in counts]})
    else:
        head = ("object", "read", "new", "changed", "unchanged", "removed", "retired", "bad")
        print_table(
            head,
            [(c.object, c.read, c.inserted, c.changed, c.unchanged, c.removed, c.retired, len(c.bad)) for c in counts],
        )
        print_lines([f"Nothing was copied to {store.name}: a dry run." if dry_run else f"Copied to {store.name}."])
        for count in counts:
            if count.reader != "python":
                print_lines([f"{count.object}: ClickHouse itself read the LMS."])
            elif count.reader_note:
                print_lines([f"{count.object}: Python read the LMS, and not ClickHouse: {count.reader_note}."])
            if count.purged_columns:
                print_lines([f"{count.object}: no longer kept, and emptied: {', '.join(count.purged_columns)}."])
    bad = [(count.object, row) for count in counts for row in count.bad]
    for name, row in bad:
        say(f"{name}: user {row.user_id}, row {row.key}, {row.column}: {row.reason}. It was not copied.")
    return 1 if bad else 0


@commands.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def build(
    context: typer.Context,
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="DBT_ARGUMENT", help="Go to `dbt build`, such as --select MODEL or --exclude MODEL."),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Build and test also where nothing has changed since the last build.")
    ] = False,
) -> int:
    """Make or renew the datasets, and test them: run the dbt project on the configured ClickHouse.

    What is no option of this command goes to `dbt build`. Without arguments everything is built and tested; where nothing
    has changed since that was done, nothing is.
    """
    from sink.datasets import build as datasets_build
    from sink.datasets.learner_events import LEARNER_EVENTS
    from sink.installation import find_address, read_map
    from sink.settings import load_settings

    settings = load_settings()
    speech = get_speech()
    told = ["--quiet"] if speech.quiet else ["--log-level", _DBT_LEVELS[speech.level]] if speech.is_chosen else []
    with Progress():
        datasets_build.build(
            find_address(settings),
            [*(arguments or ()), *context.args],
            enable_pii=settings.enable_pii,
            pseudonym_secret=settings.pseudonym_secret,
            definer=settings.clickhouse_definer,
            keeps_events=f"reporting.{LEARNER_EVENTS}" in read_map(settings).targets,
            force=force,
            options=told,
            report=say,
        )
    return 0
