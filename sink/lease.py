"""One sweep at a time, across processes and hosts.

ClickHouse has no compare-and-swap, so a lease is taken by announcing it and then looking: whoever sees another
holder steps back and tries again a little later. Two that announce at the same moment see each other and both step
back; none that has seen nobody is ever overtaken. A holder that is killed stops renewing, and its lease runs out.

.. no_pii: random ids of processes.
"""

from __future__ import annotations

import random
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from sink.client import ClickHouse
from sink.errors import BusyError, DatabaseError

_SECONDS = 60.0
_RENEW_EVERY = 15.0


@contextmanager
def hold(client: ClickHouse, name: str, *, wait: float = 0) -> Iterator[None]:
    """Hold the lease `name`, waiting up to `wait` seconds for another holder to let go.

    Raises:
        BusyError: another process holds it.
        DatabaseError: ClickHouse cannot tell.
    """
    holder = uuid.uuid4()
    deadline = time.monotonic() + wait
    while not _take(client, name, holder):
        if time.monotonic() >= deadline:
            raise BusyError(
                "Another process is at this work. What was requested is recorded, and that process or the next "
                "`aspects-pii sweep` works it off."
            )
        time.sleep(random.uniform(0.2, 1.0))  # noqa: S311 - spreads attempts, keeps no secret
    stop = threading.Event()
    keeper = threading.Thread(target=_keep, args=(client, name, holder, stop), daemon=True)
    keeper.start()
    try:
        yield
    finally:
        stop.set()
        keeper.join()
        # A lease that cannot be given back runs out.
        with suppress(DatabaseError):
            _announce(client, name, holder, 0)


def _take(client: ClickHouse, name: str, holder: uuid.UUID) -> bool:
    if _count_others(client, name, holder):
        return False
    _announce(client, name, holder, _SECONDS)
    if _count_others(client, name, holder):
        _announce(client, name, holder, 0)
        return False
    return True


def _announce(client: ClickHouse, name: str, holder: uuid.UUID, seconds: float) -> None:
    client.execute(
        "INSERT INTO $pii_ledger.leases (name, holder, expires_at) "
        "SELECT {name:String}, {holder:UUID}, now64(6, 'UTC') + toIntervalMillisecond({milliseconds:Int64})",
        name=name,
        holder=holder,
        milliseconds=int(seconds * 1000),
    )


def _count_others(client: ClickHouse, name: str, holder: uuid.UUID) -> int:
    return int(
        client.value(
            "SELECT count() FROM (SELECT holder, argMax(expires_at, at) AS until FROM $pii_ledger.leases "
            "WHERE name = {name:String} AND holder != {holder:UUID} GROUP BY holder HAVING until > now64(6, 'UTC'))",
            name=name,
            holder=holder,
        )
    )


def _keep(client: ClickHouse, name: str, holder: uuid.UUID, stop: threading.Event) -> None:
    """Renew on a connection of its own: the other one may be waiting for a long mutation."""
    connection: ClickHouse | None = None
    while not stop.wait(_RENEW_EVERY):
        with suppress(DatabaseError):
            connection = connection or ClickHouse(client.address)
            _announce(connection, name, holder, _SECONDS)
    if connection is not None:
        connection.close()
