"""What an expression of the map may be: the engine parses it, and a list says what may stand in it.

An expression runs in a statement that has every right of ours, on rows of people. So it names columns of its row and
functions that are known to be harmless, and nothing of a person goes through it.

.. no_pii: texts of the map and names of columns.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from sink.clickhouse.catalog import Table
from sink.clickhouse.client import ClickHouse
from sink.errors import QueryError
from sink.names import quote
from sink.pii_map import Rule

# Each gives the same result for the same row at every time, and reads nothing but its arguments.
_HARMLESS = frozenset(
    re.findall(
        r"\w+",
        """
    and or not xor equals notEquals less greater lessOrEquals greaterOrEquals isNull isNotNull in notIn if multiIf
    ifNull nullIf coalesce assumeNotNull toNullable greatest least
    plus minus multiply divide intDiv modulo negate abs round floor ceil trunc sign
    CAST cast accurateCastOrNull toString toFixedString toBool toUUID
    toInt8 toInt16 toInt32 toInt64 toUInt8 toUInt16 toUInt32 toUInt64 toFloat32 toFloat64
    toDate toDate32 toDateTime toDateTime64 toYear toMonth toDayOfMonth toStartOfYear toStartOfQuarter toStartOfMonth
    toStartOfDay toIntervalDay toIntervalMonth toIntervalYear toYYYYMM toYYYYMMDD makeDate
    concat format lower upper lowerUTF8 upperUTF8 reverse repeat substring substringUTF8 left right leftUTF8 rightUTF8
    length lengthUTF8 empty notEmpty trimBoth trimLeft trimRight leftPad rightPad position startsWith endsWith
    like notLike ilike notILike match replaceOne replaceAll replaceRegexpOne replaceRegexpAll
    hex unhex MD5 SHA1 SHA256 sipHash64 sipHash128 cityHash64 xxHash64
    tuple tupleElement array arrayElement has map defaultValueOfTypeName
    """,
    )
)
# Of a value that goes, they leave so little that nobody is known by it; applied again, they change nothing.
_COARSE = frozenset(["empty", "notEmpty", "isNull", "isNotNull", "toYear", "toStartOfYear"])
_MEMBERSHIP = frozenset(["in", "notIn"])
# What stands around the one expression of `SELECT (…)`, by depth.
_FRAME = ("SelectWithUnionQuery", "ExpressionList", "SelectQuery", "ExpressionList")
_NODE = re.compile(r"( *)(\w+)(?: (.*?))??(?: \(alias (.*)\))?(?: \(children \d+\))?")
_FIX = "See «Expressions» in `aspects-pii docs map`."


@dataclass
class _Node:
    """A node of the syntax tree, as `EXPLAIN AST` shows it."""

    kind: str
    text: str = ""
    children: list[_Node] = field(default_factory=list)

    @property
    def arguments(self) -> list[_Node]:
        """Of a function: what stands between its parentheses."""
        return self.children[0].children if self.children else []


@dataclass(frozen=True)
class _Use:
    """A column in an expression, and the function that it is given to."""

    column: str
    function: str


def explain_refusal(
    client: ClickHouse, table: Table, rule: Rule, pii_columns: set[str], column: str
) -> tuple[str, str] | None:
    """Why the expression for `column` cannot be used, as (reason, fix); None where it can."""
    expression = rule.on_retire.redact[column].expression
    try:
        tree = _read_tree([str(line) for line in client.column(f"EXPLAIN AST SELECT ({expression})")])
    except QueryError:
        return "ClickHouse cannot read the expression", "Correct it."
    if tree is None:
        return "this is not one expression over the row's own columns", _FIX
    uses: list[_Use] = []
    if foreign := next(_find_foreign(tree, uses), None):
        return foreign, f"An expression has columns of the row, literals and harmless functions. {_FIX}"
    return _explain_uses(uses, table, rule, pii_columns, column) or _try(client, table, column, expression)


def explain_failure(table: Table, columns: Sequence[str], error: QueryError) -> str:
    """Why rows cannot be redacted whose values an expression of the map makes the engine fail on, with the fix."""
    return (
        f"{table.name}: a row has values for which the expression of {', '.join(columns)} cannot be computed ({error.name}); "
        "correct the row, or write an expression for every value, with `accurateCastOrNull` or `nullIf`"
    )


def _explain_uses(
    uses: Sequence[_Use], table: Table, rule: Rule, pii_columns: set[str], column: str
) -> tuple[str, str] | None:
    for use in uses:
        name = use.column.partition(".")[0]
        if name not in table.columns:
            return f"there is no column {use.column}", "Correct the expression."
        if name in table.computed_columns:
            return f"{name} is computed from other columns, and may show what goes", "Use those that are stored."
        is_subject = rule.is_by_id and name == rule.key
        if (name == column or (name in pii_columns and not is_subject)) and use.function not in _COARSE:
            reason = f"what it yields depends on {name}, which is PII, so that the value would not be gone"
            fix = "Use `constant`, `empty`, `hash` or `truncate`, or an expression without that column."
            return reason, fix
    return None


def _try(client: ClickHouse, table: Table, column: str, expression: str) -> tuple[str, str] | None:
    try:
        client.rows(
            f"SELECT CAST(({expression}), {{kind:String}}) FROM {table.name.sql} WHERE 0", kind=table.columns[column]
        )
    except QueryError:
        return f"ClickHouse cannot put it into {quote(column)}, which is {table.columns[column]}", "Correct it."
    return None


def _read_tree(lines: Sequence[str]) -> _Node | None:
    """The tree of the one expression; None where the text made more of the statement than `SELECT (…)`."""
    frame: list[str] = []
    path: list[_Node] = []
    root: _Node | None = None
    for line in lines:
        found = _NODE.fullmatch(line)
        if found is None:
            return None
        depth, node = len(found[1]), _Node(found[2], found[3] or "")
        if depth < len(_FRAME):
            # The driver asks for a format, which the engine counts as part of the query.
            if (depth, node.kind) != (1, "Identifier"):
                frame.append(node.kind)
            continue
        depth -= len(_FRAME)
        if found[4] is not None or depth > len(path) or (depth == 0 and root is not None):
            return None
        del path[depth:]
        if path:
            path[-1].children.append(node)
        else:
            root = node
        path.append(node)
    return root if tuple(frame) == _FRAME else None


def _find_foreign(node: _Node, uses: list[_Use], function: str = "") -> Iterator[str]:
    """What may not stand in an expression, as reasons; the columns that stand in it are added to `uses`."""
    if node.kind == "Identifier":
        uses.append(_Use(node.text, function))
    elif node.kind == "Function":
        if node.text not in _HARMLESS:
            yield f"{node.text} is not among the functions that an expression may have"
        if len(node.children) > 1 or (node.children and node.children[0].kind != "ExpressionList"):
            yield f"{node.text} has parameters or a window"
        if node.text in _MEMBERSHIP and not _is_list(node.arguments[1:]):
            yield "IN may only have a list of literals on its right, since a name there can be a table"
        for argument in node.arguments:
            yield from _find_foreign(argument, uses, node.text)
    elif node.kind != "Literal":
        yield f"a {node.kind} reaches beyond the row"


def _is_list(nodes: Sequence[_Node]) -> bool:
    return all(
        node.kind == "Literal" or (node.kind == "Function" and node.text == "tuple" and _is_list(node.arguments))
        for node in nodes
    )
