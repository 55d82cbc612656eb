"""Who waits for a copy, and what was asked for already, kept in the broker where that is a Redis."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, TypeVar

from celery import Celery

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
    if not ask_redis(app, lambda redis: redis.set(mark, 1, nx=True, ex=REQUEST_SECONDS), default=True):
        return
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


def ask_redis(app: Celery, ask: Callable[[Any], T], default: T) -> T:
    """What the broker answers; `default` where it is not Redis, or is not there."""
    if app.conf.task_always_eager:
        return default
    try:
        with app.connection_for_write() as connection:
            if connection.transport.driver_type != "redis":
                return default
            connection.ensure_connection(max_retries=0)
            return ask(connection.default_channel.client)
    except Exception as error:
        # Whatever is wrong with the broker, it does not stop an erasure.
        logger.warning("the broker does not answer (%s)", type(error).__name__)
        return default
