"""What the doors say about what they have worked off by themselves, and when they try again."""

from __future__ import annotations

import logging
from collections.abc import Collection

from sink.erasure.expiry import expire, is_due
from sink.errors import BusyError, ErasureError, RefusedError
from sink.retirement.batch import Outcome
from sink.store import Store

# .. no_pii: opaque ids.

_log = logging.getLogger(__name__)

SWEEP_RETRY_SECONDS = 60.0
"""After this time a process tries again to work off a retirement that it has failed at."""


def log_outcomes(outcomes: Collection[Outcome]) -> bool:
    """Log whose retirement stays open, and return whether all are done."""
    for outcome in outcomes:
        if outcome.is_done and outcome.not_asked:
            places = ", ".join(outcome.not_asked)
            _log.warning("Subject %s: could not be looked for by name in %s", outcome.subject, places)
    unfinished = [outcome for outcome in outcomes if not outcome.is_done]
    for outcome in unfinished:
        _log.error("Subject %s: not retired yet: %s", outcome.subject, outcome.reason)
    return not unfinished


def expire_if_due(store: Store) -> None:
    """Carry out the retentions of the map, once a day; what cannot be is logged, and tried again.

    Raises:
        DatabaseError: the engine refused, or could not be reached.
    """
    if not is_due(store):
        return
    try:
        expire(store)
    except BusyError:
        # Whoever is erasing is at it; the next sweep looks again.
        return
    except (ErasureError, RefusedError) as error:
        _log.error("Nothing has expired: %s", error)
