"""The files of a subject access package: written into one ZIP archive as they come, with a digest of each.

.. pii: What a package holds passes through; nothing is kept.
.. pii_types: id, name, username, email_address, location, phone_number, birth_date, gender, biography, image, other
.. pii_retirement: consumer_api
"""

from __future__ import annotations

import hashlib
import re
import time
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import IO
from urllib.parse import quote as percent_encode

from sink.private_files import FILE_MODE

_COMPRESSION = zipfile.ZIP_DEFLATED
_UNSAFE = re.compile(r"[.~]")


@dataclass(frozen=True)
class Member:
    """A file of the package."""

    name: str
    bytes: int
    sha256: str


class Package:
    """An archive that is being written."""

    def __init__(self, file: IO[bytes]) -> None:
        """Begin an archive in `file`, which need not be one that can be read or wound back."""
        self._archive = zipfile.ZipFile(file, "w", _COMPRESSION, allowZip64=True)
        self._names: set[str] = set()
        self.members: list[Member] = []

    def add(self, name: str, pieces: Iterable[bytes]) -> Member:
        """Write a file; memory holds one of `pieces` at a time. What raises while they are made is raised."""
        entry = zipfile.ZipInfo(name, time.localtime()[:6])
        entry.compress_type = _COMPRESSION
        entry.external_attr = (0o100000 | FILE_MODE) << 16
        digest, size = hashlib.sha256(), 0
        with self._archive.open(entry, "w", force_zip64=True) as member:
            for piece in pieces:
                member.write(piece)
                digest.update(piece)
                size += len(piece)
        self.members.append(Member(name, size, digest.hexdigest()))
        return self.members[-1]

    def name_files(self, folder: str, *parts: str) -> str:
        """The name of files about a table, without an ending: safe on every system, and unlike any other of the package."""
        safe = [_UNSAFE.sub(lambda found: f"%{ord(found[0]):02X}", percent_encode(part, safe="")) for part in parts]
        name = f"{folder}/{'.'.join(safe)}"
        number = 1
        while name.casefold() in self._names:
            number += 1
            name = f"{folder}/{'.'.join(safe)}-{number}"
        self._names.add(name.casefold())
        return name

    def __enter__(self) -> Package:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Write the end of the archive, without which it is none."""
        if kind is None:
            self._archive.close()
            return
        # It is given up with its file, to which the archive must not come back.
        with suppress(OSError, ValueError):
            self._archive.close()


class CountedLines:
    """The pieces of a file passed on, and how many lines it has."""

    def __init__(self, pieces: Iterable[bytes], keep: int = 0, *, quoted: bool = False) -> None:
        """Take what is written.

        Args:
            pieces: the file.
            keep: so many bytes of whole lines from the beginning are kept in `first`.
            quoted: a line feed between quotation marks belongs to a cell, as in CSV.
        """
        self._pieces = pieces
        self._keep = keep
        self._quoted = quoted
        self.lines = 0
        self.first = b""
        """The first lines, as many as were to be kept."""

    def __iter__(self) -> Iterator[bytes]:
        inside = False
        kept = bytearray()
        for piece in self._pieces:
            if self._quoted:
                parts = piece.split(b'"')
                self.lines += sum(part.count(b"\n") for part in parts[int(inside) :: 2])
                inside ^= len(parts) % 2 == 0
            else:
                self.lines += piece.count(b"\n")
            if len(kept) < self._keep:
                kept += piece[: self._keep - len(kept)]
            yield piece
        self.first = bytes(kept[: kept.rfind(b"\n") + 1])
