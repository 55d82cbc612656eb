"""The command line starts without what only some commands need, and puts off no import that gains nothing."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT

COMMANDS = sorted((ROOT / "sink" / "doors" / "cli").glob("*.py"))
# What one of them takes alone is more than the whole help may.
HEAVY = (
    *("celery", "chdb", "clickhouse_connect", "cryptography", "dbt", "django", "fastapi", "httpx", "kombu", "pydantic"),
    *("pydantic_settings", "redis", "rich", "sqlalchemy", "starlette", "urllib3", "uvicorn", "yaml"),
)


# What takes the longest, and only some commands use.
ENGINE, DBT, LMS, WORKER = {"chdb"}, {"dbt"}, {"sqlalchemy"}, {"celery", "django", "kombu", "redis"}
SERVERS = {"fastapi", "httpx", "starlette", "uvicorn"}


def find_loaded(*arguments: str, status: int = 0) -> set[str]:
    """The modules that a command loads, with a ClickHouse server that is not there."""
    program = (
        "import json, sys\n"
        "from sink.doors.cli.main import run\n"
        f"assert run({arguments!r}) == {status}\n"
        "print(json.dumps(sorted(sys.modules)))\n"
    )
    environment = {"ASPECTS_CLICKHOUSE_URL": "http://127.0.0.1:9", "ASPECTS_CLICKHOUSE_RETRIES": "0"}
    ran = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env=os.environ | environment,
    )
    return set(json.loads(ran.stdout.splitlines()[-1]))


@pytest.fixture(scope="module")
def loaded() -> set[str]:
    """The modules that `aspects-pii --help` loads."""
    return find_loaded("--help")


def test_help_loads_nothing_heavy(loaded: set[str]) -> None:
    assert "sink.doors.cli.retiring" in loaded
    assert not loaded & set(HEAVY)
    # And of ours nothing but the command line itself.
    ours = {name for name in loaded if name.startswith("sink.") and not name.startswith("sink.doors")}
    # Texts without an import of their own are among it.
    assert ours - {"sink.rights", "sink.rights.words"} == {
        "sink.actors",
        "sink.errors",
        "sink.progress",
        "sink.wording",
    }


@pytest.mark.parametrize(
    "arguments", [("--version",), ("build", "--help"), ("ledger", "show", "--help"), ("worker", "-h")]
)
def test_help_of_one_command_loads_nothing_heavy(arguments: tuple[str, ...]) -> None:
    # With pydantic Typer (0.29.2) reads the options of a command.
    assert not find_loaded(*arguments) & (set(HEAVY) - {"pydantic"})


@pytest.mark.parametrize(
    ("arguments", "status", "unused"),
    [
        (("settings",), 0, ENGINE | DBT | LMS | WORKER | SERVERS | {"clickhouse_connect", "yaml"}),
        (("access", "sql"), 0, ENGINE | DBT | LMS | WORKER | SERVERS),
        (("map", "show"), 0, ENGINE | DBT | LMS | WORKER | SERVERS),
        (("status",), 1, ENGINE | DBT | LMS | WORKER | SERVERS),
        (("retire", "1"), 1, ENGINE | DBT | LMS | WORKER | SERVERS),
        (("verify",), 1, ENGINE | DBT | LMS | WORKER | SERVERS),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_command_loads_only_what_it_uses(arguments: tuple[str, ...], status: int, unused: set[str]) -> None:
    loaded = find_loaded(*arguments, status=status)
    assert "sink.settings" in loaded
    assert not loaded & unused


@pytest.mark.parametrize("path", COMMANDS, ids=lambda path: path.stem)
def test_only_what_is_not_loaded_anyway_is_imported_late(path: Path, loaded: set[str]) -> None:
    functions = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)]
    late = {
        f"{node.module}.{name.name}" if f"{node.module}.{name.name}" in loaded else node.module
        for function in functions
        for node in ast.walk(function)
        if isinstance(node, ast.ImportFrom)
        for name in node.names
    }
    # A package is loaded with its first module; what is imported from it need not be.
    assert not {name for name in late if name in loaded and not (ROOT / str(name).replace(".", "/")).is_dir()}
