"""Every exception that leaves a module stands in `sink.errors`, in the tree of its docstring, and can be pickled."""

from __future__ import annotations

import ast
import builtins
import inspect
import pickle
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from sink import errors
from tests.support.paths import ROOT

PACKAGE = ROOT / "sink"
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if "_data" not in path.parts)
CLASSES = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if kind.__module__ == errors.__name__]

# What the others derive from, by name; a base that is called an error or an exception counts too.
BUILTIN = {
    name for name, value in vars(builtins).items() if isinstance(value, type) and issubclass(value, BaseException)
}
EXCEPTIONS = BUILTIN | {kind.__name__ for kind in CLASSES}

ARGUMENTS = {
    errors.InvalidMessageError: ("it is not JSON", "a-kind"),
    errors.HttpProblemError: (401, "unauthorized", "No valid token.", {"WWW-Authenticate": "Bearer"}),
    errors.ProtocolError: ("AUTHENTICATION_FAILED", "Wrong.", 516, 401, {"WWW-Authenticate": "Basic"}),
}


def find_exceptions(text: str) -> Iterator[str]:
    """The exceptions that a module defines for others to catch."""
    known = set(EXCEPTIONS)
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.ClassDef):
            continue
        bases = {ast.unparse(base).split(".")[-1] for base in node.bases}
        if bases & known or any(base.endswith(("Error", "Exception")) for base in bases):
            known.add(node.name)
            if not node.name.startswith("_"):
                yield node.name


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_exceptions_stand_in_one_module(path: Path) -> None:
    if path == PACKAGE / "errors.py":
        return
    assert list(find_exceptions(path.read_text())) == [], "move it to sink.errors; one that stays inside begins with _"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("class A(Exception): ...", ["A"]),
        ("class A(errors.LmsError): ...", ["A"]),
        ("class A(jwt.PyJWTError): ...", ["A"]),
        ("class _A(Exception): ...\nclass B(_A): ...", ["B"]),
        ("class _A(Exception): ...", []),
        ("class A(Protocol): ...", []),
    ],
)
def test_an_exception_is_found(text: str, found: list[str]) -> None:
    assert list(find_exceptions(text)) == found


def test_the_docstring_draws_them_all() -> None:
    drawn = re.findall(r"^    (?:[│ ]*[├└]── )?(\w*(?:Error|Exception))\b", errors.__doc__ or "", re.MULTILINE)
    assert sorted(drawn) == sorted({*(kind.__name__ for kind in CLASSES), "Exception"})
    for kind in CLASSES:
        says_retriable = re.search(rf"{kind.__name__} +retriable", errors.__doc__ or "") is not None
        assert says_retriable == getattr(kind, "retriable", False), kind.__name__


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_an_exception_survives_pickling(kind: type[Exception]) -> None:
    if issubclass(kind, errors.DatabaseError):
        error: Exception = kind("It went wrong", 60, "UNKNOWN_TABLE")
    else:
        error = kind(*ARGUMENTS.get(kind, ("It went wrong",)))
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), vars(copy)) == (kind, str(error), vars(error))
