"""Statements about an invented person, in every way that the rules of erasure speak of, and about others."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from sink.erasure.people import Person

ADDRESS = "Zoe.Quetzal+x@mail.example.org"
PSEUDONYM = "0123456789abcdef0123456789abcdef"
MAILTO = f"mailto:{PSEUDONYM}@retired.invalid"
DIGEST = PSEUDONYM + PSEUDONYM[:8]
ZOE = Person(
    PSEUDONYM,
    addresses=frozenset([ADDRESS, "quetzal@old.example.org", " "]),
    usernames=frozenset(["zoe_q", ""]),
    full_names=frozenset(["Zoe Quetzal-Canary", ""]),
    anonymous_ids=frozenset(["3f1c0d8e-0000-4000-8000-00000000001a"]),
)
IBEX = {"objectType": "Agent", "mbox": "mailto:ibex@mail.example.org", "name": "Canary-Ibex"}
HOME = "https://lms.example.org"


def sha1(address: str) -> str:
    """What xAPI calls `mbox_sha1sum`."""
    return hashlib.sha1(f"mailto:{address}".encode()).hexdigest()


AGENTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "mbox": ({"mbox": f"mailto:{ADDRESS}"}, {"mbox": MAILTO}),
    "a former address": ({"mbox": "mailto:quetzal@old.example.org"}, {"mbox": MAILTO}),
    "another case": ({"mbox": f"MAILTO:{ADDRESS.upper()}"}, {"mbox": MAILTO}),
    "blanks": ({"mbox": f"  mailto: {ADDRESS}\n"}, {"mbox": MAILTO}),
    "percent signs": ({"mbox": "mailto:zoe.quetzal%2Bx%40mail.example.org"}, {"mbox": MAILTO}),
    "percent signs everywhere": ({"mbox": "mailto%3A%7A%6fe.quetzal%2bx%40mail%2Eexample.org"}, {"mbox": MAILTO}),
    "a name before the address": ({"mbox": f"mailto:Zoe Q. <{ADDRESS}>"}, {"mbox": MAILTO}),
    "a subject after the address": ({"mbox": f"mailto:{ADDRESS}?subject=hi"}, {"mbox": MAILTO}),
    "no scheme": ({"mbox": ADDRESS}, {"mbox": PSEUDONYM}),
    "a digest": ({"mbox_sha1sum": sha1(ADDRESS)}, {"mbox_sha1sum": DIGEST}),
    "a digest of lower case": ({"mbox_sha1sum": sha1(ADDRESS.lower())}, {"mbox_sha1sum": DIGEST}),
    "a digest in capitals": ({"mbox_sha1sum": sha1(ADDRESS).upper()}, {"mbox_sha1sum": DIGEST}),
    "an account by user name": (
        {"account": {"homePage": HOME, "name": "zoe_q"}},
        {"account": {"homePage": HOME, "name": PSEUDONYM}},
    ),
    "an account by address": ({"account": {"name": ADDRESS}}, {"account": {"name": PSEUDONYM}}),
    "an OpenID": ({"openid": "zoe_q"}, {"openid": PSEUDONYM}),
    "a name": ({"mbox": f"mailto:{ADDRESS}", "name": "Whatever"}, {"mbox": MAILTO, "name": "Deleted User"}),
    "a second identifier that nobody knew": (
        {"mbox": f"mailto:{ADDRESS}", "account": {"name": "somebody"}, "mbox_sha1sum": "a" * 40, "openid": "https://a"},
        {"mbox": MAILTO, "account": {"name": PSEUDONYM}, "mbox_sha1sum": DIGEST, "openid": PSEUDONYM},
    ),
    "lists, as xAPI 0.9 had them": (
        {"mbox": ["mailto:z@unknown.example.org", f"mailto:{ADDRESS}"], "name": ["Zoe"], "givenName": ["Zoe"]},
        {"mbox": [MAILTO, MAILTO], "name": ["Deleted User"], "givenName": ["Deleted User"]},
    ),
    "an anonymous account with a name": (
        {"account": {"name": "3f1c0d8e-0000-4000-8000-00000000001a"}, "name": "Zoe Quetzal-Canary"},
        {"account": {"name": "3f1c0d8e-0000-4000-8000-00000000001a"}, "name": "Deleted User"},
    ),
}

TEXTS = {
    "an address": (ADDRESS, PSEUDONYM),
    "a mailto": (f"mailto:{ADDRESS}", MAILTO),
    "a mailto in a sentence": (f"see MAILTO:{ADDRESS.lower()}.", f"see {MAILTO}."),
    "a sentence": (f"Ask {ADDRESS}, or <{ADDRESS.upper()}>.", f"Ask {PSEUDONYM}, or <{PSEUDONYM}>."),
    "a full name and an address": (f"Zoe Quetzal-Canary <{ADDRESS}>", f"Deleted User <{PSEUDONYM}>"),
    "quotes": (f"b'{ADDRESS}'", f"b'{PSEUDONYM}'"),
    "dots": (f"me...{ADDRESS}...", f"me...{PSEUDONYM}..."),
    "a script without blanks": (f"邮箱{ADDRESS}联系", f"邮箱{PSEUDONYM}联系"),
    "a new line before": (f"x\n{ADDRESS}\n", f"x\n{PSEUDONYM}\n"),
    "a URL": ("https://a/?e=Zoe.Quetzal%2Bx%40mail.example.org&b=1", f"https://a/?e={PSEUDONYM}&b=1"),
    "a URL in a URL": ("?u=%3Fe%3Dzoe.quetzal%252Bx%2540mail.example.org%26", f"?u=%3Fe%3D{PSEUDONYM}%26"),
    "an address and more, encoded": (f"{ADDRESS}%2Cb", f"{PSEUDONYM}%2Cb"),
    "a digest": (f"sum {sha1(ADDRESS)}!", f"sum {DIGEST}!"),
    "JSON in JSON": (
        json.dumps({"email": f"\n{ADDRESS}", "b": "\\"}).replace("@", "\\u0040"),
        json.dumps({"email": f"\n{PSEUDONYM}", "b": "\\"}),
    ),
}
"""What a string anywhere in a statement says of the person, and what it says afterwards."""

OTHERS = {
    "another address that ends alike": f"a{ADDRESS} b.{ADDRESS} c-{ADDRESS} _{ADDRESS} o'{ADDRESS}",
    "another address that begins alike": f"{ADDRESS}.au {ADDRESS}-b {ADDRESS}x {ADDRESS}%2eau",
    "another address that ends alike, encoded": "%62zoe.quetzal%2Bx%40mail.example.org",
    "a user name in a sentence": "zoe_q wrote to zoe_q@other.example.org",
    "a full name in a sentence": "Zoe Quetzal-Canary",
    "the person's domain": "@mail.example.org",
    "another digest": sha1(ADDRESS)[:39] + " a" + sha1(ADDRESS) + " " + sha1("ibex@mail.example.org"),
    "a domain's user": f"CORP\\b{ADDRESS}",
}
"""What a string says of somebody else, or of nobody."""


def place_agent(place: str, agent: dict[str, Any]) -> dict[str, Any]:
    """A statement in which an agent stands at a place, among others."""
    course = {"id": f"{HOME}/course/course-v1:A+B+C", "definition": {"name": {"en": "Zoe"}}}
    statement: dict[str, Any] = {"actor": dict(IBEX), "verb": {"id": "http://v"}, "object": course, "context": {}}
    holder = statement
    *path, last = place.split(".")
    for key in path:
        holder = holder.setdefault(key, {})
        if key == "object":
            holder.update(objectType="SubStatement", actor=dict(IBEX))
    holder[last] = [IBEX, agent] if last == "member" else agent
    return statement


PLACES = [
    *("actor", "actor.member", "object", "context.instructor", "context.team", "context.team.member", "authority"),
    *("object.actor", "object.context.instructor", "context.extensions.http://x/who"),
]
