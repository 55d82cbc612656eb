"""Holding the map against the live schema: is there PII that no rule reaches?

Three questions, answered from ClickHouse's system tables: can every rule of the map be carried out; does a table
have a column that looks like PII and is not in the map; and does anything that is built on a target show its
PII without the map saying so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches

from sink.clickhouse.catalog import Table, find_detached, is_json
from sink.clickhouse.client import ClickHouse
from sink.erasure.derived import read_all_tables
from sink.erasure.found_by_value import find_by_value
from sink.erasure.plan import Plan, find_secret, plan_steps
from sink.erasure.problems import Problem
from sink.erasure.rehearsal import rehearse
from sink.erasure.retention import check_retentions
from sink.erasure.survey import Survey, read_survey
from sink.errors import DatabaseError
from sink.ledger.entries import Action, Ledger
from sink.names import TableName, quote
from sink.pii_map import PiiMap
from sink.store import Store
from sink.wording import counted

_STATEMENTS_LOOKED_AT = 1_000_000
# From here two names are so much alike that one may be meant by the other.
_ALIKE = 0.8


@dataclass(frozen=True)
class Coverage:
    """The answer of `map check`."""

    targets: list[str]
    absent: list[str]
    problems: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)
    """What an operator should know, and may have wanted."""
    suspects: list[str] = field(default_factory=list)
    """Columns that may hold PII which no retirement reaches, as database.table.column."""

    @property
    def is_complete(self) -> bool:
        """True where every rule can be carried out and nothing unmapped was found."""
        return not self.problems


def check_map(store: Store) -> Coverage:
    """Interrogate the live schema. Rules that are switched off are checked all the same."""
    client, pii_map = store.client, store.pii_map
    targets = {name: client.table(name) for name in pii_map.targets}
    tables = read_all_tables(store)
    detached = find_detached(client, (name for name in targets.values() if name not in tables))
    secret = find_secret(store)
    plan = plan_steps(pii_map, targets, tables, detached, redact_history=True, secret=secret, client=client)
    survey = read_survey(store, tables)
    misspelt = _find_misspelt(plan.absent, targets, survey)
    held = find_by_value(store, survey)
    kept_too_long, never_over = check_retentions(client, pii_map, targets, tables)
    problems = [
        *plan.problems,
        *kept_too_long,
        *rehearse(store, plan),
        *_find_missing_columns(pii_map, targets, tables),
        *_find_keys_in_arrays(client, plan),
        *misspelt,
        *_unite(survey.find_problems(), [finding.to_problem(survey) for finding in held]),
    ]
    return Coverage(
        targets=[name for name in pii_map.targets if targets[name] in tables],
        absent=[name for name in plan.absent if f"targets.{name}" not in {problem.place for problem in misspelt}],
        problems=sorted(set(problems), key=str),
        warnings=[*_find_named_actors(store, targets, tables), *never_over],
        suspects=sorted(
            {*survey.find_suspects(), *(f.place for f in held if survey.keeps_its_own(f.table) and f.column)}
        ),
    )


def _unite(by_schema: Iterable[Problem], by_value: Iterable[Problem]) -> list[Problem]:
    """Each place once: what a column holds is said beside what its name or its origin tells."""
    united = {problem.place: problem for problem in by_schema}
    for problem in by_value:
        known = united.get(problem.place)
        united[problem.place] = replace(known, reason=f"{known.reason}; {problem.reason}") if known else problem
    return list(united.values())


def record_coverage(ledger: Ledger, coverage: Coverage) -> None:
    """Put on record what was found: counts, and names of tables and columns. Retirements go by it.

    Raises:
        LedgerError: it could not be written.
    """
    detail = {
        "targets": len(coverage.targets),
        "absent": len(coverage.absent),
        "problems": len(coverage.problems),
        "suspects": coverage.suspects,
    }
    ledger.record_event(Action.MAP_CHECKED, detail)


def _find_misspelt(absent: Iterable[str], targets: Mapping[str, TableName], survey: Survey) -> list[Problem]:
    """Targets that do not exist while a table that is called nearly so does, and is in no map."""
    known = {*targets.values(), *survey.derived}
    # What fills a table that is known is not meant by another name.
    free = {name: table for name, table in survey.tables.items() if name not in known and table.storage not in known}
    problems = []
    for name in absent:
        wanted = targets[name]
        there = {table.table: table for table in free if table.database == wanted.database and free[table].has_rows}
        nearest = [str(there[found]) for found in get_close_matches(wanted.table, list(there), 1, _ALIKE)]
        nearest += [
            str(table)
            for table in free
            if table.table == wanted.table and get_close_matches(wanted.database, [table.database], 1, _ALIKE)
        ]
        if nearest:
            problems.append(Problem(f"targets.{name}", "there is no such table", f"Did you mean {nearest[0]}?"))
    return problems


def _find_named_actors(
    store: Store, targets: Mapping[str, TableName], tables: Mapping[TableName, Table]
) -> list[Problem]:
    """Statements whose actor is an e-mail address, or a hash of one, in tables that no rule of the map rewrites."""
    rewritten = {
        (targets[name], path)
        for name, _, rule in store.pii_map.rules(redact_history=True)
        for path in rule.on_retire.redact
    }
    warnings = []
    for table in tables.values():
        if not table.is_merge_tree or table.columns.get("event") != "String":
            continue
        for field_name in ("mbox", "mbox_sha1sum"):
            if {(table.name, f"event.actor.{field_name}"), (table.name, "event")} & rewritten:
                continue
            try:
                found = _count_named_actors(store.client, table.name, field_name)
            except DatabaseError as error:
                reason, fix = f"it cannot be looked at: {error}", "Let this account read it, or exempt its database."
                warnings.append(Problem(str(table.name), reason, fix))
                break
            if found:
                warnings.append(
                    Problem(
                        f"{table.name}.event.actor.{field_name}",
                        f"{counted(found, 'statement names its actor', 'statements name their actor')} by e-mail address "
                        "(XAPI_AGENT_IFI_TYPE of the LMS)",
                        "Set it to external_id, and add a rule for the old ones: docs/map.md, "
                        "«Events that are not anonymous».",
                    )
                )
    return warnings


def _count_named_actors(client: ClickHouse, table: TableName, field_name: str) -> int:
    # Of so many statements: enough to tell, and bounded.
    return int(
        client.value(
            f"SELECT countIf(JSONHas(event, 'actor', {{field:String}})) FROM (SELECT event FROM {table.sql} "
            "LIMIT {limit:UInt64})",
            field=field_name,
            limit=_STATEMENTS_LOOKED_AT,
        )
    )


def _find_missing_columns(
    pii_map: PiiMap, targets: Mapping[str, TableName], tables: Mapping[TableName, Table]
) -> list[Problem]:
    """Upstream's tables lack columns that later releases added; what `sync` keeps has to be there."""
    problems = []
    for name, target in pii_map.targets.items():
        if table := tables.get(targets[name]):
            missing = (target.pii_columns - set(table.columns)) & set(target.keep or ())
            reason, fix = "the table has no such column", "Correct the map."
            problems += [Problem(f"targets.{name}.pii.{column}", reason, fix) for column in sorted(missing)]
    return problems


def _find_keys_in_arrays(client: ClickHouse, plan: Plan) -> list[Problem]:
    """Rules whose key is a path that leads through an array somewhere: no row is found by an element of one."""
    problems = []
    for step in plan.steps:
        column, *keys = step.rule.key.split(".")
        if not keys:
            continue
        ends = range(1, len(keys) + 1)
        if is_json(step.table.columns[column]):
            kinds = [
                f"JSONAllPathsWithTypes({quote(column)})['{'.'.join(keys[:end])}'] LIKE '%Array(%'" for end in ends
            ]
        else:
            paths = (", ".join(f"'{key}'" for key in keys[:end]) for end in ends)
            kinds = [f"JSONType({quote(column)}, {path}) = 'Array'" for path in paths]
        sql = (
            f"SELECT countIf({' OR '.join(kinds)}) FROM (SELECT {quote(column)} FROM {step.table.name.sql} "
            "LIMIT {limit:UInt64})"
        )
        if found := int(client.value(sql, limit=_STATEMENTS_LOOKED_AT)):
            reason = (
                f"in {counted(found, 'row')} the path leads through an array, and no row is found by an element of one"
            )
            fix = "Keep one row a person, with a path to the one value, or say `retain` with the reason."
            problems.append(Problem(f"{step.table.name}.{step.rule.key}", reason, fix))
    return problems
