"""What the tests of the HTTP doors share: a store behind ClickHouse's protocol, of each test's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sink.installation import open_store
from sink.settings import Settings, load_settings
from sink.store import Store
from tests.support import served


@pytest.fixture
def clickhouse(migrated: Callable[[Path], None], tmp_path: Path) -> Iterator[str]:
    """The address of an engine with an empty store."""
    migrated(tmp_path / "clickhouse")
    with served.serving(tmp_path / "clickhouse") as url:
        yield url


@pytest.fixture
def settings(clickhouse: str, tmp_path: Path) -> Settings:
    return load_settings(
        clickhouse_url=clickhouse, clickhouse_retries=0, receipts_dir=tmp_path / "receipts", web_sweep=False
    )


@pytest.fixture
def store(settings: Settings) -> Iterator[Store]:
    with open_store(settings) as store:
        yield store
