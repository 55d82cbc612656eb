"""The Celery application: its configuration, its schedule, and the worker."""

from __future__ import annotations

import functools
import logging
from datetime import UTC, datetime
from typing import Any

from celery import Celery
from celery.concurrency import get_implementation

from sink.doors import heartbeat
from sink.doors.worker import broker
from sink.doors.worker.broker import BrokerApp
from sink.doors.worker.celery_fixes import BeatScheduler, DiscreetConsumer, PrefetchWatch
from sink.doors.worker.tasks import Tasks
from sink.errors import SettingsError
from sink.installation import find_address, read_map
from sink.settings import Settings

logger = logging.getLogger(__name__)

_LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)


def create_app(settings: Settings) -> Celery:
    """The Celery application, with its tasks and their schedule.

    Without ASPECTS_BROKER_URL the tasks run in the process that calls them, and raise there.
    """
    inline = settings.broker_url is None
    url = "memory://" if settings.broker_url is None else settings.broker_url.get_secret_value()
    transport_options: dict[str, Any] = {
        "visibility_timeout": settings.broker_visibility_timeout,
        # Whoever looks for what a killed worker has not acknowledged looks each time, not each tenth (kombu 5.7.0).
        "unacked_restore_throttle": 1,
        "socket_connect_timeout": 5,
        "socket_timeout": 30,
        "socket_keepalive": True,
    }
    app = BrokerApp(url, transport_options if broker.is_redis(url) else {})
    app.conf.update(
        task_always_eager=inline,
        task_eager_propagates=True,
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        task_create_missing_queues=False,
        task_queues={broker.QUEUE: {"exchange": broker.QUEUE, "routing_key": broker.QUEUE}},
        # What cannot be recorded goes back to the broker, and a worker waits long for one that is away.
        task_publish_retry_policy={"max_retries": 60, "interval_start": 0.2, "interval_step": 0.5, "interval_max": 5},
        worker_prefetch_multiplier=1,
        worker_concurrency=settings.worker_concurrency,
        # Nothing that workers of other applications on the same broker would answer to, or we to them.
        worker_enable_remote_control=False,
        worker_send_task_events=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        beat_scheduler=f"{__name__}:{BeatScheduler.__name__}",
        beat_max_loop_interval=5,
        beat_schedule=_plan_schedule(settings),
    )
    app.steps["consumer"].add(PrefetchWatch)
    Tasks(app, settings, inline).register()
    return app


def _plan_schedule(settings: Settings) -> dict[str, dict[str, Any]]:
    every = {broker.SWEEP: settings.sweep_every, broker.SECOND_PASS: settings.second_pass_every}
    if settings.lms_database_url is not None:
        every[broker.RECONCILE] = settings.reconcile_every
        # Those whom a killed worker left waiting.
        every[broker.SYNC_USERS] = settings.sweep_every
        every[broker.SYNC_ALL] = settings.sync_every
    return {
        name: {
            "task": name,
            "schedule": seconds,
            "args": ([],) if name == broker.SYNC_USERS else (),
            # Due at once: whatever was missed while no worker ran is made up for, and no file remembers the time.
            "last_run_at": _LONG_AGO,
            # A worker that comes back passes over those that piled up.
            "options": {"expires": seconds},
        }
        for name, seconds in every.items()
    }


def run_worker(settings: Settings, *, beat: bool = True, concurrency: int | None = None) -> int:
    """Run a worker, and the schedule beside it, until SIGTERM; returns the exit status.

    Args:
        settings: the settings; with the embedded engine one process does everything.
        beat: also send what is on schedule; one worker of an installation has to.
        concurrency: processes, instead of ASPECTS_WORKER_CONCURRENCY.

    Raises:
        SettingsError: there is no broker, or heartbeats cannot be written.
        MapError: the map is not valid.
    """
    if settings.broker_url is None:
        raise SettingsError("ASPECTS_BROKER_URL is not set. Example: ASPECTS_BROKER_URL=redis://redis:6379/0")
    read_map(settings)
    embedded = settings.clickhouse_url.startswith("chdb://")
    beats = heartbeat.Heartbeat(settings.heartbeat_dir, heartbeat.WORKER)
    worker = create_app(settings).Worker(
        # One process may hold the folder of the embedded engine.
        pool_cls=get_implementation("solo" if embedded else "prefork"),
        concurrency=1 if embedded else concurrency or settings.worker_concurrency,
        beat=beat,
        loglevel="INFO",
        quiet=True,
        consumer_cls=f"{DiscreetConsumer.__module__}:{DiscreetConsumer.__name__}",
        # What workers tell each other through the broker; those of an LMS need not hear of ours.
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
        # For `PrefetchWatch`. A worker of one process cannot beat while it is at work.
        report_alive=functools.partial(beats.beat, heartbeat.BUSY_SECONDS if embedded else heartbeat.IDLE_SECONDS),
    )
    transport = settings.broker_url.get_secret_value().partition("://")[0]
    logger.info("Taking tasks from the queue %s of a broker by %s", broker.QUEUE, transport)
    logger.info("Store: %s", find_address(settings).described)
    logger.info("Storing PII is %s", "on" if settings.enable_pii else "off: nobody is copied; retirements go on")
    logger.info("The schedule is %s", "sent from here" if beat else "another worker's")
    logger.info("Waiting for tasks")
    worker.start()
    return int(worker.exitcode or 0)
