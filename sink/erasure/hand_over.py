"""What becomes of the rows of an owned target that go to an heir, and where they cannot.

.. pii: Holds name, user name and e-mail address of the heir, in memory only.
.. pii_types: id, name, username, email_address
.. pii_retirement: consumer_api
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sink.clickhouse.catalog import Table, is_text
from sink.clickhouse.client import ClickHouse
from sink.erasure.changes import Change, Redact
from sink.erasure.json_paths import fits_path
from sink.erasure.new_values import explain_excess
from sink.erasure.rewrite import RewriteStep
from sink.erasure.steps import Step
from sink.errors import RefusedError
from sink.pii_map import Rule


@dataclass(frozen=True)
class Heir:
    """Who takes over."""

    id: str
    values: Mapping[str, str] = field(repr=False)
    """What the heir is called, by OEP-30 type."""


@dataclass(frozen=True)
class Assets:
    """Which rows of a table are handed over."""

    expression: str
    """The asset that a row is about, as text."""
    wanted: tuple[str, ...]


@dataclass(frozen=True)
class HandOver(Change):
    """Gives rows of an owned target to an heir instead of redacting them."""

    rule: Rule
    redact: Redact
    """What a retirement of the owner would do."""
    named: Mapping[str, str] = field(repr=False)
    """The columns, and paths, that say what the owner is called -> what the heir is."""
    heir: str | None
    """The heir's id, as the key writes it; None where the key cannot hold it."""
    assets: Assets | None
    """None for every row."""

    @property
    def paths(self) -> Sequence[str]:
        """See `Change`."""
        return [*dict.fromkeys([*self.named, *self.redact.paths, self.rule.key])]

    @property
    def deletes(self) -> bool:
        """See `Change`."""
        return False

    @property
    def changes_key(self) -> bool:
        """See `Change`."""
        return True

    @property
    def expressed(self) -> Sequence[str]:
        """See `Change`."""
        return [column for column in self.redact.expressed if column not in (*self.named, self.rule.key)]

    def express(self, column: str) -> str:
        """See `Change`."""
        return self.redact.express(column)

    def replace(self, path: str, subject: str, old: Any) -> Any:
        """See `Change`."""
        if path == self.rule.key:
            assert self.heir is not None
            return int(self.heir) if isinstance(old, int) and self.heir.isdecimal() else self.heir
        return self.named[path] if path in self.named else self.redact.replace(path, subject, old)

    @property
    def further_condition(self) -> str:
        """See `Change`."""
        return f" AND {self.assets.expression} IN {{assets:Array(String)}}" if self.assets else ""

    @property
    def told_apart(self) -> str:
        """See `Change`."""
        return self.assets.expression if self.assets else "''"

    @property
    def further_values(self) -> dict[str, Any]:
        """See `Change`."""
        return {"assets": list(self.assets.wanted)} if self.assets else {}


def name_in(step: Step, heir: Heir) -> dict[str, str]:
    """What the heir is called where the rows of `step` say what their owner is."""
    return {
        path: heir.values[step.pii_types[path]]
        for path in step.rule.on_retire.redact
        if step.pii_types[path] in heir.values and ("." in path or is_text(step.table.columns[path]))
    }


def require_room(client: ClickHouse, step: RewriteStep) -> None:
    """Refuse where a column cannot hold the heir's id or name.

    Raises:
        RefusedError: names the columns and the fix.
    """
    assert isinstance(step.change, HandOver)
    tight = [path for path, name in step.change.named.items() if not _has_room(client, step.table, path, name)]
    if step.change.heir is None:
        tight.append(step.rule.key)
    if tight:
        columns = ", ".join(f"{path} is {step.table.columns[path.partition('.')[0]]}" for path in tight)
        raise RefusedError(
            f"{step.table.name} cannot hold the heir's id or name: {columns}. Widen the column (ALTER TABLE … MODIFY "
            "COLUMN), or name another heir. Nothing was handed over."
        )


def _has_room(client: ClickHouse, table: Table, path: str, text: str) -> bool:
    column, *keys = path.split(".")
    kind = table.columns[column]
    return fits_path(client, kind, keys, text) if keys else not explain_excess(column, kind, text.encode())


def require_movable(table: Table, change: HandOver) -> None:
    """Refuse where the heir's rows could be replaced, or added to.

    Raises:
        RefusedError: says why.
    """
    changed = {path.partition(".")[0] for path in change.paths}
    # An heir's rows are there already: with one key, a replacing engine would keep one of two.
    if changed & table.key_columns and table.engine.removeprefix("Replicated").removeprefix("Shared") != "MergeTree":
        raise RefusedError(
            f"{table.name} is a {table.engine} with {', '.join(sorted(changed & table.key_columns))} in its sort or "
            "partition key: with another owner its rows could replace those of others, or be added to them. Nothing was "
            "handed over."
        )
