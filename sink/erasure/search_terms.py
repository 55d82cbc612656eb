"""What texts are searched for: names and addresses of subjects, and where they stand.

.. pii: Holds names, user names and e-mail addresses of the users being looked for, in memory only.
.. pii_types: name, username, email_address
.. pii_retirement: consumer_api
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from sink.clickhouse.catalog import read_tables
from sink.clickhouse.client import INCLUDING_HIDDEN, split_for_binding
from sink.erasure.identities import Identities
from sink.erasure.keys import is_bytes
from sink.names import TableName, quote
from sink.pii_map import PiiMap, SubjectId, Target
from sink.store import Store

# Shorter ones are in every other word.
_SHORTEST = 3
_DENSE = re.compile(r"[\u0e00-\u0e7f\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af]")
# What no identifier of a map can be called, since a template names identifiers.
_FROM_COLUMNS = "column:"


class TermKind(StrEnum):
    """How a term is compared with texts."""

    ADDRESS = "address"
    USERNAME = "user name"
    NAME = "full name"


_KINDS = {"email_address": TermKind.ADDRESS, "username": TermKind.USERNAME, "name": TermKind.NAME}


@dataclass(frozen=True)
class Term:
    """Something that a subject is called; `repr` does not show what."""

    subject: str
    kind: TermKind
    text: str

    def __repr__(self) -> str:
        return f"Term({self.subject}, {self.kind})"


@dataclass(frozen=True)
class NameColumn:
    """A column of a target that says what the subject of the row is called."""

    target: str
    table: TableName
    key: str
    column: str
    pii_type: str

    @property
    def kind(self) -> TermKind:
        """How its values are compared with texts."""
        return _KINDS[self.pii_type]


def list_name_columns(store: Store) -> list[NameColumn]:
    """Columns with names, user names and addresses of targets that are there, have rows and are matched by id.

    Raises:
        DatabaseError: the live schema could not be read.
    """
    targets = {
        name: target for name, target in store.pii_map.targets.items() if any(rule.is_by_id for rule in target.rules)
    }
    tables = read_tables(store.client, [store.client.table(name) for name in targets])
    return [
        NameColumn(name, table.name, target.id_column, column, kind)
        for name, target in targets.items()
        if (table := tables.get(store.client.table(name))) and target.id_column in table.columns and not table.is_empty
        for column, kind in target.pii.items()
        if kind in _KINDS and column in table.columns and not _is_replaced(target, column)
    ]


def _is_replaced(target: Target, column: str) -> bool:
    """True where a retirement leaves another text in the column, which is not what anybody is called."""
    redactions = [rule.on_retire.redact[column] for rule in target.rules if column in rule.on_retire.redact]
    return any(redaction.kind not in ("null", "empty", "default") for redaction in redactions)


def read_names(store: Store, subjects: Sequence[SubjectId]) -> Identities:
    """All that the targets say that `subjects` are called, full names too; to be merged with what is known otherwise.

    Raises:
        DatabaseError: it could not be read.
    """
    found: dict[str, dict[str, set[str]]] = {}
    for source in list_name_columns(store):
        for batch in split_for_binding(subjects):
            rows = store.client.rows(
                f"SELECT DISTINCT toString({quote(source.key)}), {_express_read(source)} "
                f"FROM {source.table.sql} WHERE toString({quote(source.key)}) IN {{subjects:Array(String)}}",
                # An interrupted retirement may have hidden the profile already.
                INCLUDING_HIDDEN,
                subjects=[str(subject) for subject in batch],
            )
            for subject, value in rows:
                if value:
                    found.setdefault(subject, {}).setdefault(f"{_FROM_COLUMNS}{source.pii_type}", set()).add(value)
    identities = Identities({s: {i: frozenset(v) for i, v in names.items()} for s, names in found.items()})
    return identities.without({value.lower() for value in store.pii_map.subject.placeholders})


def _express_read(source: NameColumn) -> str:
    """SQL for a name; what is no UTF-8 is read as the one other charset that texts are searched in."""
    name = f"ifNull(toString({quote(source.column)}), '')"
    return f"if(isValidUTF8({name}), {name}, convertCharset({name}, 'ISO-8859-1', 'UTF-8'))"


def list_terms(pii_map: PiiMap, subject: SubjectId, identities: Identities) -> list[Term]:
    """What to search for of a subject. Anonymous ids are not: they are what the anonymised events keep."""
    sources = {f"{_FROM_COLUMNS}{kind}": kind for kind in _KINDS}
    for identifier, source in pii_map.subject.identifiers.items():
        target, _, column = source.rpartition(".")
        sources[identifier] = pii_map.targets[target].pii[column]
    terms: dict[tuple[TermKind, str], Term] = {}
    for identifier, pii_type in sources.items():
        if pii_type == "id":
            continue
        for value in identities.of(subject, identifier):
            if is_bytes(value):
                continue
            kind = TermKind.ADDRESS if _is_address(value) else _KINDS.get(pii_type, TermKind.USERNAME)
            for text in _list_spellings(value, kind):
                terms[kind, text] = Term(str(subject), kind, text)
    return list(terms.values())


def can_scan(pii_map: PiiMap, subject: SubjectId, identities: Identities) -> bool:
    """True where a name or address of the subject is known that is long enough to be searched for."""
    return bool(list_terms(pii_map, subject, identities))


def _is_address(text: str) -> bool:
    return re.fullmatch(r"[^\s@]+@[^\s@]+", text) is not None


def _list_spellings(value: str, kind: TermKind) -> set[str]:
    """A term as software writes it: letters composed or not, the family name in front."""
    value = value.strip()
    spellings = {value}
    words = value.split()
    if kind is TermKind.NAME and len(words) > 1:
        spellings.add(" ".join([words[-1], *words[:-1]]))
    shortest = _SHORTEST - 1 if _DENSE.search(value) else _SHORTEST
    if len(value) < shortest:
        return set()
    composed = {unicodedata.normalize("NFC", spelling) for spelling in spellings}
    return composed | {unicodedata.normalize("NFD", spelling) for spelling in spellings}
