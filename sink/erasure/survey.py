"""The live schema beside the map: which columns may hold PII that no rule of the map reaches."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from sink.clickhouse.catalog import Table
from sink.clickhouse.lineage import find_computed, find_dependents, trace_columns
from sink.erasure.derived import list_targets, read_all_tables
from sink.erasure.exemptions import NotPii, is_exempt, list_not_pii
from sink.erasure.problems import Problem
from sink.names import HELPER_PREFIX, LITERAL, TableName, list_former_databases
from sink.pii_map import Target
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


def read_survey(store: Store, tables: Mapping[TableName, Table] | None = None) -> Survey:
    """Hold every table that we may see against the map."""
    client = store.client
    tables = read_all_tables(store) if tables is None else tables
    targets = list_targets(store, tables)
    return Survey(
        tables=tables,
        targets=targets,
        derived={client.table(name) for name in store.pii_map.derived} - set(targets),
        not_pii=list_not_pii(store),
        databases={
            **{name: name for name in list_former_databases(client.databases) if name != _OWN_DATABASE},
            **{actual: name for name, actual in client.databases.items()},
        },
        former=frozenset(list_former_databases(client.databases)),
    )


@dataclass(frozen=True)
class Survey:
    """The live schema beside what the map says about it."""

    tables: Mapping[TableName, Table]
    targets: Mapping[TableName, Target]
    derived: set[TableName]
    not_pii: NotPii
    databases: Mapping[str, str]
    """The map's names of the databases, by their names in this installation."""
    former: frozenset[str]
    """Names of the map that mean another database here."""

    def find_problems(self) -> list[Problem]:
        """Everything that the map does not say, each place once, with the fix."""
        problems = [*self._find_derived_with_rows(), *self._find_leftovers()]
        for table, column, origins in self._list_shown():
            shown = ", ".join(sorted(map(str, origins)))
            reason = f"this {table.engine} shows PII of {shown} and is not in the map"
            problems.append(Problem(f"{table.name}.{column}", reason, self.advise(table, column)))
        for table, column in self._list_computed():
            reason = "the column is computed from PII of this table and is not in the map"
            problems.append(Problem(f"{table.name}.{column}", reason, self.advise(table, column)))
        for table, column in self._list_suspicious():
            fix = f"{self.advise(table, column)} If it is none, name it under `not_pii` with the reason."
            reason = "the column looks like PII by its name and is not in the map"
            problems.append(Problem(f"{table.name}.{column}", reason, fix))
        # What keeps rows although it is listed is one problem, not one a column.
        listed = tuple(f"{name}." for name in self._derived_with_rows)
        return list({p.place: p for p in reversed(problems) if not p.place.startswith(listed)}.values())

    def find_suspects(self) -> list[str]:
        """Columns that may hold PII of their own which no retirement reaches, as database.table.column."""
        found = [(table, column) for table, column, _ in self._list_shown()]
        found += [*self._list_computed(), *self._list_suspicious()]
        return sorted({f"{table.name}.{column}" for table, column in found if self.keeps_its_own(table)})

    def list_unmapped(self) -> list[Table]:
        """Tables with rows of their own of which the map says nothing."""
        return [
            table
            for table in self.tables.values()
            if table.has_rows
            and table.name not in {*self.targets, *self.derived}
            and self.databases.get(table.name.database) != _OWN_DATABASE
            and (table.name, None) not in self.not_pii
            and not self._is_covered(table)
        ]

    def is_settled(self, place: str) -> bool:
        """True where what was suspect is in the map by now, exempt, or gone."""
        for name in self._list_prefixes(place):
            table = self.tables.get(name)
            if table is None:
                continue
            column = place.removeprefix(f"{name}.")
            if column not in table.columns:
                continue
            return (
                name in self.derived - self._derived_with_rows
                or self._is_known(name, column)
                or self._is_not_pii(name, column)
            )
        return True

    @staticmethod
    def _list_prefixes(place: str) -> Iterator[TableName]:
        database, _, rest = place.partition(".")
        parts = rest.split(".")
        for size in range(1, len(parts)):
            yield TableName(database, ".".join(parts[:size]))

    def keeps_its_own(self, table: Table) -> bool:
        """True where a retirement leaves what stands in this table."""
        target = self.targets.get(table.name)
        if target is not None:
            return not all(r.on_retire.delete and not r.on_retire.unless for r in target.rules)
        # A dictionary over targets is reloaded; one over something else keeps what that says.
        return table.has_rows or (table.is_dictionary and table.name not in self._dependents)

    @cached_property
    def _dependents(self) -> set[TableName]:
        return set(find_dependents(self.tables, self.targets))

    @cached_property
    def _mapped(self) -> dict[TableName, set[str]]:
        return {name: target.pii_columns for name, target in self.targets.items()}

    @cached_property
    def _derived_with_rows(self) -> set[TableName]:
        listed = [self.tables[name] for name in self.derived if name in self.tables]
        return {table.name for table in listed if table.has_rows and table.storage not in self.targets}

    @cached_property
    def _filled_anew(self) -> set[TableName | None]:
        """Tables whose rows a refreshable view replaces, which stands for them."""
        return {table.storage for table in self.tables.values() if table.is_refreshable_view}

    def _is_covered(self, table: Table) -> bool:
        """True where another object stands for this one, which is reported instead."""
        return table.is_inner or (table.name in self._filled_anew and table.name not in self.targets)

    def _find_derived_with_rows(self) -> list[Problem]:
        """What is listed as a view and keeps rows, which nothing would erase."""
        return [
            Problem(
                f"derived.{self._name(table.name)}",
                f"a {table.engine} keeps rows of its own, which a retirement does not reach here",
                self.advise(table),
            )
            for table in map(self.tables.__getitem__, sorted(self._derived_with_rows))
        ]

    def _find_leftovers(self) -> list[Problem]:
        return [
            Problem(
                str(name),
                "an erasure that is under way, or was interrupted, has made this table",
                "Run `aspects-pii sweep` to end it.",
            )
            for name in self.tables
            if name.table.startswith(HELPER_PREFIX) and self.databases.get(name.database) == _OWN_DATABASE
        ]

    def _list_shown(self) -> Iterator[tuple[Table, str, Iterable[TableName]]]:
        """Columns of views, dictionaries and their like that show PII of targets without the map saying so."""
        for name, columns in trace_columns(self.tables, self._mapped, self.not_pii).items():
            table = self.tables[name]
            if (
                name in self.derived - self._derived_with_rows
                or self._is_covered(table)
                or table.storage in self.targets
            ):
                continue
            storage = self.tables.get(table.storage or name, table)
            if storage is not table and not storage.is_inner and not table.is_refreshable_view:
                # Its rows are in a table of their own, which is reported instead.
                continue
            for column, origins in columns.items():
                yield table, column, origins

    def _list_computed(self) -> Iterator[tuple[Table, str]]:
        """Columns of targets that are computed from PII of theirs and not listed themselves."""
        for name, known in self._mapped.items():
            if table := self.tables.get(name):
                for column in sorted(find_computed(table, known)):
                    if not self._is_not_pii(name, column):
                        yield table, column

    def _list_suspicious(self) -> Iterator[tuple[Table, str]]:
        """Columns that look like PII by their names and are not in the map."""
        for table in self.tables.values():
            if self.databases.get(table.name.database) == _OWN_DATABASE:
                continue
            if table.name in self.derived - self._derived_with_rows or self._is_covered(table):
                continue
            if table.engine in ("View", "Null") or (table.storage and not self._keeps_inner_rows(table)):
                # What views show is traced to where it comes from, and where it goes is looked at by itself.
                continue
            for column, kind in table.columns.items():
                if not looks_like_pii(column, kind) or self._is_known(table.name, column):
                    continue
                if not self._is_not_pii(table.name, column):
                    yield table, column

    def _keeps_inner_rows(self, table: Table) -> bool:
        """True for a materialized view whose rows are in a nameless table."""
        storage = self.tables.get(table.storage or table.name, table)
        return table.has_rows and (storage is table or storage.is_inner)

    def _is_known(self, table: TableName, column: str) -> bool:
        # Elements of a Nested column are columns with a dot, which the map cuts off.
        return bool({column, column.partition(".")[0]} & self._mapped.get(table, set()))

    def _is_not_pii(self, table: TableName, column: str) -> bool:
        return is_exempt(self.not_pii, table, column)

    def advise(self, table: Table, column: str = "") -> str:
        """What to do about a column that may hold PII."""
        name = self._name(table.name)
        if table.name in self.targets:
            return f"Add it as targets.{name}.pii.{column}."
        if not table.has_rows:
            return f"Add {name} under `derived`."
        if table.is_merge_tree:
            former = table.name.database
            all_of_it = f" Or, if all of {former} is of before, add `former_databases: [{former}]`."
            told = all_of_it if former in self.former - {_OWN_DATABASE} else ""
            return f"Add {name} under `targets` with what a retirement does to it.{told}"
        if table.engine == "MaterializedView":
            storage = self.tables.get(table.storage or table.name, table)
            if storage is not table and not storage.is_inner:
                return f"It keeps its rows: add {self._name(storage.name)} under `targets`."
            return (
                "Its rows lie in a table without a name: make it anew as CREATE MATERIALIZED VIEW … TO a table, "
                "and add that table under `targets`."
            )
        return f"Rows of a {table.engine} table cannot be erased: drop it, or make it anew as a MergeTree."

    def _name(self, name: TableName) -> str:
        """A table as the map writes it."""
        mark = LITERAL if name.database in self.former else ""
        return f"{mark}{self.databases.get(name.database, name.database)}.{name.table}"
