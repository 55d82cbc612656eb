"""Everything at once: an LMS that lives, a worker, a consumer, a broker, ClickHouse and the LMS's database, and all of them fail.

Faults follow a schedule that FAULT_SEED gives; FAULT_SECONDS is how long they go on. Afterwards everybody whom the LMS
has retired is verified gone, and of everybody else the store says what the LMS says.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

import pymysql
import pytest
import redis
import yaml

from sink.clickhouse import migrations
from sink.installation import open_store
from sink.ledger.written import list_written
from sink.resources import find_resource
from sink.settings import Settings, load_settings
from sink.store import Store
from tests.support.faults import TOXICS, Mode, Proxy, proxied
from tests.support.lms import Lms, name_mariadb, run_lms
from tests.support.paths import COMMAND, ROOT, SUPPORT
from tests.support.processes import Process, make_consumer, make_endpoint, make_redis, make_worker, running, wait_until
from tests.support.redis_server import count_waiting, read_redis

pytestmark = [
    pytest.mark.mariadb,
    pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed"),
]
SEED = int(os.environ.get("FAULT_SEED", "1"))
SECONDS = float(os.environ.get("FAULT_SECONDS", "40"))
TICK = 0.25
# What a database can do to its clients that speak no HTTP.
OF_DATABASES: tuple[Mode, ...] = ("refuse", "hang", "cut")
# Nobody else is called so; `aspects-pii`'s own texts, and those of its libraries, have neither word.
SECRETS = ("canary-ocelot", "xylophone-4711", "zaphod")
PREFIX = "test"
COURSES = tuple(f"course-v1:Org+Course+{n}" for n in range(3))
ACTORS = {
    "xapi.xapi_events_all": {
        "match": {"event.actor.mbox": "mailto:{email}"},
        "pii": {"event.actor.mbox": "email_address"},
        "on_retire": {"redact": {"event.actor.mbox": "pseudonym"}},
    }
}


@dataclass
class Bus:
    """The LMS's own producer of events, in a process of its own."""

    folder: Path
    url: str
    child: subprocess.Popen[str] | None = None
    sent: int = 0

    def start(self) -> None:
        script = SUPPORT / "redis_producer.py"
        with (self.folder / "producer.out").open("a") as said:
            # What it says is the LMS's, not ours.
            self.child = subprocess.Popen(
                [sys.executable, str(script), self.url],
                stdin=subprocess.PIPE,
                stdout=said,
                stderr=subprocess.DEVNULL,
                text=True,
            )

    def send(self, event: str, user: int) -> None:
        """Whether it arrives is the broker's affair."""
        if self.child is None or self.child.poll() is not None:
            self.start()
        assert self.child is not None
        assert self.child.stdin is not None
        self.child.stdin.write(json.dumps([event, user, PREFIX]) + "\n")
        self.child.stdin.flush()
        self.sent += 1

    def kill(self) -> None:
        if self.child is not None:
            self.child.kill()
            self.child.communicate()


@dataclass
class People:
    """What goes on in the LMS: who comes, changes, asks to be forgotten, and is."""

    lms: Lms
    bus: Bus
    random: Random
    steps: dict[int, list[str]] = field(default_factory=dict)
    """What the LMS still has to do for whoever is being retired."""
    here: list[int] = field(default_factory=list)
    asked: list[int] = field(default_factory=list)
    """They may think better of it."""
    retired: list[int] = field(default_factory=list)
    """Whose retirement the LMS will not take back."""
    events: int = 0
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def act(self) -> None:
        """One thing happens."""
        actions: dict[Callable[[], object], int] = {
            self.register: 4,
            self.change: 8,
            self.grant: 2,
            self.log_in: 3,
            self.ask: 3,
            self.think_better: 1,
            self.go_on: 8,
            self.say_it_again: 4,
        }
        [action] = self.random.choices(list(actions), list(actions.values()))
        action()

    def call(self, step: str, *arguments: Any, **named: Any) -> Any:
        """A step of the LMS, which counts as an event."""
        self.events += 1
        return self.lms.call(step, *arguments, **named)

    def register(self) -> int:
        number = next(self._numbers)
        user: int = self.call(
            "create_user",
            f"canary-ocelot-{number}",
            mail(number),
            f"Canary-Ocelot {number}",
            city="Xylophone-4711",
            goals="at first",
        )
        assert user == number, "the LMS counts as we do"
        self.bus.send("registration", user)
        self.here.append(user)
        return user

    def change(self) -> None:
        user = self.random.choice(self.here)
        self.call("change_profile", user, times=self.random.choice([1, 2]), goals=f"goal {self.events}")

    def grant(self) -> None:
        user, course = self.random.choice(self.here), self.random.choice(COURSES)
        self.call("remove_role", user, course)
        if self.random.random() < 0.8:
            self.call("add_role", user, course)
            self.bus.send("role added", user)

    def log_in(self) -> None:
        user = self.random.choice([*self.here, *self.retired])
        self.call("log_in", user)
        # Of the retired it is one from last week that was held up.
        self.bus.send("login", user)

    def ask(self) -> None:
        if len(self.here) < 5:
            return
        user = self.here.pop(self.random.randrange(len(self.here)))
        self.call("request_retirement", user)
        self.asked.append(user)

    def think_better(self) -> None:
        if self.asked:
            user = self.asked.pop(0)
            self.call("cancel_retirement", user)
            self.here.append(user)

    def go_on(self) -> None:
        """The retirement driver takes somebody one step on."""
        if self.asked and len(self.steps) < 3:
            user = self.asked.pop(0)
            self.steps[user] = ["start_retirement", "retire_misc", "retire", "complete_retirement"]
        if not self.steps:
            return
        user = self.random.choice(list(self.steps))
        step = self.steps[user].pop(0)
        self.call(step, user)
        if user not in self.retired:
            self.retired.append(user)
        if not self.steps[user]:
            del self.steps[user]

    def say_it_again(self) -> None:
        """A signal that comes twice, or a save of the profile long after."""
        if not self.retired:
            return
        user = self.random.choice(self.retired)
        if self.random.random() < 0.5:
            self.call("retire_misc", user)
        else:
            self.call("change_profile", user, goals="Canary-Ocelot is back")

    def finish(self) -> None:
        """The driver comes to the end of what it has begun."""
        while self.steps:
            self.go_on()


def mail(user: int) -> str:
    return f"canary-ocelot-{user}@example.org"


@dataclass
class Fault:
    """Something that is broken at a tick, and mended some ticks later."""

    name: str
    begin: Callable[[], object]
    end: Callable[[], object]


@dataclass
class Site:
    """All processes, and the ways between them."""

    folder: Path
    settings: Settings
    store: Store
    environment: Mapping[str, str]
    endpoint: Process
    redis: Process
    worker: Process
    consumer: Process
    to_clickhouse: Proxy
    to_lms: Proxy
    people: People
    lms_url: str
    client: Any

    def list_process_faults(self) -> list[Fault]:
        def restart(process: Process) -> Fault:
            return Fault(f"kill {process.name}", process.kill, lambda: process.start(wait=False))

        def flush() -> None:
            # It may be down itself just now.
            try:
                self.client.flushall()
            except redis.RedisError:
                return

        return [
            restart(self.worker),
            restart(self.worker),
            restart(self.consumer),
            restart(self.endpoint),
            restart(self.redis),
            Fault("flush redis", flush, lambda: None),
        ]

    def list_connection_faults(self) -> list[Fault]:
        def spoil(name: str, proxy: Proxy, toxic: Mode) -> Fault:
            return Fault(f"{toxic} {name}", lambda: proxy.set(toxic), lambda: proxy.set("pass"))

        toxics = [spoil("clickhouse", self.to_clickhouse, toxic) for toxic in TOXICS]
        return [*toxics, *(spoil("lms database", self.to_lms, toxic) for toxic in OF_DATABASES)]

    def live_through(self, random: Random) -> Counter[str]:
        """Let people do things while faults come and go; which faults there were."""
        seen: Counter[str] = Counter()
        lanes = [Lane(self.list_process_faults(), random), Lane(self.list_connection_faults(), random)]
        for tick in range(int(SECONDS / TICK)):
            began = time.monotonic()
            for lane in lanes:
                if name := lane.move(tick):
                    seen[name] += 1
            self.people.act()
            time.sleep(max(0.0, began + TICK - time.monotonic()))
        for lane in lanes:
            lane.mend()
        return seen

    def read_lms(self) -> dict[str, Counter[tuple[Any, ...]]]:
        """What the store should say of everybody who is not retired, by table."""
        retired = {*self.people.retired, -1}
        queries = {
            "user_profile": "SELECT u.id, u.username, u.email, p.name, p.goals, p.city FROM auth_user u "
            "JOIN auth_userprofile p ON p.user_id = u.id",
            "external_id": "SELECT u.id, u.username, REPLACE(e.external_user_id, '-', '') FROM auth_user u "
            "JOIN external_user_ids_externalid e ON e.user_id = u.id",
            "course_access": "SELECT u.id, u.username, r.org, r.course_id, r.role FROM auth_user u "
            "JOIN student_courseaccessrole r ON r.user_id = u.id WHERE u.is_active",
        }
        database = self.lms_url.rpartition("/")[2]
        with pymysql.connect(host="127.0.0.1", user="root", database=database) as connection:
            found = {}
            for table, query in queries.items():
                with connection.cursor() as cursor:
                    cursor.execute(query)
                    rows = [tuple("" if v is None else v for v in row) for row in cursor.fetchall()]
                found[table] = Counter(row for row in rows if row[0] not in retired)
        return found

    def read_store(self) -> dict[str, Counter[tuple[Any, ...]]]:
        """What it says, hidden rows left out."""
        columns = {
            "user_profile": "user_id, username, email, name, goals, city",
            "external_id": "user_id, username, replaceAll(toString(external_user_id), '-', '')",
            "course_access": "user_id, username, org, course_key, role",
        }
        return {
            table: Counter(self.store.client.rows(f"SELECT {chosen} FROM $event_sink.{table} FINAL"))
            for table, chosen in columns.items()
        }

    def count_rows_of_retired(self) -> int:
        """Rows of the retired in any table, those included that only files hold."""
        retired = self.people.retired
        return sum(
            self.store.client.value(
                f"SELECT count() FROM $event_sink.{table} WHERE user_id IN {{ids:Array(Int64)}}",
                {"apply_deleted_mask": 0},
                ids=retired,
            )
            for table in ("user_profile", "external_id", "course_access")
        )

    def list_lost(self) -> list[int]:
        """The retired whose retirement is not proved."""
        erased = {retirement.subject for retirement in self.store.ledger.find_erased()}
        return [user for user in self.people.retired if str(user) not in erased]

    def is_current(self) -> bool:
        """True where everybody else is as in the LMS."""
        return self.read_store() == self.read_lms()

    def has_converged(self) -> bool:
        return not self.list_lost() and not self.store.ledger.find_open() and self.is_current()

    def explain(self) -> str:
        """Why it has not; by ids."""
        stored, wanted = self.read_store(), self.read_lms()
        differs = {t: sorted({row[0] for row in (stored[t] - wanted[t]) + (wanted[t] - stored[t])}) for t in stored}
        opened = [(r.subject, r.state, r.detail.get("reason")) for r in self.store.ledger.find_open()]
        logs = "\n".join(process.read_log()[-2500:] for process in (self.worker, self.consumer))
        return f"lost: {self.list_lost()}, open: {opened}, differs from the LMS: {differs}\n{logs}"

    def find_people(self) -> list[str]:
        """Where anybody is named who should not be: logs, receipts, ledger, and what is in Redis."""
        texts = {path.name: path.read_bytes() for path in self.folder.glob("*.log")}
        texts |= {path.name: path.read_bytes() for path in (self.folder / "receipts").glob("*")}
        texts["ledger"] = json.dumps(list(list_written(self.store.client))).encode()
        # The LMS's own events name people; everything else in there is ours.
        streams = [f"{PREFIX}-{topic}" for topic in self.settings.event_bus_topics]
        texts["redis"] = read_redis(self.client, without=streams)
        assert len(texts) >= 5
        return [
            f"{name}: {secret}" for name, text in texts.items() for secret in SECRETS if secret.encode() in text.lower()
        ]

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A command, as an operator types it."""
        return subprocess.run(
            [str(COMMAND), *arguments],
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT),
                **self.environment,
                "ASPECTS_CLICKHOUSE_URL": self.settings.clickhouse_url,
            },
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )


@dataclass
class Lane:
    """Faults that come one after another, with some rest in between."""

    choices: list[Fault]
    random: Random
    _current: Fault | None = None
    _next: int = 8

    def move(self, tick: int) -> str:
        """Begin or end a fault where it is time; the name of one that begins."""
        if tick < self._next:
            return ""
        if self._current is not None:
            self.mend()
            self._next = tick + self.random.randint(4, 14)
            return ""
        self._current = self.random.choice(self.choices)
        self._next = tick + self.random.randint(4, 12)
        self._current.begin()
        return self._current.name

    def mend(self) -> None:
        if self._current is not None:
            self._current.end()
            self._current = None


@contextmanager
def make_database() -> Iterator[str]:
    name = f"aspects_pii_everything_{uuid.uuid4().hex}"
    with pymysql.connect(host="127.0.0.1", user="root") as connection, connection.cursor() as cursor:
        cursor.execute(f"CREATE DATABASE {name} CHARACTER SET utf8mb4")
        try:
            yield name
        finally:
            cursor.execute(f"DROP DATABASE {name}")


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """Everything started, nothing broken yet, and twenty people whom events name by their addresses."""
    document = yaml.safe_load(find_resource("config/pii.yaml").read_text())
    document["targets"].update(ACTORS)
    (tmp_path / "pii.yaml").write_text(yaml.safe_dump(document))
    with ExitStack() as stack:
        database = stack.enter_context(make_database())
        endpoint = stack.enter_context(running(make_endpoint(tmp_path, tmp_path / "clickhouse")))
        broker = stack.enter_context(running(make_redis(tmp_path)))
        to_clickhouse = stack.enter_context(proxied(endpoint.port))
        to_lms = stack.enter_context(proxied(3306))
        url = f"redis://127.0.0.1:{broker.port}/0"
        environment = {
            "ASPECTS_ENABLE_PII": "true",
            "ASPECTS_CLICKHOUSE_URL": f"http://127.0.0.1:{to_clickhouse.port}",
            "ASPECTS_CLICKHOUSE_RETRIES": "1",
            "ASPECTS_CLICKHOUSE_TIMEOUT": "60",
            "ASPECTS_LMS_DATABASE_URL": f"mysql+pymysql://root@127.0.0.1:{to_lms.port}/{database}",
            "ASPECTS_PII_MAP": str(tmp_path / "pii.yaml"),
            "ASPECTS_PSEUDONYM_SECRET": "a secret of the tests",
            "ASPECTS_RECEIPTS_DIR": str(tmp_path / "receipts"),
            "ASPECTS_BROKER_URL": url,
            "ASPECTS_BROKER_VISIBILITY_TIMEOUT": "5",
            "ASPECTS_SWEEP_EVERY": "2",
            "ASPECTS_RECONCILE_EVERY": "3",
            "ASPECTS_SYNC_EVERY": "4",
            "ASPECTS_SYNC_MAX_REMOVED_SHARE": "1",
            "ASPECTS_RETIRE_MAX_SHARE": "1",
            "ASPECTS_EVENT_BUS_URL": url,
            "ASPECTS_EVENT_BUS_TOPIC_PREFIX": PREFIX,
            "ASPECTS_EVENT_CONSUMER": "one",
            "ASPECTS_EVENT_CLAIM_AFTER": "10",
        }
        # The test itself, and the operator at the end, go straight to ClickHouse.
        settings = load_settings(
            clickhouse_url=f"http://127.0.0.1:{endpoint.port}",
            pii_map=tmp_path / "pii.yaml",
            pseudonym_secret="a secret of the tests",
            receipts_dir=tmp_path / "receipts",
            event_bus_topic_prefix=PREFIX,
        )
        tokens = {"ASPECTS_ENABLE_PII": True, "ASPECTS_PII_BROKER_URL": url}
        lms = stack.enter_context(run_lms(tmp_path, name_mariadb(database), tokens=tokens))
        store = stack.enter_context(open_store(settings, creates=True))
        migrations.migrate(store.client)
        client = stack.enter_context(redis.Redis.from_url(url))
        bus = Bus(tmp_path, url)
        stack.callback(bus.kill)
        people = People(lms, bus, Random(SEED))
        rows = [
            (uuid.uuid4(), datetime(2026, 1, n, tzinfo=UTC), json.dumps({"actor": {"mbox": f"mailto:{mail(n)}"}}))
            for n in (people.register() for _ in range(20))
        ]
        store.client.insert(store.client.table("xapi.xapi_events_all"), ["event_id", "emission_time", "event"], rows)
        worker = stack.enter_context(running(make_worker(tmp_path, **environment)))
        consumer = stack.enter_context(running(make_consumer(tmp_path, **environment)))
        yield Site(
            *(tmp_path, settings, store, environment, endpoint, broker, worker, consumer, to_clickhouse, to_lms),
            *(people, f"mysql://127.0.0.1/{database}", client),
        )


@pytest.mark.timeout(1500)
def test_retirements_are_not_lost_and_the_retired_not_back(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    people = site.people
    # Everybody is copied before anything breaks, so that there is something to erase.
    wait_until(lambda: len(site.read_store()["user_profile"]) == 20, site.explain)
    seen = site.live_through(Random(SEED))
    people.finish()
    assert len(people.retired) >= 5
    assert sum(seen.values()) >= SECONDS / 5
    wait_until(site.has_converged, site.explain)
    # Once more, as the driver does when it is run again.
    people.call("retire_misc", people.retired[0])
    people.call("change_profile", people.retired[-1], goals="Canary-Ocelot is back")
    wait_until(lambda: count_waiting(site.client) == 0 and site.has_converged(), site.explain)
    for process in (site.worker, site.consumer):
        process.kill()

    verified = site.run("verify", "--json")
    findings = json.loads(verified.stdout)["findings"]
    named = site.find_people()
    back, lost = site.count_rows_of_retired(), site.list_lost()
    summary = (
        f"users {len(people.here) + len(people.asked) + len(people.retired)}, retired {len(people.retired)}, "
        f"events {people.events + people.bus.sent}, faults {sum(seen.values())}, "
        f"lost {len(lost)}, back {back}, residue {len(findings) + len(named)} (seed {SEED})"
    )
    with capsys.disabled():
        sys.stdout.write(f"\n{summary}\n")
    assert (verified.returncode, findings, named, back, lost) == (0, [], [], 0, []), f"{summary}: {findings}, {named}"
    assert site.is_current()
    receipts = Counter(json.loads(path.read_text())["subject"] for path in (site.folder / "receipts").glob("*.json"))
    assert receipts == {str(user): 1 for user in people.retired}
    requested = {entry.subject for entry in site.store.ledger.show(action="requested", limit=10_000)}
    assert requested == set(map(str, people.retired))
    # Every event is there once, and names nobody who is retired.
    actors = Counter(
        site.store.client.column("SELECT JSONExtractString(event, 'actor', 'mbox') FROM $xapi.xapi_events_all")
    )
    kept = {mail(user) for user in range(1, 21) if user not in people.retired}
    assert sum(actors.values()) == 20
    assert {actor for actor in actors if "canary" in actor} == {f"mailto:{address}" for address in kept}
