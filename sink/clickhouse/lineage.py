"""What is built on which tables, and which of their columns it shows.

Read from the definitions as the server writes them, where every new name stands behind an AS, and from what the engine
itself knows to depend on what. It follows names: a column counts as shown where its expression mentions it, directly or
through other names and other views.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

from sink.clickhouse.catalog import Table
from sink.clickhouse.definitions import bare, split
from sink.names import TableName

Shown = dict[TableName, dict[str, frozenset[TableName]]]
"""Object -> its column -> the tables whose columns it shows."""

Tables = Mapping[TableName, Table]

# Where an expression can begin, read backwards.
_BEFORE_EXPRESSION = {",", "SELECT", "DISTINCT", "WITH", "FROM", "JOIN", "BY", "WHERE", "HAVING", "ON", "AS", "REPLACE"}
# What they return says how many, not who.
_COUNTING = re.compile(r"(count|uniq)\w*", re.IGNORECASE)
# They name the column that they read in a text.
_LOOKING_UP = re.compile(r"(dictGet|joinGet)\w*", re.IGNORECASE)


def read_sources(tables: Tables) -> dict[TableName, set[TableName]]:
    """What views, dictionaries and tables that pass rows on read, each directly.

    The table behind a view that a refresh fills anew reads that view.
    """
    sources: dict[TableName, set[TableName]] = {}
    for table in tables.values():
        if table.shows_others:
            sources.setdefault(table.name, set()).update(table.reading.select(tables), table.loads & set(tables))
        for view in table.feeds & set(tables):
            sources.setdefault(view, set()).add(table.name)
        storage = table.storage
        if storage in tables and storage is not None and table.is_refreshable_view:
            sources.setdefault(storage, set()).add(table.name)
    return {name: found - {name} for name, found in sources.items()}


def find_dependents(tables: Tables, roots: Iterable[TableName]) -> dict[TableName, set[TableName]]:
    """What is built on `roots`, directly or through others, as dependent -> the roots that it goes back to.

    What others are built on comes before them.
    """
    known_roots = set(roots)
    origins: dict[TableName, set[TableName]] = {root: {root} for root in known_roots}
    sources = read_sources(tables)
    changed = True
    while changed:
        changed = False
        for name, found in sources.items():
            reached = set().union(*(origins.get(source, ()) for source in found))
            if name not in known_roots and not reached <= origins.get(name, set()):
                origins.setdefault(name, set()).update(reached)
                changed = True
    dependents = [name for name in sorted(origins) if name not in known_roots and tables[name].shows_others]
    order: dict[TableName, None] = {}
    for name in dependents:
        _put_in_order(name, sources, order, set())
    return {name: origins[name] for name in order if name in dependents}


def _put_in_order(
    name: TableName, sources: Mapping[TableName, set[TableName]], order: dict[TableName, None], passed: set[TableName]
) -> None:
    if name in order or name in passed:
        return
    for source in sorted(sources.get(name, ())):
        _put_in_order(source, sources, order, passed | {name})
    order[name] = None


def trace_columns(
    tables: Tables, columns: Mapping[TableName, set[str]], harmless: set[tuple[TableName, str | None]]
) -> Shown:
    """Where `columns` (of tables) are shown; the tables themselves are left out.

    `harmless` are (object, column), or (object, None) for a whole object, that end a trace.
    """
    shown: Shown = {
        name: {column: frozenset({name}) for column in found | find_computed(tables.get(name), found)}
        for name, found in columns.items()
    }
    sources = read_sources(tables)
    dependents = [table for table in tables.values() if table.shows_others]
    changed = True
    while changed:
        changed = False
        for table in dependents:
            if table.name in columns or (table.name, None) in harmless:
                continue
            found = _trace_table(table, [shown[s] for s in sources.get(table.name, ()) if s in shown], harmless)
            places = {table.name, table.storage or table.name} & set(tables) - set(columns)
            for place in places:
                known = shown.get(place, {})
                # Several views may fill one table.
                merged = {c: known.get(c, frozenset()) | found.get(c, frozenset()) for c in {**known, **found}}
                if merged != known:
                    shown[place] = merged
                    changed = True
    return {name: found for name, found in shown.items() if name not in columns}


def find_computed(table: Table | None, columns: set[str]) -> set[str]:
    """The columns of a table that are computed from `columns` of it: DEFAULT, MATERIALIZED, ALIAS."""
    found: set[str] = set()
    size = -1
    while table is not None and size != len(found):
        size = len(found)
        found |= {
            column
            for column, expression in table.expressions.items()
            if column not in columns and {bare(word) for word in split(expression)} & (columns | found)
        }
    return found


def _trace_table(
    table: Table, sources: Iterable[dict[str, frozenset[TableName]]], harmless: set[tuple[TableName, str | None]]
) -> dict[str, frozenset[TableName]]:
    names: dict[str, frozenset[TableName]] = {}
    for columns in sources:
        for column, origins in columns.items():
            names[column] = names.get(column, frozenset()) | origins
    aliases = list(_list_aliases(split(table.create_query))) if names else []
    if names:
        # A column without an AS is called as its expression.
        aliases += [(c, words) for c in table.columns if c not in names and len(words := _list_words(split(c))) > 1]
    size = -1
    while size != sum(map(len, names.values())):
        size = sum(map(len, names.values()))
        for alias, words in aliases:
            for word in words:
                if word in names:
                    names[alias] = names.get(alias, frozenset()) | names[word]
    return {c: names[c] for c in table.columns if c in names and (table.name, c) not in harmless}


def _list_aliases(tokens: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Every new name with the words of the expression that it stands for."""
    for position, token in enumerate(tokens[:-1]):
        alias = tokens[position + 1]
        if token.upper() != "AS" or not re.fullmatch(r"`.+`|\w+", alias, re.DOTALL):
            continue
        depth, expression = 0, []
        for word in reversed(tokens[:position]):
            depth += (word in ")]}") - (word in "([{")
            if depth < 0 or (depth == 0 and word.upper() in _BEFORE_EXPRESSION):
                break
            expression.append(word)
        if words := _list_words(expression[::-1]):
            yield bare(alias), words


def _list_words(expression: list[str]) -> list[str]:
    """The words of an expression that may be names of columns; none where it only counts."""
    if not expression or _COUNTING.fullmatch(bare(expression[0])):
        return []
    looks_up = any(_LOOKING_UP.fullmatch(word) for word in expression)
    return [bare(word) for word in expression if looks_up or not word.startswith("'")]
