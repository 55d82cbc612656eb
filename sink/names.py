"""Names of databases, tables and columns: validated and quoted here and nowhere else.

Values never pass through this module; they are bound by the client.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

HELPER_PREFIX = "erasing_"
"""What the names of tables begin with that stand in the ledger's database while an erasure is under way."""

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
# What stands between names (a dot), or would be taken for something else in a statement or on the way to it.
_NAME = re.compile(r"(?! )[^\x00-\x1f\x7f.`'\"\\${}]{1,255}(?<! )")


LITERAL = "="
"""What stands before the name of a database in the map that is called so, whatever the settings mean by the name."""


def find_database(databases: Mapping[str, str], name: str) -> str:
    """The database that a name of the map means.

    Args:
        databases: the configured ones, by the names that the map uses.
        name: such as `xapi`, which may be configured to be another one, or `=xapi`, which is the one that is called so.
    """
    return name.removeprefix(LITERAL) if name.startswith(LITERAL) else databases.get(name, name)


def list_former_databases(databases: Mapping[str, str]) -> set[str]:
    """The names of the map that mean another database here, while no configured one is called so.

    What is called so may be there all the same: the one of before, or the default of somebody else.
    """
    return {name for name in databases if name not in databases.values()}


def check_identifier(name: str) -> str:
    """Return `name` if it can stand in SQL as a name.

    Raises:
        ValueError: it has other characters than letters, digits and underscores, or is too long.
    """
    if not _IDENTIFIER.fullmatch(name):
        raise ValueError("a name has letters, digits and underscores only, and does not begin with a digit")
    return name


def check_name(name: str) -> str:
    """Return `name` if it can name a table or column that somebody else made, such as `e-mail` or `Last Name`.

    Raises:
        ValueError: it has dots, quotes, backslashes, braces, dollar signs or control characters, or is too long.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(
            "a name has no dots, quotes, backslashes, braces, dollar signs or control characters, and no blank at its ends"
        )
    return name


def quote(name: str) -> str:
    """Quote one name for ClickHouse: `` `name` ``.

    Names that the server reports (such as `.inner_id.…` of a materialized view) pass too, escaped.
    """
    if "\x00" in name or not name:
        raise ValueError("a name cannot be empty or hold a zero byte")
    return "`" + name.replace("\\", "\\\\").replace("`", "\\`") + "`"


class TableName(NamedTuple):
    """A table, view or dictionary."""

    database: str
    table: str

    @property
    def sql(self) -> str:
        """The name as it stands in a statement."""
        return f"{quote(self.database)}.{quote(self.table)}"

    def __str__(self) -> str:
        return f"{self.database}.{self.table}"


def quote_columns(columns: list[str] | tuple[str, ...]) -> str:
    """A comma separated list of quoted names."""
    return ", ".join(quote(column) for column in columns)


def quote_text(text: str) -> str:
    """A text of ours, such as a comment that names a table, as a literal; what comes from rows is bound instead."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
