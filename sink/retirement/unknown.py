"""Ids that nobody knows: most likely they are mistyped, and whoever is retired is never copied again.

.. no_pii: opaque user ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sink.pii_map import SubjectId
from sink.retirement.plan import Planned
from sink.store import Store

if TYPE_CHECKING:
    from sink.lms.database import LmsDatabase


def find_without_trace(store: Store, subjects: Sequence[SubjectId], planned: Planned) -> list[SubjectId]:
    """Those of `subjects` of whom no table of the map holds a row and the ledger no entry, in the order given.

    Args:
        store: the store.
        subjects: ids.
        planned: what retiring them would touch.
    """
    candidates = [s for s in dict.fromkeys(subjects) if str(s) not in planned.held and str(s) not in planned.contested]
    recorded = {retirement.subject for retirement in store.ledger.find(candidates)}
    return [subject for subject in candidates if str(subject) not in recorded]


def find_strangers(lms: LmsDatabase, subjects: Sequence[SubjectId]) -> list[SubjectId]:
    """Those of `subjects` whom the LMS does not know and never knew, as far as it can say, in the order given.

    Raises:
        LmsError: it cannot be asked.
    """
    with lms.snapshot() as snapshot:
        known = snapshot.known_user_ids([subject for subject in subjects if isinstance(subject, int)])
    return [subject for subject in subjects if subject not in known]
