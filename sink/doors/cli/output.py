"""Standard output that takes no more: whoever read it has gone, or the disk is full.

.. no_pii: passes on what it is given, and looks at none of it.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
from typing import Any, TextIO

from sink.doors.cli.speech import write_error

NOBODY_READS = 128 + signal.SIGPIPE
"""As a shell counts what ends a process: 128 and the number of the signal."""


class _OutputError(Exception):
    """Standard output takes no more."""

    def __init__(self, cause: OSError) -> None:
        super().__init__(cause.strerror)
        self.cause = cause


class Output:
    """Standard output, whose errors are told from those of all other files."""

    def __init__(self, stream: TextIO) -> None:
        """Take what is to be written to."""
        self._stream = stream

    def write(self, text: str) -> int:
        """See TextIO."""
        try:
            return self._stream.write(text)
        except OSError as error:
            raise _OutputError(error) from None

    def flush(self) -> None:
        """See TextIO."""
        try:
            self._stream.flush()
        except OSError as error:
            raise _OutputError(error) from None

    def __getattr__(self, name: str) -> Any:
        """Whatever else there is to it."""
        return getattr(self._stream, name)


OUTPUT_ERRORS = (_OutputError,)


def end_output(error: Exception) -> int:
    """Say why nothing more is written, see to it that it is not tried again when Python ends, and return the status."""
    cause = error.cause if isinstance(error, _OutputError) else error
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if isinstance(cause, OSError) and cause.errno == errno.EPIPE:
        return NOBODY_READS
    write_error(f"Error: Standard output cannot be written: {getattr(cause, 'strerror', None)}.", level="error")
    return 1
