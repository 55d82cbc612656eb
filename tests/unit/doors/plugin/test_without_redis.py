"""The plugin where no redis package is installed: the broker may be another one, and the LMS goes on in any case."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.support.paths import ROOT

PROGRAM = """
import logging, sys
sys.modules["redis"] = None
logging.basicConfig(format="%(message)s")
import django
from django.conf import settings
settings.configure(
    INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "sink.doors.plugin.apps.AspectsPiiConfig"],
    ASPECTS_ENABLE_PII=True,
    ASPECTS_PII_BROKER_URL=sys.argv[1],
)
django.setup()
from sink.doors.plugin.sender import send_retirement, send_sync
send_retirement(42)
send_sync([43])
print("the LMS goes on")
"""


@pytest.mark.parametrize(
    ("broker", "logged"),
    [("memory://", []), ("redis://127.0.0.1:1/0", ["retirement of 1 user not sent", "change of 1 user not sent"])],
)
def test_the_plugin_sends_what_it_can_and_logs_the_rest(broker: str, logged: list[str]) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, broker],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.stdout == "the LMS goes on\n"
    lines = ran.stderr.splitlines()
    assert len(lines) == len(logged)
    assert all(line.startswith(start) for line, start in zip(lines, logged, strict=True))
