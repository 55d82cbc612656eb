"""Which of the planned privileges an account lacks on a ClickHouse server.

.. no_pii: privileges, and names of tables.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from sink.clickhouse.client import ClickHouse
from sink.datasets.grants import Grant


def find_missing(client: ClickHouse, grants: Iterable[Grant]) -> list[Grant]:
    """Those of `grants` that the account of the connection lacks, each with the privileges that are missing.

    Raises:
        DatabaseError: ClickHouse cannot tell.
    """
    missing = []
    for grant in grants:
        if _has(client, grant):
            continue
        each = [replace(grant, privileges=(privilege,)) for privilege in grant.privileges]
        lacked = tuple(one.privileges[0] for one in each if not _has(client, one))
        missing.append(replace(grant, privileges=lacked or grant.privileges))
    return missing


def _has(client: ClickHouse, grant: Grant) -> bool:
    return bool(client.value(f"CHECK GRANT {grant.clause}"))
