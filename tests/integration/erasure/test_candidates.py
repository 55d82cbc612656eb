"""The condition that finds rows about people misses none that would change, on the real engine."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable

from sink.erasure.candidates import express_candidates, list_search_patterns
from sink.erasure.people import People, Person
from sink.erasure.statements import anonymise_statement
from sink.store import Store
from tests.support.statements import ADDRESS, AGENTS, IBEX, OTHERS, PLACES, TEXTS, ZOE, place_agent

ESCAPED_ALL = "".join(f"\\u{ord(character):04x}" for character in f"mailto:{ADDRESS}")
PERCENT_ALL = "".join(f"%{ord(character):02X}" for character in ADDRESS)
RAW = [
    b'{"mbox": "mailto:quetzal@old.example.org", "x": NaN, "y": "\\ud800"}',
    b'\xef\xbb\xbf{"M\xe9": "QUETZAL@OLD.EXAMPLE.ORG"}\n{}',
    b"'quetzal@old.example.org \xff",
    b'{"actor": {"mbox": "mailto:quetzal@old.example.org", "name": "Zoe',
    f'{{"mbox": "{ESCAPED_ALL}"}}'.encode(),
    f'{{"r": "{PERCENT_ALL}"}}'.encode(),
    rb'{"r": "zoe\u002equetzal\u002bx\u0040mail.example.org"}',
    rb'{"username": "zoe\u005fq"}',
]
UNUSUAL = Person(
    "f" * 32,
    addresses=frozenset(
        ["Zoë.Ocelot@exämple.org", "o'hara/x+{y}=z@mail.example.org", "ÉÈ@x.example.org", "用户@例子.公司"]
    ),
    usernames=frozenset(["zoë's", 'q"x\\y', "zo\0ë"]),
)
UNUSUAL_WORDS = [
    *UNUSUAL.addresses,
    "zoË.ocelot@EXÄMPLE.org",
    "éè@x.example.org",
    "zo%C3%AB.ocelot%40ex%C3%A4mple.org",
    "o%27hara%2Fx%2B%7By%7D%3Dz@mail.example.org",
    "o%2527hara/x+{y}=z@mail.example.org",
    json.dumps({"ÉÈ@x.example.org": 1}),
]
UNUSUAL_VALUES = [{"r": word} for word in UNUSUAL_WORDS] + [{"user": name} for name in UNUSUAL.usernames]
UNUSUAL_TEXTS = [
    json.dumps(value, ensure_ascii=ascii_only).replace("/", slash).encode()
    for value, ascii_only, slash in itertools.product(UNUSUAL_VALUES, (True, False), ("/", "\\/"))
]


def list_statements() -> Iterable[bytes]:
    for place in PLACES:
        for agent, _ in AGENTS.values():
            yield json.dumps(place_agent(place, agent)).encode()
    for text, _ in TEXTS.values():
        yield json.dumps({"actor": IBEX, "r": text}).encode()
        yield json.dumps({text: 1}, ensure_ascii=False).encode()
        yield f"garbage {text}".encode()
    yield from RAW
    yield from UNUSUAL_TEXTS


def find(store: Store, texts: list[bytes], persons: Iterable[Person]) -> set[int]:
    """The numbers of the texts that the condition finds in a column that is not UTF-8."""
    store.client.execute("CREATE TABLE $xapi.texts (n UInt32, text Nullable(String)) ENGINE = MergeTree ORDER BY n")
    rows = [(number, text.hex()) for number, text in enumerate(texts)]
    store.client.execute("CREATE TABLE $xapi.hexes (n UInt32, text String) ENGINE = Memory")
    store.client.insert(store.client.table("xapi.hexes"), ["n", "text"], rows)
    store.client.execute("INSERT INTO $xapi.texts SELECT n, unhex(text) FROM $xapi.hexes")
    store.client.execute("INSERT INTO $xapi.texts VALUES (1000000, NULL)")
    patterns = [pattern for person in persons for pattern in list_search_patterns(person)]
    condition, bound = express_candidates("text", patterns)
    return {int(n) for (n,) in store.client.rows(f"SELECT n FROM $xapi.texts WHERE {condition}", None, **bound)}


def test_every_text_that_would_change_is_found(store: Store) -> None:
    people = People([ZOE, UNUSUAL])
    texts = list(list_statements())
    changing = {number for number, text in enumerate(texts) if anonymise_statement(text, people)}
    assert len(changing) == len(texts), "a sample says nothing of anybody"
    found = find(store, texts, [ZOE, UNUSUAL])
    assert [texts[number] for number in changing - found] == []


def test_texts_about_others_are_mostly_not_found(store: Store) -> None:
    about_others = [json.dumps({"actor": IBEX, "r": text}).encode() for text in OTHERS.values()]
    about_others += [
        json.dumps(
            {"actor": {"mbox": f"mailto:person{n}@mail.example.org"}, "id": f"https://a/course-v1%3AA%2BB{n}"}
        ).encode()
        for n in range(200)
    ]
    found = find(store, about_others, [ZOE, UNUSUAL])
    assert not {number for number in found if number >= len(OTHERS)}


def test_more_people_than_one_search_takes(store: Store) -> None:
    persons = [
        Person(f"{n:032x}", frozenset([f"person{n}@mail.example.org"]), frozenset([f"p{n}"])) for n in range(400)
    ]
    texts = [json.dumps({"mbox": f"mailto:person{n}@mail.example.org"}).encode() for n in (0, 250, 399, 400)]
    assert find(store, texts, persons) == {0, 1, 2}


def test_of_whom_nothing_is_known_nothing_is_found(store: Store) -> None:
    assert list_search_patterns(Person("0" * 32, frozenset(["", " "]), frozenset([""]))) == []
    assert find(store, [b"{}", b""], [Person("0" * 32)]) == set()
