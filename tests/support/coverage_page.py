"""docs/erasure-coverage.md, made from marks on the tests that show its rows.

    python -m tests.support.coverage_page > docs/erasure-coverage.md

The marks are read from the text of the tests; nothing is imported or run. A rule test holds the page against them.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from tests.support.paths import ROOT

T = TypeVar("T", bound=Callable[..., object])

PAGE = ROOT / "docs" / "erasure-coverage.md"
KINDS = {
    "engine": "Engines",
    "key": "How rows are found",
    "type": "Types and contents",
    "place": "Places",
    "moment": "Moments and interruptions",
}
RESULTS = {
    "erased": "nothing of the subject is left, and every other row is as it was",
    "refused": "`map check` names it with the fix, or the retirement fails before anything is changed",
    "open": "it is found, and the retirement stays open with the reason",
    "listed": "it stays, and the receipt says so",
    "left": "it is somebody else's, or no PII, and is left as it is",
}
LIMITS = ROOT / "tests" / "support" / "coverage_limits.md"
"""What no test shows, in words."""
_HEAD = """\
# What an erasure reaches

Made from the tests by `python -m tests.support.coverage_page > docs/erasure-coverage.md`.
A test fails where this page is out of date. A row stands here because the test beside it shows it, on the real engine.

"""


@dataclass(frozen=True, order=True)
class Row:
    """One line of the page, and the test that shows it."""

    kind: str
    what: str
    result: str
    test: str
    """The file and the name of the test."""


def covers(kind: str, what: str, result: str) -> Callable[[T], T]:
    """Mark a test as what shows a row of the page."""
    assert kind in KINDS, kind
    assert result in RESULTS, result
    return lambda test: test


def read_rows(folder: Path = ROOT / "tests" / "integration") -> Iterator[Row]:
    """The marks of every test."""
    for path in sorted(folder.rglob("test_*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                for call in _list_marks(node):
                    kind, what, result = (ast.literal_eval(argument) for argument in call.args)
                    yield Row(kind, what, result, f"{path.relative_to(ROOT / 'tests')}::{node.name}")


def _list_marks(node: ast.FunctionDef) -> Iterator[ast.Call]:
    for decorator in node.decorator_list:
        if isinstance(decorator, ast.Call) and isinstance(decorator.func, ast.Name) and decorator.func.id == "covers":
            yield decorator


def render() -> str:
    """The page."""
    rows = sorted(read_rows())
    lines = ["| result | means |", "| --- | --- |", *(f"| {result} | {text} |" for result, text in RESULTS.items())]
    for kind, title in KINDS.items():
        lines += ["", f"## {title}", "", "| what | result | shown by |", "| --- | --- | --- |"]
        for row in rows:
            if row.kind == kind:
                file, _, name = row.test.partition("::")
                lines.append(f"| {row.what} | {row.result} | [{name}](../tests/{file}) |")
    lines += ["", "## Known limits", "", LIMITS.read_text(encoding="utf-8")]
    return _HEAD + "\n".join(lines)


if __name__ == "__main__":
    sys.stdout.write(render())
