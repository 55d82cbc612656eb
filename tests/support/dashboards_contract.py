"""What holds for installing and removing the dashboards, whichever Superset answers: ours of the tests, or a real one.

A test module that takes these tests over has the fixtures `superset` and `described`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

from sink.dashboards.install import VIEWER_PERMISSIONS, install, remove
from sink.dashboards.site import Site
from sink.dashboards.superset_api import Kind, StoredRowLevelRule, Superset
from sink.dashboards.superset_http import SupersetSession


def take_inventory(superset: Superset, described: Site) -> dict[str, Any]:
    """The numbers of everything that is ours, and the rules word by word."""
    bundle = described.compose(enable_pii=True)
    kinds: tuple[Kind, ...] = get_args(Kind)
    uuids = {
        kind: [str(d["uuid"]) for path, d in bundle.files.items() if path.startswith(f"{kind}s/")] for kind in kinds
    }
    return {
        **{kind: superset.find(kind, uuids[kind]) for kind in kinds},
        "role": superset.find_roles({role.name for role in bundle.roles}),
        "rule": sorted(superset.find_rules({rule.name for rule in bundle.rules}), key=lambda found: found[0]),
    }


def read_permissions(superset: Superset, role_id: int) -> set[int]:
    """What a role may do."""
    session = SupersetSession(superset.address)
    try:
        held = session.get(f"/api/v1/security/roles/{role_id}/permissions/", "reading a role")["result"]
    finally:
        session.close()
    return {int(permission["id"]) for permission in held}


class DashboardsContract:
    """Tests for both."""

    def test_everything_is_there_after_installing(self, superset: Superset, described: Site) -> None:
        changes = install(superset, described, enable_pii=True)
        found = take_inventory(superset, described)
        assert {kind: len(found[kind]) for kind in changes.installed} == changes.installed
        assert changes.installed["dashboard"] == 4
        assert changes.removed == {}

    def test_installing_again_changes_no_number(self, superset: Superset, described: Site) -> None:
        install(superset, described, enable_pii=True)
        before = take_inventory(superset, described)
        install(superset, described, enable_pii=True)
        assert take_inventory(superset, described) == before
        assert len(before["chart"]) > 20

    def test_rules_that_were_deleted_or_changed_come_back(self, superset: Superset, described: Site) -> None:
        install(superset, described, enable_pii=True)
        before = take_inventory(superset, described)["rule"]
        assert len(before) == 4
        (deleted, _), (changed, rule), *_ = before
        superset.delete_rule(deleted)
        superset.update_rule(changed, replace(rule, clause="1 = 1", roles=frozenset(), group_key="course"))
        install(superset, described, enable_pii=True)
        after = take_inventory(superset, described)["rule"]
        assert {stored for _, stored in after} == {stored for _, stored in before}
        assert len(after) == 4

    def test_a_role_may_do_what_it_is_for_and_no_more(self, superset: Superset, described: Site) -> None:
        install(superset, described, enable_pii=True)
        known = {number: permission for permission, number in superset.list_permissions().items()}
        for name, number in take_inventory(superset, described)["role"].items():
            superset.set_permissions(number, known)
            install(superset, described, enable_pii=True)
            held = {known[permission] for permission in read_permissions(superset, number)}
            datasets = {thing for action, thing in held if action == "datasource_access"}
            bundle = described.compose(enable_pii=True)
            assert len(datasets) == next(len(role.datasets) for role in bundle.roles if role.name == name)
            rest = {permission for permission in held if permission[0] != "datasource_access"}
            assert rest == VIEWER_PERMISSIONS & set(known.values())
            assert rest

    def test_with_pii_off_what_needs_it_goes(self, superset: Superset, described: Site) -> None:
        install(superset, described, enable_pii=True)
        everything = take_inventory(superset, described)
        changes = install(superset, described, enable_pii=False)
        found = take_inventory(superset, described)
        bundle = described.compose(enable_pii=False)
        assert len(found["dashboard"]) == sum(path.startswith("dashboards/") for path in bundle.files)
        assert len(found["dashboard"]) < len(everything["dashboard"])
        assert changes.removed["dashboard"] == len(everything["dashboard"]) - len(found["dashboard"])
        assert install(superset, described, enable_pii=True).installed["dashboard"] == len(everything["dashboard"])

    def test_removing_takes_ours_and_nothing_of_others(self, superset: Superset, described: Site) -> None:
        install(superset, described, enable_pii=True)
        other = StoredRowLevelRule("of_others", "Regular", "1 = 1", *self.make_others(superset, described))
        superset.create_rule(other)
        changes = remove(superset, described)
        assert not any(take_inventory(superset, described).values())
        assert changes.removed["chart"] > 20
        assert changes.kept == []
        assert [rule for _, rule in superset.find_rules(["of_others"])] == [replace(other, tables=frozenset())]
        assert superset.find_roles(["Gamma"])
        assert remove(superset, described).removed == {}
        for number, _ in superset.find_rules(["of_others"]):
            superset.delete_rule(number)

    def make_others(self, superset: Superset, described: Site) -> tuple[frozenset[int], frozenset[int]]:
        """One of our datasets and a role of Superset's, for a rule of somebody else's."""
        dataset = next(iter(take_inventory(superset, described)["dataset"].values()))
        return frozenset({dataset}), frozenset(superset.find_roles(["Gamma"]).values())
