"""A subject access package: what is in it, what is not, and that nothing is left where none could be made."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import uuid
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyrage
import pytest
import yaml

from sink.clickhouse.client import ClickHouse
from sink.erasure.naming import identify
from sink.erasure.scan import scan
from sink.erasure.search_terms import read_names
from sink.errors import LedgerError, SettingsError
from sink.installation import open_store
from sink.ledger.entries import Ledger
from sink.ledger.role_trail import read_change, record_changes
from sink.resources import find_resource
from sink.rights import page
from sink.rights.export import export
from sink.settings import load_settings
from tests.integration.rights.conftest import (
    ADDRESS,
    ANA,
    BOB,
    EXTERNAL_ID,
    EXTERNAL_ID_OF_BOB,
    NAME,
    USERNAME,
    Package,
    World,
    account,
    fill,
    make_statement,
)
from tests.support import served
from tests.support.paths import ROOT

EVENTS = "events/xapi.xapi_events_all"


@pytest.fixture
def filled(embedded: World) -> World:
    """Two people, on the engine in process."""
    fill(embedded)
    return embedded


def test_a_package_holds_all_that_is_the_subjects_and_nothing_of_others(world: World) -> None:
    package = world.export()
    assert package.names == [
        "data/event_sink.user_profile.jsonl",
        "data/event_sink.user_profile.csv",
        "data/event_sink.external_id.jsonl",
        "data/event_sink.external_id.csv",
        "data/event_sink.course_access.jsonl",
        "data/event_sink.course_access.csv",
        "data/event_sink.course_enrollment.jsonl",
        "data/event_sink.course_enrollment.csv",
        "events/xapi.xapi_events_all.jsonl",
        "events/xapi.xapi_events_all.csv",
        "mentions/xapi.xapi_events_all.jsonl",
        "mentions/xapi.xapi_events_all.csv",
        "index.html",
        "manifest.json",
    ]
    (profile,) = package.rows("data/event_sink.user_profile")
    assert (profile["user_id"], profile["name"], profile["email"]) == (ANA, NAME, ADDRESS)
    (external_id,) = package.rows("data/event_sink.external_id")
    assert external_id["external_user_id"] == str(EXTERNAL_ID)
    (role,) = package.rows("data/event_sink.course_access")
    assert role["role"] == "staff"
    (enrollment,) = package.rows("data/event_sink.course_enrollment")
    # No user name is stored there (sql/migrations/0016).
    assert (enrollment["course_key"], enrollment["username"]) == ("course-v1:Org+C+R", "")
    assert find_events(package) == {"by account", "by address"}
    (mention,) = package.rows("mentions/xapi.xapi_events_all")
    assert json.loads(mention["text"])["id"] == "about Ana"
    for others in (b"bob_ocelot99", b"Bob Ibex Ocelot", b"bob@x.example.org", b"a friend of"):
        assert others not in package.everything


def find_events(package: Package, name: str = EVENTS) -> set[str]:
    return {json.loads(row["event"])["id"] for row in package.rows(name)}


def test_both_formats_have_the_same_rows(world: World) -> None:
    package = world.export()
    for name in ("data/event_sink.user_profile", "data/event_sink.course_enrollment", EVENTS):
        exact, sheet = package.rows(name), package.cells(name)
        assert len(exact) == len(sheet) > 0
        assert list(exact[0]) == list(sheet[0])
    (row,) = package.cells("data/event_sink.user_profile")
    assert row["name"] == NAME
    # No spreadsheet takes it for a formula.
    assert row["bio"] == "'=1+1 <script>alert(1)</script>"


def test_the_manifest_says_what_is_where(filled: World) -> None:
    package = filled.export("--language", "es", "--actor", "17")
    manifest = package.manifest
    assert (manifest["subject"], manifest["language"], manifest["version"]) == (str(ANA), "es", 1)
    assert manifest["collected"]["from"] <= manifest["collected"]["until"]
    profile, *_ = manifest["parts"]
    assert (profile["table"], profile["kind"], profile["rows"]) == ("event_sink.user_profile", "rows", 1)
    assert profile["found_by"] == ["user_id: id"]
    types = {column["name"]: column["pii_type"] for column in profile["columns"]}
    assert (types["email"], types["bio"], types["dumped_at"]) == ("email_address", "biography", None)
    assert len(manifest["files"]) == len(package.names) - 1
    for file in manifest["files"]:
        data = package.read(file["name"])
        assert (file["bytes"], file["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
    assert sum(part["rows"] for part in manifest["parts"]) == manifest["rows"] == 7
    missing = manifest["not_included"]
    assert missing["rows_of_others_that_name_the_subject"] == {"event_sink.user_profile.bio": 1}
    assert (missing["events"], missing["mentions"]) == (False, False)


def test_events_and_mentions_can_be_left_out(filled: World) -> None:
    package = filled.export("--without-events")
    assert not any("xapi" in name for name in package.names)
    assert package.manifest["not_included"]["events"] is True
    package = filled.export("--without-mentions")
    assert not any(name.startswith("mentions") for name in package.names)
    assert find_events(package) == {"by account", "by address"}
    assert package.manifest["not_included"]["mentions"] is True


def test_it_holds_every_value_that_a_scan_would_find(filled: World) -> None:
    client = filled.store.client
    client.execute(
        "CREATE TABLE $reporting.tickets (id UInt8, body String, extra Array(String), state Enum8('closed' = 1)) "
        "ENGINE = MergeTree ORDER BY id"
    )
    tickets = [
        (1, f"Dear {NAME}, =cmd", [], "closed"),
        (2, "nobody", ["x", ADDRESS.upper()], "closed"),
        (3, "next=%3Cana%40canary.example.org%3E", [], "closed"),
        (4, "\\u0041na Mar\\u00eda Quetzal", [f"by {USERNAME}"], "closed"),
    ]
    client.insert(client.table("reporting.tickets"), ("id", "body", "extra", "state"), tickets)
    filled.insert("event_sink.user_profile", ("user_id", "username", "bio"), (ANA, USERNAME, f"an old row of {NAME}"))
    package = filled.export()
    given: dict[str, set[str]] = {}
    for part in package.manifest["parts"]:
        for row in package.rows(part["files"][0]["name"].removesuffix(".jsonl")):
            cells = {row["column"]: row["text"]} if part["kind"] == "mentions" else row
            for column, value in cells.items():
                given.setdefault(f"{part['table']}.{column}", set()).add(str(value))
    of_others = package.manifest["not_included"]["rows_of_others_that_name_the_subject"]
    identities = identify(filled.store, [ANA], []).merge(read_names(filled.store, [ANA]))
    hits = [hit for hit in scan(filled.store, [ANA], identities).hits if hit.is_sure]
    assert {"reporting.tickets.body", "reporting.tickets.extra", "xapi.xapi_events_all.event"} < {h.place for h in hits}
    for hit in hits:
        stored = client.column(f"SELECT toString(`{hit.column}`) FROM {hit.table.sql}")
        held = sum(value in given.get(hit.place, ()) for value in stored)
        assert held + of_others.get(hit.place, 0) >= hit.rows, hit.place
    assert {row["text"] for row in package.rows("mentions/reporting.tickets")} == {
        tickets[0][1],
        tickets[2][1],
        tickets[3][1],
        f"['x','{ADDRESS.upper()}']",
        f"['by {USERNAME}']",
    }


def test_a_word_that_may_mean_somebody_else_is_counted_and_not_given_out(filled: World) -> None:
    filled.insert("event_sink.user_profile", ("user_id", "username", "name"), (ANA, "rose", NAME))
    filled.store.client.execute("CREATE TABLE $reporting.t (s String) ENGINE = MergeTree ORDER BY tuple()")
    filled.insert("reporting.t", ("s",), ("a rose is a rose",), (f"dear {NAME}",))
    package = filled.export()
    assert [row["text"] for row in package.rows("mentions/reporting.t")] == [f"dear {NAME}"]
    assert package.manifest["not_included"]["rows_that_may_name_the_subject"] == {"reporting.t.s": 1}


def test_rows_under_a_name_that_somebody_else_has_too_are_left_out(filled: World) -> None:
    filled.insert("event_sink.user_profile", ("user_id", "username", "email"), (7, "sister", ADDRESS.capitalize()))
    package = filled.export()
    assert find_events(package) == {"by account"}
    (part,) = [part for part in package.manifest["parts"] if part["kind"] == "events"]
    assert part["rows_under_shared_names"] == 1
    assert ADDRESS.encode() not in package.read(f"{EVENTS}.jsonl").lower()


def test_nobody_gets_the_events_of_others_by_calling_themselves_as_those_are_called(filled: World) -> None:
    profile = ("user_id", "username", "email")
    filled.insert("event_sink.user_profile", profile, (7, str(EXTERNAL_ID), "thief@x.example.org"))
    package = filled.export("--without-mentions", subject=7)
    assert package.rows("data/event_sink.user_profile")[0]["user_id"] == 7
    assert not any(name.startswith("events") for name in package.names)
    # Nor does that take them from whose they are.
    assert find_events(filled.export("--without-mentions")) == {"by account", "by address"}


def test_the_course_roles_of_the_past_are_in_it(filled: World) -> None:
    told = {
        "event": str(uuid.uuid4()),
        "at": "2026-01-02T03:04:05+00:00",
        "subject": str(ANA),
        "operation": "given",
        "role": "course_staff",
        "scope": "course-v1:Org+C+R",
        "actor": "99",
        "source": "openedx-authz",
    }
    of_bob = {**told, "subject": str(BOB), "event": str(uuid.uuid4())}
    record_changes(filled.store.client, [read_change(told), read_change(of_bob)])
    (row,) = filled.export("--without-mentions").rows("data/pii_ledger.role_changes")
    assert (row["operation"], row["role"]) == ("given", "course_staff")
    # Who gave it is somebody else's business.
    assert "actor" not in row


def test_derived_tables_of_events_come_by_the_anonymous_id(filled: World) -> None:
    client = filled.store.client
    client.execute(
        "CREATE TABLE $xapi.grading_events (actor_id String, grade Float64) ENGINE = MergeTree ORDER BY actor_id"
    )
    actors = [
        str(EXTERNAL_ID),
        str(EXTERNAL_ID_OF_BOB),
        f"mailto:{ADDRESS}",
        hashlib.sha1(f"mailto:{ADDRESS}".encode()).hexdigest(),
    ]
    filled.insert("xapi.grading_events", ("actor_id", "grade"), *[(actor, n / 2) for n, actor in enumerate(actors)])
    package = filled.export("--without-mentions")
    assert {row["grade"] for row in package.rows("events/xapi.grading_events")} == {0.0, 1.0, 1.5}


# What is not given out.


def test_somebody_who_is_retired_gets_nothing(filled: World) -> None:
    assert filled.run("retire", ANA, "--yes").status == 0
    ran = filled.run("export", ANA, "-o", filled.folder / "package.zip")
    assert ran.status == 2
    assert f"{ANA} is retired, and erased on chdb://" in ran.err
    assert list(filled.folder.iterdir()) == []
    assert filled.store.ledger.show(action="exported") == []


def test_nor_somebody_whose_retirement_was_asked_for(world: World) -> None:
    world.store.ledger.request([ANA])
    ran = world.run("export", ANA, "-o", world.folder / "package.zip")
    assert (ran.status, "is being retired" in ran.err) == (2, True)
    assert list(world.folder.iterdir()) == []


def test_nor_somebody_who_is_retired_while_the_package_is_made(filled: World, monkeypatch: pytest.MonkeyPatch) -> None:
    render = page.render

    def retire_first(contents: Any) -> Any:
        filled.store.ledger.request([ANA])
        return render(contents)

    monkeypatch.setattr(page, "render", retire_first)
    ran = filled.run("export", ANA, "-o", filled.folder / "package.zip")
    assert (ran.status, "is being retired" in ran.err) == (2, True)
    assert list(filled.folder.iterdir()) == []


def test_an_unknown_id_gets_nothing(world: World) -> None:
    ran = world.run("export", 4711, "-o", world.folder / "package.zip")
    assert (ran.status, "holds nothing of 4711" in ran.err) == (2, True)
    assert list(world.folder.iterdir()) == []
    assert "Traceback" not in ran.err
    assert world.run("export", "ana", "-o", world.folder / "package.zip").status == 2


# The file.


def test_it_is_its_owners_alone_from_the_first_byte_and_never_in_the_place_of_another(filled: World) -> None:
    path = filled.folder / "package.zip"
    before = os.umask(0)
    try:
        assert filled.run("export", ANA, "-o", path, "--without-mentions").status == 0
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o600
    with zipfile.ZipFile(path) as archive:
        assert {entry.external_attr >> 16 & 0o777 for entry in archive.infolist()} == {0o600}
    data = path.read_bytes()
    ran = filled.run("export", ANA, "-o", path)
    assert (ran.status, "is there already" in ran.err) == (2, True)
    assert path.read_bytes() == data
    link = filled.folder / "link.zip"
    link.symlink_to(filled.folder / "elsewhere")
    assert filled.run("export", ANA, "-o", link).status == 2
    assert sorted(p.name for p in filled.folder.iterdir()) == ["link.zip", "package.zip"]
    assert filled.run("export", ANA, "-o", filled.folder / "none" / "package.zip").status == 2


def test_nothing_is_left_where_it_cannot_be_put_on_record(filled: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise LedgerError("no")

    monkeypatch.setattr(Ledger, "record", fail)
    assert filled.run("export", ANA, "-o", filled.folder / "package.zip", "--without-mentions").status == 1
    assert list(filled.folder.iterdir()) == []


def test_nothing_is_left_where_the_engine_stops_in_the_middle(filled: World, monkeypatch: pytest.MonkeyPatch) -> None:
    filled.store.client.execute(
        "CREATE VIEW $xapi.failing AS SELECT toString(throwIf(number = 300000)) AS actor_id FROM numbers(400000)"
    )
    stream = ClickHouse.stream

    def fail(client: ClickHouse, sql: str, **values: Any) -> Any:
        of_events = "xapi_events_all" in sql
        return stream(client, "SELECT actor_id FROM $xapi.failing FORMAT JSONEachRow" if of_events else sql, **values)

    monkeypatch.setattr(ClickHouse, "stream", fail)
    ran = filled.run("export", ANA, "-o", filled.folder / "package.zip")
    assert ran.status == 1
    assert "Traceback" not in ran.err
    assert list(filled.folder.iterdir()) == []


def test_rows_that_change_meanwhile_are_noticed(filled: World, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = ClickHouse.stream

    def add_between(client: ClickHouse, sql: str, **values: Any) -> Any:
        if "FORMAT CSV" in sql and "user_profile" in sql:
            filled.insert("event_sink.user_profile", ("user_id", "username"), (ANA, "later"))
        yield from stream(client, sql, **values)

    monkeypatch.setattr(ClickHouse, "stream", add_between)
    ran = filled.run("export", ANA, "-o", filled.folder / "package.zip")
    assert (ran.status, "changed while they were read" in ran.err) == (1, True)
    assert list(filled.folder.iterdir()) == []


KILLED = """
    import signal, sys, time
    from sink.doors.cli.main import run
    from sink.rights import page

    # What runs in a shell's background is told to ignore it.
    signal.signal(signal.SIGINT, signal.default_int_handler)

    def wait(contents):
        print("ready", flush=True)
        time.sleep(600)

    page.render = wait
    sys.exit(run(sys.argv[1:]))
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_kill_in_the_middle_leaves_nothing(
    filled: World, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with served.serving(tmp_path / "clickhouse") as url:
        monkeypatch.setenv("ASPECTS_CLICKHOUSE_URL", url)
        monkeypatch.setenv("PYTHONPATH", str(ROOT))
        process = subprocess.Popen(
            [
                *(sys.executable, "-c", textwrap.dedent(KILLED)),
                *("export", str(ANA), "-o", str(filled.folder / "package.zip"), "--without-mentions"),
            ],
            stdout=subprocess.PIPE,
        )
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == b"ready\n"
            process.send_signal(number)
            assert process.wait(60) != 0
        finally:
            process.kill()
            process.wait()
            process.stdout.close()
    assert list(filled.folder.iterdir()) == []


def test_the_ledger_says_of_whom_and_how_much(filled: World) -> None:
    path = filled.folder / "package.zip"
    ran = filled.run("export", ANA, "-o", path, "--actor", "service:privacy", "--json")
    assert ran.json["rows"]["event_sink.user_profile"] == 1
    (entry,) = filled.run("ledger", "show", "--action", "exported", "--json").json
    assert (entry["actor"], entry["subject"]) == ("service:privacy", "")
    assert entry["detail"] == {"of": str(ANA), "encrypted": False, "rows": ran.json["rows"]}
    assert filled.run("ledger", "check").status == 0
    # It makes nobody a tombstone.
    assert filled.store.ledger.tombstones() == []


# Encryption.


def test_a_package_can_be_encrypted_to_whoever_is_to_read_it(filled: World, tmp_path: Path) -> None:
    one, other = pyrage.x25519.Identity.generate(), pyrage.x25519.Identity.generate()
    path = filled.folder / "package.zip.age"
    keys = [part for key in (one, other) for part in ("--recipient", str(key.to_public()))]
    ran = filled.run("export", ANA, "-o", path, *keys)
    assert (ran.status, path.stat().st_mode & 0o777) == (0, 0o600)
    data = path.read_bytes()
    assert data.startswith(b"age-encryption.org/v1\n")
    for key in (one, other):
        package = Package(pyrage.decrypt(data, [key]))
        assert package.rows("data/event_sink.user_profile")[0]["name"] == NAME
    (entry,) = filled.store.ledger.show(action="exported")
    assert entry.detail["encrypted"] is True


def test_what_is_no_public_key_is_refused_and_not_quoted(filled: World, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = str(pyrage.x25519.Identity.generate())
    for wrong in (secret, "ana", ""):
        ran = filled.run("export", ANA, "-o", filled.folder / "package.zip", "--recipient", wrong)
        assert (ran.status, "--recipient 1 is no public key" in ran.err) == (2, True)
        assert secret not in ran.err
    monkeypatch.setitem(sys.modules, "pyrage", None)
    ran = filled.run("export", ANA, "-o", filled.folder / "package.zip", "--recipient", "age1x")
    assert (ran.status, "aspects-pii-sink[encryption]" in ran.err) == (SettingsError.exit_status, True)
    assert list(filled.folder.iterdir()) == []


# Values.

ODD = {
    "user_id": "Int64",
    "text": "String",
    "nothing": "Nullable(String)",
    "array": "Array(String)",
    "document": "JSON",
    "id": "UUID",
    "time": "DateTime64(3, 'Europe/Madrid')",
    "day": "Date",
    "number": "Float64",
    "map": "Map(String, Int32)",
    "word": "Enum8('=cmd' = 1, 'b' = 2)",
    "decimal": "Decimal(38, 10)",
    "tuple": "Tuple(x Int8, y String)",
    "low": "LowCardinality(Nullable(String))",
    "big": "UInt64",
    "fixed": "FixedString(4)",
    "state": "AggregateFunction(uniq, String)",
    "address": "IPv4",
    "is_it": "Bool",
}


def make_odd_table(world_map: Path) -> None:
    """A target with a column of every kind."""
    document = yaml.safe_load(find_resource("config/pii.yaml").read_text())
    document["targets"]["reporting.odd"] = {"match": {"user_id": "id"}, "pii": {"text": "other"}, "on_retire": "delete"}
    world_map.write_text(yaml.safe_dump(document))


@pytest.fixture
def odd(
    aspects_pii: Callable[..., Any], migrated: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Any:
    make_odd_table(tmp_path / "pii.yaml")
    monkeypatch.setenv("ASPECTS_PII_MAP", str(tmp_path / "pii.yaml"))
    migrated(tmp_path / "clickhouse")
    (tmp_path / "packages").mkdir()
    with open_store(load_settings()) as store:
        columns = ", ".join(f"`{name}` {kind}" for name, kind in ODD.items())
        store.client.execute(f"CREATE TABLE $reporting.odd ({columns}) ENGINE = MergeTree ORDER BY user_id")
        yield World(store, aspects_pii, tmp_path / "packages")


def test_odd_values_are_whole(odd: World) -> None:
    huge = "x" * 5_000_000
    text = "a\0b\n\"c\" 'd', 😀;\r\n"
    odd.store.client.execute(
        """
        INSERT INTO $reporting.odd SELECT 5, {text:String}, NULL, ['=1', '\\n'], '{"a": {"b": "=1"}, "c": [1, null]}',
            '11111111-2222-3333-4444-555555555555', toDateTime64('2026-03-29 02:30:00.123', 3, 'UTC'), '2026-01-02', nan,
            map('k', -1), '=cmd', -1.5, (1, '=q'), NULL, 18446744073709551615, 'ab', uniqState('a'), '10.0.0.1', true
        """,
        text=text,
    )
    odd.store.client.execute("INSERT INTO $reporting.odd (user_id, text) SELECT 5, {text:String}", text=huge)
    odd.store.client.execute("INSERT INTO $reporting.odd (user_id, text) SELECT 5, unhex('ff613dfe')")
    package = odd.export("--without-mentions")
    rows = {row["text"][:3]: row for row in package.rows("data/reporting.odd")}
    assert len(rows) == 3
    row = rows["a\0b"]
    assert row["text"] == text
    assert (row["nothing"], row["low"]) == (None, None)
    assert row["array"] == ["=1", "\n"]
    assert row["document"]["a"] == {"b": "=1"}
    assert row["id"] == "11111111-2222-3333-4444-555555555555"
    assert row["time"] == "2026-03-29T02:30:00.123Z"
    assert (row["day"], row["number"], row["map"], row["word"]) == ("2026-01-02", "nan", {"k": -1}, "=cmd")
    assert (row["decimal"], row["tuple"], row["big"]) == ("-1.5", {"x": 1, "y": "=q"}, 18446744073709551615)
    assert (row["fixed"].rstrip("\0"), row["address"], row["is_it"]) == ("ab", "10.0.0.1", True)
    assert rows["xxx"]["text"] == huge
    # JSON has no other way to say it, and CSV has the bytes.
    assert rows["\ufffda="]["text"] == "\ufffda=\ufffd"
    cells = {row["text"][:3]: row for row in package.cells("data/reporting.odd")}
    assert cells["\udcffa="]["text"].encode("utf-8", "surrogateescape") == b"\xffa=\xfe"
    assert cells["xxx"]["text"] == huge
    cell = cells["a\0b"]
    assert (cell["nothing"], cell["word"], cell["big"]) == ("", "'=cmd", "18446744073709551615")
    assert (cell["decimal"], cell["number"], cell["map"]) == ("-1.5", "nan", "{'k':-1}")
    assert cell["state"] == row["state"]


FORMULAS = [
    "=1+1",
    "  =1",
    "\t=1",
    "\tx",
    "\rx",
    "+x",
    "-x",
    "@SUM(1)",
    "\u00a0=1",
    "\u200b=1",
    "＝1",
    "\0=1",
    "\ufeff-x",
]
NUMBERS = ["-5", "+3.25", "1e5", "0", "-.5", "12."]
PLAIN = ["x=1", "12-3", "a@b", "山田", "", "'=1", "x, =1"]


def test_no_cell_of_a_spreadsheet_is_a_formula_and_numbers_stay_numbers(odd: World) -> None:
    texts = [*FORMULAS, *NUMBERS, *PLAIN, "a;=cmd()", "a\n=cmd()", "a\t @cmd"]
    odd.insert("reporting.odd", ("user_id", "text"), *[(ANA, text) for text in texts])
    package = odd.export("--without-mentions")
    assert sorted(row["text"] for row in package.rows("data/reporting.odd")) == sorted(texts)
    cells = [row["text"] for row in package.cells("data/reporting.odd")]
    assert len(cells) == len(texts)
    assert {"'" + text.replace("\t=", "\t'=") for text in FORMULAS} <= set(cells)
    assert {*NUMBERS, *PLAIN} <= set(cells)
    # A spreadsheet that takes semicolons or tabs for the ends of cells.
    assert {"a;'=cmd()", "a\n'=cmd()", "a\t '@cmd"} <= set(cells)


def test_many_events_come_in_pieces(filled: World, monkeypatch: pytest.MonkeyPatch) -> None:
    event = json.dumps(make_statement(account(EXTERNAL_ID), id="many", padding="x" * 500))
    filled.store.client.execute(
        "INSERT INTO $xapi.xapi_events_all (event_id, event) SELECT generateUUIDv4(), {event:String} FROM numbers(50000)",
        event=event,
    )
    sizes = []
    stream = ClickHouse.stream

    def measure(client: ClickHouse, sql: str, **values: Any) -> Any:
        for piece in stream(client, sql, **values):
            sizes.append(len(piece))
            yield piece

    monkeypatch.setattr(ClickHouse, "stream", measure)
    package = filled.export("--without-mentions")
    assert len(package.rows(EVENTS)) == 50_002
    assert len(sizes) > 50
    assert max(sizes) <= 1 << 20
    # The page stays one that a browser can show.
    assert len(package.read("index.html")) < 1_000_000
    assert "49,802 more rows are in events/xapi.xapi_events_all.jsonl." in package.read("index.html").decode()


def test_what_cannot_be_searched_is_said_to_be(filled: World) -> None:
    filled.store.client.execute("CREATE TABLE $reporting.gone (s String) ENGINE = File(CSV, '/nowhere/at/all.csv')")
    ran = filled.run("export", ANA, "-o", filled.folder / "package.zip", "--json")
    assert ran.status == 0
    assert ran.json["not_searched"] == ["reporting.gone"]


def test_a_map_of_which_no_row_can_be_found_makes_no_package(odd: World) -> None:
    odd.store.client.execute("ALTER TABLE $reporting.odd RENAME COLUMN text TO words")
    odd.store.client.execute("CREATE TABLE $reporting.odd2 (u UInt8) ENGINE = MergeTree ORDER BY u")
    odd.store.client.execute("RENAME TABLE $reporting.odd TO $reporting.odd1, $reporting.odd2 TO $reporting.odd")
    odd.insert("event_sink.user_profile", ("user_id", "username"), (ANA, USERNAME))
    ran = odd.run("export", ANA, "-o", odd.folder / "package.zip")
    assert (ran.status, "there is no column user_id" in ran.err) == (2, True)
    assert list(odd.folder.iterdir()) == []


PEOPLE_BY_UUID = """
version: 1
subject:
  type: text
  identifiers: {email: reporting.people.email, account: reporting.people.account}
targets:
  reporting.people:
    match: {uid: id}
    pii: {uid: id, name: name, email: email_address, account: id}
    on_retire: delete
  reporting.statements:
    match: {document: person}
    pii: {document: other}
    on_retire: {redact: {document: person}}
  reporting.kept:
    match: {document.user.mail: email}
    pii: {document.user.mail: email_address}
    on_retire: {retain: the law wants them}
"""


def test_ids_that_are_texts_and_columns_of_json(
    aspects_pii: Callable[..., Any], migrated: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pii.yaml").write_text(PEOPLE_BY_UUID)
    monkeypatch.setenv("ASPECTS_PII_MAP", str(tmp_path / "pii.yaml"))
    migrated(tmp_path / "clickhouse")
    ids = [f"{digit * 8}-aaaa-4bbb-8ccc-dddddddddddd" for digit in "12"]
    with open_store(load_settings()) as store:
        client = store.client
        client.execute(
            "CREATE TABLE $reporting.people (uid UUID, name String, email String, account String) ENGINE = MergeTree ORDER BY uid"
        )
        for table in ("statements", "kept"):
            client.execute(f"CREATE TABLE $reporting.{table} (document JSON) ENGINE = MergeTree ORDER BY tuple()")
        client.execute(
            f"INSERT INTO $reporting.people VALUES ('{ids[0]}', 'Ana Quetzal', 'ana@x.example.org', 'a1'), "
            f"('{ids[1]}', 'Bob Ocelot', 'bob@x.example.org', 'a11')"
        )
        for name in ("a1", "a11"):
            text = json.dumps(make_statement({"account": {"name": name}}, id=name))
            client.execute("INSERT INTO $reporting.statements SELECT {text:String}", text=text)
        for mail in ("ANA@x.example.org", "bob@x.example.org"):
            client.execute(
                "INSERT INTO $reporting.kept SELECT {text:String}", text=json.dumps({"user": {"mail": mail}, "n": 1})
            )
        world = World(store, aspects_pii, tmp_path / "packages")
        world.folder.mkdir()
        package = world.export(subject=ids[0].upper())
        assert [row["name"] for row in package.rows("data/reporting.people")] == ["Ana Quetzal"]
        assert [row["document"]["id"] for row in package.rows("events/reporting.statements")] == ["a1"]
        # What a retirement keeps is held of the person all the same.
        assert [row["document"]["user"]["mail"] for row in package.rows("data/reporting.kept")] == ["ANA@x.example.org"]
        assert b"bob" not in package.everything.lower()
        store.ledger.request([ids[0]])
        for spelling in (ids[0], ids[0].upper()):
            ran = aspects_pii("export", spelling, "-o", world.folder / "package.zip")
            assert (ran.status, "is being retired" in ran.err) == (2, True)


def test_rows_that_no_query_reaches_make_no_package(filled: World) -> None:
    filled.store.client.execute("DETACH TABLE $event_sink.course_access PERMANENTLY")
    ran = filled.run("export", ANA, "-o", filled.folder / "package.zip")
    assert (ran.status, "ATTACH TABLE `event_sink`.`course_access`" in ran.err) == (2, True)
    assert list(filled.folder.iterdir()) == []


def test_rows_that_may_be_hidden_make_no_package(filled: World, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = ClickHouse.rows
    policy = ("xapi", "xapi_events_all", "p", "event_id > 1", False, True, "us")

    def answer(client: ClickHouse, sql: str, *arguments: Any, **values: Any) -> Any:
        return [policy] if "system.row_policies" in sql else rows(client, sql, *arguments, **values)

    monkeypatch.setattr(ClickHouse, "rows", answer)
    ran = filled.run("export", ANA, "-o", filled.folder / "package.zip")
    assert (ran.status, "xapi.xapi_events_all: row policies" in ran.err) == (1, True)
    assert list(filled.folder.iterdir()) == []


def test_a_subject_of_another_person_is_not_taken_along(filled: World) -> None:
    package = filled.export(subject=BOB)
    assert find_events(package) == {"of Bob", "about Ana"}
    assert NAME.encode() not in package.everything
    assert export(filled.store, BOB, filled.folder / "again.zip").rows["event_sink.user_profile"] == 1
