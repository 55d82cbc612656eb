"""Finding the rows whose texts may speak of people, by a condition that is cheap and misses none.

.. pii: Holds user names, e-mail addresses and full names of the users being retired, in memory only.
.. pii_types: name, username, email_address
.. pii_retirement: consumer_api
"""

from __future__ import annotations

import json
import re
import string
from collections.abc import Callable, Sequence
from urllib.parse import quote

from sink.clickhouse.client import split_for_binding
from sink.erasure.people import Person

# So many are made ready for a search in 0.1 s; five times as many take 4 s.
_MOST_PATTERNS = 100
_PLAIN = string.ascii_letters + string.digits + "-._~"
# What hardly anybody escapes: a text that has it is a candidate, whoever it is about. Left out is what some software
# writes as \u00XX although it need not ("&'+<=>`\), and what URLs must encode.
_ODD_ESCAPES = (
    r"\\u00(?:2[013-589ac-f]|3[0-9abf]|4[0-9a-f]|5[0-9abd-f]|6[1-9a-f]|7[0-9a-e])",
    r"%(?:25)?(?:2[de]|3[0-9]|[46][1-9a-f]|5[0-9af]|7[0-9ae])",
)


def express_candidates(column: str, patterns: Sequence[str], prefix: str = "text") -> tuple[str, dict[str, list[str]]]:
    """A condition that finds every row that `anonymise_statement` would change, and what is bound to it.

    A hundred patterns are one pass over the text. NULL is not found. Some rows of others are: `anonymise_statement`
    decides. The engine's search is defined for UTF-8 only, so bytes that are not are masked.

    Args:
        column: SQL that gives a String, quoted. `toString` makes one of a JSON or FixedString column.
        patterns: what `list_search_patterns` gives, of one or more people.
        prefix: begins the names of what is bound, so that a query can have two conditions.
    """
    if not patterns:
        return "0", {}
    arrays = split_for_binding([*_ODD_ESCAPES, *patterns], _MOST_PATTERNS)
    bound = {f"{prefix}_patterns_{number}": array for number, array in enumerate(arrays)}
    searches = [f"multiMatchAny(lower(toValidUTF8({column})), {{{name}:Array(String)}})" for name in bound]
    return f"({' OR '.join(searches)})", bound


def list_search_patterns(person: Person) -> list[str]:
    """Patterns for addresses as they may be encoded, their digests, user names and full names as JSON strings.

    ASCII letters in them are small, as in the text that `express_candidates` searches.

    An agent that only an anonymous id tells is found by a name in it, if by anything.
    """
    patterns = set(person.list_digests())
    for address in person.addresses:
        patterns.add(_spell(address.strip(), _ways_to_write))
    for name in person.usernames | person.full_names:
        patterns.add(f'"{_spell(name, _ways_to_write_json)}"' if name else "")
    # The engine's search takes a zero byte for the end of a pattern, and the rest for a mistake.
    safe = {pattern.replace("\0", r"\x00") for pattern in patterns if pattern}
    return sorted(re.sub("[A-Z]+", lambda found: found[0].lower(), pattern) for pattern in safe)


Ways = Callable[[str], list[str]]


def _spell(text: str, list_ways: Ways) -> str:
    """A pattern for all ways to write a text. Letters and digits have one: the engine searches for those first."""
    spelled = []
    for character in text:
        if character in _PLAIN:
            spelled.append(re.escape(character))
        else:
            ways = dict.fromkeys(
                way for cased in (character, character.lower(), character.upper()) for way in list_ways(cased)
            )
            spelled.append(f"(?:{'|'.join(ways)})")
    return "".join(spelled)


def _ways_to_write(characters: str) -> list[str]:
    """How a character may stand in a text that may be JSON, JSON in JSON, or part of a URL; as patterns."""
    encoded = quote(characters, safe="", errors="replace") if characters not in _PLAIN else characters
    return [*_ways_to_write_json(characters), *_ways_to_escape(characters, r"\\\\"), encoded.replace("%", "%(?:25)?")]


def _ways_to_write_json(characters: str) -> list[str]:
    """How a character may stand in a JSON string; as patterns."""
    return [re.escape(characters), *_ways_to_escape(characters, r"\\")]


def _ways_to_escape(characters: str, backslash: str) -> list[str]:
    escaped = json.dumps(characters)[1:-1]
    units = "".join(f"\\u{unit:04x}" for unit in _list_units(characters))
    ways = [units, escaped, *(["\\/"] if characters == "/" else [])]
    return [re.escape(way).replace(r"\\", backslash) for way in ways]


def _list_units(characters: str) -> list[int]:
    """The UTF-16 units, which are what JSON escapes."""
    encoded = characters.encode("utf-16-be", "surrogatepass")
    return [int.from_bytes(encoded[at : at + 2]) for at in range(0, len(encoded), 2)]
