"""The audit trail of roles: what is written of an event, what is not, and how it is found again."""

from __future__ import annotations

import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sink.errors import MigrationError
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
