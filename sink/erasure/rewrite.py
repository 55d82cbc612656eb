"""Rewriting rows that no `DELETE` or `UPDATE` by id can reach.

A mutation's text is kept, in `system.mutations` and beside the parts, so no value may stand in it; columns of the sort
key cannot be updated; and ClickHouse has no function that changes one value inside a JSON text and leaves the rest as
it is. So the rows are found by a query with bound values, their texts are changed here, and new rows take the
places of the old ones: see `sink.erasure.swap`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sink.clickhouse.client import ClickHouse, split_for_binding
from sink.erasure.changes import Change
from sink.erasure.identities import Identities, list_keys
from sink.erasure.json_text import replace_values
from sink.erasure.steps import Step
from sink.erasure.swap import Swap, express_digest, finish
from sink.errors import ErasureError
from sink.names import quote
from sink.pii_map import SubjectId

# .. pii: Reads and writes rows of the users being retired.
# .. pii_types: id, name, username, email_address, other
# .. pii_retirement: consumer_api

_KEYS_AT_ONCE = 1_000
_ROWS_AT_ONCE = 20_000


@dataclass(frozen=True)
class RewriteStep(Step):
    """Rows are found by a query, changed here, and put in the places of the old ones."""

    change: Change
    ignores_case: bool = False
    """True where the key is an e-mail address."""

    @property
    def match(self) -> str:
        """The condition that finds the rows of `{keys}` that are to be changed."""
        return f"{self._key} IN {{keys:Array(String)}} AND {self._not_exempt()}{self.change.further_condition}"

    def bind(self, keys: Mapping[str, str]) -> dict[str, Any]:
        """What is bound to `match`."""
        return {"keys": list(keys), **self._exempt_values(), **self.change.further_values}

    def hide(self, client: ClickHouse, subjects: Sequence[SubjectId], identities: Identities, batch_size: int) -> None:
        """See `Step`."""
        finish(client, self.table.name)
        for keys in _split(self._list_keys(subjects, identities)):
            counts = self._count_by_key(client, keys, {})
            for part in _split_by_rows(keys, counts):
                self._rewrite(client, part)

    def _count(
        self,
        client: ClickHouse,
        subjects: Sequence[SubjectId],
        identities: Identities,
        settings: Mapping[str, Any],
    ) -> list[tuple[str, int]]:
        """See `Step`. Of whom the identifiers are unknown nothing can be found."""
        counts = []
        for keys in _split(self._list_keys(subjects, identities)):
            for key, rows in self._count_by_key(client, keys, settings).items():
                one = {key: keys[key]}
                left = rows if self.change.changes_key else len(self._find_new_values(client, one, settings))
                counts.append((keys[key], left))
        return counts

    def _list_keys(self, subjects: Sequence[SubjectId], identities: Identities) -> dict[str, str]:
        """What rows of `subjects` have as their key, as key -> subject."""
        keys = list_keys(self.rule, subjects, identities)
        return {key.lower(): subject for key, subject in keys.items()} if self.ignores_case else keys

    @property
    def _key(self) -> str:
        return f"lowerUTF8({self.subject_expression})" if self.ignores_case else self.subject_expression

    @property
    def _changed_columns(self) -> list[str]:
        """The columns that get new values, paths cut to their column."""
        return sorted({path.partition(".")[0] for path in self.change.paths})

    def _count_by_key(self, client: ClickHouse, keys: Mapping[str, str], settings: Mapping[str, Any]) -> dict[str, int]:
        """Rows by key, whether they need a change or not."""
        rows = client.rows(
            f"SELECT {self._key} AS found_key, count() FROM {client.replicas(self.table.name.sql)} "
            f"WHERE {self.match} GROUP BY found_key",
            settings,
            **self.bind(keys),
        )
        return {str(key): int(count) for key, count in rows}

    def _rewrite(self, client: ClickHouse, keys: Mapping[str, str]) -> None:
        new_values = dict(self._find_new_values(client, keys, {}))
        if new_values:
            Swap(
                table=self.table,
                condition=self.match,
                values=self.bind(keys),
                columns=self._changed_columns,
                new_values=new_values,
                deletes=self.change.deletes,
                pii_columns={path.partition(".")[0] for path in self.pii_types},
            ).carry_out(client)

    def _find_new_values(
        self, client: ClickHouse, keys: Mapping[str, str], settings: Mapping[str, Any]
    ) -> list[tuple[str, tuple[Any, ...]]]:
        """The matching rows that have to change, as (digest, new values of `_changed_columns`)."""
        columns = "".join(f", toString({quote(column)})" for column in self._changed_columns)
        rows = client.rows(
            f"SELECT {express_digest(self.table.stored_columns)}, {self._key}{columns} "
            f"FROM {self.table.name.sql} WHERE {self.match}",
            settings,
            **self.bind(keys),
        )
        changed = []
        for digest, key, *old in rows:
            new = self._change(keys[key], old)
            if self.change.deletes or new != tuple(old):
                changed.append((digest, new))
        return changed

    def _change(self, subject: str, old: Sequence[Any]) -> tuple[Any, ...]:
        """The new values of `_changed_columns`; NULL stays NULL."""
        values = dict(zip(self._changed_columns, old, strict=True))
        for path in self.change.paths:
            column, *inner = path.split(".")
            if values[column] is None:
                continue
            if inner:
                values[column] = self._change_json(subject, path, values[column])
            else:
                values[column] = self.change.replace(path, subject, values[column])
        return tuple(values.values())

    def _change_json(self, subject: str, path: str, text: str) -> str:
        column, *inner = path.split(".")

        def replace(value: Any) -> Any:
            return self.change.replace(path, subject, value)

        try:
            return replace_values(text, inner, replace, self.rule.on_retire.arrays)
        except (ValueError, RecursionError):
            message = (
                f"A row of {self.table.name} about {subject} holds no valid JSON in {column}; correct or delete it."
            )
            raise ErasureError(message) from None


def _split(keys: Mapping[str, str]) -> Iterator[dict[str, str]]:
    for batch in split_for_binding(list(keys), _KEYS_AT_ONCE):
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
