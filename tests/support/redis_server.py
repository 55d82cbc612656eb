"""Redis as the tests use it: a database of their own each, and what is in it."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import redis


def name_database(number: int) -> str:
    """The address of a database of this host's Redis. Files that run at the same time must not share one."""
    return f"redis://127.0.0.1:6379/{number}"


@contextmanager
def emptied(url: str) -> Iterator[Any]:
    """A connection to a database that is empty before and after."""
    with redis.Redis.from_url(url) as client:
        client.flushdb()
        try:
            yield client
        finally:
            client.flushdb()


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
