"""What it costs to take many `delete-user` events from a Redis stream, beside retiring the same people with one command."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import redis

from benchmarks.pairs import Ratio, compare
from benchmarks.stores import new_store
from sink.doors.events.actions import Actions
from sink.doors.events.consumer import run_consumer
from sink.retirement.retire import retire
from sink.settings import Settings, load_settings
from sink.store import Store

#: A database of Redis that is emptied; ASPECTS_BENCH_REDIS names another.
REDIS = os.environ.get("ASPECTS_BENCH_REDIS", "redis://127.0.0.1:6379/13")
_STREAM = "jobs"
_RUNS = 3


def measure(users: int) -> list[Ratio]:
    """A twentieth of `users`, at most 5,000, is deleted at once."""
    together = min(5_000, users // 20)
    with new_store() as store, redis.Redis.from_url(REDIS) as client, tempfile.TemporaryDirectory() as receipts:
        client.flushdb()
        ids = _fill(store, 2 * _RUNS * together)
        settings = load_settings(
            enable_pii=False,
            clickhouse_url=store.client.address.url,
            event_bus_url=REDIS,
            event_streams=_STREAM,
            event_bus_topics="",
            receipts_dir=Path(receipts),
            retire_max_share=1,
        )
        recorded: list[float] = []
        try:
            return [
                compare(
                    f"{together:,} delete-user events, to the proof / one `retire`",
                    lambda run: recorded.append(_consume(settings)),
                    lambda run: retire(store, [next(ids) for _ in range(together)], force=True),
                    before=lambda run: _send(client, [next(ids) for _ in range(together)]),
                    runs=_RUNS,
                )
            ]
        finally:
            for seconds in recorded:
                print(f"  recorded, from the start of the consumer: {together / seconds:,.0f} a second  aim: 2,000")
            client.flushdb()


def _fill(store: Store, users: int) -> Iterator[int]:
    """Profiles; gives the ids, each once."""
    store.client.execute(
        "INSERT INTO $event_sink.user_profile (id, user_id, name, username, email, bio) SELECT number + 1, number + 1, "
        "concat('n', toString(number)), concat('u', toString(number)), concat('u', toString(number), '@example.com'), "
        f"repeat('b', 100) FROM numbers({users})"
    )
    return count(1)


def _send(client: Any, user_ids: list[int]) -> None:
    with client.pipeline() as messages:
        for user_id in user_ids:
            event = {
                "eid": "BE_JOB_REQUEST",
                "object": {"id": str(user_id), "type": "User"},
                "edata": {"action": "delete-user", "userId": str(user_id), "managed_users": []},
            }
            messages.xadd(_STREAM, {"event": json.dumps(event)})
        messages.execute()


def _consume(settings: Settings) -> float:
    """Work off what is there, and return the seconds until all of it was recorded."""
    began = last = time.perf_counter()
    request = Actions.request

    def note(self: Actions, deliveries: Any) -> Any:
        nonlocal last
        subjects = request(self, deliveries)
        last = time.perf_counter()
        return subjects

    Actions.request = note  # type: ignore[method-assign]
    try:
        run_consumer(settings, once=True)
    finally:
        Actions.request = request  # type: ignore[method-assign]
    return last - began
