"""What takes the places of texts about people, and of values in JSON: made here, byte by byte, some thousands at a time.

.. pii: Reads events with the people that they are about, and makes what takes their places, in memory only.
.. pii_types: id, name, username, email_address, other
.. pii_retirement: consumer_api
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from sink.clickhouse.client import ClickHouse
from sink.erasure.json_text import find_values, replace_values
from sink.erasure.statements import anonymise_statement
from sink.names import quote
from sink.rights.dev_copy.columns import Column
from sink.rights.dev_copy.inventing import Inventing
from sink.rights.dev_copy.people import Answer, Asked, Invented

# A temporary table of the session, in memory.
_ASKED = "anonymising_asked"


Texts = tuple[str, Sequence[bytes | None]]
"""The subject of a row, or an empty text, and the row's texts."""


class Rewriter:
    """Rewrites texts of copied tables in one run."""

    def __init__(self, inventing: Inventing, *, ids_are_numbers: bool) -> None:
        """Read where addresses of the copied people are."""
        self._inventing = inventing
        self.ids_are_numbers = ids_are_numbers
        self._client: ClickHouse = inventing.client
        address = "splitByChar('@', address)"
        rows = self._client.rows(
            f"SELECT lowerUTF8(arrayElement({address}, -1)) AS aspects_pii_domain, max(lengthUTF8(address)) "
            f"FROM {inventing.people.sql} WHERE address != '' GROUP BY aspects_pii_domain"
        )
        self._domains = {str(domain) for domain, _ in rows if domain}
        self._longest = max((int(length) for _, length in rows), default=0)

    def rewrite(self, columns: Sequence[Column], rows: Mapping[int, Texts]) -> dict[int, tuple[bytes | None, ...]]:
        """What takes the places of texts.

        Args:
            columns: what becomes of each text of a row.
            rows: whose each row is, where a column tells, and its texts; by whatever the caller knows rows by.
        """
        asked = Asked(self._domains, self._longest)
        for subject, texts in rows.values():
            asked.values.add(subject)
            for column, text in zip(columns, texts, strict=True):
                if text is not None:
                    self._ask(column, text, asked)
        answers = self._answer(asked.values)
        people = Invented(answers)
        return {
            row: tuple(
                None if text is None else self._replace(column, text, subject, answers, people)
                for column, text in zip(columns, texts, strict=True)
            )
            for row, (subject, texts) in rows.items()
        }

    def _ask(self, column: Column, text: bytes, asked: Asked) -> None:
        asked.values.update(_write(value) for path in column.paths for value in _find(text, path))
        if column.is_about_people:
            anonymise_statement(text, asked)

    def _replace(
        self, column: Column, text: bytes, subject: str, answers: Mapping[str, Answer], people: Invented
    ) -> bytes:
        try:
            for path, pii_type in column.paths.items():
                # A key of the map is bound now: the loop goes on before it is called.
                def replace(value: Any, pii_type: str = pii_type) -> Any:
                    return _invent_value(value, pii_type, subject, answers)

                text = replace_values(text, path.split("."), replace)
        except ValueError:
            # It is no JSON, so that nobody can say what it holds.
            return b""
        if not column.is_about_people:
            return text
        changed = anonymise_statement(text, people)
        return text if changed is None else changed.text

    def _answer(self, values: Collection[str]) -> dict[str, Answer]:
        """What values are, and what takes their places."""
        by_digits = {_encode(value).hex(): value for value in values if value}
        self._client.execute(f"DROP TEMPORARY TABLE IF EXISTS {quote(_ASKED)}")
        self._client.execute(f"CREATE TEMPORARY TABLE {quote(_ASKED)} (digits String)")
        self._client.insert(_ASKED, ["digits"], [(digits,) for digits in by_digits])
        known, named = self._inventing.find_called("value"), self._inventing.find_named("value")
        new = self._inventing.invent("value")
        if self.ids_are_numbers:
            number = self._inventing.invent_number("value")
            new = f"if({number} != 0, toString({number}), {new})"
        whose = f"if(subject = '', {self._inventing.fold_text('value')}, subject)"
        rows = self._client.rows(
            f"SELECT digits, {new} AS new, subject, {self._inventing.is_sure('value')}, "
            f"{self._inventing.invent_name(whose)}, "
            f"if(named = '', '', {self._inventing.invent_name('named')}) "
            f"FROM (SELECT digits, unhex(digits) AS value, {known} AS subject, {named} AS named FROM {quote(_ASKED)})"
        )
        self._client.execute(f"DROP TEMPORARY TABLE IF EXISTS {quote(_ASKED)}")
        return {
            by_digits[digits]: Answer(new, name, subject != "", bool(is_sure), in_text)
            for digits, new, subject, is_sure, name, in_text in rows
        }


def _find(text: bytes, path: str) -> Iterator[Any]:
    try:
        yield from (span.value for span in find_values(text, path.split(".")))
    except ValueError:
        return


def _invent_value(value: Any, pii_type: str, subject: str, answers: Mapping[str, Answer]) -> Any:
    """What takes the place of a value in JSON."""
    if value is None or value == "":
        return value
    answer = answers[_write(value)]
    if pii_type == "name":
        return answers[subject].name if subject else answer.named or answer.name
    if pii_type not in ("id", "username", "email_address"):
        return ""
    if isinstance(value, int) and answer.new.isdecimal():
        return int(answer.new)
    return answer.new


def _write(value: Any) -> str:
    return value if isinstance(value, str) else str(value)


def _encode(value: str) -> bytes:
    return value.encode("utf-8", "surrogatepass" if not _has_bytes(value) else "surrogateescape")


def _has_bytes(value: str) -> bool:
    """True where a surrogate stands for a byte that is no UTF-8."""
    try:
        value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False
    return True
