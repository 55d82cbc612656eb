"""Restricting subjects: their PII stays stored, and no dataset shows it, until the restriction is lifted (GDPR 18, 21).

The datasets ask the ledger at every query, so that a restriction counts once it is recorded. What holds a copy of what they
say is made to read again, and every dictionary and view that names subjects is asked.

.. no_pii: opaque user ids, and names of tables.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from sink.clickhouse.lineage import find_dependents
from sink.clickhouse.query_cache import forget_results
from sink.datasets.build import list_datasets
from sink.datasets.learner_events import list_keeping
from sink.erasure.derived import Dependent, list_targets, read_all_tables, read_dependents, reload
from sink.erasure.findings import Finding, Kind
from sink.erasure.shown import find_in_dependent
from sink.errors import DatabaseError, LedgerError, RefusedError, SupersetError
from sink.ledger.entries import Action, State
from sink.ledger.restrictions import find_restrictions
from sink.pii_map import SubjectId
from sink.store import Store


@dataclass(frozen=True)
class Shown:
    """What was asked whether it shows subjects, and what may."""

    findings: list[Finding] = field(default_factory=list)
    """What shows a subject, or could not be asked."""
    not_asked: list[str] = field(default_factory=list)
    """What others have built on the PII tables and has no column with ids of subjects: it may show anybody."""
    left: list[str] = field(default_factory=list)
    """Results that are kept somewhere and could not be forgotten, and copies that could not be made to read again."""


@dataclass(frozen=True)
class Restricted:
    """What became of a request."""

    new: list[str]
    """Subjects who are restricted now and were not before."""
    already: list[str]
    tombstoned: list[str]
    """Subjects who are retired: nothing shows them, and nothing is recorded."""
    shown: Shown

    @property
    def is_proved(self) -> bool:
        """False where something shows somebody, or may, as far as it was asked."""
        return not (self.shown.findings or self.shown.left)


def restrict(
    store: Store,
    subjects: Sequence[SubjectId],
    *,
    ground: str | None = None,
    actor: str | None = None,
    dry_run: bool = False,
) -> Restricted:
    """Withhold `subjects` from every dataset, and ask whether any still shows them.

    Args:
        store: the store.
        subjects: ids; repetitions count once.
        ground: one of `sink.ledger.details.GROUNDS`, if somebody has said why.
        actor: opaque id of who asks; None for the system.
        dry_run: only say who would be restricted.

    Raises:
        LedgerError: nothing was recorded.
        DatabaseError: it could not be found out who is restricted or retired; nothing was recorded.
    """
    wanted = list(dict.fromkeys(subjects))
    retired = {r.subject for r in store.ledger.find(wanted) if r.state is not State.WITHDRAWN}
    in_force = {found.subject for found in find_restrictions(store.client, wanted)}
    new = [subject for subject in wanted if str(subject) not in retired | in_force]
    if new and not dry_run:
        detail = {} if ground is None else {"ground": ground}
        store.ledger.record(Action.RESTRICTED, [(subject, uuid.uuid4(), detail) for subject in new], actor)
        # Acknowledged is only what can be read again, whatever was answered to the insert.
        stands = {found.subject for found in find_restrictions(store.client, new)}
        if lost := [str(subject) for subject in new if str(subject) not in stands]:
            raise LedgerError(
                f"The ledger took restrictions and does not show those of {', '.join(lost[:10])}. Is the disk full?"
            )
    kept = [subject for subject in wanted if str(subject) not in retired]
    shown = Shown() if dry_run or not kept else _withhold(store, kept)
    return Restricted(
        new=[str(subject) for subject in new],
        already=[str(subject) for subject in wanted if str(subject) in in_force - retired],
        tombstoned=[str(subject) for subject in wanted if str(subject) in retired],
        shown=shown,
    )


def unrestrict(
    store: Store, subjects: Sequence[SubjectId], *, actor: str | None = None, dry_run: bool = False
) -> tuple[list[str], Shown]:
    """Lift the restrictions of `subjects`; return whose, and what may go on leaving them out until it reads again.

    Raises:
        RefusedError: one of them is not restricted; none is lifted.
        LedgerError: restrictions may still stand.
        DatabaseError: the ledger could not be read; nothing was lifted.
    """
    wanted = list(dict.fromkeys(map(str, subjects)))
    in_force = find_restrictions(store.client, wanted)
    restricted = {found.subject for found in in_force}
    for subject in wanted:
        if subject not in restricted:
            raise RefusedError(f"{subject} is not restricted; nothing was lifted.")
    if dry_run:
        return wanted, Shown()
    store.ledger.record(Action.UNRESTRICTED, [(found.subject, found.request, {}) for found in in_force], actor)
    return wanted, Shown(left=[*_reload(store, read_dependents(store)), *_forget(store)])


def _withhold(store: Store, subjects: Sequence[SubjectId]) -> Shown:
    """Have copies read again, ask what names subjects, and have kept results forgotten, in this order."""
    dependents = read_dependents(store)
    left = _reload(store, dependents)
    askable, not_asked = _sort_out(store, dependents)
    findings = [finding for dependent in askable for finding in _ask(store, dependent, subjects)]
    return Shown(findings, not_asked, [*left, *_forget(store)])


def _reload(store: Store, dependents: Sequence[Dependent]) -> list[str]:
    left = []
    for dependent in dependents:
        try:
            is_reloaded = reload(store, [dependent])
        except DatabaseError as error:
            # One that is broken keeps none of the others from reading again.
            left.append(f"{dependent.table.name}, which could not be made to read again: {error}")
            continue
        if dependent.table.is_dictionary and not is_reloaded:
            left.append(f"{dependent.table.name}, which could not read its source again: see system.dictionaries")
    return left


def _forget(store: Store) -> list[str]:
    try:
        left = forget_results(store.client)
        if store.caches is not None:
            store.caches.forget()
    except (DatabaseError, SupersetError) as error:
        return [f"cached results, which could not be forgotten: {error}"]
    return left


def _sort_out(store: Store, dependents: Sequence[Dependent]) -> tuple[list[Dependent], list[str]]:
    """What has a column with ids of subjects and is read in no time; and what of others has none, or is not ours to ask."""
    tables = read_all_tables(store)
    targets = list_targets(store, tables)
    ours = {*list_datasets(store.client), *list_keeping(tables.values())}
    # Those read events as well, which takes long. Whatever of ours does is built on what is asked.
    of_events = set(find_dependents(tables, [name for name, target in targets.items() if target.is_anonymised]))
    askable, not_asked = [], []
    for dependent in dependents:
        name = dependent.table.name
        if name in ours and set(dependent.table.columns) == {"user_id"}:
            # Of whom anything is held, which is what is counted.
            continue
        keys = [rule.key for origin in dependent.origins for rule in targets[origin].rules if rule.is_by_id]
        guessed = next((key for key in sorted(keys) if key in dependent.table.columns and name not in of_events), None)
        if key := dependent.key or guessed:
            askable.append(replace(dependent, key=key))
        elif name not in ours:
            not_asked.append(str(name))
    # Tables that other software fills with copies of names.
    filled = [
        name
        for name, target in targets.items()
        if name in tables
        and name not in ours
        and target.pii_columns
        and not any(rule.is_by_id for rule in target.rules)
    ]
    return askable, sorted({*not_asked, *map(str, filled)})


def _ask(store: Store, dependent: Dependent, subjects: Sequence[SubjectId]) -> list[Finding]:
    name = str(dependent.table.name)
    try:
        return find_in_dependent(store.client, dependent, dependent.key or "", subjects)
    except DatabaseError as error:
        return [Finding(name, Kind.UNCHECKED, reason=str(error))]
