"""What is read of the ledger by a shorter way says what the whole of the entries says, whatever stands in them."""

from __future__ import annotations

import random
import re
import uuid
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sink.clickhouse.migrations import load_migrations
from sink.ledger import checkpoints
from sink.ledger.checkpoints import read_checkpoint
from sink.ledger.entries import Action, Ledger
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


def make_entries(
    seed: int, subjects: int, times: Sequence[datetime] = TIMES, known: Sequence[tuple[Any, ...]] = ()
) -> list[tuple[Any, ...]]:
    """Histories as they come, as somebody could have written them, and some that cannot be.

    Where entries are known, half of the new ones go on with their requests.
    """
    chance = random.Random(seed)
    rows: list[tuple[Any, ...]] = []
    for number in range(1, subjects + 1):
        subject = chance.choice([str(number)] * 9 + [f"someone{number}@example.com"])
        requests = [uuid.UUID(int=chance.getrandbits(128)) for _ in range(chance.choice([1, 1, 1, 2]))]
        requests += [SHARED] if chance.random() < 0.02 else []
        if known and chance.random() < 0.5:
            entry = chance.choice(known)
            subject, requests[0] = entry[0], entry[3]
        if chance.random() < 0.4:
            # What nearly all of a ledger is.
            steps = zip(("requested", "found", "hidden", "erased"), times[1:], strict=False)
            rows += [(subject, at, action, requests[0], None, "{}") for action, at in steps]
        for step in range(chance.randrange(7)):
            # Of two steps at one moment neither is the last.
            at = chance.choice(times) + timedelta(microseconds=step)
            rows.append((subject, at, chance.choice(ACTIONS), chance.choice(requests), None, "{}"))
    for row in chance.sample([*rows, *known], (len(rows) + len(known)) // 12):
        naive = row[1].replace(tzinfo=None).isoformat()
        name = name_entry({"subject": row[0], "at": naive, "action": row[2], "request": str(row[3])})
        rows.append(
            (
                chance.choice(["", row[0]]),
                max(times[:-1]),
                "voided",
                row[3],
                None,
                f'{{"entry":"{name}","reason":"test"}}',
            )
        )
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
    require_states_of_the_whole(filled)


def require_states_of_the_whole(store: Store) -> None:
    """Who is open, and how many are in which state, is what the view of retirements says of everybody."""
    current = store.client.rows("SELECT subject, state, is_open FROM $pii_ledger.retirements WHERE is_current")
    still_open = {subject for subject, _, is_open in current if is_open}
    assert 100 < len(still_open) < len(current) - 100
    nameless = store.client.column(
        "SELECT DISTINCT entry FROM $pii_ledger.marked_entries WHERE action = 'requested' AND NOT has_subject AND NOT is_voided"
    )
    found = [r.subject for r in store.ledger.find_open()]
    assert sorted(found) == sorted([*still_open, *(f"(entry {entry})" for entry in nameless)])
    states = Counter(state for _, state, _ in current)
    assert len(states) == 6
    assert store.ledger.count_states() == dict(states)


# From now on, and later than that on a day that has not come.
LATER = [*(NOW + timedelta(minutes=n) for n in (10, 20, 20, 30, 40, 50)), NOW + timedelta(days=9)]


@pytest.mark.parametrize("has_nameless", [True, False])
@pytest.mark.parametrize("seed", [1, 2])
def test_from_a_checkpoint_on_the_same_is_found(
    store: Store, monkeypatch: pytest.MonkeyPatch, seed: int, has_nameless: bool
) -> None:
    monkeypatch.setattr(checkpoints, "_MANY_ENTRIES", 100)
    table = store.client.table("pii_ledger.entries")
    before = [row for row in make_entries(seed, 1500) if has_nameless or "@" not in row[0] != ""]
    store.client.insert(table, FIELDS, before)
    store.ledger.note_progress()
    require_states_of_the_whole(store)
    assert read_checkpoint(store.client) is not None
    store.client.insert(table, FIELDS, make_entries(seed + 10, 300, LATER, before))
    assert read_checkpoint(store.client) is not None, "what comes later leaves it standing"
    require_states_of_the_whole(store)


@pytest.fixture
def noted(store: Store, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A ledger with a checkpoint, in which nobody is open."""
    monkeypatch.setattr(checkpoints, "_MANY_ENTRIES", 1)
    for subject in range(1, 6):
        retirements = store.ledger.request([subject])
        store.ledger.record(Action.ERASED, [(r.subject, r.request, {}) for r in retirements])
    store.ledger.note_progress()
    assert store.client.column("SELECT unsettled FROM $pii_ledger.checkpoints") == [[]]
    return store


def test_an_entry_of_an_earlier_time_is_not_passed_over(noted: Store) -> None:
    """As an import, another host, or a forger writes it."""
    assert noted.ledger.find_open() == []
    row = ("9", NOW - timedelta(days=3), "requested", uuid.uuid4(), None, "{}")
    noted.client.insert(noted.client.table("pii_ledger.entries"), FIELDS, [row])
    assert read_checkpoint(noted.client) is None
    assert [r.subject for r in noted.ledger.find_open()] == ["9"]
    assert noted.ledger.count_states() == {"erased": 5, "requested": 1}
    noted.ledger.note_progress()
    assert read_checkpoint(noted.client) is not None
    assert [r.subject for r in noted.ledger.find_open()] == ["9"]


@pytest.mark.parametrize("hours", [-25, 1])
def test_a_checkpoint_counts_for_a_day(noted: Store, hours: int) -> None:
    """Whatever stands in one that somebody has changed, or that a clock which was ahead has left, is soon out."""
    (retirement,) = noted.ledger.find([1])
    noted.ledger.reopen([retirement], "test")
    assert [r.subject for r in noted.ledger.find_open()] == ["1"]
    # One in which the person is missing.
    noted.client.execute("TRUNCATE TABLE $pii_ledger.checkpoints")
    noted.client.execute(
        "INSERT INTO $pii_ledger.checkpoints (until, entries, asked, nameless, noted_at) "
        "SELECT now64(6), count(), 5, 0, now64(6) + toIntervalHour({hours:Int32}) FROM $pii_ledger.entries",
        hours=hours,
    )
    assert [r.subject for r in noted.ledger.find_open()] == ["1"]


def test_a_checkpoint_names_nobody_who_has_no_opaque_id(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "_MANY_ENTRIES", 1)
    rows = [(subject, NOW, "requested", uuid.uuid4(), None, "{}") for subject in ("8", "jane@example.com")]
    store.client.insert(store.client.table("pii_ledger.entries"), FIELDS, rows)
    store.ledger.note_progress()
    assert store.client.rows("SELECT unsettled, nameless FROM $pii_ledger.checkpoints") == [(["8"], 1)]
    assert len(store.ledger.find_open()) == 2


def test_a_short_ledger_gets_no_checkpoint_and_a_long_one_no_second(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = []
    store.ledger.request([1])
    for many in (2, 1, 1):
        monkeypatch.setattr(checkpoints, "_MANY_ENTRIES", many)
        store.ledger.note_progress()
        counts.append(store.client.value("SELECT count() FROM $pii_ledger.checkpoints"))
    assert counts == [0, 1, 1]


def test_a_ledger_of_before_there_were_checkpoints_is_read(store: Store) -> None:
    store.ledger.request([1])
    store.client.execute("DROP TABLE $pii_ledger.checkpoints SYNC")
    assert [r.subject for r in store.ledger.find_open()] == ["1"]
    assert store.ledger.count_states() == {"requested": 1}


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
