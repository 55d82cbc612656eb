"""What a server of ours does with clients that keep it waiting, and with requests that say two things."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from sink.http_connections import Limits
from sink.serving import running_in_thread

SHORT = 0.2
LONG = 600.0
PATIENCE = 60.0


STARTED = threading.Event()
GO_ON = threading.Event()


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Answers with the body of the request; at `/held` when it is told to."""
    if scope["type"] == "lifespan":
        for said in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{said}.complete"})
        return
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body += message["body"]
        if not message["more_body"]:
            break
    if scope["path"] == "/held":
        STARTED.set()
        await asyncio.to_thread(GO_ON.wait, PATIENCE)
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@contextmanager
def serving(**limits: Any) -> Iterator[tuple[str, int]]:
    """Serve `echo`, patient but for `limits`; where."""
    patient = {"headers_seconds": LONG, "body_seconds": LONG, "body_bytes_per_second": 1_000, "connections": 500}
    with running_in_thread(echo, "echo", limits=Limits(**patient | limits), timeout_keep_alive=600) as url:
        yield "127.0.0.1", int(url.rpartition(":")[2])


def connect(address: tuple[str, int]) -> socket.socket:
    return socket.create_connection(address, timeout=PATIENCE)


def is_closed(client: socket.socket) -> bool:
    """True once the server has closed the connection; waits for it, and fails where it is left open."""
    try:
        return client.recv(1) == b""
    except ConnectionResetError:
        return True


def read_answer(client: socket.socket) -> bytes:
    answer = b""
    while not answer.endswith(b"\r\n\r\nhello"):
        piece = client.recv(4096)
        assert piece, answer
        answer += piece
    return answer


POST = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n"


@pytest.mark.parametrize("sent", [b"", b"POST / HT", POST[:-2]])
def test_client_that_sends_no_whole_headers_is_closed(sent: bytes) -> None:
    with serving(headers_seconds=SHORT) as address, connect(address) as client:
        client.sendall(sent)
        assert is_closed(client)


def test_client_that_sends_no_whole_headers_of_a_second_request_is_closed() -> None:
    with serving(headers_seconds=SHORT) as address, connect(address) as client:
        client.sendall(POST + b"hello")
        read_answer(client)
        client.sendall(b"POST / HT")
        assert is_closed(client)


@pytest.mark.parametrize("sent", [b"", b"hell"])
def test_client_that_sends_no_whole_body_is_closed(sent: bytes) -> None:
    with serving(body_seconds=SHORT) as address, connect(address) as client:
        client.sendall(POST + sent)
        assert is_closed(client)


def test_client_that_sends_a_byte_now_and_then_is_closed() -> None:
    with serving(headers_seconds=SHORT) as address, connect(address) as client:
        client.settimeout(SHORT / 10)
        assert any(is_closed_after_a_byte(client) for _ in range(int(PATIENCE / SHORT * 10)))


def is_closed_after_a_byte(client: socket.socket) -> bool:
    try:
        client.sendall(b"a")
        return client.recv(1) == b""
    except TimeoutError:
        return False
    except OSError:
        return True


def test_client_that_sends_a_large_body_has_longer() -> None:
    """Its first half comes within the time, and makes up for the pause after it."""
    with serving(body_seconds=SHORT, body_bytes_per_second=1) as address, connect(address) as client:
        client.sendall(POST.replace(b": 5", b": 605") + b"x" * 600)
        client.settimeout(SHORT * 5)
        with pytest.raises(TimeoutError):
            client.recv(1)
        client.settimeout(PATIENCE)
        client.sendall(b"hello")
        assert client.recv(15) == b"HTTP/1.1 200 OK"


def test_request_is_answered_after_many_connections_without_one() -> None:
    """More than the server keeps: those that have waited longest are closed."""
    with serving(connections=20) as address, ExitStack() as opened:
        idle = [opened.enter_context(connect(address)) for _ in range(40)]
        client = opened.enter_context(connect(address))
        client.sendall(POST + b"hello")
        assert b" 200 " in read_answer(client)
        assert is_closed(idle[0])


def test_client_that_is_being_answered_is_not_closed_for_others() -> None:
    GO_ON.clear()
    with serving(connections=5) as address, ExitStack() as opened:
        opened.callback(GO_ON.set)
        client = opened.enter_context(connect(address))
        client.sendall(POST.replace(b"/", b"/held", 1) + b"hello")
        assert STARTED.wait(PATIENCE)
        idle = [opened.enter_context(connect(address)) for _ in range(20)]
        assert is_closed(idle[0])
        GO_ON.set()
        assert b" 200 " in read_answer(client)


@pytest.mark.parametrize("length", [b"5", b"0", b"35"])
def test_request_with_two_lengths_is_refused(length: bytes) -> None:
    smuggled = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
    with serving() as address, connect(address) as client:
        client.sendall(
            b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: " + length + b"\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"0\r\n\r\n" + smuggled
        )
        answer = b""
        while piece := client.recv(4096):
            answer += piece
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.count(b"HTTP/1.1") == 1
    assert b"Content-Length and Transfer-Encoding exclude each other" in answer
