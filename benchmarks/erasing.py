"""What erasing costs, as ratios of paired runs in one process: who is erased, how many, from which layout.

python benchmarks/erasing.py [ROWS]
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from sink.clickhouse import migrations
from sink.installation import open_store
from sink.settings import load_settings
from sink.store import Store

PAIRS = 5
OURS = "event_sink.user_profile"
UPSTREAM = "event_sink.upstream_profile"


def measure(work: Callable[[], object]) -> float:
    """Seconds that `work` takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def compare(name: str, first: Callable[[int], object], second: Callable[[int], object]) -> None:
    """Print the ratio of `first` to `second`, run in turn; both are given the number of the pair."""
    ratios = [measure(lambda n=n: first(n)) / measure(lambda n=n: second(n)) for n in range(PAIRS)]  # type: ignore[misc]
    print(f"{name}: {median(ratios):.2f} (from {min(ratios):.2f} to {max(ratios):.2f}, {PAIRS} pairs)")


def fill(store: Store, rows: int) -> None:
    """Both layouts with the same rows."""
    migrations.migrate(store.client)
    columns = "id, user_id, name, username, email, bio"
    values = "number, number, concat('n', toString(number)), toString(number), toString(number), repeat('b', 100)"
    store.client.execute(f"INSERT INTO {OURS} ({columns}) SELECT {values} FROM numbers({rows})")
    store.client.execute(
        f"CREATE TABLE {UPSTREAM} AS {OURS} ENGINE = ReplacingMergeTree PARTITION BY user_id MOD 100 "
        "ORDER BY (id, time_last_dumped)"
    )
    store.client.execute(f"INSERT INTO {UPSTREAM} SELECT * FROM {OURS}", {"max_partitions_per_insert_block": 0})


def main() -> None:
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    with (
        tempfile.TemporaryDirectory() as folder,
        open_store(load_settings(clickhouse_url=f"chdb://{folder}/clickhouse", receipts_dir=Path(folder))) as store,
    ):
        fill(store, rows)

        def hide(table: str, ids: range) -> None:
            store.client.execute(
                f"DELETE FROM {table} WHERE user_id IN {{ids:Array(Int64)}}",
                {"lightweight_deletes_sync": 2},
                ids=list(ids),
            )

        def mutate(table: str, ids: range) -> None:
            store.client.execute(
                f"ALTER TABLE {table} DELETE WHERE user_id IN {{ids:Array(Int64)}}",
                {"mutations_sync": 2},
                ids=list(ids),
            )

        print(f"{rows:,} profiles")
        compare(
            "1,000 users in one statement / 1 user",
            lambda n: hide(OURS, range(n * 2000, n * 2000 + 1000)),
            lambda n: hide(OURS, range(n * 2000 + 1500, n * 2000 + 1501)),
        )
        compare(
            "mutation / lightweight delete, 1 user",
            lambda n: mutate(OURS, range(n + 20_000, n + 20_001)),
            lambda n: hide(OURS, range(n + 30_000, n + 30_001)),
        )
        compare(
            "upstream's layout / ours, 1 user",
            lambda n: hide(UPSTREAM, range(n + 40_000, n + 40_001)),
            lambda n: hide(OURS, range(n + 40_000, n + 40_001)),
        )


if __name__ == "__main__":
    main()
