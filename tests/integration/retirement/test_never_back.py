"""Nobody comes back: second pass, backfill, replay after a restore, withdrawing, one sweep at a time, the search."""

from __future__ import annotations

import dataclasses
import json
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from sink.clickhouse import migrations
from sink.clickhouse.parts import wait_for_mutations
from sink.copying.sync import sync
from sink.erasure.verify import verify_subjects
from sink.errors import BusyError, OverloadedError, RefusedError, UsageError
from sink.installation import find_policy, open_store
from sink.ledger.chain import Trust
from sink.ledger.files import export_ledger
from sink.ledger.installation_id import Installation, read_installation
from sink.ledger.leases import hold
from sink.lms.database import LmsDatabase
from sink.pii_map import load_map
from sink.resources import find_resource
from sink.retirement.reconcile import reconcile, second_pass
from sink.retirement.replay import backfill_retired, replay
from sink.retirement.retire import retire, sweep, withdraw
from sink.settings import Settings, load_settings
from sink.store import Store
from tests.support.lms_writer import LmsWriter

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def add_profiles(store: Store, users: range) -> None:
    store.client.insert(
        store.client.table("event_sink.user_profile"),
        ["user_id", "name", "username", "email", "time_last_dumped"],
        [(u, f"Somebody {u}", f"learner{u}", f"learner{u}@example.com", str(NOW)) for u in users],
    )


def profiles(store: Store) -> list[int]:
    return store.client.column("SELECT user_id FROM $event_sink.user_profile ORDER BY user_id")


def with_map(store: Store, tmp_path: Path, targets: dict[str, Any]) -> Store:
    document = yaml.safe_load(find_resource("config/pii.yaml").read_text())
    document["targets"].update(targets)
    path = tmp_path / "map.yaml"
    path.write_text(yaml.safe_dump(document))
    return dataclasses.replace(store, pii_map=load_map(path))


def find_installation(store: Store) -> Installation:
    return read_installation(store.client, store.policy.receipt_key, store.policy.pseudonym_secret)


def with_policy(store: Store, **values: Any) -> Store:
    return dataclasses.replace(store, policy=dataclasses.replace(store.policy, **values))


@pytest.fixture
def lms(tmp_path: Path) -> Iterator[LmsWriter]:
    from sink.demo_data.lms import create_lms

    url = f"sqlite:///{tmp_path}/lms.sqlite3"
    create_lms(url, users=60, courses=2)
    writer = LmsWriter(url)
    yield writer
    writer.close()


def test_the_second_pass_reopens_what_came_back(store: Store) -> None:
    add_profiles(store, range(1, 6))
    retire(store, [3, 4])
    assert second_pass(with_policy(store, second_pass_after=0)) == []
    add_profiles(store, range(3, 4))
    assert second_pass(with_policy(store, second_pass_after=3600)) == []
    assert profiles(store) == [1, 2, 3, 5]
    outcomes = second_pass(with_policy(store, second_pass_after=0))
    assert [(o.subject, o.state) for o in outcomes] == [("3", "erased")]
    assert profiles(store) == [1, 2, 5]
    assert [e.action for e in store.ledger.show(subject="3")].count("reopened") == 1


def test_a_target_that_was_added_later_is_applied_to_everyone_ever_retired(store: Store, tmp_path: Path) -> None:
    add_profiles(store, range(1, 6))
    retire(store, [3, 4])
    store.client.execute(
        "CREATE TABLE $event_sink.letters (user_id Int64, text String) ENGINE = MergeTree ORDER BY user_id"
    )
    store.client.insert(store.client.table("event_sink.letters"), ["user_id", "text"], [(u, "x") for u in range(1, 6)])
    grown = with_map(
        store,
        tmp_path,
        {"event_sink.letters": {"match": {"user_id": "id"}, "pii": {"text": "other"}, "on_retire": "delete"}},
    )
    planned = backfill_retired(grown, dry_run=True)
    assert (planned.retired, planned.subjects, planned.rows) == (2, ["3", "4"], {"event_sink.letters": 2})
    assert store.client.value("SELECT count() FROM $event_sink.letters") == 5
    done = backfill_retired(with_policy(grown, retire_batch_size=1))
    assert [o.state for o in done.outcomes] == ["erased", "erased"]
    assert store.client.column("SELECT user_id FROM $event_sink.letters ORDER BY user_id") == [1, 2, 5]
    again = backfill_retired(grown)
    assert (again.subjects, again.outcomes) == ([], [])


def test_names_that_only_the_lms_still_has_are_found_by_a_backfill(
    store: Store, lms: LmsWriter, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path}/lms.sqlite3"
    with LmsDatabase(url).snapshot() as snapshot:
        username = next(
            row[1]
            for b in snapshot.rows("user_profile", ["user_id", "username"], 100)
            for row in b.rows
            if row[0] == 50
        )
    retire(store, [50])
    lms.request_retirement(50)
    lms.retire_misc(50)
    store.client.execute("CREATE TABLE $event_sink.notes (who String) ENGINE = MergeTree ORDER BY who")
    store.client.insert(store.client.table("event_sink.notes"), ["who"], [(username,), ("somebody else",)])
    grown = with_map(
        store,
        tmp_path,
        {"event_sink.notes": {"match": {"who": "username"}, "pii": {"who": "username"}, "on_retire": "delete"}},
    )
    assert [o.state for o in backfill_retired(grown, lms=LmsDatabase(url)).outcomes] == ["erased"]
    assert store.client.column("SELECT who FROM $event_sink.notes") == ["somebody else"]


def test_replay_after_a_restore_erases_what_it_brought_back(store: Store) -> None:
    add_profiles(store, range(1, 6))
    retire(store, [3, 4])
    add_profiles(store, range(3, 5))
    looked = replay(store, dry_run=True)
    assert (looked.subjects, looked.rows) == (["3", "4"], {"event_sink.user_profile": 2})
    assert profiles(store) == [1, 2, 3, 4, 5]
    result = replay(store)
    assert (result.retired, [o.state for o in result.outcomes]) == (2, ["erased", "erased"])
    assert profiles(store) == [1, 2, 5]
    entries = len(store.ledger.show())
    assert replay(store).subjects == []
    assert len(store.ledger.show()) == entries
    assert [e.detail["subjects"] for e in store.ledger.show(action="replayed")] == [2]


def test_replay_from_a_file_where_the_ledger_itself_was_restored(settings: Settings, tmp_path: Path) -> None:
    file = tmp_path / "ledger.jsonl"
    with open_store(settings, creates=True) as store:
        migrations.migrate(store.client)
        add_profiles(store, range(1, 6))
        retire(store, [3, 4])
        installation = find_installation(store)
        exported = export_ledger(store.client, installation, file).entries
        assert exported == len(store.ledger.show())
    assert "learner" not in file.read_text()
    assert "Somebody" not in file.read_text()

    older = load_settings(**settings.model_dump() | {"clickhouse_url": f"chdb://{tmp_path}/restored"})
    with open_store(older, creates=True) as store:
        migrations.migrate(store.client)
        add_profiles(store, range(1, 6))
        retire(store, [4])
        entries = len(store.ledger.show())
        with pytest.raises(UsageError, match=r"line 1: the file is of another `installation`.*--installation"):
            replay(store, file=file)
        assert len(store.ledger.show()) == entries
        # The secret of the settings has outlived the loss, so that the file can be checked.
        trust = Trust(installation.id)
        assert replay(store, file=file, trust=trust, dry_run=True).entries_restored == exported
        assert len(store.ledger.show()) == entries
        result = replay(store, file=file, trust=trust)
        assert result.entries_restored == exported
        assert result.subjects == ["3"]
        assert profiles(store) == [1, 2, 5]
        assert sorted(store.ledger.tombstones()) == ["3", "4"]
        assert replay(store, file=file, trust=trust).entries_restored == 0


def test_a_file_that_is_no_ledger_is_refused_by_line(aspects_pii: Callable[..., Any], tmp_path: Path) -> None:
    aspects_pii("init")
    file = tmp_path / "wrong.jsonl"
    file.write_text(json.dumps({"subject": "1"}) + "\n")
    ran = aspects_pii("replay", "--from", file)
    assert ran.status == 2
    assert "line 1" in ran.err


def test_reconcile_retires_whom_no_event_named_and_leaves_who_can_still_cancel(
    store: Store, lms: LmsWriter, tmp_path: Path
) -> None:
    database = LmsDatabase(f"sqlite:///{tmp_path}/lms.sqlite3")
    sync(store, database, enabled=True)
    held = profiles(store)
    for user_id in (20, 21, 22):
        lms.request_retirement(user_id)
    for user_id in (21, 22):
        lms.retire_misc(user_id)
        lms.retire(user_id)
        lms.complete_retirement(user_id)
    lms.clean_up_retirement(22)
    result = reconcile(store, database)
    assert (result.in_lms, result.missed) == (2, ["21", "22"])
    assert {o.state for o in result.outcomes} == {"erased"}
    assert set(profiles(store)) == set(held) - {21, 22}
    assert reconcile(store, database).missed == []
    # The LMS saved both profiles after it announced the retirement, and still has them.
    sync(store, database, enabled=True)
    assert set(profiles(store)) == set(held) - {21, 22}


def test_a_request_can_be_withdrawn_while_nothing_was_erased(store: Store) -> None:
    add_profiles(store, range(1, 4))
    store.ledger.request([2])
    assert withdraw(store, [2]) == ["2"]
    assert store.ledger.tombstones() == []
    assert sweep(store) == []
    assert profiles(store) == [1, 2, 3]
    retire(store, [2])
    assert profiles(store) == [1, 3]
    with pytest.raises(RefusedError, match="has begun"):
        withdraw(store, [2])
    with pytest.raises(RefusedError, match="not being retired"):
        withdraw(store, [1])


def test_erasures_go_one_process_at_a_time(store: Store) -> None:
    from sink.clickhouse.client import ClickHouse

    taken, release = threading.Event(), threading.Event()

    def occupy() -> None:
        with ClickHouse(store.client.address) as other, hold(other, "erasing"):
            taken.set()
            release.wait(30)

    thread = threading.Thread(target=occupy)
    thread.start()
    assert taken.wait(30)
    with pytest.raises(BusyError), hold(store.client, "erasing"):
        pass
    release.set()
    thread.join()
    with hold(store.client, "erasing", wait=5):
        pass


def test_a_holder_that_was_killed_is_not_waited_for_for_ever(store: Store) -> None:
    store.client.execute(
        "INSERT INTO $pii_ledger.leases (name, holder, at, expires_at) SELECT 'erasing', generateUUIDv4(), "
        "now64(6, 'UTC') - 120, now64(6, 'UTC') - 60"
    )
    with hold(store.client, "erasing"):
        pass


def test_a_lease_from_the_future_stands_as_long_as_its_holder_lives(store: Store) -> None:
    """The clock was put back by two days; one holder is gone, then one is there."""
    gone, lives = uuid.uuid4(), uuid.uuid4()
    ahead = (
        "INSERT INTO $pii_ledger.leases (name, holder, at, expires_at) SELECT 'erasing', {holder:UUID}, "
        "now64(6, 'UTC') + toIntervalDay(2), now64(6, 'UTC') + toIntervalDay(2) + 60"
    )
    store.client.execute(ahead, holder=gone)
    with pytest.raises(BusyError), hold(store.client, "erasing", seconds=2):
        pass
    with hold(store.client, "erasing", seconds=2, wait=120):
        pass
    store.client.execute(ahead, holder=lives)
    with pytest.raises(BusyError), hold(store.client, "erasing", seconds=2):
        pass
    renew = (
        "INSERT INTO $pii_ledger.leases (name, holder, expires_at) "
        "SELECT 'erasing', {holder:UUID}, now64(6, 'UTC') + {seconds:Int64}"
    )
    store.client.execute(renew, holder=lives, seconds=3600)
    # Much longer than a lease of theirs lasts.
    with pytest.raises(BusyError), hold(store.client, "erasing", seconds=0.1, wait=2):
        pass
    # It lets go.
    store.client.execute(renew, holder=lives, seconds=-1)
    with hold(store.client, "erasing", seconds=2, wait=120):
        pass


def test_lease_is_never_held_by_two_threads(store: Store) -> None:
    from sink.clickhouse.client import ClickHouse

    inside, most = [], []

    def work() -> None:
        with ClickHouse(store.client.address) as client:
            for _ in range(3):
                with hold(client, "erasing", wait=60):
                    inside.append(1)
                    most.append(len(inside))
                    inside.pop()

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(most) == 9
    assert set(most) == {1}


def test_erasing_waits_while_too_many_mutations_run(store: Store) -> None:
    store.client.execute("CREATE TABLE $event_sink.slow (n UInt64) ENGINE = MergeTree ORDER BY n")
    store.client.execute("INSERT INTO $event_sink.slow SELECT number FROM numbers(100)")
    store.client.execute("SYSTEM STOP MERGES $event_sink.slow")
    store.client.execute("ALTER TABLE $event_sink.slow DELETE WHERE n = 1", {"mutations_sync": 0})
    store.client.execute("ALTER TABLE $event_sink.slow DELETE WHERE n = 2", {"mutations_sync": 0})
    with pytest.raises(OverloadedError, match="ASPECTS_MAX_MUTATIONS"):
        wait_for_mutations(store.client, 1, within=0.1)
    store.client.execute("SYSTEM START MERGES $event_sink.slow")
    wait_for_mutations(store.client, 1, within=30)


def test_the_search_names_table_and_column_of_what_the_map_does_not_know(store: Store, tmp_path: Path) -> None:
    add_profiles(store, range(1, 12))
    store.client.execute(
        "CREATE TABLE $reporting.forgotten (id Int64, tags Array(String), note String, doc JSON) "
        "ENGINE = MergeTree ORDER BY id"
    )
    store.client.insert(
        store.client.table("reporting.forgotten"),
        ["id", "tags", "note", "doc"],
        [
            (1, ["by learner1", "x"], "", {}),
            (2, [], "ask LEARNER1@example.com", {"who": "learner1"}),
            (3, ["learner11"], "", {}),
        ],
    )
    outcome = retire(store, [1], scan=True)[0]
    assert outcome.state == "failed"
    for place in ("reporting.forgotten.tags", "reporting.forgotten.note", "reporting.forgotten.doc"):
        assert place in outcome.reason
    assert "learner1" not in outcome.reason
    assert profiles(store) == list(range(2, 12))
    # A sweep cannot search for somebody whose names are gone, so it must not call this done.
    assert [o.state for o in sweep(store)] == ["failed"]
    mapped = with_map(
        store,
        tmp_path,
        {"reporting.forgotten": {"match": {"id": "id"}, "pii": {"note": "other"}, "on_retire": "delete"}},
    )
    assert [o.state for o in sweep(mapped)] == ["erased"]
    assert retire(store, [5], scan=True)[0].state == "erased"


@pytest.mark.parametrize("exemption", ["reporting.notes", "reporting.notes.note"])
def test_an_exempted_place_keeps_nobody_open_whatever_its_database_is_called(
    settings: Settings, exemption: str
) -> None:
    renamed = load_settings(**settings.model_dump() | {"reporting_database": "our_reports"})
    with open_store(renamed, creates=True) as store:
        migrations.migrate(store.client)
        add_profiles(store, range(1, 12))
        notes = store.client.table("reporting.notes")
        assert notes.database == "our_reports"
        store.client.execute("CREATE TABLE $reporting.notes (id Int64, note String) ENGINE = MergeTree ORDER BY id")
        store.client.insert(notes, ["id", "note"], [(1, "by learner1")])
        assert [o.state for o in retire(store, [1], scan=True)] == ["failed"]
        exempted = store.pii_map.model_copy(update={"not_pii": {exemption: "written by a machine"}})
        assert [o.state for o in sweep(replace(store, pii_map=exempted))] == ["erased"]


def test_a_search_for_somebody_whose_names_nobody_knows_is_a_finding(store: Store) -> None:
    retire(store, [1])
    assert verify_subjects(store, [1]).is_clean
    report = verify_subjects(store, [1], scan=True)
    assert [finding.kind for finding in report.findings] == ["unchecked"]


def test_policy_has_every_limit_of_the_settings() -> None:
    assert find_policy(load_settings(retire_batch_size=7)).retire_batch_size == 7
