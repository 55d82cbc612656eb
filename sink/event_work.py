"""What a message asks for: the words that transports, decoders and the consumer share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from sink.ledger import SubjectId

Action = Literal["retire", "sync", "reassign"]


@dataclass(frozen=True)
class Message:
    """One message of a stream."""

    stream: str
    id: str
    # Not shown: names and addresses are in it.
    fields: Mapping[bytes, bytes] = field(repr=False)


@dataclass(frozen=True)
class Work:
    """What is to be done because of a message. Ids only."""

    action: Action
    subjects: tuple[SubjectId, ...]
    objects: tuple[str, ...] = ()
    """What of the subjects is copied; everything if empty."""
    heir: SubjectId | None = None
    """Who takes over what the subject owned."""
    actor: str | None = None
    kind: str = ""
    """The kind of event, as we call it."""
    complaint: str = ""
    """What of the message could not be used, although the rest was."""


class InvalidMessage(Exception):
    """A message cannot be used; the arguments are why, and its kind. They hold no value of it."""

    def __init__(self, reason: str, kind: str = "") -> None:
        super().__init__(reason, kind)
        self.reason = reason
        self.kind = kind


Decoder = Callable[[Message], Work | None]
"""Reads a message: None where it is none of our business; raises `InvalidMessage`."""
