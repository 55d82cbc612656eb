"""Who may call the HTTP hook, and which tokens are the LMS's."""

from __future__ import annotations

import contextlib
import hmac
import json
import logging
import re
import warnings
from collections.abc import Mapping
from typing import Any

import jwt
from starlette.requests import Request

from sink.errors import HttpProblemError, SettingsError, UsageError
from sink.serving import is_loopback
from sink.settings import Settings
from sink.wording import counted

# .. no_pii: reads tokens; the user name in one is compared with those of service accounts, and not kept.

logger = logging.getLogger(__name__)

# RFC 7518, 3.2: a key of HS256 has at least as many bits as its hash.
_SECRET_BYTES = 32
LEEWAY_SECONDS = 30
"""How far the clocks of the LMS and of this host may differ."""


class LmsTokens:
    """Tokens that the LMS signs: whether one is its own, whole and not too old."""

    def __init__(self, settings: Settings) -> None:
        """Read the keys.

        Raises:
            SettingsError: the file of keys cannot be used.
        """
        self._secret = settings.web_jwt_secret.get_secret_value() if settings.web_jwt_secret else None
        self._keys = _read_public_keys(settings) if settings.web_jwt_public_keys else {}
        self._audience, self._issuer = settings.web_jwt_audience, settings.web_jwt_issuer

    @property
    def can_be_checked(self) -> bool:
        """True where there is a key."""
        return bool(self._secret or self._keys)

    @property
    def kind(self) -> str:
        """The algorithms, for people."""
        return "HS256" if self._secret else "RS256, RS384 or RS512"

    def warn_of_short_secret(self) -> None:
        """Log it where the secret can be guessed."""
        if self._secret:
            _warn_of_length(len(self._secret.encode()))

    def verify(self, token: str) -> Mapping[str, Any] | None:
        """The claims of a token that is signed by the LMS, whole, and not too old; None where it is none."""
        claims: Mapping[str, Any] | None = None
        with contextlib.suppress(jwt.PyJWTError, ValueError, TypeError):
            header = jwt.get_unverified_header(token)
            # The kind of key follows from the algorithm, so that a public key is never taken for a secret.
            algorithm = header.get("alg")
            key: Any = None
            if algorithm == "HS256":
                key = self._secret
            elif algorithm in ("RS256", "RS384", "RS512"):
                key = self._keys.get(header.get("kid")) or self._keys.get(None)
            if isinstance(algorithm, str) and key is not None:
                claims = jwt.decode(
                    token,
                    key,
                    algorithms=[algorithm],
                    audience=self._audience,
                    issuer=self._issuer,
                    leeway=LEEWAY_SECONDS,
                    options={"require": ["exp"], "verify_aud": self._audience is not None},
                )
        return claims


class Guard:
    """Who may call: holders of the token, or of a JWT of the LMS that is of one of the users named."""

    def __init__(self, settings: Settings) -> None:
        """Read the keys.

        Raises:
            SettingsError: the file of keys cannot be used.
            UsageError: there are keys and no users: every learner has tokens.
        """
        self._token = settings.web_token.get_secret_value().encode() if settings.web_token else None
        self._tokens = LmsTokens(settings)
        self._users = frozenset(settings.web_jwt_users)
        self._tokens.warn_of_short_secret()
        is_for_the_page = settings.privacy_page and settings.privacy_jwt_users
        if self._tokens.can_be_checked and not self._users and not is_for_the_page:
            raise UsageError(
                "The LMS gives tokens to every learner, so ASPECTS_WEB_JWT_USERS has to name who may retire. "
                "Example: ASPECTS_WEB_JWT_USERS=retirement_service_worker"
            )

    @property
    def requires_authentication(self) -> bool:
        """True where callers have to authenticate."""
        return bool(self._token or self._tokens.can_be_checked)

    def describe(self) -> str:
        """How callers authenticate, for people."""
        ways = ["the token of ASPECTS_WEB_TOKEN"] if self._token else []
        if self._tokens.can_be_checked:
            ways.append(f"tokens of the LMS ({self._tokens.kind}) of {counted(len(self._users), 'user')}")
        return " or ".join(ways) or "none: only programs of this host are served"

    def check(self, request: Request) -> None:
        """Let the request pass.

        Raises:
            HttpProblemError: 401 without credentials that count, 403 where they are somebody else's.
        """
        if not self.requires_authentication:
            _check_local(request)
            return
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() not in ("jwt", "bearer") or not token.strip():
            raise _unauthorized("An Authorization header with `JWT <token>` or `Bearer <token>` is needed.")
        token = token.strip()
        if self._token is not None and hmac.compare_digest(token.encode(), self._token):
            return
        claims = self._tokens.verify(token)
        if claims is None:
            raise _unauthorized("The token is not valid.")
        name = claims.get("preferred_username")
        if not isinstance(name, str) or name not in self._users:
            raise HttpProblemError(403, "forbidden", "This user may not retire others. See ASPECTS_WEB_JWT_USERS.")


def _warn_of_length(length: int) -> None:
    """LMSs have short secrets, and theirs is the one that counts: it is taken, and whoever runs the hook is told."""
    if length >= _SECRET_BYTES:
        return
    logger.warning(
        "ASPECTS_WEB_JWT_SECRET has %d bytes, and below %d it can be guessed from any token of the LMS; whoever has it can "
        "retire anybody. Give the LMS a longer JWT_SECRET_KEY (`openssl rand -hex 32`) and set it here too, or have the LMS "
        "sign with a key pair and set ASPECTS_WEB_JWT_PUBLIC_KEYS.",
        length,
        _SECRET_BYTES,
    )
    # PyJWT (2.12 and later) would say the same of every token.
    if quiet := getattr(jwt, "InsecureKeyLengthWarning", None):
        warnings.filterwarnings("ignore", category=quiet)


def _unauthorized(message: str) -> HttpProblemError:
    return HttpProblemError(401, "unauthorized", message, {"WWW-Authenticate": 'Bearer realm="aspects-pii"'})


def _check_local(request: Request) -> None:
    """Without authentication only programs of this host are served, and no web page that it shows."""
    host = re.sub(r":\d*$", "", request.headers.get("host", "")).strip("[]")
    if request.headers.get("origin") or not is_loopback(host):
        raise HttpProblemError(403, "forbidden", "Without a token only programs of this host are served.")


def _read_public_keys(settings: Settings) -> dict[str | None, Any]:
    """Key id → key; None is the one for tokens that name none."""
    path = settings.web_jwt_public_keys
    assert path is not None
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise SettingsError(f"ASPECTS_WEB_JWT_PUBLIC_KEYS is not valid: {path}: {reason}.") from None
    found: dict[str | None, Any] = {}
    with contextlib.suppress(jwt.PyJWTError, ValueError, TypeError, KeyError):
        if text.lstrip().startswith("{"):
            document = json.loads(text)
            for key in jwt.PyJWKSet.from_dict(document if "keys" in document else {"keys": [document]}).keys:
                if key.key_type == "RSA":
                    found[key.key_id] = key.key
                    found.setdefault(None, key.key)
        else:
            found[None] = jwt.algorithms.RSAAlgorithm(jwt.algorithms.RSAAlgorithm.SHA256).prepare_key(text)
    if not found:
        raise SettingsError(
            f"ASPECTS_WEB_JWT_PUBLIC_KEYS is not valid: {path} holds neither a public RSA key as PEM nor a JWK set."
        )
    return found
