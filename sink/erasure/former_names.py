"""Keyed hashes of what subjects were called, by which a row that comes after the erasure is recognised.

They stand in a table of their own beside the ledger, for as long as ASPECTS_KEEP_FORMER_NAMES_DAYS says. Without the key of
the pseudonyms nobody can test a guess against them. ClickHouse computes the same hashes of the keys of a table, so
that one pass finds the rows of everybody.

.. pii: User names, e-mail addresses and anonymous ids on their way to a keyed hash, and back from a row; in memory only.
.. pii_types: id, username, email_address
.. pii_retirement: consumer_api
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sink.clickhouse.catalog import is_there
from sink.clickhouse.client import INCLUDING_HIDDEN, split_for_binding
from sink.clickhouse.parts import delete_rows, drop_hidden_rows
from sink.erasure.identities import Identities, list_keys
from sink.erasure.keys import Spelling, express_compared, express_name, express_text, find_spelling, fold_name
from sink.erasure.steps import Step
from sink.ledger.pseudonym_key import express_name_digest, read_name_digest
from sink.names import TableName
from sink.pii_map import Rule, SubjectId
from sink.store import Store

_COLUMNS = ("subject", "label", "digest")
# That a subject had no such name.
_NONE = ""


def remember(store: Store, subjects: Sequence[SubjectId], identities: Identities) -> None:
    """Write down keyed hashes of what `subjects` are called, where the operator wants them kept.

    Raises:
        DatabaseError: they could not be written.
    """
    if not _are_kept(store):
        return
    digest = read_name_digest(store.client, store.policy.pseudonym_secret)
    rules = _list_whole_keys(store)
    # A name that somebody else has too is remembered as well.
    named = identities.with_contested()
    entries = {
        (str(subject), label, digest(name, label) if name else _NONE)
        for subject in subjects
        for label, name in _list_names(store, subject, named, rules)
    }
    for batch in split_for_binding(sorted({subject for subject, _, _ in entries})):
        entries -= set(
            store.client.rows(
                "SELECT subject, label, digest FROM $pii_ledger.former_names WHERE subject IN {subjects:Array(String)}",
                subjects=batch,
            )
        )
    if entries:
        store.client.insert(_table(store), _COLUMNS, sorted(entries), repeatable=True)


def recall(store: Store, steps: Sequence[Step], subjects: Sequence[SubjectId]) -> Identities:
    """What rows of the tables of `steps` call `subjects`, recognised by the keyed hashes of their former names.

    Raises:
        DatabaseError: they could not be looked for.
    """
    remembered = _read_labels(store, subjects) if _are_kept(store) else {}
    values: dict[str, dict[str, set[str]]] = {}
    recognised: dict[str, dict[str, str]] = {}
    labels = {label for found in remembered.values() for label in found}
    for step in steps:
        rule = step.rule
        if rule.is_by_id or rule.label not in labels:
            continue
        for subject, name in _find_names(store, step):
            if subject in remembered and rule.affixes is None:
                recognised.setdefault(rule.template, {})[name] = subject
            elif subject in remembered:
                values.setdefault(subject, {}).setdefault(rule.label, set()).add(name)
    return Identities(
        {s: {label: frozenset(names) for label, names in found.items()} for s, found in values.items()},
        remembered={subject: frozenset(found) for subject, found in remembered.items()},
        recognised=recognised,
    )


def forget_expired(store: Store) -> int:
    """Delete what is older than the operator wants it kept, and return how many hashes that were."""
    return _forget(store, "at < {before:DateTime64(6)}", before=_since(store)) if _exists(store) else 0


def forget_everything(store: Store) -> int:
    """Delete every hash, and return how many they were."""
    return _forget(store, "true") if _exists(store) else 0


def find_kept(store: Store, subjects: Sequence[str]) -> dict[str, datetime]:
    """Of whom hashes are kept, as subject -> until when."""
    if not _are_kept(store):
        return {}
    kept: dict[str, datetime] = {}
    for batch in split_for_binding(subjects):
        kept |= dict(
            store.client.rows(
                "SELECT subject, max(at) FROM $pii_ledger.former_names "
                "WHERE subject IN {subjects:Array(String)} AND digest != '' GROUP BY subject",
                subjects=batch,
            )
        )
    return {subject: at + timedelta(days=store.policy.keep_former_names_days) for subject, at in kept.items()}


def _list_whole_keys(store: Store) -> list[Rule]:
    """Of the rules whose keys cannot be read back into a name one for each label: what they hold is the same."""
    rules = {rule.label: rule for _, _, rule in store.pii_map.rules(redact_history=True) if rule.affixes is None}
    return list(rules.values())


def _list_names(
    store: Store, subject: SubjectId, identities: Identities, rules: Sequence[Rule]
) -> set[tuple[str, str]]:
    """What a subject is called, as (label, name as it is compared); an empty name where there is none."""
    names = {
        (identifier, fold_name(name, find_spelling(store.pii_map, [identifier])))
        for identifier in store.pii_map.subject.identifiers
        for name in identities.of(subject, identifier)
    }
    known = {label for label, _ in names}
    names |= {(label, _NONE) for label in identities.answered.get(str(subject), ()) if label not in known}
    for rule in rules:
        keys = list_keys(rule, [subject], identities)
        names |= {(rule.label, fold_name(key, _find_spelling(store, rule))) for key in keys}
    return names


def _find_names(store: Store, step: Step) -> list[tuple[str, str]]:
    """The names in a step's table whose keyed hashes are kept, as (subject, name)."""
    rule = step.rule
    text = express_text(step.subject_expression)
    key = express_name(text, rule)
    spelling = _find_spelling(store, rule)
    folded = express_compared(text, rule, spelling)
    prefix, suffix = rule.affixes or ("", "")
    prefix = prefix.lower() if rule.is_mailbox else prefix
    digest = express_name_digest("aspects_pii_folded", "{label:String}")
    return store.client.rows(
        f"""
        SELECT DISTINCT known.subject, found.name
        FROM (
            SELECT aspects_pii_name AS name, {digest} AS digest
            FROM (
                SELECT DISTINCT
                    substring({key}, length({{prefix:String}}) + 1, length({key}) - {{affixes:UInt32}}) AS aspects_pii_name,
                    substring({folded}, length({{prefix:String}}) + 1, length({folded}) - {{affixes:UInt32}})
                        AS aspects_pii_folded
                FROM {store.client.replicas(step.table.name.sql)}
                WHERE length({folded}) > {{affixes:UInt32}}
                    AND startsWith({folded}, {{prefix:String}}) AND endsWith({folded}, {{suffix:String}})
            )
        ) AS found
        INNER JOIN (
            SELECT subject, digest FROM $pii_ledger.former_names
            WHERE label = {{label:String}} AND at >= {{since:DateTime64(6)}} AND digest != ''
        ) AS known ON found.digest = known.digest
        """,
        INCLUDING_HIDDEN,
        prefix=fold_name(prefix, spelling),
        suffix=fold_name(suffix, spelling),
        affixes=len((prefix + suffix).encode()),
        label=rule.label,
        since=_since(store),
    )


def _find_spelling(store: Store, rule: Rule) -> Spelling:
    return find_spelling(store.pii_map, () if rule.is_hashed else rule.sources)


def _read_labels(store: Store, subjects: Sequence[SubjectId]) -> dict[str, set[str]]:
    """About which kinds of names hashes are kept, or that there was none, by subject."""
    labels: dict[str, set[str]] = {}
    for batch in split_for_binding(subjects):
        for subject, label in store.client.rows(
            "SELECT DISTINCT subject, label FROM $pii_ledger.former_names "
            "WHERE subject IN {subjects:Array(String)} AND at >= {since:DateTime64(6)}",
            subjects=[str(subject) for subject in batch],
            since=_since(store),
        ):
            labels.setdefault(subject, set()).add(label)
    return labels


def _since(store: Store) -> datetime:
    return store.client.now() - timedelta(days=store.policy.keep_former_names_days)


def _are_kept(store: Store) -> bool:
    return store.policy.keep_former_names_days > 0 and _exists(store)


def _exists(store: Store) -> bool:
    """False where `init` has not run since the upgrade that brought the table."""
    return is_there(store.client, _table(store))


def _forget(store: Store, condition: str, **values: Any) -> int:
    table = _table(store)
    found = int(store.client.value(f"SELECT count() FROM {table.sql} WHERE {condition}", **values))
    if found:
        delete_rows(store.client, table, condition, **values)
        drop_hidden_rows(store.client, table)
    return found


def _table(store: Store) -> TableName:
    return store.client.table("pii_ledger.former_names")
