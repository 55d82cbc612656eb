"""The page for the data protection officer in a browser: for screen readers, by keyboard, on paper, and without scripts."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sink.doors.web.app import serving
from sink.installation import open_store
from sink.retirement.retire import retire
from sink.settings import Settings, load_settings
from sink.store import Store
from tests.support.browser import chromium
from tests.support.privacy_page import ADDRESS, ANA, BOB, PAGES, TOKEN, fill

# Of Playwright's own event loop.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def page_settings(settings: Settings) -> Settings:
    """With the page, on the engine in process."""
    changes = {"privacy_page": True, "privacy_token": TOKEN, "institution": "University of Example"}
    return load_settings(**dict(settings) | changes)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(clickhouse_url=f"chdb://{tmp_path}/clickhouse", receipts_dir=tmp_path / "receipts")


@pytest.fixture
def filled(page_settings: Settings, migrated: Callable[[Path], None], tmp_path: Path) -> Iterator[Store]:
    migrated(tmp_path / "clickhouse")
    with open_store(page_settings) as store:
        fill(store)
        yield store


@contextmanager
def opened(browser: Any, url: str, **options: Any) -> Iterator[Any]:
    """A tab of a browser of its own, at the sign-in form."""
    context = browser.new_context(accept_downloads=True, **options)
    tab = context.new_page()
    assert tab.goto(f"{url}/privacy").status == 200
    assert tab.url == f"{url}/privacy/sign-in"
    yield tab
    context.close()


def sign_in(tab: Any) -> None:
    tab.fill("#token", TOKEN)
    tab.press("#token", "Enter")
    tab.wait_for_url("**/privacy/")


def fill_in(tab: Any, path: str, **fields: str) -> None:
    """Open a page, fill in its form, and send it."""
    tab.goto(f"{tab.url.partition('/privacy')[0]}/privacy{path}")
    for name, value in fields.items():
        tab.fill(f"#{name}", value)
    with tab.expect_navigation():
        tab.click("main form button")


def test_nothing_is_in_the_way_of_anybody(browser: Any, page_settings: Settings, filled: Store) -> None:
    from axe_playwright_python.sync_playwright import Axe

    retire(filled, [ANA])
    filled.ledger.request([BOB])
    (retirement,), (waiting,) = filled.ledger.find([ANA]), filled.ledger.find([BOB])
    filled.client.execute("INSERT INTO $event_sink.user_profile (user_id, name) VALUES (7, 'Zoe Canary-Ibex')")
    settings = load_settings(**dict(page_settings) | {"web_sweep": False})

    def look(tab: Any, what: str) -> None:
        found = Axe().run(tab).response
        assert [(what, violation["id"]) for violation in found["violations"]] == []
        assert len(found["passes"]) > 15
        # On a narrow screen the page itself does not scroll to the side.
        tab.set_viewport_size({"width": 400, "height": 800})
        assert tab.evaluate("document.documentElement.scrollWidth") <= 400, what
        tab.set_viewport_size({"width": 1280, "height": 720})

    with serving(settings) as url:
        for locale in ("en-GB", "es-ES"):
            # axe is a script, and the policy of the page lets none run.
            with opened(browser, url, bypass_csp=True, locale=locale) as tab:
                look(tab, "sign in")
                fill_in(tab, "/sign-in", token="a wrong token")
                look(tab, "wrong token")
                sign_in(tab)
                assert tab.get_attribute("html", "lang") == locale[:2]
                details = [f"/requests/{r.request}" for r in (retirement, waiting)]
                for path in (*PAGES, *details, f"/receipts/{retirement.request}", "/nowhere"):
                    tab.goto(f"{url}/privacy{path}")
                    look(tab, path)
                fill_in(tab, "/find", texts=f"zoe canary-ibex\n{ADDRESS}")
                look(tab, "found")
                fill_in(tab, "/find", texts=" ")
                look(tab, "nothing given")
                fill_in(tab, "/export", user_id="nobody")
                look(tab, "no package")
                fill_in(tab, "/receipts", receipt="{}")
                look(tab, "no receipt")
                fill_in(tab, "/retire", user_id="7")
                look(tab, "preview")
                tab.fill("#typed", "8")
                with tab.expect_navigation():
                    tab.click("main form button")
                look(tab, "wrong id")
    assert [entry.action for entry in filled.ledger.show() if entry.subject == "7"] == []


def test_a_retirement_by_keyboard_alone_and_without_scripts(
    browser: Any, page_settings: Settings, filled: Store, tmp_path: Path
) -> None:
    said: list[str] = []

    def tab_to(tab: Any, selector: str) -> None:
        """Press the tabulator until something has the focus, which has to be seen."""
        for _ in range(40):
            tab.keyboard.press("Tab")
            if tab.locator(f"{selector}:focus").count():
                return
        raise AssertionError(f"{selector} cannot be reached")

    with serving(page_settings) as url, opened(browser, url, java_script_enabled=False) as tab:
        tab.on("console", lambda message: said.append(message.text))
        tab_to(tab, "#token")
        tab.keyboard.type(TOKEN)
        tab.keyboard.press("Enter")
        tab.wait_for_url("**/privacy/")
        # The first thing is a way past the menu.
        tab.keyboard.press("Tab")
        assert tab.locator("a.skip:focus").count() == 1
        tab_to(tab, "nav a[href='/privacy/retire']")
        tab.keyboard.press("Enter")
        tab.wait_for_url("**/privacy/retire")
        tab_to(tab, "#user_id")
        tab.keyboard.type(str(ANA))
        tab.keyboard.press("Enter")
        tab.wait_for_url("**/privacy/retire/preview")
        tab_to(tab, "#typed")
        tab.keyboard.type(str(BOB))
        tab.keyboard.press("Enter")
        tab.wait_for_selector("[role=alert]")
        assert filled.ledger.show() == []
        assert tab.title().startswith("Error:")
        tab_to(tab, "#typed")
        tab.keyboard.type(str(ANA))
        tab_to(tab, "main form button")
        tab.keyboard.press("Enter")
        tab.wait_for_url(re.compile("/privacy/requests/[0-9a-f-]{36}$"))
        for _ in range(240):
            if tab.locator("main dd:text-is('erased and proved')").count():
                break
            tab.wait_for_timeout(500)
            tab.reload()
        tab_to(tab, "main a[href^='/privacy/receipts/']")
        tab.keyboard.press("Enter")
        tab.wait_for_url("**/privacy/receipts/*")
        assert "This receipt is genuine." in tab.inner_text("main")

        tab_to(tab, "header button")
        tab.keyboard.press("Enter")
        tab.wait_for_url("**/privacy/sign-in")
        tab.go_back()
        # What was shown is not in the browser's memory either.
        tab.wait_for_url("**/privacy/sign-in")
    assert [problem for problem in said if "Content Security Policy" in problem] == []
    assert [r.state for r in filled.ledger.find([ANA])] == ["erased"]


def test_a_receipt_is_printed_without_what_is_for_the_screen(
    browser: Any, page_settings: Settings, filled: Store
) -> None:
    retire(filled, [ANA])
    (retirement,) = filled.ledger.find([ANA])
    with serving(page_settings) as url, opened(browser, url) as tab:
        sign_in(tab)
        tab.goto(f"{url}/privacy/receipts/{retirement.request}")
        for media, is_shown in (("screen", True), ("print", False)):
            tab.emulate_media(media=media)
            assert tab.is_visible("header") is is_shown
            assert tab.is_visible("[role=status]") is is_shown
            assert tab.is_visible("h1")
            assert tab.is_visible("text=What this receipt does not cover")
        assert tab.pdf(format="A4").startswith(b"%PDF")
        with tab.expect_download() as saved:
            tab.emulate_media(media="screen")
            tab.click("text=Save the receipt as a file")
        assert json.loads(saved.value.path().read_text())["subject"] == str(ANA)


def test_a_package_comes_as_a_file_with_texts_that_name_the_user(
    browser: Any, page_settings: Settings, filled: Store
) -> None:
    filled.client.execute(
        "INSERT INTO $event_sink.user_profile (user_id, bio) VALUES (8, {bio:String})", bio=f"ask {ADDRESS}"
    )
    with serving(page_settings) as url, opened(browser, url) as tab:
        sign_in(tab)
        tab.goto(f"{url}/privacy/export")
        tab.fill("#user_id", str(ANA))
        with tab.expect_download() as download:
            tab.click("main form button")
        assert download.value.suggested_filename == "subject-5.zip"
        with zipfile.ZipFile(download.value.path()) as package:
            manifest = json.loads(package.read("manifest.json"))
        # The form stays, and the address says nothing.
        assert tab.url == f"{url}/privacy/export"
    assert manifest["subject"] == str(ANA)
    named = manifest["not_included"]["rows_of_others_that_name_the_subject"]
    assert list(named.values()) == [1]
    (entry,) = filled.ledger.show(action="exported")
    assert entry.actor == "service:privacy-page"
