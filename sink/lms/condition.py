"""What there is to know of an LMS database before anything is read from it: its version, clock, isolation, and our rights.

.. no_pii: names of tables, privileges, versions and times.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, bindparam, text

# What an account needs that only reads, as MySQL and MariaDB name it.
_READING = {"SELECT", "SHOW VIEW", "SHOW DATABASES", "USAGE", "LOCK TABLES"}


@dataclass(frozen=True)
class Condition:
    """How an LMS database is, as our account sees it."""

    version: str
    isolation: str
    """Of the transaction in which we read."""
    clock: datetime
    may_write: list[str] = field(default_factory=list)
    """Privileges of our account with which it could change the LMS; empty where it can only read."""
    without_snapshot: list[str] = field(default_factory=list)
    """Tables that are read whose engine knows no transactions, so that they may change while they are read."""

    @property
    def is_isolated(self) -> bool:
        """True where all that is read is as it was at one moment."""
        return self.isolation in ("REPEATABLE READ", "SERIALIZABLE") and not self.without_snapshot


def read_condition(connection: Connection, tables: Sequence[str]) -> Condition:
    """Ask the database, in the transaction of a snapshot.

    Args:
        connection: as `sink.lms.connection.begin_snapshot` leaves it.
        tables: what is read.
    """
    backend = connection.dialect.name
    if backend == "mysql":
        return _read_mysql(connection, tables)
    if backend == "postgresql":
        return _read_postgres(connection, tables)
    version = _ask(connection, "SELECT sqlite_version()")
    # A file that is opened read only, whose transactions see one moment, on the clock of this host.
    return Condition(f"SQLite {version}", "SERIALIZABLE", datetime.now(UTC))


def _read_mysql(connection: Connection, tables: Sequence[str]) -> Condition:
    version, clock = _ask(connection, "SELECT version()"), _ask(connection, "SELECT utc_timestamp(6)")
    names = {row[0] for row in connection.execute(text("SHOW SESSION VARIABLES LIKE '%isolation'"))}
    # MariaDB before 11.1 has only the older name.
    variable = "transaction_isolation" if "transaction_isolation" in names else "tx_isolation"
    isolation = str(_ask(connection, f"SELECT @@session.{variable}")).replace("-", " ").upper()
    engines = connection.execute(
        text(
            "SELECT table_name FROM information_schema.tables "
            "WHERE table_schema = database() AND table_name IN :tables AND engine <> 'InnoDB'"
        ).bindparams(bindparam("tables", expanding=True)),
        {"tables": list(tables)},
    )
    grants = [str(row[0]) for row in connection.execute(text("SHOW GRANTS FOR CURRENT_USER"))]
    product = "MariaDB" if "mariadb" in str(version).lower() else "MySQL"
    return Condition(
        f"{product} {str(version).split('-')[0]}",
        isolation,
        clock.replace(tzinfo=UTC),
        sorted({privilege for grant in grants for privilege in _list_privileges(grant)} - _READING),
        sorted(str(row[0]) for row in engines),
    )


def _list_privileges(grant: str) -> list[str]:
    """The privileges of a line of SHOW GRANTS: `GRANT SELECT, INSERT (a, b) ON x.* TO …`; of a role none."""
    words, separator, _ = grant.removeprefix("GRANT ").partition(" ON ")
    if not separator:
        return []
    depth, privileges = 0, [""]
    for character in words:
        depth += {"(": 1, ")": -1}.get(character, 0)
        if character == "," and depth == 0:
            privileges.append("")
        elif depth == 0 and character not in "()":
            privileges[-1] += character
    return [privilege.strip().upper() for privilege in privileges]


def _read_postgres(connection: Connection, tables: Sequence[str]) -> Condition:
    version = _ask(connection, "SHOW server_version")
    isolation = str(_ask(connection, "SHOW transaction_isolation")).upper()
    clock = _ask(connection, "SELECT clock_timestamp() AT TIME ZONE 'UTC'")
    found = connection.execute(
        text(
            "SELECT privilege FROM unnest(ARRAY['INSERT', 'UPDATE', 'DELETE', 'TRUNCATE']) AS privilege "
            "WHERE EXISTS (SELECT 1 FROM pg_catalog.pg_class WHERE relname IN :tables AND relkind IN ('r', 'p') "
            "AND pg_table_is_visible(oid) AND has_table_privilege(oid, privilege))"
        ).bindparams(bindparam("tables", expanding=True)),
        {"tables": list(tables)},
    )
    may_write = sorted(str(row[0]) for row in found)
    return Condition(f"PostgreSQL {str(version).split(' ')[0]}", isolation, clock.replace(tzinfo=UTC), may_write)


def _ask(connection: Connection, sql: str) -> Any:
    return connection.execute(text(sql)).scalar_one()
