"""Holding the map against the live schema: is there PII that no rule reaches?

Three questions, answered from ClickHouse's system tables: can every rule of the map be carried out; does a table
have a column that looks like PII and is not in the map; and does anything that is built on a target show its
PII without the map saying so.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from pydantic import SecretStr

from sink.catalog import Table, find_dependents, read_tables
from sink.client import ClickHouse
from sink.erase import plan_steps
from sink.names import TableName
from sink.pii import PiiMap

# Names that the LMS, Aspects and their neighbours give to columns with PII. Whole names or parts between
# underscores; camelCase is read as underscores.
_SUSPICIOUS = re.compile(
    r"(^|_)(user_?name|e?_?mail|email_address|first_?name|last_?name|full_?name|given_?name|family_?name|surname|nick_?name|"
    r"phone|phone_?number|mobile|mailing_?address|postal_?address|street|birth|birth_?date|birth_?day|year_of_birth|dob|"
    r"gender|sex|biography|bio|ssn|passport|ip_?address|password|mbox|mbox_sha1sum|external_user_id)($|_)"
)
_SUSPICIOUS_WHOLE = ("name", "city", "country", "location", "ip", "anonymous_id")


@dataclass(frozen=True)
class Problem:
    """Something to put right, with the fix."""

    place: str
    reason: str
    fix: str

    def __str__(self) -> str:
        return f"{self.place}: {self.reason}. {self.fix}"


@dataclass(frozen=True)
class Coverage:
    """The answer of `map check`."""

    targets: list[str]
    absent: list[str]
    problems: list[Problem] = field(default_factory=list)

    @property
    def is_complete(self) -> bool:
        """True where every rule can be carried out and nothing unmapped was found."""
        return not self.problems


def check_map(
    client: ClickHouse, pii_map: PiiMap, *, redact_history: bool = True, secret: SecretStr | None = None
) -> Coverage:
    """Interrogate the live schema. Rules that are switched off are checked all the same."""
    targets = {name: client.table(name) for name in pii_map.targets}
    derived = {client.table(name): entry.pii for name, entry in pii_map.derived.items()}
    tables = {**read_tables(client), **read_tables(client, [*targets.values(), *derived])}
    plan = plan_steps(pii_map, targets, tables, redact_history=redact_history, secret=secret)
    problems = [_split_problem(problem) for problem in plan.problems]
    exempt = _read_exemptions(client, pii_map)
    mapped = {targets[name]: target.pii_columns for name, target in pii_map.targets.items()}
    problems += _find_missing_columns(pii_map, targets, tables)
    problems += _find_unmapped_dependents(tables, mapped, derived, exempt)
    problems += _find_suspicious_columns(tables, mapped, derived, exempt)
    present = [name for name in pii_map.targets if targets[name] in tables]
    return Coverage(present, plan.absent, sorted(set(problems), key=str))


def looks_like_pii(column: str) -> bool:
    """True where a column's name says that it holds PII."""
    name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", column).lower()
    return name in _SUSPICIOUS_WHOLE or _SUSPICIOUS.search(name) is not None


def _split_problem(problem: str) -> Problem:
    place, _, rest = problem.partition(": ")
    reason, _, fix = rest.partition(". ")
    return Problem(place, reason, fix)


def _read_exemptions(client: ClickHouse, pii_map: PiiMap) -> set[tuple[TableName, str | None]]:
    """(table, column), or (table, None) for a whole table."""
    exempt: set[tuple[TableName, str | None]] = set()
    for name in pii_map.not_pii:
        parts = name.split(".", 2)
        exempt.add((client.table(".".join(parts[:2])), parts[2] if len(parts) == 3 else None))
    return exempt


def _find_missing_columns(
    pii_map: PiiMap, targets: Mapping[str, TableName], tables: Mapping[TableName, Table]
) -> Iterator[Problem]:
    for name, target in pii_map.targets.items():
        table = tables.get(targets[name])
        if table is None:
            continue
        # Upstream's tables lack columns that later releases added; what `sync` keeps has to be there.
        for column in sorted(target.pii_columns - set(table.columns)):
            if column in (target.keep or ()):
                yield Problem(f"targets.{name}.pii.{column}", "the table has no such column", "Correct the map.")


def _find_unmapped_dependents(
    tables: dict[TableName, Table],
    mapped: Mapping[TableName, set[str]],
    derived: Mapping[TableName, Mapping[str, str]],
    exempt: set[tuple[TableName, str | None]],
) -> Iterator[Problem]:
    for name, origins in find_dependents(tables, [target for target in mapped if target in tables]).items():
        if name in derived or name in mapped or (name, None) in exempt:
            continue
        table = tables[name]
        shown = sorted(
            column
            for column in table.columns
            if (name, column) not in exempt and any(column in mapped[origin] for origin in origins)
        )
        renamed = sorted(
            column
            for column in table.columns
            if not shown and (name, column) not in exempt and _selects(table, column, [mapped[o] for o in origins])
        )
        for column in shown or renamed:
            yield Problem(
                f"{name}.{column}",
                f"this {table.engine} shows PII of {', '.join(sorted(map(str, origins)))} and is not in the map",
                _advise(table),
            )


def _selects(table: Table, column: str, mapped: Iterable[set[str]]) -> bool:
    """True where the definition makes `column` out of a column with PII under another name."""
    definition = table.create_query
    return any(
        re.search(rf"\b{re.escape(source)}\b[^,]*\bAS\s+`?{re.escape(column)}`?(?!\w)", definition, re.IGNORECASE)
        for columns in mapped
        for source in columns
    )


def _advise(table: Table) -> str:
    if table.engine in ("View", "Dictionary") or table.is_refreshable_view:
        return f"Add {table.name} under `derived`."
    return f"Add {table.name} under `targets` with what a retirement does to it."


def _find_suspicious_columns(
    tables: Mapping[TableName, Table],
    mapped: Mapping[TableName, set[str]],
    derived: Mapping[TableName, Mapping[str, str]],
    exempt: set[tuple[TableName, str | None]],
) -> Iterator[Problem]:
    for table in tables.values():
        if table.name in derived or (table.name, None) in exempt or table.engine in ("View", "Dictionary"):
            continue
        for column in table.columns:
            if column in mapped.get(table.name, ()) or (table.name, column) in exempt or not looks_like_pii(column):
                continue
            place = f"targets.{table.name}.pii.{column}" if table.name in mapped else f"targets.{table.name}"
            yield Problem(
                f"{table.name}.{column}",
                "the column looks like PII by its name and is not in the map",
                f"Add it as {place}, or name it under `not_pii` with the reason.",
            )
