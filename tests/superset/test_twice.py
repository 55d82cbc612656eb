"""Installing and removing again and again, with the tests that hold for our own small Superset too."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from pydantic import SecretStr

from sink.clickhouse.address import Address
from sink.dashboards.site import Site as Described
from sink.dashboards.site import describe_site
from sink.dashboards.superset_address import SupersetAddress
from sink.dashboards.superset_api import Superset
from sink.settings import load_settings
from tests.superset import stack
from tests.superset.conftest import Site
from tests.support import served
from tests.support.dashboards_contract import DashboardsContract


@pytest.fixture
def superset(site: Site) -> Iterator[Superset]:
    """The client under test."""
    user, password = stack.ADMIN
    with Superset(SupersetAddress(site.url, user, SecretStr(password))) as superset:
        yield superset


@pytest.fixture
def described(site: Site) -> Described:
    """The dashboards of the site."""
    address = Address(
        site.environment["ASPECTS_CLICKHOUSE_URL"], password=served.PASSWORD, databases=load_settings().databases
    )
    return describe_site(address, url=None, user=None, password=None, language="en")


class TestRealSuperset(DashboardsContract):
    """What our own small Superset was written after."""
