"""Messages name a command or an address, never a path of the repository: who has installed a wheel has none."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from sink.doors.cli.main import app
from sink.doors.cli.tree import list_commands, make_command
from tests.support.paths import ROOT

PACKAGE = ROOT / "sink"
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if "_data" not in path.parts)
_PATH = re.compile(r"\b(?:docs|config|sql|sink|dbt_project|tests|benchmarks)/[\w.-]+|\bREADME\b|\bCHANGELOG\b")
# A text that is nothing but a path is opened, not read by anybody.
_OPENED = re.compile(r"[\w./-]+")
_PAGE = re.compile(r"aspects-pii docs ([a-z-]+)")
_COMMAND = re.compile(r"`aspects-pii ((?:[a-z][a-z-]*)(?: [a-z][a-z-]*)?)")


def list_texts(path: Path) -> Iterator[tuple[int, str]]:
    """The texts of a module that are no documentation of it."""
    tree = ast.parse(path.read_text())
    documentation = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in documentation:
            yield node.lineno, node.value


TEXTS = [(path, line, text) for path in MODULES for line, text in list_texts(path)]


def test_texts_are_found() -> None:
    assert len(TEXTS) > 3_000
    assert any("aspects-pii docs" in text for _, _, text in TEXTS)


def test_no_message_names_a_path_of_the_repository() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}: {text}"
        for path, line, text in TEXTS
        if _PATH.search(text) and not _OPENED.fullmatch(text)
    ]
    assert found == [], "name a command, such as `aspects-pii docs PAGE`"


@pytest.mark.parametrize("text", ["See docs/map.md.", "Begin with config/pii.yaml!", "See the README."])
def test_a_path_in_a_message_is_found(text: str) -> None:
    assert _PATH.search(text)
    assert not _OPENED.fullmatch(text)


def test_pages_that_are_named_exist() -> None:
    pages = {page for _, _, text in TEXTS for page in _PAGE.findall(text)}
    assert len(pages) >= 3
    assert {page for page in pages if not (ROOT / "docs" / f"{page}.md").is_file()} == set()


def test_commands_that_are_named_exist() -> None:
    known = {name for name, _ in list_commands(make_command(app))}
    named = {words for _, _, text in TEXTS for words in _COMMAND.findall(text)}
    assert len(named) >= 10
    assert {words for words in named if words not in known and words.split()[0] not in known} == set()
