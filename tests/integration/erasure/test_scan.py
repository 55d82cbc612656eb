"""Searching every text for what subjects are called: names in context, in whatever type, table and encoding."""

from __future__ import annotations

import base64
import html
import json
import random
import urllib.parse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from sink.clickhouse import migrations
from sink.clickhouse.client import ClickHouse
from sink.erasure.identities import Identities
from sink.erasure.scan import scan
from sink.erasure.search_terms import TermKind, read_names
from sink.erasure.sure_names import express_form, express_is_sure
from sink.installation import open_store
from sink.resources import find_resource
from sink.settings import Settings
from sink.store import Store
from tests.support.coverage_page import covers

USERNAME = "zoe_canary.7"
ADDRESS = "zoé@canary.example.org"
NAME = "Zoé María Quetzal"
IDENTITIES = Identities(
    {"1": {"username": frozenset([USERNAME]), "email": frozenset([ADDRESS]), "column:name": frozenset([NAME])}}
)
MERGE_TREE = "ENGINE = MergeTree ORDER BY tuple()"


def make_table(client: ClickHouse, columns: str, values: str, engine: str = MERGE_TREE, **bound: Any) -> None:
    client.execute(f"CREATE TABLE $reporting.t ({columns}) {engine}")
    client.execute(f"INSERT INTO $reporting.t SELECT {values}", **bound)


def find_places(store: Store, identities: Identities = IDENTITIES, *, is_sure: bool = True) -> list[str]:
    search = scan(store, [1], identities)
    assert search.unsearched == []
    return sorted(hit.place for hit in search.hits if hit.is_sure is is_sure)


def encode(text: str) -> dict[str, bytes]:
    """A text as software writes it, by the way of writing."""
    document = json.dumps({"by": f"\n{text}"})
    entities = text.encode("ascii", "xmlcharrefreplace").decode()
    return {
        "as it is": text.encode(),
        "capitals": text.upper().encode(),
        "JSON": document.encode(),
        "JSON in JSON": json.dumps(document).encode(),
        "after a line break": f"sent by\\n{text}\\r\\n".encode(),
        "in quotes": f'\\"{text}\\"'.encode(),
        "percent": f"next=%3C{urllib.parse.quote(text)}%3E".encode(),
        "percent twice": urllib.parse.quote(urllib.parse.quote(text)).encode(),
        "form": urllib.parse.urlencode({"q": text, "n": 1}).encode(),
        "entities": f"&lt;{entities}&gt;".encode(),
        "hexadecimal entities": "".join(f"&#x{ord(character):x};" for character in text).encode(),
        "entities twice": html.escape(f'"{entities}"').encode(),
        "base64": base64.b64encode(f"user {text}".encode()),
        "base64 for URLs": b"t=" + base64.urlsafe_b64encode(document.encode()).rstrip(b"=") + b";",
        "base64 in JSON": json.dumps({"a": base64.b64encode(text.encode()).decode()}).replace("/", "\\/").encode(),
        "UTF-16LE": text.encode("utf-16le"),
        "UTF-16BE": text.encode("utf-16be"),
        "UTF-16": f"by {text}.".encode("utf-16"),
        "Latin-1": b"\xff by " + text.encode("latin-1"),
        "repr of bytes": repr(text.encode()).encode(),
        "typographic quotes": f"“{text}”—".encode(),
    }


CONTEXTS = sorted(encode("x"))


@pytest.mark.parametrize("value", [USERNAME, ADDRESS, NAME], ids=["user name", "address", "full name"])
def test_a_name_is_found_in_every_encoding(store: Store, value: str) -> None:
    store.client.execute(f"CREATE TABLE $reporting.t (id UInt32, text String) {MERGE_TREE}")
    for number, encoded in enumerate(encode(value).values()):
        store.client.execute(
            "INSERT INTO $reporting.t SELECT {number:UInt32}, unhex({text:String})", number=number, text=encoded.hex()
        )
    hits = scan(store, [1], IDENTITIES).hits
    assert [(hit.place, hit.rows, hit.is_sure) for hit in hits] == [("reporting.t.text", len(encode(value)), True)]


@pytest.mark.parametrize(
    "text",
    [
        "ORG.zoe_canary.7",
        "zoe_canary.7-essay.pdf",
        "/home/zoe_canary.7/x",
        "@ZOE_CANARY.7!",
        "mailto:zoé@canary.example.org.",
        "Zoe <ZOÉ@Canary.Example.org>",
        "zoé@canary.example.org_1",
        "quetzal, zoé maría",
        "Zoé\nMaría\tQuetzal",
        "zoé+maría+quetzal",
    ],
)
def test_a_name_is_found_in_context(store: Store, text: str) -> None:
    make_table(store.client, "text String", "{text:String}", text=text)
    assert find_places(store) == ["reporting.t.text"]


@pytest.mark.parametrize("column", ["row", "cell", "place", "text", "forms"])
def test_a_name_is_found_whatever_its_column_is_called(store: Store, column: str) -> None:
    make_table(store.client, f"`{column}` String", "{text:String}", text=f"by {USERNAME}")
    assert find_places(store) == [f"reporting.t.{column}"]


@pytest.mark.parametrize(
    "text",
    [
        "zoé@canary.example.org.au",
        "bzoé@canary.example.org",
        "b.zoé@canary.example.org",
        "zoe_canary.77",
        "xzoe_canary.7",
        "Zoé María Quetzales",
        "Zoé María",
        "zoe_canary",
    ],
)
def test_what_goes_on_is_another_name(store: Store, text: str) -> None:
    make_table(store.client, "text String", "{text:String}", text=text)
    assert find_places(store) == []


@pytest.mark.parametrize("text", ["zoé@canary.example.org.au", "bzoé@canary.example.org"])
def test_another_address_is_no_hit_at_all(store: Store, text: str) -> None:
    make_table(store.client, "text String", "{text:String}", text=text)
    assert scan(store, [1], IDENTITIES).hits == []


def test_an_address_in_the_name_of_a_file_is_listed(store: Store) -> None:
    make_table(store.client, "text String", "{text:String}", text="export-zoé@canary.example.org.csv")
    assert find_places(store, is_sure=False) == ["reporting.t.text"]


TYPES = {
    "String": "{x:String}",
    "FixedString(60)": "toFixedString({x:String}, 60)",
    "LowCardinality(String)": "{x:String}",
    "Nullable(String)": "{x:String}",
    "LowCardinality(Nullable(String))": "{x:String}",
    "Array(String)": "['a', {x:String}]",
    "Array(Array(Nullable(String)))": "[[], [{x:String}, NULL]]",
    "Map(String, String)": "map({x:String}, 'v')",
    "Map(String, Array(String))": "map('k', [{x:String}])",
    "Tuple(n Int8, who String)": "(1, {x:String})",
    "Tuple(Array(Tuple(Int8, String)))": "tuple([(1, {x:String})])",
    "JSON": 'CAST(concat(\'{{"a": [{{"b": "\', {x:String}, \'"}}]}}\') AS JSON)',
    "Variant(Int64, String)": "CAST({x:String} AS Variant(Int64, String))",
    "Dynamic": "CAST({x:String} AS Dynamic)",
    "SimpleAggregateFunction(any, String)": "{x:String}",
    "AggregateFunction(groupArray, String)": "initializeAggregation('groupArrayState', {x:String})",
}


@pytest.mark.parametrize("kind", TYPES)
@covers(
    "type",
    "String, Array, Map, Tuple, JSON, Variant, Dynamic and aggregate states outside the map, with --scan",
    "open",
)
def test_a_name_is_found_in_every_type(store: Store, kind: str) -> None:
    value = TYPES[kind].replace("{{", "{").replace("}}", "}")
    make_table(store.client, f"x {kind}", f"{value} AS x", x=ADDRESS)
    assert find_places(store) == ["reporting.t.x"]


def test_a_name_is_found_in_enums_and_nested_columns(store: Store) -> None:
    make_table(
        store.client,
        "e Enum8('zoe_canary.7' = 1, 'b' = 2), n Nested(id Int8, who String), m String MATERIALIZED upper(n.who[1])",
        "1, [1], ['by zoe_canary.7']",
    )
    # The words of an Enum stand in the definition too.
    definition = "system.tables.create_table_query"
    assert find_places(store) == ["reporting.t.e", "reporting.t.m", "reporting.t.n.who", definition]


ENGINES = [
    "Log",
    "TinyLog",
    "StripeLog",
    "Memory",
    "Join(ANY, LEFT, id)",
    "File(CSV)",
    "ReplacingMergeTree ORDER BY id",
]


@pytest.mark.parametrize("engine", ENGINES)
@covers("engine", "Log, Memory, Join, File and ReplacingMergeTree outside the map, with --scan", "open")
def test_a_name_is_found_in_every_engine(store: Store, engine: str) -> None:
    make_table(store.client, "id Int8, x String", "1, {x:String}", f"ENGINE = {engine}", x=NAME)
    assert find_places(store) == ["reporting.t.x"]


def test_a_name_is_found_in_a_buffer_and_in_a_dictionary(store: Store, tmp_path: Path) -> None:
    store.client.execute(f"CREATE TABLE $reporting.below (id Int64, x String) {MERGE_TREE}")
    buffer = "ENGINE = Buffer(reporting, below, 1, 3600, 3600, 1000, 1000, 100000, 100000)"
    make_table(store.client, "id Int64, x String", "1, {x:String}", buffer, x=NAME)
    store.client.execute("CREATE TABLE $reporting.source (id UInt64, x String) ENGINE = Memory")
    store.client.execute("INSERT INTO $reporting.source SELECT 1, {x:String}", x=NAME)
    store.client.execute(
        "CREATE DICTIONARY $reporting.d (id UInt64, x String) PRIMARY KEY id "
        "SOURCE(CLICKHOUSE(DB 'reporting' TABLE 'source')) LIFETIME(0) LAYOUT(FLAT())"
    )
    store.client.execute("SYSTEM RELOAD DICTIONARY $reporting.d")
    store.client.execute("TRUNCATE TABLE $reporting.source")
    assert find_places(store) == ["reporting.d.x", "reporting.t.x"]


def test_an_unreadable_column_or_table_is_named_and_the_others_are_searched(store: Store) -> None:
    client = store.client
    make_table(
        client,
        "x String DEFAULT upper(e), e String EPHEMERAL, a String ALIAS toString(throwIf(1))",
        "{x:String}",
        x=NAME,
    )
    client.execute("CREATE TABLE $reporting.s (x String) ENGINE = Set")
    search = scan(store, [1], IDENTITIES)
    assert [hit.place for hit in search.hits] == ["reporting.t.x"]
    assert [place.place for place in search.unsearched] == ["reporting.s"]


def test_hidden_rows_are_searched(store: Store) -> None:
    make_table(store.client, "id Int8, x String", "1, {x:String}", x=NAME)
    store.client.execute("DELETE FROM $reporting.t WHERE id = 1")
    assert find_places(store) == ["reporting.t.x"]


def test_everybody_of_a_batch_is_found_in_one_pass(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    people = range(1, 2001)
    identities = Identities({str(n): {"email": frozenset([f"p{n}@canary.example.org"])} for n in people})
    make_table(
        store.client, "x String", "concat('to p', toString(number), '@canary.example.org;') FROM numbers(1, 3000)"
    )
    statements: list[str] = []
    monkeypatch.setattr(ClickHouse, "_repeat", _recording(ClickHouse._repeat, statements))
    hits = scan(store, list(people), identities).hits
    assert sorted(int(hit.subject) for hit in hits) == list(people)
    assert {(hit.place, hit.rows) for hit in hits} == {("reporting.t.x", 1)}
    assert len([sql for sql in statements if "`reporting`.`t`" in sql]) == 1
    assert not any("canary" in sql for sql in statements)


def _recording(run: Any, statements: list[str]) -> Any:
    def record(self: ClickHouse, work: Any, sql: str = "", **options: Any) -> Any:
        statements.append(sql)
        return run(self, work, sql, **options)

    return record


def test_words_are_listed_apart(store: Store) -> None:
    identities = Identities({"1": {"username": frozenset(["honor"])}, "2": {"username": frozenset(["team"])}})
    make_table(store.client, "mode String", "arrayJoin(['honor', 'the team', 'teams', 'audit'])")
    hits = scan(store, [1, 2], identities).hits
    assert [(hit.subject, hit.rows, hit.is_sure) for hit in hits] == [("1", 1, False), ("2", 1, False)]


@pytest.mark.parametrize(
    ("text", "kind", "expected"),
    [
        ("honor", TermKind.USERNAME, False),
        ("team", TermKind.USERNAME, False),
        ("instructor", TermKind.USERNAME, False),
        ("20260101", TermKind.USERNAME, False),
        ("a.b1", TermKind.USERNAME, False),
        ("zoe_77", TermKind.USERNAME, True),
        ("zoegarcialopez", TermKind.USERNAME, True),
        ("zoe@x.org", TermKind.ADDRESS, True),
        ("Zoe Garcia", TermKind.NAME, True),
        ("Anne-Marie", TermKind.NAME, True),
        ("Madonna", TermKind.NAME, False),
        ("Li Wu", TermKind.NAME, False),
        ("山田太郎", TermKind.NAME, True),
        ("王明", TermKind.NAME, False),
    ],
)
def test_what_is_sure(store: Store, text: str, kind: TermKind, *, expected: bool) -> None:
    sql = f"SELECT {express_is_sure('{kind:String}', express_form('{kind:String}', '{text:String}'))}"
    assert bool(store.client.value(sql, kind=str(kind), text=text)) is expected


def test_a_name_that_somebody_else_has_too_is_listed_apart(store: Store) -> None:
    store.client.insert(
        store.client.table("event_sink.user_profile"),
        ["user_id", "name", "email"],
        [(2, "zoé maría  QUETZAL", "other@example.org")],
    )
    make_table(store.client, "x String", "{x:String}", x=NAME)
    assert find_places(store) == []
    assert "reporting.t.x" in find_places(store, is_sure=False)


def test_a_longer_name_of_somebody_else_is_no_hit(store: Store) -> None:
    store.client.insert(
        store.client.table("event_sink.user_profile"),
        ["user_id", "name", "username", "email"],
        [(2, f"{NAME} López", f"{USERNAME}-2", f"{USERNAME}@other.example.org")],
    )
    text = f"by {NAME.upper()} López ({USERNAME}-2, {USERNAME}@other.example.org)"
    make_table(store.client, "x String, y String", "{x:String}, {y:String}", x=text, y=f"{text} and {USERNAME}")
    assert find_places(store) == ["reporting.t.y"]


def test_a_name_without_blanks_is_found_within_a_sentence(store: Store) -> None:
    make_table(store.client, "x String", "{x:String}", x="先生は山田太郎さんです")
    identities = Identities({"1": {"column:name": frozenset(["山田太郎"])}})
    assert find_places(store, identities) == ["reporting.t.x"]


def test_full_names_are_read_from_the_targets(store: Store) -> None:
    store.client.insert(
        store.client.table("event_sink.user_profile"), ["user_id", "name"], [(1, NAME), (2, "Ann Other")]
    )
    make_table(store.client, "x String", "{x:String}", x=NAME)
    store.client.execute("DELETE FROM $event_sink.user_profile WHERE user_id = 3")
    names = read_names(store, [1])
    store.client.execute("TRUNCATE TABLE $event_sink.user_profile")
    assert find_places(store, names) == ["reporting.t.x"]


def test_what_is_no_pii_is_passed_over_by_the_names_of_this_installation(settings: Settings, tmp_path: Path) -> None:
    document = yaml.safe_load(find_resource("config/pii.yaml").read_text())
    document["not_pii"] |= {"event_sink.titles": "of books", "event_sink.notes.topic": "of courses"}
    (tmp_path / "pii.yaml").write_text(yaml.safe_dump(document))
    changed = settings.model_copy(update={"pii_map": tmp_path / "pii.yaml", "event_sink_database": "another_name"})
    with open_store(changed, creates=True) as store:
        migrations.migrate(store.client)
        for table in ("titles", "notes"):
            store.client.execute(
                f"CREATE TABLE $event_sink.{table} (topic String, text String) ENGINE = MergeTree ORDER BY tuple()"
            )
            store.client.execute(f"INSERT INTO $event_sink.{table} SELECT 'wanted_77', 'by Wanted_77.'")
        identities = Identities({"1": {"username": frozenset(["wanted_77"])}})
        hits = scan(store, [1], identities).hits
    assert [(hit.place, hit.subject, hit.rows) for hit in hits] == [("another_name.notes.text", "1", 1)]


def test_a_canary_in_any_type_and_context_is_found(store: Store) -> None:
    """Types, encodings and surroundings are drawn by chance, with a seed that is fixed."""
    chance = random.Random(10)
    types = [kind for kind in TYPES if kind not in ("JSON", "FixedString(60)")]
    chosen: list[tuple[str, str, str]] = []
    for number in range(60):
        kind, context = chance.choice(types), chance.choice([c for c in CONTEXTS if "UTF-16" not in c])
        text = _surround(chance, encode(chance.choice([USERNAME, ADDRESS, NAME]))[context])
        value = TYPES[kind].replace("{x:String}", "unhex({x:String})")
        store.client.execute(f"CREATE TABLE $reporting.c{number} (x {kind}) {MERGE_TREE}")
        store.client.execute(f"INSERT INTO $reporting.c{number} SELECT {value} AS x", x=text.hex())
        chosen.append((f"reporting.c{number}.x", kind, context))
    found = set(find_places(store))
    assert [case for case in chosen if case[0] not in found] == []


def _surround(chance: random.Random, text: bytes) -> bytes:
    around: Sequence[str] = ["", " ", "<", "(", "a word ", "\n", '"', "x=", "/", "é: "]
    return chance.choice(around).encode() + text + chance.choice(["", " ", ">", ",", " and more", '"', "; é"]).encode()
