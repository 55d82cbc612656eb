"""Takes pictures of dashboards in Chromium, as one user. Runs in Superset's environment, which has the driver.

Standard input has JSON: url, user, password, language, browser, and pictures, each with the address of a dashboard and
the file to write. Standard output gets JSON: for each picture what the browser complained about.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, expect, sync_playwright

WIDTH = 1440
PATIENCE = 300_000
# Where the last chart ends.
CHART = ".dashboard-component-chart-holder"
END = f"Math.max(...[...document.querySelectorAll('{CHART}')].map(e => e.getBoundingClientRect().bottom))"
MARGIN = 40
# Charts that are still waiting for data, or for their turn.
BUSY = ".loading, .slice_container.is-loading, [data-test='loading-indicator'], .ant-spin-spinning"


def main() -> None:
    """Log in and take the pictures."""
    order = json.load(sys.stdin)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=order["browser"], args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": 1000}, locale=order["language"])
        page.set_default_timeout(PATIENCE)
        # Fonts and pixels from elsewhere: there may be no elsewhere, and a page waits for them.
        page.route(lambda url: not url.startswith((order["url"], "data:", "blob:")), lambda route: route.abort())
        log_in(page, order)
        complaints = [
            take(page, order["url"] + picture["path"], Path(picture["file"])) for picture in order["pictures"]
        ]
        browser.close()
    json.dump(complaints, sys.stdout)


def log_in(page: Page, order: dict[str, Any]) -> None:
    """Log in as people do."""
    page.goto(f"{order['url']}/login/", wait_until="domcontentloaded")
    page.fill("input[name='username'], [data-test='username-input']", order["user"])
    page.fill("input[name='password'], [data-test='password-input']", order["password"])
    page.click("button[type='submit'], [data-test='login-button']")
    page.wait_for_url(lambda url: "/login" not in url, wait_until="commit")
    page.goto(f"{order['url']}/lang/{order['language']}", wait_until="commit")


def take(page: Page, url: str, file: Path) -> list[str]:
    """Wait until every chart is there, take the picture, and return what went wrong."""
    failed: list[str] = []

    def note(response: Any) -> None:
        if response.status >= 400 and "/api/" in response.url:
            failed.append(f"{response.status} {response.request.method} {response.url.split('?')[0]}")

    page.on("response", note)
    page.goto(url, wait_until="domcontentloaded")
    page.wait_for_selector(".dashboard-grid, [data-test='grid-container']")
    page.wait_for_selector(CHART)
    # The grid scrolls inside of the page: as tall as it is, it shows everything and draws what it would put off.
    for _ in range(3):
        page.set_viewport_size({"width": WIDTH, "height": int(page.evaluate(END)) + MARGIN})
        page.wait_for_timeout(1_500)
        expect(page.locator(BUSY)).to_have_count(0, timeout=PATIENCE)
    file.parent.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=str(file))
    errors = page.locator(".ant-alert-error, [data-test='error-message'], [role='alert'] .error").all_inner_texts()
    toasts = page.locator("[data-test='toast-container'] .toast--danger").all_inner_texts()
    page.remove_listener("response", note)
    return sorted({*failed, *errors, *toasts})


if __name__ == "__main__":
    main()
