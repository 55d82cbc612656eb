"""The datasets on the real engine: who they show, and whose relations a build leaves alone."""

from __future__ import annotations

import hmac
import json
import re
import sys
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from sink.clickhouse.address import Address
from sink.clickhouse.client import ClickHouse
from sink.clickhouse.migrations import migrate
from sink.datasets.build import build, list_datasets, read_built
from sink.datasets.dbt_folder import working_folder
from sink.datasets.inputs import DATASET_MARK
from sink.errors import BuildError, UsageError
from sink.ledger.pseudonym_key import set_pseudonym_key
from sink.names import TableName
from tests.support.aspects_statements import DBT_USERS
from tests.support.processes import Process, running, wait_until

DATABASES = {"event_sink": "event_sink", "xapi": "xapi", "reporting": "reporting", "pii_ledger": "pii_ledger"}
COURSE = "course-v1:Org+A+2026"
REGISTERED = "http://adlnet.gov/expapi/verbs/registered"
UNREGISTERED = "http://id.tincanapi.com/verb/unregistered"

# What upstream has too, and what is ours alone.
SHARED = {
    TableName("event_sink", "user_pii"),
    TableName("reporting", "dim_learner_last_course_visit"),
    TableName("reporting", "dim_student_status"),
    TableName("reporting", "dim_user_pii"),
    TableName("reporting", "fact_enrollments"),
    TableName("xapi", "xapi_events_all_parsed"),
}
OURS = {
    TableName("reporting", name)
    for name in (
        "enrolled_learners",
        "enrollment_demographics",
        "learner_progress",
        "learner_timeline",
        "learners_at_risk",
        "privacy_overview",
        "privacy_retirements",
        "viewer_scopes",
    )
}


def marts(client: ClickHouse) -> set[TableName]:
    """What this project made and people read."""
    return {name for name in list_datasets(client) if not name.table.startswith(("stg_", "int_"))}


def external_id(user_id: int) -> uuid.UUID:
    return uuid.UUID(int=0x4000 << 64 | user_id)


def add_profile(client: ClickHouse, user_id: int, name: str, at: str = "2026-01-01 00:00:00.000000") -> None:
    client.execute(
        "INSERT INTO $event_sink.user_profile (id, user_id, name, username, email, time_last_dumped) "
        "SELECT {id:Int32}, {user:Int32}, {name:String}, {username:String}, {email:String}, {at:String}",
        id=1000 + user_id,
        user=user_id,
        name=name,
        username=f"user{user_id}",
        email=f"user{user_id}@example.com",
        at=at,
    )


def add_external_id(client: ClickHouse, user_id: int, kind: str = "xapi", number: int | None = None) -> None:
    client.execute(
        "INSERT INTO $event_sink.external_id (external_user_id, external_id_type, username, user_id, time_last_dumped) "
        "SELECT {id:UUID}, {kind:String}, {username:String}, {user:Int32}, '2026-01-01 00:00:00.000000'",
        id=external_id(number or user_id),
        kind=kind,
        username=f"user{user_id}",
        user=user_id,
    )


def add_event(
    client: ClickHouse,
    actor: str,
    verb: str = REGISTERED,
    at: str = "2026-01-02 00:00:00",
    course: str = COURSE,
) -> None:
    field = "mbox" if actor.startswith("mailto:") else "account"
    value: Any = actor if field == "mbox" else {"name": actor}
    statement = {
        "actor": {field: value},
        "verb": {"id": verb},
        "object": {
            "id": f"http://lms.example.com/course/{course}",
            "definition": {"extensions": {"https://w3id.org/xapi/acrossx/extensions/type": "audit"}},
        },
    }
    client.execute(
        "INSERT INTO $xapi.xapi_events_all SELECT {id:UUID}, {at:DateTime64(6)}, {event:String}",
        id=uuid.uuid4(),
        at=at,
        event=json.dumps(statement),
    )


def retire(client: ClickHouse, user_id: int) -> None:
    """Only the request: nothing is erased yet."""
    client.execute(
        "INSERT INTO $pii_ledger.entries (subject, at, action, request, detail) "
        "SELECT {subject:String}, now64(6), 'requested', generateUUIDv4(), ''",
        subject=str(user_id),
    )


def add_people(client: ClickHouse) -> None:
    add_profile(client, 1, "Old Name")
    add_profile(client, 1, "New Name", at="2026-01-02 00:00:00.000000")
    for kind in ("xapi", "caliper", "lti"):
        add_external_id(client, 1, kind, number={"xapi": 1, "caliper": 101, "lti": 201}[kind])
    add_profile(client, 2, "No External Id")
    add_external_id(client, 3)  # No profile.
    add_profile(client, 4, "Retired Soon")
    add_external_id(client, 4)
    add_profile(client, 5, "Known By Mail")
    add_event(client, str(external_id(1)))
    add_event(client, str(external_id(3)))
    add_event(client, str(external_id(4)))
    add_event(client, "mailto:user5@example.com")
    add_event(client, "mailto:user5@example.com", UNREGISTERED, at="2026-01-03 00:00:00")
    client.execute(
        "INSERT INTO $event_sink.course_overviews (org, course_key, display_name, time_last_dumped) "
        "SELECT 'Org', {course:String}, name, at FROM values('name String, at String', ('Old', '1'), ('Course A', '2'))",
        course=COURSE,
    )


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouse]:
    """Our own tables, with people in them and the datasets over them."""
    address = Address(f"chdb://{tmp_path_factory.mktemp('clickhouse')}", databases=DATABASES)
    with ClickHouse(address) as client:
        migrate(client)
        add_people(client)
        build(address, enable_pii=True)
        yield client


def shown(client: ClickHouse, dataset: str, columns: Sequence[str]) -> list[tuple[Any, ...]]:
    return client.rows(f"SELECT {', '.join(columns)} FROM {dataset} ORDER BY ALL")


def test_user_pii_has_one_row_a_subject_and_xapi_id_or_address(built: ClickHouse) -> None:
    # Two versions of the profile and three kinds of id are one row; no profile is none and not user 0. Whoever has no id
    # is there as upstream has it where the LMS names actors by address.
    expected = [
        (1, str(external_id(1)), "user1", "New Name", "user1@example.com"),
        (2, "mailto:user2@example.com", "user2", "No External Id", "user2@example.com"),
        (4, str(external_id(4)), "user4", "Retired Soon", "user4@example.com"),
        (5, "mailto:user5@example.com", "user5", "Known By Mail", "user5@example.com"),
    ]
    columns = ["user_id", "external_user_id", "username", "name", "email"]
    assert shown(built, "event_sink.user_pii", columns) == expected
    assert shown(built, "reporting.dim_user_pii", columns[1:]) == sorted(row[1:] for row in expected)


def test_enrolled_learners_has_course_enrolment_and_contact(built: ClickHouse) -> None:
    columns = ["course_key", "course_name", "enrollment_mode", "enrollment_status", "username", "name", "email"]
    assert shown(built, "reporting.enrolled_learners", columns) == [
        (COURSE, "Course A", "audit", "registered", "user1", "New Name", "user1@example.com"),
        (COURSE, "Course A", "audit", "registered", "user4", "Retired Soon", "user4@example.com"),
        (COURSE, "Course A", "audit", "unregistered", "user5", "Known By Mail", "user5@example.com"),
    ]


def test_events_have_their_course_and_enrollments_do_not_fan_out(built: ClickHouse) -> None:
    assert shown(built, "xapi.xapi_events_all_parsed", ["course_key", "org"]) == [(COURSE, "Org")] * 5
    facts = shown(built, "reporting.fact_enrollments", ["actor_id", "username"])
    assert len(facts) == 5
    assert (str(external_id(3)), "") in facts


def test_a_retirement_shows_in_every_dataset_before_anything_is_erased(built: ClickHouse) -> None:
    retire(built, 4)
    try:
        for dataset in (
            "event_sink.user_pii",
            "reporting.dim_user_pii",
            "reporting.enrolled_learners",
            "reporting.learners_at_risk",
            "reporting.learner_progress",
        ):
            assert shown(built, dataset, ["username"])[0] == ("user1",)
            assert ("user4",) not in shown(built, dataset, ["username"])
        facts = shown(built, "reporting.fact_enrollments", ["actor_id", "username", "name", "email"])
        assert len(facts) == 5
        assert (str(external_id(4)), "", "", "") in facts
    finally:
        built.execute("TRUNCATE TABLE $pii_ledger.entries")


def test_the_datasets_keep_no_copy_and_are_known_as_ours(built: ClickHouse) -> None:
    assert marts(built) == SHARED | OURS
    engines = built.column(
        "SELECT engine FROM system.tables WHERE startsWith(comment, {mark:String})", mark=DATASET_MARK
    )
    assert len(engines) > 20
    assert set(engines) == {"View", "Dictionary"}
    assert built.value("SELECT count() FROM $event_sink.user_pii") > 0
    kept = "SELECT type, element_count FROM system.dictionaries WHERE database = 'event_sink' AND name = 'user_pii'"
    assert built.rows(kept) == [("ComplexKeyDirect", 0)]


def test_the_datasets_say_whether_they_show_people(built: ClickHouse) -> None:
    found = read_built(built)
    assert found.with_pii > 20
    assert (found.without_pii, found.unknown) == (0, 0)
    assert found.at is not None


def test_a_failure_names_the_model_and_no_value_and_leaves_nothing_behind(
    built: ClickHouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    built.execute("RENAME TABLE $event_sink.external_id TO $event_sink.gone")
    said: list[str] = []
    try:
        with pytest.raises(BuildError, match=r"dim_user_pii.*UNKNOWN_TABLE.*aspects-pii init"):
            build(built.address, ["--select", "dim_user_pii"], enable_pii=True, report=said.append)
    finally:
        built.execute("RENAME TABLE $event_sink.gone TO $event_sink.external_id")
    assert list(tmp_path.iterdir()) == []
    assert len(said) > 1
    assert "SELECT" not in "".join(said).upper()


def test_a_build_that_is_killed_leaves_nothing_behind(tmp_path: Path) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    environment = {"ASPECTS_CLICKHOUSE_URL": f"chdb://{tmp_path}/clickhouse", "TMPDIR": str(temporary)}
    command = [sys.executable, "-c", "from sink.doors.cli.main import main; main()"]
    with running(Process("init", [*command, "init"], tmp_path, environment)) as made:
        assert made.child is not None
        assert made.child.wait(300) == 0
    process = Process("build", [*command, "build"], tmp_path, environment)
    with running(process):
        wait_until(lambda: list(temporary.glob("*/target/*")), process.read_log, pause=0.01)
        process.kill()
    wait_until(lambda: list(temporary.iterdir()) == [], lambda: str(list(temporary.rglob("*"))))


def test_what_killed_builds_have_left_is_removed_by_the_next_and_what_is_in_use_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    left, others = tmp_path / "aspects-pii-dbt-left", tmp_path / "something-else"
    for folder in (left, others):
        (folder / "target").mkdir(parents=True)
    with working_folder() as first:
        (first / "target").mkdir()
        assert not left.exists()
        with working_folder() as second:
            assert {*tmp_path.iterdir()} == {others, first, second}
            assert (first / "target").is_dir()
    assert list(tmp_path.iterdir()) == [others]


def test_pseudonyms_cannot_be_followed_from_course_to_course(built: ClickHouse) -> None:
    other = "course-v1:Org+B+2026"
    add_event(built, str(external_id(1)), course=other)
    secret = SecretStr("the secret of these tests")
    build(built.address, enable_pii=False, pseudonym_secret=secret)
    columns = ["course_key", "learner_key", "name", "username", "email", "user_id", "external_user_id"]
    learners = shown(built, "reporting.enrolled_learners", columns)
    assert len(learners) == 5
    names = {row[2] for row in learners}
    assert len(names) == 5
    assert all(re.fullmatch(r"Learner [A-HJ-NP-Z2-9]{4}-[A-HJ-NP-Z2-9]{2}", name) for name in names)
    assert {row[3:] for row in learners} == {(name, "", 0, None) for name in names}
    # The same by another way: HMAC-SHA256 of actor and course.
    key = hmac.digest(secret.get_secret_value().encode(), b"aspects-pii pseudonyms of datasets", "sha256")
    digest = hmac.digest(key, f"{external_id(1)}\0{other}".encode(), "sha256")
    letters = "".join("ABCDEFGHJKLMNPQRSTUVWXYZ23456789"[byte & 31] for byte in digest[:6])
    assert [row[:3] for row in learners if row[0] == other] == [
        (other, digest[:8].hex().upper(), f"Learner {letters[:4]}-{letters[4:]}")
    ]

    facts = shown(built, "reporting.fact_enrollments", ["course_key", "name", "email"])
    assert {(course, name, "") for course, _, name, *_ in learners} == set(facts)
    assert {row[0] for row in shown(built, "reporting.learner_progress", ["name"])} == names
    for dataset in ("event_sink.user_pii", "reporting.dim_user_pii"):
        assert built.value(f"SELECT count() FROM {dataset}") == 0
    # Demographics are absent, and what an earlier build made of them is gone.
    assert marts(built) == SHARED | OURS - {TableName("reporting", "enrollment_demographics")}

    # Stable, unless the secret changes; and the secret is in no definition.
    set_pseudonym_key(built)
    assert {row[0] for row in shown(built, "reporting.enrolled_learners", ["name"])} == names
    set_pseudonym_key(built, SecretStr("another secret of these tests"))
    assert not {row[0] for row in shown(built, "reporting.enrolled_learners", ["name"])} & names
    definitions = "".join(built.column("SELECT create_table_query FROM system.tables WHERE database = 'reporting'"))
    assert "learners.inner_pad" in definitions
    assert not any(
        pad in definitions for row in built.rows("SELECT * FROM $pii_ledger.pseudonym_key") for pad in row[:2]
    )


@pytest.mark.parametrize("option", ["--store-failures", "--write-json", "--log-level-file=debug"])
def test_options_that_keep_values_are_refused(option: str) -> None:
    with pytest.raises(UsageError, match=option.partition("=")[0]):
        build(Address("http://nowhere.invalid"), [option], enable_pii=True)


# ── Beside upstream ─────────────────────────────────────────────────────────────────────────────────

UPSTREAM = """
CREATE DATABASE $event_sink; CREATE DATABASE $xapi; CREATE DATABASE $reporting;
CREATE TABLE $event_sink.user_profile (id Int32, user_id Int32, name String, username String, email String, meta String,
    courseware String, language String, location String, year_of_birth String, gender String, level_of_education String,
    mailing_address String, city String, country String, state String, goals String, bio String,
    profile_image_uploaded_at String, dump_id UUID, time_last_dumped String, phone_number String)
    ENGINE = ReplacingMergeTree PARTITION BY user_id MOD 100 ORDER BY (id, time_last_dumped);
CREATE TABLE $event_sink.external_id (external_user_id UUID, external_id_type String, username String, user_id Int32,
    dump_id UUID, time_last_dumped String)
    ENGINE = ReplacingMergeTree PARTITION BY user_id MOD 100 ORDER BY (external_user_id, time_last_dumped);
CREATE DICTIONARY $event_sink.user_pii (user_id Int32, external_user_id UUID, username String, name String, email String)
    PRIMARY KEY user_id, external_user_id
    SOURCE(CLICKHOUSE(QUERY 'SELECT p.user_id AS user_id, external_user_id, p.username AS username, name, email
        FROM $event_sink.external_id AS e LEFT JOIN $event_sink.user_profile AS p ON p.user_id = e.user_id'))
    LAYOUT(COMPLEX_KEY_SPARSE_HASHED()) LIFETIME(120);
CREATE VIEW $reporting.dim_user_pii AS SELECT external_user_id, username, name, email FROM $event_sink.user_pii;
CREATE TABLE $xapi.xapi_events_all (event_id UUID, emission_time DateTime64(6), event String)
    ENGINE = ReplacingMergeTree PARTITION BY toYYYYMM(emission_time) ORDER BY (emission_time, event_id);
CREATE TABLE $xapi.xapi_events_all_parsed (event_id UUID, verb_id String, actor_id String, object_id String, course_id String,
    org String, emission_time DateTime64(6), event String) ENGINE = ReplacingMergeTree ORDER BY (org, course_id, event_id);
CREATE MATERIALIZED VIEW $xapi.xapi_events_all_parsed_mv TO $xapi.xapi_events_all_parsed AS
    SELECT event_id, JSONExtractString(event, 'verb', 'id') AS verb_id,
    if(JSONExtractString(event, 'actor', 'account', 'name') != '', JSONExtractString(event, 'actor', 'account', 'name'),
       JSONExtractString(event, 'actor', 'mbox')) AS actor_id,
    JSONExtractString(event, 'object', 'id') AS object_id, JSONExtractString(event, 'object', 'id') AS course_id, 'Org' AS org,
    emission_time, event FROM $xapi.xapi_events_all
"""
_IDENTITIES = (
    "SELECT name, uuid, create_table_query FROM system.tables WHERE startsWith(database, 'site_') "
    "AND name IN ('user_pii', 'dim_user_pii', 'xapi_events_all_parsed', 'xapi_events_all_parsed_mv') ORDER BY name"
)


@pytest.fixture(scope="module")
def beside_upstream(built: ClickHouse) -> Iterator[ClickHouse]:
    """What Aspects filled, in databases of other names of the same engine."""
    databases = {name: f"site_{name}" for name in DATABASES}
    with ClickHouse(replace(built.address, databases=databases)) as client:
        for statement in UPSTREAM.split(";"):
            client.execute(statement)
        migrate(client)
        add_people(client)
        yield client


def test_relations_that_upstream_made_stay_as_they_are(beside_upstream: ClickHouse) -> None:
    client = beside_upstream
    before = client.rows(_IDENTITIES)
    assert len(before) == 4
    build(client.address, enable_pii=True)
    assert client.rows(_IDENTITIES) == before
    made = {name.table for name in marts(client)}
    assert made == {name.table for name in SHARED | OURS} - {"user_pii", "dim_user_pii", "xapi_events_all_parsed"}
    # Ours read upstream's tables, and have none of the defects of what stands beside them.
    columns = ["user_id", "external_user_id", "name", "enrollment_status"]
    assert shown(client, "$reporting.enrolled_learners", columns) == [
        (1, external_id(1), "New Name", "registered"),
        (4, external_id(4), "Retired Soon", "registered"),
        (5, None, "Known By Mail", "unregistered"),
    ]
    retire(client, 4)
    assert client.value("SELECT count() FROM $reporting.enrolled_learners") == 2


def test_upstreams_views_and_dictionaries_are_replaced_where_told_and_tables_never(beside_upstream: ClickHouse) -> None:
    client = beside_upstream
    table = client.rows(
        "SELECT uuid FROM system.tables WHERE database = 'site_xapi' AND name = 'xapi_events_all_parsed'"
    )
    build(
        client.address,
        ["--vars", "{replace_upstream: true}", "--select", "marts.aspects,resource_type:model"],
        enable_pii=True,
    )
    assert {name.table for name in marts(client)} == {name.table for name in SHARED | OURS} - {"xapi_events_all_parsed"}
    assert (
        client.rows("SELECT uuid FROM system.tables WHERE database = 'site_xapi' AND name = 'xapi_events_all_parsed'")
        == table
    )
    assert shown(client, "$event_sink.user_pii", ["user_id", "name"]) == [
        (1, "New Name"),
        (2, "No External Id"),
        (5, "Known By Mail"),
    ]


@pytest.mark.parametrize("options", [[], ["--vars", "{replace_upstream: true}"]])
def test_aspects_dbt_and_ours_run_after_each_other_again_and_again(
    beside_upstream: ClickHouse, options: list[str]
) -> None:
    client = beside_upstream
    kinds = (
        "SELECT engine, startsWith(comment, {mark:String}) FROM system.tables "
        "WHERE database = 'site_event_sink' AND name = 'user_pii'"
    )
    # Whatever it finds: a dictionary of its own, or ours. A view there would fail it with code 80.
    for statement in DBT_USERS * 2:
        client.execute(statement)
    assert client.rows(kinds, mark=DATASET_MARK) == [("Dictionary", 0)]
    select = ["--select", "user_pii", "dim_user_pii", "--indirect-selection", "cautious"]
    build(client.address, [*options, *select], enable_pii=True)
    assert client.rows(kinds, mark=DATASET_MARK) == [("Dictionary", 1 if options else 0)]
    for statement in DBT_USERS:
        client.execute(statement)
    assert client.rows(kinds, mark=DATASET_MARK) == [("Dictionary", 0)]


def test_a_dictionary_of_ours_takes_the_place_of_a_view_of_an_earlier_version(beside_upstream: ClickHouse) -> None:
    client = beside_upstream
    client.execute("DROP DICTIONARY IF EXISTS $event_sink.user_pii")
    client.execute(
        f"CREATE VIEW $event_sink.user_pii AS SELECT 1 AS user_id COMMENT '{DATASET_MARK}PII on. As it was.'"
    )
    build(client.address, ["--select", "user_pii", "--indirect-selection", "cautious"], enable_pii=True)
    assert shown(client, "$event_sink.user_pii", ["user_id", "name"]) == [
        (1, "New Name"),
        (2, "No External Id"),
        (5, "Known By Mail"),
    ]
    client.execute(DBT_USERS[0])


def test_a_relation_of_somebody_else_under_a_name_of_our_own_stops_the_build(beside_upstream: ClickHouse) -> None:
    client = beside_upstream
    client.execute("DROP VIEW IF EXISTS $reporting.enrolled_learners")
    client.execute("CREATE TABLE $reporting.enrolled_learners (a UInt8) ENGINE = Memory")
    with pytest.raises(BuildError, match=r"enrolled_learners.*was not made by aspects-pii"):
        build(client.address, ["--select", "enrolled_learners"], enable_pii=True)
    assert (
        client.value(
            "SELECT engine FROM system.tables WHERE database = 'site_reporting' AND name = 'enrolled_learners'"
        )
        == "Memory"
    )
