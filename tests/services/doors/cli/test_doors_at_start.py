"""Doors say at start what they serve, where, how callers authenticate, what they wait for; strangers' messages are not shown."""

from __future__ import annotations

import json
import sys
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from celery import Celery

from tests.support.processes import Process, running, wait_until
from tests.support.redis_server import emptied, name_database

BROKER = name_database(5)
SECRET = "Canary-Quetzal"


def make_door(folder: Path, *arguments: str, **environment: str) -> Process:
    return Process(arguments[0], [sys.executable, "-m", "sink", *arguments], folder, environment)


@pytest.fixture
def environment(tmp_path: Path, migrated: Callable[[Path], None]) -> dict[str, str]:
    migrated(tmp_path / "clickhouse")
    return {
        "ASPECTS_CLICKHOUSE_URL": f"chdb://{tmp_path}/clickhouse",
        "ASPECTS_RECEIPTS_DIR": str(tmp_path / "receipts"),
    }


def test_the_hook_says_how_callers_authenticate(environment: dict[str, str], tmp_path: Path) -> None:
    token = "a token of the tests"
    with running(make_door(tmp_path, "serve", "--port", "0", ASPECTS_WEB_TOKEN=token, **environment)) as door:
        wait_until(lambda: "Waiting for the retirement driver" in door.read_log(), door.read_log)
        said = door.read_log()
        assert "Retirement hook on http://127.0.0.1:" in said
        assert "Authentication: the token of ASPECTS_WEB_TOKEN" in said
        assert f"Store: chdb://{tmp_path}/clickhouse" in said
        assert token not in said
        assert door.stop() == 0


@pytest.mark.redis
def test_the_consumer_says_what_it_reads(environment: dict[str, str], tmp_path: Path) -> None:
    settings = {"ASPECTS_EVENT_BUS_URL": BROKER, "ASPECTS_LMS_DATABASE_URL": f"sqlite:///{tmp_path}/lms.sqlite3"}
    with (
        emptied(BROKER),
        running(make_door(tmp_path, "consume", "--log-format", "json", **settings, **environment)) as door,
    ):
        wait_until(lambda: "Waiting for events" in door.read_log(), door.read_log)
        said = [json.loads(line)["message"] for line in door.read_log().splitlines()]
        assert said[0].startswith("Reading from Redis as the group aspects-pii: ")
        assert f"Store: chdb://{tmp_path}/clickhouse" in said
        assert "Storing PII is off: events are read, and nobody is copied" in said
        assert door.stop() == 0


@pytest.mark.redis
def test_a_worker_passes_over_messages_of_strangers_and_shows_nothing_of_them(
    environment: dict[str, str], tmp_path: Path
) -> None:
    with emptied(BROKER) as redis:
        stranger = Celery("stranger", broker=BROKER)
        stranger.conf.update(task_serializer="json", broker_transport_options={"visibility_timeout": 900})
        stranger.send_task("stranger.task", args=[SECRET], kwargs={"name": SECRET}, queue="aspects_pii")
        stranger.send_task(f"{SECRET} is no name", args=[SECRET], queue="aspects_pii")
        stranger.send_task("aspects_pii.retire_user", args=[SECRET], queue="aspects_pii", serializer="pickle")
        with stranger.connection() as connection, connection.Producer() as producer:
            producer.publish({"name": SECRET}, routing_key="aspects_pii", exchange="", serializer="json")
            broken = b'"' + SECRET.encode() + b"\xff"
            producer.publish(
                broken, routing_key="aspects_pii", content_type="application/json", content_encoding="utf-8"
            )
        stranger.close()
        with running(make_door(tmp_path, "worker", "--no-beat", ASPECTS_BROKER_URL=BROKER, **environment)) as door:
            wait_until(lambda: door.read_log().count("is passed over") >= 5, door.read_log)
            said = door.read_log()
            assert "Taking tasks from the queue aspects_pii of a broker by redis" in said
            assert "The schedule is another worker's" in said
            assert "its task stranger.task is not one of ours" in said
            assert "its task (no name) is not one of ours" in said
            assert "it does not say what Celery needs" in said
            assert "it is no message of Celery's" in said
            assert "it cannot be read (DecodeError)" in said
            assert SECRET not in said
            assert "Traceback" not in said
            # It goes on, and they do not come again.
            wait_until(lambda: redis.llen("aspects_pii") == 0, door.read_log)
            assert door.child is not None
            assert door.child.poll() is None


def test_an_address_that_is_none_of_a_broker_is_refused_at_start(environment: dict[str, str], tmp_path: Path) -> None:
    door = make_door(tmp_path, "worker", ASPECTS_BROKER_URL=f"nonsense-{uuid.uuid4().hex}", **environment)
    door.start()
    assert door.child is not None
    assert door.child.wait(300) == 2
    assert door.read_log().startswith("Error: ASPECTS_BROKER_URL is not valid: ")
    assert "nonsense" not in door.read_log()
