"""Rewriting rows that no `DELETE` or `UPDATE` by id can reach.

A mutation's text is kept, in `system.mutations` and beside the parts, so no value may stand in it; columns of the sort
key cannot be updated; and ClickHouse has no function that changes one value inside a JSON text and leaves the rest as
it is. So the rows are found by a query with bound values, their texts are changed here, and new rows take the
places of the old ones:

1. the new rows go into a table of the same shape beside the target, which feeds no materialized view;
2. which rows they replace goes into a second table, as digests; when it is complete it is marked so;
3. the old rows are deleted, by a statement that names these tables only;
4. the new rows' partitions are attached to the target, which feeds no materialized view either;
5. both tables are dropped.

Killed before the mark, it starts over; killed after it, `finish` goes on from there. No row is lost or doubled.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sink.clickhouse.catalog import is_json
from sink.clickhouse.client import INCLUDING_HIDDEN, WAIT_FOR_MUTATIONS, ClickHouse, split_for_binding
from sink.erasure.identities import Identities, list_keys
from sink.erasure.json_text import replace_values
from sink.erasure.steps import Step, keyed_hash
from sink.errors import ErasureError
from sink.names import TableName, quote, quote_columns
from sink.pii_map import Redaction, SubjectId

# .. pii: Reads and writes rows of the users being retired.
# .. pii_types: id, name, username, email_address, other
# .. pii_retirement: consumer_api

_SUBJECTS_AT_ONCE = 1_000
_ROWS_AT_ONCE = 20_000
_SEALED = "complete"
_PATCH = "aspects_pii_patch"
_EMAIL_TYPE = "email_address"
# A pseudonym is one purpose for all columns, so that events still belong together wherever they are stored.
_PSEUDONYM = "pseudonym"
_RETIRED_DOMAIN = "retired.invalid"


@dataclass(frozen=True)
class RewriteStep(Step):
    """Rows are found by a query, changed here, and put in the places of the old ones."""

    ignores_case: bool = False
    """True where the key is an e-mail address."""

    @property
    def _changed_columns(self) -> list[str]:
        """The columns that redactions touch, paths cut to their column."""
        return sorted({path.partition(".")[0] for path in self.rule.on_retire.redact})

    @property
    def _redactions(self) -> Mapping[str, Redaction]:
        """What takes the place of what."""
        return self.rule.on_retire.redact

    @property
    def _deletes(self) -> bool:
        """True where rows go instead of being replaced."""
        return self.rule.on_retire.delete

    @property
    def _key_goes(self) -> bool:
        """True where the rule takes the key itself away, so that every row that is found is one that is left."""
        return self._deletes or self.rule.key in self.rule.on_retire.redact

    @property
    def _key(self) -> str:
        return f"lowerUTF8({self.subject_expression})" if self.ignores_case else self.subject_expression

    @property
    def _match(self) -> str:
        condition = f"{self._key} IN {{keys:Array(String)}}"
        return f"{condition} AND {self._not_exempt()}" if self.rule.on_retire.unless else condition

    def _values(self, keys: Mapping[str, str]) -> dict[str, Any]:
        exempt = {"exempt": self.rule.on_retire.unless.values} if self.rule.on_retire.unless else {}
        return {"keys": list(keys), **exempt}

    def _keys(self, subjects: Sequence[SubjectId], identities: Identities) -> dict[str, str]:
        keys = list_keys(self.rule, subjects, identities)
        return {key.lower(): subject for key, subject in keys.items()} if self.ignores_case else keys

    def count_left(
        self,
        client: ClickHouse,
        subjects: Sequence[SubjectId],
        identities: Identities,
        *,
        including_hidden: bool = False,
    ) -> dict[str, int]:
        """See `Step`. Of whom the identifiers are unknown nothing can be found."""
        found: dict[str, int] = {}
        for keys in _split(self._keys(subjects, identities)):
            for key, rows in self._count(client, keys, including_hidden).items():
                left = rows if self._key_goes else self._count_changes(client, {key: keys[key]}, including_hidden)
                if left:
                    found[keys[key]] = found.get(keys[key], 0) + left
        return found

    def _count(self, client: ClickHouse, keys: Mapping[str, str], including_hidden: bool) -> dict[str, int]:
        """Rows by key, whether they need a change or not."""
        rows = client.rows(
            f"SELECT {self._key} AS found_key, count() FROM {client.replicas(self.table.name.sql)} "
            f"WHERE {self._match} GROUP BY found_key",
            INCLUDING_HIDDEN if including_hidden else None,
            **self._values(keys),
        )
        return {str(key): int(count) for key, count in rows}

    def _count_changes(self, client: ClickHouse, keys: Mapping[str, str], including_hidden: bool) -> int:
        return sum(1 for row in self._read(client, keys, including_hidden) if self._redact(row, keys) != row[2:])

    def _read(
        self, client: ClickHouse, keys: Mapping[str, str], including_hidden: bool = False
    ) -> list[tuple[Any, ...]]:
        """The matching rows as (digest, key, columns that redactions touch), the columns as text."""
        columns = "".join(f", toString({quote(column)})" for column in self._changed_columns)
        return client.rows(
            f"SELECT {_digest(self)}, {self._key}{columns} FROM {self.table.name.sql} WHERE {self._match}",
            INCLUDING_HIDDEN if including_hidden else None,
            **self._values(keys),
        )

    def _redact(self, row: tuple[Any, ...], keys: Mapping[str, str]) -> tuple[Any, ...]:
        """The columns of a row that `_read` gave, after the redactions."""
        subject = keys[row[1]]
        columns = dict(zip(self._changed_columns, row[2:], strict=True))
        for path, redaction in self._redactions.items():
            column, *inner = path.split(".")
            old = columns[column]
            if old is None:
                continue
            if not inner:
                columns[column] = self._replace(redaction, path, subject, old)
                continue
            try:
                columns[column] = replace_values(
                    old,
                    inner,
                    lambda value, r=redaction, p=path: self._replace(r, p, subject, value),  # type: ignore[misc]
                    self.rule.on_retire.arrays,
                )
            except (ValueError, RecursionError):
                message = (
                    f"A row of {self.table.name} about {subject} holds no valid JSON in {column}; correct or delete it."
                )
                raise ErasureError(message) from None
        return tuple(columns.values())

    def _replace(self, redaction: Redaction, path: str, subject: str, old: Any) -> Any:
        if redaction.kind == "null":
            return None
        if redaction.kind == "constant":
            return redaction.constant
        if redaction.kind == "truncate":
            return str(old)[: redaction.length]
        if redaction.kind in ("hash", "pseudonym"):
            assert self.secret is not None
            purpose = _PSEUDONYM if redaction.kind == "pseudonym" else self.pii_types[path]
            hashed = keyed_hash(self.secret, purpose, subject)
            return _shape_like(str(old), hashed) if redaction.kind == "pseudonym" else hashed
        return ""

    def hide(self, client: ClickHouse, subjects: Sequence[SubjectId], identities: Identities, batch_size: int) -> None:
        """See `Step`."""
        finish(client, self.table.name)
        for keys in _split(self._keys(subjects, identities)):
            counts = self._count(client, keys, including_hidden=False)
            for part in _split_by_rows(keys, counts):
                self._swap(client, part)

    def _swap(self, client: ClickHouse, keys: Mapping[str, str]) -> None:
        patch = {}
        for row in self._read(client, keys):
            new = self._redact(row, keys) if self._changed_columns else ()
            if self._deletes or new != row[2:]:
                patch[row[0]] = new
        if not patch:
            return
        name = self.table.name
        beside, replaced = _beside(name), _replaced(name)
        client.execute(f"CREATE TABLE {beside.sql} {client.on_cluster} AS {name.sql}")
        keys_sql = quote_columns(_stable_keys(self)) + ", " if _stable_keys(self) else ""
        client.execute(
            f"CREATE TABLE {replaced.sql} {client.on_cluster} ENGINE = MergeTree ORDER BY digest AS "
            f"SELECT {keys_sql}{_digest(self)} AS digest FROM {name.sql} WHERE 0"
        )
        self._fill_patch(client, patch)
        found = f"{self._match} AND {_digest(self)} IN (SELECT digest FROM {quote(_PATCH)})"
        if not self._deletes:
            self._fill_beside(client, beside, found, keys)
        client.execute(
            f"INSERT INTO {replaced.sql} SELECT {keys_sql}{_digest(self)} FROM {name.sql} WHERE {found}",
            repeatable=False,
            **self._values(keys),
        )
        client.execute(f"DROP TEMPORARY TABLE IF EXISTS {quote(_PATCH)}")
        if not self._deletes:
            _require_same_count(client, beside, replaced)
        client.execute(f"ALTER TABLE {replaced.sql} {client.on_cluster} MODIFY COMMENT '{_SEALED}'")
        finish(client, name)

    def _fill_patch(self, client: ClickHouse, patch: Mapping[str, tuple[Any, ...]]) -> None:
        columns = self._changed_columns
        definitions = "".join(f", {quote(column)} Nullable(String)" for column in columns)
        client.execute(f"DROP TEMPORARY TABLE IF EXISTS {quote(_PATCH)}")
        client.execute(f"CREATE TEMPORARY TABLE {quote(_PATCH)} (digest String{definitions})")
        client.insert(_PATCH, ["digest", *columns], [(digest, *new) for digest, new in patch.items()])

    def _fill_beside(self, client: ClickHouse, beside: TableName, found: str, keys: Mapping[str, str]) -> None:
        changed = self._changed_columns
        chosen = ", ".join(
            _cast(f"new.{quote(column)}", self.table.columns[column]) if column in changed else f"old.{quote(column)}"
            for column in self.table.columns
        )
        client.execute(
            f"INSERT INTO {beside.sql} ({quote_columns(list(self.table.columns))}) SELECT {chosen} "
            f"FROM (SELECT *, {_digest(self)} AS digest FROM {self.table.name.sql} WHERE {found}) AS old "
            f"INNER JOIN {quote(_PATCH)} AS new ON old.digest = new.digest",
            # A replacing engine would take rows with one key together before they are counted.
            {"optimize_on_insert": 0},
            repeatable=False,
            **self._values(keys),
        )


def finish(client: ClickHouse, table: TableName) -> None:
    """Go on with a rewriting of `table` from where it was interrupted; nothing where none was.

    Raises:
        DatabaseError: it could not be finished; everything that is needed to go on is still there.
    """
    beside, replaced = _beside(table), _replaced(table)
    comments = dict(
        client.rows(
            "SELECT name, comment FROM system.tables WHERE database = {database:String} AND name IN {names:Array(String)}",
            database=table.database,
            names=[beside.table, replaced.table],
        )
    )
    if comments.get(replaced.table) == _SEALED:
        _delete_replaced(client, table, replaced)
        if beside.table in comments:
            _attach(client, table, beside)
    # Beside goes first: without it, what is marked complete only has its rows deleted once more.
    for leftover in (beside, replaced):
        client.execute(f"DROP TABLE IF EXISTS {leftover.sql} {client.on_cluster} SYNC")


def _delete_replaced(client: ClickHouse, table: TableName, replaced: TableName) -> None:
    columns = client.column(
        "SELECT name FROM system.columns WHERE database = {database:String} AND table = {table:String} ORDER BY position",
        database=replaced.database,
        table=replaced.table,
    )
    keys = [column for column in columns if column != "digest"]
    # By the sort key first, so that only the granules that hold the rows are read.
    by_key = f"({quote_columns(keys)}) IN (SELECT {quote_columns(keys)} FROM {replaced.sql}) AND " if keys else ""
    digest = _digest_of(_read_columns(client, table))
    client.execute(
        f"DELETE FROM {table.sql} {client.on_cluster} WHERE {by_key}{digest} IN (SELECT digest FROM {replaced.sql})",
        {**WAIT_FOR_MUTATIONS, "allow_nondeterministic_mutations": 1},
    )


def _attach(client: ClickHouse, table: TableName, beside: TableName) -> None:
    digest = _digest_of(_read_columns(client, table))
    partitions = client.column(
        "SELECT DISTINCT partition_id FROM system.parts WHERE database = {database:String} AND table = {table:String} "
        "AND active ORDER BY partition_id",
        database=beside.database,
        table=beside.table,
    )
    for partition in partitions:
        there = client.value(
            f"SELECT count() FROM {table.sql} WHERE _partition_id = {{partition:String}} AND {digest} IN "
            f"(SELECT {digest} FROM {beside.sql} WHERE _partition_id = {{partition:String}})",
            partition=partition,
        )
        wanted = client.value(
            f"SELECT count() FROM {beside.sql} WHERE _partition_id = {{partition:String}}", partition=partition
        )
        if there < wanted:
            client.execute(
                f"ALTER TABLE {table.sql} ATTACH PARTITION ID {{partition:String}} FROM {beside.sql}",
                repeatable=False,
                partition=partition,
            )


def _require_same_count(client: ClickHouse, beside: TableName, replaced: TableName) -> None:
    new, old = (client.value(f"SELECT count() FROM {name.sql}") for name in (beside, replaced))
    if new != old:
        raise ErasureError(
            f"{old} rows were to be replaced by {new}; nothing was changed. `aspects-pii sweep` tries again."
        )


def _read_columns(client: ClickHouse, table: TableName) -> list[str]:
    return client.column(
        "SELECT name FROM system.columns WHERE database = {database:String} AND table = {table:String} "
        "AND default_kind NOT IN ('ALIAS', 'MATERIALIZED', 'EPHEMERAL') ORDER BY position",
        database=table.database,
        table=table.table,
    )


def _digest(step: Step) -> str:
    return _digest_of(list(step.table.columns))


def _digest_of(columns: Sequence[str]) -> str:
    """The content of a row as 32 hexadecimal digits."""
    texts = ", ".join(f"ifNull(toString({quote(column)}), '\\0')" for column in columns)
    return f"hex(sipHash128({texts}))"


def _stable_keys(step: RewriteStep) -> list[str]:
    """The columns of the sort and partition key that say nothing about the person."""
    pii = {path.partition(".")[0] for path in step.pii_types}
    return [column for column in step.table.columns if column in step.table.key_columns and column not in pii]


def _beside(table: TableName) -> TableName:
    return TableName(table.database, f"{table.table}__aspects_pii_new")


def _replaced(table: TableName) -> TableName:
    return TableName(table.database, f"{table.table}__aspects_pii_replaced")


def _cast(expression: str, kind: str) -> str:
    if kind.startswith(("Nullable(", "LowCardinality(Nullable(")):
        return expression
    return f"CAST(assumeNotNull({expression}), 'JSON')" if is_json(kind) else f"assumeNotNull({expression})"


def _shape_like(old: str, hashed: str) -> str:
    """A pseudonym where the value stood: an address stays an address, a SHA-1 has 40 digits."""
    if old.startswith("mailto:"):
        return f"mailto:{hashed}@{_RETIRED_DOMAIN}"
    if re.fullmatch(r"[0-9a-f]{40}", old):
        return hashed + hashed[:8]
    return hashed


def _split(keys: Mapping[str, str]) -> Iterator[dict[str, str]]:
    for batch in split_for_binding(list(keys), _SUBJECTS_AT_ONCE):
        yield {key: keys[key] for key in batch}


def _split_by_rows(keys: Mapping[str, str], counts: Mapping[str, int]) -> Iterator[dict[str, str]]:
    """Keys that have rows, as many at a time as memory should hold rows of."""
    part: dict[str, str] = {}
    rows = 0
    for key, count in counts.items():
        if part and rows + count > _ROWS_AT_ONCE:
            yield part
            part, rows = {}, 0
        part[key] = keys[key]
        rows += count
    if part:
        yield part
