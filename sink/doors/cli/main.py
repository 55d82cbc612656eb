"""The command line: every command reads the settings, opens the store, calls one function and prints what it says.

With `--json` one document goes to standard output; whatever is said to people goes to standard error. `docs/commands.md`
lists the exit statuses.
"""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer

try:
    # Typer 0.29.2 carries a Click of its own, and exports neither it nor what all errors of a command line derive from.
    from typer._click.exceptions import ClickException
except ModuleNotFoundError:
    # Older ones, back to the 0.16 that pyproject.toml allows, use Click itself.
    from click import ClickException  # type: ignore[assignment]

from sink.doors.cli import (
    access,
    catching_up,
    completion,
    copying,
    dashboards,
    doctor,
    files,
    ledger,
    mapping,
    pages,
    processes,
    receipts,
    restricting,
    retiring,
    rights,
    settings,
    state,
)
from sink.doors.cli.output import OUTPUT_ERRORS, Output, end_output
from sink.doors.cli.speech import get_speech, speaking, write_error
from sink.doors.cli.tree import PROGRAM, make_command
from sink.errors import AspectsPiiError

# As a shell counts what ends a process: 128 and the number of the signal.
INTERRUPTED = 128 + signal.SIGINT
TERMINATED = 128 + signal.SIGTERM

app = typer.Typer(
    name=PROGRAM,
    help="Opt-in PII store for Open edX Aspects, built so that the PII can be got rid of again.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _commands in (
    *(copying, retiring, restricting, catching_up, state, rights, doctor, settings, processes, completion, pages),
):
    app.add_typer(_commands.commands)
_GROUPS = {
    "map": mapping,
    "ledger": ledger,
    "receipt": receipts,
    "access": access,
    "dashboards": dashboards,
}
for _name, _group in _GROUPS.items():
    app.add_typer(_group.commands, name=_name)
for _name, _made in files.GROUPS.items():
    app.add_typer(_made, name=_name)


class _Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a command as Ctrl-C does: with a word about what is recorded."""


def main() -> None:
    """The console script."""
    from sink.clickhouse.confinement import confine_engine_threads

    # One command opens one data folder.
    confine_engine_threads(True)
    signal.signal(signal.SIGTERM, _terminate)
    # Not for what calls `run`: it may have an output of its own.
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Where both go to one pipe, what is said and what is found stand in the order in which they came.
        sys.stdout.reconfigure(line_buffering=True)
    sys.stdout = Output(sys.stdout)
    status = run(sys.argv[1:])
    try:
        sys.stdout.flush()
    except OUTPUT_ERRORS as error:
        status = end_output(error)
    sys.exit(status)


def _terminate(_number: int, _frame: Any) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise _Terminated


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit status."""
    with speaking():
        try:
            result = _invoke(arguments)
        except AspectsPiiError as error:
            write_error(f"Error: {error}", level="error")
            return error.exit_status
        except typer.Exit as stop:
            return stop.exit_code
        except typer.Abort as stop:
            write_error(str(stop) or "Stopped.")
            return _find_interruption(stop)
        except KeyboardInterrupt as stop:
            write_error("Stopped.")
            return _find_interruption(stop)
        except ClickException as error:
            if get_speech().is_text:
                error.show()
            else:
                write_error(f"Error: {error.format_message()}", level="error")
            return 2
        except OUTPUT_ERRORS as error:
            return end_output(error)
    return result if isinstance(result, int) else 0


def _invoke(arguments: Sequence[str]) -> Any:
    command = make_command(app)
    if completion.COMPLETE_VARIABLE in os.environ:
        completion.prepare_completion()
        # A shell asks; this answers, and ends the process.
        command.main(args=[], prog_name=PROGRAM)
    # Not its `main`, which takes Ctrl-C and a closed pipe for its own.
    with command.make_context(PROGRAM, list(arguments), obj=run) as context:
        return command.invoke(context)


def _find_interruption(stop: BaseException) -> int:
    """The exit status of a command that was stopped; 1 where somebody has answered no."""
    seen: BaseException | None = stop
    while seen is not None:
        if isinstance(seen, _Terminated):
            return TERMINATED
        if isinstance(seen, KeyboardInterrupt):
            return INTERRUPTED
        seen = seen.__context__
    return 1


def _show_version(wanted: bool) -> None:
    if wanted:
        from sink.resources import VERSION

        typer.echo(f"{PROGRAM} {VERSION}")
        raise typer.Exit


@app.callback()
def _root(
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show it.")
    ] = False,
) -> None:
    pass
