"""Handing over what a leaving user owned to somebody who stays.

The map marks a target as `owned`; the column that its rules match on is the owner's id. Of the columns that they redact,
those with the owner's name get the heir's; what else they say of the owner is redacted, for no retirement finds the row
any more. Where the map has no table of people, so that nobody's name is known, the heir's id is enough, and names are
redacted too. `asset` of a target is the column that says what a row is about, so that single assets can be handed over.

.. pii: Reads name, user name and e-mail address of the heir, in memory only.
.. pii_types: id, name, username, email_address
.. pii_retirement: consumer_api
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from sink.clickhouse.catalog import Table, read_path, read_tables
from sink.clickhouse.client import ClickHouse
from sink.clickhouse.parts import drop_hidden_rows
from sink.erasure.changes import Redact
from sink.erasure.hand_over import Assets, HandOver, Heir, name_in, require_movable, require_room
from sink.erasure.identities import Identities
from sink.erasure.interrupted import require_finished
from sink.erasure.keys import write_id
from sink.erasure.plan import Plan, find_secret, read_plan, require_valid_plan
from sink.erasure.rewrite import RewriteStep
from sink.erasure.steps import Step
from sink.errors import ErasureError, RefusedError
from sink.ledger.entries import Action, State
from sink.ledger.leases import hold
from sink.names import quote
from sink.pii_map import SubjectId
from sink.store import Store

_WAIT_FOR_OTHERS_SECONDS = 30.0
# OEP-30 types of what names a person in rows of others.
_CALLED_BY = ("name", "username", "email_address")


@dataclass(frozen=True)
class Reassigned:
    """What was handed over."""

    leaving: str
    heir: str
    rows: dict[str, int]
    """By table."""
    absent: list[str]
    unknown: list[str] = field(default_factory=list)
    """Assets that were asked for, and that neither of the two has."""


def reassign(
    store: Store,
    leaving: SubjectId,
    heir: SubjectId,
    *,
    assets: Sequence[str] | None = None,
    actor: str | None = None,
    dry_run: bool = False,
) -> Reassigned:
    """Give what `leaving` owns to `heir`, before or after the retirement of `leaving`.

    Args:
        store: the store.
        leaving: whose rows they are.
        heir: whose they will be.
        assets: only rows about these; all if None.
        actor: opaque id of who asks; None for the system.
        dry_run: only count.

    Raises:
        RefusedError: the heir is not known here, is retired, or is the one who leaves; a table with rows of `leaving`
            cannot hold the heir's id or name; or assets are named, and the map does not say how an owned target names
            them.
        MapError: the map cannot be carried out on the live schema.
        ErasureError: a row could not be changed, or an earlier change cannot be finished; what was done stays done.
    """
    if str(leaving) == str(heir):
        raise RefusedError("The heir is the one who leaves; name somebody else.")
    if any(retirement.state is not State.WITHDRAWN for retirement in store.ledger.find([heir])):
        raise RefusedError(f"{heir} is retired and cannot own anything.")
    values = _describe_heir(store, heir)
    if values is None:
        raise RefusedError(f"{heir} is not known here; run `aspects-pii sync --user-id {heir}` or name somebody else.")
    plan = read_plan(store, with_history=True)
    require_valid_plan(plan)
    steps = _list_steps(store, plan, Heir(str(heir), values), assets)
    with hold(store.client, "erasing", wait=_WAIT_FOR_OTHERS_SECONDS):
        if not dry_run:
            require_finished(store.client)
        unknown = set(assets or ()).difference(*(_find_assets(store.client, step, [leaving, heir]) for step in steps))
        steps = [step for step in steps if _count(store.client, step, leaving)]
        for step in steps:
            require_room(store.client, step)
        rows = _hand_over(store.client, steps, leaving, dry_run=dry_run)
        if rows and not dry_run:
            # How many assets, and not which: what names them is not ours, and may name a person.
            named = {} if assets is None else {"assets": len(set(assets))}
            detail = {"from": str(leaving), "to": str(heir), "rows": rows, **named}
            store.ledger.record_event(Action.REASSIGNED, detail, actor)
    absent = [name for name in plan.absent if store.pii_map.targets[name].owned]
    return Reassigned(str(leaving), str(heir), rows, absent, sorted(unknown))


def _count(client: ClickHouse, step: Step, leaving: SubjectId) -> int:
    return step.count_left(client, [leaving], Identities()).get(str(leaving), 0)


def _hand_over(client: ClickHouse, steps: Sequence[Step], leaving: SubjectId, *, dry_run: bool) -> dict[str, int]:
    """Carry out `steps`, or only count, and return the rows by table."""
    rows: Counter[str] = Counter()
    for step in steps:
        count = _count(client, step, leaving)
        rows[str(step.table.name)] += count
        if count and not dry_run:
            if refused := step.hide(client, [leaving], Identities(), 1):
                raise ErasureError("; ".join(refused.values()))
            drop_hidden_rows(client, step.table.name)
    return {name: count for name, count in rows.items() if count}


def _list_steps(store: Store, plan: Plan, heir: Heir, assets: Sequence[str] | None) -> list[RewriteStep]:
    owned = {store.client.table(name): target for name, target in store.pii_map.targets.items() if target.owned}
    secret = find_secret(store)
    steps = []
    for step in plan.steps:
        if step.table.name in owned and step.rule.is_by_id:
            meant = None if assets is None else _express_assets(step.table, owned[step.table.name].asset, assets)
            redact = Redact(step.rule, secret, step.pii_types, step.table.columns)
            written = write_id(step.key_kind, heir.id)
            change = HandOver(step.rule, redact, name_in(step, heir), written, meant)
            require_movable(step.table, change)
            steps.append(RewriteStep(step.table, step.rule, step.pii_types, change))
    return steps


def _express_assets(table: Table, path: str | None, wanted: Sequence[str]) -> Assets:
    if path is None or path.partition(".")[0] not in table.columns:
        raise RefusedError(
            f"{table.name} holds what users own, and the map does not say which of its columns names an asset. "
            "Add `asset: COLUMN` to the target, or hand over everything without --asset."
        )
    return Assets(f"toString({read_path(table, path)})", tuple(dict.fromkeys(wanted)))


def _find_assets(client: ClickHouse, step: RewriteStep, owners: Sequence[SubjectId]) -> set[str]:
    """Which of the assets that a step hands over one of `owners` has."""
    assert isinstance(step.change, HandOver)
    if step.change.assets is None:
        return set()
    sql = f"SELECT DISTINCT {step.change.assets.expression} FROM {step.table.name.sql} WHERE {step.match}"
    return set(client.column(sql, None, **step.bind(step.group(owners))))


def _describe_heir(store: Store, heir: SubjectId) -> dict[str, str] | None:
    """What the PII tables say that the heir is called, by OEP-30 type; None where they do not know the heir."""
    source = next(iter(store.pii_map.subject.identifiers.values()), "").rpartition(".")[0]
    if not source:
        # Nowhere would anybody be known.
        return {}
    target, name = store.pii_map.targets[source], store.client.table(source)
    table = read_tables(store.client, [name]).get(name)
    if table is None:
        return None
    columns = {kind: column for column, kind in target.pii.items() if column in table.columns and kind in _CALLED_BY}
    chosen = ", ".join(["1", *(f"toString({quote(column)})" for column in columns.values())])
    rows = store.client.rows(
        f"SELECT {chosen} FROM {name.sql} WHERE toString({quote(target.id_column)}) = {{heir:String}} LIMIT 1",
        heir=str(heir),
    )
    return dict(zip(columns, rows[0][1:], strict=True)) if rows else None
