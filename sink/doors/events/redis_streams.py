"""Redis Streams as a queue of messages: a group of our own, nothing lost, and a place for what cannot be used.

The LMS's own consumer (edx-event-bus-redis 0.6.1) moves its group to the end of the stream when it starts, and
acknowledges what failed. Here a group begins with the oldest entry and stays where it was, and only the caller
acknowledges.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import redis
from pydantic import SecretStr
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, RedisError, ResponseError
from redis.retry import Retry

from sink.doors.events.work import Message, describe_dead_letter
from sink.errors import SettingsError, StreamsUnreachableError, translated

# .. pii: Fields of messages pass through unread; the dead letters written here hold none of them.
# .. pii_types: username, email_address, name
# .. pii_retirement: consumer_api

MAX_DEAD_LETTERS = 10_000
"""Dead letters that are kept, about."""

_SOCKET_TIMEOUT_SECONDS = 30


@dataclass(frozen=True)
class StreamLag:
    """How far the group is behind in one stream."""

    stream: str
    waiting: int | None
    """Entries that were not read yet; None where Redis cannot tell."""
    unfinished: int
    """Entries that were read and are not done."""
    oldest_seconds: float
    """Age of the oldest of both; 0 where there is none."""


class RedisStreams:
    """Some streams of one Redis, read by one consumer of a group."""

    def __init__(self, url: SecretStr, streams: Sequence[str], *, group: str, consumer: str, dead_letters: str) -> None:
        """Take the address; nothing is connected yet.

        Raises:
            SettingsError: it is no address of a Redis.
        """
        with translated(_translate_address_error):
            # Without retries of the driver's: a read that was carried out twice would leave entries behind. And RESP 2,
            # as redis-py (8.1.0) gives what it reads from streams another shape in RESP 3.
            self._redis: Any = redis.Redis.from_url(
                url.get_secret_value(), socket_timeout=_SOCKET_TIMEOUT_SECONDS, retry=Retry(NoBackoff(), 0), protocol=2
            )
        self.streams = tuple(streams)
        self.group, self.consumer, self.dead_letters = group, consumer, dead_letters

    def close(self) -> None:
        """Give up the connections."""
        with contextlib.suppress(RedisError):
            self._redis.close()

    def prepare(self) -> None:
        """Create the group wherever it is not there yet, at the beginning of the stream.

        Raises:
            StreamsUnreachableError: Redis gives no answer.
            SettingsError: Redis refuses the password.
        """
        for stream in self.streams:
            with translated(_translate):
                try:
                    self._redis.xgroup_create(stream, self.group, id="0-0", mkstream=True)
                except ResponseError as error:
                    if not str(error).startswith("BUSYGROUP"):
                        raise

    def find_existing(self) -> list[str]:
        """Those of the streams that are there. Changes nothing.

        Raises:
            StreamsUnreachableError: Redis gives no answer.
            SettingsError: Redis refuses the password.
        """
        with translated(_translate):
            return [stream for stream in self.streams if self._redis.exists(stream)]

    def read_new(self, count: int, wait_seconds: float) -> list[Message]:
        """Up to `count` messages a stream that nobody of the group has read, after waiting `wait_seconds` for one.

        Raises:
            StreamsUnreachableError: Redis gives no answer, or the group is gone.
        """
        with translated(_translate):
            reply = self._redis.xreadgroup(
                self.group,
                self.consumer,
                dict.fromkeys(self.streams, ">"),
                count=count,
                block=max(1, int(wait_seconds * 1000)),
            )
        return [_read_entry(stream.decode(), *entry) for stream, entries in reply for entry in entries]

    def has_caught_up(self) -> bool:
        """True: Redis says at once what is there."""
        return True

    def read_unfinished(self, count: int) -> Iterator[list[Message]]:
        """What this consumer has read and not finished, oldest first, in lists of `count`.

        Raises:
            StreamsUnreachableError: Redis gives no answer, or the group is gone.
        """
        for stream in self.streams:
            last = "0-0"
            while True:
                with translated(_translate):
                    reply = self._redis.xreadgroup(self.group, self.consumer, {stream: last}, count=count)
                messages = [_read_entry(stream, *entry) for _, entries in reply for entry in entries]
                if not messages:
                    break
                last = messages[-1].id
                yield messages

    def claim(self, idle_seconds: float, count: int) -> Iterator[list[Message]]:
        """Take over what any consumer of the group has not finished for `idle_seconds`.

        Raises:
            StreamsUnreachableError: Redis gives no answer, or the group is gone.
        """
        for stream in self.streams:
            start = "0-0"
            while True:
                with translated(_translate):
                    start, entries, *trimmed = self._redis.xautoclaim(
                        stream, self.group, self.consumer, int(idle_seconds * 1000), start, count=count
                    )
                messages = [_read_entry(stream, *entry) for entry in entries if entry[0]]
                # Redis (since 7.0) has taken these off the group's list; they are reported all the same.
                messages += [Message(stream, entry_id.decode(), {}) for ids in trimmed for entry_id in ids]
                if messages:
                    yield messages
                if start in (b"0-0", "0-0"):
                    break

    def acknowledge(self, messages: Sequence[Message]) -> None:
        """Say that `messages` are done.

        Raises:
            StreamsUnreachableError: Redis gives no answer; they will come again.
        """
        by_stream: dict[str, list[str]] = {}
        for message in messages:
            by_stream.setdefault(message.stream, []).append(message.id)
        with translated(_translate):
            for stream, ids in by_stream.items():
                for start in range(0, len(ids), 1_000):
                    self._redis.xack(stream, self.group, *ids[start : start + 1_000])

    def send_to_dead_letters(self, message: Message, reason: str, details: Mapping[str, str]) -> None:
        """Write a dead letter and acknowledge the message, both or neither. No content, no hash of any.

        Raises:
            StreamsUnreachableError: Redis gives no answer; the message will come again.
        """
        letter = describe_dead_letter(message, reason, details, self.consumer)
        with translated(_translate):
            both = self._redis.pipeline(transaction=True)
            both.xadd(self.dead_letters, letter, maxlen=MAX_DEAD_LETTERS, approximate=True)
            both.xack(message.stream, self.group, message.id)
            both.execute()

    def read_lag(self) -> list[StreamLag]:
        """How far the group is behind; streams without the group are left out.

        Raises:
            StreamsUnreachableError: Redis gives no answer.
        """
        found = []
        with translated(_translate):
            seconds, microseconds = self._redis.time()
            now = seconds + microseconds / 1_000_000
            for stream in self.streams:
                try:
                    groups = self._redis.xinfo_groups(stream)
                except ResponseError:
                    continue
                for group in groups:
                    if group["name"].decode() != self.group:
                        continue
                    unread = self._redis.xrange(stream, b"(" + group["last-delivered-id"], "+", count=1)
                    ids = [entry_id for entry_id, _ in unread]
                    if group["pending"]:
                        ids.append(self._redis.xpending(stream, self.group)["min"] or b"0")
                    oldest = min((int(entry_id.split(b"-")[0]) / 1_000 for entry_id in ids), default=now)
                    found.append(StreamLag(stream, group.get("lag"), group["pending"], max(0.0, now - oldest)))
        return found


def _read_entry(stream: str, entry_id: bytes, fields: Mapping[bytes, bytes] | None) -> Message:
    return Message(stream, entry_id.decode(), fields or {})


def _translate(error: Exception) -> Exception | None:
    """What the driver raises, without its text, which may hold the address."""
    if isinstance(error, AuthenticationError):
        return SettingsError("ASPECTS_EVENT_BUS_URL is not valid: Redis refuses the user name or the password.")
    if isinstance(error, ResponseError):
        code = str(error).split(" ", 1)[0]
        return StreamsUnreachableError(f"Redis refused a command ({code if code.isupper() else 'error'})")
    if isinstance(error, RedisError):
        return StreamsUnreachableError(f"Redis cannot be reached ({type(error).__name__})")
    return None


def _translate_address_error(error: Exception) -> SettingsError | None:
    if not isinstance(error, ValueError | TypeError):
        return None
    return SettingsError(
        "ASPECTS_EVENT_BUS_URL is not valid: it is not an address of Redis. "
        "Example: ASPECTS_EVENT_BUS_URL=redis://redis:6379/0"
    )
