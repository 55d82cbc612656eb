"""What the people who are retired are called, and who of them an address, a digest or a user name means.

.. pii: Holds user names, e-mail addresses and full names of the users being retired, in memory only.
.. pii_types: id, name, username, email_address
.. pii_retirement: consumer_api
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote

from sink.erasure.pseudonyms import shape_address, shape_digest, shape_like
from sink.pii_map import DEFAULT_REPLACEMENT

MAILTO = "mailto:"
IDENTIFIERS = ("mbox", "mbox_sha1sum", "openid", "account")
"""By what an agent of a statement is known; `account` stands for the name in it."""


@dataclass(frozen=True)
class Person:
    """Somebody who is retired; `repr` shows no name."""

    pseudonym: str
    """32 hexadecimal digits, the same in every table."""
    addresses: frozenset[str] = field(default=frozenset(), repr=False)
    usernames: frozenset[str] = field(default=frozenset(), repr=False)
    full_names: frozenset[str] = field(default=frozenset(), repr=False)
    anonymous_ids: frozenset[str] = field(default=frozenset(), repr=False)
    """Account names that may stay: they tell that an agent is this person, and nothing about them."""

    def list_digests(self) -> set[str]:
        """What `mbox_sha1sum` may be: of the address as its owner typed it, or in lower case. Software does either."""
        return {_hash(variant) for address in _strip(self.addresses) for variant in (address, address.lower())}

    @property
    def new_name(self) -> str:
        """What takes the place of the full name."""
        return DEFAULT_REPLACEMENT

    def replace_identifier(self, old: str) -> str:
        """What takes the place of an identifier of an agent that is this person."""
        return shape_like(old, self.pseudonym)

    def replace_username(self, old: str) -> str:
        """What takes the place of a user name."""
        return self.pseudonym

    def replace_digest(self, old: str) -> str:
        """What takes the place of the digest of an address."""
        return shape_digest(self.pseudonym)

    def replace_address(self, old: str, *, is_mailbox: bool) -> str:
        """What takes the place of an address in a text; of one behind `mailto:` where it is a mailbox."""
        return shape_address(self.pseudonym) if is_mailbox else self.pseudonym


class People:
    """Some people, to be found by what they are called.

    Where two have the same name, it means the first.
    """

    def __init__(self, persons: Iterable[Person]) -> None:
        self._by_address: dict[str, Person] = {}
        self._by_digest: dict[str, Person] = {}
        self._by_username: dict[str, Person] = {}
        self._by_anonymous_id: dict[str, Person] = {}
        for person in persons:
            _add(self._by_address, map(fold, _strip(person.addresses)), person)
            _add(self._by_digest, person.list_digests(), person)
            _add(self._by_username, filter(None, person.usernames), person)
            _add(self._by_anonymous_id, filter(None, person.anonymous_ids), person)
        self._by_domain: dict[str, dict[str, Person]] = {}
        for address, person in self._by_address.items():
            local, _, domain = address.rpartition("@")
            if local and domain:
                self._by_domain.setdefault(domain, {})[local] = person
        self._domain_lengths = _list_lengths(self._by_domain)
        self._local_lengths = {domain: _list_lengths(known) for domain, known in self._by_domain.items()}

    searches_words = False
    """True where any word of a text may be somebody's, and not only addresses and digests."""

    def identify(self, role: str, value: str) -> Person | None:
        """Whose identifier of an agent the value is; `role` is one of `IDENTIFIERS`."""
        if role == "mbox_sha1sum":
            return self.find_by_digest(value)
        person = self.find_by_address(value)
        if role == "openid":
            return person or self.find_by_username(value)
        return person or self.find_by_account(value) if role == "account" else person

    def find_by_address(self, value: str) -> Person | None:
        """Whose address the value is, whichever way it is written: `mailto:`, percent signs, `Zoe <a@x>`, blanks."""
        for candidate in list_addresses(value):
            if person := self._by_address.get(fold(candidate.strip())):
                return person
        return None

    def find_by_digest(self, value: str) -> Person | None:
        """Whose `mbox_sha1sum` it is."""
        return self._by_digest.get(value.strip().lower())

    def find_by_username(self, value: str) -> Person | None:
        """Whose user name it is, letter by letter."""
        return self._by_username.get(value)

    def find_by_account(self, value: str) -> Person | None:
        """Whose user name or anonymous id it is."""
        return self._by_username.get(value) or self._by_anonymous_id.get(value)

    def is_anonymous(self, value: str) -> bool:
        """Whether it is somebody's anonymous id, which says nothing about them."""
        return value in self._by_anonymous_id

    def list_words(self, text: str) -> Iterator[tuple[int, int, str]]:
        """Further words of a text that go, as (start, end, what takes the place)."""
        return iter(())

    def list_at(self, folded: str, at: int) -> Iterator[tuple[int, int, Person]]:
        """Which addresses stand around the `@` at `at`, the longest first, as (start, end, person)."""
        for length in self._domain_lengths:
            end = at + 1 + length
            domain = folded[at + 1 : end]
            # Near the end of the text a slice is shorter than was asked for.
            for local_length in self._local_lengths.get(domain, ()) if len(domain) == length else ():
                start = at - local_length
                person = self._by_domain[domain].get(folded[start:at]) if start >= 0 else None
                if person:
                    yield start, end, person


def fold(text: str) -> str:
    """The text in lower case, character by character, so that places in it stay what they are."""
    lower = text.lower()
    if text.isascii():
        return lower
    return "".join(map(_fold_character, text))


def _fold_character(character: str) -> str:
    lower = character.lower()
    # The Kelvin sign is no `k`: who searches bytes would not find it.
    return lower if len(lower) == 1 and lower.isascii() == character.isascii() else character


def list_addresses(value: str) -> Iterator[str]:
    """What may be the address in a value that names somebody."""
    for text in (value, unquote(value, errors="surrogateescape")):
        text = text.strip()
        if text[: len(MAILTO)].lower() == MAILTO:
            text = text[len(MAILTO) :]
        yield text
        yield text.partition("?")[0]
        if text.endswith(">"):
            yield text[:-1].rpartition("<")[2]


def _strip(values: Iterable[str]) -> set[str]:
    return {stripped for value in values if (stripped := value.strip())}


def _hash(address: str) -> str:
    return hashlib.sha1(f"{MAILTO}{address}".encode("utf-8", "surrogatepass"), usedforsecurity=False).hexdigest()


def _add(index: dict[str, Person], names: Iterable[str], person: Person) -> None:
    for name in names:
        index.setdefault(name, person)


def _list_lengths(names: Mapping[str, Person] | Mapping[str, dict[str, Person]]) -> list[int]:
    return sorted({len(name) for name in names}, reverse=True)
