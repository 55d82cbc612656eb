"""`aspects-pii demo` in somebody's own folder: what it leaves alone, and how it ends when it is stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sink.doors.cli import demo
from sink.settings import load_settings
from tests.support.paths import ROOT

Command = Callable[..., Any]


@contextmanager
def started(folder: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """The demo as a process of its own, which has told its first step."""
    process = subprocess.Popen(
        [sys.executable, "-c", "from sink.doors.cli.main import main; main()", "demo", "--users", "300", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout
        for line in process.stdout:
            if line.startswith("$ aspects-pii sync"):
                break
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_demo_removes_its_folder_when_it_is_stopped(number: signal.Signals, tmp_path: Path) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    with started(folder) as process:
        assert (folder / "aspects-pii-demo" / "clickhouse").is_dir()
        process.send_signal(number)
        _, err = process.communicate()
    assert (process.returncode, list(folder.iterdir())) == (128 + number, [])
    assert err.endswith(
        f"Stopped. Everything was in {folder}/aspects-pii-demo. It is removed; --keep leaves it for a look around.\n"
    )
    assert "Traceback" not in err


def test_the_demo_keeps_its_folder_when_it_is_stopped_and_told_to(tmp_path: Path) -> None:
    with started(tmp_path, "--keep", "--folder", "kept") as process:
        process.send_signal(signal.SIGINT)
        _, err = process.communicate()
    assert process.returncode == 128 + signal.SIGINT
    assert err.endswith(f"Stopped. Everything is in {tmp_path}/kept. Remove it with: rm -r {tmp_path}/kept\n")
    assert (tmp_path / "kept" / "clickhouse").is_dir()


def test_the_demo_reads_no_settings_of_the_folder(aspects_pii: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """No server of the operator's is asked, were it by `purge`, which goes to Superset where one is set."""
    seen = []

    def look(shell: Any, folder: Path, users: int, seed: int) -> None:
        settings = load_settings()
        seen.append((settings.superset_url, settings.superset_password, settings.secrets_dir))

    secrets = Path("secrets").absolute()
    secrets.mkdir()
    (secrets / "aspects_superset_password").write_text("a secret of production")
    Path(".env").write_text(
        f"ASPECTS_SUPERSET_URL=https://superset.example.org\nASPECTS_SECRETS_DIR={secrets}\nASPECTS_ENABLE_PII=true\n"
    )
    monkeypatch.setattr(demo, "_run_story", look)
    assert aspects_pii("demo").status == 0
    assert seen == [(None, None, None)]
    assert Path.cwd() == secrets.parent


def test_a_folder_that_cannot_be_made_is_said(aspects_pii: Command, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    ran = aspects_pii("demo", "--folder", "file/below")
    assert (ran.status, ran.out) == (2, "")
    assert ran.err == (
        f"Error: --folder {tmp_path}/file/below: it cannot be made: Not a directory. Name one in a folder of yours.\n"
    )
