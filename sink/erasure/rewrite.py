"""Erasing rows that no `DELETE` or `UPDATE` by id can reach.

A mutation's text is kept, in `system.mutations` and beside the parts, so no value may stand in it; columns of the sort
key cannot be updated; and ClickHouse has no function that changes one value inside a JSON text and leaves the rest as
it is. So rows are found by a query with bound values, what takes the places of their values is made here, byte by byte,
and ClickHouse changes them by tables that it looks it up in: `sink.erasure.in_place`, and `sink.erasure.swap` for keys.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sink.clickhouse.catalog import is_json, list_checks, read_path
from sink.clickhouse.client import INCLUDING_HIDDEN, ClickHouse, split_for_binding
from sink.erasure import in_place
from sink.erasure.changes import Change
from sink.erasure.expressions import explain_failure
from sink.erasure.identities import Identities, list_keys
from sink.erasure.json_text import replace_values
from sink.erasure.keys import Spelling, express_compared, express_text, fold_key, make_sample, write_id
from sink.erasure.new_values import NewValues, explain_excess, hash_texts, or_zero
from sink.erasure.steps import Step, list_texts
from sink.erasure.swap import swap
from sink.errors import ErasureError, QueryError
from sink.names import quote
from sink.pii_map import SubjectId

# .. pii: Reads and writes rows of the users being retired.
# .. pii_types: id, name, username, email_address, other
# .. pii_retirement: consumer_api

_KEYS_AT_ONCE = 1_000
_ROWS_AT_ONCE = 20_000
_VIOLATED = "VIOLATED_CONSTRAINT"


@dataclass(frozen=True)
class _Keys:
    """What rows have as their key, and whose they are."""

    compared: Mapping[str, str] = field(repr=False)
    """Key as it is compared -> subject."""
    spelt: Mapping[str, str] = field(repr=False)
    """Key as it is spelt -> subject: of two who spell a name differently, each has theirs."""

    def find_subject(self, spelt: str, compared: str) -> str:
        """Whose a row is."""
        return self.spelt.get(spelt) or self.compared[compared]

    def split(self) -> Iterator[_Keys]:
        """As many at a time as can be bound."""
        for batch in split_for_binding(list(self.compared), _KEYS_AT_ONCE):
            yield self._choose(batch)

    def split_by_rows(self, counts: Mapping[str, int]) -> Iterator[_Keys]:
        """Keys that have rows, as many at a time as memory should hold rows of."""
        part: list[str] = []
        rows = 0
        for key, count in counts.items():
            if part and rows + count > _ROWS_AT_ONCE:
                yield self._choose(part)
                part, rows = [], 0
            part.append(key)
            rows += count
        if part:
            yield self._choose(part)

    def halve(self) -> tuple[_Keys, _Keys]:
        """The first half, and the others."""
        keys = list(self.compared)
        return self._choose(keys[: len(keys) // 2]), self._choose(keys[len(keys) // 2 :])

    def _choose(self, keys: Sequence[str]) -> _Keys:
        return _Keys({key: self.compared[key] for key in keys}, self.spelt)


@dataclass
class _Found:
    """Rows that have to change."""

    values: dict[int, tuple[bytes | None, ...]] = field(default_factory=dict, repr=False)
    """Digest of a row -> its new values."""
    left: Counter[str] = field(default_factory=Counter)
    """Rows by subject."""
    refused: dict[str, str] = field(default_factory=dict)
    """Subject -> why a row of theirs cannot be changed."""


@dataclass(frozen=True)
class RewriteStep(Step):
    """Rows are found by a query, and what takes the places of their values is made here."""

    change: Change
    spelling: Spelling = Spelling.EXACT
    """What makes no difference between a key and a name."""

    @property
    def match(self) -> str:
        """The condition that finds the rows of `{keys}` that are to be changed."""
        return f"{self._key} IN {{keys:Array(String)}} AND {self._meant}"

    def bind(self, keys: Iterable[str]) -> dict[str, Any]:
        """What is bound to `match`."""
        return {"keys": list(keys), **self._bound}

    @property
    def _meant(self) -> str:
        return f"{self._not_exempt()}{self.change.further_condition}"

    @property
    def _bound(self) -> dict[str, Any]:
        return {**self._exempt_values(), **self.change.further_values}

    def hide(
        self, client: ClickHouse, subjects: Sequence[SubjectId], identities: Identities, batch_size: int
    ) -> dict[str, str]:
        """See `Step`."""
        refused: dict[str, str] = {}
        for keys in self._list_keys(subjects, identities).split():
            refused |= self._erase(client, keys)
        return refused

    def hide_everybody(self, client: ClickHouse) -> dict[str, str]:
        """See `Step`. Whose rows they are is not known: whoever a key names gets a pseudonym of their own."""
        if self.change.deletes:
            in_place.delete_where(client, self.table.name, self._of_somebody, self._bound)
            return {}
        refused: dict[str, str] = {}
        for keys in self._list_everybody(client):
            refused |= self._erase(client, keys)
        return refused

    def count_everybody(self, client: ClickHouse) -> int:
        """See `Step`."""
        if self.change.deletes:
            sql = f"SELECT count() FROM {client.replicas(self.table.name.sql)} WHERE {self._of_somebody}"
            return int(client.value(sql, INCLUDING_HIDDEN, **self._bound))
        rows = 0
        for keys in self._list_everybody(client):
            for part in keys.split_by_rows(self._count_by_key(client, keys, INCLUDING_HIDDEN)):
                rows += self._find(client, part, INCLUDING_HIDDEN).left.total()
        return rows

    def rehearse(self, client: ClickHouse) -> None:
        """See `Step`."""
        if self.change.deletes:
            in_place.delete_by_key(client, self.table.name, self._key, [""], self._meant, self._bound)
            return
        values = tuple(self._make_sample(column) for column in self._changed_columns)
        digests = client.column(f"SELECT {self._digest} FROM {self.table.name.sql}")
        try:
            self._write(client, dict.fromkeys(digests or [0], values))
        except QueryError as error:
            if error.name != _VIOLATED:
                raise
            raise ErasureError(self._explain_violation(client)) from None

    def _make_sample(self, column: str) -> bytes | None:
        """What can come to stand in a column that was empty."""
        if column not in self.change.paths:
            return b"{}" if is_json(self.table.columns[column]) else b""
        new = self.change.replace(column, make_sample(self.key_kind), "")
        return None if new is None else str(new).encode()

    def _explain_violation(self, client: ClickHouse) -> str:
        return (
            f"what takes the place of values in {', '.join(self._changed_columns)} violates a CHECK constraint of the table "
            f"({', '.join(list_checks(client, self.table.name))}); change the constraint (ALTER TABLE … DROP CONSTRAINT and "
            "ADD CONSTRAINT), or the redaction in the map"
        )

    def _list_everybody(self, client: ClickHouse) -> Iterator[_Keys]:
        """Every key that the table holds, as key -> what takes the place of a subject's id."""
        for texts in list_texts(client, self.table, self._key, self._of_somebody, self._bound):
            yield _Keys({text: f"{self.rule.template}:{text}" for text in texts}, {})

    @property
    def _of_somebody(self) -> str:
        """The condition that finds the rows that can be about a person: of events, those that name one.

        Where a whole text is PII and rows are deleted, all are: it says more of whom it is about than the key.
        """
        column, is_path, _ = self.rule.key.partition(".")
        is_pii_throughout = self.change.deletes and column in self.pii_types
        return f"{self._meant} AND {self._key} != ''" if is_path and not is_pii_throughout else self._meant

    def _erase(self, client: ClickHouse, keys: _Keys) -> dict[str, str]:
        counts = self._count_by_key(client, keys, {})
        if not counts:
            return {}
        if self.change.deletes:
            in_place.delete_by_key(client, self.table.name, self._key, counts, self._meant, self._bound)
            return {}
        refused: dict[str, str] = {}
        for part in keys.split_by_rows(counts):
            refused |= self._redact(client, part)
        return refused

    def _redact(self, client: ClickHouse, keys: _Keys) -> dict[str, str]:
        found = self._find(client, keys, {})
        try:
            if found.values:
                self._write(client, found.values)
        except QueryError as error:
            if error.name != _VIOLATED:
                raise
            if len(keys.compared) == 1:
                reason = f"{self.table.name}: {self._explain_violation(client)}"
                return {**found.refused, **dict.fromkeys(found.left, reason)}
            first, second = keys.halve()
            return self._redact(client, first) | self._redact(client, second)
        return found.refused

    def _write(self, client: ClickHouse, values: Mapping[int, tuple[bytes | None, ...]]) -> None:
        columns = {column: self.table.columns[column] for column in self._changed_columns}
        expressions = {column: self.change.express(column) for column in self.change.expressed}
        new = NewValues(digest=self._digest, columns=columns, values=values, expressions=expressions)
        if self.table.key_columns.isdisjoint([*columns, *expressions]):
            in_place.change_rows(client, self.table.name, new)
        else:
            swap(client, self.table, new)

    def _count(
        self,
        client: ClickHouse,
        subjects: Sequence[SubjectId],
        identities: Identities,
        settings: Mapping[str, Any],
    ) -> list[tuple[str, int]]:
        """See `Step`. Of whom the identifiers are unknown nothing can be found."""
        left: list[tuple[str, int]] = []
        for keys in self._list_keys(subjects, identities).split():
            if self.change.changes_key:
                left += self._count_by_subject(client, keys, settings)
                continue
            for part in keys.split_by_rows(self._count_by_key(client, keys, settings)):
                left += self._find(client, part, settings).left.items()
        return left

    def _list_keys(self, subjects: Sequence[SubjectId], identities: Identities) -> _Keys:
        spelt = list_keys(self.rule, subjects, identities)
        keys: dict[str, str] = {}
        for key, subject in spelt.items():
            if (written := write_id(self.key_kind, key)) is not None:
                keys.setdefault(written, subject)
        compared: dict[str, str] = {}
        for key, subject in keys.items():
            compared.setdefault(fold_key(key, self.rule, self.spelling), subject)
        return _Keys(compared, keys)

    @property
    def _spelt(self) -> str:
        """A row's key as it is spelt."""
        return express_text(f"ifNull({self.subject_expression}, '')")

    @property
    def _key(self) -> str:
        """A row's key as it is compared."""
        return express_compared(self._spelt, self.rule, self.spelling)

    def _count_by_subject(self, client: ClickHouse, keys: _Keys, settings: Mapping[str, Any]) -> list[tuple[str, int]]:
        rows = client.rows(
            f"SELECT {self._spelt} AS aspects_pii_spelt, {self._key} AS aspects_pii_key, count() "
            f"FROM {client.replicas(self.table.name.sql)} WHERE {self.match} GROUP BY aspects_pii_spelt, aspects_pii_key",
            settings,
            **self.bind(keys.compared),
        )
        return [(keys.find_subject(spelt, key), count) for spelt, key, count in rows]

    @property
    def _digest(self) -> str:
        """A row, as far as its new values depend on it."""
        exemption = self.rule.on_retire.unless
        # Rows that are exempt, or not handed over, can be like others in all that changes.
        exempt = f"toString({read_path(self.table, exemption.column)})" if exemption else "''"
        changed = (*self._changed_columns, *self.change.expressed)
        values = ", ".join(or_zero(f"toString({quote(column)})") for column in changed)
        return hash_texts(f"{self._spelt}, {or_zero(exempt)}, {or_zero(self.change.told_apart)}, {values}")

    @property
    def _changed_columns(self) -> list[str]:
        """The columns that get new values, paths cut to their column."""
        return sorted({path.partition(".")[0] for path in self.change.paths})

    def _count_by_key(self, client: ClickHouse, keys: _Keys, settings: Mapping[str, Any]) -> dict[str, int]:
        """Rows by key, whether they need a change or not."""
        rows = client.rows(
            f"SELECT {self._key} AS aspects_pii_key, count() FROM {client.replicas(self.table.name.sql)} "
            f"WHERE {self.match} GROUP BY aspects_pii_key",
            settings,
            **self.bind(keys.compared),
        )
        return {str(key): int(count) for key, count in rows}

    def _find(self, client: ClickHouse, keys: _Keys, settings: Mapping[str, Any]) -> _Found:
        """The matching rows that have to change."""
        try:
            rows = self._read(client, keys, settings)
        except QueryError as error:
            if not self.change.expressed:
                raise
            return self._find_in_parts(client, keys, settings, error)
        found = _Found()
        for digest, spelt, key, count, differs, *digits in rows:
            subject = keys.find_subject(spelt, key)
            old = tuple(None if text is None else bytes.fromhex(text) for text in digits)
            try:
                new = self._change(subject, old)
            except ValueError as error:
                found.refused[subject] = f"{self.table.name}: {error}"
                found.left[subject] += count
                continue
            if new != old or differs:
                found.values[digest] = new
                found.left[subject] += count
        return found

    def _find_in_parts(self, client: ClickHouse, keys: _Keys, settings: Mapping[str, Any], error: QueryError) -> _Found:
        """The same where an expression fails on a row: whose that is, is refused alone."""
        found = _Found()
        if len(keys.compared) == 1:
            for subject, count in self._count_by_subject(client, keys, settings):
                found.refused[subject] = explain_failure(self.table, self.change.expressed, error)
                found.left[subject] += count
            return found
        for half in keys.halve():
            part = self._find(client, half, settings)
            found.values |= part.values
            found.left += part.left
            found.refused |= part.refused
        return found

    def _read(self, client: ClickHouse, keys: _Keys, settings: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        # Texts need not be UTF-8, which the driver would turn into something else.
        olds = "".join(f", hex(toString({quote(column)}))" for column in self._changed_columns)
        return client.rows(
            f"SELECT {self._digest}, {self._spelt}, {self._key}, count(), "
            f"{self._express_differs()}{olds} "
            f"FROM {client.replicas(self.table.name.sql)} WHERE {self.match} GROUP BY ALL",
            settings,
            **self.bind(keys.compared),
        )

    def _express_differs(self) -> str:
        """True in SQL where a value that ClickHouse makes is not there yet."""
        compared = [
            f"ifNull(toString({quote(column)}), '\\0') != ifNull(toString({self.change.express(column)}), '\\0')"
            for column in self.change.expressed
        ]
        return " OR ".join(compared) or "false"

    def _change(self, subject: str, old: Sequence[bytes | None]) -> tuple[bytes | None, ...]:
        """The new values of `_changed_columns`; NULL stays NULL.

        Raises:
            ValueError: says which column cannot be changed, and why; quotes nothing.
        """
        texts = [None if value is None else value.decode("utf-8", "surrogateescape") for value in old]
        values = dict(zip(self._changed_columns, texts, strict=True))
        for path in self.change.paths:
            column, *inner = path.split(".")
            text = values[column]
            if text is None:
                continue
            values[column] = (
                self._change_json(subject, path, text) if inner else self.change.replace(path, subject, text)
            )
        return tuple(self._encode(column, text) for column, text in values.items())

    def _encode(self, column: str, new: str | None) -> bytes | None:
        if new is None:
            return None
        encoded = new.encode("utf-8", "surrogateescape")
        if excess := explain_excess(column, self.table.columns[column], encoded):
            raise ValueError(excess)
        return encoded

    def _change_json(self, subject: str, path: str, text: str) -> str:
        column, *inner = path.split(".")

        def replace(value: Any) -> Any:
            return self.change.replace(path, subject, value)

        try:
            return replace_values(text, inner, replace, self.rule.on_retire.arrays)
        except (ValueError, RecursionError):
            raise ValueError(f"a row holds no valid JSON in {column}; correct or delete it") from None
