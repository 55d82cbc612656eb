"""Who is restricted: whose PII is kept and shown nowhere, as it follows from the entries.

.. no_pii: opaque user ids, times and grounds.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sink.actors import is_opaque as is_opaque_actor
from sink.clickhouse.client import ClickHouse, split_for_binding
from sink.ledger.details import read_detail
from sink.ledger.written import ask_ledger
from sink.pii_map import SubjectId

_COLUMNS = "subject, request, restricted_at, restricted_by, detail"


@dataclass(frozen=True)
class Restriction:
    """One restriction that stands. A subject has several where two people asked at the same moment."""

    subject: str
    request: uuid.UUID
    since: datetime
    actor: str | None
    ground: str | None
    """One of `sink.ledger.details.GROUNDS`, where somebody has said it."""


def find_restrictions(client: ClickHouse, subjects: Sequence[SubjectId]) -> list[Restriction]:
    """The restrictions of `subjects` that stand, oldest first.

    Raises:
        MigrationError: the ledger is not there, or of an older version.
        DatabaseError: it could not be read.
    """
    found: list[Restriction] = []
    for batch in split_for_binding([str(subject) for subject in subjects]):
        rows = ask_ledger(
            client,
            f"SELECT {_COLUMNS} FROM $pii_ledger.restrictions WHERE subject IN {{subjects:Array(String)}}",
            subjects=batch,
        )
        found += [_read(*row) for row in rows]
    return sorted(found, key=lambda one: (one.since, one.subject, one.request))


def list_restricted(client: ClickHouse) -> list[str]:
    """Every subject with a restriction that stands and who is not retired, in order.

    Raises:
        MigrationError: the ledger is not there, or of an older version.
        DatabaseError: it could not be read.
    """
    rows = ask_ledger(
        client,
        "SELECT DISTINCT subject FROM $pii_ledger.restrictions "
        "WHERE subject NOT IN (SELECT subject FROM $pii_ledger.tombstones) ORDER BY subject",
    )
    return [str(subject) for (subject,) in rows]


def _read(subject: str, request: uuid.UUID, since: datetime, actor: str | None, detail: str) -> Restriction:
    known = actor if actor is not None and is_opaque_actor(actor) else None
    said: dict[str, Any] = read_detail("restricted", detail)
    return Restriction(subject, request, since, known, said.get("ground"))
