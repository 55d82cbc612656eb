"""The thread of the engine in process: what the engine is asked is asked from there, so that it can be confined.

Everything else that this process does needs files, programs and hosts.

.. no_pii: passes on what it is given, and looks at none of it.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


class EngineThread:
    """One thread, which does one thing at a time."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="engine")

    def run(self, function: Callable[[], T]) -> T:
        """Call a function there, and return or raise what it does."""
        return self._pool.submit(function).result()

    def close(self) -> None:
        """End it once it has done what it was asked."""
        self._pool.shutdown()
