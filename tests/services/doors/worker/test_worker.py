"""Real workers on a real Redis: batches, kills, a ClickHouse that comes late, and an LMS on the same broker."""

from __future__ import annotations

import base64
import json
import shutil
import signal
import socket
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from sink.clickhouse import migrations
from sink.demo_data.lms import create_lms
from sink.doors.worker.app import create_app
from sink.doors.worker.tasks import Tasks
from sink.doors.worker.waiting import COPYING, SWEEP_WANTED, WAITING, enqueue, request_sweep
from sink.errors import BusyError, RefusedError
from sink.installation import open_store
from sink.ledger import leases
from sink.settings import Settings, load_settings
from sink.store import Store
from tests.support.lms_writer import LmsWriter
from tests.support.processes import Process, make_endpoint, make_redis, make_worker, running, wait_until
from tests.support.redis_server import emptied, name_database
from tests.support.served import serving

pytestmark = pytest.mark.redis

BROKER = name_database(11)


@pytest.fixture
def broker() -> Iterator[Any]:
    """An empty database of Redis."""
    with emptied(BROKER) as client:
        yield client


@pytest.fixture
def settings(tmp_path: Path, broker: Any, migrated: Callable[[Path], None]) -> Iterator[Settings]:
    """Settings with a broker, and with ClickHouse over HTTP."""
    migrated(tmp_path / "clickhouse")
    with serving(tmp_path / "clickhouse") as url:
        yield load_settings(enable_pii=True, clickhouse_url=url, broker_url=BROKER, receipts_dir=tmp_path / "receipts")


@pytest.fixture
def store(settings: Settings) -> Iterator[Store]:
    with open_store(settings) as store:
        yield store


def describe(settings: Settings, **more: str) -> dict[str, str]:
    """The environment of a worker."""
    return {
        "ASPECTS_ENABLE_PII": "true",
        "ASPECTS_CLICKHOUSE_URL": settings.clickhouse_url,
        "ASPECTS_CLICKHOUSE_RETRIES": "0",
        "ASPECTS_BROKER_URL": BROKER,
        # Longer than a task takes on a busy machine: what takes longer is delivered, and done, again and again.
        "ASPECTS_BROKER_VISIBILITY_TIMEOUT": "10",
        "ASPECTS_RECEIPTS_DIR": str(settings.receipts_dir),
        # A sweep that finds nothing costs a tenth of a second of processor.
        "ASPECTS_SWEEP_EVERY": "2",
        **more,
    }


def add_profiles(store: Store, user_ids: range) -> None:
    columns = ("id", "user_id", "name", "username", "email", "dump_id", "time_last_dumped")
    now = store.client.value("SELECT toString(now64(6, 'UTC'))")
    rows = [(n, n, f"Name {n}", f"user{n}", f"u{n}@example.com", uuid.uuid4(), now) for n in user_ids]
    store.client.insert(store.client.table("event_sink.user_profile"), columns, rows)


def count_profiles(store: Store) -> int:
    return int(store.client.value("SELECT count() FROM $event_sink.user_profile"))


def send(settings: Settings, name: str, *arguments: Any) -> None:
    create_app(settings).tasks[f"aspects_pii.{name}"].apply_async(arguments)


def wait(condition: Callable[[], Any], worker: Process) -> None:
    """Until a condition holds."""
    wait_until(condition, lambda: worker.read_log()[-3000:])


@contextmanager
def run_worker(folder: Path, **environment: str) -> Iterator[Process]:
    """Start a worker with these settings; killed at the end."""
    with running(make_worker(folder, **environment)) as worker:
        yield worker


def is_done(store: Store, count: int) -> bool:
    return store.ledger.count_states() == {"erased": count}


def count_actions(store: Store, action: str) -> Counter[str]:
    return Counter(entry.subject for entry in store.ledger.show(action=action, limit=10_000))


def test_retirements_that_wait_are_one_batch(settings: Settings, store: Store, broker: Any, tmp_path: Path) -> None:
    add_profiles(store, range(1, 61))
    app = create_app(settings)
    for user_id in range(1, 26):
        app.tasks["aspects_pii.retire_user"].delay(user_id)
    bodies = [base64.b64decode(json.loads(message)["body"]) for message in broker.lrange("aspects_pii", 0, -1)]
    assert len(bodies) == 25
    assert sorted(json.loads(body)[0][0] for body in bodies) == list(range(1, 26))
    # Another application's, on the same database: one waiting, one taken long ago and not acknowledged.
    broker.lpush("edx.lms.core.default", "a message of the LMS")
    broker.hset("unacked", "tag", json.dumps([{"body": ""}, "", "edx.lms.core.default"]))
    broker.zadd("unacked_index", {"tag": 1.0})
    with run_worker(tmp_path, **describe(settings, ASPECTS_SWEEP_EVERY="600")) as worker:
        wait(lambda: is_done(store, 25), worker)
        # Once with the sweep at start, which may find some of them, once with the one that they ask for.
        batches = {entry.at for entry in store.ledger.show(action="erased", limit=1000)}
        assert 1 <= len(batches) <= 3
        assert worker.stop() == 0
    assert count_profiles(store) == 35
    assert broker.lrange("edx.lms.core.default", 0, -1) == [b"a message of the LMS"]
    assert broker.zrange("unacked_index", 0, -1) == [b"tag"]
    assert not [
        key for key in broker.scan_iter() if b"pidbox" in key or b"celeryev" in key or b"celery-task-meta" in key
    ]


def test_a_worker_killed_in_mid_work_loses_nothing(
    settings: Settings, store: Store, broker: Any, tmp_path: Path
) -> None:
    add_profiles(store, range(1, 121))
    send(settings, "retire_users", list(range(1, 61)))
    for user_id in range(61, 81):
        send(settings, "retire_user", user_id)
    with run_worker(tmp_path, **describe(settings)) as worker:
        # In a sweep, and with messages in its hands.
        wait(lambda: store.ledger.show(action="found", limit=1), worker)
        worker.kill()
    assert not is_done(store, 80)
    with run_worker(tmp_path, **describe(settings)) as worker:
        wait(lambda: is_done(store, 80), worker)
        assert worker.stop() == 0
    assert count_profiles(store) == 40
    assert count_actions(store, "requested") == {str(n): 1 for n in range(1, 81)}
    assert count_actions(store, "erased") == {str(n): 1 for n in range(1, 81)}
    assert len(list(settings.receipts_dir.glob("*.json"))) == 80
    assert "@example.com" not in worker.read_log()


def test_a_message_that_was_taken_and_not_recorded_comes_again(
    settings: Settings, store: Store, broker: Any, tmp_path: Path
) -> None:
    # A ClickHouse that takes the connection and never answers, so that the worker dies before it has recorded.
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        send(settings, "retire_user", 7)
        environment = describe(settings, ASPECTS_CLICKHOUSE_URL=url)
        with run_worker(tmp_path, **environment) as worker:
            wait(lambda: any(b"retire_user" in taken for taken in broker.hvals("aspects_pii.unacked")), worker)
            worker.kill()
    assert store.ledger.find([7]) == []
    with run_worker(tmp_path, **describe(settings)) as worker:
        wait(lambda: is_done(store, 1), worker)


def test_a_clickhouse_that_comes_late_is_waited_for(settings: Settings, broker: Any, tmp_path: Path) -> None:
    engine = make_endpoint(tmp_path, tmp_path / "late")
    late = settings.model_copy(update={"clickhouse_url": f"http://127.0.0.1:{engine.port}"})
    with run_worker(tmp_path, **describe(late)) as worker:
        send(late, "retire_user", 7)
        wait(lambda: "aspects_pii.retire_user" in worker.read_log() and "Retry in" in worker.read_log(), worker)
        with running(engine), open_store(late, creates=True) as store:
            migrations.migrate(store.client)
            wait(lambda: is_done(store, 1), worker)


@pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed")
def test_a_broker_that_dies_and_forgets_is_found_again(settings: Settings, store: Store, tmp_path: Path) -> None:
    broker = make_redis(tmp_path)
    url = f"redis://127.0.0.1:{broker.port}/0"
    own = settings.model_copy(update={"broker_url": SecretStr(url)})
    with running(broker), run_worker(tmp_path, **describe(own, ASPECTS_BROKER_URL=url)) as worker:
        send(own, "retire_user", 7)
        wait(lambda: is_done(store, 1), worker)
        broker.kill()
        # Recorded by another door meanwhile.
        store.ledger.request([8])
        time.sleep(1)
        broker.start()
        wait(lambda: is_done(store, 2), worker)
        send(own, "retire_user", 9)
        wait(lambda: is_done(store, 3), worker)


@pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed")
def test_a_broker_that_dies_while_all_hands_are_full_is_found_again(
    tmp_path: Path, migrated: Callable[[Path], None]
) -> None:
    """What was in hand cannot be acknowledged; it must not count as in hand for good."""
    broker, clickhouse = make_redis(tmp_path), make_endpoint(tmp_path, tmp_path / "clickhouse")
    url = f"redis://127.0.0.1:{broker.port}/0"
    own = load_settings(
        clickhouse_url=f"http://127.0.0.1:{clickhouse.port}", broker_url=url, receipts_dir=tmp_path / "receipts"
    )
    environment = describe(own, ASPECTS_BROKER_URL=url, ASPECTS_WORKER_CONCURRENCY="1", ASPECTS_SECOND_PASS_EVERY="600")
    migrated(tmp_path / "clickhouse")
    with running(clickhouse), running(broker), ExitStack() as stack:
        worker = stack.enter_context(run_worker(tmp_path, **environment))
        wait(lambda: worker.read_log().count("succeeded") >= 2, worker)
        clickhouse.send(signal.SIGSTOP)
        send(own, "retire_user", 7)
        # A sweep on schedule may have come first: then it is what keeps the process busy, and nothing more is received.
        wait(lambda: worker.read_log().count("received") > worker.read_log().count("succeeded"), worker)
        broker.kill()
        clickhouse.send(signal.SIGCONT)
        wait(lambda: "Couldn't ack" in worker.read_log(), worker)
        broker.start()
        with open_store(own) as store:
            send(own, "retire_user", 8)
            wait(lambda: [r.state for r in store.ledger.find([8])] == ["erased"], worker)


def test_embedded_worker_is_one_process_that_holds_the_folder(
    broker: Any, tmp_path: Path, migrated: Callable[[Path], None]
) -> None:
    settings = load_settings(
        enable_pii=True,
        clickhouse_url=f"chdb://{tmp_path}/embedded",
        broker_url=BROKER,
        receipts_dir=tmp_path / "receipts",
    )
    migrated(tmp_path / "embedded")
    with open_store(settings) as store:
        add_profiles(store, range(1, 4))
    with run_worker(tmp_path, **describe(settings)) as worker:
        send(settings, "retire_user", 2)
        wait(lambda: list((tmp_path / "receipts").glob("*.json")), worker)
        assert worker.stop() == 0
    with open_store(settings) as store:
        assert is_done(store, 1)
        assert count_profiles(store) == 2


def test_the_schedule_ends_with_a_worker_that_is_killed(settings: Settings, broker: Any, tmp_path: Path) -> None:
    with run_worker(tmp_path, **describe(settings)) as worker:
        wait(lambda: "succeeded" in worker.read_log(), worker)
        assert worker.child is not None
        children = Path(f"/proc/{worker.child.pid}/task/{worker.child.pid}/children").read_text().split()
        assert len(children) == 3
        # The main process alone, as the kernel does when memory is short.
        worker.child.kill()
        wait(lambda: not any(Path(f"/proc/{child}").exists() for child in children), worker)


def test_sweeps_go_one_at_a_time_and_look_again(settings: Settings, store: Store, broker: Any) -> None:
    work = Tasks(create_app(settings), settings, inline=False)
    store.ledger.request([1])
    with leases.hold(store.client, "sweep"):
        assert work.sweep() == {"erased": 0, "failed": 0}
        assert work._consume_request(SWEEP_WANTED)
    assert work.sweep() == {"erased": 1, "failed": 0}


def test_requests_for_a_sweep_are_one_message(settings: Settings, broker: Any) -> None:
    app = create_app(settings)
    for _ in range(5):
        request_sweep(app)
    assert broker.llen("aspects_pii") == 1


def test_what_is_asked_of_the_broker_goes_over_one_connection(
    settings: Settings, broker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_lms = settings.model_copy(update={"lms_database_url": SecretStr("sqlite:////nowhere/lms.db")})
    app = create_app(with_lms)
    work = Tasks(app, with_lms, inline=False)
    work.sync_user(1)
    opened: list[Any] = []
    monkeypatch.setattr(app, "connection_for_write", lambda **_: opened.append(1))
    for user_id in range(2, 50):
        work.sync_user(user_id)
    assert opened == []
    assert broker.scard(WAITING) == 49
    assert broker.llen("aspects_pii") == 1


def test_a_connection_to_the_broker_that_broke_is_made_anew(settings: Settings, broker: Any) -> None:
    app = create_app(settings)
    assert enqueue(app, ["1"])
    broker.client_kill_filter(_type="normal", skipme=True)
    # Once it may be found broken; whoever asks then does without.
    assert enqueue(app, ["2"]) or enqueue(app, ["2"])
    assert broker.smembers(WAITING) == {b"1", b"2"}


def test_users_who_wait_are_copied_together(
    settings: Settings, store: Store, broker: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    batches: list[list[int]] = []

    def sync(*_: Any, user_ids: list[int], **__: Any) -> list[Any]:
        if len(user_ids) > 1 and 13 in user_ids:
            raise RefusedError
        batches.append(sorted(user_ids))
        if len(batches) == 1:
            # While the first batch is under way.
            work.sync_user(5)
            work.sync_user(6)
        return []

    monkeypatch.setattr("sink.doors.worker.tasks.sync", sync)
    (tmp_path / "lms.db").touch()
    with_lms = settings.model_copy(update={"lms_database_url": SecretStr(f"sqlite:///{tmp_path}/lms.db")})
    work = Tasks(create_app(with_lms), with_lms, inline=False)
    for user_id in (1, 2, 1, 3):
        assert work.sync_user(user_id) == {}
    assert broker.llen("aspects_pii") == 1
    # What a killed worker had kept aside.
    broker.sadd(COPYING, 4)
    work.sync_users([])
    assert batches == [[4], [1, 2, 3, 5, 6]]
    work.sync_users([])
    assert len(batches) == 2
    # One whom a safeguard stops does not stop the others.
    work.sync_users([12, 13, 14])
    assert sorted(batches[2:]) == [[12], [13], [14]]
    # Somebody is at it: tried again later, and nobody is forgotten.
    with leases.hold(store.client, "copy"), pytest.raises(BusyError):
        work.sync_users([15])
    work.sync_users([])
    assert batches[-1] == [15]
    assert not broker.exists(WAITING, COPYING)


def test_users_of_whom_a_message_each_tells_are_copied_though_the_worker_is_killed(
    settings: Settings, store: Store, broker: Any, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path}/lms.sqlite3"
    create_lms(url, 150, 3)
    environment = describe(settings, ASPECTS_LMS_DATABASE_URL=url)
    for user_id in range(1, 151):
        send(settings, "sync_user", user_id)
    # A full copy, which a worker begins with, would make up for whatever was lost.
    with leases.hold(store.client, "sync"):
        with run_worker(tmp_path, **environment, ASPECTS_SYNC_BATCH_SIZE="1") as worker:
            wait(lambda: count_profiles(store) > 0, worker)
            worker.kill()
        assert count_profiles(store) < 150
        with run_worker(tmp_path, **environment) as worker:
            wait(lambda: count_profiles(store) == 150, worker)
            wait(lambda: not broker.exists(WAITING, COPYING), worker)
            assert worker.stop() == 0


def read_name(store: Store, user_id: int) -> list[str]:
    return store.client.column("SELECT name FROM $event_sink.user_profile WHERE user_id = {id:Int64}", id=user_id)


def test_a_change_that_no_message_told_of_is_copied_on_schedule(
    settings: Settings, store: Store, broker: Any, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path}/lms.sqlite3"
    create_lms(url, 20, 3)
    writer = LmsWriter(url)
    environment = describe(settings, ASPECTS_LMS_DATABASE_URL=url, ASPECTS_SYNC_EVERY="1")
    try:
        with run_worker(tmp_path, **environment) as worker:
            wait(lambda: count_profiles(store) == 20, worker)
            writer.change_profile(7, name="Name of later")
            wait(lambda: read_name(store, 7) == ["Name of later"], worker)
            assert worker.stop() == 0
        # Full copies go one at a time, whatever starts them; the schedule leaves it to whoever is at it.
        assert not broker.exists(WAITING, COPYING)
    finally:
        writer.close()


def test_a_worker_killed_in_a_full_copy_is_made_up_for_by_the_next(
    settings: Settings, store: Store, broker: Any, tmp_path: Path
) -> None:
    """It holds the lease when it dies; whoever comes next need not wait long."""
    url = f"sqlite:///{tmp_path}/lms.sqlite3"
    create_lms(url, 200, 3)
    environment = describe(settings, ASPECTS_LMS_DATABASE_URL=url, ASPECTS_SYNC_EVERY="1")
    with run_worker(tmp_path, **environment, ASPECTS_SYNC_BATCH_SIZE="1") as worker:
        wait(lambda: count_profiles(store) > 0, worker)
        worker.kill()
    assert count_profiles(store) < 200
    with pytest.raises(BusyError, match=r"process \d+ on "), leases.hold(store.client, "sync"):
        pass
    with run_worker(tmp_path, **environment) as worker:
        wait(lambda: count_profiles(store) == 200, worker)
        assert worker.stop() == 0
