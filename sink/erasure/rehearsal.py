"""What ClickHouse would refuse: every rule's statements, tried on a table of the same shape with one row of defaults.

A list of our own of what the engine refuses would be out of date with its next release; the engine knows.

.. no_pii: tables of the same shape, without the rows.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from sink.clickhouse.client import ClickHouse
from sink.erasure.plan import Plan
from sink.erasure.problems import Problem
from sink.erasure.steps import Step
from sink.erasure.work import Work, begin
from sink.errors import AspectsPiiError, DatabaseError, UnreachableError
from sink.names import TableName, quote
from sink.pii_map import OnRetire
from sink.store import Store

_REPLICATED = re.compile(r"^(?:Replicated|Shared)(\w*MergeTree)(?:\('(?:[^'\\]|\\.)*', *'(?:[^'\\]|\\.)*'(?:, *)?)?")


def rehearse(store: Store, plan: Plan) -> list[Problem]:
    """Try the steps of `plan` where there is nothing to damage, and return what is refused.

    Raises:
        DatabaseError: no table could be made for it.
    """
    targets = {store.client.table(name): name for name in store.pii_map.targets}
    problems = []
    for step in _leave_out_alike(plan.steps):
        with begin(store.client, step.table.name) as work:
            twin = work.table("twin")
            _copy_shape(store.client, work, twin)
            reason = _try(store.client, replace(step, table=replace(step.table, name=twin)))
        if reason:
            fix = "Change the rule or the table: a retirement of anybody in it would fail."
            problems.append(Problem(f"targets.{targets[step.table.name]}", reason, fix))
    return problems


def _leave_out_alike(steps: Sequence[Step]) -> Iterator[Step]:
    """One step of those of a table that differ in nothing but what their key holds: their statements are the same."""
    tried: list[tuple[TableName, str, OnRetire]] = []
    for step in steps:
        statements = (step.table.name, step.rule.key, step.rule.on_retire)
        if statements not in tried:
            tried.append(statements)
            yield step


def _try(client: ClickHouse, step: Step) -> str:
    """Why the engine refuses a step; empty where it does not."""
    try:
        step.rehearse(client)
    except UnreachableError:
        raise
    except DatabaseError as error:
        return f"ClickHouse refuses what the rule for {step.rule.key} needs ({error.name}, {error.code})"
    except AspectsPiiError as error:
        return f"the rule for {step.rule.key} cannot be carried out: {error}"
    return ""


def _copy_shape(client: ClickHouse, work: Work, twin: TableName) -> None:
    table = work.target
    engine, column = client.rows(
        "SELECT engine_full, (SELECT name FROM system.columns WHERE database = {database:String} AND table = {table:String} "
        "AND default_kind NOT IN ('ALIAS', 'MATERIALIZED', 'EPHEMERAL') ORDER BY position LIMIT 1) "
        "FROM system.tables WHERE database = {database:String} AND name = {table:String}",
        database=table.database,
        table=table.table,
    )[0]
    client.execute(
        f"CREATE TABLE {twin.sql} AS {table.sql} ENGINE = {express_engine(engine)} COMMENT {work.comment}",
        # Whoever made the table was allowed to.
        {"allow_suspicious_low_cardinality_types": 1},
    )
    try:
        client.execute(f"INSERT INTO {twin.sql} ({quote(column)}) VALUES (DEFAULT)", repeatable=False)
    except DatabaseError:
        # A constraint wants more than defaults: then it stays empty, and some refusals are not seen.
        return


def express_engine(engine_full: str) -> str:
    """The engine of a table's CREATE statement for a copy that is not replicated."""

    def strip(found: re.Match[str]) -> str:
        rest = engine_full[found.end() :]
        if rest.startswith(")"):
            return f"{found[1]}("
        return found[1] + ("(" if "(" in found[0] else "")

    return _REPLICATED.sub(strip, engine_full)
