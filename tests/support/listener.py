"""Somebody's host: takes connections, answers none, and counts them."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass
class Listener:
    """Where it listens, and how many have come."""

    port: int
    connections: int = 0


@contextmanager
def listening() -> Iterator[Listener]:
    """Listen on a free port of loopback."""
    stop = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as taking:
        listener = Listener(taking.getsockname()[1])
        taking.settimeout(0.1)

        def take() -> None:
            while not stop.is_set():
                try:
                    taking.accept()[0].close()
                except TimeoutError:
                    continue
                listener.connections += 1

        thread = threading.Thread(target=take)
        thread.start()
        try:
            yield listener
        finally:
            stop.set()
            thread.join()
