"""Reading the LMS database: MySQL, MariaDB, PostgreSQL or SQLite, read only, in one consistent snapshot.

Everything above this module sees `LmsDatabase`, `Snapshot`, `Batch` and the exceptions of `sink.errors`. What the
drivers raise is translated here, once, and loses its text on the way: drivers quote values, statements, and
sometimes the address with its password.

A table is read page by page, each page beginning after the last user of the one before
(docs/decisions/0005-lms-reading.md says why not with a server-side cursor), so memory holds one page, whatever
the number of users, and several readings of one snapshot may be under way at once.

Text comes as bytes wherever the driver would abort on bytes that are no UTF-8, and is decoded here, row by row:
a bad row costs itself, not the copy.

.. pii: Profiles, anonymous ids and roles on their way from the LMS, a page at a time, in memory only.
.. pii_types: id, name, username, email_address, location, phone_number, birth_date, gender, biography, image, other
.. pii_retirement: consumer_api
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import stamina
from pydantic import SecretStr
from sqlalchemy import (
    BINARY,
    BLOB,
    BigInteger,
    ColumnElement,
    CompoundSelect,
    Connection,
    Select,
    and_,
    bindparam,
    cast,
    column,
    func,
    literal_column,
    or_,
    select,
    union_all,
)
from sqlalchemy.dialects import mysql
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from sink.errors import LmsError, LmsSchemaError, LmsUnreachableError, translated
from sink.lms.connection import (
    EXAMPLE,
    begin_snapshot,
    classify,
    create_read_only_engine,
    describe,
    list_columns,
    parse_url,
)
from sink.lms.objects import (
    OBJECTS,
    OPTIONAL_PARTS,
    PROFILE_LENGTHS,
    PROFILES,
    RETIREMENT,
    STATUSES,
    TABLES,
    USERS,
    Part,
)
from sink.lms.retirements import CURRENT_STATE, IS_ERASED, IS_WAITING, select_requests
from sink.lms.values import (
    LONGEST_TEXT,
    UTF8_BYTES,
    Batch,
    LmsColumn,
    Page,
    convert_page,
    make_converter,
    read_original,
)

T = TypeVar("T")


#: A user id comes before all others.
_BEFORE_ALL = -1
_IDS_AT_ONCE = 5_000
_USER_PAGE = 50_000


@dataclass(frozen=True)
class Identity:
    """Who a user was before the retirement; empty where the LMS no longer says. Kept in memory only."""

    username: str = field(repr=False)
    email: str = field(repr=False)


for _name in PROFILE_LENGTHS:
    PROFILES.append_column(column(_name))


class LmsDatabase:
    """The LMS database at one address. Opens a connection a snapshot, and holds none in between."""

    def __init__(self, url: SecretStr | str, *, retries: int = 4) -> None:
        """Take the address; nothing is connected yet.

        Args:
            url: an SQLAlchemy address of MySQL, MariaDB, PostgreSQL or SQLite.
            retries: how often connecting is tried again after a passing failure.

        Raises:
            SettingsError: the address is not one of these, or its driver is not installed.
        """
        address = parse_url(url.get_secret_value() if isinstance(url, SecretStr) else url)
        self.backend = address.get_backend_name()
        self.retries = retries
        self.place = describe(address)
        """Which database, for messages: without user and password."""
        self._file = Path(address.database or "") if self.backend == "sqlite" else None
        self._engine = create_read_only_engine(address, self._file)

    def check_schema(self, objects: Mapping[str, Sequence[str]] | Iterable[str]) -> None:
        """Check that everything is there that a copy would read.

        Args:
            objects: names from `OBJECTS`, with the columns that will be read; without columns, all of them.

        Raises:
            LmsSchemaError: names every table and column that is missing.
            LmsUnreachableError: there is no connection.
        """
        wanted = objects if isinstance(objects, Mapping) else {name: tuple(OBJECTS[name].columns) for name in objects}
        needed: dict[str, list[str]] = {}
        for name, columns in wanted.items():
            for table_name, names in OBJECTS[name].needs.items():
                needed.setdefault(table_name, []).extend(names)
            for source in (OBJECTS[name].columns[c] for c in columns):
                needed.setdefault(source.table, []).append(source.name)
        with self._open() as connection:
            self.require(self.read_columns(connection, needed), needed)

    @contextmanager
    def snapshot(self) -> Iterator[Snapshot]:
        """Everything read through the `Snapshot` is as it was at one moment.

        Raises:
            LmsUnreachableError: there is no connection, or it broke.
        """
        with self._open() as connection:
            charsets = self.read_columns(connection, [*TABLES, *RETIREMENT])
            if self.backend == "sqlite":
                # The driver would abort on bytes that are no UTF-8.
                raw = connection.connection.driver_connection
                assert isinstance(raw, sqlite3.Connection)
                raw.text_factory = bytes
            yield Snapshot(self, connection, charsets)

    def run(self, work: Callable[[], T]) -> T:
        """Run and translate what a driver raises."""
        with translated(self._translate):
            return work()

    @contextmanager
    def _open(self) -> Iterator[Connection]:
        """A connection in a read-only transaction that sees one moment."""
        if self._file is not None and not self._file.is_file():
            raise LmsUnreachableError(
                f"The file {self._file} that ASPECTS_LMS_DATABASE_URL names does not exist. {EXAMPLE}"
            )
        connection = self._connect()
        try:
            yield connection
        finally:
            # Closing rolls back first, which a lost connection cannot; nothing was written in any case.
            with suppress(SQLAlchemyError):
                connection.close()

    def _connect(self) -> Connection:
        def connect() -> Connection:
            connection = self._engine.connect()
            begin_snapshot(connection)
            return connection

        for attempt in stamina.retry_context(
            on=LmsUnreachableError, attempts=1 + self.retries, timeout=None, wait_initial=0.2, wait_max=10
        ):
            with attempt:
                return self.run(connect)
        raise AssertionError("unreachable: stamina runs at least once")

    def read_columns(self, connection: Connection, tables: Iterable[str]) -> dict[str, dict[str, str | None]]:
        """The columns of these tables that this user may read: table → column → character set (of MySQL)."""
        found: dict[str, dict[str, str | None]] = {}
        names = sorted(set(tables))
        for name, column_name, charset in self.run(lambda: list_columns(connection, names)):
            found.setdefault(name.lower(), {})[column_name.lower()] = charset
        return found

    def require(self, found: Mapping[str, Mapping[str, Any]], needed: Mapping[str, Iterable[str]]) -> None:
        """Check that what is needed was found.

        Raises:
            LmsSchemaError: names every table and column that was not.
        """
        tables = sorted(name for name in needed if name not in found)
        columns = sorted(
            {f"{name}.{c}" for name, names in needed.items() if name in found for c in names if c not in found[name]}
        )
        missing = [
            f"{kind} {', '.join(names)}" for kind, names in (("the tables", tables), ("the columns", columns)) if names
        ]
        if missing:
            raise LmsSchemaError(
                f"{self.place} lacks {' and '.join(missing)}, or its user may not read them. Does "
                "ASPECTS_LMS_DATABASE_URL name the LMS database? Columns that your release does not have can be "
                "taken out of `keep` in the PII map."
            )

    def _translate(self, error: Exception) -> LmsError | None:
        """The exception of ours that says the same, without the driver's text; None for what is none of the driver's."""
        if not isinstance(error, SQLAlchemyError | UnicodeError):
            return None
        if not isinstance(error, DBAPIError):
            return LmsError(f"{self.place} could not be read ({type(error).__name__}).")
        what, code = classify(self.backend, error)
        if what == "unreachable":
            return LmsUnreachableError(
                f"{self.place} cannot be reached ({code}); check ASPECTS_LMS_DATABASE_URL and that it runs."
            )
        if what == "authentication":
            return LmsError(
                f"{self.place} refused the user or the password ({code}); check ASPECTS_LMS_DATABASE_URL. {EXAMPLE}"
            )
        if what == "no database":
            return LmsError(f"{self.place} does not exist ({code}); check ASPECTS_LMS_DATABASE_URL. {EXAMPLE}")
        if what == "denied":
            return LmsError(
                f"{self.place} does not let the user of ASPECTS_LMS_DATABASE_URL read ({code}); grant it SELECT."
            )
        if what == "no table":
            return LmsSchemaError(f"{self.place} lacks a table or column that is read ({code}).")
        return LmsError(f"{self.place} refused a query ({code}).")


class Snapshot:
    """The LMS database as it was at one moment. Not safe for use by several threads at once."""

    def __init__(
        self, database: LmsDatabase, connection: Connection, columns: Mapping[str, Mapping[str, str | None]]
    ) -> None:
        """Made by `LmsDatabase.snapshot`."""
        self._database = database
        self._connection = connection
        self._columns = columns

    def count_rows(self, object_name: str, user_ids: Sequence[int] | None = None) -> int:
        """How many rows `rows` will give, good and bad."""
        total = 0
        for ids in _split_ids(user_ids):
            counted = self._select_rows(object_name, (), ids).order_by(None).subquery()
            total += int(self._fetch(select(func.count()).select_from(counted), low=_BEFORE_ALL)[0][0])
        return total

    def user_ids(self, object_name: str) -> Iterator[list[int]]:
        """The ids of the users who have a row in the object, ascending, in lists of limited length."""
        users = self._select_rows(object_name, (), None).order_by(None).subquery().c.subject_id
        return self._page_ids(select(users).distinct().order_by(users))

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
            LmsSchemaError: something is missing that `check_schema` would have named.
        """
        converters = [(name, make_converter(OBJECTS[object_name].columns[name])) for name in columns]
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

    def pending_user_ids(self) -> Iterator[list[int]]:
        """Users who asked for retirement and can still take it back, ascending, in lists of limited length.

        Raises:
            LmsSchemaError: a table or column is missing.
        """
        self._require_retirement_tables()
        status = STATUSES.c.user_id
        return self._page_ids(select_requests().where(status.is_not(None), ~IS_ERASED, IS_WAITING))

    def identities(self, user_ids: Sequence[int]) -> dict[int, Identity]:
        """Who users were before their retirement, as far as their status rows still say. Keep it in memory only.

        Raises:
            LmsSchemaError: a table or column is missing.
        """
        self._require_retirement_tables()
        names = (STATUSES.c.original_username, STATUSES.c.original_email)
        statement = select(STATUSES.c.user_id, *names)
        found = {}
        for ids in _split_ids(user_ids):
            for row in self._fetch(statement.where(STATUSES.c.user_id.in_(ids or ()))):
                username, email = read_original(row[1]), read_original(row[2])
                if username or email:
                    found[int(row[0])] = Identity(username, email)
        return found

    def _require_retirement_tables(self) -> None:
        self._database.require(self._columns, RETIREMENT)

    def _fetch(self, statement: Select[Any] | CompoundSelect[Any], **values: Any) -> Page:
        page: Page = self._database.run(lambda: self._connection.execute(statement, values).all())
        return page

    def _page_ids(self, statement: Select[Any]) -> Iterator[list[int]]:
        """Ids from a statement whose only column is an ascending id, the smallest above the parameter `low`."""
        low = _BEFORE_ALL
        while ids := [int(row[0]) for row in self._fetch(statement.limit(_USER_PAGE), low=low)]:
            yield ids
            low = ids[-1]

    def _read_pages(
        self, object_name: str, columns: Sequence[str], size: int, ids: Sequence[int] | None
    ) -> Iterator[Page]:
        """Pages of whole users."""
        statement = self._select_rows(object_name, columns, ids).limit(size + 1)
        low = _BEFORE_ALL
        while page := self._fetch(statement, low=low):
            if len(page) <= size:
                yield page
                return
            # The last user may have rows beyond the page: they are left to the next one.
            last = page[-1][0]
            whole = [row for row in page if row[0] != last]
            page = whole or self._fetch(self._select_rows(object_name, columns, [last]), low=low)
            yield page
            low = page[-1][0]

    def _select_rows(
        self, object_name: str, columns: Sequence[str], ids: Sequence[int] | None
    ) -> Select[Any] | CompoundSelect[Any]:
        """Rows of users above the parameter `low`, by user: id, key, columns."""
        parts = []
        for part in OPTIONAL_PARTS[object_name]:
            values = [self._express(part, OBJECTS[object_name].columns[name], name) for name in columns]
            statement = select(USERS.c.id.label("subject_id"), part.key.label("row_key"), *values)
            statement = statement.select_from(part.source).where(USERS.c.id > bindparam("low", type_=BigInteger))
            if part.condition is not None:
                statement = statement.where(part.condition)
            if ids is not None:
                statement = statement.where(USERS.c.id.in_(ids))
            parts.append(statement)
        whole = parts[0] if len(parts) == 1 else union_all(*parts)
        return whole.order_by("subject_id")

    def _express(self, part: Part, source: LmsColumn, name: str) -> ColumnElement[Any]:
        """The expression that brings a column: texts cut above what is accepted, and as bytes where a driver decodes."""
        if name in part.constants:
            return literal_column(f"'{part.constants[name]}'").label(name)
        value: ColumnElement[Any] = TABLES[source.table].c[source.name]
        if source.kind != "text":
            return value.label(name)
        longest = LONGEST_TEXT if source.max_length is None else UTF8_BYTES * source.max_length
        if self._database.backend == "sqlite":
            # As a blob, since SQLite's substr ends a text at a zero byte.
            return func.substr(cast(value, BLOB), 1, longest + 1).label(name)
        cut: ColumnElement[Any] = func.substr(value, 1, longest + 1)
        charset = self._columns.get(source.table, {}).get(source.name)
        if charset is not None:
            # The server converts what is in another character set; a blob has none and comes as it is.
            cut = cast(cast(cut, mysql.CHAR(charset="utf8mb4")), BINARY)
        return cut.label(name)


def _split_ids(user_ids: Sequence[int] | None) -> Iterator[list[int] | None]:
    """Ids in ascending lists that a statement can take, or once None for everybody."""
    if user_ids is None:
        yield None
        return
    # What no column of a database can hold, its driver does not take either.
    ids = sorted({user_id for user_id in user_ids if user_id.bit_length() < 64})
    for start in range(0, len(ids), _IDS_AT_ONCE):
        yield ids[start : start + _IDS_AT_ONCE]
