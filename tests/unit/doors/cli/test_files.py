"""`map init`, `config example`, `config users`, `events init`: what ships, in a new file, and never in the place of another."""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sink.doors.events.json_events import load_event_map
from sink.pii_map import load_map
from sink.resources import find_resource

Command = Callable[..., Any]

WRITTEN = [
    (("map", "init"), "pii.yaml", "config/pii.yaml", 0o644, "ASPECTS_PII_MAP="),
    (("config", "example"), ".env", "config/example.env", 0o600, "Take the # away"),
    (("config", "users"), "users.xml", "config/engine/users.xml", 0o644, "ASPECTS_CLICKHOUSE_USERS_FILE="),
    (("events", "init"), "events.yaml", "config/events.yaml", 0o644, "ASPECTS_EVENT_MAP="),
]
EACH = pytest.mark.parametrize(
    ("command", "name", "resource", "mode", "said"), WRITTEN, ids=[" ".join(w[0]) for w in WRITTEN]
)


@EACH
def test_what_ships_is_written_to_a_new_file(
    aspects_pii: Command, command: tuple[str, ...], name: str, resource: str, mode: int, said: str
) -> None:
    ran = aspects_pii(*command)
    assert (ran.status, ran.err) == (0, "")
    assert said in ran.out
    path = Path(name)
    assert path.read_bytes() == find_resource(resource).read_bytes()
    assert stat.S_IMODE(path.stat().st_mode) == mode


@EACH
@pytest.mark.parametrize("kind", ["file", "folder", "link to nothing"])
def test_what_is_there_stays(
    aspects_pii: Command, command: tuple[str, ...], name: str, resource: str, mode: int, said: str, kind: str
) -> None:
    path = Path("mine")
    if kind == "file":
        path.write_text("mine")
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("elsewhere")
    ran = aspects_pii(*command, path)
    assert (ran.status, ran.out) == (2, "")
    assert "mine" in ran.err
    assert "Name a new file" in ran.err
    assert not Path("elsewhere").exists()
    assert kind != "file" or path.read_text() == "mine"


@EACH
def test_a_folder_that_is_not_there_is_said(
    aspects_pii: Command, command: tuple[str, ...], name: str, resource: str, mode: int, said: str
) -> None:
    ran = aspects_pii(*command, "nowhere/file")
    assert (ran.status, ran.out) == (2, "")
    assert f"there is no folder {Path('nowhere').absolute()}" in ran.err


def test_what_is_written_is_used(aspects_pii: Command) -> None:
    assert aspects_pii("config", "example").status == 0
    assert aspects_pii("map", "init", "own.yaml").status == 0
    assert load_map(Path("own.yaml")).targets
    assert aspects_pii("events", "init", "own-events.yaml").status == 0
    assert load_event_map(Path("own-events.yaml")).events
    # A file in which nothing is set changes nothing.
    shown = aspects_pii("settings", "--set", "--json", PII_MAP="own.yaml").json["settings"]
    assert {setting["name"] for setting in shown} >= {"ASPECTS_PII_MAP"}
    assert not [setting for setting in shown if setting["source"] == ".env file"]


def test_docs_are_listed_and_printed(aspects_pii: Command) -> None:
    listed = aspects_pii("docs")
    assert listed.status == 0
    assert "commands" in [line.split()[0] for line in listed.out.splitlines()]
    assert aspects_pii("docs", "commands").out.startswith("# Commands\n")
    unknown = aspects_pii("docs", "nothing")
    assert (unknown.status, unknown.out) == (2, "")
    assert "commands" in unknown.err
