"""Which columns of views, materialized views and dictionaries show the columns of which tables.

Read from the definitions as the server writes them, where every new name stands behind an AS. It follows names:
a column counts as shown where its expression mentions it, directly or through other names and other views.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from sink.clickhouse.catalog import Table
from sink.names import TableName

Shown = dict[TableName, dict[str, frozenset[TableName]]]
"""Object -> its column -> the tables whose columns it shows."""

_TOKEN = re.compile(r"'(?:[^'\\]|\\.)*'|`(?:[^`\\]|\\.)*`|\w+|\S", re.DOTALL)
# Where an expression can begin, read backwards.
_BEFORE_EXPRESSION = {",", "SELECT", "DISTINCT", "WITH", "FROM", "JOIN", "BY", "WHERE", "HAVING", "ON", "AS", "REPLACE"}
# What they return says how many, not who.
_COUNTING = re.compile(r"(count|uniq)\w*", re.IGNORECASE)


def trace_columns(
    tables: Mapping[TableName, Table],
    columns: Mapping[TableName, set[str]],
    harmless: set[tuple[TableName, str | None]],
) -> Shown:
    """Where `columns` (of tables) are shown; the tables themselves are left out.

    `harmless` are (object, column), or (object, None) for a whole object, that end a trace.
    """
    shown: Shown = {name: {column: frozenset({name}) for column in found} for name, found in columns.items()}
    dependents = [t for t in tables.values() if t.engine in ("View", "MaterializedView", "Dictionary", "LiveView")]
    changed = True
    while changed:
        changed = False
        for table in dependents:
            if table.name in columns or (table.name, None) in harmless:
                continue
            found = _trace_table(table, shown, harmless)
            places = {table.name, *filter(None, [find_storage(table, tables)])} - set(columns)
            for place in places:
                if found and shown.get(place) != found:
                    shown[place] = found
                    changed = True
    return {name: found for name, found in shown.items() if name not in columns}


def find_storage(view: Table, tables: Mapping[TableName, Table]) -> TableName | None:
    """The table that holds a materialized view's rows, None for what has none."""
    if view.engine != "MaterializedView":
        return None
    tokens = [_bare(token) for token in _TOKEN.findall(view.create_query.partition("(")[0])]
    if "TO" in tokens:
        database, _, table, *_ = tokens[tokens.index("TO") + 1 :]
        return TableName(database, table)
    inner = [name for name in tables if name.database == view.name.database and name.table.startswith(".inner")]
    return next((name for name in inner if name.table in (f".inner.{view.name.table}", f".inner_id.{view.uuid}")), None)


def _trace_table(
    table: Table, shown: Shown, harmless: set[tuple[TableName, str | None]]
) -> dict[str, frozenset[TableName]]:
    names: dict[str, frozenset[TableName]] = {}
    for source, columns in shown.items():
        if source != table.name and table.mentions(source):
            for column, origins in columns.items():
                names[column] = names.get(column, frozenset()) | origins
    aliases = list(_list_aliases(_split(table.create_query))) if names else []
    size = -1
    while size != sum(map(len, names.values())):
        size = sum(map(len, names.values()))
        for alias, words in aliases:
            for word in words:
                if word in names:
                    names[alias] = names.get(alias, frozenset()) | names[word]
    return {c: names[c] for c in table.columns if c in names and (table.name, c) not in harmless}


def _split(definition: str) -> list[str]:
    """The words of a definition; a dictionary's query, which is a text in it, included."""
    tokens: list[str] = []
    for token in _TOKEN.findall(definition):
        if token.startswith("'") and re.search(r"\bSELECT\b", token, re.IGNORECASE):
            tokens += _split(re.sub(r"\\(.)", r"\1", token[1:-1]))
        else:
            tokens.append(token)
    return tokens


def _list_aliases(tokens: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Every new name with the words of the expression that it stands for."""
    for position, token in enumerate(tokens[:-1]):
        alias = tokens[position + 1]
        if token.upper() != "AS" or not re.fullmatch(r"`.+`|\w+", alias, re.DOTALL):
            continue
        depth, words = 0, []
        for word in reversed(tokens[:position]):
            depth += (word in ")]}") - (word in "([{")
            if depth < 0 or (depth == 0 and word.upper() in _BEFORE_EXPRESSION):
                break
            words.append(_bare(word))
        if words and not _COUNTING.fullmatch(words[-1]):
            yield _bare(alias), words


def _bare(word: str) -> str:
    return re.sub(r"\\(.)", r"\1", word[1:-1]) if word.startswith("`") else word
