"""What people see: tables, lines and progress. Standard output for results, standard error for everything else.

Names of tables, columns and files, and what a server says, may hold anything: what would steer a terminal is shown as an
escape, such as `\\x1b`.
"""

from __future__ import annotations

import logging
import re
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

# C0 but for line feed and tab, DEL and C1; separators of lines; marks that turn the direction of writing; and what no
# encoding can write.
_STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def escape(text: str) -> str:
    """The text with escapes in the place of what would steer a terminal; lines and tabs stay."""
    return _STEERING.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def escape_json(text: str) -> str:
    """A JSON document that says the same, with escapes of JSON in the place of what would steer a terminal."""
    return _STEERING.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


class LogFormatter(logging.Formatter):
    """A line of the log, escaped too."""

    def format(self, record: logging.LogRecord) -> str:
        """See logging."""
        return escape(super().format(record))


def say(message: str) -> None:
    """A message for people, on standard error."""
    print(escape(message), file=sys.stderr)  # noqa: T201


def print_lines(lines: Iterable[str]) -> None:
    """Results, a line each, on standard output."""
    for line in lines:
        print(escape(line))  # noqa: T201


def print_table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Results as a table; numbers to the right."""
    table = Table(show_header=any(head), box=None, pad_edge=False)
    for index, title in enumerate(head):
        is_number = bool(rows) and all(isinstance(row[index], int) for row in rows)
        table.add_column(_show_cell(title), justify="right" if is_number else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(_show_cell, row))
    console = Console(file=sys.stdout, highlight=False, markup=False)
    if not console.is_terminal:
        console.width = 200
    console.print(table)


def _show_cell(cell: Any) -> str:
    if isinstance(cell, int):
        return f"{cell:,}"
    # A row of a table is one line.
    return escape(str(cell)).replace("\n", "\\n").replace("\t", "\\t")


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
