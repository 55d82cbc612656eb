"""Taking every named agent out of an xAPI statement, whoever it is.

.. pii: Sees events with the people that they are about, in memory only.
.. pii_types: id, name, username, email_address, other
.. pii_retirement: consumer_api
"""

from __future__ import annotations

from pydantic import SecretStr

from sink.erasure.json_nodes import Node, decode_string, read_nodes
from sink.erasure.json_text import encode_value, splice
from sink.erasure.people import fold
from sink.erasure.pseudonyms import PSEUDONYM, is_pseudonym, keyed_hash, shape_like
from sink.pii_map import DEFAULT_REPLACEMENT

_IDENTIFIERS = ("mbox", "mbox_sha1sum", "openid")


def anonymise_agents(text: bytes, secret: SecretStr) -> bytes | None:
    """Replace the address, digest or OpenID of every agent, and the name beside it; None where there is none.

    Who they are is not known: each value gets a pseudonym of its own, alike wherever it stands in any case. Done again it
    changes nothing more. Texts in a text are looked at as JSON only where they are some.
    """
    nodes, _ = read_nodes(text)
    agents = {node.parent for node in nodes if _is_identifier(node)}
    edits = []
    for node in nodes:
        if node.kind != "string":
            continue
        old = decode_string(text[node.start : node.end])
        new = old
        if _is_identifier(node) and not is_pseudonym(secret, old):
            new = shape_like(old, keyed_hash(secret, PSEUDONYM, f"agent:{fold(old).strip()}"))
        elif node.key == "name" and node.parent in agents:
            new = DEFAULT_REPLACEMENT
        if new != old:
            edits.append((node.start, node.end, encode_value(new)))
    return splice(text, edits) if edits else None


def _is_identifier(node: Node) -> bool:
    return node.kind == "string" and node.key in _IDENTIFIERS
