"""Encrypting a package to the key of whoever is to read it, in the format of age (docs/decisions/0020-age.md).

.. no_pii: what is encrypted passes through in pieces and is not looked at.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO, Any

from sink.errors import SettingsError, UsageError


def read_recipients(keys: Sequence[str]) -> list[Any]:
    """The public keys that a package is encrypted to.

    Raises:
        SettingsError: what encrypts is not installed.
        UsageError: one is no public key of age.
    """
    if not keys:
        return []
    try:
        from pyrage import RecipientError, x25519
    except ImportError:
        raise SettingsError(
            "--recipient needs pyrage, which is not installed. Install aspects-pii-sink[encryption]."
        ) from None
    recipients = []
    for number, key in enumerate(keys, 1):
        try:
            recipients.append(x25519.Recipient.from_str(key.strip()))
        except RecipientError:
            # Not the text itself: somebody may have given the secret key.
            raise UsageError(
                f"--recipient {number} is no public key of age, such as age1…, which `age-keygen` prints. "
                "The secret key stays with whoever is to read the package."
            ) from None
    return recipients


@contextmanager
def encrypting(file: IO[bytes], recipients: Sequence[Any]) -> Iterator[IO[bytes]]:
    """What to write into, so that it comes into `file` encrypted; the file itself where there are no recipients.

    Raises:
        OSError: it could not be written.
    """
    if not recipients:
        yield file
        return
    reading, writing = os.pipe()
    source, sink = os.fdopen(reading, "rb"), os.fdopen(writing, "wb")
    worker = _Encryption(source, file, recipients)
    worker.start()
    try:
        yield sink
        sink.close()
    except BrokenPipeError:
        _close_quietly(sink)
        worker.join()
        worker.raise_error()
        raise
    except BaseException:
        # What came so far is given up with the file; the thread has to see the end of it.
        _close_quietly(sink)
        worker.join()
        raise
    worker.join()
    worker.raise_error()


class _Target:
    """Where encrypted pieces are written, and why that failed: pyrage (seen: 1.4) does not pass it on."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.error: OSError | None = None

    def write(self, piece: bytes) -> int:
        """Write a piece."""
        try:
            return self._file.write(piece)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        """Have it written."""
        self._file.flush()


class _Encryption(threading.Thread):
    """Reads a pipe, and writes what it reads encrypted."""

    def __init__(self, source: IO[bytes], target: IO[bytes], recipients: Sequence[Any]) -> None:
        super().__init__(name="encryption", daemon=True)
        self._source, self._target, self._recipients = source, _Target(target), recipients
        self._error: Exception | None = None

    def run(self) -> None:
        """See threading."""
        from pyrage import encrypt_io

        try:
            with self._source:
                encrypt_io(self._source, self._target, self._recipients)
        except Exception as error:
            self._error = error

    def raise_error(self) -> None:
        """Raise what stopped it, if anything has."""
        if self._target.error is not None:
            raise self._target.error
        if self._error is not None:
            raise OSError(0, f"it could not be encrypted: {type(self._error).__name__}")


def _close_quietly(file: IO[bytes]) -> None:
    try:
        file.close()
    except OSError:
        return
