"""Searching texts for what subjects are called: residue that no map knows of. One pass a table, for all subjects.

Texts are split into words. Those rows are looked at closely in which two words stand together that belong to one of the
names; so the time depends on the texts, and hardly on the number of subjects. What is searched for travels as rows of temporary
tables and stands in no statement.

.. pii: Holds names, user names and e-mail addresses of the users being looked for, in memory only.
.. pii_types: name, username, email_address
.. pii_retirement: consumer_api
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from sink.clickhouse.client import INCLUDING_HIDDEN, ClickHouse
from sink.erasure.derived import read_all_tables
from sink.erasure.exemptions import list_not_pii
from sink.erasure.identities import Identities
from sink.erasure.search_terms import NameColumn, Term, list_name_columns, list_terms
from sink.erasure.sure_names import express_form, express_is_sure, express_kind
from sink.erasure.text_columns import TextTable, list_definitions, list_text_tables, read_cells
from sink.erasure.text_forms import (
    holds_address,
    holds_word,
    leave_out,
    list_anchors,
    list_anchors_of_name,
    may_hold_address,
    read_forms,
    squeeze,
)
from sink.errors import DatabaseError
from sink.names import TableName, quote
from sink.pii_map import SubjectId
from sink.progress import track
from sink.store import Store

# Temporary tables of the session, in memory.
_TERMS = "scan_terms"
_ANCHORS = "scan_anchors"
_SUBJECTS = "scan_subjects"
_SHARED = "scan_shared"
_LONGER = "scan_longer"
_GIVEN = "scan_given"

MATCHING = {"query_plan_filter_push_down": 0}
"""What a query of `express_matches` runs with: pushed down, its conditions are planned for a fifth of a second a table, and take
the texts apart twice (seen: 26.9)."""

# More names that contain another one than this, and the other one means nobody in particular.
_MOST_LONGER = 100


@dataclass(frozen=True)
class Hit:
    """A column in which something stands that a subject is called."""

    table: TableName
    column: str
    subject: str
    rows: int
    is_sure: bool = True
    """False where it is a word that may mean something else, or somebody else."""

    @property
    def place(self) -> str:
        """The column, as a finding names it."""
        return f"{self.table}.{self.column}"


@dataclass(frozen=True)
class Unsearched:
    """A column that could not be read, or a table of which none could."""

    table: TableName
    column: str | None
    reason: str

    @property
    def place(self) -> str:
        """The column or table, as a finding names it."""
        return f"{self.table}.{self.column}" if self.column else str(self.table)


@dataclass(frozen=True)
class Search:
    """What a search found, and where it could not look."""

    hits: list[Hit] = field(default_factory=list)
    unsearched: list[Unsearched] = field(default_factory=list)


def scan(store: Store, subjects: Sequence[SubjectId], identities: Identities) -> Search:
    """Search every text column of every table that can be read.

    Raises:
        DatabaseError: the schema could not be read, or nothing be compared, so nothing is known.
    """
    search = Search()
    with searching(store, subjects, identities) as tables:
        for table in track("searching", tables, "tables"):
            _search_table(store.client, table, search)
    return search


@contextmanager
def searching(store: Store, subjects: Sequence[SubjectId], identities: Identities) -> Iterator[list[TextTable]]:
    """What is looked for made ready in this session, for `express_matches`; the tables to look in, none for want of a name.

    Raises:
        DatabaseError: the schema could not be read, or nothing be compared, so nothing is known.
    """
    terms = [term for subject in subjects for term in list_terms(store.pii_map, subject, identities)]
    if not terms:
        yield []
        return
    with _temporary_tables(store.client):
        _fill_tables(store, subjects, terms)
        not_pii = list_not_pii(store)
        texts = list_text_tables(store.client, read_all_tables(store), not_pii)
        # To plan a search takes the engine longer than to find nothing.
        yield [*(table for table in texts if not table.table.is_empty), *list_definitions(not_pii)]


@contextmanager
def _temporary_tables(client: ClickHouse) -> Iterator[None]:
    tables = {
        _GIVEN: "subject String, kind String, term String",
        _TERMS: "subject String, kind String, term String, is_sure UInt8, anchor UInt64",
        _ANCHORS: "anchor UInt64",
        _SUBJECTS: "subject String",
        _SHARED: "kind String, term String",
        _LONGER: "kind String, term String, longer String",
    }
    try:
        for name, columns in tables.items():
            client.execute(f"DROP TEMPORARY TABLE IF EXISTS {quote(name)}")
            client.execute(f"CREATE TEMPORARY TABLE {quote(name)} ({columns})")
        yield
    finally:
        for name in tables:
            client.execute(f"DROP TEMPORARY TABLE IF EXISTS {quote(name)}")


def _fill_tables(store: Store, subjects: Sequence[SubjectId], terms: Sequence[Term]) -> None:
    client = store.client
    client.insert(_SUBJECTS, ["subject"], [(str(subject),) for subject in subjects])
    client.insert(
        _GIVEN,
        ["subject", "kind", "term"],
        [(term.subject, str(term.kind), term.text) for term in terms],
    )
    sources = list_name_columns(store)
    _find_shared_terms(store, sources)
    # The anchor that the fewest other names have: all may share `learner` or `example.org`.
    client.execute(
        f"""
        INSERT INTO {quote(_TERMS)}
        WITH named AS (
                 SELECT DISTINCT subject, kind, {express_form("kind", "term")} AS form FROM {quote(_GIVEN)}
             ),
             anchored AS (SELECT subject, kind, form, arrayJoin({list_anchors_of_name("form")}) AS anchor FROM named),
             counted AS (SELECT anchor, count() AS names FROM anchored GROUP BY anchor)
        SELECT subject, kind, form, {express_is_sure("kind", "form")} AND (kind, form) NOT IN {quote(_SHARED)},
               argMin(anchor, (names, anchor))
        FROM anchored INNER JOIN counted ON counted.anchor = anchored.anchor
        GROUP BY subject, kind, form
        """
    )
    client.execute(f"INSERT INTO {quote(_ANCHORS)} SELECT DISTINCT anchor FROM {quote(_TERMS)}")
    _find_longer_names(store, sources)


def _find_shared_terms(store: Store, sources: Sequence[NameColumn]) -> None:
    """What somebody else is called too, who is not looked for: a text that says it need not mean the subject."""
    for source in sources:
        name = f"ifNull(toString({quote(source.column)}), '')"
        kind = express_kind("{kind:String}", name)
        store.client.execute(
            f"""
            INSERT INTO {quote(_SHARED)}
            SELECT DISTINCT {kind}, {express_form(kind, name)} AS aspects_pii_form FROM {source.table.sql}
            WHERE toString({quote(source.key)}) NOT IN {quote(_SUBJECTS)}
              AND aspects_pii_form IN (SELECT {express_form("kind", "term")} FROM {quote(_GIVEN)})
            """,
            kind=str(source.kind),
        )


def _find_longer_names(store: Store, sources: Sequence[NameColumn]) -> None:
    """Names of others in which a name that is looked for stands: `Ana Lopez Perez` where `Ana Lopez` is looked for."""
    longer = f"if(kind = 'full name', trimBoth({squeeze('value')}), value)"
    for source in sources:
        store.client.execute(
            f"""
            INSERT INTO {quote(_LONGER)}
            SELECT DISTINCT kind, term, {longer} AS longer
            FROM (
                SELECT aspects_pii_value AS value,
                       arrayJoin(arrayFilter(a -> a IN {quote(_ANCHORS)}, {list_anchors("value")})) AS anchor
                FROM (
                    SELECT lowerUTF8(ifNull(toString({quote(source.column)}), '')) AS aspects_pii_value FROM {source.table.sql}
                    WHERE toString({quote(source.key)}) NOT IN {quote(_SUBJECTS)}
                )
            ) AS others
            INNER JOIN {quote(_TERMS)} AS terms ON terms.anchor = others.anchor
            WHERE kind != 'address' AND longer != term AND {holds_word("longer", "term")}
            """
        )


def _search_table(client: ClickHouse, table: TextTable, search: Search) -> None:
    """Search all columns at once; where that fails, one by one, so that a bad one spoils itself only."""
    try:
        search.hits.extend(_search_columns(client, table.name, table.columns))
    except DatabaseError as error:
        failed = {}
        for column in table.columns:
            try:
                search.hits.extend(_search_columns(client, table.name, [column]))
            except DatabaseError as reason:
                failed[column] = str(reason)
        if len(failed) == len(table.columns):
            search.unsearched.append(Unsearched(table.name, None, str(error)))
        else:
            search.unsearched.extend(Unsearched(table.name, column, reason) for column, reason in failed.items())


def _search_columns(client: ClickHouse, table: TableName, columns: list[str]) -> list[Hit]:
    found = client.rows(
        f"""
        SELECT place, subject, uniqExactIf(row, is_sure AND is_meant) AS sure_rows, uniqExact(row) AS rows
        FROM ({express_matches(client, table, columns)})
        GROUP BY place, subject ORDER BY place, subject
        """,
        INCLUDING_HIDDEN | MATCHING,
    )
    return [
        Hit(table, columns[place], subject, int(sure_rows or rows), is_sure=bool(sure_rows))
        for place, subject, sure_rows, rows in found
    ]


def express_matches(client: ClickHouse, table: TableName, columns: list[str], condition: str = "") -> str:
    """A query of the cells that name somebody: `row`, `place` (the column's in `columns`), `text`, `subject`, `is_sure` and
    `is_meant`. The text is about the subject for sure where both are true.

    Args:
        client: where the tables are that `searching` has made ready.
        table: the table.
        columns: those to look in.
        condition: WHERE and which rows to look in; all if left out.
    """
    sure = (
        f"multiIf(kind = 'full name', {holds_word(leave_out(squeeze('forms'), 'longer'), 'term')}, "
        f"kind = 'address', {holds_address('forms', 'term')}, {holds_word(leave_out('forms', 'longer'), 'term')})"
    )
    perhaps = f"kind = 'address' AND {may_hold_address('forms', 'term')}"
    return f"""
            SELECT row, place, text, subject, is_sure, {sure} AS is_meant, {perhaps} AS may_be_meant
            FROM (
                SELECT row, place, text, forms, arrayJoin(anchors) AS anchor
                FROM (
                    SELECT row, place, text, forms,
                           arrayDistinct(arrayFilter(a -> a IN {quote(_ANCHORS)}, {list_anchors("forms")})) AS anchors
                    FROM ({read_forms(read_cells(client, table, columns, condition))})
                )
                WHERE notEmpty(anchors)
            ) AS candidates
            INNER JOIN (
                SELECT subject, kind, term, anchor, contained.longer AS longer,
                       is_sure AND length(longer) < {_MOST_LONGER} AS is_sure
                FROM {quote(_TERMS)} AS terms
                LEFT JOIN (
                    SELECT kind, term, groupUniqArray({_MOST_LONGER})(longer) AS longer
                    FROM {quote(_LONGER)} GROUP BY kind, term
                ) AS contained ON contained.kind = terms.kind AND contained.term = terms.term
            ) AS terms ON terms.anchor = candidates.anchor
            WHERE is_meant OR may_be_meant
    """
