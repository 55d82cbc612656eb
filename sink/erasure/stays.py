"""What a retirement, or a purge, leaves of the PII that the map lists, and why.

.. no_pii: names of tables and columns, and the map's reasons.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from sink.clickhouse.catalog import read_tables
from sink.clickhouse.client import ClickHouse
from sink.erasure.identities import Identities
from sink.erasure.plan import Plan
from sink.erasure.steps import Step
from sink.pii_map import Exemption, PiiMap, SubjectId, Target
from sink.store import Store
from sink.wording import counted


@dataclass(frozen=True)
class StayLine:
    """Columns of a target that a retirement leaves as they are."""

    target: str
    columns: list[str]
    reason: str
    rows: int | None = None
    """How many rows of the subject, where they were counted."""


def list_stays(pii_map: PiiMap, present: Mapping[str, str], *, redact_history: bool) -> list[StayLine]:
    """What stays of the targets that are `present`, as name in the map -> name in this installation."""
    return [
        StayLine(present[name], columns, reason)
        for name, target in pii_map.targets.items()
        if name in present
        for columns, reason in _list_reasons(target, redact_history=redact_history)
    ]


def list_kept(store: Store, steps: Sequence[Step]) -> list[str]:
    """What a purge leaves by the map, with the reason and the number of rows; tables without a row are left out.

    Args:
        store: the store.
        steps: what was carried out.
    """
    names = {name: store.client.table(name) for name in store.pii_map.targets}
    tables = read_tables(store.client, names.values())
    present = {name: str(table) for name, table in names.items() if table in tables and tables[table].rows}
    rows = {str(table.name): table.rows for table in tables.values()}
    lines = [replace(line, rows=rows[line.target]) for line in list_stays(store.pii_map, present, redact_history=True)]
    for step in steps:
        exemption = step.rule.on_retire.unless
        if exemption is not None and (kept := _without_exemption(step).count_everybody(store.client)):
            columns = step.columns or sorted(step.pii_types)
            lines.append(StayLine(str(step.table.name), columns, _explain(exemption), kept))
    return [
        f"{counted(line.rows or 0, 'row')} of {line.target} ({', '.join(line.columns)}): {line.reason}"
        for line in lines
    ]


def _without_exemption(step: Step) -> Step:
    on_retire = step.rule.on_retire.model_copy(update={"unless": None})
    return replace(step, rule=step.rule.model_copy(update={"on_retire": on_retire}))


def _explain(exemption: Exemption) -> str:
    return f"{exemption.column} is {' or '.join(exemption.values)}: {exemption.reason}"


def list_exempt(
    client: ClickHouse, plan: Plan, subjects: Sequence[SubjectId], identities: Identities
) -> dict[str, list[StayLine]]:
    """Rows that an exemption keeps, by subject: after an erasure, what the rule would still change without it."""
    lines: dict[str, list[StayLine]] = {}
    for step in plan.steps:
        exemption = step.rule.on_retire.unless
        if exemption is None:
            continue
        columns = step.columns or sorted(step.pii_types)
        for subject, rows in _without_exemption(step).count_left(client, subjects, identities).items():
            lines.setdefault(subject, []).append(StayLine(str(step.table.name), columns, _explain(exemption), rows))
    return lines


def _list_reasons(target: Target, *, redact_history: bool) -> Iterator[tuple[list[str], str]]:
    touched: set[str] = set()
    explained: set[str] = set()
    for rule in target.rules:
        what = rule.on_retire
        columns = list(target.pii) if what.delete else list(what.redact)
        if what.retain is not None:
            explained |= set(target.pii)
            yield list(target.pii), what.retain
        elif what.when == "redact_history" and not redact_history:
            explained |= set(columns)
            yield columns, "the rule is for history rows, and ASPECTS_REDACT_HISTORY is off"
        else:
            touched |= set(columns)
    if rest := _list_others(target, touched | explained):
        yield rest, "no rule of the PII map touches them"


def _list_others(target: Target, known: Collection[str]) -> list[str]:
    return [path for path in target.pii if path not in known]
