"""What a retirement leaves of the PII that the map lists, and why.

.. no_pii: names of tables and columns, and the map's reasons.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from sink.clickhouse.client import ClickHouse
from sink.erasure.identities import Identities
from sink.erasure.plan import Plan
from sink.pii_map import PiiMap, SubjectId, Target


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


def list_exempt(
    client: ClickHouse, plan: Plan, subjects: Sequence[SubjectId], identities: Identities
) -> dict[str, list[StayLine]]:
    """Rows that an exemption keeps, by subject: after an erasure, what the rule would still change without it."""
    lines: dict[str, list[StayLine]] = {}
    for step in plan.steps:
        exemption = step.rule.on_retire.unless
        if exemption is None:
            continue
        on_retire = step.rule.on_retire.model_copy(update={"unless": None})
        without = replace(step, rule=step.rule.model_copy(update={"on_retire": on_retire}))
        columns = step.columns or sorted(step.pii_types)
        reason = f"{exemption.column} is {' or '.join(exemption.values)}: {exemption.reason}"
        for subject, rows in without.count_left(client, subjects, identities).items():
            lines.setdefault(subject, []).append(StayLine(str(step.table.name), columns, reason, rows))
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
