"""What the tests of the HTTP doors share: an engine behind ClickHouse's protocol, and a store of each test's own on it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from sink.clickhouse.migrations import migrate
from sink.installation import open_store
from sink.settings import Settings, load_settings
from sink.store import Store
from tests.support import served


@pytest.fixture(scope="module")
def clickhouse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with served.serving(tmp_path_factory.mktemp("web") / "clickhouse") as url:
        yield url


@pytest.fixture
def settings(clickhouse: str, tmp_path: Path, request: pytest.FixtureRequest) -> Settings:
    """A store of the test's own on the shared engine."""
    name = re.sub(r"\W", "_", request.node.name)[:60]
    return load_settings(
        clickhouse_url=clickhouse,
        clickhouse_retries=0,
        event_sink_database=f"{name}_sink",
        xapi_database=f"{name}_xapi",
        reporting_database=f"{name}_reporting",
        ledger_database=f"{name}_ledger",
        receipts_dir=tmp_path / "receipts",
        web_sweep=False,
    )


@pytest.fixture
def store(settings: Settings) -> Iterator[Store]:
    with open_store(settings, creates=True) as store:
        migrate(store.client)
        yield store
