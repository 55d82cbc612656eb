"""Installing and removing again and again, with the tests that hold for our own small Superset too."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from pydantic import SecretStr

from sink.client import Address
from sink.dashboards import Site as Described
from sink.dashboards import describe_site
from sink.settings import load_settings
from sink.superset import Superset, SupersetAddress
from tests.integration.dashboards_contract import DashboardsContract
from tests.superset import stack
from tests.superset.conftest import COURSE_STAFF, Site


@pytest.fixture
def superset(site: Site) -> Iterator[Superset]:
    """The client under test."""
    user, password = stack.ADMIN
    with Superset(SupersetAddress(site.url, user, SecretStr(password))) as superset:
        yield superset


@pytest.fixture
def described(site: Site) -> Described:
    """The dashboards of the site."""
    address = Address(site.environment["ASPECTS_CLICKHOUSE_URL"], databases=load_settings().databases)
    return describe_site(address, url=None, user=None, password=None, language="en")


class TestRealSuperset(DashboardsContract):
    """What our own small Superset was written after."""


def test_without_templates_nothing_is_installed_and_nothing_is_shown(site: Site) -> None:
    site.succeed("dashboards", "install")
    site.add_user("somebody", COURSE_STAFF)
    with site.server.running(WITHOUT_TEMPLATES="1") as url:
        ran = site.run("dashboards", "install", SUPERSET_URL=url)
        assert ran.status == 1
        assert "ENABLE_TEMPLATE_PROCESSING" in ran.err
        with site.log_in("somebody", url) as viewer:
            answer = viewer.ask(site.find("dataset")["aspects_pii_learner_progress"], {"columns": ["course_key"]})
        assert answer.status_code in (400, 422, 500)
    site.succeed("dashboards", "remove")
