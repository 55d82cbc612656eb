"""What one rule of the map means for one table: which rows, which statements, and what is left.

There are two ways to carry out a rule. `DirectStep`, here, has ClickHouse delete or update rows that it finds by the
subject's id. What cannot be said in such a statement without PII in its text, or cannot be updated, is
`sink.erasure.rewrite.RewriteStep`'s.
"""

from __future__ import annotations

import hashlib
import hmac
from abc import ABC, abstractmethod
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


@dataclass(frozen=True)
class Statement:
    """A statement with the values that are bound to it."""

    sql: str
    values: Mapping[str, Any]


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
    secret: SecretStr | None
    pii_types: Mapping[str, str]
    everybody: bool = False
    """True for a purge, which means every row that is not exempt."""

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

    def _not_exempt(self) -> str:
        exemption = self.rule.on_retire.unless
        assert exemption is not None
        return f"toString({read_path(self.table, exemption.column)}) NOT IN {{exempt:Array(String)}}"

    @abstractmethod
    def count_left(
        self,
        client: ClickHouse,
        subjects: Sequence[SubjectId],
        identities: Identities,
        *,
        including_hidden: bool = False,
    ) -> dict[str, int]:
        """Rows of each subject that still have to be erased; asks every replica. Subjects without any are left out."""

    @abstractmethod
    def hide(self, client: ClickHouse, subjects: Sequence[SubjectId], identities: Identities, batch_size: int) -> None:
        """Erase `subjects` for every reader, and wait until that is done on every replica."""


@dataclass(frozen=True)
class DirectStep(Step):
    """Rows are found by the subject's id, and deleted or updated where they are."""

    @property
    def match(self) -> str:
        """The condition that finds the rows of `{subjects}`, exempted rows left out."""
        if self.everybody:
            return self._not_exempt() if self.rule.on_retire.unless else "true"
        kind = "String" if is_text(self.table.columns[self.rule.key]) else self.subject_type
        condition = f"{quote(self.rule.key)} IN {{subjects:Array({kind})}}"
        return f"{condition} AND {self._not_exempt()}" if self.rule.on_retire.unless else condition

    @property
    def left(self) -> str:
        """The condition that finds rows of `{subjects}` that still have to be erased."""
        if self.rule.on_retire.delete:
            return self.match
        differs = " OR ".join(
            f"ifNull(toString({quote(column)}), '\\0') != ifNull(toString({self._replacement(column)}), '\\0')"
            for column in self.columns
        )
        return f"{self.match} AND ({differs})"

    def values(self, subjects: Sequence[SubjectId]) -> dict[str, Any]:
        """What is bound to `match`, `left` and the statements."""
        as_text = is_text(self.table.columns[self.rule.key])
        values: dict[str, Any] = {"subjects": [str(s) if as_text else s for s in subjects]}
        if self.rule.on_retire.unless:
            values["exempt"] = self.rule.on_retire.unless.values
        for index, column in enumerate(self.columns):
            redaction = self.rule.on_retire.redact[column]
            if redaction.kind == "constant":
                values[f"value_{index}"] = redaction.constant
            elif redaction.kind == "truncate":
                values[f"value_{index}"] = redaction.length
            elif redaction.kind == "default":
                values[f"value_{index}"] = self.table.columns[column]
            elif redaction.kind in ("hash", "pseudonym"):
                values[f"value_{index}"] = [self._hash(column, subject) for subject in subjects]
                values["texts"] = [str(subject) for subject in subjects]
        return values

    def batches(self, subjects: Sequence[SubjectId], size: int) -> Iterator[Sequence[SubjectId]]:
        """Split `subjects` into as many as one statement takes."""
        yield from split_for_binding(subjects, min(size, _SUBJECTS_WITH_VALUES) if self.needs_subjects else size)

    def statements(self, subjects: Sequence[SubjectId], on_cluster: str = "") -> list[Statement]:
        """The statements that erase `subjects`, in order."""
        values = self.values(subjects)
        statements = []
        if self.columns:
            assignments = ", ".join(f"{quote(column)} = {self._replacement(column)}" for column in self.columns)
            # Rows that are about to be deleted are redacted first: copies taken in between show nothing.
            redacting = f"ALTER TABLE {self.table.name.sql} {on_cluster} UPDATE {assignments} WHERE {self.match}"
            statements.append(Statement(redacting, values))
        if self.rule.on_retire.delete:
            used = {name: value for name, value in values.items() if name in ("subjects", "exempt")}
            deleting = f"DELETE FROM {self.table.name.sql} {on_cluster} WHERE {self.match}"
            statements.append(Statement(deleting, used))
        return statements

    def _replacement(self, column: str) -> str:
        redaction = self.rule.on_retire.redact[column]
        name = f"value_{self.columns.index(column)}"
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

    def _hash(self, column: str, subject: SubjectId) -> str:
        assert self.secret is not None
        return keyed_hash(self.secret, self.pii_types[column], subject)

    def count_left(
        self,
        client: ClickHouse,
        subjects: Sequence[SubjectId],
        identities: Identities,
        *,
        including_hidden: bool = False,
    ) -> dict[str, int]:
        """See `Step`."""
        found: dict[str, int] = {}
        for batch in self.batches(subjects, _SUBJECTS_TO_COUNT):
            rows = client.rows(
                f"SELECT {self.subject_expression} AS subject, count() "
                f"FROM {client.replicas(self.table.name.sql)} WHERE {self.left} GROUP BY subject",
                INCLUDING_HIDDEN if including_hidden else None,
                **self.values(batch),
            )
            found.update({str(subject): int(count) for subject, count in rows})
        return found

    def hide(self, client: ClickHouse, subjects: Sequence[SubjectId], identities: Identities, batch_size: int) -> None:
        """See `Step`."""
        for batch in self.batches(subjects, batch_size):
            for statement in self.statements(batch, client.on_cluster):
                client.execute(statement.sql, WAIT_FOR_MUTATIONS, **statement.values)
