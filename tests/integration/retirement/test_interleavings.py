"""Whatever the order of syncs, retirements, sweeps, kills, restores and replays: no residue, every event in place."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import shutil
import tempfile
import uuid
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from sink.clickhouse import migrations
from sink.copying.sync import sync
from sink.demo_data.lms_tables import create_tables, open_writable
from sink.doors.worker.app import create_app
from sink.erasure.verify import verify_subjects
from sink.installation import open_store
from sink.lms.database import LmsDatabase
from sink.resources import find_resource
from sink.retirement.reconcile import second_pass
from sink.retirement.replay import replay
from sink.retirement.retire import retire, sweep
from sink.settings import load_settings
from sink.store import Store
from tests.support.lms_writer import LmsWriter

USERS = range(1, 7)
ACTORS = {
    "xapi.xapi_events_all": {
        "match": {"event.actor.mbox": "mailto:{email}"},
        "pii": {"event.actor.mbox": "email_address"},
        "on_retire": {"redact": {"event.actor.mbox": "pseudonym"}},
    }
}


class Killed(BaseException):
    """The process is gone: nothing catches this."""


class Life(RuleBasedStateMachine):
    """An installation in the hands of fate."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.retired: set[int] = set()

    @initialize()
    def install(self) -> None:
        url = f"sqlite:///{self.folder}/lms.sqlite3"
        engine = open_writable(url)
        with engine.begin() as connection:
            create_tables(connection)
        engine.dispose()
        self.writer = LmsWriter(url)
        for user in USERS:
            self.writer.register_user(user, f"learner{user}", f"learner{user}@example.com", f"Learner {user}", bio="me")
        self.lms = LmsDatabase(url)
        document = yaml.safe_load(find_resource("config/pii.yaml").read_text())
        document["targets"].update(ACTORS)
        self.map = self.folder / "pii.yaml"
        self.map.write_text(yaml.safe_dump(document))
        self.store = self._open()
        migrations.migrate(self.store.client)
        now = datetime(2026, 1, 1, tzinfo=UTC)
        self.events = {
            uuid.uuid4(): json.dumps({"actor": {"mbox": f"mailto:learner{u}@example.com"}, "n": n})
            for u in USERS
            for n in range(2)
        }
        rows = [(event_id, now, text) for event_id, text in self.events.items()]
        table = self.store.client.table("xapi.xapi_events_all")
        self.store.client.insert(table, ["event_id", "emission_time", "event"], rows)
        self._sync()
        self.backup = self._read_profiles()

    def _open(self) -> Store:
        store = open_store(
            load_settings(
                clickhouse_url=f"chdb://{self.folder}/clickhouse",
                receipts_dir=self.folder / "receipts",
                pseudonym_secret="a secret of the tests",
                pii_map=self.map,
            ),
            creates=True,
        )
        return dataclasses.replace(store, policy=dataclasses.replace(store.policy, second_pass_after=0))

    def _sync(self) -> None:
        sync(self.store, self.lms, enabled=True, allow_removals=True)

    def _read_profiles(self) -> list[tuple[object, ...]]:
        return self.store.client.rows("SELECT user_id, name, username, email FROM $event_sink.user_profile")

    @rule()
    def copy(self) -> None:
        self._sync()

    @rule(user=st.sampled_from(USERS), name=st.sampled_from(["Ada", "Grace", "Alan"]))
    def change(self, user: int, name: str) -> None:
        self.writer.change_profile(user, name=name)

    @rule(users=st.sets(st.sampled_from(USERS), min_size=1, max_size=3))
    def retire_users(self, users: set[int]) -> None:
        self.retired |= users
        retire(self.store, sorted(users), force=True)

    @rule(user=st.sampled_from(USERS))
    def announce(self, user: int) -> None:
        self.retired.add(user)
        self.store.ledger.request([user])

    @rule(user=st.sampled_from(USERS), after=st.integers(0, 12))
    def retire_and_be_killed(self, user: int, after: int) -> None:
        self.retired.add(user)
        self.store.ledger.request([user])
        client, left = self.store.client, [after]
        real = client.execute

        def count_down(*arguments: object, **values: object) -> None:
            if left[0] == 0:
                raise Killed
            left[0] -= 1
            real(*arguments, **values)  # type: ignore[arg-type]

        client.execute = count_down  # type: ignore[method-assign]
        with contextlib.suppress(Killed):
            sweep(self.store, force=True)
        self.restart()

    @rule()
    def restart(self) -> None:
        self.store.client.close()
        self.store = self._open()
        # Whoever was killed holds the lease for a minute; nobody waits that long here.
        self.store.client.execute("TRUNCATE TABLE $pii_ledger.leases")

    @rule()
    def work_off(self) -> None:
        sweep(self.store, force=True)

    @rule()
    def restore_a_backup_and_replay(self) -> None:
        client = self.store.client
        client.execute("TRUNCATE TABLE $event_sink.user_profile")
        columns = ["user_id", "name", "username", "email"]
        client.insert(client.table("event_sink.user_profile"), columns, self.backup)
        replay(self.store, force=True)

    @invariant()
    def every_event_is_there_once(self) -> None:
        if not hasattr(self, "events"):
            return
        rows = self.store.client.rows("SELECT event_id, event FROM $xapi.xapi_events_all")
        if self.store.ledger.find_open():
            # Between deleting and attaching an interrupted rewriting has rows beside the table.
            assert len(rows) <= len(self.events)
            return
        assert sorted(event_id for event_id, _ in rows) == sorted(self.events)
        assert all(json.loads(text)["n"] == json.loads(self.events[event_id])["n"] for event_id, text in rows)

    def teardown(self) -> None:
        try:
            if hasattr(self, "backup"):
                sweep(self.store, force=True)
                self._sync()
                second_pass(self.store, force=True)
                self.every_event_is_there_once()
                self.nothing_is_left()
        finally:
            if hasattr(self, "store"):
                self.store.client.close()
                self.writer.close()
            shutil.rmtree(self.folder)

    def nothing_is_left(self) -> None:
        client = self.store.client
        assert self.store.ledger.find_open() == []
        assert set(self.store.ledger.tombstones()) == {str(user) for user in self.retired}
        for table in ("user_profile", "external_id", "course_access"):
            held = set(client.column(f"SELECT user_id FROM $event_sink.{table}", {"apply_deleted_mask": 0}))
            assert not held & self.retired
        held = set(client.column("SELECT user_id FROM $event_sink.user_profile"))
        assert held == set(USERS) - self.retired
        texts = client.column("SELECT event FROM $xapi.xapi_events_all", {"apply_deleted_mask": 0})
        named = {user for user in USERS for text in texts if f"learner{user}@" in text}
        assert named == set(USERS) - self.retired
        assert client.column("SELECT name FROM system.tables WHERE name LIKE '%aspects_pii%'") == []


@pytest.mark.needs_chdb_4(reason="chDB 3.7.2 stops answering in it, with all its threads waiting")
def test_random_interleavings_end_without_residue_and_with_every_event() -> None:
    run_state_machine_as_test(
        Life,
        settings=settings(
            max_examples=6, stateful_step_count=8, deadline=None, suppress_health_check=list(HealthCheck), database=None
        ),
    )


@dataclasses.dataclass(frozen=True)
class Site:
    """An installation whose events name people by address, and its LMS."""

    store: Store
    lms: LmsDatabase
    writer: LmsWriter

    def copy(self) -> None:
        sync(self.store, self.lms, enabled=True, allow_removals=True)

    def names(self) -> dict[int, set[str]]:
        """The addresses that are stored, hidden rows included, by user."""
        names: dict[int, set[str]] = {}
        rows = self.store.client.rows("SELECT user_id, email FROM $event_sink.user_profile", {"apply_deleted_mask": 0})
        for user, email in rows:
            names.setdefault(user, set()).add(email)
        return names

    def actors(self) -> list[str]:
        """Whom events name, in the order of the events."""
        return self.store.client.column(
            "SELECT JSONExtractString(event, 'actor', 'mbox') FROM $xapi.xapi_events_all ORDER BY emission_time"
        )


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """Three users who did one thing each."""
    url = f"sqlite:///{tmp_path}/lms.sqlite3"
    engine = open_writable(url)
    with engine.begin() as connection:
        create_tables(connection)
    engine.dispose()
    document = yaml.safe_load(find_resource("config/pii.yaml").read_text())
    document["targets"].update(ACTORS)
    (tmp_path / "pii.yaml").write_text(yaml.safe_dump(document))
    loaded = load_settings(
        clickhouse_url=f"chdb://{tmp_path}/clickhouse",
        receipts_dir=tmp_path / "receipts",
        pseudonym_secret="a secret of the tests",
        pii_map=tmp_path / "pii.yaml",
        lms_database_url=url,
    )
    writer = LmsWriter(url)
    with open_store(loaded, creates=True) as store:
        migrations.migrate(store.client)
        for user in (1, 2, 3):
            writer.register_user(user, f"learner{user}", f"learner{user}@example.com", f"Learner {user}")
        rows = [
            (uuid.uuid4(), datetime(2026, 1, user, tzinfo=UTC), json.dumps({"actor": {"mbox": mail(user)}}))
            for user in (1, 2, 3)
        ]
        store.client.insert(store.client.table("xapi.xapi_events_all"), ["event_id", "emission_time", "event"], rows)
        site = Site(store, LmsDatabase(url), writer)
        site.copy()
        yield site
    writer.close()


def mail(user: int) -> str:
    return f"mailto:learner{user}@example.com"


def test_the_order_of_messages_does_not_matter(site: Site, tmp_path: Path) -> None:
    """Every order of a retirement, its repetition, a copy and one from last week, each order for a user of its own.

    Through the tasks that the plugin's messages call; whoever is at the same step goes in one message.
    """
    orders = list(itertools.permutations(("retire", "retire again", "copy", "copy of last week")))
    users = dict(enumerate(orders, 100))
    assert len(users) == 24
    for user in users:
        site.writer.register_user(user, f"learner{user}", f"learner{user}@example.com", f"Learner {user}")
        site.writer.request_retirement(user)
        site.writer.retire_misc(user)
        site.writer.retire(user)
    loaded = load_settings(
        enable_pii=True,
        clickhouse_url=f"chdb://{tmp_path}/clickhouse",
        receipts_dir=tmp_path / "receipts",
        pseudonym_secret="a secret of the tests",
        pii_map=tmp_path / "pii.yaml",
        lms_database_url=f"sqlite:///{tmp_path}/lms.sqlite3",
        sync_max_removed_share=1,
        retire_max_share=1,
    )
    inline = create_app(loaded).tasks
    for step in range(4):
        for message in ("retire", "retire again", "copy", "copy of last week"):
            named = [user for user, order in users.items() if order[step] == message]
            assert len(named) == 6
            inline["aspects_pii.retire_users" if "retire" in message else "aspects_pii.sync_users"](named)
        # The LMS saves the profile long after.
        for user in users:
            site.writer.change_profile(user, goals=f"saved after step {step}")
    site.copy()
    assert set(site.names()) == {1, 2, 3}
    assert set(site.store.ledger.tombstones()) == set(map(str, users))
    assert site.store.ledger.count_states() == {"erased": 24}
    actions = Counter((e.action, e.subject) for e in site.store.ledger.show(limit=1_000))
    for user in users:
        assert [actions[action, str(user)] for action in ("requested", "erased", "failed")] == [1, 1, 0]
    assert len(list((tmp_path / "receipts").glob("*.json"))) == 24
    assert verify_subjects(site.store).is_clean


def test_a_copy_leaves_the_names_that_an_open_retirement_searches_by(site: Site) -> None:
    site.store.ledger.request([2])
    site.writer.change_profile(2, name="Somebody Else")
    site.copy()
    assert site.names()[2] == {"learner2@example.com"}
    assert site.store.client.column("SELECT name FROM $event_sink.user_profile WHERE user_id = 2") == ["Learner 2"]
    assert [o.state for o in sweep(site.store)] == ["erased"]
    assert set(site.names()) == {1, 3}
    actors = site.actors()
    assert [actors[0], actors[2]] == [mail(1), mail(3)]
    assert actors[1].endswith("@retired.invalid")
    # Done; from here on a copy removes whatever is found of them.
    columns = ["user_id", "name", "username", "email"]
    site.store.client.insert(site.store.client.table("event_sink.user_profile"), columns, [(2, "", "", "back")])
    site.copy()
    assert set(site.names()) == {1, 3}


def test_a_copy_in_mid_erasure_takes_no_name_that_is_still_needed(site: Site) -> None:
    """Killed when the profile was hidden and the proof had still to be made; a copy would take it off the disk."""
    site.store.ledger.request([2])
    site.store.client.execute("DELETE FROM $event_sink.user_profile WHERE user_id = 2", {"lightweight_deletes_sync": 2})
    # A user who leaves the LMS makes the copy clean up.
    site.writer.delete_user(3)
    site.copy()
    assert site.names()[2] == {"learner2@example.com"}
    assert [o.state for o in sweep(site.store)] == ["erased"]
    assert site.actors()[1].endswith("@retired.invalid")
    assert set(site.names()) == {1}


def test_the_address_that_the_lms_replaced_when_the_user_asked_is_searched_for_too(site: Site) -> None:
    """The LMS writes the retired address when retirement is asked for, long before anybody is told."""
    site.writer.request_retirement(2)
    site.copy()
    assert site.names()[2] != {"learner2@example.com"}
    site.writer.retire_misc(2)
    assert [o.state for o in retire(site.store, [2])] == ["erased"]
    actors = site.actors()
    assert [actors[0], actors[2]] == [mail(1), mail(3)]
    assert actors[1].endswith("@retired.invalid")


def test_user_who_cannot_be_searched_for_is_not_called_erased(site: Site, tmp_path: Path) -> None:
    site.writer.request_retirement(2)
    site.copy()
    (tmp_path / "lms.sqlite3").rename(tmp_path / "away")
    assert [o.state for o in retire(site.store, [2])] == ["failed"]
    assert site.actors()[1] == mail(2)
    (tmp_path / "away").rename(tmp_path / "lms.sqlite3")
    assert [o.state for o in sweep(site.store)] == ["erased"]
    assert site.actors()[1].endswith("@retired.invalid")
