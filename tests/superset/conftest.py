"""A ClickHouse and a Superset for all tests of this folder, with the dashboards installed and people to look at them."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.superset import stack
from tests.superset.viewer import Rows, Viewer, create_user
from tests.superset.world import World, load_events, make_world
from tests.support import served

HERE = Path(__file__).parent
COURSE_STAFF, PRIVACY = "aspects_pii_course_staff", "aspects_pii_privacy"
OFFICER = "data_protection_officer"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Without the environment there is nothing to test against; `make test-superset` makes it."""
    for item in items:
        if HERE not in item.path.parents:
            continue
        # A chart may take seconds, and there are many.
        item.add_marker(pytest.mark.timeout(3_600))
        if not (stack.ENVIRONMENT / "bin" / "superset").exists():
            item.add_marker(pytest.mark.skip(reason=f"{stack.ENVIRONMENT} is missing: run `make test-superset`"))


@dataclass
class Site:
    """An installation with its dashboards in a Superset."""

    url: str
    world: World
    environment: dict[str, str]
    admin: Viewer
    server: stack.SupersetServer
    passwords: dict[str, str] = field(default_factory=dict)

    def run(self, *arguments: object, **changes: str) -> stack.Ran:
        """Run `aspects-pii` with the settings of this site."""
        settings = {f"ASPECTS_{name}": value for name, value in changes.items()}
        return stack.run_command({**self.environment, **settings}, *arguments)

    def succeed(self, *arguments: object, **changes: str) -> stack.Ran:
        """Run it, and see that it ends well."""
        ran = self.run(*arguments, **changes)
        assert ran.status == 0, f"{arguments}: {ran.err[-2000:]}"
        return ran

    def add_user(self, name: str, *roles: str) -> None:
        """Make an account in Superset."""
        self.passwords[name] = secrets.token_urlsafe(12)
        create_user(self.admin, name, self.passwords[name], roles)

    def log_in(self, name: str, url: str | None = None) -> Viewer:
        """Come in as somebody."""
        return Viewer(url or self.url, name, self.passwords[name])

    def find(self, kind: str, key: str = "id") -> dict[str, Any]:
        """What there is of a kind, by its name or title."""
        name = {"chart": "slice_name", "dashboard": "dashboard_title", "dataset": "table_name"}.get(kind, "name")
        return {row[name]: row[key] for row in self.admin.list(kind)}

    def ask_every_chart(self, viewer: Viewer) -> Mapping[str, Rows]:
        """What each chart that somebody can see shows them."""
        return {chart["slice_name"]: viewer.ask_chart(chart["id"]) for chart in viewer.list("chart")}


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The site with PII on, and an account in Superset for everybody who looks."""
    folder = tmp_path_factory.mktemp("site")
    # The databases of the site hold people by design; see the canaries in the conftest above.
    world = make_world(folder)
    with ExitStack() as running:
        clickhouse = running.enter_context(stack.serve_clickhouse(folder / "clickhouse"))
        environment = {
            "ASPECTS_CLICKHOUSE_URL": clickhouse,
            **served.ENVIRONMENT,
            "ASPECTS_LMS_DATABASE_URL": world.lms_url,
            "ASPECTS_ENABLE_PII": "true",
            "ASPECTS_RECEIPTS_DIR": str(folder / "receipts"),
            "ASPECTS_PSEUDONYM_SECRET": "a secret of the tests",
        }
        for command in (["init"], ["sync"], ["build", "--quiet"]):
            ran = stack.run_command(environment, *command)
            assert ran.status == 0, ran.err[-2000:]
            if command == ["init"]:
                load_events(world, clickhouse)
        server = stack.SupersetServer(folder / "superset")
        url = running.enter_context(server.running())
        user, password = stack.ADMIN
        environment |= {
            "ASPECTS_SUPERSET_URL": url,
            "ASPECTS_SUPERSET_USER": user,
            "ASPECTS_SUPERSET_PASSWORD": password,
        }
        site = Site(url, world, environment, running.enter_context(Viewer(url, user, password)), server)
        site.succeed("dashboards", "install")
        for user_id in (world.everywhere, world.of_a, world.of_b_and_c, world.nobody):
            site.add_user(world.username(user_id), COURSE_STAFF)
        site.add_user(OFFICER, PRIVACY)
        yield site


@pytest.fixture(scope="session")
def browser() -> str:
    """Where Chromium is."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if path := shutil.which(name):
            return path
    pytest.skip("there is no Chromium (Debian: chromium fonts-dejavu-core)")


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where pictures go: a folder that SCREENSHOTS names, or one that is thrown away."""
    named = os.environ.get("SCREENSHOTS")
    return stack.ROOT / named if named else tmp_path_factory.mktemp("pictures")
