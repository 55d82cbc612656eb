"""The helper tables of a change that is under way.

A mutation's text is kept by ClickHouse, so it names tables with the values and holds none itself. These tables stand in
the ledger's database, in one place whatever is changed, and each says in its comment which table the change is about.
They are dropped at the end. What an interruption leaves of them is the business of `sink.erasure.interrupted`.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from sink.clickhouse.client import WAIT_FOR_MUTATIONS, ClickHouse
from sink.errors import AspectsPiiError
from sink.names import HELPER_PREFIX, TableName, quote_text

# .. pii: Names the tables that hold what retired users' rows are found by, and what takes the place of their values.
# .. pii_types: id, name, username, email_address, other
# .. pii_retirement: consumer_api

# Waits for the mutation, and lets it ask the helper tables.
MUTATION = {**WAIT_FOR_MUTATIONS, "allow_nondeterministic_mutations": 1}
# A mutation of ours that has not failed is waited for so long; then it is stopped, and the next sweep goes on.
_WAIT_SECONDS = 3_600.0
_PAUSE_SECONDS = 0.05


@dataclass(frozen=True)
class Work:
    """One change of one table."""

    database: str
    """The ledger's."""
    number: str
    target: TableName

    def table(self, role: str) -> TableName:
        """The helper table for `role`."""
        return TableName(self.database, f"{HELPER_PREFIX}{self.number}_{role}")

    def create(self, client: ClickHouse, role: str, columns: str, order_by: str) -> TableName:
        """Make an empty helper table and return its name."""
        name = self.table(role)
        client.execute(
            f"CREATE TABLE {name.sql} $on_cluster ({columns}) ENGINE = ${{replicated}}MergeTree ORDER BY {order_by} "
            f"COMMENT {self.comment}"
        )
        return name

    @property
    def comment(self) -> str:
        """The comment of each helper table, as a literal: what the change is about."""
        return quote_text(str(self.target))

    def mutate(self, client: ClickHouse, sql: str) -> None:
        """Run a statement that names the helper tables, and wait until it is done on every replica."""
        client.execute(sql, MUTATION)

    def end(self, client: ClickHouse) -> None:
        """Wait for mutations that read the helper tables, stop those that fail, and drop the tables.

        Raises:
            DatabaseError: it could not be done; the tables are found again by their names.
        """
        self._end_mutations(client)
        for name in list_helpers(client, self):
            client.execute(f"DROP TABLE IF EXISTS {name.sql} $on_cluster SYNC")

    def _end_mutations(self, client: ClickHouse) -> None:
        deadline = time.monotonic() + _WAIT_SECONDS
        pause = _PAUSE_SECONDS
        while running := self._list_mutations(client):
            if any(running) or time.monotonic() > deadline:
                client.execute(
                    "KILL MUTATION $on_cluster WHERE database = {database:String} AND table = {table:String} "
                    "AND position(command, {own:String}) > 0 SYNC",
                    database=self.target.database,
                    table=self.target.table,
                    own=f"{HELPER_PREFIX}{self.number}_",
                )
                return
            time.sleep(pause)
            pause = min(pause * 1.5, 5)

    def _list_mutations(self, client: ClickHouse) -> list[str]:
        """Why unfinished mutations of this work fail: an empty text for each that does not."""
        return client.column(
            f"SELECT latest_fail_reason FROM {client.replicas('system.mutations')} WHERE database = {{database:String}} "
            "AND table = {table:String} AND NOT is_done AND NOT is_killed AND position(command, {own:String}) > 0",
            database=self.target.database,
            table=self.target.table,
            own=f"{HELPER_PREFIX}{self.number}_",
        )


def start(client: ClickHouse, target: TableName) -> Work:
    """A change of `target`; nothing is made yet."""
    return Work(client.table("pii_ledger.entries").database, uuid.uuid4().hex[:16], target)


@contextmanager
def begin(client: ClickHouse, target: TableName) -> Iterator[Work]:
    """A change of `target`, whose helper tables are gone at the end, however it ends.

    Raises:
        DatabaseError: they could not be dropped; nothing else went wrong.
    """
    work = start(client, target)
    with ended_on_failure(client, work):
        yield work
    work.end(client)


@contextmanager
def ended_on_failure(client: ClickHouse, work: Work) -> Iterator[None]:
    """End `work` where what follows fails."""
    try:
        yield
    except AspectsPiiError:
        # What went wrong says more than that tables are left, which the next operation sees to.
        with suppress(AspectsPiiError):
            work.end(client)
        raise


def find_works(client: ClickHouse) -> list[Work]:
    """Changes whose helper tables are there: under way, or interrupted."""
    database = client.table("pii_ledger.entries").database
    rows = client.rows(
        "SELECT name, comment FROM system.tables WHERE database = {database:String} AND startsWith(name, {prefix:String}) "
        "ORDER BY name",
        database=database,
        prefix=HELPER_PREFIX,
    )
    works = {}
    for name, comment in rows:
        number = name.removeprefix(HELPER_PREFIX).partition("_")[0]
        about, _, table = comment.partition(".")
        works[number] = Work(database, number, TableName(about, table))
    return list(works.values())


def stop_orphans(client: ClickHouse, works: Sequence[Work]) -> None:
    """Stop mutations of ours that fail for good because somebody has dropped their helper tables.

    They would keep every later mutation of their table from ending.
    """
    numbers = [work.number for work in works]
    rows = client.rows(
        f"SELECT database, table, mutation_id, extract(command, {{number:String}}) AS number "
        f"FROM {client.replicas('system.mutations')} WHERE NOT is_done AND NOT is_killed AND latest_fail_reason != '' "
        "AND number != '' AND number NOT IN {known:Array(String)}",
        number=f"{HELPER_PREFIX}([0-9a-f]{{16}})_",
        known=numbers,
    )
    for database, table, mutation, _ in rows:
        client.execute(
            "KILL MUTATION $on_cluster WHERE database = {database:String} AND table = {table:String} "
            "AND mutation_id = {mutation:String} SYNC",
            database=database,
            table=table,
            mutation=mutation,
        )


def list_helpers(client: ClickHouse, work: Work) -> list[TableName]:
    """The helper tables of a work that are there, in the order in which they are dropped."""
    names = client.column(
        "SELECT name FROM system.tables WHERE database = {database:String} AND startsWith(name, {prefix:String}) "
        # What is looked up goes before what it was made from.
        "ORDER BY name",
        database=work.database,
        prefix=f"{HELPER_PREFIX}{work.number}_",
    )
    return [TableName(work.database, name) for name in names]
