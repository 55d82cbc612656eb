"""The examples of the help, typed in a working directory with a store, an LMS and what they name: each does what it says."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sink.doors.cli.examples import EXAMPLES
from tests.support.lms_writer import LmsWriter

Command = Callable[..., Any]

# Understood by tests/unit/doors/cli/test_help.py, and run elsewhere.
NOT_RUN = {
    "anonymise": "needs a copy of production: tests/integration/rights/test_anonymise_commands.py",
    "build": "tests/integration/datasets",
    "clickhouse": "goes on: tests/services/endpoint",
    "worker": "goes on: tests/services/doors/worker",
    "consume": "needs streams: tests/services/doors/events",
    "serve": "goes on: tests/services/doors/web",
    "heartbeat": "needs a worker: tests/unit/doors/test_heartbeat.py",
    "demo": "takes a minute: tests/acceptance/test_demo.py",
    "dashboards install": "needs Superset: tests/integration/dashboards",
    "dashboards remove": "needs Superset: tests/integration/dashboards",
    "ledger void": "needs an entry that cannot be right: tests/integration/ledger/test_forged.py",
}
# The others end with 0. What ends otherwise says why, and does no more than that.
EXPECTED = {
    "init --with-aspects": (1, "Aspects' migrations have not been here"),
    "reassign 42 43 --asset block-v1:demo": (1, "owns such an asset"),
    "withdraw 42": (1, "cannot be taken back"),
    "dashboards export --output dashboards.zip": (2, "Superset cannot use the engine in process"),
}
# What comes first, as others need it, and what comes last, as nothing is left after it.
FIRST = ("init", "sync", "ledger export", "receipt key", "retire")
LAST = ("purge",)


def order(name: str) -> int:
    return FIRST.index(name) if name in FIRST else len(FIRST) + (name in LAST)


def split(example: str) -> list[str]:
    """The arguments as a shell makes them, as far as the examples use it."""
    words = shlex.split(example)
    end = next((number for number, word in enumerate(words) if word in ("|", ">", ">>")), len(words))
    return [path for word in words[:end] for path in (sorted(map(str, Path().glob(word))) if "*" in word else [word])]


def test_examples_that_are_not_run_are_known() -> None:
    assert set(NOT_RUN) <= set(EXAMPLES)
    assert set(EXPECTED) <= {example for examples in EXAMPLES.values() for example in examples}


def test_every_example_does_what_it_says(
    aspects_pii: Command, lms: LmsWriter, lms_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ASPECTS_LMS_DATABASE_URL", lms_url)
    monkeypatch.setenv("ASPECTS_ENABLE_PII", "true")
    monkeypatch.setenv("ASPECTS_RECEIPTS_DIR", "aspects-pii-receipts")
    monkeypatch.setenv("ASPECTS_RECEIPT_KEY", "a secret of the tests")
    for user in (42, 43, 44):
        lms.register_user(user, f"learner{user}", f"learner{user}@example.com", f"Learner {user}")
    Path("ids.txt").write_text("44\n")
    Path("names.txt").write_text("learner43\n")
    ran_so_far, otherwise = 0, []
    for name in sorted((name for name in EXAMPLES if name not in NOT_RUN), key=order):
        if name == "purge":
            monkeypatch.setenv("ASPECTS_ENABLE_PII", "false")
        for example in EXAMPLES[name]:
            status, said = EXPECTED.get(example, (0, ""))
            ran = aspects_pii(*split(example))
            if ran.status != status or said not in ran.out + ran.err:
                otherwise.append((example, ran))
            ran_so_far += 1
        if name == "config example":
            # It would be read by all that follows, and set nothing.
            assert Path(".env").exists()
    assert ran_so_far >= 40
    assert otherwise == []
