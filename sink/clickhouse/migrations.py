"""Migrations: numbered SQL files, applied once, in order, and recorded with their digest.

ClickHouse has no transactions around DDL, so every statement of a migration can be repeated; one that
failed half-way is simply applied again. A statement for tables of ours that may be somebody else's, or have been changed
already, says so in a comment before it: `-- only where: event_sink.user_profile.time_last_dumped is DateTime64(6, 'UTC')`, or
`-- only where: event_sink.course_enrollment is sorted by course_key, id, time_last_dumped`.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from sink.clickhouse.catalog import read_tables
from sink.clickhouse.client import ClickHouse
from sink.clickhouse.database_names import find_moved, note_names
from sink.errors import MigrationError, SettingsError
from sink.names import TableName
from sink.resources import find_resource

# Texts and quoted names are passed over: what looks like a comment or an end in them is none.
_TEXT = r"'(?:[^'\\]|\\.)*'|`(?:[^`\\]|\\.)*`"
_COMMENT = re.compile(rf"(?P<text>{_TEXT})|--[^\n]*", re.DOTALL)
_STATEMENT = re.compile(rf"(?:{_TEXT}|[^;'`])+", re.DOTALL)
_CONDITION = re.compile(
    r"^-- only where: (?P<table>\w+\.\w+)(?:\.(?P<column>\w+) is (?P<type>[^\n]+)| is sorted by (?P<sorted_by>[^\n]+))$",
    re.MULTILINE,
)
# The oldest that `make test-engines` passes on is 25.8; 24.8 cannot say which projections and detached tables there are.
OLDEST_MAJOR = 25
_FILE_NAME = re.compile(r"(?P<number>\d{4})_[a-z0-9_]+\.sql")

_CREATE_RECORD = """
CREATE TABLE IF NOT EXISTS $pii_ledger.migrations $on_cluster
(
    name String,
    digest String,
    applied_at DateTime64(6, 'UTC') DEFAULT now64(6)
)
ENGINE = ${replicated}MergeTree
ORDER BY name
"""


@dataclass(frozen=True)
class Condition:
    """A column that has a type, or a table with a sort key: only where it is so, a statement is carried out."""

    table: str
    """As `database.table` of the map."""
    column: str | None = None
    type: str | None = None
    sorted_by: str | None = None

    def holds(self, client: ClickHouse) -> bool:
        """Whether it is so now; not where there is no such table."""
        name = client.table(self.table)
        if self.column is None:
            return self.sorted_by in _read_sort_key(client, name)
        found = read_tables(client, [name]).get(name)
        return found is not None and found.columns.get(self.column) == self.type


@dataclass(frozen=True)
class Migration:
    """One file of `sql/migrations`."""

    name: str
    sql: str

    @property
    def digest(self) -> str:
        """SHA-256 of the file, in hexadecimal."""
        return hashlib.sha256(self.sql.encode()).hexdigest()

    def statements(self) -> list[str]:
        """The statements of the file, without their comments."""
        return [statement for _, statement in self.steps()]

    def steps(self) -> list[tuple[Condition | None, str]]:
        """The statements of the file, each with its condition if it has one."""
        # Kept as the name of a text that no statement has, since comments and semicolons are told apart by then.
        conditions: list[Condition] = []

        def keep(found: re.Match[str]) -> str:
            conditions.append(Condition(**found.groupdict()))
            return f"`only where {len(conditions) - 1}`"

        marked = _CONDITION.sub(keep, self.sql)
        without_comments = _COMMENT.sub(lambda found: found["text"] or "", marked)
        statements = filter(None, (statement.strip() for statement in _STATEMENT.findall(without_comments)))
        return [_split_mark(statement, conditions) for statement in statements]


def _read_sort_key(client: ClickHouse, name: TableName) -> list[str]:
    """The sort key of a table, as one text in a list; an empty list where there is no such table."""
    return client.column(
        "SELECT sorting_key FROM system.tables WHERE database = {database:String} AND name = {table:String}",
        database=name.database,
        table=name.table,
    )


def _split_mark(statement: str, conditions: list[Condition]) -> tuple[Condition | None, str]:
    found = re.match(r"`only where (\d+)`\s*", statement)
    return (conditions[int(found[1])], statement[found.end() :]) if found else (None, statement)


def load_migrations(folder: Path | None = None) -> list[Migration]:
    """Read all migrations, in order.

    Raises:
        MigrationError: a file is not named like `0001_what_it_does.sql`, or two have one number.
    """
    migrations: dict[str, Migration] = {}
    for path in sorted((folder or find_resource("sql/migrations")).glob("*.sql")):
        match = _FILE_NAME.fullmatch(path.name)
        if not match or match["number"] in migrations:
            raise MigrationError(f"{path.name}: migrations are named 0001_what_it_does.sql, with one file a number.")
        migrations[match["number"]] = Migration(path.stem, path.read_text())
    return list(migrations.values())


def list_statements(migrations: list[Migration] | None = None) -> list[str]:
    """Every statement that `migrate` runs where nothing is applied yet, the names of the databases not filled in."""
    migrations = load_migrations() if migrations is None else migrations
    return [*(statement for migration in migrations for statement in migration.statements()), _CREATE_RECORD.strip()]


def read_applied(client: ClickHouse) -> dict[str, str]:
    """The applied migrations as name -> digest; empty where `init` has never run."""
    if not read_tables(client, [client.table("pii_ledger.migrations")]):
        return {}
    return dict(client.rows("SELECT name, any(digest) FROM $pii_ledger.migrations GROUP BY name"))


def find_pending(client: ClickHouse, migrations: list[Migration] | None = None) -> list[Migration]:
    """The migrations that have not been applied yet; all of them, where a database is called otherwise than before. Only reads.

    Each statement can be repeated, and tables may be missing in the other database.

    Raises:
        MigrationError: a file that has been applied was edited since.
    """
    migrations = load_migrations() if migrations is None else migrations
    applied = read_applied(client)
    edited = [m.name for m in migrations if m.name in applied and applied[m.name] != m.digest]
    if edited:
        raise MigrationError(
            f"Applied migrations were edited: {', '.join(edited)}. Restore the files and put the change into a new one."
        )
    if find_moved(client):
        return migrations
    return [m for m in migrations if m.name not in applied]


def migrate(client: ClickHouse, migrations: list[Migration] | None = None) -> list[str]:
    """Apply what is pending, note how the databases are called, and return the names of what was applied.

    Raises:
        SettingsError: the server is too old.
        MigrationError: a file that has been applied was edited since.
    """
    _require_supported(client)
    applied = []
    for migration in find_pending(client, migrations):
        for condition, statement in migration.steps():
            if condition is None or condition.holds(client):
                client.execute(statement)
        client.execute(_CREATE_RECORD)
        client.execute(
            "INSERT INTO $pii_ledger.migrations (name, digest) SELECT {name:String}, {digest:String}",
            name=migration.name,
            digest=migration.digest,
        )
        applied.append(migration.name)
    note_names(client)
    return applied


def _require_supported(client: ClickHouse) -> None:
    version = client.server_version
    if int(version.partition(".")[0]) < OLDEST_MAJOR:
        raise SettingsError(
            f"ClickHouse at {client.address.described} is {version}, and {OLDEST_MAJOR}.x is the oldest that is supported "
            "(`aspects-pii docs compatibility`). Nothing was changed."
        )
