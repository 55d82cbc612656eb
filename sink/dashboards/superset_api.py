"""Superset's REST API, as far as this package uses it: logging in, assets, roles, rules, cached results.

Everything above this module sees `Superset` and the exceptions of `sink.errors`; what httpx raises is translated here,
once. Objects are known by their UUID, which a bundle brings along; their numbers differ from one Superset to the next.

.. no_pii: definitions of dashboards, roles and rules; no request here asks for data.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import httpx
from pydantic import SecretStr

from sink.errors import SupersetAuthenticationError, SupersetError, SupersetUnreachableError, translated

Kind = Literal["database", "dataset", "chart", "dashboard"]
Permission = tuple[str, str]
"""What may be done, and on what: `("can_read", "Dashboard")`."""

#: The first version whose API has all that is used here, the roles included.
OLDEST_VERSION = (5, 0)
_CONNECT_WITHIN = 10.0
_ANSWER_WITHIN = 120.0
# More are not given at a time, whatever is asked for.
_PAGE = 100
_LONGEST_REASON = 300


@dataclass(frozen=True)
class SupersetAddress:
    """Where Superset is and how to get in."""

    url: str
    user: str
    password: SecretStr
    provider: str = "db"


@dataclass(frozen=True)
class StoredRule:
    """A rule of row level security as Superset has it."""

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
class Dataset:
    """A dataset of anybody's."""

    id: int
    schema: str
    database: int

    @property
    def uid(self) -> str:
        """What Superset's caches call it."""
        return f"{self.id}__table"


@dataclass
class _Session:
    """What logging in has given."""

    csrf: str = ""
    bootstrap: dict[str, Any] = field(default_factory=dict)


class Superset:
    """A Superset, logged in. Not safe for use by several threads at once."""

    def __init__(self, address: SupersetAddress, transport: httpx.BaseTransport | None = None) -> None:
        """Log in.

        Raises:
            SupersetUnreachableError: there is no answer, or none of Superset's.
            SupersetAuthenticationError: the user or the password is wrong.
        """
        self.address = address
        self._client = httpx.Client(
            base_url=address.url,
            timeout=httpx.Timeout(_ANSWER_WITHIN, connect=_CONNECT_WITHIN),
            transport=transport or httpx.HTTPTransport(retries=2),
            # Superset compares it with its own address where it checks where a request comes from.
            headers={"Referer": f"{address.url.rstrip('/')}/"},
        )
        try:
            self._session = self._log_in()
        except BaseException:
            self._client.close()
            raise

    def __enter__(self) -> Superset:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def _log_in(self) -> _Session:
        """Get a token, and another against forged requests, where Superset wants one."""
        bootstrap = _read_bootstrap(self._send("GET", "/login/", follow_redirects=True).text)
        credentials = {
            "username": self.address.user,
            "password": self.address.password.get_secret_value(),
            "provider": self.address.provider,
            "refresh": False,
        }
        answer = self._send("POST", "/api/v1/security/login", json=credentials)
        if answer.status_code == httpx.codes.UNAUTHORIZED:
            raise SupersetAuthenticationError(
                f"Superset at {self.address.url} refused ASPECTS_SUPERSET_USER or ASPECTS_SUPERSET_PASSWORD. "
                "It has to be an account of Superset's own, or of LDAP (ASPECTS_SUPERSET_PROVIDER=ldap)."
            )
        token = self._read(answer, "logging in").get("access_token")
        if not token:
            raise SupersetUnreachableError(f"What answers at {self.address.url} is not Superset: it gave no token.")
        self._client.headers["Authorization"] = f"Bearer {token}"
        answer = self._send("GET", "/api/v1/security/csrf_token/")
        csrf = "" if answer.status_code == httpx.codes.NOT_FOUND else self._read(answer, "logging in").get("result", "")
        return _Session(csrf, bootstrap)

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
        """The numbers of objects by UUID; those that do not exist are left out."""
        found: dict[str, int] = {}
        for uuid in uuids:
            conditions = {"filters": [{"col": "uuid", "opr": "eq", "value": uuid}], "columns": ["id", "uuid"]}
            found.update({str(o["uuid"]): int(o["id"]) for o in self._list(f"/api/v1/{kind}/", conditions)})
        return found

    def list_datasets(self) -> list[Dataset]:
        """Every dataset that our user may see, of whomever."""
        columns = ["id", "schema", "database.id"]
        return [
            Dataset(int(o["id"]), o.get("schema") or "", int(o["database"]["id"]))
            for o in self._list("/api/v1/dataset/", {"columns": columns})
        ]

    def import_assets(self, bundle: bytes, passwords: Mapping[str, SecretStr]) -> None:
        """Create or overwrite everything that is in `bundle`.

        Args:
            bundle: a ZIP file.
            passwords: of its databases, by the name of their file below the ZIP's folder.
        """
        form = {"passwords": json.dumps({name: secret.get_secret_value() for name, secret in passwords.items()})}
        files = {"bundle": ("bundle.zip", bundle, "application/zip")}
        self._write("POST", "/api/v1/assets/import/", "importing the dashboards", data=form, files=files)

    def delete(self, kind: Kind, number: int) -> None:
        """Delete one object; one that is gone already is as good."""
        self._delete(f"/api/v1/{kind}/{number}", f"deleting a {kind}")

    def find_roles(self, names: Collection[str]) -> dict[str, int]:
        """The numbers of roles by name; those that do not exist are left out."""
        found: dict[str, int] = {}
        for name in names:
            conditions = {"filters": [{"col": "name", "opr": "eq", "value": name}], "columns": ["id", "name"]}
            found.update({o["name"]: int(o["id"]) for o in self._list("/api/v1/security/roles/", conditions)})
        return found

    def create_role(self, name: str) -> int:
        """Create a role that may do nothing, and return its number."""
        return int(self._write("POST", "/api/v1/security/roles/", "creating a role", json={"name": name})["id"])

    def delete_role(self, number: int) -> None:
        """Delete a role; users who had it lose it."""
        self._delete(f"/api/v1/security/roles/{number}", "deleting a role")

    def list_permissions(self) -> dict[Permission, int]:
        """The numbers of all permissions that Superset knows."""
        return {
            (o["permission"]["name"], o["view_menu"]["name"]): int(o["id"])
            for o in self._list("/api/v1/security/permissions-resources/", {})
        }

    def set_permissions(self, role: int, permissions: Collection[int]) -> None:
        """Let a role do exactly this."""
        body = {"permission_view_menu_ids": sorted(permissions)}
        self._write("POST", f"/api/v1/security/roles/{role}/permissions", "giving a role its permissions", json=body)

    def read_permissions(self, role: int) -> set[int]:
        """What a role may do."""
        path = f"/api/v1/security/roles/{role}/permissions/"
        return {int(o["id"]) for o in self._read(self._send("GET", path), "reading a role")["result"]}

    def open_dashboard(self, number: int, roles: Collection[int]) -> None:
        """Name `roles` among those that a dashboard is for, beside those that are named already."""
        answer = self._send("GET", f"/api/v1/dashboard/{number}")
        named = {int(role["id"]) for role in self._read(answer, "reading a dashboard")["result"].get("roles", [])}
        if missing := set(roles) - named:
            body = {"roles": sorted(named | missing)}
            self._write("PUT", f"/api/v1/dashboard/{number}", "opening a dashboard to a role", json=body)

    def find_rules(self, names: Collection[str]) -> list[tuple[int, StoredRule]]:
        """The rules of these names, with their numbers; those that do not exist are left out."""
        found = []
        for name in names:
            conditions = {"filters": [{"col": "name", "opr": "eq", "value": name}], "columns": ["id"]}
            for entry in self._list("/api/v1/rowlevelsecurity/", conditions):
                answer = self._send("GET", f"/api/v1/rowlevelsecurity/{entry['id']}")
                rule = self._read(answer, "reading a rule")["result"]
                found.append((int(entry["id"]), _parse_rule(rule)))
        return found

    def create_rule(self, rule: StoredRule) -> None:
        """Create a rule."""
        self._write("POST", "/api/v1/rowlevelsecurity/", "creating a rule", json=rule.to_json())

    def update_rule(self, number: int, rule: StoredRule) -> None:
        """Make a rule that is there what it should be."""
        self._write("PUT", f"/api/v1/rowlevelsecurity/{number}", "changing a rule", json=rule.to_json())

    def delete_rule(self, number: int) -> None:
        """Delete a rule."""
        self._delete(f"/api/v1/rowlevelsecurity/{number}", "deleting a rule")

    def forget_results(self, datasets: Sequence[Dataset]) -> None:
        """Have query results of these datasets forgotten, as far as Superset has a list of them."""
        body = {"datasource_uids": [dataset.uid for dataset in datasets]}
        self._write("POST", "/api/v1/cachekey/invalidate", "making it forget cached results", json=body)

    def _list(self, path: str, conditions: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Every entry of a list that meets `conditions`."""
        page = 0
        while True:
            query = write_rison({**conditions, "page": page, "page_size": _PAGE})
            document = self._read(self._send("GET", path, params={"q": query}), f"reading {path}")
            entries = document.get("result", [])
            yield from entries
            page += 1
            if len(entries) < _PAGE or page * _PAGE >= int(document.get("count", 0)):
                return

    def _write(self, method: str, path: str, what: str, **content: Any) -> dict[str, Any]:
        headers = {"X-CSRFToken": self._session.csrf} if self._session.csrf else {}
        return self._read(self._send(method, path, headers=headers, **content), what)

    def _delete(self, path: str, what: str) -> None:
        headers = {"X-CSRFToken": self._session.csrf} if self._session.csrf else {}
        answer = self._send("DELETE", path, headers=headers)
        if answer.status_code != httpx.codes.NOT_FOUND:
            self._read(answer, what)

    def _send(self, method: str, path: str, **content: Any) -> httpx.Response:
        with translated(self._translate):
            return self._client.request(method, path, **content)

    def _translate(self, error: Exception) -> SupersetUnreachableError | None:
        """Neither httpx's words nor the address it quotes: only what kind of failure it was."""
        if not isinstance(error, httpx.HTTPError | httpx.InvalidURL):
            return None
        return SupersetUnreachableError(
            f"Superset at {self.address.url} does not answer ({type(error).__name__}). Check ASPECTS_SUPERSET_URL."
        )

    def _read(self, answer: httpx.Response, what: str) -> dict[str, Any]:
        """The JSON of an answer, or the reason why there is none."""
        where = f"Superset at {self.address.url}"
        if answer.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            raise SupersetAuthenticationError(
                f"{where} does not let ASPECTS_SUPERSET_USER do this ({what}). The user needs the role Admin."
            )
        if answer.status_code in (httpx.codes.NOT_FOUND, httpx.codes.METHOD_NOT_ALLOWED):
            raise SupersetError(
                f"{where} does not know {answer.request.url.path} ({what}). Is it older than "
                f"{'.'.join(map(str, OLDEST_VERSION))}, or is its FAB_ADD_SECURITY_API off?"
            )
        if answer.status_code in (502, 503, 504):
            raise SupersetUnreachableError(f"{where} is not ready (status {answer.status_code}).")
        if not answer.is_success:
            raise SupersetError(f"{where} failed at {what} (status {answer.status_code}): {_find_reason(answer)}")
        try:
            document = answer.json()
        except ValueError:
            document = None
        if not isinstance(document, dict):
            raise SupersetUnreachableError(f"What answers at {self.address.url} is not Superset: it sent no JSON.")
        return document


def write_rison(value: Any) -> str:
    """Write `value` in Rison, the notation in which Superset takes conditions; every text is quoted."""
    if isinstance(value, bool):
        return "!t" if value else "!f"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, Mapping):
        return f"({','.join(f'{name}:{write_rison(member)}' for name, member in value.items())})"
    if isinstance(value, list):
        return f"!({','.join(map(write_rison, value))})"
    return "'" + re.sub(r"([!'])", r"!\1", str(value)) + "'"


def _parse_rule(rule: Mapping[str, Any]) -> StoredRule:
    return StoredRule(
        name=rule["name"],
        filter_type=rule["filter_type"],
        clause=rule["clause"],
        tables=frozenset(int(table["id"]) for table in rule["tables"]),
        roles=frozenset(int(role["id"]) for role in rule["roles"]),
        group_key=rule.get("group_key") or "",
        description=rule.get("description") or "",
    )


def _read_bootstrap(page: str) -> dict[str, Any]:
    """What Superset tells its own pages about itself; empty where that cannot be found."""
    match = re.search(r"""data-bootstrap=(?:"([^"]*)"|'([^']*)')""", page)
    try:
        document = json.loads(html.unescape(match[1] or match[2])) if match else {}
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _find_reason(answer: httpx.Response) -> str:
    """What Superset says is wrong, without the page around it."""
    try:
        document = answer.json()
        said = document.get("message") or [error.get("message") for error in document.get("errors", [])]
    except (ValueError, AttributeError):
        return "no reason given; its log has one"
    return " ".join(str(said).split())[:_LONGEST_REASON] or "no reason given; its log has one"
