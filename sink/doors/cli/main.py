"""The command line: every command reads the settings, opens the store, calls one function and prints what it says.

Exit status: 0 done and verified, 1 failed or residue found, 2 bad usage or settings, 3 refused because PII is off.
With `--json` one document goes to standard output; whatever is said to people goes to standard error.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from typing import Annotated

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
    copying,
    dashboards,
    ledger,
    mapping,
    processes,
    receipts,
    restricting,
    retiring,
    rights,
    state,
)
from sink.doors.cli.display import LogFormatter, say
from sink.errors import AspectsPiiError
from sink.resources import VERSION

app = typer.Typer(
    name="aspects-pii",
    help="Opt-in PII store for Open edX Aspects, built so that the PII can be got rid of again.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for _commands in (copying, retiring, restricting, catching_up, state, rights, processes):
    app.add_typer(_commands.commands)
_GROUPS = {"map": mapping, "ledger": ledger, "receipt": receipts, "access": access, "dashboards": dashboards}
for _name, _group in _GROUPS.items():
    app.add_typer(_group.commands, name=_name)


def main() -> None:
    """The console script."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit status."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LogFormatter("%(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    # Retries are announced with the exception as text; ours hold no values, but one line a try is noise.
    logging.getLogger("stamina").setLevel(logging.ERROR)
    try:
        result = app(args=list(arguments), standalone_mode=False, obj=run)
    except AspectsPiiError as error:
        say(f"Error: {error}")
        return error.exit_status
    except typer.Exit as stop:
        return stop.exit_code
    except typer.Abort as stop:
        say(str(stop) or "Stopped.")
        return 1
    except ClickException as error:
        error.show()
        return 2
    return result if isinstance(result, int) else 0


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"aspects-pii {VERSION}")
        raise typer.Exit


@app.callback()
def _root(
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show it.")
    ] = False,
) -> None:
    pass
