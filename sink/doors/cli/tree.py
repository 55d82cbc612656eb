"""What every command has in common: options about what it says, examples in its help, whole sentences in lists.

They are given to the commands in one place, after Typer has made them.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from sink.doors.cli.examples import EXAMPLES
from sink.doors.cli.speech import LogFormat, LogLevel, change_speech

PROGRAM = "aspects-pii"

_LEVELS = {1: LogLevel.INFO, 2: LogLevel.DEBUG}


def _be_quiet(wanted: bool) -> None:
    if wanted:
        change_speech(quiet=True, level=LogLevel.ERROR, is_chosen=True)


def _be_verbose(times: int) -> None:
    if times:
        change_speech(level=_LEVELS[min(times, 2)], is_chosen=True)


def _set_level(level: LogLevel | None) -> None:
    if level is not None:
        change_speech(level=level, is_chosen=True)


def _set_format(form: LogFormat | None) -> None:
    if form is not None:
        change_speech(form=form)


def _options(
    _quiet: Annotated[
        bool,
        typer.Option("-q", "--quiet", callback=_be_quiet, expose_value=False, help="No progress; log errors only."),
    ] = False,
    _verbose: Annotated[
        int,
        typer.Option(
            "-v",
            "--verbose",
            count=True,
            callback=_be_verbose,
            expose_value=False,
            show_default=False,
            help="Log more; -vv logs most.",
        ),
    ] = 0,
    _level: Annotated[
        LogLevel | None,
        typer.Option(
            "--log-level",
            callback=_set_level,
            expose_value=False,
            help="From which level on to log (default: warning).",
        ),
    ] = None,
    _form: Annotated[
        LogFormat | None,
        typer.Option(
            "--log-format",
            callback=_set_format,
            expose_value=False,
            help="What is said on standard error: text, or a JSON object a line.",
        ),
    ] = None,
) -> None:
    """Nothing runs this; its options are given to all commands."""


def make_command(app: typer.Typer) -> Any:
    """The whole command line, with what every command has in common."""
    common = typer.Typer(add_completion=False, rich_markup_mode=None)
    common.command(context_settings={"help_option_names": []})(_options)
    options = [option for option in typer.main.get_command(common).params if option.name != "help"]
    whole = typer.main.get_command(app)
    for name, command in [("", whole), *list_commands(whole)]:
        command.params = [*command.params, *options]
        if text := command.help:
            # Click cuts it off in the middle of a sentence.
            command.short_help = re.split(r"(?<=[.?])\s", " ".join(inspect.cleandoc(text).split()), maxsplit=1)[0]
        if name in EXAMPLES:
            lines = [f"  {PROGRAM} {example}" for example in EXAMPLES[name]]
            command.epilog = "\n".join(["\b", "Examples:" if len(lines) > 1 else "Example:", *lines])
    return whole


def list_commands(command: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """(what one types after the name of the program, the command), groups included."""
    for word, child in getattr(command, "commands", {}).items():
        typed = f"{name} {word}".strip()
        yield typed, child
        yield from list_commands(child, typed)
