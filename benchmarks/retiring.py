"""What a retirement costs: how many at once, of how many, and what of it is the engine's."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.pairs import Ratio, Work, compare
from benchmarks.stores import new_store
from sink.retirement.retire import retire
from sink.store import Store

_OURS = "event_sink.user_profile"
_UPSTREAM = "event_sink.upstream_profile"


def measure(users: int) -> list[Ratio]:
    """Retirements among `users` profiles."""
    with new_store() as store:
        ids = _fill(store, users)
        together = min(10_000, users // 10)
        return [
            compare(
                "one, to the proof / two mutations of one", lambda run: _retire(store, ids, 1), _mutations(store, ids)
            ),
            compare("100 together / one", lambda run: _retire(store, ids, 100), lambda run: _retire(store, ids, 1)),
            compare(
                f"{together:,} together / 100 together",
                lambda run: _retire(store, ids, together),
                lambda run: _retire(store, ids, 100),
                aim="3 at most for 10,000",
            ),
            compare(
                "hiding one in upstream's layout / in ours",
                lambda run: _hide(store, _UPSTREAM, ids),
                lambda run: _hide(store, _OURS, ids),
            ),
        ]


def _fill(store: Store, users: int) -> Iterator[int]:
    """Both layouts with the same rows; gives the ids, each once."""
    ours, upstream = (store.client.table(place).sql for place in (_OURS, _UPSTREAM))
    store.client.execute(
        f"INSERT INTO {ours} (id, user_id, name, username, email, bio) "
        "SELECT number + 1, number + 1, concat('n', toString(number)), concat('u', toString(number)), "
        f"concat('u', toString(number), '@example.com'), repeat('b', 100) FROM numbers({users})"
    )
    store.client.execute(
        f"CREATE TABLE {upstream} AS {ours} ENGINE = ReplacingMergeTree PARTITION BY user_id MOD 100 "
        "ORDER BY (id, time_last_dumped)"
    )
    store.client.execute(f"INSERT INTO {upstream} SELECT * FROM {ours}", {"max_partitions_per_insert_block": 0})
    return iter(range(1, users + 1))


def _retire(store: Store, ids: Iterator[int], count: int) -> None:
    retire(store, [next(ids) for _ in range(count)], force=True)


def _mutations(store: Store, ids: Iterator[int]) -> Work:
    def run(_: int) -> None:
        user_id = next(ids)
        for place in (_OURS, "event_sink.external_id"):
            store.client.execute(
                f"ALTER TABLE {store.client.table(place).sql} DELETE WHERE user_id = {{id:Int64}}",
                {"mutations_sync": 2},
                id=user_id,
            )

    return run


def _hide(store: Store, place: str, ids: Iterator[int]) -> None:
    store.client.execute(
        f"DELETE FROM {store.client.table(place).sql} WHERE user_id = {{id:Int64}}",
        {"lightweight_deletes_sync": 2},
        id=next(ids),
    )
