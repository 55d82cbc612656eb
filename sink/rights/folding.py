"""How names are compared when somebody searches for them: without case, accents and blanks too many.

The same is said twice, in SQL for ClickHouse and in Python for the LMS, whose databases each compare in a way of their
own; tests/integration/rights/test_find.py holds the one against the other.

.. no_pii: expressions over columns; values pass through and are not kept.
"""

from __future__ import annotations

import re
import unicodedata
import uuid

# What stands over and under letters of European scripts once a text is decomposed.
_ACCENTS = "\u0300-\u036f"
_BLANKS = "[ \\t\\n\\v\\f\\r]+"
# Letters that do not decompose, after a text is in lower case; the final sigma is what capitals have as one.
_LETTERS = "łøđħıς"
_AS_LETTERS = "lodhiσ"
_LIGATURES = {"ß": "ss", "æ": "ae", "œ": "oe", "þ": "th"}
_FOLDED = str.maketrans({**dict(zip(_LETTERS, _AS_LETTERS, strict=True)), **_LIGATURES})


def fold(text: str) -> str:
    """A text as it is compared."""
    decomposed = unicodedata.normalize("NFKD", text)
    lower = re.sub(f"[{_ACCENTS}]", "", decomposed).lower()
    return re.sub(_BLANKS, " ", lower.translate(_FOLDED)).strip(" ")


def express_folded(text: str) -> str:
    """SQL for the same, of an expression that is a text."""
    folded = f"replaceRegexpAll(normalizeUTF8NFKD(toValidUTF8({text})), '[{_ACCENTS}]', '')"
    folded = f"translateUTF8(lowerUTF8({folded}), '{_LETTERS}', '{_AS_LETTERS}')"
    for ligature, letters in _LIGATURES.items():
        folded = f"replaceAll({folded}, '{ligature}', '{letters}')"
    return f"trimBoth(replaceRegexpAll({folded}, '[ \\t\\n\\v\\f\\r]+', ' '))"


def list_spellings(text: str) -> list[str]:
    """What a text is compared as: folded, and a UUID without hyphens with them too."""
    folded = fold(text)
    spellings = [folded] if folded else []
    if re.fullmatch("[0-9a-f]{32}", folded):
        spellings.append(str(uuid.UUID(folded)))
    return spellings


def list_beginnings(form: str, lengths: set[int], *, is_full_name: bool) -> set[str]:
    """What a folded text begins with, of these lengths in bytes; of a full name, what any of its words begins with."""
    encoded = form.encode("utf-8", "surrogatepass")
    starts = [0]
    if is_full_name:
        starts += [found.end() for found in re.finditer(b" ", encoded)]
    return {
        encoded[start : start + length].decode("utf-8", "ignore")
        for start in starts
        for length in lengths
        if start + length <= len(encoded)
    }


def express_beginnings(form: str, lengths: str, *, is_full_name: bool) -> str:
    """SQL for the same, as an array: of an expression that is a folded text, and one that is an array of lengths."""
    words = f"splitByChar(' ', {form})"
    rests = f"arrayMap(n -> arrayStringConcat(arraySlice({words}, n), ' '), range(1, 1 + length({words})))"
    rests = rests if is_full_name else f"[{form}]"
    cut = f"arrayMap(size -> substring(rest, 1, size), arrayFilter(size -> size <= length(rest), {lengths}))"
    return f"arrayDistinct(arrayFlatten(arrayMap(rest -> {cut}, {rests})))"
