"""What the databases of an installation are called, as `init` has noted it: a setting that names another one is noticed.

.. no_pii: names of databases.
"""

from __future__ import annotations

from typing import NamedTuple

from sink.clickhouse.client import ClickHouse
from sink.clickhouse.driver_errors import UNKNOWN_TABLE
from sink.errors import DatabaseError, DatabaseMissingError

# The names are in it: where it is called otherwise, there is no store.
_LEDGER = "pii_ledger"


class Moved(NamedTuple):
    """A database that the settings call otherwise than `init` has noted."""

    logical: str
    """As the map calls it."""
    noted: str
    configured: str


def find_moved(client: ClickHouse) -> list[Moved]:
    """The databases that the settings call otherwise than `init` did; none where it has noted no names yet.

    Raises:
        DatabaseError: it cannot be read.
    """
    noted = _read_noted(client) or {}
    return [
        Moved(logical, noted[logical], configured)
        for logical, configured in sorted(client.databases.items())
        if noted.get(logical, configured) != configured
    ]


def note_names(client: ClickHouse) -> None:
    """Note what the settings call the databases from now on; nothing where that is noted already, or there is no place for it.

    Raises:
        DatabaseError: it cannot be stored.
    """
    noted = _read_noted(client)
    if noted is None:
        return
    new = [
        (logical, actual)
        for logical, actual in sorted(client.databases.items())
        if logical != _LEDGER and noted.get(logical) != actual
    ]
    client.insert(client.table("pii_ledger.database_names"), ["logical", "actual"], new)


def _read_noted(client: ClickHouse) -> dict[str, str] | None:
    """The latest name of each; None where `init` is older than the table."""
    try:
        return dict(
            client.rows("SELECT logical, argMax(actual, noted_at) FROM $pii_ledger.database_names GROUP BY logical")
        )
    except DatabaseError as error:
        if error.code == UNKNOWN_TABLE or isinstance(error, DatabaseMissingError):
            return None
        raise
