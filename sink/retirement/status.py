"""Where things stand: the flag, what is held, what is open and for how long, what was done last."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from sink.clickhouse.aspects import explain_events, explain_leftovers, find_events_tables
from sink.clickhouse.catalog import read_tables
from sink.clickhouse.migrations import find_pending
from sink.datasets.build import Built, read_built
from sink.erasure.arrivals import count_arrivals
from sink.erasure.suspects import read_suspects
from sink.erasure.work import find_works
from sink.errors import MigrationError
from sink.ledger.entries import Action, Retirement, State
from sink.ledger.restrictions import list_restricted
from sink.names import TableName, quote
from sink.resources import VERSION
from sink.retirement.batch import UNREADABLE
from sink.store import Store
from sink.wording import choose, counted, describe_seconds


@dataclass(frozen=True)
class Status:
    """What `aspects-pii status` shows; counts are rows and subjects, ages seconds."""

    enabled: bool
    clickhouse: str
    versions: dict[str, str]
    pending_migrations: list[str]
    rows: dict[str, int | None]
    """Rows of each target, None where it is absent."""
    subjects: int
    """Subjects of whom a profile, an id or a role is held."""
    retirements: dict[str, int]
    open: int | None
    """Retirements that are not proved; None, for unknown, where the ledger is of an older version."""
    oldest_open_seconds: float | None
    restricted: int | None = None
    """Subjects who are restricted and not retired; None, for unknown, where the ledger is of an older version."""
    suspects: list[str] = field(default_factory=list)
    """Columns that may hold PII and are not in the map."""
    failed: list[dict[str, Any]] = field(default_factory=list)
    datasets: Built = field(default_factory=Built)
    last: dict[str, str | None] = field(default_factory=dict)
    """When each kind of work last came to its end; None where it never did."""
    purge_begun_at: str | None = None
    """Since when a purge is under way or interrupted; None where none is."""
    receipts_signed: bool = False
    warnings: list[str] = field(default_factory=list)

    @property
    def is_healthy(self) -> bool:
        """False where somebody has to look: something failed, is overdue, or is kept although PII is off."""
        return not self.warnings


def read_status(store: Store, *, enabled: bool) -> Status:
    """Ask ClickHouse."""
    pending = [migration.name for migration in find_pending(store.client)]
    names = {name: store.client.table(name) for name in store.pii_map.targets}
    tables = read_tables(store.client, names.values())
    rows = {
        name: tables[table].rows if table in tables else None
        for name, table in names.items()
        if table in tables or not store.pii_map.targets[name].optional
    }
    ledger = [store.client.table(f"pii_ledger.{name}") for name in ("entries", "marked_entries", "retirements")]
    found = read_tables(store.client, ledger)
    has_entries, has_view = ledger[0] in found, all(table in found for table in ledger)
    open_retirements = store.ledger.find_open() if has_view else []
    now = store.client.now()
    oldest = _age(open_retirements, now)
    subjects = count_held(store, [table for table in names.values() if table in tables])
    suspects = read_suspects(store).places if has_view else []
    failed = [r for r in open_retirements if r.state is State.FAILED]
    built = read_built(store.client)
    done = {name: _find_last(store, action) if has_entries else None for name, action in _DONE.items()}
    purge_begun_at = find_unfinished_purge(store) if has_entries else None
    return Status(
        enabled=enabled,
        clickhouse=store.name,
        versions={"aspects-pii-sink": VERSION, "clickhouse": store.client.server_version},
        pending_migrations=pending,
        rows=rows,
        subjects=subjects,
        retirements=store.ledger.count_states() if has_view else {},
        open=len(open_retirements) if has_view or not has_entries else None,
        oldest_open_seconds=oldest,
        restricted=_count_restricted(store, has_view),
        suspects=suspects,
        failed=[{"subject": r.subject, "since": r.since.isoformat(), "reason": r.detail.get("reason")} for r in failed],
        datasets=built,
        last={name: _format(at) for name, at in {**done, "build": built.at}.items()},
        purge_begun_at=_format(purge_begun_at),
        receipts_signed=store.policy.receipt_key is not None or store.policy.receipt_signing_key is not None,
        warnings=[
            *_warn_of_purge(store, purge_begun_at),
            *explain_datasets(enabled, built, subjects),
            *_warn(store, enabled, pending, subjects, len(failed), oldest),
            *(_warn_of_arrivals(store) if has_view and not enabled else []),
            *_warn_of_unreadable(store, open_retirements),
            *_warn_of_works(store),
            *explain_leftovers(store.client),
            *explain_events(find_events_tables(store.client)),
            *_warn_of(suspects),
        ],
    )


# What comes to an end, and the action that says so.
_DONE = {"sync": Action.SYNCED, "verify": Action.VERIFIED, "purge": Action.PURGED}
_HELD = ("user_profile", "external_id", "course_access")


def _age(retirements: list[Retirement], now: datetime) -> float | None:
    if not retirements:
        return None
    return round((now - retirements[0].requested_at.astimezone(UTC)).total_seconds(), 3)


def _count_restricted(store: Store, has_view: bool) -> int | None:
    try:
        return len(list_restricted(store.client)) if has_view else None
    except MigrationError:
        return None


def _find_last(store: Store, action: Action) -> datetime | None:
    return next((entry.at for entry in store.ledger.show(action=action, limit=1)), None)


def find_unfinished_purge(store: Store) -> datetime | None:
    """Since when a purge is under way, or interrupted; None where the last one has ended."""
    begun, ended = (_find_last(store, action) for action in (Action.PURGE_BEGUN, Action.PURGED))
    return begun if begun is not None and (ended is None or ended < begun) else None


def _format(moment: datetime | None) -> str | None:
    return None if moment is None else moment.astimezone(UTC).isoformat(timespec="seconds")


def count_held(store: Store, tables: Iterable[TableName] | None = None) -> int:
    """Of how many people a profile, an id or a role is held.

    Args:
        store: the store.
        tables: the targets that are there, where that is known.
    """
    if tables is None:
        tables = read_tables(store.client, map(store.client.table, store.pii_map.targets))
    held = [table for table in tables if table.table in _HELD]
    if not held:
        return 0
    union = " UNION ALL ".join(
        f"SELECT toString({quote('user_id')}) AS aspects_pii_subject FROM {table.sql}" for table in held
    )
    return int(store.client.value(f"SELECT uniqExact(aspects_pii_subject) FROM ({union})"))


def _warn_of_purge(store: Store, begun_at: datetime | None) -> list[str]:
    if begun_at is None:
        return []
    return [
        f"A purge of {store.name} began at {_format(begun_at)} and has not ended: it is under way, or was interrupted. "
        "Run `aspects-pii purge` again."
    ]


def explain_datasets(enabled: bool, built: Built, subjects: int) -> list[str]:
    """Where people are held, what dashboards say of them has to be true: why it is not, for people."""
    against = built.without_pii if enabled else built.with_pii
    if not against or not subjects:
        return []
    setting, datasets = ("on", "off") if enabled else ("off", "on")
    return [
        f"PII is {setting} and of {counted(subjects, 'subject')} held, but "
        f"{counted(against, 'dataset was', 'datasets were')} built while it was {datasets}, and dashboards say "
        "so. Run `aspects-pii build`."
    ]


def _warn_of(suspects: list[str]) -> list[str]:
    if not suspects:
        return []
    columns, number = counted(len(suspects), "column"), len(suspects)
    return [
        f"{columns} may hold PII and {choose(number, 'is', 'are')} not in the PII map, so no retirement reaches "
        f"{choose(number, 'it', 'them')}: {', '.join(suspects)}. Run `aspects-pii map check`."
    ]


def _warn(
    store: Store, enabled: bool, pending: list[str], subjects: int, failed: int, oldest: float | None
) -> list[str]:
    warnings = []
    if pending:
        warnings.append(f"{counted(len(pending), 'migration is', 'migrations are')} pending. Run `aspects-pii init`.")
    if failed:
        warnings.append(f"{counted(failed, 'retirement')} failed. See the reasons, then run `aspects-pii sweep`.")
    if oldest is not None and oldest > store.policy.scrub_within:
        warnings.append(
            f"The oldest open retirement has been open for {describe_seconds(oldest)}. Run `aspects-pii sweep`."
        )
    warnings += [f"{line} Run `aspects-pii purge`." for line in explain_held(enabled, subjects)]
    return warnings


def explain_held(enabled: bool, subjects: int) -> list[str]:
    """What is held although it should not be, for people."""
    if enabled or not subjects:
        return []
    return [f"PII is off, but PII of {counted(subjects, 'subject')} is held."]


def _warn_of_arrivals(store: Store) -> list[str]:
    return [
        f"PII is off, but other software has stored it in {counted(rows, 'row')} of {table}. `aspects-pii sweep` "
        f"empties {choose(rows, 'it', 'them')}; see `aspects-pii docs map` for how to keep it out."
        for table, rows in count_arrivals(store).items()
    ]


def _warn_of_unreadable(store: Store, retirements: list[Retirement]) -> list[str]:
    _, unreadable = store.pii_map.subject.sort_out(retirement.subject for retirement in retirements)
    if not unreadable:
        return []
    open_ones = counted(len(unreadable), "open retirement is", "open retirements are")
    return [f"{open_ones} of {', '.join(unreadable[:10])}: {UNREADABLE}."]


def _warn_of_works(store: Store) -> list[str]:
    tables = sorted({str(work.target) for work in find_works(store.client)})
    if not tables:
        return []
    return [
        f"Changes of {', '.join(tables)} are under way or were interrupted. Run `aspects-pii sweep` to finish them."
    ]
