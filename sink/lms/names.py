"""What everybody in the LMS is called, column by column: for a search, which folds case and accents as no database does.

.. pii: Names, user names, e-mail addresses and anonymous ids of all users, a page at a time, in memory only.
.. pii_types: id, name, username, email_address
.. pii_retirement: consumer_api
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from sqlalchemy import BigInteger, ColumnElement, Select, TableClause, bindparam, select

from sink.lms.objects import EXTERNAL_IDS, PROFILES, STATUSES, USERS
from sink.lms.schema import Columns
from sink.lms.values import Page, read_original, read_uuid

_BELOW_ALL_IDS = -1
_PAGE_ROWS = 50_000
Fetch = Callable[..., Page]


class LmsName(NamedTuple):
    """Something that a user is called, or was before a retirement, and where the LMS says so."""

    user_id: int
    place: str
    text: str

    def __repr__(self) -> str:
        return f"LmsName({self.user_id}, {self.place})"


class _NameTable(NamedTuple):
    """Columns of a table, which is read in the order of one that no two rows share."""

    table: TableClause
    order: ColumnElement[Any]
    user_id: ColumnElement[Any]
    columns: Sequence[ColumnElement[Any]]


_NEEDED = (
    _NameTable(USERS, USERS.c.id, USERS.c.id, (USERS.c.username, USERS.c.email)),
    _NameTable(PROFILES, PROFILES.c.id, PROFILES.c.user_id, (PROFILES.c.name,)),
)
# Not every LMS has these.
_OPTIONAL = (
    _NameTable(EXTERNAL_IDS, EXTERNAL_IDS.c.id, EXTERNAL_IDS.c.user_id, (EXTERNAL_IDS.c.external_user_id,)),
    _NameTable(
        STATUSES, STATUSES.c.user_id, STATUSES.c.user_id, (STATUSES.c.original_username, STATUSES.c.original_email)
    ),
)


def _names_of(source: _NameTable) -> set[str]:
    return {column.name for column in (source.order, source.user_id, *source.columns)}


NEEDED = {source.table.name: sorted(_names_of(source)) for source in _NEEDED}
"""Tables and columns without which nothing is found."""


def read_names(fetch: Fetch, columns: Columns) -> Iterator[LmsName]:
    """Everything that users are called: a page is read when it is needed.

    Args:
        fetch: runs a statement with values.
        columns: which tables and columns there are.
    """
    there = [source for source in _OPTIONAL if _names_of(source) <= set(columns.get(source.table.name, ()))]
    for source in (*_NEEDED, *there):
        yield from _read_source(fetch, source)


def _read_source(fetch: Fetch, source: _NameTable) -> Iterator[LmsName]:
    statement: Select[Any] = (
        select(source.order, source.user_id, *source.columns)
        .where(source.order > bindparam("low", type_=BigInteger))
        .order_by(source.order)
        .limit(_PAGE_ROWS)
    )
    read = read_uuid if source.table is EXTERNAL_IDS else read_original
    places = [f"{source.table.name}.{column.name}" for column in source.columns]
    low = _BELOW_ALL_IDS
    while page := fetch(statement, low=low):
        for _, user_id, *texts in page:
            for place, text in zip(places, map(read, texts), strict=True):
                if text:
                    yield LmsName(int(user_id), place, text)
        low = int(page[-1][0])
