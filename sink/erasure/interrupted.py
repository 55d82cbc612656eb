"""Changes that something interrupted: finished where they had begun to show, forgotten where they had not.

Every operation that changes a table of the map begins with this, under the lease; until then what is left is residue.
"""

from __future__ import annotations

from sink.clickhouse.catalog import find_detached
from sink.clickhouse.client import ClickHouse
from sink.erasure.swap import finish
from sink.erasure.work import Work, find_works, stop_orphans
from sink.errors import AspectsPiiError, ErasureError, UnreachableError

# .. no_pii: names of tables; rows move within ClickHouse.


def finish_interrupted(client: ClickHouse) -> dict[Work, str]:
    """Finish what was interrupted, or take it back.

    Returns:
        What could not be finished, with the reason; each leaves its tables where they are.

    Raises:
        UnreachableError: there is no connection any more.
    """
    failed: dict[Work, str] = {}
    works = find_works(client)
    detached = find_detached(client, {work.target for work in works})
    stop_orphans(client, works)
    for work in works:
        if work.target in detached:
            # Its mutations, and how far it is, cannot be asked: what they need stays.
            failed[work] = f"the table is detached; ATTACH TABLE {work.target.sql} first"
            continue
        try:
            finish(client, work)
            work.end(client)
        except UnreachableError:
            raise
        except AspectsPiiError as error:
            failed[work] = str(error)
    return failed


def require_finished(client: ClickHouse) -> None:
    """Finish what was interrupted.

    Raises:
        ErasureError: something could not be; the message names the table and the reason.
        UnreachableError: there is no connection any more.
    """
    if failed := finish_interrupted(client):
        reasons = "; ".join(f"{work.target}: {reason}" for work, reason in failed.items())
        raise ErasureError(f"An interrupted change cannot be finished, so nothing else was begun. {reasons}")
