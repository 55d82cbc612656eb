"""What the ledger costs once many people have been retired, beside one in which nobody was."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count

from benchmarks.pairs import Ratio, Work, compare
from benchmarks.stores import new_stores
from sink.ledger.entries import Action
from sink.store import Store

_BATCH = "SELECT toInt64(number) FROM numbers(1000000, 10000)"
_ANTI_JOIN = (
    "SELECT count() FROM numbers(1000000, 10000) "
    f"WHERE number NOT IN (SELECT user_id FROM $pii_ledger.tombstones WHERE user_id IN ({_BATCH}))"
)
# Beyond the ids of whoever is in the ledger already.
_IDS = count(100_000_000)


def measure(retired: int) -> list[Ratio]:
    """A ledger of `retired` people with five entries for each, beside an empty one."""
    with new_stores("pii_ledger_full", "pii_ledger_empty") as (full, empty):
        _fill(full, retired)
        # As every sweep does.
        full.ledger.note_progress()
        return [
            compare(
                f"{name}: {retired:,} retired / nobody",
                _repeat(work, full),
                _repeat(work, empty),
                runs=7,
                aim="2 at most",
            )
            for name, work in _list_works()
        ]


def _list_works() -> Iterator[tuple[str, Callable[[Store], object]]]:
    yield "recording a request", lambda store: store.ledger.request([next(_IDS)])
    yield "recording an event", lambda store: store.ledger.record_event(Action.SYNCED, {})
    yield "finding one", lambda store: store.ledger.find([1_000_005])
    yield "finding who is open", lambda store: store.ledger.find_open()
    yield "counting states", lambda store: store.ledger.count_states()
    yield "listing tombstones", lambda store: store.ledger.tombstones()
    yield "leaving tombstones out of 10,000 rows", lambda store: store.client.value(_ANTI_JOIN)


def _repeat(work: Callable[[Store], object], store: Store) -> Work:
    return lambda run: work(store)


def _fill(store: Store, retired: int) -> None:
    """Erased people with the details that a receipt makes long, and as many events; merged, as what is old is."""
    store.client.execute(
        f"""
        INSERT INTO $pii_ledger.entries (subject, at, action, request, detail)
        SELECT if(kind = 4, '', toString(1000000 + person)),
               toDateTime64('2025-01-01 00:00:00', 6, 'UTC') + toIntervalSecond(person) + toIntervalMillisecond(kind * 100),
               ['requested', 'found', 'hidden', 'erased', 'synced'][kind + 1],
               reinterpretAsUUID(sipHash128(person, kind = 4)),
               if(kind = 3, concat('{{"reason": "', repeat('x', 3000), '"}}'), '{{}}')
        FROM (SELECT intDiv(number, 5) AS person, number % 5 AS kind FROM numbers({retired * 5}))
        """,
        # Rows with receipts are long, and few of them are enough for a part.
        {"min_insert_block_size_rows": 100_000, "min_insert_block_size_bytes": 1 << 26},
    )
    store.client.execute("OPTIMIZE TABLE $pii_ledger.entries FINAL")
