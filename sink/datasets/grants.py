"""Roles, grants and row policies as a plan, and the SQL that it is printed as."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from sink.errors import UsageError
from sink.names import check_identifier, quote


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
    name: str | None = None
    """Of what is not a table: a user, or an engine."""

    @property
    def clause(self) -> str:
        """As it stands in GRANT."""
        return f"{', '.join(self.privileges)} ON {self.on}"

    @property
    def on(self) -> str:
        """What the privileges are on."""
        if self.name is not None:
            return quote(self.name)
        return ".".join(map(_quote_part, (self.database, self.table)))


def _quote_part(part: str) -> str:
    """A name, `*` for everything, or `prefix*` for all names that begin so."""
    begin = part.removesuffix("*")
    return f"{quote(begin) if begin else ''}{'*' if part.endswith('*') else ''}"


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


def render(plan: AccessPlan, *, remove: bool = False) -> str:
    """The statements as a script."""
    lines = [
        "-- Made by `aspects-pii access sql`; how to use it: `aspects-pii docs access-sql`. It can be run again and again."
    ]
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


def require_name(name: str) -> None:
    if not name or "\x00" in name:
        raise UsageError("The name of an exempt user or role is empty.")
