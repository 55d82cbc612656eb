"""What takes the places of values in rows, by a digest of what stands there: sent to ClickHouse, never in a statement.

.. pii: Holds and sends what takes the place of retired users' values, other people's words in the same text included.
.. pii_types: id, name, username, email_address, other
.. pii_retirement: consumer_api
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from sink.clickhouse.catalog import find_length, is_nullable
from sink.clickhouse.client import ClickHouse
from sink.erasure.work import Work
from sink.names import quote, quote_text


@dataclass(frozen=True)
class NewValues:
    """New values of some columns for some rows."""

    digest: str
    """The SQL expression by which a row is known: a UInt128."""
    columns: Mapping[str, str]
    """The columns that get new values, as name -> type."""
    values: Mapping[int, tuple[bytes | None, ...]] = field(repr=False)
    """Digest -> the new values of `columns`, as the bytes of their texts; None for NULL."""
    expressions: Mapping[str, str]
    """Further columns that get new values, as name -> the SQL expression of it."""

    def send(self, client: ClickHouse, work: Work) -> None:
        """Put them into helper tables."""
        names = [_name_new(column) for column in self.columns]
        new = "".join(f", {quote(name)} Nullable(String)" for name in names)
        definitions = f"digest UInt128{new}"
        values = work.create(client, "values", definitions, "digest")
        # As digits: the driver sends texts, and these need not be any.
        rows = [(digest, *(None if new is None else new.hex() for new in news)) for digest, news in self.values.items()]
        client.insert(values, ["digest", *names], rows)
        # On a cluster every host fills its own from the replicated table. In brackets, without which ClickHouse before 26 takes
        # no comment beside a SELECT (seen: 24.8, 25.8).
        client.execute(
            f"CREATE TABLE {work.table('lookup').sql} $on_cluster ({definitions}) ENGINE = Join(ANY, LEFT, digest) "
            f"AS (SELECT * FROM {values.sql}) COMMENT {work.comment}"
        )

    def express_meant(self, work: Work) -> str:
        """The condition that finds the rows, once `send` is done."""
        return f"{self.digest} IN (SELECT digest FROM {work.table('values').sql})"

    def express(self, work: Work, column: str) -> str:
        """The new value of a column in a row that is meant; itself where it gets none."""
        if column in self.expressions:
            return self.expressions[column]
        if column not in self.columns:
            return quote(column)
        lookup = quote_text(str(work.table("lookup")))
        new = f"unhex(joinGet({lookup}, {quote_text(_name_new(column))}, {self.digest}))"
        return new if is_nullable(self.columns[column]) else f"assumeNotNull({new})"


def explain_excess(column: str, kind: str, new: bytes) -> str:
    """Why a column of this type cannot hold a text, with the fix; empty where it can."""
    length = find_length(kind)
    if not length or len(new) <= length:
        return ""
    return (
        f"what takes the place of a text in {column} has {len(new)} bytes, and the column is {kind}; widen it (ALTER TABLE "
        "… MODIFY COLUMN), or correct or delete the row"
    )


def _name_new(column: str) -> str:
    return f"new {column}"


def hash_texts(arguments: str) -> str:
    """A digest of SQL expressions of texts, a UInt128; `or_zero` makes of each what cannot be NULL."""
    return f"reinterpretAsUInt128(sipHash128({arguments}))"


def or_zero(expression: str) -> str:
    """An SQL expression of a text, or of NULL, that is no NULL and tells NULL from every text."""
    return f"ifNull(concat('1', {expression}), '0')"


def express_content(columns: list[str]) -> str:
    """A digest of a row's `columns`."""
    return hash_texts(", ".join(or_zero(f"toString({quote(column)})") for column in columns))
