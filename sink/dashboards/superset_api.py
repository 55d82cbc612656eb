"""Superset's REST API, as far as this package uses it: assets, roles, row level security rules, cached results.

Everything above this module sees `Superset` and the exceptions of `sink.errors`. Objects are known by their UUID, which a
bundle brings along; their ids differ from one Superset to the next.

.. no_pii: definitions of dashboards, roles and rules; no request here asks for data.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import SecretStr

from sink.dashboards.superset_address import SupersetAddress
from sink.dashboards.superset_http import OLDEST_VERSION, SupersetSession
from sink.errors import SupersetError

Kind = Literal["database", "dataset", "chart", "dashboard"]
Permission = tuple[str, str]
"""What may be done, and on what: `("can_read", "Dashboard")`."""


@dataclass(frozen=True)
class StoredRowLevelRule:
    """A row level security rule as Superset has it: datasets and roles by their ids."""

    name: str
    filter_type: str
    """`Regular` holds for the roles named, `Base` for everybody but them."""
    clause: str
    tables: frozenset[int]
    roles: frozenset[int]
    group_key: str = ""
    description: str = ""

    def to_json(self) -> dict[str, Any]:
        """The rule as the API takes it."""
        return {
            "name": self.name,
            "description": self.description,
            "filter_type": self.filter_type,
            "clause": self.clause,
            "group_key": self.group_key,
            "tables": sorted(self.tables),
            "roles": sorted(self.roles),
        }


@dataclass(frozen=True)
class SupersetDataset:
    """A dataset of anybody's."""

    id: int
    schema: str
    database_id: int

    @property
    def uid(self) -> str:
        """What Superset's caches call it."""
        return f"{self.id}__table"


class Superset:
    """A Superset, logged in. Not safe for use by several threads at once."""

    def __init__(self, address: SupersetAddress) -> None:
        """Log in.

        Raises:
            SupersetUnreachableError: there is no answer, or none of Superset's.
            SupersetAuthenticationError: the user or the password is wrong.
        """
        self.address = address
        self._session = SupersetSession(address)

    def __enter__(self) -> Superset:
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close()

    def require_suitable(self) -> None:
        """Check the version, and that the conditions of our datasets are filled in.

        Raises:
            SupersetError: the version is too old, or ENABLE_TEMPLATE_PROCESSING is off or unknown.
        """
        common = self._session.bootstrap.get("common", {})
        version = str(common.get("menu_data", {}).get("navbar_right", {}).get("version_string", ""))
        numbers = tuple(int(number) for number in re.findall(r"\d+", version)[:2])
        if numbers and numbers < OLDEST_VERSION:
            oldest = ".".join(map(str, OLDEST_VERSION))
            raise SupersetError(f"Superset at {self.address.url} is version {version}; {oldest} or newer is needed.")
        if common.get("feature_flags", {}).get("ENABLE_TEMPLATE_PROCESSING") is not True:
            raise SupersetError(
                f"Superset at {self.address.url} does not say that its feature flag ENABLE_TEMPLATE_PROCESSING is on. "
                "The datasets ask who is looking, so nobody could see them. Put "
                'FEATURE_FLAGS = {"ENABLE_TEMPLATE_PROCESSING": True} into superset_config.py and start Superset again.'
            )

    def find(self, kind: Kind, uuids: Collection[str]) -> dict[str, int]:
        """The ids of objects by UUID; those that do not exist are left out."""
        return self._find_ids(f"/api/v1/{kind}/", "uuid", uuids)

    def list_datasets(self) -> list[SupersetDataset]:
        """Every dataset that our user may see, of whomever."""
        columns = ["id", "schema", "database.id"]
        return [
            SupersetDataset(int(o["id"]), o.get("schema") or "", int(o["database"]["id"]))
            for o in self._session.list_entries("/api/v1/dataset/", {"columns": columns})
        ]

    def import_assets(self, bundle: bytes, passwords: Mapping[str, SecretStr]) -> None:
        """Create or overwrite everything that is in `bundle`.

        Args:
            bundle: a ZIP file.
            passwords: of its databases, by the name of their file below the ZIP's folder.
        """
        form = {"passwords": json.dumps({name: secret.get_secret_value() for name, secret in passwords.items()})}
        files = {"bundle": ("bundle.zip", bundle, "application/zip")}
        self._session.write("POST", "/api/v1/assets/import/", "importing the dashboards", data=form, files=files)

    def delete(self, kind: Kind, object_id: int) -> None:
        """Delete one object; one that is gone already is as good."""
        self._session.delete(f"/api/v1/{kind}/{object_id}", f"deleting a {kind}")

    def find_roles(self, names: Collection[str]) -> dict[str, int]:
        """The ids of roles by name; those that do not exist are left out."""
        return self._find_ids("/api/v1/security/roles/", "name", names)

    def create_role(self, name: str) -> int:
        """Create a role that may do nothing, and return its id."""
        return int(self._session.write("POST", "/api/v1/security/roles/", "creating a role", json={"name": name})["id"])

    def delete_role(self, role_id: int) -> None:
        """Delete a role; users who had it lose it."""
        self._session.delete(f"/api/v1/security/roles/{role_id}", "deleting a role")

    def list_permissions(self) -> dict[Permission, int]:
        """The ids of all permissions that Superset knows."""
        return {
            (o["permission"]["name"], o["view_menu"]["name"]): int(o["id"])
            for o in self._session.list_entries("/api/v1/security/permissions-resources/", {})
        }

    def set_permissions(self, role_id: int, permissions: Collection[int]) -> None:
        """Let a role do exactly this."""
        body = {"permission_view_menu_ids": sorted(permissions)}
        self._session.write(
            "POST", f"/api/v1/security/roles/{role_id}/permissions", "giving a role its permissions", json=body
        )

    def open_dashboard(self, dashboard_id: int, roles: Collection[int]) -> None:
        """Name `roles` among those that a dashboard is for, beside those that are named already."""
        dashboard = self._session.get(f"/api/v1/dashboard/{dashboard_id}", "reading a dashboard")["result"]
        named = {int(role["id"]) for role in dashboard.get("roles", [])}
        if missing := set(roles) - named:
            body = {"roles": sorted(named | missing)}
            self._session.write("PUT", f"/api/v1/dashboard/{dashboard_id}", "opening a dashboard to a role", json=body)

    def find_rules(self, names: Collection[str]) -> list[tuple[int, StoredRowLevelRule]]:
        """The rules of these names, with their ids; those that do not exist are left out."""
        return [
            (rule_id, _parse_rule(self._session.get(f"/api/v1/rowlevelsecurity/{rule_id}", "reading a rule")["result"]))
            for rule_id in self._find_ids("/api/v1/rowlevelsecurity/", "name", names).values()
        ]

    def create_rule(self, rule: StoredRowLevelRule) -> None:
        """Create a rule."""
        self._session.write("POST", "/api/v1/rowlevelsecurity/", "creating a rule", json=rule.to_json())

    def update_rule(self, rule_id: int, rule: StoredRowLevelRule) -> None:
        """Make a rule that is there what it should be."""
        self._session.write("PUT", f"/api/v1/rowlevelsecurity/{rule_id}", "changing a rule", json=rule.to_json())

    def delete_rule(self, rule_id: int) -> None:
        """Delete a rule."""
        self._session.delete(f"/api/v1/rowlevelsecurity/{rule_id}", "deleting a rule")

    def forget_results(self, datasets: Sequence[SupersetDataset]) -> None:
        """Have query results of these datasets forgotten, as far as Superset has a list of them."""
        body = {"datasource_uids": [dataset.uid for dataset in datasets]}
        self._session.write("POST", "/api/v1/cachekey/invalidate", "making it forget cached results", json=body)

    def _find_ids(self, path: str, column: str, values: Collection[str]) -> dict[str, int]:
        """The ids of what has one of `values` in `column`, by that value."""
        found: dict[str, int] = {}
        for value in values:
            conditions = {"filters": [{"col": column, "opr": "eq", "value": value}], "columns": ["id", column]}
            found |= {str(o[column]): int(o["id"]) for o in self._session.list_entries(path, conditions)}
        return found


def _parse_rule(rule: Mapping[str, Any]) -> StoredRowLevelRule:
    return StoredRowLevelRule(
        name=rule["name"],
        filter_type=rule["filter_type"],
        clause=rule["clause"],
        tables=frozenset(int(table["id"]) for table in rule["tables"]),
        roles=frozenset(int(role["id"]) for role in rule["roles"]),
        group_key=rule.get("group_key") or "",
        description=rule.get("description") or "",
    )
