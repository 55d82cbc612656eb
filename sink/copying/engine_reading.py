"""The LMS's tables read by ClickHouse itself, where it can reach their database.

It reads in ranges of users, each by one statement of one moment. Whoever has a value that is not plain, or a row here that
was not among what came, is left to Python, which reads in the snapshot: so nothing is removed, or called bad, because of
something that ClickHouse did not see.

.. pii: Rows of profiles and anonymous ids, from the LMS into a temporary table in ClickHouse's memory.
.. pii_types: id, name, username, email_address, location, phone_number, birth_date, gender, biography, image, other
.. pii_retirement: consumer_api
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sink.copying.copies import Copy
from sink.copying.meta import META
from sink.copying.plain_values import SETTINGS as VALUE_SETTINGS
from sink.copying.plain_values import express_plain, express_stored
from sink.errors import DatabaseError, LmsUnreachableError, QueryError, SettingsError
from sink.lms.objects import OBJECTS
from sink.lms.passed import PassedQueries
from sink.lms.snapshot import Snapshot
from sink.names import quote
from sink.store import Store

Reader = Literal["clickhouse", "python"]

# Rules of openedx-authz are no table that can be joined, and who loses a role is looked at from many sides.
_LEFT_TO_PYTHON = ("course_access",)
# Columns in the engine take a fraction of what rows take in Python.
_BATCHES_IN_A_RANGE = 5
# User names hardly ever change; those of another LMS are others.
_KNOWN_SHARE = 0.9
_SETTINGS: dict[str, Any] = {
    # NULL stays NULL, and nothing is cut.
    "external_table_functions_use_nulls": 1,
    "external_storage_max_read_rows": 0,
    "external_storage_max_read_bytes": 0,
    **VALUE_SETTINGS,
}


@dataclass(frozen=True)
class Choice:
    """How one object is read."""

    reading: EngineReading | None
    """None where Python reads it."""
    reason: str = ""
    """Why it is Python, where it might have been ClickHouse."""

    @property
    def reader(self) -> Reader:
        """Who reads."""
        return "clickhouse" if self.reading else "python"


@dataclass(frozen=True)
class EngineReading:
    """What ClickHouse reads of one LMS database."""

    store: Store
    queries: PassedQueries

    def fill_present(self, copy: Copy) -> None:
        """Fill the temporary table of whose rows the LMS has: a user for each row."""
        client = self.store.client
        client.execute(f"DROP TEMPORARY TABLE IF EXISTS {quote(copy.present)}")
        self._read(
            f"CREATE TEMPORARY TABLE {quote(copy.present)} AS "
            f"SELECT assumeNotNull(toInt64(subject_id)) AS user_id FROM {self._source}",
            self.queries.write_user_ids(copy.object),
        )

    def count_rows(self, copy: Copy) -> int:
        """How many rows `fill_present` has found."""
        return int(self.store.client.value(f"SELECT count() FROM {quote(copy.present)}"))

    def split(self, copy: Copy) -> Iterator[tuple[int, int]]:
        """Ranges of users, as (above, up to), with some rows in each, from what `fill_present` found."""
        rows = self.store.policy.sync_batch_size * _BATCHES_IN_A_RANGE
        ends = self.store.client.column(
            f"""
            SELECT max(user_id) AS last FROM (
                SELECT user_id, intDiv(row_number() OVER (ORDER BY user_id) - 1, {{rows:UInt64}}) AS part
                FROM {quote(copy.present)}
            ) GROUP BY part ORDER BY last
            """,
            None,
            rows=rows,
        )
        low = -1
        for high in dict.fromkeys(ends):
            yield low, high
            low = high

    def fill(self, copy: Copy, low: int, high: int) -> None:
        """Fill the temporary table of a batch with a range of users; rows with a value that is not plain are odd in it."""
        client = self.store.client
        known = OBJECTS[copy.object].columns
        columns = ", ".join(
            f"{express_stored(known[name], f'aspects_pii_lms.{quote(name)}')} AS {quote(name)}"
            for name in copy.source_columns
        )
        is_plain = " AND ".join(
            express_plain(known[name], f"aspects_pii_lms.{quote(name)}") for name in copy.source_columns
        )
        client.execute(f"DROP TEMPORARY TABLE IF EXISTS {quote(copy.temporary)}")
        self._read(
            f"CREATE TEMPORARY TABLE {quote(copy.temporary)} AS "
            f"SELECT {columns}, CAST(NOT ({is_plain}), 'Bool') AS is_odd FROM {self._source} AS aspects_pii_lms",
            self.queries.write_rows(copy.object, copy.source_columns, low, high),
        )

    def set_aside(self, copy: Copy, user_ids: Iterable[int]) -> None:
        """Call users odd too."""
        ids = sorted(set(user_ids))
        self.store.client.insert_columns(copy.temporary, ("user_id", "is_odd"), [ids, [True] * len(ids)])

    def list_odd(self, copy: Copy) -> list[int]:
        """The users who are left to Python: no row of theirs is copied from the temporary table."""
        return self.store.client.column(
            f"SELECT DISTINCT user_id FROM {quote(copy.temporary)} WHERE is_odd ORDER BY user_id"
        )

    def drop(self, copy: Copy) -> None:
        """Give back what `fill_present` has filled."""
        self.store.client.execute(f"DROP TEMPORARY TABLE IF EXISTS {quote(copy.present)}")

    def explain_unread(self) -> str:
        """Why ClickHouse does not read the database that we read; empty where it does."""
        collection = self.store.policy.lms_collection
        if not collection and self.queries.backend != "sqlite":
            return "ASPECTS_LMS_COLLECTION is not set"
        ours = self.queries.read_sample()
        try:
            rows = self.store.client.rows(
                f"SELECT toInt64(id), hex(ifNull(username, '')) FROM {self._source}",
                _SETTINGS,
                **self._bind(self.queries.write_sample(sorted(ours) or [0])),
            )
        except DatabaseError as error:
            return f"{f'with the named collection {collection}: ' if collection else ''}{str(error).rstrip('.')}"
        theirs = {user_id: bytes.fromhex(name) for user_id, name in rows}
        known = sum(theirs.get(user_id) == name for user_id, name in ours.items())
        return (
            "" if known >= len(ours) * _KNOWN_SHARE else "it reads another database than ASPECTS_LMS_DATABASE_URL names"
        )

    def _read(self, sql: str, query: str) -> None:
        try:
            self.store.client.execute(sql, _SETTINGS, **self._bind(query))
        except QueryError as error:
            raise LmsUnreachableError(
                f"ClickHouse could not read the LMS ({error.name or 'unknown error'}, {error.code}). Run `aspects-pii doctor`, "
                "or set ASPECTS_LMS_READER=python."
            ) from None

    @property
    def _source(self) -> str:
        """The database as a table of what a query gives; the query is bound, and credentials are the collection's."""
        if self.queries.backend == "sqlite":
            return "sqlite({file:String}, query({query:String}))"
        collection = quote(self.store.policy.lms_collection or "")
        if self.queries.backend == "postgresql":
            return f"postgresql({collection}, query = {{query:String}})"
        return f"mysql({collection}, query = {{query:String}})"

    def _bind(self, query: str) -> dict[str, Any]:
        return {"query": query, **({"file": self.queries.file} if self.queries.backend == "sqlite" else {})}


def choose_readings(
    store: Store, snapshot: Snapshot, copies: Sequence[Copy], user_ids: Sequence[int] | None
) -> dict[str, Choice]:
    """Who reads each object.

    Raises:
        SettingsError: ASPECTS_LMS_READER is `clickhouse`, and ClickHouse does not read this LMS.
    """
    wanted = store.policy.lms_reader
    # A few users are read sooner than it is found out whether ClickHouse may.
    if wanted == "python" or user_ids is not None or (wanted == "auto" and not store.policy.lms_collection):
        return {copy.object: Choice(None) for copy in copies}
    reading = EngineReading(store, snapshot.passed_queries())
    problem = reading.explain_unread()
    if problem and wanted == "clickhouse":
        raise SettingsError(
            f"ASPECTS_LMS_READER is clickhouse, but ClickHouse does not read the LMS: {problem}. Run `aspects-pii doctor`, "
            "or set ASPECTS_LMS_READER=auto."
        )
    return {copy.object: _choose(reading, copy, problem) for copy in copies}


def _choose(reading: EngineReading, copy: Copy, problem: str) -> Choice:
    if copy.object in _LEFT_TO_PYTHON:
        return Choice(None)
    if META in copy.columns:
        problem = problem or "keys of `meta` are kept, which Python picks out"
    problem = problem or reading.queries.explain_types(copy.object, copy.source_columns)
    return Choice(None, problem) if problem else Choice(reading)
