"""Erasing subjects from the targets of the map: which statements, and carrying them out.

`plan_steps` is pure: from the map and the live schema follow the steps, and from a step and its subjects
the statements and the conditions that find what is left. Deleting hides rows with a lightweight DELETE, whose
cost hardly depends on the number of subjects; redacting is one mutation a table. `scrub` then takes the hidden
rows and the replaced parts off the disk.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import SecretStr

from sink.catalog import Table, read_tables
from sink.client import WAIT_FOR_MUTATIONS, ClickHouse
from sink.errors import ErasureError, MapError
from sink.ledger import SubjectId
from sink.names import TableName, quote
from sink.pii import PiiMap, Redaction, Rule, Target

# Rows in hiding count as well: what a lightweight DELETE hides is still in the files.
INCLUDING_HIDDEN = {"apply_deleted_mask": 0}

# Values that are bound one a subject, such as hashes, would make a statement too long for a server's form limit.
_SUBJECTS_WITH_VALUES = 2_000

_CLEANUP_SETTINGS = ", ".join(
    (
        "old_parts_lifetime = 1",
        "cleanup_delay_period = 1",
        "max_cleanup_delay_period = 1",
        "cleanup_delay_period_random_add = 0",
    )
)


@dataclass(frozen=True)
class Statement:
    """A statement with the values that are bound to it."""

    sql: str
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Step:
    """What one rule of the map means for one table of the live schema."""

    table: Table
    rule: Rule
    subject_type: str
    secret: SecretStr | None
    pii_types: Mapping[str, str]
    everybody: bool = False
    """True for a purge, which means every row that is not exempt."""

    @property
    def needs_subjects(self) -> bool:
        """True where what takes a value's place is different for each subject."""
        return any(redaction.kind in ("hash", "pseudonym") for redaction in self.rule.on_retire.redact.values())

    @property
    def action(self) -> str:
        """How a receipt names it: `delete`, `redact` or `redact, delete`."""
        words = (["redact"] if self.rule.on_retire.redact else []) + (["delete"] if self.rule.on_retire.delete else [])
        return ", ".join(words)

    @property
    def columns(self) -> list[str]:
        """The columns that are redacted; none where rows are deleted."""
        return sorted(self.rule.on_retire.redact)

    @property
    def subject_expression(self) -> str:
        """The subject's id of a row, as text."""
        return f"toString({quote(self.rule.key)})"

    @property
    def match(self) -> str:
        """The condition that finds the rows of `{subjects}`, exempted rows left out."""
        if self.everybody:
            return self._not_exempt() if self.rule.on_retire.unless else "true"
        kind = "String" if _is_text(self.table.columns[self.rule.key]) else self.subject_type
        condition = f"{quote(self.rule.key)} IN {{subjects:Array({kind})}}"
        return f"{condition} AND {self._not_exempt()}" if self.rule.on_retire.unless else condition

    def _not_exempt(self) -> str:
        exemption = self.rule.on_retire.unless
        assert exemption is not None
        return f"toString({quote(exemption.column)}) NOT IN {{exempt:Array(String)}}"

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
        as_text = _is_text(self.table.columns[self.rule.key])
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
        if self.needs_subjects:
            size = min(size, _SUBJECTS_WITH_VALUES)
        for start in range(0, len(subjects), size):
            yield subjects[start : start + size]

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


@dataclass(frozen=True)
class Plan:
    """Everything that a retirement touches in the live schema."""

    steps: list[Step]
    absent: list[str]
    """Targets of the map that do not exist here."""
    problems: list[str] = field(default_factory=list)
    """Why the map cannot be carried out, one line each, with the fix."""

    @property
    def tables(self) -> list[TableName]:
        """The tables of the steps, each once."""
        return list(dict.fromkeys(step.table.name for step in self.steps))


def keyed_hash(secret: SecretStr, purpose: str, subject: SubjectId) -> str:
    """A pseudonym for a subject: 32 hexadecimal digits of HMAC-SHA256, alike in every column of one PII type.

    It is made from the subject's id and not from the value, so that nothing of the value remains.
    """
    message = f"{purpose}:{subject}".encode()
    return hmac.new(secret.get_secret_value().encode(), message, hashlib.sha256).hexdigest()[:32]


def read_plan(
    client: ClickHouse, pii_map: PiiMap, *, redact_history: bool = False, secret: SecretStr | None = None
) -> Plan:
    """Hold the map against the live schema."""
    names = {name: client.table(name) for name in pii_map.targets}
    return plan_steps(pii_map, names, read_tables(client, names.values()), redact_history=redact_history, secret=secret)


def plan_steps(
    pii_map: PiiMap,
    names: Mapping[str, TableName],
    tables: Mapping[TableName, Table],
    *,
    redact_history: bool = False,
    secret: SecretStr | None = None,
) -> Plan:
    """Which steps the map means for `tables`. Touches nothing.

    `names` are the tables that the map's targets mean in this installation.
    """
    steps: list[Step] = []
    problems: list[str] = []
    for target_name, target, rule in pii_map.rules(redact_history=redact_history):
        table = tables.get(names[target_name])
        if table is None:
            continue
        found = list(_find_problems(target_name, target, rule, table, secret))
        problems += found
        if not found:
            steps.append(Step(table, rule, pii_map.subject.clickhouse_type, secret, target.pii))
    absent = sorted(name for name in pii_map.targets if names[name] not in tables)
    # What identifiers are read from goes last.
    sources = {names[source.rpartition(".")[0]] for source in pii_map.subject.identifiers.values()}
    steps.sort(key=lambda step: step.table.name in sources)
    return Plan(steps, absent, problems)


def _find_problems(name: str, target: Target, rule: Rule, table: Table, secret: SecretStr | None) -> Iterator[str]:
    where = f"targets.{name}"
    if not table.is_merge_tree:
        yield (
            f"{where}: rows of a {table.engine} cannot be erased. Name the MergeTree table that holds them, "
            "and put this one under `derived`."
        )
        return
    for path in [rule.key, *rule.on_retire.redact, *([rule.on_retire.unless.column] if rule.on_retire.unless else [])]:
        if path.partition(".")[0] not in table.columns:
            yield f"{where}: there is no column {path.partition('.')[0]}. Correct the map."
    for column, redaction in rule.on_retire.redact.items():
        kind = table.columns.get(column)
        if kind is None:
            continue
        if column in table.key_columns and not rule.on_retire.delete:
            yield (
                f"{where}.redact.{column}: the column is in the sort or partition key, which ClickHouse cannot update. "
                "Delete the rows instead, or rebuild the table with another key."
            )
        yield from (f"{where}.redact.{column}: {reason}" for reason in _explain_misfit(redaction, kind, secret))


def _explain_misfit(redaction: Redaction, kind: str, secret: SecretStr | None) -> Iterator[str]:
    if redaction.kind == "null" and not kind.startswith(("Nullable(", "LowCardinality(Nullable(")):
        yield f"null does not fit into {kind}. Use `default` or `empty`."
    if redaction.kind in ("empty", "constant", "truncate", "hash", "pseudonym") and not _is_text(kind):
        yield f"{redaction.kind} needs a text column, and this is {kind}. Use `default` or `null`."
    if redaction.kind in ("hash", "pseudonym") and secret is None:
        yield "a keyed hash needs ASPECTS_PSEUDONYM_SECRET. Set it to at least 16 secret characters."


def _is_text(kind: str) -> bool:
    return kind.removeprefix("LowCardinality(").removeprefix("Nullable(").startswith(("String", "FixedString"))


def count_left(
    client: ClickHouse, step: Step, subjects: Sequence[SubjectId], *, including_hidden: bool = False
) -> dict[str, int]:
    """Rows of each subject that still have to be erased from the step's table; asks every replica."""
    found: dict[str, int] = {}
    for batch in step.batches(subjects, 10_000):
        rows = client.rows(
            f"SELECT {step.subject_expression} AS subject, count() "
            f"FROM {client.replicas(step.table.name.sql)} WHERE {step.left} GROUP BY subject",
            INCLUDING_HIDDEN if including_hidden else None,
            **step.values(batch),
        )
        found.update({str(subject): int(count) for subject, count in rows})
    return found


def hide(client: ClickHouse, step: Step, subjects: Sequence[SubjectId], batch_size: int) -> None:
    """Erase `subjects` from the step's table for every reader, and wait until that is done on every replica."""
    for batch in step.batches(subjects, batch_size):
        for statement in step.statements(batch, client.on_cluster):
            client.execute(statement.sql, WAIT_FOR_MUTATIONS, **statement.values)


def delete_rows(client: ClickHouse, table: TableName, condition: str, **values: Any) -> None:
    """Hide the rows that fit, and wait until that is done. `drop_hidden_rows` takes them off the disk."""
    client.execute(f"DELETE FROM {table.sql} {client.on_cluster} WHERE {condition}", WAIT_FOR_MUTATIONS, **values)


def drop_hidden_rows(client: ClickHouse, table: TableName) -> None:
    """Rewrite the parts of a table that hold rows which a lightweight DELETE has hidden."""
    has_hidden = client.value(
        f"SELECT count() FROM {client.replicas('system.parts')} WHERE database = {{database:String}} "
        "AND table = {table:String} AND active AND has_lightweight_delete",
        database=table.database,
        table=table.table,
    )
    if has_hidden:
        client.execute(f"ALTER TABLE {table.sql} {client.on_cluster} APPLY DELETED MASK", WAIT_FOR_MUTATIONS)


def scrub(client: ClickHouse, tables: Iterable[TableName], within: float) -> int:
    """Take hidden rows and replaced parts of `tables` off the disk, on every replica.

    Returns:
        The time, by `read_clock`, until which nothing that was replaced is left.

    Raises:
        ErasureError: after `within` seconds old parts were still there.
    """
    names = list(tables)
    for table in names:
        drop_hidden_rows(client, table)
    before = read_clock(client)
    deadline = time.monotonic() + within
    pause = 0.05
    waiting = {name for name in names if count_old_parts(client, name, before)}
    for table in waiting:
        _hasten_cleanup(client, table)
    while waiting := {name for name in waiting if count_old_parts(client, name, before)}:
        if time.monotonic() > deadline:
            raise ErasureError(
                f"Replaced parts of {', '.join(sorted(map(str, waiting)))} are still on the disk after {within:g} s "
                "(ASPECTS_SCRUB_WITHIN). `aspects-pii sweep` looks again."
            )
        time.sleep(pause)
        pause = min(pause * 1.5, 5)
    return before


def _hasten_cleanup(client: ClickHouse, table: TableName) -> None:
    # Upstream's tables keep replaced parts for eight minutes, and look only then.
    lifetime = client.value(
        "SELECT extract(engine_full, 'old_parts_lifetime = (\\d+)') FROM system.tables "
        "WHERE database = {database:String} AND name = {table:String}",
        database=table.database,
        table=table.table,
    )
    if lifetime != "1":
        client.execute(f"ALTER TABLE {table.sql} {client.on_cluster} MODIFY SETTING {_CLEANUP_SETTINGS}")
    # The thread that cleans up may have gone to sleep for minutes under the old settings.
    client.execute(f"SYSTEM START CLEANUP {client.on_cluster} {table.sql}")


def read_clock(client: ClickHouse) -> int:
    """ClickHouse's clock, in seconds since 1970."""
    return int(client.value("SELECT toUnixTimestamp(now())"))


def count_old_parts(client: ClickHouse, table: TableName, before: int) -> int:
    """Parts of a table that were replaced until `before` (by `read_clock`) and still lie on a disk, on any replica."""
    return int(
        client.value(
            f"SELECT count() FROM {client.replicas('system.parts')} WHERE database = {{database:String}} "
            "AND table = {table:String} AND NOT active AND toUnixTimestamp(remove_time) <= {before:UInt32}",
            database=table.database,
            table=table.table,
            before=before,
        )
    )


def count_detached_parts(client: ClickHouse, table: TableName) -> int:
    """Parts of a table that were set aside and that no statement reaches, on any replica."""
    return int(
        client.value(
            f"SELECT count() FROM {client.replicas('system.detached_parts')} "
            "WHERE database = {database:String} AND table = {table:String}",
            database=table.database,
            table=table.table,
        )
    )


def require_sound(plan: Plan) -> None:
    """Stop where the map cannot be carried out on the live schema.

    Raises:
        MapError: names every problem and its fix.
    """
    if plan.problems:
        raise MapError("\n".join(plan.problems))
