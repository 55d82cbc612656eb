"""The log names whoever is not retired yet, and only them."""

from __future__ import annotations

import pytest

from sink.doors.outcomes import log_outcomes
from sink.retirement.batch import Outcome, Result


def test_only_open_retirements_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    assert log_outcomes([])
    assert log_outcomes([Outcome("7", Result.ERASED)])
    assert caplog.text == ""
    assert not log_outcomes([Outcome("7", Result.ERASED), Outcome("8", Result.FAILED, reason="ClickHouse is away")])
    assert [record.getMessage() for record in caplog.records] == ["Subject 8: not retired yet: ClickHouse is away"]
