"""The log names whoever is not retired yet, and only them."""

from __future__ import annotations

import pytest

from sink.doors.outcomes import log_outcomes
from sink.retirement.outcomes import Outcome


def test_only_open_retirements_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    assert log_outcomes([])
    assert log_outcomes([Outcome("7", "erased")])
    assert caplog.text == ""
    assert not log_outcomes([Outcome("7", "erased"), Outcome("8", "failed", reason="ClickHouse is away")])
    assert [record.getMessage() for record in caplog.records] == ["Subject 8: not retired yet: ClickHouse is away"]
