"""What retiring some subjects touches: steps, rows and names, with nothing changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sink.erasure.identities import Identities, ask_lms, read_identities
from sink.erasure.plan import Plan, read_plan, require_valid_plan
from sink.erasure.search_terms import read_names
from sink.erasure.steps import Step
from sink.errors import RefusedError
from sink.pii_map import SubjectId
from sink.store import Store

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

    def rows_of(self, subject: str) -> int:
        """Rows of one subject that still have to be erased."""
        return sum(count.rows.get(subject, 0) for count in self.counts)


def plan_retirement(
    store: Store, subjects: Sequence[SubjectId], known: Identities | None = None, *, scan: bool = False
) -> Planned:
    """What retiring `subjects` would touch. Changes nothing.

    Args:
        store: the store.
        subjects: ids.
        known: other names of the subjects, beside those that the PII tables say.
        scan: read those names although no rule needs them.

    Raises:
        MapError: the map cannot be carried out on the live schema.
        LmsError: the map searches by names, and the LMS cannot be asked for them.
    """
    plan = read_plan(store)
    require_valid_plan(plan)
    identities = known or Identities()
    by_name = any(step.needs_identities for step in plan.steps)
    if scan or by_name:
        identities = identities.merge(read_identities(store, subjects))
    if scan:
        identities = identities.merge(read_names(store, subjects))
    if by_name and store.lms_url is not None:
        # The LMS replaces the address when retirement is asked for, and a copy before the request brings that here.
        # Not with the module: SQLAlchemy takes long to import, and the command line imports this at start.
        from sink.lms.database import LmsDatabase

        identities = identities.merge(ask_lms(LmsDatabase(store.lms_url), subjects))
    counts = [
        StepCounts(step, step.count_left(store.client, subjects, identities, including_hidden=True))
        for step in plan.steps
    ]
    return Planned(plan, counts, identities)


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
                f"This would touch {touched} of {rows} rows of {count.step.table.name}, more than the share of {limit:g} "
                "that ASPECTS_RETIRE_MAX_SHARE allows. Look at the map and the ids, then insist with --force."
            )
