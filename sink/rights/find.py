"""Finding out whom a name, an address or an anonymous id means.

One statement asks all columns of the PII map that say what somebody is called, for all texts at once; the LMS is read once
from its beginning to its end. What is searched for travels as rows of a temporary table and stands in no statement.

.. pii: Holds the texts that are searched for, and what is found by them, in memory only.
.. pii_types: id, name, username, email_address
.. pii_retirement: consumer_api
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from sink.clickhouse.catalog import read_tables
from sink.clickhouse.client import ClickHouse
from sink.clickhouse.row_policies import require_no_row_policy
from sink.erasure.search_terms import list_name_columns
from sink.errors import UsageError
from sink.ledger.entries import Action, State
from sink.names import TableName, quote, quote_text
from sink.rights.folding import express_beginnings, express_folded, fold, list_beginnings, list_spellings
from sink.store import Store

if TYPE_CHECKING:
    from sink.lms.database import LmsDatabase

# A temporary table of the session, in memory.
_TEXTS = "find_texts"
SHORTEST_PREFIX = 3
"""Fewer characters begin what half of all people are called."""
_FULL_NAME = "name"


class Text(NamedTuple):
    """Something to search for, and how it is spoken of: where it was given, not what it is."""

    label: str
    text: str

    def __repr__(self) -> str:
        return f"Text({self.label})"


class Match(NamedTuple):
    """A column that says of a subject what was searched for."""

    label: str
    subject: str
    place: str
    value: str
    """What stands there; empty unless it is to be shown."""

    def __repr__(self) -> str:
        return f"Match({self.label}, {self.subject}, {self.place})"


@dataclass(frozen=True)
class Found:
    """Whom texts mean."""

    matches: list[Match] = field(default_factory=list, repr=False)
    """By text, subject and place."""
    states: Mapping[str, str] = field(default_factory=dict)
    """Of those found who are retired, or about to be: subject -> state of the retirement."""
    places: list[str] = field(default_factory=list)
    """The columns that were asked."""

    @property
    def subjects(self) -> list[str]:
        """Everybody who was found, each once."""
        return list(dict.fromkeys(match.subject for match in self.matches))

    @property
    def labels(self) -> set[str]:
        """The texts that mean somebody."""
        return {match.label for match in self.matches}


class _Column(NamedTuple):
    """A column that says what the subject of a row is called."""

    table: TableName
    key: str
    column: str
    is_full_name: bool

    @property
    def place(self) -> str:
        return f"{self.table}.{self.column}"


def find(
    store: Store,
    texts: Sequence[Text],
    *,
    prefix: bool = False,
    lms: LmsDatabase | None = None,
    show: bool = False,
    actor: str | None = None,
) -> Found:
    """Search for subjects by what they are called, and put on record that somebody has.

    Args:
        store: the store.
        texts: what to search for; a text finds whoever is called so, whatever the case and the accents.
        prefix: find also who is called something that begins so; of a full name any word can begin so.
        lms: search the LMS too.
        show: say what stands in the columns.
        actor: who asks.

    Raises:
        UsageError: a text says nothing, or too little for a prefix; names the text by its label. Nothing was searched.
        ErasureError: rows may be hidden from us, so nothing is known.
        DatabaseError: a column could not be asked, so nothing is known.
        LmsError: the same of the LMS.
        LedgerError: the search could not be put on record, so nothing is told.
    """
    forms = _fold_texts(texts, prefix=prefix)
    columns = _list_columns(store)
    require_no_row_policy(store.client, [column.table for column in columns])
    matches = _ask_tables(store.client, columns, texts, forms, prefix=prefix, show=show)
    places = [column.place for column in columns]
    if lms is not None:
        found, asked = _ask_lms(lms, texts, forms, prefix=prefix, show=show)
        matches, places = matches | found, [*places, *asked]
    order = {text.label: number for number, text in enumerate(texts)}
    ordered = sorted(matches, key=lambda match: (order[match.label], len(match.subject), *match[1:]))
    subjects = sorted({match.subject for match in ordered})
    retired = {r.subject: str(r.state) for r in store.ledger.find(subjects) if r.state is not State.WITHDRAWN}
    store.ledger.record_event(
        Action.SEARCHED,
        {
            "texts": len(texts),
            "found": len(subjects),
            "retired": len(retired),
            "prefix": prefix,
            "shown": show,
            "lms": lms is not None,
        },
        actor,
    )
    return Found(ordered, retired, places)


def _fold_texts(texts: Sequence[Text], *, prefix: bool) -> dict[str, set[int]]:
    """Texts as they are compared -> which of `texts` they are."""
    forms: dict[str, set[int]] = {}
    for number, text in enumerate(texts):
        if not _is_utf8(text.text):
            raise UsageError(f"{text.label}: it is not UTF-8 text.")
        spellings = list_spellings(text.text)
        if not spellings:
            raise UsageError(f"{text.label}: there is nothing to search for in it.")
        if prefix and len(spellings[0]) < SHORTEST_PREFIX:
            raise UsageError(f"{text.label}: --prefix needs {SHORTEST_PREFIX} characters or more; fewer mean too many.")
        for form in spellings:
            forms.setdefault(form, set()).add(number)
    return forms


def _is_utf8(text: str) -> bool:
    """False for what an argument holds that was no text to begin with."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _list_columns(store: Store) -> list[_Column]:
    """Columns with names, user names, addresses, and the anonymous ids among the identifiers."""
    columns = [
        _Column(source.table, source.key, source.column, source.pii_type == _FULL_NAME)
        for source in list_name_columns(store)
    ]
    sources = [source.rpartition(".") for source in store.pii_map.subject.identifiers.values()]
    tables = read_tables(store.client, [store.client.table(target) for target, _, _ in sources])
    for target, _, column in sources:
        table = tables.get(store.client.table(target))
        key = store.pii_map.targets[target].id_column
        if table is not None and {column, key} <= set(table.columns):
            columns.append(_Column(table.name, key, column, is_full_name=False))
    return list({column.place: column for column in reversed(columns)}.values())[::-1]


def _ask_tables(
    client: ClickHouse,
    columns: Sequence[_Column],
    texts: Sequence[Text],
    forms: Mapping[str, Collection[int]],
    *,
    prefix: bool,
    show: bool,
) -> set[Match]:
    if not columns:
        return set()
    read = " UNION ALL ".join(
        f"SELECT {quote_text(str(number))} AS aspects_pii_place, "
        f"ifNull(toString({quote(column.key)}), '') AS aspects_pii_subject, "
        f"ifNull(toString({quote(column.column)}), '') AS aspects_pii_value, "
        f"{int(column.is_full_name)} AS aspects_pii_is_full_name "
        f"FROM {client.shards(column.table.sql)} WHERE aspects_pii_value != ''"
        for number, column in enumerate(columns)
    )
    of_words = express_beginnings("folded", "lengths", is_full_name=True)
    begins = f"if(is_full_name, {of_words}, {express_beginnings('folded', 'lengths', is_full_name=False)})"
    lengths = f"(SELECT groupUniqArray(length(form)) FROM {quote(_TEXTS)})"
    compared = f"arrayJoin({begins})" if prefix else "folded"
    with _texts_as_rows(client, forms):
        rows = client.rows(
            f"""
            WITH {lengths} AS lengths
            SELECT DISTINCT number, subject, place, {"value" if show else "''"} AS shown
            FROM (
                SELECT place, subject, value, {compared} AS form
                FROM (
                    SELECT aspects_pii_place AS place, aspects_pii_subject AS subject, aspects_pii_value AS value,
                           aspects_pii_is_full_name AS is_full_name, {express_folded("value")} AS folded
                    FROM ({read})
                )
            ) AS named
            INNER JOIN {quote(_TEXTS)} AS texts ON texts.form = named.form
            WHERE subject != ''
            """
        )
    return {
        Match(texts[number].label, subject, columns[int(place)].place, shown) for number, subject, place, shown in rows
    }


@contextmanager
def _texts_as_rows(client: ClickHouse, forms: Mapping[str, Collection[int]]) -> Iterator[None]:
    try:
        client.execute(f"DROP TEMPORARY TABLE IF EXISTS {quote(_TEXTS)}")
        client.execute(f"CREATE TEMPORARY TABLE {quote(_TEXTS)} (number UInt32, form String)")
        rows = [(number, form) for form, numbers in forms.items() for number in sorted(numbers)]
        client.insert(_TEXTS, ["number", "form"], rows)
        yield
    finally:
        client.execute(f"DROP TEMPORARY TABLE IF EXISTS {quote(_TEXTS)}")


def _ask_lms(
    lms: LmsDatabase, texts: Sequence[Text], forms: Mapping[str, Collection[int]], *, prefix: bool, show: bool
) -> tuple[set[Match], list[str]]:
    """The same by the LMS; and the columns that were asked."""
    lengths = {len(form.encode()) for form in forms}
    matches: set[Match] = set()
    places: dict[str, None] = {}
    with lms.snapshot() as snapshot:
        for user_id, place, value in snapshot.names():
            places[place] = None
            folded = fold(value)
            begins = list_beginnings(folded, lengths, is_full_name=place.endswith(".name")) if prefix else {folded}
            for form in begins & forms.keys():
                matches |= {
                    Match(texts[number].label, str(user_id), f"LMS: {place}", value if show else "")
                    for number in forms[form]
                }
    return matches, [f"LMS: {place}" for place in places]
