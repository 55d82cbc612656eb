"""Columns that hold what the PII tables know, whatever they are called and in whatever language.

What is known goes into a set of digests, and one query a table compares every text with it. Values never leave ClickHouse:
only numbers of rows do.

.. no_pii: names of tables and columns, and counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from sink.clickhouse.catalog import Table, read_tables
from sink.clickhouse.client import ClickHouse
from sink.erasure.problems import Problem
from sink.erasure.search_terms import list_name_columns
from sink.erasure.sure_names import express_form, express_is_sure, express_kind
from sink.erasure.survey import Survey
from sink.erasure.text_columns import TextTable, list_text_tables, read_cells
from sink.erasure.text_forms import read_forms, squeeze
from sink.errors import DatabaseError
from sink.names import TableName, quote
from sink.store import Store
from sink.wording import counted

# A temporary table of the session, in memory.
_KNOWN = "known_values"
# In databases of events and of datasets anonymous ids are what is kept; the ledger has opaque ids, and counts.
_WITH_ANONYMOUS_IDS = ("xapi", "reporting")
_LEDGER = "pii_ledger"
# Short user names are words. A column of user names has many different ones, one of courses or modes has few.
_FEWEST_WORDS = 5
_LEAST_SHARE_OF_WORDS = 0.5
_SHORTEST_WORD = 3
# Rows that ClickHouse reads at a time: whole ones are sampled, the others are not touched.
_GRANULE = 8192
# What stands around values in JSON, arrays, lists, addresses of pages and messages.
_AROUND = "[\"\\'`\\\\[\\\\](){}<>,;|=&:/\\n\\r\\t\\x1e]+"
MOST_WORDS = 6
"""Words of a full name that is looked for within a sentence."""
_KINDS = {"address": "addresses", "full name": "full names", "user name": "user names", "id": "anonymous ids"}


@dataclass(frozen=True)
class Match:
    """How many texts of a column hold something known."""

    texts: int
    """Texts that were looked at: cells that are not empty."""
    by_kind: dict[str, int]
    """How many of them hold what."""
    words: int
    """How many hold a short user name."""
    different_words: int

    def list_kinds(self, *, with_ids: bool) -> list[str]:
        """What the column holds, in words; nothing where it is no more than chance."""
        kinds = [name for kind, name in _KINDS.items() if self.by_kind.get(kind) and (with_ids or kind != "id")]
        if not kinds and self.different_words >= _FEWEST_WORDS and self.words >= self.texts * _LEAST_SHARE_OF_WORDS:
            return ["user names"]
        return kinds

    def count(self, *, with_ids: bool) -> int:
        """How many texts hold the kind that most of them hold."""
        return max([count for kind, count in self.by_kind.items() if with_ids or kind != "id"] + [0]) or self.words


@dataclass(frozen=True)
class Held:
    """What a column holds that the map does not name, or why a table could not be looked at."""

    table: Table
    column: str | None
    reason: str

    @property
    def place(self) -> str:
        """The column or table, as a problem names it."""
        return f"{self.table.name}.{self.column}" if self.column else str(self.table.name)

    def to_problem(self, survey: Survey) -> Problem:
        """The same with the fix."""
        advice = survey.advise(self.table, self.column or "")
        return Problem(self.place, self.reason, f"{advice} If it is none, name it under `not_pii` with the reason.")


def find_by_value(store: Store, survey: Survey) -> list[Held]:
    """Columns that the map does not name and that hold names, addresses, user names or anonymous ids of the PII tables.

    Raises:
        DatabaseError: what the PII tables know could not be read.
    """
    held = []
    with _known_values(store) as is_anything_known:
        text_tables = list_text_tables(store.client, survey.tables, survey.not_pii) if is_anything_known else []
        for text_table in text_tables:
            table = text_table.table
            database = survey.databases.get(table.name.database)
            target = survey.targets.get(table.name)
            columns = _list_unmapped(text_table, target.listed_columns if target else set())
            shown = _find_view(table, survey)
            if not columns or shown.name in survey.derived or database == _LEDGER:
                continue
            with_ids = database not in _WITH_ANONYMOUS_IDS
            found = _check_table(store, table, columns, with_ids=with_ids)
            held += [Held(shown, column, reason) for column, reason in found]
    return held


def _list_unmapped(text_table: TextTable, known: set[str]) -> list[str]:
    return [column for column in text_table.columns if not {column, column.partition(".")[0]} & known]


def _find_view(table: Table, survey: Survey) -> Table:
    """The materialized view behind which a table without a name is, or the table itself."""
    if not table.is_inner:
        return table
    return next((view for view in survey.tables.values() if view.storage == table.name), table)


@contextmanager
def _known_values(store: Store) -> Iterator[bool]:
    """Collect what the PII tables know for the time of the block; False where they know nothing."""
    client = store.client
    client.execute(f"DROP TEMPORARY TABLE IF EXISTS {quote(_KNOWN)}")
    client.execute(f"CREATE TEMPORARY TABLE {quote(_KNOWN)} (digest UInt64) ENGINE = Set SETTINGS persistent = 0")
    try:
        for source in list_name_columns(store):
            add_known(client, quote(_KNOWN), source.table, source.column, str(source.kind))
        for table, column in _list_id_columns(store):
            add_known(client, quote(_KNOWN), table, column, "id")
        yield bool(client.value(f"SELECT sipHash64('any') IN {quote(_KNOWN)}"))
    finally:
        client.execute(f"DROP TEMPORARY TABLE IF EXISTS {quote(_KNOWN)}")


def _list_id_columns(store: Store) -> list[tuple[TableName, str]]:
    """Where the map says that anonymous ids of subjects are, as far as it is there."""
    paths = [source.rpartition(".") for source in store.pii_map.subject.identifiers.values()]
    found = [(store.client.table(t), c) for t, _, c in paths if store.pii_map.targets[t].pii[c] == "id"]
    tables = read_tables(store.client, [table for table, _ in found])
    return [(table, column) for table, column in found if table in tables and column in tables[table].columns]


def add_known(client: ClickHouse, known: str, table: TableName, column: str, kind: str) -> None:
    """Add digests of what stands in a column, alone and with its kind, to a table of the engine Set.

    Args:
        client: the connection.
        known: the Set, quoted: `digest UInt64`.
        table: whose column.
        column: what people are called.
        kind: `address`, `user name`, `full name` or `id`.
    """
    name = f"ifNull(toString({quote(column)}), '')"
    kind_of_value = "'id'" if kind == "id" else express_kind("{kind:String}", name)
    sure = "1" if kind == "id" else express_is_sure("aspects_pii_kind", "aspects_pii_form")
    client.execute(
        f"""
        INSERT INTO {known}
        SELECT DISTINCT arrayJoin([
            sipHash64('any'), sipHash64(aspects_pii_form), sipHash64(if({sure}, aspects_pii_kind, 'word'), aspects_pii_form)
        ])
        FROM (
            SELECT {kind_of_value} AS aspects_pii_kind, {express_form("aspects_pii_kind", name)} AS aspects_pii_form
            FROM {table.sql}
        )
        WHERE lengthUTF8(aspects_pii_form) >= {_SHORTEST_WORD}
        """,
        kind=kind,
    )


def _check_table(store: Store, table: Table, columns: list[str], *, with_ids: bool) -> Iterator[tuple[str | None, str]]:
    """What columns hold, as (column, reason); (None, reason) where the table cannot be read."""
    try:
        matches = compare_table(store.client, quote(_KNOWN), table, columns, store.policy.map_check_rows)
    except DatabaseError as error:
        yield None, f"its texts could not be looked at: {error}"
        return
    for column, match in matches.items():
        if kinds := match.list_kinds(with_ids=with_ids):
            share = 100 * match.count(with_ids=with_ids) / match.texts
            yield (
                column,
                f"{share:.3g} % of {counted(match.texts, 'text')} looked at hold {' and '.join(kinds)} of people that the "
                "PII tables know",
            )


def compare_table(
    client: ClickHouse, known: str, table: Table, columns: list[str], most: int | None = None
) -> dict[str, Match]:
    """How many texts of columns hold something that `add_known` has put into the Set `known`; columns without texts are
    left out. Of no more than `most` rows, if that is given; of all rows also full names within sentences.

    Raises:
        DatabaseError: the table could not be read.
    """
    counts = ", ".join(
        [f"countIf(arrayExists(value -> sipHash64('{kind}', value) IN {known}, known))" for kind in _KINDS]
    )
    words = f"arrayFilter(value -> sipHash64('word', value) IN {known}, known_whole)"
    pieces = f"arrayMap(piece -> trimBoth(piece), splitByRegexp('{_AROUND}', forms))"
    in_prose = (
        "arrayMap(word -> replaceRegexpOne(word, '[.!?]+$', ''), splitByWhitespace(arrayStringConcat(pieces, ' ')))"
    )
    names = f"arrayMap(piece -> trimBoth({squeeze('piece')}), pieces)"
    # Of a JSON text, each of its strings.
    strings = f"arrayMap(part -> splitByWhitespace({squeeze('part')}), splitByRegexp('[\"\\x1e]+', forms))"
    phrases = "[]" if most else f"arrayFlatten(arrayMap(words -> {_list_phrases('words')}, {strings}))"
    rows = client.rows(
        f"""
        SELECT place, count(), {counts}, countIf(notEmpty({words})), uniqExactArray({words})
        FROM (
            SELECT place,
                   arrayFilter(value -> sipHash64(value) IN {known}, arrayConcat(pieces, names, {phrases})) AS known_whole,
                   arrayConcat(known_whole, arrayFilter(value -> sipHash64(value) IN {known}, in_prose)) AS known
            FROM (
                SELECT place, forms, pieces, {names} AS names, {in_prose} AS in_prose
                FROM (
                    SELECT place, forms, {pieces} AS pieces
                    FROM ({read_forms(read_cells(client, table.name, columns, _sample(client, table, most) if most else ""))})
                )
            )
        )
        GROUP BY place ORDER BY place
        """,
        None,
        # Where nothing is to be bound, the driver would take the text for a pattern.
        **({"most": most, "every": -(-table.rows // most)} if most else {}),
    )
    return {
        columns[place]: Match(
            int(seen), dict(zip(_KINDS, map(int, by_kind), strict=True)), int(with_words), int(different_words)
        )
        for place, seen, *by_kind, with_words, different_words in rows
    }


def _list_phrases(words: str) -> str:
    """SQL: every few words that follow each other."""
    return (
        f"arrayFlatten(arrayMap(size -> arrayMap(first -> arrayStringConcat(arraySlice({words}, first, size), ' '), "
        f"range(1, toUInt32(greatest(length({words}) - size + 2, 1)))), range(2, {MOST_WORDS + 1})))"
    )


def _sample(client: ClickHouse, table: Table, most: int) -> str:
    """The clauses that read no more than so many rows, spread over the table where its engine can tell rows apart."""
    if table.rows <= most or not table.is_merge_tree or client.cluster:
        return "LIMIT {most:UInt64}"
    return f"PREWHERE intDiv(_part_offset, {_GRANULE}) % {{every:UInt64}} = 0 LIMIT {{most:UInt64}}"
