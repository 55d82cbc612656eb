"""Erasing subjects from the targets of the map: which statements, and carrying them out.

`plan_steps` is pure: from the map and the live schema follow the steps, and from a step and its subjects
the statements and the conditions that find what is left. Deleting hides rows with a lightweight DELETE, whose
cost hardly depends on the number of subjects; redacting is one mutation a table. `scrub` then takes the hidden
rows and the replaced parts off the disk.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import SecretStr

from sink.catalog import Table, read_tables
from sink.client import WAIT_FOR_MUTATIONS, ClickHouse
from sink.errors import ErasureError, MapError, OverloadedError
from sink.names import TableName
from sink.pii import PiiMap, Redaction, Rule, Target
from sink.rewrite import RewriteStep
from sink.steps import DirectStep, Step, is_json, is_text

# .. no_pii: statements with placeholders; ids are bound.

_CLEANUP_SETTINGS = ", ".join(
    (
        "old_parts_lifetime = 1",
        "cleanup_delay_period = 1",
        "max_cleanup_delay_period = 1",
        "cleanup_delay_period_random_add = 0",
    )
)


@dataclass(frozen=True)
class Plan:
    """Everything that a retirement touches in the live schema."""

    steps: list[Step]
    absent: list[str]
    """Targets of the map that do not exist here."""
    problems: list[str] = field(default_factory=list)
    """Why the map cannot be carried out, one line each, with the fix."""
    sources: frozenset[TableName] = frozenset()
    """The tables that identifiers are read from."""

    @property
    def tables(self) -> list[TableName]:
        """The tables of the steps, each once."""
        return list(dict.fromkeys(step.table.name for step in self.steps))


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
            steps.append(_make_step(pii_map, target, rule, table, secret))
    absent = sorted(name for name in pii_map.targets if names[name] not in tables)
    # What needs another name of the subject goes first, and what those names are read from last.
    sources = frozenset(names[source.rpartition(".")[0]] for source in pii_map.subject.identifiers.values())
    steps.sort(key=lambda step: (not step.needs_identities, step.table.name in sources))
    return Plan(steps, absent, problems, sources)


def _make_step(pii_map: PiiMap, target: Target, rule: Rule, table: Table, secret: SecretStr | None) -> Step:
    arguments = (table, rule, pii_map.subject.clickhouse_type, secret, target.pii)
    paths = [rule.key, *rule.on_retire.redact]
    in_key = not rule.on_retire.delete and any(path in table.key_columns for path in rule.on_retire.redact)
    if rule.is_by_id and not in_key and not any("." in path for path in paths):
        return DirectStep(*arguments)
    types = {_find_type(pii_map, source) for source in rule.sources}
    return RewriteStep(*arguments, ignores_case="email_address" in types and not rule.template.startswith("sha1:"))


def _find_type(pii_map: PiiMap, identifier: str) -> str:
    table, _, column = pii_map.subject.identifiers.get(identifier, "").rpartition(".")
    return pii_map.targets[table].pii[column] if table else "id"


def _find_problems(name: str, target: Target, rule: Rule, table: Table, secret: SecretStr | None) -> Iterator[str]:
    where = f"targets.{name}"
    if not table.is_merge_tree:
        yield (
            f"{where}: rows of a {table.engine} cannot be erased. Name the MergeTree table that holds them, "
            "and put this one under `derived`."
        )
        return
    exempt = [rule.on_retire.unless.column] if rule.on_retire.unless else []
    for path in [rule.key, *rule.on_retire.redact, *exempt]:
        column, dot, _ = path.partition(".")
        kind = table.columns.get(column)
        if kind is None:
            yield f"{where}: there is no column {column}. Correct the map."
        elif dot and not (is_json(kind) or is_text(kind)):
            yield f"{where}: {path} is a path into {column}, which is {kind} and not JSON. Correct the map."
    for path, redaction in rule.on_retire.redact.items():
        kind = table.columns.get(path.partition(".")[0])
        if kind is None:
            continue
        if path in table.key_columns and not rule.on_retire.delete and redaction.kind != "pseudonym":
            yield (
                f"{where}.redact.{path}: the column is in the sort or partition key, which ClickHouse cannot update. "
                "Use `pseudonym`, which rewrites the rows, or delete them."
            )
        misfits = _explain_misfit_in_json(redaction) if "." in path else _explain_misfit(redaction, kind)
        yield from (f"{where}.redact.{path}: {reason}" for reason in misfits)
        if redaction.kind in ("hash", "pseudonym") and secret is None:
            yield (
                f"{where}.redact.{path}: a keyed hash needs ASPECTS_PSEUDONYM_SECRET. "
                "Set it to at least 16 secret characters."
            )


def _explain_misfit(redaction: Redaction, kind: str) -> Iterator[str]:
    if redaction.kind == "null" and not kind.startswith(("Nullable(", "LowCardinality(Nullable(")):
        yield f"null does not fit into {kind}. Use `default` or `empty`."
    if redaction.kind in ("empty", "constant", "truncate", "hash", "pseudonym") and not is_text(kind):
        yield f"{redaction.kind} needs a text column, and this is {kind}. Use `default` or `null`."


def _explain_misfit_in_json(redaction: Redaction) -> Iterator[str]:
    if redaction.kind in ("default", "expression"):
        yield f"{redaction.kind} cannot be put into JSON. Use `null`, `empty`, `constant`, `truncate`, `hash` or `pseudonym`."


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


def wait_for_mutations(client: ClickHouse, limit: int, within: float) -> None:
    """Wait while more than `limit` mutations of anybody are unfinished: one more would only queue up.

    Raises:
        OverloadedError: after `within` seconds there were still too many.
    """
    deadline = time.monotonic() + within
    while (running := _count_mutations(client)) > limit:
        if time.monotonic() > deadline:
            raise OverloadedError(
                f"{running} mutations are unfinished, more than ASPECTS_MAX_MUTATIONS={limit}. See system.mutations; "
                "`aspects-pii sweep` tries again."
            )
        time.sleep(1)


def _count_mutations(client: ClickHouse) -> int:
    return int(client.value(f"SELECT count() FROM {client.replicas('system.mutations')} WHERE NOT is_done"))


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
