"""Kafka as a queue of messages: what `sink.doors.events.redis_streams` promises for Redis, on what Kafka has for it.

Kafka remembers one number a partition: everything before it is done. Messages that are read and not done are kept in
memory, and the number goes no further than the first of them: whatever becomes of this process, or of its part in the
group, they are delivered again.
"""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import confluent_kafka
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from sink.doors.events.work import VALUE, Message, describe_dead_letter
from sink.errors import SettingsError, StreamsUnreachableError, translated

# .. pii: Values of messages pass through unread; the dead letters written here hold none of them.
# .. pii_types: username, email_address, name
# .. pii_retirement: consumer_api

_log = logging.getLogger(__name__)

# After this time without a heartbeat of its client, the partitions of a consumer go to another.
SESSION_TIMEOUT_MS = 10_000
# The same for a consumer that lives and does not read, because it is erasing.
_MAX_POLL_INTERVAL_MS = 1_800_000
_LOOK_SECONDS = 5.0
_ANSWER_TIMEOUT_SECONDS = 10.0
_JOIN_TIMEOUT_SECONDS = 60.0
_SHORTEST_WAIT_SECONDS = 0.1
# CloudEvents headers, as edx-event-bus-kafka writes them, by what the other transport calls them.
_HEADERS = {"ce_type": b"type", "ce_id": b"id", "ce_time": b"time"}
_UNKNOWN_TOPIC = (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC)  # noqa: SLF001 - so called by the client
_NOT_AUTHORIZED = (
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
)
_NOT_AUTHENTICATED = (KafkaError._AUTHENTICATION, KafkaError.SASL_AUTHENTICATION_FAILED)  # noqa: SLF001
# The group was rebalanced: what was not committed comes again, to whoever has the partition now.
_REBALANCED = (
    KafkaError.ILLEGAL_GENERATION,
    KafkaError.UNKNOWN_MEMBER_ID,
    KafkaError.REBALANCE_IN_PROGRESS,
    KafkaError._STATE,  # noqa: SLF001
    KafkaError._NO_OFFSET,  # noqa: SLF001
)


@dataclass
class _Partition:
    """How far one partition is."""

    next: int
    """The offset after the last one that was read."""
    committed: int
    """The offset that Kafka was told."""
    unfinished: dict[int, Message] = field(default_factory=dict)
    is_at_end: bool = False

    @property
    def done(self) -> int:
        """The offset before which everything is done."""
        return min(self.unfinished, default=self.next)


class KafkaStreams:
    """Some topics of one Kafka, read by one consumer of a group."""

    def __init__(
        self, options: Mapping[str, Any], topics: Sequence[str], *, group: str, consumer: str, dead_letters: str
    ) -> None:
        """Take what `make_options` says; nothing is connected yet."""
        self.streams = tuple(topics)
        self.group, self.consumer, self.dead_letters = group, consumer, dead_letters
        self._options = {**options, "client.id": consumer, "error_cb": self._on_error}
        self._reader: confluent_kafka.Consumer | None = None
        self._writer: confluent_kafka.Producer | None = None
        self._partitions: dict[tuple[str, int], _Partition] = {}
        self._absent: set[str] = set()
        self._assigned = False
        self._joining_since = 0.0
        self._problem: KafkaError | None = None

    def close(self) -> None:
        """Note what is done, and leave the group, so that others need not wait for us."""
        if self._reader is not None:
            with contextlib.suppress(KafkaException, StreamsUnreachableError, SettingsError):
                self._commit()
            with contextlib.suppress(KafkaException, RuntimeError):
                self._reader.close()
        self._reader = self._writer = None
        self._partitions.clear()

    def prepare(self) -> None:
        """Join the group, which begins with the oldest message there is; the dead letters have to have a place.

        Raises:
            StreamsUnreachableError: Kafka gives no answer.
            SettingsError: Kafka refuses the user, or the settings.
        """
        if self._writer is None:
            with translated(self._translate):
                self._writer = confluent_kafka.Producer(
                    {
                        **self._options,
                        "enable.idempotence": True,
                        "message.timeout.ms": int(_ANSWER_TIMEOUT_SECONDS * 1_000),
                    }
                )
        if self._reader is not None:
            # The client connects again by itself.
            return
        self._require_dead_letter_topic(self._writer)
        with translated(self._translate):
            self._reader = confluent_kafka.Consumer(
                {
                    **self._options,
                    "group.id": self.group,
                    "auto.offset.reset": "earliest",
                    "enable.auto.commit": False,
                    "enable.partition.eof": True,
                    "session.timeout.ms": SESSION_TIMEOUT_MS,
                    "max.poll.interval.ms": _MAX_POLL_INTERVAL_MS,
                    "partition.assignment.strategy": "cooperative-sticky",
                    # Topics may come into being later.
                    "topic.metadata.refresh.interval.ms": 30_000,
                }
            )
            self._reader.subscribe(
                list(self.streams), on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost
            )
        self._assigned, self._joining_since = False, time.monotonic()

    def find_existing(self) -> list[str]:
        """Those of the topics that are there, as far as this user sees them. Changes nothing.

        Raises:
            StreamsUnreachableError: Kafka gives no answer.
            SettingsError: Kafka refuses the user, or the settings.
        """
        with translated(self._translate):
            self._writer = self._writer or confluent_kafka.Producer(self._options)
            # Of all topics: one that is named might be made by being asked for.
            there = self._writer.list_topics(timeout=_LOOK_SECONDS).topics
        return [topic for topic in self.streams if topic in there]

    def _require_dead_letter_topic(self, writer: confluent_kafka.Producer) -> None:
        """What cannot be sent to the dead letters would hold up all other messages, so this is asked before any is read."""
        deadline = time.monotonic() + _ANSWER_TIMEOUT_SECONDS
        while True:
            with translated(self._translate):
                topic = writer.list_topics(self.dead_letters, timeout=_ANSWER_TIMEOUT_SECONDS).topics[self.dead_letters]
            if topic.error is None and topic.partitions:
                return
            if topic.error is not None and topic.error.code() in _NOT_AUTHORIZED:
                raise SettingsError(f"Kafka does not let this user see the topic {self.dead_letters}.")
            if time.monotonic() > deadline:
                raise SettingsError(
                    f"The topic {self.dead_letters} for dead letters is not there, and Kafka does not make it. "
                    "Create it, or name another in ASPECTS_EVENT_DEAD_LETTERS."
                )
            time.sleep(_SHORTEST_WAIT_SECONDS)

    def read_new(self, count: int, wait_seconds: float) -> list[Message]:
        """Up to `count` messages that nobody of the group has done, after waiting `wait_seconds` for them.

        Raises:
            StreamsUnreachableError: Kafka gives no answer; what was read by then is unfinished.
            SettingsError: Kafka refuses the user.
        """
        reader = self._require_reader()
        self._commit()
        found: list[Message] = []
        with translated(self._translate):
            for event in reader.consume(count, max(wait_seconds, _SHORTEST_WAIT_SECONDS)):
                error = event.error()
                if error is None:
                    found.append(self._receive(event))
                else:
                    self._read_error(error, str(event.topic()), event.partition())
        if self._problem is not None and not found:
            problem, self._problem = self._problem, None
            raise _translate_code(problem)
        return found

    def _receive(self, event: confluent_kafka.Message) -> Message:
        topic, number, offset = str(event.topic()), int(event.partition() or 0), int(event.offset() or 0)
        fields: dict[bytes, bytes] = {VALUE.encode(): event.value() or b""}
        headers = event.headers() or []
        for name, value in headers.items() if isinstance(headers, dict) else headers:
            if name in _HEADERS and isinstance(value, bytes):
                fields[_HEADERS[name]] = value
        message = Message(topic, f"{number}:{offset}", fields)
        partition = self._partitions.setdefault((topic, number), _Partition(offset, offset))
        partition.unfinished[offset] = message
        partition.next = offset + 1
        partition.is_at_end = False
        self._absent.discard(topic)
        return message

    def _read_error(self, error: KafkaError, topic: str, number: int | None) -> None:
        code = error.code()
        if code == KafkaError._PARTITION_EOF:  # noqa: SLF001
            # A partition without a message has not been met yet.
            partition = self._partitions.setdefault((topic, number or 0), _Partition(-1, -1))
            partition.is_at_end = True
        elif code in _UNKNOWN_TOPIC:
            if topic not in self._absent:
                _log.warning("The topic %s is not there yet", topic)
            self._absent.add(topic)
        else:
            self._on_error(error)

    def _on_error(self, error: KafkaError) -> None:
        """What the client tells of itself; most of it passes without us."""
        if error.fatal() or error.code() in (*_NOT_AUTHENTICATED, *_NOT_AUTHORIZED, KafkaError._ALL_BROKERS_DOWN):  # noqa: SLF001
            self._problem = error
        else:
            # In more words, and with the broker's name, the client logs it itself.
            _log.debug("Kafka: %s", error.name())

    def has_caught_up(self) -> bool:
        """True where everything that is there now has been read.

        Raises:
            StreamsUnreachableError: Kafka has given us no part in the group.
        """
        if set(self.streams) <= self._absent:
            return True
        if not self._assigned:
            if time.monotonic() - self._joining_since > _JOIN_TIMEOUT_SECONDS:
                raise StreamsUnreachableError("Kafka has given this consumer no part in its group")
            return False
        assert self._reader is not None
        with translated(self._translate):
            mine = self._reader.assignment()
        known = [self._partitions.get((one.topic, one.partition)) for one in mine]
        return all(partition is not None and partition.is_at_end for partition in known)

    def read_unfinished(self, count: int) -> Iterator[list[Message]]:
        """What this consumer has read and not finished, oldest first, in lists of `count`."""
        messages = [message for partition in self._partitions.values() for message in partition.unfinished.values()]
        for start in range(0, len(messages), count):
            yield messages[start : start + count]

    def claim(self, idle_seconds: float, count: int) -> Iterator[list[Message]]:
        """Nothing: Kafka itself gives the partitions of a consumer that is gone to the others."""
        yield from ()

    def acknowledge(self, messages: Sequence[Message]) -> None:
        """Say that `messages` are done.

        Raises:
            StreamsUnreachableError: Kafka gives no answer; they may come again.
        """
        for message in messages:
            number, _, offset = message.id.partition(":")
            partition = self._partitions.get((message.stream, int(number)))
            # Another consumer's by now, who reads it again.
            if partition is not None:
                partition.unfinished.pop(int(offset), None)
        self._commit()

    def _commit(self) -> None:
        """Tell Kafka how far we are, where it does not know."""
        behind = {key: one.done for key, one in self._partitions.items() if one.done > one.committed}
        if not behind or self._reader is None:
            return
        offsets = [TopicPartition(topic, number, offset) for (topic, number), offset in behind.items()]
        with translated(self._translate):
            try:
                answers = self._reader.commit(offsets=offsets, asynchronous=False) or []
            except KafkaException as error:
                if error.args[0].code() not in _REBALANCED:
                    raise
                _log.info("How far we are is noted later: %s", error.args[0].name())
                return
        for answer in answers:
            partition = self._partitions.get((answer.topic, answer.partition))
            if partition is not None and answer.error is None:
                partition.committed = behind[answer.topic, answer.partition]

    def send_to_dead_letters(self, message: Message, reason: str, details: Mapping[str, str]) -> None:
        """Write a dead letter, then count the message as done. No content, no hash of any.

        Who is killed between the two writes the letter again.

        Raises:
            StreamsUnreachableError: Kafka does not take it; the message will come again.
        """
        assert self._writer is not None
        letter = describe_dead_letter(message, reason, details, self.consumer)
        answers: list[KafkaError | None] = []
        with translated(self._translate):
            self._writer.produce(
                self.dead_letters, json.dumps(letter).encode(), on_delivery=lambda error, _: answers.append(error)
            )
            self._writer.flush(2 * _ANSWER_TIMEOUT_SECONDS)
        if answers != [None]:
            why = answers[0].name() if answers and answers[0] is not None else "no answer"
            raise StreamsUnreachableError(f"Kafka did not take a dead letter ({why})")
        self.acknowledge([message])

    def _require_reader(self) -> confluent_kafka.Consumer:
        if self._reader is None:
            raise StreamsUnreachableError("Kafka is not connected")
        return self._reader

    def _on_assign(self, _: confluent_kafka.Consumer, partitions: list[TopicPartition]) -> None:
        self._assigned = True
        self._absent -= {one.topic for one in partitions}

    def _on_revoke(self, _: confluent_kafka.Consumer, partitions: list[TopicPartition]) -> None:
        with contextlib.suppress(StreamsUnreachableError, SettingsError):
            self._commit()
        self._on_lost(_, partitions)

    def _on_lost(self, _: confluent_kafka.Consumer, partitions: list[TopicPartition]) -> None:
        """They are another's; what is unfinished is read again by whoever has them."""
        for one in partitions:
            self._partitions.pop((one.topic, one.partition), None)

    def _translate(self, error: Exception) -> Exception | None:
        """What the client raises, without its text, which may hold addresses and settings."""
        if isinstance(error, KafkaException):
            # Why a connection failed is told to the callback; what was asked for merely timed out.
            if self._writer is not None:
                self._writer.poll(0)
            cause, self._problem = self._problem or error.args[0], None
            return _translate_code(cause)
        if isinstance(error, BufferError | RuntimeError):
            return StreamsUnreachableError(f"Kafka's client cannot go on ({type(error).__name__})")
        return None


def _translate_code(error: KafkaError) -> Exception:
    if error.code() in _NOT_AUTHENTICATED:
        return SettingsError("ASPECTS_KAFKA_USERNAME: Kafka refuses the user name or the password.")
    if error.code() in _NOT_AUTHORIZED:
        return SettingsError(f"ASPECTS_KAFKA_USERNAME: Kafka does not let this user read the topics ({error.name()}).")
    if error.code() == KafkaError._INVALID_ARG:  # noqa: SLF001
        return SettingsError("The ASPECTS_KAFKA_… settings are not valid: Kafka's client does not take them.")
    return StreamsUnreachableError(f"Kafka cannot be reached ({error.name()})")
