"""`aspects-pii reassign`: what a leaving user owned goes to somebody who stays."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from sink.errors import RefusedError
from sink.pii import load_map
from sink.reassign import reassign
from sink.resources import find_resource
from sink.retire import retire
from sink.store import Store

TARGET = {
    "owned": True,
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
def test_what_a_leaving_user_owned_goes_to_the_heir(owners: Store, when: str) -> None:
    if when == "after the retirement":
        retire(owners, [1])
        assert assets(owners)[10][1:3] == ("Deleted User", "Deleted User")
    result = reassign(owners, 1, 2, actor="operator")
    assert result.rows == {"content.asset": 2}
    assert assets(owners) == {10: HEIRS, 11: HEIRS, 12: OTHERS}
    if when == "before the retirement":
        assert retire(owners, [1])[0].state == "erased"
        assert assets(owners) == {10: HEIRS, 11: HEIRS, 12: OTHERS}
    entries = owners.ledger.show(action="reassigned")
    assert [(e.detail["from"], e.detail["to"], e.actor) for e in entries] == [("1", "2", "operator")]
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


def test_the_command_says_what_went(aspects_pii: Callable[..., Any]) -> None:
    aspects_pii("init")
    ran = aspects_pii("reassign", 1, 2)
    assert ran.status == 1
    assert "2 is not known here" in ran.err
