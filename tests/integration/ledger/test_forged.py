"""Whatever somebody has written into the ledger's table: nobody comes back, the others go on, and it can be taken out."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from sink.erasure.suspects import read_suspects
from sink.erasure.verify import verify_subjects
from sink.errors import RefusedError, UsageError
from sink.ledger.checking import check_ledger, void_entries
from sink.ledger.details import DETAILS
from sink.ledger.entries import Action
from sink.ledger.rules import name_entry
from sink.pii_map import Subject
from sink.retirement.reconcile import second_pass
from sink.retirement.replay import backfill_retired, replay
from sink.retirement.retire import retire, sweep, withdraw
from sink.retirement.status import read_status
from sink.store import Store

COLUMNS = ("subject", "at", "action", "request", "actor", "detail")
FORGED = uuid.UUID(int=42)
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


def add(store: Store, subject: str, action: str, at: datetime, **fields: Any) -> None:
    """Write an entry as it stands into the table."""
    values = {"request": FORGED, "actor": None, "detail": "{}"} | fields
    row = (subject, at, action, values["request"], values["actor"], values["detail"])
    store.client.insert(store.client.table("pii_ledger.entries"), COLUMNS, [row])


def add_profiles(store: Store, users: range) -> None:
    store.client.insert(
        store.client.table("event_sink.user_profile"),
        ["user_id", "name", "time_last_dumped"],
        [(user, f"Somebody {user}", str(LONG_AGO)) for user in users],
    )


def check(store: Store) -> list[str]:
    return [found.reason for found in check_ledger(store.client, store.pii_map.subject)]


def void(store: Store, *names: str, reason: str = "forged") -> list[str]:
    return void_entries(store.client, store.pii_map.subject, names, reason).lifted


def find_entry(store: Store, **filters: str) -> str:
    return store.ledger.show(**filters)[-1].entry  # type: ignore[arg-type]


def list_tombstones(store: Store) -> list[int]:
    """As every write and every dataset asks for them."""
    return sorted(store.client.column("SELECT user_id FROM $pii_ledger.tombstones"))


@pytest.mark.parametrize("after", [timedelta(minutes=-1), timedelta(0), timedelta(hours=1), timedelta(days=3)])
@pytest.mark.parametrize("begun", ["found", "hidden", "erased"])
def test_a_withdrawal_lifts_nothing_once_the_erasure_has_begun(store: Store, begun: str, after: timedelta) -> None:
    (retirement,) = store.ledger.request([42])
    at = store.ledger.record(Action(begun), [(42, retirement.request, {})])
    add(store, "42", "withdrawn", at + after, request=retirement.request)
    assert list_tombstones(store) == [42]
    (now,) = store.ledger.find([42])
    assert now.state == ("requested" if begun == "found" else begun)
    with pytest.raises(RefusedError, match="has begun"):
        withdraw(store, [42])


def test_a_withdrawal_of_another_subject_or_request_lifts_nothing(store: Store) -> None:
    (retirement,) = store.ledger.request([42])
    later = store.client.now() + timedelta(minutes=1)
    add(store, "42", "withdrawn", later)
    add(store, "43", "withdrawn", later, request=retirement.request)
    assert list_tombstones(store) == [42]
    assert [r.state for r in store.ledger.find([42])] == ["requested"]
    assert check(store) == ["nothing was requested for this subject under this `request`"] * 2


def test_a_retirement_that_is_withdrawn_asked_for_again_and_erased_is_in_order(store: Store) -> None:
    """A door that has looked before the withdrawal brings the request back under the same id."""
    (retirement,) = store.ledger.request([42])
    for action in (Action.WITHDRAWN, Action.REQUESTED, Action.HIDDEN, Action.ERASED):
        store.ledger.record(action, [(42, retirement.request, {})])
    assert check(store) == []
    assert list_tombstones(store) == [42]
    assert [r.state for r in store.ledger.find([42])] == ["erased"]


ODD: dict[str, tuple[str, datetime | timedelta, str]] = {
    "an action that nobody knows": ("forgiven", timedelta(minutes=1), "{}"),
    "a detail that is no JSON": ("failed", timedelta(minutes=1), "{"),
    "a detail that is a list": ("failed", timedelta(minutes=1), "[1]"),
    "a detail that is null": ("found", timedelta(minutes=1), "null"),
    "counts that are none": ("found", timedelta(minutes=1), '{"rows": {"a.b": "x"}}'),
    "counts that are a text": ("found", timedelta(minutes=1), '{"rows": "x"}'),
    "an erasure in a year that no clock knows": ("erased", timedelta(minutes=1), '{"scrubbed_at": 1000000000000000}'),
    "a receipt that is a text": ("erased", timedelta(minutes=1), '{"receipt": "x"}'),
    "a receipt of others": ("erased", timedelta(minutes=1), '{"receipt": {"not_covered": 5, "verified": [1]}}'),
    "places that are numbers": ("hidden", timedelta(minutes=1), '{"elsewhere": [5]}'),
    "places that are a text": ("failed", timedelta(minutes=1), '{"elsewhere": "a.b.c"}'),
    "nested without end": ("failed", timedelta(minutes=1), '{"reason":' * 900 + "1" + "}" * 900),
    "a failure in the year 9999": ("failed", datetime.max.replace(tzinfo=UTC), "{}"),
    "an erasure in the year 9999": ("erased", datetime.max.replace(tzinfo=UTC), "{}"),
    "an erasure in the year 2200": ("erased", datetime(2200, 1, 1, tzinfo=UTC), "{}"),
    "a withdrawal in the year 9999": ("withdrawn", datetime.max.replace(tzinfo=UTC), "{}"),
    "a request in the year 9999": ("requested", datetime.max.replace(tzinfo=UTC), "{}"),
    "a request in the year 1850": ("requested", datetime(1850, 1, 1, tzinfo=UTC), "{}"),
    "an actor with an address": ("failed", timedelta(minutes=1), "{}"),
}


@pytest.mark.parametrize("case", ODD)
def test_one_odd_entry_stops_nobody(store: Store, case: str) -> None:
    """Every command goes on, the subject of it is erased too, and it is found and taken out."""
    action, at, detail = ODD[case]
    add_profiles(store, range(40, 50))
    retire(store, [41])
    (retirement,) = store.ledger.request([42])
    moment = at if isinstance(at, datetime) else store.client.now() + at
    actor = "jane@example.com" if "actor" in case else None
    add(store, "42", action, moment, request=retirement.request, detail=detail, actor=actor)
    assert list_tombstones(store) == [41, 42]
    assert read_status(store, enabled=True).open == (0 if action == "erased" and isinstance(at, timedelta) else 1)
    if case != "a receipt of others":
        assert len(check(store)) == 1
    assert {o.subject: str(o.state) for o in retire(store, [42, 43])} == {"42": "erased", "43": "erased"}
    assert sweep(store) == []
    assert verify_subjects(store).is_clean
    assert second_pass(replace(store, policy=replace(store.policy, second_pass_after=0))) == []
    for again in (replay(store), backfill_retired(store)):
        assert (again.retired, again.subjects, again.open, again.outcomes) == (3, [], [], [])
    assert store.client.value("SELECT count() FROM $event_sink.user_profile WHERE user_id IN (41, 42, 43)") == 0
    read_suspects(store)
    assert [entry.is_voided for entry in store.ledger.show(action=action, limit=1)] == [False]
    for name in [found.entry for found in check_ledger(store.client, store.pii_map.subject)]:
        void(store, name)
    assert check(store) == []
    assert list_tombstones(store) == [41, 42, 43]
    assert read_status(store, enabled=True).open == 0


@pytest.mark.parametrize("subject", ["jane@example.com", "../../x", "Jane Doe", "", "x" * 400, "a\x00b"])
def test_what_is_no_id_is_one_failed_outcome_and_shown_to_nobody(
    store: Store, subject: str, aspects_pii: Callable[..., Any], settings: Any
) -> None:
    add_profiles(store, range(40, 50))
    add(store, subject, "requested", LONG_AGO)
    store.ledger.request([43])
    name = find_entry(store, action="requested", until=datetime(2021, 1, 1, tzinfo=UTC))  # type: ignore[arg-type]
    called = f"(entry {name})"
    assert list_tombstones(store) == [43]
    assert {o.subject: str(o.state) for o in sweep(store)} == {called: "failed", "43": "erased"}
    assert [r.subject for r in store.ledger.find_open()] == [called]
    status = read_status(store, enabled=True)
    assert status.open == 1
    assert any(called in warning and "ledger check" in warning for warning in status.warnings)
    assert [entry.subject for entry in store.ledger.show(until=datetime(2021, 1, 1, tzinfo=UTC))] == [""]
    assert [o.subject for o in replay(store).outcomes] == [called]
    assert replay(store, dry_run=True).open == [called]
    (flagged,) = check_ledger(store.client, store.pii_map.subject)
    assert (flagged.entry, flagged.subject, flagged.reason) == (name, "", "`subject` is no opaque id")
    assert void(store, name) == []
    assert sweep(store) == []
    assert check(store) == []


def test_a_changed_type_of_ids_fails_those_whom_it_concerns_and_nobody_else(store: Store) -> None:
    """Under the map of today an id of yesterday is none: the retirements of both kinds are in the ledger."""
    texts = replace(store, pii_map=store.pii_map.model_copy(update={"subject": Subject(type="text")}))
    texts.ledger.request(["6f9619ff", "0042"])
    texts.ledger.record(Action.ERASED, [("6f9619ff", texts.ledger.find(["6f9619ff"])[0].request, {})])
    add_profiles(store, range(40, 50))
    store.ledger.request([43])
    assert {o.subject: str(o.state) for o in sweep(store)} == {"0042": "failed", "43": "erased"}
    (outcome,) = sweep(store)
    assert "subject.type" in outcome.reason
    assert [o.subject for o in second_pass(with_no_delay(store))] == ["6f9619ff"]
    assert store.ledger.count_states() == {"erased": 2, "requested": 1}, "nothing is written down of them"
    report = verify_subjects(store)
    assert sorted(str(finding.subject) for finding in report.findings) == ["0042", "6f9619ff"]
    assert report.subjects == 3
    for result in (replay(store), backfill_retired(store)):
        assert {o.subject: str(o.state) for o in result.outcomes} == {"0042": "failed", "6f9619ff": "failed"}
        assert result.retired == 3
    assert any("0042" in warning and "subject.type" in warning for warning in read_status(store, enabled=True).warnings)
    assert {reason.partition(" of the")[0] for reason in check(store)} == {
        "`subject` is no id by `subject.type: integer`"
    }


def with_no_delay(store: Store) -> Store:
    return replace(store, policy=replace(store.policy, second_pass_after=0))


def test_a_void_never_lifts_the_tombstone_of_an_erasure(store: Store) -> None:
    """Every entry of the retirement cannot be right, and each may be taken out: the tombstone stands."""
    for offset, action in enumerate(("requested", "found", "hidden", "erased")):
        add(store, "42", action, LONG_AGO + timedelta(minutes=offset), detail="{")
    names = [found.entry for found in check_ledger(store.client, store.pii_map.subject)]
    assert len(names) == 4
    assert void(store, *names) == []
    assert list_tombstones(store) == [42]
    assert check(store) == []
    # Rows that come back are erased all the same.
    add_profiles(store, range(42, 44))
    assert [(o.subject, str(o.state)) for o in replay(store).outcomes] == [("42", "erased")]
    assert list_tombstones(store) == [42]


def test_a_void_takes_out_what_nobody_asked_for_and_says_who_is_not_retired_by_it(store: Store) -> None:
    add(store, "42", "requested", datetime(1999, 1, 1, tzinfo=UTC))
    assert list_tombstones(store) == [42]
    assert void(store, find_entry(store, subject="42")) == ["42"]
    assert list_tombstones(store) == []
    assert store.ledger.find([42]) == []
    assert sweep(store) == []
    # The entry stays where it is.
    (entry,) = store.ledger.show(subject="42")
    assert entry.is_voided
    (voided,) = store.ledger.show(action="voided")
    assert voided.detail == {"entry": entry.entry, "reason": "forged"}
    # And a real request is recorded as ever.
    assert [str(o.state) for o in retire(store, [42])] == ["erased"]
    assert list_tombstones(store) == [42]


def test_a_void_of_what_is_right_is_refused(store: Store) -> None:
    retire(store, [41])
    store.ledger.request([42])
    before = store.ledger.show()
    for entry in before:
        with pytest.raises(RefusedError, match="is right and stays"):
            void(store, entry.entry)
    with pytest.raises(RefusedError, match="aspects-pii withdraw"):
        void(store, find_entry(store, subject="42"))
    with pytest.raises(UsageError, match="There is no entry"):
        void(store, "0" * 16)
    with pytest.raises(UsageError, match="ENTRY 1: this names no entry"):
        void(store, "jane@example.com")
    assert store.ledger.show() == before


def test_a_void_is_all_or_nothing_and_once(store: Store) -> None:
    add(store, "42", "forgiven", LONG_AGO)
    retire(store, [41])
    name = find_entry(store, action="forgiven")
    with pytest.raises(RefusedError):
        void(store, name, find_entry(store, subject="41"))
    assert len(check(store)) == 1
    void(store, name)
    with pytest.raises(RefusedError, match="was taken out before"):
        void(store, name)


@pytest.mark.parametrize("reason", ["", " ", "it was jane@example.com", "x" * 201, "two\nlines"])
def test_a_void_needs_a_reason_that_names_nobody(store: Store, reason: str) -> None:
    add(store, "42", "forgiven", LONG_AGO)
    with pytest.raises(UsageError, match="--reason") as caught:
        void(store, find_entry(store, action="forgiven"), reason=reason)
    assert "jane" not in str(caught.value)
    assert len(check(store)) == 1


def test_a_void_that_takes_out_what_is_right_is_found_and_taken_out_itself(store: Store) -> None:
    """Written into the table by hand: `ledger void` would have refused."""
    store.ledger.request([42])
    (requested,) = store.ledger.show()
    store.ledger.record(
        Action.VOIDED, [("", requested.request, {"entry": requested.entry, "reason": "so that nobody is erased"})]
    )
    assert list_tombstones(store) == []
    assert check(store) == ["it takes out an entry that is right"]
    void(store, find_entry(store, action="voided"))
    assert check(store) == []
    assert list_tombstones(store) == [42]


def test_what_may_be_a_name_is_neither_shown_nor_put_into_a_receipt(store: Store) -> None:
    add(store, "42", "requested", LONG_AGO, actor="jane@example.com")
    add(store, "42", "jane@example.com", LONG_AGO, detail='{"who": "jane@example.com"}')
    assert "jane" not in str(store.ledger.show())
    assert "jane" not in str(store.ledger.find_open())
    (outcome,) = sweep(store)
    assert outcome.receipt is not None
    assert outcome.receipt["actor"] is None
    assert "jane" not in str(check_ledger(store.client, store.pii_map.subject))


def test_entries_have_the_same_name_in_python_and_in_sql(store: Store) -> None:
    retire(store, [41])
    rows = store.client.rows(
        "SELECT subject, toString(at), toString(action), toString(request) FROM $pii_ledger.entries"
    )
    names = [name_entry(dict(zip(("subject", "at", "action", "request"), row, strict=True))) for row in rows]
    assert len(names) >= 3
    assert sorted(names) == sorted(entry.entry for entry in store.ledger.show())


def test_every_action_has_a_shape() -> None:
    assert set(DETAILS) == set(Action)


def test_commands_list_entries_and_take_them_out(
    aspects_pii: Callable[..., Any], tmp_path: Path, settings: Any
) -> None:
    from sink.installation import open_store

    aspects_pii("init")
    assert aspects_pii("ledger", "check").status == 0
    with open_store(settings) as store:
        add(store, "jane@example.com", "requested", LONG_AGO)
        add(store, "42", "forgiven", LONG_AGO)
    ran = aspects_pii("ledger", "check")
    assert ran.status == 1
    assert "2 entries cannot be right" in ran.out
    listed = aspects_pii("ledger", "check", "--json")
    assert listed.status == 1
    names = [entry["entry"] for entry in listed.json["entries"]]
    assert len(names) == 2
    for command in ("sweep", "status", "replay", "backfill-retired"):
        assert aspects_pii(command).status == 1
        assert aspects_pii(command, "--json").status == 1
    exported = aspects_pii("ledger", "export", tmp_path / "ledger.jsonl")
    assert exported.status == 1
    assert "ledger check" in exported.err
    assert aspects_pii("ledger", "void", *names, "--reason", "forged", "--actor", "jane@example.com").status == 2
    assert aspects_pii("ledger", "void", *names, "--reason", "forged", "--actor", "17").status == 0
    assert aspects_pii("ledger", "check").status == 0
    shown = aspects_pii("ledger", "show")
    assert "forgiven (voided)" in shown.out
    assert names[0] in shown.out
    for command in ("sweep", "status", "replay", "backfill-retired"):
        assert aspects_pii(command).status == 0
    assert aspects_pii("ledger", "export", tmp_path / "ledger.jsonl").status == 0


def test_a_replay_works_off_what_is_open_and_ends_with_1_while_anybody_is(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interrupted run has hidden somebody, and somebody was asked for."""
    add_profiles(store, range(40, 50))
    for user, apply in ((42, replay), (43, backfill_retired)):
        (retirement,) = store.ledger.request([user])
        store.client.execute("ALTER TABLE $event_sink.user_profile DELETE WHERE user_id = {u:Int64}", u=user)
        store.ledger.record(Action.HIDDEN, [(user, retirement.request, {})])
        store.ledger.request([user + 4])
        assert apply(store, dry_run=True).open == [str(user), str(user + 4)]
        done = apply(store)
        assert {o.subject: str(o.state) for o in done.outcomes} == {str(user): "erased", str(user + 4): "erased"}
        assert store.ledger.find_open() == []
