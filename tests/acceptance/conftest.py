"""Installations for the tests of this folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.installation import Installation


@pytest.fixture
def make_installation(tmp_path: Path) -> Callable[[str], Installation]:
    """Make an empty installation with PII on and the engine in process, of that name; all share one LMS."""

    def make(name: str) -> Installation:
        made = Installation(tmp_path / name)
        for folder in ("home", "temporary", "work", "receipts", "said"):
            (made.left_behind / folder).mkdir(parents=True)
        made.settings |= {
            "ENABLE_PII": "true",
            "CLICKHOUSE_URL": f"chdb://{made.data}",
            "RECEIPTS_DIR": str(made.left_behind / "receipts"),
            "PSEUDONYM_SECRET": "a secret of the tests",
            "LMS_DATABASE_URL": f"sqlite:///{tmp_path}/lms.sqlite3",
        }
        return made

    return make


@pytest.fixture
def installation(make_installation: Callable[[str], Installation]) -> Installation:
    """One such installation."""
    return make_installation("installation")
