"""What is read of the ledger by a shorter way says what the whole of the entries says, whatever stands in them."""

from __future__ import annotations

import random
import re
import uuid
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sink.clickhouse.migrations import load_migrations
from sink.ledger.entries import Ledger
from sink.ledger.rules import name_entry
from sink.store import Store

FIELDS = ("subject", "at", "action", "request", "actor", "detail")
NOW = datetime.now(UTC)
# Before there was a clock, twice the same, and a day that has not come.
TIMES = [
    datetime(1960, 1, 1, tzinfo=UTC),
    *(NOW - timedelta(days=n) for n in (9, 8, 8, 7, 6, 5)),
    NOW + timedelta(days=9),
]
ACTIONS = ("requested", "requested", "found", "hidden", "erased", "erased", "failed", "reopened", "withdrawn")
SHARED = uuid.UUID(int=1)


def make_entries(seed: int, subjects: int) -> list[tuple[Any, ...]]:
    """Histories as they come, as somebody could have written them, and some that cannot be."""
    chance = random.Random(seed)
    rows: list[tuple[Any, ...]] = []
    for number in range(1, subjects + 1):
        subject = chance.choice([str(number)] * 9 + [f"someone{number}@example.com"])
        requests = [uuid.UUID(int=chance.getrandbits(128)) for _ in range(chance.choice([1, 1, 1, 2]))]
        requests += [SHARED] if chance.random() < 0.02 else []
        if chance.random() < 0.4:
            # What nearly all of a ledger is.
            steps = zip(("requested", "found", "hidden", "erased"), TIMES[1:], strict=False)
            rows += [(subject, at, action, requests[0], None, "{}") for action, at in steps]
        for step in range(chance.randrange(7)):
            # Of two steps at one moment neither is the last.
            at = chance.choice(TIMES) + timedelta(microseconds=step)
            rows.append((subject, at, chance.choice(ACTIONS), chance.choice(requests), None, "{}"))
    for row in chance.sample(rows, len(rows) // 12):
        naive = row[1].replace(tzinfo=None).isoformat()
        name = name_entry({"subject": row[0], "at": naive, "action": row[2], "request": str(row[3])})
        rows.append((row[0], NOW, "voided", row[3], None, f'{{"entry":"{name}","reason":"test"}}'))
    return rows


def read_first_tombstones(store: Store) -> list[tuple[Any, ...]]:
    """The tombstones by the view of migration 0012, which asks everything of every entry."""
    (sql,) = (m.sql for m in load_migrations() if m.name.startswith("0012"))
    found = re.search(r"VIEW \$pii_ledger\.tombstones \$on_cluster AS\n(.*?);", sql, re.DOTALL)
    assert found is not None
    return store.client.rows(f"SELECT * FROM ({found[1]}) ORDER BY subject")


@pytest.fixture(params=[1, 2], ids=lambda seed: f"seed {seed}")
def filled(request: pytest.FixtureRequest, store: Store) -> Store:
    rows = make_entries(request.param, 1500)
    store.client.insert(store.client.table("pii_ledger.entries"), FIELDS, rows)
    return store


def test_tombstones_and_open_retirements_are_those_of_the_whole_ledger(filled: Store) -> None:
    expected = read_first_tombstones(filled)
    assert len(expected) > 500
    assert filled.client.rows("SELECT * FROM $pii_ledger.tombstones ORDER BY subject") == expected

    current = filled.client.rows("SELECT subject, state, is_open FROM $pii_ledger.retirements WHERE is_current")
    still_open = {subject for subject, _, is_open in current if is_open}
    assert 100 < len(still_open) < len(current) - 100
    found = [r.subject for r in filled.ledger.find_open() if not r.subject.startswith("(entry ")]
    assert sorted(found) == sorted(still_open)
    states = Counter(state for _, state, _ in current)
    assert len(states) == 6
    assert filled.ledger.count_states() == dict(states)


def test_tombstones_of_some_are_those_of_all(filled: Store) -> None:
    everybody = dict(filled.client.rows("SELECT subject, retired_at FROM $pii_ledger.tombstones"))
    some = [str(number) for number in range(1, 1500, 7)]
    found = filled.client.rows(
        "SELECT subject, retired_at FROM $pii_ledger.tombstones WHERE subject IN {some:Array(String)}", some=some
    )
    assert len(found) > 50
    assert dict(found) == {subject: everybody[subject] for subject in some if subject in everybody}


def test_nobody_is_open_in_an_empty_ledger(store: Store) -> None:
    ledger = Ledger(store.client)
    assert (ledger.find_open(), ledger.count_states(), ledger.tombstones()) == ([], {}, [])
