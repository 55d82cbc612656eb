"""Which ClickHouse is supported.

.. no_pii: versions.
"""

from __future__ import annotations

OLDEST_SUPPORTED = (25, 8)
"""What Aspects 6 pins, and the oldest that the tests run on (`make test-engines`); docs/compatibility.md."""


def is_supported(version: str) -> bool:
    """True for `25.8.1.3` and whatever is newer."""
    numbers = version.split(".")[: len(OLDEST_SUPPORTED)]
    return all(number.isdigit() for number in numbers) and tuple(map(int, numbers)) >= OLDEST_SUPPORTED
