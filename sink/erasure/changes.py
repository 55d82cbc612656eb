"""What takes the place of values in rows that are rewritten here, and not by ClickHouse."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import SecretStr

from sink.erasure.steps import keyed_hash
from sink.pii_map import Rule

# .. pii: Sees values of the users being retired on their way out, in memory only.
# .. pii_types: id, name, username, email_address, other
# .. pii_retirement: consumer_api

# A pseudonym is one purpose for all columns, so that events still belong together wherever they are stored.
_PSEUDONYM = "pseudonym"
_RETIRED_DOMAIN = "retired.invalid"


class Change(ABC):
    """What becomes of the rows that a rewriting finds."""

    @property
    @abstractmethod
    def paths(self) -> Sequence[str]:
        """The columns, and paths into JSON, that get new values."""

    @property
    @abstractmethod
    def deletes(self) -> bool:
        """True where rows go instead of being replaced."""

    @property
    @abstractmethod
    def changes_key(self) -> bool:
        """True where a row is not found again afterwards, so that every row that is found is one that is left."""

    @abstractmethod
    def replace(self, path: str, subject: str, old: Any) -> Any:
        """The value that takes the place of `old`."""

    @property
    def further_condition(self) -> str:
        """Which of the subject's rows are meant, as ` AND …`; empty for all of them."""
        return ""

    @property
    def further_values(self) -> dict[str, Any]:
        """What is bound to `further_condition`."""
        return {}


@dataclass(frozen=True)
class Redact(Change):
    """Redacts and deletes as a rule of the map says."""

    rule: Rule
    secret: SecretStr | None
    pii_types: Mapping[str, str]

    @property
    def paths(self) -> Sequence[str]:
        """See `Change`."""
        return list(self.rule.on_retire.redact)

    @property
    def deletes(self) -> bool:
        """See `Change`."""
        return self.rule.on_retire.delete

    @property
    def changes_key(self) -> bool:
        """See `Change`."""
        return self.deletes or self.rule.key in self.rule.on_retire.redact

    def replace(self, path: str, subject: str, old: Any) -> Any:
        """See `Change`."""
        redaction = self.rule.on_retire.redact[path]
        if redaction.kind == "null":
            return None
        if redaction.kind == "constant":
            return redaction.constant
        if redaction.kind == "truncate":
            return str(old)[: redaction.length]
        if redaction.kind == "pseudonym":
            return _shape_like(str(old), self._hash(_PSEUDONYM, subject))
        if redaction.kind == "hash":
            return self._hash(self.pii_types[path], subject)
        return ""

    def _hash(self, purpose: str, subject: str) -> str:
        assert self.secret is not None
        return keyed_hash(self.secret, purpose, subject)


def _shape_like(old: str, hashed: str) -> str:
    """A pseudonym where the value stood: an address stays an address, a SHA-1 has 40 digits."""
    if old.startswith("mailto:"):
        return f"mailto:{hashed}@{_RETIRED_DOMAIN}"
    if re.fullmatch(r"[0-9a-f]{40}", old):
        return hashed + hashed[:8]
    return hashed
