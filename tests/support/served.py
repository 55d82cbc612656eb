"""The engine behind ClickHouse's protocol, with the password that all tests share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import SecretStr

from sink.endpoint.app import running

PASSWORD = SecretStr("the endpoint's in all tests")
ENVIRONMENT = {"ASPECTS_CLICKHOUSE_PASSWORD": PASSWORD.get_secret_value()}


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Serve the engine in `folder` from a thread; its address. The tests' environment has the password."""
    with running(folder, password=PASSWORD) as url:
        yield url
