"""Takes the pictures of docs/privacy-page.md, with invented people: `python -m tests.support.privacy_pictures docs/images`."""

from __future__ import annotations

import os
import sys
import tempfile
import uuid
from pathlib import Path
from typing import Any

from sink.clickhouse.migrations import migrate
from sink.doors.web.app import serving
from sink.installation import open_store
from sink.retirement.retire import retire
from sink.settings import Settings, load_settings
from sink.store import Store
from tests.support.browser import chromium
from tests.support.privacy_page import TOKEN

_WIDTH = 1100


def fill(store: Store) -> None:
    """People who were never there, some of whom want to be forgotten."""
    people = [
        (11, "marisol_vega", "Marisol Vega", "marisol@example.org"),
        (12, "mvega88", "Mariano Vega Ruiz", "m.vega@example.org"),
        (13, "tomek", "Tomasz Nowak", "tomek@example.org"),
        (14, "ifeoma", "Ifeoma Okafor", "ifeoma@example.org"),
    ]
    profile = ["user_id", "username", "name", "email"]
    store.client.insert(store.client.table("event_sink.user_profile"), profile, people)
    ids = [(user, name, uuid.uuid5(uuid.NAMESPACE_URL, name), "xapi") for user, name, _, _ in people]
    columns = ["user_id", "username", "external_user_id", "external_id_type"]
    store.client.insert(store.client.table("event_sink.external_id"), columns, ids)
    roles = [(13, "tomek", "Org", "course-v1:Org+C1+2026", "staff")]
    columns = ["user_id", "username", "org", "course_key", "role"]
    store.client.insert(store.client.table("event_sink.course_access"), columns, roles)
    retire(store, [14], actor="17")
    store.ledger.request([12], "17")


def take(settings: Settings, folder: Path) -> None:
    """One picture a page."""
    with serving(settings) as url, chromium() as browser:
        tab = browser.new_page(viewport={"width": _WIDTH, "height": 400})
        tab.goto(f"{url}/privacy")
        tab.fill("#token", TOKEN)
        tab.press("#token", "Enter")
        tab.wait_for_url("**/privacy/")
        _save(tab, folder / "privacy-page-requests.png")
        tab.goto(f"{url}/privacy/find")
        tab.fill("#texts", "vega\nTOMASZ NOWAK\nnobody of this name")
        tab.check("#prefix")
        tab.check("#show")
        with tab.expect_navigation():
            tab.click("main form button")
        _save(tab, folder / "privacy-page-find.png")
        tab.goto(f"{url}/privacy/retire")
        tab.fill("#user_id", "13")
        with tab.expect_navigation():
            tab.click("main form button")
        _save(tab, folder / "privacy-page-retire.png")


def _save(tab: Any, path: Path) -> None:
    tab.screenshot(path=path, full_page=True, scale="css")


def main(folder: Path) -> None:
    """Take them all."""
    with tempfile.TemporaryDirectory() as temporary:
        os.chdir(temporary)
        settings = load_settings(
            clickhouse_url=f"chdb://{temporary}/aspects-pii-data",
            receipts_dir=Path(temporary) / "receipts",
            privacy_page=True,
            privacy_token=TOKEN,
            institution="University of Example",
            web_sweep=False,
        )
        with open_store(settings, creates=True) as store:
            migrate(store.client)
            fill(store)
        take(settings, folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
