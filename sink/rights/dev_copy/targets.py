"""Which tables of copied databases the map speaks of, and which databases may never be touched.

.. no_pii: names of databases, tables and columns.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from sink.clickhouse.catalog import SYSTEM_DATABASES, Table, list_detached, read_tables
from sink.clickhouse.lineage import find_dependents, read_sources
from sink.erasure.derived import list_exempt_databases
from sink.erasure.exemptions import NotPii
from sink.erasure.keys import find_kind
from sink.erasure.plan import is_only_shown
from sink.erasure.problems import Problem
from sink.erasure.search_terms import TermKind
from sink.errors import MapError, RefusedError, UsageError
from sink.names import HELPER_PREFIX, TableName, find_database
from sink.pii_map import Target
from sink.rights.dev_copy.columns import Fate, plan_columns
from sink.rights.dev_copy.inventing import PREFIX, Said
from sink.rights.dev_copy.rebuild import CopiedTable
from sink.store import Store

_KINDS = {"email_address": TermKind.ADDRESS, "username": TermKind.USERNAME, "name": TermKind.NAME}
_INTEGER = re.compile(r"(U?)Int(\d+)")


@dataclass(frozen=True)
class Copy:
    """What there is to do in copied databases."""

    databases: list[str]
    home: str
    """Where the helper tables of a run stand: beside what says who people are."""
    tables: list[CopiedTable]
    missing: list[str]
    """Targets of the map that none of the databases has, but for those that are optional."""
    not_pii: NotPii = field(default_factory=set)
    """What the map says is no PII, by the names of the copy."""


def read_copy(store: Store, databases: Sequence[str]) -> Copy:
    """Hold the map against copied databases. Changes nothing.

    Raises:
        RefusedError: a database is one of production's, or something of production reads it.
        UsageError: a database is not there or holds nothing that the map speaks of, or who people are is in none of them.
        MapError: a table cannot be anonymised; the message names each with the reason.
    """
    client = store.client
    names = list(dict.fromkeys(databases))
    _require_no_production(store, names)
    everything = read_tables(client)
    tables = {name: table for name, table in everything.items() if name.database in names and not is_helper(name)}
    _require_not_read(store, everything, tables)
    found, problems = _find_tables(store, tables)
    if empty := [name for name in names if not any(copied.name.database == name for copied in found)]:
        raise UsageError(
            f"No table of the PII map is in {', '.join(empty)}. A database of events, PII tables or datasets is meant, by "
            "the name that its copy has."
        )
    sources = {source.rpartition(".")[0] for source in store.pii_map.subject.identifiers.values()}
    there = {copied.target for copied in found}
    if unknown := sorted(sources - there):
        raise UsageError(
            f"None of these databases has {' or '.join(unknown)}: what people are called in the others could not be told. "
            "Name all databases of the copy at once, each with --database."
        )
    problems += _find_readers(store, everything, tables)
    problems += [
        Problem(str(name), "the table is detached, and its rows are in its files", f"ATTACH or drop {name.sql}.")
        for name in list_detached(client)
        if name.database in names
    ]
    if problems:
        raise MapError("\n".join(map(str, problems)))
    home = next((copied.name.database for copied in found if copied.target in sources), names[0])
    missing = sorted(
        name for name, target in store.pii_map.targets.items() if name not in there and not target.optional
    )
    return Copy(names, home, found, missing, _translate_not_pii(store, tables))


def is_helper(name: TableName) -> bool:
    """True for tables that a run has made for itself."""
    return name.table.startswith((PREFIX, HELPER_PREFIX))


def _require_no_production(store: Store, names: Sequence[str]) -> None:
    listed = {table.partition(".")[0] for table in (*store.pii_map.targets, *store.pii_map.derived)}
    production = {*store.client.databases.values(), *store.client.databases, *SYSTEM_DATABASES}
    production |= {find_database(store.client.databases, name) for name in listed} | set(list_exempt_databases(store))
    if refused := [name for name in names if name in production]:
        raise RefusedError(
            f"{', '.join(refused)} is no copy by its name: the settings or the PII map call a database of production so. "
            "Restore the copy under other names (RESTORE DATABASE … AS …); it can be renamed when it is anonymised."
        )
    if store.client.cluster:
        raise RefusedError(
            "ASPECTS_CLICKHOUSE_CLUSTER is set, and a copy on a cluster cannot be anonymised: a table of each host would "
            "take its place at another moment. Restore the copy to a single server, and leave the setting out there."
        )


def _require_not_read(store: Store, everything: Mapping[TableName, Table], tables: Mapping[TableName, Table]) -> None:
    """Refuse what production is built on, whatever it is called."""
    production = set(store.client.databases.values())
    for name, origins in find_dependents(everything, tables).items():
        if name.database in production:
            read = ", ".join(map(str, sorted(origins)))
            raise RefusedError(f"{read} is no copy: {name} reads it, which is in a database of production.")


def _find_readers(
    store: Store, everything: Mapping[TableName, Table], tables: Mapping[TableName, Table]
) -> Iterator[Problem]:
    """What of the copy shows production: a restore leaves in it the names of databases that were not restored with it."""
    production = set(store.client.databases.values())
    for name, sources in read_sources(everything).items():
        read = sorted(str(source) for source in sources if source.database in production)
        if name in tables and read:
            reason = f"it reads {', '.join(read)}, which is production"
            yield Problem(str(name), reason, "Drop it from the copy; `build` makes datasets and dictionaries again.")


def _find_tables(store: Store, tables: Mapping[TableName, Table]) -> tuple[list[CopiedTable], list[Problem]]:
    found, problems = [], []
    for name, table in sorted(tables.items()):
        targets = [listed for listed in store.pii_map.targets if listed.partition(".")[2] == name.table]
        targets = [listed for listed in targets if not is_only_shown(store.pii_map, listed, table)]
        if not targets:
            continue
        # What the settings name comes before what only the map does.
        targets.sort(key=lambda listed: listed.partition(".")[0] not in store.client.databases)
        first, *others = (store.pii_map.targets[listed] for listed in targets)
        if any(_differ(first, other) for other in others):
            said = " and ".join(targets)
            fix = "Copy them into databases of their own, and rename the table that is not meant."
            problems.append(Problem(str(name), f"{said} say different things of a table of this name", fix))
            continue
        if reason := _explain_engine(table):
            problems.append(Problem(str(name), reason, "Drop it from the copy, or restore it as a MergeTree table."))
            continue
        columns, misfits = plan_columns(targets[0], first, table)
        problems += misfits
        found.append(CopiedTable(targets[0], table, columns))
    return found, problems


def _differ(one: Target, other: Target) -> bool:
    return (one.pii, one.rules, one.anonymise_keeps) != (other.pii, other.rules, other.anonymise_keeps)


def _explain_engine(table: Table) -> str:
    if not table.is_merge_tree:
        return f"rows of a {table.engine} cannot be put in the place of others"
    if table.engine.startswith(("Replicated", "Shared")):
        return f"other replicas of a {table.engine} would keep the old rows"
    return ""


def _translate_not_pii(store: Store, tables: Mapping[TableName, Table]) -> NotPii:
    exempt: NotPii = set()
    for listed in store.pii_map.not_pii:
        _, table, *column = listed.split(".", 2)
        exempt |= {(name, column[0] if column else None) for name in tables if name.table == table}
    return exempt


def list_said(store: Store, tables: Sequence[CopiedTable]) -> Iterator[Said]:
    """Where it says what people are called, or what their anonymous ids are."""
    sources = {source: name for name, source in store.pii_map.subject.identifiers.items()}
    for copied in tables:
        subject = copied.subject
        if subject is None:
            continue
        for column, pii_type in store.pii_map.targets[copied.target].pii.items():
            if column not in copied.table.columns or column == subject:
                continue
            if pii_type in _KINDS:
                yield Said(copied.name, subject, column, str(_KINDS[pii_type]))
            elif pii_type == "id" and f"{copied.target}.{column}" in sources:
                yield Said(copied.name, subject, column, "id")


def list_numbers(store: Store, tables: Sequence[CopiedTable]) -> list[tuple[TableName, str]]:
    """Columns with ids that are numbers, or texts of such."""
    with_numbers = store.pii_map.subject.type == "integer"
    return [
        (copied.name, column.name)
        for copied in tables
        for column in copied.columns
        if column.fate is Fate.NUMBER or (column.fate is Fate.TEXT and column.is_subject and with_numbers)
    ]


def require_room(tables: Sequence[CopiedTable], largest: int) -> None:
    """Make sure that every column of numbers can hold those that are given.

    Raises:
        MapError: one cannot; nothing was changed.
    """
    for copied in tables:
        for column in copied.columns:
            found = _INTEGER.fullmatch(find_kind(copied.table, column.name))
            if column.fate is Fate.NUMBER and found and largest >= _find_limit(found):
                fix = "Widen it in the copy (ALTER TABLE … MODIFY COLUMN)."
                reason = f"{column.name} is {column.kind}, and ids up to {largest} are given"
                raise MapError(str(Problem(str(copied.name), reason, fix)))


def _find_limit(kind: re.Match[str]) -> int:
    return int(2 ** (int(kind[2]) - (not kind[1])))
