"""What a subject is called, as far as it is sure that nobody else is meant.

Accounts of statements are told by an anonymous id or by a user name. Whoever takes somebody else's anonymous id for a user
name must not be given that person's events.

.. pii: Reads names, user names, e-mail addresses and anonymous ids of the subject, in memory only.
.. pii_types: id, name, username, email_address
.. pii_retirement: consumer_api
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from sink.clickhouse.catalog import read_tables
from sink.erasure.identities import Identities
from sink.erasure.keys import find_kind, group_ids
from sink.erasure.naming import identify
from sink.erasure.search_terms import read_names
from sink.names import quote
from sink.pii_map import PiiMap, SubjectId
from sink.store import Store


def list_account_names(pii_map: PiiMap) -> list[str]:
    """The identifiers that can be the name of an account."""
    return [*_list_of_type(pii_map, "id"), *_list_of_type(pii_map, "username")]


def read_identity(store: Store, subject: SubjectId) -> Identities:
    """What the subject is called; a user name that is somebody else's anonymous id is contested, the id is not.

    Raises:
        DatabaseError: it could not be read.
        LmsError: the LMS, where one is configured, could not be asked.
    """
    identities = identify(store, [subject], []).merge(read_names(store, [subject]))
    usernames = _list_of_type(store.pii_map, "username")
    values = sorted({value for name in usernames for value in identities.of(subject, name)})
    taken = frozenset(_find_taken(store, subject, values) if values else ())
    contested = {name: identities.contested.get(name, frozenset()) | taken for name in usernames} if taken else {}
    return replace(identities, contested={**identities.contested, **contested})


def _list_of_type(pii_map: PiiMap, pii_type: str) -> list[str]:
    return [name for name in pii_map.subject.identifiers if pii_map.find_type(name) == pii_type]


def _find_taken(store: Store, subject: SubjectId, values: Sequence[str]) -> Iterator[str]:
    """Those of `values` that are an anonymous id of somebody else."""
    sources = [store.pii_map.subject.identifiers[name].rpartition(".") for name in _list_of_type(store.pii_map, "id")]
    tables = read_tables(store.client, [store.client.table(target) for target, _, _ in sources])
    for target, _, column in sources:
        table = tables.get(store.client.table(target))
        key = store.pii_map.targets[target].id_column
        if table is None or not {column, key} <= set(table.columns):
            continue
        yield from store.client.column(
            f"SELECT DISTINCT toString({quote(column)}) AS aspects_pii_value FROM {store.client.shards(table.name.sql)} "
            f"WHERE aspects_pii_value IN {{names:Array(String)}} AND toString({quote(key)}) NOT IN {{own:Array(String)}}",
            names=values,
            own=list(group_ids(find_kind(table, key), [subject])),
        )
