"""An engine behind HTTP and an LMS, for the tests of a file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sink.demo_data.lms import create_lms
from tests.support.events import Lms
from tests.support.served import serving


@pytest.fixture
def clickhouse(migrated: Callable[[Path], None], tmp_path: Path) -> Iterator[str]:
    """The address of an engine with an empty store."""
    migrated(tmp_path / "clickhouse")
    with serving(tmp_path / "clickhouse") as url:
        yield url


@pytest.fixture(scope="module")
def lms(tmp_path_factory: pytest.TempPathFactory) -> Lms:
    """An LMS that nobody changes; a test that does takes a copy."""
    url = f"sqlite:///{tmp_path_factory.mktemp('lms')}/lms.db"
    return Lms(url, create_lms(url, users=200, courses=3))
