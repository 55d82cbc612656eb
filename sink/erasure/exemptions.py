"""What the map says that stays: columns that hold no PII, and columns whose PII is kept for a reason.

.. no_pii: names of tables and columns.
"""

from __future__ import annotations

from sink.clickhouse.client import ClickHouse
from sink.names import TableName
from sink.pii_map import PiiMap, Rule, Target
from sink.store import Store

NotPii = set[tuple[TableName, str | None]]
"""(table, column), or (table, None) for a whole table, that the map says is no PII."""


def list_not_pii(store: Store) -> NotPii:
    """What the map lists under `not_pii`, by the names of this installation."""
    listed: NotPii = set()
    for name in store.pii_map.not_pii:
        database, table, *column = name.split(".", 2)
        listed.add((store.client.table(f"{database}.{table}"), column[0] if column else None))
    return listed


def is_exempt(not_pii: NotPii, table: TableName, column: str) -> bool:
    """True where the map lists the column, its Nested column, or its table under `not_pii`."""
    return bool({(table, None), (table, column), (table, column.partition(".")[0])} & not_pii)


def list_retained(client: ClickHouse, pii_map: PiiMap, *, redact_history: bool) -> dict[tuple[TableName, str], str]:
    """PII columns of which the map keeps rows, as (table, column) -> why."""
    retained: dict[tuple[TableName, str], str] = {}
    for name, target in pii_map.targets.items():
        for rule in target.rules:
            if reason := _find_reason(rule, redact_history=redact_history):
                retained |= {(client.table(name), column): reason for column in _list_columns(target, rule)}
    return retained


def _find_reason(rule: Rule, *, redact_history: bool) -> str:
    what = rule.on_retire
    if what.retain is not None:
        return f"retained: {what.retain}"
    if what.when == "redact_history" and not redact_history:
        return "ASPECTS_REDACT_HISTORY is off"
    return f"rows are retained: {what.unless.reason}" if what.unless is not None else ""


def _list_columns(target: Target, rule: Rule) -> set[str]:
    redacted = {path.partition(".")[0] for path in rule.on_retire.redact}
    return redacted or target.pii_columns
