"""Growing pauses between attempts at something that fails."""

from __future__ import annotations

import time


class Backoff:
    """The pause after each failure is twice the one before, up to a bound; a success ends it."""

    def __init__(self, first_seconds: float = 1.0, longest_seconds: float = 60.0) -> None:
        self._first, self._longest, self._next = first_seconds, longest_seconds, first_seconds
        self._until = 0.0

    @property
    def is_over(self) -> bool:
        """True where the next attempt may be made."""
        return time.monotonic() >= self._until

    def extend(self) -> float:
        """Note a failure, and return the seconds until the next attempt."""
        seconds = self._next
        self._until = time.monotonic() + seconds
        self._next = min(self._next * 2, self._longest)
        return seconds

    def reset(self) -> None:
        """Note a success."""
        self._until, self._next = 0.0, self._first
