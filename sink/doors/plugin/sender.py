"""Sending to the worker: by name, ids only, at once or not at all.

A request in the LMS waits for this, so nothing is tried twice, and a broker that does not answer is left alone for a while.
"""

from __future__ import annotations

import functools
import logging
import time
import uuid
from collections.abc import Sequence
from typing import Any

from django.conf import settings

from sink.doors.worker import broker
from sink.doors.worker.broker import BrokerApp
from sink.wording import counted

# .. no_pii: messages and logs carry opaque user ids.

logger = logging.getLogger(__name__)

#: How long a request in the LMS waits for the broker at most.
TIMEOUT_SECONDS = 1.0
#: How long no change is sent after the broker has failed. Retirements are always attempted.
PAUSE_SECONDS = 30.0
_MAX_IDS_IN_A_MESSAGE = 1_000
_NOT_IN_TRAIL = "the audit trail of roles lacks it"


class _Pause:
    """Whether the broker is left alone, as it failed a moment ago."""

    def __init__(self) -> None:
        self._until = 0.0

    @property
    def is_on(self) -> bool:
        return time.monotonic() < self._until

    def begin(self) -> None:
        self._until = time.monotonic() + PAUSE_SECONDS

    def end(self) -> None:
        self._until = 0.0


# One for the process: all its requests have the same broker.
_pause = _Pause()


def send_retirement(user_id: Any) -> None:
    """Have this user retired."""
    _send(broker.RETIRE_USER, [[user_id]], "retirement", "`aspects-pii reconcile` finds it")


def send_sync(user_ids: Sequence[Any]) -> None:
    """Have these users copied anew."""
    if _pause.is_on:
        _log_loss("change", user_ids, "the broker failed a moment ago", "`aspects-pii sync` finds it")
        return
    if len(user_ids) == 1:
        _send(broker.SYNC_USER, [list(user_ids)], "change", "`aspects-pii sync` finds it")
        return
    batches = [
        list(user_ids[start : start + _MAX_IDS_IN_A_MESSAGE])
        for start in range(0, len(user_ids), _MAX_IDS_IN_A_MESSAGE)
    ]
    _send(broker.SYNC_USERS, [[batch] for batch in batches], "change", "`aspects-pii sync` finds it")


def send_role_change(told: dict[str, Any]) -> None:
    """Have a role that was given or taken kept in the audit trail: ids, the name of the role and the key of the course."""
    if _pause.is_on:
        _log_loss("role", [told["subject"]], "the broker failed a moment ago", _NOT_IN_TRAIL)
        return
    _send(broker.RECORD_ROLE, [[told]], "role", _NOT_IN_TRAIL)


def _send(task: str, messages: Sequence[list[Any]], what: str, remedy: str) -> None:
    """Send one message for each list of arguments; log by id what cannot be sent."""
    url = getattr(settings, "ASPECTS_PII_BROKER_URL", None)
    sent = 0
    try:
        if not url:
            raise LookupError("ASPECTS_PII_BROKER_URL is not set")
        app = _open_app(url)
        with app.connection_for_write() as connection:
            connection.ensure_connection(max_retries=0, timeout=TIMEOUT_SECONDS)
            with app.amqp.Producer(connection, auto_declare=False) as producer:
                for arguments in messages:
                    _publish(app, producer, task, arguments)
                    sent += 1
        _pause.end()
    except LookupError as error:
        _log_loss(what, _list_ids(messages), str(error), remedy)
    except Exception as error:
        _pause.begin()
        # Not the text: it may hold the address with its password.
        _log_loss(what, _list_ids(messages[sent:]), f"the broker failed: {type(error).__name__}", remedy)


@functools.lru_cache(maxsize=4)
def _open_app(url: str) -> BrokerApp:
    timeouts = {"socket_connect_timeout": TIMEOUT_SECONDS, "socket_timeout": TIMEOUT_SECONDS, "max_retries": 0}
    app = BrokerApp(url, timeouts if broker.is_redis(url) else {})
    app.conf.broker_connection_timeout = TIMEOUT_SECONDS
    return app


def _publish(app: BrokerApp, producer: Any, task: str, arguments: list[Any]) -> None:
    # Not `send_task`: Celery (5.7.0) then tells every receiver of its signals in the LMS, some of which import the task
    # by its name, and with it what a worker needs and an LMS does not.
    task_id = uuid.uuid4().hex
    message = app.amqp.create_task_message(task_id, task, arguments, {}, ignore_result=True)
    producer.publish(
        message.body,
        headers=message.headers,
        exchange="",
        routing_key=broker.QUEUE,
        serializer="json",
        delivery_mode="persistent",
        declare=[app.amqp.queues[broker.QUEUE]],
        retry=False,
        **message.properties,
    )


def _list_ids(messages: Sequence[list[Any]]) -> list[Any]:
    values = [value["subject"] if isinstance(value, dict) else value for [value] in messages]
    return [user_id for value in values for user_id in (value if isinstance(value, list) else [value])]


def _log_loss(what: str, user_ids: Sequence[Any], reason: str, remedy: str) -> None:
    shown = ", ".join(map(str, user_ids[:50])) + (" …" if len(user_ids) > 50 else "")
    users = counted(len(user_ids), "user")
    logger.warning("%s of %s not sent to the PII sink (%s); %s: %s", what, users, reason, remedy, shown)
