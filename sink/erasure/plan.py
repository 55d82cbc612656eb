"""Which steps the map means in the live schema.

A step knows the statements that erase subjects and the conditions that find what is left of them. Deleting hides rows
with a lightweight DELETE, whose cost hardly depends on the number of subjects; redacting is one mutation a table.
`sink.clickhouse.parts.scrub` then takes the hidden rows and the replaced parts off the disk.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from pydantic import SecretStr

from sink.clickhouse.catalog import Table, find_detached, read_tables
from sink.clickhouse.client import ClickHouse
from sink.erasure.changes import Redact
from sink.erasure.keys import find_spelling
from sink.erasure.named_tables import Column, can_tell, names_anybody
from sink.erasure.order import put_in_order
from sink.erasure.problems import Problem, find_expression_problems, find_key_problems, find_problems
from sink.erasure.rewrite import RewriteStep
from sink.erasure.statement_step import StatementStep
from sink.erasure.steps import DirectStep, Step
from sink.errors import MapError
from sink.ledger.pseudonym_key import read_secret
from sink.names import TableName
from sink.pii_map import PiiMap, Rule, Target
from sink.store import Store

# .. no_pii: statements with placeholders; ids are bound.


NOBODY_NAMED = (
    "no statement names an agent by address, so none was searched for names of the subject in accounts or in free text"
)
"""What a receipt says of `Plan.idle`."""


@dataclass(frozen=True)
class Plan:
    """Everything that a retirement touches in the live schema."""

    steps: list[Step]
    absent: list[str]
    """Targets of the map that do not exist here, but for those that are optional."""
    problems: list[Problem] = field(default_factory=list)
    """Why the map cannot be carried out."""
    idle: list[str] = field(default_factory=list)
    """Columns of statements of which none names anybody, so that nothing is to be done there."""
    unnamed: list[str] = field(default_factory=list)
    """Tables that were looked at for a key of some kind, such as an address, and have none."""
    answered: list[str] = field(default_factory=list)
    """The questions of which that was the answer."""
    present: dict[str, str] = field(default_factory=dict)
    """Targets of the map that there are, with how they are called here."""

    @property
    def questions(self) -> list[str]:
        """What is asked by other names than the id, as `Step.question` has it, the rules of `unnamed` included."""
        return sorted({*self.answered, *(step.question for step in self.steps if step.needs_identities)})

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
    tables = read_tables(store.client, names.values())
    plan = plan_steps(
        store.pii_map,
        names,
        tables,
        find_detached(store.client, (name for name in names.values() if name not in tables)),
        redact_history=with_history or store.policy.redact_history,
        secret=find_secret(store),
        client=store.client,
    )
    steps, idle = _leave_out_idle(store, plan.steps)
    texts = [step.label for step in idle if step.rule.is_about_text]
    unnamed = [step for step in idle if not step.rule.is_about_text]
    return replace(
        plan,
        steps=steps,
        idle=texts,
        unnamed=sorted({str(step.table.name) for step in unnamed}),
        answered=[step.question for step in unnamed],
    )


def _leave_out_idle(store: Store, steps: Sequence[Step]) -> tuple[list[Step], list[Step]]:
    """The steps that have to be carried out, and those of columns that name nobody."""
    anonymised = {store.client.table(name) for name, target in store.pii_map.targets.items() if target.is_anonymised}
    # Texts that are about people in any case name them otherwise than statements do.
    asked = [
        step for step in steps if can_tell(step.rule) and (step.table.name in anonymised or not step.rule.is_about_text)
    ]
    named = names_anybody(store.client, [Column(step.table, step.rule) for step in asked])
    idle = [step for step, is_named in zip(asked, named, strict=True) if not is_named]
    return [step for step in steps if not any(step is one for one in idle)], idle


def find_secret(store: Store) -> SecretStr | None:
    """The secret of keyed hashes: the operator's; else, where statements may need one, the key that `init` makes."""
    secret = store.policy.pseudonym_secret
    rules = store.pii_map.rules(redact_history=True)
    if secret is not None or not any(rule.is_about_text for _, _, rule in rules):
        return secret
    return read_secret(store.client)


def plan_steps(
    pii_map: PiiMap,
    names: Mapping[str, TableName],
    tables: Mapping[TableName, Table],
    detached: Collection[TableName] = (),
    *,
    redact_history: bool = False,
    secret: SecretStr | None = None,
    client: ClickHouse,
) -> Plan:
    """Which steps the map means for `tables`. Touches nothing; `client` has the engine parse expressions.

    `names` are the tables that the map's targets mean in this installation, `detached` those of them that are there and
    that no query reaches.
    """
    steps: list[Step] = []
    problems: list[Problem] = []
    # Two names of databases can mean one here, such as `xapi` and `openedx`.
    planned: list[tuple[TableName, Rule]] = []
    for target_name, target, rule in pii_map.rules(redact_history=redact_history):
        table = tables.get(names[target_name])
        if table is None or is_only_shown(pii_map, target_name, table) or (table.name, rule) in planned:
            continue
        planned.append((table.name, rule))
        found = (
            find_problems(target_name, rule, table, secret)
            or find_key_problems(pii_map, target_name, rule, table)
            or find_expression_problems(client, target_name, target, rule, table)
        )
        problems += found
        if not found:
            steps.append(_make_step(pii_map, target, rule, table, secret))
    missing = {name: table for name, table in names.items() if table not in tables}
    absent = sorted(
        name for name, table in missing.items() if table not in detached and not pii_map.targets[name].optional
    )
    problems += [
        Problem(f"targets.{name}", "the table is detached, and its rows are in its files", f"ATTACH TABLE {table.sql}.")
        for name, table in missing.items()
        if table in detached
    ]
    # What needs another name of the subject goes first, and what those names are read from last.
    sources = {names[source.rpartition(".")[0]] for source in pii_map.subject.identifiers.values()}
    steps.sort(key=lambda step: (not step.needs_identities, step.table.name in sources))
    steps, circles = put_in_order(steps)
    present = {name: str(table) for name, table in names.items() if table in tables}
    return Plan(steps, absent, [*problems, *circles], present=present)


def is_only_shown(pii_map: PiiMap, target: str, table: Table) -> bool:
    """True for a target that is listed under `derived` too, and is a view here: upstream makes some of either kind."""
    return target in pii_map.derived and not table.has_rows


def _make_step(pii_map: PiiMap, target: Target, rule: Rule, table: Table, secret: SecretStr | None) -> Step:
    paths = [rule.key, *rule.on_retire.redact]
    in_key = not rule.on_retire.delete and any(path in table.key_columns for path in rule.on_retire.redact)
    if rule.is_by_id and not in_key and not any("." in path for path in paths):
        return DirectStep(table, rule, target.pii, secret)
    if rule.is_about_text:
        assert secret is not None
        kinds = {name: pii_map.find_type(name) for name in pii_map.subject.identifiers}
        return StatementStep(table, rule, target.pii, secret, kinds)
    spelling = find_spelling(pii_map, () if rule.is_hashed else rule.sources)
    return RewriteStep(table, rule, target.pii, Redact(rule, secret, target.pii, table.columns), spelling)


def require_valid_plan(plan: Plan) -> None:
    """Stop where the map cannot be carried out on the live schema.

    Raises:
        MapError: names every problem and its fix.
    """
    if plan.problems:
        raise MapError("\n".join(map(str, plan.problems)))
