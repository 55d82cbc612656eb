"""Faults, for real: killed workers, brokers, databases that refuse and break off, full disks, clocks that go back.

After each of them: no retirement is lost, none is called erased that is not, nobody is back, and nobody is named in a
queue, a log or a receipt.
"""

from __future__ import annotations

import itertools
import json
import shutil
import signal
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pymysql
import pytest
import yaml

from sink.clickhouse import migrations
from sink.copying.sync import sync
from sink.demo_data.lms_tables import create_tables, open_writable
from sink.doors.worker.app import create_app
from sink.erasure.verify import verify_subjects
from sink.installation import open_store
from sink.ledger.entries import Retirement
from sink.lms.database import LmsDatabase
from sink.resources import find_resource
from sink.settings import Settings, load_settings
from sink.store import Store
from tests.support.faults import TOXICS, Mode, Proxy, fill, proxied, small_disk
from tests.support.lms_writer import LmsWriter
from tests.support.processes import PATIENCE, Process, make_endpoint, make_redis, make_worker, running, wait_until
from tests.support.redis_server import count_waiting, emptied, name_database, read_redis

pytestmark = pytest.mark.redis

BROKER = name_database(13)
USERS = range(1, 13)
TABLES = ("user_profile", "external_id")
# Events that name their actor, so that a retirement rewrites rows and searches by names.
ACTORS = {
    "xapi.xapi_events_all": {
        "match": {"event.actor.mbox": "mailto:{email}"},
        "pii": {"event.actor.mbox": "email_address"},
        "on_retire": {"redact": {"event.actor.mbox": "pseudonym"}},
    }
}
# Databases of each test, on the engine that all of them share.
_numbers = itertools.count(1)


@dataclass
class Site:
    """One installation: its LMS, its store, and the way that its workers take to ClickHouse."""

    folder: Path
    settings: Settings
    store: Store
    proxy: Proxy
    redis: Any
    lms_url: str
    writer: LmsWriter

    @property
    def environment(self) -> dict[str, str]:
        """What a worker is told."""
        values = self.settings
        return {
            "ASPECTS_ENABLE_PII": "true",
            "ASPECTS_CLICKHOUSE_URL": f"http://127.0.0.1:{self.proxy.port}",
            "ASPECTS_CLICKHOUSE_RETRIES": "0",
            "ASPECTS_CLICKHOUSE_TIMEOUT": "120",
            "ASPECTS_EVENT_SINK_DATABASE": values.event_sink_database,
            "ASPECTS_XAPI_DATABASE": values.xapi_database,
            "ASPECTS_REPORTING_DATABASE": values.reporting_database,
            "ASPECTS_LEDGER_DATABASE": values.ledger_database,
            "ASPECTS_PSEUDONYM_SECRET": "a secret of the tests",
            "ASPECTS_PII_MAP": str(values.pii_map),
            "ASPECTS_RECEIPTS_DIR": str(values.receipts_dir),
            "ASPECTS_LMS_DATABASE_URL": self.lms_url,
            "ASPECTS_BROKER_URL": values.broker_url.get_secret_value() if values.broker_url else "",
            "ASPECTS_BROKER_VISIBILITY_TIMEOUT": "2",
            "ASPECTS_SWEEP_EVERY": "1",
            "ASPECTS_RECONCILE_EVERY": "3600",
            "ASPECTS_SYNC_EVERY": "3600",
            "ASPECTS_SYNC_MAX_REMOVED_SHARE": "1",
        }

    @contextmanager
    def working(self, name: str = "worker", **environment: str) -> Iterator[Process]:
        """A worker, killed at the end."""
        with running(make_worker(self.folder, name, **{**self.environment, **environment})) as worker:
            yield worker

    def send(self, task: str, *arguments: Any) -> None:
        """A message, as the plugin sends it."""
        create_app(self.settings).tasks[f"aspects_pii.{task}"].apply_async(arguments)

    def states(self) -> dict[int, str]:
        found: list[Retirement] = [*self.store.ledger.find_open(), *self.store.ledger.find_erased()]
        return {int(r.subject): r.state for r in found}

    def wait_for_erased(self, users: Iterable[int]) -> None:
        wanted = dict.fromkeys(users, "erased")
        wait_until(lambda: self.states() == wanted, lambda: f"{self.states()}\n{self.read_logs()[-4000:]}")

    def read_logs(self) -> str:
        return "\n".join(path.read_text(errors="replace") for path in sorted(self.folder.glob("*.log")))

    def rows(self, table: str) -> Counter[int]:
        """Rows by user, those included that only files hold."""
        sql = f"SELECT user_id FROM $event_sink.{table}"
        return Counter(self.store.client.column(sql, {"apply_deleted_mask": 0}))

    def actors(self) -> Counter[str]:
        """Whom events name."""
        sql = "SELECT JSONExtractString(event, 'actor', 'mbox') FROM $xapi.xapi_events_all"
        return Counter(self.store.client.column(sql, {"apply_deleted_mask": 0}))

    def check(self, retired: set[int]) -> None:
        """What has to hold after every fault."""
        kept = set(USERS) - retired
        assert self.states() == dict.fromkeys(retired, "erased"), "a retirement was lost"
        assert set(self.store.ledger.tombstones()) == set(map(str, retired))
        actions = Counter((entry.action, entry.subject) for entry in self.store.ledger.show(limit=10_000))
        for user in retired:
            # Two that are told at the same moment both write down the request.
            assert actions["requested", str(user)] >= 1
            assert actions["erased", str(user)] == 1
        report = verify_subjects(self.store)
        assert (report.subjects, list(map(str, report.findings))) == (len(retired), []), "called erased, and is not"
        for table in TABLES:
            assert set(self.rows(table)) == kept, "somebody is back, or somebody else is gone"
        actors = self.actors()
        assert sum(actors.values()) == len(USERS), "an event was lost or doubled"
        assert {actor for actor in actors if "anary" in actor} == {f"mailto:{mail(user)}" for user in kept}
        receipts = [json.loads(path.read_text()) for path in self.settings.receipts_dir.glob("*.json")]
        assert sorted(receipt["subject"] for receipt in receipts) == sorted(map(str, retired))
        for said in (self.read_logs(), json.dumps(receipts), read_redis(self.redis).decode(errors="replace")):
            assert "anary" not in said


def mail(user: int) -> str:
    return f"canary-ibex-{user}@example.org"


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """ClickHouse's protocol in a process of its own."""
    folder = tmp_path_factory.mktemp("engine")
    with running(make_endpoint(folder, folder / "clickhouse")) as process:
        yield process
        assert "anary" not in process.read_log()


@pytest.fixture
def site(endpoint: Process, tmp_path: Path) -> Iterator[Site]:
    with make_site(tmp_path, endpoint.port, f"sqlite:///{tmp_path}/lms.sqlite3") as site:
        yield site


@contextmanager
def make_site(folder: Path, port: int, lms_url: str, broker: str = BROKER) -> Iterator[Site]:
    """An installation whose users are copied and have done one thing each."""
    number = next(_numbers)
    engine = open_writable(lms_url)
    with engine.begin() as connection:
        create_tables(connection)
    engine.dispose()
    document = yaml.safe_load(find_resource("config/pii.yaml").read_text())
    document["targets"].update(ACTORS)
    (folder / "pii.yaml").write_text(yaml.safe_dump(document))
    names = {f"{name}_database": f"faults{number}_{name}" for name in ("event_sink", "xapi", "reporting", "ledger")}
    settings = load_settings(
        enable_pii=True,
        clickhouse_url=f"http://127.0.0.1:{port}",
        pii_map=folder / "pii.yaml",
        pseudonym_secret="a secret of the tests",
        receipts_dir=folder / "receipts",
        lms_database_url=lms_url,
        broker_url=broker,
        **names,
    )
    writer = LmsWriter(lms_url)
    with ExitStack() as stack:
        stack.callback(writer.close)
        proxy = stack.enter_context(proxied(port))
        client = stack.enter_context(emptied(broker))
        store = stack.enter_context(open_store(settings))
        migrations.migrate(store.client)
        for user in USERS:
            writer.register_user(user, f"canary{user}", mail(user), f"Canary-Ibex {user}", bio="Canary-Ibex")
        rows = [
            (uuid.uuid4(), datetime(2026, 1, user, tzinfo=UTC), json.dumps({"actor": {"mbox": f"mailto:{mail(user)}"}}))
            for user in USERS
        ]
        store.client.insert(store.client.table("xapi.xapi_events_all"), ["event_id", "emission_time", "event"], rows)
        sync(store, LmsDatabase(lms_url), enabled=True)
        yield Site(folder, settings, store, proxy, client, lms_url, writer)


@pytest.mark.parametrize(
    "statement",
    [
        # In the order in which a retirement comes to them.
        pytest.param(b"ATTACH PARTITION", id="what was rewritten is put in"),
        pytest.param(b"DELETE FROM", id="rows are hidden"),
        pytest.param(b"APPLY DELETED MASK", id="rows are taken off the disk"),
    ],
)
def test_a_worker_killed_in_mid_erasure(site: Site, statement: bytes) -> None:
    """Killed while it waits for the answer to a statement, which ClickHouse carries out all the same."""
    with site.working() as worker:
        reached = site.proxy.hold_at(statement)
        site.send("retire_users", [3, 4])
        assert reached.wait(PATIENCE), worker.read_log()
        worker.kill()
        assert set(site.states()) == {3, 4}
        assert "erased" not in site.states().values()
        site.proxy.set("pass")
        worker.start()
        site.wait_for_erased([3, 4])
    site.check({3, 4})


@pytest.mark.parametrize("toxic", TOXICS)
def test_a_clickhouse_that_spoils_connections_and_comes_back(site: Site, toxic: Mode) -> None:
    with site.working(ASPECTS_CLICKHOUSE_TIMEOUT="5" if toxic == "hang" else "120") as worker:
        site.send("retire_user", 3)
        site.wait_for_erased([3])
        site.proxy.set(toxic)
        site.send("retire_user", 4)
        site.send("sync_user", 5)
        failures = worker.read_log().count("Retry in")
        wait_until(lambda: worker.read_log().count("Retry in") > failures, worker.read_log)
        if toxic != "refuse":
            assert site.proxy.hits[toxic] >= 1
        # An answer that breaks off says nothing about the statement; all else was never carried out.
        assert toxic == "cut" or set(site.states()) == {3}
        assert site.states().get(4) != "erased"
        site.proxy.set("pass")
        site.wait_for_erased([3, 4])
    site.check({3, 4})


def test_a_clickhouse_that_spoils_one_connection_after_another(site: Site) -> None:
    """In the middle of the work, not only at its beginning."""
    with site.working(ASPECTS_CLICKHOUSE_TIMEOUT="5"):
        for user, toxic in enumerate(TOXICS, 1):
            site.writer.change_profile(user, name="Canary-Ibex again")
            reached = site.proxy.hold_at(b"DELETE FROM")
            site.send("retire_user", user)
            assert reached.wait(PATIENCE), site.read_logs()
            site.proxy.set(toxic)
            site.send("sync_users", [user, 11])
            assert site.states().get(user) != "erased"
            site.proxy.set("pass")
        site.wait_for_erased(range(1, 6))
    site.check(set(range(1, 6)))


def test_a_clickhouse_that_is_killed_and_started_again(site: Site, endpoint: Process) -> None:
    with site.working() as worker:
        reached = site.proxy.hold_at(b"DELETE FROM")
        site.send("retire_users", [3, 4])
        assert reached.wait(PATIENCE), worker.read_log()
        endpoint.kill()
        site.proxy.set("pass")
        site.send("retire_user", 5)
        failures = worker.read_log().count("cannot be reached")
        wait_until(lambda: worker.read_log().count("cannot be reached") > failures, worker.read_log)
        endpoint.start()
        site.wait_for_erased([3, 4, 5])
    site.check({3, 4, 5})


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
        make_site(tmp_path, endpoint.port, f"mysql+pymysql://root@127.0.0.1/{mariadb}") as site,
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
        site = stack.enter_context(make_site(tmp_path, engine.port, f"sqlite:///{tmp_path}/lms.sqlite3"))
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
