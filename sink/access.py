"""Who may do what on a ClickHouse server, as SQL: roles, grants, row policies and the user that datasets read as.

`plan_access` is pure. It derives from the PII map, the migrations and the dbt project which tables there are, which of
them hold PII and which datasets are made to be looked at; `AccessPlan.statements` is what an administrator of the
server runs, as often as they like. Nothing here connects anywhere, and no statement holds a value or a password.

Four names take part. Three are roles: of whoever runs `aspects-pii`, of whoever runs dbt, and of whoever looks at
datasets. The fourth is a user that nobody can log in as: the datasets read the tables with its rights, so that
neither dbt nor a viewer needs any of their own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml

from sink.clickhouse.migrations import list_statements
from sink.errors import UsageError
from sink.names import check_identifier, quote
from sink.pii_map import PiiMap, Target
from sink.resources import find_resource

# .. no_pii: names of roles, tables and columns.

T = TypeVar("T")


#: The parameterised view that says what somebody may see; the policies ask it, and Superset's rules do.
SCOPES = "viewer_scopes"
#: The folder of the models that are made to be looked at; the others are steps on the way.
_SHOWN_FOLDER = "marts"

_NAME = r"(?:\$\{?(\w+)\}?)\.`?(\w+)`?"
_DATABASE = re.compile(r"\bCREATE DATABASE (?:IF NOT EXISTS )?\$\{?(\w+)\}?")
_TABLE = re.compile(rf"\bCREATE TABLE (?:IF NOT EXISTS )?{_NAME}")
_VIEW = re.compile(rf"\bCREATE (?:OR REPLACE )?VIEW (?:IF NOT EXISTS )?{_NAME}")
_ALTERED = re.compile(rf"\bALTER TABLE {_NAME}")
_READ = re.compile(rf"\b(?:FROM|JOIN) {_NAME}")
_ENGINE = re.compile(r"\bENGINE = (\$\{replicated\})?(\w+)")
_SOURCE = re.compile(r"\bsource\(\s*'(\w+)'\s*,\s*'(\w+)'\s*\)")
_SCHEMA = re.compile(r"\bschema\s*=\s*env_var\(\s*'ASPECTS_(\w+)_DATABASE'")

# What the package and its driver read of the server's own tables. A test holds this against the statements in the package.
SYSTEM_TABLES = (
    "columns",
    "detached_parts",
    "mutations",
    "parts",
    "row_policies",
    "settings",
    "tables",
)
# What dbt-clickhouse, and the project's macros, read of them.
SYSTEM_TABLES_OF_DBT = ("clusters", "columns", "databases", "functions", "one", "settings", "tables")


@dataclass(frozen=True)
class RoleNames:
    """What the roles and the definer are called.

    Raises:
        UsageError: a name cannot stand in SQL, or two are the same.
    """

    sink: str = "aspects_pii_sink"
    dbt: str = "aspects_pii_dbt"
    dashboards: str = "aspects_pii_dashboards"
    definer: str = "aspects_pii_definer"

    def __post_init__(self) -> None:
        for what, name in vars(self).items():
            try:
                check_identifier(name)
            except ValueError as error:
                raise UsageError(
                    f"The name of the {what} role is not valid: {error}. Example: aspects_pii_{what}"
                ) from None
        if len(set(vars(self).values())) < len(vars(self)):
            raise UsageError("Two roles, or a role and the definer, have the same name; give each its own.")

    @property
    def services(self) -> tuple[str, str, str]:
        """Who sees every row: the software, not people."""
        return self.sink, self.dbt, self.definer


@dataclass(frozen=True)
class Grant:
    """Privileges on one thing."""

    privileges: tuple[str, ...]
    database: str = "*"
    table: str = "*"
    columns: tuple[str, ...] = ()
    name: str | None = None
    """Of what is not a table: a user, or an engine."""

    @property
    def clause(self) -> str:
        """As it stands in GRANT."""
        columns = f"({', '.join(quote(column) for column in self.columns)})" if self.columns else ""
        return f"{', '.join(f'{privilege}{columns}' for privilege in self.privileges)} ON {self.on}"

    @property
    def on(self) -> str:
        """What the privileges are on."""
        if self.name is not None:
            return quote(self.name)
        return ".".join("*" if part == "*" else quote(part) for part in (self.database, self.table))


@dataclass(frozen=True)
class RowPolicy:
    """Which rows of a table somebody sees."""

    name: str
    database: str
    table: str
    using: str
    to: tuple[str, ...] = ()
    """Whom it is for; empty for everybody but `unless`."""
    unless: tuple[str, ...] = ()

    @property
    def clause(self) -> str:
        """The statement after its first words."""
        everybody = f"ALL EXCEPT {', '.join(map(quote, self.unless))}"
        return f"FOR SELECT USING {self.using} TO {', '.join(map(quote, self.to)) or everybody}"

    @property
    def on(self) -> str:
        """The table."""
        return f"{quote(self.database)}.{quote(self.table)}"


@dataclass(frozen=True)
class Dataset:
    """One relation that the dbt project makes."""

    database: str
    name: str
    is_shown: bool
    columns: tuple[str, ...] = ()


@dataclass(frozen=True)
class AccessPlan:
    """Everything that is granted, and to whom."""

    names: RoleNames
    grants: Mapping[str, tuple[Grant, ...]]
    """By the role, or the definer, that has them; it has no others."""
    policies: tuple[RowPolicy, ...]
    cluster: str | None = None

    @property
    def _on_cluster(self) -> str:
        return f" ON CLUSTER {quote(self.cluster)}" if self.cluster else ""

    def statements(self) -> Iterator[str]:
        """What brings a server to this plan, whatever an earlier version of it had left there."""
        for role in (self.names.sink, self.names.dbt, self.names.dashboards):
            yield f"CREATE ROLE IF NOT EXISTS {quote(role)}{self._on_cluster}"
        yield f"CREATE USER IF NOT EXISTS {quote(self.names.definer)}{self._on_cluster} NOT IDENTIFIED HOST NONE"
        # Policies before grants: nobody can read what is not confined yet.
        for policy in self.policies:
            yield f"CREATE ROW POLICY OR REPLACE {quote(policy.name)}{self._on_cluster} ON {policy.on} {policy.clause}"
        for role, grants in self.grants.items():
            lines = ",\n    ".join(grant.clause for grant in grants)
            yield f"GRANT{self._on_cluster}\n    {lines}\nTO {quote(role)} WITH REPLACE OPTION"

    def removals(self) -> Iterator[str]:
        """What takes all of it out again: the accounts before what confines them."""
        yield f"DROP USER IF EXISTS {quote(self.names.definer)}{self._on_cluster}"
        for role in (self.names.sink, self.names.dbt, self.names.dashboards):
            yield f"DROP ROLE IF EXISTS {quote(role)}{self._on_cluster}"
        for policy in self.policies:
            yield f"DROP ROW POLICY IF EXISTS {quote(policy.name)} ON {policy.on}{self._on_cluster}"


@dataclass(frozen=True)
class Schema:
    """What the migrations make, by the names that the SQL files use."""

    databases: tuple[str, ...]
    tables: tuple[tuple[str, str], ...]
    views: tuple[tuple[str, str], ...]
    altered: tuple[tuple[str, str], ...]
    engines: tuple[str, ...]
    read_by: Mapping[tuple[str, str], tuple[tuple[str, str], ...]] = field(default_factory=dict)
    """View -> what it reads."""


def read_schema(statements: Iterable[str], *, replicated: bool = False) -> Schema:
    """Read from the migrations' statements what they make."""
    texts = list(statements)
    engines = {
        f"{'Replicated' if prefix and replicated else ''}{engine}"
        for text in texts
        for prefix, engine in _ENGINE.findall(text)
    }
    views = {(found[1], found[2]): text for text in texts if (found := _VIEW.search(text))}
    return Schema(
        databases=_unique(found for text in texts for found in _DATABASE.findall(text)),
        tables=_unique((database, table) for text in texts for database, table in _TABLE.findall(text)),
        views=tuple(views),
        altered=_unique((database, table) for text in texts for database, table in _ALTERED.findall(text)),
        engines=tuple(sorted(engines)),
        read_by={view: _unique(_READ.findall(text)) for view, text in views.items()},
    )


@dataclass(frozen=True)
class Project:
    """What the dbt project reads and makes, by the names that its files use."""

    datasets: tuple[Dataset, ...]
    sources: tuple[tuple[str, str], ...]


def read_project(folder: Path) -> Project:
    """Read from the files of the dbt project what it makes and which sources its models and macros name.

    A column of a dataset counts where its contract promises it.
    """
    columns: dict[str, tuple[str, ...]] = {}
    for path in sorted(folder.glob("models/**/*.yml")):
        for model in (yaml.safe_load(path.read_text(encoding="utf-8")) or {}).get("models", ()):
            columns[model["name"]] = tuple(column["name"] for column in model.get("columns", ()))
    datasets, sources = [], []
    for path in sorted([*folder.glob("models/**/*.sql"), *folder.glob("macros/*.sql")]):
        text = path.read_text(encoding="utf-8")
        sources += _SOURCE.findall(text)
        if (folder / "models") not in path.parents:
            continue
        schema = _SCHEMA.search(text)
        is_shown = path.relative_to(folder / "models").parts[0] == _SHOWN_FOLDER
        database = schema[1].lower() if schema else "reporting"
        datasets.append(Dataset(database, path.stem, is_shown, columns.get(path.stem, ())))
    return Project(tuple(datasets), _unique(sorted(sources)))


def plan_access(
    pii_map: PiiMap,
    databases: Mapping[str, str],
    names: RoleNames | None = None,
    *,
    cluster: str | None = None,
    trust_dashboards: bool = False,
    exempt: Sequence[str] = (),
    schema: Schema | None = None,
    project: Project | None = None,
) -> AccessPlan:
    """Who gets what. Touches nothing.

    Args:
        pii_map: which tables hold PII.
        databases: the installation's databases, by the names that the map uses.
        names: what the roles and the definer are called.
        cluster: the cluster that everything is made on.
        trust_dashboards: let the dashboards' role see every row of the datasets; who sees what is then up to whatever
            asks in its name.
        exempt: further users or roles that the row policies leave alone.
        schema: what the migrations make, read from the ones that ship if left out.
        project: what dbt makes, likewise.

    Raises:
        UsageError: a name cannot stand in SQL.
    """
    names = names or RoleNames()
    for name in exempt:
        _require_name(name)
    schema = schema or read_schema(list_statements(), replicated=cluster is not None)
    project = project or read_project(find_resource("dbt_project"))
    planner = _Planner(pii_map, databases, names, schema, project, cluster is not None)
    grants = {
        names.sink: tuple(_merge(planner.for_sink())),
        names.dbt: tuple(_merge(planner.for_dbt())),
        names.definer: tuple(_merge(planner.for_definer())),
        names.dashboards: tuple(_merge(planner.for_dashboards())),
    }
    trusted = (names.dashboards,) if trust_dashboards else ()
    return AccessPlan(names, grants, tuple(planner.policies(tuple(exempt), trusted)), cluster)


@dataclass(frozen=True)
class _Planner:
    pii_map: PiiMap
    databases: Mapping[str, str]
    names: RoleNames
    schema: Schema
    project: Project
    is_cluster: bool

    def _actual(self, database: str) -> str:
        return self.databases.get(database, database)

    def _on(self, privileges: Sequence[str], place: tuple[str, str], columns: tuple[str, ...] = ()) -> Grant:
        return Grant(tuple(privileges), self._actual(place[0]), place[1], columns)

    def _targets(self) -> Iterator[tuple[tuple[str, str], Target]]:
        for name, target in self.pii_map.targets.items():
            database, _, table = name.partition(".")
            yield (database, table), target

    def for_sink(self) -> Iterator[Grant]:
        """Migrates, copies, erases, and proves; so it sees everything in the configured databases, and writes little."""
        for database in _unique([*self.databases, *(place[0] for place, _ in self._targets())]):
            yield Grant(("SELECT",), self._actual(database))
        for database in self.schema.databases:
            yield Grant(("CREATE DATABASE",), self._actual(database))
        for table in self.schema.tables:
            yield self._on(["CREATE TABLE"], table)
        for table in self.schema.altered:
            yield self._on(["ALTER COLUMN"], table)
        for view in self.schema.views:
            yield self._on(["CREATE VIEW", "DROP VIEW"], view)
        for engine in self.schema.engines:
            yield Grant(("TABLE ENGINE",), name=engine)
        # Append only: nothing that was recorded can be changed or taken out.
        for table in self.schema.tables:
            if table[0] == "pii_ledger":
                yield self._on(["INSERT"], table)
        for place, target in self._targets():
            yield from self._for_target(place, target)
        datasets = [(dataset.database, dataset.name) for dataset in self.project.datasets]
        for place in datasets:
            # A purge drops them.
            yield self._on(["DROP VIEW"], place)
        for name in self.pii_map.derived:
            database, _, derived = name.partition(".")
            if database != "reporting" or (database, derived) not in datasets:
                # May be somebody else's dictionary or refreshable view: asked, and made to read again.
                yield self._on(["dictGet", "SYSTEM VIEWS"], (database, derived))
        yield Grant(("CREATE TEMPORARY TABLE", "SYSTEM RELOAD DICTIONARY", "SHOW ROW POLICIES"))
        yield from (Grant(("SELECT",), "system", table) for table in SYSTEM_TABLES)
        if self.is_cluster:
            yield Grant(("CLUSTER", "REMOTE"))

    def _for_target(self, place: tuple[str, str], target: Target) -> Iterator[Grant]:
        yield self._on(["ALTER DELETE", "ALTER UPDATE", "ALTER SETTINGS", "SYSTEM CLEANUP"], place)
        may_be_rewritten = any(
            not rule.is_by_id or (rule.on_retire.redact and not rule.on_retire.delete) or "." in rule.key
            for rule in target.rules
        )
        if target.keep is not None or may_be_rewritten:
            yield self._on(["INSERT"], place)
        if may_be_rewritten:
            # Rows that cannot be changed where they are go through tables beside it; see sink.rewrite.
            yield Grant(("TABLE ENGINE",), name="MergeTree")
            for suffix in ("__aspects_pii_new", "__aspects_pii_replaced"):
                beside = (place[0], f"{place[1]}{suffix}")
                yield self._on(["CREATE TABLE", "DROP TABLE", "INSERT", "ALTER MODIFY COMMENT", "ALTER DELETE"], beside)

    def for_dbt(self) -> Iterator[Grant]:
        """Makes and tests the datasets. Reads them, never what they are made of."""
        yield Grant(
            ("CREATE DATABASE", "CREATE VIEW", "DROP VIEW", "DROP DICTIONARY", "SELECT"), self._actual("reporting")
        )
        for dataset in self.project.datasets:
            if dataset.database != "reporting":
                place = (dataset.database, dataset.name)
                yield self._on(["CREATE VIEW", "DROP VIEW", "DROP DICTIONARY", "SELECT"], place)
        # The tests ask whether anybody is shown who is retired; tombstones hold opaque ids.
        yield from self._read(("pii_ledger", "tombstones"))
        yield Grant(("SET DEFINER",), name=self.names.definer)
        yield from (Grant(("SELECT",), "system", table) for table in SYSTEM_TABLES_OF_DBT)
        if self.is_cluster:
            yield Grant(("CLUSTER",))

    def for_definer(self) -> Iterator[Grant]:
        """Reads what the datasets are made of, on behalf of whoever may read the datasets."""
        for source in self.project.sources:
            yield from self._read(source)
        yield Grant(("SELECT",), self._actual("reporting"))
        for dataset in self.project.datasets:
            if dataset.database != "reporting":
                yield self._on(["SELECT"], (dataset.database, dataset.name))

    def for_dashboards(self) -> Iterator[Grant]:
        """Reads what is made to be looked at, in the database of reports only."""
        for dataset in self._shown():
            yield self._on(["SELECT"], (dataset.database, dataset.name))

    def _read(self, place: tuple[str, str]) -> Iterator[Grant]:
        """SELECT on a table, or on a view with what is behind it."""
        yield self._on(["SELECT"], place)
        for behind in self.schema.read_by.get(place, ()):
            yield from self._read(behind)

    def _shown(self) -> Iterator[Dataset]:
        return (d for d in self.project.datasets if d.is_shown and d.database == "reporting")

    def policies(self, exempt: tuple[str, ...], trusted: tuple[str, ...]) -> Iterator[RowPolicy]:
        """Nobody but the sink and the definer sees a row of a PII table; of a dataset, everybody their own courses."""
        readers = (self.names.sink, self.names.definer, *exempt)
        for place, _ in self._targets():
            yield from self._confine(place, "0", readers)
        shown = {(dataset.database, dataset.name) for dataset in self._shown()}
        derived = {(name.partition(".")[0], name.partition(".")[2]) for name in self.pii_map.derived}
        for dataset in self.project.datasets:
            place = (dataset.database, dataset.name)
            if dataset.name == SCOPES:
                # The others ask it; it shows names of courses, and rows of nobody.
                continue
            if place in shown:
                yield from self._confine(place, self._own_rows(dataset), (*self.names.services, *exempt, *trusted))
            elif not dataset.is_shown or place in derived:
                yield from self._confine(place, "0", (*self.names.services, *exempt))

    def _confine(self, place: tuple[str, str], using: str, readers: tuple[str, ...]) -> Iterator[RowPolicy]:
        # Where users without a policy see nothing (users_without_row_policies_can_read_rows), readers need one too.
        database, table = self._actual(place[0]), place[1]
        yield RowPolicy("aspects_pii_services", database, table, "1", to=_unique(readers))
        yield RowPolicy("aspects_pii_others", database, table, using, unless=_unique(readers))

    def _own_rows(self, dataset: Dataset) -> str:
        """The condition for the rows that the user who asks may see: those of their courses and organisations."""
        scopes = f"{quote(self._actual('reporting'))}.{quote(SCOPES)}(viewer = currentUser())"
        asked = f"(SELECT scope, if(scope = 'org', org, course_key) FROM {scopes})"
        own = [
            f"('{scope}', {quote(column)}) IN {asked}"
            for scope, column in (("course", "course_key"), ("org", "org"))
            if column in dataset.columns
        ]
        return " OR ".join([*own, f"('global', '') IN {asked}"])


def render(plan: AccessPlan, *, remove: bool = False) -> str:
    """The statements as a script."""
    lines = ["-- Made by `aspects-pii access sql`; how to use it: docs/access-sql.md. It can be run again and again."]
    lines += [f"{statement};" for statement in (plan.removals() if remove else plan.statements())]
    return "\n\n".join(lines) + "\n"


def describe(plan: AccessPlan, *, remove: bool = False) -> dict[str, Any]:
    """The plan as JSON: who has what, which rows are shown to whom, and the statements."""
    return {
        "names": asdict(plan.names),
        "cluster": plan.cluster,
        "grants": {role: [grant.clause for grant in grants] for role, grants in plan.grants.items()},
        "policies": [asdict(policy) for policy in plan.policies],
        "statements": list(plan.removals() if remove else plan.statements()),
    }


def _require_name(name: str) -> None:
    if not name or "\x00" in name:
        raise UsageError("The name of an exempt user or role is empty.")


def _merge(grants: Iterable[Grant]) -> Iterator[Grant]:
    """One grant for each thing, in the order in which they were first named."""
    merged: dict[tuple[str, tuple[str, ...]], Grant] = {}
    for grant in grants:
        key = (f"{grant.name is None} {grant.on}", grant.columns)
        known = merged.get(key)
        privileges = _unique([*(known.privileges if known else ()), *grant.privileges])
        merged[key] = Grant(privileges, grant.database, grant.table, grant.columns, grant.name)
    yield from merged.values()


def _unique(items: Iterable[T]) -> tuple[T, ...]:
    return tuple(dict.fromkeys(items))
