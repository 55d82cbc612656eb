"""The consumer on Kafka: librdkafka's own broker for tests, in a process that can be stopped, and the LMS's own producer."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import confluent_kafka
import pytest
from confluent_kafka import KafkaError, TopicPartition
from pydantic import SecretStr
from sqlalchemy import text

import sink
from sink.clickhouse.migrations import migrate
from sink.demo_data.lms_tables import open_writable
from sink.doors.events import kafka_streams
from sink.doors.events.consumer import run_consumer
from sink.doors.events.handling import MessageCounts
from sink.doors.events.kafka_options import make_kafka_options
from sink.doors.events.kafka_streams import KafkaStreams
from sink.errors import AspectsPiiError, SettingsError, StreamsUnreachableError, UsageError
from sink.installation import open_store
from sink.ledger.role_trail import show_changes
from sink.settings import load_settings
from tests.support.authz_rows import grant, write_rules
from tests.support.events import LOGIN, EventPlace, Lms, Producer, consuming, delete_user, end
from tests.support.paths import ROOT
from tests.support.processes import PATIENCE, make_endpoint, name_program, running, wait_until

# The broker for tests lets whoever joins a group that somebody has left wait for a whole session, in milliseconds.
SESSION = 4_000
_numbers = itertools.count(1)


@contextmanager
def run_broker() -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A broker in a process of its own, and its address."""
    process = subprocess.Popen(
        name_program("kafka_broker"),
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        assert address, "the broker did not start"
        yield process, address
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(autouse=True)
def short_session(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka_streams, "SESSION_TIMEOUT_MS", SESSION)


@pytest.fixture(scope="module")
def broker() -> Iterator[str]:
    with run_broker() as (_, address):
        yield address


@dataclass
class Place(EventPlace):
    """One whose events come from Kafka, with topics and a group of its own."""

    number: int = 0
    broker: str = ""
    writer: Any = None
    observer: Any = None

    @property
    def users_topic(self) -> str:
        return f"t{self.number}-learning-user-lifecycle"

    @property
    def jobs(self) -> str:
        return f"jobs-{self.number}"

    @property
    def dead(self) -> str:
        return f"dead-{self.number}"

    def produce(self, *sent: tuple[str, int]) -> None:
        """As the LMS does."""
        self.producer.send(f"t{self.number}", *sent)

    def send(self, topic: str, *values: object, headers: dict[str, bytes] | None = None) -> list[str]:
        """Send to the first partition, so that the order is kept; returns where the messages are."""
        places: list[str] = []

        def note(error: KafkaError | None, message: confluent_kafka.Message) -> None:
            assert error is None
            places.append(f"{message.partition()}:{message.offset()}")

        for value in values:
            body = value if isinstance(value, bytes) else json.dumps(value).encode()
            self.writer.produce(topic, body, partition=0, headers=[*(headers or {}).items()], on_delivery=note)
        assert self.writer.flush(PATIENCE) == 0
        assert len(places) == len(values)
        return places

    def send_job(self, *events: object) -> list[str]:
        return self.send(self.jobs, *events)

    def committed(self, topic: str) -> dict[int, int]:
        """What our group has told Kafka: how far each partition is done; those without a message left out."""
        partitions = self.observer.list_topics(topic, timeout=PATIENCE).topics[topic].partitions
        answers = self.observer.committed([TopicPartition(topic, number) for number in partitions], timeout=PATIENCE)
        return {one.partition: one.offset for one in answers if one.offset > 0}

    def unread(self, topic: str) -> int:
        """Messages that are not done, as Kafka knows it."""
        partitions = self.observer.list_topics(topic, timeout=PATIENCE).topics[topic].partitions
        done = self.committed(topic)
        ends = {
            n: self.observer.get_watermark_offsets(TopicPartition(topic, n), timeout=PATIENCE)[1] for n in partitions
        }
        return sum(end - done.get(number, 0) for number, end in ends.items())

    def dead_letters(self) -> list[dict[str, str]]:
        """Everything in the topic of dead letters, in the order of its writing."""
        reader = confluent_kafka.Consumer(
            {"bootstrap.servers": self.broker, "group.id": "a look", "enable.partition.eof": True}
        )
        try:
            partitions = reader.list_topics(self.dead, timeout=PATIENCE).topics[self.dead].partitions
            reader.assign([TopicPartition(self.dead, number, 0) for number in partitions])
            found: list[tuple[int, dict[str, str]]] = []
            ends = 0
            while ends < len(partitions):
                for message in reader.consume(100, 1):
                    error = message.error()
                    if error is None:
                        found.append((message.timestamp()[1], json.loads(message.value() or b"")))
                    else:
                        assert error.name() == "_PARTITION_EOF"
                        ends += 1
            return [letter for _, letter in sorted(found, key=lambda one: one[0])]
        finally:
            reader.close()


@pytest.fixture(scope="module")
def producer(broker: str) -> Iterator[Producer]:
    """The LMS's own."""
    with Producer("kafka_producer.py", broker) as producer:
        yield producer


@pytest.fixture
def place(broker: str, clickhouse: str, lms: Lms, producer: Producer, tmp_path: Path) -> Iterator[Place]:
    number = next(_numbers)
    values: dict[str, Any] = {
        "enable_pii": "true",
        "clickhouse_url": clickhouse,
        "clickhouse_retries": "0",
        "receipts_dir": str(tmp_path / "receipts"),
        "lms_database_url": lms.url,
        "kafka_bootstrap_servers": broker,
        "event_bus_topic_prefix": f"t{number}",
        "event_streams": f"jobs-{number}",
        "event_group": f"group-{number}",
        "event_dead_letters": f"dead-{number}",
        "event_consumer": "one",
    }
    settings = load_settings(**values)
    writer = _write_to(broker)
    with open_store(settings) as store:
        environment = {f"ASPECTS_{key.upper()}": value for key, value in values.items()}
        # Of the group by name only: it never joins.
        observer = confluent_kafka.Consumer(
            {"bootstrap.servers": broker, "group.id": settings.event_group, "log_level": 0}
        )
        yield Place(settings, store, lms, producer, environment, number, broker, writer, observer)
        observer.close()


def test_roles_of_openedx_authz_come_as_avro_and_as_json(place: Place, tmp_path: Path) -> None:
    """Both say by name whose role it is; the LMS knows the id."""
    file = tmp_path / "lms.db"
    shutil.copy(place.lms.file, file)
    engine = open_writable(f"sqlite:///{file}")
    course = "course-v1:Org+Course+Run"
    with engine.begin() as connection:
        connection.execute(text("UPDATE auth_user SET username = 'zaphod' || id WHERE id IN (7, 8)"))
        write_rules(connection, *(grant(n, f"zaphod{n}", "course_staff", course) for n in (7, 8)))
    engine.dispose()
    place.produce(("assigned", 7), ("role added", 7))
    role = {"subject": "user^zaphod8", "role": "role^course_staff", "scope": f"course-v1^{course}", "actor_id": None}
    place.send_job(
        {
            "type": "org.openedx.authz.role_assignment.created",
            "id": str(uuid.uuid4()),
            "time": "2026-11-29T01:32:18.711188+00:00",
            "data": {"role_assignment": {"operation": "created", **role}},
        }
    )
    assert place.consume(lms_database_url=SecretStr(f"sqlite:///{file}")) == MessageCounts(read=3, synced=3)
    assert place.users("course_access") == [7, 8]
    changes = show_changes(place.store.client, scope=course)
    assert sorted((c.subject, c.role, c.source, c.done_by) for c in changes) == [
        ("7", "staff", "openedx-authz", "1"),
        ("8", "staff", "openedx-authz", "system"),
    ]
    assert place.dead_letters() == []


def test_events_of_the_lms_bring_the_user_and_the_roles(place: Place) -> None:
    instructor = next(iter(place.lms.made.instructors.values()))
    # Before the group exists: what was sent while no consumer ran counts too.
    place.produce(("registration", 1), ("login", 2), ("role added", instructor), ("passing status", 3))
    place.send_job(delete_user(40, 41))
    assert place.consume() == MessageCounts(read=5, synced=3, skipped=1, retired=1)
    assert place.users() == [1, 2]
    assert place.users("external_id") == [1, 2]
    roles = place.users("course_access")
    assert roles
    assert set(roles) == {instructor}
    assert place.states() == {"40": "erased", "41": "erased"}
    assert place.dead_letters() == []
    assert (place.unread(place.users_topic), place.unread(place.jobs)) == (0, 0)
    # An old event after the retirement, and what was done is done.
    place.send_job(delete_user(1))
    place.produce(("login", 1))
    assert place.consume() == MessageCounts(read=2, synced=1, retired=1)
    assert place.users() == [2]


def test_a_message_that_cannot_be_read_becomes_a_dead_letter_without_content(place: Place) -> None:
    place.produce(("login", 1))
    header, good = _find_event(place)
    assert b"zaphod1@example.com" in good
    assert good.startswith(b"\0")
    events = {
        "it is longer than the pinned schema says": good + b"\x02x",
        "it is not Avro of the pinned schema": good[:-3],
        "user.id is not an id": good[:5] + b"\0" + good[6:],
        "it is not framed": b"\x01" + good[1:],
        "it is not framed ": good[:5],
        "it is not framed  ": b"",
    }
    places = place.send(place.users_topic, *events.values(), headers=header)
    places += place.send(place.users_topic, good, headers={"zaphod1@example.com": b"Zaphod"})
    events["the header `ce_type` is missing"] = good
    jobs = {
        "it is not a JSON object": b"Zaphod Beeblebrox",
        "object.type is not User": delete_user(1, object={"id": "1", "type": "Zaphod"}),
        "edata.userId is not an id": delete_user("zaphod@example.com"),
        "edata.managed_users: 1 of 2 are not ids": delete_user(6, 7, "Zaphod"),
    }
    job_places = place.send_job(*jobs.values())
    place.send_job({"eid": "AUDIT", "edata": {"userId": 5}})
    counts = place.consume()
    assert (counts.read, counts.synced, counts.skipped, counts.buried, counts.retired) == (13, 1, 1, 11, 1)
    assert place.users() == [1]
    # What is certain was done.
    assert place.states() == {"6": "erased", "7": "erased"}
    letters = place.dead_letters()
    assert len(letters) == 11
    by_place = {(letter["stream"], letter["entry"]): letter for letter in letters}
    for where, reason in zip(places, events, strict=True):
        assert by_place[place.users_topic, where]["reason"].startswith(reason.strip())
    for where, reason in zip(job_places, jobs, strict=True):
        assert by_place[place.jobs, where]["reason"].startswith(reason)
    first = by_place[place.users_topic, places[0]]
    assert (first["type"], first["id"], first["time"]) == (
        LOGIN,
        header["ce_id"].decode(),
        header["ce_time"].decode(),
    )
    assert set().union(*letters) == {"stream", "entry", "reason", "bytes", "consumer", "type", "id", "time"}
    assert "zaphod" not in json.dumps(letters).lower()
    assert place.consume() == MessageCounts()


def _find_event(place: Place) -> tuple[dict[str, bytes], bytes]:
    """The headers and the value of what the LMS sent first."""
    reader = confluent_kafka.Consumer(
        {"bootstrap.servers": place.broker, "group.id": "another look", "auto.offset.reset": "earliest"}
    )
    try:
        reader.subscribe([place.users_topic])
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            message = reader.poll(1)
            if message is not None and message.error() is None:
                return dict(message.headers() or []), message.value() or b""  # type: ignore[arg-type]
        pytest.fail("nothing was sent")
    finally:
        reader.close()


def test_events_store_nothing_while_pii_is_off(place: Place) -> None:
    place.produce(("registration", 1), ("login", 2))
    place.send_job(delete_user(7))
    counts = place.consume(enable_pii=False, lms_database_url=None)
    assert counts == MessageCounts(read=3, off=2, retired=1)
    assert place.users() == []
    assert place.states() == {"7": "erased"}


def test_offset_stops_at_a_message_that_failed(place: Place, tmp_path: Path) -> None:
    """Kafka remembers one number a partition: it must not pass a message that is not done."""
    (tmp_path / "events.yaml").write_text(
        "version: 1\nevents:\n"
        "  changed: {when: {type: changed}, action: sync, subject: id}\n"
        "  closed: {when: {type: closed}, action: retire, subject: id}\n"
    )
    place.send_job({"type": "other"}, {"type": "changed", "id": 4}, {"type": "closed", "id": 5}, {"type": "other"})
    lost = load_settings(
        **dict(place.settings)
        | {"lms_database_url": "sqlite:////nonexistent/lms.db", "event_map": tmp_path / "events.yaml"}
    )
    counts = run_consumer(lost, once=True)
    assert (counts.read, counts.retired, counts.synced, counts.failed) == (4, 1, 0, 1)
    # Retirements do not wait for the LMS.
    assert place.states() == {"5": "erased"}
    assert place.committed(place.jobs) == {0: 1}
    counts = place.consume(event_map=tmp_path / "events.yaml")
    assert (counts.read, counts.retired, counts.synced) == (3, 1, 1)
    assert place.users() == [4]
    assert place.committed(place.jobs) == {0: 4}
    assert place.count_requests() == 1


def test_a_clickhouse_that_goes_away_and_comes_back_is_waited_for(
    place: Place, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The same process goes on, and tries again in growing intervals."""
    engine = make_endpoint(tmp_path, tmp_path / "served")
    settings = load_settings(**dict(place.settings) | {"clickhouse_url": f"http://127.0.0.1:{engine.port}"})
    with running(engine), open_store(settings, creates=True) as store:
        migrate(store.client)
    place.produce(("login", 1), ("login", 2))
    place.send_job(delete_user(3))
    with consuming(settings) as counted:
        wait_until(lambda: caplog.text.count("events failed, again in") >= 3)
        with running(engine), open_store(settings) as store:
            wait_until(lambda: [r.state for r in store.ledger.find([3])] == ["erased"])
            count = "SELECT count() FROM $event_sink.user_profile"
            wait_until(lambda: store.client.value(count) == 2)
            wait_until(lambda: place.unread(place.users_topic) + place.unread(place.jobs) == 0)
    assert (counted[0].synced, counted[0].retired, counted[0].buried) == (2, 1, 0)
    assert counted[0].failed >= 2


def test_killed_consumers_lose_nothing_and_double_nothing(place: Place) -> None:
    """Of two that share the work one is killed, then the other, at different points of a batch; a third finishes."""
    everybody = list(range(1, 41))
    place.environment["ASPECTS_EVENT_BATCH_SIZE"] = "3"
    place.produce(*[("login", user_id) for user_id in everybody])
    place.send_job(*[delete_user(user_id) for user_id in everybody[34:]])
    with ExitStack() as stack:
        running_now = []
        for name in ("one", "two"):
            running_now.append(place.start(SESSION, ASPECTS_EVENT_CONSUMER=name))
            stack.callback(running_now[-1].kill)
        for delay, process in zip((0.0, 0.1), running_now, strict=True):
            before = len(place.users())
            wait_until(lambda: len(place.users()) > before)  # noqa: B023 - asked at once
            time.sleep(delay)
            process.send_signal(signal.SIGKILL)
            process.communicate()
        assert place.unread(place.users_topic) > 0
        process = place.start(SESSION, ASPECTS_EVENT_CONSUMER="three")
        stack.callback(process.kill)
        wait_until(lambda: place.unread(place.users_topic) + place.unread(place.jobs) == 0)
        wait_until(lambda: place.states() == {str(user_id): "erased" for user_id in everybody[34:]})
        said = end(process)
    place.check_nobody_is_doubled(everybody[:34])
    assert place.count_requests() == 6
    assert place.dead_letters() == []
    assert "example.com" not in said
    # SIGTERM has left the group in order: nothing is read twice.
    assert place.consume() == MessageCounts()


def test_a_kafka_that_hangs_is_waited_for_and_one_that_is_gone_is_reported(place: Place) -> None:
    with run_broker() as (process, address), Producer("kafka_producer.py", address) as producer:
        settings = load_settings(**dict(place.settings) | {"kafka_bootstrap_servers": address})
        away = dataclasses.replace(place, broker=address, producer=producer)
        away.produce(("login", 1))
        with consuming(settings) as counted:
            wait_until(lambda: place.users() == [1])
            process.send_signal(signal.SIGSTOP)
            # Longer than a session.
            time.sleep(1.5 * SESSION / 1_000)
            process.send_signal(signal.SIGCONT)
            away.produce(("login", 2))
            wait_until(lambda: place.users() == [1, 2])
        assert counted[0].buried == 0
    with pytest.raises(AspectsPiiError, match="Kafka cannot be reached"):
        run_consumer(settings, once=True)


def _write_to(address: str) -> confluent_kafka.Producer:
    return confluent_kafka.Producer({"bootstrap.servers": address, "log_level": 0})


def test_a_dead_letter_that_cannot_be_written_leaves_the_message(place: Place) -> None:
    place.send_job(b"Zaphod")
    streams = KafkaStreams(
        make_kafka_options(place.settings), [place.jobs], group="of its own", consumer="one", dead_letters=place.dead
    )
    streams.prepare()
    try:
        found: list[Any] = []
        deadline = time.monotonic() + PATIENCE
        while not found and time.monotonic() < deadline:
            found = streams.read_new(10, 1)
        # More than a message may have: Kafka refuses it.
        with pytest.raises(StreamsUnreachableError, match="Kafka"):
            streams.send_to_dead_letters(found[0], "of the test", {"type": "x" * 2_000_000})
        assert list(streams.read_unfinished(10)) == [found]
        streams.send_to_dead_letters(found[0], "of the test", {})
        assert list(streams.read_unfinished(10)) == []
    finally:
        streams.close()
    assert [letter["reason"] for letter in place.dead_letters()] == ["of the test"]


def test_the_command_names_the_extra_that_is_missing(
    aspects_pii: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "confluent_kafka", None)
    monkeypatch.delitem(sys.modules, "sink.doors.events.kafka_streams", raising=False)
    monkeypatch.delattr(sink, "event_kafka", raising=False)
    ran = aspects_pii("consume", "--once", KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:9")
    assert ran.status == 2
    assert "pip install 'aspects-pii-sink[kafka]'" in ran.err


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"event_bus_url": "redis://127.0.0.1:9/0"}, UsageError, "run one for each"),
        ({"kafka_security_protocol": "SASL_SSL"}, SettingsError, "SASL needs both"),
        ({"kafka_password": "hunter2", "kafka_username": "u"}, SettingsError, "go with SASL"),
        ({"kafka_security_protocol": "SSL", "kafka_ca_file": "/nowhere.pem"}, SettingsError, "no such file"),
        ({"kafka_bootstrap_servers": None}, UsageError, "ASPECTS_KAFKA_BOOTSTRAP_SERVERS"),
    ],
)
def test_settings_that_cannot_work_are_refused(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    values = {"kafka_bootstrap_servers": "127.0.0.1:9", "lms_database_url": "sqlite:///no.db"}
    with pytest.raises(error, match=message) as raised:
        run_consumer(load_settings(**values | changes), once=True)
    assert "hunter2" not in str(raised.value)
