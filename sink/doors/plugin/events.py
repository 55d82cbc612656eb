"""Retirements that the LMS announces by an event of openedx-events, where it has one.

No release of openedx-events has such an event (11.2.0 of August 2026 neither). The day one is there, an operator names it in
ASPECTS_PII_RETIREMENT_EVENTS: an event says by its type alone whether the LMS erases now, or a learner has asked and may
still cancel, so none is taken up unasked. What an event looks like is published: an `OpenEdxPublicSignal` is found by its
type, calls its receivers with `signal`, `sender`, `metadata` and the data of the event by name, and tells of a user as
`UserData`, which has the `id` (openedx_events/tooling.py and learning/data.py; openedx-events 10.5.0 to 11.2.0).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any

# .. no_pii: of a user only the id is read.

logger = logging.getLogger(__name__)


def connect_events(event_types: Iterable[str], retire: Callable[[Any], None]) -> None:
    """Have `retire` called with the user's id for each of these events; log which of them this LMS does not have."""

    def on_event(signal: Any = None, **data: Any) -> None:
        user_ids = find_user_ids(data)
        if not user_ids:
            logger.error("%s names no user, so nobody was retired; `aspects-pii reconcile` finds who is", signal)
        for user_id in user_ids:
            retire(user_id)

    for event_type in event_types:
        signal = _find_signal(event_type)
        if signal is None:
            logger.warning("openedx-events has no event %s here, so nothing is heard of it", event_type)
        else:
            # Not weakly: nobody else holds this function.
            signal.connect(on_event, weak=False, dispatch_uid=f"aspects_pii.{event_type}")


def find_user_ids(data: dict[str, Any]) -> list[Any]:
    """The ids of the users that an event names, as its data or one level below."""
    from openedx_events.learning.data import UserData

    users = [found for value in data.values() for found in (value, getattr(value, "user", None))]
    return [user.id for user in users if isinstance(user, UserData)]


def _find_signal(event_type: str) -> Any:
    try:
        from openedx_events.tooling import OpenEdxPublicSignal
    except ImportError:
        return None
    try:
        return OpenEdxPublicSignal.get_signal_by_type(event_type)
    except KeyError:
        return None
