"""What the HTTP hook does: record retirements, work them off, and tell how things stand."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from prometheus_client.core import Metric

from sink.doors import outcomes
from sink.doors.events.redis_streams import RedisStreams
from sink.doors.outcomes import log_outcomes
from sink.doors.web.metrics import make_gauge, read_lag, read_metrics
from sink.errors import AspectsPiiError, HttpProblemError, StoreMissingError, UnreachableError
from sink.installation import find_address, open_store
from sink.pii_map import PiiMap
from sink.retirement.retire import sweep
from sink.settings import Settings
from sink.store import Store

# .. no_pii: opaque ids and counts.

_log = logging.getLogger(__name__)

PROBE_TIMEOUT_SECONDS = 5
"""How long /health and /metrics wait for ClickHouse."""
_CLOSE_SECONDS = 10


class Connection:
    """A store for several threads, one at a time; opened when it is needed, and again when it was lost."""

    def __init__(self, settings: Settings, pii_map: PiiMap, **changes: Any) -> None:
        """`changes` are to the address: shorter waits."""
        self._settings, self._map, self._changes = settings, pii_map, changes
        self._wait = find_address(settings, **changes).timeout
        self._lock = threading.Lock()
        self._store: Store | None = None

    @contextmanager
    def use(self) -> Iterator[Store]:
        """The store.

        Raises:
            DatabaseError: there is no connection, or others have been using it for too long.
        """
        if not self._lock.acquire(timeout=self._wait):
            raise UnreachableError("ClickHouse keeps other requests waiting")
        try:
            if self._store is None:
                self._store = open_store(self._settings, self._map, **self._changes)
            yield self._store
        except AspectsPiiError:
            self._drop()
            raise
        finally:
            self._lock.release()

    def close(self) -> None:
        """Give up the connection. What somebody is still asking of it ends with the process."""
        if self._lock.acquire(timeout=_CLOSE_SECONDS):
            try:
                self._drop()
            finally:
                self._lock.release()

    def _drop(self) -> None:
        if self._store is not None:
            with contextlib.suppress(Exception):
                self._store.client.close()
            self._store = None


class Sweeper:
    """Works retirements off, in a thread of its own: all that came in meanwhile at once."""

    def __init__(self, connection: Connection) -> None:
        """Nothing runs yet."""
        self._connection = connection
        self._wake, self._stop = threading.Event(), False
        self._thread = threading.Thread(target=self._run, name="sweeper", daemon=True)

    def start(self) -> None:
        """Begin, with what a process before this one may have left open."""
        self._wake.set()
        self._thread.start()

    def wake(self) -> None:
        """Say that there is something to do."""
        self._wake.set()

    def close(self) -> None:
        """End after what is at work; what is left is open in the ledger."""
        self._stop = True
        self._wake.set()
        self._thread.join(timeout=_CLOSE_SECONDS)
        self._connection.close()

    def _run(self) -> None:
        done = True
        while not self._stop:
            self._wake.wait(None if done else outcomes.SWEEP_RETRY_SECONDS)
            self._wake.clear()
            if not self._stop:
                done = self._sweep()

    def _sweep(self) -> bool:
        try:
            with self._connection.use() as store:
                return log_outcomes(sweep(store))
        except AspectsPiiError as error:
            _log.error("Open retirements could not be worked off: %s", error)
            return False
        except Exception as error:
            # Its text may quote a value.
            _log.error("Open retirements could not be worked off (%s)", type(error).__name__)
            return False


@dataclass(frozen=True)
class RetirementService:
    """What the endpoints call: records retirements, and tells how things stand."""

    enabled: bool
    recording: Connection
    probing: Connection
    sweeper: Sweeper | None
    streams: RedisStreams | None

    def record(self, user_id: int) -> None:
        """Put a retirement into the ledger.

        Raises:
            HttpProblemError: it is not there.
        """
        try:
            with self.recording.use() as store:
                store.ledger.request([store.pii_map.subject.parse(str(user_id))])
        except AspectsPiiError as error:
            _log.error("The retirement of %s could not be recorded: %s", user_id, error)
            status, word = (503, "unavailable") if error.retriable else (500, "failed")
            raise HttpProblemError(
                status, word, "The retirement could not be recorded. Try again.", {"Retry-After": "30"}
            ) from None
        self.wake()

    def wake(self) -> None:
        """Say that there is something to erase, where that is done here."""
        if self.sweeper is not None:
            self.sweeper.wake()

    def close(self) -> None:
        """Give up the connections, and end after what is being erased."""
        if self.sweeper is not None:
            self.sweeper.close()
        self.recording.close()
        self.probing.close()
        if self.streams is not None:
            self.streams.close()

    def is_clickhouse_up(self) -> bool:
        """Whether ClickHouse answers within `PROBE_TIMEOUT_SECONDS`."""
        try:
            with self.probing.use() as store:
                store.client.value("SELECT 1")
        except AspectsPiiError:
            return False
        return True

    def collect(self) -> Iterator[Metric]:
        """What /metrics shows beside the counts of requests, read anew each time."""
        yield make_gauge("aspects_pii_enabled", "Whether storing PII is on.", float(self.enabled))
        found: list[Metric] = []
        is_up = False
        try:
            with self.probing.use() as store:
                # It may answer, and have no store of this version: that is another trouble.
                is_up = store.client.value("SELECT 1") == 1
                found = list(read_metrics(store))
        except StoreMissingError:
            # It has answered that it has none.
            is_up = True
        except AspectsPiiError:
            found = []
        yield make_gauge("aspects_pii_clickhouse_up", "Whether ClickHouse answers.", float(is_up))
        yield make_gauge("aspects_pii_ledger_readable", "Whether the ledger could be read.", float(bool(found)))
        yield from found
        if self.streams is not None:
            yield from read_lag(self.streams)
