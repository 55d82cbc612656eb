"""What a retirement leaves of the PII that the map lists, and why.

.. no_pii: names of tables and columns, and the map's reasons.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from sink.pii_map import PiiMap, Target


@dataclass(frozen=True)
class StayLine:
    """Columns of a target that a retirement leaves as they are."""

    target: str
    columns: list[str]
    reason: str


def list_stays(pii_map: PiiMap, present: Mapping[str, str], *, redact_history: bool) -> list[StayLine]:
    """What stays of the targets that are `present`, as name in the map -> name in this installation."""
    return [
        StayLine(present[name], columns, reason)
        for name, target in pii_map.targets.items()
        if name in present
        for columns, reason in _list_reasons(target, redact_history=redact_history)
    ]


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
