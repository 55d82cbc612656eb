"""The engine that the tests of a file share, and an installation on it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.processes import Process, make_endpoint, running
from tests.support.site import Site, make_site


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """ClickHouse's protocol in a process of its own."""
    folder = tmp_path_factory.mktemp("engine")
    with running(make_endpoint(folder, folder / "clickhouse")) as process:
        yield process
        assert "anary" not in process.read_log()


@pytest.fixture
def site(endpoint: Process, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Site]:
    with make_site(tmp_path, endpoint.port, f"sqlite:///{tmp_path}/lms.sqlite3", request.module.BROKER) as site:
        yield site
