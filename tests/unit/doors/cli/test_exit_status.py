"""Exit statuses stand in one page, all of them; and nobody who is stopped or not read leaves a traceback."""

from __future__ import annotations

import inspect
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from sink import errors
from sink.doors.cli.main import INTERRUPTED, TERMINATED, run
from sink.doors.cli.output import NOBODY_READS
from tests.support.paths import ROOT

PAGE = (ROOT / "docs" / "commands.md").read_text()
TABLE = PAGE.split("## Exit statuses")[1].split("\n## ")[0]


def test_the_page_lists_every_status_that_there_is() -> None:
    listed = [int(number) for number in re.findall(r"^\| (\d+) \|", TABLE, re.MULTILINE)]
    of_errors = {
        kind.exit_status for _, kind in inspect.getmembers(errors, inspect.isclass) if hasattr(kind, "exit_status")
    }
    assert of_errors == {1, 2, 3}
    assert sorted(listed) == sorted({0, *of_errors, INTERRUPTED, TERMINATED, NOBODY_READS})
    assert (INTERRUPTED, NOBODY_READS, TERMINATED) == (130, 141, 143)


def start(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(  # type: ignore[call-overload, no-any-return]
        [sys.executable, "-m", "sink", *arguments], env=environment, text=True, stderr=subprocess.PIPE, **options
    )


@pytest.mark.parametrize(
    "arguments", [("map", "show"), ("docs", "map"), ("-h",), ("retire", "-h"), ("map", "show", "--json")]
)
def test_a_reader_who_has_gone_ends_it_without_a_word(arguments: tuple[str, ...], tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        ran = start(*arguments, stdout=writing, cwd=tmp_path)
    finally:
        os.close(writing)
    assert (ran.returncode, ran.stderr) == (NOBODY_READS, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_an_output_that_takes_no_more_is_said(tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        ran = start("map", "show", stdout=full, cwd=tmp_path)
    assert ran.returncode == 1
    assert ran.stderr == "Error: Standard output cannot be written: No space left on device.\n"


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, TERMINATED), (signal.SIGINT, INTERRUPTED)])
def test_a_signal_ends_a_command_with_one_line(number: signal.Signals, status: int, tmp_path: Path) -> None:
    program = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from sink.doors.cli import main\n"
        "def wait(**_):\n"
        "    print('now', flush=True)\n"
        "    time.sleep(120)\n"
        "import sink.settings\n"
        "sink.settings.load_settings = wait\n"
        "sys.argv = ['aspects-pii', 'settings']\n"
        "main.main()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "now\n"
    process.send_signal(number)
    _, said = process.communicate(timeout=120)
    assert (process.returncode, said) == (status, "Stopped.\n")


def test_an_answer_of_no_is_1(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def refuse(**_: object) -> None:
        raise typer.Abort

    monkeypatch.setattr("sink.settings.load_settings", refuse)
    assert run(["settings"]) == 1
    assert capsys.readouterr().err == "Stopped.\n"


def test_the_module_is_the_command(tmp_path: Path) -> None:
    ran = start("--version", stdout=subprocess.PIPE, cwd=tmp_path)
    assert ran.returncode == 0
    assert ran.stdout.startswith("aspects-pii ")
    wrong = start("nothing", stdout=subprocess.PIPE, cwd=tmp_path)
    assert wrong.returncode == 2
    assert "aspects-pii" in wrong.stderr
