"""Faults that are real: a proxy that spoils connections, and a disk that is full."""

from __future__ import annotations

import contextlib
import shutil
import socket
import struct
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

Mode = Literal["pass", "refuse", "hang", "cut", "cut request", "error"]
TOXICS: tuple[Mode, ...] = ("refuse", "hang", "cut", "cut request", "error")
# What still gets through of an answer that is cut, and of a request.
_BEGINNING = 40
_ANSWER_500 = (
    b"HTTP/1.1 500 Internal Server Error\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n"
    b"Connection: close\r\n\r\noops\n"
)
_RESET = struct.pack("ii", 1, 0)


class Proxy:
    """Passes connections on to a port, or spoils them.

    - pass: as if it were not there
    - refuse: nobody listens, and what was open is reset
    - hang: takes connections and requests, and never answers
    - cut: the request arrives and is worked off; the answer breaks off after its first bytes
    - cut request: the request breaks off after its first bytes
    - error: answers every request with HTTP status 500, and passes none on
    """

    def __init__(self, target: int) -> None:
        """`target` is a port of this host."""
        self.hits: Counter[str] = Counter()
        """How many connections each mode has spoilt."""
        self._target = target
        self._mode: Mode = "pass"
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._listener: socket.socket | None = None
        self._needle: bytes | None = None
        self._reached = threading.Event()
        # Bound and not listening, so that the port stays ours while nobody listens.
        self._place = _bind(0)
        self.port = int(self._place.getsockname()[1])
        self._listen()

    def set(self, mode: Mode) -> None:
        """From here on this is what happens; connections that another mode has spoilt are reset."""
        with self._lock:
            before, self._mode = self._mode, mode
        if mode == "refuse":
            self._stop_listening()
            self._reset_all()
        elif self._listener is None:
            self._listen()
        if before == "hang":
            self._reset_all()

    def hold_at(self, needle: bytes) -> threading.Event:
        """Pass on the next request that holds `needle`, keep back its answer and all others, and set the event."""
        with self._lock:
            self._reached = threading.Event()
            self._needle = needle
        return self._reached

    def close(self) -> None:
        """Stop listening and end all connections."""
        self._stop_listening()
        self._reset_all()
        self._place.close()

    def _listen(self) -> None:
        listener = _bind(self.port)
        listener.listen(128)
        self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def _stop_listening(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            with contextlib.suppress(OSError):
                # Wakes whoever waits in `accept`.
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()

    def _reset_all(self) -> None:
        with self._lock:
            sockets, self._open = self._open, set()
        for one in sockets:
            _reset(one)

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self._target), timeout=5)
                server.settimeout(None)
            except OSError:
                # The server is not there: as if nobody listened.
                _reset(client)
                continue
            for one in (client, server):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._open |= {client, server}
            state = _Connection(client, server)
            for pump in (self._pump_requests, self._pump_answers):
                threading.Thread(target=self._pump, args=(pump, state), daemon=True).start()

    def _pump(self, pump: Callable[[_Connection], None], state: _Connection) -> None:
        with contextlib.suppress(OSError):
            pump(state)
        for one in (state.client, state.server):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        with self._lock:
            self._open -= {state.client, state.server}
        if state.end():
            for one in (state.client, state.server):
                one.close()

    def _pump_requests(self, state: _Connection) -> None:
        while data := state.client.recv(1 << 16):
            with self._lock:
                mode = self._mode
                if self._needle is not None and self._needle in state.tail + data:
                    self._needle, mode, self._mode = None, "hang", "hang"
                    state.server.sendall(data)
                    self._reached.set()
            state.tail = data[-64:]
            if mode != "pass":
                self.hits[mode] += 1
            if mode == "pass":
                state.server.sendall(data)
            elif mode == "cut":
                state.left = _BEGINNING
                state.server.sendall(data)
            elif mode == "cut request":
                state.server.sendall(data[:_BEGINNING])
                return _reset(state.client)
            elif mode == "error":
                state.client.sendall(_ANSWER_500)
                state.client.shutdown(socket.SHUT_WR)
                # Until the client hangs up: what it still sends would otherwise reset the answer.
                while state.client.recv(1 << 16):
                    pass
                return None
            elif mode == "refuse":
                return _reset(state.client)
        return None

    def _pump_answers(self, state: _Connection) -> None:
        while data := state.server.recv(1 << 16):
            if self._mode == "hang":
                continue
            if state.left is None:
                state.client.sendall(data)
                continue
            state.client.sendall(data[: state.left])
            state.left -= len(data)
            if state.left <= 0:
                return _reset(state.client)
        return None


@dataclass
class _Connection:
    client: socket.socket
    server: socket.socket
    left: int | None = None
    """Bytes of answers that still get through."""
    tail: bytes = b""
    _ended: list[None] = field(default_factory=list)

    def end(self) -> bool:
        """True for the second of the two who pump."""
        self._ended.append(None)
        return len(self._ended) == 2


def _bind(port: int) -> socket.socket:
    one = socket.socket()
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    one.bind(("127.0.0.1", port))
    return one


def _reset(one: socket.socket) -> None:
    with contextlib.suppress(OSError):
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
    one.close()


@contextmanager
def proxied(target: int) -> Iterator[Proxy]:
    """A proxy before a port of this host."""
    proxy = Proxy(target)
    try:
        yield proxy
    finally:
        proxy.close()


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """A file system of its own, of this size; skips where this process may not mount one."""
    folder.mkdir(parents=True, exist_ok=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "aspects-pii-test", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Write a file that takes all the space that is left, and return it."""
    filler = folder / "filler"
    with filler.open("ab", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            with contextlib.suppress(OSError):
                while file.write(b"\0" * size) == size:
                    pass
    assert shutil.disk_usage(folder).free < 1 << 12
    return filler
