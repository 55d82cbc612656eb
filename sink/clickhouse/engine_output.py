"""What the engine in process writes to standard error: held back while it starts, so that people read our sentence alone.

chDB (seen: 26.9) says there why it does not start, and nowhere else; its words quote definitions of tables.

.. no_pii: codes of errors and names of files.
"""

from __future__ import annotations

import os
import re
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

_STDERR = 2
_lock = threading.Lock()
_CODE = re.compile(r"\(([A-Z][A-Z0-9_]{3,})\)")
_FILE = re.compile(r"\b((?:metadata|store|data)/[\w./%-]+)")


@contextmanager
def held_back() -> Iterator[None]:
    """Hold back what is written to standard error, by whatever part of this process.

    Where what is inside ends well, it is written afterwards. Where it raises, the exception gets a note that names
    the error and the file that the engine has named.
    """
    with _lock, _open_file() as file:
        try:
            before = os.dup(_STDERR)
        except OSError:
            # It is closed: there is nothing to hold back.
            yield
            return
        os.dup2(file.fileno(), _STDERR)
        try:
            yield
        except Exception as error:
            os.dup2(before, _STDERR)
            if reason := _find_reason(_read(file.fileno())):
                error.add_note(reason)
            raise
        finally:
            os.dup2(before, _STDERR)
            os.close(before)
        if said := _read(file.fileno()):
            os.write(_STDERR, said)


def _open_file() -> IO[bytes]:
    """One that no disk holds, where there is such a thing: the temporary folder may be out of reach."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("aspects-pii"), "w+b")
    return tempfile.TemporaryFile()  # pragma: no cover


def _read(descriptor: int) -> bytes:
    return os.pread(descriptor, os.fstat(descriptor).st_size, 0)


def _find_reason(said: bytes) -> str:
    text = said.decode(errors="replace")
    codes, files = _CODE.findall(text), _FILE.findall(text)
    if not codes:
        return ""
    return f"the engine says {codes[-1]}" + (f" of {files[0]}" if files else "")
