"""The entries as they stand in the table, each for itself: read for exports and checks, appended from files.

.. no_pii: opaque ids and counts, or whatever else stands in the table, which is judged and shown to nobody.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from sink.clickhouse.client import ClickHouse, split_for_binding
from sink.clickhouse.driver_errors import UNKNOWN_TABLE
from sink.errors import DatabaseError, LedgerError, MigrationError
from sink.ledger.rules import BEGUN, FIELDS, Course, Courses

# Earlier than any time that a column can hold.
_BEFORE_EVERYTHING = -(2**62)
_PAGE = 10_000


def ask_ledger(client: ClickHouse, sql: str, **values: Any) -> list[tuple[Any, ...]]:
    """Run a query on the ledger.

    Raises:
        MigrationError: it is not there, or of an older version.
        DatabaseError: it could not be read.
    """
    try:
        return client.rows(sql, **values)
    except DatabaseError as error:
        if error.code == UNKNOWN_TABLE:
            raise MigrationError("The ledger is missing, or of an older version. Run `aspects-pii init`.") from None
        raise


def list_written(client: ClickHouse) -> Iterator[dict[str, Any]]:
    """Every entry once, in the order of time: its columns as texts, its name (`entry`), and whether it `is_voided`.

    Raises:
        MigrationError: the ledger is not there, or of an older version.
        DatabaseError: it could not be read.
    """
    after = _BEFORE_EVERYTHING
    while True:
        # Where a page ends is told by the times alone, which are little to read.
        ((count, until),) = ask_ledger(
            client,
            "SELECT count(), max(moment) FROM (SELECT toUnixTimestamp64Micro(at) AS moment FROM $pii_ledger.entries "
            "WHERE at > fromUnixTimestamp64Micro({after:Int64}, 'UTC') ORDER BY at LIMIT {size:UInt64})",
            after=after,
            size=_PAGE,
        )
        if not count:
            return
        # Texts, since the table has room for times that Python has not.
        for row in ask_ledger(
            client,
            "SELECT subject, toString(at), toString(action), toString(request), actor, detail, entry, is_voided "
            "FROM $pii_ledger.marked_entries WHERE at > fromUnixTimestamp64Micro({after:Int64}, 'UTC') "
            "AND at <= fromUnixTimestamp64Micro({until:Int64}, 'UTC') "
            "ORDER BY at, subject, action LIMIT 1 BY subject, at, action, request",
            after=after,
            until=until,
        ):
            yield dict(zip((*FIELDS, "entry", "is_voided"), row, strict=True))
        after = until


def append_written(client: ClickHouse, entries: Iterable[Mapping[str, Any]], *, dry_run: bool = False) -> int:
    """Append those of `entries` that are missing here, at their own times, and return how many.

    Args:
        client: the connection.
        entries: sound ones, their fields as a file has them.
        dry_run: only count.

    Raises:
        LedgerError: they could not be written.
        DatabaseError: what is there could not be read.
    """
    known = {_key(entry) for entry in list_written(client)}
    missing = {_key(entry): entry for entry in entries if _key(entry) not in known}
    rows = [
        (
            entry["subject"],
            datetime.fromisoformat(entry["at"]).replace(tzinfo=UTC),
            entry["action"],
            uuid.UUID(entry["request"]),
            entry["actor"],
            json.dumps(entry["detail"], sort_keys=True),
        )
        for entry in missing.values()
    ]
    if not dry_run:
        try:
            client.insert(client.table("pii_ledger.entries"), FIELDS, rows, repeatable=True)
        except DatabaseError as error:
            raise LedgerError(f"The ledger could not be written: {error}") from None
    return len(rows)


def _key(entry: Mapping[str, Any]) -> tuple[str, ...]:
    return entry["subject"], entry["at"], entry["action"], entry["request"]


def read_courses(client: ClickHouse, subjects: Sequence[str] | None = None) -> Courses:
    """The retirements and restrictions of `subjects`; without them, those of all in which something may not be in order.

    Raises:
        DatabaseError: they could not be read.
    """
    if subjects is None:
        # Whatever is not asked for, whatever was withdrawn, and restrictions.
        having = (
            "HAVING countIf(action = 'requested' AND NOT is_voided) = 0 "
            "OR countIf(action IN ('withdrawn', 'restricted', 'unrestricted')) > 0"
        )
        return dict(_read_courses(client, "true", having))
    courses: Courses = {}
    for batch in split_for_binding(subjects):
        courses |= _read_courses(client, "subject IN {subjects:Array(String)}", "", subjects=batch)
    return courses


def _read_courses(
    client: ClickHouse, condition: str, having: str, **values: Any
) -> Iterator[tuple[tuple[str, str], Course]]:
    rows = ask_ledger(
        client,
        "SELECT subject, toString(request), countIf(is_request) > 0, toString(maxIf(at, is_request)), "
        "countIf(is_begun) > 0, toString(minIf(at, is_begun)), "
        "countIf(is_restricted) > 0, toString(minIf(at, is_restricted)) FROM ("
        "SELECT subject, request, at, action, is_voided, action = 'requested' AND NOT is_voided AS is_request, "
        "action IN {begun:Array(String)} AND NOT is_voided AND NOT is_ahead AS is_begun, "
        "action = 'restricted' AND NOT is_voided AS is_restricted "
        f"FROM $pii_ledger.marked_entries WHERE has_subject AND {condition}) GROUP BY subject, request {having}",
        begun=list(BEGUN),
        **values,
    )
    for subject, request, is_asked, asked, is_begun, begun, is_restricted, restricted in rows:
        times = (asked if is_asked else "", begun if is_begun else "", restricted if is_restricted else "")
        yield (subject, request), Course(*times)
