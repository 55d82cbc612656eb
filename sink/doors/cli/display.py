"""What people see: tables, lines and progress. Standard output for results, standard error for everything else.

Names of tables, columns and files, and what a server says, may hold anything: what would steer a terminal is shown as an
escape, such as `\\x1b`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sink.doors.cli.speech import escape, get_speech, write_error, writing_by
from sink.progress import listening
from sink.wording import describe_seconds

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

# Between plain lines, where there is no terminal: of copies, and of other work, which a log need not follow closely.
_COPY_INTERVAL_SECONDS = 5
_LINE_INTERVAL_SECONDS = 30
_INTERVALS = {"rows": _COPY_INTERVAL_SECONDS}


def say(message: str) -> None:
    """A message for people, on standard error."""
    write_error(message)


def warn(message: str) -> None:
    """Something that people should see to, on standard error."""
    write_error(f"Warning: {message}", level="warning")


def print_lines(lines: Iterable[str]) -> None:
    """Results, a line each, on standard output."""
    for line in lines:
        print(escape(line))  # noqa: T201


def print_table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Results as a table; numbers to the right."""
    from rich.console import Console
    from rich.table import Table

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


@dataclass
class _Stage:
    """How far one stage has got."""

    started: float
    task: TaskID | None = None
    shown: float = 0.0


class Progress:
    """How far long work has got, with rate and time left: a bar on a terminal, plain lines elsewhere.

    Work says it by `sink.progress`. With `--quiet` nothing is shown.
    """

    def __init__(self) -> None:
        self._bar: RichProgress | None = None
        self._stages: dict[str, _Stage] = {}
        self._exit = ExitStack()
        self._started = time.monotonic()

    def __enter__(self) -> Progress:
        self._started = time.monotonic()
        if not get_speech().quiet:
            self._exit.enter_context(listening(self.update))
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._exit.close()
        seconds = time.monotonic() - self._started
        is_long = seconds >= _LINE_INTERVAL_SECONDS or self._bar is not None
        if kind is None and self._stages and is_long and not get_speech().quiet:
            say(f"Took {describe_seconds(seconds)}.")

    def update(self, name: str, done: int, total: int, things: str) -> None:
        """Say that `done` of `total` things of the stage `name` are done."""
        now = time.monotonic()
        stage = self._stages.setdefault(name, _Stage(now, shown=now))
        if done == 0:
            # The same stage of the next batch.
            stage.started = now
        rate = done / (now - stage.started) if now > stage.started else 0.0
        if sys.stderr.isatty() and get_speech().is_text:
            self._show_bar(name, stage, done, total, _describe_rate(rate, things))
        elif now - stage.shown >= _INTERVALS.get(things, _LINE_INTERVAL_SECONDS) or (
            done >= total and things == "rows"
        ):
            stage.shown = now
            left = f", {describe_seconds((total - done) / rate)} left" if rate and done < total else ""
            say(f"{name}: {done:,} of {total:,} {things}, {_describe_rate(rate, things)}{left}")

    def _show_bar(self, name: str, stage: _Stage, done: int, total: int, rate: str) -> None:
        if self._bar is None:
            self._bar = _start_bar()
            self._exit.callback(self._bar.stop)
            console = self._bar.console
            self._exit.enter_context(writing_by(lambda line: console.print(line, markup=False, highlight=False)))
        if stage.task is None:
            stage.task = self._bar.add_task(name, total=total, rate="")
        if done == 0:
            self._bar.reset(stage.task, total=total, rate="")
        self._bar.update(stage.task, completed=done, total=total, rate=rate)


def _describe_rate(rate: float, things: str) -> str:
    if rate >= 10 or things == "rows":
        return f"{rate:,.0f} {things}/s"
    return f"{rate:.1f} {things}/s" if rate >= 0.1 else f"{rate * 60:.1f} {things}/min"


def _start_bar() -> RichProgress:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    bar = RichProgress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
    bar.start()
    return bar
