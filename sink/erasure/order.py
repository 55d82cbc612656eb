"""In which order the rules of one table are carried out: none may take away what another finds its rows by.

.. no_pii: names of columns.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from graphlib import CycleError, TopologicalSorter

from sink.erasure.problems import Problem
from sink.erasure.steps import Step
from sink.names import TableName

# Where an xAPI statement names people (https://github.com/adlnet/xAPI-Spec, Part Two, 2.4). What stands elsewhere in it
# can be changed by another rule without hiding from `person` whom the statement is about.
_AGENTS = ("actor", "object", "context", "authority")


def put_in_order(steps: Sequence[Step]) -> tuple[list[Step], list[Problem]]:
    """Have each rule stand before those of its table that change what it reads.

    Args:
        steps: in the order that they would have otherwise; those of a table keep their places among the rest.

    Returns:
        The steps, and a problem for each table in which no order is right.
    """
    ordered = list(steps)
    problems: list[Problem] = []
    for table in dict.fromkeys(step.table.name for step in steps):
        places = [place for place, step in enumerate(steps) if step.table.name == table]
        own = [steps[place] for place in places]
        problems += _find_lost_exemptions(table, own)
        try:
            sequence = _sort(own)
        except CycleError as error:
            problems.append(_explain(table, [own[number] for number in error.args[1]]))
            continue
        for place, number in zip(places, sequence, strict=True):
            ordered[place] = own[number]
    return ordered, problems


def _sort(steps: Sequence[Step]) -> list[int]:
    sorter: TopologicalSorter[int] = TopologicalSorter()
    for number, step in enumerate(steps):
        readers = (other for other, reader in enumerate(steps) if other != number and _spoils(step, reader))
        sorter.add(number, *readers)
    sorter.prepare()
    found: list[int] = []
    while sorter.is_active():
        ready = sorted(sorter.get_ready())
        found += ready
        sorter.done(*ready)
    return found


def _spoils(step: Step, reader: Step) -> bool:
    """True where `step` changes what `reader` finds its rows by."""
    key = reader.rule.key
    if _does_all_of(step, reader):
        return False
    read = [f"{key}.{part}" for part in _AGENTS] if reader.rule.is_about_text else [key]
    return any(_overlap(path, one) for path in _list_changed(step) for one in read)


def _does_all_of(step: Step, reader: Step) -> bool:
    """True where `step` has done to a row whatever `reader` would, so that it may be hidden from that."""
    wanted, done = reader.rule.on_retire, step.rule.on_retire
    same = all(done.redact.get(path) == redaction for path, redaction in wanted.redact.items())
    return same and not wanted.delete and wanted.unless == done.unless and not reader.rule.is_about_text


def _find_lost_exemptions(table: TableName, steps: Sequence[Step]) -> Iterator[Problem]:
    """Once the column of an `unless` is changed, nobody can tell any more which rows were left, and why."""
    for reader in steps:
        exemption = reader.rule.on_retire.unless
        if exemption is None:
            continue
        for step in steps:
            if any(_overlap(path, exemption.column) for path in _list_changed(step)):
                yield Problem(
                    f"targets.{table}",
                    f"the rule for {step.rule.key} changes {exemption.column}, by which the rule for {reader.rule.key} tells "
                    "the rows that it leaves",
                    f"Leave {exemption.column} as it is, or name another column under `unless`.",
                )


def _list_changed(step: Step) -> Iterator[str]:
    yield from step.rule.on_retire.redact
    yield from _list_computed(step)


def _list_computed(step: Step) -> Iterator[str]:
    """Columns that ClickHouse computes anew from what the step changes."""
    roots = {path.partition(".")[0] for path in step.rule.on_retire.redact}
    for column, expression in step.table.materialized.items():
        if any(re.search(rf"\b{re.escape(root)}\b", expression) for root in roots):
            yield column


def _overlap(path: str, other: str) -> bool:
    """True where one is the other, or a part of it."""
    return f"{path}.".startswith(f"{other}.") or f"{other}.".startswith(f"{path}.")


def _explain(table: TableName, circle: Sequence[Step]) -> Problem:
    keys = ", ".join(dict.fromkeys(step.rule.key for step in circle))
    return Problem(
        f"targets.{table}",
        f"rules change what others of them find their rows by, whichever comes first ({keys})",
        "Write what they redact under one of them, or let each leave the others' keys and `unless` columns as they are.",
    )
