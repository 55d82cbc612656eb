"""Somebody who uses Superset's API with an account of their own, as the browser does for them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

import httpx

Rows = list[dict[str, Any]]


class Viewer:
    """One user, logged in."""

    def __init__(self, url: str, user: str, password: str) -> None:
        """Log in."""
        self.http = httpx.Client(base_url=url, timeout=300, trust_env=False, headers={"Referer": f"{url}/"})
        credentials = {"username": user, "password": password, "provider": "db", "refresh": False}
        answer = self.http.post("/api/v1/security/login", json=credentials)
        assert answer.status_code == 200, f"logging in: {answer.status_code}"
        self.http.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"
        token = self.http.get("/api/v1/security/csrf_token/")
        # Who has no role at all gets none.
        if token.status_code == 200:
            self.http.headers["X-CSRFToken"] = token.json()["result"]

    def __enter__(self) -> Viewer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.http.close()

    def get(self, path: str, **query: Any) -> httpx.Response:
        """GET, with a condition in Superset's notation under `q`."""
        return self.http.get(path, params=query)

    def list(self, kind: str) -> Rows:
        """Everything of a kind that this user may see, up to a hundred."""
        answer = self.get(f"/api/v1/{kind}/", q="(page:0,page_size:100)")
        assert answer.status_code == 200, f"listing {kind}: {answer.status_code}"
        return list(answer.json()["result"])

    def ask_chart(self, chart: int) -> Rows:
        """The rows that a chart shows this user."""
        answer = self.get(f"/api/v1/chart/{chart}/data/")
        assert answer.status_code == 200, f"chart {chart}: {answer.status_code} {answer.text[:500]}"
        return read_rows(answer)

    def ask(self, dataset: int, query: Mapping[str, Any]) -> httpx.Response:
        """Any query at all of a dataset."""
        body = {
            "datasource": {"id": dataset, "type": "table"},
            "queries": [{"row_limit": 50_000, **query}],
            "result_format": "json",
            "result_type": "full",
        }
        return self.http.post("/api/v1/chart/data", json=body)


def read_rows(answer: httpx.Response) -> Rows:
    """The rows of an answer with data, of all its queries."""
    return [row for result in answer.json()["result"] for row in result.get("data") or []]


def create_user(admin: Viewer, name: str, password: str, roles: Sequence[str]) -> None:
    """Make an account."""
    known = {role["name"]: role["id"] for role in admin.list("security/roles")}
    body = {
        "username": name,
        "password": password,
        "first_name": "Some",
        "last_name": "Body",
        "email": f"{name}@localhost",
        "active": True,
        "roles": [known[role] for role in roles],
    }
    answer = admin.http.post("/api/v1/security/users/", json=body)
    assert answer.status_code == 201, f"creating a user: {answer.status_code} {answer.text[:300]}"


def find_text(rows: Any, texts: Sequence[str]) -> list[str]:
    """Which of `texts` stand anywhere in `rows`."""
    whole = json.dumps(rows, ensure_ascii=False)
    return [text for text in texts if text in whole]
