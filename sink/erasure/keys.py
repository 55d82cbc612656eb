"""The columns that name subjects: which types can, and how such a column writes an id.

A UUID in capitals, or `0042` for a number, is the same id in another spelling. The ledger keeps the spelling in which
somebody asked; a column has one of its own. A text column that names people otherwise than by the subject's id has whatever
spelling somebody has written.

.. no_pii: opaque ids.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from functools import cache, lru_cache

from sink.clickhouse.catalog import Table, is_json, is_text
from sink.pii_map import SUBJECT_ID, PiiMap, Rule, SubjectId

_INTEGER = re.compile(r"(U?)Int(\d+)")
_NUMBER = re.compile(r"[+-]?[0-9]+")
_FIXED = re.compile(r"FixedString\((\d+)\)")
_HASH_LENGTH = 40
# What nobody sees in an address: blanks, and characters without a width.
_BLANKS = "[ \t\n\v\f\r\u00a0\u200b-\u200d\u2060\ufeff]"
_MAILTO = "mailto:"
# What surrounds an address in a `mailto:` (RFC 6068, RFC 5322): header fields, `Zoe <...>`, the scheme.
# The empty groups have a second part stand in what takes their place: `\1` alone gives nothing where nothing fits, up to
# 26.1, in mutations too, where no setting of a connection counts (ClickHouse/ClickHouse#93434, mended by #97546).
_HEADERS = "^([^@]*@[^?]*)()[?].*$"
_BRACKETS = "^.*<([^<>]*)()>$"
_IN_THEIR_PLACE = r"\\1\\2"
_SCHEME = "^(?i:mailto:)(//)?"
# With hyphens or without, where no letter or digit is beside it.
_UUID = "(?:[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}|[0-9A-Fa-f]{32})"
# What is no number and no UUID, whatever it looks like here and there.
_ADDRESS = "email_address"
_ID = "id"
_WORDS = ("name", "username", _ADDRESS)
# What stands before the digits of bytes that are no text; no name begins so.
_BYTES = "\0"


class Spelling(Enum):
    """What makes no difference between two names."""

    EXACT = "nothing: every letter counts"
    CASE = "capitals: software writes addresses as their owners typed them, or in lower case"
    UUID = "capitals and hyphens of a UUID, as anonymous ids are: of everything else every letter counts"


def find_spelling(pii_map: PiiMap, sources: Iterable[str]) -> Spelling:
    """How names that are made of these identifiers are compared.

    The subject's own id is as whoever asks writes it: text keys of other systems can differ in nothing but capitals.
    """
    kinds = {pii_map.find_type(source) for source in sources if source != SUBJECT_ID}
    if _ADDRESS in kinds:
        return Spelling.CASE
    return Spelling.UUID if _ID in kinds else Spelling.EXACT


def express_text(text: str) -> str:
    """SQL for a text as it is compared and read: bytes that are no UTF-8 as their digits.

    The driver turns such bytes into something else, and no statement takes them as a value.
    """
    return f"if(isValidUTF8({text}), {text}, concat('\\0', hex({text})))"


def is_bytes(name: str) -> bool:
    """True for what `express_text` has made of bytes that are no UTF-8."""
    return name.startswith(_BYTES)


def express_folded(text: str, spelling: Spelling) -> str:
    """SQL for a name as it is compared."""
    if spelling is Spelling.CASE:
        return f"lowerUTF8({text})"
    if spelling is Spelling.EXACT:
        return text
    written = f"extract({text}, '\\\\b{_UUID}\\\\b')"
    return f"if({written} = '', {text}, replaceOne({text}, {written}, toString(toUUIDOrZero({written}))))"


def fold_name(name: str, spelling: Spelling) -> str:
    """What `express_folded` gives for a row that holds this name."""
    if spelling is Spelling.CASE:
        return name.lower()
    if spelling is Spelling.EXACT:
        return name
    written = re.search(rf"\b{_UUID}\b", name, re.ASCII)
    return name.replace(written[0], str(uuid.UUID(written[0])), 1) if written else name


def find_kind(table: Table, key: str) -> str:
    """The type of a rule's key, without Nullable and LowCardinality; of a path, what the column declares, or String."""
    column, dot, path = key.partition(".")
    kind = table.columns[column]
    if dot:
        declared = re.search(rf"[(,] *`?{re.escape(path)}`? ((?:Nullable\()?\w+)", kind) if is_json(kind) else None
        kind = declared[1] if declared else "String"
    return _strip(kind)


def write_id(kind: str, subject: SubjectId | str) -> str | None:
    """An id as a column of this type writes it, as text; None where the column cannot hold it."""
    text = str(subject)
    if limits := _find_limits(kind):
        longest, least, most = limits
        if not _NUMBER.fullmatch(text) or len(text) > longest:
            return None
        number = int(text)
        return str(number) if least <= number <= most else None
    if kind == "UUID":
        try:
            return str(uuid.UUID(text))
        except ValueError:
            return None
    if (found := _FIXED.fullmatch(kind)) and len(text.encode()) > int(found[1]):
        return None
    return text


@cache
def _find_limits(kind: str) -> tuple[int, int, int] | None:
    """Of an integer type how many digits are looked at, the least and the greatest number; None for another type."""
    found = _INTEGER.fullmatch(kind)
    if not found:
        return None
    bits = int(found[2])
    least, most = (0, 2**bits - 1) if found[1] else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return bits, least, most


def express_name(text: str, rule: Rule) -> str:
    """SQL for what a key says, by the key as it stands.

    Of an address that is `mailto:` and the address alone, of a digest its digits in small letters.
    """
    if rule.is_mailbox:
        return _express_mailbox(text)
    return f"lowerUTF8(trimBoth({text}))" if rule.is_hashed else text


def express_compared(text: str, rule: Rule, spelling: Spelling) -> str:
    """SQL for a key as it is compared."""
    return express_folded(express_name(text, rule), spelling)


def fold_key(key: str, rule: Rule, spelling: Spelling) -> str:
    """What `express_compared` gives for a row that holds this key, and nothing around it.

    The key of a person is no text that somebody wrote down, so that nothing in it is decoded: `a%62c@x` is an address
    of its own, and whoever has it must not take the rows of `abc@x` along.
    """
    if rule.is_mailbox:
        key = _MAILTO + re.sub(_BLANKS, "", key[len(_MAILTO) :])
    return fold_name(key.lower() if rule.is_hashed else key, spelling)


def _express_mailbox(text: str) -> str:
    """SQL for an address that somebody wrote down; what holds none is as it was."""
    # Some software encodes what is encoded already.
    decoded = f"toValidUTF8(decodeURLComponent(decodeURLComponent({text})))"
    seen = f"replaceRegexpAll({decoded}, '{_BLANKS}', '')"
    address = f"replaceRegexpOne({seen}, '{_HEADERS}', '{_IN_THEIR_PLACE}')"
    address = f"replaceRegexpOne({address}, '{_BRACKETS}', '{_IN_THEIR_PLACE}')"
    address = f"replaceRegexpOne({address}, '{_SCHEME}', '')"
    named = f"if(match({seen}, '@|^(?i:mailto:)'), concat('{_MAILTO}', {address}), {seen})"
    # Most keys are anonymous ids, for which nothing of this is computed.
    return f"if(match({text}, '[@%:]'), {named}, {text})"


def group_ids(kind: str, subjects: Iterable[SubjectId]) -> Mapping[str, Sequence[str]]:
    """The ids of `subjects` as a column of this type writes them, with the spellings of each; none that it cannot hold."""
    return _group_ids(kind, tuple(subjects))


# A retirement asks the same of every target.
@lru_cache(maxsize=8)
def _group_ids(kind: str, subjects: tuple[SubjectId, ...]) -> Mapping[str, Sequence[str]]:
    groups: dict[str, list[str]] = {}
    for subject in subjects:
        if (written := write_id(kind, subject)) is not None:
            groups.setdefault(written, []).append(str(subject))
    return groups


def bind_ids(kind: str, ids: Iterable[str]) -> list[SubjectId]:
    """Ids that `group_ids` has written, as they are bound to an array of `kind`."""
    return [int(text) if _INTEGER.fullmatch(kind) else text for text in ids]


def find_bound_kind(kind: str) -> str:
    """The type that ids are bound with: a FixedString of another length would be filled up."""
    return "String" if is_text(kind) else kind


def make_sample(kind: str) -> str:
    """An id that a column of this type can hold."""
    return str(uuid.UUID(int=0)) if kind == "UUID" else "0"


def explain_misfit(pii_map: PiiMap, rule: Rule, table: Table) -> tuple[str, str] | None:
    """Why a rule's key cannot hold what the map says, as (reason, fix); None where it can, or is a path."""
    if "." in rule.key or rule.key not in table.columns:
        return None
    declared = table.columns[rule.key]
    kind = _strip(declared)
    if kind.startswith(("Array(", "Nested(", "Map(", "Tuple(")):
        fix = "Keep one row a person and match by that column, or say `retain` with the reason."
        return f"{rule.key} is {declared}: a row can be about several people, and none is found by it", fix
    if is_text(kind):
        length = _FIXED.fullmatch(kind)
        if rule.is_hashed and length and int(length[1]) < _HASH_LENGTH:
            reason = f"a SHA-1 in hexadecimal has {_HASH_LENGTH} characters, and {rule.key} is {declared}"
            return reason, "Match another column."
        return None
    if not (kind == "UUID" or _INTEGER.fullmatch(kind)):
        fix = "Match a column that is a text, a UUID or an integer."
        return f"{rule.key} is {declared}, and no such value is {_name(rule)}", fix
    plain = rule.affixes == ("", "") and not rule.is_about_text
    if not plain or any(pii_map.find_type(source) in _WORDS for source in rule.sources):
        fix = "Match a text column, or say `id` where the column holds the subject's id."
        return f"{rule.key} is {declared}, and no such value is {_name(rule)}", fix
    return None


def _name(rule: Rule) -> str:
    return "the subject's id" if rule.is_by_id else next(iter(rule.match.values()))


def _strip(kind: str) -> str:
    for wrapper in ("LowCardinality(", "Nullable("):
        if kind.startswith(wrapper):
            kind = kind.removeprefix(wrapper).removesuffix(")")
    return kind
