"""What the manifest and the page say of the processing: all that the map says of a target, and nothing of how it is erased."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from sink.pii_map import PiiMap
from sink.rights.manifest import Column, Contents, Part, compose, describe_processing
from sink.rights.page import render
from sink.rights.words import Language

TARGET: dict[str, Any] = {
    "match": {"user_id": "id"},
    "pii": {"user_id": "id"},
    "on_retire": "delete",
    "optional": True,
    "purpose": "Helping learners <who> fall behind.",
    "recipients": ["course staff", "the data office"],
    "retention": {"days": 30, "column": "dumped_at"},
}
PII_MAP = PiiMap.model_validate(
    {"version": 1, "subject": {}, "targets": {"a.b": TARGET, "a.c": {**TARGET, "purpose": None}}}
)


def make_contents(language: str) -> Contents:
    processing = describe_processing(PII_MAP, "a.b")
    part = Part("a.b", "rows", "", processing, ["user_id: id"], [Column("user_id", "Int64", "id", "")], 0, [])
    now = datetime(2026, 1, 2, tzinfo=UTC)
    return Contents("5", "x", now, now, language, None, None, False, True, True, [part])


def test_the_manifest_has_all_that_the_map_says_of_the_processing() -> None:
    (part,) = compose(make_contents("en"), [])["parts"]
    said = part["processing"]
    assert (said["purpose"], said["recipients"]) == (TARGET["purpose"], TARGET["recipients"])
    assert (said["retention"]["days"], said["retention"]["column"]) == (30, "dumped_at")
    assert not {"pii", "rules", "optional", "keep", "legal_basis"} & set(said)
    assert "purpose" not in describe_processing(PII_MAP, "a.c")
    assert describe_processing(PII_MAP, "pii_ledger.role_changes") == {}


@pytest.mark.parametrize(
    ("language", "expected"),
    [
        (Language.ENGLISH, ["<dt>Purpose</dt>", "course staff, the data office", "days: 30; counted from: dumped_at"]),
        (
            Language.SPANISH,
            ["<dt>Finalidad</dt>", "course staff, the data office", "días: 30; contados desde: dumped_at"],
        ),
    ],
)
def test_so_does_the_page(language: str, expected: list[str]) -> None:
    page = b"".join(render(make_contents(language))).decode()
    assert [text for text in expected if text not in page] == []
    assert "learners &lt;who&gt; fall" in page
