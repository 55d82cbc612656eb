"""SQL is put together from texts of our own and from quoted names, never from values.

Every text that is handed to ClickHouse (or, by `text` and `exec_driver_sql`, to the LMS database) is followed back
to where it comes from: through f-strings, `+`, `join`, conditional expressions, local variables, parameters (at every
call of the function), fields (at every call of the class), properties and functions (what they return) and module
constants. It has to end in string literals, numbers and `sink.names.quote`. What ends elsewhere is a finding, unless
it is one of `EXCEPTIONS`.

The analysis knows types only where they are written down (`self`, an annotated parameter); elsewhere it takes
everything of one name together: stricter, but for a field that is filled from outside (by pydantic, say) and has
the name of one that is not.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support.paths import ROOT

PACKAGE = ROOT / "sink"

# Methods of `sink.clickhouse.client.ClickHouse` and of the driver, and SQLAlchemy's ways to take plain SQL.
STATEMENTS = {"execute", "rows", "value", "column", "stream", "command", "query", "text", "exec_driver_sql"}
CLIENTS = ("client", "_client")
QUOTES = {
    "quote": "quotes a name",
    "quote_text": "quotes a text of ours",
    "find_bound_kind": "a type of a column, as the engine writes it",
    "_escape_path": "escapes a path that we made",
}

CLIENT = "sink.clickhouse.client"
# They carry the statements of other programs, which is what they are for.
ENDPOINT = "sink.endpoint."

EXCEPTIONS = {
    ("sink.clickhouse.client", "text"): "what callers hand in, which is checked where they call",
    ("sink.clickhouse.migrations", "statement"): "a statement of a file in sql/migrations",
    ("sink.clickhouse.migrations", "path.read_text()"): "a file in sql/migrations",
    (
        "sink.clickhouse.catalog",
        "keys",
    ): "keys of a path into JSON, which sink.pii_map has checked for quotes and backslashes",
    (
        "sink.erasure.steps",
        "redaction.expression",
    ): "SQL that the operator has written into the map, who may run any SQL anyway",
    ("sink.erasure.changes", "redaction.expression"): "the same",
    ("sink.erasure.new_values", "self.expressions[column]"): "what sink.erasure.changes makes, which is followed there",
    ("sink.erasure.swap", "_read_clauses(client, table)"): "keys and settings of a table, as the server writes them",
    ("sink.erasure.swap", "_read_definition(client, table, column)"): "a column, as the server writes it",
    (
        "sink.erasure.statement_step",
        "condition",
    ): "what sink.erasure.candidates makes of a quoted column and names of arrays",
    (
        "sink.datasets.rights",
        "grant.clause",
    ): "privileges that sink.datasets.access names, on names that sink.datasets.grants quotes",
    (
        "sink.dbt_macros",
        "str(vars(macros)[name](*arguments, **named))",
    ): "a macro of the dbt project, with names that its callers have quoted",
    ("sink.erasure.rehearsal", "_REPLICATED.sub(strip, engine_full)"): "the engine of a table, as the server writes it",
}


@dataclass(frozen=True)
class Place:
    """An expression, and where it stands."""

    module: str
    scopes: tuple[ast.AST, ...]
    """The module, class and functions around it, outermost first."""
    node: ast.expr

    def __str__(self) -> str:
        return f"{self.module}:{self.node.lineno}: {ast.unparse(self.node)}"


@dataclass
class Sources:
    """The modules, and what is where in them."""

    modules: Mapping[str, ast.Module]
    calls: list[tuple[str, tuple[ast.AST, ...], ast.Call]] = field(default_factory=list)
    functions: dict[str, list[tuple[str, tuple[ast.AST, ...], ast.FunctionDef]]] = field(default_factory=dict)
    classes: dict[str, list[ast.ClassDef]] = field(default_factory=dict)
    seen: set[int] = field(default_factory=set)
    used: set[tuple[str, str]] = field(default_factory=set)
    """The exceptions that were needed."""

    def __post_init__(self) -> None:
        for name, module in self.modules.items():
            self._index(name, (module,), module)

    def _index(self, module: str, scopes: tuple[ast.AST, ...], parent: ast.AST) -> None:
        for node in ast.iter_child_nodes(parent):
            inner = scopes
            if isinstance(node, ast.FunctionDef):
                self.functions.setdefault(node.name, []).append((module, (*scopes, node), node))
                inner = (*scopes, node)
            elif isinstance(node, ast.ClassDef):
                self.classes.setdefault(node.name, []).append(node)
                inner = (*scopes, node)
            elif isinstance(node, ast.GeneratorExp | ast.ListComp | ast.SetComp | ast.DictComp | ast.Lambda):
                inner = (*scopes, node)
            elif isinstance(node, ast.Call):
                self.calls.append((module, scopes, node))
            self._index(module, inner, node)

    def find_statements(self) -> Iterator[Place]:
        """Every text that is handed to a database."""
        for module, scopes, call in self.calls:
            name, receiver = name_call(call)
            if name not in STATEMENTS or not (call.args or call.keywords):
                continue
            if name in ("text", "exec_driver_sql") or receiver.split(".")[-1] in CLIENTS or module == CLIENT:
                sql = call.args[0] if call.args else next((k.value for k in call.keywords if k.arg == "sql"), None)
                if sql is not None:
                    yield Place(module, scopes, sql)

    def find_unsafe(self, place: Place) -> Iterator[Place]:
        """The parts of an expression that are neither our own text nor a quoted name."""
        node = place.node
        if id(node) in self.seen:
            return
        self.seen.add(id(node))
        exception = (place.module, ast.unparse(node))
        if exception in EXCEPTIONS:
            self.used.add(exception)
            return
        parts = list(self._resolve(place))
        if not parts and not _is_harmless(node):
            yield place
        for part in parts:
            yield from self.find_unsafe(part)

    def _resolve(self, place: Place) -> Iterator[Place]:
        """What an expression is made of, or where its value comes from."""

        def here(*nodes: ast.expr) -> Iterator[Place]:
            return (Place(place.module, place.scopes, node) for node in nodes)

        node = place.node
        if isinstance(node, ast.JoinedStr):
            yield from here(*(part.value for part in node.values if isinstance(part, ast.FormattedValue)))
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            yield from here(node.left, node.right)
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
            yield from here(node.left)
        elif isinstance(node, ast.IfExp):
            yield from here(node.body, node.orelse)
        elif isinstance(node, ast.BoolOp):
            yield from here(*node.values)
        elif isinstance(node, ast.Subscript):
            yield from self._list_items(place, node.value, values=True)
        elif isinstance(node, ast.Name):
            yield from self._find_values(place, node.id)
        elif isinstance(node, ast.Attribute):
            yield from self._find_attribute(node.attr, self._find_family(place, node.value))
        elif isinstance(node, ast.Call):
            name, _ = name_call(node)
            if name == "join" and isinstance(node.func, ast.Attribute):
                yield from here(node.func.value)
                yield from self._list_items(place, node.args[0])
            elif name not in QUOTES:
                receiver = node.func.value if isinstance(node.func, ast.Attribute) else None
                family = self._find_family(place, receiver)
                is_near = name.startswith("_") and family is None
                yield from self._find_returns(name, family, place.module if is_near else None)

    def _list_items(self, place: Place, node: ast.expr, *, values: bool = False) -> Iterator[Place]:
        """The items of a list, tuple or dictionary (its keys, or its values)."""
        inner = (*place.scopes, node)
        if isinstance(node, ast.GeneratorExp | ast.ListComp | ast.SetComp):
            yield Place(place.module, inner, node.elt)
        elif isinstance(node, ast.DictComp):
            yield Place(place.module, inner, node.value if values else node.key)
        elif isinstance(node, ast.List | ast.Tuple | ast.Set):
            for item in node.elts:
                if isinstance(item, ast.Starred):
                    yield from self._list_items(place, item.value)
                else:
                    yield Place(place.module, place.scopes, item)
        elif isinstance(node, ast.Dict):
            items = node.values if values else [key for key in node.keys if key is not None]
            yield from (Place(place.module, place.scopes, item) for item in items)
        elif isinstance(node, ast.Name):
            found = list(self._find_values(place, node.id))
            for origin in found:
                yield from self._list_items(origin, origin.node, values=values)
            if not found:
                yield place
        elif isinstance(node, ast.Call) and name_call(node)[0] in ("sorted", "reversed", "tuple", "list"):
            yield from self._list_items(place, node.args[0], values=values)
        elif isinstance(node, ast.IfExp):
            yield from self._list_items(place, node.body, values=values)
            yield from self._list_items(place, node.orelse, values=values)
        else:
            yield Place(place.module, place.scopes, node)

    def _find_values(self, place: Place, name: str) -> Iterator[Place]:
        """What a variable can hold: looked for from the inside out, as Python does."""
        for depth in range(len(place.scopes), 0, -1):
            scope, scopes = place.scopes[depth - 1], place.scopes[:depth]
            if isinstance(scope, ast.ClassDef):
                continue
            found = list(self._find_bindings(place.module, scopes, scope, name))
            if found:
                yield from found
                return
        for other, module in self.modules.items():
            # Imported from another module of the package.
            if other != place.module:
                yield from self._find_bindings(other, (module,), module, name)

    def _find_bindings(self, module: str, scopes: tuple[ast.AST, ...], scope: ast.AST, name: str) -> Iterator[Place]:
        if isinstance(scope, ast.FunctionDef):
            yield from self._find_arguments(module, scopes, scope, name)
        if isinstance(scope, ast.GeneratorExp | ast.ListComp | ast.SetComp | ast.DictComp):
            for clause in scope.generators:
                yield from self._find_loop_values(Place(module, scopes[:-1], clause.iter), clause.target, name)
            return
        for node in _walk_scope(scope):
            if isinstance(node, ast.Assign):
                for target in node.targets:
                    if isinstance(target, ast.Name) and target.id == name:
                        yield Place(module, scopes, node.value)
                    elif isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                        for variable, value in zip(target.elts, node.value.elts, strict=False):
                            if isinstance(variable, ast.Name) and variable.id == name:
                                yield Place(module, scopes, value)
            elif isinstance(node, ast.AnnAssign | ast.AugAssign | ast.NamedExpr):
                if isinstance(node.target, ast.Name) and node.target.id == name and node.value is not None:
                    yield Place(module, scopes, node.value)
            elif isinstance(node, ast.For):
                yield from self._find_loop_values(Place(module, scopes, node.iter), node.target, name)

    def _find_loop_values(self, place: Place, target: ast.expr, name: str) -> Iterator[Place]:
        iterated = place.node
        if isinstance(target, ast.Name) and target.id == name:
            yield from self._list_items(place, iterated)
        elif isinstance(target, ast.Tuple):
            position = next((i for i, e in enumerate(target.elts) if isinstance(e, ast.Name) and e.id == name), None)
            if position is None:
                return
            call, receiver = name_call(iterated) if isinstance(iterated, ast.Call) else ("", "")
            if call == "enumerate" and position == 0:
                yield Place(place.module, place.scopes, ast.copy_location(ast.Constant(0), iterated))
            elif call == "items" and receiver:
                assert isinstance(iterated, ast.Call)
                assert isinstance(iterated.func, ast.Attribute)
                yield from self._list_items(place, iterated.func.value, values=position == 1)
            else:
                yield place

    def _find_arguments(
        self, module: str, scopes: tuple[ast.AST, ...], function: ast.FunctionDef, name: str
    ) -> Iterator[Place]:
        """What a parameter is given, by default and at every call."""
        arguments = function.args
        positional = [argument.arg for argument in [*arguments.posonlyargs, *arguments.args]]
        if name not in [*positional, *(argument.arg for argument in arguments.kwonlyargs)]:
            return
        outside = scopes[:-1]
        defaults = dict(zip(reversed(positional), reversed(arguments.defaults), strict=False))
        by_keyword = zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
        defaults |= {argument.arg: default for argument, default in by_keyword if default is not None}
        if name in defaults:
            yield Place(module, outside, defaults[name])
        is_method = bool(positional) and positional[0] in ("self", "cls")
        for calling, calling_scopes, call in self.calls:
            called, receiver = name_call(call)
            if called != function.name or (is_method and not receiver):
                continue
            if called.startswith("_") and calling != module:
                continue
            family = self._find_family(Place(calling, calling_scopes, call), getattr(call.func, "value", None))
            if (
                is_method
                and family is not None
                and not family & {s.name for s in outside if isinstance(s, ast.ClassDef)}
            ):
                continue
            index = positional.index(name) - is_method if name in positional else -1
            for position, argument in enumerate(call.args):
                if position == index or isinstance(argument, ast.Starred):
                    yield Place(calling, calling_scopes, argument)
            for keyword in call.keywords:
                if keyword.arg == name:
                    yield Place(calling, calling_scopes, keyword.value)

    def _find_family(self, place: Place, receiver: ast.expr | None) -> set[str] | None:
        """The classes that something can be of, with what they inherit from and what inherits from them."""
        if not isinstance(receiver, ast.Name):
            return None
        name = None
        for scope in reversed(place.scopes):
            if isinstance(scope, ast.ClassDef) and receiver.id == "self":
                name = scope.name
            elif isinstance(scope, ast.FunctionDef):
                found = [a for a in [*scope.args.args, *scope.args.kwonlyargs] if a.arg == receiver.id and a.annotation]
                name = ast.unparse(found[0].annotation) if found and found[0].annotation else None
            if name:
                break
        if name not in self.classes:
            return None
        return {name, *self._list_bases(name), *(other for other in self.classes if name in self._list_bases(other))}

    def _list_bases(self, name: str) -> list[str]:
        """What a class inherits from, the farthest first."""
        direct = [ast.unparse(base) for node in self.classes.get(name, ()) for base in node.bases]
        return [b for base in direct if base in self.classes for b in (*self._list_bases(base), base)]

    def _list_fields(self, name: str) -> list[str]:
        """The fields of a class in the order in which it is given them, inherited ones first."""
        nodes = [node for part in (*self._list_bases(name), name) for node in self.classes[part]]
        return list(
            dict.fromkeys(
                item.target.id
                for node in nodes
                for item in node.body
                if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
            )
        )

    def _find_attribute(self, name: str, family: set[str] | None) -> Iterator[Place]:
        """What a property returns, or a field is given wherever its class is made."""
        yield from self._find_returns(name, family)
        for class_name in self.classes if family is None else family:
            fields = self._list_fields(class_name)
            if name not in fields:
                continue
            index = fields.index(name)
            for module, scopes, call in self.calls:
                if name_call(call)[0] == class_name:
                    place = Place(module, scopes, call)
                    named = [Place(module, scopes, k.value) for k in call.keywords if k.arg == name]
                    yield from named or list(self._list_items(place, ast.List(call.args)))[index : index + 1]

    def _find_returns(self, name: str, family: set[str] | None = None, module: str | None = None) -> Iterator[Place]:
        for where, scopes, function in self.functions.get(name, ()):
            if module not in (None, where):
                continue
            if family is not None and not family & {s.name for s in scopes if isinstance(s, ast.ClassDef)}:
                continue
            for node in _walk_scope(function):
                if isinstance(node, ast.Return) and node.value is not None:
                    yield Place(where, scopes, node.value)


def name_call(call: ast.Call) -> tuple[str, str]:
    """The name of what is called and what it is called on."""
    if isinstance(call.func, ast.Attribute):
        return call.func.attr, ast.unparse(call.func.value)
    return (call.func.id, "") if isinstance(call.func, ast.Name) else ("", "")


def _walk_scope(scope: ast.AST) -> Iterator[ast.AST]:
    """Everything below a scope that is not in a function or class of its own."""
    for node in ast.iter_child_nodes(scope):
        if not isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Lambda):
            yield node
            yield from _walk_scope(node)


def _is_harmless(node: ast.expr) -> bool:
    if isinstance(node, ast.Constant):
        return isinstance(node.value, str | int)
    if isinstance(node, ast.JoinedStr):
        return True
    if not isinstance(node, ast.Call):
        return False
    name, _ = name_call(node)
    if name == "map":
        return ast.unparse(node.args[0]) in QUOTES
    return name in QUOTES or name in ("len", "index", "int")


def find_findings(modules: Mapping[str, str]) -> tuple[list[str], Sources, int]:
    """The unsafe parts of all statements, the sources, and how many statements there are."""
    sources = Sources({name: ast.parse(text) for name, text in modules.items()})
    statements = list(sources.find_statements())
    return sorted({str(found) for s in statements for found in sources.find_unsafe(s)}), sources, len(statements)


def name_module(path: Path) -> str:
    """The dotted name of a file below `sink`."""
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)


MODULES = {name_module(path): path.read_text() for path in sorted(PACKAGE.rglob("*.py")) if "_data" not in path.parts}


def test_modules_that_are_named_here_exist() -> None:
    assert len(MODULES) > 60
    named = {CLIENT, f"{ENDPOINT}__init__", *(module for module, _ in EXCEPTIONS)}
    assert named <= set(MODULES), "a module that is named here has gone; name the one that it became"


def test_sql_holds_quoted_names_and_our_own_text_only() -> None:
    modules = {name: text for name, text in MODULES.items() if not name.startswith(ENDPOINT)}
    findings, sources, statements = find_findings(modules)
    assert statements > 50
    assert not findings, "bind a value, and quote a name by sink.names.quote:\n" + "\n".join(findings)
    assert set(EXCEPTIONS) == sources.used, "an exception that nothing needs"


PASSING = {
    "literal": "client.rows('SELECT 1')",
    "quoted name": "client.rows(f'SELECT {quote(column)} FROM {quote(table)}')",
    "bound value": "client.rows('SELECT {value:String}', value=name)",
    "constant": "LIMIT = 'LIMIT 5'\ndef f(client): client.rows(f'SELECT 1 {LIMIT}')",
    "join": "def f(client, names): client.rows('SELECT ' + ', '.join(quote(name) for name in names))",
    "condition": 'def f(client, x): client.rows(f\'SELECT 1 {"WHERE 1" if x else ""}\')',
    "parameter": "def f(client, where): client.rows(f'SELECT 1 {where}')\ndef g(client): f(client, 'WHERE 1')",
    "keyword": "def f(client, *, where=''): client.rows(f'SELECT 1 {where}')\ndef g(client): f(client, where='WHERE 1')",
    "property": "class A:\n @property\n def sql(self): return quote(self.name)\ndef f(client, a): client.rows(a.sql)",
    "map": "def f(client, names): client.rows(', '.join(map(quote, names)))",
    "type": "class A:\n x: str\nclass B:\n x: str\ndef f(client, a: A): client.rows(a.x)\nA('1')\nB(input())",
    "inherited": "class A:\n x: str\n def f(self, client): client.rows(self.x)\nclass B(A):\n y: str\nB('1', input())",
    "starred": "class A:\n x: int\n y: str\ndef f(client, a: A): client.rows(a.y)\nt = (input(), '1')\nA(*t)",
    "items": "def f(client):\n d = {'a = 1': x}\n client.rows(' AND '.join(d))",
}
FAILING = {
    "value": "def f(client, name):\n client.rows(f'SELECT {name}')\ndef g(client, row): f(client, row.name)",
    "format": "client.rows('SELECT {}'.format(name))",
    "percent": "client.rows('SELECT %s' % name)",
    "concatenation": "client.rows('SELECT ' + input())",
    "through a variable": "def f(client):\n sql = f'SELECT {input()}'\n client.rows(sql)",
    "through a function": "def f(x): return f'SELECT {input()}'\ndef g(client): client.execute(f(1))",
    "through a caller": "def f(client, where): client.rows(f'SELECT {where}')\ndef g(client): f(client, input())",
    "through a loop": "def f(client, names):\n for name in names: client.rows(f'SELECT {name}')\nf(c, input())",
    "through a field": "class A:\n sql: str\ndef f(client, a): client.rows(a.sql)\nA(input())",
    "through a heir": "class A:\n x: str\n def f(self, client): client.rows(self.x)\nclass B(A):\n y: str\nB(input(), '')",
    "through a star": "class A:\n x: int\n y: str\ndef f(client, a: A): client.rows(a.y)\nt = (1, input())\nA(*t)",
    "mapped": "def f(client, names): client.rows(', '.join(map(str, names)))",
    "joined": "def f(client, ids): client.rows('SELECT ' + ', '.join(str(i) for i in ids))",
    "keys": "def f(client):\n d = {input(): 1}\n client.rows(' AND '.join(d))",
    "of the LMS": "connection.execute(text(f'SELECT {input()}'))",
    "by keyword": "client.rows(sql=input())",
}


@pytest.mark.parametrize("name", PASSING)
def test_analysis_passes(name: str) -> None:
    findings, _, statements = find_findings({"example": PASSING[name]})
    assert statements == 1
    assert findings == []


@pytest.mark.parametrize("name", FAILING)
def test_analysis_finds(name: str) -> None:
    findings, _, statements = find_findings({"example": FAILING[name]})
    assert statements == 1
    assert findings
