"""Opting out: all PII, and everything built on it, goes. Tombstones and ledger stay."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum

from sink.clickhouse.catalog import Table, read_tables
from sink.clickhouse.parts import count_detached_parts, drop_hidden_rows, require_scrubbed, scrub
from sink.clickhouse.query_cache import forget_results
from sink.clickhouse.refreshes import describe_replaced_copies
from sink.clickhouse.row_policies import require_no_row_policy
from sink.erasure.derived import Dependent, read_dependents, reload
from sink.erasure.former_names import forget_everything
from sink.erasure.interrupted import require_finished
from sink.erasure.naming import read_identities
from sink.erasure.plan import read_plan, require_valid_plan
from sink.erasure.queues import flush_queues
from sink.erasure.stays import list_kept
from sink.erasure.steps import Step, list_texts
from sink.erasure.suspects import Suspects, read_suspects
from sink.erasure.verify import list_set_aside
from sink.errors import DatabaseError, ErasureError, RefusedError, UnreachableError
from sink.ledger.entries import Action
from sink.ledger.leases import hold
from sink.names import TableName, quote
from sink.pii_map import SubjectId
from sink.progress import track
from sink.store import Store
from sink.wording import counted

_SUBJECTS_AT_ONCE = 10_000
_WAIT_FOR_OTHERS_SECONDS = 30.0


class PurgeAction(StrEnum):
    """What a purge does to an object."""

    DROP = "drop"
    EMPTY = "empty"
    REDACT = "redact"
    RELOAD = "reload"


@dataclass(frozen=True)
class PurgeLine:
    """What a purge does to one object."""

    name: str
    action: PurgeAction
    rows: int = 0
    columns: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class PurgePlan:
    """Everything that a purge would do."""

    steps: list[Step]
    counts: list[int]
    """Rows that hold anybody, for each step."""
    datasets: list[Table]
    others: list[Dependent]
    suspects: Suspects
    """What the purge leaves, since the map does not know it."""

    @property
    def rows(self) -> dict[TableName, int]:
        """Rows by table: of the rule that finds most of them, since rules of one table may find the same rows."""
        found: dict[TableName, int] = {}
        for step, rows in zip(self.steps, self.counts, strict=True):
            found[step.table.name] = max(rows, found.get(step.table.name, 0))
        return found

    @property
    def lines(self) -> list[PurgeLine]:
        """The plan for people, in the order in which it is carried out."""
        return [
            *(PurgeLine(str(table.name), PurgeAction.DROP) for table in self.datasets),
            *(
                PurgeLine(
                    str(step.table.name),
                    PurgeAction.EMPTY if step.rule.on_retire.delete else PurgeAction.REDACT,
                    rows,
                    step.columns,
                )
                for step, rows in zip(self.steps, self.counts, strict=True)
            ),
            *(PurgeLine(str(other.table.name), PurgeAction.RELOAD) for other in self.others),
        ]


@dataclass(frozen=True)
class PurgeLeft:
    """What a purge leaves that has reached its end."""

    suspects: list[str]
    """Columns that may hold PII, are not in the map, and are in no table that may stay."""
    kept: list[str]
    """Rows that the map keeps, with its reason."""
    copies: list[str]
    """Files that no query reads, and when ClickHouse removes those that go by themselves."""


def plan_purge(store: Store, datasets: Sequence[TableName]) -> PurgePlan:
    """What a purge would do. Changes nothing.

    Args:
        store: the store.
        datasets: what dbt built; those among them that show PII are dropped. Other people's views are left, and
            show nothing afterwards; their dictionaries are reloaded.

    Raises:
        MapError: the map cannot be carried out on the live schema.
    """
    plan = read_plan(store, with_history=True)
    require_valid_plan(plan)
    dependents = read_dependents(store)
    ours = set(datasets)
    shown = {store.client.table(name) for name, entry in store.pii_map.derived.items() if entry.pii}
    return PurgePlan(
        plan.steps,
        [step.count_everybody(store.client) for step in plan.steps],
        # ClickHouse keeps what a dictionary reads for as long as the dictionary is there.
        [d.table for d in reversed(dependents) if d.table.name in ours and (d.origins or d.table.name in shown)],
        [d for d in dependents if d.table.name not in ours and (d.table.is_dictionary or d.table.refresh is not None)],
        read_suspects(store),
    )


def require_off(enabled: bool, force: bool) -> None:
    """Refuse while storing PII is on, unless forced.

    Raises:
        RefusedError: what is purged would come back.
    """
    if enabled and not force:
        raise RefusedError(
            "Storing PII is on: what is purged would come back with the next event. "
            "Set ASPECTS_ENABLE_PII=false first, or insist with --force."
        )


def purge(
    store: Store,
    plan: PurgePlan,
    *,
    enabled: bool,
    force: bool = False,
    accept: Sequence[str] = (),
    actor: str | None = None,
) -> PurgeLeft:
    """Carry out `plan`, prove that nothing is left, and record it: that it begins, and that it is at its end.

    Returns:
        What is left all the same.

    Raises:
        RefusedError: storing PII is on, so that what goes would come back.
        ErasureError: something is left of what the map names, or an earlier change cannot be finished.
        BusyError: somebody else is erasing.
    """
    require_off(enabled, force)
    with hold(store.client, "erasing", wait=_WAIT_FOR_OTHERS_SECONDS):
        require_finished(store.client)
        flush_queues(store)
        return _carry_out(store, plan, accept, actor)


def _carry_out(store: Store, plan: PurgePlan, accept: Sequence[str], actor: str | None) -> PurgeLeft:
    require_no_row_policy(store.client, [*plan.rows])
    store.ledger.record_event(Action.PURGE_BEGUN, {"tables": len(plan.rows) + len(plan.datasets)}, actor)
    for table in track("dropping", plan.datasets, "datasets"):
        kind = "DICTIONARY" if table.is_dictionary else "VIEW" if table.is_view else "TABLE"
        store.client.execute(f"DROP {kind} IF EXISTS {table.name.sql} {store.client.on_cluster} SYNC")
    outcomes = [_purge_step(store, step) for step in track("emptying", plan.steps, "rules")]
    left = list(dict.fromkeys(outcome.table for outcome in outcomes))
    reload(store, plan.others)
    forget_everything(store)
    require_scrubbed(store.client, left, scrub(store.client, left, store.policy.scrub_within))
    _require_empty(store, outcomes)
    # What was dropped may have been among them.
    suspects = read_suspects(store)
    store.ledger.record_event(
        Action.PURGED,
        {
            "rows": {str(name): rows for name, rows in plan.rows.items()},
            "dropped": len(plan.datasets),
            "suspects": suspects.places,
            "accepted": list(accept),
        },
        actor,
    )
    views = [other.table for other in plan.others if other.table.refresh is not None]
    copies = [line for view in views for line in describe_replaced_copies(store.client, view)]
    copies += [*forget_results(store.client), *list_set_aside(store, [store.client.table(name) for name in accept])]
    return PurgeLeft(
        suspects.without([str(store.client.table(name)) for name in accept]), list_kept(store, plan.steps), copies
    )


@dataclass(frozen=True)
class _StepOutcome:
    """What a step of a purge has left, and why."""

    table: TableName
    rows: int | None
    """None where that cannot be told."""
    reasons: Sequence[str]

    def __str__(self) -> str:
        rows = "rows that could not be counted" if self.rows is None else counted(self.rows, "row")
        reasons = "; ".join(reason.removeprefix(f"{self.table}: ") for reason in self.reasons)
        return f"{rows} of {self.table}" + (f" ({reasons})" if reasons else "")


def _require_empty(store: Store, outcomes: Sequence[_StepOutcome]) -> None:
    findings = [str(outcome) for outcome in outcomes if outcome.rows != 0]
    tables = list(dict.fromkeys(outcome.table for outcome in outcomes))
    for name, count in count_detached_parts(store.client, tables).items():
        findings.append(f"{counted(count, 'detached part')} of {name} (ALTER TABLE … DROP DETACHED PART removes them)")
    findings += [f"what {d.table.name} holds ({d.stuck})" for d in read_dependents(store) if d.stuck]
    if findings:
        raise ErasureError(f"The purge left {', '.join(findings)}. See to that, then run it again.")


def _purge_step(store: Store, step: Step) -> _StepOutcome:
    """Delete or redact every row of the step's table that is not exempt; a table that refuses stops no other."""
    reasons: list[str] = []
    rows: int | None = None
    with _noted(reasons):
        _hide_everybody(store, step, reasons)
    with _noted(reasons):
        rows = step.count_everybody(store.client)
    return _StepOutcome(step.table.name, rows, sorted(set(reasons)))


@contextmanager
def _noted(reasons: list[str]) -> Iterator[None]:
    """Note a refusal of what follows, and go on."""
    try:
        yield
    except UnreachableError:
        raise
    except (DatabaseError, ErasureError) as error:
        reasons.append(str(error))


def _hide_everybody(store: Store, step: Step, reasons: list[str]) -> None:
    """Carry out a step for everybody, and note why rows could not be changed."""
    for subjects in _list_named(store, step):
        # People of whom it is known who they are get the pseudonym that they have everywhere.
        identities = read_identities(store, subjects)
        reasons += step.hide(store.client, subjects, identities, _SUBJECTS_AT_ONCE).values()
    reasons += step.hide_everybody(store.client).values()
    drop_hidden_rows(store.client, step.table.name)


def _list_named(store: Store, step: Step) -> Iterator[list[SubjectId]]:
    """Whoever has a profile, where the step finds rows by other names and makes pseudonyms of ids."""
    if not (step.needs_identities and step.needs_subjects) or step.rule.on_retire.delete:
        return
    source = next(iter(store.pii_map.subject.identifiers.values())).rpartition(".")[0]
    table = read_tables(store.client, [store.client.table(source)]).get(store.client.table(source))
    if table is None:
        return
    key = f"ifNull(toString({quote(store.pii_map.targets[source].id_column)}), '')"
    for texts in list_texts(store.client, table, key, "true", {}):
        # What is no id in such a column is nobody's.
        yield [store.pii_map.subject.parse(text) for text in texts if _is_id(store, text)]


def _is_id(store: Store, text: str) -> bool:
    try:
        store.pii_map.subject.parse(text)
    except ValueError:
        return False
    return True
