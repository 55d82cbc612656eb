"""Pseudonyms that a rule puts in the place of a value, and how one is told from a value.

.. no_pii: keyed hashes of opaque ids.
"""

from __future__ import annotations

import hashlib
import hmac
import re

from pydantic import SecretStr

RETIRED_DOMAIN = "retired.invalid"
# A pseudonym is one purpose for all columns, so that what belongs together still does wherever it is stored.
PSEUDONYM = "pseudonym"

LONGEST = len("mailto:") + 32 + len("@") + len(RETIRED_DOMAIN)
"""The bytes of the longest pseudonym."""

_HASHED_DIGITS = 24
_SHA1 = re.compile(r"[0-9a-f]{40}")
_SHAPES = re.compile(
    rf"(?:mailto:)?([0-9a-f]{{32}})@{re.escape(RETIRED_DOMAIN)}|([0-9a-f]{{32}})|([0-9a-f]{{32}})[0-9a-f]{{8}}"
)


def keyed_hash(secret: SecretStr, purpose: str, subject: int | str) -> str:
    """A pseudonym for a subject: 32 hexadecimal digits, the last 8 of which tell it from a value.

    It is made by HMAC-SHA256 from the subject's id and not from the value, so that nothing of the value remains.
    """
    message = f"{purpose}:{subject}".encode()
    digits = hmac.new(secret.get_secret_value().encode(), message, hashlib.sha256).hexdigest()[:_HASHED_DIGITS]
    return digits + _check_digits(digits)


def shape_like(old: str, hashed: str) -> str:
    """A pseudonym where the value stood: an address stays an address, a SHA-1 has 40 digits."""
    if old.startswith("mailto:"):
        return f"mailto:{hashed}@{RETIRED_DOMAIN}"
    if _SHA1.fullmatch(old):
        return hashed + hashed[:8]
    return hashed


def express_shape(old: str, hashed: str) -> str:
    """`shape_like` as SQL, of two SQL expressions."""
    return (
        f"multiIf(startsWith({old}, 'mailto:'), concat('mailto:', {hashed}, '@{RETIRED_DOMAIN}'), "
        f"match({old}, '^[0-9a-f]{{40}}$'), concat({hashed}, substring({hashed}, 1, 8)), {hashed})"
    )


def is_pseudonym(text: str) -> bool:
    """True for what `keyed_hash` and `shape_like` make, whatever the secret; false for all but one in 4,000 million others."""
    found = _SHAPES.fullmatch(text)
    hashed = next(filter(None, found.groups()), "") if found else ""
    return bool(hashed) and hashed[_HASHED_DIGITS:] == _check_digits(hashed[:_HASHED_DIGITS])


def _check_digits(digits: str) -> str:
    return hashlib.sha256(digits.encode()).hexdigest()[: 32 - _HASHED_DIGITS]
