"""`map check` finds columns by what they hold: what the PII tables know, under any name and in any type."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from sink.erasure.coverage import check_map
from sink.erasure.problems import Problem
from sink.pii_map import load_map
from sink.resources import find_resource
from sink.store import Store

ADDRESS = "quetzal@canary.example.org"
USERNAME = "quetzal_7"
NAME = "Quetzal María Canary"
EXTERNAL_ID = "6f1ff0b8-3a0b-4a1e-9c2b-2f6f0e7f4711"
TABLE = "ENGINE = MergeTree ORDER BY tuple()"


@pytest.fixture
def people(store: Store) -> Store:
    """Somebody with profile and anonymous id, and some with short user names."""
    client = store.client
    client.insert(
        client.table("event_sink.user_profile"),
        ["user_id", "name", "username", "email"],
        [(1, NAME, USERNAME, ADDRESS.upper()), (2, "Ann", "honor", "b@canary.example.org")],
    )
    client.insert(
        client.table("event_sink.user_profile"),
        ["user_id", "username"],
        [(10 + n, f"{word}") for n, word in enumerate(["maria", "jose", "audit", "chen", "ivan", "ama"])],
    )
    client.insert(
        client.table("event_sink.external_id"),
        ["user_id", "external_user_id", "external_id_type"],
        [(1, EXTERNAL_ID, "xapi")],
    )
    return store


def check(store: Store) -> dict[str, Problem]:
    return {problem.place: problem for problem in check_map(store).problems}


def test_nothing_is_found_where_only_the_pii_tables_hold_people(people: Store) -> None:
    assert check(people) == {}


@pytest.mark.parametrize(
    ("column", "value", "kind"),
    [
        ("correo", ADDRESS, "addresses"),
        ("recipient", f"Canary <{ADDRESS}>", "addresses"),
        ("contact", f"write to {ADDRESS}.", "addresses"),
        ("nick", USERNAME.upper(), "user names"),
        ("pseudo", f"@{USERNAME}".removeprefix("@"), "user names"),
        ("имя", "quetzal  maría CANARY", "full names"),
        ("氏名", NAME, "full names"),
        ("row", ADDRESS, "addresses"),
        ("code", EXTERNAL_ID, "anonymous ids"),
    ],
)
def test_a_column_is_found_by_what_it_holds(people: Store, column: str, value: str, kind: str) -> None:
    people.client.execute(f"CREATE TABLE $event_sink.t (n Int64, `{column}` String) {TABLE}")
    people.client.execute("INSERT INTO $event_sink.t SELECT 1, {value:String}", value=value)
    people.client.execute("INSERT INTO $event_sink.t SELECT number, 'else' FROM numbers(3)")
    problem = check(people)[f"event_sink.t.{column}"]
    assert problem.reason == f"25 % of 4 texts looked at hold {kind} of people that the PII tables know"
    assert "Add event_sink.t under `targets`" in problem.fix
    assert "canary" not in str(problem).lower()


TYPES = {
    "FixedString(40)": "toFixedString({x:String}, 40)",
    "LowCardinality(Nullable(String))": "{x:String}",
    "Array(Array(String))": "[['a', {x:String}]]",
    "Map(String, String)": "map('k', {x:String})",
    "Map(String, UInt8)": "map({x:String}, 1)",
    "Tuple(Int8, Tuple(String, String))": "(1, ('a', {x:String}))",
    "JSON": 'CAST(concat(\'{"a":[{"b":"\', {x:String}, \'"}]}\') AS JSON)',
    "Variant(Int64, String)": "CAST({x:String} AS Variant(Int64, String))",
    "Dynamic": "CAST({x:String} AS Dynamic)",
    "String": "concat('{\"who\": \"', replaceAll({x:String}, '@', '\\\\u0040'), '\"}')",
}


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("value", [ADDRESS, USERNAME], ids=["address", "user name"])
def test_a_column_of_any_type_is_found(people: Store, kind: str, value: str) -> None:
    people.client.execute(f"CREATE TABLE $reporting.t (x {kind}) {TABLE}")
    people.client.execute(f"INSERT INTO $reporting.t SELECT {TYPES[kind]} AS x", x=value)
    assert list(check(people)) == ["reporting.t.x"]


def test_nested_columns_are_found(people: Store) -> None:
    people.client.execute(f"CREATE TABLE $reporting.t (n Nested(id Int8, quien String)) {TABLE}")
    people.client.execute("INSERT INTO $reporting.t SELECT [1], [{x:String}]", x=USERNAME)
    assert list(check(people)) == ["reporting.t.n.quien"]


@pytest.mark.parametrize("engine", ["Log", "Memory", "Join(ANY, LEFT, id)"])
def test_tables_of_other_engines_are_looked_at(people: Store, engine: str) -> None:
    people.client.execute(f"CREATE TABLE $reporting.t (id Int8, x String) ENGINE = {engine}")
    people.client.execute("INSERT INTO $reporting.t SELECT 1, {x:String}", x=USERNAME)
    assert list(check(people)) == ["reporting.t.x"]


def test_what_a_null_table_hands_on_is_found_under_the_name_of_its_view(people: Store) -> None:
    people.client.execute("CREATE TABLE $reporting.door (x String) ENGINE = Null")
    people.client.execute(f"CREATE MATERIALIZED VIEW $reporting.mv {TABLE} AS SELECT x FROM $reporting.door")
    people.client.execute("INSERT INTO $reporting.door SELECT {x:String}", x=USERNAME)
    assert list(check(people)) == ["reporting.mv.x"]


def test_a_column_of_a_target_that_is_not_in_the_map_is_found(people: Store) -> None:
    people.client.execute("ALTER TABLE $event_sink.course_enrollment ADD COLUMN remark String")
    people.client.execute("INSERT INTO $event_sink.course_enrollment (user_id, remark) SELECT 1, {x:String}", x=ADDRESS)
    assert list(check(people)) == ["event_sink.course_enrollment.remark"]


@pytest.mark.parametrize("exemption", ["reporting.t", "reporting.t.x"])
def test_an_exemption_closes_it(people: Store, exemption: str) -> None:
    people.client.execute(f"CREATE TABLE $reporting.t (x String) {TABLE}")
    people.client.execute("INSERT INTO $reporting.t SELECT {x:String}", x=ADDRESS)
    exempted = people.pii_map.model_copy(update={"not_pii": {exemption: "made up"}})
    assert check(dataclasses.replace(people, pii_map=exempted)) == {}


def test_a_mapped_column_is_complete(people: Store, tmp_path: Path) -> None:
    people.client.execute("CREATE TABLE $reporting.t (u Int64, x String) ENGINE = MergeTree ORDER BY u")
    people.client.execute("INSERT INTO $reporting.t SELECT 1, {x:String}", x=ADDRESS)
    document = yaml.safe_load(find_resource("config/pii.yaml").read_text())
    document["targets"]["reporting.t"] = {"match": {"u": "id"}, "pii": {"x": "email_address"}, "on_retire": "delete"}
    (tmp_path / "map.yaml").write_text(yaml.safe_dump(document))
    assert check(dataclasses.replace(people, pii_map=load_map(tmp_path / "map.yaml"))) == {}


@pytest.mark.parametrize("database", ["xapi", "reporting"])
def test_anonymous_ids_are_what_events_and_datasets_keep(people: Store, database: str) -> None:
    people.client.execute(f"CREATE TABLE ${database}.t (x String) {TABLE}")
    people.client.execute(f"INSERT INTO ${database}.t SELECT {{x:String}}", x=f'{{"name": "{EXTERNAL_ID}"}}')
    assert check(people) == {}


def test_words_that_are_user_names_too_are_no_problem(people: Store) -> None:
    people.client.execute(f"CREATE TABLE $reporting.modes (mode String) {TABLE}")
    people.client.execute("INSERT INTO $reporting.modes SELECT arrayJoin(['honor', 'audit', 'honor'])")
    assert check(people) == {}


def test_a_column_full_of_short_user_names_is_found(people: Store) -> None:
    people.client.execute(f"CREATE TABLE $reporting.t (alias String) {TABLE}")
    people.client.execute(
        "INSERT INTO $reporting.t SELECT arrayJoin(['maria', 'jose', 'chen', 'ivan', 'ama', 'honor', 'nobody'])"
    )
    assert "85.7 % of 7 texts looked at hold user names" in check(people)["reporting.t.alias"].reason


@pytest.mark.parametrize("engine", ["MergeTree ORDER BY n", "Log"])
def test_of_a_large_table_a_sample_is_looked_at(people: Store, engine: str) -> None:
    people.client.execute(f"CREATE TABLE $reporting.t (n Int64, x String) ENGINE = {engine}")
    people.client.execute("INSERT INTO $reporting.t SELECT number, {x:String} FROM numbers(100000)", x=ADDRESS)
    small = dataclasses.replace(people, policy=dataclasses.replace(people.policy, map_check_rows=20_000))
    assert "100 % of 20,000 texts looked at" in check(small)["reporting.t.x"].reason


def test_a_table_that_cannot_be_read_is_a_problem_of_its_own(people: Store) -> None:
    people.client.execute("CREATE TABLE $reporting.seen (x String) ENGINE = Set")
    people.client.execute(f"CREATE TABLE $reporting.t (x String) {TABLE}")
    people.client.execute("INSERT INTO $reporting.t SELECT {x:String}", x=ADDRESS)
    found = check(people)
    assert list(found) == ["reporting.seen", "reporting.t.x"]
    assert "could not be looked at" in found["reporting.seen"].reason


def test_the_command_ends_with_1_and_prints_no_value(aspects_pii: Callable[..., Any], people: Store) -> None:
    people.client.execute(f"CREATE TABLE $reporting.t (x String) {TABLE}")
    people.client.execute("INSERT INTO $reporting.t SELECT {x:String}", x=ADDRESS)
    people.client.close()
    checked = aspects_pii("map", "check")
    assert checked.status == 1
    assert "reporting.t.x: 100 % of 1 text looked at hold addresses" in checked.out
    assert "canary" not in checked.out + checked.err
