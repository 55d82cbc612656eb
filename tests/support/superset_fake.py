"""A small server that answers as Superset's REST API does, as far as `sink.dashboards.superset_api` asks it.

What it does and refuses was seen with Superset 6.1: `tests/superset` holds the same tests against a real one.
"""

from __future__ import annotations

import html
import io
import itertools
import json
import re
import zipfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from email.parser import BytesParser
from email.policy import HTTP
from pathlib import PurePosixPath
from typing import Any

import yaml
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

Row = dict[str, Any]
USER, PASSWORD, TOKEN, CSRF = "admin", "a password of the tests", "a-token", "a-csrf-token"
KINDS = ("database", "dataset", "chart", "dashboard")
_CONDITION = re.compile(r"\(col:'(\w+)',opr:'eq',value:'((?:[^'!]|!!|!')*)'\)")


@dataclass
class FakeSuperset:
    """What a Superset holds, and how it is set up."""

    version: str = "6.1.0"
    flags: dict[str, bool] = field(default_factory=lambda: {"ENABLE_TEMPLATE_PROCESSING": True})
    is_forbidden: bool = False
    """The user may log in, and nothing else."""
    is_failing: bool = False
    """Every change is answered with an error."""
    objects: dict[str, dict[int, Row]] = field(default_factory=lambda: {kind: {} for kind in KINDS})
    roles: dict[int, Row] = field(default_factory=dict)
    rules: dict[int, Row] = field(default_factory=dict)
    permissions: dict[int, tuple[str, str]] = field(default_factory=dict)
    passwords: dict[str, str] = field(default_factory=dict)
    """What came as passwords of databases."""
    forgotten: list[list[str]] = field(default_factory=list)
    """Each time that results were to be forgotten: of which datasets."""
    changes: int = 0

    def __post_init__(self) -> None:
        self._numbers = itertools.count(1)
        for name in ("Admin", "Gamma"):
            self.add_role(name)
        for permission in (("can_read", "Dashboard"), ("can_read", "Chart"), ("can_sqllab", "Superset")):
            self.permissions[next(self._numbers)] = permission

    def add_role(self, name: str) -> int:
        """Create a role."""
        number = next(self._numbers)
        self.roles[number] = {"id": number, "name": name, "permissions": set(), "users": set()}
        return number

    def add_dataset(self, schema: str, database: int) -> int:
        """Create a dataset of somebody's."""
        number = next(self._numbers)
        row = {
            "id": number,
            "uuid": f"other-{number}",
            "schema": schema,
            "table_name": "other",
            "database": {"id": database},
        }
        self.objects["dataset"][number] = row
        return number

    def names(self, kind: str, key: str) -> set[str]:
        """What there is of a kind."""
        return {row[key] for row in self.objects[kind].values()}

    @property
    def app(self) -> Starlette:
        """The server."""
        crud: list[tuple[str, str, Callable[[Request], Awaitable[Response]]]] = [
            ("GET", "/login/", self._show_login),
            ("POST", "/api/v1/security/login", self._log_in),
            ("GET", "/api/v1/security/csrf_token/", self._give_csrf),
            ("POST", "/api/v1/assets/import/", self._import),
            ("POST", "/api/v1/cachekey/invalidate", self._forget),
            ("GET", "/api/v1/security/roles/", self._list_roles),
            ("POST", "/api/v1/security/roles/", self._create_role),
            ("DELETE", "/api/v1/security/roles/{number:int}", self._delete_role),
            ("POST", "/api/v1/security/roles/{number:int}/permissions", self._set_permissions),
            ("GET", "/api/v1/security/roles/{number:int}/permissions/", self._show_permissions),
            ("GET", "/api/v1/security/permissions-resources/", self._list_permissions),
            ("GET", "/api/v1/rowlevelsecurity/", self._list_rules),
            ("POST", "/api/v1/rowlevelsecurity/", self._create_rule),
            ("GET", "/api/v1/rowlevelsecurity/{number:int}", self._show_rule),
            ("PUT", "/api/v1/rowlevelsecurity/{number:int}", self._update_rule),
            ("DELETE", "/api/v1/rowlevelsecurity/{number:int}", self._delete_rule),
            ("GET", "/api/v1/{kind}/", self._list_objects),
            ("GET", "/api/v1/{kind}/{number:int}", self._show_object),
            ("PUT", "/api/v1/{kind}/{number:int}", self._update_object),
            ("DELETE", "/api/v1/{kind}/{number:int}", self._delete_object),
        ]
        return Starlette(
            routes=[Route(path, self._guard(method, answer), methods=[method]) for method, path, answer in crud]
        )

    def _guard(
        self, method: str, answer: Callable[[Request], Awaitable[Response]]
    ) -> Callable[[Request], Awaitable[Response]]:
        async def guarded(request: Request) -> Response:
            path = request.url.path
            if path in ("/login/", "/api/v1/security/login"):
                return await answer(request)
            if request.headers.get("authorization") != f"Bearer {TOKEN}":
                return JSONResponse({"msg": "Missing Authorization Header"}, 401)
            if self.is_forbidden and not path.startswith("/api/v1/security/csrf_token"):
                return JSONResponse({"message": "Forbidden"}, 403)
            if method != "GET":
                if request.headers.get("x-csrftoken") != CSRF or request.cookies.get("session") != CSRF:
                    return JSONResponse({"errors": [{"message": "400 Bad Request: The CSRF token is missing."}]}, 400)
                if self.is_failing:
                    return JSONResponse({"message": "Fatal error"}, 500)
                self.changes += 1
            return await answer(request)

        return guarded

    async def _show_login(self, request: Request) -> Response:
        bootstrap = {
            "common": {
                "feature_flags": self.flags,
                "menu_data": {"navbar_right": {"version_string": self.version}},
            }
        }
        return HTMLResponse(f'<div id="app" data-bootstrap="{html.escape(json.dumps(bootstrap))}"></div>')

    async def _log_in(self, request: Request) -> Response:
        given = await request.json()
        if (given["username"], given["password"], given["provider"]) != (USER, PASSWORD, "db"):
            return JSONResponse({"message": "Not authorized"}, 401)
        return JSONResponse({"access_token": TOKEN})

    async def _give_csrf(self, request: Request) -> Response:
        response = JSONResponse({"result": CSRF})
        response.set_cookie("session", CSRF, httponly=True)
        return response

    async def _import(self, request: Request) -> Response:
        form = await _read_form(request)
        content, passwords = form["bundle"], json.loads(form["passwords"])
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            files = {
                str(PurePosixPath(*PurePosixPath(name).parts[1:])): yaml.safe_load(archive.read(name))
                for name in archive.namelist()
            }
        if files.get("metadata.yaml", {}).get("type") != "assets":
            return JSONResponse({"message": "Error importing"}, 422)
        self.passwords |= passwords
        for kind in KINDS:
            for path, document in files.items():
                if path.startswith(f"{kind}s/"):
                    self._store(kind, document)
        return JSONResponse({"message": "OK"})

    def _store(self, kind: str, document: Row) -> None:
        stored = self.objects[kind]
        number = next((n for n, row in stored.items() if row["uuid"] == document["uuid"]), None) or next(self._numbers)
        row = {"roles": [], **stored.get(number, {}), **document, "id": number}
        if kind == "dataset":
            databases = {database["uuid"]: n for n, database in self.objects["database"].items()}
            row["database"] = {"id": databases[document["database_uuid"]]}
            permission = ("datasource_access", f"[{row['schema']}].[{row['table_name']}](id:{number})")
            if permission not in self.permissions.values():
                self.permissions[next(self._numbers)] = permission
        stored[number] = row

    async def _forget(self, request: Request) -> Response:
        self.forgotten.append((await request.json())["datasource_uids"])
        return JSONResponse({}, 201)

    async def _list_roles(self, request: Request) -> Response:
        return _page(request, [{"id": role["id"], "name": role["name"]} for role in self.roles.values()])

    async def _create_role(self, request: Request) -> Response:
        name = (await request.json())["name"]
        if name in {role["name"] for role in self.roles.values()}:
            return JSONResponse({"message": "UNIQUE constraint failed"}, 422)
        return JSONResponse({"id": self.add_role(name)}, 201)

    async def _delete_role(self, request: Request) -> Response:
        return _gone(self.roles.pop(request.path_params["number"], None))

    async def _set_permissions(self, request: Request) -> Response:
        given = set((await request.json())["permission_view_menu_ids"])
        if not given <= self.permissions.keys():
            return JSONResponse({"message": "Some permissions were not found"}, 400)
        self.roles[request.path_params["number"]]["permissions"] = given
        return JSONResponse({"result": {}})

    async def _show_permissions(self, request: Request) -> Response:
        held = self.roles[request.path_params["number"]]["permissions"]
        return JSONResponse({"result": [{"id": number} for number in sorted(held)]})

    async def _list_permissions(self, request: Request) -> Response:
        rows = [
            {"id": number, "permission": {"name": action}, "view_menu": {"name": thing}}
            for number, (action, thing) in self.permissions.items()
        ]
        return _page(request, rows)

    async def _list_rules(self, request: Request) -> Response:
        return _page(request, [{"id": number, "name": rule["name"]} for number, rule in self.rules.items()])

    async def _create_rule(self, request: Request) -> Response:
        rule, number = await request.json(), next(self._numbers)
        if rule["name"] in {other["name"] for other in self.rules.values()}:
            return JSONResponse({"message": "UNIQUE constraint failed"}, 422)
        self.rules[number] = rule
        return JSONResponse({"id": number}, 201)

    async def _show_rule(self, request: Request) -> Response:
        rule = self.rules[request.path_params["number"]]
        links = {name: [{"id": number} for number in rule[name]] for name in ("tables", "roles")}
        return JSONResponse({"result": {**rule, **links}})

    async def _update_rule(self, request: Request) -> Response:
        self.rules[request.path_params["number"]] |= await request.json()
        return JSONResponse({})

    async def _delete_rule(self, request: Request) -> Response:
        return _gone(self.rules.pop(request.path_params["number"], None))

    async def _list_objects(self, request: Request) -> Response:
        if request.path_params["kind"] not in KINDS:
            return JSONResponse({"message": "Not found"}, 404)
        return _page(request, list(self.objects[request.path_params["kind"]].values()))

    async def _show_object(self, request: Request) -> Response:
        row = self.objects[request.path_params["kind"]].get(request.path_params["number"])
        return JSONResponse(
            {"result": {"roles": row["roles"]}} if row else {"message": "Not found"}, 200 if row else 404
        )

    async def _update_object(self, request: Request) -> Response:
        roles = (await request.json())["roles"]
        self.objects[request.path_params["kind"]][request.path_params["number"]]["roles"] = [{"id": n} for n in roles]
        return JSONResponse({})

    async def _delete_object(self, request: Request) -> Response:
        kind, number = request.path_params["kind"], request.path_params["number"]
        if kind == "database" and any(d["database"]["id"] == number for d in self.objects["dataset"].values()):
            return JSONResponse({"message": "Cannot delete a database that has datasets attached"}, 422)
        if kind == "dataset":
            for rule in self.rules.values():
                rule["tables"] = [table for table in rule["tables"] if table != number]
        return _gone(self.objects[kind].pop(number, None))


async def _read_form(request: Request) -> dict[str, bytes]:
    head = f"Content-Type: {request.headers['content-type']}\r\n\r\n".encode()
    parts = BytesParser(policy=HTTP).parsebytes(head + await request.body()).iter_parts()
    names = "content-disposition"
    return {str(part.get_param("name", header=names)): bytes(part.get_payload(decode=True)) for part in parts}


def _page(request: Request, rows: list[Row]) -> Response:
    """A page of the rows that meet the condition, never more than a hundred."""
    query = request.query_params["q"]
    for column, value in _CONDITION.findall(query):
        rows = [row for row in rows if str(row[column]) == re.sub(r"!(.)", r"\1", value)]
    page, size = (int(re.search(rf"\b{name}:(\d+)", query)[1]) for name in ("page", "page_size"))  # type: ignore[index]
    size = min(size, 100)
    shown = [
        {
            name: row[name]
            for name in row
            if name in ("id", "uuid", "name", "schema", "database", "permission", "view_menu")
        }
        for row in rows[page * size : (page + 1) * size]
    ]
    return JSONResponse({"count": len(rows), "result": shown})


def _gone(removed: object) -> Response:
    return JSONResponse({"message": "OK"} if removed else {"message": "Not found"}, 200 if removed else 404)
