"""The file of an exported ledger: a header, a line an entry, then one a change of the audit trail of roles, and a signed end.

Each line has a hash over all before it.

What is here knows lines and no entries; `sink.ledger.files` reads and writes those.

.. no_pii: hashes, and JSON objects that are passed on.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sink.errors import UsageError
from sink.ledger.details import read_json
from sink.ledger.installation_id import Installation
from sink.ledger.role_trail import FIELDS as ROLE_FIELDS
from sink.ledger.rules import FIELDS

FORMAT = "aspects-pii ledger"
VERSION = 2
# Without the audit trail of roles.
_VERSION_BEFORE = 1
_HEADER = {"format", "version", "installation", "database", "exported_at", "hash"}
_END_BEFORE = {"entries", "hash", "key", "signature"}
_END = {*_END_BEFORE, "roles"}


@dataclass(frozen=True)
class Trust:
    """What an operator vouches for, where a file cannot show it itself."""

    installation: str | None = None
    """The id of another installation, whose file this is."""
    unsigned: bool = False
    """The signature is not looked at; nor is there one in files of older versions."""


@dataclass
class Lines:
    """What is in a file, in its order."""

    first: int
    """The number of the line of the first entry; the changes follow the last one."""
    entries: list[dict[str, Any]] = field(default_factory=list)
    changes: list[dict[str, Any]] = field(default_factory=list)
    """Of the audit trail of roles."""


def compose_lines(
    installation: Installation,
    exported_at: str,
    entries: Iterable[Mapping[str, Any]],
    changes: Iterable[Mapping[str, Any]] = (),
) -> Iterator[str]:
    """The lines of a file that holds `entries`, and `changes` of the audit trail of roles."""
    header = {
        "format": FORMAT,
        "version": VERSION,
        "installation": installation.id,
        "database": installation.database,
        "exported_at": exported_at,
    }
    newest = _hash("", header)
    yield _write({**header, "hash": newest})
    counts = []
    for fields, things in ((FIELDS, entries), (ROLE_FIELDS, changes)):
        counts.append(0)
        for thing in things:
            line = {name: thing[name] for name in fields}
            newest, counts[-1] = _hash(newest, line), counts[-1] + 1
            yield _write({**line, "hash": newest})
    key = installation.keys.preferred
    end = {"entries": counts[0], "roles": counts[1], "hash": newest, "key": key}
    yield _write({**end, "signature": installation.keys.sign(key, _write(end).encode())})


def read_lines(content: bytes, installation: Installation, trust: Trust) -> Lines:
    """What is in a file, once it is certain that it is whole and whose it is. It is not judged.

    Raises:
        UsageError: a line was changed, is missing or is another's, or whose the file is can only the operator say.
    """
    texts = content.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    if not texts[-1].strip():
        texts.pop()
    if not texts:
        raise refuse_line(1, "the file is empty")
    first = _parse(1, texts[0])
    if "format" not in first:
        return Lines(1, _read_without_header(texts, trust))
    newest = _check_header(first, installation, trust)
    wanted_end = _END if first["version"] == VERSION else _END_BEFORE
    found = Lines(2)
    end = None
    for number, text in enumerate(texts[1:], 2):
        line = _parse(number, text)
        if end is not None:
            raise refuse_line(number, "something follows the last line of the export")
        if set(line) == wanted_end:
            end = line
            _check_end(number, line, newest, found, installation, trust)
            continue
        fields, things = _choose(line, found, has_roles=wanted_end is _END)
        if things is None:
            raise refuse_line(number, "this is no entry of a ledger: it has other fields")
        thing = {name: line[name] for name in fields}
        newest = _hash(newest, thing)
        if line["hash"] != newest:
            raise refuse_line(number, "it was changed, or a line before it is missing, new or at another place")
        things.append(thing)
    if end is None:
        raise refuse_line(len(texts) + 1, "the file ends too early: its last line is missing")
    return found


def _choose(
    line: Mapping[str, Any], found: Lines, *, has_roles: bool
) -> tuple[Sequence[str], list[dict[str, Any]] | None]:
    """The fields of a line, and where it belongs; None for what cannot stand here. Entries come before changes."""
    if set(line) == {*FIELDS, "hash"} and not found.changes:
        return FIELDS, found.entries
    if set(line) == {*ROLE_FIELDS, "hash"} and has_roles:
        return ROLE_FIELDS, found.changes
    return (), None


def _check_header(header: Mapping[str, Any], installation: Installation, trust: Trust) -> str:
    """Return the hash of the header, if the file is for us."""
    if header["format"] != FORMAT:
        raise refuse_line(1, "`format` is not that of a ledger")
    # 1.0 and true are equal to 1, and no versions.
    if type(header.get("version")) is not int or header["version"] not in (VERSION, _VERSION_BEFORE):
        raise refuse_line(1, f"`version` is not {VERSION}. Use the version of aspects-pii that has written the file")
    if set(header) != _HEADER:
        raise refuse_line(1, "the header has other fields than it should")
    newest = _hash("", {name: value for name, value in header.items() if name != "hash"})
    if header["hash"] != newest:
        raise refuse_line(1, "the header was changed")
    if header["installation"] != (trust.installation or installation.id):
        if trust.installation is not None:
            raise refuse_line(1, "`installation` is not the one that --installation names")
        raise refuse_line(
            1,
            f"the file is of another `installation`; this one is {installation.id}. If the ledger of that one was lost and "
            "made anew, or this is a copy of it, take the id from the line and name it with --installation",
        )
    return newest


def _check_end(
    number: int, end: Mapping[str, Any], newest: str, found: Lines, installation: Installation, trust: Trust
) -> None:
    counts = (end["entries"], end.get("roles", 0))
    if end["hash"] != newest or counts != (len(found.entries), len(found.changes)):
        raise refuse_line(number, "the line before it is missing or new, or this one was changed")
    if trust.unsigned:
        return
    name, signature = end["key"], end["signature"]
    if not isinstance(name, str) or name not in installation.keys.secrets:
        raise refuse_line(
            number,
            f"the signature cannot be checked: the file was signed with another key than {', '.join(installation.keys.secrets)}. "
            "Set what was set then, and nothing else; or, if you know where the file comes from, use --unsigned",
        )
    unsigned = {field: value for field, value in end.items() if field != "signature"}
    expected = installation.keys.sign(name, _write(unsigned).encode())
    if not isinstance(signature, str) or not hmac.compare_digest(signature.encode(), expected.encode()):
        raise refuse_line(
            number,
            f"the signature does not fit: somebody has changed the file, or {name} was another one when it was written. "
            "If that secret was lost or changed, and you know where the file comes from, use --unsigned",
        )


def _read_without_header(texts: Sequence[bytes], trust: Trust) -> list[dict[str, Any]]:
    """The entries of a file of an older version, which had no header, no hashes and no signature."""
    if not trust.unsigned:
        raise refuse_line(
            1,
            "the header of an export is missing. If an older version has written the file, and you know where it comes "
            "from, use --unsigned",
        )
    entries = []
    for number, text in enumerate(texts, 1):
        line = _parse(number, text)
        if set(line) != set(FIELDS) or not isinstance(line["detail"], str):
            raise refuse_line(number, "this is no entry of a ledger: it has other fields")
        try:
            entries.append({**line, "detail": read_json(line["detail"] or "{}")})
        except ValueError as error:
            raise refuse_line(number, f"`detail`: {error}") from None
    return entries


def refuse_line(number: int, problem: str) -> UsageError:
    """What is wrong with a line, by its number from 1."""
    return UsageError(f"line {number}: {problem}.")


def _parse(number: int, text: bytes) -> dict[str, Any]:
    try:
        line = read_json(text.decode("utf-8"))
    except UnicodeDecodeError:
        raise refuse_line(number, "this is not UTF-8") from None
    except ValueError as error:
        raise refuse_line(number, str(error)) from None
    if not isinstance(line, dict):
        raise refuse_line(number, "this is no JSON object")
    return line


def _write(line: Mapping[str, Any]) -> str:
    """JSON as it is hashed: sorted, without blanks, in ASCII."""
    return json.dumps(line, sort_keys=True, separators=(",", ":"))


def _hash(before: str, line: Mapping[str, Any]) -> str:
    return hashlib.sha256(f"{before}\n{_write(line)}".encode()).hexdigest()
