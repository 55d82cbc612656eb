"""What `import-linter` (see pyproject.toml) cannot say of the package: who makes settings, and what `__init__` holds."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT

PACKAGE = ROOT / "sink"
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if "_data" not in path.parts)


def test_modules_are_found() -> None:
    assert len(MODULES) >= 60


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_settings_are_made_by_whoever_loads_them(path: Path) -> None:
    """`Settings` is read from the environment in one place; whoever wants other values gives them to `load_settings`."""
    if path.name == "settings.py":
        return
    calls = {
        node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
    }
    assert "Settings" not in calls, "call load_settings instead"


@pytest.mark.parametrize(
    "path", [path for path in MODULES if path.name == "__init__.py"], ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_init_is_empty(path: Path) -> None:
    """Who imports one module of a package, as an LMS imports the broker's, gets that one and nothing else."""
    assert path.read_text() == ""


LATE = (
    *("sqlalchemy", "dbt", "httpx", "chdb", "django", "celery", "jinja2", "starlette", "uvicorn", "redis", "faker"),
    "cryptography",
)


def test_the_command_line_starts_without_what_only_some_commands_need() -> None:
    program = f"import sys, sink.doors.cli.main; print([name for name in {LATE} if name in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
