"""Retention: rows that the map keeps for so many days go then, or have columns emptied, whoever they are about.

Rows stay whose time cannot be read, and those of restricted subjects, where a rule by id says whose they are: who has asked for a
restriction may need what is kept.

ClickHouse's own TTL is not used: it drops rows some time after a merge, leaves no count, and knows nobody who is restricted.

.. no_pii: names of tables, times, and counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from sink.clickhouse.catalog import is_text, read_tables
from sink.clickhouse.parts import require_scrubbed, scrub
from sink.clickhouse.row_policies import require_no_row_policy
from sink.erasure.interrupted import require_finished
from sink.erasure.plan import is_only_shown
from sink.erasure.retention import find_retention_problems, read_rule
from sink.erasure.steps import DirectStep
from sink.errors import ErasureError, RefusedError
from sink.ledger.entries import Action
from sink.ledger.leases import hold
from sink.ledger.restrictions import list_restricted
from sink.names import quote
from sink.store import Store
from sink.wording import counted

_WAIT_FOR_OTHERS_SECONDS = 30.0
# A statement changes about so many rows, and a sweep has so many for each table; the next one goes on.
_ROWS_AT_ONCE = 1_000_000
_STATEMENTS = 50
_EVERY = timedelta(days=1)
_SMALL_TABLE_ROWS = 1_000
"""As for retirements: of smaller tables any share may be due."""


@dataclass(frozen=True)
class ExpiryStep(DirectStep):
    """The retention of one target: a rule about everybody's rows until a time."""

    until: datetime
    kept: Sequence[str]
    """Ids of subjects whose rows stay, as texts."""
    id_column: str | None
    """The column that says whose a row is, where there is one."""

    @property
    def moment(self) -> str:
        """The time of a row, as SQL; NULL where it cannot be read."""
        column = quote(self.rule.key)
        kind = self.table.columns[self.rule.key]
        if is_text(kind):
            return f"parseDateTime64BestEffortOrNull(toString({column}), 6, 'UTC')"
        # As it stands, so that a sort key is used.
        return column if "DateTime" in kind else f"toDateTime64({column}, 6, 'UTC')"

    def carry_out(self, store: Store) -> bool:
        """Change what is due, the oldest first; False where it was more than a sweep does."""
        for _ in range(_STATEMENTS):
            sql = (
                "SELECT count(), max(aspects_pii_moment) FROM ("
                f"SELECT toDateTime64({self.moment}, 6, 'UTC') AS aspects_pii_moment FROM {self.table.name.sql} "
                f"WHERE {self._left(self._not_exempt())} ORDER BY aspects_pii_moment LIMIT {{size:UInt64}})"
            )
            ((count, end),) = store.client.rows(sql, size=_ROWS_AT_ONCE, **self._values())
            if not count:
                return True
            # What is of the same time goes together.
            refused = replace(self, until=min(self.until, end + timedelta(microseconds=1))).hide_everybody(store.client)
            if refused:
                raise ErasureError("; ".join(sorted(set(refused.values()))))
        return False

    def count_kept(self, store: Store) -> int:
        """Rows that are not due."""
        sql = f"SELECT count() FROM {self.table.name.sql} WHERE NOT ifNull({self._not_exempt()}, false)"
        return int(store.client.value(sql, **self._exempt_values()))

    def _not_exempt(self) -> str:
        # A time at or before the beginning of 1970 is what software writes where it knows none.
        due = f"{self.moment} > toDateTime64(0, 6, 'UTC') AND {self.moment} < {{until:DateTime64(6, 'UTC')}}"
        if self.id_column is None or not self.kept:
            return f"ifNull({due}, false)"
        # NULL is nobody's, and not among them.
        whose = f"ifNull(toString({quote(self.id_column)}), '')"
        return f"(ifNull({due}, false) AND {whose} NOT IN {{kept:Array(String)}})"

    def _exempt_values(self) -> dict[str, Any]:
        is_kept = self.id_column is not None and self.kept
        return {"until": self.until} | ({"kept": list(self.kept)} if is_kept else {})


@dataclass(frozen=True)
class Expired:
    """What became of rows whose time is over; by table, as the map names it."""

    rows: dict[str, int]
    """Rows that went or were emptied, of tables that had any."""
    kept: dict[str, int]
    """Rows that were not due, counted afterwards, of every table with a retention."""
    left: dict[str, int]
    """Rows that are due and wait for the next sweep, since there were so many."""


def expire(store: Store, *, force: bool = False) -> Expired | None:
    """Carry out every retention of the map, and put on record how many rows that was.

    Args:
        store: the store.
        force: also where it touches more of a table than the safeguard allows.

    Returns:
        The counts; None where the map has none, so that nothing is recorded.

    Raises:
        RefusedError: it would touch more of a table than ASPECTS_RETIRE_MAX_SHARE; nothing was changed.
        ErasureError: a retention cannot be carried out, or rows that were due are still there.
        BusyError: somebody else is erasing.
        DatabaseError: the engine refused.
    """
    if not has_retention(store):
        return None
    with hold(store.client, "erasing", wait=_WAIT_FOR_OTHERS_SECONDS):
        require_finished(store.client)
        steps = _list_steps(store)
        require_no_row_policy(store.client, [step.table.name for step in steps.values()])
        due = {name: step.count_everybody(store.client) for name, step in steps.items()}
        if not force:
            _require_small_share(store, steps, due)
        done = {name: step.carry_out(store) for name, step in steps.items() if due[name]}
        tables = [steps[name].table.name for name in done]
        require_scrubbed(store.client, tables, scrub(store.client, tables, store.policy.scrub_within))
        left = {name: step.count_everybody(store.client) for name, step in steps.items() if due[name]}
        expired = Expired(
            rows={name: due[name] - left[name] for name in done},
            kept={name: step.count_kept(store) for name, step in steps.items()},
            left={name: rows for name, rows in left.items() if rows},
        )
    store.ledger.record_event(Action.EXPIRED, {"rows": expired.rows, "kept": expired.kept})
    if stuck := sorted(name for name in expired.left if done[name]):
        raise ErasureError(f"Rows that the map keeps no longer are still in {', '.join(stuck)}.")
    return expired


def _require_small_share(store: Store, steps: Mapping[str, ExpiryStep], due: Mapping[str, int]) -> None:
    """Refuse what a mistake in the map may mean: nobody is asked before a sweep."""
    limit = store.policy.retire_max_share
    for name, step in steps.items():
        rows = step.table.rows
        if rows >= _SMALL_TABLE_ROWS and due[name] > rows * limit:
            raise RefusedError(
                f"By the retention of the map {due[name]} of {counted(rows, 'row')} of {name} would go, or be emptied, more than "
                f"the share of {limit:g} that ASPECTS_RETIRE_MAX_SHARE allows. Look at `targets.{name}.retention`, then insist "
                "with `aspects-pii sweep --force`."
            )


def is_due(store: Store) -> bool:
    """True where the map has a retention and none was carried out for a day."""
    if not has_retention(store):
        return False
    last = store.ledger.show(action=Action.EXPIRED, limit=1, with_voided=False)
    return not last or store.client.now() - last[-1].at >= _EVERY


def has_retention(store: Store) -> bool:
    """True where the map keeps anything for so many days only."""
    return any(target.retention for target in store.pii_map.targets.values())


def _list_steps(store: Store) -> dict[str, ExpiryStep]:
    """The retentions of tables that are there.

    Raises:
        ErasureError: one of them cannot be carried out; nothing was changed.
    """
    wanted = {name: target for name, target in store.pii_map.targets.items() if target.retention}
    tables = read_tables(store.client, [store.client.table(name) for name in wanted])
    now, kept = store.client.now(), list_restricted(store.client)
    steps, problems = {}, []
    for name, target in wanted.items():
        table, retention = tables.get(store.client.table(name)), target.retention
        if table is None or retention is None or is_only_shown(store.pii_map, name, table):
            continue
        problems += find_retention_problems(name, retention, table)
        by_id = [rule.key for rule in target.rules if rule.is_by_id and "." not in rule.key]
        steps[name] = ExpiryStep(
            table=table,
            rule=read_rule(retention),
            pii_types=target.pii,
            secret=None,
            until=now - timedelta(days=retention.days),
            kept=kept,
            id_column=next((key for key in by_id if key in table.columns), None),
        )
    if problems:
        raise ErasureError("\n".join(sorted(map(str, problems))))
    return steps
