"""The audit trail of roles: what is written of an event, what is not, and how it is found again."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from sink.errors import MigrationError, UsageError
from sink.ledger.chain import Trust, compose_lines
from sink.ledger.files import export_ledger, import_ledger
from sink.ledger.installation_id import Installation, read_installation
from sink.ledger.role_trail import Operation, RoleChange, Source, read_change, record_changes, show_changes
from sink.store import Store

COURSE, OTHER_RUN = "course-v1:OpenedX+CS101+2024", "course-v1:OpenedX+CS101+2025"
NOON = datetime(2026, 11, 29, 12, tzinfo=UTC)


def change(minutes: float, operation: str = "given", **others: Any) -> RoleChange:
    made = RoleChange(
        uuid.uuid4(),
        NOON + timedelta(minutes=minutes),
        Operation(operation),
        "7",
        "staff",
        COURSE,
        Source.AUTHZ,
        "17",
    )
    return replace(made, **others)


def count_rows(store: Store) -> int:
    return int(store.client.value("SELECT count() FROM $pii_ledger.role_assignments"))


def test_who_gave_whom_which_role_when_is_kept(store: Store) -> None:
    given, taken = change(0), change(5, "taken", actor="18")
    record_changes(store.client, [taken, given])
    assert show_changes(store.client) == [given, taken]


def test_what_changes_nothing_is_no_line(store: Store) -> None:
    told = [change(0), change(1), change(2), change(4, "taken"), change(5, "taken")]
    record_changes(store.client, told)
    assert show_changes(store.client) == [told[0], told[3]]


def test_an_event_that_comes_twice_is_written_once(store: Store) -> None:
    told = [change(0), change(5, "taken")]
    record_changes(store.client, told)
    record_changes(store.client, told)
    assert count_rows(store) == 2


def test_two_doors_at_the_same_moment_show_as_one(store: Store) -> None:
    """Neither saw what the other wrote."""
    told = change(0)
    record_changes(store.client, [told])
    store.client.execute("INSERT INTO $pii_ledger.role_assignments SELECT * FROM $pii_ledger.role_assignments")
    assert count_rows(store) == 2
    assert show_changes(store.client) == [told]


@pytest.mark.parametrize("order", [(0, 2, 1), (2, 1, 0), (1, 0, 2)])
def test_a_late_event_finds_its_place(store: Store, order: tuple[int, ...]) -> None:
    told = [change(0), change(5, "taken"), change(9)]
    for at in order:
        record_changes(store.client, [told[at]])
    assert show_changes(store.client) == told


@pytest.mark.parametrize("together", [True, False])
def test_what_the_lms_repeats_is_shown_once_with_who_did_it(store: Store, together: bool) -> None:
    """Since Verawood it sends `course_access_role.added` too, without an actor, before or after."""
    repeated = change(0, source=Source.LMS, actor=None)
    told = change(0.1)
    for some in [[repeated, told]] if together else [[repeated], [told]]:
        record_changes(store.client, some)
    assert show_changes(store.client) == [told]


def test_a_role_that_moves_to_openedx_authz_is_kept_there(store: Store) -> None:
    """Its migration gives it there and takes it out of the LMS's own table."""
    had = change(-60, source=Source.LMS, actor=None)
    moved = [change(0), change(0.1, "taken", source=Source.LMS, actor=None)]
    record_changes(store.client, [had, *moved])
    shown = show_changes(store.client)
    assert [(one.operation, one.source) for one in shown] == [
        ("given", "course_access_role"),
        ("given", "openedx-authz"),
        ("taken", "course_access_role"),
    ]
    assert [one.done_by for one in shown] == ["unknown", "17", "unknown"]


def test_nobody_is_the_system_where_openedx_authz_says_so(store: Store) -> None:
    record_changes(store.client, [change(0, actor=None)])
    (shown,) = show_changes(store.client)
    assert shown.done_by == "system"


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        (COURSE, ["*", "course-v1:*", "course-v1:OpenedX+*", COURSE]),
        ("course-v1:OpenedX+*", ["*", "course-v1:*", "course-v1:OpenedX+*", COURSE, OTHER_RUN]),
        ("course-v1:WGU+*", ["*", "course-v1:*"]),
        ("lib:DemoX:CSPROB", ["*", "lib:DemoX:CSPROB"]),
        ("*", ["*", "course-v1:*", "course-v1:OpenedX+*", COURSE, OTHER_RUN, "lib:DemoX:CSPROB"]),
    ],
)
def test_a_scope_is_found_with_what_covers_it(store: Store, asked: str, found: list[str]) -> None:
    scopes = ["*", "course-v1:*", "course-v1:OpenedX+*", COURSE, OTHER_RUN, "lib:DemoX:CSPROB"]
    record_changes(store.client, [change(minute, scope=scope) for minute, scope in enumerate(scopes)])
    assert [one.scope for one in show_changes(store.client, scope=asked)] == found


def test_changes_are_found_by_subject_operation_actor_and_time(store: Store) -> None:
    told = [change(0), change(5, "taken", actor="18"), change(6, subject="8"), change(9, subject="9", actor=None)]
    record_changes(store.client, told)
    assert show_changes(store.client, subject="7") == told[:2]
    assert show_changes(store.client, operation="taken") == [told[1]]
    assert show_changes(store.client, actor="18") == [told[1]]
    assert show_changes(store.client, since=told[2].at) == told[2:]
    assert show_changes(store.client, until=told[1].at) == told[:1]
    assert show_changes(store.client, limit=1) == told[3:]


def test_a_row_that_cannot_be_right_is_not_shown(store: Store) -> None:
    record_changes(store.client, [change(0)])
    for column, value in (("subject", "jane@example.org"), ("scope", "jane@example.org"), ("role", "Jane Doe")):
        others = ", ".join(f"'{value}' AS {name}" if name == column else name for name in ("subject", "scope", "role"))
        store.client.execute(
            "INSERT INTO $pii_ledger.role_assignments (event, at, operation, source, subject, scope, role) "
            f"SELECT generateUUIDv4(), at + 1, operation, source, {others} FROM $pii_ledger.role_assignments LIMIT 1"
        )
    assert count_rows(store) == 4
    assert len(show_changes(store.client)) == 1


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("subject", "jane@example.org"),
        ("subject", None),
        ("role", "Jane Doe"),
        ("scope", "jane@example.org"),
        ("scope", "Jane"),
        ("scope", "course-v1:jane@example.org+CS101+2024"),
        ("scope", "lib:jane@example.org:CSPROB"),
        ("operation", "changed"),
        ("source", "somewhere"),
        ("event", "1"),
        ("at", "yesterday"),
        ("at", "1970-01-01T00:00:00"),
    ],
)
def test_what_cannot_be_right_is_refused_and_not_quoted(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"`{field}` cannot be right") as raised:
        read_change({**change(0).describe(), field: value})
    assert str(value) not in str(raised.value).replace(field, "")


@pytest.mark.parametrize(
    "scope", ["ccx-v1:OpenedX+CS101+2024+ccx@12", "library-v1:DemoX+CSPROB", "OpenedX/CS101/2024", "*"]
)
def test_the_scope_is_a_key_of_any_kind(scope: str) -> None:
    assert read_change({**change(0).describe(), "scope": scope}).scope == scope


def test_an_actor_that_may_be_a_name_is_left_out() -> None:
    assert read_change({**change(0).describe(), "actor": "jane"}).actor is None


def test_a_ledger_of_an_older_version_says_what_to_do(store: Store) -> None:
    store.client.execute("DROP VIEW $pii_ledger.role_changes")
    with pytest.raises(MigrationError, match="aspects-pii init"):
        show_changes(store.client)


def find_installation(store: Store) -> Installation:
    return read_installation(store.client, store.policy.receipt_key, store.policy.pseudonym_secret)


def take(store: Store, path: Path, trust: Trust | None = None, *, dry_run: bool = False) -> int:
    return import_ledger(
        store.client, store.pii_map.subject, find_installation(store), path, trust=trust, dry_run=dry_run
    )


def write_export(store: Store, path: Path, *changes: Mapping[str, Any]) -> None:
    lines = compose_lines(find_installation(store), "2026-01-01 00:00:00.000000", [], changes)
    path.write_text("".join(f"{line}\n" for line in lines))


@pytest.mark.parametrize("page", [1, 2, 10_000])
def test_the_trail_is_in_an_export_and_comes_back_once(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, page: int
) -> None:
    monkeypatch.setattr("sink.ledger.role_trail._PAGE", page)
    told = [change(0), change(1), change(2, "taken", actor=None, scope="course-v1:OpenedX+*", source=Source.LMS)]
    record_changes(store.client, told)
    store.ledger.request([5])
    path = tmp_path / "ledger.jsonl"
    exported = export_ledger(store.client, find_installation(store), path)
    assert (exported.entries, exported.roles) == (1, 3)
    for table in ("role_assignments", "entries"):
        store.client.execute(f"TRUNCATE TABLE $pii_ledger.{table}")
    assert (take(store, path, dry_run=True), count_rows(store)) == (4, 0)
    assert (take(store, path), take(store, path)) == (4, 0)
    assert count_rows(store) == 3
    assert show_changes(store.client) == [told[0], told[2]]
    assert store.ledger.tombstones() == ["5"]


def test_what_cannot_be_right_is_not_exported(store: Store, tmp_path: Path) -> None:
    record_changes(store.client, [change(0), change(1, role="Jane Roe"), change(2, subject="jane@example.org")])
    exported = export_ledger(store.client, find_installation(store), tmp_path / "ledger.jsonl")
    assert exported.roles == 1
    assert take(store, tmp_path / "ledger.jsonl") == 0


@pytest.mark.parametrize(
    ("forged", "named"),
    [
        ({"subject": "jane@example.org"}, "subject"),
        ({"actor": "jane@example.org"}, "a value is not as an export writes it"),
        ({"role": "Jane Roe"}, "role"),
        ({"scope": "jane@example.org"}, "scope"),
        ({"source": "elsewhere"}, "source"),
        ({"operation": "erased"}, "operation"),
        ({"at": "9999-01-01T00:00:00+00:00"}, "at"),
        ({"event": "1"}, "event"),
        ({"event": 1}, "event"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_forged_line_is_refused_and_nothing_is_written(
    store: Store, tmp_path: Path, forged: dict[str, Any], named: str
) -> None:
    path = tmp_path / "ledger.jsonl"
    write_export(store, path, change(0).describe(), change(1).describe() | forged)
    with pytest.raises(UsageError, match=named) as caught:
        take(store, path)
    assert "line 3" in str(caught.value)
    assert "jane" not in str(caught.value).lower()
    assert count_rows(store) == 0


def test_what_somebody_has_put_into_the_table_keeps_no_export_from_coming_back(store: Store, tmp_path: Path) -> None:
    record_changes(store.client, [change(0), change(1, subject="jane")])
    store.ledger.request([5])
    path = tmp_path / "ledger.jsonl"
    assert export_ledger(store.client, find_installation(store), path).roles == 2
    for table in ("role_assignments", "entries"):
        store.client.execute(f"TRUNCATE TABLE $pii_ledger.{table}")
    assert take(store, path) == 2
    assert store.client.column("SELECT subject FROM $pii_ledger.role_assignments") == ["7"]


def test_no_line_of_a_file_changes_what_is_known_of_an_event(store: Store, tmp_path: Path) -> None:
    told = change(0)
    record_changes(store.client, [told])
    write_export(store, tmp_path / "ledger.jsonl", told.describe() | {"subject": "8"})
    assert take(store, tmp_path / "ledger.jsonl") == 0
    assert show_changes(store.client) == [told]


def test_a_line_that_was_added_taken_or_moved_is_seen(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    write_export(store, path, *(change(minute).describe() for minute in range(3)))
    lines = path.read_text().splitlines()
    for number, changed in (
        (4, [*lines[:3], *lines[4:]]),
        (4, [*lines[:3], lines[2], *lines[3:]]),
        (2, [lines[0], lines[2], lines[1], *lines[3:]]),
        (5, [*lines[:-1], json.dumps({**json.loads(lines[-1]), "roles": 2})]),
    ):
        path.write_text("\n".join(changed))
        with pytest.raises(UsageError, match=f"line {number}"):
            take(store, path, Trust(unsigned=True))
    assert count_rows(store) == 0


def test_a_file_of_the_version_before_is_taken_and_has_no_roles(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    with_roles = list(compose_lines(find_installation(store), "2026-01-01 00:00:00.000000", [], [change(0).describe()]))
    assert json.loads(with_roles[0])["version"] == 2
    before = (Path(__file__).parent / "version_1.jsonl").read_text()
    path.write_text(before)
    installation = json.loads(before.splitlines()[0])["installation"]
    assert take(store, path, Trust(installation=installation, unsigned=True)) == 1
    # A line of roles in it is none of its own.
    first, entry, end = before.splitlines()
    path.write_text("\n".join([first, entry, with_roles[1], end]))
    with pytest.raises(UsageError, match="line 3"):
        take(store, path, Trust(installation=installation, unsigned=True))
