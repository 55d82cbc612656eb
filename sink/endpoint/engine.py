"""The engine's handles for the endpoint: one for each request, one for each session.

A request without a session gets a handle of its own, so that nothing it sets or uses outlives it; a session is a
handle that stays. Insert bodies go from memory into the engine: no file holds them on the way.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from sink.clickhouse.address import Address
from sink.clickhouse.client import ClickHouse, memory_file
from sink.clickhouse.connection import ENGINE_OPTIONS
from sink.endpoint.protocol import Job
from sink.endpoint.protocol_errors import read_engine_error
from sink.endpoint.statements import Statement
from sink.errors import ProtocolError
from sink.names import quote

# .. pii: Rows and results pass through in memory, from a request to the engine and back; nothing is kept or logged.
# .. pii_types: id, name, username, email_address, location, phone_number, birth_date, gender, biography, image, other
# .. pii_retirement: consumer_api

MAX_SESSIONS = 1000


def escape(value: str) -> str:
    """A value as a literal, for SET, which takes no bound values."""
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


@dataclass
class _Session:
    handle: Any
    expires: float
    busy: bool = True


class Engine:
    """The engine's handles: one for each request, one for each session. Used by the pool's threads."""

    def __init__(self, folder: Path) -> None:
        """Start the engine, or join it where this process has started it already.

        Raises:
            DatabaseError: one of its subclasses says why it does not start.
        """
        self._address = Address(url=f"chdb://{folder}")
        # Held open so that the engine does not stop and start between requests.
        self._keeper = ClickHouse(self._address)
        self.version = self._keeper.server_version
        self.timezone = str(self._keeper.value("SELECT timezone()"))
        self._sessions: dict[str, _Session] = {}
        self._lock = threading.Lock()

    @property
    def folder(self) -> Path:
        """Where the engine's data lies."""
        return self._address.folder

    def open_handle(self) -> Any:
        """A new chDB connection, with nothing set."""
        import chdb

        return chdb.connect(f"{self._address.folder}?{urlencode(ENGINE_OPTIONS)}")

    def close(self) -> None:
        """End all sessions; the engine stops with its last handle."""
        with self._lock:
            sessions, self._sessions = list(self._sessions.values()), {}
        for session in sessions:
            session.handle.close()
        self._keeper.close()

    def cancel_queries(self) -> None:
        """Cancel whatever runs."""
        with contextlib.closing(self.open_handle()) as handle:
            handle.query("KILL QUERY WHERE query_id != queryID() ASYNC")

    def drop_expired_sessions(self) -> None:
        """End the sessions that nobody used for their time, and with them their temporary tables."""
        with self._lock:
            now = time.monotonic()
            expired = [name for name, session in self._sessions.items() if not session.busy and session.expires < now]
            sessions = [self._sessions.pop(name) for name in expired]
        for session in sessions:
            session.handle.close()

    def claim_session(self, job: Job) -> Any:
        """The handle of the job's session, which is the job's alone until `release_session`."""
        assert job.session is not None
        self.drop_expired_sessions()
        with self._lock:
            session = self._sessions.get(job.session)
            if session is not None:
                if session.busy:
                    raise ProtocolError("SESSION_IS_LOCKED", "Session is locked by a concurrent client.")
                session.busy = True
                return session.handle
            if job.session_check:
                raise ProtocolError("SESSION_NOT_FOUND", "Session not found.")
            if len(self._sessions) >= MAX_SESSIONS:
                raise ProtocolError("TOO_MANY_SIMULTANEOUS_QUERIES", f"There are {MAX_SESSIONS} sessions already.")
            session = _Session(self.open_handle(), 0.0)
            self._sessions[job.session] = session
            return session.handle

    def release_session(self, job: Job) -> None:
        """Let the next request of the session in, or end the session where the job asked for it."""
        assert job.session is not None
        with self._lock:
            session = self._sessions.get(job.session)
            if session is None:
                return
            session.busy = False
            session.expires = time.monotonic() + job.session_timeout
            if job.close_session:
                del self._sessions[job.session]
        if job.close_session:
            session.handle.close()


class Lease:
    """A handle for one job: prepared, and put back as it was found."""

    def __init__(self, engine: Engine, job: Job) -> None:
        """Prepare a handle.

        Raises:
            ProtocolError: the session is in use, or the database or a setting is unknown.
        """
        self._engine, self._job = engine, job
        self._undo: list[str] = []
        # A stream that is given up is closed by one thread while another may still fetch from it.
        self._lock = threading.Lock()
        self._closed = False
        self._stream: Any = None
        self._handle = engine.claim_session(job) if job.session else engine.open_handle()
        try:
            self._prepare()
        except BaseException:
            self.close()
            raise

    def _prepare(self) -> None:
        if self._job.session:
            self._remember()
        if self._job.database:
            self._query(f"USE {quote(self._job.database)}")
        if self._job.settings:
            self._query("SET " + ", ".join(f"{name} = {escape(value)}" for name, value in self._job.settings.items()))
        if self._job.statement.data is not None and self._job.parameters:
            # Inserts with data take no bound values beside it.
            values = (f"param_{name} = {escape(value)}" for name, value in self._job.parameters.items())
            self._query("SET " + ", ".join(values))

    def _remember(self) -> None:
        """Note how to put a session's handle back: what the address says is for one request only."""
        if self._job.database and self._job.statement.kind != "USE":
            current = self._query("SELECT currentDatabase()", "JSONCompactEachRow").bytes()
            self._undo.append(f"USE {quote(json.loads(current)[0])}")
        if self._job.settings:
            names = ", ".join(escape(name) for name in self._job.settings)
            rows = self._query(
                f"SELECT name, value FROM system.settings WHERE changed AND name IN ({names})", "JSONCompactEachRow"
            ).bytes()
            changed = dict(json.loads(row) for row in rows.splitlines())
            undo = (f"{n} = {escape(changed[n]) if n in changed else 'DEFAULT'}" for n in self._job.settings)
            self._undo.append("SET " + ", ".join(undo))

    def _query(self, sql: str | bytes, output: str = "TabSeparated", values: Mapping[str, str] | None = None) -> Any:
        try:
            return self._handle.query(sql, output, params=dict(values or {}))
        except RuntimeError as error:
            raise read_engine_error(error) from None

    def run(self) -> tuple[bytes, dict[str, int]]:
        """Run the statement to its end: the result and the figures of its summary."""
        statement = self._job.statement
        if statement.data is not None:
            return b"", self._insert(statement)
        result = self._query(bytes(statement.sql), self._job.format, self._job.parameters)
        summary = {
            "read_rows": result.storage_rows_read(),
            "read_bytes": result.storage_bytes_read(),
            "written_rows": result.rows_written(),
            "written_bytes": result.bytes_written(),
            "result_rows": result.rows_read(),
            "elapsed_ns": int(result.elapsed() * 1e9),
        }
        return bytes(result.bytes()), summary

    def _insert(self, statement: Statement) -> dict[str, int]:
        with memory_file(self._engine.folder) as (file, path):
            for piece in statement.data or ():
                file.write(piece)
            file.flush()
            # Not by the engine's stream for inserts: that one says that all is well when a row breaks a constraint or
            # the disk is full.
            source = f" FROM INFILE {escape(path)} COMPRESSION 'none' ".encode()
            form = f" FORMAT {statement.format}".encode()
            result = self._query(bytes(statement.sql) + source + bytes(statement.settings) + form)
        rows, size = result.rows_written(), result.bytes_written()
        return {"read_rows": rows, "read_bytes": size, "written_rows": rows, "written_bytes": size, "result_rows": rows}

    def start(self) -> bytes:
        """Start the statement and return the first piece of its result, empty where there is none."""
        try:
            self._stream = self._handle.send_query(
                bytes(self._job.statement.sql), self._job.format, dict(self._job.parameters)
            )
        except RuntimeError as error:
            raise read_engine_error(error) from None
        return self.fetch()

    def fetch(self) -> bytes:
        """The next piece of the result, empty at its end."""
        with self._lock:
            if self._closed:
                return b""
            try:
                for piece in self._stream:
                    if data := piece.bytes():
                        return bytes(data)
            except RuntimeError as error:
                raise read_engine_error(error) from None
        return b""

    def close(self) -> None:
        """Put the handle back. Can be repeated."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            if self._stream is not None:
                with contextlib.suppress(RuntimeError):
                    self._stream.close()
            if not self._job.session:
                self._handle.close()
                return
            for sql in self._undo:
                # The database may have been dropped by the statement itself.
                with contextlib.suppress(RuntimeError):
                    self._handle.query(sql)
            self._engine.release_session(self._job)
