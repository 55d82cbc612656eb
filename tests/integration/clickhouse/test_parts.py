"""Parts of tables: what was replaced is off the disk soon, whatever a table says of cleaning up."""

from __future__ import annotations

import pytest

from sink.clickhouse.parts import count_detached_parts, count_old_parts, delete_rows, scrub
from sink.store import Store

SLOW = "cleanup_delay_period = 1, max_cleanup_delay_period = 600, cleanup_delay_period_random_add = 0"


@pytest.mark.parametrize("cleanup", ["old_parts_lifetime = 1", f"old_parts_lifetime = 1, {SLOW}", SLOW])
def test_replaced_parts_are_waited_for_and_gone(store: Store, cleanup: str) -> None:
    table, other = store.client.table("event_sink.somebodys"), store.client.table("event_sink.others")
    for name in (table, other):
        store.client.execute(f"CREATE TABLE {name.sql} (id Int64) ENGINE = MergeTree ORDER BY id SETTINGS {cleanup}")
        store.client.execute(f"INSERT INTO {name.sql} SELECT number FROM numbers(10)")
    delete_rows(store.client, table, "id = 3")
    before = scrub(store.client, [table, other], within=20)
    assert count_old_parts(store.client, [table, other], before) == {}
    assert [store.client.value(f"SELECT count() FROM {name.sql}") for name in (table, other)] == [9, 10]


def test_parts_are_counted_for_each_table(store: Store) -> None:
    first, second = store.client.table("event_sink.first"), store.client.table("event_sink.second")
    for name in (first, second):
        store.client.execute(f"CREATE TABLE {name.sql} (id Int64) ENGINE = MergeTree ORDER BY id PARTITION BY id")
        store.client.execute(f"INSERT INTO {name.sql} SELECT number FROM numbers(3)")
    store.client.execute(f"ALTER TABLE {first.sql} DETACH PARTITION 1")
    store.client.execute(f"ALTER TABLE {first.sql} DETACH PARTITION 2")
    assert count_detached_parts(store.client, [first, second]) == {first: 2}
    assert count_detached_parts(store.client, [second]) == {}
    assert count_detached_parts(store.client, []) == {}
