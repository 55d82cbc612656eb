"""The Celery door: tasks that carry ids, record first, and work off what is recorded.

    retire_user, retire_users    write the request into the ledger, then ask for a sweep
    sync_user, sync_users        copy these users from the LMS, and whoever waits with them; where PII is off, their roles
    sync_all                     copy everybody from the LMS, or all roles: a change whose message was lost
    record_role                  write into the audit trail that a role was given or taken
    sweep                        work off every open retirement as one batch
    reconcile                    request the retirement of whoever the LMS has retired
    second_pass                  look again at old erasures

Nothing is lost when a worker is killed: what is recorded is open in the ledger, and the next sweep takes it up; what is
not recorded is not acknowledged, and the broker delivers it again. See docs/decisions/0006-celery.md.
"""

from __future__ import annotations

import functools
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime, timedelta
from typing import Any, TypeVar

from celery import Celery

from sink.clickhouse.client import ClickHouse
from sink.copying.batches import CopyCounts
from sink.copying.copies import WITHOUT_PII
from sink.copying.sync import sync
from sink.doors.outcomes import expire_if_due, log_outcomes
from sink.doors.worker import broker
from sink.doors.worker.waiting import (
    COPY_WANTED,
    COPYING,
    REQUEST_SECONDS,
    SWEEP_WANTED,
    WAITING,
    ask_redis,
    enqueue,
    request_sweep,
    set_waiting_aside,
)
from sink.erasure.arrivals import empty_arrivals
from sink.errors import AspectsPiiError, BusyError, RefusedError
from sink.installation import connect, open_lms, open_store
from sink.ledger import leases
from sink.ledger.entries import Retirement, State
from sink.ledger.role_trail import RoleChange, Source, read_change, record_changes
from sink.lms.authz import cover_courses, name_role, name_scope
from sink.lms.database import LmsDatabase
from sink.pii_map import SubjectId
from sink.retirement import reconcile
from sink.retirement.batch import Outcome
from sink.retirement.retire import work_off
from sink.settings import Settings
from sink.store import Store

# .. no_pii: messages, results and logs carry opaque user ids and counts.

T = TypeVar("T")
logger = logging.getLogger(__name__)
#: A retirement that failed waits as long as it has been failing, but no longer than this.
LONGEST_WAIT = timedelta(hours=1)
_MAX_RETRY_SECONDS = 300
# Whoever was killed while copying those who wait keeps others from it for so long.
_COPY_LEASE_SECONDS = 15.0


class Tasks:
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
        self._add(broker.RECORD_ROLE, self.record_role, _find_retriable(), 10)
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
            retry_backoff_max=max(1, min(_MAX_RETRY_SECONDS, self.settings.broker_visibility_timeout // 3)),
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
        return {} if enqueue(self.app, [str(user_id)]) else self.sync_users([user_id])

    def sync_users(self, user_ids: Sequence[SubjectId]) -> dict[str, int]:
        """Copy these users from the LMS, and whoever waits to be copied; where PII is off, their roles."""
        if not self._copies:
            return {}
        lms = open_lms(self.settings)
        if not self._enqueue(user_ids):
            with self._open() as store:
                return dict(self._copy(store, lms, user_ids))
        self._consume_request(COPY_WANTED)
        if not ask_redis(self.app, lambda redis: redis.exists(WAITING, COPYING), default=0):
            return {}
        changed: Counter[str] = Counter()
        nobody: list[str] = []
        try:
            with self._open() as store, self._hold(store, "copy", _COPY_LEASE_SECONDS):
                while waiting := ask_redis(self.app, set_waiting_aside, default=nobody):
                    changed += self._copy(store, lms, waiting)
                    ask_redis(self.app, lambda redis: redis.delete(COPYING), default=0)
        except BusyError:
            # Tried again, as whoever is at it may have looked for the last time; until then nobody else need ask.
            self._repeat_request(COPY_WANTED)
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

    def record_role(self, told: dict[str, Any]) -> dict[str, int]:
        """Write into the audit trail that a role was given or taken, whether PII is on or off; see the plugin for `told`.

        What cannot be right, and what cannot be written now or later, is logged by the id of the event.
        """
        event = str(told.get("event"))[:36] if isinstance(told, dict) else ""
        shown = event if re.fullmatch("[0-9a-f-]{36}", event) else "of no id"
        try:
            change = _read_change(told)
            with self._open() as store:
                store.pii_map.subject.parse(change.subject)
                record_changes(store.client, [change])
        except (ValueError, TypeError) as error:
            logger.error("the event %s about a role is passed over: %s", shown, error)
            return {"recorded": 0}
        except AspectsPiiError as error:
            if error.retriable:
                raise
            logger.error("the event %s about a role is not in the audit trail: %s", shown, error)
            return {"recorded": 0}
        return {"recorded": 1}

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
            return ask_redis(self.app, lambda _: True, default=False)
        ids = [str(user_id) for user_id in user_ids]
        return ask_redis(self.app, lambda redis: redis.sadd(WAITING, *ids) >= 0, default=False)

    def sweep(self) -> dict[str, int]:
        """Work off every open retirement that is due, unless another worker is at it.

        While storing PII is off, what other software has stored all the same is emptied too. Once a day, what the map keeps
        for so many days only goes.
        """
        outcomes: list[Outcome] = []
        with self._open() as store:
            self._consume_request(SWEEP_WANTED)
            store.ledger.note_progress()
            due = _find_due(store)
            try:
                with self._hold(store, "sweep") if due else nullcontext():
                    outcomes += work_off(store, due)
                    while due and self._consume_request(SWEEP_WANTED):
                        outcomes += work_off(store, _find_due(store))
            except BusyError:
                # Whoever is at it may have looked before this was requested; now they look again.
                self._repeat_request(SWEEP_WANTED)
            if not self.settings.enable_pii:
                empty_arrivals(store)
            expire_if_due(store)
        return _count(outcomes)

    def _consume_request(self, mark: str) -> bool:
        """True where it was requested; from here on a new request counts as one."""
        return bool(ask_redis(self.app, lambda redis: redis.delete(mark), default=0))

    def _repeat_request(self, mark: str) -> None:
        ask_redis(self.app, lambda redis: redis.set(mark, 1, ex=REQUEST_SECONDS), default=None)

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
            except RefusedError as error:
                logger.error("the second pass erased nothing: %s", error)
                return _count([])

    def _open(self) -> Store:
        """The store: a connection of its own for each task, as a broken one would break the next."""
        if not self.inline and self._engine is None and self.settings.clickhouse_url.startswith("chdb://"):
            # Starting the engine takes a second; it runs as long as one connection to it is open.
            self._engine = connect(self.settings)
        return open_store(self.settings)

    def _hold(self, store: Store, name: str, seconds: float | None = None) -> AbstractContextManager[None]:
        """Keep other workers from the same work, or raise `BusyError` at once.

        Erasing itself waits for whoever is erasing; this keeps all processes of a worker from waiting there together.
        """
        return nullcontext() if self.inline else leases.hold(store.client, name, seconds=seconds)


def _find_retriable() -> tuple[type[AspectsPiiError], ...]:
    def walk(kind: type[AspectsPiiError]) -> Iterator[type[AspectsPiiError]]:
        yield kind
        for child in kind.__subclasses__():
            yield from walk(child)

    return tuple(kind for kind in walk(AspectsPiiError) if kind.retriable)


def _read_change(told: dict[str, Any]) -> RoleChange:
    """What the plugin sent, in the words of the audit trail.

    Raises:
        ValueError: names what cannot be right, without quoting it.
    """
    if not isinstance(told, dict):
        raise ValueError("it is no object")
    if told.get("source") == Source.AUTHZ:
        told = {**told, "role": name_role(str(told.get("role"))), "scope": name_scope(str(told.get("scope")))}
    else:
        told = {**told, "scope": cover_courses(str(told.get("org")), str(told.get("course_key")))}
    return read_change(told)


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


def _count_changes(counts: Iterable[CopyCounts]) -> Counter[str]:
    """The rows that changed by object; what could not be copied is logged by id."""
    changed: Counter[str] = Counter()
    for count in counts:
        changed[count.object] = count.inserted + count.changed + count.removed
        for row in count.bad:
            logger.error("%s of user %s was not copied: %s: %s", count.object, row.user_id, row.column, row.reason)
    return changed


def _find_due(store: Store) -> list[Retirement]:
    """Every open retirement, but for those that failed lately: what fails again and again is tried ever more seldom."""
    now = store.client.now()
    return [r for r in store.ledger.find_open() if r.state is not State.FAILED or _is_due(r, now)]


def _is_due(retirement: Retirement, now: datetime) -> bool:
    waited = now - retirement.since
    # A clock that was put back makes it negative.
    return not timedelta(0) <= waited < min(retirement.since - retirement.requested_at, LONGEST_WAIT)


def _count(outcomes: Sequence[Outcome]) -> dict[str, int]:
    log_outcomes(outcomes)
    return {"erased": sum(o.is_done for o in outcomes), "failed": sum(not o.is_done for o in outcomes)}
