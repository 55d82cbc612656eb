"""Ways round what Celery and kombu do not do."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from celery.beat import Scheduler
from celery.bootsteps import StartStopStep
from celery.worker.state import reserved_requests

#: Seconds between looks at whether a worker still fetches.
WATCH_EVERY = 5


class BeatScheduler(Scheduler):  # type: ignore[misc]  # Celery has no types.
    """Celery's scheduler in memory, ending with the worker that it belongs to.

    A worker that is killed leaves its scheduler behind, and the next one brings its own.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._worker = os.getppid()

    def tick(self, *args: Any, **options: Any) -> float:
        """Send what is due, and say when to look again."""
        if os.getppid() != self._worker:
            raise SystemExit
        return float(super().tick(*args, **options))


class WindowWatch(StartStopStep):  # type: ignore[misc]  # Celery has no types.
    """Reconnects a worker whose hands are full of what it has put down.

    When the broker dies while all processes are busy, what they finish cannot be acknowledged. kombu then counts it as
    in hand for good, fetches nothing more, and so never notices that the connection is gone.
    """

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, give_sign: Callable[[], None] | None = None, **options: Any) -> None:
        """`give_sign` is an option of the worker's: called whenever all is well, so not while the broker is away."""
        super().__init__(consumer, **options)
        self._give_sign = give_sign

    def register_with_event_loop(self, consumer: Any, hub: Any) -> None:
        """Look every few seconds."""
        hub.call_repeatedly(WATCH_EVERY, self._check, consumer)

    def _check(self, consumer: Any) -> None:
        window = getattr(consumer.task_consumer.channel, "qos", None)
        if window is not None and not window.can_consume() and not reserved_requests:
            # Of the kind that the worker takes for a lost connection.
            raise consumer.connection_errors[0]("what was in hand could not be acknowledged")
        if self._give_sign is not None:
            self._give_sign()
