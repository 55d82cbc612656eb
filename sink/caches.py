"""What keeps results of queries outside of ClickHouse, and is told to forget them after a retirement.

.. no_pii: addresses, counts and times.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class CacheLine:
    """What was told to forget, as a receipt has it."""

    cache: str
    url: str
    datasets: int
    """How many datasets it was to forget results of."""
    told_at: str


class Caches(Protocol):
    """Every cache that can be told."""

    def forget(self) -> list[CacheLine]:
        """Have everything forgotten that was read from the PII tables.

        Raises:
            SupersetError: it could not be told.
        """
        ...
