"""`aspects-pii completion`: what makes a shell complete commands and options at a press of the tabulator."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer
from typer.completion import completion_init, get_completion_script  # type: ignore[attr-defined]

from sink.doors.cli.tree import PROGRAM

commands = typer.Typer()

COMPLETE_VARIABLE = "_ASPECTS_PII_COMPLETE"
"""By this a shell asks; Typer makes the name of that of the program."""


class Shell(StrEnum):
    """Shells that can complete."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


@commands.command("completion")
def completion_command(shell: Annotated[Shell, typer.Argument(help="bash, zsh or fish.")]) -> int:
    """Print the script that makes a shell complete commands and options; add it to what the shell reads at start."""
    script = get_completion_script(prog_name=PROGRAM, complete_var=COMPLETE_VARIABLE, shell=shell.value)
    typer.echo(script)
    return 0


def prepare_completion() -> None:
    """Have Typer answer what a shell asks by `COMPLETE_VARIABLE`."""
    completion_init()
