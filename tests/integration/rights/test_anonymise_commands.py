"""`anonymise` as an operator uses it: in process and over HTTP, refused where it could do harm, gone on with after a kill."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import yaml

from sink.clickhouse.client import ClickHouse
from sink.resources import find_resource
from tests.integration.rights.conftest import (
    ADDRESS,
    ANA,
    BOB,
    EXTERNAL_ID,
    NAME,
    USERNAME,
    World,
    account,
    fill,
    make_statement,
)
from tests.integration.rights.conftest import EXTERNAL_ID_OF_BOB as BOBS_ID
from tests.support.dev_copy import copy_production

ORIGINALS = [
    ADDRESS,
    NAME,
    USERNAME,
    str(EXTERNAL_ID),
    "bob_ocelot99",
    "Ibex Ocelot",
    "bob@x.example.org",
    str(BOBS_ID),
]
DATABASES = ("--database", "dev_event_sink", "--database", "dev_xapi")
INVENTED = r"learner_[0-9a-f]{16}"


@pytest.fixture(autouse=True)
def allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASPECTS_ALLOW_ANONYMISE", "true")


@pytest.fixture
def copied(embedded: World) -> World:
    """Two people in process, and a copy of them."""
    fill(embedded)
    copy_production(embedded.store.client, "event_sink", "xapi")
    return embedded


def read_all(client: ClickHouse, prefix: str = "") -> dict[str, list[str]]:
    """Every row of every table of databases whose names begin so, as text."""
    tables = client.rows(
        "SELECT database, name FROM system.tables WHERE database IN {names:Array(String)} AND engine != 'Set' "
        "ORDER BY database, name",
        names=[f"{prefix}event_sink", f"{prefix}xapi"],
    )
    settings = {"apply_deleted_mask": 0}
    return {
        f"{database}.{name}": client.column(
            f"SELECT toString(tuple(*)) AS row FROM `{database}`.`{name}` ORDER BY row", settings
        )
        for database, name in tables
    }


def find_originals(client: ClickHouse) -> list[str]:
    """What of the people stands anywhere in the copy, in whatever case."""
    text = json.dumps(read_all(client, "dev_"), ensure_ascii=False).lower()
    assert len(text) > 200
    return [original for original in ORIGINALS if original.lower() in text]


def test_a_copy_has_invented_people_and_the_same_shape(world: World) -> None:
    client = world.store.client
    columns = ("user_id", "country", "gender", "year_of_birth", "phone_number")
    world.insert("event_sink.user_profile", columns, (7, "ES", "f", "1990", "+34 600 000 001"))
    world.insert_events(
        make_statement({"mbox_sha1sum": client.value("SELECT lower(hex(SHA1('mailto:ana@canary.example.org')))")}),
        make_statement({**account(EXTERNAL_ID), "name": NAME}, object={"id": f"https://lms.example.org/u/{USERNAME}"}),
        make_statement({"account": {"name": "never_copied_9", "homePage": "https://lms.example.org"}}),
        make_statement(account(BOBS_ID), result={"response": f"It was {NAME}, <{ADDRESS}> or {EXTERNAL_ID}"}),
    )
    before = read_all(client)
    copy_production(client, "event_sink", "xapi")

    ran = world.run("anonymise", *DATABASES, "--yes", "--actor", "service:copies", "--json")

    assert (ran.status, ran.err) == (0, "")
    assert ran.json["left"] == []
    assert ran.json["rows"]["dev_event_sink.user_profile"] == 3
    assert read_all(client) == before, "production is as it was"
    assert find_originals(client) == []
    assert "never_copied_9" not in json.dumps(read_all(client, "dev_"))
    after = read_all(client, "dev_")
    assert {table.removeprefix("dev_"): len(rows) for table, rows in after.items()} == {
        table: len(rows) for table, rows in before.items()
    }
    assert not any(table.partition(".")[2].startswith(("anonymising_", "erasing_")) for table in after)

    ((ana, username),) = client.rows("SELECT user_id, username FROM dev_event_sink.course_access")
    profiles = {
        user_id: values
        for user_id, *values in client.rows(
            "SELECT user_id, name, username, email, bio, phone_number FROM dev_event_sink.user_profile"
        )
    }
    name, own, email, bio, _ = profiles[ana]
    assert (set(profiles) & {ANA, BOB, 7}, own, bio) == (set(), username, "")
    ids = dict(client.rows("SELECT user_id, toString(external_user_id) FROM dev_event_sink.external_id"))
    ((bob, his_id),) = {user_id: found for user_id, found in ids.items() if user_id != ana}.items()
    ((nobody, _),) = {user_id: values for user_id, values in profiles.items() if user_id not in ids}.items()
    assert profiles[nobody] == [""] * 5
    events = client.column("SELECT event FROM dev_xapi.xapi_events_all")
    by_name = {json.loads(event).get("id", ""): json.loads(event) for event in events}
    assert by_name["by account"]["actor"]["account"]["name"] == ids[ana]
    assert by_name["of Bob"]["actor"]["account"]["name"] == his_id
    assert by_name["by address"]["actor"]["mbox"].lower() == f"mailto:{email}"
    assert by_name["about Ana"]["object"]["name"] == f"graded {email}"
    assert re.fullmatch(INVENTED, username)
    assert re.fullmatch(INVENTED, profiles[bob][1])
    assert re.fullmatch(f"{INVENTED}@example.invalid", email)
    assert re.fullmatch("Learner [0-9a-f]{16}", name)
    everything = "\n".join(events)
    assert client.value("SELECT lower(hex(SHA1({text:String})))", text=f"mailto:{email}") in everything
    assert f"https://lms.example.org/u/{username}" in everything
    assert f"It was {name}, <{email}> or {ids[ana]}" in everything
    assert {json.loads(event)["actor"].get("name") for event in events} == {None, name}
    assert set(client.column("SELECT user_id FROM dev_event_sink.course_enrollment")) == {ana, bob}
    kept = client.rows("SELECT country, gender, year_of_birth FROM dev_event_sink.user_profile WHERE country != ''")
    assert [tuple(map(str, row)) for row in kept] == [("ES", "f", "1990")]

    (entry,) = world.store.ledger.show(action="anonymised")
    assert entry.actor == "service:copies"
    assert entry.detail["databases"] == ["dev_event_sink", "dev_xapi"]
    assert entry.detail["rows"]["dev_xapi.xapi_events_all"] == 8


def test_it_is_off_by_default(copied: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ASPECTS_ALLOW_ANONYMISE")
    before = read_all(copied.store.client, "dev_")
    ran = copied.run("anonymise", *DATABASES, "--yes")
    assert (ran.status, "ASPECTS_ALLOW_ANONYMISE=true" in ran.err) == (1, True)
    dry = copied.run("anonymise", *DATABASES, "--dry-run", "--json")
    assert dry.status == 0
    fates = {line["table"]: line["fates"] for line in dry.json["plan"]}
    assert fates["dev_event_sink.user_profile"]["name"] == "invented name"
    assert fates["dev_event_sink.user_profile"]["country"] == "kept"
    assert fates["dev_event_sink.user_profile"]["bio"] == "emptied"
    assert fates["dev_xapi.xapi_events_all"] == {"event": "rewritten"}
    assert read_all(copied.store.client, "dev_") == before


def test_it_asks_whoever_is_there(copied: World) -> None:
    ran = copied.run("anonymise", *DATABASES)
    assert (ran.status, "--yes" in ran.err) == (2, True)
    assert find_originals(copied.store.client) == ORIGINALS


@pytest.mark.parametrize("name", ["event_sink", "xapi", "reporting", "pii_ledger", "openedx", "system"])
def test_databases_of_production_are_refused(copied: World, name: str) -> None:
    before = read_all(copied.store.client)
    ran = copied.run("anonymise", *DATABASES, "--database", name, "--yes")
    assert (ran.status, f"{name} is no copy" in ran.err) == (1, True)
    assert read_all(copied.store.client) == before
    assert find_originals(copied.store.client) == ORIGINALS


def test_what_the_settings_call_production_is_refused_by_any_name(
    copied: World, aspects_pii: Callable[..., Any]
) -> None:
    copied.store.client.execute("CREATE DATABASE dev_reporting")
    settings = {"EVENT_SINK_DATABASE": "dev_event_sink", "XAPI_DATABASE": "dev_xapi"}
    # The store moves there.
    assert aspects_pii("init", **settings).status == 0
    ran = aspects_pii("anonymise", *DATABASES, "--yes", **settings)
    assert (ran.status, "dev_event_sink, dev_xapi is no copy" in ran.err) == (1, True)
    assert find_originals(copied.store.client) == ORIGINALS


def test_what_production_reads_is_refused(copied: World) -> None:
    copied.store.client.execute("CREATE VIEW reporting.people AS SELECT * FROM dev_event_sink.user_profile")
    ran = copied.run("anonymise", *DATABASES, "--yes")
    assert (ran.status, "dev_event_sink.user_profile is no copy: reporting.people reads it" in ran.err) == (1, True)
    assert find_originals(copied.store.client) == ORIGINALS


@pytest.mark.parametrize(
    ("databases", "said"),
    [
        (["dev_xapi"], "None of these databases has event_sink.external_id or event_sink.user_profile"),
        (["dev_event_sink", "dev_xapy"], "No table of the PII map is in dev_xapy"),
        (["dev_event_sink", "dev_xapi", "default"], "No table of the PII map is in default"),
    ],
)
def test_a_copy_is_named_whole_and_right(copied: World, databases: list[str], said: str) -> None:
    ran = copied.run("anonymise", *(word for name in databases for word in ("--database", name)), "--yes")
    assert (ran.status, said in ran.err) == (2, True), ran.err
    assert find_originals(copied.store.client) == ORIGINALS


class Killed(BaseException):
    """The process is gone."""


@pytest.fixture
def killing(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int | None], None]]:
    """Have the process die before the statement of this number; never, with None."""
    numbers = count()
    limit: int | None = None
    methods = {name: getattr(ClickHouse, name) for name in ("execute", "insert")}

    def make(name: str) -> Callable[..., Any]:
        def run(self: ClickHouse, sql: Any, *arguments: Any, **options: Any) -> Any:
            # A lease is renewed and given back by the process, which is gone.
            if limit is not None and "leases" not in str(sql) and next(numbers) >= limit:
                raise Killed
            return methods[name](self, sql, *arguments, **options)

        return run

    def kill(at: int | None) -> None:
        nonlocal numbers, limit
        numbers, limit = count(), at

    for name in methods:
        monkeypatch.setattr(ClickHouse, name, make(name))
    yield kill
    kill(None)


def test_killed_before_any_statement_it_goes_on(copied: World, killing: Callable[[int | None], None]) -> None:
    client = copied.store.client
    # As many as a whole run takes, a few more each time, so that every kind of statement is the one that is not sent.
    kills = 0
    for limit in range(0, 400, 4):
        killing(limit)
        try:
            ran = copied.run("anonymise", *DATABASES, "--yes", "--json")
            break
        except Killed:
            kills += 1
        killing(None)
    killing(None)
    assert kills >= 8
    assert (ran.status, ran.json["left"]) == (0, [])
    assert find_originals(client) == []
    names = client.column("SELECT name FROM system.tables WHERE startsWith(database, 'dev_')")
    assert [name for name in names if name.startswith(("anonymising_", "erasing_"))] == []
    # Whoever was done before a kill has the name that those have who were done after it.
    rows = client.rows(
        "SELECT p.user_id, p.username FROM dev_event_sink.user_profile AS p "
        "INNER JOIN dev_event_sink.external_id AS e ON e.user_id = p.user_id AND e.username = p.username"
    )
    assert len(set(rows)) == 2
    joined = client.value(
        "SELECT uniqExact(external_user_id) FROM dev_event_sink.external_id WHERE toString(external_user_id) IN "
        "(SELECT JSONExtractString(event, 'actor', 'account', 'name') FROM dev_xapi.xapi_events_all)"
    )
    assert joined == 2
    access = client.rows("SELECT user_id, username FROM dev_event_sink.course_access")
    assert set(access) < set(rows)


def test_killed_anywhere_in_the_first_table_nothing_is_lost(
    copied: World, killing: Callable[[int | None], None]
) -> None:
    client = copied.store.client
    before = {table: len(rows) for table, rows in read_all(client, "dev_").items()}
    for limit in (12, 18, 21, 23, 25, 28, 31):
        killing(limit)
        with pytest.raises(Killed):
            copied.run("anonymise", *DATABASES, "--yes")
        killing(None)
        after = {table: len(rows) for table, rows in read_all(client, "dev_").items() if table in before}
        assert after == before
    ran = copied.run("anonymise", "--database", "dev_event_sink", "--yes")
    assert (ran.status, "Finish that first, with the same databases" in ran.err) == (1, True)
    assert copied.run("anonymise", *DATABASES, "--yes").status == 0
    assert find_originals(client) == []


def test_a_copy_can_be_anonymised_again(copied: World) -> None:
    client = copied.store.client
    assert copied.run("anonymise", *DATABASES, "--yes").status == 0
    first = read_all(client, "dev_")
    assert copied.run("anonymise", *DATABASES, "--yes").status == 0
    second = read_all(client, "dev_")
    assert {table: len(rows) for table, rows in first.items()} == {table: len(rows) for table, rows in second.items()}
    assert first["dev_event_sink.user_profile"] != second["dev_event_sink.user_profile"]
    assert find_originals(client) == []
    comment = "SELECT comment FROM system.tables WHERE database = 'dev_event_sink' AND name = 'user_profile'"
    assert client.value(comment).count("anonymised by aspects-pii") == 1


def test_what_the_map_does_not_know_is_found(copied: World) -> None:
    client = copied.store.client
    client.execute("CREATE TABLE dev_event_sink.teachers (who String) ENGINE = MergeTree ORDER BY who")
    client.execute("INSERT INTO dev_event_sink.teachers VALUES ({name:String})", name=f"Course of {ADDRESS}")
    for _ in range(2):
        ran = copied.run("anonymise", *DATABASES, "--yes")
        assert ran.status == 1
        assert "dev_event_sink.teachers.who: 1 text holds addresses of the original" in ran.err
        assert "The copy is not anonymised" in ran.err
        assert copied.store.ledger.show(action="anonymised") == []
    client.execute("DROP TABLE dev_event_sink.teachers SYNC")
    assert copied.run("anonymise", *DATABASES, "--yes").status == 0
    assert find_originals(client) == []


def test_a_dictionary_of_the_copy_reads_again(copied: World) -> None:
    client = copied.store.client
    client.execute(
        "CREATE DICTIONARY dev_event_sink.people (user_id Int64, email String) PRIMARY KEY user_id "
        "SOURCE(CLICKHOUSE(DB 'dev_event_sink' TABLE 'user_profile')) LAYOUT(HASHED()) LIFETIME(0)"
    )
    assert client.value("SELECT dictGet('dev_event_sink.people', 'email', toInt64(5))") == ADDRESS
    assert copied.run("anonymise", *DATABASES, "--yes").status == 0
    held = client.column("SELECT email FROM dev_event_sink.people")
    assert len(held) == 2
    assert all(email.endswith("@example.invalid") for email in held)


@pytest.mark.parametrize(
    "definition",
    [
        "DICTIONARY dev_event_sink.people (user_id Int64, email String) PRIMARY KEY user_id "
        "SOURCE(CLICKHOUSE(DB 'event_sink' TABLE 'user_profile')) LAYOUT(HASHED()) LIFETIME(0)",
        "VIEW dev_event_sink.people AS SELECT email FROM event_sink.user_profile",
    ],
)
def test_what_shows_production_is_refused(copied: World, definition: str) -> None:
    copied.store.client.execute(f"CREATE {definition}")
    ran = copied.run("anonymise", *DATABASES, "--yes")
    assert (ran.status, "dev_event_sink.people: it reads event_sink.user_profile" in ran.err) == (2, True), ran.err
    assert find_originals(copied.store.client) == ORIGINALS


def test_a_dictionary_that_cannot_be_read_is_told(copied: World) -> None:
    client = copied.store.client
    client.execute(
        "CREATE DICTIONARY dev_event_sink.people (user_id Int64, email String) PRIMARY KEY user_id "
        "SOURCE(CLICKHOUSE(DB 'dev_nowhere' TABLE 'user_profile')) LAYOUT(HASHED()) LIFETIME(0)"
    )
    ran = copied.run("anonymise", *DATABASES, "--yes")
    assert (ran.status, "dev_event_sink.people: it could not be made to read again" in ran.err) == (1, True), ran.err
    client.execute("DROP DICTIONARY dev_event_sink.people")
    assert copied.run("anonymise", *DATABASES, "--yes").status == 0


MAP_OF_MORE: dict[str, Any] = {
    "event_sink.marks": {
        "match": {"actor_id": "mailto:{email}"},
        "pii": {"actor_id": "email_address", "who": "name", "mark": "other", "town": "location"},
        "anonymise_keeps": ["town"],
        "on_retire": {"redact": {"actor_id": "pseudonym", "who": "empty", "mark": "empty", "town": "empty"}},
    },
    "event_sink.asset": {
        "match": {"owner": "id"},
        "pii": {
            "doc.creator.name": "name",
            "doc.creator.user": "username",
            "doc.creator.id": "id",
            "doc.note": "other",
        },
        "on_retire": {"redact": {"doc.creator.name": {"constant": "Nobody"}}},
    },
    "event_sink.logs": {
        "pii": {"message": "other"},
        "rules": [{"match": {"message.username": "username"}, "on_retire": "delete"}],
    },
}


@pytest.fixture
def more(copied: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """A map with tables of every other kind."""
    document = yaml.safe_load(find_resource("config/pii.yaml").read_text())
    document["targets"].update(MAP_OF_MORE)
    path = copied.folder / "pii.yaml"
    path.write_text(yaml.safe_dump(document))
    monkeypatch.setenv("ASPECTS_PII_MAP", str(path))
    return copied


def write_asset(name: str, username: str, user_id: int, note: str) -> str:
    """A JSON text, with a number as no library would write it again."""
    creator = json.dumps({"name": name, "user": username, "id": user_id}, ensure_ascii=False)
    return f'{{"creator": {creator}, "note": "{note}", "n": 1.50}}'


def test_sort_keys_paths_into_json_and_whole_texts(more: World) -> None:
    client = more.store.client
    client.execute(
        "CREATE TABLE dev_event_sink.marks (actor_id String, who Nullable(String), mark FixedString(3), "
        "town LowCardinality(String), upper String MATERIALIZED upper(actor_id), at DateTime MATERIALIZED now()) "
        "ENGINE = ReplacingMergeTree PARTITION BY sipHash64(actor_id) % 3 ORDER BY actor_id COMMENT 'marks of people'"
    )
    client.insert(
        client.table("=dev_event_sink.marks"),
        ("actor_id", "who", "mark", "town"),
        [
            (f"mailto:{ADDRESS}", NAME, "abc", "Cusco"),
            ("mailto:bob@x.example.org", None, "abc", "Cusco"),
            ("", "", "", ""),
        ],
    )
    doc = write_asset(NAME, USERNAME, ANA, "typed")
    client.execute(
        "CREATE TABLE dev_event_sink.asset (owner Int32, doc String) ENGINE = MergeTree ORDER BY (owner, doc)"
    )
    client.insert(client.table("=dev_event_sink.asset"), ("owner", "doc"), [(ANA, doc), (BOB, "{broken " + ADDRESS)])
    client.execute("CREATE TABLE dev_event_sink.logs (message String) ENGINE = MergeTree ORDER BY tuple()")
    client.insert(
        client.table("=dev_event_sink.logs"),
        ("message",),
        [(json.dumps({"username": USERNAME, "ip": "198.51.100.7"}),)],
    )

    ran = more.run("anonymise", *DATABASES, "--yes")

    assert (ran.status, ran.err) == (0, "")
    assert find_originals(client) == []
    (ana, username, name) = client.rows(
        "SELECT user_id, username, name FROM dev_event_sink.user_profile WHERE user_id = "
        "(SELECT user_id FROM dev_event_sink.course_access)"
    )[0]
    email = client.value("SELECT email FROM dev_event_sink.user_profile WHERE user_id = {id:Int64}", id=ana)
    marks = client.rows("SELECT actor_id, who, mark, town, upper FROM dev_event_sink.marks")
    empty = ("", "", b"\0\0\0", "", "")
    assert len(marks) == 3
    assert (f"mailto:{email}", name, b"\0\0\0", "Cusco", f"MAILTO:{email.upper()}") in marks
    assert empty in marks
    assert {who for _, who, *_ in marks} == {None, name, ""}
    assert client.rows("SELECT * FROM dev_event_sink.asset WHERE owner = {id:Int64}", id=ana) == [
        (ana, write_asset(name, username, ana, ""))
    ]
    assert client.column("SELECT doc FROM dev_event_sink.asset WHERE owner != {id:Int64}", id=ana) == [""]
    assert client.column("SELECT message FROM dev_event_sink.logs") == [""]
    comment = "SELECT comment FROM system.tables WHERE database = 'dev_event_sink' AND name = 'marks'"
    assert client.value(comment).startswith("marks of people [anonymised by aspects-pii")


@pytest.mark.parametrize(
    ("definition", "said"),
    [
        ("(actor_id String, who String) ENGINE = Log", "rows of a Log cannot be put in the place of others"),
        ("(actor_id Array(String), who String) ENGINE = MergeTree ORDER BY who", "for which nothing can be invented"),
        ("(actor_id FixedString(20), who String) ENGINE = MergeTree ORDER BY who", "can have 47 bytes"),
        ("(actor_id String, mark String) ENGINE = ReplacingMergeTree ORDER BY mark", "would take rows together"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is(more: World, definition: str, said: str) -> None:
    more.store.client.execute(f"CREATE TABLE dev_event_sink.marks {definition}")
    ran = more.run("anonymise", *DATABASES, "--yes")
    assert (ran.status, said in ran.err) == (2, True), ran.err
    assert find_originals(more.store.client) == ORIGINALS


def test_a_narrow_column_of_ids_is_refused_before_anything_is(more: World) -> None:
    client = more.store.client
    client.execute("CREATE TABLE dev_event_sink.asset (owner UInt8, doc String) ENGINE = MergeTree ORDER BY owner")
    client.execute("INSERT INTO dev_event_sink.asset VALUES (254, '{}')")
    ran = more.run("anonymise", *DATABASES, "--yes")
    assert (ran.status, "owner is UInt8, and ids up to" in ran.err) == (2, True), ran.err
    assert find_originals(client) == ORIGINALS


def test_what_no_query_reaches_is_told(copied: World) -> None:
    client = copied.store.client
    client.execute("DETACH TABLE dev_event_sink.course_access")
    ran = copied.run("anonymise", *DATABASES, "--yes")
    assert (ran.status, "dev_event_sink.course_access: the table is detached" in ran.err) == (2, True)
    client.execute("ATTACH TABLE dev_event_sink.course_access")
    # Parts that were set aside go with the table that they are of; those of other tables are told.
    client.execute("ALTER TABLE dev_event_sink.external_id DETACH PARTITION tuple()")
    client.execute("CREATE TABLE dev_event_sink.teachers (who String) ENGINE = MergeTree ORDER BY who")
    client.execute("INSERT INTO dev_event_sink.teachers VALUES ('x')")
    client.execute("ALTER TABLE dev_event_sink.teachers DETACH PARTITION tuple()")
    ran = copied.run("anonymise", *DATABASES, "--yes")
    assert (ran.status, "dev_event_sink.teachers: 1 detached part" in ran.err) == (1, True), ran.err
    assert "external_id" not in ran.err
    parts = "SELECT count() FROM system.detached_parts WHERE database = 'dev_event_sink' AND table = 'external_id'"
    assert client.value(parts) == 0


def test_files_of_the_copy_hold_nobody(copied: World, tmp_path: Path) -> None:
    client = copied.store.client
    client.execute("ALTER TABLE dev_event_sink.user_profile UPDATE city = 'x' WHERE 1", {"mutations_sync": 2})
    client.execute("DELETE FROM dev_event_sink.user_profile WHERE user_id = 6", {"lightweight_deletes_sync": 2})
    assert copied.run("anonymise", *DATABASES, "--yes").status == 0
    paths = client.rows(
        "SELECT path FROM system.parts WHERE startsWith(database, 'dev_') UNION ALL "
        "SELECT arrayJoin(data_paths) FROM system.tables WHERE startsWith(database, 'dev_')"
    )
    files = {file for (path,) in paths for file in Path(path).rglob("*") if file.is_file()}
    assert len(files) >= 10
    held = [file for file in files for original in ORIGINALS if original.encode() in file.read_bytes()]
    assert held == []
