"""What the definition of a view, dictionary or table says: the words of it, what it reads, and where it writes.

Read from definitions as the server writes them: without comments, and with databases before the names in views.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from sink.names import TableName

_TOKEN = re.compile(r"'(?:[^'\\]|\\.)*'|`(?:[^`\\]|\\.)*`|\w+|\S", re.DOTALL)
# Behind these a name without a database is a table.
_BEFORE_TABLE = ("FROM", "JOIN", "IN", "TABLE")
# Functions whose first argument names a dictionary or a Join table in a text.
_LOOKS_UP = re.compile(r"(dict|joinGet)\w*", re.IGNORECASE)


@dataclass(frozen=True)
class Reading:
    """What a definition reads, before it is held against the tables that there are."""

    names: frozenset[TableName] = frozenset()
    """What may be a table, if there is one of that name."""
    patterns: tuple[tuple[str, str], ...] = ()
    """Regular expressions for database and table, of Merge tables and `merge()`."""
    is_unknown: bool = False
    """True where the definition does not say it: a dictionary over a named collection."""

    def select(self, tables: Iterable[TableName]) -> set[TableName]:
        """Those of `tables` that are read."""
        names = set(tables)
        if self.is_unknown:
            return names
        return (names & self.names) | {name for name in names if self.patterns and self._fits(name)}

    def _fits(self, name: TableName) -> bool:
        return any(
            _matches(database, name.database) and _matches(table, name.table) for database, table in self.patterns
        )


def split(definition: str) -> list[str]:
    """The words of a definition; a dictionary's query, which is a text in it, included."""
    tokens: list[str] = []
    for token in _TOKEN.findall(definition):
        if token.startswith("'") and re.search(r"\bSELECT\b", token, re.IGNORECASE):
            tokens += split(bare(token))
        else:
            tokens.append(token)
    return tokens


def bare(word: str) -> str:
    """A word without its quotes."""
    return re.sub(r"\\(.)", r"\1", word[1:-1]) if word.startswith(("`", "'")) else word


@lru_cache(maxsize=4096)
def read_definition(database: str, text: str, *, is_dictionary: bool = False) -> Reading:
    """What a definition reads.

    Args:
        database: where the object is; names without a database are looked for there, and in `default`.
        text: the query of a view, the engine of a table, or the whole definition of a dictionary.
        is_dictionary: its query is as somebody wrote it, so that any word may be a table.
    """
    tokens = split(text)
    if is_dictionary and "SOURCE" in tokens:
        tokens = tokens[tokens.index("SOURCE") :]
    words = [bare(token) for token in tokens]
    named = {word for before, word in pairwise(words) if before == "DB"} if is_dictionary else set()
    databases = named or {database, "default"}
    names = set(_list_pairs(tokens, words))
    for position, word in enumerate(words):
        before = tokens[position - 1].upper() if position else ""
        looked_up = before == "(" and position > 1 and _LOOKS_UP.fullmatch(words[position - 2]) is not None
        if (is_dictionary and before != ".") or looked_up or before in _BEFORE_TABLE:
            names |= {TableName(place, word) for place in databases}
        if tokens[position].startswith("'") and "." in word:
            names.add(TableName(*word.split(".", 1)))
    is_unknown = is_dictionary and words[2:3] == ["CLICKHOUSE"] and "NAME" in tokens
    return Reading(frozenset(names), tuple(_list_patterns(tokens, words, database)), is_unknown)


def _list_pairs(tokens: list[str], words: list[str]) -> Iterator[TableName]:
    """Names with their databases: `a.b`, and the arguments 'a', 'b' of Buffer, Distributed, cluster() and their like."""
    for position in range(len(tokens) - 2):
        first, between, second = tokens[position : position + 3]
        if between == "." or (between == "," and first.startswith("'") and second.startswith("'")):
            yield TableName(words[position], words[position + 2])


def _list_patterns(tokens: list[str], words: list[str], database: str) -> Iterator[tuple[str, str]]:
    for position, token in enumerate(tokens[:-1]):
        if token.lower() != "merge" or tokens[position + 1] != "(":
            continue
        closing = _find_closing(tokens, position + 1)
        inside = range(position + 2, closing)
        texts = [words[index] for index in inside if tokens[index].startswith("'")]
        if not texts:
            continue
        is_pattern = any(tokens[index].upper() == "REGEXP" for index in inside)
        named = texts[0] if len(texts) > 1 else database
        yield named if is_pattern else f"^{re.escape(named)}$", texts[-1]


def _find_closing(tokens: list[str], opening: int) -> int:
    depth = 0
    for position in range(opening, len(tokens)):
        depth += (tokens[position] == "(") - (tokens[position] == ")")
        if depth == 0:
            return position
    return len(tokens)


def _matches(pattern: str, name: str) -> bool:
    try:
        return re.search(pattern, name) is not None
    except re.error:
        # The engine knows expressions that Python does not; what cannot be told is taken to fit.
        return True


def find_target(create_query: str) -> TableName | None:
    """The table that a materialized view writes `TO`, None where it has one of its own."""
    tokens = _read_head(create_query)
    if "TO" not in tokens:
        return None
    database, _, table, *_ = tokens[tokens.index("TO") + 1 :]
    return TableName(bare(database), bare(table))


def appends(create_query: str) -> bool:
    """True where a refreshable view adds to its rows instead of replacing them."""
    head = _read_head(create_query)
    # A name that is called so has a dot beside it, or quotes.
    return any(
        t == "APPEND" and "." not in (*head[max(i - 1, 0) : i], *head[i + 1 : i + 2]) for i, t in enumerate(head)
    )


def _read_head(create_query: str) -> list[str]:
    """The words between a view's name and its columns."""
    tokens = _TOKEN.findall(create_query)
    start = tokens.index("VIEW") + 4 if "VIEW" in tokens[:4] else 0
    end = next((i for i, token in enumerate(tokens) if i >= start and token in ("(", "ENGINE", "AS")), len(tokens))
    return tokens[start:end]
