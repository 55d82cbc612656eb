"""Completion for bash, zsh and fish: the scripts, and what a shell is told at a press of the tabulator."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from sink.doors.cli.main import run
from tests.support.paths import ROOT

SHELLS = ("bash", "zsh", "fish")


@pytest.mark.parametrize("shell", SHELLS)
def test_a_script_asks_for_completion(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert f"_ASPECTS_PII_COMPLETE=complete_{shell}" in script
    if shutil.which(shell):
        checked = subprocess.run([shell, "-n"], input=script, capture_output=True, text=True)
        assert (checked.returncode, checked.stderr) == (0, "")


@pytest.mark.parametrize(
    ("shell", "asked", "expected"),
    [
        ("bash", {"COMP_WORDS": "aspects-pii ret", "COMP_CWORD": "1"}, ["retire"]),
        ("bash", {"COMP_WORDS": "aspects-pii map ", "COMP_CWORD": "2"}, ["check", "init", "show"]),
        ("bash", {"COMP_WORDS": "aspects-pii retire --log-f", "COMP_CWORD": "2"}, ["--log-format"]),
        ("bash", {"COMP_WORDS": "aspects-pii completion ", "COMP_CWORD": "2"}, ["bash", "fish", "zsh"]),
        ("zsh", {"_TYPER_COMPLETE_ARGS": "aspects-pii ret"}, ["retire"]),
        ("fish", {"_TYPER_COMPLETE_ARGS": "aspects-pii ret", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}, ["retire"]),
    ],
)
def test_a_shell_is_told_what_fits(shell: str, asked: dict[str, str], expected: list[str]) -> None:
    environment = {**os.environ, **asked, "_ASPECTS_PII_COMPLETE": f"complete_{shell}", "PYTHONPATH": str(ROOT)}
    told = subprocess.run(
        [sys.executable, "-m", "sink"], env=environment, capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert told.stderr == ""
    for word in expected:
        assert word in told.stdout
    if shell == "bash":
        assert sorted(told.stdout.split()) == expected
