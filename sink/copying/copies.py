"""What is copied: which columns of which object of the LMS go into which table.

.. pii: Makes digests of user names while PII is off, and takes from the profile's extended fields what is kept.
.. pii_types: username, other
.. pii_retirement: consumer_api
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sink.clickhouse.catalog import Table, is_text, read_tables
from sink.copying.meta import META, explain_keep, pick, split_keep
from sink.errors import MigrationError, UsageError
from sink.ledger.pseudonym_key import read_viewer_digest, set_pseudonym_key
from sink.lms.objects import OBJECTS
from sink.names import quote
from sink.pii_map import Target
from sink.store import Store

# What makes a row the same row. Of several versions of it the latest counts.
IDENTITY = {
    "user_profile": ("user_id",),
    "external_id": ("user_id", "external_id_type"),
    "course_access": ("user_id", "org", "course_key", "role"),
}
#: What can be copied while PII is off.
WITHOUT_PII = ("course_access",)
KEYED = "event_sink.course_access_keyed"
# What it has in the place of the user name.
_VIEWER = "viewer"


@dataclass(frozen=True)
class Copy:
    """One object on its way into one table."""

    object: str
    table: Table
    columns: tuple[str, ...]
    """What is copied, without bookkeeping."""
    dropped: tuple[str, ...]
    """What the map does not keep, and the table has."""
    version: datetime
    dump_id: uuid.UUID
    digest: Callable[[str], str] | None = None
    """Makes of a user name what is stored of it while PII is off."""
    meta_keys: tuple[str, ...] = ()
    """What is kept of `meta`, where that is among the columns."""

    @property
    def source_columns(self) -> tuple[str, ...]:
        """What is read from the LMS for `columns`."""
        return tuple("username" if column == _VIEWER else column for column in self.columns)

    def convert(self, columns: Sequence[list[Any]]) -> list[list[Any]]:
        """What is stored of the values of `source_columns`, column by column."""
        changes: dict[str, Callable[[str], str]] = {}
        if self.digest is not None:
            changes[_VIEWER] = self.digest
        elif META in self.columns:
            changes[META] = lambda text: pick(text, self.meta_keys)
        return [
            list(map(changes[name], values)) if name in changes else values
            for name, values in zip(self.columns, columns, strict=True)
        ]

    @property
    def identity(self) -> tuple[str, ...]:
        """The columns that make a row the same row."""
        return IDENTITY[self.object]

    @property
    def written_at(self) -> str:
        """The expression of the time when a row was written, which makes the latest version of it."""
        return _express_time(self.table)

    @property
    def temporary(self) -> str:
        """The temporary table that a batch is sent to."""
        return f"batch_{self.object}"

    @property
    def present(self) -> str:
        """The temporary table of whose rows the LMS has."""
        return f"present_{self.object}"

    @property
    def compared(self) -> str:
        """The temporary table of a batch that was compared with what is stored."""
        return f"compared_{self.object}"


def plan_copies(store: Store, objects: Iterable[str], *, enabled: bool = True) -> list[Copy]:
    """Which columns of which object go into which table.

    Args:
        store: where to copy to.
        objects: names from `sink.lms.objects.OBJECTS`.
        enabled: store PII; else the key of the pseudonyms is read, and made where there is none.

    Raises:
        UsageError: the map does not say what to keep of an object, or keeps what cannot be.
        MigrationError: a table is missing.
    """
    places = {name: f"event_sink.{name}" if enabled else KEYED for name in objects}
    names = {name: store.client.table(place) for name, place in places.items()}
    tables = read_tables(store.client, names.values())
    version = _read_clock(store, list(tables.values()))
    dump_id = uuid.uuid4()
    copies = []
    for name, table_name in names.items():
        target = store.pii_map.targets.get(places[name])
        if target is None:
            raise UsageError(f"The map has no target {places[name]}, so nothing of it can be stored. Add the target.")
        table = tables.get(table_name)
        if table is None:
            raise MigrationError(f"The table {table_name} does not exist. Run `aspects-pii init`.")
        columns, meta_keys = _choose_columns(name, places[name], target, table)
        dropped = [
            c for c in target.pii_columns if c in table.columns and c not in columns and c not in table.key_columns
        ]
        digest = None if enabled else _make_digest(store)
        copies.append(Copy(name, table, columns, tuple(sorted(dropped)), version, dump_id, digest, meta_keys))
    return copies


def _make_digest(store: Store) -> Callable[[str], str]:
    # With the key that the next build would take, or its viewers would be others than these.
    set_pseudonym_key(store.client, store.policy.pseudonym_secret)
    return read_viewer_digest(store.client)


def _choose_columns(name: str, place: str, target: Target, table: Table) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The columns that are copied, and the keys of `meta` that are."""
    if misfit := _explain_keep(name, place, target, table):
        raise UsageError(f"targets.{place}.keep: {misfit[0]}. {misfit[1]}")
    keep, meta_keys = split_keep(target.keep or _list_kept(name, place))
    return tuple(keep), meta_keys


def find_keep_problems(store: Store) -> list[tuple[str, str, str]]:
    """Why `sync` would refuse the map, as (place, reason, fix); tables that are not there, or in no map, are passed over."""
    places = [(name, f"event_sink.{name}") for name in OBJECTS] + [(name, KEYED) for name in WITHOUT_PII]
    wanted = [(name, place, store.pii_map.targets[place]) for name, place in places if place in store.pii_map.targets]
    tables = read_tables(store.client, [store.client.table(place) for _, place, _ in wanted])
    problems = []
    for name, place, target in wanted:
        table = tables.get(store.client.table(place))
        if table is not None and (misfit := _explain_keep(name, place, target, table)):
            problems.append((f"targets.{place}.keep", *misfit))
    return problems


def _explain_keep(name: str, place: str, target: Target, table: Table) -> tuple[str, str] | None:
    """Why a target cannot keep what it says, as (reason, fix)."""
    if misfit := explain_keep(target.keep or ()):
        return misfit
    available = _list_available(name, place)
    keep, _ = split_keep(target.keep or _list_kept(name, place))
    for column in keep:
        if column not in available:
            return f"the LMS has no {column}", f"Possible: {', '.join(available)}."
        if column not in table.columns:
            return f"the table has no column {column}", "Run `aspects-pii init`, or correct `keep`."
    # Rows that are alike in the columns of the sort key are one row to ClickHouse, and what is in it cannot be emptied.
    needed = {*IDENTITY[name], *(column for column in available if column in table.key_columns)}
    if place == KEYED:
        needed.add(_VIEWER)
    if missing := sorted(needed - set(keep)):
        return f"{', '.join(missing)} cannot be left out", "Add it."
    return None


def _list_available(name: str, place: str) -> list[str]:
    """The columns that the LMS has of an object, as the table calls them."""
    columns = list(OBJECTS[name].columns)
    return [_VIEWER if column == "username" else column for column in columns] if place == KEYED else columns


def _list_kept(name: str, place: str) -> list[str]:
    """What is kept where the map does not say."""
    return [column for column in _list_available(name, place) if column != META]


def _read_clock(store: Store, tables: Sequence[Table]) -> datetime:
    """The time that the rows of this sync carry: now, but later than any row's that is there, whatever the clocks say."""
    latest = [f"SELECT max({_express_time(table)}) AS at FROM {table.name.sql}" for table in tables]
    return store.client.later_than(f"({' UNION ALL '.join(latest)})")


def _express_time(table: Table) -> str:
    """Upstream's tables have times as text, and not all of them in one format."""
    if is_text(table.columns["time_last_dumped"]):
        return "parseDateTime64BestEffortOrZero(time_last_dumped, 6, 'UTC')"
    return "toDateTime64(time_last_dumped, 6, 'UTC')"


def express_key(copy: Copy) -> str:
    return f"tuple({', '.join(f'toString({quote(column)})' for column in copy.identity)})"


def express_digest(copy: Copy) -> str:
    """The content of a row as one number; texts, since upstream's tables have other types than ours."""
    texts = [f"ifNull(toString({quote(column)}), '')" for column in copy.columns]
    return f"sipHash128({', '.join(texts)})"
