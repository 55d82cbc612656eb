"""Whether a value can stand at a path of a JSON column whose paths have types: the engine is asked.

.. pii: Asks whether what an heir is called fits; the value is bound.
.. pii_types: name, username, email_address
.. pii_retirement: retained
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from sink.clickhouse.catalog import is_json
from sink.clickhouse.client import ClickHouse
from sink.errors import QueryError


def fits_path(client: ClickHouse, kind: str, keys: Sequence[str], value: Any) -> bool:
    """True where a value that is written to a path of a column of type `kind` is read again as it is.

    What comes back otherwise, as a text in a number, would count as not erased for ever.

    Args:
        client: the connection.
        kind: the type of the column; all but JSON with declared paths takes every value.
        keys: the path.
        value: what JSON has there; None for null, which may also leave no value.
    """
    if not is_json(kind) or "(" not in kind:
        return True
    return any(_is_kept(client, kind, document, keys, value) for document in _list_documents(keys, value))


def _list_documents(keys: Sequence[str], value: Any) -> Iterator[Any]:
    """Documents with the value at the path: each key but the last can lead into an array."""
    first, *rest = keys
    if not rest:
        yield {first: value}
        return
    for inner in _list_documents(rest, value):
        yield {first: inner}
        yield {first: [inner]}


def _is_kept(client: ClickHouse, kind: str, document: Any, keys: Sequence[str], value: Any) -> bool:
    try:
        text = client.value(
            "SELECT toString(CAST({document:String}, {kind:String}))", document=json.dumps(document), kind=kind
        )
    except QueryError:
        return False
    found = json.loads(text)
    for key in keys:
        found = found[0] if isinstance(found, list) and found else found
        found = found.get(key) if isinstance(found, dict) else None
    return bool(found == value)
