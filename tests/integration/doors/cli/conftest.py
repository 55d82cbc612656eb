"""What the commands' tests begin with: a small LMS, and a store with a few people."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.lms_writer import LmsWriter
from tests.support.profiles import make_store_of
from tests.support.small_lms import make_small_lms


@pytest.fixture
def lms_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/lms.sqlite3"


@pytest.fixture
def lms(lms_url: str) -> LmsWriter:
    """Users 1 to 5 in an LMS."""
    return make_small_lms(lms_url)


@pytest.fixture
def stored(aspects_pii: Callable[..., Any], migrated: Callable[[Path], None]) -> Callable[..., Any]:
    """The command line, with profiles of users 1 to 5 stored."""
    make_store_of(migrated, 5)
    return aspects_pii
