"""Finding out what no event told us: whom the LMS has retired, and who came back after an erasure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING

from sink.erasure.former_names import forget_expired
from sink.erasure.verify import verify
from sink.ledger.entries import Retirement
from sink.retirement.batch import Outcome, fail_unreadable
from sink.retirement.plan import plan_retirement, require_small_share
from sink.retirement.retire import retire, work_off
from sink.store import Store

if TYPE_CHECKING:
    from sink.lms.database import LmsDatabase

# .. no_pii: compares opaque user ids.


@dataclass(frozen=True)
class Reconciled:
    """What a comparison with the LMS came to."""

    in_lms: int
    """Users whose retirement the LMS will not take back."""
    missed: list[str] = field(default_factory=list)
    """Those of them whom no event had named."""
    outcomes: list[Outcome] = field(default_factory=list)


def reconcile(store: Store, lms: LmsDatabase, *, dry_run: bool = False, force: bool = False) -> Reconciled:
    """Retire whoever the LMS has retired and an event never told us of.

    A retirement that the LMS can still cancel is left alone.

    Raises:
        LmsSchemaError: the LMS database lacks the tables of retirements.
        LmsUnreachableError: there is no connection; nothing was compared.
    """
    known = set(store.ledger.tombstones())
    total, missed = 0, []
    with lms.snapshot() as snapshot:
        for ids in snapshot.retired_user_ids():
            total += len(ids)
            missed += [user_id for user_id in ids if str(user_id) not in known]
    outcomes = [] if dry_run else retire(store, missed, force=force)
    return Reconciled(total, [str(user_id) for user_id in missed], outcomes)


def second_pass(store: Store, *, force: bool = False) -> list[Outcome]:
    """Look again at every erasure that is older than the bound, and erase what came back.

    Keyed hashes of former names that are older than they are to be kept go first.

    Returns:
        The outcomes of what was reopened, and of whom the map cannot read the id; nothing where nothing came back.

    Raises:
        RefusedError: to erase it would touch more of a table than ASPECTS_RETIRE_MAX_SHARE; nobody was reopened.
    """
    forget_expired(store)
    now = store.client.now()
    erased = store.ledger.find_erased(before=now - timedelta(seconds=store.policy.second_pass_after))
    returned = _find_returned(store, erased, force=force)
    store.ledger.reopen(returned, "found by the second pass")
    _, unreadable = store.pii_map.subject.sort_out(retirement.subject for retirement in erased)
    outcomes = work_off(store, store.ledger.find([r.subject for r in returned]), force=force)
    return [*outcomes, *map(fail_unreadable, unreadable)]


def _find_returned(store: Store, erased: Sequence[Retirement], *, force: bool) -> list[Retirement]:
    if not erased:
        return []
    subjects, _ = store.pii_map.subject.sort_out(retirement.subject for retirement in erased)
    planned = plan_retirement(store, subjects)
    require_small_share(store, planned, force=force)
    report = verify(store, planned.plan, subjects, planned.identities)
    found = {finding.subject for finding in report.findings if finding.subject}
    found |= {subject for count in planned.counts for subject in count.rows}
    return [retirement for retirement in erased if retirement.subject in found]
