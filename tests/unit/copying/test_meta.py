"""What is stored of the profile's `meta`."""

from __future__ import annotations

import pytest

from sink.copying.meta import explain_keep, pick, split_keep


@pytest.mark.parametrize(
    ("meta", "stored"),
    [
        ('{"session_id": "abc", "company": "Acme"}', '{"company": "Acme"}'),
        ('{"company": ["\\u00e9", 1.5], "a team\'s": null}', '{"a team\'s": null, "company": ["\\u00e9", 1.5]}'),
        ('{"company": "\\ud800"}', '{"company": "\\ud800"}'),
        ('{"old_names": [["Old Name", "", "2026-01-01"]]}', ""),
        ('["company"]', ""),
        ("company: Acme", ""),
        ("[" * 100_000, ""),
        ("", ""),
    ],
)
def test_the_keys_that_are_kept_are_stored_and_nothing_else(meta: str, stored: str) -> None:
    assert pick(meta, ("company", "a team's")) == stored


def test_what_is_kept_is_stored_alike_in_whatever_order_it_comes() -> None:
    assert pick('{"b": 1, "a": 2}', ("b", "a")) == pick('{"a": 2,"b":1}', ("a", "b")) == '{"a": 2, "b": 1}'


def test_a_key_may_have_a_dot_and_is_kept_once() -> None:
    assert split_keep(["name", "meta.b.c", "city", "meta.a", "meta.a"]) == (["name", "meta", "city"], ("a", "b.c"))


@pytest.mark.parametrize("entry", ["meta", "meta.", "meta.session_id"])
def test_the_whole_of_it_and_the_session_cannot_be_kept(entry: str) -> None:
    assert explain_keep(["name", "meta.company"]) is None
    assert explain_keep(["name", "meta.company", entry]) is not None
