"""`-q`, `-v`, `--log-level`, `--log-format`: on every command, about ours alone, and only as long as the command runs."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Callable

import pytest
import typer

from sink.doors.cli.display import Progress, say, warn
from sink.doors.cli.main import app, run
from sink.doors.cli.speech import LogFormat, LogLevel, change_speech, get_speech, speaking
from sink.doors.cli.tree import list_commands, make_command
from sink.progress import tell, track

COMMANDS = dict(list_commands(make_command(app)))
OPTIONS = {"-q", "--quiet", "-v", "--verbose", "--log-level", "--log-format"}


def test_every_command_takes_them_and_a_short_help() -> None:
    assert len(COMMANDS) >= 40
    for name, command in {"": make_command(app), **COMMANDS}.items():
        assert {option for param in command.params for option in param.opts} >= OPTIONS, name


@pytest.mark.parametrize("name", [name for name, command in COMMANDS.items() if not hasattr(command, "commands")])
def test_a_short_h_shows_the_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*name.split(), "-h"]) == 0
    assert "Usage: aspects-pii" in capsys.readouterr().out


def log_everything() -> None:
    for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR):
        logging.getLogger("sink.test").log(level, "ours %s", logging.getLevelName(level))
        logging.getLogger("other.library").log(level, "theirs %s", logging.getLevelName(level))


@pytest.fixture
def talk(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., list[str]]:
    """Run `status` with options, which logs at every level and says something; what came to standard error."""

    def fail(**_: object) -> None:
        log_everything()
        say("said")
        warn("be careful")
        raise typer.Exit(0)

    monkeypatch.setattr("sink.settings.load_settings", fail)

    def command(*arguments: str) -> list[str]:
        assert run(arguments) == 0
        return capsys.readouterr().err.splitlines()

    return command


@pytest.mark.parametrize(
    ("options", "ours", "theirs"),
    [
        ((), ["WARNING", "ERROR"], ["WARNING", "ERROR"]),
        (("-v",), ["INFO", "WARNING", "ERROR"], ["WARNING", "ERROR"]),
        (("-vv",), ["DEBUG", "INFO", "WARNING", "ERROR"], ["WARNING", "ERROR"]),
        (("-q",), ["ERROR"], ["ERROR"]),
        (("--log-level", "debug"), ["DEBUG", "INFO", "WARNING", "ERROR"], ["WARNING", "ERROR"]),
        (("--log-level", "error"), ["ERROR"], ["ERROR"]),
    ],
)
@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
def test_the_level_is_about_ours_and_what_others_say_stays_at_warnings(
    talk: Callable[..., list[str]], options: tuple[str, ...], ours: list[str], theirs: list[str], before: bool
) -> None:
    lines = talk(*options, "status") if before else talk("status", *options)
    assert [line.split()[-1] for line in lines if " ours " in line] == ours
    assert [line.split()[-1] for line in lines if " theirs " in line] == theirs
    # A message and a warning are no log.
    assert lines[-2:] == ["said", "Warning: be careful"]


def test_as_json_each_line_of_standard_error_is_an_object(talk: Callable[..., list[str]]) -> None:
    said = [json.loads(line) for line in talk("status", "--log-format", "json")]
    assert [(one["level"], one["logger"], one["message"]) for one in said] == [
        ("warning", "sink.test", "ours WARNING"),
        ("warning", "other.library", "theirs WARNING"),
        ("error", "sink.test", "ours ERROR"),
        ("error", "other.library", "theirs ERROR"),
        ("info", "aspects-pii", "said"),
        ("warning", "aspects-pii", "Warning: be careful"),
    ]
    assert all(one["time"].endswith("+00:00") for one in said)


@pytest.mark.parametrize("wrong", [("status", "--nope"), ("nothing",)])
def test_bad_usage_is_an_object_too(wrong: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--log-format", "json", *wrong]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    said = json.loads(line)
    assert (said["level"], wrong[-1] in said["message"]) == ("error", True)


def test_an_exception_is_named_in_json_and_not_quoted(capsys: pytest.CaptureFixture[str]) -> None:
    with speaking():
        change_speech(form=LogFormat.JSON)
        try:
            raise ValueError("a secret text")
        except ValueError:
            logging.getLogger("other.library").exception("it failed")
    (line,) = capsys.readouterr().err.splitlines()
    assert "secret" not in line
    assert json.loads(line)["exception"] == "ValueError"


def test_a_command_inside_of_another_ends_no_silence_and_leaves_no_noise() -> None:
    level = logging.getLogger("sink").level
    with speaking():
        change_speech(level=LogLevel.ERROR, quiet=True)
        with speaking():
            assert get_speech().quiet
            change_speech(level=LogLevel.DEBUG, quiet=False)
        assert get_speech().level is LogLevel.ERROR
    assert logging.getLogger("sink").level == level
    assert not get_speech().quiet


def test_where_nobody_reads_standard_error_the_work_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

        def fileno(self) -> int:
            raise io.UnsupportedOperation

    monkeypatch.setattr(sys, "stderr", Closed())
    say("lost")
    with Progress():
        assert list(track("copying", range(3), "rows")) == [0, 1, 2]


# --- progress


class Terminal(io.StringIO):
    """A terminal that keeps what is drawn."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[[], Terminal]:
    """Have a terminal from here on: pytest puts its own in the place when a test begins."""

    def open_terminal() -> Terminal:
        drawn = Terminal()
        monkeypatch.setattr(sys, "stderr", drawn)
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setenv("COLUMNS", "120")
        return drawn

    return open_terminal


def test_on_a_terminal_work_shows_how_far_it_is_with_rate_and_time_left_and_a_summary(
    terminal: Callable[[], Terminal],
) -> None:
    screen = terminal()
    with Progress():
        for _ in track("verifying", ["a", "b", "c"], "rules"):
            pass
        say("a word in between")
    drawn = screen.getvalue()
    assert "verifying" in drawn
    assert "3/3" in drawn
    assert "rules/s" in drawn or "rules/min" in drawn
    assert "a word in between" in drawn
    assert "Took 0 s." in drawn.splitlines()[-1]


def test_the_same_stage_begins_anew_for_the_next_batch(terminal: Callable[[], Terminal]) -> None:
    terminal()
    with Progress() as progress:
        for _ in range(2):
            assert list(track("erasing", [1, 2], "rules")) == [1, 2]
        assert progress._bar is not None
        (task,) = progress._bar.tasks
        assert (task.completed, task.total) == (2, 2)


def test_quiet_work_shows_nothing(terminal: Callable[[], Terminal]) -> None:
    screen = terminal()
    with speaking():
        change_speech(quiet=True)
        with Progress():
            assert list(track("verifying", [1], "rules")) == [1]
    assert screen.getvalue() == ""


def test_without_a_terminal_short_work_says_nothing_and_long_work_a_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("sink.doors.cli.display.time.monotonic", lambda: now[0])
    with Progress():
        for _ in track("searching", range(2), "tables"):
            pass
    assert capsys.readouterr().err == ""
    with Progress():
        for _ in track("searching", range(4), "tables"):
            now[0] += 60
    assert capsys.readouterr().err.splitlines() == [
        "searching: 1 of 4 tables, 1.0 tables/min, 3 minutes left",
        "searching: 2 of 4 tables, 1.0 tables/min, 2 minutes left",
        "searching: 3 of 4 tables, 1.0 tables/min, 60 s left",
        "searching: 4 of 4 tables, 1.0 tables/min",
        "Took 4 minutes.",
    ]


def test_nobody_needs_to_listen() -> None:
    tell("erasing", 1, 2, "rules")
    assert list(track("erasing", iter([1, 2]), "rules")) == [1, 2]
