"""Faults that are real: a proxy that spoils connections, processes that get killed, a disk that is full.

And what to look at afterwards: what waits in Redis, and what was logged.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

ROOT = Path(__file__).parents[2]
#: Waits are this patient; none of them is about speed.
PATIENCE = 300.0

Mode = Literal["pass", "refuse", "hang", "cut", "cut request", "error"]
TOXICS: tuple[Mode, ...] = ("refuse", "hang", "cut", "cut request", "error")
# What still gets through of an answer that is cut, and of a request.
_BEGINNING = 40
_ANSWER_500 = (
    b"HTTP/1.1 500 Internal Server Error\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n"
    b"Connection: close\r\n\r\noops\n"
)
_RESET = struct.pack("ii", 1, 0)


def wait_until(
    condition: Callable[[], Any], explain: Callable[[], str] = lambda: "", patience: float = PATIENCE
) -> Any:
    """What the condition says, once it says something."""
    deadline = time.monotonic() + patience
    while not (said := condition()):
        assert time.monotonic() < deadline, f"waited in vain\n{explain()}"
        time.sleep(0.1)
    return said


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


def take_port() -> int:
    """A port that is free now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def is_listening(port: int) -> bool:
    """True where somebody takes connections."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


@dataclass
class Process:
    """A program that can be killed and started again; a process group of its own."""

    name: str
    command: Sequence[str]
    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    port: int | None = None
    """Where it listens once it has started."""
    child: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        """What all of its lives have printed."""
        return self.folder / f"{self.name}.log"

    def read_log(self) -> str:
        """The same as text."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def start(self, *, wait: bool = True) -> None:
        """Start it, and wait until it listens, where it does."""
        assert self.child is None
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("ASPECTS_")}
        with self.log.open("ab") as output:
            self.child = subprocess.Popen(
                list(self.command),
                env={**inherited, "PYTHONPATH": str(ROOT), **self.environment},
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        if wait and self.port is not None:
            port = self.port
            wait_until(lambda: is_listening(port) or self._has_ended(), self.read_log)
            assert not self._has_ended(), self.read_log()

    def _has_ended(self) -> bool:
        return self.child is None or self.child.poll() is not None

    def kill(self) -> None:
        """SIGKILL to all of it at once, as when a host goes down."""
        if self.child is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.child.pid, signal.SIGKILL)
            self.child.wait()
            self.child = None

    def send(self, number: signal.Signals) -> None:
        """A signal to its first process."""
        assert self.child is not None
        self.child.send_signal(number)

    def restart(self) -> None:
        """Kill it and start it again."""
        self.kill()
        self.start()


@contextmanager
def running(process: Process) -> Iterator[Process]:
    """Start it now; killed at the end."""
    try:
        process.start()
        yield process
    finally:
        process.kill()


# Leases of the killed run out in seconds, not in a minute.
_SHORT_LEASES = "from sink import lease; lease._SECONDS, lease._RENEW_EVERY = 3, 0.5; "
_ENDPOINT = (
    "import sys; from pathlib import Path; from sink.endpoint import serve; "
    "serve(Path(sys.argv[1]), port=int(sys.argv[2]))"
)
_WORKER = (
    "import sys; from sink import tasks; from sink.settings import load_settings; "
    f"{_SHORT_LEASES}sys.exit(tasks.run_worker(load_settings()))"
)
_CONSUMER = (
    "from sink import events; from sink.settings import load_settings; " + _SHORT_LEASES + "events.SWEEP_AGAIN = 2; "
    "events.run_consumer(load_settings())"
)


def make_endpoint(folder: Path, data: Path) -> Process:
    """ClickHouse's protocol over the engine, whose data is in `data`."""
    port = take_port()
    return Process("endpoint", [sys.executable, "-c", _ENDPOINT, str(data), str(port)], folder, port=port)


def make_redis(folder: Path) -> Process:
    """A Redis that has forgotten everything when it is started again."""
    port = take_port()
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    return Process("redis", command, folder, port=port)


def make_worker(folder: Path, name: str = "worker", **environment: str) -> Process:
    """A Celery worker with its schedule."""
    return Process(name, [sys.executable, "-c", _WORKER], folder, environment)


def make_consumer(folder: Path, **environment: str) -> Process:
    """`aspects-pii consume`."""
    return Process("consumer", [sys.executable, "-c", _CONSUMER], folder, environment)


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


def read_redis(client: Any, without: Collection[str] = ()) -> bytes:
    """Every key and value of a database, of whatever kind, bodies of messages decoded; but for these keys."""
    texts: list[bytes] = []
    for key in client.scan_iter():
        if key.decode() in without:
            continue
        kind = client.type(key)
        values: list[bytes]
        if kind == b"list":
            values = client.lrange(key, 0, -1)
        elif kind == b"hash":
            values = [part for pair in client.hgetall(key).items() for part in pair]
        elif kind == b"set":
            values = list(client.smembers(key))
        elif kind == b"zset":
            values = client.zrange(key, 0, -1)
        elif kind == b"stream":
            values = [part for _, fields in client.xrange(key) for pair in fields.items() for part in pair]
        else:
            values = [client.get(key) or b""]
        texts += [key, *values, *(body for value in values for body in _list_bodies(value))]
    return b"\n".join(texts)


def _list_bodies(value: bytes) -> Iterator[bytes]:
    """The bodies in a message of Celery's, or in one that is delivered and not acknowledged."""
    try:
        document = json.loads(value)
    except ValueError:
        return
    for one in document if isinstance(document, list) else [document]:
        if isinstance(one, dict) and isinstance(one.get("body"), str):
            body = base64.b64decode(one["body"])
            yield zlib.decompress(body) if body[:1] == b"\x78" else body


def count_waiting(client: Any) -> int:
    """Messages of ours that nobody has finished."""
    return int(client.llen("aspects_pii")) + int(client.hlen("aspects_pii.unacked"))
