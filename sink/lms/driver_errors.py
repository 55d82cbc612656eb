"""What the drivers' errors mean. Their texts quote values, statements, and sometimes the address with its password.

.. no_pii: Codes of errors; addresses without user and password.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar

from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from sink.errors import LmsAddressError, LmsError, LmsSchemaError, LmsUnreachableError, translated
from sink.lms.connection import EXAMPLE

T = TypeVar("T")

# Codes of MySQL (include/mysqld_error.h, include/errmsg.h) and PostgreSQL (errcodes.txt), by what the operator can do.
_MYSQL_UNREACHABLE = {1040, 1053, 1129, 1205, 1927, 2002, 2003, 2006, 2013, 2055, 4031}
_MYSQL_AUTHENTICATION = {1044, 1045, 1698, 2059}
_MYSQL_DENIED = {1142, 1143, 1227}
_MYSQL_NO_DATABASE = 1049
_MYSQL_NO_TABLE = {1054, 1146}
_POSTGRES_UNREACHABLE = ("08", "53", "57P")
_SQLITE_PASSING = ("SQLITE_BUSY", "SQLITE_LOCKED")


Problem = Literal["unreachable", "authentication", "no database", "denied", "no table", "other"]

_MESSAGES: Mapping[Problem, tuple[type[LmsError], str]] = {
    "unreachable": (
        LmsUnreachableError,
        "{place} cannot be reached ({code}); check ASPECTS_LMS_DATABASE_URL and that it runs.",
    ),
    "authentication": (
        LmsAddressError,
        "{place} refused the user or the password ({code}); check ASPECTS_LMS_DATABASE_URL. {example}",
    ),
    "no database": (LmsAddressError, "{place} does not exist ({code}); check ASPECTS_LMS_DATABASE_URL. {example}"),
    "denied": (
        LmsError,
        "{place} does not let the user of ASPECTS_LMS_DATABASE_URL read ({code}); grant it SELECT.",
    ),
    "no table": (LmsSchemaError, "{place} lacks a table or column that is read ({code})."),
    "other": (LmsError, "{place} refused a query ({code})."),
}


@dataclass(frozen=True)
class DriverErrors:
    """Translates what the driver of one database raises."""

    backend: str
    place: str
    """Which database, for messages: without user and password."""

    def run(self, work: Callable[[], T]) -> T:
        """Run and translate what a driver raises."""
        with translated(self.translate):
            return work()

    def translate(self, error: Exception) -> LmsError | None:
        """The exception of ours that says the same, without the driver's text; None for what is none of the driver's."""
        if not isinstance(error, SQLAlchemyError | UnicodeError):
            return None
        if not isinstance(error, DBAPIError):
            return LmsError(f"{self.place} could not be read ({type(error).__name__}).")
        problem, code = _classify(self.backend, error)
        kind, message = _MESSAGES[problem]
        return kind(message.format(place=self.place, code=code, example=EXAMPLE))


def _classify(backend: str, error: DBAPIError) -> tuple[Problem, str]:
    """What kind of problem it is, and its code."""
    original = error.orig
    if backend == "mysql":
        code = original.args[0] if original is not None and original.args else None
        return _classify_mysql(code if isinstance(code, int) else 0), f"MySQL error {code}"
    if backend == "postgresql":
        state = getattr(original, "sqlstate", None)
        if state is None:
            return _classify_postgres_connection(str(original)), "no connection"
        return _classify_postgres(state), f"SQLSTATE {state}"
    name = getattr(original, "sqlite_errorname", "") or "SQLite error"
    if name.startswith(_SQLITE_PASSING):
        return "unreachable", name
    # SQLite has no code of its own for it, and names no value in this message.
    return ("no table" if str(original).startswith(("no such table", "no such column")) else "other"), name


def _classify_mysql(code: int) -> Problem:
    if code in _MYSQL_UNREACHABLE or code == 0:
        return "unreachable"
    if code in _MYSQL_AUTHENTICATION:
        return "authentication"
    if code in _MYSQL_DENIED:
        return "denied"
    if code == _MYSQL_NO_DATABASE:
        return "no database"
    return "no table" if code in _MYSQL_NO_TABLE else "other"


def _classify_postgres(state: str) -> Problem:
    if state.startswith(_POSTGRES_UNREACHABLE):
        return "unreachable"
    if state.startswith("28"):
        return "authentication"
    if state == "42501":
        return "denied"
    if state == "3D000":
        return "no database"
    return "no table" if state in ("42P01", "42703") else "other"


def _classify_postgres_connection(message: str) -> Problem:
    """libpq gives no code while connecting (psycopg's issue 242; seen with 3.3.9).

    Where the server speaks another language, it is unreachable.
    """
    if re.search(r'FATAL: +database "[^"]*" does not exist', message):
        return "no database"
    if re.search(r"authentication failed|FATAL: +role .* does not exist|no pg_hba.conf entry", message):
        return "authentication"
    return "unreachable"
