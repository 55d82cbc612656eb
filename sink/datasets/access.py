"""Who may do what on a ClickHouse server, as SQL: roles, grants, row policies and the user that datasets read as.

`plan_access` is pure. It derives from the PII map, the migrations and the dbt project which tables there are, which of
them hold PII and which datasets are made to be looked at; `AccessPlan.statements` is what an administrator of the
server runs, as often as they like. Nothing here connects anywhere, and no statement holds a value or a password.

Four names take part. Three are roles: of whoever runs `aspects-pii`, of whoever runs dbt, and of whoever looks at
datasets. The fourth is a user that nobody can log in as: the datasets read the tables with its rights, so that
neither dbt nor a viewer needs any of their own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from sink.clickhouse.migrations import list_statements
from sink.datasets.grants import AccessPlan, Grant, RoleNames, require_name
from sink.datasets.learner_events import LEARNER_EVENTS_PREFIX
from sink.datasets.policies import list_shown, plan_policies
from sink.datasets.project import Project, Schema, read_project, read_schema, unique
from sink.names import HELPER_PREFIX, find_database
from sink.pii_map import PiiMap, Target
from sink.resources import find_resource

# .. no_pii: names of roles, tables and columns.

# What the package and its driver read of the server's own tables. A test holds this against the statements in the package.
SYSTEM_TABLES = (
    "clusters",
    "columns",
    "databases",
    "detached_parts",
    "detached_tables",
    "dictionaries",
    "distribution_queue",
    "dropped_tables",
    "mutations",
    "parts",
    "projections",
    "row_policies",
    "settings",
    "tables",
    "view_refreshes",
)
# What dbt-clickhouse, and the project's macros, read of them.
SYSTEM_TABLES_OF_DBT = (
    *("clusters", "columns", "databases", "functions", "metrics", "one", "row_policies", "settings", "tables"),
)


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
        require_name(name)
    schema = schema or read_schema(list_statements(), replicated=cluster is not None)
    project = project or read_project(find_resource("dbt_project"))
    planner = _GrantPlanner(pii_map, databases, names, schema, project, cluster is not None)
    grants = {
        names.sink: tuple(_merge(planner.for_sink())),
        names.dbt: tuple(_merge(planner.for_dbt())),
        names.definer: tuple(_merge(planner.for_definer())),
        names.dashboards: tuple(_merge(planner.for_dashboards())),
    }
    trusted = (names.dashboards,) if trust_dashboards else ()
    policies = plan_policies(pii_map, databases, names, project, tuple(exempt), trusted)
    return AccessPlan(names, grants, tuple(policies), cluster)


@dataclass(frozen=True)
class _GrantPlanner:
    pii_map: PiiMap
    databases: Mapping[str, str]
    names: RoleNames
    schema: Schema
    project: Project
    is_cluster: bool

    def _actual(self, database: str) -> str:
        return find_database(self.databases, database)

    def _on(self, privileges: Sequence[str], place: tuple[str, str]) -> Grant:
        return Grant(tuple(privileges), self._actual(place[0]), place[1])

    def _targets(self) -> Iterator[tuple[tuple[str, str], Target]]:
        for name, target in self.pii_map.targets.items():
            database, _, table = name.partition(".")
            yield (database, table), target

    def for_sink(self) -> Iterator[Grant]:
        """Migrates, copies, erases, and proves; so it sees everything in the configured databases, and writes little."""
        for database in unique([*self.databases, *(place[0] for place, _ in self._targets())]):
            yield Grant(("SELECT",), self._actual(database))
        yield from self._for_migrations()
        # Append only: nothing that was recorded can be changed or taken out.
        for table in self.schema.tables:
            if table[0] == "pii_ledger":
                yield self._on(["INSERT"], table)
        # Beside the ledger, and to be dropped: keyed hashes of former names.
        yield self._on(["ALTER DELETE", "ALTER UPDATE"], ("pii_ledger", "former_names"))
        for place, target in self._targets():
            yield from self._for_target(place, target)
        datasets = [(dataset.database, dataset.name) for dataset in self.project.datasets]
        for place in datasets:
            # A purge drops them.
            yield self._on(["DROP VIEW", "DROP DICTIONARY"], place)
        for name in self.pii_map.derived:
            database, _, derived = name.partition(".")
            if database != "reporting" or (database, derived) not in datasets:
                # May be somebody else's dictionary or refreshable view: asked, and made to read again.
                yield self._on(["dictGet", "SYSTEM VIEWS"], (database, derived))
        # The statements that count, and what writes them.
        yield Grant(
            ("CREATE TABLE", "DROP TABLE", "CREATE VIEW", "DROP VIEW", "INSERT", "ALTER MODIFY COMMENT"),
            self._actual("reporting"),
            f"{LEARNER_EVENTS_PREFIX}*",
        )
        yield Grant(("TABLE ENGINE",), name="ReplicatedReplacingMergeTree" if self.is_cluster else "ReplacingMergeTree")
        # Helper tables of what cannot be erased by id, and the empty tables that `map check` tries rules on.
        yield from (Grant(("TABLE ENGINE",), name=engine) for engine in ("MergeTree", "Join"))
        on_helpers = ("CREATE TABLE", "DROP TABLE", "INSERT", "SELECT", "ALTER COLUMN", "ALTER UPDATE", "ALTER DELETE")
        yield Grant(on_helpers, self._actual("pii_ledger"), f"{HELPER_PREFIX}*")
        # SHOW: what nobody has mapped is found by its names, in any database.
        yield Grant(
            (
                "SHOW",
                "CREATE TEMPORARY TABLE",
                "SYSTEM RELOAD DICTIONARY",
                "SYSTEM DROP QUERY CACHE",
                "SHOW ROW POLICIES",
            )
        )
        yield from (Grant(("SELECT",), "system", table) for table in SYSTEM_TABLES)
        if self.is_cluster:
            yield Grant(("CLUSTER", "REMOTE"))

    def _for_migrations(self) -> Iterator[Grant]:
        """Makes and changes what the migrations make and change."""
        for database in self.schema.databases:
            yield Grant(("CREATE DATABASE",), self._actual(database))
        for table in self.schema.tables:
            exchanges = ("SELECT", "INSERT", "DROP TABLE") if table in self.schema.exchanged else ()
            yield self._on(["CREATE TABLE", *exchanges], table)
        for table in self.schema.altered:
            yield self._on(["ALTER COLUMN"], table)
        for table in self.schema.indexed:
            yield self._on(["ALTER ADD INDEX", "ALTER MATERIALIZE INDEX"], table)
        for view in self.schema.views:
            yield self._on(["CREATE VIEW", "DROP VIEW"], view)
        for engine in self.schema.engines:
            yield Grant(("TABLE ENGINE",), name=engine)

    def _for_target(self, place: tuple[str, str], target: Target) -> Iterator[Grant]:
        # Events that speak of somebody are changed, and none is deleted, unless the map keeps them for so many days only.
        expires = target.retention is not None and not target.retention.redact
        deletes = [] if target.has_texts_only and not expires else ["ALTER DELETE"]
        yield self._on([*deletes, "ALTER UPDATE", "ALTER SETTINGS", "SYSTEM CLEANUP"], place)
        may_be_rewritten = any(
            not rule.is_by_id or (rule.on_retire.redact and not rule.on_retire.delete) or "." in rule.key
            for rule in target.rules
        )
        if target.keep is not None or (may_be_rewritten and not target.has_texts_only):
            yield self._on(["INSERT"], place)

    def for_dbt(self) -> Iterator[Grant]:
        """Makes and tests the datasets. Reads them, never what they are made of."""
        yield Grant(
            ("CREATE DATABASE", "CREATE VIEW", "DROP VIEW", "DROP DICTIONARY", "SELECT"), self._actual("reporting")
        )
        for dataset in self.project.datasets:
            if dataset.database != "reporting":
                place = (dataset.database, dataset.name)
                privileges = ("CREATE VIEW", "DROP VIEW", "CREATE DICTIONARY", "DROP DICTIONARY", "dictGet", "SELECT")
                yield self._on(privileges, place)
        # The tests ask whether anybody is shown who is retired or restricted; both lists hold opaque ids.
        yield from self._read(("pii_ledger", "withheld"))
        yield Grant(("SET DEFINER",), name=self.names.definer)
        # Whether they have changed since the last build, on any replica.
        yield Grant(("SHOW ROW POLICIES",))
        yield from (Grant(("SELECT",), "system", table) for table in SYSTEM_TABLES_OF_DBT)
        if self.is_cluster:
            yield Grant(("CLUSTER", "REMOTE"))

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
        for dataset in list_shown(self.project):
            yield self._on(["SELECT"], (dataset.database, dataset.name))

    def _read(self, place: tuple[str, str]) -> Iterator[Grant]:
        """SELECT on a table, or on a view with what is behind it."""
        yield self._on(["SELECT"], place)
        for behind in self.schema.read_by.get(place, ()):
            yield from self._read(behind)


def _merge(grants: Iterable[Grant]) -> Iterator[Grant]:
    """One grant for each thing, in the order in which they were first named."""
    merged: dict[tuple[bool, str], Grant] = {}
    for grant in grants:
        key = (grant.name is None, grant.on)
        known = merged.get(key)
        privileges = unique([*(known.privileges if known else ()), *grant.privileges])
        merged[key] = replace(grant, privileges=privileges)
    yield from merged.values()
