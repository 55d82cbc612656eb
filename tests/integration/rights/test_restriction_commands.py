"""`restrict` and `unrestrict`: what they record, what they refuse, and that no file of a ledger undoes it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sink.errors import RefusedError
from sink.rights.restriction import restrict, unrestrict
from sink.store import Store
from tests.support.profiles import make_store_of


def test_who_asked_when_and_why_is_on_record_without_a_name(
    aspects_pii: Callable[..., Any], migrated: Callable[[Path], None]
) -> None:
    make_store_of(migrated, 3)
    assert aspects_pii("restrict", 1, 2, "--ground", "accuracy", "--actor", "17").status == 0
    entries = json.loads(aspects_pii("ledger", "show", "--action", "restricted", "--json").out)
    entries = entries if isinstance(entries, list) else entries["entries"]
    assert [(e["subject"], e["actor"], e["detail"]) for e in entries] == [
        ("1", "17", {"ground": "accuracy"}),
        ("2", "17", {"ground": "accuracy"}),
    ]
    assert aspects_pii("restrict", "--list", "--json").json["restricted"] == ["1", "2"]
    assert aspects_pii("unrestrict", 1, "--dry-run").status == 0
    assert aspects_pii("restrict", "--list", "--json").json["restricted"] == ["1", "2"]
    assert aspects_pii("unrestrict", 1).status == 0
    assert aspects_pii("restrict", "--list", "--json").json["restricted"] == ["2"]
    assert aspects_pii("ledger", "check").status == 0


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("restrict",), 2, "Nobody is named"),
        (("restrict", "somebody@example.org"), 2, "argument 1: this is not an id"),
        (("restrict", 1, "--ground", "because"), 2, "'accuracy', 'unlawful', 'claims', 'objection'"),
        (("restrict", 77), 2, "holds nothing of 77"),
        (("restrict", 77, "--unknown"), 0, ""),
        (("restrict", 1, "--dry-run"), 0, ""),
        (("unrestrict", 1), 1, "1 is not restricted; nothing was lifted"),
    ],
)
def test_bad_usage_names_the_fix_and_records_nothing(
    aspects_pii: Callable[..., Any],
    migrated: Callable[[Path], None],
    arguments: tuple[Any, ...],
    status: int,
    said: str,
) -> None:
    make_store_of(migrated, 3)
    ran = aspects_pii(*arguments)
    assert (ran.status, said in ran.err) == (status, True), ran.err
    expected = ["77"] if "--unknown" in arguments else []
    assert aspects_pii("restrict", "--list", "--json").json["restricted"] == expected


def test_all_or_none_is_lifted(store: Store) -> None:
    restrict(store, [1])
    with pytest.raises(RefusedError, match="2 is not restricted"):
        unrestrict(store, [1, 2])
    assert store.client.column("SELECT subject FROM $pii_ledger.restrictions") == ["1"]
