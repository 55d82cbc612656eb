"""Who waits for a copy, and what was asked for already, kept in the broker where that is a Redis."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from celery import Celery
from kombu.connection import Connection

from sink.doors.worker import broker

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: For this time one request for a sweep or a copy stands for all others.
REQUEST_SECONDS = 60
# Keys in Redis: that a sweep or a copy was asked for, who waits for a copy, and whose is under way.
SWEEP_WANTED = f"{broker.QUEUE}.sweep_wanted"
COPY_WANTED = f"{broker.QUEUE}.copy_wanted"
WAITING = f"{broker.QUEUE}.waiting"
COPYING = f"{broker.QUEUE}.copying"


def request_sweep(app: Celery) -> None:
    """Ask for a sweep soon. Many requests make one; one that cannot be sent is made up for by the schedule."""
    request_task(app, broker.SWEEP, (), SWEEP_WANTED)


def request_task(app: Celery, task: str, arguments: tuple[Any, ...], mark: str) -> None:
    if app.conf.task_always_eager:
        app.tasks[task].apply_async(arguments)
        return
    if ask_redis(app, lambda redis: redis.set(mark, 1, nx=True, ex=REQUEST_SECONDS), default=True):
        _send(app, task, arguments)


def _send(app: Celery, task: str, arguments: tuple[Any, ...]) -> None:
    try:
        with app.connection_for_write() as connection:
            connection.ensure_connection(max_retries=0)
            app.tasks[task].apply_async(arguments, connection=connection, retry=False)
    except Exception as error:
        # What is to be done is recorded, and whatever is wrong with the broker is no reason to say otherwise.
        logger.warning("%s could not be requested (%s); the next one on schedule does it", task, type(error).__name__)


def set_waiting_aside(redis: Any) -> list[str]:
    """Who waits to be copied, kept aside until they are; first those whom a killed worker had kept aside."""
    if not redis.exists(COPYING) and redis.exists(WAITING):
        redis.rename(WAITING, COPYING)
    return [user_id.decode() for user_id in redis.smembers(COPYING)]


def enqueue(app: Celery, user_ids: Sequence[str]) -> bool:
    """Put these users with those who wait for a copy, and ask for a copy; False where the broker cannot keep them.

    One trip, since there is one for each message that tells of a user.
    """

    def put(redis: Any) -> bool:
        with redis.pipeline(transaction=True) as both:
            both.sadd(WAITING, *user_ids)
            both.set(COPY_WANTED, 1, nx=True, ex=REQUEST_SECONDS)
            _, is_first = both.execute()
        if is_first:
            _send(app, broker.SYNC_USERS, ([],))
        return True

    return ask_redis(app, put, default=False)


def ask_redis(app: Celery, ask: Callable[[Any], T], default: T) -> T:
    """What the broker answers; `default` where it is not Redis, or is not there."""
    if app.conf.task_always_eager:
        return default
    try:
        connection = _connect(app)
        if connection.transport.driver_type != "redis":
            return default
        return ask(connection.default_channel.client)
    except Exception as error:
        # Whatever is wrong with the broker, it does not stop an erasure.
        logger.warning("the broker does not answer (%s)", type(error).__name__)
        _disconnect(app)
        return default


# Of each application its connection, and the process that made it: one that was forked makes its own.
_connections: WeakKeyDictionary[Celery, tuple[int, Connection]] = WeakKeyDictionary()


def _connect(app: Celery) -> Connection:
    """The connection of this process, which is kept: to make one takes longer than what is asked by it."""
    process, connection = _connections.get(app, (0, None))
    if process != os.getpid() or connection is None:
        connection = app.connection_for_write()
        connection.ensure_connection(max_retries=0)
        _connections[app] = os.getpid(), connection
    return connection


def _disconnect(app: Celery) -> None:
    process, connection = _connections.pop(app, (0, None))
    if connection is not None and process == os.getpid():
        with suppress(Exception):
            connection.release()
