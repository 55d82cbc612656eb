"""Whatever stands around a person in a text, and however it is written: the person goes, and every other byte stays."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from hypothesis import example, given, settings
from hypothesis import strategies as st

from sink.erasure.candidates import express_candidates, list_search_patterns
from sink.erasure.people import People, Person
from sink.erasure.statements import anonymise_statement
from tests.support.statements import ADDRESS, AGENTS, DIGEST, IBEX, OTHERS, PSEUDONYM, TEXTS, ZOE, sha1

# Who is found by an anonymous id alone is not searched for.
SEARCHED = Person(PSEUDONYM, ZOE.addresses, ZOE.usernames, ZOE.full_names)
PEOPLE = People([SEARCHED])
_, BOUND = express_candidates("text", list_search_patterns(SEARCHED))
PATTERNS = [re.compile(pattern) for patterns in BOUND.values() for pattern in patterns]

Piece = tuple[bytes, bytes]
"""What a part of a text is, and what it has to become."""


def same(text: bytes) -> Piece:
    return text, text


def join(pieces: Sequence[Piece]) -> Piece:
    return b"".join(before for before, _ in pieces), b"".join(after for _, after in pieces)


def wrap(start: bytes, pieces: Sequence[Piece], end: bytes) -> Piece:
    return join(
        [
            same(start),
            join([join([same(b",") if at else same(b""), piece]) for at, piece in enumerate(pieces)]),
            same(end),
        ]
    )


@st.composite
def spell(draw: st.DrawFn, text: str) -> bytes:
    """A text inside a JSON string, each character plain, escaped, or with a percent sign."""
    parts = []
    for character in text:
        case = draw(st.sampled_from([character.lower(), character.upper(), character]))
        ways = [
            case,
            case,
            f"\\u{ord(case):04x}",
            f"\\u{ord(case):04X}",
            f"%{ord(case):02x}",
            f"\\u0025{ord(case):02X}",
        ]
        parts.append(draw(st.sampled_from(ways)))
    return "".join(parts).encode()


@st.composite
def mention(draw: st.DrawFn) -> Piece:
    """A string in which the person is named between words of others."""
    name, new = draw(
        st.sampled_from([(ADDRESS, PSEUDONYM), ("quetzal@old.example.org", PSEUDONYM), (sha1(ADDRESS), DIGEST)])
    )
    before = draw(
        st.sampled_from([b"", b" ", b"M\xe9 ", b"\\n", b"\\ud800", b"\xed\xa0\x80<", b"to:", b"ibex@mail.example.org,"])
    )
    after = draw(
        st.sampled_from([b"", b" ", b".", b"\\t\\\\", b"\xff", b">,", b"\\u0020", b"%20", b" ibex@mail.example.org"])
    )
    return join([same(b'"' + before), (draw(spell(name)), new.encode()), same(after + b'"')])


@st.composite
def agent(draw: st.DrawFn) -> Piece:
    before, after = AGENTS[draw(st.sampled_from([name for name in AGENTS if "anonymous" not in name]))]
    indent, ascii_only = draw(st.sampled_from([None, 1])), draw(st.booleans())
    old, new = (json.dumps(value, indent=indent, ensure_ascii=ascii_only).encode() for value in (before, after))
    return old, new


@st.composite
def text_of(draw: st.DrawFn) -> Piece:
    before, after = TEXTS[draw(st.sampled_from(sorted(TEXTS)))]
    return json.dumps(before).encode(), json.dumps(after).encode()


ODD = [
    b"NaN",
    b"-Infinity",
    b"1e400",
    b"1.50",
    b"true",
    b"null",
    b'"\\ud800"',
    b'"M\xe9xico"',
    b'"\\x"',
    b'"zoe_q"',
    b"{}",
]
ODD += [b"[" * 2_000 + b"]" * 2_000, b'"' + PSEUDONYM.encode() + b'"', b'"%"', b'"@"', b'"zoe_q@mail.example.org"']
OTHER_PEOPLE = [json.dumps(text).encode() for text in OTHERS.values()] + [json.dumps(IBEX).encode()]
KEYS = [b'"a"', b'"name"', b'"actor"', b'"member"', b'"M\xe9"', b'"\\ud800"', b'"id"', b'"homePage"', b'"zoe_q"']
LEAVES = st.sampled_from([*ODD, *OTHER_PEOPLE]).map(same) | mention() | agent() | text_of()


def objects(inner: st.SearchStrategy[Piece]) -> st.SearchStrategy[Piece]:
    member = st.tuples(st.sampled_from(KEYS).map(lambda key: same(key + b" :\t")), inner).map(join)
    return st.lists(member, max_size=3).map(lambda members: wrap(b"{ ", members, b"\n}"))


DOCUMENTS = st.recursive(
    LEAVES,
    lambda inner: objects(inner) | st.lists(inner, max_size=3).map(lambda elements: wrap(b"[", elements, b" ]")),
    max_leaves=8,
)


def is_candidate(text: bytes) -> bool:
    """What the condition says, as far as Python's regular expressions are like the engine's."""
    valid = text.lower().decode("utf-8", "replace")
    return any(pattern.search(valid) for pattern in PATTERNS)


@settings(max_examples=150)
@given(st.lists(DOCUMENTS, min_size=1, max_size=3), st.sampled_from([b"", b"\xef\xbb\xbf", b" \r\n"]))
def test_the_person_goes_and_every_other_byte_stays(documents: list[Piece], begin: bytes) -> None:
    before, after = join([same(begin), *(join([document, same(b"\n")]) for document in documents)])
    changed = anonymise_statement(before, PEOPLE)
    assert (changed.text if changed else before) == after
    assert changed is None or not changed.was_text
    assert anonymise_statement(after, PEOPLE) is None
    assert before == after or is_candidate(before)


@settings(max_examples=150)
@given(DOCUMENTS, st.lists(st.tuples(st.integers(0, 400), st.binary(max_size=3) | st.none()), max_size=3))
@example((b'"zoe_q', b""), [])
@example((b'{"username": "zoe_q', b""), [])
def test_a_text_that_is_broken_in_any_way_is_read(document: Piece, faults: list[tuple[int, bytes | None]]) -> None:
    text = document[0]
    for at, new in faults:
        text = text[:at] if new is None else text[:at] + new + text[at + 1 :]
    changed = anonymise_statement(text, PEOPLE)
    if changed:
        assert is_candidate(text)
        assert anonymise_statement(changed.text, PEOPLE) is None


@settings(max_examples=150)
@given(
    st.lists(
        st.sampled_from(
            [*(bytes([byte]) for byte in b'{}[],:"\\u0 1a@%\n'), b"quetzal@old.example.org", b"\xff", b'"mbox":']
        )
    )
)
def test_no_text_makes_it_fail_or_keeps_an_address(tokens: list[bytes]) -> None:
    text = b"".join(tokens)
    changed = anonymise_statement(text, PEOPLE)
    assert changed is None or (is_candidate(text) and anonymise_statement(changed.text, PEOPLE) is None)
    if b" quetzal@old.example.org " in text:
        assert changed
        assert b" quetzal@old.example.org " not in changed.text
