"""A copied table with nobody in it: filled beside the old one, held against it, and put into its place at once.

The new table says in its comment which run has made it, so that a table is done or it is not, wherever a run is interrupted.
The old one is dropped with all of its files: parts that are replaced, hidden rows and detached parts too.

.. pii: Reads the rows of copied people, and writes them without.
.. pii_types: id, name, username, email_address, location, phone_number, birth_date, gender, biography, image, other
.. pii_retirement: local_api
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sink.clickhouse.catalog import Table, find_length, is_nullable
from sink.clickhouse.client import ClickHouse
from sink.erasure.new_values import NewValues, express_content
from sink.erasure.swap import COPYING, list_independent
from sink.erasure.work import Work, ended_on_failure
from sink.errors import ErasureError
from sink.names import TableName, quote, quote_columns, quote_text
from sink.rights.dev_copy.columns import Column, Fate, list_names
from sink.rights.dev_copy.inventing import PREFIX, Inventing
from sink.rights.dev_copy.texts import Rewriter, Texts
from sink.wording import counted

_ROWS_AT_ONCE = 5_000
_DONE = re.compile(r" ?\[anonymised by aspects-pii, run ([0-9a-f]{16})\]$")
_LEFT_ALONE = {"check_table_dependencies": 0, "check_referential_table_dependencies": 0}


@dataclass(frozen=True)
class CopiedTable:
    """A table of the copy, and what becomes of its columns."""

    target: str
    """As the map names it."""
    table: Table
    columns: Sequence[Column]

    @property
    def name(self) -> TableName:
        """The table."""
        return self.table.name

    @property
    def subject(self) -> str | None:
        """The column with the subject's id, if the table has one."""
        return next((column.name for column in self.columns if column.is_subject), None)

    def is_done(self, run: str) -> bool:
        """True where this run has put it into its place."""
        found = _DONE.search(self.table.comment)
        return found is not None and found[1] == run


def rebuild(copied: CopiedTable, inventing: Inventing, rewriter: Rewriter) -> int:
    """Put a table with nobody in it into the place of a copied one; return how many rows it has.

    Raises:
        ErasureError: the new rows are not as they have to be, or rows came or went meanwhile; nothing was changed.
        DatabaseError: the engine refused; the table is the old one, or the new one.
    """
    client, table = inventing.client, copied.table
    new = find_new(copied)
    drop_leftover(client, copied)
    comment = f"{_DONE.sub('', table.comment)} [anonymised by aspects-pii, run {inventing.run}]".strip()
    client.execute(f"CREATE TABLE {new.sql} AS {table.name.sql} COMMENT {quote_text(comment)}")
    for name in (table.name, new):
        client.execute(f"SYSTEM STOP MERGES {name.sql}")
    try:
        _fill(copied, inventing, rewriter, new)
        rows = _require_right(client, copied, new)
        client.execute(f"EXCHANGE TABLES {table.name.sql} AND {new.sql}", repeatable=False)
    finally:
        # The name means the new table by now, or the old one still.
        client.execute(f"SYSTEM START MERGES {table.name.sql}")
    drop_leftover(client, copied)
    return rows


def find_new(copied: CopiedTable) -> TableName:
    """Where the new rows stand until they are all there, and then the old ones until they are dropped."""
    return TableName(copied.name.database, f"{PREFIX}new_{copied.name.table}")


def drop_leftover(client: ClickHouse, copied: CopiedTable) -> None:
    """Drop the old table, or a new one that was not finished."""
    client.execute(f"DROP TABLE IF EXISTS {find_new(copied).sql} SYNC", _LEFT_ALONE)


def _fill(copied: CopiedTable, inventing: Inventing, rewriter: Rewriter, new: TableName) -> None:
    client, table = inventing.client, copied.table
    changed = [column.name for column in copied.columns if column.fate is not Fate.KEPT]
    written = [*table.stored_columns, *list_independent(table, changed)]
    fates = {column.name: column for column in copied.columns}
    rewritten = [column for column in copied.columns if column.fate is Fate.REWRITTEN]

    def list_values(work: Work | None = None, values: NewValues | None = None) -> str:
        return ", ".join(
            values.express(work, name)
            if work and values and name in values.columns
            else _express(fates[name], copied, inventing, ids_are_numbers=rewriter.ids_are_numbers)
            if name in fates
            else quote(name)
            for name in written
        )

    begin = f"INSERT INTO {new.sql} ({quote_columns(written)}) SELECT"
    if not rewritten:
        client.execute(f"{begin} {list_values()} FROM {table.name.sql}", COPYING, repeatable=False)
        return
    for part, piece in _list_pieces(client, table.name):
        where = f"WHERE _part = {{part:String}} AND intDiv(_part_offset, {_ROWS_AT_ONCE}) = {{piece:UInt64}}"
        values = NewValues(
            _express_row(copied, rewritten),
            {column.name: column.kind for column in rewritten},
            rewriter.rewrite(rewritten, _read_texts(client, copied, rewritten, where, part, piece)),
            {},
        )
        work = Work(inventing.home, uuid.uuid4().hex[:16], table.name)
        with ended_on_failure(client, work):
            values.send(client, work)
            client.execute(
                f"{begin} {list_values(work, values)} FROM {table.name.sql} {where}",
                COPYING,
                repeatable=False,
                part=part,
                piece=piece,
            )
        work.end(client)


def _list_pieces(client: ClickHouse, table: TableName) -> Iterator[tuple[str, int]]:
    """Pieces of the parts of a table, each with as many rows as memory should hold texts of."""
    yield from client.rows(
        f"SELECT DISTINCT _part, intDiv(_part_offset, {_ROWS_AT_ONCE}) FROM {table.sql} ORDER BY 1, 2"
    )


def _express_row(copied: CopiedTable, columns: Sequence[Column]) -> str:
    """SQL: a digest of the texts of a row, and of whose it is."""
    return express_content([*(column.name for column in columns), *filter(None, [copied.subject])])


def _read_texts(
    client: ClickHouse, copied: CopiedTable, columns: Sequence[Column], where: str, part: str, piece: int
) -> dict[int, Texts]:
    # Rows of one digest have one text, which may be NULL.
    texts = ", ".join(f"hex(any_respect_nulls(toString({quote(column.name)})))" for column in columns)
    subject = f"ifNull(toString({quote(copied.subject)}), '')" if copied.subject else "''"
    rows = client.rows(
        f"SELECT {_express_row(copied, columns)} AS aspects_pii_content, any({subject}), {texts} FROM {copied.name.sql} {where} "
        "GROUP BY aspects_pii_content",
        part=part,
        piece=piece,
    )
    return {
        digest: (whose, [None if digits is None else bytes.fromhex(digits) for digits in found])
        for digest, whose, *found in rows
    }


def _express(column: Column, copied: CopiedTable, inventing: Inventing, *, ids_are_numbers: bool) -> str:
    """SQL: what takes the place of a column's value."""
    name, kind = quote(column.name), quote_text(column.kind)
    text = f"toString({name})"
    if find_length(column.kind):
        text = f"replaceRegexpOne({text}, '\\\\x00+$', '')"
    text = f"ifNull({text}, '')"
    if column.fate is Fate.KEPT:
        return name
    if column.fate is Fate.EMPTIED:
        return f"defaultValueOfTypeName({kind})"
    if column.fate is Fate.NUMBER:
        new = inventing.invent_number(text)
    elif column.fate is Fate.NAME:
        new = f"if({text} = '', '', {inventing.invent_name(_find_person(text, copied, inventing))})"
    else:
        new = inventing.invent(text)
        if column.is_subject and ids_are_numbers:
            number = inventing.invent_number(text)
            new = f"if({number} != 0, toString({number}), {new})"
    return f"CAST(if(isNull({name}), NULL, {new}), {kind})" if is_nullable(column.kind) else f"CAST({new}, {kind})"


def _find_person(name: str, copied: CopiedTable, inventing: Inventing) -> str:
    """SQL: whose name stands in a row: by the subject's id, else by what else tells."""
    if copied.subject is not None:
        return f"toString({quote(copied.subject)})"
    others = [f"ifNull(toString({quote(column)}), '')" for column in list_names(copied.columns, Fate.TEXT)]
    found = [inventing.find_called(other) for other in others]
    choices = [f"{subject} != '', {subject}" for subject in found]
    choices += [f"{other} != '', {inventing.fold_text(other)}" for other in others]
    return f"multiIf({', '.join(choices)}, {name})" if choices else name


def _require_right(client: ClickHouse, copied: CopiedTable, new: TableName) -> int:
    """Hold the new rows against the old ones, by value; return how many there are.

    Raises:
        ErasureError: they are not as they have to be.
    """
    old = copied.name
    there, came = client.rows(f"SELECT (SELECT count() FROM {old.sql}), (SELECT count() FROM {new.sql})")[0]
    # Rows that are past the time that the table itself sets are none.
    expires = re.search(r"\bTTL\b", copied.table.create_query) is not None
    if came != there and not (expires and came < there):
        raise ErasureError(
            f"{counted(came, 'row')} would take the place of {there} of {old}; it was left as it is. If nothing else "
            "writes to the copy, run the command again."
        )
    for column in copied.columns:
        name = quote(column.name)
        wrong = {
            Fate.EMPTIED: f"ifNull(toString({name}), '') != ifNull(toString(defaultValueOfTypeName("
            f"{quote_text(column.kind)})), '')",
            Fate.NUMBER: f"{name} != 0 AND {name} IN (SELECT {name} FROM {old.sql})",
            Fate.NAME: f"notEmpty(toString({name})) AND {name} IN (SELECT {name} FROM {old.sql})",
            Fate.TEXT: f"notEmpty(toString({name})) AND {name} IN (SELECT {name} FROM {old.sql})",
        }
        if column.fate in wrong and (
            count := client.value(f"SELECT count() FROM {new.sql} WHERE {wrong[column.fate]}")
        ):
            raise ErasureError(
                f"{counted(count, 'row')} of {old} would keep what {column.name} held. Nothing was changed."
            )
        if column.fate is Fate.NUMBER and not expires:
            before, after = (client.value(f"SELECT uniqExact({name}) FROM {table.sql}") for table in (old, new))
            if before != after:
                raise ErasureError(
                    f"{before} different values of {column.name} of {old} would become {after}. Nothing was changed."
                )
    return int(came)
