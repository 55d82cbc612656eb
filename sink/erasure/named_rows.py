"""Rows that are found by another name than the id: whose they may be besides, and who cannot be looked for.

.. no_pii: opaque user ids, counts and names of tables.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sink.clickhouse.client import INCLUDING_HIDDEN, ClickHouse, split_for_binding
from sink.erasure.identities import Identities
from sink.erasure.keys import Spelling, express_compared
from sink.erasure.steps import Step
from sink.errors import DatabaseError
from sink.ledger.details import read_detail
from sink.ledger.entries import Action
from sink.pii_map import SubjectId
from sink.store import Store

# What a receipt says of a place.
NOT_ASKED = "rows are found by another name of the subject, and none was stored"
LEFT = "under a name that somebody else has too were left to that person, as whoever asked has decided"


class Contested(NamedTuple):
    """Rows under a name of a subject that somebody else has too."""

    place: str
    subject: str
    rows: int


def count_contested(store: Store, step: Step, subjects: Sequence[SubjectId], identities: Identities) -> list[Contested]:
    """Rows of a step that readers see and that may be a subject's, or somebody's who is not retired.

    Of whom the table was proved to have nothing, whatever is there now came later: it is the other person's.

    Raises:
        DatabaseError: they could not be counted.
    """
    affected = identities.find_contested(subjects) if step.needs_identities else []
    proved = {} if identities.ignores_proofs else find_proved(store, affected)
    place = str(step.table.name)
    found = []
    for subject in affected:
        if str(subject) in proved and proved[str(subject)].covers(step):
            continue
        own, everything = (
            step.count_left(store.client, [subject], names).get(str(subject), 0)
            for names in (identities, identities.with_contested())
        )
        if everything > own:
            found.append(Contested(place, str(subject), everything - own))
    return found


def list_unknown(client: ClickHouse, step: Step, subjects: Sequence[SubjectId], identities: Identities) -> list[str]:
    """Who cannot be looked for: nobody knows what they are called, and the table has rows by such names."""
    if not step.needs_identities:
        return []
    unknown = [str(subject) for subject in subjects if not step.can_find(subject, identities)]
    return unknown if unknown and _has_named_rows(client, step) else []


class Proved(NamedTuple):
    """Where nothing was left of a subject when the erasure was proved."""

    places: set[str]
    questions: set[str] | None
    """Which rules by name were asked; None of an older version, which has not written that down."""

    def covers(self, step: Step) -> bool:
        """True where this very rule was asked then. One that was added later may know of rows that others do not."""
        return str(step.table.name) in self.places and (self.questions is None or step.question in self.questions)


def find_proved(store: Store, subjects: Sequence[SubjectId]) -> dict[str, Proved]:
    """What was proved of subjects, by subject; not of who is reopened."""
    proved: dict[str, Proved] = {}
    for batch in split_for_binding(subjects):
        rows = store.client.rows(
            "SELECT subject, argMaxIf(entries.detail, at, action = 'erased') FROM $pii_ledger.marked_entries AS entries "
            "WHERE subject IN {subjects:Array(String)} AND NOT is_voided AND NOT is_ahead GROUP BY subject "
            "HAVING maxIf(at, action = 'erased') > maxIf(at, action = 'reopened')",
            subjects=[str(subject) for subject in batch],
        )
        for subject, detail in rows:
            erased = read_detail(Action.ERASED, detail)
            receipt = erased.get("receipt", {})
            lines = [line.partition(": ") for line in _list_texts(receipt, "not_covered")]
            places = set(_list_texts(receipt, "verified")) - {place for place, _, text in lines if text == NOT_ASKED}
            proved[subject] = Proved(places, set(erased["questions"]) if "questions" in erased else None)
    return proved


def _list_texts(receipt: Mapping[str, Any], name: str) -> list[str]:
    """What a receipt lists under a name; nothing where it is no receipt of ours, so that nothing counts as proved."""
    listed = receipt.get(name)
    return [text for text in listed if isinstance(text, str)] if isinstance(listed, list) else []


def _has_named_rows(client: ClickHouse, step: Step) -> bool:
    """True where a row of anybody has a key of the kind that the rule is about."""
    prefix = "" if step.rule.is_hashed else step.rule.template.partition("{")[0]
    key = express_compared(step.subject_expression, step.rule, Spelling.CASE)
    try:
        found = client.rows(
            f"SELECT 1 FROM {client.replicas(step.table.name.sql)} "
            f"WHERE startsWith({key}, {{prefix:String}}) AND length({key}) > length({{prefix:String}}) LIMIT 1",
            INCLUDING_HIDDEN,
            prefix=prefix.lower(),
        )
    except DatabaseError:
        # That the table cannot be read is a finding of its own.
        return True
    return bool(found)
