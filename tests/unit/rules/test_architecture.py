"""docs/architecture.md names the modules as they are: each of them, and none that is not."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest

from tests.support.paths import ROOT

PACKAGE = ROOT / "sink"
TEXT = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
TREE = re.findall(r"^```\n(sink/\n.+?)^```$", TEXT, re.DOTALL | re.MULTILINE)[0]
PROSE = TEXT.replace(TREE, "")
MODULES = {
    str(path.relative_to(PACKAGE))
    for path in PACKAGE.rglob("*.py")
    if path.name != "__init__.py" and "_data" not in path.parts
}
TOP = {module.split("/")[0].removesuffix(".py") for module in MODULES}


def read_tree() -> Iterator[str]:
    """The paths of the modules in the tree, by its indentation."""
    folders: list[str] = []
    for line in TREE.splitlines()[1:]:
        depth = (len(line) - len(line.lstrip())) // 2 - 1
        name = line.split()[0]
        folders = [*folders[:depth], name.removesuffix("/")]
        if not name.endswith("/"):
            yield "/".join(folders)


def find_names() -> set[str]:
    """What the prose and the pictures name of the package: `copying.sync.sync`."""
    found = re.findall(r"(?<![\w./-])([a-z_]+(?:\.[A-Za-z_]+)+)(?![\w/-])", PROSE)
    return {name for name in found if name.split(".")[0] in TOP}


def resolves(name: str) -> bool:
    """Whether it is a module or package, or something that a module defines."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        path = PACKAGE.joinpath(*parts[:length])
        if path.is_dir():
            return length == len(parts)
        if path.with_suffix(".py").is_file():
            return defines(ast.parse(path.with_suffix(".py").read_text()), parts[length:])
    return False


def defines(scope: ast.Module | ast.ClassDef, names: list[str]) -> bool:
    if not names:
        return True
    for node in scope.body:
        if isinstance(node, ast.ClassDef) and node.name == names[0]:
            return defines(node, names[1:])
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == names[0]:
            return len(names) == 1
    return False


def test_every_module_stands_in_the_tree_and_nothing_else() -> None:
    listed = list(read_tree())
    assert len(listed) == len(set(listed)) > 80
    assert sorted(MODULES - set(listed)) == [], "add them to docs/architecture.md, with a line each"
    assert sorted(set(listed) - MODULES) == [], "docs/architecture.md names modules that have gone"


def test_names_are_found() -> None:
    assert {"copying.sync.sync", "doors.web.app", "ledger.entries.Ledger.request"} <= find_names()
    assert len(find_names()) > 50


@pytest.mark.parametrize("name", sorted(find_names()))
def test_what_is_named_exists(name: str) -> None:
    assert resolves(name), f"docs/architecture.md names {name}, which is not in sink/"


@pytest.mark.parametrize("name", ["copying.nothing", "copying.sync.nothing", "ledger.entries.Ledger.nothing", "lms"])
def test_what_does_not_exist_is_found(name: str) -> None:
    assert resolves(name) is (name == "lms")


def test_the_layers_are_those_of_the_contracts() -> None:
    contract = re.search(r"^layers = \[\n(.+?)^\]", (ROOT / "pyproject.toml").read_text(), re.DOTALL | re.MULTILINE)
    assert contract
    layers = [set(re.findall(r"\w+", line)) for line in contract[1].splitlines()]
    drawn = [set(re.findall(r"\w+", label)) for label in re.findall(r'\["([\w ·]+)"\]', PROSE)]
    assert [layer for layer in drawn if layer <= TOP] == layers
