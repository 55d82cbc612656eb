"""Ctrl-C in the middle of a command: no traceback, what is recorded by then, and what goes on with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sink.errors import QueryError
from sink.installation import open_store
from sink.settings import load_settings
from tests.support.paths import ROOT
from tests.support.small_lms import make_small_lms

Command = Callable[..., Any]


@pytest.fixture
def place(tmp_path: Path) -> str:
    return f"chdb://{tmp_path}/clickhouse"


@pytest.fixture
def press(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Have Ctrl-C pressed when a function is called."""

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    return lambda name: monkeypatch.setattr(name, stop)


def test_a_stopped_retirement_is_open_and_sweep_goes_on(
    stored: Command, place: str, press: Callable[[str], None]
) -> None:
    press("sink.retirement.retire.hide")
    ran = stored("retire", "1", "2")
    assert (ran.status, ran.out) == (130, "")
    assert ran.err == f"Stopped. 2 retirements are recorded and open on {place}; `aspects-pii sweep` goes on.\n"


def test_a_retirement_that_is_stopped_early_is_not_recorded(
    stored: Command, place: str, press: Callable[[str], None]
) -> None:
    press("sink.retirement.plan.plan_retirement")
    assert stored("retire", "1").err == f"Stopped. No retirement is recorded and open on {place}.\n"


def test_a_stopped_sweep_says_what_is_open(stored: Command, place: str, press: Callable[[str], None]) -> None:
    with open_store(load_settings()) as store:
        store.ledger.request([1])
    press("sink.retirement.retire.hide")
    ran = stored("sweep")
    assert ran.status == 130
    assert ran.err == f"Stopped. 1 retirement is recorded and open on {place}; `aspects-pii sweep` goes on.\n"


def test_a_stopped_purge_says_that_it_has_begun(stored: Command, place: str, press: Callable[[str], None]) -> None:
    press("sink.erasure.purge.forget_everything")
    ran = stored("purge", "--yes")
    assert ran.status == 130
    assert f"Stopped. The purge of {place} has begun, which is recorded, and has not ended" in ran.err
    assert "`aspects-pii purge` goes on." in ran.err


def test_a_purge_that_is_stopped_early_has_not_begun(stored: Command, place: str, press: Callable[[str], None]) -> None:
    press("sink.erasure.purge.flush_queues")
    assert stored("purge", "--yes").err == f"Stopped. No purge of {place} has begun.\n"


def test_a_stopped_replay_is_to_be_run_again(stored: Command, place: str, press: Callable[[str], None]) -> None:
    press("sink.retirement.replay.import_ledger")
    press("sink.retirement.replay._reapply")
    ran = stored("replay")
    assert ran.err == f"Stopped. No retirement is recorded and open on {place}. Then run `aspects-pii replay` again.\n"


def test_a_stopped_copy_goes_on(stored: Command, place: str, tmp_path: Path, press: Callable[[str], None]) -> None:
    make_small_lms(f"sqlite:///{tmp_path}/lms.sqlite3").close()
    press("sink.copying.sync.scrub")
    ran = stored("sync", LMS_DATABASE_URL=f"sqlite:///{tmp_path}/lms.sqlite3", ENABLE_PII="true")
    assert ran.status == 130
    assert f"Stopped. What was copied to {place} stays there; `aspects-pii sync` goes on." in ran.err


def test_where_the_store_cannot_tell_the_command_says_so(
    stored: Command, place: str, monkeypatch: pytest.MonkeyPatch, press: Callable[[str], None]
) -> None:
    def fail(*_: object) -> None:
        raise QueryError("gone")

    press("sink.retirement.retire.hide")
    monkeypatch.setattr("sink.ledger.entries.Ledger.find_open", fail)
    ran = stored("retire", "1")
    assert ran.status == 130
    assert f"{place} cannot tell what is recorded. `aspects-pii status` says it" in ran.err


def test_a_real_signal_in_the_middle_of_a_statement_ends_with_one_line(stored: Command, place: str) -> None:
    """The engine holds the process until its statement ends; the signal counts then."""
    program = (
        "import signal, sys\n"
        # A shell starts what runs in its background deaf to it, and that is inherited.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from sink.doors.cli import main\n"
        "from sink.retirement import retire\n"
        "def hide(store, batch, planned):\n"
        "    print('now', flush=True)\n"
        "    store.client.value('SELECT sum(sleepEachRow(1)) FROM numbers(3) SETTINGS max_block_size = 1')\n"
        "retire.hide = hide\n"
        "sys.exit(main.run(['retire', '1']))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "now\n"
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130
    assert said.strip() == f"Stopped. 1 retirement is recorded and open on {place}; `aspects-pii sweep` goes on."
