"""Whether dictionaries and views show subjects.

.. no_pii: opaque user ids and counts.
"""

from __future__ import annotations

from collections.abc import Sequence

from sink.clickhouse.client import ClickHouse, split_for_binding
from sink.erasure.derived import Dependent
from sink.erasure.findings import Finding, Kind
from sink.erasure.keys import find_kind, group_ids
from sink.names import quote
from sink.pii_map import SubjectId


def find_in_dependent(
    client: ClickHouse, dependent: Dependent, key: str, subjects: Sequence[SubjectId]
) -> list[Finding]:
    """Which of `subjects` a dictionary or view shows, by the column that holds their ids.

    Raises:
        DatabaseError: it cannot be asked.
    """
    kind = Kind.DICTIONARY if dependent.table.is_dictionary else Kind.VIEW
    findings: list[Finding] = []
    spelt = group_ids(find_kind(dependent.table, key), subjects)
    for batch in split_for_binding(list(spelt)):
        rows = client.rows(
            f"SELECT toString({quote(key)}) AS aspects_pii_subject, count() FROM {dependent.table.name.sql} "
            f"WHERE toString({quote(key)}) IN {{subjects:Array(String)}} GROUP BY aspects_pii_subject",
            subjects=batch,
        )
        findings += [
            Finding(str(dependent.table.name), kind, subject, int(count), dependent.stuck)
            for written, count in rows
            for subject in spelt[written]
        ]
    return findings
