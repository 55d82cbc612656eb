"""One sweep, or one full copy, at a time, across processes and hosts.

ClickHouse has no compare-and-swap, so a lease is taken by announcing it and then looking: whoever sees another
holder steps back and tries again a little later. Two that announce at the same moment see each other and both step
back; none that has seen nobody is ever overtaken. A holder that is killed stops renewing, and its lease runs out.

.. no_pii: random ids, names of hosts and numbers of processes.
"""

from __future__ import annotations

import os
import random
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta

from sink.clickhouse.client import ClickHouse
from sink.clickhouse.driver_errors import UNKNOWN_TABLE
from sink.errors import BusyError, DatabaseError, DatabaseMissingError, MigrationError

_LEASE_SECONDS = 60.0
_RENEW_EVERY_SECONDS = 15.0
# Seconds by which the clocks of a cluster's hosts may differ.
_CLOCKS_APART_SECONDS = 5
# ClickHouse's NO_SUCH_COLUMN_IN_TABLE and UNKNOWN_IDENTIFIER: the table is that of an older release.
_UNKNOWN_COLUMN = (16, 47)
_RECORDED = "What was requested is recorded, and that process or the next `aspects-pii sweep` works it off."


@contextmanager
def hold(
    client: ClickHouse, name: str, *, wait: float = 0, seconds: float | None = None, advice: str = _RECORDED
) -> Iterator[None]:
    """Hold the lease `name`, waiting up to `wait` seconds for another holder to let go.

    Args:
        client: the connection.
        name: what is to be done by one process at a time.
        wait: how long to wait for the others.
        seconds: how long the lease of a holder that was killed stands; a minute if left out.
        advice: what whoever finds it held should know.

    Raises:
        BusyError: another process holds it; the message says which.
        MigrationError: there is no table of leases, or an older one.
        DatabaseError: ClickHouse cannot tell.
    """
    holder = uuid.uuid4()
    lasts, renew_every = (_LEASE_SECONDS, _RENEW_EVERY_SECONDS) if seconds is None else (seconds, seconds / 5)
    deadline = time.monotonic() + wait
    while others := _take(client, name, holder, lasts):
        if time.monotonic() >= deadline:
            raise BusyError(f"Another process is at this work: {others}. {advice}")
        time.sleep(random.uniform(0.2, 1.0))  # noqa: S311 - spreads attempts, keeps no secret
    stop = threading.Event()
    keeper = threading.Thread(target=_keep, args=(client, name, holder, lasts, renew_every, stop), daemon=True)
    keeper.start()
    try:
        yield
    finally:
        stop.set()
        keeper.join()
        # A lease that cannot be given back runs out.
        with suppress(DatabaseError):
            _announce(client, name, holder, 0)


def _take(client: ClickHouse, name: str, holder: uuid.UUID, lasts: float) -> str:
    """Take it, or say who has it."""
    if others := _find_others(client, name, holder, lasts):
        return others
    _announce(client, name, holder, lasts)
    if others := _find_others(client, name, holder, lasts):
        _announce(client, name, holder, 0)
    return others


def _announce(client: ClickHouse, name: str, holder: uuid.UUID, seconds: float) -> None:
    client.execute(
        "INSERT INTO $pii_ledger.leases (name, holder, expires_at, owner) SELECT {name:String}, {holder:UUID}, "
        "now64(6, 'UTC') + toIntervalMillisecond({milliseconds:Int64}), {owner:String}",
        name=name,
        holder=holder,
        milliseconds=int(seconds * 1000),
        owner=f"process {os.getpid()} on {socket.gethostname()}",
    )


def _find_others(client: ClickHouse, name: str, holder: uuid.UUID, lasts: float) -> str:
    """The other holders, as a text for people; empty where there are none."""
    try:
        rows = client.rows(
            "SELECT holder, argMax(owner, at), min(at), argMax(expires_at, at) AS until, "
            "max(at) > now64(6, 'UTC') + toIntervalSecond({apart:UInt32}) AS is_ahead FROM $pii_ledger.leases "
            "WHERE name = {name:String} AND holder != {holder:UUID} GROUP BY holder HAVING until > now64(6, 'UTC')",
            name=name,
            holder=holder,
            apart=_CLOCKS_APART_SECONDS,
        )
    except DatabaseError as error:
        if error.code in (UNKNOWN_TABLE, *_UNKNOWN_COLUMN) or isinstance(error, DatabaseMissingError):
            raise MigrationError("The table of leases is missing or old. Run `aspects-pii init`.") from None
        raise
    return ", ".join(
        f"{owner or 'an unnamed one'}, since {since:%Y-%m-%d %H:%M:%S} UTC"
        for other, owner, since, _, is_ahead in rows
        if not (is_ahead and _has_gone(client, name, other, lasts))
    )


def _has_gone(client: ClickHouse, name: str, holder: uuid.UUID, lasts: float) -> bool:
    """True where a lease from the future is nobody's any more.

    The clock was put back, and until it has caught up the lease would stand. So the doubt is written down: who lives
    renews the lease at today's time, and who has not for as long as a lease lasts is gone.
    """
    doubt = f"{name} doubted"
    doubts, doubted_at, renewed_at, until, now = client.rows(
        "SELECT countIf(name = {doubt:String}), minIf(at, name = {doubt:String}), maxIf(at, name = {name:String}), "
        "argMaxIf(expires_at, at, name = {name:String}), now64(6, 'UTC') FROM $pii_ledger.leases "
        "WHERE name IN ({name:String}, {doubt:String}) AND holder = {holder:UUID} AND at <= now64(6, 'UTC')",
        name=name,
        doubt=doubt,
        holder=holder,
    )[0]
    if not doubts:
        _announce(client, doubt, holder, 0)
        return False
    if renewed_at > doubted_at:
        return bool(until <= now)
    return bool(now - doubted_at > timedelta(seconds=lasts))


def _keep(
    client: ClickHouse, name: str, holder: uuid.UUID, lasts: float, renew_every: float, stop: threading.Event
) -> None:
    """Renew on a connection of its own: the other one may be waiting for a long mutation."""
    connection: ClickHouse | None = None
    while not stop.wait(renew_every):
        with suppress(DatabaseError):
            connection = connection or ClickHouse(client.address)
            _announce(connection, name, holder, lasts)
    if connection is not None:
        connection.close()
