"""A store made by the command line, with nothing in it but profiles."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sink.installation import open_store
from sink.settings import load_settings


def make_store_of(aspects_pii: Callable[..., Any], people: int) -> None:
    """Make a store with profiles of users 1 to `people`."""
    assert aspects_pii("init").status == 0
    with open_store(load_settings()) as store:
        rows = [(n, f"u{n}") for n in range(1, people + 1)]
        store.client.insert(store.client.table("event_sink.user_profile"), ("user_id", "username"), rows)
