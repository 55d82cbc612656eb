"""Everything that an operator can set or type is in the README, and every command says what it does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import typer

from sink.doors.cli.main import app
from sink.settings import Settings, environment_name
from tests.support.paths import ROOT

README = (ROOT / "README.md").read_text()


def list_commands(command: Any, name: str = "aspects-pii") -> Iterator[tuple[str, Any]]:
    """(what one types, the command), groups left out."""
    children = getattr(command, "commands", {})
    for word, child in children.items():
        yield from list_commands(child, f"{name} {word}")
    if not children:
        yield name, command


COMMANDS = dict(list_commands(typer.main.get_command(app)))


def test_readme_lists_commands_and_settings() -> None:
    assert len(COMMANDS) >= 15
    assert "aspects-pii map check" in COMMANDS
    assert len(Settings.model_fields) >= 20


def has_row(words: str) -> bool:
    """True where the first cell of a row of a table has these words, written as code."""
    return any(f"`{words}`" in line.split("|")[1] for line in README.splitlines() if line.startswith("|"))


@pytest.mark.parametrize("field", Settings.model_fields)
def test_every_setting_is_in_the_readme(field: str) -> None:
    assert has_row(environment_name(field))


@pytest.mark.parametrize("field", Settings.model_fields)
def test_every_setting_says_what_it_is_for(field: str) -> None:
    assert Settings.model_fields[field].description
    assert Settings.model_fields[field].examples


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_in_the_readme(name: str) -> None:
    assert has_row(name.removeprefix("aspects-pii "))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_has_help(name: str) -> None:
    command = COMMANDS[name]
    assert (command.help or "").strip()
    for parameter in command.params:
        if parameter.name != "help":
            assert (parameter.help or "").strip(), f"{name}: {parameter.name}"
