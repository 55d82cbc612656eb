"""One client for ClickHouse at three kinds of address: the engine in process, a server, a cluster.

Everything above this module sees `ClickHouse` and the exceptions of `sink.errors`. What the drivers
raise is translated here, once, and loses its text on the way: the engine quotes offending values.

Values are always bound. SQL comes as text with `{name:Type}` placeholders, and with the names of the
databases as `$event_sink`, `$xapi`, `$reporting`, `$pii_ledger`.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import IO, Any, TypeVar, cast

import stamina
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError
from clickhouse_connect.driver.transform import NativeTransform
from urllib3.exceptions import HTTPError

from sink.clickhouse.address import Address
from sink.clickhouse.connection import open_connection
from sink.clickhouse.driver_errors import describe_statement, translate_error
from sink.clickhouse.engine_thread import EngineThread
from sink.clickhouse.query_settings import put_right
from sink.errors import (
    AspectsPiiError,
    DatabaseError,
    OverloadedError,
    QueryError,
    UnreachableError,
    translated,
)
from sink.names import TableName, find_database, quote, quote_columns

# .. pii: Whatever is copied, erased or looked for passes through as bound values; nothing is kept, logged or quoted.
# .. pii_types: id, name, username, email_address, location, phone_number, birth_date, gender, biography, image, other
# .. pii_retirement: consumer_api

T = TypeVar("T")

# What a statement that waits for a mutation needs, on every replica of a cluster.
WAIT_FOR_MUTATIONS = {"mutations_sync": 2, "lightweight_deletes_sync": 2}
# Counts and reads what a lightweight DELETE has hidden too: it is still in the files.
INCLUDING_HIDDEN = {"apply_deleted_mask": 0}
# The time by ClickHouse's clock, in SQL. On a cluster hosts differ: compare times of one statement, or of `now`.
NOW = "now64(6, 'UTC')"
# ClickHouse's http_max_field_value_size, with room for escapes; quotes and commas around an element.
_LONGEST_ARRAY = 100_000
_PUNCTUATION = 4
# Bytes of a result that come at once.
_PIECE = 1 << 20
# Names of databases and clauses in our SQL.
_NAME = re.compile(r"\$(?:(\w+)|\{(\w+)\})")


class ClickHouse:
    """A connection. Not safe for use by several threads at once: each opens its own."""

    def __init__(self, address: Address) -> None:
        """Connect.

        Raises:
            DatabaseError: one of its subclasses says why there is no connection.
            SettingsError: the user's profile keeps statements from meaning what they say.
        """
        self.address = address
        self.cluster = address.cluster
        self._thread = EngineThread() if address.is_embedded else None
        try:
            self._client = self._repeat(lambda: self._connect(address))
        except BaseException:
            self._end_thread()
            raise

    @staticmethod
    def _connect(address: Address) -> Client:
        client = open_connection(address)
        try:
            put_right(client)
        except BaseException:
            client.close()
            raise
        return client

    def __enter__(self) -> ClickHouse:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give up the connection; the embedded engine stops with its last one."""
        self._run(self._client.close)
        self._end_thread()

    def _run(self, function: Callable[[], T]) -> T:
        """Call what may ask the engine: in process from its own thread."""
        return self._thread.run(function) if self._thread else function()

    def _end_thread(self) -> None:
        if self._thread:
            self._thread.close()
            # Closing can be repeated.
            self._thread = None

    @property
    def server_version(self) -> str:
        """The engine's version."""
        return str(self._client.server_version)

    @property
    def databases(self) -> dict[str, str]:
        """The configured databases, by the names that the map and the SQL files use."""
        return dict(self.address.databases)

    @property
    def on_cluster(self) -> str:
        """The clause that makes DDL run on every host of the cluster, or nothing."""
        return f"ON CLUSTER {quote(self.cluster)}" if self.cluster else ""

    def replicas(self, table: str) -> str:
        """A table expression that reads `system.<table>` (or any quoted table) on every replica."""
        return f"clusterAllReplicas({quote(self.cluster)}, {table})" if self.cluster else table

    def shards(self, table: str) -> str:
        """A table expression that reads a quoted table of every shard, each row once."""
        return f"cluster({quote(self.cluster)}, {table})" if self.cluster else table

    def table(self, name: str) -> TableName:
        """The table that `database.table` of the map means in this installation."""
        database, _, table = name.partition(".")
        return TableName(find_database(self.address.databases, database), table)

    def render(self, sql: str) -> str:
        """Put the names of the databases and the cluster clauses into `sql`."""
        names = {logical: quote(actual) for logical, actual in self.address.databases.items()}
        names |= {"on_cluster": self.on_cluster, "replicated": "Replicated" if self.cluster else ""}
        # Other dollars are the statement's own: of a regular expression, or of a table that is called so.
        return _NAME.sub(lambda found: names.get(found[1] or found[2], found[0]), sql)

    def rows(self, sql: str, settings: Mapping[str, Any] | None = None, **values: Any) -> list[tuple[Any, ...]]:
        """Run a query and return its rows, `values` bound to its placeholders."""
        text = self.render(sql)
        bound = _write_numbers(values)

        def run() -> list[tuple[Any, ...]]:
            result = self._client.query(text, parameters=bound or None, settings=dict(settings or {}))
            return [tuple(row) for row in result.result_rows]

        return self._repeat(run, text)

    def value(self, sql: str, settings: Mapping[str, Any] | None = None, **values: Any) -> Any:
        """The first column of the first row."""
        return self.rows(sql, settings, **values)[0][0]

    def column(self, sql: str, settings: Mapping[str, Any] | None = None, **values: Any) -> list[Any]:
        """The first column of every row."""
        return [row[0] for row in self.rows(sql, settings, **values)]

    def stream(self, sql: str, **values: Any) -> Iterator[bytes]:
        """Run a query that ends in SETTINGS and FORMAT, and give its result in pieces as the engine makes them.

        Settings stand in the text, since the engine in process gives a result that settings came with as a whole only. Of
        formats those without head and foot come in pieces. Nothing is tried again: who reads may have used what came.

        Raises:
            DatabaseError: the engine refused, or stopped in the middle.
        """
        text = self.render(sql)
        with translated(lambda error: self._translate_broken(error, text)):
            source = cast(IO[bytes], self._run(lambda: self._client.raw_stream(text, parameters=values or None)))
            try:
                while piece := self._run(lambda: source.read(_PIECE)):
                    yield piece
            finally:
                self._run(source.close)

    def now(self) -> datetime:
        """The time by ClickHouse's clock."""
        return self.value(f"SELECT {NOW}")  # type: ignore[no-any-return]

    def later_than(self, times: str) -> datetime:
        """Now, but later than every `at` of the table or subquery `times`, whatever the clocks of the hosts say."""
        sql = f"SELECT greatest({NOW}, max(at) + toIntervalMicrosecond(1)) FROM {times}"
        return self.value(sql)  # type: ignore[no-any-return]

    def execute(
        self, sql: str, settings: Mapping[str, Any] | None = None, *, repeatable: bool = True, **values: Any
    ) -> None:
        """Run a statement without a result. Tried again after passing failures unless not `repeatable`."""
        text = self.render(sql)
        # The driver's `command` (seen: clickhouse-connect 1.12) puts bound values into the address, which proxies log, and
        # `form_encode_query_params` does not change that; `raw_query` puts them into the body.
        send = self._client.raw_query if values and not self.address.is_embedded else self._client.command
        self._repeat(
            lambda: send(text, parameters=_write_numbers(values) or None, settings=dict(settings or {})),
            text,
            repeatable=repeatable,
        )

    def insert(
        self,
        table: TableName | str,
        columns: Sequence[str],
        rows: Sequence[Sequence[Any]],
        *,
        repeatable: bool = False,
    ) -> None:
        """Append `rows` (one sequence a row, in the order of `columns`).

        A `str` as the table is a temporary one of this session. A failed insert may have been carried out:
        it is tried again only where the caller says that this does no harm.
        """
        if rows:
            self._insert(table, columns, rows, repeatable=repeatable)

    def insert_columns(self, table: TableName | str, columns: Sequence[str], values: Sequence[Sequence[Any]]) -> None:
        """Append rows that come column by column, as `insert` does."""
        if values and values[0]:
            self._insert(table, columns, values, repeatable=False, column_oriented=True)

    def _insert(
        self,
        table: TableName | str,
        columns: Sequence[str],
        data: Sequence[Sequence[Any]],
        *,
        repeatable: bool,
        column_oriented: bool = False,
    ) -> None:
        target = table.sql if isinstance(table, TableName) else quote(table)

        def run() -> None:
            if self.address.is_embedded:
                self._insert_embedded(target, columns, data, column_oriented)
            else:
                self._client.insert(target, data, column_names=list(columns), column_oriented=column_oriented)

        self._repeat(run, f"INSERT INTO {target}", repeatable=repeatable)

    def _insert_embedded(
        self, target: str, columns: Sequence[str], data: Sequence[Sequence[Any]], column_oriented: bool
    ) -> None:
        # The driver's own way (seen: clickhouse-connect 1.12, with chDB 4.4) goes through a file in the system's temporary
        # folder, where a killed process leaves the rows behind. chdb-io/chdb-core#97 is about inserts without a file.
        context = self._client.create_insert_context(target, list(columns), data=data, column_oriented=column_oriented)
        chunks = NativeTransform.build_insert(context)
        with memory_file(self.address.folder) as (file, path):
            # The driver begins with the statement, as an HTTP body does.
            file.write(next(chunks).partition(b"\n")[2])
            for chunk in chunks:
                file.write(chunk)
            file.flush()
            if context.insert_exception is not None:
                raise context.insert_exception
            # The path is ours: digits, or a name of tempfile's alphabet below the data folder.
            self._client.command(
                f"INSERT INTO {target} ({quote_columns(list(columns))}) "
                f"FROM INFILE '{_escape_path(path)}' COMPRESSION 'none' FORMAT Native"
            )

    def _repeat(self, run: Callable[[], T], sql: str = "", *, repeatable: bool = True) -> T:
        """Run, translate what the driver raises, and try again what is worth trying again."""
        attempts = 1 + (self.address.retries if repeatable else 0)
        for attempt in stamina.retry_context(
            on=(UnreachableError, OverloadedError), attempts=attempts, timeout=None, wait_initial=0.2, wait_max=10
        ):
            with attempt, translated(lambda error: self._translate(error, sql)):
                return self._run(run)
        raise AssertionError("unreachable: stamina runs at least once")

    def _translate_broken(self, error: Exception, sql: str) -> DatabaseError | None:
        if isinstance(error, HTTPError | OSError):
            # The driver hands out the connection's own exceptions here (seen: clickhouse-connect 1.12).
            return UnreachableError(f"ClickHouse stopped in the middle of its answer to {describe_statement(sql)}.")
        return self._translate(error, sql)

    def _translate(self, error: Exception, sql: str) -> DatabaseError | None:
        if isinstance(error, AspectsPiiError):
            return None
        if isinstance(error, ClickHouseError):
            return translate_error(error, self.address, sql)
        # Whatever else a driver stumbles over is a value, which its message may quote.
        return QueryError(
            f"A value of {describe_statement(sql)} cannot be sent to ClickHouse ({type(error).__name__})."
        )


def _write_numbers(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values to bind, with lists of integers as the driver would write them, one number at a time."""
    return {name: str(value) if _is_numbers(value) else value for name, value in values.items()}


def _is_numbers(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and set(map(type, value)) == {int}


def split_for_binding(items: Sequence[T], most: int = 10_000) -> Iterator[list[T]]:
    """Split `items` into lists that a server takes as one bound array: it limits a form field to 128 KiB."""
    batch: list[T] = []
    size = 0
    for item in items:
        length = len(str(item).encode()) + _PUNCTUATION
        if batch and (len(batch) == most or size + length > _LONGEST_ARRAY):
            yield batch
            batch, size = [], 0
        batch.append(item)
        size += length
    if batch:
        yield batch


@contextmanager
def memory_file(folder: Path) -> Iterator[tuple[IO[bytes], str]]:
    """A file that the engine can read by its path but that no disk holds, as (file, path).

    Where the system has no such files (not Linux), it lies in `folder` and is removed at the end.
    """
    if hasattr(os, "memfd_create"):
        with os.fdopen(os.memfd_create("aspects-pii"), "wb") as file:
            yield file, f"/proc/self/fd/{file.fileno()}"
    else:  # pragma: no cover
        with tempfile.NamedTemporaryFile(dir=folder, prefix="insert-") as file:
            yield file, file.name


def _escape_path(path: str) -> str:
    return path.replace("\\", "\\\\").replace("'", "\\'")
