"""Reading event streams: `aspects-pii consume`, from Redis or from Kafka.

Two kinds of stream: topics of the Open edX event bus, which say whom to copy again, and JSON events, which a mapping
explains and which may also say whom to retire. A message is acknowledged when what it asks for is recorded or done,
never before; one that fails for a passing reason stays with the group and is tried again, with growing pauses.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from sink.doors import outcomes
from sink.doors.events.actions import Job, Office
from sink.doors.events.avro_events import read_headers
from sink.doors.events.sources import open_transport, read_sources
from sink.doors.events.work import Action, Decoder, Message, Streams
from sink.doors.heartbeat import CONSUMER, Heartbeat
from sink.errors import AspectsPiiError, InvalidMessageError, RefusedError, StreamsUnreachableError
from sink.installation import read_map
from sink.pii_map import SubjectId
from sink.settings import Settings

# .. no_pii: sees ids and counts; what decodes and transports messages is annotated where it does.

_log = logging.getLogger(__name__)

WAIT = 1.0
"""Seconds that a read waits for a message; also how long SIGTERM may go unnoticed."""

MAX_LEFT = 5_000
"""Messages that may wait for another try before no new ones are read."""


@dataclass
class Counts:
    """What became of the messages."""

    read: int = 0
    synced: int = 0
    """Messages because of which a user was copied."""
    retired: int = 0
    reassigned: int = 0
    off: int = 0
    """Messages that ask for a copy of what is not stored while PII is off."""
    skipped: int = 0
    """Messages of kinds that are not read."""
    buried: int = 0
    """Messages, or parts of them, that went to the dead letters."""
    failed: int = 0
    """Attempts that failed; the messages stay and come again."""


class Pause:
    """Growing pauses between attempts at something that fails."""

    def __init__(self, first: float = 1.0, longest: float = 60.0) -> None:
        self._first, self._longest, self._next = first, longest, first
        self.until = 0.0

    @property
    def is_over(self) -> bool:
        """True where the next attempt may be made."""
        return time.monotonic() >= self.until

    def extend(self) -> float:
        """Note a failure, and return the seconds until the next attempt."""
        seconds = self._next
        self.until = time.monotonic() + seconds
        self._next = min(self._next * 2, self._longest)
        return seconds

    def end(self) -> None:
        """Note a success."""
        self.until, self._next = 0.0, self._first


class Consumer:
    """Takes messages from streams and sees to it that what they ask for is done."""

    def __init__(
        self,
        streams: Streams,
        decoders: Mapping[str, Decoder],
        office: Office,
        *,
        batch_size: int = 500,
        claim_after: float = 300,
        heartbeat: Heartbeat | None = None,
    ) -> None:
        """`decoders` are by stream, `heartbeat` takes a sign whenever streams were read; see the settings for the rest."""
        self.counts = Counts()
        self._heartbeat = heartbeat or Heartbeat(None, CONSUMER)
        self._streams, self._decoders, self._office = streams, decoders, office
        self._batch_size, self._claim_after = batch_size, claim_after
        self._pauses: dict[Action, Pause] = {"retire": Pause(), "sync": Pause(), "reassign": Pause()}
        self._left = 0
        self._claim_at = 0.0
        # At once: the process before this one may have died between recording and erasing.
        self._sweep_at: float | None = 0.0

    def run(self, stop: threading.Event, *, once: bool = False) -> None:
        """Work until `stop` is set; with `once`, until nothing is left to read.

        Raises:
            SettingsError: Redis or Kafka does not let us in.
            StreamsUnreachableError: with `once`, it cannot be reached.
        """
        pause = Pause(longest=30)
        while not stop.is_set():
            try:
                self._streams.prepare()
                self._work(stop, once, pause)
                return
            except StreamsUnreachableError as error:
                if once:
                    raise
                _log.error("%s; trying again in %.0f s", error, seconds := pause.extend())
                stop.wait(seconds)

    def _work(self, stop: threading.Event, once: bool, pause: Pause) -> None:
        self._take_unfinished(stop)
        while not stop.is_set():
            self._sweep_if_due()
            self._claim_if_due(stop)
            if self._left and all(pause.is_over for pause in self._pauses.values()):
                self._take_unfinished(stop)
            if self._left >= MAX_LEFT:
                self._heartbeat.beat()
                stop.wait(WAIT)
                continue
            messages = self._streams.read_new(self._batch_size, 0.01 if once else WAIT)
            pause.end()
            self._heartbeat.beat()
            self._take(messages)
            if once and not messages and self._streams.has_caught_up():
                return

    def _take_unfinished(self, stop: threading.Event) -> None:
        self._left = 0
        for messages in self._streams.read_unfinished(self._batch_size):
            self._take(messages)
            if stop.is_set():
                return

    def _claim_if_due(self, stop: threading.Event) -> None:
        if time.monotonic() < self._claim_at:
            return
        for messages in self._streams.claim(self._claim_after, self._batch_size):
            self._take(messages)
            if stop.is_set():
                return
        self._claim_at = time.monotonic() + self._claim_after / 2

    def _sweep_if_due(self) -> None:
        if self._sweep_at is None or time.monotonic() < self._sweep_at:
            return
        try:
            with self._heartbeat.working():
                done = self._office.sweep()
        except AspectsPiiError as error:
            _log.error("Open retirements could not be worked off: %s", error)
            done = False
        self._sweep_at = None if done else time.monotonic() + outcomes.SWEEP_RETRY_SECONDS

    def _take(self, messages: Sequence[Message]) -> None:
        """See to one batch, which may take long."""
        if messages:
            with self._heartbeat.working():
                self._see_to(messages)

    def _see_to(self, messages: Sequence[Message]) -> None:
        """First what must not be lost, then what takes long."""
        self.counts.read += len(messages)
        jobs = list(self._decode(messages))
        requested: list[SubjectId] = []
        self._attempt("retire", jobs, lambda chosen: requested.extend(self._office.request(chosen)))
        self._attempt("reassign", jobs, self._office.reassign)
        if requested:
            self._retire(requested)
        self._attempt("sync", jobs, self._office.sync)

    def _decode(self, messages: Sequence[Message]) -> Iterator[Job]:
        others = []
        for message in messages:
            if not message.fields:
                self._bury(message, "the stream was trimmed before it was read; reconcile and sync catch up")
                continue
            try:
                work = self._decoders[message.stream](message)
            except InvalidMessageError as problem:
                self._bury(message, problem.reason, problem.kind)
                continue
            if work is None:
                self.counts.skipped += 1
                others.append(message)
            elif work.action == "sync" and not self._office.copies(work):
                self.counts.off += 1
                others.append(message)
            else:
                yield Job(message, work)
        self._streams.acknowledge(others)

    def _attempt(self, action: Action, jobs: Sequence[Job], do: Callable[[Sequence[Job]], object]) -> None:
        """Do the jobs of one kind together, and acknowledge them; where that fails they are left for later."""
        chosen = [job for job in jobs if job.work.action == action]
        pause = self._pauses[action]
        if not chosen:
            return
        if not pause.is_over:
            self._left += len(chosen)
            return
        try:
            do(chosen)
        except RefusedError as error:
            # A safeguard is about one of them; which one shows when they come singly.
            if len(chosen) > 1:
                for job in chosen:
                    self._attempt(action, [job], do)
            else:
                self._bury(chosen[0].message, f"refused: {error}", chosen[0].work.kind)
        except AspectsPiiError as error:
            self.counts.failed += 1
            self._left += len(chosen)
            _log.error("%s of %s events failed, again in %.0f s: %s", action, len(chosen), pause.extend(), error)
        else:
            pause.end()
            self._finish(action, chosen)

    def _finish(self, action: Action, jobs: Sequence[Job]) -> None:
        for job in jobs:
            if job.work.complaint:
                self._bury(job.message, job.work.complaint, job.work.kind)
        self._streams.acknowledge([job.message for job in jobs if not job.work.complaint])
        if action == "retire":
            self.counts.retired += len(jobs)
        elif action == "sync":
            self.counts.synced += len(jobs)
        else:
            self.counts.reassigned += len(jobs)

    def _retire(self, subjects: Sequence[SubjectId]) -> None:
        """Erase who was recorded. What fails is open in the ledger, and swept."""
        try:
            done = self._office.work_off(subjects)
        except AspectsPiiError as error:
            _log.error("%s retirements are recorded and could not be worked off: %s", len(subjects), error)
            done = False
        if not done:
            self._sweep_at = time.monotonic() + outcomes.SWEEP_RETRY_SECONDS

    def _bury(self, message: Message, reason: str, kind: str = "") -> None:
        details = read_headers(message) | ({"type": kind} if kind else {})
        self._streams.bury(message, reason, details)
        self.counts.buried += 1
        _log.warning("Dead letter: %s %s %s", message.stream, message.id, reason)


def run_consumer(settings: Settings, *, once: bool = False, stop: threading.Event | None = None) -> Counts:
    """Read the streams until SIGTERM or SIGINT, and return what became of the messages.

    Args:
        settings: which streams, which store, which LMS.
        once: work off what is there, and return.
        stop: set it to stop; signals do so too where this runs in the main thread.

    Raises:
        UsageError: no Redis and no Kafka, no stream or no LMS is named.
        SettingsError: an address is not valid, or Redis or Kafka does not let us in.
        MapError: the map or the mapping of events is not valid.
        StreamsUnreachableError: with `once`, Redis or Kafka cannot be reached.
    """
    sources = read_sources(settings, read_map(settings).subject)
    office = Office(settings, copies=sources.copies)
    streams = open_transport(settings, list(sources.decoders))
    consumer = Consumer(
        streams,
        sources.decoders,
        office,
        batch_size=settings.event_batch_size,
        claim_after=settings.event_claim_after,
        heartbeat=Heartbeat(None if once else settings.heartbeat_dir, CONSUMER),
    )
    try:
        with _stopped_by_signals(stop or threading.Event()) as stopped:
            consumer.run(stopped, once=once)
    finally:
        office.close()
        streams.close()
    return consumer.counts


@contextmanager
def _stopped_by_signals(stop: threading.Event) -> Iterator[threading.Event]:
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
