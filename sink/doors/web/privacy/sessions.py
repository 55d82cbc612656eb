"""Who is signed in to the page, and for how long. Sessions are in memory: they end with the process at the latest.

.. no_pii: opaque ids.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field

IDLE_SECONDS = 15 * 60
"""After so long without a request somebody has to sign in again."""
LONGEST_SECONDS = 4 * 3_600
"""And after so long in any case."""
_MOST = 200


@dataclass
class Session:
    """Somebody who is signed in."""

    actor: str
    """Who, as the ledger names them."""
    ends_at: float
    used_at: float
    form_token: str = field(default_factory=secrets.token_urlsafe, repr=False)
    """Stands in every form of the session's pages: a form without it is not one of ours."""


class Sessions:
    """The sessions of this process, by the secret that the cookie holds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Nobody is signed in. `clock` counts seconds."""
        self._clock = clock
        self._sessions: dict[bytes, Session] = {}

    def begin(self, actor: str, lasts: float | None = None) -> str:
        """Sign somebody in, and return the secret for the cookie.

        Args:
            actor: who.
            lasts: seconds after which it ends, where that is sooner than usual.
        """
        now = self._clock()
        self._sessions = {name: session for name, session in self._sessions.items() if self._is_on(session)}
        if len(self._sessions) >= _MOST:
            del self._sessions[min(self._sessions, key=lambda name: self._sessions[name].used_at)]
        secret = secrets.token_urlsafe(32)
        ends_at = now + min(LONGEST_SECONDS, LONGEST_SECONDS if lasts is None else lasts)
        self._sessions[_digest(secret)] = Session(actor, ends_at, now)
        return secret

    def find(self, secret: str) -> Session | None:
        """The session of a cookie, which goes on; None where it is over, or never began."""
        session = self._sessions.get(_digest(secret))
        if session is None or not self._is_on(session):
            return None
        session.used_at = self._clock()
        return session

    def end(self, secret: str) -> None:
        """Sign somebody out."""
        self._sessions.pop(_digest(secret), None)

    def _is_on(self, session: Session) -> bool:
        now = self._clock()
        return now < session.ends_at and now < session.used_at + IDLE_SECONDS


def _digest(secret: str) -> bytes:
    # How long a look-up takes tells nothing of the secrets that there are.
    return hashlib.sha256(secret.encode("utf-8", "replace")).digest()
