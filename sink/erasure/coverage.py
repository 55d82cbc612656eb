"""Holding the map against the live schema: is there PII that no rule reaches?

Three questions, answered from ClickHouse's system tables: can every rule of the map be carried out; does a table
have a column that looks like PII and is not in the map; and does anything that is built on a target show its
PII without the map saying so.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from sink.clickhouse.catalog import Table, read_tables
from sink.clickhouse.client import ClickHouse
from sink.clickhouse.lineage import find_storage, trace_columns
from sink.erasure.exemptions import NotPii, list_not_pii
from sink.erasure.found_by_value import find_by_value
from sink.erasure.plan import plan_steps
from sink.erasure.problems import Problem
from sink.erasure.rehearsal import rehearse
from sink.names import TableName
from sink.pii_map import PiiMap
from sink.store import Store

# Words that the LMS, Aspects and their neighbours use in names of columns with PII, alone or between underscores.
_SUSPICIOUS = re.compile(
    r"(^|_)(user_?name|login|e_?mail|e_?mail_address|"
    r"(first|last|full|middle|maiden|given|family|real|legal|preferred|nick|learner|student|author|owner)_?name|surname|"
    r"phone|phone_?number|mobile|(mailing|postal|street|home|billing)_?address|street|post_?code|postal_?code|zip_?code|"
    r"birth|birth_?date|birth_?day|year_of_birth|dob|gender|sex|biography|bio|avatar|photo|profile_image|"
    r"ssn|passport|national_id|tax_id|ip|ip_?address|password|mbox|mbox_sha1sum|external_user_id)s?($|_)"
)
# Words that mean a person only where nothing stands beside them.
_SUSPICIOUS_WHOLE = ("name", "address", "city", "country", "location", "anonymous_id", "anonymous_user_id")
# A yes or no, or a number, about such a thing.
_ABOUT = re.compile(r"^(is|has|num|count)_|_(count|verified)$")
# The ledger and its kin hold opaque ids, counts, and names of files and things; nothing else is in their database.
_OWN_DATABASE = "pii_ledger"
_STATEMENTS_LOOKED_AT = 1_000_000


@dataclass(frozen=True)
class Coverage:
    """The answer of `map check`."""

    targets: list[str]
    absent: list[str]
    problems: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)
    """What an operator should know, and may have wanted."""

    @property
    def is_complete(self) -> bool:
        """True where every rule can be carried out and nothing unmapped was found."""
        return not self.problems


def check_map(store: Store) -> Coverage:
    """Interrogate the live schema. Rules that are switched off are checked all the same."""
    client, pii_map = store.client, store.pii_map
    targets = {name: client.table(name) for name in pii_map.targets}
    derived = {client.table(name) for name in pii_map.derived}
    tables = {**read_tables(client), **read_tables(client, [*targets.values(), *derived])}
    plan = plan_steps(
        pii_map, targets, tables, redact_history=True, secret=store.policy.pseudonym_secret, client=client
    )
    mapped = {targets[name]: target.pii_columns for name, target in pii_map.targets.items()}
    databases = {actual: name for name, actual in client.databases.items()}
    survey = Survey(tables, mapped, derived, list_not_pii(store), databases)
    problems = [
        *plan.problems,
        *rehearse(store, plan),
        *_find_missing_columns(pii_map, targets, tables),
        *survey.find_derived_with_rows(),
        *survey.find_shown_columns(),
    ]
    reported = {problem.place for problem in problems}
    by_value = find_by_value(store, tables, mapped, derived, survey.advise)
    problems += [problem for problem in by_value if problem.place not in reported]
    reported |= {problem.place for problem in by_value}
    problems += [problem for problem in survey.find_suspicious_columns() if problem.place not in reported]
    present = [name for name in pii_map.targets if targets[name] in tables]
    warnings = _find_named_actors(store, targets, tables)
    return Coverage(present, plan.absent, sorted(set(problems), key=str), warnings)


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
            if (table.name, f"event.actor.{field_name}") in rewritten:
                continue
            if found := _count_named_actors(store.client, table.name, field_name):
                warnings.append(
                    Problem(
                        f"{table.name}.event.actor.{field_name}",
                        f"{found} statements name their actor by e-mail address (XAPI_AGENT_IFI_TYPE of the LMS)",
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


def looks_like_pii(column: str, kind: str = "") -> bool:
    """True where a column's name, or one of the names within its type, says that it holds PII."""
    within = (
        re.findall(r"[(,]\s*`?(\w+)`? [A-Z]", kind) if kind.startswith(("Tuple(", "Nested(", "JSON(", "Array(")) else []
    )
    return any(_is_suspicious(name) for name in [column, *within])


def _is_suspicious(name: str) -> bool:
    words = re.sub(r"\W+", "_", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)).lower()
    if words in _SUSPICIOUS_WHOLE:
        return True
    return _SUSPICIOUS.search(words) is not None and _ABOUT.search(words) is None


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


@dataclass(frozen=True)
class Survey:
    """The live schema beside what the map says about it."""

    tables: Mapping[TableName, Table]
    mapped: Mapping[TableName, set[str]]
    """Targets with their PII columns."""
    derived: set[TableName]
    not_pii: NotPii
    databases: Mapping[str, str]
    """The map's names of the databases, by their names in this installation."""

    def find_derived_with_rows(self) -> list[Problem]:
        """What is listed as a view and keeps rows, which nothing would erase."""
        listed = [self.tables[name] for name in sorted(self.derived & set(self.tables))]
        return [
            Problem(
                f"derived.{self._name(table.name)}",
                f"a {table.engine} keeps rows of its own, which a retirement does not reach here",
                self.advise(table),
            )
            for table in listed
            if table.has_rows and not self._is_erased_elsewhere(table)
        ]

    def find_shown_columns(self) -> list[Problem]:
        """Columns of views, dictionaries and their like that show PII of targets without the map saying so."""
        problems = []
        for name, columns in trace_columns(self.tables, self.mapped, self.not_pii).items():
            table = self.tables.get(name)
            if table is None or name in self.derived or _is_inner(table) or self._is_erased_elsewhere(table):
                continue
            storage = self.tables.get(find_storage(table, self.tables) or name, table)
            if storage is not table and not _is_inner(storage) and not table.is_refreshable_view:
                # Its rows are in a table of their own, which is reported instead.
                continue
            for column, origins in columns.items():
                shown = ", ".join(sorted(map(str, origins)))
                reason = f"this {table.engine} shows PII of {shown} and is not in the map"
                problems.append(Problem(f"{name}.{column}", reason, self.advise(table)))
        return problems

    def find_suspicious_columns(self) -> list[Problem]:
        """Columns that look like PII by their names and are not in the map."""
        problems = []
        for table in self.tables.values():
            if self.databases.get(table.name.database) == _OWN_DATABASE or table.name in self.derived:
                continue
            if table.engine in ("View", "MaterializedView") or _is_inner(table):
                # What views show is traced to where it comes from.
                continue
            known = self.mapped.get(table.name, set())
            for column, kind in table.columns.items():
                if column in known or self._is_not_pii(table.name, column) or not looks_like_pii(column, kind):
                    continue
                fix = self.advise(table)
                if table.name in self.mapped:
                    fix = f"Add it as targets.{self._name(table.name)}.pii.{column}."
                problems.append(
                    Problem(
                        f"{table.name}.{column}",
                        "the column looks like PII by its name and is not in the map",
                        f"{fix} If it is none, name it under `not_pii` with the reason.",
                    )
                )
        return problems

    def _is_not_pii(self, table: TableName, column: str) -> bool:
        # Elements of a Nested column are columns with a dot.
        names = {column, column.partition(".")[0]}
        return (table, None) in self.not_pii or any((table, name) in self.not_pii for name in names)

    def _is_erased_elsewhere(self, table: Table) -> bool:
        return find_storage(table, self.tables) in self.mapped

    def advise(self, table: Table) -> str:
        """What to do about a table with PII that no rule reaches."""
        name = self._name(table.name)
        if not table.has_rows:
            return f"Add {name} under `derived`."
        if table.is_merge_tree:
            return f"Add {name} under `targets` with what a retirement does to it."
        if table.engine == "MaterializedView":
            return (
                "Its rows lie in a table without a name: make it anew as CREATE MATERIALIZED VIEW … TO a table, "
                "and add that table under `targets`."
            )
        return f"Rows of a {table.engine} table cannot be erased: drop it, or make it anew as a MergeTree."

    def _name(self, name: TableName) -> str:
        """A table as the map writes it."""
        return f"{self.databases.get(name.database, name.database)}.{name.table}"


def _is_inner(table: Table) -> bool:
    """True for the nameless table behind a materialized view, which is reported as the view."""
    return table.name.table.startswith((".inner.", ".inner_id."))
