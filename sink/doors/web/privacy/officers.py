"""Who may sign in to the page: holders of its token, and LMS staff whom the settings name, with a token of the LMS.

.. no_pii: reads tokens; the user name in one is compared with those of the settings, and not kept.
"""

from __future__ import annotations

import hmac
import time
from dataclasses import dataclass

from sink.actors import is_opaque
from sink.doors.web.auth import LmsTokens
from sink.errors import HttpProblemError, UsageError
from sink.settings import Settings
from sink.wording import counted

TOKEN_ACTOR = "service:privacy-page"  # noqa: S105 - what the ledger has, where the token does not say whose it is
"""Whoever signs in with the token of the settings, as the ledger has them."""


@dataclass(frozen=True)
class Officer:
    """Somebody who may sign in."""

    actor: str
    lasts: float | None
    """Seconds for which the token is valid; None for one that does not end."""


class Officers:
    """Checks what is presented to sign in."""

    def __init__(self, settings: Settings) -> None:
        """Read token and keys.

        Raises:
            SettingsError: the file of keys cannot be used.
            UsageError: nobody could sign in, or whoever may call the hook could.
        """
        self._token = settings.privacy_token.get_secret_value().encode() if settings.privacy_token else None
        self._users = frozenset(settings.privacy_jwt_users)
        self._tokens = LmsTokens(settings)
        if self._users and not self._tokens.can_be_checked:
            raise UsageError(
                "ASPECTS_PRIVACY_JWT_USERS names LMS staff, and nothing can check their tokens: set ASPECTS_WEB_JWT_SECRET or "
                "ASPECTS_WEB_JWT_PUBLIC_KEYS."
            )
        if self._token is None and not self._users:
            raise UsageError(
                "ASPECTS_PRIVACY_PAGE is on, and nobody could sign in: set ASPECTS_PRIVACY_TOKEN, or ASPECTS_PRIVACY_JWT_USERS "
                "with ASPECTS_WEB_JWT_SECRET or ASPECTS_WEB_JWT_PUBLIC_KEYS."
            )
        if settings.privacy_token is not None and settings.privacy_token == settings.web_token:
            raise UsageError(
                "ASPECTS_PRIVACY_TOKEN and ASPECTS_WEB_TOKEN are the same, so whoever may retire by a script could read all "
                "that is held of a person. Give the page a token of its own."
            )

    def describe(self) -> str:
        """How to sign in, for people."""
        ways = ["the token of ASPECTS_PRIVACY_TOKEN"] if self._token else []
        if self._users:
            ways.append(f"tokens of the LMS ({self._tokens.kind}) of {counted(len(self._users), 'user')}, as staff")
        return " or ".join(ways)

    def recognise(self, token: str) -> Officer:
        """Whose token this is.

        Raises:
            HttpProblemError: 401 where it is none, 403 where it is somebody's who may not sign in.
        """
        if self._token is not None and hmac.compare_digest(token.encode("utf-8", "replace"), self._token):
            return Officer(TOKEN_ACTOR, None)
        claims = self._tokens.verify(token) if self._users else None
        if claims is None:
            raise HttpProblemError(401, "token", "This token is not valid, or not valid any more.")
        name = claims.get("preferred_username")
        # A token with `is_restricted` was given to another program, to do some things in somebody's name.
        if (
            not isinstance(name, str)
            or name not in self._users
            or claims.get("administrator") is not True
            or claims.get("is_restricted") is True
        ):
            raise HttpProblemError(403, "not_named", "This account may not use the page.")
        user_id = claims.get("user_id")
        if isinstance(user_id, bool) or not isinstance(user_id, int) or not is_opaque(str(user_id)):
            raise HttpProblemError(403, "no_user_id", "This token does not say the id of the account.")
        return Officer(str(user_id), max(0.0, float(claims["exp"]) - time.time()))
