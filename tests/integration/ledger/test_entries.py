"""The ledger: append-only, one entry for one request, states that follow from it, a clock that never runs back."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta

import pytest

from sink.errors import DatabaseError, LedgerError
from sink.ledger.entries import Ledger
from sink.store import Store


@pytest.fixture
def ledger(store: Store) -> Ledger:
    """An empty ledger."""
    return store.ledger


def count_entries(store: Store) -> int:
    """Lines in the table."""
    return int(store.client.value("SELECT count() FROM $pii_ledger.entries"))


def test_request_makes_a_tombstone(store: Store, ledger: Ledger) -> None:
    assert ledger.tombstones() == []
    requested = ledger.request([42, 7], "officer-1")
    assert {r.subject: (r.state, r.actor, r.is_open) for r in requested} == {
        "42": ("requested", "officer-1", True),
        "7": ("requested", "officer-1", True),
    }
    assert len({r.request for r in requested}) == 2
    assert sorted(ledger.tombstones()) == ["42", "7"]
    assert sorted(store.client.column("SELECT user_id FROM $pii_ledger.tombstones")) == [7, 42]


def test_request_twice_is_one_entry(store: Store, ledger: Ledger) -> None:
    first = ledger.request([42, 42])
    again = ledger.request([42], "officer-1")
    assert first == again
    assert count_entries(store) == 1
    assert len(ledger.show()) == 1


@pytest.mark.parametrize("late", [False, True], ids=["before the erasure", "after it"])
def test_two_who_request_at_the_same_moment_request_one_retirement(ledger: Ledger, late: bool) -> None:
    """Each has looked before the other wrote; the second line may come when all is done."""
    (retirement,) = ledger.request([42], "officer-1")
    ledger.record("found", [(42, retirement.request, {"rows": {"a": 3}})])
    if late:
        ledger.record("erased", [(42, retirement.request, {"receipt": {}})])
    (line,) = ledger.show(action="requested")
    ledger.record("requested", [(42, line.request, {})], "officer-1")
    (now,) = ledger.find([42])
    assert (now.request, now.requested_at) == (retirement.request, retirement.requested_at)
    assert (now.state, now.detail) == (("erased", {"receipt": {}}) if late else ("requested", {}))
    assert ledger.find_counts([now]) == {"42": {"a": 3}}
    assert ledger.count_states() == {now.state: 1}
    # Taken back and asked for again it is another one.
    if not late:
        ledger.record("withdrawn", [(42, now.request, {})])
        assert [r.state for r in ledger.find([42])] == ["withdrawn"]
        (again,) = ledger.request([42], "officer-1")
        assert (again.state, again.request != now.request) == ("requested", True)
        assert again.requested_at > now.requested_at


def test_the_same_request_has_the_same_name_whoever_records_it(store: Store) -> None:
    (one,) = Ledger(store.client).request([42])
    store.client.execute("TRUNCATE TABLE $pii_ledger.entries")
    (other,) = Ledger(store.client).request([42])
    assert one.request == other.request


def test_request_after_the_erasure_is_no_new_entry(store: Store, ledger: Ledger) -> None:
    (retirement,) = ledger.request([42])
    ledger.record("erased", [(42, retirement.request, {})])
    (again,) = ledger.request([42])
    assert (again.state, again.is_open, again.request) == ("erased", False, retirement.request)
    assert count_entries(store) == 2


def test_states_follow_the_last_entry(ledger: Ledger) -> None:
    (retirement,) = ledger.request([42])
    for action in ("failed", "hidden", "erased", "reopened", "hidden", "erased"):
        at = ledger.record(action, [(42, retirement.request, {"reason": action})])
        (now,) = ledger.find([42])
        assert (now.state, now.since, now.detail) == (action, at, {"reason": action})
        assert now.is_open == (action != "erased")
        assert now.request == retirement.request
        assert now.requested_at == retirement.requested_at
        assert [r.subject for r in ledger.find_open()] == (["42"] if now.is_open else [])
        assert [r.subject for r in ledger.find_erased()] == ([] if now.is_open else ["42"])
    assert ledger.count_states() == {"erased": 1}


def test_other_actions_do_not_change_a_state(ledger: Ledger) -> None:
    (retirement,) = ledger.request([42])
    ledger.record("found", [(42, retirement.request, {"rows": {"event_sink.a": 3}})])
    ledger.record("exported", [(42, uuid.uuid4(), {})])
    ledger.record_event("purged", {"rows": {}})
    assert ledger.find([42]) == [retirement]


def test_withdrawn_request_is_no_tombstone_and_can_be_made_again(store: Store, ledger: Ledger) -> None:
    (first,) = ledger.request([42])
    ledger.record("withdrawn", [(42, first.request, {})])
    assert ledger.tombstones() == []
    assert ledger.find_open() == []
    assert ledger.find([42])[0].state == "withdrawn"
    (second,) = ledger.request([42], "officer-2")
    assert second.state == "requested"
    assert second.request != first.request
    assert second.actor == "officer-2"
    assert ledger.tombstones() == ["42"]
    assert count_entries(store) == 3


def test_system_is_nobody(ledger: Ledger) -> None:
    ledger.request([1], "officer-1")
    (first,) = ledger.find([1])
    ledger.record("withdrawn", [(1, first.request, {})], "officer-1")
    (second,) = ledger.request([1])
    assert second.actor is None


def test_open_retirements_come_oldest_first(ledger: Ledger) -> None:
    for subject in (9, 1, 5):
        ledger.request([subject])
    assert [r.subject for r in ledger.find_open()] == ["9", "1", "5"]


def test_find_is_about_the_subjects_asked_for(ledger: Ledger) -> None:
    ledger.request(list(range(1, 6001)))
    assert len(ledger.find(list(range(1, 6001)))) == 6000
    assert [r.subject for r in ledger.find([17, 99999])] == ["17"]
    assert ledger.find([]) == []
    assert ledger.request([]) == []


def test_subjects_may_be_texts(store: Store, ledger: Ledger) -> None:
    key = "6f9619ff-8b86-d011-b42d-00c04fc964ff"
    ledger.request([key])
    assert ledger.tombstones() == [key]
    # 0 is no user.
    assert store.client.column("SELECT user_id FROM $pii_ledger.tombstones") == [0]


def test_found_rows_are_kept_over_interruptions(ledger: Ledger) -> None:
    retirements = ledger.request([1, 2])
    ids = {r.subject: r.request for r in retirements}
    ledger.record("found", [(1, ids["1"], {"rows": {"a.b": 5, "a.c": 1}}), (2, ids["2"], {"rows": {"a.b": 2}})])
    ledger.record("found", [(1, ids["1"], {"rows": {"a.b": 3}})])
    ledger.record("found", [(1, uuid.uuid4(), {"rows": {"a.b": 99}})])
    assert ledger.find_counts(retirements) == {"1": {"a.b": 5, "a.c": 1}, "2": {"a.b": 2}}


def test_clock_never_runs_back(store: Store, ledger: Ledger) -> None:
    future = datetime.now(UTC) + timedelta(days=2)
    store.client.execute(
        "INSERT INTO $pii_ledger.entries SELECT '1', parseDateTime64BestEffort({at:String}, 6, 'UTC'), 'requested', "
        "generateUUIDv4(), NULL, '{}'",
        at=future.isoformat(),
    )
    (retirement,) = ledger.find([1])
    at = ledger.record("withdrawn", [(1, retirement.request, {})])
    assert at > future
    assert ledger.find([1])[0].state == "withdrawn"
    times = [ledger.record_event("purged", {}) for _ in range(20)]
    assert times == sorted(set(times))
    assert times[0] > at


def test_times_are_clickhouse_s(ledger: Ledger) -> None:
    before = datetime.now(UTC) - timedelta(seconds=1)
    (retirement,) = ledger.request([1])
    assert before < retirement.requested_at < datetime.now(UTC) + timedelta(seconds=1)
    assert retirement.requested_at.tzinfo is not None


def test_entry_written_twice_is_read_once(store: Store, ledger: Ledger) -> None:
    # A failed insert may have been carried out, and is repeated.
    ledger.request([1], "officer-1")
    before = ledger.find([1]), ledger.show(), ledger.count_states(), ledger.tombstones()
    store.client.execute("INSERT INTO $pii_ledger.entries SELECT * FROM $pii_ledger.entries")
    assert count_entries(store) == 2
    assert (ledger.find([1]), ledger.show(), ledger.count_states(), ledger.tombstones()) == before


def test_ledger_is_only_appended_to(store: Store, ledger: Ledger) -> None:
    seen: list[tuple[object, ...]] = []
    (retirement,) = ledger.request([1])
    for action in ("hidden", "erased", "reopened", "withdrawn"):
        ledger.record(action, [(1, retirement.request, {})])
        ledger.request([1])
        now = store.client.rows("SELECT * FROM $pii_ledger.entries ORDER BY at")
        assert now[: len(seen)] == seen
        assert len(now) > len(seen)
        seen = now
    assert store.client.value("SELECT count() FROM system.mutations WHERE database = 'pii_ledger'") == 0


def test_show_filters(ledger: Ledger) -> None:
    ledger.request([1, 2], "officer-1")
    ledger.request([3])
    middle = ledger.record_event("purged", {"rows": {"a.b": 3}}, "officer-2")
    (retirement,) = ledger.find([1])
    ledger.record("erased", [(1, retirement.request, {})])
    assert len(ledger.show()) == 5
    assert [e.action for e in ledger.show(subject="1")] == ["requested", "erased"]
    assert [e.subject for e in ledger.show(action="requested")] == ["1", "2", "3"]
    assert [e.action for e in ledger.show(actor="officer-2")] == ["purged"]
    assert [e.action for e in ledger.show(since=middle)] == ["purged", "erased"]
    assert [e.subject for e in ledger.show(until=middle)] == ["1", "2", "3"]
    assert [e.subject for e in ledger.show(actor="officer-1", subject="2")] == ["2"]
    assert [e.action for e in ledger.show(limit=2)] == ["purged", "erased"]
    assert ledger.show(subject="nobody") == []
    (purged,) = ledger.show(action="purged")
    assert (purged.subject, purged.actor, purged.detail) == ("", "officer-2", {"rows": {"a.b": 3}})


def test_ledger_that_cannot_be_written_says_so(store: Store, ledger: Ledger) -> None:
    store.client.execute("DROP TABLE $pii_ledger.entries")
    with pytest.raises(LedgerError, match="could not be written") as caught:
        ledger.record("erased", [(42, uuid.uuid4(), {"reason": "a reason"})])
    assert caught.value.retriable
    assert "a reason" not in str(caught.value)


def test_request_that_cannot_be_recorded_is_an_error(store: Store, ledger: Ledger) -> None:
    store.client.execute("DROP TABLE $pii_ledger.entries")
    with pytest.raises((LedgerError, DatabaseError)):
        ledger.request([42])
