"""What the LMS says that users are called, and whose a name is, as SQL and as answers.

.. pii: User names and e-mail addresses of the users being retired, in memory only.
.. pii_types: id, username, email_address
.. pii_retirement: consumer_api
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Select, func, select

from sink.lms.objects import EXTERNAL_IDS, STATUSES, USERS
from sink.lms.values import read_original, read_uuid

# How the LMS writes who is retired already, unless its settings say otherwise; the status row says it in any case.
_RETIRED_PREFIX = "retired__user_"


@dataclass(frozen=True)
class Identity:
    """What a user is called, and was before the retirement. Kept in memory only."""

    usernames: frozenset[str] = field(repr=False)
    emails: frozenset[str] = field(repr=False)
    is_complete: bool
    """True where the account is as it was: what it lacks the user never had."""
    external_ids: frozenset[str] | None = field(default=None, repr=False)
    """The anonymous ids, which no retirement takes away in the LMS; None where it has no table of them."""


class Owned(NamedTuple):
    """Somebody in the LMS, and one of the names that they have or had."""

    user_id: int
    username: str
    email: str


def select_live() -> Select[Any]:
    """Every account, as (id, user name, address)."""
    return select(USERS.c.id, USERS.c.username, USERS.c.email)


def select_active() -> Select[Any]:
    """Every account that is active, as (id, user name)."""
    return select(USERS.c.id, USERS.c.username).where(USERS.c.is_active)


def select_statuses() -> Select[Any]:
    """Every status row, as (user id, user name and address before the retirement, and since)."""
    names = (STATUSES.c.original_username, STATUSES.c.original_email)
    return select(STATUSES.c.user_id, *names, STATUSES.c.retired_username, STATUSES.c.retired_email)


def select_external_ids() -> Select[Any]:
    """Every anonymous id, as (user id, anonymous id)."""
    return select(EXTERNAL_IDS.c.user_id, EXTERNAL_IDS.c.external_user_id)


def select_shared(column: ColumnElement[str], values: Sequence[str]) -> Select[Any]:
    """Those of `values` that several status rows have in `column`."""
    return (
        select(column).where(column.in_(values)).group_by(column).having(func.count(STATUSES.c.user_id.distinct()) > 1)
    )


def is_one_of(column: ColumnElement[str], values: Sequence[str], backend: str, *, ignores_case: bool) -> Any:
    """The condition that a column holds one of `values`."""
    # MySQL compares the LMS's texts without case anyway, and would not use the index of a function's result.
    if ignores_case and backend not in ("mysql", "mariadb"):
        return func.lower(column).in_([value.lower() for value in values])
    return column.in_(values)


def join_identities(
    live: Iterable[Sequence[Any]],
    statuses: Iterable[Sequence[Any]],
    shared: Iterable[str],
    external_ids: Iterable[Sequence[Any]] | None,
) -> dict[int, Identity]:
    """Who users are, from their accounts, their status rows and their anonymous ids.

    A value that several status rows share is no name: some installations write one word into all of them.
    """
    placeholders = {"", *(value.lower() for value in shared)}
    names: dict[int, tuple[set[str], set[str]]] = {}
    replaced: dict[int, set[str]] = {}
    for user_id, *texts in statuses:
        username, email, *since = map(read_original, texts)
        replaced[int(user_id)] = set(since)
        names[int(user_id)] = ({username}, {email})
    complete = set()
    for user_id, *texts in live:
        user_id = int(user_id)
        known = names.setdefault(user_id, (set(), set()))
        values = [read_original(text) for text in texts]
        is_retired = [v.startswith(_RETIRED_PREFIX) or (v != "" and v in replaced.get(user_id, ())) for v in values]
        if not any(is_retired):
            complete.add(user_id)
        for value, is_replaced, kind in zip(values, is_retired, known, strict=True):
            if not is_replaced:
                kind.add(value)
    external: dict[int, set[str]] = {}
    for user_id, text in external_ids or ():
        external.setdefault(int(user_id), set()).add(read_uuid(text))
    found = {}
    for user_id, kinds in names.items():
        usernames, emails = (frozenset(v for v in kind if v.lower() not in placeholders) for kind in kinds)
        ids = None if external_ids is None else frozenset(external.get(user_id, set()) - {""})
        if usernames or emails or ids or user_id in complete:
            found[user_id] = Identity(usernames, emails, user_id in complete, ids)
    return found
