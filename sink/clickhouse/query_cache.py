"""Results of queries that ClickHouse itself keeps.

.. no_pii: one statement, without values.
"""

from __future__ import annotations

from sink.clickhouse.client import ClickHouse
from sink.errors import DatabaseError


def forget_results(client: ClickHouse) -> list[str]:
    """Have every kept result forgotten, where the server lets us.

    Returns:
        What is left, as a sentence; nothing where all was forgotten.

    Raises:
        DatabaseError: it is not known whether it was forgotten, and may be tried again.
    """
    try:
        client.execute("SYSTEM DROP QUERY CACHE $on_cluster")
    except DatabaseError as error:
        if error.retriable:
            raise
        return [f"ClickHouse's query cache, which could not be emptied ({error.name}: GRANT SYSTEM DROP QUERY CACHE)"]
    return []
