"""Changing one value inside a JSON text, and nothing else: blanks, order, numbers, escapes and bad bytes stay.

Reading a statement into objects and writing it again would turn `1.50` into `1.5` and lose repeated keys; an event
must come out of a retirement as it went in, but for the person.

.. pii: Sees events with the people that they are about, in memory only.
.. pii_types: id, name, username, email_address, other
.. pii_retirement: consumer_api
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, TypeVar

from sink.erasure.json_nodes import Node, decode_string, read_nodes

Arrays = Literal["all", "first"]
Text = TypeVar("Text", str, bytes)
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_NO_BYTE = re.compile(r"[\ud800-\udc7f\udd00-\udfff]")


class Span(NamedTuple):
    """Where a value stands in the bytes, and what it is; an object or array is its text."""

    start: int
    end: int
    value: Any


def find_values(text: bytes, path: Sequence[str], arrays: Arrays = "all") -> list[Span]:
    """Every value at `path`, in the order of the text; elements of arrays on the way are looked into.

    Args:
        text: a JSON document, or several.
        path: the keys from the top.
        arrays: look into all elements of an array, or only as far as the first that has the rest of the path.

    Raises:
        ValueError: the text is not JSON.
    """
    nodes, is_json = read_nodes(text)
    if not is_json:
        raise ValueError("the text is not JSON")
    return [_span(text, nodes[index]) for index in _follow(nodes, path, arrays)]


def replace_values(text: Text, path: Sequence[str], replacement: Callable[[Any], Any], arrays: Arrays = "all") -> Text:
    """The text with every value at `path` replaced; where the path is absent, the text as it was.

    Args:
        text: a JSON document, or several.
        path: the keys from the top.
        replacement: takes a value and gives the one to take its place; the same value changes nothing.
        arrays: see `find_values`.

    Raises:
        ValueError: the text is not JSON.
    """
    if isinstance(text, str):
        changed = replace_values(text.encode("utf-8", "surrogatepass"), path, replacement, arrays)
        return changed.decode("utf-8", "surrogatepass")
    edits = []
    for start, end, value in find_values(text, path, arrays):
        new = replacement(value)
        if new != value:
            edits.append((start, end, encode_value(new, keeps_bad_bytes=not _is_utf8(text[start:end]))))
    return splice(text, edits)


def splice(text: bytes, edits: Sequence[tuple[int, int, bytes]]) -> bytes:
    """The text with other bytes in the places of some: `(start, end, new)`, in order and apart from each other."""
    parts = []
    at = 0
    for start, end, new in edits:
        parts += [text[at:start], new]
        at = end
    return b"".join([*parts, text[at:]])


def encode_value(value: Any, *, keeps_bad_bytes: bool = False) -> bytes:
    """A value as JSON. A surrogate is the byte that it was read from, where it was one; else an escape."""
    no_bytes = _NO_BYTE if keeps_bad_bytes else _SURROGATE
    return no_bytes.sub(_escape, json.dumps(value, ensure_ascii=False)).encode("utf-8", "surrogateescape")


def _escape(found: re.Match[str]) -> str:
    return f"\\u{ord(found[0]):04x}"


def _follow(nodes: Sequence[Node], path: Sequence[str], arrays: Arrays) -> list[int]:
    """The nodes at `path`. How much of it leads to a node follows from its parent, which comes before it."""
    depths: dict[int, int] = {-1: 0}
    has_hit: set[int] = set()
    hits = []
    for index, node in enumerate(nodes):
        depth = depths.get(node.parent)
        if node.kind == "key" or depth is None:
            continue
        if node.key is not None:
            if node.key != path[depth]:
                continue
            depth += 1
        elif arrays == "first" and node.parent in has_hit:
            continue
        if depth < len(path):
            depths[index] = depth
            continue
        hits.append(index)
        parent = node.parent
        while parent >= 0 and parent not in has_hit:
            has_hit.add(parent)
            parent = nodes[parent].parent
    return hits


def _span(text: bytes, node: Node) -> Span:
    raw = text[node.start : node.end]
    return Span(node.start, node.end, decode_string(raw) if node.kind == "string" else _decode(raw, node.kind))


def _decode(raw: bytes, kind: str) -> Any:
    text = raw.decode("utf-8", "surrogateescape")
    if kind != "scalar":
        return text
    try:
        return json.loads(text)
    except ValueError:
        # Python limits the digits of an integer.
        return text


def _is_utf8(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True
