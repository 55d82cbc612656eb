"""Ways round what Celery and kombu do not do, with the version that was seen and how to tell that one can go.

`sink.doors.worker.broker` has two more: an LMS imports that module at start, and this one would bring the worker along.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable
from typing import Any

from celery.beat import Scheduler
from celery.bootsteps import StartStopStep
from celery.worker.consumer import Consumer
from celery.worker.state import reserved_requests

logger = logging.getLogger(__name__)

# As programs name their tasks; a text that is none may be anything.
_TASK_NAME = re.compile(r"[A-Za-z_][\w.]{0,199}")

#: Time between looks at whether a worker still fetches.
WATCH_EVERY_SECONDS = 5


class BeatScheduler(Scheduler):  # type: ignore[misc]  # Celery has no types.
    """Celery's scheduler in memory, ending with the worker that it belongs to.

    A worker that is killed leaves its scheduler behind, and the next one brings its own. Celery 5.7.0 has the kernel end
    the processes of its pool with their worker (https://github.com/celery/celery/pull/6942), but not its scheduler.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._worker = os.getppid()

    def tick(self, *args: Any, **options: Any) -> float:
        """Send what is due, and say when to look again."""
        if os.getppid() != self._worker:
            raise SystemExit
        return float(super().tick(*args, **options))


class DiscreetConsumer(Consumer):  # type: ignore[misc]  # Celery has no types.
    """Celery's consumer, passing over messages that are not for us without showing what is in them.

    Celery (5.7.0) logs the body and the headers of a message whose task it does not know, or which it cannot read, and
    whoever sent it may have put anything into them. There is no setting for that.
    """

    def on_unknown_task(self, body: Any, message: Any, exc: BaseException) -> None:
        """The name of the task is all that is said; it is not carried out, and does not come again."""
        name = str((message.headers or {}).get("task", ""))
        self._pass_over(message, f"its task {name if _TASK_NAME.fullmatch(name) else '(no name)'} is not one of ours")

    def on_unknown_message(self, body: Any, message: Any) -> None:
        """It is no message of Celery's."""
        self._pass_over(message, "it is no message of Celery's")

    def on_invalid_task(self, body: Any, message: Any, exc: BaseException) -> None:
        """It is one, and makes no sense."""
        self._pass_over(message, "it does not say what Celery needs")

    def on_decode_error(self, message: Any, exc: BaseException) -> None:
        """Its body is not what its headers say."""
        logger.error("a message on the queue is passed over: it cannot be read (%s)", type(exc).__name__)
        message.ack()

    def _pass_over(self, message: Any, reason: str) -> None:
        logger.error("a message on the queue is passed over: %s", reason)
        message.reject_log_error(logger, self.connection_errors)


class PrefetchWatch(StartStopStep):  # type: ignore[misc]  # Celery has no types.
    """Reconnects a worker that may fetch nothing, although it is at work on nothing.

    When the broker dies while all processes are busy, what they finish cannot be acknowledged. kombu goes on counting it
    against the prefetch limit, fetches nothing more, and so never notices that the connection is gone. Seen with Celery
    5.7.0 and kombu 5.7.0; https://github.com/celery/celery/issues/10302 reports the same symptom. It can go when
    `test_a_broker_that_dies_while_all_hands_are_full_is_found_again` passes without it.
    """

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, report_alive: Callable[[], None] | None = None, **options: Any) -> None:
        """`report_alive`, an option of the worker's, is called whenever all is well: not while the broker is away."""
        super().__init__(consumer, **options)
        self._report_alive = report_alive

    def register_with_event_loop(self, consumer: Any, hub: Any) -> None:
        """Look every few seconds."""
        hub.call_repeatedly(WATCH_EVERY_SECONDS, self._check, consumer)

    def _check(self, consumer: Any) -> None:
        prefetch = getattr(consumer.task_consumer.channel, "qos", None)
        if prefetch is not None and not prefetch.can_consume() and not reserved_requests:
            # Of the kind that the worker takes for a lost connection.
            raise consumer.connection_errors[0]("finished messages could not be acknowledged")
        if self._report_alive is not None:
            self._report_alive()
