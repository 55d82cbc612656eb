"""What people see: tables, lines and progress. Standard output for results, standard error for everything else."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.table import Table

# Between plain lines, where there is no terminal.
_LINE_INTERVAL_SECONDS = 5


def say(message: str) -> None:
    """A message for people, on standard error."""
    print(message, file=sys.stderr)  # noqa: T201


def print_lines(lines: Iterable[str]) -> None:
    """Results, a line each, on standard output."""
    for line in lines:
        print(line)  # noqa: T201


def print_table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Results as a table; numbers to the right."""
    table = Table(show_header=any(head), box=None, pad_edge=False)
    for index, title in enumerate(head):
        is_number = bool(rows) and all(isinstance(row[index], int) for row in rows)
        table.add_column(title, justify="right" if is_number else "left", overflow="fold")
    for row in rows:
        table.add_row(*(f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row))
    console = Console(file=sys.stdout, highlight=False, markup=False)
    if not console.is_terminal:
        console.width = 200
    console.print(table)


class Progress:
    """How far a copy has got, with rate and time left: a bar on a terminal, plain lines elsewhere."""

    def __init__(self) -> None:
        self._bar: RichProgress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._started: dict[str, float] = {}
        self._last_line = 0.0

    def __enter__(self) -> Progress:
        if sys.stderr.isatty():
            self._bar = RichProgress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]} rows/s"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, name: str, done: int, total: int) -> None:
        """Say that `done` of `total` rows of `name` are copied."""
        now = time.monotonic()
        started = self._started.setdefault(name, now)
        rate = done / (now - started) if now > started else 0.0
        if self._bar is not None:
            if name not in self._tasks:
                self._tasks[name] = self._bar.add_task(name, total=total, rate="-")
            self._bar.update(self._tasks[name], completed=done, total=total, rate=f"{rate:,.0f}")
        elif done >= total or now - self._last_line >= _LINE_INTERVAL_SECONDS:
            self._last_line = now
            left = f", {(total - done) / rate:.0f} s left" if rate and done < total else ""
            say(f"{name}: {done:,} of {total:,} rows, {rate:,.0f} rows/s{left}")
