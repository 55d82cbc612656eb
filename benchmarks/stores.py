"""Stores to measure in: the engine in process, in a folder of its own."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from sink.clickhouse import migrations
from sink.installation import open_store
from sink.settings import load_settings
from sink.store import Store


@contextmanager
def new_stores(*ledgers: str) -> Iterator[list[Store]]:
    """Migrated stores without a row, one for each name of a ledger's database; removed at the end.

    They share the PII tables, since the engine in process opens one folder.
    """
    with tempfile.TemporaryDirectory(prefix="aspects-pii-bench-") as folder, ExitStack() as stack:
        stores = []
        for ledger in ledgers:
            settings = load_settings(
                clickhouse_url=f"chdb://{folder}/clickhouse",
                receipts_dir=Path(folder, "receipts"),
                ledger_database=ledger,
            )
            store = stack.enter_context(open_store(settings, creates=True))
            migrations.migrate(store.client)
            stores.append(store)
        yield stores


@contextmanager
def new_store() -> Iterator[Store]:
    """One migrated store without a row."""
    with new_stores("pii_ledger") as (store,):
        yield store


def empty(store: Store, place: str) -> None:
    """Take every row out of a table of the map."""
    store.client.execute(f"TRUNCATE TABLE {store.client.table(place).sql}")
