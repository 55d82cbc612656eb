"""Opening a connection by the driver: to the engine in process, or to a server."""

from __future__ import annotations

import logging
import ssl
import sys
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

import clickhouse_connect
from clickhouse_connect.driver import options as driver_options
from clickhouse_connect.driver.client import Client

from sink.clickhouse.address import Address
from sink.clickhouse.confinement import confine_engine_thread, starting_in
from sink.clickhouse.engine_output import held_back
from sink.errors import EmbeddedDamagedError, ReadOnlyError, SettingsError, StoreMissingError

# The driver (seen: clickhouse-connect 1.12) logs values that it cannot encode, and addresses. What is worth saying
# reaches the user as one of our exceptions.
logging.getLogger("clickhouse_connect").setLevel(logging.CRITICAL + 1)
# And so does what it connects by, which warns of every try, with the address.
logging.getLogger("urllib3").setLevel(logging.CRITICAL + 1)

# chDB (seen: 4.4) starts with two background threads, with which a mutation takes 0.15 s a part, and replaced parts are
# not cleaned up; these are a server's defaults.
_POOLS = {"background_pool_size": "16", "background_schedule_pool_size": "16"}
# The engine (seen: 26.9) compiles an expression to machine code when it comes up for the third time, some 20 ms each. Our
# statements come up a few times a process and never earn that back: without it a retirement takes a third less.
_NO_COMPILER = dict.fromkeys(("compile_expressions", "compile_aggregate_expressions", "compile_sort_description"), "0")
ENGINE_OPTIONS = _POOLS | _NO_COMPILER
# Where the engine keeps the definitions of databases, from the first one on.
_DATABASES_FOLDER = "metadata"
_FOLDERS = {_DATABASES_FOLDER, "data", "store"}


def open_connection(address: Address) -> Client:
    """Connect by the driver, whose exceptions `sink.clickhouse.client` translates.

    To the engine in process from a thread of the engine's own, which may be confined to the data folder.

    Raises:
        SettingsError: what is set does not go together, or is not installed.
        StoreMissingError: the data folder holds nothing of the engine's, and this address creates nothing.
        ReadOnlyError: the data folder cannot be made, or not be read.
    """
    if address.is_embedded:
        return _open_embedded(address)
    parts = urlsplit(address.url)
    secure = parts.scheme == "https"
    if secure and address.ca_file:
        _check_ca_file(address.ca_file)
    return clickhouse_connect.get_client(
        host=parts.hostname,
        port=parts.port or (8443 if secure else 8123),
        interface=parts.scheme,
        username=address.user,
        password=address.password.get_secret_value(),
        verify=True,
        ca_cert=str(address.ca_file) if address.ca_file else None,
        connect_timeout=address.connect_timeout,
        send_receive_timeout=address.timeout,
        query_retries=0,
        tz_mode="aware",
        client_name="aspects-pii",
        # Bound values travel in the body: a proxy logs addresses.
        form_encode_query_params=True,
        settings={"session_timeout": 3600},
    )


def _check_ca_file(path: Path) -> None:
    try:
        ssl.create_default_context(cafile=path)
    except (OSError, ssl.SSLError) as error:
        reason = error.strerror if isinstance(error, FileNotFoundError | PermissionError) else "no certificate in it"
        raise SettingsError(
            f"ASPECTS_CLICKHOUSE_CA_FILE is not valid: {path}: {reason}. "
            "Example: ASPECTS_CLICKHOUSE_CA_FILE=/etc/ssl/clickhouse-ca.pem"
        ) from None


def _open_embedded(address: Address) -> Client:
    if address.cluster:
        raise SettingsError(
            "ASPECTS_CLICKHOUSE_CLUSTER is set, but the embedded engine has no cluster; unset one of them."
        )
    if find_spec("chdb") is None:
        raise SettingsError(
            "The embedded engine is not installed. Install aspects-pii-sink[embedded], "
            "or set ASPECTS_CLICKHOUSE_URL to a server, such as https://clickhouse.example.org:8443."
        )
    if address.creates:
        make_data_folder(address.folder)
    else:
        require_data(address)
    _leave_pandas_out()
    confine_engine_thread(address.folder)
    with held_back(), starting_in(address.folder):
        return clickhouse_connect.get_client(
            interface="chdb",
            path=str(address.folder),
            chdb_options=ENGINE_OPTIONS,
            show_clickhouse_errors=True,
            tz_mode="aware",
        )


def _leave_pandas_out() -> None:
    """Keep the driver from importing pandas at its first insert, a third of a second, to see that rows are no frame.

    The driver (seen: clickhouse-connect 1.12) takes None for "not installed". Whoever uses frames in this process has
    imported pandas, and is left alone.
    """
    if "pandas" not in sys.modules:
        vars(driver_options).setdefault("pd", None)


def make_data_folder(folder: Path) -> None:
    """Make the embedded engine's folder where there is none, for its owner alone.

    Raises:
        ReadOnlyError: it cannot be made.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ReadOnlyError(f"The data folder {folder} cannot be made: {error.strerror}") from None


def require_data(address: Address) -> None:
    """Make sure that the embedded engine's folder is one that it has made databases in, without opening it.

    Raises:
        StoreMissingError: it is not there, or holds something else.
        ReadOnlyError: it cannot be read.
        EmbeddedDamagedError: a file is where the engine has a folder.
    """
    try:
        names = {path.name for path in address.folder.iterdir()}
    except (FileNotFoundError, NotADirectoryError):
        names = set()
    except OSError as error:
        raise ReadOnlyError(f"The data folder {address.folder} cannot be read: {error.strerror}") from None
    if _DATABASES_FOLDER not in names:
        raise StoreMissingError.at(address.described)
    for name in sorted(names & _FOLDERS):
        # The engine would begin anew beside it.
        if not (address.folder / name).is_dir():
            raise EmbeddedDamagedError.at(address.folder, f"{name} in it is no folder")
