"""Ways round what Celery and kombu do not do, with the version that was seen and how to tell that one can go.

`sink.doors.worker.broker` has two more: an LMS imports that module at start, and this one would bring the worker along.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from celery.beat import Scheduler
from celery.bootsteps import StartStopStep
from celery.worker.state import reserved_requests

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
