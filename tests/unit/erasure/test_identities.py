"""Which keys a rule finds a subject's rows by, and how they are kept apart from those of others."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest

from sink.erasure.identities import Identities, list_keys
from sink.pii_map import Rule


def rule(template: str) -> Rule:
    return Rule(match={"who": template}, on_retire={"delete": True})  # type: ignore[arg-type]


def called(**names: list[str]) -> Identities:
    """Subjects with their addresses, such as `_1=["a@example.com"]`."""
    return Identities({name.strip("_"): {"email": frozenset(values)} for name, values in names.items()})


def sha1(text: str) -> str:
    return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


def test_addresses_that_differ_in_case_are_each_their_owners() -> None:
    identities = called(_1=["Zoe@example.com"], _2=["zoe@example.com"])
    for subjects in ([1, 2], [2, 1]):
        keys = list_keys(rule("mailto:{email}"), subjects, identities)
        assert keys == {"mailto:Zoe@example.com": "1", "mailto:zoe@example.com": "2"}
        hashed = list_keys(rule("sha1:{email}"), subjects, identities)
        assert hashed == {sha1("Zoe@example.com"): "1", sha1("zoe@example.com"): "2"}


def test_an_address_that_two_had_one_after_the_other_is_the_firsts() -> None:
    identities = called(_1=["desk@example.com"], _2=["desk@example.com", "bob@example.com"])
    assert list_keys(rule("{email}"), [1, 2], identities) == {"desk@example.com": "1", "bob@example.com": "2"}


def test_what_is_contested_is_nobodys_key() -> None:
    identities = replace(
        called(_1=["desk@example.com", "ann@example.com"]), contested={"email": frozenset(["desk@example.com"])}
    )
    assert list_keys(rule("{email}"), [1], identities) == {"ann@example.com": "1"}
    assert identities.find_contested([1, 2]) == [1]
    assert len(list_keys(rule("{email}"), [1], identities.with_contested())) == 2


def test_what_is_recognised_is_a_key_unless_it_is_contested() -> None:
    template = "sha1:mailto:{email}"
    identities = Identities(recognised={template: {"aa": "1", "bb": "2", "cc": "1"}}, contested_keys=frozenset(["cc"]))
    assert list_keys(rule(template), [1], identities) == {"aa": "1"}
    assert list_keys(rule("mailto:{email}"), [1], identities) == {}
    assert identities.find_contested([1, 2]) == [1]


def test_nobody_is_shown() -> None:
    identities = called(_1=["ann@example.com"])
    shown = repr(replace(identities, contested={"email": frozenset(["ann@example.com"])}))
    assert "ann" not in shown


@pytest.mark.parametrize(
    ("template", "affixes", "label"),
    [
        ("email", ("", ""), "email"),
        ("mailto:{email}", ("mailto:", ""), "email"),
        ("<{email}>", ("<", ">"), "email"),
        ("sha1:mailto:{email}", None, "sha1:mailto:{email}"),
        ("{username}/{email}", None, "{username}/{email}"),
    ],
)
def test_what_stands_around_a_name(template: str, affixes: tuple[str, str] | None, label: str) -> None:
    assert (rule(template).affixes, rule(template).label) == (affixes, label)
