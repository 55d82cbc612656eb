"""The execution of one request on a connection of the engine.

Insert bodies go from memory into the engine: no file holds them on the way.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Mapping
from typing import Any

from sink.clickhouse.client import memory_file
from sink.endpoint.engine import Engine, Session
from sink.endpoint.protocol import QueryRequest
from sink.endpoint.protocol_errors import read_engine_error
from sink.endpoint.reach import require_within_reach
from sink.endpoint.statements import Statement, read_statement
from sink.errors import ProtocolError
from sink.names import quote

# .. pii: Rows and results pass through in memory, from a request to the engine and back; nothing is kept or logged.
# .. pii_types: id, name, username, email_address, location, phone_number, birth_date, gender, biography, image, other
# .. pii_retirement: consumer_api


# A stream gives each block as a document of its own: only formats without header and footer can be joined.
_STREAMED_FORMATS = frozenset({"Native", "TabSeparated", "TSV", "CSV", "RowBinary", "JSONEachRow"})
# Names with which chDB returns Python objects instead of bytes.
_PYTHON_FORMATS = frozenset({"arrowtable", "dataframe", "datastore"})


def _escape(value: str) -> str:
    """A value as a literal, for SET, which takes no bound values."""
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


class QueryExecution:
    """The execution of one request: on a connection that is prepared for it, and put back as it was found."""

    def __init__(self, engine: Engine, request: QueryRequest) -> None:
        """Understand the statement, and prepare a connection.

        Raises:
            ProtocolError: the statement is none, or reaches beyond the data folder; the session is in use; the database
                or a setting is unknown.
        """
        self._engine, self._request = engine, request
        self.statement = read_statement(request.query, request.body, engine.format_query)
        require_within_reach(self.statement.tokens, engine.granted)
        self.format = (self.statement.format if self.statement.reads else None) or request.default_format
        if self.format.lower() in _PYTHON_FORMATS or not self.format.isalnum():
            raise ProtocolError("UNKNOWN_FORMAT", "Unknown output format.")
        self._undo: list[str] = []
        # A stream that is given up is closed by one thread while another may still fetch from it.
        self._lock = threading.Lock()
        self._closed = False
        self._stream: Any = None
        self._session = engine.claim_session(request) if request.session else None
        self._connection = self._session.connection if self._session else engine.open_connection()
        try:
            self._prepare()
        except BaseException:
            self.close()
            raise

    def _prepare(self) -> None:
        if self._session:
            self._undo = self._find_undo(self._session)
        if self._request.database:
            self._query(f"USE {quote(self._request.database)}")
        if self._request.settings:
            self._query(
                "SET " + ", ".join(f"{name} = {_escape(value)}" for name, value in self._request.settings.items())
            )
        if self.statement.data is not None and self._request.parameters:
            # Inserts with data take no bound values beside it.
            values = (f"param_{name} = {_escape(value)}" for name, value in self._request.parameters.items())
            self._query("SET " + ", ".join(values))
        if self._request.readonly:
            # Last: from here the engine lets nothing be changed, this setting included.
            self._query(f"SET readonly = {self._request.readonly}")

    @property
    def _changes_session(self) -> bool:
        """True where what puts the session back may be another statement afterwards."""
        first, *following = (token.text.upper() for token in self.statement.tokens[:2])
        return first in ("SET", "USE") or (first == "DROP" and following == ["DATABASE"])

    @property
    def streams(self) -> bool:
        """True where the result goes out as it comes, instead of once it is complete."""
        is_query = self.statement.kind in ("SELECT", "WITH")
        return is_query and not self._request.buffered and self.format in _STREAMED_FORMATS

    def _find_undo(self, session: Session) -> list[str]:
        """How to put a session's connection back: what the address says is for one request only."""
        if self._changes_session:
            session.undo.clear()
            return self._ask_for_undo()
        names = bool(self._request.database), tuple(sorted(self._request.settings))
        if names not in session.undo:
            session.undo[names] = self._ask_for_undo()
        return session.undo[names]

    def _ask_for_undo(self) -> list[str]:
        found = []
        if self._request.database and self.statement.kind != "USE":
            current = self._query("SELECT currentDatabase()", "JSONCompactEachRow").bytes()
            found.append(f"USE {quote(json.loads(current)[0])}")
        if self._request.settings:
            names = ", ".join(_escape(name) for name in self._request.settings)
            rows = self._query(
                f"SELECT name, value FROM system.settings WHERE changed AND name IN ({names})", "JSONCompactEachRow"
            ).bytes()
            changed = dict(json.loads(row) for row in rows.splitlines())
            undo = (f"{n} = {_escape(changed[n]) if n in changed else 'DEFAULT'}" for n in self._request.settings)
            found.append("SET " + ", ".join(undo))
        return found

    def _query(self, sql: str | bytes, output: str = "TabSeparated", values: Mapping[str, str] | None = None) -> Any:
        try:
            return self._connection.query(sql, output, params=dict(values or {}))
        except RuntimeError as error:
            raise read_engine_error(error) from None

    def run(self) -> tuple[bytes, dict[str, int]]:
        """Run the statement to its end: the result and the figures of its summary."""
        if self.statement.data is not None:
            return b"", self._insert(self.statement)
        result = self._query(self.statement.sql, self.format, self._request.parameters)
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
            # Not by chDB's `send_insert`, which reports success although a row breaks a constraint or the disk is full
            # (seen with chDB 4.4.0; no issue of theirs known).
            result = self._query(statement.insert_from(f"FROM INFILE {_escape(path)} COMPRESSION 'none'"))
        rows, size = result.rows_written(), result.bytes_written()
        return {"read_rows": rows, "read_bytes": size, "written_rows": rows, "written_bytes": size, "result_rows": rows}

    def start(self) -> bytes:
        """Start the statement and return the first piece of its result, empty where there is none."""
        try:
            self._stream = self._connection.send_query(self.statement.sql, self.format, dict(self._request.parameters))
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
        """Put the connection back. Can be repeated."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            if self._stream is not None:
                with contextlib.suppress(RuntimeError):
                    self._stream.close()
            if not self._request.session:
                self._connection.close()
                return
            for sql in self._undo:
                # The database may have been dropped by the statement itself.
                with contextlib.suppress(RuntimeError):
                    self._connection.query(sql)
            self._engine.release_session(self._request)
