"""From messages to what they ask for: a batch is decoded, acted on and acknowledged.

What must not be lost is recorded first, then comes what takes long: while more messages wait, retirements are only recorded,
and then erased together, since erasing a thousand takes hardly longer than erasing one. A message is acknowledged when
what it asks for is recorded or done, never before; one that fails for a passing reason stays with the group and comes again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from sink.doors import outcomes
from sink.doors.events.actions import Actions, Delivery
from sink.doors.events.avro_events import read_headers
from sink.doors.events.backoff import Backoff
from sink.doors.events.work import Action, Decoder, Message, Streams
from sink.errors import AspectsPiiError, InvalidMessageError, RefusedError
from sink.pii_map import SubjectId

# .. no_pii: sees ids and counts; what decodes and transports messages is annotated where it does.

_log = logging.getLogger(__name__)

RECORD_FIRST_SECONDS = 5.0
"""For so long who was recorded waits to be erased together with whom the next messages name."""

MOST_TOGETHER = 10_000
"""Nobody waits where so many were recorded."""


@dataclass
class MessageCounts:
    """What became of the messages; `aspects-pii consume` shows it under these names."""

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


class BatchHandler:
    """Does what batches of messages ask for, and remembers what has to be tried again."""

    def __init__(self, streams: Streams, decoders: Mapping[str, Decoder], actions: Actions) -> None:
        """`decoders` are by stream."""
        self.counts = MessageCounts()
        self.unfinished = 0
        """Messages that failed and come again."""
        self._streams, self._decoders, self._actions = streams, decoders, actions
        self._backoffs: dict[Action, Backoff] = {"retire": Backoff(), "sync": Backoff(), "reassign": Backoff()}
        self._requested: dict[SubjectId, None] = {}
        self._erase_at = 0.0
        # At once: the process before this one may have died between recording and erasing.
        self._sweep_at: float | None = 0.0

    @property
    def is_retry_due(self) -> bool:
        """True where unfinished messages should be handled again now."""
        return self.unfinished > 0 and all(backoff.is_over for backoff in self._backoffs.values())

    @property
    def is_sweep_due(self) -> bool:
        """True where retirements may be open that this process should work off now."""
        return self._sweep_at is not None and time.monotonic() >= self._sweep_at

    def sweep(self) -> None:
        """Work off whatever retirement is open."""
        try:
            done = self._actions.sweep()
            self._requested.clear()
        except AspectsPiiError as error:
            _log.error("Open retirements could not be worked off: %s", error)
            done = False
        self._sweep_at = None if done else time.monotonic() + outcomes.SWEEP_RETRY_SECONDS

    @property
    def has_to_erase(self) -> bool:
        """True where somebody was recorded and not erased yet."""
        return bool(self._requested)

    def handle(self, messages: Sequence[Message], *, more_wait: bool = False) -> None:
        """Do what a batch asks for, which may take long.

        Args:
            messages: the batch; may be empty.
            more_wait: other messages can be read at once, so that whom they name can be erased with whom these name.
        """
        self.counts.read += len(messages)
        deliveries = list(self._decode(messages))
        self._attempt("retire", deliveries, self._record)
        self._attempt("reassign", deliveries, self._actions.reassign)
        # Nobody who was recorded waits for an LMS that may be slow, or away.
        asks_lms = any(delivery.work.action == "sync" for delivery in deliveries)
        if asks_lms or not more_wait or len(self._requested) >= MOST_TOGETHER or time.monotonic() >= self._erase_at:
            self.erase()
        self._attempt("sync", deliveries, self._actions.sync)

    def erase(self) -> None:
        """Erase who was recorded. What fails, or is not come to, is open in the ledger, and swept."""
        subjects = list(self._requested)
        if not subjects:
            return
        self._requested.clear()
        try:
            done = self._actions.work_off(subjects)
        except AspectsPiiError as error:
            _log.error("%s retirements are recorded and could not be worked off: %s", len(subjects), error)
            done = False
        if not done:
            self._sweep_at = time.monotonic() + outcomes.SWEEP_RETRY_SECONDS

    def _record(self, deliveries: Sequence[Delivery]) -> None:
        subjects = self._actions.request(deliveries)
        if not self._requested:
            self._erase_at = time.monotonic() + RECORD_FIRST_SECONDS
        self._requested.update(dict.fromkeys(subjects))

    def _decode(self, messages: Sequence[Message]) -> Iterator[Delivery]:
        """The messages that ask for something; the others are acknowledged, or become dead letters."""
        others = []
        for message in messages:
            if not message.fields:
                reason = "the stream was trimmed before it was read; reconcile and sync catch up"
                self._send_to_dead_letters(message, reason)
                continue
            try:
                work = self._decoders[message.stream](message)
            except InvalidMessageError as error:
                self._send_to_dead_letters(message, error.reason, error.kind)
                continue
            if work is None:
                self.counts.skipped += 1
                others.append(message)
            elif work.action == "sync" and not self._actions.has_use_for(work):
                self.counts.off += 1
                others.append(message)
            else:
                yield Delivery(message, work)
        self._streams.acknowledge(others)

    def _attempt(
        self, action: Action, deliveries: Sequence[Delivery], act: Callable[[Sequence[Delivery]], object]
    ) -> None:
        """Act on the deliveries of one kind together, and acknowledge them; where that fails they stay unfinished."""
        chosen = [delivery for delivery in deliveries if delivery.work.action == action]
        backoff = self._backoffs[action]
        if not chosen:
            return
        if not backoff.is_over:
            self.unfinished += len(chosen)
            return
        try:
            act(chosen)
        except RefusedError as error:
            # A safeguard is about one of them; which one shows when they come singly.
            if len(chosen) > 1:
                for delivery in chosen:
                    self._attempt(action, [delivery], act)
            else:
                self._send_to_dead_letters(chosen[0].message, f"refused: {error}", chosen[0].work.kind)
        except AspectsPiiError as error:
            self.counts.failed += 1
            self.unfinished += len(chosen)
            _log.error("%s of %s events failed, again in %.0f s: %s", action, len(chosen), backoff.extend(), error)
        else:
            backoff.reset()
            self._finish(action, chosen)

    def _finish(self, action: Action, deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            if delivery.work.unusable:
                self._send_to_dead_letters(delivery.message, delivery.work.unusable, delivery.work.kind)
        self._streams.acknowledge([delivery.message for delivery in deliveries if not delivery.work.unusable])
        if action == "retire":
            self.counts.retired += len(deliveries)
        elif action == "sync":
            self.counts.synced += len(deliveries)
        else:
            self.counts.reassigned += len(deliveries)

    def _send_to_dead_letters(self, message: Message, reason: str, kind: str = "") -> None:
        details = read_headers(message) | ({"type": kind} if kind else {})
        self._streams.send_to_dead_letters(message, reason, details)
        self.counts.buried += 1
        _log.warning("Dead letter: %s %s %s", message.stream, message.id, reason)
