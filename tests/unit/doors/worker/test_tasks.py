"""The Celery application: its settings, its schedule, and its tasks run inline."""

from __future__ import annotations

import logging
import uuid
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from pydantic import SecretStr

from sink import errors
from sink.demo_data.lms import create_lms
from sink.doors.worker import broker
from sink.doors.worker.app import create_app, run_worker
from sink.doors.worker.celery_fixes import BeatScheduler
from sink.doors.worker.tasks import LONGEST_WAIT, Tasks, _find_due, _find_retriable, _is_due
from sink.errors import LmsUnreachableError, SettingsError
from sink.ledger import leases
from sink.ledger.entries import Action, Ledger
from sink.ledger.role_trail import show_changes
from sink.settings import Settings, load_settings
from sink.store import Store

TASKS = {
    "retire_user",
    "retire_users",
    "sync_user",
    "sync_users",
    "sync_all",
    "record_role",
    "sweep",
    "reconcile",
    "second_pass",
}
BROKER = "redis://127.0.0.1:6399/3"


@pytest.fixture
def app(settings: Settings) -> Any:
    """Without a broker: tasks run here."""
    return create_app(settings)


def with_broker(**more: Any) -> Any:
    return create_app(load_settings(broker_url=BROKER, **more))


def add_profiles(store: Store, *user_ids: int) -> None:
    columns = ("id", "user_id", "name", "username", "email", "dump_id", "time_last_dumped")
    now = store.client.value("SELECT toString(now64(6, 'UTC'))")
    rows = [(n, n, f"Name {n}", f"user{n}", f"u{n}@example.com", uuid.uuid4(), now) for n in user_ids]
    store.client.insert(store.client.table("event_sink.user_profile"), columns, rows)


def list_profiles(store: Store) -> list[int]:
    return store.client.column("SELECT user_id FROM $event_sink.user_profile ORDER BY user_id")


def read_states(store: Store) -> dict[str, str]:
    return {r.subject: r.state for r in store.ledger.find([str(n) for n in range(1, 100)])}


def test_every_task_has_its_name() -> None:
    ours = {name for name in with_broker().tasks if not name.startswith("celery.")}
    assert ours == {f"aspects_pii.{name}" for name in TASKS}


def test_tasks_stay_in_their_application() -> None:
    with_broker().tasks  # noqa: B018 - finalized when it is read
    other = Celery("an LMS", set_as_current=False)
    assert not [name for name in other.tasks if name.startswith("sink.")]


def test_messages_are_json_in_a_queue_of_their_own_and_acknowledged_late() -> None:
    conf = with_broker().conf
    assert conf.task_default_queue == broker.QUEUE == "aspects_pii"
    assert set(with_broker().amqp.queues) == {"aspects_pii"}
    assert (conf.task_serializer, conf.accept_content) == ("json", ["json"])
    assert conf.task_acks_late
    assert conf.task_reject_on_worker_lost
    assert conf.worker_prefetch_multiplier == 1
    assert with_broker().backend.__class__.__name__ == "DisabledBackend"


def test_the_celery_of_the_environment_is_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CELERY_BROKER_URL", "redis://lms:6379/0")
    monkeypatch.setenv("CELERY_RESULT_BACKEND", "redis://lms:6379/0")
    app = with_broker()
    for connection in (app.connection_for_read(), app.connection_for_write(), app.connection()):
        assert (connection.port, connection.virtual_host) == (6399, "3")
    assert app.backend.__class__.__name__ == "DisabledBackend"


def test_messages_not_acknowledged_lie_apart_from_an_lms() -> None:
    options = with_broker(broker_visibility_timeout=77).connection_for_read().transport_options
    assert options["visibility_timeout"] == 77
    keys = [options[name] for name in ("unacked_key", "unacked_index_key", "unacked_mutex_key")]
    assert all(key.startswith("aspects_pii.") for key in keys)
    assert len(set(keys)) == 3


@pytest.mark.parametrize(("timeout", "longest"), [(1, 1), (60, 20), (900, 300), (9_000, 300)])
def test_retries_come_before_the_message_looks_abandoned(timeout: int, longest: int) -> None:
    app = with_broker(broker_visibility_timeout=timeout)
    assert {app.tasks[f"aspects_pii.{name}"].retry_backoff_max for name in TASKS} == {longest}


def test_schedule_follows_the_settings() -> None:
    assert set(with_broker().conf.beat_schedule) == {
        "aspects_pii.sweep",
        "aspects_pii.second_pass",
    }
    schedule = with_broker(
        enable_pii=True,
        lms_database_url="sqlite:///lms.db",
        sweep_every=5,
        second_pass_every=6,
        reconcile_every=7,
        sync_every=8,
    ).conf.beat_schedule
    assert {name: entry["schedule"] for name, entry in schedule.items()} == {
        "aspects_pii.sweep": 5,
        "aspects_pii.sync_users": 5,
        "aspects_pii.second_pass": 6,
        "aspects_pii.reconcile": 7,
        "aspects_pii.sync_all": 8,
    }
    # Without PII it is roles that are copied, and without an LMS nothing.
    assert "aspects_pii.sync_all" in with_broker(lms_database_url="sqlite:///lms.db").conf.beat_schedule
    assert "aspects_pii.sync_all" not in with_broker(enable_pii=True).conf.beat_schedule
    assert (
        with_broker(enable_pii=True, lms_database_url="sqlite:///lms.db").conf.beat_schedule["aspects_pii.sync_all"][
            "schedule"
        ]
        == 86_400
    )
    assert all(entry["options"]["expires"] == entry["schedule"] for entry in schedule.values())


def test_everything_on_schedule_is_due_when_a_worker_starts() -> None:
    app = with_broker(lms_database_url="sqlite:///lms.db")
    scheduler = BeatScheduler(app=app)
    assert len(scheduler.schedule) == 5
    assert all(entry.is_due().is_due for entry in scheduler.schedule.values())


def test_scheduler_ends_when_its_worker_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler = BeatScheduler(app=with_broker())
    monkeypatch.setattr("os.getppid", lambda: 1)
    with pytest.raises(SystemExit):
        scheduler.tick()


def test_retriable_is_what_says_so() -> None:
    names = {kind.__name__ for kind in _find_retriable()}
    assert {"UnreachableError", "OverloadedError", "LmsUnreachableError", "LedgerError", "ErasureError"} <= names
    assert not names & {"AspectsPiiError", "SettingsError", "AuthenticationError", "QueryError"}
    assert all(getattr(errors, name).retriable for name in names)


def test_worker_needs_a_broker(settings: Settings) -> None:
    with pytest.raises(SettingsError, match="ASPECTS_BROKER_URL is not set"):
        run_worker(settings)


def test_inline_retirement_is_recorded_erased_and_proved(app: Any, store: Store) -> None:
    add_profiles(store, 1, 2, 3)
    assert app.tasks["aspects_pii.retire_user"].delay(2).get() == {"recorded": 1}
    assert list_profiles(store) == [1, 3]
    assert read_states(store) == {"2": "erased"}


def test_retirements_at_once_are_one_batch(app: Any, store: Store) -> None:
    add_profiles(store, *range(1, 21))
    app.tasks["aspects_pii.retire_users"].delay(list(range(1, 16)))
    assert list_profiles(store) == [16, 17, 18, 19, 20]
    erased = [entry for entry in store.ledger.show() if entry.action == "erased"]
    assert len(erased) == 15
    assert len({entry.at for entry in erased}) == 1


def test_a_repetition_writes_nothing(app: Any, store: Store) -> None:
    app.tasks["aspects_pii.retire_user"].delay(4)
    before = store.ledger.show()
    assert app.tasks["aspects_pii.retire_user"].delay(4).get() == {"recorded": 1}
    assert store.ledger.show() == before
    assert len(before) >= 2


def test_argument_that_is_no_id_is_passed_over_and_not_logged(
    app: Any, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    assert app.tasks["aspects_pii.retire_users"].delay([7, "jane.doe", "8", None]).get() == {"recorded": 2}
    assert read_states(store) == {"7": "erased", "8": "erased"}
    assert "number 1 of the ids" in caplog.text
    assert "jane.doe" not in caplog.text


def test_text_in_place_of_a_list_is_one_id(app: Any, store: Store) -> None:
    app.tasks["aspects_pii.retire_users"].delay("42")
    assert read_states(store) == {"42": "erased"}


def test_sync_does_nothing_when_pii_is_off_and_no_lms_is_named() -> None:
    # The store is not there: reaching for it would fail.
    app = create_app(load_settings(clickhouse_url="http://127.0.0.1:1"))
    assert app.tasks["aspects_pii.sync_user"].delay(1).get() == {}
    assert app.tasks["aspects_pii.sync_users"].delay([1, 2]).get() == {}
    assert app.tasks["aspects_pii.sync_all"].delay().get() == {}


def test_roles_are_copied_without_names_while_pii_is_off(settings: Settings, store: Store, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/lms.sqlite3"
    create_lms(url, 12, 3)
    off = settings.model_copy(update={"lms_database_url": SecretStr(url), "enable_pii": False})
    app = create_app(off)
    held = "SELECT uniqExact(user_id) FROM $event_sink.course_access_keyed"
    assert app.tasks["aspects_pii.sync_users"].delay([12]).get()["course_access"] > 0
    assert store.client.value(held) == 1
    assert app.tasks["aspects_pii.sync_all"].delay().get()["course_access"] > 0
    assert store.client.value(held) > 1
    assert list_profiles(store) == []
    assert store.client.value("SELECT count() FROM $event_sink.course_access") == 0


TOLD = {
    "event": "b73cffd4-eb94-11f1-846a-02fc00000001",
    "at": "2026-11-29T01:32:18.711188+00:00",
    "operation": "given",
    "source": "openedx-authz",
    "subject": "7",
    "actor": "5",
    "role": "role^course_staff",
    "scope": "course-v1^course-v1:Org+Course+Run",
}


def test_roles_are_written_into_the_audit_trail(app: Any, store: Store) -> None:
    of_lms = {"source": "course_access_role", "role": "staff", "org": "Org", "course_key": "", "actor": None}
    for told in (TOLD, TOLD, {**TOLD, "event": str(uuid.uuid4()), **of_lms}):
        app.tasks["aspects_pii.record_role"].apply(args=[told]).get()
    changes = show_changes(store.client, scope="*")
    assert {(c.subject, c.operation, c.role, c.scope, c.done_by) for c in changes} == {
        ("7", "given", "staff", "course-v1:Org+*", "unknown"),
        ("7", "given", "staff", "course-v1:Org+Course+Run", "5"),
    }
    assert len(changes) == 2


@pytest.mark.parametrize(
    "told",
    [
        "jane",
        {},
        {**TOLD, "subject": "jane"},
        {**TOLD, "scope": "course-v1^jane@example.org"},
        {**TOLD, "event": "jane@example.org"},
        {**TOLD, "role": None},
    ],
)
def test_a_role_that_cannot_be_right_is_passed_over_and_not_quoted(
    app: Any, store: Store, caplog: pytest.LogCaptureFixture, told: Any
) -> None:
    app.tasks["aspects_pii.record_role"].apply(args=[told]).get()
    assert show_changes(store.client, scope="*") == []
    assert "is passed over" in caplog.text
    assert "jane" not in caplog.text


def test_an_audit_trail_that_is_not_there_is_logged_once(
    app: Any, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    store.client.execute("DROP TABLE $pii_ledger.role_assignments")
    app.tasks["aspects_pii.record_role"].apply(args=[TOLD]).get()
    assert "aspects-pii init" in caplog.text


def test_a_full_copy_brings_everybody_unless_another_is_under_way(
    settings: Settings, store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    url = f"sqlite:///{tmp_path}/lms.sqlite3"
    create_lms(url, 12, 3)
    with_lms = settings.model_copy(update={"lms_database_url": SecretStr(url)})
    task = create_app(with_lms).tasks["aspects_pii.sync_all"]
    with leases.hold(store.client, "sync"):
        assert task.delay().get() == {}
    assert "no full copy was made: Another process is at this work" in caplog.text
    assert list_profiles(store) == []
    store.ledger.request([3])
    assert task.delay().get()["user_profile"] == 11
    assert list_profiles(store) == [n for n in range(1, 13) if n != 3]


def test_a_full_copy_that_a_safeguard_stops_says_so(
    settings: Settings, store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    url = f"sqlite:///{tmp_path}/lms.sqlite3"
    create_lms(url, 12, 3)
    add_profiles(store, *range(101, 121))
    with_lms = settings.model_copy(update={"lms_database_url": SecretStr(url)})
    assert create_app(with_lms).tasks["aspects_pii.sync_all"].delay().get() == {}
    assert "ASPECTS_SYNC_MAX_REMOVED_SHARE" in caplog.text
    assert list_profiles(store) == list(range(101, 121))


def test_inline_errors_reach_the_caller(settings: Settings, store: Store) -> None:
    app = create_app(
        settings.model_copy(
            update={"lms_database_url": load_settings(lms_database_url="sqlite:///no.db").lms_database_url}
        )
    )
    with pytest.raises(LmsUnreachableError):
        app.tasks["aspects_pii.sync_user"].delay(1)
    with pytest.raises(SettingsError, match="ASPECTS_LMS_DATABASE_URL is not set"):
        create_app(settings).tasks["aspects_pii.reconcile"].delay()


def test_second_pass_erases_what_came_back(settings: Settings, store: Store) -> None:
    app = create_app(settings.model_copy(update={"second_pass_after": 0.0}))
    app.tasks["aspects_pii.retire_user"].delay(5)
    add_profiles(store, 5, 6)
    assert app.tasks["aspects_pii.second_pass"].delay().get() == {"erased": 1, "failed": 0}
    assert list_profiles(store) == [6]


def test_task_that_keeps_failing_is_tried_ever_more_seldom(store: Store) -> None:
    ledger: Ledger = store.ledger
    [old, new] = ledger.request([1, 2])
    assert {r.subject for r in _find_due(store)} == {"1", "2"}
    ledger.record(Action.FAILED, [(old.subject, old.request, {"reason": "of the test"})])
    [failed] = ledger.find([1])
    lasted = failed.since - failed.requested_at
    assert not _is_due(failed, failed.since + lasted / 2)
    assert _is_due(failed, failed.since + lasted)
    # A clock that was put back.
    assert _is_due(failed, failed.since - timedelta(days=1))
    assert new.state == "requested"


def test_no_wait_is_longer_than_the_bound(store: Store) -> None:
    [request] = store.ledger.request([1])
    failed = type(request)(**{**vars(request), "state": "failed", "requested_at": request.since - timedelta(days=90)})
    assert not _is_due(failed, failed.since + LONGEST_WAIT - timedelta(seconds=1))
    assert _is_due(failed, failed.since + LONGEST_WAIT)


def test_a_broker_that_is_gone_does_not_undo_the_record(
    settings: Settings, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    work = Tasks(with_broker(), settings, inline=False)
    with caplog.at_level(logging.WARNING):
        assert work.retire_user(9) == {"recorded": 1}
    assert read_states(store) == {"9": "requested"}
    assert "the next one on schedule does it" in caplog.text
    assert work.sweep() == {"erased": 1, "failed": 0}
    assert work._engine is not None
    work._engine.close()
