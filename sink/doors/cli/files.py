"""Files to begin with: `map init`, `config example`, `config users`, `events init`. What is there stays as it is.

.. no_pii: the files that ship.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sink.doors.cli.display import print_lines
from sink.doors.cli.mapping import commands as map_commands
from sink.errors import UsageError

config_commands = typer.Typer(help="Settings to begin with.", no_args_is_help=True)
events_commands = typer.Typer(help="The mapping of JSON events.", no_args_is_help=True)
GROUPS = {"config": config_commands, "events": events_commands}

_PRIVATE, _SHARED = 0o600, 0o644


@map_commands.command("init")
def map_init(file: Annotated[Path, typer.Argument(help="A new file.")] = Path("pii.yaml")) -> int:
    """Write the PII map that ships to a new file, to change it there."""
    _write_resource("config/pii.yaml", file, _SHARED)
    print_lines(
        [f"The PII map is in {file}. Change it, set ASPECTS_PII_MAP={file.absolute()}, run `aspects-pii map check`."]
    )
    return 0


@config_commands.command("example")
def config_example(file: Annotated[Path, typer.Argument(help="A new file.")] = Path(".env")) -> int:
    """Write an example of every setting to a new file, which only you may read: passwords go into it."""
    _write_resource("config/example.env", file, _PRIVATE)
    note = "" if file.name == ".env" else " A file called `.env` in the working directory is read."
    print_lines([f"The settings are in {file}, each with an example. Take the # away from what you set.{note}"])
    return 0


@config_commands.command("users")
def config_users(file: Annotated[Path, typer.Argument(help="A new file.")] = Path("users.xml")) -> int:
    """Write the grants and limits of the engine that `aspects-pii clickhouse` serves to a new file, to change them there."""
    _write_resource("config/engine/users.xml", file, _SHARED)
    print_lines([f"The grants are in {file}. Change them, and set ASPECTS_CLICKHOUSE_USERS_FILE={file.absolute()}."])
    return 0


@events_commands.command("init")
def events_init(file: Annotated[Path, typer.Argument(help="A new file.")] = Path("events.yaml")) -> int:
    """Write the mapping of JSON events that ships to a new file, to change it there."""
    _write_resource("config/events.yaml", file, _SHARED)
    print_lines([f"The mapping is in {file}. Change it, and set ASPECTS_EVENT_MAP={file.absolute()}."])
    return 0


def _write_resource(name: str, target: Path, mode: int) -> None:
    """Write what ships to a file that must not be there yet.

    Raises:
        UsageError: it is there, or cannot be written.
    """
    from sink.private_files import write_new
    from sink.resources import find_resource

    if target.is_dir():
        raise UsageError(f"{target} is a folder. Name a new file, such as {target / Path(name).name}.")
    try:
        write_new(target, find_resource(name).read_bytes())
        target.chmod(mode)
    except FileExistsError:
        raise UsageError(f"{target} is there already, and stays as it is. Name a new file.") from None
    except FileNotFoundError:
        raise UsageError(f"{target} cannot be written: there is no folder {target.absolute().parent}.") from None
    except OSError as error:
        raise UsageError(f"{target} cannot be written: {error.strerror}.") from None
