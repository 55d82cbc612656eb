"""The engine's connections for the endpoint: one for each request, one for each session.

A request without a session gets a connection of its own, so that nothing it sets or uses outlives it; a session is a
connection that stays.
"""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from sink.clickhouse.address import Address
from sink.clickhouse.client import ClickHouse
from sink.clickhouse.confinement import starting_in
from sink.clickhouse.connection import ENGINE_OPTIONS
from sink.clickhouse.engine_output import held_back
from sink.endpoint.protocol import QueryRequest
from sink.endpoint.protocol_errors import read_engine_error
from sink.endpoint.reach import GRANTS
from sink.errors import ProtocolError, SettingsError
from sink.resources import find_resource

MAX_SESSIONS = 1000


@dataclass
class Session:
    """A connection that stays, for one client."""

    connection: Any
    expires: float
    busy: bool = True
    undo: dict[tuple[bool, tuple[str, ...]], list[str]] = field(default_factory=dict)
    """How to put the connection back after a request that names a database, or not, and these settings.

    Kept, since asking the engine costs more than most statements do; forgotten where a statement changes the session.
    """


class Engine:
    """The engine's connections: one for each request, one for each session. Used by the pool's threads."""

    def __init__(self, folder: Path, users_file: Path | None = None) -> None:
        """Start the engine, or join it where this process has started it already: then with what it was started with.

        Whoever calls this, and what is below, calls from threads that are confined, as far as threads of the engine are.

        Args:
            folder: its data folder.
            users_file: grants and limits, instead of the file that ships.

        Raises:
            SettingsError: `users_file` is not one.
            DatabaseError: one of its subclasses says why it does not start.
        """
        self._address = Address(url=f"chdb://{folder}")
        self._options = read_options(users_file)
        # Whatever opens the folder first decides who may do what there.
        self._parser = self._start(users_file)
        self._parsing = threading.Lock()
        # Held open so that the engine does not stop and start between requests.
        self._client = ClickHouse(self._address)
        self.granted = frozenset(grant for grant in GRANTS if self._client.value(f"CHECK GRANT {grant}"))
        self.version = self._client.server_version
        self.timezone = str(self._client.value("SELECT timezone()"))
        self._sessions: dict[str, Session] = {}
        self._lock = threading.Lock()

    @property
    def folder(self) -> Path:
        """Where the engine's data lies."""
        return self._address.folder

    def open_connection(self) -> Any:
        """A new connection of chDB, with nothing set."""
        with held_back(), starting_in(self._address.folder):
            import chdb

            return chdb.connect(f"{self._address.folder}?{urlencode(self._options)}")

    def _start(self, users_file: Path | None) -> Any:
        try:
            self._address.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            connection = self.open_connection()
        except (OSError, RuntimeError) as error:
            if users_file is not None and "SAXParseException" in str(error):
                raise _refuse(users_file, "it is no XML") from None
            # By the client, which says what is wrong.
            ClickHouse(self._address).close()
            raise
        # `sink.endpoint.statements` has limits of its own.
        connection.query("SET max_query_size = 0")
        return connection

    def format_query(self, text: bytes) -> str:
        """A statement in the engine's own form; nothing is executed.

        Raises:
            ProtocolError: the engine does not take the text for one statement.
        """
        sql = "SELECT formatQuerySingleLine(unhex({text:String}))"
        try:
            with self._parsing:
                result = self._parser.query(sql, "RawBLOB", params={"text": text.hex()})
        except RuntimeError as error:
            refusal = read_engine_error(error)
            # Without the statement that asked.
            message = refusal.message.partition(": In scope SELECT formatQuery")[0]
            raise ProtocolError(refusal.name, f"{message} ({refusal.name})", refusal.code) from None
        return bytes(result.bytes()).decode(errors="surrogateescape")

    def close(self) -> None:
        """End all sessions; the engine stops with its last connection."""
        with self._lock:
            sessions, self._sessions = list(self._sessions.values()), {}
        for session in sessions:
            session.connection.close()
        self._parser.close()
        self._client.close()

    def cancel_queries(self) -> None:
        """Cancel whatever runs."""
        with contextlib.closing(self.open_connection()) as connection:
            connection.query("KILL QUERY WHERE query_id != queryID() ASYNC")

    def drop_expired_sessions(self) -> None:
        """End the sessions that nobody used for their time, and with them their temporary tables."""
        with self._lock:
            now = time.monotonic()
            expired = [name for name, session in self._sessions.items() if not session.busy and session.expires < now]
            sessions = [self._sessions.pop(name) for name in expired]
        for session in sessions:
            session.connection.close()

    def claim_session(self, request: QueryRequest) -> Session:
        """The request's session, which is the request's alone until `release_session`."""
        assert request.session is not None
        self.drop_expired_sessions()
        with self._lock:
            session = self._sessions.get(request.session)
            if session is not None:
                if session.busy:
                    raise ProtocolError("SESSION_IS_LOCKED", "Session is locked by a concurrent client.")
                session.busy = True
                return session
            if request.session_check:
                raise ProtocolError("SESSION_NOT_FOUND", "Session not found.")
            if len(self._sessions) >= MAX_SESSIONS:
                raise ProtocolError("TOO_MANY_SIMULTANEOUS_QUERIES", f"There are {MAX_SESSIONS} sessions already.")
            session = Session(self.open_connection(), 0.0)
            self._sessions[request.session] = session
            return session

    def release_session(self, request: QueryRequest) -> None:
        """Let the next request of the session in, or end the session where the request asked for it."""
        assert request.session is not None
        with self._lock:
            session = self._sessions.get(request.session)
            if session is None:
                return
            session.busy = False
            session.expires = time.monotonic() + request.session_timeout_seconds
            if request.close_session:
                del self._sessions[request.session]
        if request.close_session:
            session.connection.close()


def read_options(users_file: Path | None) -> dict[str, str]:
    """What the engine is started with where it is served.

    Raises:
        SettingsError: `users_file` is not a file.
    """
    options = {"config-file": str(find_resource("config/engine/engine.xml"))}
    if users_file is not None:
        if not users_file.is_file():
            raise _refuse(users_file, "there is no such file")
        options["users_config"] = str(users_file.resolve())
    return options | ENGINE_OPTIONS


def _refuse(users_file: Path, reason: str) -> SettingsError:
    return SettingsError(
        f"ASPECTS_CLICKHOUSE_USERS_FILE is not valid: {users_file}: {reason}. "
        "`aspects-pii config users FILE` writes one to begin with."
    )
