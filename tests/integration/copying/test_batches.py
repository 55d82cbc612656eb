"""One batch of a copy: compared, and written for nobody who was retired meanwhile."""

from __future__ import annotations

from typing import Any

from sink.copying.batches import CopyCounts, compare_batch, create_batch_table, note_tombstones, write_batch
from sink.copying.copies import Copy, plan_copies
from sink.lms.values import Batch
from sink.store import Store


def make_batch(copy: Copy, users: range, name: str) -> Batch:
    values: dict[str, Any] = {"id": 0, "user_id": 0}
    rows = [[user if column in values else f"{name} {user}" for column in copy.columns] for user in users]
    return Batch([list(column) for column in zip(*rows, strict=True)], [], users[-1])


def copy_batch(store: Store, users: range, name: str, *, retire_between: tuple[int, ...] = ()) -> CopyCounts:
    (copy,) = plan_copies(store, ["user_profile"])
    counts = CopyCounts("user_profile")
    note_tombstones(store)
    create_batch_table(store, copy, make_batch(copy, users, name))
    compare_batch(store, copy, {"low": -1, "high": users[-1]}, counts)
    if retire_between:
        store.ledger.request(retire_between)
    write_batch(store, copy)
    return counts


def list_users(store: Store) -> list[int]:
    return store.client.column("SELECT DISTINCT toInt64(user_id) FROM $event_sink.user_profile ORDER BY 1")


def test_a_row_is_new_changed_the_same_or_of_somebody_retired(store: Store) -> None:
    store.ledger.request([4])
    first = copy_batch(store, range(1, 5), "Somebody")
    assert (first.inserted, first.changed, first.unchanged, first.retired) == (3, 0, 0, 1)
    again = copy_batch(store, range(1, 5), "Somebody")
    assert (again.inserted, again.changed, again.unchanged, again.retired) == (0, 0, 3, 1)
    renamed = copy_batch(store, range(2, 6), "Another")
    assert (renamed.inserted, renamed.changed, renamed.unchanged, renamed.retired) == (1, 2, 0, 1)
    assert list_users(store) == [1, 2, 3, 5]


def test_nobody_is_written_who_was_retired_after_the_comparison(store: Store) -> None:
    counts = copy_batch(store, range(1, 6), "Somebody", retire_between=(2, 5))
    assert counts.inserted == 5
    assert list_users(store) == [1, 3, 4]
