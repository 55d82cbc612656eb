"""Which rows of which tables are a subject's, as conditions: what the map's rules find, and the events of the subject.

A retirement asks which rows have to change; here the rows are asked for that the same keys name, those included that a
retirement leaves. What texts of others say of the subject is none of these: see `sink.rights.mentions`.

.. pii: Holds user names, e-mail addresses and anonymous ids of the subject, in memory only; they are bound.
.. pii_types: id, username, email_address
.. pii_retirement: consumer_api
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from sink.clickhouse.catalog import Table, find_detached, read_path, read_tables
from sink.clickhouse.client import ClickHouse
from sink.erasure.candidates import express_candidates, list_search_patterns
from sink.erasure.identities import Identities, list_keys
from sink.erasure.keys import (
    bind_ids,
    explain_misfit,
    express_compared,
    find_bound_kind,
    find_kind,
    find_spelling,
    fold_key,
    group_ids,
    write_id,
)
from sink.erasure.people import Person
from sink.erasure.plan import is_only_shown
from sink.errors import MapError
from sink.names import TableName, quote
from sink.pii_map import PiiMap, Rule, SubjectId, Target
from sink.rights.identity import list_account_names
from sink.store import Store

# Where a statement says who has done what it tells of.
_ACTOR = "actor"
_NOTHING = "0"
_ROLE_CHANGES = "pii_ledger.role_changes"
# Who gave a role, and what the event was called that said so, is nothing of the subject's.
_OF_ROLE_CHANGES = ("at", "operation", "role", "scope", "source")


class Kind(StrEnum):
    """What the rows of a selection are."""

    ROWS = "rows"
    EVENTS = "events"


@dataclass(frozen=True)
class Selection:
    """Rows of one table that are the subject's."""

    table: Table
    target: str
    """The name that the map has for the table."""
    kind: Kind
    condition: str
    values: Mapping[str, Any] = field(repr=False)
    found_by: list[str]
    """By which columns, and what those hold: `user_id: id`."""
    columns: list[str]
    """Those that are given out, in order."""
    shared: Selection | None = None
    """The same with the rows under names that somebody else has too; None where the subject has none such."""


def list_columns(table: Table) -> list[str]:
    """The columns of a table in which something is stored."""
    return [c for c in table.columns if c not in table.computed_columns or c in table.materialized]


def select_rows(store: Store, subject: SubjectId, identities: Identities) -> tuple[list[Selection], list[str]]:
    """Where rows of the subject can be; and the targets of the map that are not here, but for those that are optional.

    Raises:
        MapError: a rule cannot find anybody's rows; says which and why.
        DatabaseError: the live schema could not be read.
    """
    names = {name: store.client.table(name) for name in store.pii_map.targets}
    tables = read_tables(store.client, names.values())
    _require_attached(store.client, [name for name in names.values() if name not in tables])
    selections: dict[tuple[str, Kind], Selection] = {}
    for name, target in store.pii_map.targets.items():
        table = tables.get(names[name])
        if table is None or is_only_shown(store.pii_map, name, table):
            continue
        start = 0
        for kind, rules in _sort_out(store.pii_map, target).items():
            # Two names of databases can mean one here.
            if rules and (str(table.name), kind) not in selections:
                found = _select(store.pii_map, name, table, kind, list(enumerate(rules, start)), subject, identities)
                selections[str(table.name), kind] = found
            start += len(rules)
    absent = sorted(
        n for n, table_name in names.items() if table_name not in tables and not store.pii_map.targets[n].optional
    )
    return [*selections.values(), *_select_roles(store, subject)], absent


def _require_attached(client: ClickHouse, missing: Sequence[TableName]) -> None:
    for name in sorted(find_detached(client, missing)):
        raise MapError(
            f"targets.{name}: the table is detached, and its rows are in its files. ATTACH TABLE {name.sql}."
        )


def _select_roles(store: Store, subject: SubjectId) -> list[Selection]:
    """Which roles the subject was given, and which taken."""
    name = store.client.table(_ROLE_CHANGES)
    table = read_tables(store.client, [name]).get(name)
    if table is None:
        return []
    values = {"subject": str(subject)}
    columns = list(_OF_ROLE_CHANGES)
    return [Selection(table, _ROLE_CHANGES, Kind.ROWS, "subject = {subject:String}", values, ["subject: id"], columns)]


def _sort_out(pii_map: PiiMap, target: Target) -> dict[Kind, list[Rule]]:
    """The rules that say whose rows are: those of the map, and those that an anonymous id makes of them.

    Where the map looks for addresses among the actors of anonymised rows, or for a person in statements, the rows of an
    actor who is named by an anonymous id are the subject's as well.
    """
    rules: dict[Kind, list[Rule]] = {Kind.ROWS: [], Kind.EVENTS: []}
    for rule in target.rules:
        if rule.is_about_text:
            rules[Kind.EVENTS] += _list_actor_rules(pii_map, rule.key)
        elif rule.is_about_actors:
            rules[Kind.EVENTS] += [rule, *_list_account_rules(pii_map, rule.key)]
        else:
            rules[Kind.ROWS].append(rule)
    return {kind: _unique(found) for kind, found in rules.items()}


def _unique(rules: Iterable[Rule]) -> list[Rule]:
    return list({(rule.key, rule.template): rule for rule in rules}.values())


def _list_account_rules(pii_map: PiiMap, key: str) -> list[Rule]:
    """The key holds what an account of the subject is called."""
    return [_make_rule(key, f"{{{name}}}") for name in list_account_names(pii_map)]


def _list_actor_rules(pii_map: PiiMap, column: str) -> list[Rule]:
    """The column holds statements, and the subject is the actor."""
    rules = _list_account_rules(pii_map, f"{column}.{_ACTOR}.account.name")
    for name in pii_map.subject.identifiers:
        if pii_map.find_type(name) == "email_address":
            rules.append(_make_rule(f"{column}.{_ACTOR}.mbox", f"mailto:{{{name}}}"))
            rules.append(_make_rule(f"{column}.{_ACTOR}.mbox_sha1sum", f"sha1:mailto:{{{name}}}"))
    return rules


def _make_rule(key: str, template: str) -> Rule:
    return Rule.model_validate({"match": {key: template}, "on_retire": {"retain": "it is read, and stays"}})


def _select(
    pii_map: PiiMap,
    name: str,
    table: Table,
    kind: Kind,
    rules: Sequence[tuple[int, Rule]],
    subject: SubjectId,
    identities: Identities,
) -> Selection:
    for _, rule in rules:
        _require_key(pii_map, name, rule, table)

    def select(known: Identities) -> Selection:
        conditions: list[str] = []
        values: dict[str, Any] = {}
        for number, rule in rules:
            condition, bound = _express(pii_map, table, rule, number, subject, known)
            if kind is Kind.EVENTS and "." in rule.key:
                column = rule.key.partition(".")[0]
                candidates, patterns = _express_candidates(pii_map, column, subject, known)
                condition = f"if({candidates}, {condition}, 0)"
                bound = {**bound, **patterns}
            conditions.append(condition)
            values |= bound
        found_by = [f"{rule.key}: {next(iter(rule.match.values())).strip('{}')}" for _, rule in rules]
        return Selection(table, name, kind, f"({' OR '.join(conditions)})", values, found_by, list_columns(table))

    own = select(identities)
    if not identities.find_contested([subject]):
        return own
    return replace(own, shared=select(identities.with_contested()))


def _require_key(pii_map: PiiMap, name: str, rule: Rule, table: Table) -> None:
    if rule.key.partition(".")[0] not in table.columns:
        raise MapError(f"targets.{name}: there is no column {rule.key.partition('.')[0]}. Correct the map.")
    if misfit := explain_misfit(pii_map, rule, table):
        raise MapError(f"targets.{name}.match.{rule.key}: {misfit[0]}. {misfit[1]}")


def _express(
    pii_map: PiiMap, table: Table, rule: Rule, number: int, subject: SubjectId, identities: Identities
) -> tuple[str, dict[str, Any]]:
    """The condition that finds the subject's rows by one rule, and what is bound to it."""
    kind = find_kind(table, rule.key)
    if rule.is_by_id and "." not in rule.key:
        ids = group_ids(kind, [subject])
        if not ids:
            return _NOTHING, {}
        condition = f"{quote(rule.key)} IN {{keys_{number}:Array({find_bound_kind(kind)})}}"
        return condition, {f"keys_{number}": bind_ids(kind, ids)}
    spelling = find_spelling(pii_map, () if rule.is_hashed else rule.sources)
    written = (write_id(kind, key) for key in list_keys(rule, [subject], identities))
    keys = sorted({fold_key(key, rule, spelling) for key in written if key is not None})
    if not keys:
        return _NOTHING, {}
    spelt = f"toValidUTF8(ifNull(toString({read_path(table, rule.key)}), ''))"
    compared = express_compared(spelt, rule, spelling)
    return f"{compared} IN {{keys_{number}:Array(String)}}", {f"keys_{number}": keys}


def _express_candidates(
    pii_map: PiiMap, column: str, subject: SubjectId, identities: Identities
) -> tuple[str, dict[str, list[str]]]:
    """A cheap condition that misses no statement of the subject: only where it is true, a statement is read as JSON."""
    names: dict[bool, set[str]] = {True: set(), False: set()}
    for name in pii_map.subject.identifiers:
        names[pii_map.find_type(name) == "email_address"] |= identities.own(subject, name)
    person = Person("", addresses=frozenset(names[True]), usernames=frozenset(names[False]))
    return express_candidates(f"toString({quote(column)})", list_search_patterns(person))
