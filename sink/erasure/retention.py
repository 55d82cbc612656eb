"""What a retention of the map means for a table, and whether the live schema agrees.

.. no_pii: names of tables and columns, and definitions of tables.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from sink.clickhouse.catalog import Table, is_text
from sink.clickhouse.client import ClickHouse
from sink.erasure.plan import is_only_shown
from sink.erasure.problems import Problem, find_problems
from sink.names import TableName, quote
from sink.pii_map import SUBJECT_ID, OnRetire, PiiMap, Retention, Rule
from sink.wording import counted

_ROWS_LOOKED_AT = 1_000_000
_IS_TIME = re.compile(r"(LowCardinality\()?(Nullable\()?Date(32|Time|Time64)?\b")
_TTL = re.compile(r"\bTTL (.+?)(?: SETTINGS |$)", re.DOTALL)


def read_rule(retention: Retention) -> Rule:
    """The same as a rule about rows, whose key is the column with the time."""
    what = OnRetire.model_validate({"redact": retention.redact, "delete": not retention.redact})
    return Rule(match={retention.column: SUBJECT_ID}, on_retire=what)


def find_retention_problems(name: str, retention: Retention, table: Table) -> list[Problem]:
    """Why a retention cannot be carried out on a table, by its definition.

    Args:
        name: the target, as the map names it.
        retention: what the map says.
        table: the table that is there.
    """
    place = f"targets.{name}.retention"
    problems = [
        Problem(place, found.reason, found.fix) for found in find_problems(name, read_rule(retention), table, None)
    ]
    kind = table.columns.get(retention.column)
    if kind is not None and not (_IS_TIME.match(kind) or is_text(kind)):
        reason = f"{retention.column} is {kind}, and says no time"
        problems.append(Problem(place, reason, "Name a column with a date or a time."))
    for column in sorted(set(retention.redact) & table.key_columns):
        reason = f"{column} is part of the sort or partition key, and no statement changes it in place"
        problems.append(Problem(place, reason, "Leave `redact` out, so that the rows go."))
    return problems


def check_retentions(
    client: ClickHouse, pii_map: PiiMap, targets: Mapping[str, TableName], tables: Mapping[TableName, Table]
) -> tuple[list[Problem], list[Problem]]:
    """Hold every retention against the live schema; problems, and what an operator should know.

    Raises:
        DatabaseError: a table could not be looked at.
    """
    problems: list[Problem] = []
    warnings: list[Problem] = []
    for name, target in pii_map.targets.items():
        table = tables.get(targets[name])
        if target.retention is None or table is None or is_only_shown(pii_map, name, table):
            continue
        found = find_retention_problems(name, target.retention, table)
        problems += [*found, *_find_other_ttls(name, target.retention, table)]
        if not found and is_text(table.columns[target.retention.column]):
            warnings += _find_unreadable(client, name, target.retention, table)
    return problems, warnings


def _find_other_ttls(name: str, retention: Retention, table: Table) -> Iterator[Problem]:
    """A TTL of the table that takes rows out at another time than the map says."""
    definition = _TTL.search(table.engine_full)
    if definition is None:
        return
    column = re.escape(retention.column)
    same = rf"(toDateTime\()?`?{column}`?(, 'UTC')?\)? \+ toIntervalDay\({retention.days}\)( DELETE)?"
    if re.fullmatch(same, definition[1].strip()) and not retention.redact:
        return
    yield Problem(
        f"targets.{name}.retention",
        f"the table has a TTL of its own, `{definition[1].strip()}`, and the map says {retention.days} days after "
        f"{retention.column}",
        "Make them agree (ALTER TABLE … MODIFY TTL, in days), or remove it (ALTER TABLE … REMOVE TTL).",
    )


def _find_unreadable(client: ClickHouse, name: str, retention: Retention, table: Table) -> Iterator[Problem]:
    """Rows whose time cannot be read, and that stay for ever."""
    moment = f"parseDateTime64BestEffortOrNull(toString({quote(retention.column)}), 6, 'UTC')"
    rows = int(
        client.value(
            f"SELECT countIf(isNull({moment})) FROM (SELECT {quote(retention.column)} FROM {table.name.sql} "
            "LIMIT {limit:UInt64})",
            limit=_ROWS_LOOKED_AT,
        )
    )
    if rows:
        reason = f"{counted(rows, 'row has', 'rows have')} no time in {retention.column} that can be read"
        yield Problem(f"targets.{name}.retention", reason, "Such rows stay; put them right, or name another column.")
