"""The ledger: append-only, one entry for one request, states that follow from it, a clock that never runs back."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta

import pytest

from sink.errors import LedgerError, MigrationError
from sink.ledger.entries import Action, Ledger, State
from sink.retirement.status import read_status
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
    requested = ledger.request([42, 7], "17")
    assert {r.subject: (r.state, r.actor, r.is_open) for r in requested} == {
        "42": ("requested", "17", True),
        "7": ("requested", "17", True),
    }
    assert len({r.request for r in requested}) == 2
    assert sorted(ledger.tombstones()) == ["42", "7"]
    assert sorted(store.client.column("SELECT user_id FROM $pii_ledger.tombstones")) == [7, 42]


def test_request_twice_is_one_entry(store: Store, ledger: Ledger) -> None:
    first = ledger.request([42, 42])
    again = ledger.request([42], "17")
    assert first == again
    assert count_entries(store) == 1
    assert len(ledger.show()) == 1


def test_ended_retirements_come_page_by_page_the_latest_first(ledger: Ledger) -> None:
    ledger.request([1, 2, 3, 4])
    by_subject = {r.subject: r for r in ledger.find([1, 2, 3, 4])}
    for subject in (2, 1):
        ledger.record(Action.ERASED, [(subject, by_subject[str(subject)].request, {"receipt": {}})])
    ledger.record(Action.WITHDRAWN, [(3, by_subject["3"].request, {})])
    assert [r.subject for r in ledger.find_closed(limit=10)] == ["3", "1", "2"]
    assert [r.subject for r in ledger.find_closed(limit=2, offset=1)] == ["1", "2"]
    assert [r.subject for r in ledger.find_closed(erased_only=True, limit=10)] == ["1", "2"]
    assert ledger.find_closed(limit=10, offset=3) == []


def test_a_retirement_is_found_by_its_number(ledger: Ledger) -> None:
    (before,) = ledger.request([42])
    assert ledger.find_by_request(before.request) == ledger.find([42])[0]
    assert ledger.find_by_request(uuid.uuid4()) is None
    # Withdrawn and asked for again it has another number.
    ledger.record(Action.WITHDRAWN, [(42, before.request, {})])
    (after,) = ledger.request([42])
    found = ledger.find_by_request(after.request)
    assert found is not None
    assert found.subject == "42"
    assert ledger.find_by_request(before.request) is None


@pytest.mark.parametrize("late", [False, True], ids=["before the erasure", "after it"])
def test_requests_at_the_same_moment_are_one_retirement(ledger: Ledger, late: bool) -> None:
    """Each has looked before the other wrote; the second line may come when all is done."""
    (retirement,) = ledger.request([42], "17")
    if late:
        ledger.record(Action.FOUND, [(42, retirement.request, {"rows": {"a": 3}})])
        ledger.record(Action.ERASED, [(42, retirement.request, {"receipt": {}})])
    (line,) = ledger.show(action="requested")
    ledger.record(Action.REQUESTED, [(42, line.request, {})], "17")
    (now,) = ledger.find([42])
    assert (now.request, now.requested_at) == (retirement.request, retirement.requested_at)
    assert (now.state, now.detail) == (("erased", {"receipt": {}}) if late else ("requested", {}))
    assert ledger.find_counts([now]) == ({"42": {"a": 3}} if late else {})
    assert ledger.count_states() == {now.state: 1}
    # Taken back and asked for again it is another one.
    if not late:
        ledger.record(Action.WITHDRAWN, [(42, now.request, {})])
        assert [r.state for r in ledger.find([42])] == ["withdrawn"]
        (again,) = ledger.request([42], "17")
        assert (again.state, again.request != now.request) == ("requested", True)
        assert again.requested_at > now.requested_at


def test_request_has_the_same_name_whoever_records_it(store: Store) -> None:
    (one,) = Ledger(store.client).request([42])
    store.client.execute("TRUNCATE TABLE $pii_ledger.entries")
    (other,) = Ledger(store.client).request([42])
    assert one.request == other.request


def test_request_after_the_erasure_is_no_new_entry(store: Store, ledger: Ledger) -> None:
    (retirement,) = ledger.request([42])
    ledger.record(Action.ERASED, [(42, retirement.request, {})])
    (again,) = ledger.request([42])
    assert (again.state, again.is_open, again.request) == ("erased", False, retirement.request)
    assert count_entries(store) == 2


def test_states_follow_the_last_entry(ledger: Ledger) -> None:
    (retirement,) = ledger.request([42])
    for action in map(Action, ("failed", "hidden", "erased", "reopened", "hidden", "erased")):
        at = ledger.record(action, [(42, retirement.request, {"reason": action})])
        (now,) = ledger.find([42])
        said = {"reason": action} if action in ("failed", "reopened") else {}
        assert (now.state, now.since, now.detail) == (State(action), at, said)
        assert now.is_open == (action != "erased")
        assert now.request == retirement.request
        assert now.requested_at == retirement.requested_at
        assert [r.subject for r in ledger.find_open()] == (["42"] if now.is_open else [])
        assert [r.subject for r in ledger.find_erased()] == ([] if now.is_open else ["42"])
    assert ledger.count_states() == {"erased": 1}


def test_other_actions_do_not_change_a_state(ledger: Ledger) -> None:
    (retirement,) = ledger.request([42])
    ledger.record(Action.FOUND, [(42, retirement.request, {"rows": {"event_sink.a": 3}})])
    ledger.record(Action.VERIFIED, [(42, uuid.uuid4(), {})])
    ledger.record_event(Action.PURGED, {"rows": {}})
    assert ledger.find([42]) == [retirement]


def test_withdrawn_request_is_no_tombstone_and_can_be_made_again(store: Store, ledger: Ledger) -> None:
    (first,) = ledger.request([42])
    ledger.record(Action.WITHDRAWN, [(42, first.request, {})])
    assert ledger.tombstones() == []
    assert ledger.find_open() == []
    assert ledger.find([42])[0].state == "withdrawn"
    (second,) = ledger.request([42], "18")
    assert second.state == "requested"
    assert second.request != first.request
    assert second.actor == "18"
    assert ledger.tombstones() == ["42"]
    assert count_entries(store) == 3


def test_system_is_nobody(ledger: Ledger) -> None:
    ledger.request([1], "17")
    (first,) = ledger.find([1])
    ledger.record(Action.WITHDRAWN, [(1, first.request, {})], "17")
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
    ledger.record(Action.FOUND, [(1, ids["1"], {"rows": {"a.b": 5, "a.c": 1}}), (2, ids["2"], {"rows": {"a.b": 2}})])
    ledger.record(Action.FOUND, [(1, ids["1"], {"rows": {"a.b": 3}})])
    ledger.record(Action.FOUND, [(1, uuid.uuid4(), {"rows": {"a.b": 99}})])
    assert ledger.find_counts(retirements) == {"1": {"a.b": 5, "a.c": 1}, "2": {"a.b": 2}}


def test_clock_never_runs_back(store: Store, ledger: Ledger) -> None:
    future = datetime.now(UTC) + timedelta(days=2)
    store.client.execute(
        "INSERT INTO $pii_ledger.entries SELECT '1', parseDateTime64BestEffort({at:String}, 6, 'UTC'), 'requested', "
        "generateUUIDv4(), NULL, '{}'",
        at=future.isoformat(),
    )
    (retirement,) = ledger.find([1])
    # It is a mistake: the request counts, and nothing has to come after a time that may be in a thousand years.
    assert ledger.tombstones() == ["1"]
    at = ledger.record(Action.WITHDRAWN, [(1, retirement.request, {})])
    assert at < future - timedelta(days=1)
    assert ledger.find([1])[0].state == "withdrawn"
    ahead = datetime.now(UTC) + timedelta(hours=20)
    store.client.execute(
        "INSERT INTO $pii_ledger.entries SELECT '', {at:DateTime64(6, 'UTC')}, 'purged', generateUUIDv4(), NULL, '{}'",
        at=ahead,
    )
    times = [ledger.record_event(Action.PURGED, {}) for _ in range(20)]
    assert times == sorted(set(times))
    assert times[0] > ahead


def test_times_are_clickhouse_s(ledger: Ledger) -> None:
    before = datetime.now(UTC) - timedelta(seconds=1)
    (retirement,) = ledger.request([1])
    assert before < retirement.requested_at < datetime.now(UTC) + timedelta(seconds=1)
    assert retirement.requested_at.tzinfo is not None


def test_entry_written_twice_is_read_once(store: Store, ledger: Ledger) -> None:
    # A failed insert may have been carried out, and is repeated.
    ledger.request([1], "17")
    before = ledger.find([1]), ledger.show(), ledger.count_states(), ledger.tombstones()
    store.client.execute("INSERT INTO $pii_ledger.entries SELECT * FROM $pii_ledger.entries")
    assert count_entries(store) == 2
    assert (ledger.find([1]), ledger.show(), ledger.count_states(), ledger.tombstones()) == before


def test_ledger_is_only_appended_to(store: Store, ledger: Ledger) -> None:
    seen: list[tuple[object, ...]] = []
    (retirement,) = ledger.request([1])
    for action in map(Action, ("hidden", "erased", "reopened", "withdrawn")):
        ledger.record(action, [(1, retirement.request, {})])
        ledger.request([1])
        now = store.client.rows("SELECT * FROM $pii_ledger.entries ORDER BY at")
        assert now[: len(seen)] == seen
        assert len(now) > len(seen)
        seen = now
    commands = store.client.column("SELECT command FROM system.mutations WHERE database = 'pii_ledger'")
    assert [command for command in commands if "MATERIALIZE INDEX by_user_id" not in command] == []


def test_show_filters(ledger: Ledger) -> None:
    ledger.request([1, 2], "17")
    ledger.request([3])
    middle = ledger.record_event(Action.PURGED, {"rows": {"a.b": 3}}, "18")
    (retirement,) = ledger.find([1])
    ledger.record(Action.ERASED, [(1, retirement.request, {})])
    assert len(ledger.show()) == 5
    assert [e.action for e in ledger.show(subject="1")] == ["requested", "erased"]
    assert [e.subject for e in ledger.show(action="requested")] == ["1", "2", "3"]
    assert [e.action for e in ledger.show(actor="18")] == ["purged"]
    assert [e.action for e in ledger.show(since=middle)] == ["purged", "erased"]
    assert [e.subject for e in ledger.show(until=middle)] == ["1", "2", "3"]
    assert [e.subject for e in ledger.show(actor="17", subject="2")] == ["2"]
    assert [e.action for e in ledger.show(limit=2)] == ["purged", "erased"]
    assert ledger.show(subject="nobody") == []
    (purged,) = ledger.show(action="purged")
    assert (purged.subject, purged.actor, purged.detail) == ("", "18", {"rows": {"a.b": 3}})


def test_ledger_that_cannot_be_written_says_so(store: Store, ledger: Ledger) -> None:
    store.client.execute("DROP TABLE $pii_ledger.entries")
    with pytest.raises(LedgerError, match="could not be written") as caught:
        ledger.record(Action.ERASED, [(42, uuid.uuid4(), {"reason": "a reason"})])
    assert caught.value.retriable
    assert "a reason" not in str(caught.value)


def test_request_that_cannot_be_recorded_is_an_error(store: Store, ledger: Ledger) -> None:
    store.client.execute("DROP TABLE $pii_ledger.entries")
    with pytest.raises(MigrationError, match="aspects-pii init"):
        ledger.request([42])


# subject, request, moment, action, detail
ENTRIES = """
    ('1', '1', '2026-01-01 00:00:00', 'requested', '{}'),
    ('1', '1', '2026-01-01 06:00:00', 'failed', '{"reason": "too busy"}'),
    ('1', '1', '2026-01-01 12:00:00', 'found', '{}'),
    ('1', '1', '2026-01-02 00:00:00', 'hidden', '{}'),
    ('1', '1', '2026-01-03 00:00:00', 'erased', '{}'),
    ('2', '2', '2026-01-01 00:00:00', 'requested', '{}'),
    ('2', '2', '2026-01-02 00:00:00', 'erased', '{}'),
    ('2', '2', '2026-02-01 00:00:00', 'reopened', '{"reason": "rows came back"}'),
    ('2', '2', '2026-02-01 12:00:00', 'erased', '{}'),
    ('3', '3', '2026-01-01 00:00:00', 'requested', '{}'),
    ('3', '3', '2026-01-01 12:00:00', 'withdrawn', '{}'),
    ('3', '4', '2026-01-05 00:00:00', 'requested', '{}'),
    ('3', '4', '2026-01-06 00:00:00', 'erased', '{}'),
    ('3', '4', '2026-01-07 00:00:00', 'requested', '{}'),
    ('', '5', '2026-01-05 00:00:00', 'synced', '{}'),
    ('', '6', '2026-01-05 00:00:00', 'verified', '{}')
"""


def test_retirements_are_open_until_they_are_proved_and_again_when_they_are_reopened(store: Store) -> None:
    store.client.execute(
        "INSERT INTO $pii_ledger.entries (subject, at, action, request, detail) "
        "SELECT subject, toDateTime64(moment, 6, 'UTC'), action, "
        "toUUID('00000000-0000-4000-8000-00000000000' || request), detail "
        "FROM values('subject String, request String, moment String, action String, detail String', "
        f"{ENTRIES})"
    )
    rows = store.client.rows(
        "SELECT subject, state, is_open, is_current, toDate(hidden_at, 'UTC'), toString(erased_at), open_seconds / 86400 "
        "FROM $pii_ledger.retirements ORDER BY subject, requested_at"
    )
    day = datetime(2026, 1, 2, tzinfo=UTC).date()
    assert rows == [
        ("1", "erased", 0, 1, day, "2026-01-03 00:00:00.000000", 2),
        ("2", "erased", 0, 1, None, "2026-02-01 12:00:00.000000", 1.5),
        ("3", "withdrawn", 0, 0, None, None, 0.5),
        ("3", "erased", 0, 1, None, "2026-01-06 00:00:00.000000", 1),
    ]


def test_a_retirement_counts_as_open_until_now(store: Store, ledger: Ledger) -> None:
    (retirement,) = ledger.request([42])
    store.client.execute(
        "INSERT INTO $pii_ledger.entries (subject, at, action, request, detail) "
        "SELECT subject, at - INTERVAL 2 DAY, action, request, detail FROM $pii_ledger.entries"
    )
    ((days, is_open),) = store.client.rows("SELECT open_seconds / 86400, is_open FROM $pii_ledger.retirements")
    assert (round(days, 2), is_open) == (2, 1)
    assert ledger.find_open()[0].request == retirement.request


def test_a_ledger_of_an_older_version_names_the_command_that_helps(store: Store, ledger: Ledger) -> None:
    ledger.request([2])
    store.client.execute("DROP VIEW $pii_ledger.retirements")
    for ask in (ledger.find_open, ledger.find_erased, ledger.count_states, lambda: ledger.request([1])):
        with pytest.raises(MigrationError, match="aspects-pii init"):
            ask()
    assert read_status(store, enabled=True).open is None, "unknown is not zero"


def test_a_request_after_a_withdrawal_is_open_whatever_its_id(store: Store, ledger: Ledger) -> None:
    """A door that has looked before the withdrawal, or a restored file, brings the request back under the same id."""
    (first,) = ledger.request([42], "17")
    ledger.record(Action.WITHDRAWN, [(42, first.request, {})])
    assert (ledger.find_open(), ledger.tombstones()) == ([], [])
    again = ledger.record(Action.REQUESTED, [(42, first.request, {})], "18")
    (now,) = ledger.find_open()
    assert (now.subject, str(now.state), now.requested_at, now.actor) == ("42", "requested", again, "18")
    assert ledger.tombstones() == ["42"]
    ledger.record(Action.ERASED, [(42, first.request, {})])
    assert (ledger.find_open(), ledger.tombstones()) == ([], ["42"])


def test_a_request_that_the_ledger_does_not_show_is_not_acknowledged(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    (first,) = ledger.request([42])
    at = ledger.record(Action.WITHDRAWN, [(42, first.request, {})])
    # As an insert that is acknowledged and lost.
    monkeypatch.setattr(ledger, "record", lambda *_: at)
    with pytest.raises(LedgerError, match="does not show"):
        ledger.request([42])
