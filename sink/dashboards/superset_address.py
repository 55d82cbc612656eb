"""Where a Superset is, for whoever must know it without an HTTP client."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import SecretStr


@dataclass(frozen=True)
class SupersetAddress:
    """Where Superset is and how to get in."""

    url: str
    user: str
    password: SecretStr
    provider: str = "db"
