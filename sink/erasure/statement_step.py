"""Erasing what statements say of people, in tables whose rows no key ties to a person.

Rows are found by a search for all that a person is called, and changed where they stand: `sink.erasure.statements` says
what becomes of a text, `sink.erasure.in_place` writes it.

.. pii: Reads events with the people that they are about, and writes them without.
.. pii_types: id, name, username, email_address, other
.. pii_retirement: consumer_api
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import SecretStr

from sink.clickhouse.catalog import read_path
from sink.clickhouse.client import INCLUDING_HIDDEN, ClickHouse, split_for_binding
from sink.erasure import in_place
from sink.erasure.agents import anonymise_agents
from sink.erasure.candidates import express_candidates, list_search_patterns
from sink.erasure.identities import Identities
from sink.erasure.keys import is_bytes
from sink.erasure.new_values import NewValues, explain_excess, hash_texts, or_zero
from sink.erasure.people import People, Person
from sink.erasure.pseudonyms import PSEUDONYM, keyed_hash
from sink.erasure.statements import anonymise_statement
from sink.erasure.steps import Step
from sink.names import quote
from sink.pii_map import SubjectId

_PEOPLE_AT_ONCE = 200
_TEXTS_AT_ONCE = 20_000
_NAMING = "mbox|openid"


@dataclass(frozen=True)
class StatementStep(Step):
    """All that the texts of a column say of a person gives way to the person's pseudonym."""

    secret: SecretStr
    identifiers: Mapping[str, str]
    """The map's identifiers and their OEP-30 types."""

    @property
    def needs_identities(self) -> bool:
        """See `Step`."""
        return True

    @property
    def needs_subjects(self) -> bool:
        """See `Step`."""
        return True

    def can_find(self, subject: SubjectId, identities: Identities) -> bool:
        """See `Step`. Nobody is looked for by an anonymous id alone, nor by a name that is no text."""
        told = [name for name, kind in self.identifiers.items() if kind != "id"]
        if any(is_bytes(name) for identifier in told for name in identities.of(subject, identifier)):
            return False
        answered = identities.answered.get(str(subject), frozenset())
        return any(identities.of(subject, name) or name in answered for name in told)

    def hide(
        self, client: ClickHouse, subjects: Sequence[SubjectId], identities: Identities, batch_size: int
    ) -> dict[str, str]:
        """See `Step`. What is no JSON is changed as text; only what grows out of its column cannot be changed."""
        refused: dict[str, str] = {}
        for persons in self._split(subjects, identities):
            people = People(persons.values())
            condition, patterns = express_candidates(self._text, _list_patterns(persons))
            for texts in self._read(client, condition, patterns, {}):
                values: dict[int, tuple[bytes | None, ...]] = {}
                for digest, (text, _) in texts.items():
                    new = anonymise_statement(text, people)
                    if new and (excess := self._explain_excess(new.text)):
                        refused |= dict.fromkeys(_find_concerned(persons, text, new.text), excess)
                    elif new:
                        values[digest] = (new.text,)
                self._write(client, values)
        return refused

    def hide_everybody(self, client: ClickHouse) -> dict[str, str]:
        """See `Step`."""
        refused: dict[str, str] = {}
        for texts in self._read(client, self._named, {"naming": _NAMING}, {}):
            changed = {digest: anonymise_agents(text, self.secret) for digest, (text, _) in texts.items()}
            excess = {digest: self._explain_excess(new) for digest, new in changed.items() if new is not None}
            # Whose they are is not known: what they are refused under stands for nobody.
            refused |= {str(digest): reason for digest, reason in excess.items() if reason}
            self._write(client, {digest: (changed[digest],) for digest, reason in excess.items() if not reason})
        return refused

    def count_everybody(self, client: ClickHouse) -> int:
        """See `Step`."""
        return sum(
            rows
            for texts in self._read(client, self._named, {"naming": _NAMING}, INCLUDING_HIDDEN)
            for text, rows in texts.values()
            if anonymise_agents(text, self.secret) is not None
        )

    def rehearse(self, client: ClickHouse) -> None:
        """See `Step`."""
        digests = client.column(f"SELECT {self._digest} FROM {self.table.name.sql}")
        self._write(client, dict.fromkeys(digests or [0], (b"{}",)))

    def _count(
        self,
        client: ClickHouse,
        subjects: Sequence[SubjectId],
        identities: Identities,
        settings: Mapping[str, Any],
    ) -> list[tuple[str, int]]:
        left: Counter[str] = Counter()
        for persons in self._split(subjects, identities):
            people = People(persons.values())
            condition, patterns = express_candidates(self._text, _list_patterns(persons))
            for texts in self._read(client, condition, patterns, settings):
                for text, rows in texts.values():
                    if new := anonymise_statement(text, people):
                        left.update(dict.fromkeys(_find_concerned(persons, text, new.text), rows))
        return list(left.items())

    def _split(self, subjects: Sequence[SubjectId], identities: Identities) -> Iterator[dict[str, Person]]:
        """Those of whom a name is known, by subject."""
        persons = {}
        for subject in subjects:
            names: dict[str, set[str]] = {}
            for identifier, kind in self.identifiers.items():
                names.setdefault(kind, set()).update(identities.own(subject, identifier))
            person = Person(
                keyed_hash(self.secret, PSEUDONYM, subject),
                addresses=frozenset(names.get("email_address", ())),
                usernames=frozenset(names.get("username", ())),
                full_names=frozenset(names.get("name", ())),
                anonymous_ids=frozenset(names.get("id", ())),
            )
            if person.addresses or person.usernames:
                persons[str(subject)] = person
        for batch in split_for_binding(list(persons), _PEOPLE_AT_ONCE):
            yield {subject: persons[subject] for subject in batch}

    @property
    def _column(self) -> str:
        return self.rule.key

    @property
    def _text(self) -> str:
        return f"toString({quote(self._column)})"

    @property
    def _digest(self) -> str:
        exemption = self.rule.on_retire.unless
        # Rows that are exempt can be like others.
        exempt = f"toString({read_path(self.table, exemption.column)})" if exemption else "''"
        return hash_texts(f"{or_zero(self._text)}, {or_zero(exempt)}")

    @property
    def _named(self) -> str:
        """The condition that finds statements that name any agent otherwise than by an account."""
        return f"match({self._text}, {{naming:String}})"

    def _read(
        self, client: ClickHouse, condition: str, values: Mapping[str, Any], settings: Mapping[str, Any]
    ) -> Iterator[dict[int, tuple[bytes, int]]]:
        """Texts and how many rows have each, by digest: as many at a time as memory should hold."""
        after = -1
        while rows := client.rows(
            f"SELECT {self._digest} AS aspects_pii_digest, hex(any({self._text})), count() "
            f"FROM {client.replicas(self.table.name.sql)} WHERE {condition} "
            f"AND {self._not_exempt()} AND aspects_pii_digest > {{after:Int256}} "
            "GROUP BY aspects_pii_digest ORDER BY aspects_pii_digest LIMIT {limit:UInt32}",
            settings,
            after=after,
            limit=_TEXTS_AT_ONCE,
            **values,
            **self._exempt_values(),
        ):
            yield {digest: (bytes.fromhex(digits), count) for digest, digits, count in rows}
            after = rows[-1][0]
            if len(rows) < _TEXTS_AT_ONCE:
                return

    def _explain_excess(self, new: bytes) -> str:
        excess = explain_excess(self._column, self.table.columns[self._column], new)
        return f"{self.table.name}: {excess}" if excess else ""

    def _write(self, client: ClickHouse, values: Mapping[int, tuple[bytes | None, ...]]) -> None:
        if values:
            columns = {self._column: self.table.columns[self._column]}
            in_place.change_rows(client, self.table.name, NewValues(self._digest, columns, values, {}))


def _list_patterns(persons: Mapping[str, Person]) -> list[str]:
    return sorted({pattern for person in persons.values() for pattern in list_search_patterns(person)})


def _find_concerned(persons: Mapping[str, Person], old: bytes, new: bytes) -> list[str]:
    """Of whom something went: their pseudonym came, or a change for them alone is one."""
    concerned = [
        subject
        for subject, person in persons.items()
        if new.count(person.pseudonym.encode()) > old.count(person.pseudonym.encode())
    ]
    return concerned or [
        subject for subject, person in persons.items() if anonymise_statement(old, People([person])) is not None
    ]
