"""Receipts as files: each is written once, and what repeats a retirement gets a name of its own.

The first receipt of a request is REQUEST.json; where the retirement was reopened and erased again, REQUEST-2.json says
that it supersedes the first.

.. no_pii: opaque user ids, counts, and names of tables.
"""

from __future__ import annotations

import json
import os
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from sink.errors import UsageError
from sink.ledger.details import read_integer
from sink.private_files import make_folder, write_all_new
from sink.retirement.receipt import Receipt, Superseded, compute_digest, says_all_of, serialize
from sink.retirement.signatures import Signer

VERSIONS = (1, 2)
_NAME = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}(?:-(?P<number>[1-9][0-9]*))?\.json")
_RECEIPT = TypeAdapter(Receipt)


@dataclass(frozen=True)
class ReceiptFile:
    """A receipt that is in a file, or was and the ledger still has it."""

    path: Path
    document: dict[str, Any]
    digest: str | None

    @property
    def receipt(self) -> Receipt:
        """What it says; what an older version does not say has the default."""
        return _RECEIPT.validate_python(self.document)


def issue_all(
    receipts: Sequence[tuple[Receipt, Sequence[Mapping[str, Any]], bool]], folder: Path, signer: Signer
) -> list[ReceiptFile]:
    """Issue receipts of different requests, each as (receipt, recorded, is_unchanged); when it returns they stay for good.

    `recorded` are the details of the entries `erased` that the ledger has of the request, oldest first; `is_unchanged` is
    True where this pass found no row of the subject.

    Returns:
        For each the new receipt, under a name that no receipt of its request has had; or one that an interrupted pass has
        written and nobody has recorded, where it says the same and no row was found since.

    Raises:
        OSError: not all of them could be written.
    """
    make_folder(folder)
    files: list[ReceiptFile] = []

    def prepare() -> Iterator[tuple[str, bytes]]:
        for receipt, recorded, is_unchanged in receipts:
            file, data = _prepare(receipt, folder, signer, recorded, is_unchanged=is_unchanged)
            files.append(file)
            if data is not None:
                yield file.path.name, data

    write_all_new(folder, prepare())
    return files


def _prepare(
    receipt: Receipt, folder: Path, signer: Signer, recorded: Sequence[Mapping[str, Any]], *, is_unchanged: bool
) -> tuple[ReceiptFile, bytes | None]:
    """A receipt with the bytes that its file is to have; None for one that an interrupted pass has left."""
    last_recorded = max((_read_number(_name_of(detail, receipt.request)) for detail in recorded), default=0)
    last = last_recorded
    while os.path.lexists(f"{folder}/{name_receipt(receipt.request, last + 1)}"):
        last += 1
    supersedes = _describe_recorded(recorded[-1], folder, receipt.request) if recorded else None
    if last > last_recorded and (left := _read_left(folder / name_receipt(receipt.request, last), receipt)):
        if is_unchanged and _stands_for(left, receipt, supersedes, signer):
            return left, None
        supersedes = Superseded(left.path.name, left.digest)
    document = signer.sign(replace(receipt, supersedes=supersedes).to_dict())
    data = serialize(document)
    path = folder / name_receipt(receipt.request, last + 1)
    return ReceiptFile(path, document, compute_digest(data)), data


def name_receipt(request: str, number: int = 1) -> str:
    """The file of a request's first, second, … receipt."""
    name = uuid.UUID(request)
    return f"{name}.json" if number == 1 else f"{name}-{number}.json"


def read_receipt(path: Path) -> ReceiptFile:
    """Read a receipt of any version.

    Raises:
        UsageError: the file cannot be read, or is no receipt; names the file and the field.
    """
    if path.exists() and not path.is_file():
        # A pipe would be waited for.
        raise UsageError(f"{path} is not a file.")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.") from None
    return _parse(path, data, str(path))


def parse_receipt(text: str) -> ReceiptFile:
    """Read a receipt of any version from a text, such as one that somebody has pasted.

    Line breaks and indents may have changed on the way: what counts is what the receipt says.

    Raises:
        UsageError: it is no receipt; names the field.
    """
    found = _parse(Path("receipt.json"), text.encode("utf-8", "replace"), "This")
    return replace(found, digest=compute_digest(serialize(found.document)))


def _parse(path: Path, data: bytes, name: str) -> ReceiptFile:
    try:
        document = json.loads(data, object_pairs_hook=_refuse_repetitions, parse_int=read_integer)
        # A lone half of a character can be in no signed text.
        json.dumps(document, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{name} is no receipt: {error if type(error) is ValueError else 'it is not JSON'}.") from None
    if not isinstance(document, dict) or document.get("version") not in VERSIONS:
        raise UsageError(f"{name} is no receipt of version {' or '.join(map(str, VERSIONS))}.")
    found = ReceiptFile(path, document, compute_digest(data))
    try:
        uuid.UUID(found.receipt.request)
    except ValidationError as error:
        place = ".".join(map(str, error.errors()[0]["loc"]))
        raise UsageError(f"{name} is no receipt: `{place}` is missing, or not what it has to be.") from None
    except ValueError:
        raise UsageError(f"{name} is no receipt: `request` is no UUID.") from None
    return found


def list_receipts(folder: Path) -> tuple[list[ReceiptFile], list[str]]:
    """Every receipt of a folder, in the order of time, and what is wrong with files that are called like one.

    Raises:
        UsageError: the folder cannot be read.
    """
    try:
        paths = sorted(path for path in folder.iterdir() if _NAME.fullmatch(path.name))
    except FileNotFoundError:
        # The first receipt makes it.
        return [], []
    except OSError as error:
        raise UsageError(f"ASPECTS_RECEIPTS_DIR: {folder.resolve()} cannot be read: {error.strerror}.") from None
    receipts, problems = [], []
    for path in paths:
        try:
            receipts.append(read_receipt(path))
        except UsageError as error:
            problems.append(str(error))
    return sorted(receipts, key=lambda file: (file.receipt.erased_at, file.path.name)), problems


def find_recorded(detail: Mapping[str, Any], folder: Path, request: str) -> ReceiptFile | None:
    """The receipt of an entry `erased`, as the ledger has it; None where it has none that can be read."""
    document = detail.get("receipt")
    if not isinstance(document, dict):
        return None
    found = ReceiptFile(folder / _name_of(detail, request), document, detail.get("digest"))
    try:
        return found if found.receipt.request == request else None
    except ValidationError:
        return None


def is_recorded(file: ReceiptFile, detail: Mapping[str, Any]) -> bool:
    """True where an entry `erased` is about this very receipt; entries of older versions have no digest."""
    digest = detail.get("digest")
    return digest == file.digest if digest else detail.get("receipt") == file.document


def _name_of(detail: Mapping[str, Any], request: str) -> str:
    name = str(detail.get("file") or "")
    return name if _NAME.fullmatch(name) else name_receipt(request)


def _read_number(name: str) -> int:
    found = _NAME.fullmatch(name)
    return int(found["number"] or 1) if found else 1


def _describe_recorded(detail: Mapping[str, Any], folder: Path, request: str) -> Superseded:
    name, digest = _name_of(detail, request), detail.get("digest")
    if not digest:
        try:
            file = read_receipt(folder / name)
        except UsageError:
            file = None
        digest = file.digest if file is not None and is_recorded(file, detail) else None
    return Superseded(name, digest)


def _read_left(path: Path, receipt: Receipt) -> ReceiptFile | None:
    """A receipt that no entry is about: left by an interrupted pass. None where it is another store's."""
    try:
        file = read_receipt(path)
    except UsageError:
        return None
    is_ours = file.receipt.subject == receipt.subject and file.receipt.store in ("", receipt.store)
    return file if is_ours else None


def _stands_for(left: ReceiptFile, receipt: Receipt, supersedes: Superseded | None, signer: Signer) -> bool:
    """True where a receipt that was left says all that is to be said, and nobody has changed it."""
    document = replace(receipt, supersedes=supersedes).to_dict()
    return (
        says_all_of(left.document, document)
        and left.document.get("supersedes") == document["supersedes"]
        and signer.sign(left.document) == left.document
        and receipt.requested_at == left.receipt.requested_at
        and receipt.requested_at <= left.receipt.hidden_at <= left.receipt.erased_at <= receipt.erased_at
    )


def _refuse_repetitions(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """What a reader of the first of two members sees, and a reader of the last does not, cannot be signed for."""
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        raise ValueError("a member is there twice")
    return dict(pairs)
