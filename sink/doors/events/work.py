"""What a message asks for: the words that transports, decoders and the consumer share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from sink.ledger.role_trail import RoleChange
from sink.pii_map import SubjectId

Action = Literal["retire", "sync", "reassign"]

VALUE = "value"
"""The field of a message from Kafka that holds what was sent; Redis names the fields itself."""

_LONGEST_REASON = 1_000


@dataclass(frozen=True)
class Message:
    """One message of a stream."""

    stream: str
    id: str
    # Not shown: names and addresses are in it.
    fields: Mapping[bytes, bytes] = field(repr=False)


@dataclass(frozen=True)
class RoleReport:
    """A role that was given or taken, for the audit trail."""

    change: RoleChange
    """Its subject is empty where the event says by name whose role it is."""
    username: str = field(default="", repr=False)


@dataclass(frozen=True)
class Work:
    """What is to be done because of a message. Ids only, but for the name in a report that has no id yet."""

    action: Action
    subjects: tuple[SubjectId, ...]
    objects: tuple[str, ...] = ()
    """What of the subjects is copied; everything if empty."""
    heir: SubjectId | None = None
    """Who takes over what the subject owned."""
    assets: tuple[str, ...] | None = None
    """Only these; everything if None."""
    actor: str | None = None
    role: RoleReport | None = None
    """What the audit trail of roles is told; the roles themselves are copied."""
    kind: str = ""
    """The kind of event, as we call it."""
    unusable: str = ""
    """What of the message could not be used, although the rest was."""


def describe_dead_letter(message: Message, reason: str, details: Mapping[str, str], consumer: str) -> dict[str, str]:
    """What a dead letter says: which message it was and why it cannot be used. No content, no hash of any."""
    return {
        "stream": message.stream,
        "entry": message.id,
        "reason": reason[:_LONGEST_REASON],
        "bytes": str(sum(len(value) for value in message.fields.values())),
        "consumer": consumer,
        **details,
    }


Decoder = Callable[[Message], Work | None]
"""Reads a message: None where it is none of our business; raises `InvalidMessageError`."""


class Streams(Protocol):
    """Where messages come from. What is read and not acknowledged comes again, also after a kill.

    Each method raises `StreamsUnreachableError` where there is no answer, and `SettingsError` where we are not let in.
    """

    def prepare(self) -> None:
        """Make sure that reading can begin, with the oldest message that our group has not done."""

    def find_existing(self) -> list[str]:
        """Those of the streams that are there; changes nothing."""

    def read_new(self, count: int, wait_seconds: float) -> list[Message]:
        """Up to about `count` messages that were not read yet, after waiting up to `wait_seconds` for them."""

    def has_caught_up(self) -> bool:
        """Whether a reading that brought nothing means that there is nothing."""

    def read_unfinished(self, count: int) -> Iterator[list[Message]]:
        """What was read and not acknowledged, in lists of `count`."""

    def claim(self, idle_seconds: float, count: int) -> Iterator[list[Message]]:
        """What another consumer of our group has not finished for `idle_seconds`."""

    def acknowledge(self, messages: Sequence[Message]) -> None:
        """Say that messages are done."""

    def send_to_dead_letters(self, message: Message, reason: str, details: Mapping[str, str]) -> None:
        """Write a dead letter without any content, and acknowledge the message."""

    def close(self) -> None:
        """Give up the connections."""
