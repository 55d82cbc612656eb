"""What one rule of the map means for one table: which rows, which statements, and what is left.

There are two ways to carry out a rule. `DirectStep`, here, has ClickHouse delete or update rows that it finds by the
subject's id. What cannot be said in such a statement without PII in its text, or cannot be updated, is
`sink.erasure.rewrite.RewriteStep`'s.
"""

from __future__ import annotations

import hashlib
import hmac
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import SecretStr

from sink.clickhouse.catalog import Table, is_text, read_path
from sink.clickhouse.client import INCLUDING_HIDDEN, WAIT_FOR_MUTATIONS, ClickHouse, split_for_binding
from sink.erasure.identities import Identities
from sink.names import quote
from sink.pii_map import Rule, SubjectId

# Values that are bound one a subject, such as hashes, would make a statement too long for a server's form limit.
_SUBJECTS_WITH_VALUES = 2_000
_SUBJECTS_TO_COUNT = 10_000


def keyed_hash(secret: SecretStr, purpose: str, subject: SubjectId) -> str:
    """A pseudonym for a subject: 32 hexadecimal digits of HMAC-SHA256, alike in every column of one PII type.

    It is made from the subject's id and not from the value, so that nothing of the value remains.
    """
    message = f"{purpose}:{subject}".encode()
    return hmac.new(secret.get_secret_value().encode(), message, hashlib.sha256).hexdigest()[:32]


@dataclass(frozen=True)
class Step(ABC):
    """What one rule of the map means for one table of the live schema."""

    table: Table
    rule: Rule
    subject_type: str
    pii_types: Mapping[str, str]

    @property
    def action(self) -> str:
        """How a receipt names it: `delete`, `redact` or `redact, delete`."""
        words = (["redact"] if self.rule.on_retire.redact else []) + (["delete"] if self.rule.on_retire.delete else [])
        return ", ".join(words)

    @property
    def columns(self) -> list[str]:
        """The columns, or paths, that are redacted; none where rows are deleted."""
        return sorted(self.rule.on_retire.redact)

    @property
    def label(self) -> str:
        """The table and the column that names the subject: what counts are kept under."""
        return f"{self.table.name}.{self.rule.key}"

    @property
    def needs_identities(self) -> bool:
        """True where rows are found by another name of the subject than the id."""
        return not self.rule.is_by_id

    @property
    def needs_subjects(self) -> bool:
        """True where what takes a value's place is different for each subject."""
        return any(redaction.kind in ("hash", "pseudonym") for redaction in self.rule.on_retire.redact.values())

    @property
    def subject_expression(self) -> str:
        """The subject's id of a row, as text."""
        return f"toString({read_path(self.table, self.rule.key)})"

    def count_left(
        self,
        client: ClickHouse,
        subjects: Sequence[SubjectId],
        identities: Identities,
        *,
        including_hidden: bool = False,
    ) -> dict[str, int]:
        """Rows of each subject that still have to be erased; asks every replica. Subjects without any are left out."""
        found: Counter[str] = Counter()
        settings = INCLUDING_HIDDEN if including_hidden else {}
        for subject, rows in self._count(client, subjects, identities, settings):
            found[subject] += rows
        return {subject: rows for subject, rows in found.items() if rows}

    @abstractmethod
    def hide(self, client: ClickHouse, subjects: Sequence[SubjectId], identities: Identities, batch_size: int) -> None:
        """Erase `subjects` for every reader, and wait until that is done on every replica."""

    @abstractmethod
    def _count(
        self,
        client: ClickHouse,
        subjects: Sequence[SubjectId],
        identities: Identities,
        settings: Mapping[str, Any],
    ) -> list[tuple[str, int]]:
        """Rows that are left, as (subject, rows); a subject may come several times."""

    def _not_exempt(self) -> str:
        exemption = self.rule.on_retire.unless
        if exemption is None:
            return "true"
        return f"toString({read_path(self.table, exemption.column)}) NOT IN {{exempt:Array(String)}}"

    def _exempt_values(self) -> dict[str, Any]:
        exemption = self.rule.on_retire.unless
        return {} if exemption is None else {"exempt": exemption.values}


@dataclass(frozen=True)
class DirectStep(Step):
    """Rows are found by the subject's id, and deleted or updated where they are."""

    secret: SecretStr | None

    def hide(self, client: ClickHouse, subjects: Sequence[SubjectId], identities: Identities, batch_size: int) -> None:
        """See `Step`."""
        for batch in self._split(subjects, batch_size):
            self._erase(client, self._of_subjects(), self._subject_values(batch))

    def hide_everybody(self, client: ClickHouse) -> None:
        """Erase every row that is not exempt; not for a step that `needs_subjects`."""
        self._erase(client, self._not_exempt(), {})

    def count_everybody(self, client: ClickHouse) -> int:
        """Rows that `hide_everybody` has to erase, those included that are hidden and still in the files."""
        sql = f"SELECT count() FROM {client.replicas(self.table.name.sql)} WHERE {self._left(self._not_exempt())}"
        return int(client.value(sql, INCLUDING_HIDDEN, **_choose_bound(sql, self._values())))

    def _count(
        self,
        client: ClickHouse,
        subjects: Sequence[SubjectId],
        identities: Identities,
        settings: Mapping[str, Any],
    ) -> list[tuple[str, int]]:
        sql = (
            f"SELECT {self.subject_expression} AS subject, count() FROM {client.replicas(self.table.name.sql)} "
            f"WHERE {self._left(self._of_subjects())} GROUP BY subject"
        )
        counts: list[tuple[str, int]] = []
        for batch in self._split(subjects, _SUBJECTS_TO_COUNT):
            values = self._values() | self._subject_values(batch)
            counts += client.rows(sql, settings, **_choose_bound(sql, values))
        return counts

    def _erase(self, client: ClickHouse, condition: str, values: Mapping[str, Any]) -> None:
        table = f"{self.table.name.sql} {client.on_cluster}"
        # Rows that are about to be deleted are redacted first: copies taken in between show nothing.
        if self.columns:
            assignments = ", ".join(f"{quote(column)} = {self._replacement(column)}" for column in self.columns)
            self._mutate(client, f"ALTER TABLE {table} UPDATE {assignments} WHERE {condition}", values)
        if self.rule.on_retire.delete:
            self._mutate(client, f"DELETE FROM {table} WHERE {condition}", values)

    def _mutate(self, client: ClickHouse, sql: str, values: Mapping[str, Any]) -> None:
        client.execute(sql, WAIT_FOR_MUTATIONS, **_choose_bound(sql, {**self._values(), **values}))

    def _of_subjects(self) -> str:
        """The condition that finds the rows of `{subjects}` that are not exempt."""
        kind = "String" if self._holds_text else self.subject_type
        return f"{quote(self.rule.key)} IN {{subjects:Array({kind})}} AND {self._not_exempt()}"

    def _left(self, condition: str) -> str:
        """The condition that finds rows of `condition` that still have to be erased."""
        if self.rule.on_retire.delete:
            return condition
        differs = " OR ".join(
            f"ifNull(toString({quote(column)}), '\\0') != ifNull(toString({self._replacement(column)}), '\\0')"
            for column in self.columns
        )
        return f"{condition} AND ({differs})"

    @property
    def _holds_text(self) -> bool:
        return is_text(self.table.columns[self.rule.key])

    def _split(self, subjects: Sequence[SubjectId], size: int) -> Iterator[Sequence[SubjectId]]:
        return split_for_binding(subjects, min(size, _SUBJECTS_WITH_VALUES) if self.needs_subjects else size)

    def _replacement(self, column: str) -> str:
        """The expression of what takes a value's place."""
        redaction = self.rule.on_retire.redact[column]
        name = self._name_value(column)
        if redaction.kind in ("hash", "pseudonym"):
            texts = "{texts:Array(String)}"
            return f"transform({self.subject_expression}, {texts}, {{{name}:Array(String)}}, toString({quote(column)}))"
        return {
            "null": "NULL",
            "empty": "''",
            "default": f"defaultValueOfTypeName({{{name}:String}})",
            "constant": f"{{{name}:String}}",
            "truncate": f"substringUTF8({quote(column)}, 1, {{{name}:UInt32}})",
            "expression": f"({redaction.expression})",
        }[redaction.kind]

    def _values(self) -> dict[str, Any]:
        """What is bound to conditions and replacements, whoever the subjects are."""
        values = self._exempt_values()
        for column in self.columns:
            redaction = self.rule.on_retire.redact[column]
            bound = {
                "constant": redaction.constant,
                "truncate": redaction.length,
                "default": self.table.columns[column],
            }
            if redaction.kind in bound:
                values[self._name_value(column)] = bound[redaction.kind]
        return values

    def _subject_values(self, subjects: Sequence[SubjectId]) -> dict[str, Any]:
        """What is bound for `subjects`: their ids, and their hashes by column."""
        texts = [str(subject) for subject in subjects]
        ids: Sequence[SubjectId] = texts if self._holds_text else subjects
        values: dict[str, Any] = {"subjects": list(ids), "texts": texts}
        for column in self.columns:
            if self.rule.on_retire.redact[column].kind in ("hash", "pseudonym"):
                values[self._name_value(column)] = [self._hash(column, subject) for subject in subjects]
        return values

    def _name_value(self, column: str) -> str:
        return f"value_{self.columns.index(column)}"

    def _hash(self, column: str, subject: SubjectId) -> str:
        assert self.secret is not None
        return keyed_hash(self.secret, self.pii_types[column], subject)


def _choose_bound(sql: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Those of `values` that a statement has a placeholder for."""
    return {name: value for name, value in values.items() if f"{{{name}:" in sql}
