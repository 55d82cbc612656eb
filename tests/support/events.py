"""What the consumer's tests share, whichever broker the events come from: an installation, messages, a running consumer."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sink.demo_data.lms_description import DemoLms
from sink.doors.events.consumer import run_consumer
from sink.doors.events.handling import MessageCounts
from sink.settings import Settings
from sink.store import Store
from tests.support.paths import ROOT, SUPPORT
from tests.support.processes import PATIENCE, name_program

LOGIN = "org.openedx.learning.auth.session.login.completed.v1"


@dataclass(frozen=True)
class Lms:
    """An LMS's database."""

    url: str
    made: DemoLms

    @property
    def file(self) -> Path:
        """Where it is."""
        return Path(self.url.removeprefix("sqlite:///"))


@dataclass
class EventPlace:
    """One installation, with databases of its own on the shared engine."""

    settings: Settings
    store: Store
    lms: Lms
    producer: Producer
    environment: dict[str, str] = field(default_factory=dict)

    def consume(self, **changes: Any) -> MessageCounts:
        """Work off what is there."""
        return run_consumer(self.settings.model_copy(update=changes), once=True)

    def start(self, *arguments: object, **changes: str) -> subprocess.Popen[str]:
        """A consumer in a process of its own."""
        return subprocess.Popen(
            name_program("consumer", *arguments),
            env={**os.environ, "PYTHONPATH": str(ROOT), **self.environment, **changes},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def users(self, table: str = "user_profile") -> list[int]:
        """The user of each row that is stored."""
        return self.store.client.column(f"SELECT user_id FROM $event_sink.{table} ORDER BY user_id")

    def states(self) -> dict[str, str]:
        """What the ledger says last of whom."""
        return {
            str(s): str(a)
            for s, a in self.store.client.rows("SELECT subject, argMax(action, at) FROM $pii_ledger.entries GROUP BY 1")
        }

    def count_requests(self) -> int:
        """How often a retirement was asked for."""
        return int(self.store.client.value("SELECT count() FROM $pii_ledger.entries WHERE action = 'requested'"))

    def check_nobody_is_doubled(self, users: list[int]) -> None:
        """Exactly these are stored, and each of their anonymous ids once."""
        doubled = "SELECT count() - uniqExact(user_id, external_id_type) FROM $event_sink.external_id"
        assert self.users() == users
        assert (set(self.users("external_id")), self.store.client.value(doubled)) == (set(users), 0)


class Producer:
    """The LMS's own producer of events, in a process of its own."""

    def __init__(self, script: str, address: str) -> None:
        """`script` is one of this folder; `address` is the broker's."""
        self._child = subprocess.Popen(
            [sys.executable, str(SUPPORT / script), address],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # What it says there is the LMS's, not ours.
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )

    def __enter__(self) -> Producer:
        return self

    def __exit__(self, *_: object) -> None:
        self._child.kill()
        self._child.communicate()

    def send(self, prefix: str, *sent: tuple[str, int]) -> None:
        """Send events, (event, user id) each, and wait until they are sent."""
        assert self._child.stdin
        assert self._child.stdout
        for event, user_id in sent:
            self._child.stdin.write(json.dumps([event, user_id, prefix]) + "\n")
        self._child.stdin.flush()
        assert [self._child.stdout.readline().rstrip("\n") for _ in sent] == [event for event, _ in sent]


@contextmanager
def consuming(settings: Settings) -> Iterator[list[MessageCounts]]:
    """A consumer in a thread; what it counted is in the list when it has stopped."""
    stop, counted = threading.Event(), []
    thread = threading.Thread(target=lambda: counted.append(run_consumer(settings, stop=stop)))
    thread.start()
    try:
        yield counted
    finally:
        stop.set()
        thread.join(PATIENCE)
    assert not thread.is_alive()


def end(process: subprocess.Popen[str]) -> str:
    """SIGTERM; what it said."""
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, err
    return out + err


def delete_user(user_id: object, *managed: object, **changes: Any) -> dict[str, Any]:
    """A message as Sunbird sends it."""
    event: dict[str, Any] = {
        "eid": "BE_JOB_REQUEST",
        "ets": 1619527882745,
        "mid": "LP.1619527882745.32dc378a-430f-49f6-83b5-bd73b767ad36",
        "actor": {"id": "delete-user", "type": "System"},
        "context": {"channel": "ORG_001", "pdata": {"id": "org.sunbird.platform", "ver": "1.0"}, "env": "dev"},
        "object": {"id": str(user_id), "type": "User"},
        "edata": {
            "action": "delete-user",
            "organisationId": "ORG_001",
            "userId": user_id,
            "suggested_users": [{"role": "ORG_ADMIN", "users": ["190"]}],
            "managed_users": list(managed),
            "iteration": 1,
        },
    }
    return event | changes


def transfer(leaving: object, heir: object, **profile: Any) -> dict[str, Any]:
    """The message by which Sunbird hands over an asset."""
    return {
        "eid": "BE_JOB_REQUEST",
        "object": {"id": str(leaving), "type": "User"},
        "edata": {
            "action": "ownership-transfer",
            "context": "User Deletion",
            "actionBy": {"userId": "44", "userName": "Slartibartfast"},
            "fromUserProfile": {"userId": leaving, "userName": "zaphod"},
            "toUserProfile": {
                "userId": heir,
                "firstName": "Arthur",
                "lastName": "Dent",
                "roles": ["CONTENT_CREATOR"],
                **profile,
            },
            "assetInformation": {"identifier": "do_123", "objectType": "Content"},
        },
    }
