"""All that a statement says of a person goes, and nothing else of it changes, whoever wrote it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sink.erasure.people import People, Person
from sink.erasure.statements import anonymise_statement
from tests.support.statements import (
    ADDRESS,
    AGENTS,
    DIGEST,
    IBEX,
    MAILTO,
    OTHERS,
    PLACES,
    PSEUDONYM,
    TEXTS,
    ZOE,
    place_agent,
    sha1,
)

PEOPLE = People([ZOE])


def anonymise(text: bytes) -> bytes:
    changed = anonymise_statement(text, PEOPLE)
    assert changed, "the person was not found"
    assert anonymise_statement(changed.text, PEOPLE) is None, "done again it changes more"
    return changed.text


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(("before", "after"), AGENTS.values(), ids=AGENTS.keys())
def test_an_agent_who_is_the_person_is_nobody_afterwards(
    place: str, before: dict[str, Any], after: dict[str, Any]
) -> None:
    text = json.dumps(place_agent(place, before), indent=1)
    assert anonymise(text.encode()) == json.dumps(place_agent(place, after), indent=1).encode()


@pytest.mark.parametrize(("before", "after"), TEXTS.values(), ids=TEXTS.keys())
@pytest.mark.parametrize("ascii_only", [True, False])
def test_an_address_goes_wherever_it_stands(before: str, after: str, ascii_only: bool) -> None:
    def statement(text: str) -> bytes:
        value = {"actor": IBEX, "result": {"response": text, "extensions": {"http://x": [1.50, text]}}, text: None}
        return json.dumps(value, ensure_ascii=ascii_only).encode()

    assert anonymise(statement(before)) == statement(after)


@pytest.mark.parametrize("text", OTHERS.values(), ids=OTHERS.keys())
def test_other_people_stay(text: str) -> None:
    agent = {"mbox": f"mailto:{text}", "name": text, "account": {"homePage": "zoe_q", "name": text}, "openid": text}
    statement = json.dumps({"actor": agent, "result": {"response": text, "username": text}, "name": "zoe_q"})
    assert anonymise_statement(statement.encode(), PEOPLE) is None


@pytest.mark.parametrize("key", ["username", "user", "user_name", "http://x/extensions/username", "preferredUsername"])
def test_a_user_name_goes_under_a_key_that_names_a_user(key: str) -> None:
    assert anonymise(json.dumps({key: "zoe_q"}).encode()) == json.dumps({key: PSEUDONYM}).encode()
    assert anonymise_statement(json.dumps({key: "zoe_q2"}).encode(), PEOPLE) is None


def test_a_user_name_stays_under_any_other_key() -> None:
    text = b'{"name": "zoe_q", "title": "zoe_q", "superuser": "zoe_q", "account": {"homePage": "zoe_q"}}'
    assert anonymise_statement(text, PEOPLE) is None


ODD = {
    "escapes": rb'{"mbox": "\u006daIlto:Zoe.Quetzal\u002bx\u0040mail.example\u002Eorg"}',
    "NaN and numbers": b'{"n": [NaN, -Infinity, 1e400, 1.50], "mbox": "mailto:quetzal@old.example.org"}',
    "a lone surrogate": b'{"s": "\\ud800", "mbox": "mailto:quetzal@old.example.org"}',
    "bad bytes": b'{"M\xe9": "\xed\xa0\x80", "mbox": "mailto:quetzal@old.example.org"}',
    "a BOM and blanks": b'\xef\xbb\xbf \n{ "mbox"\t:"mailto:quetzal@old.example.org" }\r\n\n',
    "JSON lines": b'{"a": 1}\n{"mbox": "mailto:quetzal@old.example.org"}\n{"a": 2}\n',
    "repeated keys": b'{"a": 1, "a": 2, "mbox": "mailto:quetzal@old.example.org", "a": 3}',
    "depth": b'{"x": ' + b"[" * 20_000 + b'{"mbox": "mailto:quetzal@old.example.org"}' + b"]" * 20_000 + b"}",
    "wide depth": b'["",' * 5_000 + b'{"mbox": "mailto:quetzal@old.example.org"}' + b"]" * 5_000,
}


@pytest.mark.parametrize("text", ODD.values(), ids=ODD.keys())
def test_whoever_wrote_it_nothing_else_changes(text: bytes) -> None:
    start = text.index(b'"', text.index(b'"mbox"') + 6)
    end = text.index(b'"', start + 1) + 1
    assert anonymise(text) == text[:start] + f'"{MAILTO}"'.encode() + text[end:]
    changed = anonymise_statement(text, PEOPLE)
    assert changed
    assert not changed.was_text


def test_a_second_key_of_the_same_name_goes_too() -> None:
    text = f'{{"mbox": "mailto:{ADDRESS}", "name": "Zoe", "mbox": "mailto:z@unknown.example.org", "name": "Z"}}'
    after = f'{{"mbox": "{MAILTO}", "name": "Deleted User", "mbox": "{MAILTO}", "name": "Deleted User"}}'
    assert anonymise(text.encode()) == after.encode()


NO_JSON = {
    "cut off": (
        b'{"actor": {"mbox": "mailto:quetzal@old.example.org", "name": "Zoe", "x": [1, "quetzal@old.exam',
        b'{"actor": {"mbox": "%MAILTO%", "name": "Deleted User", "x": [1, "quetzal@old.exam',
    ),
    "cut off in the name": (
        b'{"actor": {"mbox": "mailto:quetzal@old.example.org", "name": "Zoe Quet',
        b'{"actor": {"mbox": "%MAILTO%", "name": "Deleted User"',
    ),
    "a broken line among others": (
        b'{"mbox": "mailto:quetzal@old.example.org", \xff}\n{"account": {"name": "zoe_q"}, "name": "Zoe"}',
        b'{"mbox": "%MAILTO%", \xff}\n{"account": {"name": "%PSEUDONYM%"}, "name": "Deleted User"}',
    ),
    "Python's repr": (
        b"{'mbox': 'mailto:quetzal@old.example.org'}",
        b"{'mbox': '%MAILTO%'}",
    ),
    "garbage": (
        "\xff é quetzal@old.example.org\x00quetzal%40old.example.org, quetzal\\u0040old.example.org.au".encode(
            "latin-1"
        ),
        "\xff é %PSEUDONYM%\x00%PSEUDONYM%, quetzal\\u0040old.example.org.au".encode("latin-1"),
    ),
    "escapes": (b"x\\nquetzal\\u0040old.example.org\\n", b"x\\n%PSEUDONYM%\\n"),
    "what looks like a value before the address": (b"true quetzal@old.example.org", b"true %PSEUDONYM%"),
    "a digest": (f"sum={sha1('quetzal@old.example.org')}".encode(), f"sum={DIGEST}".encode()),
}


@pytest.mark.parametrize(("before", "after"), NO_JSON.values(), ids=NO_JSON.keys())
def test_what_is_no_json_is_searched_as_text_and_says_so(before: bytes, after: bytes) -> None:
    after = after.replace(b"%MAILTO%", MAILTO.encode()).replace(b"%PSEUDONYM%", PSEUDONYM.encode())
    assert anonymise(before) == after
    changed = anonymise_statement(before, PEOPLE)
    assert changed
    assert changed.was_text


@pytest.mark.parametrize("name", sorted(OTHERS.keys() - {"a domain's user"}))
def test_in_what_is_no_json_others_stay(name: str) -> None:
    assert anonymise_statement(f"garbage: {OTHERS[name]}".encode(), PEOPLE) is None


def test_a_backslash_in_what_is_no_json_is_read_in_both_ways() -> None:
    """Nobody can tell whose address it is: nothing of the person may stay."""
    assert anonymise(f"\\b{ADDRESS}".encode()) == f"\\b{PSEUDONYM}".encode()
    assert anonymise(b"\\quetzal@old.example.org") == f"\\{PSEUDONYM}".encode()


def test_a_string_that_was_read_before_the_fault_is_not_read_in_another_way() -> None:
    assert anonymise_statement(rb'{"a": "CORP\\bquetzal@old.example.org", \xff', PEOPLE) is None


def test_an_address_in_quotes_is_found_in_what_is_no_json() -> None:
    quoted = Person(PSEUDONYM, frozenset(['"zoe q"@x.example.org', '"quetzal@old.example.org"@x.example.org']))
    for text, after in [
        (b'see "zoe q"@x.example.org', f"see {PSEUDONYM}"),
        (b'"quetzal@old.example.org"@x.example.org', f'"{PSEUDONYM}"@x.example.org'),
    ]:
        changed = anonymise_statement(text, People([ZOE, quoted]))
        assert changed
        assert changed.text == after.encode()


def test_each_person_gets_their_own_pseudonym() -> None:
    others = [Person(f"{n:032x}", frozenset([f"person{n}@mail.example.org"])) for n in range(300)]
    people = People([ZOE, *others])
    text = json.dumps({"actor": {"member": [{"mbox": f"mailto:person{n}@mail.example.org"} for n in (7, 250, 300)]}})
    expected = text.replace("person7@mail.example.org", f"{7:032x}@retired.invalid").replace(
        "person250@mail.example.org", f"{250:032x}@retired.invalid"
    )
    changed = anonymise_statement(text.encode(), people)
    assert changed
    assert changed.text == expected.encode()


def test_of_whom_nothing_is_known_nothing_is_changed() -> None:
    nobody = People([Person(PSEUDONYM, frozenset(["", " "]), frozenset([""]), frozenset([""]), frozenset([""]))])
    text = b'{"mbox": "", "name": "", "account": {"name": ""}, "username": "", "openid": " ", "r": " @ <@>"}'
    assert anonymise_statement(text, nobody) is None


def test_a_person_is_not_shown() -> None:
    assert "Quetzal" not in repr(ZOE)
    assert "zoe_q" not in repr(ZOE)
