"""Ratios of paired runs: two ways of doing something, in turn, so that whatever else the machine does slows down both."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

Work = Callable[[int], object]
"""Does something once; is given the number of the run."""


@dataclass(frozen=True)
class Ratio:
    """What came of the runs of one pair."""

    name: str
    first_seconds: float
    """Median of the runs of the first way."""
    second_seconds: float
    ratios: list[float]
    """First to second, run by run."""
    aim: str
    """What the ratio is to be; empty where nothing is asked of it."""

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)

    def describe(self) -> str:
        """One line for people."""
        low, high = min(self.ratios), max(self.ratios)
        line = (
            f"{self.name:<62} {self.first_seconds:8.3f} s {self.second_seconds:8.3f} s "
            f"{median(self.ratios):7.2f} ({low:.2f} to {high:.2f})"
        )
        return f"{line}  aim: {self.aim}" if self.aim else line


def compare(name: str, first: Work, second: Work, *, runs: int = 3, aim: str = "", before: Work | None = None) -> Ratio:
    """Run `first` and `second` in turn, and print what came of it.

    Args:
        name: what is compared, as "first / second".
        first: one way.
        second: the other.
        runs: how many times each.
        aim: what the ratio is to be.
        before: makes ready for `first`, and is not measured.
    """
    times = []
    for run in range(runs):
        if before is not None:
            before(run)
        times.append((_measure(first, run), _measure(second, run)))
    result = Ratio(
        name,
        median(one for one, _ in times),
        median(other for _, other in times),
        [one / other for one, other in times],
        aim,
    )
    print(result.describe(), flush=True)
    return result


def _measure(work: Work, run: int) -> float:
    began = time.perf_counter()
    work(run)
    return time.perf_counter() - began
