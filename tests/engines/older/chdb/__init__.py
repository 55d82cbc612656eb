"""An older chDB with the connections of chDB 4, so that our code and the driver run on an older ClickHouse.

`make test-engines` puts this package before the installed one on the path of an environment that has chDB 3 in it (its
Makefile rule writes a .pth file). All connections of chDB 3 share one session of the engine and take no bound values
(seen: 3.1.2, 3.7.2). Here each connection keeps its database and settings, and the session is made to agree before a statement
runs; one statement runs at a time.

What a connection does not keep to itself: temporary tables. What it does not do: `readonly`, streams (a result comes in one
piece).

.. no_pii: passes statements and results on.
"""

from __future__ import annotations

import importlib
import os
import re
import sysconfig
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

_INSTALLED = Path(sysconfig.get_path("purelib"), "chdb")
__path__ = [str(_INSTALLED)]


def _load() -> Any:
    # The engine finds its own libraries from its folder.
    before = Path.cwd()
    os.chdir(_INSTALLED)
    try:
        return importlib.import_module("chdb._chdb")
    finally:
        os.chdir(before)


_chdb = _load()

_SET = re.compile(r"\s*SET\s+(?=\w+\s*=)(.*)", re.IGNORECASE | re.DOTALL)
_ASSIGNMENT = re.compile(r"(\w+)\s*=\s*('(?:[^'\\]|\\.|'')*'|[^,\s]+)", re.DOTALL)
_USE = re.compile(r"\s*USE\s+(.+?)\s*;?\s*", re.IGNORECASE | re.DOTALL)
_INSERT = re.compile(r"\s*INSERT\s", re.IGNORECASE)
_DEFAULT_DATABASE = "`default`"
_DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
# chDB 3 is built without base64; servers have it since 24.6.
_BASE64 = f"""
CREATE OR REPLACE FUNCTION tryBase64URLDecode AS (text) -> if(
    match(text, '[^A-Za-z0-9_-]') OR length(text) % 4 = 1,
    '',
    unhex(substring(
        arrayStringConcat(arrayMap(
            four -> leftPad(hex(toUInt32(arraySum(
                (digit, place) -> (position('{_DIGITS}', digit) - 1) * place,
                splitByString('', four),
                arraySlice([262144, 4096, 64, 1], 1, length(four))
            ))), 6, '0'),
            extractAll(text, '.{{1,4}}')
        )),
        1,
        2 * intDiv(length(text) * 3, 4)
    ))
)
"""


class _Engine:
    """The engine of this process, while a connection is open, and what its session has been told."""

    def __init__(self, folder: str, options: str) -> None:
        self.folder = folder
        # In a folder that has none of its own yet, chDB 3 does not start what drops tables, and `DROP … SYNC` waits for ever.
        with suppress(OSError):
            Path(folder, "metadata").mkdir(parents=True, exist_ok=True)
        self.handle = _chdb.connect(f"{folder}?{options}" if options else folder)
        self.handle.query(_BASE64, "TabSeparated")
        self.connections = 0
        self.database = _DEFAULT_DATABASE
        self.settings: dict[str, str] = {}


_lock = threading.RLock()
_engine: _Engine | None = None


class Result:
    """What a statement gave, with the figures that this chDB does not have as zeros."""

    def __init__(self, found: Any, is_insert: bool) -> None:
        self._found, self._is_insert = found, is_insert

    def bytes(self) -> bytes:
        """The result in its format."""
        return bytes(self._found.bytes())

    def rows_read(self) -> int:
        """Rows of the result."""
        return int(self._found.rows_read())

    def bytes_read(self) -> int:
        """Bytes of the result."""
        return int(self._found.bytes_read())

    def elapsed(self) -> float:
        """Seconds."""
        return float(self._found.elapsed())

    def rows_written(self) -> int:
        """Rows that an insert has read from its file, which it has then written."""
        return self.rows_read() if self._is_insert else 0

    def bytes_written(self) -> int:
        """Their bytes."""
        return self.bytes_read() if self._is_insert else 0

    def storage_rows_read(self) -> int:
        """Rows read from tables."""
        return int(getattr(self._found, "storage_rows_read", int)())

    def storage_bytes_read(self) -> int:
        """Their bytes."""
        return int(getattr(self._found, "storage_bytes_read", int)())


class Stream:
    """A result in one piece, given as chDB 4 gives streams."""

    def __init__(self, result: Result) -> None:
        self._pieces = iter([result])

    def __iter__(self) -> Iterator[Result]:
        return self

    def __next__(self) -> Result:
        return next(self._pieces)

    def close(self) -> None:
        """Give up the rest."""
        self._pieces = iter([])


class Connection:
    """A connection with a database and settings of its own."""

    def __init__(self, address: str) -> None:
        global _engine
        self._engine: _Engine | None = None
        folder, _, options = address.partition("?")
        with _lock:
            if _engine is None:
                _engine = _Engine(folder, options)
            elif _engine.folder != folder:
                raise RuntimeError("EmbeddedServer already initialized with another path")
            _engine.connections += 1
            self._engine = _engine
        self._database = _DEFAULT_DATABASE
        self._settings: dict[str, str] = {}

    def query(self, sql: str | bytes, format: str = "CSV", params: Mapping[str, Any] | None = None) -> Result:
        """Run a statement with bound values."""
        text = sql if isinstance(sql, str) else sql.decode(errors="surrogateescape")
        with _lock:
            engine = self._require_engine()
            if found := _SET.fullmatch(text):
                return self._set(engine, found[1])
            self._assume(engine)
            if params:
                values = (f"param_{name} = {_quote(str(value))}" for name, value in params.items())
                engine.handle.query("SET " + ", ".join(values), "TabSeparated")
            result = Result(engine.handle.query(sql, format), _INSERT.match(text) is not None)
            if found := _USE.fullmatch(text):
                self._database = engine.database = found[1]
            return result

    def send_query(self, sql: str | bytes, format: str = "CSV", params: Mapping[str, Any] | None = None) -> Stream:
        """Run a statement whose result is read piece by piece."""
        return Stream(self.query(sql, format, params))

    def close(self) -> None:
        """Give up the connection; the engine stops with its last one. Can be repeated."""
        global _engine
        with _lock:
            engine, self._engine = self._engine, None
            if engine is None:
                return
            engine.connections -= 1
            if not engine.connections:
                engine.handle.close()
                _engine = None

    def __del__(self) -> None:
        self.close()

    def _require_engine(self) -> _Engine:
        if self._engine is None:
            raise RuntimeError("The connection is closed.")
        return self._engine

    def _set(self, engine: _Engine, assignments: str) -> Result:
        self._assume(engine)
        # The session could never be told otherwise again.
        new = {name: value for name, value in _ASSIGNMENT.findall(assignments) if name != "readonly"}
        text = ", ".join(f"{name} = {value}" for name, value in new.items()) or "max_threads = DEFAULT"
        result = engine.handle.query(f"SET {text}", "TabSeparated")
        for settings in (engine.settings, self._settings):
            settings.update(new)
            for name in [name for name, value in new.items() if value.upper() == "DEFAULT"]:
                del settings[name]
        return Result(result, False)

    def _assume(self, engine: _Engine) -> None:
        """Make the engine's session this connection's."""
        if engine.database != self._database:
            engine.handle.query(f"USE {self._database}", "TabSeparated")
            engine.database = self._database
        if engine.settings == self._settings:
            return
        # A bound value has no default, and harms nobody.
        old = [name for name in engine.settings if name not in self._settings and not name.startswith("param_")]
        new = {name: value for name, value in self._settings.items() if engine.settings.get(name) != value}
        if changes := [*(f"{name} = DEFAULT" for name in old), *(f"{name} = {value}" for name, value in new.items())]:
            engine.handle.query("SET " + ", ".join(changes), "TabSeparated")
        engine.settings = dict(self._settings)


def connect(address: str) -> Connection:
    """Open a connection to the engine in a folder, `FOLDER?option=value&…`."""
    return Connection(address)


def _quote(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
