"""Every help says something useful, with an example that is an example of that command."""

from __future__ import annotations

import io
import shlex
from typing import Any

import pytest

from sink.doors.cli.examples import EXAMPLES
from sink.doors.cli.main import app, run
from sink.doors.cli.restricting import Ground
from sink.doors.cli.speech import speaking
from sink.doors.cli.tree import list_commands, make_command
from sink.ledger.details import GROUNDS

TREE = make_command(app)
COMMANDS = {name: command for name, command in list_commands(TREE) if not hasattr(command, "commands")}
GROUPS = {name: command for name, command in list_commands(TREE) if hasattr(command, "commands")}


def test_there_are_commands_and_groups() -> None:
    assert len(COMMANDS) >= 35
    assert set(GROUPS) >= {"map", "ledger", "receipt", "config", "events"}


def test_examples_are_of_commands() -> None:
    assert sorted(EXAMPLES) == sorted(COMMANDS), "give each command an example in sink/doors/cli/examples.py"


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_shows_examples_whole(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*name.split(), "--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"Usage: aspects-pii {name} ")
    for example in EXAMPLES[name]:
        assert f"    aspects-pii {example}" in lines


def split_example(example: str) -> list[str]:
    """What the shell would hand to the command."""
    words = shlex.split(example, posix=True)
    return words[: next((n for n, word in enumerate(words) if word in ("|", ">", ">>")), len(words))]


@pytest.mark.parametrize(
    ("name", "example"), [(name, example) for name, examples in EXAMPLES.items() for example in examples]
)
def test_an_example_is_understood(name: str, example: str, tmp_path: Any) -> None:
    """It names the command, and its options and arguments are such as the command takes."""
    words = split_example(example)
    assert words[: len(name.split())] == name.split()
    with speaking(), TREE.make_context("aspects-pii", words) as context:
        command, rest = TREE, [*context.args]
        # A group hands on what it does not take for itself.
        rest = [*getattr(context, "_protected_args", []), *rest]
        while hasattr(command, "commands"):
            command, rest = command.commands[rest[0]], rest[1:]
        with command.make_context(name, rest, parent=context) as inner:
            assert inner.command is COMMANDS[name]


def test_the_list_of_commands_says_whole_sentences(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["-h"]) == 0
    out = capsys.readouterr().out
    assert "..." not in out.split("Commands:")[1]
    for name, command in list_commands(TREE):
        assert command.short_help.endswith((".", "?")), name


def test_help_is_shown_where_no_terminal_and_no_encoding_is(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="backslashreplace")
    monkeypatch.setattr("sys.stdout", out)
    assert run(["retire", "--help"]) == 0


def test_grounds_of_a_restriction_are_those_of_the_ledger() -> None:
    assert tuple(Ground) == GROUNDS
