"""What it costs to copy users of whom a message each tells, by a real worker, beside one copy of the same users."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis
from pydantic import SecretStr

from benchmarks.pairs import Ratio, compare
from sink.clickhouse import migrations
from sink.copying.sync import sync
from sink.demo_data.lms import create_lms
from sink.doors.worker import broker
from sink.doors.worker.app import create_app
from sink.endpoint.app import running
from sink.installation import open_lms, open_store
from sink.settings import Settings, load_settings
from sink.store import Store

#: A database of Redis that is emptied; ASPECTS_BENCH_REDIS names another.
REDIS = os.environ.get("ASPECTS_BENCH_REDIS", "redis://127.0.0.1:6379/13")
_PROFILES = "event_sink.user_profile"
_PATIENCE_SECONDS = 600


def measure(size: int) -> list[Ratio]:
    """A tenth of `size` users, at most 10,000, who all wait."""
    users = min(10_000, size // 10)
    with _new_site(users) as site, _working(site) as worker:

        def by_messages() -> None:
            os.killpg(worker.pid, signal.SIGCONT)
            _wait(lambda: site.count_copied() == users)

        def prepare() -> None:
            _wait(lambda: not site.redis.llen(broker.QUEUE))
            os.killpg(worker.pid, signal.SIGSTOP)
            site.empty()
            site.send(users)

        ratios = [
            compare(
                f"copying {users:,} users, a message each / all in one copy",
                lambda run: by_messages(),
                lambda run: site.copy_all(users),
                before=lambda run: prepare(),
                aim="200 users a second",
            )
        ]
        print(f"active parts of {_PROFILES} at the end: {site.count_parts()}")
        return ratios


@dataclass(frozen=True)
class _Site:
    """An installation whose worker is a process of its own."""

    environment: dict[str, str]
    settings: Settings
    store: Store
    redis: Any

    def empty(self) -> None:
        """Nobody is copied."""
        for place in (_PROFILES, "event_sink.external_id", "event_sink.course_access"):
            self.store.client.execute(f"TRUNCATE TABLE {self.store.client.table(place).sql}")

    def send(self, users: int) -> None:
        """A message for each, as the plugin sends them."""
        app = create_app(self.settings)
        with app.connection_for_write() as connection:
            for user_id in range(1, users + 1):
                app.tasks[broker.SYNC_USER].apply_async((user_id,), connection=connection)

    def copy_all(self, users: int) -> None:
        """The same users in one copy."""
        self.empty()
        sync(self.store, open_lms(self.settings), enabled=True, user_ids=range(1, users + 1))

    def count_copied(self) -> int:
        """Who is copied."""
        return int(self.store.client.value("SELECT uniqExact(user_id) FROM $event_sink.user_profile"))

    def count_parts(self) -> int:
        """What a query of profiles opens."""
        return int(
            self.store.client.value(
                "SELECT count() FROM system.parts WHERE active AND database = {database:String} AND table = 'user_profile'",
                database=self.store.client.databases["event_sink"],
            )
        )


@contextmanager
def _new_site(users: int) -> Iterator[_Site]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="aspects-pii-bench-")))
        create_lms(f"sqlite:///{folder}/lms.db", users)
        url = stack.enter_context(running(folder / "clickhouse", user="bench", password=SecretStr("bench")))
        environment = {
            "ASPECTS_ENABLE_PII": "true",
            "ASPECTS_CLICKHOUSE_URL": url,
            "ASPECTS_CLICKHOUSE_USER": "bench",
            "ASPECTS_CLICKHOUSE_PASSWORD": "bench",
            "ASPECTS_BROKER_URL": REDIS,
            "ASPECTS_LMS_DATABASE_URL": f"sqlite:///{folder}/lms.db",
            "ASPECTS_RECEIPTS_DIR": f"{folder}/receipts",
        }
        settings = load_settings(**{name.removeprefix("ASPECTS_").lower(): text for name, text in environment.items()})
        client = stack.enter_context(redis.Redis.from_url(REDIS))
        client.flushdb()
        stack.callback(client.flushdb)
        store = stack.enter_context(open_store(settings, creates=True))
        migrations.migrate(store.client)
        yield _Site(environment, settings, store, client)


@contextmanager
def _working(site: _Site) -> Iterator[subprocess.Popen[bytes]]:
    """A worker that has begun; killed at the end."""
    others = {name: text for name, text in os.environ.items() if not name.startswith("ASPECTS_")}
    worker = subprocess.Popen(
        [sys.executable, "-m", "sink", "worker", "--no-beat"],
        env={**others, **site.environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        site.send(1)
        _wait(lambda: site.count_copied() == 1)
        yield worker
    finally:
        os.killpg(worker.pid, signal.SIGKILL)
        worker.wait()


def _wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("the worker has not done its work")
        time.sleep(0.1)
