"""Erasing subjects from the targets of the map: which statements, and carrying them out.

`plan_steps` is pure: from the map and the live schema follow the steps, and from a step and its subjects
the statements and the conditions that find what is left. Deleting hides rows with a lightweight DELETE, whose
cost hardly depends on the number of subjects; redacting is one mutation a table. `scrub` then takes the hidden
rows and the replaced parts off the disk.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from pydantic import SecretStr

from sink.clickhouse.catalog import Table, is_json, is_text, read_tables
from sink.erasure.rewrite import RewriteStep
from sink.erasure.steps import DirectStep, Step
from sink.errors import MapError
from sink.names import TableName
from sink.pii_map import PiiMap, Redaction, Rule, Target
from sink.store import Store

# .. no_pii: statements with placeholders; ids are bound.


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


def read_plan(store: Store, *, with_history: bool = False) -> Plan:
    """Hold the map against the live schema.

    Args:
        store: the store.
        with_history: take the rules for history rows too where ASPECTS_REDACT_HISTORY is off.
    """
    names = {name: store.client.table(name) for name in store.pii_map.targets}
    return plan_steps(
        store.pii_map,
        names,
        read_tables(store.client, names.values()),
        redact_history=with_history or store.policy.redact_history,
        secret=store.policy.pseudonym_secret,
    )


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


def require_valid_plan(plan: Plan) -> None:
    """Stop where the map cannot be carried out on the live schema.

    Raises:
        MapError: names every problem and its fix.
    """
    if plan.problems:
        raise MapError("\n".join(plan.problems))
