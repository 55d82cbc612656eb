"""Taking people out of an xAPI statement, or of any other text, and changing nothing else in it.

An agent is somebody's if one of its identifiers is, wherever in the statement it stands: actor, member of a group,
object, instructor, team, authority, in a sub-statement, in an extension. Then all of its identifiers and names go.
Outside of agents go the addresses and their digests, in any text, and user names under keys that name a user. A user
name in a sentence stays: it may be a word. So does a full name: others may have it.

.. pii: Sees events with the people that they are about, in memory only.
.. pii_types: id, name, username, email_address, other
.. pii_retirement: consumer_api
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from sink.erasure.json_nodes import Node, decode_string, read_nodes, unquote
from sink.erasure.json_text import encode_value, splice
from sink.erasure.mentions import find_mentions, replace_mentions
from sink.erasure.people import IDENTIFIERS, People, Person

_NAMES = frozenset(["name", "givenName", "familyName", "firstName", "lastName"])
# Keys of extensions are IRIs, of which this is the last part.
_USERNAME_KEY = re.compile(r"(?:^|[/#.:])(?:user|user_?name|login|preferred_?username)$", re.IGNORECASE)
# Without one of these a string holds no address, and nothing that is encoded.
_MAY_MENTION = re.compile(rb"[@%\\]")
_SHORTEST_DIGEST = 40

Edit = tuple[int, int, bytes]
Role = tuple[int, str]

_NOWHERE: Role = (-1, "")


class Anonymised(NamedTuple):
    """A text without the people."""

    text: bytes
    was_text: bool
    """True where it is no JSON: addresses and digests are gone, but a name next to one may have been left."""


def anonymise_statement(text: bytes, people: People) -> Anonymised | None:
    """Replace all that a text says of `people`; None where it says nothing. No text makes it fail.

    The same person gets the same pseudonym everywhere; done again it changes nothing more. It cannot tell an address
    that the end of a text cut in two.
    """
    nodes, is_json = read_nodes(text)
    statement = _Statement(text, nodes, people)
    edits = list(statement.list_edits())
    if not is_json:
        edits = sorted([*edits, *_list_edits_between(text, nodes, edits, people)])
    changed = splice(text, edits)
    return None if changed == text else Anonymised(changed, not is_json)


class _Statement:
    """A statement that was read, and whose its agents are."""

    def __init__(self, text: bytes, nodes: Sequence[Node], people: People) -> None:
        self._text = text
        self._nodes = nodes
        self._people = people
        self._owners: dict[int, Person] = {}
        self._places = _find_places(nodes)
        for index, node in enumerate(nodes):
            agent, role = self._find_role(index)
            if node.kind == "string" and node.is_whole and role in IDENTIFIERS:
                person = people.identify(role, self._decode(node))
                if person:
                    self._owners.setdefault(agent, person)

    def list_edits(self) -> Iterator[Edit]:
        """What has to change, in the order of the text."""
        for index, node in enumerate(self._nodes):
            if node.kind in ("string", "key"):
                new = self._replace_value(index) if node.kind == "string" else None
                if new is None:
                    new = self._replace_mentions(node)
                if new is not None:
                    yield node.start, node.end, new

    def _decode(self, node: Node) -> str:
        return decode_string(self._text[node.start : node.end])

    def _find_role(self, index: int) -> Role:
        """What a value is to an agent: the agent's index, and the key, or `account`; (-1, "") where it has no key."""
        holder, key = self._places[index]
        if key == "name" and self._places[holder][1] == "account":
            return self._places[holder]
        return holder, key

    def _replace_value(self, index: int) -> bytes | None:
        """The string that takes the place of a whole one; None where it stays, or only a part of it goes."""
        node = self._nodes[index]
        agent, role = self._find_role(index)
        old = self._decode(node)
        owner = self._owners.get(agent)
        if owner and role in _NAMES:
            return _encode(old, owner.new_name)
        if not node.is_whole:
            return None
        if owner and role in IDENTIFIERS:
            if role == "account" and self._people.is_anonymous(old):
                return None
            return _encode(old, owner.replace_identifier(old))
        if role == "account" or _USERNAME_KEY.search(role):
            person = self._people.find_by_username(old)
            return _encode(old, person.replace_username(old)) if person else None
        return None

    def _replace_mentions(self, node: Node) -> bytes | None:
        raw = self._text[node.start : node.end]
        if not self._people.searches_words and len(raw) <= _SHORTEST_DIGEST and not _MAY_MENTION.search(raw):
            return None
        inner = unquote(raw)
        mentions = find_mentions(inner, self._people, is_json_string=True, is_key=node.kind == "key")
        if not mentions:
            return None
        new = replace_mentions(inner, mentions).encode("utf-8", "surrogateescape")
        return raw[:1] + new + raw[1 + len(inner.encode("utf-8", "surrogateescape")) :]


def _find_places(nodes: Sequence[Node]) -> list[Role]:
    """Of each value, in which object it is and under which key; an array stands for each of its elements."""
    places: list[Role] = []
    for node in nodes:
        if node.key is not None:
            places.append((node.parent, node.key))
        elif node.kind != "key" and node.parent >= 0:
            places.append(places[node.parent])
        else:
            places.append(_NOWHERE)
    return places


def _encode(old: str, new: str) -> bytes | None:
    return None if new == old else encode_value(new)


def _list_edits_between(text: bytes, nodes: Sequence[Node], edits: Sequence[Edit], people: People) -> Iterator[Edit]:
    """What is said outside of the strings that were read; in those, `_Statement` has looked."""
    strings = [node for node in nodes if node.kind in ("string", "key")]
    starts = [node.start for node in strings]
    edit_starts = [start for start, _, _ in edits]
    for start, end, new in _find_in_bytes(text, people):
        string = bisect_right(starts, start) - 1
        edit = bisect_right(edit_starts, end - 1) - 1
        if string >= 0 and end <= strings[string].end:
            continue
        if edit < 0 or edits[edit][1] <= start:
            yield start, end, new.encode()


def _find_in_bytes(text: bytes, people: People) -> Iterator[tuple[int, int, str]]:
    """Mentions in a whole text, with places counted in bytes."""
    source = text.decode("utf-8", "surrogateescape")
    at = size = 0
    for start, end, new in find_mentions(source, people, is_json_string=False):
        first = size + len(source[at:start].encode("utf-8", "surrogateescape"))
        at, size = end, first + len(source[start:end].encode("utf-8", "surrogateescape"))
        yield first, size, new
