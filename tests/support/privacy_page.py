"""The page for the data protection officer as its tests visit it: people in a store, and somebody with a token."""

from __future__ import annotations

import json
import re
import uuid
from typing import Any

import httpx

from sink.doors.web.privacy.app import COOKIE
from sink.store import Store

TOKEN = "a token for the officer"
ANA, BOB = 5, 6
NAME = "Ana Canary-Quetzal"
USERNAME = "ana_canary"
ADDRESS = "ana.canary@example.org"
EXTERNAL_ID = uuid.UUID("11111111-2222-3333-4444-555555555555")
PAGES = ("/", "/receipts", "/find", "/export", "/retire", "/record")
"""Those of the menu."""


def fill(store: Store) -> None:
    """Two people, and an event of one of them."""

    def insert(table: str, columns: tuple[str, ...], *rows: tuple[Any, ...]) -> None:
        store.client.insert(store.client.table(table), columns, rows)

    profile = ("user_id", "username", "name", "email")
    others = (BOB, "bob_ocelot", "Bob Canary-Ocelot", "bob.canary@example.org")
    insert("event_sink.user_profile", profile, (ANA, USERNAME, NAME, ADDRESS), others)
    ids = ("user_id", "username", "external_user_id", "external_id_type")
    insert("event_sink.external_id", ids, (ANA, USERNAME, EXTERNAL_ID, "xapi"))
    statement = {"actor": {"account": {"name": str(EXTERNAL_ID), "homePage": "https://lms.example.org"}}}
    insert("xapi.xapi_events_all", ("event_id", "event"), (uuid.uuid4(), json.dumps(statement)))


class Visitor:
    """Somebody with a browser that keeps cookies and fills in forms."""

    def __init__(self, url: str, language: str = "en") -> None:
        # Nobody has to close what no connection is kept in.
        headers = {"Accept-Language": language, "Connection": "close"}
        self.client = httpx.Client(base_url=url, headers=headers, timeout=120)
        self.addresses: list[str] = []
        """Every address that was asked for."""

    def get(self, path: str) -> httpx.Response:
        """Ask for a page."""
        return self._keep(self.client.get(f"/privacy{path}"))

    def post(self, path: str, **fields: str) -> httpx.Response:
        """Send a form, with what the pages of the session have hidden in theirs."""
        fields.setdefault("form_token", self.find_form_token())
        return self._keep(self.client.post(f"/privacy{path}", data=fields))

    def follow(self, response: httpx.Response) -> httpx.Response:
        """Go where an answer leads."""
        assert response.status_code == 303, response.text
        return self._keep(self.client.get(response.headers["location"]))

    def find_form_token(self) -> str:
        """What is hidden in the forms; empty for whoever is not signed in."""
        found = re.search(r'name="form_token" value="([^"]+)"', self.client.get("/privacy/find").text)
        return found[1] if found else ""

    def sign_in(self, token: str = TOKEN) -> httpx.Response:
        """Present a token; a cookie is kept."""
        response = self.post("/sign-in", token=token)
        # httpx keeps no `Secure` cookie over HTTP, as browsers do for a server on the same host.
        if cookie := re.match(rf"{COOKIE}=([^;]+);", response.headers.get("set-cookie", "")):
            self.client.headers["Cookie"] = f"{COOKIE}={cookie[1]}"
        return response

    def _keep(self, response: httpx.Response) -> httpx.Response:
        self.addresses += [str(response.request.url), response.headers.get("location", "")]
        return response
