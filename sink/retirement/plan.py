"""What retiring some subjects touches: steps, rows and names, with nothing changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sink.erasure.identities import Identities
from sink.erasure.named_rows import count_contested
from sink.erasure.naming import identify, read_identities
from sink.erasure.plan import Plan, read_plan, require_valid_plan
from sink.erasure.search_terms import read_names
from sink.erasure.steps import Step
from sink.errors import RefusedError
from sink.ledger.entries import Retirement
from sink.pii_map import SubjectId
from sink.store import Store
from sink.wording import counted

# Below this a table is so small that one learner may well be most of it.
_SMALL_TABLE_ROWS = 1_000


@dataclass(frozen=True)
class StepCounts:
    """Rows of each subject that a step has to erase."""

    step: Step
    rows: dict[str, int]


@dataclass(frozen=True)
class Planned:
    """What retiring some subjects touches."""

    plan: Plan
    counts: list[StepCounts]
    identities: Identities
    held: dict[str, set[str]]
    """Tables that hold rows of a subject, or held them when an earlier attempt began; by subject."""
    contested: frozenset[str] = frozenset()
    """Of whom rows may be there under a name that somebody else has too, and nobody has decided whose they are."""
    unfinished: Mapping[str, str] = field(default_factory=dict)
    """Tables with an interrupted change that cannot be finished, with the reason."""

    def rows_of(self, subject: str) -> int:
        """Rows of one subject that still have to be erased."""
        return sum(count.rows.get(subject, 0) for count in self.counts)


def plan_retirement(
    store: Store,
    subjects: Sequence[SubjectId],
    known: Identities | None = None,
    *,
    scan: bool = False,
    retirements: Sequence[Retirement] | None = None,
) -> Planned:
    """What retiring `subjects` would touch. Changes nothing.

    Args:
        store: the store.
        subjects: ids.
        known: other names of the subjects, beside those that the PII tables and the LMS say.
        scan: read those names although no rule needs them.
        retirements: where the retirements of `subjects` stand, for whoever has read it.

    Raises:
        MapError: the map cannot be carried out on the live schema.
        LmsError: the map searches by names, and the LMS cannot be asked for them.
    """
    plan = read_plan(store)
    require_valid_plan(plan)
    identities = known or Identities()
    if scan or any(step.needs_identities for step in plan.steps):
        # The LMS replaces the address when retirement is asked for, and a copy before the request brings that here.
        identities = identify(store, subjects, plan.steps, known)
    elif plan.answered:
        # Rows that come later may name whom none names now; `remember` keeps what they can be recognised by.
        identities = read_identities(store, subjects).merge(identities)
    if scan:
        identities = identities.merge(read_names(store, subjects))
    counts = [
        StepCounts(step, step.count_left(store.client, subjects, identities, including_hidden=True))
        for step in plan.steps
    ]
    contested = [found.subject for step in plan.steps for found in count_contested(store, step, subjects, identities)]
    if identities.leaves_contested:
        contested = []
    standing = store.ledger.find(subjects) if retirements is None else retirements
    return Planned(plan, counts, identities, _list_held(store, standing, counts), frozenset(contested))


def _list_held(store: Store, retirements: Sequence[Retirement], counts: Sequence[StepCounts]) -> dict[str, set[str]]:
    held: dict[str, set[str]] = {}
    tables = {count.step.label: str(count.step.table.name) for count in counts}
    for subject, rows in store.ledger.find_counts(retirements).items():
        held[subject] = {tables[label] for label in rows if label in tables}
    for count in counts:
        for subject in count.rows:
            held.setdefault(subject, set()).add(str(count.step.table.name))
    return held


def require_small_share(store: Store, planned: Planned, *, force: bool) -> None:
    """Refuse a plan that touches so much of a table that a mistake is likely, unless somebody insists.

    Raises:
        RefusedError: it touches more of a table than ASPECTS_RETIRE_MAX_SHARE.
    """
    if force:
        return
    limit = store.policy.retire_max_share
    for count in planned.counts:
        rows, touched = count.step.table.rows, sum(count.rows.values())
        if rows >= _SMALL_TABLE_ROWS and touched > rows * limit:
            raise RefusedError(
                f"This would touch {touched} of {counted(rows, 'row')} of {count.step.table.name}, more than the share of "
                f"{limit:g} that ASPECTS_RETIRE_MAX_SHARE allows. Look at the map and the ids, then insist with --force."
            )
