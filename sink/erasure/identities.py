"""The other names of a subject: read before an erasure, held in memory only, and never shown.

.. pii: Holds user names, e-mail addresses and anonymous ids of the users being retired, in memory only.
.. pii_types: id, username, email_address
.. pii_retirement: consumer_api
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sink.clickhouse.catalog import read_tables
from sink.clickhouse.client import INCLUDING_HIDDEN, split_for_binding
from sink.names import quote
from sink.pii_map import SUBJECT_ID, Rule, SubjectId
from sink.store import Store

if TYPE_CHECKING:
    from sink.lms.database import LmsDatabase

_SHA1 = "sha1:"


@dataclass(frozen=True)
class Identities:
    """What subjects are called, as subject -> identifier -> values; `repr` shows none of it."""

    values: Mapping[str, Mapping[str, frozenset[str]]] = field(default_factory=dict, repr=False)

    def of(self, subject: SubjectId, identifier: str) -> frozenset[str]:
        """The values of one identifier; none where they are not known."""
        if identifier == SUBJECT_ID:
            return frozenset([str(subject)])
        return self.values.get(str(subject), {}).get(identifier, frozenset())

    def merge(self, other: Identities) -> Identities:
        """What either of two knows."""
        merged: dict[str, dict[str, frozenset[str]]] = {}
        for source in (self.values, other.values):
            for subject, names in source.items():
                known = merged.setdefault(subject, {})
                for identifier, values in names.items():
                    known[identifier] = known.get(identifier, frozenset()) | values
        return Identities(merged)


def read_identities(store: Store, subjects: Sequence[SubjectId]) -> Identities:
    """What the PII tables say that `subjects` are called.

    Raises:
        DatabaseError: it could not be read, so a retirement must not go on.
    """
    found: dict[str, dict[str, set[str]]] = {}
    places = {name: source.rpartition(".") for name, source in store.pii_map.subject.identifiers.items()}
    tables = read_tables(store.client, [store.client.table(target) for target, _, _ in places.values()])
    for identifier, (target, _, column) in places.items():
        table = tables.get(store.client.table(target))
        if table is None or column not in table.columns:
            continue
        key = quote(store.pii_map.targets[target].id_column)
        for batch in split_for_binding(subjects):
            rows = store.client.rows(
                f"SELECT DISTINCT toString({key}), toString({quote(column)}) FROM {table.name.sql} "
                f"WHERE toString({key}) IN {{subjects:Array(String)}}",
                # An interrupted retirement may have hidden the profile already.
                INCLUDING_HIDDEN,
                subjects=[str(subject) for subject in batch],
            )
            for subject, value in rows:
                if value:
                    found.setdefault(subject, {}).setdefault(identifier, set()).add(value)
    return Identities({s: {i: frozenset(v) for i, v in names.items()} for s, names in found.items()})


def ask_lms(lms: LmsDatabase | None, subjects: Sequence[int | str]) -> Identities:
    """What the LMS still says that retired users were called; kept in memory only."""
    numbers = [subject for subject in subjects if isinstance(subject, int)]
    if lms is None or not numbers:
        return Identities()
    with lms.snapshot() as snapshot:
        known = snapshot.identities(numbers)
    return Identities(
        {
            str(user_id): {
                name: frozenset([value])
                for name, value in (("username", identity.username), ("email", identity.email))
                if value
            }
            for user_id, identity in known.items()
        }
    )


def list_keys(rule: Rule, subjects: Iterable[SubjectId], identities: Identities) -> dict[str, str]:
    """What the rule's key holds for `subjects`, as value -> subject; nothing for whom the identifiers are unknown.

    A template that begins with `sha1:` means the SHA-1 of the rest, in hexadecimal: xAPI's `mbox_sha1sum`.
    """
    is_hashed = rule.template.startswith(_SHA1)
    template = rule.template.removeprefix(_SHA1)
    keys: dict[str, str] = {}
    for subject in subjects:
        for text in _fill(template, rule.sources, subject, identities):
            # An address is written as its owner typed it, or in lower case: software does either.
            for variant in {text, text.lower()} if is_hashed else {text}:
                key = hashlib.sha1(variant.encode(), usedforsecurity=False).hexdigest() if is_hashed else variant
                keys[key] = str(subject)
    return keys


def _fill(template: str, sources: set[str], subject: SubjectId, identities: Identities) -> list[str]:
    texts = [template]
    for source in sorted(sources):
        values = identities.of(subject, source)
        texts = [text.replace(f"{{{source}}}", value) for text in texts for value in sorted(values)]
    return texts
