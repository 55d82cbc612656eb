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
_CHECK_DIGITS = 8
_SHA1_DIGITS = 40
_SHA1 = re.compile(r"[0-9a-f]{40}")
_SHAPES = re.compile(
    rf"(?:mailto:)?([0-9a-f]{{32}})@{re.escape(RETIRED_DOMAIN)}|([0-9a-f]{{32}})|([0-9a-f]{{32}})[0-9a-f]{{8}}"
)


def keyed_hash(secret: SecretStr, purpose: str, subject: int | str) -> str:
    """A pseudonym for a subject: 32 hexadecimal digits, the last 8 of which tell it from a value.

    It is made by HMAC-SHA256 from the subject's id and not from the value, so that nothing of the value remains. The last
    digits need the key too: nobody can choose a name that is taken for a pseudonym.
    """
    digits = _hmac(secret, f"{purpose}:{subject}")[:_HASHED_DIGITS]
    return digits + _check_digits(secret, digits)


def spell_as_before(pseudonym: str) -> str:
    """How earlier versions wrote the same pseudonym: with last digits that anybody could make."""
    digits = pseudonym[:_HASHED_DIGITS]
    return digits + hashlib.sha256(digits.encode()).hexdigest()[:_CHECK_DIGITS]


def shape_like(old: str, pseudonym: str) -> str:
    """A pseudonym where the value stood: a `mailto:` stays one, a SHA-1 has 40 digits."""
    text = old.strip().lower()
    if text.startswith(("mailto:", "mailto%3a")):
        return f"mailto:{shape_address(pseudonym)}"
    return shape_digest(pseudonym) if _SHA1.fullmatch(text) else pseudonym


def shape_address(pseudonym: str) -> str:
    """The address that follows `mailto:`."""
    return f"{pseudonym}@{RETIRED_DOMAIN}"


def shape_digest(pseudonym: str) -> str:
    """As many digits as a SHA-1 has."""
    return pseudonym + pseudonym[: _SHA1_DIGITS - len(pseudonym)]


def express_shape(old: str, hashed: str) -> str:
    """`shape_like` as SQL, of two SQL expressions."""
    text = f"lower(trimBoth({old}))"
    return (
        f"multiIf(startsWith({text}, 'mailto:') OR startsWith({text}, 'mailto%3a'), "
        f"concat('mailto:', {hashed}, '@{RETIRED_DOMAIN}'), "
        f"match({text}, '^[0-9a-f]{{40}}$'), concat({hashed}, substring({hashed}, 1, 8)), {hashed})"
    )


def is_pseudonym(secret: SecretStr, text: str) -> bool:
    """True for what `keyed_hash` and `shape_like` make with this secret; false for all but one in 4,000 million others."""
    found = _SHAPES.fullmatch(text)
    hashed = next(filter(None, found.groups()), "") if found else ""
    return bool(hashed) and hashed[_HASHED_DIGITS:] == _check_digits(secret, hashed[:_HASHED_DIGITS])


def _check_digits(secret: SecretStr, digits: str) -> str:
    return _hmac(secret, f"check:{digits}")[:_CHECK_DIGITS]


def _hmac(secret: SecretStr, message: str) -> str:
    return hmac.new(secret.get_secret_value().encode(), message.encode(), hashlib.sha256).hexdigest()
