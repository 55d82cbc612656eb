"""What it costs to search every text for a name, and what of it is the engine's way of planning it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.pairs import Ratio, compare
from benchmarks.stores import new_store
from sink.erasure.scan import MATCHING, express_matches, scan, searching
from sink.erasure.search_terms import read_names
from sink.store import Store

_NOTES = "event_sink.notes"


def measure(texts: int) -> list[Ratio]:
    """Searches of a table with `texts` texts of some hundred letters, and of one with a single text."""
    with new_store() as store:
        client = store.client
        client.insert(
            client.table("event_sink.user_profile"),
            ["user_id", "name", "username", "email"],
            [(1, "Somebody Else", "somebody_1", "somebody_1@example.com")],
        )
        client.execute(f"CREATE TABLE {client.table(_NOTES).sql} (text String) ENGINE = MergeTree ORDER BY tuple()")
        _write(store, 1)
        small = compare(
            "searching one text: as planned here / conditions pushed down",
            lambda run: _search(store, MATCHING),
            lambda run: _search(store, {}),
        )
        _write(store, texts)
        return [
            small,
            compare(
                f"searching {texts:,} texts: as planned here / pushed down",
                lambda run: _search(store, MATCHING),
                lambda run: _search(store, {}),
            ),
            compare(
                f"searching everything / reading {texts:,} texts",
                lambda run: scan(store, [1], read_names(store, [1])),
                lambda run: client.value(f"SELECT sum(cityHash64(text)) FROM {client.table(_NOTES).sql}"),
            ),
        ]


def _write(store: Store, texts: int) -> None:
    store.client.execute(
        f"INSERT INTO {store.client.table(_NOTES).sql} "
        "SELECT concat('a text of user ', toString(number), ' who wrote to nobody@example.org: ', randomPrintableASCII(100)) "
        f"FROM numbers({texts})"
    )


def _search(store: Store, settings: Mapping[str, Any]) -> None:
    with searching(store, [1], read_names(store, [1])):
        matches = express_matches(store.client, store.client.table(_NOTES), ["text"])
        store.client.value(f"SELECT count() FROM ({matches})", settings)
