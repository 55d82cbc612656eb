"""`aspects-pii reassign`: what a leaving user owned goes to somebody who stays."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from sink.doors.events.actions import Actions, Delivery
from sink.doors.events.work import Message, Work
from sink.erasure.reassign import reassign
from sink.errors import RefusedError
from sink.pii_map import PiiMap, load_map
from sink.resources import find_resource
from sink.retirement.retire import retire
from sink.settings import load_settings
from sink.store import Store
from tests.support.coverage_page import covers

TARGET = {
    "owned": True,
    "asset": "id",
    "match": {"createdBy": "id"},
    "pii": {"author": "name", "metadata.creator.name": "name", "metadata.creator.email": "email_address"},
    "on_retire": {
        "redact": {"author": "constant", "metadata.creator.name": "constant", "metadata.creator.email": "empty"}
    },
}


@pytest.fixture
def owners(store: Store, tmp_path: Path) -> Store:
    document = yaml.safe_load(find_resource("config/pii.yaml").read_text())
    document["targets"]["content.asset"] = TARGET
    path = tmp_path / "pii.yaml"
    path.write_text(yaml.safe_dump(document))
    store.client.execute("CREATE DATABASE content")
    store.client.execute(
        "CREATE TABLE content.asset (id Int64, createdBy Int64, author String, metadata String) ENGINE = MergeTree ORDER BY id"
    )
    store.client.insert(
        store.client.table("event_sink.user_profile"),
        ["user_id", "name", "username", "email"],
        [(u, f"Name {u}", f"user{u}", f"user{u}@example.com") for u in (1, 2, 3)],
    )
    rows = []
    for asset, owner in ((10, 1), (11, 1), (12, 3)):
        document = {"creator": {"name": f"Name {owner}", "email": f"user{owner}@example.com"}, "n": asset}
        rows.append((asset, owner, f"Name {owner}", json.dumps(document)))
    store.client.insert(store.client.table("content.asset"), ["id", "createdBy", "author", "metadata"], rows)
    return dataclasses.replace(store, pii_map=load_map(path))


def assets(store: Store) -> dict[int, tuple[int, str, str, str]]:
    rows = store.client.rows("SELECT id, createdBy, author, metadata FROM content.asset ORDER BY id")
    assert len(rows) == 3
    return {
        asset: (owner, author, json.loads(text)["creator"]["name"], json.loads(text)["creator"]["email"])
        for asset, owner, author, text in rows
    }


HEIRS = (2, "Name 2", "Name 2", "user2@example.com")
OTHERS = (3, "Name 3", "Name 3", "user3@example.com")


@pytest.mark.parametrize("when", ["before the retirement", "after the retirement"])
def test_assets_of_a_leaving_user_go_to_the_heir(owners: Store, when: str) -> None:
    if when == "after the retirement":
        retire(owners, [1])
        assert assets(owners)[10][1:3] == ("Deleted User", "Deleted User")
    result = reassign(owners, 1, 2, actor="17")
    assert result.rows == {"content.asset": 2}
    assert assets(owners) == {10: HEIRS, 11: HEIRS, 12: OTHERS}
    if when == "before the retirement":
        assert retire(owners, [1])[0].state == "erased"
        assert assets(owners) == {10: HEIRS, 11: HEIRS, 12: OTHERS}
    entries = owners.ledger.show(action="reassigned")
    assert [(e.detail["from"], e.detail["to"], e.actor) for e in entries] == [("1", "2", "17")]
    assert "Name" not in json.dumps(entries[0].detail)


def test_handing_over_twice_is_as_good_as_once(owners: Store) -> None:
    reassign(owners, 1, 2)
    assert reassign(owners, 1, 2).rows == {}
    assert len(owners.ledger.show(action="reassigned")) == 1


def test_dry_run_counts_and_changes_nothing(owners: Store) -> None:
    before = assets(owners)
    assert reassign(owners, 1, 2, dry_run=True).rows == {"content.asset": 2}
    assert assets(owners) == before
    assert owners.ledger.show(action="reassigned") == []


def test_an_heir_who_is_unknown_retired_or_the_leaver_is_refused(owners: Store) -> None:
    retire(owners, [3])
    for heir, reason in ((99, "not known"), (3, "is retired"), (1, "the one who leaves")):
        with pytest.raises(RefusedError, match=reason):
            reassign(owners, 1, heir)


Owners = Callable[..., Store]


@pytest.fixture
def with_things(store: Store) -> Owners:
    """A store with one owned table beside the profiles of 1, 2 and 70000: its columns, what a rule redacts, its rows."""

    def make(columns: str, redact: dict[str, Any], rows: str, **pii: str) -> Store:
        document = yaml.safe_load(find_resource("config/pii.yaml").read_text())
        document["targets"]["event_sink.things"] = {
            "owned": True,
            "match": {"owner": "id"},
            "pii": {"author": "name", **pii},
            "on_retire": {"redact": {"author": "constant", **redact}},
        }
        store.client.execute(f"CREATE TABLE $event_sink.things ({columns}) ENGINE = MergeTree ORDER BY tuple()")
        store.client.execute(f"INSERT INTO $event_sink.things VALUES {rows}")
        store.client.insert(
            store.client.table("event_sink.user_profile"),
            ["user_id", "name", "username", "email"],
            [(u, f"Name {u}", f"user{u}", f"user{u}@example.com") for u in (1, 2, 70_000)],
        )
        return dataclasses.replace(store, pii_map=PiiMap.model_validate(document))

    return make


def read_things(store: Store) -> list[Any]:
    return sorted(store.client.rows("SELECT * FROM $event_sink.things"))


@pytest.mark.parametrize(
    ("columns", "named"),
    [
        ("owner UInt16, author String", "owner is UInt16"),
        ("owner FixedString(4), author String", r"owner is FixedString\(4\)"),
        ("owner UInt64, author FixedString(6)", r"author is FixedString\(6\)"),
    ],
)
@pytest.mark.parametrize("dry_run", [True, False])
@covers("type", "an heir whose id or name a column cannot hold", "refused")
def test_an_heir_whom_a_column_cannot_hold_is_refused_before_anything(
    with_things: Owners, columns: str, named: str, *, dry_run: bool
) -> None:
    # 4464 is what is left of 70000 in 16 bits.
    store = with_things(
        columns, {"author": "empty"}, "('1', 'Name 1')" + (", ('4464', 'Other')" if "UInt" in columns else "")
    )
    before = read_things(store)
    with pytest.raises(RefusedError, match=f"{named}.*MODIFY COLUMN"):
        reassign(store, 1, 70_000, dry_run=dry_run)
    assert read_things(store) == before
    assert reassign(store, 1, 2).rows == {"event_sink.things": 1}


def test_a_narrow_column_is_no_obstacle_where_the_leaver_owns_nothing(with_things: Owners) -> None:
    store = with_things("owner UInt16, author String", {}, "(4464, 'Other')")
    assert reassign(store, 1, 70_000).rows == {}


@pytest.mark.parametrize(
    ("column", "value", "pii_type", "redaction", "expected"),
    [
        ("more Date", "2000-02-03", "birth_date", "default", "1970-01-01"),
        ("more UInt64", "7", "other", "default", "0"),
        ("more Nullable(IPv4)", "192.0.2.7", "ip", "null", None),
        ("more Nullable(Date)", "2000-02-03", "birth_date", "default", None),
        ("more LowCardinality(String)", "a canary", "other", {"constant": "gone"}, "gone"),
        ("more String", "a canary", "other", {"expression": "concat('of ', kind)"}, "of quiz"),
        ("more String", "Name 1", "name", "empty", "Name 2"),
    ],
)
@covers("type", "a column of an owned target that is no name", "erased")
def test_what_is_no_name_is_redacted_as_a_retirement_would(
    with_things: Owners, column: str, value: str, pii_type: str, redaction: Any, expected: str | None
) -> None:
    columns = f"owner Int64, author String, kind String, {column}"
    rows = f"(1, 'Name 1', 'quiz', '{value}'), (2, 'Name 2', 'quiz', '{value}')"
    store = with_things(columns, {"more": redaction}, rows, more=pii_type)
    assert reassign(store, 1, 2).rows == {"event_sink.things": 1}
    found = store.client.rows("SELECT owner, author, toString(more) FROM $event_sink.things")
    assert Counter(found) == Counter([(2, "Name 2", expected), (2, "Name 2", value)])


def test_assets_that_are_not_named_stay(owners: Store) -> None:
    before = assets(owners)
    counted = reassign(owners, 1, 2, assets=["10"], dry_run=True)
    assert (counted.rows, counted.unknown) == ({"content.asset": 1}, [])
    assert assets(owners) == before
    # 12 is somebody else's, and 99 nobody's.
    result = reassign(owners, 1, 2, assets=["10", "12", "99", "10"], actor="17")
    assert (result.rows, result.unknown) == ({"content.asset": 1}, ["12", "99"])
    assert assets(owners) == {10: HEIRS, 11: before[11], 12: OTHERS}
    # What the heir has by now was handed over: nothing to do, and nothing to complain of.
    again = reassign(owners, 1, 2, assets=["10"])
    assert (again.rows, again.unknown) == ({}, [])
    assert reassign(owners, 1, 2).rows == {"content.asset": 1}
    assert assets(owners) == {10: HEIRS, 11: HEIRS, 12: OTHERS}
    # How many, not which: whatever names an asset is not ours.
    details = [entry.detail for entry in owners.ledger.show(action="reassigned")]
    assert [detail.get("assets") for detail in details] == [3, None]


def test_assets_that_the_map_cannot_name_are_refused(owners: Store) -> None:
    for asset in (None, "number"):
        target = owners.pii_map.targets["content.asset"].model_copy(update={"asset": asset})
        pii_map = owners.pii_map.model_copy(update={"targets": {**owners.pii_map.targets, "content.asset": target}})
        with pytest.raises(RefusedError, match="Add `asset: COLUMN`"):
            reassign(dataclasses.replace(owners, pii_map=pii_map), 1, 2, assets=["10"])
    assert assets(owners)[10][0] == 1


def test_the_command_hands_over_single_assets(owners: Store, aspects_pii: Callable[..., Any], tmp_path: Path) -> None:
    """A path into JSON can name the asset too."""
    path = tmp_path / "pii.yaml"
    document = yaml.safe_load(path.read_text())
    document["targets"]["content.asset"]["asset"] = "metadata.n"
    path.write_text(yaml.safe_dump(document))
    ran = aspects_pii("reassign", 1, 2, "--asset", 11, "--asset", 12, "--json", PII_MAP=str(path))
    assert ran.status == 1
    assert (ran.json["rows"], ran.json["unknown"]) == ({"content.asset": 1}, ["12"])
    assert ran.err.strip() == "12: neither 1 nor 2 owns such an asset."
    assert {asset: row[0] for asset, row in assets(owners).items()} == {10: 1, 11: 2, 12: 3}
    ran = aspects_pii("reassign", 1, 2, "--asset", 11, PII_MAP=str(path))
    assert ran.status == 0
    assert ran.out.splitlines()[-1].startswith("0 rows went from 1 to 2 on chdb:///")


def test_the_command_says_what_went(aspects_pii: Callable[..., Any]) -> None:
    aspects_pii("init")
    ran = aspects_pii("reassign", 1, 2)
    assert ran.status == 1
    assert "2 is not known here" in ran.err


@pytest.fixture
def drawings(store: Store, tmp_path: Path) -> str:
    """A map whose subjects have ids of text, and which has no table of people; the table is there."""
    document = {
        "version": 1,
        "subject": {"type": "text"},
        "targets": {
            "studio.drawing": {
                "owned": True,
                "asset": "id",
                "match": {"owner": "id"},
                "pii": {"author": "name"},
                "on_retire": {"redact": {"author": "constant"}},
            }
        },
    }
    path = tmp_path / "studio.yaml"
    path.write_text(yaml.safe_dump(document))
    store.client.execute("CREATE DATABASE studio")
    store.client.execute(
        "CREATE TABLE studio.drawing (id String, owner String, author String) ENGINE = MergeTree ORDER BY id"
    )
    store.client.execute(
        "INSERT INTO studio.drawing VALUES ('a', 'u-1f', 'Ann'), ('b', 'u-1f', 'Ann'), ('c', 'u-2e', 'Bob')"
    )
    return str(path)


def read_drawings(store: Store) -> list[Any]:
    return store.client.rows("SELECT * FROM studio.drawing ORDER BY id")


def test_without_a_table_of_people_the_heirs_id_is_enough(store: Store, drawings: str) -> None:
    people = dataclasses.replace(store, pii_map=load_map(Path(drawings)))
    assert reassign(people, "u-1f", "u-3d", assets=["a"]).rows == {"studio.drawing": 1}
    assert reassign(people, "u-1f", "u-2e").rows == {"studio.drawing": 1}
    # Nobody knows what an heir is called, and the owner's name does not stay.
    assert read_drawings(store) == [("a", "u-3d", "Deleted User"), ("b", "u-2e", "Deleted User"), ("c", "u-2e", "Bob")]
    assert [(e.detail["from"], e.detail["to"]) for e in store.ledger.show(action="reassigned")] == [
        ("u-1f", "u-3d"),
        ("u-1f", "u-2e"),
    ]


def test_without_a_table_of_people_the_retired_are_no_heirs(store: Store, drawings: str) -> None:
    people = dataclasses.replace(store, pii_map=load_map(Path(drawings)))
    assert retire(people, ["u-2e"])[0].state == "erased"
    with pytest.raises(RefusedError, match="is retired"):
        reassign(people, "u-1f", "u-2e")


def test_an_event_hands_over_to_an_heir_who_is_a_text(store: Store, drawings: str) -> None:
    actions = Actions(load_settings(), asks_for_copies=False)
    actions._store = dataclasses.replace(store, pii_map=load_map(Path(drawings)))
    actions.reassign([Delivery(Message("studio", "1-0", {}), Work("reassign", ("u-1f",), heir="u-2e"))])
    assert [owner for _, owner, _ in read_drawings(store)] == ["u-2e"] * 3
