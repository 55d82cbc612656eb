"""A store with nothing in it but profiles."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sink.installation import open_store
from sink.settings import load_settings


def make_store_of(migrated: Callable[[Path], None], people: int) -> None:
    """Make the store that the environment names, with profiles of users 1 to `people`; `migrated` is the fixture."""
    settings = load_settings()
    migrated(Path(settings.clickhouse_url.removeprefix("chdb://")))
    with open_store(settings) as store:
        rows = [(n, f"u{n}") for n in range(1, people + 1)]
        store.client.insert(store.client.table("event_sink.user_profile"), ("user_id", "username"), rows)
