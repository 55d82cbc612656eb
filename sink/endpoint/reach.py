"""What reaches beyond the data folder although the engine's grants do not keep it from that.

The engine's users file keeps statements from files, addresses and other databases (`config/engine/users.xml`). In process it
does not look at the following (seen with chDB 4.4); whoever has the grant in the list may do it here too.

.. no_pii: statements; values in them are passed over.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from itertools import pairwise

from sink.endpoint.statements import Token
from sink.errors import ProtocolError

GRANTS = (
    "READ ON FILE",
    "WRITE ON FILE",
    "READ ON URL",
    "READ ON REMOTE",
    "READ ON MYSQL",
    "READ ON POSTGRES",
    "READ ON MONGO",
    "READ ON REDIS",
    "READ ON ODBC",
)
"""What the engine is asked whether the users file grants it."""

_NOBODY = "more than any grant gives"

# Functions and engines by what they need. `Python` reads objects of this process, `Executable` runs programs.
_CALLS = {
    "file": "READ ON FILE",
    "python": _NOBODY,
    "executable": _NOBODY,
    "executablepool": _NOBODY,
    # A table's own disk: the engine makes its folder, or calls its host, before it looks at what is allowed.
    "disk": "WRITE ON FILE",
}

_SOURCES_OF_DICTIONARIES = {
    "FILE": "READ ON FILE",
    "HTTP": "READ ON URL",
    "MYSQL": "READ ON MYSQL",
    "POSTGRESQL": "READ ON POSTGRES",
    "MONGODB": "READ ON MONGO",
    "REDIS": "READ ON REDIS",
    "ODBC": "READ ON ODBC",
}
# What stands between these and a bracket is a name, and no call; of a table function after TABLE the engine sees to it.
_BEFORE_A_NAME = frozenset({".", "INTO", "TABLE", "EXISTS", "VIEW", "TO", "INDEX", "PROJECTION", "WITH", "DICTIONARY"})
_OWN_HOSTS = frozenset({"'localhost'", "'127.0.0.1'", "'::1'"})


def require_within_reach(tokens: Sequence[Token], granted: Collection[str]) -> None:
    """Refuse a statement that reaches further than the engine's user may.

    Args:
        tokens: the statement, in the engine's form.
        granted: those of `GRANTS` that the user has.

    Raises:
        ProtocolError: it does.
    """
    words = [token.text for token in tokens]
    for what, grant in _find_needs(words):
        if grant not in granted:
            raise ProtocolError(
                "ACCESS_DENIED", f"Not enough privileges. {what} needs {grant}; see ASPECTS_CLICKHOUSE_USERS_FILE."
            )


def _find_needs(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    for number, word in enumerate(words):
        following = words[number + 1 : number + 4]
        if word == "INTO" and following[:1] == ["OUTFILE"]:
            yield "INTO OUTFILE", "WRITE ON FILE"
        elif following[:1] != ["("] or words[max(number - 1, 0)] in _BEFORE_A_NAME:
            continue
        elif word.strip("`").lower() in _CALLS:
            yield f"{word}()", _CALLS[word.strip("`").lower()]
        elif word == "EmbeddedRocksDB" and "," in _list_arguments(words[number + 2 :]):
            yield "EmbeddedRocksDB with a folder", "WRITE ON FILE"
        elif word == "SOURCE" and following[2:] == ["("]:
            yield from _find_needs_of_source(following[1].upper(), _list_arguments(words[number + 4 :]))


def _find_needs_of_source(name: str, arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    what = f"A dictionary with the source {name}"
    if name == "CLICKHOUSE":
        hosts = [value for key, value in pairwise(arguments) if key == "HOST"]
        if not set(hosts) <= _OWN_HOSTS:
            yield f"{what} of another host", "READ ON REMOTE"
    elif name != "NULL":
        yield what, _SOURCES_OF_DICTIONARIES.get(name, _NOBODY)


def _list_arguments(words: Sequence[str]) -> list[str]:
    """Up to the bracket that ends them."""
    depth, found = 0, []
    for word in words:
        depth += (word == "(") - (word == ")")
        if depth < 0:
            break
        found.append(word)
    return found
