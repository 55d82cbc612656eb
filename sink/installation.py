"""The composition root: from the settings to the address, the map, the policy, the caches, the LMS and the store.

Doors call this; whatever is below it takes what it needs as arguments and knows no settings.
"""

from __future__ import annotations

from dataclasses import fields, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr

from sink.caches import Caches
from sink.clickhouse.address import Address
from sink.clickhouse.catalog import read_tables
from sink.clickhouse.client import ClickHouse
from sink.clickhouse.database_names import find_moved
from sink.dashboards.superset_address import SupersetAddress
from sink.dashboards.superset_cache import SupersetCaches
from sink.errors import AspectsPiiError, SettingsError, StoreMissingError
from sink.ledger.entries import Ledger
from sink.pii_map import PiiMap, load_map
from sink.resources import find_resource
from sink.settings import Settings
from sink.store import Policy, Store

if TYPE_CHECKING:
    from sink.lms.database import LmsDatabase


def find_address(settings: Settings, **changes: Any) -> Address:
    """Where ClickHouse is and how to get in.

    Args:
        settings: the settings.
        changes: fields of the address that differ, such as shorter waits; `creates=True` lets the embedded engine begin
            a new data folder, as only `init` does.
    """
    address = Address(
        url=settings.clickhouse_url,
        user=settings.clickhouse_user,
        password=settings.clickhouse_password,
        cluster=settings.clickhouse_cluster,
        ca_file=settings.clickhouse_ca_file,
        connect_timeout=settings.clickhouse_connect_timeout,
        timeout=settings.clickhouse_timeout,
        retries=settings.clickhouse_retries,
        databases=settings.databases,
        creates=False,
    )
    return replace(address, **changes)


def connect(settings: Settings, **changes: Any) -> ClickHouse:
    """Connect to the ClickHouse that the settings name, whether or not it holds a store.

    Args:
        settings: the settings.
        changes: see `find_address`.

    Raises:
        StoreMissingError: the embedded engine has no data there.
        DatabaseError: there is no connection.
    """
    return ClickHouse(find_address(settings, **changes))


def find_map(settings: Settings) -> Path:
    """The map of this installation: the operator's, or the one that ships."""
    return settings.pii_map or find_resource("config/pii.yaml")


def read_map(settings: Settings) -> PiiMap:
    """Read the map of this installation, for databases of before too.

    Raises:
        MapError: it is not valid.
    """
    return load_map(find_map(settings)).cover_former(settings.databases)


def find_policy(settings: Settings) -> Policy:
    """The limits and keys that an operator has set."""
    return Policy(**{field.name: getattr(settings, field.name) for field in fields(Policy)})


def require_lms(settings: Settings) -> SecretStr:
    """The address of the LMS database.

    Raises:
        SettingsError: it is not set.
    """
    if settings.lms_database_url is None:
        raise SettingsError(
            "ASPECTS_LMS_DATABASE_URL is not set. "
            "Example: ASPECTS_LMS_DATABASE_URL=mysql+pymysql://reader:secret@mysql:3306/openedx"
        )
    return settings.lms_database_url


def open_lms(settings: Settings, **options: Any) -> LmsDatabase:
    """The LMS database; a connection is made when it is first read. `options` are those of `LmsDatabase`.

    Raises:
        SettingsError: its address is not set, or not valid.
    """
    from sink.lms.database import LmsDatabase

    return LmsDatabase(require_lms(settings), **options)


def find_lms(settings: Settings) -> LmsDatabase | None:
    """The LMS database, where one is configured.

    Raises:
        SettingsError: its address is not valid.
    """
    return open_lms(settings) if settings.lms_database_url else None


def find_superset(settings: Settings) -> SupersetAddress | None:
    """The Superset that is configured, if any.

    Raises:
        SettingsError: its user or password is missing, or what it takes to talk to it.
    """
    if settings.superset_url is None:
        return None
    if settings.superset_user is None or settings.superset_password is None:
        missing = "PASSWORD" if settings.superset_user else "USER"
        raise SettingsError(f"ASPECTS_SUPERSET_URL is set, and ASPECTS_SUPERSET_{missing} is not.")
    if find_spec("httpx") is None:
        raise SettingsError(
            "ASPECTS_SUPERSET_URL is set, and httpx is not installed. Install aspects-pii-sink[server]."
        )
    return SupersetAddress(
        settings.superset_url, settings.superset_user, settings.superset_password, settings.superset_provider
    )


def find_caches(settings: Settings) -> Caches | None:
    """What there is to tell after a retirement.

    Raises:
        SettingsError: see `find_superset`.
    """
    address = find_superset(settings)
    if address is None:
        return None
    return SupersetCaches(address, [name for key, name in settings.databases.items() if key != "pii_ledger"])


def open_store(settings: Settings, pii_map: PiiMap | None = None, **changes: Any) -> Store:
    """Read the map, connect, and make sure that a store is there.

    Args:
        settings: the settings.
        pii_map: the map, for whoever has read it already.
        changes: see `find_address`; with `creates=True` a store need not be there yet.

    Raises:
        MapError: the map is not valid.
        SettingsError: a Superset is configured by halves.
        StoreMissingError: `init` has made no store there.
        DatabaseError: there is no connection.
    """
    pii_map = pii_map or read_map(settings)
    caches = find_caches(settings)
    client = connect(settings, **changes)
    if not client.address.creates:
        _require_store(client, pii_map)
    return Store(client, pii_map, Ledger(client), find_policy(settings), settings.lms_database_url, caches)


def _require_store(client: ClickHouse, pii_map: PiiMap) -> None:
    """Nothing can be proved of a place that is none: that nothing is found there means nothing.

    `init` makes the databases and notes their names, so one that is not there, or is called otherwise, is not the store's.
    """
    try:
        entries = client.table("pii_ledger.entries")
        if not read_tables(client, [entries]):
            raise StoreMissingError.at(f"{client.address.described} (no table {entries})")
        # A store of before the names were noted has none until `init` is run again.
        if moved := find_moved(client):
            raise StoreMissingError.elsewhere(client.address.described, moved)
        _require_databases(client, pii_map)
    except AspectsPiiError:
        client.close()
        raise


def _require_databases(client: ClickHouse, pii_map: PiiMap) -> None:
    needed = {name.partition(".")[0] for name, target in pii_map.targets.items() if not target.optional}
    names = {logical: actual for logical, actual in client.databases.items() if logical in needed}
    there = set(
        client.column(
            "SELECT name FROM system.databases WHERE name IN {names:Array(String)}", names=sorted(names.values())
        )
    )
    if missing := {logical: actual for logical, actual in names.items() if actual not in there}:
        raise StoreMissingError.without(client.address.described, missing)
