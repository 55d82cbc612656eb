"""Reading event streams: `aspects-pii consume`, from Redis or from Kafka.

Two kinds of stream: topics of the Open edX event bus, which say whom to copy again, and JSON events, which a mapping
explains and which may also say whom to retire. This loop decides what is read when; `sink.doors.events.handling` does
what the messages ask for.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from sink.doors.events.actions import Actions
from sink.doors.events.backoff import Backoff
from sink.doors.events.handling import BatchHandler, MessageCounts
from sink.doors.events.sources import open_streams, read_sources
from sink.doors.events.work import Decoder, Message, Streams
from sink.doors.heartbeat import CONSUMER, Heartbeat
from sink.errors import StreamsUnreachableError
from sink.installation import find_address, read_map
from sink.settings import Settings

# .. no_pii: sees ids and counts; what decodes and transports messages is annotated where it does.

_log = logging.getLogger(__name__)

READ_WAIT_SECONDS = 1.0
"""How long a read waits for a message; also how long SIGTERM may go unnoticed."""

ONCE_WAIT_SECONDS = 0.01
"""The same for a consumer that ends when there is nothing to read."""

MAX_UNFINISHED = 5_000
"""Messages that may wait for another try before no new ones are read."""


class Consumer:
    """Reads streams until it is told to stop, and has the messages handled."""

    def __init__(
        self,
        streams: Streams,
        decoders: Mapping[str, Decoder],
        actions: Actions,
        *,
        batch_size: int = 500,
        claim_after: float = 300,
        heartbeat: Heartbeat | None = None,
    ) -> None:
        """`decoders` are by stream, `heartbeat` beats whenever streams were read; see the settings for the rest."""
        self._handler = BatchHandler(streams, decoders, actions)
        self._heartbeat = heartbeat or Heartbeat(None, CONSUMER)
        self._streams = streams
        self._batch_size, self._claim_after = batch_size, claim_after
        self._claim_at = 0.0

    @property
    def counts(self) -> MessageCounts:
        """What became of the messages so far."""
        return self._handler.counts

    def run(self, stop: threading.Event, *, once: bool = False) -> None:
        """Work until `stop` is set; with `once`, until nothing is left to read.

        Raises:
            SettingsError: Redis or Kafka does not let us in.
            StreamsUnreachableError: with `once`, it cannot be reached.
        """
        backoff = Backoff(longest_seconds=30)
        while not stop.is_set():
            try:
                self._streams.prepare()
                try:
                    self._read_and_handle(stop, once, backoff)
                finally:
                    # Also where the streams cannot be reached any more.
                    self._erase()
                return
            except StreamsUnreachableError as error:
                if once:
                    raise
                _log.error("%s; trying again in %.0f s", error, seconds := backoff.extend())
                stop.wait(seconds)

    def _read_and_handle(self, stop: threading.Event, once: bool, backoff: Backoff) -> None:
        self._handle_unfinished(stop)
        while not stop.is_set():
            self._sweep_if_due()
            self._claim_if_due(stop)
            if self._handler.is_retry_due:
                self._handle_unfinished(stop)
            if self._handler.unfinished >= MAX_UNFINISHED:
                self._erase()
                self._heartbeat.beat()
                stop.wait(READ_WAIT_SECONDS)
                continue
            hurries = once or self._handler.has_to_erase
            messages = self._streams.read_new(self._batch_size, ONCE_WAIT_SECONDS if hurries else READ_WAIT_SECONDS)
            backoff.reset()
            self._heartbeat.beat()
            self._handle_batch(messages)
            if once and not messages and self._streams.has_caught_up():
                return

    def _handle_unfinished(self, stop: threading.Event) -> None:
        self._handler.unfinished = 0
        for messages in self._streams.read_unfinished(self._batch_size):
            self._handle_batch(messages)
            if stop.is_set():
                return

    def _claim_if_due(self, stop: threading.Event) -> None:
        if time.monotonic() < self._claim_at:
            return
        for messages in self._streams.claim(self._claim_after, self._batch_size):
            self._handle_batch(messages)
            if stop.is_set():
                return
        self._claim_at = time.monotonic() + self._claim_after / 2

    def _sweep_if_due(self) -> None:
        if self._handler.is_sweep_due:
            with self._heartbeat.working():
                self._handler.sweep()

    def _handle_batch(self, messages: Sequence[Message]) -> None:
        if messages or self._handler.has_to_erase:
            with self._heartbeat.working():
                self._handler.handle(messages, more_wait=len(messages) >= self._batch_size)

    def _erase(self) -> None:
        if self._handler.has_to_erase:
            with self._heartbeat.working():
                self._handler.erase()


def run_consumer(settings: Settings, *, once: bool = False, stop: threading.Event | None = None) -> MessageCounts:
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
    actions = Actions(settings, asks_for_copies=sources.asks_for_copies)
    streams = open_streams(settings, list(sources.decoders))
    consumer = Consumer(
        streams,
        sources.decoders,
        actions,
        batch_size=settings.event_batch_size,
        claim_after=settings.event_claim_after,
        heartbeat=Heartbeat(None if once else settings.heartbeat_dir, CONSUMER),
    )
    transport = "Redis" if settings.kafka_bootstrap_servers is None else "Kafka"
    _log.info("Reading from %s as the group %s: %s", transport, settings.event_group, ", ".join(sources.decoders))
    _log.info("Store: %s", find_address(settings).described)
    _log.info("Storing PII is %s", "on" if settings.enable_pii else "off: events are read, and nobody is copied")
    _log.info("Waiting for events; what cannot be used goes to %s", settings.event_dead_letters)
    try:
        with _stopped_by_signals(stop or threading.Event()) as stopped:
            consumer.run(stopped, once=once)
    finally:
        actions.close()
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
