"""Handing over what a leaving user owned to somebody who stays.

The map marks a target as `owned`; the column that its rules match on is the owner's id, and the columns that they
redact carry the owner's name, which becomes the heir's. `asset` of a target is the column that says what a row is about,
so that single assets can be handed over.

.. pii: Reads name, user name and e-mail address of the heir, in memory only.
.. pii_types: id, name, username, email_address
.. pii_retirement: consumer_api
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sink.clickhouse.catalog import read_path
from sink.clickhouse.client import ClickHouse
from sink.clickhouse.parts import drop_hidden_rows
from sink.erasure.identities import Identities
from sink.erasure.plan import read_plan, require_valid_plan
from sink.erasure.rewrite import RewriteStep
from sink.errors import RefusedError
from sink.ledger.entries import Action, State
from sink.ledger.leases import hold
from sink.names import quote
from sink.pii_map import PiiMap, Redaction, SubjectId
from sink.store import Store

_WAIT_FOR_OTHERS_SECONDS = 30.0


@dataclass(frozen=True)
class HandOver(RewriteStep):
    """A rule of an owned target that gives rows to an heir instead of redacting them."""

    heir: str = ""
    heir_values: Mapping[str, str] = field(default_factory=dict, repr=False)
    """What the heir is called, by OEP-30 type."""
    asset: str = ""
    """The column, or path, that says which asset a row is about."""
    assets: tuple[str, ...] | None = None
    """Only rows about these."""

    @property
    def _asset(self) -> str:
        return f"toString({read_path(self.table, self.asset)})"

    @property
    def _match(self) -> str:
        return (
            super()._match if self.assets is None else f"{super()._match} AND {self._asset} IN {{assets:Array(String)}}"
        )

    def _values(self, keys: Mapping[str, str]) -> dict[str, Any]:
        return super()._values(keys) | ({} if self.assets is None else {"assets": list(self.assets)})

    def find_assets(self, client: ClickHouse, owners: Sequence[SubjectId]) -> set[str]:
        """Which of `assets` one of `owners` has."""
        return set(
            client.column(
                f"SELECT DISTINCT {self._asset} FROM {self.table.name.sql} WHERE {self._match}",
                None,
                **self._values({str(owner): str(owner) for owner in owners}),
            )
        )

    @property
    def _changed_columns(self) -> list[str]:
        return sorted({self.rule.key.partition(".")[0], *super()._changed_columns})

    @property
    def _key_goes(self) -> bool:
        return True

    @property
    def _deletes(self) -> bool:
        return False

    @property
    def _redactions(self) -> dict[str, Redaction]:
        return {**self.rule.on_retire.redact, self.rule.key: Redaction(kind="empty")}

    def _replace(self, redaction: Redaction, path: str, subject: str, old: Any) -> Any:
        if path == self.rule.key:
            return int(self.heir) if isinstance(old, int) else self.heir
        return self.heir_values.get(self.pii_types[path], "")


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
        RefusedError: the heir is not known here, is retired, or is the one who leaves; or assets are named, and the map
            does not say how an owned target names them.
        MapError: the map cannot be carried out on the live schema.
    """
    if str(leaving) == str(heir):
        raise RefusedError("The heir is the one who leaves; name somebody else.")
    if any(retirement.state is not State.WITHDRAWN for retirement in store.ledger.find([heir])):
        raise RefusedError(f"{heir} is retired and cannot own anything.")
    values = _describe_heir(store.client, store.pii_map, heir)
    if values is None:
        raise RefusedError(f"{heir} is not known here; run `aspects-pii sync --user-id {heir}` or name somebody else.")
    steps, absent = _list_steps(store, str(heir), values, assets)
    with hold(store.client, "erasing", wait=_WAIT_FOR_OTHERS_SECONDS):
        rows: dict[str, int] = {}
        unknown = set(assets or ()).difference(*(step.find_assets(store.client, [leaving, heir]) for step in steps))
        for step in steps:
            count = step.count_left(store.client, [leaving], Identities()).get(str(leaving), 0)
            if count:
                name = str(step.table.name)
                rows[name] = rows.get(name, 0) + count
                if not dry_run:
                    step.hide(store.client, [leaving], Identities(), 1)
                    drop_hidden_rows(store.client, step.table.name)
        if rows and not dry_run:
            # How many assets, and not which: what names them is not ours, and may name a person.
            named = {} if assets is None else {"assets": len(set(assets))}
            detail = {"from": str(leaving), "to": str(heir), "rows": rows, **named}
            store.ledger.record_event(Action.REASSIGNED, detail, actor)
    return Reassigned(str(leaving), str(heir), rows, absent, sorted(unknown))


def _list_steps(
    store: Store, heir: str, values: Mapping[str, str], assets: Sequence[str] | None
) -> tuple[list[HandOver], list[str]]:
    owned = {store.client.table(name): target for name, target in store.pii_map.targets.items() if target.owned}
    plan = read_plan(store, with_history=True)
    require_valid_plan(plan)
    steps = []
    for s in plan.steps:
        target = owned.get(s.table.name)
        if target is None or not s.rule.is_by_id:
            continue
        asset = target.asset or ""
        if assets is not None and asset.partition(".")[0] not in s.table.columns:
            raise RefusedError(
                f"{s.table.name} holds what users own, and the map does not say which of its columns names an asset. "
                "Add `asset: COLUMN` to the target, or hand over everything without --asset."
            )
        named = None if assets is None else tuple(dict.fromkeys(assets))
        steps.append(
            HandOver(
                s.table,
                s.rule,
                s.subject_type,
                s.secret,
                s.pii_types,
                heir=heir,
                heir_values=values,
                asset=asset,
                assets=named,
            )
        )
    return steps, [name for name in plan.absent if store.client.table(name) in owned]


def _describe_heir(client: ClickHouse, pii_map: PiiMap, heir: SubjectId) -> dict[str, str] | None:
    """What the PII tables say that the heir is called, by OEP-30 type; None where they do not know the heir."""
    source = next(iter(pii_map.subject.identifiers.values()), "").rpartition(".")[0]
    target = pii_map.targets.get(source)
    if target is None:
        return None
    key = next(rule.key for rule in target.rules if rule.is_by_id)
    known = client.column(
        "SELECT name FROM system.columns WHERE database = {database:String} AND table = {table:String}",
        database=client.table(source).database,
        table=client.table(source).table,
    )
    columns = {kind: column for column, kind in target.pii.items() if column in known and kind in _CALLED_BY}
    chosen = ", ".join(["1", *(f"toString({quote(column)})" for column in columns.values())])
    rows = client.rows(
        f"SELECT {chosen} FROM {client.table(source).sql} WHERE toString({quote(key)}) = {{heir:String}} LIMIT 1",
        heir=str(heir),
    )
    return dict(zip(columns, rows[0][1:], strict=True)) if rows else None


_CALLED_BY = ("name", "username", "email_address")
