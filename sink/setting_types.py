"""The types of settings, with what makes a value valid. A message never quotes the value.

.. no_pii: addresses and names of databases.
"""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator, BeforeValidator, SecretStr, ValidationInfo
from pydantic_settings import NoDecode

from sink.names import check_identifier


def _split_url(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 - checked when it is read
    except ValueError:
        raise ValueError("it is not an address with a host and a port") from None
    return parts


def _check_clickhouse_url(url: str) -> str:
    parts = _split_url(url)
    if parts.scheme not in ("chdb", "http", "https"):
        raise ValueError("the address must begin with chdb://, http:// or https://")
    if parts.scheme == "chdb" and not url.removeprefix("chdb://"):
        raise ValueError("the address of the embedded engine must name a folder")
    if parts.scheme != "chdb" and not parts.hostname:
        raise ValueError("the address must name a host")
    if parts.username or parts.password:
        raise ValueError("user and password have settings of their own")
    if parts.scheme != "chdb" and (parts.path.strip("/") or parts.query or parts.fragment):
        raise ValueError("the address must end after the host and the port, without a path")
    return url


def _check_superset_url(url: str) -> str:
    parts = _split_url(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("the address must begin with http:// or https:// and a host")
    if parts.username or parts.password:
        raise ValueError("user and password have settings of their own")
    return url.rstrip("/")


def _check_lms_url(url: SecretStr) -> SecretStr:
    # Only for who has an LMS: SQLAlchemy takes long to import.
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        make_url(url.get_secret_value())
    except (ArgumentError, ValueError):
        # These messages quote the address, password included.
        raise ValueError("it is not an SQLAlchemy address") from None
    return url


def _check_broker_url(url: SecretStr) -> SecretStr:
    # Only for who has a broker: kombu takes long to import.
    from kombu.transport import TRANSPORT_ALIASES

    scheme, separator, rest = url.get_secret_value().partition("://")
    transport = scheme.partition("+")[0]
    if not separator or transport not in TRANSPORT_ALIASES:
        raise ValueError("it is not an address of a broker that Celery knows, such as redis:// or amqp://")
    if transport in _AT_ONE_HOST and not set(rest) & set(",;"):
        _split_url(url.get_secret_value())
    return url


def _check_ledger_database(name: str, info: ValidationInfo) -> str:
    if name in (info.data.get(f"{other}_database") for other in ("event_sink", "xapi", "reporting")):
        raise ValueError("the ledger needs a database of its own, so that the others can be restored without it")
    return name


def _split_names(value: Any) -> Any:
    return tuple(name.strip() for name in value.split(",") if name.strip()) if isinstance(value, str) else value


# Brokers whose address has a host and a port, unless it names several.
_AT_ONE_HOST = ("redis", "rediss", "sentinel", "amqp", "amqps", "pyamqp")

ClickHouseUrl = Annotated[str, AfterValidator(_check_clickhouse_url)]
SupersetUrl = Annotated[str, AfterValidator(_check_superset_url)]
LmsUrl = Annotated[SecretStr, AfterValidator(_check_lms_url)]
BrokerUrl = Annotated[SecretStr, AfterValidator(_check_broker_url)]
Identifier = Annotated[str, AfterValidator(check_identifier)]
LedgerDatabase = Annotated[Identifier, AfterValidator(_check_ledger_database)]
# Several names in one variable, with commas between them.
Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split_names)]
