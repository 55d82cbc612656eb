"""The dashboards in a Superset: put there, and taken out.

Installing and removing can be repeated and interrupted at any point. Whatever is not in the bundle is left alone, and so
is who has which role.

.. no_pii: definitions of dashboards, roles and rules.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from sink.dashboards.bundle import Bundle, Role, RowLevelRule, pack
from sink.dashboards.site import Site, require_uri
from sink.dashboards.superset_api import Kind, Permission, StoredRowLevelRule, Superset
from sink.errors import SupersetError
from sink.wording import counted

# What a role needs to look at a dashboard, filter it, and download a table. It does not get SQL Lab, own charts, samples
# of datasets, or the keys under which Superset keeps what somebody filtered by.
VIEWER_PERMISSIONS: frozenset[Permission] = frozenset(
    {
        ("can_csv", "Superset"),
        ("can_dashboard", "Superset"),
        ("can_get", "MenuApi"),
        ("can_language_pack", "Superset"),
        ("can_list", "AsyncEventsRestApi"),
        ("can_log", "Superset"),
        ("can_read", "Chart"),
        ("can_read", "CurrentUserRestApi"),
        ("can_read", "Dashboard"),
        ("can_read", "SecurityRestApi"),
        ("can_read", "Theme"),
        ("can_recent_activity", "Log"),
        ("can_time_range", "Api"),
        ("can_view_chart_as_table", "Dashboard"),
        ("menu_access", "Dashboards"),
        ("menu_access", "Home"),
    }
)
_DATASET_ACCESS = "datasource_access"
# In this order nothing is deleted that something else still needs.
_DELETED_IN_ORDER: tuple[Kind, ...] = ("dashboard", "chart", "dataset", "database")


@dataclass(frozen=True)
class Changes:
    """What was done, as counts by kind of thing."""

    installed: dict[str, int] = field(default_factory=dict)
    removed: dict[str, int] = field(default_factory=dict)
    kept: list[str] = field(default_factory=list)
    """What of ours was left, and why."""


def install(superset: Superset, site: Site, *, enable_pii: bool) -> Changes:
    """Put the dashboards into Superset, or make those that are there what they should be.

    With PII off, what only exists with it is taken out.

    Raises:
        SettingsError: there is no translation into the language, or Superset cannot reach ClickHouse.
        SupersetError: Superset is not suitable, or refused something.
    """
    require_uri(site)
    superset.require_suitable()
    bundle = site.compose(enable_pii=enable_pii)
    removed, kept = _remove_all_but(superset, site.compose(enable_pii=True), bundle)
    passwords = {path: site.password for path in bundle.files if path.startswith("databases/")}
    superset.import_assets(pack(bundle), passwords if site.password.get_secret_value() else {})
    ids = _Ids.look_up(superset, bundle)
    _put_rules(superset, bundle, ids)
    # Only now, behind the rules, may anybody look.
    _grant(superset, bundle, ids)
    _open_dashboards(superset, bundle, ids)
    installed: dict[str, int] = {kind: len(bundle.documents(kind)) for kind in _DELETED_IN_ORDER}
    installed |= {"role": len(bundle.roles), "rule": len(bundle.rules)}
    return Changes(_in_order(installed), _in_order(removed), kept)


def remove(superset: Superset, site: Site) -> Changes:
    """Take everything of ours out of Superset, and prove that it is gone.

    Raises:
        SupersetError: Superset refused something, or something is left.
    """
    everything = site.compose(enable_pii=True)
    nothing = replace(everything, files={}, roles=(), rules=())
    removed, kept = _remove_all_but(superset, everything, nothing)
    return Changes(removed=_in_order(removed), kept=kept)


@dataclass(frozen=True)
class _Ids:
    """The ids that one Superset has given to objects of the bundle, by the names that roles and rules use."""

    datasets: dict[str, int]
    dashboards: dict[str, int]
    roles: dict[str, int]

    @classmethod
    def look_up(cls, superset: Superset, bundle: Bundle) -> _Ids:
        datasets = _find_by_name(superset, bundle, "dataset", "table_name")
        dashboards = _find_by_name(superset, bundle, "dashboard", "slug")
        wanted = {role.name for role in bundle.roles}
        roles = superset.find_roles(wanted | {name for rule in bundle.rules for name in rule.roles})
        for name in sorted(wanted - roles.keys()):
            roles[name] = superset.create_role(name)
        return cls(datasets, dashboards, roles)


def _find_by_name(superset: Superset, bundle: Bundle, kind: Kind, name: str) -> dict[str, int]:
    names = {uuid: str(document[name]) for uuid, document in bundle.documents(kind).items()}
    found = superset.find(kind, names)
    if missing := sorted(names[uuid] for uuid in names.keys() - found.keys()):
        raise SupersetError(f"Superset took the bundle, but has no {kind} {', '.join(missing)} now; its log says why.")
    return {names[uuid]: object_id for uuid, object_id in found.items()}


def _put_rules(superset: Superset, bundle: Bundle, ids: _Ids) -> None:
    """Make the rules of our names what they should be."""
    for rule in bundle.rules:
        wanted = _resolve_rule(rule, ids)
        stored = superset.find_rules([rule.name])
        if not stored:
            superset.create_rule(wanted)
        elif stored[0][1] != wanted:
            superset.update_rule(stored[0][0], wanted)


def _resolve_rule(rule: RowLevelRule, ids: _Ids) -> StoredRowLevelRule:
    """The rule with the ids of this Superset in the place of names."""
    if missing := [name for name in rule.roles if name not in ids.roles]:
        raise SupersetError(f"Superset has no role {', '.join(missing)}, which a rule of the dashboards needs.")
    return StoredRowLevelRule(
        name=rule.name,
        filter_type=rule.filter_type,
        clause=rule.clause,
        tables=frozenset(ids.datasets[name] for name in rule.datasets),
        roles=frozenset(ids.roles[name] for name in rule.roles),
    )


def _grant(superset: Superset, bundle: Bundle, ids: _Ids) -> None:
    """Let each role do exactly what it is for."""
    known = superset.list_permissions()
    base = {permission_id for permission, permission_id in known.items() if permission in VIEWER_PERMISSIONS}
    for role in bundle.roles:
        superset.set_permissions(ids.roles[role.name], base | _find_dataset_permissions(known, role, ids))


def _find_dataset_permissions(known: Mapping[Permission, int], role: Role, ids: _Ids) -> set[int]:
    # Superset calls them [connection].[table](id:7).
    wanted = {f"(id:{ids.datasets[name]})" for name in role.datasets}
    found = {
        permission_id
        for (action, thing), permission_id in known.items()
        if action == _DATASET_ACCESS and thing[thing.rfind("(id:") :] in wanted
    }
    if len(found) != len(wanted):
        raise SupersetError(
            f"Superset knows {len(found)} of {len(wanted)} permissions that the role {role.name} needs."
        )
    return found


def _open_dashboards(superset: Superset, bundle: Bundle, ids: _Ids) -> None:
    """Where Superset asks roles who may open a dashboard (DASHBOARD_RBAC), ours may; others' that were added stay."""
    for slug, dashboard_id in ids.dashboards.items():
        wanted = {ids.roles[role.name] for role in bundle.roles if slug in role.dashboards}
        superset.open_dashboard(dashboard_id, wanted)


def _remove_all_but(superset: Superset, everything: Bundle, stays: Bundle) -> tuple[Counter[str], list[str]]:
    """Delete what is in `everything` and not in `stays`; returns the counts by kind, and what could not go."""
    removed: Counter[str] = Counter()
    kept: list[str] = []
    for kind in _DELETED_IN_ORDER:
        gone = everything.documents(kind).keys() - stays.documents(kind).keys()
        for object_id in superset.find(kind, gone).values():
            if kind == "database" and (others := _count_datasets(superset, object_id)):
                users = counted(others, "dataset of others uses", "datasets of others use")
                kept.append(f"The connection to ClickHouse stays: {users} it.")
                continue
            superset.delete(kind, object_id)
            removed[kind] += 1
    for rule_id, _ in superset.find_rules({r.name for r in everything.rules} - {r.name for r in stays.rules}):
        superset.delete_rule(rule_id)
        removed["rule"] += 1
    for role_id in superset.find_roles({r.name for r in everything.roles} - {r.name for r in stays.roles}).values():
        superset.delete_role(role_id)
        removed["role"] += 1
    _require_gone(superset, everything, stays)
    return removed, kept


def _require_gone(superset: Superset, everything: Bundle, stays: Bundle) -> None:
    for kind in ("dashboard", "chart", "dataset"):
        gone = everything.documents(kind).keys() - stays.documents(kind).keys()
        if left := superset.find(kind, gone):
            raise SupersetError(f"Superset still has {len(left)} of our {kind}s after deleting them; its log says why.")


def _count_datasets(superset: Superset, database_id: int) -> int:
    return sum(dataset.database_id == database_id for dataset in superset.list_datasets())


def _in_order(counts: Mapping[str, int]) -> dict[str, int]:
    order = (*_DELETED_IN_ORDER, "role", "rule")
    return {kind: counts[kind] for kind in order if counts.get(kind)}
