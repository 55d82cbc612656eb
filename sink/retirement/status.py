"""Where things stand: the flag, what is held, what is open and for how long."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from sink.clickhouse.catalog import read_tables
from sink.clickhouse.migrations import find_pending
from sink.erasure.suspects import read_suspects
from sink.erasure.work import find_works
from sink.ledger.entries import Retirement, State
from sink.names import TableName, quote
from sink.resources import VERSION
from sink.retirement.batch import UNREADABLE
from sink.store import Store


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
    suspects: list[str] = field(default_factory=list)
    """Columns that may hold PII and are not in the map."""
    failed: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def is_healthy(self) -> bool:
        """False where somebody has to look: something failed, is overdue, or is kept although PII is off."""
        return not self.warnings


def read_status(store: Store, *, enabled: bool) -> Status:
    """Ask ClickHouse. Before `init` everything is empty."""
    pending = [migration.name for migration in find_pending(store.client)]
    names = {name: store.client.table(name) for name in store.pii_map.targets}
    tables = read_tables(store.client, names.values())
    rows = {name: tables[table].rows if table in tables else None for name, table in names.items()}
    ledger = [store.client.table(f"pii_ledger.{name}") for name in ("entries", "marked_entries", "retirements")]
    found = read_tables(store.client, ledger)
    has_entries, has_view = ledger[0] in found, all(table in found for table in ledger)
    open_retirements = store.ledger.find_open() if has_view else []
    now = store.client.now()
    oldest = _age(open_retirements, now)
    subjects = _count_subjects(store, [table for table in names.values() if table in tables and table.table in _HELD])
    suspects = read_suspects(store).places if has_view else []
    failed = [r for r in open_retirements if r.state is State.FAILED]
    return Status(
        enabled=enabled,
        clickhouse=store.client.address.url,
        versions={"aspects-pii-sink": VERSION, "clickhouse": store.client.server_version},
        pending_migrations=pending,
        rows=rows,
        subjects=subjects,
        retirements=store.ledger.count_states() if has_view else {},
        open=len(open_retirements) if has_view or not has_entries else None,
        oldest_open_seconds=oldest,
        suspects=suspects,
        failed=[{"subject": r.subject, "since": r.since.isoformat(), "reason": r.detail.get("reason")} for r in failed],
        warnings=[
            *_warn(store, enabled, pending, subjects, len(failed), oldest),
            *_warn_of_unreadable(store, open_retirements),
            *_warn_of_works(store),
            *_warn_of(suspects),
        ],
    )


_HELD = ("user_profile", "external_id", "course_access")


def _age(retirements: list[Retirement], now: datetime) -> float | None:
    if not retirements:
        return None
    return round((now - retirements[0].requested_at.astimezone(UTC)).total_seconds(), 3)


def _count_subjects(store: Store, tables: list[TableName]) -> int:
    if not tables:
        return 0
    union = " UNION ALL ".join(f"SELECT toString({quote('user_id')}) AS subject FROM {table.sql}" for table in tables)
    return int(store.client.value(f"SELECT uniqExact(subject) FROM ({union})"))


def _warn_of(suspects: list[str]) -> list[str]:
    if not suspects:
        return []
    return [
        f"{len(suspects)} columns may hold PII and are not in the PII map, so no retirement reaches them: "
        f"{', '.join(suspects)}. Run `aspects-pii map check`."
    ]


def _warn(
    store: Store, enabled: bool, pending: list[str], subjects: int, failed: int, oldest: float | None
) -> list[str]:
    warnings = []
    if pending:
        warnings.append(f"{len(pending)} migrations are pending. Run `aspects-pii init`.")
    if failed:
        warnings.append(f"{failed} retirements failed. See the reasons, then run `aspects-pii sweep`.")
    if oldest is not None and oldest > store.policy.scrub_within:
        warnings.append(f"The oldest open retirement is {oldest:.0f} s old. Run `aspects-pii sweep`.")
    if not enabled and subjects:
        warnings.append(f"PII is off, but PII of {subjects} subjects is held. Run `aspects-pii purge`.")
    return warnings


def _warn_of_unreadable(store: Store, retirements: list[Retirement]) -> list[str]:
    _, unreadable = store.pii_map.subject.sort_out(retirement.subject for retirement in retirements)
    return (
        [f"{len(unreadable)} open retirements are of {', '.join(unreadable[:10])}: {UNREADABLE}."] if unreadable else []
    )


def _warn_of_works(store: Store) -> list[str]:
    tables = sorted({str(work.target) for work in find_works(store.client)})
    if not tables:
        return []
    return [
        f"Changes of {', '.join(tables)} are under way or were interrupted. Run `aspects-pii sweep` to finish them."
    ]
