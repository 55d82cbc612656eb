"""How much a command says beside its results, and in which form: `-q`, `-v`, `--log-level` and `--log-format`.

One place for every command. What is said goes to standard error. The log of other software stays at warnings, as its texts
may quote values; `-v` is about ours.

.. no_pii: levels and formats; whoever logs sees to what is in a line.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum

# C0 but for line feed and tab, DEL and C1; separators of lines; marks that turn the direction of writing; and what no
# encoding can write.
_STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")

_OURS = "sink"
# What a worker says of its tasks; it quotes ids of messages and names of tasks.
_WORKER = "celery"


class LogLevel(StrEnum):
    """From which level on the log is shown."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class LogFormat(StrEnum):
    """The form of what is said: for people, or a JSON object a line."""

    TEXT = "text"
    JSON = "json"


@dataclass(frozen=True)
class Speech:
    """What was asked for."""

    level: LogLevel = LogLevel.WARNING
    form: LogFormat = LogFormat.TEXT
    quiet: bool = False
    """No progress."""
    is_chosen: bool = False
    """Whether somebody has chosen the level; a door that goes on says more than a command by default."""

    @property
    def is_text(self) -> bool:
        """True where people read it."""
        return self.form is LogFormat.TEXT


_current = Speech()


def get_speech() -> Speech:
    """How this command speaks."""
    return _current


def change_speech(**changes: object) -> None:
    """Speak otherwise from here on."""
    global _current
    _current = replace(_current, **changes)  # type: ignore[arg-type]
    _set_levels()


@contextmanager
def speaking() -> Iterator[None]:
    """Have the log go to standard error while a command runs; what it changes ends with it."""
    global _current
    before = _current
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter())
    root = logging.getLogger()
    # The demo runs commands inside of one.
    is_first = not any(isinstance(known.formatter, _Formatter) for known in root.handlers)
    if is_first:
        root.addHandler(handler)
    # Retries are announced with the exception as text; ours hold no values, but one line a try is noise.
    logging.getLogger("stamina").setLevel(logging.ERROR)
    levels = {name: logging.getLogger(name).level for name in (None, _OURS, _WORKER)}
    _set_levels()
    try:
        yield
    finally:
        _current = before
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        if is_first:
            root.removeHandler(handler)


def say_more() -> None:
    """For a door that goes on: beginnings and ends are logged too, unless somebody has chosen a level."""
    if not _current.is_chosen:
        change_speech(level=LogLevel.INFO)


def _set_levels() -> None:
    level = logging.getLevelNamesMapping()[_current.level.upper()]
    logging.getLogger(_OURS).setLevel(level)
    logging.getLogger(_WORKER).setLevel(max(level, logging.INFO))
    logging.getLogger().setLevel(max(level, logging.WARNING))


def escape(text: str) -> str:
    """The text with escapes in the place of what would steer a terminal; lines and tabs stay."""
    return _STEERING.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def escape_json(text: str) -> str:
    """A JSON document that says the same, with escapes of JSON in the place of what would steer a terminal."""
    return _STEERING.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def format_time(moment: datetime) -> str:
    """A time as everything of ours shows it: UTC, to the second, such as `2026-01-31T09:30:00+00:00`."""
    return moment.astimezone(UTC).isoformat(timespec="seconds")


def write_error(text: str, *, level: str = "info") -> None:
    """Write a message to standard error, in the form that was asked for.

    Where nobody reads standard error any more the message is lost, and the work goes on.
    """
    line = _form_line(text, level, "aspects-pii", datetime.now(UTC), {})
    try:
        _write(line)
    except BrokenPipeError:
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def _print_error(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # noqa: T201


_write: Callable[[str], None] = _print_error


@contextmanager
def writing_by(write: Callable[[str], None]) -> Iterator[None]:
    """Have messages written by somebody who has the terminal: a bar that is drawn there."""
    global _write
    before, _write = _write, write
    try:
        yield
    finally:
        _write = before


def _form_line(text: str, level: str, logger: str, at: datetime, more: Mapping[str, str]) -> str:
    if _current.is_text:
        return escape(text)
    said = {"time": format_time(at), "level": level, "logger": logger, "message": text, **more}
    return escape_json(json.dumps(said, ensure_ascii=False))


class _Formatter(logging.Formatter):
    """A line of the log, escaped too."""

    def format(self, record: logging.LogRecord) -> str:
        """See logging."""
        at = datetime.fromtimestamp(record.created, UTC)
        if _current.is_text:
            text = f"{format_time(at)} {record.levelname} {record.name}: {super().format(record)}"
            return _form_line(text, record.levelname.lower(), record.name, at, {})
        more = {"exception": record.exc_info[0].__name__} if record.exc_info and record.exc_info[0] else {}
        return _form_line(record.getMessage(), record.levelname.lower(), record.name, at, more)
