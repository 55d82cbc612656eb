"""What takes the place of values in rows that are rewritten here, and not by ClickHouse."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import SecretStr

from sink.erasure.pseudonyms import PSEUDONYM, is_pseudonym, keyed_hash, shape_like, spell_as_before
from sink.names import quote_text
from sink.pii_map import Rule

# .. pii: Sees values of the users being retired on their way out, in memory only.
# .. pii_types: id, name, username, email_address, other
# .. pii_retirement: consumer_api


class Change(ABC):
    """What becomes of the rows that a rewriting finds."""

    @property
    @abstractmethod
    def paths(self) -> Sequence[str]:
        """The columns, and paths into JSON, that get new values."""

    @property
    @abstractmethod
    def expressed(self) -> Sequence[str]:
        """The columns whose new value ClickHouse makes; none of `paths`."""

    @abstractmethod
    def express(self, column: str) -> str:
        """The SQL expression of the new value of one of `expressed`."""

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
    @abstractmethod
    def told_apart(self) -> str:
        """The SQL expression of what `further_condition` asks of a row, as text."""

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
    types: Mapping[str, str]
    """Of the table's columns."""

    @property
    def paths(self) -> Sequence[str]:
        """See `Change`."""
        return [path for path in self.rule.on_retire.redact if path not in self.expressed]

    @property
    def expressed(self) -> Sequence[str]:
        """See `Change`."""
        redactions = self.rule.on_retire.redact
        return [path for path, redaction in redactions.items() if redaction.kind in ("default", "expression")]

    def express(self, column: str) -> str:
        """See `Change`."""
        redaction = self.rule.on_retire.redact[column]
        if redaction.kind == "expression":
            return f"({redaction.expression})"
        return f"defaultValueOfTypeName({quote_text(self.types[column])})"

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
            return _truncate(str(old), redaction.length)
        if redaction.kind in ("pseudonym", "hash"):
            return self._pseudonymise(path, subject, old)
        return ""

    @property
    def told_apart(self) -> str:
        """See `Change`."""
        return "''"

    def _pseudonymise(self, path: str, subject: str, old: Any) -> Any:
        assert self.secret is not None
        if is_pseudonym(self.secret, str(old)):
            # Made before, of whomever: nothing of a value is in it.
            return old
        is_hash = self.rule.on_retire.redact[path].kind == "hash"
        hashed = keyed_hash(self.secret, self.pii_types[path] if is_hash else PSEUDONYM, subject)
        earlier = spell_as_before(hashed)
        if is_hash:
            return old if old == earlier else hashed
        return old if old == shape_like(str(old), earlier) else shape_like(str(old), hashed)


def _truncate(text: str, length: int) -> str:
    """So many characters, or bytes of what is no UTF-8, as ClickHouse counts them where it truncates."""
    encoded = text.encode("utf-8", "surrogateescape")
    try:
        encoded.decode("utf-8")
    except UnicodeDecodeError:
        return encoded[:length].decode("utf-8", "surrogateescape")
    return text[:length]
