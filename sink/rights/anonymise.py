"""`anonymise`: a copy of production made fit for development, with invented people in the places of all who were in it.

1. What people are called, and their ids, are written down in helper tables of the copy, with a key of this run.
2. Each table of the map is filled anew beside itself, held against itself, and put into its own place at once.
3. Every text of the copy is compared with what people were called.
4. The helper tables are dropped, the key first: nothing leads back any more.

Whatever interrupts it: the next run goes on, with the same key, at the first table that has not been put into its place.

.. no_pii: names of databases, tables and columns, and counts.
"""

from __future__ import annotations

from dataclasses import dataclass

from sink.clickhouse.row_policies import require_no_row_policy
from sink.errors import MapError, RefusedError
from sink.ledger.entries import Action
from sink.ledger.leases import hold
from sink.progress import track
from sink.rights.dev_copy.check import find_left
from sink.rights.dev_copy.columns import Fate
from sink.rights.dev_copy.inventing import Inventing
from sink.rights.dev_copy.rebuild import drop_leftover, rebuild
from sink.rights.dev_copy.targets import Copy, list_numbers, list_said, require_room
from sink.rights.dev_copy.texts import Rewriter
from sink.store import Store

_ADVICE = "One copy is anonymised at a time; run the command again when that is done."


@dataclass(frozen=True)
class CopyLine:
    """What becomes of one table of a copy."""

    table: str
    rows: int
    fates: dict[str, str]
    """Column -> what becomes of it."""


@dataclass(frozen=True)
class Anonymised:
    """What a run has done."""

    rows: dict[str, int]
    """Rows by table."""
    left: list[str]
    """What holds something of the original all the same, or could not be looked at."""


def require_allowed(allowed: bool) -> None:
    """Refuse where nobody has allowed it.

    Raises:
        RefusedError: the setting is off.
    """
    if not allowed:
        raise RefusedError(
            "Anonymising a copy is off, since it changes every row of the databases that it is given. Set "
            "ASPECTS_ALLOW_ANONYMISE=true where copies are made, and nowhere else."
        )


def describe(copy: Copy) -> list[CopyLine]:
    """The plan for people."""
    return [
        CopyLine(str(copied.name), copied.table.rows, {column.name: str(column.fate) for column in copied.columns})
        for copied in copy.tables
    ]


def list_kept(copy: Copy) -> list[str]:
    """Columns that the map keeps as they are."""
    return [
        f"{copied.name}.{column.name}"
        for copied in copy.tables
        for column in copied.columns
        if column.fate is Fate.KEPT
    ]


def anonymise(store: Store, copy: Copy, *, allowed: bool, actor: str | None = None) -> Anonymised:
    """Carry it out, compare, and record it. With anything left the helper tables stay, so that the next run can compare again.

    Raises:
        RefusedError: the setting is off, or a run that was interrupted was about other databases.
        MapError: a column has no room for invented ids; nothing was changed.
        ErasureError: a table could not be put into its place; those before it are done, and a run goes on from there.
        BusyError: another copy is being anonymised.
        DatabaseError: the engine refused; the same holds.
    """
    require_allowed(allowed)
    client = store.client
    with hold(client, "anonymising", advice=_ADVICE):
        require_no_row_policy(client, [copied.name for copied in copy.tables])
        inventing = Inventing(client, copy.home).begin(copy.databases)
        inventing.drop_interrupted()
        rows = {}
        todo = []
        for copied in copy.tables:
            drop_leftover(client, copied)
            if copied.is_done(inventing.run):
                rows[str(copied.name)] = copied.table.rows
            else:
                todo.append(copied)
        largest = inventing.learn(list_said(store, todo), list_numbers(store, todo))
        try:
            require_room(todo, largest)
        except MapError:
            if not rows:
                # What people are called is not kept for a run that has not begun.
                inventing.end()
            raise
        rewriter = Rewriter(inventing, ids_are_numbers=store.pii_map.subject.type == "integer")
        for copied in track("anonymising", todo, "tables"):
            rows[str(copied.name)] = rebuild(copied, inventing, rewriter)
        left = find_left(store, copy, inventing)
        if not left:
            inventing.end()
            store.ledger.record_event(Action.ANONYMISED, {"databases": copy.databases, "rows": rows}, actor)
    return Anonymised(rows, left)
