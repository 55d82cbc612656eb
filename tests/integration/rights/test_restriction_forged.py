"""Whatever a file of a ledger or the table says: nobody who is restricted is shown again by it."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from sink.errors import UsageError
from sink.ledger.chain import Trust
from sink.ledger.checking import check_ledger, void_entries
from sink.ledger.files import export_ledger, import_ledger
from sink.ledger.installation_id import read_installation
from sink.ledger.restrictions import find_restrictions
from sink.ledger.rules import name_entry
from sink.rights.restriction import restrict, unrestrict
from sink.store import Store

FIELDS = ("subject", "at", "action", "request", "actor", "detail")
UNSIGNED = Trust(unsigned=True)


def write_file(path: Path, *entries: dict[str, Any]) -> Path:
    """A file as older versions wrote it: without hashes and signature."""
    plain = {"actor": None, "detail": "{}"}
    path.write_text("".join(json.dumps(plain | entry) + "\n" for entry in entries))
    return path


def list_withheld(store: Store) -> list[str]:
    """As every dataset asks."""
    return sorted(store.client.column("SELECT subject FROM $pii_ledger.withheld"))


def take(store: Store, path: Path, trust: Trust | None = None) -> int:
    return import_ledger(store.client, store.pii_map.subject, read_installation(store.client), path, trust=trust)


def add(store: Store, action: str, request: uuid.UUID, at: datetime, subject: str = "42", detail: str = "{}") -> None:
    store.client.insert(
        store.client.table("pii_ledger.entries"), FIELDS, [(subject, at, action, request, None, detail)]
    )


def restrict_one(store: Store) -> tuple[uuid.UUID, datetime]:
    restrict(store, [42])
    (found,) = find_restrictions(store.client, [42])
    return found.request, found.since


def test_a_restore_takes_restrictions_and_their_ends_along(store: Store, tmp_path: Path) -> None:
    restrict(store, [1, 2, 3])
    unrestrict(store, [2])
    export_ledger(store.client, read_installation(store.client), tmp_path / "ledger.jsonl")
    store.client.execute("TRUNCATE TABLE $pii_ledger.entries")
    assert list_withheld(store) == []
    assert take(store, tmp_path / "ledger.jsonl") == 4
    assert list_withheld(store) == ["1", "3"]
    assert check_ledger(store.client, store.pii_map.subject) == []


def test_a_signed_file_tells_of_a_restriction_that_was_lifted_after_the_backup(store: Store, tmp_path: Path) -> None:
    restrict_one(store)
    unrestrict(store, [42])
    export_ledger(store.client, read_installation(store.client), tmp_path / "ledger.jsonl")
    store.client.execute(
        "ALTER TABLE $pii_ledger.entries DELETE WHERE action = 'unrestricted' SETTINGS mutations_sync = 1"
    )
    assert list_withheld(store) == ["42"]
    assert take(store, tmp_path / "ledger.jsonl") == 1
    assert list_withheld(store) == []


@pytest.mark.parametrize("minutes", [-1, 0, 1])
def test_an_unsigned_file_lifts_nothing(store: Store, tmp_path: Path, minutes: int) -> None:
    request, since = restrict_one(store)
    at = f"{since + timedelta(minutes=minutes):%Y-%m-%d %H:%M:%S.%f}"
    entry = {"subject": "42", "at": at, "action": "unrestricted", "request": str(request)}
    with pytest.raises(UsageError, match=r"line 1: (it lifts a restriction that stands|nothing was `restricted`)"):
        take(store, write_file(tmp_path / "forged.jsonl", entry), UNSIGNED)
    # With the restriction in the same file, earlier than it began.
    first = {**entry, "at": "2020-01-01 00:00:00.000000", "action": "restricted"}
    with pytest.raises(UsageError, match="line 2: it lifts a restriction that stands"):
        take(store, write_file(tmp_path / "forged.jsonl", first, entry), UNSIGNED)
    assert list_withheld(store) == ["42"]


def test_an_unsigned_file_lifts_nothing_by_taking_entries_out(store: Store, tmp_path: Path) -> None:
    request, since = restrict_one(store)
    at = f"{since:%Y-%m-%d %H:%M:%S.%f}"
    name = name_entry({"subject": "42", "at": at, "action": "restricted", "request": str(request)})
    later = {"at": "2026-01-01 00:00:00.000000", "request": str(request)}
    # First everything that might make the entry look wrong, then what takes it out.
    asked = {**later, "subject": "42", "action": "requested"}
    withdrawn = {**later, "at": "2026-01-02 00:00:00.000000", "subject": "42", "action": "withdrawn"}
    take(store, write_file(tmp_path / "first.jsonl", asked, withdrawn), UNSIGNED)
    void = {**later, "subject": "", "action": "voided", "detail": json.dumps({"entry": name, "reason": "x"})}
    with pytest.raises(UsageError, match="line 1: it takes out an entry that is right"):
        take(store, write_file(tmp_path / "second.jsonl", void), UNSIGNED)
    assert list_withheld(store) == ["42"]


@pytest.mark.parametrize("after", [timedelta(minutes=-1), timedelta(days=3)])
def test_in_the_table_what_cannot_be_right_lifts_nothing_and_is_found(store: Store, after: timedelta) -> None:
    request, since = restrict_one(store)
    add(store, "unrestricted", request, since + after)
    add(store, "unrestricted", uuid.uuid4(), since + timedelta(seconds=1))
    add(store, "unrestricted", request, since + timedelta(seconds=1), subject="43")
    assert list_withheld(store) == ["42"]
    wrong = check_ledger(store.client, store.pii_map.subject)
    assert len(wrong) == 3
    names = [found.entry for found in wrong]
    void_entries(store.client, store.pii_map.subject, names, "forged")
    assert list_withheld(store) == ["42"]
    assert check_ledger(store.client, store.pii_map.subject) == []


def test_a_restriction_with_a_time_that_cannot_be_stands_until_it_is_lifted(store: Store) -> None:
    add(store, "restricted", uuid.uuid4(), datetime.now(UTC) + timedelta(days=400))
    assert list_withheld(store) == ["42"]
    unrestrict(store, [42])
    assert list_withheld(store) == []


def test_a_name_in_the_place_of_an_id_restricts_nobody_and_a_forged_ground_is_not_passed_on(store: Store) -> None:
    request = uuid.uuid4()
    add(store, "restricted", request, datetime.now(UTC), subject="jane@example.com")
    add(store, "restricted", request, datetime.now(UTC), detail='{"ground": "Jane asked"}')
    assert list_withheld(store) == ["42"]
    (found,) = find_restrictions(store.client, [42])
    assert found.ground is None


def test_a_retirement_that_is_withdrawn_leaves_the_restriction(store: Store) -> None:
    restrict(store, [42])
    (retirement,) = store.ledger.request([42])
    store.ledger.record("withdrawn", [(42, retirement.request, {})])  # type: ignore[arg-type]
    assert store.ledger.tombstones() == []
    assert list_withheld(store) == ["42"]
