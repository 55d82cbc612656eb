"""Signs of life: who gives them, when one is overdue, and what a health check is told."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from sink.doors import heartbeat
from sink.doors.events.consumer import Consumer
from sink.doors.events.work import Message
from sink.doors.heartbeat import Heartbeat, check
from sink.doors.worker.celery_fixes import PrefetchWatch
from sink.errors import HeartbeatError, SettingsError, StreamsUnreachableError, UsageError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "signs" / "of life"


def set_back(folder: Path, name: str, seconds: float) -> None:
    """Make the last sign older."""
    sign = json.loads((folder / name).read_text())
    earlier = datetime.fromisoformat(sign["at"]) - timedelta(seconds=seconds)
    (folder / name).write_text(json.dumps(sign | {"at": earlier.isoformat()}))


def test_a_sign_counts_until_the_next_one_is_due(folder: Path) -> None:
    signs = Heartbeat(folder, "worker")
    with pytest.raises(HeartbeatError, match="has given no sign of life"):
        check(folder, "worker")
    signs.beat()
    assert check(folder, "worker") >= timedelta(0)
    set_back(folder, "worker", heartbeat.IDLE_SECONDS + 1)
    with pytest.raises(HeartbeatError, match=r"31 s old; one was due within 30 s"):
        check(folder, "worker")
    signs.beat()
    check(folder, "worker")
    # A clock that was put back by a day says nothing about now.
    set_back(folder, "worker", -86_400)
    with pytest.raises(HeartbeatError):
        check(folder, "worker")
    with pytest.raises(HeartbeatError, match="consumer"):
        check(folder, "consumer")


def test_work_may_take_longer_than_waiting(folder: Path) -> None:
    signs = Heartbeat(folder, "consumer")
    with signs.working():
        set_back(folder, "consumer", heartbeat.IDLE_SECONDS + 1)
        check(folder, "consumer")
        set_back(folder, "consumer", heartbeat.BUSY_SECONDS)
        with pytest.raises(HeartbeatError):
            check(folder, "consumer")
    with pytest.raises(ZeroDivisionError), signs.working():
        raise ZeroDivisionError
    # However the work ended, from now on signs are due soon again.
    set_back(folder, "consumer", heartbeat.IDLE_SECONDS + 1)
    with pytest.raises(HeartbeatError):
        check(folder, "consumer")


def test_a_sign_of_the_process_before_does_not_count(folder: Path) -> None:
    Heartbeat(folder, "worker").beat()
    Heartbeat(folder, "worker")
    with pytest.raises(HeartbeatError):
        check(folder, "worker")


def test_heartbeat_without_a_folder_writes_nothing(tmp_path: Path) -> None:
    signs = Heartbeat(None, "worker")
    signs.beat()
    with signs.working():
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match=r"ASPECTS_HEARTBEAT_DIR is not valid: .*file"):
        Heartbeat(tmp_path / "file", "worker")
    with pytest.raises(SettingsError, match="ASPECTS_HEARTBEAT_DIR is not set"):
        check(None, "worker")
    with pytest.raises(UsageError, match="worker and consumer"):
        check(tmp_path, "../worker")


@pytest.mark.parametrize(
    "content",
    [
        *("", "{}", "[]", "null", '{"at": "now", "within_seconds": 30}'),
        *(
            '{"at": "2026-01-01T00:00:00", "within_seconds": 30}',
            '{"at": "2026-01-01T00:00:00Z", "within_seconds": null}',
        ),
    ],
)
def test_file_that_is_no_sign_does_not_count(folder: Path, content: str) -> None:
    Heartbeat(folder, "worker").beat()
    (folder / "worker").write_text(content)
    with pytest.raises(HeartbeatError, match="cannot be read"):
        check(folder, "worker")


def test_a_sign_that_cannot_be_written_stops_nothing(folder: Path) -> None:
    signs = Heartbeat(folder, "worker")
    folder.rmdir()
    signs.beat()
    assert not folder.exists()


def test_the_command_tells_by_its_exit_status(aspects_pii: Callable[..., Any], folder: Path) -> None:
    assert aspects_pii("heartbeat", "worker").status == 2
    signs = {"HEARTBEAT_DIR": str(folder)}
    assert aspects_pii("heartbeat", "worker", **signs).status == 1
    Heartbeat(folder, "worker").beat()
    ran = aspects_pii("heartbeat", "worker", "--json", **signs)
    assert (ran.status, ran.json["name"]) == (0, "worker")
    assert "sign of life" in aspects_pii("heartbeat", "worker", **signs).out
    set_back(folder, "worker", 3_600)
    ran = aspects_pii("heartbeat", "worker", **signs)
    assert (ran.status, ran.out) == (1, "")
    assert "one was due within 30 s" in ran.err
    assert aspects_pii("heartbeat", "hook", **signs).status == 2


class Channel:
    """A broker's channel, as far as the watch looks at it."""

    def __init__(self, *, fetches: bool) -> None:
        self.qos = self
        self.can_consume = lambda: fetches


class FakeConsumer:
    """A worker's consumer, the same."""

    connection_errors = (ConnectionError,)

    def __init__(self, *, fetches: bool) -> None:
        self.task_consumer = self
        self.channel = Channel(fetches=fetches)


def test_a_worker_that_no_longer_fetches_gives_no_sign() -> None:
    given: list[int] = []
    watch = PrefetchWatch(FakeConsumer(fetches=True), report_alive=lambda: given.append(1))
    watch._check(FakeConsumer(fetches=True))
    assert given == [1]
    with pytest.raises(ConnectionError):
        watch._check(FakeConsumer(fetches=False))
    assert given == [1]
    PrefetchWatch(FakeConsumer(fetches=True))._check(FakeConsumer(fetches=True))


class Streams:
    """Streams of which reads can fail, and which end the test when they were read often enough."""

    def __init__(self, stop: threading.Event, answers: list[Any]) -> None:
        self._stop, self._answers = stop, answers

    def prepare(self) -> None: ...

    def acknowledge(self, messages: list[Message]) -> None: ...

    def read_unfinished(self, count: int) -> Iterator[list[Message]]:
        return iter(())

    def claim(self, idle: float, count: int) -> Iterator[list[Message]]:
        return iter(())

    def read_new(self, count: int, wait: float) -> list[Message]:
        answer = self._answers.pop(0)
        if not self._answers:
            self._stop.set()
        if isinstance(answer, Exception):
            self._stop.set()
            raise answer
        return list(answer)


class Actions:
    """Nothing is open, and nobody is retired or copied."""

    enabled = True
    request = reassign = sync = None

    def sweep(self) -> bool:
        return True


def test_a_consumer_gives_signs_when_it_reads_and_none_when_it_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    signs: list[Any] = []
    monkeypatch.setattr(
        Heartbeat, "beat", lambda _, within_seconds=heartbeat.IDLE_SECONDS: signs.append(within_seconds)
    )

    def consume(*answers: Any) -> list[Any]:
        signs.clear()
        stop = threading.Event()
        streams: Any = Streams(stop, list(answers))
        actions: Any = Actions()
        Consumer(streams, {"s": lambda _: signs.append("decoded")}, actions).run(stop)
        return list(signs)

    sweep_at_start = [heartbeat.BUSY_SECONDS, heartbeat.IDLE_SECONDS]
    read = heartbeat.IDLE_SECONDS
    batch = [heartbeat.BUSY_SECONDS, "decoded", heartbeat.IDLE_SECONDS]
    assert consume([], [Message("s", "1-0", {b"event": b"{}"})], []) == [*sweep_at_start, read, read, *batch, read]
    assert consume(StreamsUnreachableError("Redis cannot be reached")) == sweep_at_start


def test_a_link_of_somebody_else_is_not_written_through(folder: Path, tmp_path: Path) -> None:
    """The folder may be one of `/tmp`, which others have made first."""
    theirs = tmp_path / "theirs"
    theirs.write_text("as it was")
    signs = Heartbeat(folder, "worker")
    for name in ("worker.new", "worker"):
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(theirs)
    signs.beat()
    assert theirs.read_text() == "as it was"
    check(folder, "worker")
    assert (folder / "worker").stat().st_mode & 0o777 == 0o600


def test_a_pipe_in_the_place_of_a_sign_is_not_waited_for(folder: Path) -> None:
    Heartbeat(folder, "worker")
    os.mkfifo(folder / "worker")
    with pytest.raises(HeartbeatError, match="cannot be read"):
        check(folder, "worker")
