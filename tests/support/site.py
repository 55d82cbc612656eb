"""One installation that faults are let loose on, and what has to hold after each of them.

No retirement is lost, none is called erased that is not, nobody is back, and nobody is named in a queue, a log or a receipt.
"""

from __future__ import annotations

import itertools
import json
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from sink.clickhouse import migrations
from sink.copying.sync import sync
from sink.demo_data.lms_tables import create_tables, open_writable
from sink.doors.worker.app import create_app
from sink.erasure.verify import verify_subjects
from sink.installation import open_store
from sink.lms.database import LmsDatabase
from sink.names import quote
from sink.resources import find_resource
from sink.settings import Settings, load_settings
from sink.store import Store
from tests.support.faults import Proxy, proxied
from tests.support.lms_writer import LmsWriter
from tests.support.processes import Process, make_worker, running, wait_until
from tests.support.redis_server import emptied, read_redis

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
            # Longer than a task takes on a busy machine: what takes longer is delivered, and done, again and again.
            "ASPECTS_BROKER_VISIBILITY_TIMEOUT": "10",
            "ASPECTS_SWEEP_EVERY": "2",
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
        """Where each retirement stands, by user."""
        # One question: it is asked again and again, beside what it is about.
        rows = self.store.client.rows(
            "SELECT subject, toString(state) FROM $pii_ledger.retirements WHERE is_current AND state != 'withdrawn'"
        )
        return {int(subject): state for subject, state in rows}

    def wait_for_erased(self, users: Iterable[int]) -> None:
        """Until these are erased, and nobody else is asked for."""
        wanted = dict.fromkeys(users, "erased")
        wait_until(lambda: self.states() == wanted, lambda: f"{self.states()}\n{self.read_logs()[-4000:]}", pause=0.8)

    def read_logs(self) -> str:
        """What all processes have printed."""
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
    """Their address."""
    return f"canary-ibex-{user}@example.org"


@contextmanager
def make_site(folder: Path, port: int, lms_url: str, broker: str) -> Iterator[Site]:
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
        store = stack.enter_context(open_store(settings, creates=True))
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
        # Whoever retires looks at every table that there is.
        for database in store.client.databases.values():
            store.client.execute(f"DROP DATABASE IF EXISTS {quote(database)} SYNC")
