"""What takes long says how far it has got: each command its stages, and each stage to its end."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from sink.datasets.dbt_log import DbtResult
from sink.doors.cli.display import Progress
from sink.progress import listening
from tests.support.lms_writer import LmsWriter

Command = Callable[..., Any]
Told = list[tuple[str, int, int, str]]


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    heard: Told = []
    monkeypatch.setattr(Progress, "update", lambda _, *said: heard.append(said))
    return heard


def find_ended(told: Told) -> set[str]:
    """The stages that were told of, all of which have come to their end."""
    last = {stage: (done, total) for stage, done, total, _ in told}
    assert all(done == total for done, total in last.values()), last
    told.clear()
    return set(last)


def test_each_long_work_tells_its_stages(
    stored: Command, told: Told, lms: LmsWriter, lms_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ASPECTS_LMS_DATABASE_URL", lms_url)
    assert stored("sync", ENABLE_PII="true").status == 0
    assert find_ended(told) == {"user_profile", "external_id", "course_access"}
    assert stored("retire", "1", "2", "--scan").status == 0
    assert find_ended(told) == {"retiring", "erasing", "verifying", "searching"}
    assert stored("verify").status == 0
    assert find_ended(told) == {"verifying"}
    assert stored("replay").status == 0
    assert find_ended(told) == {"looking again"}
    assert stored("purge", "--yes").status == 0
    assert find_ended(told) == {"emptying"}


def test_a_build_tells_how_many_datasets_are_done() -> None:
    heard: Told = []
    event = {
        "info": {"name": "LogModelResult", "msg": "3 of 57 OK created", "level": "info"},
        "data": {"index": 3, "total": 57, "node_info": {"node_name": "x", "node_status": "success"}},
    }
    with listening(lambda *said: heard.append(said)):
        DbtResult().read_event(json.dumps(event), lambda _: None)
    assert heard == [("build", 3, 57, "datasets and tests")]
