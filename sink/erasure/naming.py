"""Finding out what subjects are called, and whose those names are too.

.. pii: Reads user names, e-mail addresses and anonymous ids of the users being retired, in memory only.
.. pii_types: id, username, email_address
.. pii_retirement: consumer_api
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sink.clickhouse.catalog import read_tables
from sink.clickhouse.client import INCLUDING_HIDDEN, split_for_binding
from sink.erasure.former_names import recall
from sink.erasure.identities import Identities
from sink.erasure.keys import express_folded, express_text, find_kind, find_spelling, fold_name, group_ids
from sink.erasure.steps import Step
from sink.names import TableName, quote, quote_text
from sink.pii_map import SHA1, SubjectId
from sink.store import Store

if TYPE_CHECKING:
    from sink.lms.database import LmsDatabase

# Identifiers by what the LMS calls them.
_USERNAME, _EMAIL, _EXTERNAL_ID = "username", "email", "external_id"
# Of so many owners of one value that are not retired, more need not be known than that there are some.
_OWNERS_OF_A_VALUE = 1_000


def identify(
    store: Store,
    subjects: Sequence[SubjectId],
    steps: Sequence[Step],
    known: Identities | None = None,
    lms: LmsDatabase | None = None,
) -> Identities:
    """What `subjects` are called, and which of it is not theirs alone.

    The PII tables, the LMS and `known` say it, and rows of the tables of `steps` that are recognised by keyed hashes.

    Raises:
        DatabaseError: it could not be read, so a retirement must not go on.
        LmsError: the LMS could not be asked, which means the same.
    """
    lms = lms or _find_lms(store)
    identities = read_identities(store, subjects).merge(ask_lms(lms, subjects)).merge(known or Identities())
    identities = identities.merge(recall(store, steps, subjects))
    identities = identities.without({"", *(value.lower() for value in store.pii_map.subject.placeholders)})
    identities = mark_contested(store, lms, subjects, identities)
    return replace(identities, contested_keys=_find_contested_keys(store, subjects, identities))


def read_identities(store: Store, subjects: Sequence[SubjectId]) -> Identities:
    """What the PII tables say that `subjects` are called.

    Raises:
        DatabaseError: it could not be read, so a retirement must not go on.
    """
    values: dict[str, dict[str, set[str]]] = {}
    answered: dict[str, set[str]] = {}
    for source in _list_sources(store):
        spelt = group_ids(source.id_kind, subjects)
        for batch in split_for_binding(list(spelt)):
            rows = store.client.rows(
                f"SELECT DISTINCT toString({source.quoted_id}), {express_text(f'toString({source.quoted_name})')} "
                f"FROM {source.table.sql} "
                f"WHERE toString({source.quoted_id}) IN {{subjects:Array(String)}}",
                # An interrupted retirement may have hidden the profile already.
                INCLUDING_HIDDEN,
                subjects=batch,
            )
            for subject, value in ((subject, value) for written, value in rows for subject in spelt[written]):
                if value:
                    values.setdefault(subject, {}).setdefault(source.identifier, set()).add(value)
                elif source.is_kept:
                    answered.setdefault(subject, set()).add(source.identifier)
    return Identities(
        {s: {i: frozenset(v) for i, v in names.items()} for s, names in values.items()},
        {subject: frozenset(names) for subject, names in answered.items()},
    )


def ask_lms(lms: LmsDatabase | None, subjects: Sequence[int | str]) -> Identities:
    """What the LMS says that users are called, and were before it retired them; kept in memory only."""
    numbers = [subject for subject in subjects if isinstance(subject, int)]
    if lms is None or not numbers:
        return Identities()
    with lms.snapshot() as snapshot:
        known = snapshot.identities(numbers)
    values, answered = {}, {}
    for user_id, found in known.items():
        values[str(user_id)] = {_USERNAME: found.usernames, _EMAIL: found.emails}
        of_account = frozenset([_USERNAME, _EMAIL] if found.is_complete else ())
        if found.external_ids is not None:
            values[str(user_id)][_EXTERNAL_ID] = found.external_ids
            of_account |= {_EXTERNAL_ID}
        answered[str(user_id)] = of_account
    return Identities(values, answered)


def mark_contested(
    store: Store, lms: LmsDatabase | None, subjects: Sequence[SubjectId], identities: Identities
) -> Identities:
    """The same names, and which of them somebody has, or had, who is neither retired nor among `subjects`."""
    wanted = _Wanted(store, subjects, identities)
    if not wanted.spellings:
        return identities
    owners: dict[str, dict[str, set[str]]] = {}
    for identifier, value, owner in [*_find_owners(store, wanted), *_ask_for_owners(lms, wanted)]:
        owners.setdefault(owner, {}).setdefault(identifier, set()).add(value)
    for batch in split_for_binding(sorted(owners.keys())):
        for retired in store.client.column(
            "SELECT subject FROM $pii_ledger.tombstones WHERE subject IN {owners:Array(String)}", owners=batch
        ):
            del owners[retired]
    contested: dict[str, frozenset[str]] = {}
    for names in owners.values():
        for identifier, values in names.items():
            for value in values:
                contested[identifier] = contested.get(identifier, frozenset()) | wanted.spellings[identifier][value]
    return replace(identities, contested=contested)


@dataclass(frozen=True)
class _Source:
    """A column of the PII tables that says what subjects are called."""

    identifier: str
    table: TableName
    quoted_id: str
    id_kind: str
    """The type of the id's column, without Nullable and LowCardinality."""
    quoted_name: str
    is_kept: bool
    """True where an empty value means that the subject has no such name."""

    @property
    def retired(self) -> str:
        """The query for the ids of whoever is retired, as the id's column writes them."""
        # The type is as the engine itself writes it.
        written = f"ifNull(toString(accurateCastOrNull(subject, {quote_text(self.id_kind)})), subject)"
        return f"SELECT {written} FROM $pii_ledger.tombstones"


class _Wanted:
    """The names of subjects, as they are compared with those of others."""

    def __init__(self, store: Store, subjects: Sequence[SubjectId], identities: Identities) -> None:
        self._store = store
        self.subjects = {str(subject) for subject in subjects}
        self.spellings: dict[str, dict[str, frozenset[str]]] = {}
        """Identifier -> value as it is compared -> value as it is spelt."""
        for names in identities.values.values():
            for identifier, values in names.items():
                found = self.spellings.setdefault(identifier, {}) if values else {}
                for value in values:
                    key = self.fold(identifier, value)
                    found[key] = found.get(key, frozenset()) | {value}

    def fold(self, identifier: str, value: str) -> str:
        """A value as it is compared."""
        return fold_name(value, find_spelling(self._store.pii_map, [identifier]))


def _list_sources(store: Store) -> Iterator[_Source]:
    places = {name: source.rpartition(".") for name, source in store.pii_map.subject.identifiers.items()}
    tables = read_tables(store.client, [store.client.table(target) for target, _, _ in places.values()])
    for identifier, (target_name, _, column) in places.items():
        table = tables.get(store.client.table(target_name))
        if table is not None and column in table.columns:
            target = store.pii_map.targets[target_name]
            is_kept = target.keep is None or column in target.keep
            kind = find_kind(table, target.id_column)
            yield _Source(identifier, table.name, quote(target.id_column), kind, quote(column), is_kept)


def _find_owners(store: Store, wanted: _Wanted) -> Iterator[tuple[str, str, str]]:
    """Whose the wanted names are by the PII tables, as (identifier, value, subject)."""
    for source in _list_sources(store):
        name = source.identifier
        value = express_folded(express_text(f"toString({source.quoted_name})"), find_spelling(store.pii_map, [name]))
        own = group_ids(source.id_kind, wanted.subjects)
        for batch in split_for_binding(sorted(wanted.spellings.get(name, ()))):
            rows = store.client.rows(
                f"SELECT DISTINCT {value} AS aspects_pii_value, toString({source.quoted_id}) AS aspects_pii_subject "
                f"FROM {source.table.sql} WHERE aspects_pii_value IN {{values:Array(String)}} "
                f"AND aspects_pii_subject NOT IN ({source.retired}) LIMIT {{most:UInt32}} BY aspects_pii_value",
                values=batch,
                most=_OWNERS_OF_A_VALUE,
            )
            yield from ((name, str(found), owner) for found, owner in rows if owner not in own)


def _find_contested_keys(store: Store, subjects: Sequence[SubjectId], identities: Identities) -> frozenset[str]:
    """Recognised hashes of addresses that the PII tables have of somebody who is neither retired nor among `subjects`."""
    if not any(identities.recognised.values()):
        return frozenset()
    sources = {source.identifier: source for source in _list_sources(store)}
    contested: set[str] = set()
    for _, _, rule in store.pii_map.rules(redact_history=True):
        keys = identities.recognised.get(rule.template, {})
        source = sources.get(min(rule.sources))
        if not keys or not rule.is_hashed or source is None or len(rule.sources) > 1:
            continue
        own = group_ids(source.id_kind, subjects)
        prefix, _, rest = rule.template.removeprefix(SHA1).partition("{")
        hashes = ", ".join(
            f"lower(hex(SHA1(concat({{prefix:String}}, {name}, {{suffix:String}}))))"
            for name in (f"toString({source.quoted_name})", f"lowerUTF8(toString({source.quoted_name}))")
        )
        for batch in split_for_binding(sorted(keys)):
            rows = store.client.rows(
                f"SELECT DISTINCT arrayJoin([{hashes}]) AS aspects_pii_key, toString({source.quoted_id}) AS aspects_pii_subject "
                f"FROM {source.table.sql} WHERE aspects_pii_key IN {{keys:Array(String)}} "
                f"AND aspects_pii_subject NOT IN ({source.retired})",
                keys=batch,
                prefix=prefix,
                suffix=rest.partition("}")[2],
            )
            contested |= {str(key) for key, owner in rows if owner not in own}
    return frozenset(contested)


def _ask_for_owners(lms: LmsDatabase | None, wanted: _Wanted) -> Iterator[tuple[str, str, str]]:
    """The same by the LMS."""
    names: Mapping[str, Collection[str]] = {name: wanted.spellings.get(name, ()) for name in (_USERNAME, _EMAIL)}
    if lms is None or not any(names.values()):
        return
    with lms.snapshot() as snapshot:
        for owned in snapshot.owners(names[_USERNAME], names[_EMAIL]):
            for identifier, value in ((_USERNAME, owned.username), (_EMAIL, owned.email)):
                key = wanted.fold(identifier, value)
                if key in names[identifier] and str(owned.user_id) not in wanted.subjects:
                    yield identifier, key, str(owned.user_id)


def _find_lms(store: Store) -> LmsDatabase | None:
    if store.lms_url is None:
        return None
    # Not with the module: SQLAlchemy takes long to import, and the command line imports this at start.
    from sink.lms.database import LmsDatabase

    return LmsDatabase(store.lms_url)
