"""What a receipt says that stays, by the map."""

from __future__ import annotations

from typing import Any

from sink.erasure.stays import StayLine, list_stays
from sink.pii_map import PiiMap


def make_map(**rule: Any) -> PiiMap:
    target = {"pii": {"email": "email_address", "doc.name": "name"}, **rule}
    return PiiMap.model_validate({"version": 1, "subject": {}, "targets": {"a.b": target}})


def stays(redact_history: bool = False, **rule: Any) -> list[StayLine]:
    return list_stays(make_map(**rule), {"a.b": "here.b"}, redact_history=redact_history)


MATCH = {"user_id": "id"}


def test_what_is_deleted_does_not_stay() -> None:
    assert stays(match=MATCH, on_retire="delete") == []


def test_what_no_rule_touches_stays() -> None:
    (line,) = stays(match=MATCH, on_retire={"redact": {"email": "empty"}})
    assert (line.target, line.columns) == ("here.b", ["doc.name"])


def test_what_is_retained_stays_for_the_reason_of_the_map() -> None:
    (line,) = stays(match=MATCH, on_retire={"retain": "The tax law."})
    assert (line.columns, line.reason) == (["email", "doc.name"], "The tax law.")


def test_a_rule_that_is_off_touches_nothing() -> None:
    rule: dict[str, Any] = {
        "match": MATCH,
        "on_retire": {"redact": {"email": "empty", "doc.name": "empty"}, "when": "redact_history"},
    }
    assert "ASPECTS_REDACT_HISTORY is off" in stays(**rule)[0].reason
    assert stays(redact_history=True, **rule) == []
