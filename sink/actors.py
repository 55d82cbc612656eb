"""Who asks, as ledger and receipts name them: by an opaque id, since both are kept for ever.

.. no_pii: ids of users and names of services; what may be anybody's name is refused.
"""

from __future__ import annotations

import re

from sink.errors import UsageError

_NUMBER = "[0-9]{1,18}"
_UUID = "[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"
# No user name of the LMS has a colon.
_SERVICE = "service:[a-z][a-z0-9-]{0,62}"
_OPAQUE = re.compile(f"{_NUMBER}|{_UUID}|{_SERVICE}")


def is_opaque(actor: str) -> bool:
    """True for a number, a UUID, or `service:` and the name of a program; anything else may be somebody's name."""
    return _OPAQUE.fullmatch(actor) is not None


def check_actor(actor: str | None) -> str | None:
    """Return `actor`, an opaque id or None for the system.

    Raises:
        UsageError: it is no opaque id. The message does not quote it.
    """
    if actor is None or is_opaque(actor):
        return actor
    raise UsageError(
        "The actor is not an opaque id. Ledger and receipts are kept for ever, so no name or address may stand in them: "
        "give a number such as 17, a UUID, or service:NAME."
    )
