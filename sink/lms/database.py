"""The LMS database: MySQL, MariaDB, PostgreSQL or SQLite, read only, in one consistent snapshot.

Everything above this package sees `LmsDatabase`, `Snapshot`, `Batch` and the exceptions of `sink.errors`.

.. no_pii: Addresses without user and password; rows are read by `sink.lms.snapshot`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import stamina
from pydantic import SecretStr
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from sink.errors import LmsUnreachableError
from sink.lms.authz import RULES
from sink.lms.condition import Condition, read_condition
from sink.lms.connection import EXAMPLE, begin_snapshot, create_read_only_engine, describe, parse_url
from sink.lms.driver_errors import DriverErrors
from sink.lms.objects import OBJECTS, RETIREMENT, TABLES
from sink.lms.schema import list_needed, read_columns, require_columns
from sink.lms.snapshot import Snapshot

CONNECT_ATTEMPTS = 5


class LmsDatabase:
    """The LMS database at one address. Opens a connection a snapshot, and holds none in between."""

    def __init__(self, url: SecretStr | str, *, attempts: int | None = None) -> None:
        """Take the address; nothing is connected yet.

        Args:
            url: an SQLAlchemy address of MySQL, MariaDB, PostgreSQL or SQLite.
            attempts: how often a connection is tried, if not `CONNECT_ATTEMPTS` times.

        Raises:
            SettingsError: the address is not one of these, or its driver is not installed.
        """
        address = parse_url(url.get_secret_value() if isinstance(url, SecretStr) else url)
        self.place = describe(address)
        """Which database, for messages: without user and password."""
        self._errors = DriverErrors(address.get_backend_name(), self.place)
        self._file = Path(address.database or "") if self._errors.backend == "sqlite" else None
        self._attempts = attempts or CONNECT_ATTEMPTS
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
        needed = list_needed(wanted)
        with self._open() as connection:
            require_columns(self.place, read_columns(connection, needed, self._errors), needed)

    def read_condition(self) -> Condition:
        """Its version, its clock, the isolation in which it is read, and what our account may do.

        Raises:
            LmsUnreachableError: there is no connection.
            LmsError: the database refuses to say it.
        """
        with self._open() as connection:
            return self._errors.run(lambda: read_condition(connection, [*TABLES, *RETIREMENT]))

    @contextmanager
    def snapshot(self) -> Iterator[Snapshot]:
        """Everything read through the `Snapshot` is as it was at one moment.

        Raises:
            LmsUnreachableError: there is no connection, or it broke.
        """
        with self._open() as connection:
            columns = read_columns(connection, [*TABLES, *RETIREMENT, RULES.name], self._errors)
            if self._file is not None:
                # The driver would abort on bytes that are no UTF-8.
                raw = connection.connection.driver_connection
                assert isinstance(raw, sqlite3.Connection)
                raw.text_factory = bytes
            yield Snapshot(connection, columns, self._errors)

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
            on=LmsUnreachableError, attempts=self._attempts, timeout=None, wait_initial=0.2, wait_max=10
        ):
            with attempt:
                return self._errors.run(connect)
        raise AssertionError("unreachable: stamina runs at least once")
