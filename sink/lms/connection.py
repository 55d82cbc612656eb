"""The way into the LMS database: addresses, drivers, transactions.

.. no_pii: Addresses without user and password, names of tables and columns.
"""

from __future__ import annotations

import logging
import sqlite3
from pathlib import Path
from typing import Any
from urllib.parse import quote as quote_path

from sqlalchemy import URL, Connection, Engine, bindparam, create_engine, make_url, text
from sqlalchemy.exc import ArgumentError, NoSuchModuleError
from sqlalchemy.pool import NullPool

from sink.errors import SettingsError

# A Celery worker or an LMS that logs at DEBUG would otherwise have SQLAlchemy log every row it reads.
_LOGGER_NAME = "aspects_pii_lms"
logging.getLogger(f"sqlalchemy.engine.Engine.{_LOGGER_NAME}").setLevel(logging.WARNING)

_DRIVERS = {
    "mysql": "mysql+pymysql",
    "mysql+pymysql": "mysql+pymysql",
    "mysql+mysqldb": "mysql+mysqldb",
    "mariadb": "mysql+pymysql",
    "mariadb+pymysql": "mysql+pymysql",
    "mariadb+mysqldb": "mysql+mysqldb",
    "postgres": "postgresql+psycopg",
    "postgresql": "postgresql+psycopg",
    "postgresql+psycopg": "postgresql+psycopg",
    "sqlite": "sqlite+pysqlite",
    "sqlite+pysqlite": "sqlite+pysqlite",
}
_CONNECT_OPTIONS: dict[str, dict[str, Any]] = {
    "mysql": {"charset": "utf8mb4", "connect_timeout": 10, "read_timeout": 300},
    "postgresql": {"connect_timeout": 10},
    "sqlite": {},
}
EXAMPLE = "Example: ASPECTS_LMS_DATABASE_URL=mysql+pymysql://reader:secret@mysql:3306/openedx"


def parse_url(url: str) -> URL:
    """The address with the driver that we use.

    Raises:
        SettingsError: it is no address of a database that we can read; the address itself is not quoted.
    """
    try:
        address = make_url(url)
    except (ArgumentError, ValueError):
        # SQLAlchemy's message quotes the address, password included.
        address = None
    if address is None or address.drivername not in _DRIVERS:
        raise SettingsError(
            "ASPECTS_LMS_DATABASE_URL is not an SQLAlchemy address of MySQL (pymysql, mysqldb), PostgreSQL (psycopg) "
            f"or SQLite. {EXAMPLE}"
        )
    if not address.database or address.database == ":memory:":
        raise SettingsError(f"ASPECTS_LMS_DATABASE_URL names no database. {EXAMPLE}")
    return address.set(drivername=_DRIVERS[address.drivername])


def describe(address: URL) -> str:
    """Which database it is, for messages: without user and password."""
    if address.get_backend_name() == "sqlite":
        return f"The LMS database {address.database}"
    port = f":{address.port}" if address.port else ""
    return f"The LMS database {address.database} at {address.host or 'localhost'}{port}"


def create_read_only_engine(address: URL, file: Path | None) -> Engine:
    """An engine without a pool. A file of SQLite is opened read only.

    Raises:
        SettingsError: the driver is not installed, or the address has options that do not fit.
    """
    options: dict[str, Any] = {
        "connect_args": {
            k: v for k, v in _CONNECT_OPTIONS[address.get_backend_name()].items() if k not in address.query
        }
    }
    if file is not None:
        # Read only, and never created; the path may hold what means something in an address.
        place = f"file:{quote_path(str(file.absolute()))}?mode=ro"
        options = {"creator": lambda: sqlite3.connect(place, uri=True, timeout=5)}
    try:
        return create_engine(
            address,
            poolclass=NullPool,
            # `begin_snapshot` opens the transaction; SQLAlchemy is to leave it alone.
            isolation_level="AUTOCOMMIT",
            hide_parameters=True,
            logging_name=_LOGGER_NAME,
            **options,
        )
    except (ImportError, NoSuchModuleError):
        driver = address.get_driver_name()
    except (ArgumentError, TypeError, ValueError):
        driver = ""
    if driver:
        raise SettingsError(
            f"The driver {driver} of ASPECTS_LMS_DATABASE_URL is not installed. Install aspects-pii-sink[server], "
            "which brings pymysql and psycopg."
        )
    raise SettingsError(f"ASPECTS_LMS_DATABASE_URL has options that do not fit. {EXAMPLE}")


def begin_snapshot(connection: Connection) -> None:
    """Open a read-only transaction that sees the database as it is now."""
    backend = connection.dialect.name
    if backend == "mysql":
        connection.exec_driver_sql("SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        connection.exec_driver_sql("START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY")
    # The other two take their snapshot at the first read, so one follows at once.
    elif backend == "postgresql":
        connection.exec_driver_sql("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        connection.exec_driver_sql("SELECT 1")
    else:
        connection.exec_driver_sql("BEGIN")
        connection.exec_driver_sql("SELECT count(*) FROM sqlite_master")


_MYSQL_COLUMNS = """
SELECT table_name, column_name, character_set_name FROM information_schema.columns
WHERE table_schema = database() AND table_name IN :tables
"""
_POSTGRES_COLUMNS = """
SELECT table_name, column_name, NULL FROM information_schema.columns
WHERE table_schema = ANY (current_schemas(false)) AND table_name IN :tables
"""


def list_columns(connection: Connection, tables: list[str]) -> list[tuple[str, str, str | None]]:
    """(table, column, character set) of the columns that this user may read."""
    if connection.dialect.name == "sqlite":
        query = text("SELECT name FROM pragma_table_info(:table)")
        return [(name, row[0], None) for name in tables for row in connection.execute(query, {"table": name})]
    sql = _MYSQL_COLUMNS if connection.dialect.name == "mysql" else _POSTGRES_COLUMNS
    query = text(sql).bindparams(bindparam("tables", expanding=True))
    return [(row[0], row[1], row[2]) for row in connection.execute(query, {"tables": tables})]
