"""The consumer against real Redis, with the LMS's own producer, the engine behind HTTP, and real kills."""

from __future__ import annotations

import json
import shutil
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from sink.copying.sync import sync
from sink.demo_data.lms_tables import open_writable
from sink.doors.events.consumer import run_consumer
from sink.doors.events.handling import MessageCounts
from sink.doors.events.redis_streams import RedisStreams
from sink.errors import AspectsPiiError, SettingsError, StreamsUnreachableError, UsageError
from sink.installation import open_store
from sink.ledger.entries import Ledger
from sink.ledger.role_trail import show_changes
from sink.resources import find_resource
from sink.retirement.retire import work_off
from sink.settings import load_settings
from sink.store import Store
from tests.support.authz_rows import grant, write_rules
from tests.support.events import LOGIN, EventPlace, Lms, Producer, consuming, delete_user, end, transfer
from tests.support.processes import wait_until
from tests.support.redis_server import emptied, name_database

pytestmark = pytest.mark.redis

URL = name_database(15)
USERS = "test-learning-user-lifecycle"
ROLES = "test-learning-course-access-role-lifecycle"
ASSIGNMENTS = "test-authz-role-assignment-lifecycle"
JOBS = "jobs"
DEAD = "aspects-pii-dead-letters"


@dataclass
class Place(EventPlace):
    """One whose events come from Redis."""

    redis: Any = None

    def produce(self, *sent: tuple[str, int]) -> None:
        self.producer.send("test", *sent)

    def send_job(self, event: Any) -> str:
        body = event if isinstance(event, bytes) else json.dumps(event).encode()
        return str(self.redis.xadd(JOBS, {"event": body}).decode())

    def waiting(self, stream: str) -> int:
        """Entries that are not acknowledged, read or not."""
        group = self.redis.xinfo_groups(stream)[0]
        unread = self.redis.xrange(stream, b"(" + group["last-delivered-id"], "+")
        return int(group["pending"]) + len(unread)

    def dead_letters(self) -> list[dict[str, str]]:
        return [
            {name.decode(): value.decode() for name, value in fields.items()}
            for _, fields in self.redis.xrange(DEAD, "-", "+")
        ]


@pytest.fixture(scope="module")
def producer() -> Iterator[Producer]:
    """The LMS's own."""
    with Producer("redis_producer.py", URL) as producer:
        yield producer


@pytest.fixture
def place(clickhouse: str, lms: Lms, producer: Producer, tmp_path: Path) -> Iterator[Place]:
    shutil.copy(lms.file, tmp_path / "lms.db")
    values: dict[str, Any] = {
        "enable_pii": "true",
        "clickhouse_url": clickhouse,
        "clickhouse_retries": "0",
        "receipts_dir": str(tmp_path / "receipts"),
        "lms_database_url": f"sqlite:///{tmp_path}/lms.db",
        "event_bus_url": URL,
        "event_bus_topic_prefix": "test",
        "event_streams": JOBS,
        "event_consumer": "one",
    }
    settings = load_settings(**values)
    with emptied(URL) as connection, open_store(settings) as store:
        environment = {f"ASPECTS_{key.upper()}": value for key, value in values.items()}
        yield Place(settings, store, Lms(values["lms_database_url"], lms.made), producer, environment, connection)


def wait_for_progress(place: Place) -> None:
    before = len(place.users())
    wait_until(lambda: len(place.users()) > before)


def test_events_of_the_lms_bring_the_user_and_the_roles(place: Place) -> None:
    instructor = next(iter(place.lms.made.instructors.values()))
    # Before the group exists: what was sent while no consumer ran counts too.
    place.produce(("registration", 1), ("login", 2), ("role added", instructor), ("passing status", 3))
    counts = place.consume()
    assert counts == MessageCounts(read=4, synced=3, skipped=1)
    assert place.users() == [1, 2]
    assert place.users("external_id") == [1, 2]
    roles = place.users("course_access")
    assert roles
    assert set(roles) == {instructor}
    assert (place.waiting(USERS), place.waiting(ROLES), place.dead_letters()) == (0, 0, [])
    assert place.consume() == MessageCounts()


def test_a_role_that_was_taken_away_goes(place: Place) -> None:
    instructor = next(iter(place.lms.made.instructors.values()))
    place.produce(("role added", instructor))
    place.consume()
    assert place.users("course_access")
    _execute(place.lms.file, "DELETE FROM student_courseaccessrole")
    place.produce(("role removed", instructor))
    place.consume()
    assert place.users("course_access") == []


COURSE = "course-v1:Org+Course+Run"


def use_authz(place: Place, *user_ids: int) -> None:
    """These people are called as the producer calls them, and are staff of its course by openedx-authz's rules."""
    for user_id in user_ids:
        _execute(place.lms.file, f"UPDATE auth_user SET username = 'zaphod{user_id}' WHERE id = {user_id}")
    engine = open_writable(place.lms.url)
    with engine.begin() as connection:
        write_rules(connection, *(grant(user_id, f"zaphod{user_id}", "course_staff", COURSE) for user_id in user_ids))
    engine.dispose()


def list_roles(place: Place) -> list[tuple[Any, ...]]:
    changes = show_changes(place.store.client, scope="*")
    return [(c.subject, c.operation, c.role, c.scope, c.source, c.done_by) for c in changes]


def test_roles_of_openedx_authz_are_copied_and_kept_in_the_audit_trail(place: Place) -> None:
    use_authz(place, 7)
    # As an LMS since Verawood sends them: by openedx-authz with who did it, and once more without.
    place.produce(("assigned", 7), ("role added", 7))
    assert place.consume() == MessageCounts(read=2, synced=2)
    rows = place.store.client.rows("SELECT user_id, org, course_key, role FROM $event_sink.course_access")
    assert rows == [(7, "Org", COURSE, "staff")]
    given = ("7", "given", "staff", COURSE, "openedx-authz", "1")
    assert list_roles(place) == [given]

    _execute(place.lms.file, "DELETE FROM casbin_rule")
    place.produce(("role removed", 7), ("unassigned", 7))
    place.consume()
    assert place.users("course_access") == []
    assert list_roles(place) == [given, ("7", "taken", "staff", COURSE, "openedx-authz", "1")]
    assert (place.waiting(ASSIGNMENTS), place.waiting(ROLES), place.dead_letters()) == (0, 0, [])


def test_a_role_of_the_lms_is_kept_without_who_did_it(place: Place) -> None:
    place.produce(("role added", 7), ("role removed", 7))
    place.consume()
    assert list_roles(place) == [
        ("7", "given", "staff", COURSE, "course_access_role", "unknown"),
        ("7", "taken", "staff", COURSE, "course_access_role", "unknown"),
    ]


def test_the_audit_trail_holds_an_id_and_no_name_of_whoever_was_erased(place: Place) -> None:
    use_authz(place, 7)
    place.produce(("login", 7), ("assigned", 7))
    place.consume()
    before = list_roles(place)
    place.store.ledger.request([7])
    assert all(outcome.is_done for outcome in work_off(place.store, place.store.ledger.find([7])))
    # It tells of the retirement, too: by a name that the account had until then.
    place.produce(("unassigned", 7))
    place.consume()
    assert [line[:2] for line in list_roles(place)] == [("7", "given"), ("7", "taken")]
    assert list_roles(place)[0] == before[0]
    texts = place.store.client.rows("SELECT toString(tuple(*)) FROM $pii_ledger.role_assignments")
    assert len(texts) == 2
    assert not any("zaphod" in text for (text,) in texts)


def test_a_name_that_the_lms_does_not_know_is_passed_over_and_not_logged(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    place.produce(("assigned", 9_999), ("login", 2))
    assert place.consume() == MessageCounts(read=2, synced=2)
    assert place.users() == [2]
    assert list_roles(place) == []
    assert "somebody whom the LMS does not know" in caplog.text
    assert "zaphod" not in caplog.text


def test_an_audit_trail_that_cannot_be_written_stops_nothing_else(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    use_authz(place, 7)
    place.store.client.execute("DROP TABLE $pii_ledger.role_assignments")
    place.produce(("assigned", 7), ("login", 2))
    assert place.consume() == MessageCounts(read=2, synced=2)
    assert place.users("course_access") == [7]
    assert place.users() == [2]
    assert "1 changes of roles are not in the audit trail" in caplog.text


@pytest.mark.parametrize("lms_url", ["as it is", None])
def test_the_audit_trail_is_kept_while_pii_is_off(place: Place, lms_url: str | None) -> None:
    """It holds ids. Without an LMS nobody knows whose a name is."""
    use_authz(place, 7)
    place.produce(("assigned", 7), ("role added", 8))
    counts = place.consume(enable_pii=False, **({} if lms_url else {"lms_database_url": None}))
    assert counts == (MessageCounts(read=2, synced=2) if lms_url else MessageCounts(read=2, synced=1, off=1))
    assert {line[0] for line in list_roles(place)} == ({"7", "8"} if lms_url else {"8"})


def _execute(file: Path, sql: str) -> None:
    connection = sqlite3.connect(file)
    with connection:
        connection.execute(sql)
    connection.close()


def test_events_about_one_user_are_one_copy(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    copied: list[Sequence[int]] = []

    def count(*arguments: Any, **options: Any) -> Any:
        copied.append(options["user_ids"])
        return sync(*arguments, **options)

    monkeypatch.setattr("sink.doors.events.actions.sync", count)
    place.produce(*[("login", 5)] * 60)
    assert place.consume().synced == 60
    assert copied == [[5]]
    assert place.users() == [5]


def test_a_message_that_cannot_be_read_becomes_a_dead_letter_without_content(place: Place) -> None:
    place.produce(("login", 1))
    good = place.redis.xrange(USERS, "-", "+")[0][1]
    data = good[b"event_data"]
    assert b"zaphod1@example.com" in data
    assert data.startswith(b"\x02\x01")
    broken = {
        "longer": {**good, b"event_data": data + b"\x02x"},
        "not Avro": {**good, b"event_data": data[:-3]},
        "user.id is not an id": {**good, b"event_data": b"\x00" + data[1:]},
        "`event_data` is missing": {name: value for name, value in good.items() if name != b"event_data"},
        "`type` is missing": {name: value for name, value in good.items() if name != b"type"},
        "`type` is missing ": {b"zaphod1@example.com": b"Zaphod"},
        "not Avro ": {**good, b"event_data": b"\xff" * 40, b"id": b"Zaphod", b"time": b"Zaphod"},
    }
    ids = [place.redis.xadd(USERS, fields).decode() for fields in broken.values()]
    counts = place.consume()
    assert (counts.read, counts.synced, counts.buried) == (8, 1, 7)
    assert place.users() == [1]
    assert place.waiting(USERS) == 0
    letters = place.dead_letters()
    assert [letter["entry"] for letter in letters] == ids
    for letter, reason in zip(letters, broken, strict=True):
        assert reason.strip() in letter["reason"]
        assert letter["stream"] == USERS
    assert letters[0]["type"] == LOGIN
    assert letters[0]["id"] == good[b"id"].decode()
    assert letters[0]["time"] == good[b"time"].decode()
    assert set().union(*letters) == {"stream", "entry", "reason", "bytes", "consumer", "type", "id", "time"}
    assert "zaphod" not in json.dumps(letters).lower()


def test_events_store_nothing_while_pii_is_off(place: Place) -> None:
    place.produce(("registration", 1), ("login", 2))
    place.send_job(delete_user(7))
    counts = place.consume(enable_pii=False, lms_database_url=None)
    assert counts == MessageCounts(read=3, off=2, retired=1)
    assert place.users() == []
    assert place.waiting(USERS) == 0
    assert place.states() == {"7": "erased"}


def test_roles_come_without_a_name_while_pii_is_off(place: Place) -> None:
    instructor = next(iter(place.lms.made.instructors.values()))
    place.produce(("registration", 1), ("login", instructor), ("role added", instructor))
    # A login may come with a new role, too.
    assert place.consume(enable_pii=False) == MessageCounts(read=3, synced=3)
    held = place.users("course_access_keyed")
    assert held
    assert set(held) == {instructor}
    assert (place.users(), place.users("external_id"), place.users("course_access")) == ([], [], [])
    assert (place.waiting(USERS), place.waiting(ROLES), place.dead_letters()) == (0, 0, [])


def test_an_event_from_before_the_retirement_brings_nobody_back(place: Place) -> None:
    place.produce(("login", 1), ("login", 2))
    place.consume()
    place.send_job(delete_user(1))
    place.produce(("login", 1))
    place.consume()
    assert place.users() == [2]
    place.produce(("registration", 1))
    assert place.consume().synced == 1
    assert place.users() == [2]


def test_a_failure_that_passes_leaves_the_messages_to_be_tried_again(place: Place) -> None:
    place.produce(("login", 1), ("login", 2))
    place.send_job(delete_user(3))
    counts = place.consume(clickhouse_url="http://127.0.0.1:9")
    assert (counts.synced, counts.retired, counts.failed) == (0, 0, 2)
    assert (place.waiting(USERS), place.waiting(JOBS)) == (2, 1)
    assert place.dead_letters() == []
    counts = place.consume()
    assert (counts.synced, counts.retired) == (2, 1)
    assert place.users() == [1, 2]
    assert place.states() == {"3": "erased"}
    assert (place.waiting(USERS), place.waiting(JOBS)) == (0, 0)


def test_retirements_do_not_wait_for_the_lms(place: Place) -> None:
    place.produce(("login", 1))
    place.send_job(delete_user(3))
    lost = load_settings(**dict(place.settings) | {"lms_database_url": "sqlite:////nonexistent/lms.db"})
    counts = run_consumer(lost, once=True)
    assert (counts.retired, counts.synced, counts.failed) == (1, 0, 1)
    assert place.states() == {"3": "erased"}
    assert place.waiting(USERS) == 1


def test_entries_that_another_consumer_left_are_taken_over(place: Place) -> None:
    place.consume()
    place.produce(("login", 1), ("login", 2), ("login", 3))
    place.redis.xreadgroup("aspects-pii", "dead", {USERS: ">"}, count=2)
    place.redis.xdel(USERS, place.redis.xrange(USERS, "-", "+", count=1)[0][0])
    counts = place.consume()
    # What was deleted from the stream can be reported at once; the other may still be at work.
    assert (counts.synced, counts.buried) == (1, 1)
    assert place.waiting(USERS) == 1
    time.sleep(0.1)
    counts = place.consume(event_claim_after=0.05)
    assert (counts.synced, counts.buried) == (1, 0)
    assert place.users() == [2, 3]
    assert "trimmed" in place.dead_letters()[0]["reason"]
    assert place.waiting(USERS) == 0


def test_a_killed_consumer_loses_nothing_and_doubles_nothing(place: Place) -> None:
    everybody = list(range(1, 101))
    place.environment["ASPECTS_EVENT_BATCH_SIZE"] = "10"
    place.produce(*[("login", user_id) for user_id in everybody])
    for user_id in range(91, 101):
        place.send_job(delete_user(user_id))
    for kill in range(2):
        process = place.start()
        wait_for_progress(place)
        # In the middle of a batch, at different points of it.
        time.sleep(0.1 * kill)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert place.waiting(USERS) > 0
    process = place.start()
    wait_until(lambda: place.waiting(USERS) == 0 and place.waiting(JOBS) == 0)
    said = end(process)
    place.check_nobody_is_doubled(everybody[:90])
    assert place.states() == {str(user_id): "erased" for user_id in range(91, 101)}
    assert place.count_requests() == 10
    assert place.dead_letters() == []
    assert "example.com" not in said


def test_a_flushed_redis_is_set_up_again(place: Place) -> None:
    with consuming(place.settings) as counted:
        wait_until(lambda: place.redis.exists(USERS))
        place.redis.flushdb()
        place.produce(("login", 4))
        wait_until(lambda: place.users() == [4])
    assert counted[0].synced == 1


def test_deleted_users_are_retired_with_those_they_managed(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.produce(*[("login", user_id) for user_id in range(1, 9)])
    place.consume()
    assert len(place.users()) == 8
    batches: list[int] = []

    def count(store: Store, retirements: Sequence[Any]) -> Any:
        batches.append(len(retirements))
        return work_off(store, retirements)

    monkeypatch.setattr("sink.doors.events.actions.work_off", count)
    place.send_job(delete_user("1", "2", 3))
    place.send_job(delete_user(4))
    place.send_job(delete_user(4))
    assert place.consume().retired == 3
    assert place.users() == [5, 6, 7, 8]
    assert place.states() == dict.fromkeys("1234", "erased")
    assert batches == [4]
    assert place.waiting(JOBS) == 0


def list_steps(place: Place, monkeypatch: pytest.MonkeyPatch, jobs: int) -> list[tuple[str, int]]:
    """What a consumer of small batches does with so many deleted users, in order, and with how many of them."""
    steps: list[tuple[str, int]] = []
    request = Ledger.request

    def note_request(ledger: Ledger, subjects: Sequence[Any], actor: str | None = None) -> Any:
        steps.append(("recorded", len(subjects)))
        return request(ledger, subjects, actor)

    def note_erasure(store: Store, retirements: Sequence[Any]) -> Any:
        steps.append(("erased", len(retirements)))
        return work_off(store, retirements)

    monkeypatch.setattr(Ledger, "request", note_request)
    monkeypatch.setattr("sink.doors.events.actions.work_off", note_erasure)
    for user_id in range(1, jobs + 1):
        place.send_job(delete_user(user_id))
    assert place.consume(event_batch_size=3).retired == jobs
    assert place.states() == {str(user_id): "erased" for user_id in range(1, jobs + 1)}
    return steps


def test_who_waits_is_recorded_first_and_then_erased_together(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    # The last batch is a full one, so that only the next reading shows that nobody waits any more.
    assert list_steps(place, monkeypatch, 9) == [("recorded", 3)] * 3 + [("erased", 9)]


def test_nobody_waits_for_a_copy_to_be_erased(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []

    def note(step: str) -> Callable[..., list[Any]]:
        def act(*_: Any, **__: Any) -> list[Any]:
            steps.append(step)
            return []

        return act

    monkeypatch.setattr("sink.doors.events.actions.work_off", note("erased"))
    monkeypatch.setattr("sink.doors.events.actions.sync", note("copied"))
    place.send_job(delete_user(1))
    place.send_job(delete_user(2))
    place.produce(("login", 3))
    place.consume(event_batch_size=2)
    assert steps == ["erased", "copied"]


@pytest.mark.parametrize(("bound", "value"), [("RECORD_FIRST_SECONDS", -1.0), ("MOST_TOGETHER", 3)])
def test_nobody_waits_long_to_be_erased(
    place: Place, monkeypatch: pytest.MonkeyPatch, bound: str, value: float
) -> None:
    monkeypatch.setattr(f"sink.doors.events.handling.{bound}", value)
    assert list_steps(place, monkeypatch, 6) == [("recorded", 3), ("erased", 3)] * 2


def test_a_consumer_killed_while_it_records_loses_nobody(place: Place) -> None:
    everybody = list(range(1, 301))
    for user_id in everybody:
        place.send_job(delete_user(user_id))
    place.environment["ASPECTS_EVENT_BATCH_SIZE"] = "2"
    process = place.start()
    wait_until(place.count_requests, pause=0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert 0 < place.count_requests() < 300
    assert "erased" not in place.states().values()
    place.environment["ASPECTS_EVENT_BATCH_SIZE"] = "500"
    process = place.start()
    wait_until(lambda: place.states() == {str(user_id): "erased" for user_id in everybody}, pause=1.0)
    end(process)
    assert place.count_requests() == 300
    assert place.waiting(JOBS) == 0


def test_who_was_recorded_is_erased_although_redis_is_gone(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    for user_id in (1, 2):
        place.send_job(delete_user(user_id))
    read = RedisStreams.read_new
    read_before: list[int] = []

    def read_once(streams: RedisStreams, count: int, wait_seconds: float) -> Any:
        if read_before:
            raise StreamsUnreachableError("Redis cannot be reached")
        read_before.append(count)
        return read(streams, count, wait_seconds)

    monkeypatch.setattr(RedisStreams, "read_new", read_once)
    with pytest.raises(StreamsUnreachableError):
        place.consume(event_batch_size=2)
    assert place.states() == {"1": "erased", "2": "erased"}


def test_invalid_json_events_are_skipped_counted_and_dead_letters(place: Place) -> None:
    wrong = {
        "it is not a JSON object": b"Zaphod Beeblebrox",
        "object.type is not User": delete_user(1, object={"id": "1", "type": "Zaphod"}),
        "edata.userId is not an id": delete_user("  "),
        "edata.userId is not an id ": delete_user("zaphod@example.com"),
        "edata.managed_users: 1 of 2 are not ids": delete_user(6, 7, "Zaphod"),
        "edata.toUserProfile.lastName is empty": transfer(1, 2, lastName=" "),
        "edata.toUserProfile.roles is empty": transfer(1, 2, roles=[]),
    }
    ids = [place.send_job(event) for event in wrong.values()]
    place.send_job({"eid": "AUDIT", "edata": {"userId": 5}})
    place.redis.xadd(JOBS, {"something": "Zaphod"})
    counts = place.consume()
    assert (counts.read, counts.skipped, counts.buried, counts.retired) == (9, 1, 8, 1)
    letters = place.dead_letters()
    # The message with one wrong managed account is done first; its letter says what is missing.
    assert sorted(letter["entry"] for letter in letters)[: len(ids)] == sorted(ids)
    by_entry = {letter["entry"]: letter for letter in letters}
    for entry, reason in zip(ids, wrong, strict=True):
        assert by_entry[entry]["reason"].startswith(reason.strip())
    assert by_entry[ids[1]]["type"] == "delete-user"
    assert "zaphod" not in json.dumps(letters).lower()
    # What is certain was done.
    assert place.states() == {"6": "erased", "7": "erased"}
    assert place.waiting(JOBS) == 0


def test_ownership_is_handed_over(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    monkeypatch.setattr("sink.doors.events.actions.reassign", lambda store, *a, **k: calls.append((a, k)))
    place.send_job(transfer("11", 12))
    place.send_job(delete_user(11))
    counts = place.consume()
    assert (counts.reassigned, counts.retired) == (1, 1)
    # By the id of who asked; the name is not passed on.
    assert calls == [((11, 12), {"assets": ("do_123",), "actor": "44"})]
    assert place.waiting(JOBS) == 0


def test_an_ownership_transfer_hands_over_the_asset_that_it_names_and_no_other(place: Place, tmp_path: Path) -> None:
    """Sunbird's message as it is, one an asset; delivered twice, and before or after the retirement."""
    client, table = place.store.client, f"{place.settings.event_sink_database}.asset"
    pii_map = yaml.safe_load(find_resource("config/pii.yaml").read_text())
    pii_map["targets"]["event_sink.asset"] = {
        "owned": True,
        "asset": "identifier",
        "match": {"createdBy": "id"},
        "pii": {"createdBy": "id", "author": "name"},
        "on_retire": {"redact": {"author": "constant"}},
    }
    (tmp_path / "pii.yaml").write_text(yaml.safe_dump(pii_map))
    client.execute(
        "CREATE TABLE $event_sink.asset (identifier String, createdBy Int64, author String) "
        "ENGINE = MergeTree ORDER BY identifier"
    )
    rows = [(f"do_12{n}", 11 if n < 5 else 13, "Zaphod") for n in range(1, 7)]
    client.insert(client.table("event_sink.asset"), ["identifier", "createdBy", "author"], rows)
    for _ in range(2):
        place.send_job(transfer("11", 12))
    nameless = transfer("11", 12)
    del nameless["edata"]["assetInformation"]
    place.send_job(nameless)
    place.send_job(delete_user(11))
    counts = place.consume(pii_map=tmp_path / "pii.yaml")
    assert (counts.reassigned, counts.retired, counts.buried) == (2, 1, 1)
    owners = dict(client.rows(f"SELECT identifier, (createdBy, author != 'Zaphod') FROM {table}"))
    assert len(owners) == 6
    # The others keep the leaver's number, and no name.
    assert {name for name, (owner, _) in owners.items() if owner == 12} == {"do_123"}
    assert {name for name, (owner, _) in owners.items() if owner == 11} == {"do_121", "do_122", "do_124"}
    assert [renamed for name, (_, renamed) in sorted(owners.items())] == [True] * 4 + [False] * 2
    assert [letter["reason"] for letter in place.dead_letters()] == ["edata.assetInformation.identifier names no asset"]


def test_an_heir_who_is_retired_gets_nothing_and_holds_nobody_up(place: Place) -> None:
    place.store.ledger.request([12])
    refused = place.send_job(transfer(11, 12))
    place.send_job(transfer(11, 13))
    # Nothing is known of this heir yet, whose own event comes later.
    counts = place.consume()
    assert (counts.reassigned, counts.buried) == (1, 1)
    assert [(d["entry"], d["type"], d["reason"][:7]) for d in place.dead_letters()] == [
        (refused, "ownership-transfer", "refused")
    ]
    assert place.waiting(JOBS) == 0


def test_ids_that_are_texts_need_no_lms(place: Place, tmp_path: Path) -> None:
    """As in an installation that has nothing to do with Open edX."""
    database = place.settings.event_sink_database
    place.store.client.execute(
        "CREATE TABLE $event_sink.person (id String, name String) ENGINE = MergeTree ORDER BY id"
    )
    leaver, managed = "3f2504e0-4f89-41d3-9a0c-0305e82c3301", "managed-1"
    for user_id in (leaver, managed, "other"):
        place.store.client.execute("INSERT INTO $event_sink.person VALUES ({id:String}, 'Zaphod')", id=user_id)
    (tmp_path / "map.yaml").write_text(
        "version: 1\nsubject: {type: text}\ntargets:\n  event_sink.person:\n    match: {id: id}\n"
        "    pii: {id: id, name: name}\n    on_retire: delete\n"
    )
    place.send_job(delete_user(leaver, managed))
    counts = place.consume(pii_map=tmp_path / "map.yaml", lms_database_url=None)
    assert counts == MessageCounts(read=1, retired=1)
    assert place.store.client.column(f"SELECT id FROM {database}.person") == ["other"]
    assert place.states() == {leaver: "erased", managed: "erased"}


def test_an_unreachable_redis_is_waited_for_or_reported(place: Place) -> None:
    with pytest.raises(AspectsPiiError, match="Redis cannot be reached"):
        run_consumer(load_settings(**dict(place.settings) | {"event_bus_url": "redis://127.0.0.1:9/0"}), once=True)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"event_bus_url": None}, UsageError, "ASPECTS_EVENT_BUS_URL"),
        ({"event_bus_url": "http://:hunter2@x"}, SettingsError, "not an address"),
        ({"lms_database_url": None}, UsageError, "ASPECTS_LMS_DATABASE_URL"),
        ({"event_streams": (), "event_bus_topics": ()}, UsageError, "No stream"),
        ({"event_streams": (USERS,)}, UsageError, "stands in"),
    ],
)
def test_settings_that_cannot_work_are_refused(
    place: Place, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message) as raised:
        run_consumer(load_settings(**dict(place.settings) | changes), once=True)
    assert "hunter2" not in str(raised.value)
