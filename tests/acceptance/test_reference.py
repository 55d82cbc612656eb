"""Everything that an operator can set or type is documented, and every command says what it does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import typer

from sink.doors.cli.main import app
from sink.settings import Settings, environment_name
from tests.support.paths import ROOT

COMMANDS_PAGE = (ROOT / "docs/commands.md").read_text()
SETTINGS_PAGE = (ROOT / "docs/settings.md").read_text()


def list_commands(command: Any, name: str = "aspects-pii") -> Iterator[tuple[str, Any]]:
    """(what one types, the command), groups left out."""
    children = getattr(command, "commands", {})
    for word, child in children.items():
        yield from list_commands(child, f"{name} {word}")
    if not children:
        yield name, command


COMMANDS = dict(list_commands(typer.main.get_command(app)))


def test_there_are_commands_and_settings() -> None:
    assert len(COMMANDS) >= 15
    assert "aspects-pii map check" in COMMANDS
    assert len(Settings.model_fields) >= 20


def has_row(page: str, words: str) -> bool:
    """True where the first cell of a row of a table has these words, written as code."""
    return any(f"`{words}`" in line.split("|")[1] for line in page.splitlines() if line.startswith("|"))


@pytest.mark.parametrize("field", Settings.model_fields)
def test_every_setting_is_documented(field: str) -> None:
    assert has_row(SETTINGS_PAGE, environment_name(field))


@pytest.mark.parametrize("field", Settings.model_fields)
def test_every_setting_says_what_it_is_for(field: str) -> None:
    assert Settings.model_fields[field].description
    assert Settings.model_fields[field].examples


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_documented(name: str) -> None:
    assert has_row(COMMANDS_PAGE, name.removeprefix("aspects-pii "))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_has_help(name: str) -> None:
    command = COMMANDS[name]
    assert (command.help or "").strip()
    for parameter in command.params:
        if parameter.name != "help":
            assert (parameter.help or "").strip(), f"{name}: {parameter.name}"
