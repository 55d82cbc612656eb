"""What the doors say about retirements that they have worked off, and when they try again."""

from __future__ import annotations

import logging
from collections.abc import Collection

from sink.retirement.batch import Outcome

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
