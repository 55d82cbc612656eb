"""The dashboards in a Superset: put there, taken out, or written to a file.

Installing and removing can be repeated and interrupted at any point. Whatever is not in the bundle is left alone, and so
is who has which role.

.. no_pii: definitions of dashboards, roles and rules.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import get_args
from urllib.parse import quote as quote_url
from urllib.parse import urlsplit

from pydantic import SecretStr

from sink.clickhouse.address import Address
from sink.dashboards.bundle import Bundle, Role, load_bundle, pack
from sink.dashboards.superset_api import Kind, Permission, StoredRule, Superset
from sink.errors import SettingsError, SupersetError, UsageError

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
# What Superset shows instead of a password, and takes as "the password that comes separately".
_MASK = "XXXXXXXXXX"
# The address in a bundle that is only looked at.
_NOWHERE = "clickhousedb://unknown/default"
# In this order nothing is deleted that something else still needs.
_DELETED_IN_ORDER: tuple[Kind, ...] = ("dashboard", "chart", "dataset", "database")


@dataclass(frozen=True)
class Site:
    """What an installation's dashboards look like, and how its Superset reaches ClickHouse."""

    database_uri: str
    """Empty where Superset cannot reach it: the engine in process."""
    password: SecretStr
    databases: Mapping[str, str]
    language: str = "en"

    def compose(self, *, enable_pii: bool) -> Bundle:
        """The bundle of this installation.

        Raises:
            SettingsError: there is no translation into the language.
        """
        uri = self.database_uri or _NOWHERE
        bundle = load_bundle(enable_pii=enable_pii, language=self.language, databases=self.databases, database_uri=uri)
        if not self.password.get_secret_value():
            return bundle
        # The mask makes Superset ask for the password, or take the one that comes beside the bundle.
        masked = {
            path: {**document, "sqlalchemy_uri": _mask(uri)} if _kind_of(path) == "database" else document
            for path, document in bundle.files.items()
        }
        return replace(bundle, files=masked)


@dataclass(frozen=True)
class Changes:
    """What was done, as counts by kind of thing."""

    installed: dict[str, int] = field(default_factory=dict)
    removed: dict[str, int] = field(default_factory=dict)
    kept: list[str] = field(default_factory=list)
    """What of ours was left, and why."""


def describe_site(
    clickhouse: Address, *, url: str | None, user: str | None, password: SecretStr | None, language: str
) -> Site:
    """Work out how Superset reaches ClickHouse.

    Args:
        clickhouse: how we do.
        url: address to use instead of ours.
        user: user to use instead of ours; then the password is used too.
        password: see `user`.
        language: language of the dashboards.
    """
    if user is None:
        user, password = clickhouse.user, clickhouse.password
    return Site(
        _write_uri(url or clickhouse.url, user, clickhouse.databases["reporting"]),
        password or SecretStr(""),
        clickhouse.databases,
        language,
    )


def _write_uri(url: str, user: str, database: str) -> str:
    parts = urlsplit(url)
    if parts.scheme == "chdb":
        return ""
    secure = "?secure=true" if parts.scheme == "https" else ""
    port = parts.port or (8443 if secure else 8123)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return f"clickhousedb://{quote_url(user, safe='')}@{host}:{port}/{database}{secure}"


def _require_uri(site: Site) -> None:
    if not site.database_uri:
        raise SettingsError(
            "Superset cannot use the engine in process. Serve it with `aspects-pii clickhouse` and set "
            "ASPECTS_SUPERSET_CLICKHOUSE_URL to its address. Example: ASPECTS_SUPERSET_CLICKHOUSE_URL=http://127.0.0.1:8123"
        )


def install(superset: Superset, site: Site, *, enable_pii: bool) -> Changes:
    """Put the dashboards into Superset, or make those that are there what they should be.

    With PII off, what only exists with it is taken out.

    Raises:
        SettingsError: there is no translation into the language, or Superset cannot reach ClickHouse.
        SupersetError: Superset is not suitable, or refused something.
    """
    _require_uri(site)
    superset.require_suitable()
    bundle = site.compose(enable_pii=enable_pii)
    removed, kept = _remove_all_but(superset, site.compose(enable_pii=True), bundle)
    passwords = {path: site.password for path in bundle.files if _kind_of(path) == "database"}
    superset.import_assets(pack(bundle), passwords if site.password.get_secret_value() else {})
    numbers = _Numbers.look_up(superset, bundle)
    _put_rules(superset, bundle, numbers)
    # Only now, behind the rules, may anybody look.
    _grant(superset, bundle, numbers)
    _open_dashboards(superset, bundle, numbers)
    installed: Counter[str] = Counter(kind for path in bundle.files if (kind := _kind_of(path)))
    return Changes(
        {**_in_order(installed), "role": len(bundle.roles), "rule": len(bundle.rules)}, _in_order(removed), kept
    )


def remove(superset: Superset, site: Site) -> Changes:
    """Take everything of ours out of Superset, and prove that it is gone.

    Raises:
        SupersetError: Superset refused something, or something is left.
    """
    everything = site.compose(enable_pii=True)
    nothing = replace(everything, files={}, roles=(), rules=())
    removed, kept = _remove_all_but(superset, everything, nothing)
    return Changes(removed=_in_order(removed), kept=kept)


def export(site: Site, file: Path, *, enable_pii: bool) -> None:
    """Write the bundle as a ZIP for Superset's own import; roles and rules have no place in it.

    Raises:
        SettingsError: there is no translation into the language, or Superset cannot reach ClickHouse.
        UsageError: the file cannot be written.
    """
    _require_uri(site)
    bundle = pack(site.compose(enable_pii=enable_pii))
    try:
        file.write_bytes(bundle)
    except OSError as error:
        raise UsageError(f"-o {file}: {error.strerror}.") from None


@dataclass(frozen=True)
class _Numbers:
    """The numbers that one Superset has given to things of the bundle, by the names that roles and rules use."""

    datasets: dict[str, int]
    dashboards: dict[str, int]
    roles: dict[str, int]

    @classmethod
    def look_up(cls, superset: Superset, bundle: Bundle) -> _Numbers:
        datasets = _find_by_name(superset, bundle, "dataset", "table_name")
        dashboards = _find_by_name(superset, bundle, "dashboard", "slug")
        wanted = {role.name for role in bundle.roles}
        roles = superset.find_roles(wanted | {name for rule in bundle.rules for name in rule.roles})
        for name in sorted(wanted - roles.keys()):
            roles[name] = superset.create_role(name)
        return cls(datasets, dashboards, roles)


def _find_by_name(superset: Superset, bundle: Bundle, kind: Kind, name: str) -> dict[str, int]:
    names = {uuid: str(document[name]) for uuid, document in _documents(bundle, kind).items()}
    found = superset.find(kind, names)
    if missing := sorted(names[uuid] for uuid in names.keys() - found.keys()):
        raise SupersetError(f"Superset took the bundle, but has no {kind} {', '.join(missing)} now; its log says why.")
    return {names[uuid]: number for uuid, number in found.items()}


def _put_rules(superset: Superset, bundle: Bundle, numbers: _Numbers) -> None:
    """Make the rules of our names what they should be."""
    for rule in bundle.rules:
        wanted = StoredRule(
            name=rule.name,
            filter_type=rule.kind,
            clause=rule.clause,
            tables=frozenset(numbers.datasets[name] for name in rule.datasets),
            roles=frozenset(numbers.roles[name] for name in _require_roles(rule.roles, numbers)),
        )
        stored = superset.find_rules([rule.name])
        if not stored:
            superset.create_rule(wanted)
        elif stored[0][1] != wanted:
            superset.update_rule(stored[0][0], wanted)


def _require_roles(names: Iterable[str], numbers: _Numbers) -> Iterable[str]:
    for name in names:
        if name not in numbers.roles:
            raise SupersetError(f"Superset has no role {name}, which a rule of the dashboards needs.")
        yield name


def _grant(superset: Superset, bundle: Bundle, numbers: _Numbers) -> None:
    """Let each role do exactly what it is for."""
    known = superset.list_permissions()
    base = {number for permission, number in known.items() if permission in VIEWER_PERMISSIONS}
    for role in bundle.roles:
        superset.set_permissions(numbers.roles[role.name], base | _find_dataset_permissions(known, role, numbers))


def _find_dataset_permissions(known: Mapping[Permission, int], role: Role, numbers: _Numbers) -> set[int]:
    # Superset calls them [connection].[table](id:7).
    ends = {f"(id:{numbers.datasets[name]})" for name in role.datasets}
    found = {
        number
        for (action, thing), number in known.items()
        if action == _DATASET_ACCESS and any(thing.endswith(end) for end in ends)
    }
    if len(found) != len(ends):
        raise SupersetError(f"Superset knows {len(found)} of {len(ends)} permissions that the role {role.name} needs.")
    return found


def _open_dashboards(superset: Superset, bundle: Bundle, numbers: _Numbers) -> None:
    """Where Superset asks roles who may open a dashboard (DASHBOARD_RBAC), ours may; others' that were added stay."""
    for slug, number in numbers.dashboards.items():
        wanted = {numbers.roles[role.name] for role in bundle.roles if slug in role.dashboards}
        superset.open_dashboard(number, wanted)


def _remove_all_but(superset: Superset, everything: Bundle, stays: Bundle) -> tuple[Counter[str], list[str]]:
    """Delete what is in `everything` and not in `stays`; returns the counts by kind, and what could not go."""
    removed: Counter[str] = Counter()
    kept: list[str] = []
    for kind in _DELETED_IN_ORDER:
        gone = _documents(everything, kind).keys() - _documents(stays, kind).keys()
        for number in superset.find(kind, gone).values():
            if kind == "database" and (others := _count_datasets(superset, number)):
                kept.append(f"The connection to ClickHouse stays: {others} datasets of others use it.")
                continue
            superset.delete(kind, number)
            removed[kind] += 1
    for number, _ in superset.find_rules({r.name for r in everything.rules} - {r.name for r in stays.rules}):
        superset.delete_rule(number)
        removed["rule"] += 1
    for number in superset.find_roles({r.name for r in everything.roles} - {r.name for r in stays.roles}).values():
        superset.delete_role(number)
        removed["role"] += 1
    _require_gone(superset, everything, stays)
    return removed, kept


def _require_gone(superset: Superset, everything: Bundle, stays: Bundle) -> None:
    for kind in ("dashboard", "chart", "dataset"):
        gone = _documents(everything, kind).keys() - _documents(stays, kind).keys()
        if left := superset.find(kind, gone):
            raise SupersetError(f"Superset still has {len(left)} of our {kind}s after deleting them; its log says why.")


def _count_datasets(superset: Superset, database: int) -> int:
    return sum(dataset.database == database for dataset in superset.list_datasets())


def _documents(bundle: Bundle, kind: Kind) -> dict[str, dict[str, object]]:
    """The documents of one kind by UUID."""
    return {str(document["uuid"]): document for path, document in bundle.files.items() if _kind_of(path) == kind}


def _kind_of(path: str) -> Kind | None:
    folder = PurePosixPath(path).parts[0]
    kinds: Collection[Kind] = get_args(Kind)
    return next((kind for kind in kinds if folder == f"{kind}s"), None)


def _mask(uri: str) -> str:
    user, at, rest = uri.partition("@")
    return f"{user}:{_MASK}{at}{rest}"


def _in_order(counts: Mapping[str, int]) -> dict[str, int]:
    order = (*_DELETED_IN_ORDER, "role", "rule")
    return {kind: counts[kind] for kind in order if counts.get(kind)}
