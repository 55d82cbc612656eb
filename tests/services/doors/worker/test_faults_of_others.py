"""Brokers that forget, LMS databases that are gone, full disks, clocks that go back, and workers that get in each other's way."""

from __future__ import annotations

import shutil
import signal
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pymysql
import pytest

from sink.copying.sync import sync
from sink.lms.database import LmsDatabase
from tests.support.faults import Mode, fill, proxied, small_disk
from tests.support.processes import Process, make_endpoint, make_redis, running, wait_until
from tests.support.redis_server import count_waiting, name_database
from tests.support.site import Site, make_site

pytestmark = pytest.mark.redis

BROKER = name_database(10)


@pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed")
def test_a_broker_that_is_killed_and_forgets(endpoint: Process, tmp_path: Path) -> None:
    """What was recorded is swept; what was not, the LMS still knows."""
    with ExitStack() as stack:
        broker = stack.enter_context(running(make_redis(tmp_path)))
        url = f"redis://127.0.0.1:{broker.port}/0"
        site = stack.enter_context(make_site(tmp_path, endpoint.port, f"sqlite:///{tmp_path}/lms.sqlite3", broker=url))
        worker = stack.enter_context(site.working(ASPECTS_RECONCILE_EVERY="2", ASPECTS_SYNC_EVERY="2"))
        site.send("retire_user", 3)
        site.wait_for_erased([3])
        worker.send(signal.SIGSTOP)
        for user in (4, 5):
            site.writer.request_retirement(user)
            site.writer.retire_misc(user)
            site.send("retire_user", user)
        site.writer.change_profile(6, goals="to be copied")
        site.send("sync_user", 6)
        assert count_waiting(site.redis) >= 1
        site.redis.set("remembered", 1)
        broker.restart()
        # The schedule may have sent new messages already.
        assert not site.redis.exists("remembered")
        worker.send(signal.SIGCONT)
        # Never sent again by anybody.
        site.wait_for_erased([3, 4, 5])
        goals = "SELECT goals FROM $event_sink.user_profile FINAL WHERE user_id = 6"
        wait_until(lambda: site.store.client.column(goals) == ["to be copied"], site.read_logs)
        site.redis.flushall()
        site.send("retire_user", 7)
        site.wait_for_erased([3, 4, 5, 7])
        worker.kill()
        site.check({3, 4, 5, 7})


@pytest.fixture
def mariadb() -> Iterator[str]:
    """The name of an empty database."""
    name = f"aspects_pii_faults_{uuid.uuid4().hex}"
    with pymysql.connect(host="127.0.0.1", user="root") as connection, connection.cursor() as cursor:
        cursor.execute(f"CREATE DATABASE {name} CHARACTER SET utf8mb4")
        try:
            yield name
        finally:
            cursor.execute(f"DROP DATABASE {name}")


@pytest.mark.mariadb
@pytest.mark.parametrize("toxic", ["refuse", "cut"])
def test_an_lms_database_that_is_gone(endpoint: Process, tmp_path: Path, mariadb: str, toxic: Mode) -> None:
    """Retirements stay open where names have to be asked for, and are not called erased; copies wait."""
    with (
        make_site(tmp_path, endpoint.port, f"mysql+pymysql://root@127.0.0.1/{mariadb}", BROKER) as site,
        proxied(3306) as way,
        site.working(
            ASPECTS_LMS_DATABASE_URL=f"mysql+pymysql://root@127.0.0.1:{way.port}/{mariadb}?read_timeout=30",
            ASPECTS_SYNC_EVERY="2",
        ) as worker,
    ):
        site.send("retire_user", 3)
        site.wait_for_erased([3])
        way.set(toxic)
        # The LMS has replaced the address, and a copy has brought that here.
        site.writer.request_retirement(4)
        sync(site.store, LmsDatabase(site.lms_url), enabled=True, user_ids=[4])
        site.writer.change_profile(6, goals="to be copied")
        site.send("retire_user", 4)
        site.send("sync_user", 6)
        wait_until(lambda: site.states().get(4) == "failed", worker.read_log)
        assert "cannot be reached" in site.store.ledger.find([4])[0].detail["reason"]
        way.set("pass")
        site.wait_for_erased([3, 4])
        goals = "SELECT goals FROM $event_sink.user_profile FINAL WHERE user_id = 6"
        wait_until(lambda: site.store.client.column(goals) == ["to be copied"], worker.read_log)
        worker.kill()
        site.check({3, 4})


def test_two_workers_on_the_same_subject(site: Site) -> None:
    with site.working("first"), site.working("second"):
        for user in (3, 4):
            for _ in range(15):
                site.send("retire_user", user)
                site.send("sync_user", user)
                site.send("retire_users", [user, user])
            site.wait_for_erased(range(3, user + 1))
        wait_until(lambda: count_waiting(site.redis) == 0, site.read_logs)
    for name in ("first", "second"):
        assert "aspects_pii.retire_user" in (site.folder / f"{name}.log").read_text(), "both have worked"
    site.check({3, 4})


def test_a_full_disk(tmp_path: Path) -> None:
    """ClickHouse's disk, and with it everything that has to be recorded."""
    with ExitStack() as stack:
        disk = stack.enter_context(small_disk(tmp_path / "disk", 400))
        engine = stack.enter_context(running(make_endpoint(tmp_path, disk / "clickhouse")))
        site = stack.enter_context(make_site(tmp_path, engine.port, f"sqlite:///{tmp_path}/lms.sqlite3", BROKER))
        worker = stack.enter_context(site.working())
        site.send("retire_user", 3)
        site.wait_for_erased([3])
        site.store.ledger.request([4])
        filler = fill(disk)
        site.send("retire_user", 5)
        failures = worker.read_log().count("Retry in")
        wait_until(lambda: worker.read_log().count("Retry in") > failures + 1, worker.read_log)
        assert site.states().get(4) != "erased"
        assert site.states().get(5) != "erased"
        filler.unlink()
        site.wait_for_erased([3, 4, 5])
        worker.kill()
        site.check({3, 4, 5})


def test_a_folder_of_receipts_that_is_full(site: Site) -> None:
    """What cannot be shown to be done is not done."""
    with small_disk(site.settings.receipts_dir, 1) as disk:
        filler = fill(disk)
        with site.working() as worker:
            site.send("retire_user", 3)
            wait_until(lambda: site.states() == {3: "failed"}, worker.read_log)
            assert "ASPECTS_RECEIPTS_DIR" in site.store.ledger.find([3])[0].detail["reason"]
            filler.unlink()
            site.wait_for_erased([3])
        site.check({3})


def test_a_clock_that_goes_back(site: Site) -> None:
    """As a clock that was ahead leaves it: entries, rows and leases of the day after tomorrow."""
    future = "now64(6, 'UTC') + toIntervalDay(2)"
    client = site.store.client
    client.execute(
        "INSERT INTO $pii_ledger.entries (subject, at, action, request, actor, detail) "
        f"SELECT '3', {future}, 'requested', generateUUIDv4(), NULL, '{{}}'"
    )
    client.execute(
        "INSERT INTO $event_sink.user_profile "
        f"SELECT * REPLACE ({future} AS time_last_dumped, 'Canary-Ibex of the future' AS name) "
        "FROM $event_sink.user_profile WHERE user_id IN (3, 4, 6)"
    )
    # Their holders were killed before the clock was put back.
    for name in ("erasing", "sweep", "sync"):
        client.execute(
            f"INSERT INTO $pii_ledger.leases (name, holder, at, expires_at) SELECT '{name}', generateUUIDv4(), "
            f"{future}, {future} + toIntervalMinute(1)"
        )
    with site.working(ASPECTS_SYNC_EVERY="2"):
        site.send("retire_user", 4)
        site.wait_for_erased([3, 4])
        site.writer.change_profile(6, name="Canary-Ibex of today")
        site.send("sync_user", 6)
        names = "SELECT name FROM $event_sink.user_profile WHERE user_id = 6"
        wait_until(lambda: client.column(names) == ["Canary-Ibex of today"], site.read_logs)
    site.check({3, 4})
