"""JSON events: what a mapping may say, and what it makes of a message."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sink.doors.events.json_events import MAX_BODY_BYTES, load_event_map, make_json_decoder, read_event
from sink.doors.events.work import Message, Work
from sink.errors import InvalidMessageError, MapError
from sink.pii_map import Subject
from sink.resources import find_resource

NUMBERS, TEXTS = Subject(type="integer"), Subject(type="text")
SHIPPED = load_event_map(find_resource("config/events.yaml"))
UUID = "3f2504e0-4f89-41d3-9a0c-0305e82c3301"
RULE = "when: {type: closed}\n    subject: account.id\n    "


def load(tmp_path: Path, text: str) -> Any:
    file = tmp_path / "events.yaml"
    file.write_text(text)
    return load_event_map(file)


def delete_user(user_id: Any, managed: Any = None, kind: Any = "User") -> dict[str, Any]:
    edata = {"action": "delete-user", "userId": user_id, "managed_users": managed}
    return {"eid": "BE_JOB_REQUEST", "object": {"id": user_id, "type": kind}, "edata": edata}


def test_sunbird_deletes_users_that_have_uuids() -> None:
    work = read_event(SHIPPED, TEXTS, delete_user(UUID, ["a1", "b2", "a1", UUID]))
    assert work == Work("retire", (UUID, "a1", "b2"), kind="delete-user")


@pytest.mark.parametrize("kind", ["User", "user", "USER "])
def test_the_type_of_the_object_is_compared_as_sunbird_does(kind: str) -> None:
    assert read_event(SHIPPED, NUMBERS, delete_user("7", kind=kind)) == Work("retire", (7,), kind="delete-user")


@pytest.mark.parametrize("managed", [None, [], "", {}])
def test_event_that_manages_nobody_names_one_user(managed: Any) -> None:
    work = read_event(SHIPPED, NUMBERS, delete_user(7, managed))
    assert work is not None
    assert (work.subjects, work.unusable) == ((7,), "")


@pytest.mark.parametrize("user_id", [None, "", " ", "zaphod", True, 7.0, -1, 0, ["7"], {"id": 7}, "7\n8", "9" * 300])
def test_value_that_is_no_id_retires_nobody(user_id: Any) -> None:
    with pytest.raises(InvalidMessageError, match=r"edata\.userId is not an id") as raised:
        read_event(SHIPPED, NUMBERS, delete_user(user_id))
    assert "zaphod" not in str(raised.value)


@pytest.mark.parametrize("user_id", [None, "", " ", True, "x" * 300, "a\x00b", "a\nb", ["x"]])
def test_value_that_is_no_text_id_retires_nobody(user_id: Any) -> None:
    with pytest.raises(InvalidMessageError, match=r"edata\.userId is not an id"):
        read_event(SHIPPED, TEXTS, delete_user(user_id))


def test_an_ownership_transfer_names_both_and_who_asked() -> None:
    event = {
        "eid": "BE_JOB_REQUEST",
        "object": {"type": "User"},
        "edata": {
            "action": "ownership-transfer",
            "actionBy": {"userId": UUID, "userName": "zaphod"},
            "fromUserProfile": {"userId": "one"},
            "toUserProfile": {"userId": "two", "firstName": "Arthur", "lastName": "Dent", "roles": ["X"]},
            "assetInformation": {"identifier": "do_123", "objectType": "Content"},
        },
    }
    expected = Work("reassign", ("one",), heir="two", assets=("do_123",), actor=UUID, kind="ownership-transfer")
    assert read_event(SHIPPED, TEXTS, event) == expected
    event["edata"]["actionBy"]["userId"] = "zaphod"  # type: ignore[index]
    work = read_event(SHIPPED, TEXTS, event)
    assert work is not None
    # It may be a name, and names do not go into the ledger.
    assert work.actor is None
    event["edata"]["toUserProfile"]["userId"] = "one"  # type: ignore[index]
    with pytest.raises(InvalidMessageError, match="the same"):
        read_event(SHIPPED, TEXTS, event)


@pytest.mark.parametrize("asset", [None, "", " ", [], {}, ["do_1", " "], {"id": "zaphod"}, True, "x" * 300])
def test_a_transfer_that_names_no_asset_hands_over_nothing(asset: Any) -> None:
    event = {
        "eid": "BE_JOB_REQUEST",
        "object": {"type": "User"},
        "edata": {
            "action": "ownership-transfer",
            "fromUserProfile": {"userId": "1"},
            "toUserProfile": {"userId": "2", "firstName": "Arthur", "lastName": "Dent", "roles": ["X"]},
            "assetInformation": {"identifier": asset},
        },
    }
    with pytest.raises(InvalidMessageError, match=r"edata\.assetInformation\.identifier names no asset") as raised:
        read_event(SHIPPED, NUMBERS, event)
    assert "zaphod" not in str(raised.value)


def test_assets_can_be_a_list_and_without_a_path_everything_is_meant(tmp_path: Path) -> None:
    rule = "version: 1\nevents:\n  a: {when: {type: left}, action: reassign, subject: id, heir: to"
    event = {"type": "left", "id": 1, "to": 2, "assets": ["do_1", 7]}
    work = read_event(load(tmp_path, rule + ", asset: assets}"), NUMBERS, event)
    assert work == Work("reassign", (1,), heir=2, assets=("do_1", "7"), kind="a")
    work = read_event(load(tmp_path, rule + "}"), NUMBERS, event)
    assert work == Work("reassign", (1,), heir=2, assets=None, kind="a")


@pytest.mark.parametrize(
    "event",
    [{}, {"eid": "AUDIT"}, {"eid": "BE_JOB_REQUEST"}, {"eid": "BE_JOB_REQUEST", "edata": "delete-user"}, {"edata": []}],
)
def test_events_of_other_kinds_are_passed_over(event: Any) -> None:
    assert read_event(SHIPPED, NUMBERS, event) is None


@pytest.mark.parametrize(
    "body",
    [b"", b"zaphod", b"[1]", b'"zaphod"', b"null", b"\xff", b"[" * 100_000, b"9" * 10_000, b" " * (MAX_BODY_BYTES + 1)],
)
def test_message_that_is_no_json_object_is_invalid(body: bytes) -> None:
    decode = make_json_decoder(SHIPPED, NUMBERS, "body")
    with pytest.raises(InvalidMessageError) as raised:
        decode(Message("jobs", "1-0", {b"body": body}))
    assert "zaphod" not in str(raised.value)


def test_the_field_is_the_one_that_was_set() -> None:
    body = json.dumps(delete_user(7)).encode()
    work = make_json_decoder(SHIPPED, NUMBERS, "body")(Message("jobs", "1-0", {b"body": body}))
    assert work == Work("retire", (7,), kind="delete-user")
    with pytest.raises(InvalidMessageError, match="`event` is missing"):
        make_json_decoder(SHIPPED, NUMBERS, "event")(Message("jobs", "1-0", {b"body": body}))


def test_a_message_does_not_show_its_content() -> None:
    assert "zaphod" not in repr(Message("jobs", "1-0", {b"event": b"zaphod"}))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "empty or not a mapping"),
        ("version: 1\nevents: {}", "at least 1"),
        ("version: 2\nevents: {a: {when: {x: y}, action: retire, subject: id}}", "version"),
        (f"version: 1\nevents:\n  a:\n    {RULE}action: delete", "events.a.action"),
        (f"version: 1\nevents:\n  a:\n    {RULE}action: retire\n    heir: x", "needs `heir`"),
        (f"version: 1\nevents:\n  a:\n    {RULE}action: reassign", "needs `heir`"),
        (f"version: 1\nevents:\n  a:\n    {RULE}action: reassign\n    heir: x\n    also: [y]", "leave `also` out"),
        (f"version: 1\nevents:\n  a:\n    {RULE}action: retire\n    asset: x", "only `reassign` has `asset`"),
        (f"version: 1\nevents:\n  a:\n    {RULE}action: retire\n    als: [y]", "events.a.als"),
        ("version: 1\nevents:\n  a: {when: {}, action: retire, subject: id}", "events.a.when"),
        ("version: 1\nevents:\n  a: {when: {x: y}, action: retire, subject: id..x}", "key.key.key"),
        (
            f"version: 1\nevents:\n  a:\n    {RULE}action: retire\n  a:\n    {RULE}action: sync",
            "line 7: a is written twice",
        ),
        ("version: [", "not valid YAML"),
    ],
)
def test_a_wrong_mapping_is_refused_by_its_line(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(MapError, match=problem):
        load(tmp_path, text)


def test_a_mapping_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MapError, match="ASPECTS_EVENT_MAP"):
        load_event_map(tmp_path / "absent.yaml")


def test_the_first_rule_that_fits_is_applied(tmp_path: Path) -> None:
    event_map = load(
        tmp_path,
        f"version: 1\nevents:\n  copy:\n    {RULE}action: sync\n  other:\n    {RULE}action: retire\n"
        "  flag:\n    when: {old: true}\n    action: retire\n    subject: id\n",
    )
    assert read_event(event_map, NUMBERS, {"type": "closed", "account": {"id": 5}}) == Work("sync", (5,), kind="copy")
    assert read_event(event_map, NUMBERS, {"old": True, "id": 6}) == Work("retire", (6,), kind="flag")
    assert read_event(event_map, NUMBERS, {"old": 1, "id": 6}) is None


EVENT = "b73cffd4-eb94-11f1-846a-02fc00000001"


def assignment(**changes: Any) -> dict[str, Any]:
    """What openedx-authz sends, in the form of CloudEvents."""
    told = {
        "operation": "created",
        "subject": "user^alice",
        "role": "role^course_admin",
        "scope": "course-v1^course-v1:OpenedX+CS101+2024",
        "actor_id": 5,
    }
    return {
        "type": "org.openedx.authz.role_assignment.created",
        "id": EVENT,
        "time": "2026-11-29T01:32:18.711188+00:00",
        "data": {"role_assignment": told | changes},
    }


def test_a_role_of_openedx_authz_is_known_by_name() -> None:
    work = read_event(SHIPPED, NUMBERS, assignment())
    assert work is not None
    assert work.role is not None
    change = work.role.change
    assert (work.action, work.subjects, work.objects, work.kind) == ("sync", (), ("course_access",), "role-given")
    assert (work.role.username, change.subject, change.operation, change.role) == ("alice", "", "given", "instructor")
    assert (change.scope, change.actor, str(change.event)) == ("course-v1:OpenedX+CS101+2024", "5", EVENT)
    assert change.source == "openedx-authz"
    assert "alice" not in repr(work)


def test_a_role_of_another_sender_is_known_by_id() -> None:
    told = assignment(subject=7, role="staff", scope="course-v1:OpenedX+*", actor_id=None)
    work = read_event(SHIPPED, NUMBERS, told | {"type": "org.openedx.authz.role_assignment.deleted"})
    assert work is not None
    assert work.role is not None
    change = work.role.change
    assert (work.subjects, change.subject, change.operation, change.role) == ((7,), "7", "taken", "staff")
    assert (change.scope, change.done_by, change.source) == ("course-v1:OpenedX+*", "unknown", "other")


@pytest.mark.parametrize(
    "changes",
    [{"subject": "alice"}, {"subject": "team^alice"}, {"role": None}, {"role": "Alice Admin"}, {"scope": "alice"}],
)
def test_a_role_that_cannot_be_right_is_invalid_and_not_quoted(changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidMessageError) as raised:
        read_event(SHIPPED, NUMBERS, assignment(**changes))
    assert raised.value.kind == "role-given"
    assert "lice" not in str(raised.value)


@pytest.mark.parametrize(
    "rule",
    [
        RULE + "action: role",
        RULE + "action: sync\n    change: given",
        RULE + "action: role\n    change: changed\n    role: r\n    scope: s\n    event: e\n    at: a",
        RULE + "action: role\n    also: [x]\n    change: given\n    role: r\n    scope: s\n    event: e\n    at: a",
    ],
)
def test_a_rule_for_roles_is_whole(tmp_path: Path, rule: str) -> None:
    with pytest.raises(MapError):
        load(tmp_path, f"version: 1\nevents:\n  one:\n    {rule}\n")
