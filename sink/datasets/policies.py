"""Which rows of PII tables and datasets each account of a ClickHouse server sees.

.. no_pii: names of roles, tables and columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from sink.datasets.grants import RoleNames, RowPolicy
from sink.datasets.project import Dataset, Project, unique
from sink.names import find_database
from sink.pii_map import PiiMap
from sink.visibility import VIEWER_SCOPES, render_visible_to


def list_shown(project: Project) -> list[Dataset]:
    """The datasets that are made to be looked at, in the database of reports."""
    return [dataset for dataset in project.datasets if dataset.is_shown and dataset.database == "reporting"]


def plan_policies(
    pii_map: PiiMap,
    databases: Mapping[str, str],
    names: RoleNames,
    project: Project,
    exempt: tuple[str, ...],
    trusted: tuple[str, ...],
) -> list[RowPolicy]:
    """Nobody but the sink and the definer sees a row of a PII table; of a dataset, everybody their own courses.

    Args:
        pii_map: which tables hold PII.
        databases: the installation's databases, by the names that the map uses.
        names: what the roles and the definer are called.
        project: what dbt makes.
        exempt: further users or roles that see every row.
        trusted: who sees every row of the datasets.
    """
    policies: list[RowPolicy] = []
    for target in (name for name, entry in pii_map.targets.items() if not entry.is_anonymised):
        policies += _confine(databases, target, "0", (names.sink, names.definer, *exempt))
    reporting = databases.get("reporting", "reporting")
    shown = {f"{dataset.database}.{dataset.name}" for dataset in list_shown(project)}
    for dataset in project.datasets:
        name = f"{dataset.database}.{dataset.name}"
        if dataset.name == VIEWER_SCOPES:
            # The others ask it; it shows names of courses, and rows of nobody.
            continue
        if name in shown:
            own_rows = render_visible_to(
                "currentUser()",
                reporting,
                has_course="course_key" in dataset.columns,
                has_org="org" in dataset.columns,
            )
            policies += _confine(databases, name, own_rows, (*names.services, *exempt, *trusted))
        elif not dataset.is_shown or (name in pii_map.derived and pii_map.derived[name].pii):
            policies += _confine(databases, name, "0", (*names.services, *exempt))
    return policies


def _confine(databases: Mapping[str, str], name: str, using: str, readers: tuple[str, ...]) -> Iterator[RowPolicy]:
    # Where users without a policy see nothing (users_without_row_policies_can_read_rows), readers need one too.
    logical, _, table = name.partition(".")
    database = find_database(databases, logical)
    yield RowPolicy("aspects_pii_services", database, table, "1", to=unique(readers))
    yield RowPolicy("aspects_pii_others", database, table, using, unless=unique(readers))
