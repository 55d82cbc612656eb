"""A query of a table that we did not make gives no name that a column of that table may have.

ClickHouse takes such a name for what it stands for, wherever it comes up in the query: a column that is called so is not
read any more, and what stands in it is neither found nor erased. So these names begin as `OWN` says, which no column does.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest

from tests.support.paths import ROOT

OWN = "aspects_pii_"
PACKAGE = ROOT / "sink"
# Copies go into tables of which the columns are known, and each is asked for by its name.
COPYING = PACKAGE / "copying"
# What stands behind FROM where the table is one of the map, or any other.
_TABLE = re.compile(r"\bFROM ‹[^›]*(?:\.sql|replicas\(|shards\()[^›]*›")
_ALIAS = re.compile(r"\bAS (\w+)")
# Tables of the engine's own, whose columns are known.
_OWN_TABLES = re.compile(r"system\.|\$pii_ledger|work\.table")


def flatten(node: ast.JoinedStr | ast.Constant) -> str:
    """A text as it is written, with what is put in between ‹ and ›."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    return "".join(
        flatten(part) if isinstance(part, ast.Constant) else f"‹{ast.unparse(part)}›" for part in node.values
    )


def find_aliases(text: str) -> Iterator[str]:
    """The names that a query gives beside the FROM of a table."""
    for found in _TABLE.finditer(text):
        if not _OWN_TABLES.search(found[0]):
            yield from _ALIAS.findall(read_query(text, found.start()))


def read_query(text: str, at: int) -> str:
    """What is between the SELECT that a FROM belongs to and the end of that query, subqueries left out."""
    head, depth, start = [], 0, at
    while start and depth <= 0 and not (depth == 0 and text[start:].startswith("SELECT")):
        start -= 1
        depth += {"(": 1, ")": -1}.get(text[start], 0)
        if depth == 0:
            head.append(text[start])
    return "".join(reversed(head))


def list_queries() -> list[tuple[str, str]]:
    """Every text of the package that may be a query, with its place."""
    found = []
    for path in sorted(set(PACKAGE.rglob("*.py")) - set(COPYING.rglob("*.py"))):
        tree = ast.parse(path.read_text())
        inside = {part for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and node not in inside):
                text = flatten(node)
                if _TABLE.search(text):
                    found.append((f"{path.relative_to(ROOT)}:{node.lineno}", text))
    return found


def test_names_of_queries_are_our_own() -> None:
    queries = list_queries()
    assert len(queries) > 20
    foreign = {place: names for place, text in queries if (names := [*find_aliases(text)])}
    assert sum(map(len, foreign.values())) > 10
    assert {p: n for p, names in foreign.items() if (n := [name for name in names if not name.startswith(OWN)])} == {}


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("SELECT toString(a) AS subject FROM ‹table.sql› WHERE b", ["subject"]),
        ("SELECT x AS outer FROM (SELECT f(a AS inner) AS y FROM ‹client.replicas(t)›) AS last", ["y"]),
        ("SELECT database AS name FROM ‹client.replicas('system.parts')›", []),
        ("SELECT count() FROM ‹table.sql›", []),
    ],
)
def test_a_name_is_found(text: str, names: list[str]) -> None:
    assert [*find_aliases(text)] == names
