"""The statements that count, kept as they come in: the same figures, nothing missed, nobody left in it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest

from sink.clickhouse.catalog import read_tables
from sink.clickhouse.client import ClickHouse
from sink.datasets import learner_events
from sink.datasets.build import build, find_events_kept, list_datasets
from sink.datasets.learner_events import FEED, LEARNER_EVENTS, drop_former, find_kept, keep_learner_events
from sink.dbt_macros import render_macro
from sink.errors import BusyError, RefusedError
from sink.installation import open_store
from sink.ledger.leases import hold
from sink.retirement.batch import Result
from sink.retirement.retire import retire
from sink.settings import Settings
from sink.store import Store
from sink.visibility import render_visible_to

RAW = "xapi_events_all"
COURSES = ("course-v1:Org+A+2026", "course-v1:Org+B+2026", "course-v1:Other+C+2026")
COURSE_TYPE = "http://adlnet.gov/expapi/activities/course"
VERBS = {
    "registered": "http://adlnet.gov/expapi/verbs/registered",
    "navigated": "https://w3id.org/xapi/dod-isd/verbs/navigated",
    "evaluated": "https://w3id.org/xapi/acrossx/verbs/evaluated",
    "earned": "http://id.tincanapi.com/verb/earned",
    "paused": "https://w3id.org/xapi/video/verbs/paused",
}
ADDRESS = "Someone@example.com"


def write_statement(actor: dict[str, object], verb: str, course: str, block: str = "") -> str:
    activity = {"id": f"http://lms/course/{course}", "definition": {"type": COURSE_TYPE}}
    return json.dumps(
        {
            "actor": actor,
            "verb": {"id": VERBS[verb]},
            "object": {"id": f"http://lms/xblock/{block}"} if block else activity,
            "context": {"contextActivities": {"parent": [activity]}} if block else {},
            "result": {"success": True, "score": {"scaled": 0.5}},
        }
    )


def write_account(number: int) -> dict[str, object]:
    return {"account": {"name": str(uuid.UUID(int=0x4000 << 64 | number))}}


def add(client: ClickHouse, *statements: tuple[str, str]) -> None:
    """Statements, each with its time."""
    client.insert(
        client.table(f"xapi.{RAW}"),
        ["event_id", "emission_time", "event"],
        [(uuid.uuid4(), datetime.fromisoformat(f"{at}+00:00"), text) for at, text in statements],
    )


def list_statements() -> list[tuple[str, str]]:
    """Statements of every kind that is met, of three courses, over four days; an odd one, and one of no use, with them."""
    found = []
    for number in range(60):
        at, course = f"2026-03-0{1 + number % 4} {number % 24:02}:15:00.000001", COURSES[number % 3]
        verb = list(VERBS)[number % len(VERBS)]
        block = "" if verb in ("registered", "earned") else f"block-{number % 7}"
        found.append((at, write_statement(write_account(1 + number % 9), verb, course, block)))
    odd = ["not JSON, though it was registered", '{"verb": {"id": "played"}}', '{"verb": "registered"}', ""]
    return [*found, *(("1969-12-31 23:59:59.999999", text) for text in odd)]


def read(client: ClickHouse) -> list[tuple[object, ...]]:
    """What is kept, each statement once."""
    return client.rows(f"SELECT DISTINCT * FROM $reporting.{LEARNER_EVENTS} ORDER BY ALL")


def read_anew(client: ClickHouse) -> list[tuple[object, ...]]:
    """What the statements themselves say."""
    query = render_macro(["events", "xapi", "keys"], "learner_events", client.table(f"xapi.{RAW}").sql)
    return client.rows(f"SELECT DISTINCT * FROM ({query}) ORDER BY ALL")


@pytest.fixture
def client(store: Store) -> ClickHouse:
    add(store.client, *list_statements())
    return store.client


@pytest.fixture
def in_small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learner_events, "_STATEMENTS_AT_ONCE", 5)


def test_what_was_there_and_what_comes_are_kept_as_they_would_be_read(client: ClickHouse, in_small_parts: None) -> None:
    assert keep_learner_events(client, RAW) == LEARNER_EVENTS
    before = read(client)
    assert len(before) == 48
    assert before == read_anew(client)
    add(client, *list_statements())
    assert len(read(client)) == 96
    assert read(client) == read_anew(client)
    assert find_kept(client) == LEARNER_EVENTS


def test_the_second_time_nothing_is_read(client: ClickHouse, monkeypatch: pytest.MonkeyPatch) -> None:
    keep_learner_events(client, RAW)
    monkeypatch.setattr(learner_events, "_read_hours", lambda *_: pytest.fail("it read the statements again"))
    assert keep_learner_events(client, RAW) == LEARNER_EVENTS


def test_a_table_that_has_not_everything_yet_is_not_read_by_datasets(
    client: ClickHouse, in_small_parts: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_hours, asked = learner_events._read_hours, []

    def stop_at_the_third(*arguments: object) -> None:
        asked.append(arguments)
        if len(asked) == 3:
            raise BusyError("stopped by this test")
        read_hours(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(learner_events, "_read_hours", stop_at_the_third)
    with pytest.raises(BusyError, match="stopped by this test"):
        keep_learner_events(client, RAW)
    assert find_kept(client) is None
    read_before = asked[:2]

    asked.clear()

    def go_on(*arguments: object) -> None:
        asked.append(arguments)
        read_hours(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(learner_events, "_read_hours", go_on)
    keep_learner_events(client, RAW)
    assert len(asked) > 5
    assert not set(asked) & set(read_before), "what had been read was read again"
    assert read(client) == read_anew(client)


PROGRAM = """
import sys
from pathlib import Path
from sink.datasets import learner_events
from sink.installation import open_store
from sink.settings import load_settings

learner_events._STATEMENTS_AT_ONCE = 5
note = learner_events._note
def say(client, state):
    note(client, state)
    print(state.read, flush=True)
    if state.read.isdigit() and sys.argv[3] == "wait":
        sys.stdin.read()
learner_events._note = say
with open_store(load_settings(clickhouse_url=sys.argv[1], receipts_dir=Path(sys.argv[2]))) as store:
    learner_events.keep_learner_events(store.client, "xapi_events_all")
"""


def test_a_process_that_is_killed_while_it_reads_is_taken_over(
    settings: Settings, migrated: Callable[[Path], None]
) -> None:
    migrated(Path(settings.clickhouse_url.removeprefix("chdb://")))
    with open_store(settings) as store:
        add(store.client, *list_statements())
    command = [sys.executable, "-c", PROGRAM, settings.clickhouse_url, str(settings.receipts_dir)]
    with subprocess.Popen([*command, "wait"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "nothing\n"
        assert process.stdout.readline().strip().lstrip("-").isdigit()
        process.send_signal(signal.SIGKILL)
    with open_store(settings) as store:
        assert find_kept(store.client) is None
        # The leases of the killed run out.
        store.client.execute("TRUNCATE TABLE $pii_ledger.leases")
        add(store.client, *list_statements())
        keep_learner_events(store.client, RAW)
        assert len(read(store.client)) == 96
        assert read(store.client) == read_anew(store.client)


def test_nothing_is_read_while_somebody_is_erased(client: ClickHouse, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learner_events, "_WAIT_FOR_OTHERS_SECONDS", 0.0)
    with hold(client, "erasing"), pytest.raises(BusyError):
        keep_learner_events(client, RAW)
    assert read(client) == []
    keep_learner_events(client, RAW)
    assert len(read(client)) == 48


def test_whoever_is_named_by_an_address_is_erased_from_it_too(store: Store) -> None:
    client = store.client
    client.execute(
        "INSERT INTO $event_sink.user_profile (id, user_id, name, username, email) "
        f"SELECT number, number, 'Some One', concat('user', toString(number)), if(number = 1, '{ADDRESS}', 'other@example.com') "
        "FROM numbers(1, 2)"
    )
    texts = [
        write_statement({"mbox": f"mailto:{ADDRESS}"}, "registered", COURSES[0]),
        write_statement({"mbox": "mailto:other@example.com"}, "registered", COURSES[0]),
        write_statement(write_account(3), "registered", COURSES[0]),
    ]
    add(client, ("2026-03-01 00:00:00", texts[0]), ("2026-03-02 00:00:00", texts[1]))
    keep_learner_events(client, RAW)
    add(client, ("2026-03-03 00:00:00", texts[0]), ("2026-03-03 00:00:00", texts[2]))
    actors = f"SELECT actor_id FROM $reporting.{LEARNER_EVENTS} ORDER BY emission_time, actor_id"
    assert [actor for actor in client.column(actors) if ADDRESS in actor] == [f"mailto:{ADDRESS}"] * 2

    (outcome,) = retire(store, [1], force=True)
    assert outcome.state is Result.ERASED
    first, other, *third = client.column(actors)
    assert other == "mailto:other@example.com"
    assert len(third) == 2
    # One pseudonym, and that of the statements themselves.
    assert first in third
    assert first == client.value(
        f"SELECT JSONExtractString(event, 'actor', 'mbox') FROM $xapi.{RAW} ORDER BY emission_time LIMIT 1"
    ) or first.startswith("mailto:")
    assert ADDRESS.lower() not in first.lower()


@pytest.mark.parametrize(
    "change",
    [
        f"DROP VIEW $reporting.{FEED} SYNC",
        f"DROP TABLE $reporting.{LEARNER_EVENTS} SYNC",
        "DROP DATABASE $reporting SYNC",
        f"ALTER TABLE $reporting.{LEARNER_EVENTS} MODIFY COMMENT 'Statements that count, kept by aspects-pii.'",
    ],
)
def test_what_was_dropped_or_changed_by_hand_is_read_in_anew(client: ClickHouse, change: str) -> None:
    keep_learner_events(client, RAW)
    if change.startswith("DROP TABLE"):
        # Else no statement could be written.
        client.execute(f"DROP VIEW $reporting.{FEED} SYNC")
    client.execute(change)
    add(client, *list_statements())
    assert keep_learner_events(client, RAW) == LEARNER_EVENTS
    assert len(read(client)) == 96
    assert read(client) == read_anew(client)


def test_another_table_of_statements_under_the_same_name_is_read_anew(client: ClickHouse) -> None:
    keep_learner_events(client, RAW)
    client.execute(f"RENAME TABLE $xapi.{RAW} TO $xapi.old_{RAW}")
    client.execute(f"CREATE TABLE $xapi.{RAW} AS $xapi.old_{RAW}")
    add(client, *list_statements())
    keep_learner_events(client, RAW)
    assert len(read(client)) == 48
    assert read(client) == read_anew(client)
    add(client, *list_statements())
    assert len(read(client)) == 96


def test_to_read_anew_takes_out_what_the_statements_do_not_have_any_more(client: ClickHouse) -> None:
    keep_learner_events(client, RAW)
    client.execute(f"DELETE FROM $xapi.{RAW} WHERE emission_time < '2026-03-02 00:00:00'")
    assert read(client) != read_anew(client)
    keep_learner_events(client, RAW, anew=True)
    assert 0 < len(read(client)) < 48
    assert read(client) == read_anew(client)


def test_statements_that_cannot_be_followed_are_read_each_time(client: ClickHouse) -> None:
    client.execute(f"CREATE VIEW $xapi.statements AS SELECT * FROM $xapi.{RAW}")
    client.execute(
        "CREATE TABLE $xapi.of_another_shape (event_id String, emission_time DateTime, event String) "
        "ENGINE = MergeTree ORDER BY event_id"
    )
    for table in ("statements", "of_another_shape", "missing"):
        assert keep_learner_events(client, table) is None, table
    assert find_kept(client) is None
    assert not client.value(f"SELECT count() FROM system.tables WHERE name = '{LEARNER_EVENTS}'")


def test_a_table_of_that_name_which_is_not_ours_is_left_alone(client: ClickHouse) -> None:
    client.execute(f"CREATE TABLE $reporting.{LEARNER_EVENTS} (n Int8) ENGINE = MergeTree ORDER BY n")
    client.execute(f"INSERT INTO $reporting.{LEARNER_EVENTS} SELECT 1")
    with pytest.raises(RefusedError, match="was not made by aspects-pii"):
        keep_learner_events(client, RAW)
    assert client.column(f"SELECT n FROM $reporting.{LEARNER_EVENTS}") == [1]


def test_a_table_of_a_former_version_goes_once_nothing_reads_it(
    client: ClickHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_learner_events(client, RAW)
    client.execute(f"CREATE VIEW $reporting.reads_it AS SELECT * FROM $reporting.{LEARNER_EVENTS}")
    former = LEARNER_EVENTS
    monkeypatch.setattr(learner_events, "LEARNER_EVENTS", "learner_events_v999")
    monkeypatch.setattr(learner_events, "FEED", "learner_events_v999_mv")
    keep_learner_events(client, RAW)
    assert drop_former(client) == []
    client.execute("DROP VIEW $reporting.reads_it")
    assert drop_former(client) == [former]
    names = client.column("SELECT name FROM system.tables WHERE startsWith(name, 'learner_events_v') ORDER BY name")
    assert names == ["learner_events_v999", "learner_events_v999_mv"]


def test_an_account_that_may_not_make_it_says_what_to_do(client: ClickHouse) -> None:
    told: list[str] = []
    assert find_events_kept(client, may_make=False, report=told.append) is None
    assert "aspects-pii init" in told[0]
    keep_learner_events(client, RAW)
    assert find_events_kept(client, may_make=False) == LEARNER_EVENTS
    client.execute(f"DROP VIEW $reporting.{FEED} SYNC")
    assert find_events_kept(client, may_make=False) is None, "nothing writes it any more"


# ── In the datasets ─────────────────────────────────────────────────────────────────────────────────


def fill_people(client: ClickHouse) -> None:
    client.execute(
        "INSERT INTO $event_sink.user_profile (id, user_id, name, username, email) SELECT number, number, "
        "concat('Name ', toString(number)), concat('user', toString(number)), concat('user', toString(number), '@example.com') "
        "FROM numbers(1, 9)"
    )
    for number in range(1, 10):
        client.execute(
            "INSERT INTO $event_sink.external_id (external_user_id, external_id_type, username, user_id) "
            "SELECT {id:UUID}, 'xapi', {name:String}, {user:Int64}",
            id=uuid.UUID(int=0x4000 << 64 | number),
            name=f"user{number}",
            user=number,
        )


def read_datasets(client: ClickHouse) -> dict[str, list[tuple[object, ...]]]:
    """Every row of everything that is made of events."""
    names = [name for name in list_datasets(client) if name.table not in ("viewer_scopes", "user_pii")]
    made_of_events = [
        name.table
        for name in names
        if name.database == client.databases["reporting"] and not name.table.startswith(("stg_", "int_", "privacy_"))
    ]
    return {name: client.rows(f"SELECT * FROM $reporting.{name} ORDER BY ALL") for name in made_of_events}


@pytest.fixture
def built(client: ClickHouse) -> ClickHouse:
    fill_people(client)
    return client


@pytest.mark.parametrize("enable_pii", [True, False])
def test_datasets_show_the_same_figures_with_and_without_it(built: ClickHouse, enable_pii: bool) -> None:
    only_models = ["--exclude-resource-type", "test"]
    build(built.address, only_models, enable_pii=enable_pii, keeps_events=False)
    direct = read_datasets(built)
    assert sum(map(len, direct.values())) > 50
    assert {"enrolled_learners", "learner_progress", "learner_timeline", "fact_enrollments"} <= set(direct)
    assert not built.value(f"SELECT count() FROM system.tables WHERE name = '{LEARNER_EVENTS}'")

    build(built.address, only_models, enable_pii=enable_pii)
    assert LEARNER_EVENTS in built.value(
        "SELECT create_table_query FROM system.tables WHERE name = 'int_statements_read'"
    )
    assert read_datasets(built) == direct

    # While it is filled anew, no dataset shows a part as the whole.
    raw = built.table(f"xapi.{RAW}")
    learner_events._make(built, read_tables(built, [raw])[raw])
    assert not built.value("SELECT count() FROM system.tables WHERE name = 'int_statements_read'")


def test_the_condition_of_a_viewer_reaches_the_sort_key(built: ClickHouse) -> None:
    """Of a course, its rows are read, and not those of the others."""
    built.execute(
        "INSERT INTO $event_sink.course_access (user_id, username, org, course_key, role) VALUES "
        "(1, 'user1', 'Org3', 'course-v1:Org3+7+2026', 'staff'), (2, 'user2', 'Org3', '', 'staff'), (3, 'user3', '', '', 'staff')"
    )
    text = write_statement(write_account(1), "navigated", "COURSE", "block")
    course = "concat('course-v1:Org', toString(number % 4), '+', toString(number % 100), '+2026')"
    built.execute(
        f"INSERT INTO $xapi.{RAW} SELECT generateUUIDv4(), toDateTime64('2026-01-01 00:00:00', 6) + number, "
        f"replaceOne({{text:String}}, 'COURSE', {course}) FROM numbers(500000)",
        text=text,
    )
    build(built.address, ["--exclude-resource-type", "test"], enable_pii=True)
    built.execute(f"OPTIMIZE TABLE $reporting.{LEARNER_EVENTS} FINAL")
    reporting = built.databases["reporting"]

    def count_granules(dataset: str, condition: str) -> tuple[int, int]:
        """How many granules of the kept statements are read, and how many there are."""
        plan = built.column(f"EXPLAIN indexes = 1 SELECT * FROM $reporting.{dataset} WHERE {condition}")
        lines = "\n".join(plan).split(f"ReadFromMergeTree ({reporting}.{LEARNER_EVENTS})")[1].splitlines()
        (granules, *_) = (line.split("Granules:")[1].strip() for line in lines if "Granules:" in line and "/" in line)
        read, _, there = granules.partition("/")
        return int(read), int(there)

    conditions = {
        "its key": "course_key = 'course-v1:Org3+7+2026'",
        "its organisation": "org = 'Org3'",
        "a viewer of a course": render_visible_to("'user1'", reporting),
        "a viewer of an organisation": render_visible_to("'user2'", reporting),
    }
    for dataset in (
        "learners_at_risk",
        "enrolled_learners",
        "learner_progress",
        "learner_timeline",
        "fact_enrollments",
    ):
        for name, condition in conditions.items():
            read, there = count_granules(dataset, condition)
            assert there > 50
            assert read < there / 2, f"{dataset}, by {name}"
    sees_all = render_visible_to("'user3'", reporting)
    assert built.value(f"SELECT count() FROM $reporting.learner_progress WHERE {sees_all}") > 100
