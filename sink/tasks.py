"""The Celery door: tasks that carry ids, record first, and work off what is recorded.

    retire_user, retire_users    write the request into the ledger, then ask for a sweep
    sync_user, sync_users        copy these users from the LMS, and whoever waits with them; where PII is off, their roles
    sync_all                     copy everybody from the LMS, or all roles: a change whose message was lost
    sweep                        work off every open retirement as one batch
    reconcile                    request the retirement of whoever the LMS has retired
    second_pass                  look again at old erasures

Nothing is lost when a worker is killed: what is recorded is open in the ledger, and the next sweep takes it up; what is
not recorded is not acknowledged, and the broker delivers it again. See docs/decisions/0006-celery.md.
"""

from __future__ import annotations

import functools
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from celery import Celery
from celery.beat import Scheduler
from celery.bootsteps import StartStopStep
from celery.concurrency import get_implementation
from celery.worker.state import reserved_requests

from sink import broker, heartbeat
from sink.broker import BrokerApp
from sink.clickhouse.client import ClickHouse
from sink.copying.batches import Counts
from sink.copying.copies import WITHOUT_PII
from sink.copying.sync import sync
from sink.errors import AspectsPiiError, BusyError, RefusedError, SettingsError
from sink.installation import connect, open_lms, open_store, read_map
from sink.ledger import leases
from sink.ledger.entries import Retirement
from sink.lms.database import LmsDatabase
from sink.pii_map import SubjectId
from sink.retirement import reconcile
from sink.retirement.outcomes import Outcome
from sink.retirement.retire import work_off
from sink.settings import Settings
from sink.store import Store

# .. no_pii: messages, results and logs carry opaque user ids and counts.

T = TypeVar("T")
logger = logging.getLogger(__name__)

#: Seconds for which one request for a sweep or a copy stands for all others.
REQUEST_LASTS = 60
#: Seconds between looks at whether a worker still fetches.
WATCH_EVERY = 5
#: A retirement that failed waits as long as it has been failing, but no longer than this.
LONGEST_WAIT = timedelta(hours=1)
_LONGEST_RETRY = 300
# Keys in Redis: that a sweep or a copy was asked for, who waits for a copy, and whose is under way.
_SWEEP_WANTED = f"{broker.QUEUE}.sweep_wanted"
_COPY_WANTED = f"{broker.QUEUE}.copy_wanted"
_WAITING = f"{broker.QUEUE}.waiting"
_COPYING = f"{broker.QUEUE}.copying"
_LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)


def create_app(settings: Settings) -> Celery:
    """The Celery application, with its tasks and their schedule.

    Without ASPECTS_BROKER_URL the tasks run in the process that calls them, and raise there.
    """
    inline = settings.broker_url is None
    url = "memory://" if settings.broker_url is None else settings.broker_url.get_secret_value()
    transport_options: dict[str, Any] = {
        "visibility_timeout": settings.broker_visibility_timeout,
        # Whoever looks for what a killed worker left looks each time, not each tenth.
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
    app.steps["consumer"].add(WindowWatch)
    _Tasks(app, settings, inline).register()
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


def request_sweep(app: Celery) -> None:
    """Ask for a sweep soon. Many requests make one; one that cannot be sent is made up for by the schedule."""
    request_task(app, broker.SWEEP, (), _SWEEP_WANTED)


def request_task(app: Celery, task: str, arguments: tuple[Any, ...], mark: str) -> None:
    if app.conf.task_always_eager:
        app.tasks[task].apply_async(arguments)
        return
    if not _ask_redis(app, lambda redis: redis.set(mark, 1, nx=True, ex=REQUEST_LASTS), default=True):
        return
    try:
        with app.connection_for_write() as connection:
            connection.ensure_connection(max_retries=0)
            app.tasks[task].apply_async(arguments, connection=connection, retry=False)
    except Exception as error:
        # What is to be done is recorded, and whatever is wrong with the broker is no reason to say otherwise.
        logger.warning("%s could not be requested (%s); the next one on schedule does it", task, type(error).__name__)


class _Tasks:
    """The tasks of one application, and what they share."""

    def __init__(self, app: Celery, settings: Settings, inline: bool) -> None:
        self.app = app
        self.settings = settings
        self.inline = inline
        self._engine: ClickHouse | None = None

    def register(self) -> None:
        """Make the tasks known to the application."""
        # A request that is not recorded is never given up, whatever the reason: wrong settings get put right.
        self._add(broker.RETIRE_USER, self.retire_user, (AspectsPiiError,), None)
        self._add(broker.RETIRE_USERS, self.retire_users, (AspectsPiiError,), None)
        self._add(broker.SYNC_USER, self.sync_user, _find_retriable(), 10)
        self._add(broker.SYNC_USERS, self.sync_users, _find_retriable(), 10)
        # These come again by themselves.
        self._add(broker.SYNC_ALL, self.sync_all, _find_retriable(), 2)
        self._add(broker.SWEEP, self.sweep, _find_retriable(), 2)
        self._add(broker.RECONCILE, self.reconcile, _find_retriable(), 2)
        self._add(broker.SECOND_PASS, self.second_pass, _find_retriable(), 2)

    def _add(
        self, name: str, run: Callable[..., Any], retry_for: tuple[type[Exception], ...], max_retries: int | None
    ) -> None:
        @functools.wraps(run)
        def task(*args: Any, **options: Any) -> Any:
            # Celery sets attributes on what it is given, which a bound method does not take.
            return run(*args, **options)

        self.app.task(
            task,
            name=name,
            # Not in other applications of this process.
            shared=False,
            # Run inline, a retry would follow at once and in a deeper call.
            autoretry_for=() if self.inline else retry_for,
            max_retries=max_retries,
            retry_backoff=1,
            # A message that waits for its time is not acknowledged: it must not look abandoned meanwhile.
            retry_backoff_max=max(1, min(_LONGEST_RETRY, self.settings.broker_visibility_timeout // 3)),
            retry_jitter=True,
        )

    def retire_user(self, user_id: SubjectId) -> dict[str, int]:
        """Record that this user is to be retired, and ask for a sweep."""
        return self.retire_users([user_id])

    def retire_users(self, user_ids: Sequence[SubjectId]) -> dict[str, int]:
        """Record that these users are to be retired, and ask for a sweep."""
        with self._open() as store:
            subjects = _parse_ids(store, user_ids)
            retirements = store.ledger.request(subjects)
        if any(retirement.is_open for retirement in retirements):
            request_sweep(self.app)
        return {"recorded": len(retirements)}

    def sync_user(self, user_id: SubjectId) -> dict[str, int]:
        """Have this user, or where PII is off their roles, copied from the LMS with the next batch.

        A copy costs about the same for one user as for a thousand.
        """
        if not self._copies:
            return {}
        if not self._enqueue([user_id]):
            return self.sync_users([user_id])
        request_task(self.app, broker.SYNC_USERS, ([],), _COPY_WANTED)
        return {}

    def sync_users(self, user_ids: Sequence[SubjectId]) -> dict[str, int]:
        """Copy these users from the LMS, and whoever waits to be copied; where PII is off, their roles."""
        if not self._copies:
            return {}
        lms = open_lms(self.settings)
        if not self._enqueue(user_ids):
            with self._open() as store:
                return dict(self._copy(store, lms, user_ids))
        self._take_request(_COPY_WANTED)
        if not _ask_redis(self.app, lambda redis: redis.exists(_WAITING, _COPYING), default=0):
            return {}
        changed: Counter[str] = Counter()
        nobody: list[str] = []
        try:
            with self._open() as store, self._hold(store, "copy"):
                while waiting := _ask_redis(self.app, _take_waiting, default=nobody):
                    changed += self._copy(store, lms, waiting)
                    _ask_redis(self.app, lambda redis: redis.delete(_COPYING), default=0)
        except BusyError:
            # Tried again, as whoever is at it may have looked for the last time; until then nobody else need ask.
            self._repeat_request(_COPY_WANTED)
            raise
        return dict(changed)

    def sync_all(self) -> dict[str, int]:
        """Copy everybody from the LMS, or where PII is off all roles.

        Unless another full copy is under way: then the next one will do.
        """
        if not self._copies:
            return {}
        lms = open_lms(self.settings)
        try:
            with self._open() as store:
                return dict(_count_changes(sync(store, lms, enabled=self.settings.enable_pii, objects=self._objects)))
        except (BusyError, RefusedError) as error:
            logger.error("no full copy was made: %s", error)
            return {}

    @property
    def _copies(self) -> bool:
        """False where PII is off and there is no LMS to copy roles from: whoever has opted out need not name one."""
        return self.settings.enable_pii or self.settings.lms_database_url is not None

    @property
    def _objects(self) -> tuple[str, ...]:
        """What is copied; everything if empty."""
        return () if self.settings.enable_pii else WITHOUT_PII

    def _copy(self, store: Store, lms: LmsDatabase, user_ids: Sequence[SubjectId]) -> Counter[str]:
        """Copy users, and return the rows that changed by object; one that a safeguard stops does not stop the others."""
        subjects = [int(subject) for subject in _parse_ids(store, user_ids)]
        if not subjects:
            return Counter()
        try:
            counts = sync(store, lms, enabled=self.settings.enable_pii, objects=self._objects, user_ids=subjects)
        except RefusedError as error:
            changed: Counter[str] = Counter()
            if len(subjects) == 1:
                logger.error("user %d was not copied: %s", subjects[0], error)
                return changed
            for subject in subjects:
                changed += self._copy(store, lms, [subject])
            return changed
        return _count_changes(counts)

    def _enqueue(self, user_ids: Sequence[SubjectId]) -> bool:
        """Put them with those who wait, where the broker is a Redis."""
        if not user_ids:
            return _ask_redis(self.app, lambda _: True, default=False)
        ids = [str(user_id) for user_id in user_ids]
        return _ask_redis(self.app, lambda redis: redis.sadd(_WAITING, *ids) >= 0, default=False)

    def sweep(self) -> dict[str, int]:
        """Work off every open retirement that is due, unless another worker is at it."""
        outcomes: list[Outcome] = []
        with self._open() as store:
            self._take_request(_SWEEP_WANTED)
            due = _find_due(store)
            if not due:
                return _count(outcomes)
            try:
                with self._hold(store, "sweep"):
                    outcomes += work_off(store, due)
                    while self._take_request(_SWEEP_WANTED):
                        outcomes += work_off(store, _find_due(store))
            except BusyError:
                # Whoever is at it may have looked before this was requested; now they look again.
                self._repeat_request(_SWEEP_WANTED)
        return _count(outcomes)

    def _take_request(self, mark: str) -> bool:
        """True where it was requested; from here on a new request counts as one."""
        return bool(_ask_redis(self.app, lambda redis: redis.delete(mark), default=0))

    def _repeat_request(self, mark: str) -> None:
        _ask_redis(self.app, lambda redis: redis.set(mark, 1, ex=REQUEST_LASTS), default=None)

    def reconcile(self) -> dict[str, int]:
        """Request the retirement of whoever the LMS has retired and no event told us of."""
        lms = open_lms(self.settings)
        with self._open() as store:
            found = reconcile.reconcile(store, lms, dry_run=True)
        missed = self.retire_users(found.missed)["recorded"] if found.missed else 0
        return {"in_lms": found.in_lms, "missed": missed}

    def second_pass(self) -> dict[str, int]:
        """Look again at erasures that are older than the bound, and erase what came back."""
        with self._open() as store:
            try:
                with self._hold(store, "second_pass"):
                    return _count(reconcile.second_pass(store))
            except BusyError:
                return _count([])

    def _open(self) -> Store:
        """The store: a connection of its own for each task, as a broken one would break the next."""
        if not self.inline and self._engine is None and self.settings.clickhouse_url.startswith("chdb://"):
            # Starting the engine takes a second; it runs as long as one connection to it is open.
            self._engine = connect(self.settings)
        return open_store(self.settings)

    def _hold(self, store: Store, name: str) -> AbstractContextManager[None]:
        """Keep other workers from the same work, or raise `BusyError` at once.

        Erasing itself waits for whoever is erasing; this keeps all processes of a worker from waiting there together.
        """
        return nullcontext() if self.inline else leases.hold(store.client, name)


def _find_retriable() -> tuple[type[AspectsPiiError], ...]:
    def walk(kind: type[AspectsPiiError]) -> Iterator[type[AspectsPiiError]]:
        yield kind
        for child in kind.__subclasses__():
            yield from walk(child)

    return tuple(kind for kind in walk(AspectsPiiError) if kind.retriable)


def _parse_ids(store: Store, user_ids: Sequence[SubjectId]) -> list[SubjectId]:
    """The ids that are ids; what is none is logged without saying it, as it may be a name."""
    if isinstance(user_ids, str):
        user_ids = [user_ids]
    subjects: list[SubjectId] = []
    for position, user_id in enumerate(user_ids):
        try:
            subjects.append(store.pii_map.subject.parse(str(user_id)))
        except ValueError as error:
            logger.error("number %d of the ids in a message is not an id: %s; it is passed over", position, error)
    return subjects


def _take_waiting(redis: Any) -> list[str]:
    """Who waits to be copied, kept aside until they are; first those whom a killed worker had kept aside."""
    if not redis.exists(_COPYING) and redis.exists(_WAITING):
        redis.rename(_WAITING, _COPYING)
    return [user_id.decode() for user_id in redis.smembers(_COPYING)]


def _count_changes(counts: Iterable[Counts]) -> Counter[str]:
    """The rows that changed by object; what could not be copied is logged by id."""
    changed: Counter[str] = Counter()
    for count in counts:
        changed[count.object] = count.inserted + count.changed + count.removed
        for row in count.bad:
            logger.error("%s of user %s was not copied: %s: %s", count.object, row.user_id, row.column, row.reason)
    return changed


def _find_due(store: Store) -> list[Retirement]:
    """Every open retirement, but for those that failed lately: what fails again and again is tried ever more seldom."""
    now = store.client.value("SELECT now64(6, 'UTC')")
    return [r for r in store.ledger.find_open() if r.state != "failed" or _is_due(r, now)]


def _is_due(retirement: Retirement, now: datetime) -> bool:
    waited = now - retirement.since
    # A clock that was put back makes it negative.
    return not timedelta(0) <= waited < min(retirement.since - retirement.requested_at, LONGEST_WAIT)


def _count(outcomes: Sequence[Outcome]) -> dict[str, int]:
    for outcome in outcomes:
        if not outcome.is_done:
            logger.warning("retirement of %s failed and stays open: %s", outcome.subject, outcome.reason)
    return {"erased": sum(o.is_done for o in outcomes), "failed": sum(not o.is_done for o in outcomes)}


def _ask_redis(app: Celery, ask: Callable[[Any], T], default: T) -> T:
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


def run_worker(settings: Settings, *, beat: bool = True, concurrency: int | None = None) -> int:
    """Run a worker, and the schedule beside it, until SIGTERM; returns the exit status.

    Args:
        settings: the settings; with the embedded engine one process does everything.
        beat: also send what is on schedule; one worker of an installation has to.
        concurrency: processes, instead of ASPECTS_WORKER_CONCURRENCY.

    Raises:
        SettingsError: there is no broker, or signs of life cannot be written.
        MapError: the map is not valid.
    """
    if settings.broker_url is None:
        raise SettingsError("ASPECTS_BROKER_URL is not set. Example: ASPECTS_BROKER_URL=redis://redis:6379/0")
    read_map(settings)
    embedded = settings.clickhouse_url.startswith("chdb://")
    signs = heartbeat.Heartbeat(settings.heartbeat_dir, heartbeat.WORKER)
    worker = create_app(settings).Worker(
        # One process may hold the folder of the embedded engine.
        pool_cls=get_implementation("solo" if embedded else "prefork"),
        concurrency=1 if embedded else concurrency or settings.worker_concurrency,
        beat=beat,
        loglevel="INFO",
        quiet=True,
        # What workers tell each other through the broker; those of an LMS need not hear of ours.
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
        # For `WindowWatch`. A worker of one process gives no sign while it is at work.
        give_sign=functools.partial(signs.beat, heartbeat.WORKING if embedded else heartbeat.WAITING),
    )
    worker.start()
    return int(worker.exitcode or 0)
