"""What one rule of the map means for one table: which rows, which statements, and what is left.

There are two ways to carry out a rule. `DirectStep`, here, has ClickHouse delete or update rows that it finds by the
subject's id. What cannot be said in such a statement without PII in its text, or cannot be updated, is
`sink.erasure.rewrite.RewriteStep`'s.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import SecretStr

from sink.clickhouse.catalog import Table, is_nullable, read_path
from sink.clickhouse.client import INCLUDING_HIDDEN, WAIT_FOR_MUTATIONS, ClickHouse, split_for_binding
from sink.clickhouse.parts import express_delete
from sink.erasure.expressions import explain_failure
from sink.erasure.identities import Identities
from sink.erasure.keys import bind_ids, find_bound_kind, find_kind, group_ids, make_sample
from sink.erasure.pseudonyms import PSEUDONYM, express_shape, keyed_hash, spell_as_before
from sink.errors import QueryError
from sink.names import quote
from sink.pii_map import Rule, SubjectId

# Values that are bound one a subject, such as hashes, would make a statement too long for a server's form limit.
_SUBJECTS_WITH_VALUES = 2_000
_SUBJECTS_TO_COUNT = 10_000
# Of `if`, only what is meant is computed.
_LAZILY = {"short_circuit_function_evaluation": "force_enable"}


@dataclass(frozen=True)
class Step(ABC):
    """What one rule of the map means for one table of the live schema."""

    table: Table
    rule: Rule
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
    def question(self) -> str:
        """What is asked of the table: by which key, and what that holds. A rule with another key asks another question."""
        return f"{self.label}: {self.rule.template}"

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
        if self.rule.is_by_id:
            found = Counter(
                {spelt: found[one] for one, *more in self.group(subjects).values() for spelt in (one, *more)}
            )
        return {subject: rows for subject, rows in found.items() if rows}

    def can_find(self, subject: SubjectId, identities: Identities) -> bool:
        """True where rows of the subject are found, or it is known that there are none for want of a name."""
        return identities.can_find(subject, self.rule)

    @property
    def key_kind(self) -> str:
        """The type of the key, without Nullable and LowCardinality."""
        return find_kind(self.table, self.rule.key)

    def group(self, subjects: Sequence[SubjectId]) -> Mapping[str, Sequence[str]]:
        """Of a rule by id: ids as the key writes them -> ids of `subjects` as they are spelt; none that it cannot hold."""
        return group_ids(self.key_kind, subjects)

    @abstractmethod
    def hide(
        self, client: ClickHouse, subjects: Sequence[SubjectId], identities: Identities, batch_size: int
    ) -> dict[str, str]:
        """Erase `subjects` for every reader, and wait until that is done on every replica.

        Returns:
            Of whom a row could not be changed, with the reason; the rows of all others are.

        Raises:
            DatabaseError: the engine refused, or did not finish.
        """

    @abstractmethod
    def hide_everybody(self, client: ClickHouse) -> dict[str, str]:
        """Erase every row that is not exempt, whoever it is about; returns as `hide` does."""

    @abstractmethod
    def count_everybody(self, client: ClickHouse) -> int:
        """Rows that `hide_everybody` has to erase, those included that are hidden and still in the files."""

    @abstractmethod
    def rehearse(self, client: ClickHouse) -> None:
        """Carry out the statements on a table in which nobody is.

        Raises:
            DatabaseError: the engine refuses.
        """

    @abstractmethod
    def _count(
        self,
        client: ClickHouse,
        subjects: Sequence[SubjectId],
        identities: Identities,
        settings: Mapping[str, Any],
    ) -> list[tuple[str, int]]:
        """Rows that are left, as (subject, rows); a subject may come several times.

        Of several spellings of one id that `subjects` has, the first is counted.
        """

    def _not_exempt(self) -> str:
        exemption = self.rule.on_retire.unless
        if exemption is None:
            return "true"
        value = f"toString({read_path(self.table, exemption.column)})"
        return f"(isNull({value}) OR {value} NOT IN {{exempt:Array(String)}})"

    def _exempt_values(self) -> dict[str, Any]:
        exemption = self.rule.on_retire.unless
        return {} if exemption is None else {"exempt": exemption.values}


@dataclass(frozen=True)
class DirectStep(Step):
    """Rows are found by the subject's id, and deleted or updated where they are."""

    secret: SecretStr | None

    def hide(
        self, client: ClickHouse, subjects: Sequence[SubjectId], identities: Identities, batch_size: int
    ) -> dict[str, str]:
        """See `Step`."""
        refused: dict[str, str] = {}
        for batch in self._split(subjects, batch_size):
            # A mutation that fails for one would fail for all, and stay.
            failing = self._find_failing(client, batch, {}) if self._computed else {}
            able = [subject for subject in batch if subject not in failing]
            if able:
                self._erase(client, self._of_subjects(), self._bind_subjects(able))
            refused |= {str(subject): reason for subject, reason in failing.items()}
        return refused

    def hide_everybody(self, client: ClickHouse) -> dict[str, str]:
        """See `Step`."""
        if self._computed:
            try:
                self._count_rows(
                    client, f"{self._not_exempt()} AND {self._differs(self._not_exempt(), computed=True)}", {}
                )
            except QueryError as error:
                return {"": explain_failure(self.table, self._computed, error)}
        if not self.needs_subjects:
            self._erase(client, self._not_exempt(), {})
        for texts in self._list_texts(client):
            self._erase(client, self._of_texts(), self._bind_texts(dict(zip(texts, texts, strict=True))))
        return {}

    def count_everybody(self, client: ClickHouse) -> int:
        """See `Step`."""
        if not self.needs_subjects:
            return self._count_left(client, self._not_exempt(), {})
        return sum(
            self._count_left(client, self._of_texts(), self._bind_texts(dict(zip(texts, texts, strict=True))))
            for texts in self._list_texts(client)
        )

    def rehearse(self, client: ClickHouse) -> None:
        """See `Step`."""
        self._erase(client, self._of_subjects(), self._bind_subjects([make_sample(self.key_kind)]))

    def _count_left(self, client: ClickHouse, condition: str, values: Mapping[str, Any]) -> int:
        try:
            return self._count_rows(client, self._left(condition), values)
        except QueryError:
            if not self._computed:
                raise
            # Unknown is not zero.
            return self._count_rows(client, condition, values)

    def _count_rows(self, client: ClickHouse, condition: str, values: Mapping[str, Any]) -> int:
        sql = f"SELECT count() FROM {client.replicas(self.table.name.sql)} WHERE {condition}"
        settings = {**INCLUDING_HIDDEN, **_LAZILY}
        return int(client.value(sql, settings, **_choose_bound(sql, {**self._values(), **values})))

    @property
    def _computed(self) -> list[str]:
        """The columns whose new value an expression of the map computes, which can fail on what a row holds."""
        return [c for c in self.columns if self.rule.on_retire.redact[c].kind == "expression"]

    def _find_failing(
        self, client: ClickHouse, subjects: Sequence[SubjectId], settings: Mapping[str, Any]
    ) -> dict[SubjectId, str]:
        """Of whom a row makes the engine fail, with the reason."""
        of_subjects = self._of_subjects()
        condition = f"{of_subjects} AND {self._differs(of_subjects, computed=True)}"
        try:
            self._count_of_each(client, subjects, condition, settings)
        except QueryError as error:
            if len(subjects) == 1:
                return {subjects[0]: explain_failure(self.table, self._computed, error)}
            half = len(subjects) // 2
            first, second = subjects[:half], subjects[half:]
            return self._find_failing(client, first, settings) | self._find_failing(client, second, settings)
        return {}

    def _list_texts(self, client: ClickHouse) -> Iterator[list[str]]:
        """Every id that the table holds, ids or not and NULL as an empty text; none where nothing depends on it."""
        if self.needs_subjects:
            yield from list_texts(client, self.table, self._subject_text, self._not_exempt(), self._exempt_values())

    @property
    def _subject_text(self) -> str:
        # Bytes that are no text would come from the driver as something else.
        return f"toValidUTF8(ifNull({self.subject_expression}, ''))"

    def _of_texts(self) -> str:
        return f"{self._subject_text} IN {{texts:Array(String)}} AND {self._not_exempt()}"

    def _count(
        self,
        client: ClickHouse,
        subjects: Sequence[SubjectId],
        identities: Identities,
        settings: Mapping[str, Any],
    ) -> list[tuple[str, int]]:
        counts: list[tuple[str, int]] = []
        left = self._left(self._of_subjects())
        for batch in self._split(subjects, _SUBJECTS_TO_COUNT):
            try:
                counts += self._count_of_each(client, batch, left, settings)
            except QueryError:
                if not self._computed:
                    raise
                failing = self._find_failing(client, batch, settings)
                able = [subject for subject in batch if subject not in failing]
                counts += self._count_of_each(client, able, left, settings)
                # Unknown is not zero.
                counts += self._count_of_each(client, list(failing), self._of_subjects(), settings)
        return counts

    def _count_of_each(
        self, client: ClickHouse, subjects: Sequence[SubjectId], condition: str, settings: Mapping[str, Any]
    ) -> list[tuple[str, int]]:
        if not subjects:
            return []
        sql = (
            f"SELECT {self.subject_expression} AS aspects_pii_subject, count() FROM {client.replicas(self.table.name.sql)} "
            f"WHERE {condition} GROUP BY aspects_pii_subject"
        )
        spelt = self.group(subjects)
        values = self._values() | self._bind_subjects(subjects)
        rows = client.rows(sql, {**settings, **_LAZILY}, **_choose_bound(sql, values))
        return [(spelt[written][0], count) for written, count in rows]

    def _erase(self, client: ClickHouse, condition: str, values: Mapping[str, Any]) -> None:
        table = f"{self.table.name.sql} {client.on_cluster}"
        # Rows that are about to be deleted are redacted first: copies taken in between show nothing.
        if self.columns:
            assignments = ", ".join(f"{quote(column)} = {self._replacement(column)}" for column in self.columns)
            self._mutate(client, f"ALTER TABLE {table} UPDATE {assignments} WHERE {condition}", values)
        if self.rule.on_retire.delete:
            self._mutate(client, f"{express_delete(client, self.table.name)} WHERE {condition}", values)

    def _mutate(self, client: ClickHouse, sql: str, values: Mapping[str, Any]) -> None:
        client.execute(sql, WAIT_FOR_MUTATIONS, **_choose_bound(sql, {**self._values(), **values}))

    def _of_subjects(self) -> str:
        """The condition that finds the rows of `{subjects}` that are not exempt."""
        kind = find_bound_kind(self.key_kind)
        return f"{quote(self.rule.key)} IN {{subjects:Array({kind})}} AND {self._not_exempt()}"

    def _left(self, condition: str) -> str:
        """The condition that finds rows of `condition` that still have to be erased."""
        if self.rule.on_retire.delete:
            return condition
        return f"{condition} AND {self._differs(condition)}"

    def _differs(self, condition: str, *, computed: bool = False) -> str:
        """True in SQL where a row of `condition` has another value than it should; `computed`: by an expression.

        With `_LAZILY` nothing is computed of other rows: an expression may fail on theirs.
        """
        differs = " OR ".join(
            f"ifNull(toString({quote(column)}), '\\0') != ifNull(toString({self._replacement(column)}), '\\0')"
            for column in (self._computed if computed else self.columns)
        )
        return f"if({condition}, {differs}, false)" if self._computed else f"({differs})"

    def _split(self, subjects: Sequence[SubjectId], size: int) -> Iterator[Sequence[SubjectId]]:
        return split_for_binding(subjects, min(size, _SUBJECTS_WITH_VALUES) if self.needs_subjects else size)

    def _replacement(self, column: str) -> str:
        """The expression of what takes a value's place; NULL stays NULL."""
        new = self._new_value(column)
        kind = self.rule.on_retire.redact[column].kind
        if kind in ("null", "default", "expression") or not is_nullable(self.table.columns[column]):
            return new
        return f"if(isNull({quote(column)}), NULL, {new})"

    def _new_value(self, column: str) -> str:
        redaction = self.rule.on_retire.redact[column]
        name = self._name_value(column)
        if redaction.kind in ("hash", "pseudonym"):
            old = f"toString({quote(column)})"
            hashed, earlier = (
                f"transform({self._subject_text}, {{texts:Array(String)}}, {{{values}:Array(String)}}, {old})"
                for values in (name, f"{name}_earlier")
            )
            if redaction.kind == "pseudonym":
                hashed, earlier = express_shape(old, hashed), express_shape(old, earlier)
            return f"if({old} = {earlier}, {old}, {hashed})"
        return {
            "null": "NULL",
            "empty": "''",
            "default": f"defaultValueOfTypeName({{{name}:String}})",
            "constant": f"{{{name}:String}}",
            # What is no UTF-8 is cut by bytes: as characters it could stay whole.
            "truncate": f"if(isValidUTF8(toString({quote(column)})), substringUTF8({quote(column)}, 1, {{{name}:UInt32}}), "
            f"substring({quote(column)}, 1, {{{name}:UInt32}}))",
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

    def _bind_subjects(self, subjects: Sequence[SubjectId]) -> dict[str, Any]:
        """What is bound for `subjects`: their ids as the key writes them, and their hashes by column."""
        groups = self.group(subjects)
        values = self._bind_texts({written: spelt[0] for written, spelt in groups.items()})
        return {**values, "subjects": bind_ids(self.key_kind, groups)}

    def _bind_texts(self, subjects: Mapping[str, str]) -> dict[str, Any]:
        """What is bound for texts of the key, as text -> whose: the texts, and the hashes of whose they are by column."""
        values: dict[str, Any] = {"texts": list(subjects)}
        for column in self.columns:
            if self.rule.on_retire.redact[column].kind in ("hash", "pseudonym"):
                hashes = [self._hash(column, subject) for subject in subjects.values()]
                name = self._name_value(column)
                values |= {name: hashes, f"{name}_earlier": [spell_as_before(hashed) for hashed in hashes]}
        return values

    def _name_value(self, column: str) -> str:
        return f"value_{self.columns.index(column)}"

    def _hash(self, column: str, subject: SubjectId) -> str:
        assert self.secret is not None
        is_pseudonym = self.rule.on_retire.redact[column].kind == "pseudonym"
        return keyed_hash(self.secret, PSEUDONYM if is_pseudonym else self.pii_types[column], subject)


def list_texts(
    client: ClickHouse, table: Table, text: str, condition: str, values: Mapping[str, Any]
) -> Iterator[list[str]]:
    """The different values of an SQL expression of a table's rows, as many at a time as can be bound."""
    after = ""
    comparison = ">="
    while texts := client.column(
        f"SELECT DISTINCT {text} AS aspects_pii_text FROM {client.replicas(table.name.sql)} "
        f"WHERE aspects_pii_text {comparison} {{after:String}} AND {condition} ORDER BY aspects_pii_text LIMIT {{limit:UInt32}}",
        INCLUDING_HIDDEN,
        after=after,
        limit=_SUBJECTS_WITH_VALUES,
        **values,
    ):
        after, comparison = texts[-1], ">"
        yield from split_for_binding(texts, _SUBJECTS_WITH_VALUES)


def _choose_bound(sql: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Those of `values` that a statement has a placeholder for."""
    return {name: value for name, value in values.items() if f"{{{name}:" in sql}
