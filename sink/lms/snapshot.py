"""The LMS database as it was at one moment.

A table is read page by page, each page beginning after the last user of the one before
(docs/decisions/0005-lms-reading.md says why not with a server-side cursor), so memory holds one page, whatever
the number of users, and several readings of one snapshot may be under way at once.

Text comes as bytes wherever the driver would abort on bytes that are no UTF-8, and is decoded in `sink.lms.values`, row
by row: a bad row costs itself, not the copy.

.. pii: Profiles, anonymous ids and roles on their way from the LMS, a page at a time, in memory only.
.. pii_types: id, name, username, email_address, location, phone_number, birth_date, gender, biography, image, other
.. pii_retirement: consumer_api
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby, islice
from operator import itemgetter
from typing import Any, TypeVar

from sqlalchemy import CompoundSelect, Connection, Select, and_, func, or_, select

from sink.lms.authz import COLUMNS as RULE_COLUMNS
from sink.lms.authz import RULES, CourseRole, read_rule, select_rules
from sink.lms.driver_errors import DriverErrors
from sink.lms.names import NEEDED, LmsName, read_names
from sink.lms.object_queries import ObjectQueries
from sink.lms.objects import COURSE_ROLES, EXTERNAL_IDS, OBJECTS, PROFILES, REQUESTS, RETIREMENT, STATUSES, USERS
from sink.lms.passed import PassedQueries
from sink.lms.retirements import CURRENT_STATE, IS_ERASED, IS_WAITING, select_requests
from sink.lms.schema import Columns, require_columns
from sink.lms.users import (
    Identity,
    Owned,
    is_one_of,
    join_identities,
    select_active,
    select_external_ids,
    select_live,
    select_shared,
    select_statuses,
)
from sink.lms.values import Batch, Page, convert_page, make_converter, read_former_emails, read_original

_BELOW_ALL_IDS = -1
_META = "meta"
T = TypeVar("T")
_MAX_VALUES_PER_STATEMENT = 5_000
_PAGE_USERS = 50_000


class Snapshot:
    """The LMS database as it was at one moment. Not safe for use by several threads at once."""

    def __init__(self, connection: Connection, columns: Columns, errors: DriverErrors) -> None:
        """Made by `LmsDatabase.snapshot`."""
        self._connection = connection
        self._columns = columns
        self._errors = errors
        self._object_queries = ObjectQueries(errors.backend, columns)
        self._all_rules: list[tuple[int, CourseRole]] | None = None

    @property
    def has_rules(self) -> bool:
        """Whether there is a table of openedx-authz's rules that we may read; LMSs before Verawood have none."""
        return RULES.name in self._columns

    def passed_queries(self) -> PassedQueries:
        """What an engine asks that reads this database itself; it does so in transactions of its own."""
        return PassedQueries(self._connection, self._object_queries, self._errors)

    def count_rows(self, object_name: str, user_ids: Sequence[int] | None = None) -> int:
        """How many rows `rows` will give, good and bad; more where somebody has a role in both ways of the LMS."""
        total = 0
        for ids in _split_ids(user_ids):
            counted = self._object_queries.select_rows(object_name, (), ids).order_by(None).subquery()
            total += int(self._fetch(select(func.count()).select_from(counted), low=_BELOW_ALL_IDS)[0][0])
            total += len(self._find_rules(object_name, ids))
        return total

    def user_ids(self, object_name: str) -> Iterator[list[int]]:
        """The ids of the users who have a row in the object, ascending, in lists of limited length."""
        users = self._object_queries.select_rows(object_name, (), None).order_by(None).subquery().c.subject_id
        pages = self._page_ids(select(users).distinct().order_by(users))
        in_rules = [user_id for user_id, _ in self._find_rules(object_name, None)]
        if not in_rules:
            yield from pages
            return
        merged = heapq.merge((user_id for page in pages for user_id in page), in_rules)
        ids = (user_id for user_id, _ in groupby(merged))
        while some := list(islice(ids, _PAGE_USERS)):
            yield some

    def rows(
        self, object_name: str, columns: Sequence[str], batch_size: int, user_ids: Sequence[int] | None = None
    ) -> Iterator[Batch]:
        """Read an object.

        Args:
            object_name: a name from `OBJECTS`.
            columns: which of its columns, in the order in which the rows have them.
            batch_size: rows in a batch; one user with more than that makes a longer one.
            user_ids: only these users; all if None.

        Raises:
            LmsUnreachableError: the connection broke; the snapshot is lost with it.
            LmsSchemaError: something is missing that `LmsDatabase.check_schema` would have named.
        """
        converters = [make_converter(name, OBJECTS[object_name].columns[name]) for name in columns]
        for ids in _split_ids(user_ids):
            for page in self._read_pages(object_name, columns, batch_size, ids):
                yield convert_page(page, converters)

    def retired_user_ids(self) -> Iterator[list[int]]:
        """Users whose retirement the LMS will not take back, ascending, in lists of limited length.

        Of those with a retirement request or a retirement status, these are:

        - who has no status any more: it was cleaned up after the retirement (a request that is cancelled goes itself);
        - whose username is the retired one already, whatever the status says: the LMS has erased the profile;
        - whose status is any other than PENDING, ERRORED at the very first step, or ABORTED. The LMS cancels from
          PENDING only, so COMPLETE and every working state count, and so does ERRORED: the pipeline had begun, and an
          operator mends it and goes on.

        Not retired is who is ABORTED with the username intact: an operator stopped it before the LMS erased anything,
        and may give the account back.

        Raises:
            LmsSchemaError: a table or column is missing.
        """
        self._require_retirement_tables()
        status = STATUSES.c.user_id
        begun = and_(~IS_WAITING, CURRENT_STATE != "ABORTED")
        return self._page_ids(select_requests().where(or_(status.is_(None), IS_ERASED, begun)))

    def known_user_ids(self, user_ids: Sequence[int]) -> set[int]:
        """Those of `user_ids` who have an account, or had one that the LMS has retired or was asked to.

        Raises:
            LmsSchemaError: the table of accounts is missing.
        """
        require_columns(self._errors.place, self._columns, {USERS.name: ("id",)})
        columns = [
            USERS.c.id,
            *(t.c.user_id for t in (REQUESTS, STATUSES) if "user_id" in self._columns.get(t.name, ())),
        ]
        return {
            int(row[0])
            for ids in _split(sorted(_storable(user_ids)))
            for column in columns
            for row in self._fetch(select(column).where(column.in_(ids)))
        }

    def active_user_ids(self, user_ids: Sequence[int]) -> set[int]:
        """Those of `user_ids` whose account is there and active: of others the LMS honours no role."""
        return {
            int(user_id)
            for ids in _split(sorted(_storable(user_ids)))
            for user_id, _ in self._fetch(select_active().where(USERS.c.id.in_(ids)))
        }

    def identities(self, user_ids: Sequence[int]) -> dict[int, Identity]:
        """Who users are, and were before their retirement, as far as the LMS still says. Keep it in memory only.

        Raises:
            LmsSchemaError: a table or column is missing.
        """
        self._require_retirement_tables()
        found: dict[int, Identity] = {}
        for ids in _split(sorted(_storable(user_ids))):
            live = self._fetch(select_live().where(USERS.c.id.in_(ids)))
            statuses = self._fetch(select_statuses().where(STATUSES.c.user_id.in_(ids)))
            shared: list[str] = []
            for position, name in enumerate((STATUSES.c.original_username, STATUSES.c.original_email), start=1):
                originals = {read_original(row[position]) for row in statuses} - {""}
                for values in _split(sorted(originals)):
                    shared += [read_original(row[0]) for row in self._fetch(select_shared(name, values))]
            found |= join_identities(live, statuses, shared, self._read_external_ids(ids))
        former = self._find_former_emails(list(found))
        return {
            user_id: replace(identity, emails=identity.emails | former[user_id]) if user_id in former else identity
            for user_id, identity in found.items()
        }

    def _find_former_emails(self, user_ids: Sequence[int]) -> dict[int, frozenset[str]]:
        """The addresses that users had before, by user; one that somebody else has by now is that user's.

        The LMS keeps them in the profile's `meta` until it retires the user.
        """
        if not {"id", "user_id", _META} <= set(self._columns.get(PROFILES.name, ())):
            return {}
        former = {
            int(user_id): addresses
            for ids in _split(sorted(user_ids))
            for page in self._read_tables("user_profile", (_META,), _PAGE_USERS, ids)
            for user_id, _, text in page
            if (addresses := read_former_emails(text))
        }
        if not former:
            return {}
        others: dict[str, set[int]] = {}
        for owned in self.owners([], {address for addresses in former.values() for address in addresses}):
            others.setdefault(owned.email.lower(), set()).add(owned.user_id)
        return {
            user_id: frozenset(address for address in addresses if others.get(address.lower(), {user_id}) <= {user_id})
            for user_id, addresses in former.items()
        }

    def _read_external_ids(self, user_ids: Sequence[int]) -> Page | None:
        """The anonymous ids of users; None where the LMS has no table of them."""
        if not {"user_id", "external_user_id"} <= set(self._columns.get(EXTERNAL_IDS.name, ())):
            return None
        return self._fetch(select_external_ids().where(EXTERNAL_IDS.c.user_id.in_(user_ids)))

    def owners(self, usernames: Collection[str], emails: Collection[str]) -> Iterator[Owned]:
        """Whoever has, or had before a retirement, one of these user names, or one of these addresses in any case.

        Raises:
            LmsSchemaError: a table or column is missing.
        """
        self._require_retirement_tables()
        status_names = (STATUSES.c.original_username, STATUSES.c.original_email)
        for statement, username, email in (
            (select_live(), USERS.c.username, USERS.c.email),
            (select_statuses(), *status_names),
        ):
            for name, wanted, ignores_case in ((username, usernames, False), (email, emails, True)):
                for values in _split(sorted(wanted)):
                    condition = is_one_of(name, values, self._errors.backend, ignores_case=ignores_case)
                    for row in self._fetch(statement.where(condition)):
                        yield Owned(int(row[0]), read_original(row[1]), read_original(row[2]))

    def names(self) -> Iterator[LmsName]:
        """What everybody is called, or was before a retirement, as far as the LMS still says.

        Raises:
            LmsSchemaError: a table or column is missing.
        """
        require_columns(self._errors.place, self._columns, NEEDED)
        return read_names(self._fetch, self._columns)

    def _require_retirement_tables(self) -> None:
        require_columns(self._errors.place, self._columns, RETIREMENT)

    def _fetch(self, statement: Select[Any] | CompoundSelect[Any], **values: Any) -> Page:
        page: Page = self._errors.run(lambda: self._connection.execute(statement, values).all())
        return page

    def _page_ids(self, statement: Select[Any]) -> Iterator[list[int]]:
        """Ids from a statement whose only column is an ascending id, the smallest above the parameter `low`."""
        low = _BELOW_ALL_IDS
        while ids := [int(row[0]) for row in self._fetch(statement.limit(_PAGE_USERS), low=low)]:
            yield ids
            low = ids[-1]

    def _read_pages(
        self, object_name: str, columns: Sequence[str], size: int, ids: Sequence[int] | None
    ) -> Iterator[Page]:
        """Pages of whole users."""
        pages = self._read_tables(object_name, columns, size, ids)
        rules = self._find_rules(object_name, ids)
        if not rules:
            yield from pages
            return
        added = [(user_id, None, *(getattr(role, name, user_id) for name in columns)) for user_id, role in rules]
        page: list[Sequence[Any]] = []
        merged = heapq.merge((row for some in pages for row in some), added, key=itemgetter(0))
        for _, rows in groupby(merged, key=itemgetter(0)):
            # Somebody may have one role in both ways of the LMS; what was read first has a key to name it by.
            of_user = _drop_repeated(rows)
            if page and len(page) + len(of_user) > size:
                yield page
                page = []
            page += of_user
        if page:
            yield page

    def _find_rules(self, object_name: str, ids: Sequence[int] | None) -> list[tuple[int, CourseRole]]:
        """Course roles that openedx-authz keeps, by user, of accounts that are active.

        Rules have user names. They are looked up from here, and not by a join: on MySQL the two columns may have different
        collations, which do not join.
        """
        if object_name != "course_access" or not self.has_rules:
            return []
        require_columns(self._errors.place, self._columns, {RULES.name: RULE_COLUMNS})
        if ids is not None:
            return self._match_rules(self._fetch(select_active().where(USERS.c.id.in_(ids))))
        if self._all_rules is None:
            roles = self._read_rules(None)
            users = [
                user
                for names in _split(sorted({role.username for role in roles}))
                for user in self._fetch(select_active().where(USERS.c.username.in_(names)))
            ]
            self._all_rules = _join_rules(users, roles)
        return self._all_rules

    def _match_rules(self, users: Page) -> list[tuple[int, CourseRole]]:
        names = sorted({read_original(name) for _, name in users} - {""})
        return _join_rules(users, [role for some in _split(names) for role in self._read_rules(some)])

    def _read_rules(self, usernames: Sequence[str] | None) -> list[CourseRole]:
        found = map(read_rule, self._fetch(select_rules(COURSE_ROLES, usernames)))
        return [role for role in found if role is not None]

    def _read_tables(
        self, object_name: str, columns: Sequence[str], size: int, ids: Sequence[int] | None
    ) -> Iterator[Page]:
        """Pages of whole users, from the LMS's own tables."""
        statement = self._object_queries.select_rows(object_name, columns, ids).limit(size + 1)
        low = _BELOW_ALL_IDS
        while page := self._fetch(statement, low=low):
            if len(page) <= size:
                yield page
                return
            # The last user may have rows beyond the page: they are left to the next one.
            last = page[-1][0]
            whole = [row for row in page if row[0] != last]
            page = whole or self._fetch(self._object_queries.select_rows(object_name, columns, [last]), low=low)
            yield page
            low = page[-1][0]


def _join_rules(users: Page, roles: Sequence[CourseRole]) -> list[tuple[int, CourseRole]]:
    """Roles with the ids of those who have them, each once, by id; names are the same to the letter, as the LMS has it."""
    ids = {read_original(name): int(user_id) for user_id, name in users}
    return sorted({(ids[role.username], role) for role in roles if role.username in ids})


def _drop_repeated(rows: Iterable[Sequence[Any]]) -> list[Sequence[Any]]:
    """Of rows that say the same, the first; keys do not count, and drivers give texts of tables as bytes."""
    found: dict[tuple[bytes, ...], Sequence[Any]] = {}
    for row in rows:
        found.setdefault(tuple(v if isinstance(v, bytes) else str(v).encode() for v in row[2:]), row)
    return list(found.values())


def _split_ids(user_ids: Sequence[int] | None) -> Iterator[list[int] | None]:
    """Ids in ascending lists that a statement can take, or once None for everybody."""
    if user_ids is None:
        yield None
        return
    yield from _split(sorted(_storable(user_ids)))


def _storable(user_ids: Iterable[int]) -> set[int]:
    """What no column of a database can hold, its driver does not take either."""
    return {user_id for user_id in user_ids if user_id.bit_length() < 64}


def _split(values: Sequence[T]) -> Iterator[list[T]]:
    for start in range(0, len(values), _MAX_VALUES_PER_STATEMENT):
        yield list(values[start : start + _MAX_VALUES_PER_STATEMENT])
