"""What becomes of each column of a copied table: by its OEP-30 type, and by what the map's rules say that it holds."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from sink.clickhouse.catalog import Table, find_length, is_json, is_text
from sink.erasure.keys import find_kind
from sink.erasure.problems import Problem
from sink.erasure.swap import keeps_rows_apart
from sink.pii_map import SUBJECT_ID, Target

# .. no_pii: names and types of columns.

# What tells who somebody is, and what rows are joined by.
_TELLING = ("id", "username", "email_address")
_INTEGER = re.compile(r"U?Int\d+")
_LONGEST = len("mailto:learner_0123456789abcdef@example.invalid")


class Fate(StrEnum):
    """What becomes of a column."""

    NUMBER = "another number"
    """Of ids of people: the same one wherever it stands."""
    TEXT = "invented"
    """Of user names, addresses and ids: the same one wherever the old one stands."""
    NAME = "invented name"
    EMPTIED = "emptied"
    KEPT = "kept"
    """As the map allows."""
    REWRITTEN = "rewritten"
    """Of texts about people, and of JSON."""


@dataclass(frozen=True)
class Column:
    """What becomes of one column."""

    name: str
    kind: str
    """Its type."""
    fate: Fate
    is_subject: bool = False
    """True where it holds the subject's own id."""
    is_about_people: bool = False
    """Of a text that is rewritten: all that it says of anybody goes."""
    paths: dict[str, str] = field(default_factory=dict)
    """Of JSON that is rewritten: paths, without the column, and their OEP-30 types."""


def plan_columns(name: str, target: Target, table: Table) -> tuple[list[Column], list[Problem]]:
    """What becomes of the columns of a table, and why it cannot be; columns that stay as they are are left out.

    Args:
        name: the target, as the map names it.
        target: what the map says of it.
        table: the copy.
    """
    columns = list(_list_columns(target, table))
    place = f"targets.{name} ({table.name})"
    return columns, [
        Problem(place, reason, fix) for column in columns for reason, fix in _explain_misfit(column, table)
    ]


def _list_columns(target: Target, table: Table) -> Iterator[Column]:
    subjects = {rule.key for rule in target.rules if rule.is_by_id}
    keys = {rule.key for rule in target.rules}
    deletes = any(rule.on_retire.delete for rule in target.rules)
    types: dict[str, str] = dict(target.pii)
    for rule in target.rules:
        types.setdefault(rule.key, SUBJECT_ID if rule.is_by_id else "username")
    for column, kind in table.columns.items():
        paths = {path.partition(".")[2]: pii_type for path, pii_type in types.items() if path.startswith(f"{column}.")}
        is_about_people = any(rule.is_about_text and rule.key == column for rule in target.rules)
        if column not in types and not paths:
            continue
        if column in table.computed_columns and column not in table.materialized:
            continue
        if column in target.anonymise_keeps:
            fate = Fate.KEPT
        elif (paths or is_about_people) and not (deletes and column in target.pii):
            yield Column(column, kind, Fate.REWRITTEN, is_about_people=is_about_people, paths=paths)
            continue
        elif column not in types or types[column] not in (*_TELLING, "name"):
            # With rows that a retirement deletes, texts go whole: who knows what they hold.
            fate = Fate.EMPTIED
        elif types[column] == "name" and column not in keys:
            fate = Fate.NAME
        elif _INTEGER.fullmatch(find_kind(table, column)):
            fate = Fate.NUMBER
        else:
            fate = Fate.TEXT
        yield Column(column, kind, fate, is_subject=column in subjects)


def _explain_misfit(column: Column, table: Table) -> Iterator[tuple[str, str]]:
    """Why a column cannot become what it should, as (reason, fix)."""
    inner = find_kind(table, column.name)
    if column.fate in (Fate.TEXT, Fate.NAME) and not (is_text(column.kind) or inner == "UUID"):
        yield f"{column.name} is {column.kind}, for which nothing can be invented", "Drop the column from the copy."
    if column.fate in (Fate.TEXT, Fate.NAME) and 0 < find_length(column.kind) < _LONGEST:
        yield (
            f"{column.name} is {column.kind}, and what is invented can have {_LONGEST} bytes",
            "Widen the column of the copy (ALTER TABLE … MODIFY COLUMN).",
        )
    if column.fate is Fate.REWRITTEN and not (is_text(column.kind) or is_json(column.kind)):
        yield f"{column.name} is {column.kind} and no text", "Correct the map."
    if column.fate is Fate.EMPTIED and column.name in table.key_columns and not keeps_all_rows(table):
        yield (
            f"{column.name} is emptied and is in the sort key of a {table.engine}, which would take rows together",
            "Drop the table from the copy, or let the map keep the column (`anonymise_keeps`).",
        )


def keeps_all_rows(table: Table) -> bool:
    """True for an engine that takes no rows together, whatever their keys are."""
    return keeps_rows_apart(table.engine) and "Replacing" not in table.engine


def list_names(columns: Sequence[Column], *fates: Fate) -> list[str]:
    """The names of the columns with one of these fates."""
    return [column.name for column in columns if column.fate in fates]
