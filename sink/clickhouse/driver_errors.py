"""What the drivers raise, translated once into exceptions of ours that quote no value."""

from __future__ import annotations

import fcntl
import logging
import os
import re
import ssl
from collections.abc import Sequence
from pathlib import Path

from clickhouse_connect.driver.exceptions import ClickHouseError, OperationalError, StreamFailureError
from urllib3.exceptions import ReadTimeoutError

from sink.clickhouse.address import Address
from sink.errors import (
    AddressError,
    AuthenticationError,
    DatabaseError,
    DatabaseMissingError,
    EmbeddedBusyError,
    EmbeddedDamagedError,
    OverloadedError,
    QueryError,
    ReadOnlyError,
    UnreachableError,
)

# For whoever wants to know more (`-vv`): statements hold names and placeholders.
_log = logging.getLogger(__name__)

# Tables as our statements name them, quoted or not, and how the engine says which privilege is missing.
_NAMED = re.compile(r"\b(?:FROM|INTO|TABLE|JOIN|VIEW|DICTIONARY|EXISTS) +`?([^\s`.()]+)`?\.`?([^\s`.(),;]+)`?")
_NEEDED_GRANT = re.compile(r"have the grant (?P<privilege>[A-Z ]+?)(?:\([^)]*\))? ON (?P<place>[\w.*`]+)")
_SHOWN_TABLES = 3

# ClickHouse's error codes (src/Common/ErrorCodes.cpp), by what the caller can do.
_OVERLOADED = {
    159: "TIMEOUT_EXCEEDED",
    202: "TOO_MANY_SIMULTANEOUS_QUERIES",
    225: "NO_ZOOKEEPER",
    241: "MEMORY_LIMIT_EXCEEDED",
    242: "TABLE_IS_READ_ONLY",
    252: "TOO_MANY_PARTS",
    319: "UNKNOWN_STATUS_OF_INSERT",
    425: "SYSTEM_ERROR",
    692: "TOO_MANY_MUTATIONS",
    999: "KEEPER_EXCEPTION",
}
_UNREACHABLE = {
    209: "SOCKET_TIMEOUT",
    210: "NETWORK_ERROR",
    279: "ALL_CONNECTION_TRIES_FAILED",
    394: "QUERY_WAS_CANCELLED",
}
_AUTHENTICATION = {192: "UNKNOWN_USER", 193: "WRONG_PASSWORD", 194: "REQUIRED_PASSWORD", 516: "AUTHENTICATION_FAILED"}
_READ_ONLY = {164: "READONLY", 497: "ACCESS_DENIED"}
# The file that the embedded engine locks in its data folder.
_LOCK = "status"
_UNKNOWN_DATABASE = 81
UNKNOWN_TABLE = 60
NOT_IMPLEMENTED = 48
# An answer without ClickHouse's code is a proxy's, or that of a server which is no ClickHouse.
_HTTP_STATUS = re.compile(r"HTTP driver received HTTP status (\d{3})")
_HTTP_AUTHENTICATION = (401, 403, 407)
_HTTP_UNREACHABLE = (408, 429, 502, 503, 504)


def translate_error(error: ClickHouseError, address: Address, sql: str) -> DatabaseError:
    """The exception of ours that says the same, without the driver's text."""
    code = getattr(error, "code", None) or 0
    name = getattr(error, "name", None) or ""
    text = str(error)
    where = f"the embedded engine in {address.folder}" if address.is_embedded else address.url
    if address.is_embedded and "EmbeddedServer already initialized" in text:
        return EmbeddedBusyError(
            f"The data folder {address.folder} cannot be opened: this process has the engine open in another folder."
        )
    if address.is_embedded and "EmbeddedServer" in text:
        return _translate_embedded_start(address, getattr(error, "__notes__", []))
    found = _HTTP_STATUS.match(text) if not code else None
    status = int(found[1]) if found else 0
    if code in _AUTHENTICATION or status in _HTTP_AUTHENTICATION:
        message = (
            f"ClickHouse at {where} refused user {address.user}; "
            "check ASPECTS_CLICKHOUSE_USER and ASPECTS_CLICKHOUSE_PASSWORD."
        )
        return AuthenticationError(message, code, name)
    if code == _UNKNOWN_DATABASE:
        message = f"{_name_database(text, address, sql)} does not exist in {where}; run `aspects-pii init`."
        return DatabaseMissingError(message, code, name)
    if code in _READ_ONLY:
        message = f"ClickHouse at {where} does not let user {address.user} do this ({name}){_name_grant(text)}."
        return ReadOnlyError(message, code, name)
    if code in _OVERLOADED:
        return OverloadedError(f"ClickHouse at {where} is too busy ({name or _OVERLOADED[code]}).", code, name)
    if _has_cause(error, ssl.SSLCertVerificationError):
        return AddressError(
            f"The certificate of {where} is not trusted; set ASPECTS_CLICKHOUSE_CA_FILE to the authority that signed it."
        )
    if _has_cause(error, TimeoutError, ReadTimeoutError):
        message = f"ClickHouse at {where} did not answer within {address.timeout} s (ASPECTS_CLICKHOUSE_TIMEOUT)."
        return UnreachableError(message, code, name)
    unreachable = code in _UNREACHABLE or status in _HTTP_UNREACHABLE
    if unreachable or (not code and isinstance(error, OperationalError | StreamFailureError)):
        message = f"ClickHouse at {where} cannot be reached; check ASPECTS_CLICKHOUSE_URL and that it runs."
        return UnreachableError(message, code, name)
    if status:
        return AddressError(
            f"What answers at {where} is not ClickHouse (HTTP status {status}); check ASPECTS_CLICKHOUSE_URL."
        )
    _log.debug("Refused (%s): %s", code, shorten_statement(sql))
    about = describe_statement(sql)
    return QueryError(f"ClickHouse refused {about} ({name or 'unknown error'}, {code}).", code, name)


def _name_database(text: str, address: Address, sql: str) -> str:
    """The database that the engine misses: a name of ours, as its text may hold anything."""
    known = {*address.databases.values(), *(database for database, _ in _NAMED.findall(sql))}
    missing = sorted(name for name in known if re.search(rf"\b{re.escape(name)}\b", text))
    return f"The database {missing[0]}" if len(missing) == 1 else "A database"


def _name_grant(text: str) -> str:
    """What the engine says is missing: a privilege and a name."""
    found = _NEEDED_GRANT.search(text)
    return f": it needs {found['privilege'].strip()} ON {found['place']}" if found else ""


def _has_cause(error: BaseException, *kinds: type[BaseException]) -> bool:
    """True where one of `kinds` is behind an exception."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, kinds) or isinstance(getattr(seen, "reason", None), kinds):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def _translate_embedded_start(address: Address, notes: Sequence[str]) -> DatabaseError:
    if not os.access(address.folder, os.W_OK | os.X_OK):
        return ReadOnlyError(f"The data folder {address.folder} cannot be written.")
    if not _is_locked(address.folder):
        # chDB (seen: 26.9) writes its reason to standard error (`sink.clickhouse.engine_output`), and raises another.
        return EmbeddedDamagedError.at(address.folder, notes[0] if notes else "the engine does not say why")
    return EmbeddedBusyError(
        f"The data folder {address.folder} is in use by another process. Stop it, or let several processes share "
        "the engine: run `aspects-pii clickhouse` and set ASPECTS_CLICKHOUSE_URL to the address that it prints."
    )


def _is_locked(folder: Path) -> bool:
    """True where a process has the engine's lock, or nobody can tell."""
    try:
        file = os.open(folder / _LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, IsADirectoryError):
        return False
    except OSError:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(file)
    return False


def describe_statement(sql: str) -> str:
    """What a statement is about, for people: the tables that it names, and not its text."""
    names = list(dict.fromkeys(".".join(found) for found in _NAMED.findall(sql)))
    return f"a statement about {', '.join(names[:_SHOWN_TABLES])}" if names else "a statement"


def shorten_statement(sql: str, length: int = 300) -> str:
    """One line of a statement. It holds names and placeholders, no values."""
    line = " ".join(sql.split())
    return line if len(line) <= length else line[:length] + "…"
