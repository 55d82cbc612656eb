"""The ledger in a file: exported for safekeeping, imported after a restore."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from sink.errors import UsageError
from sink.ledger.entries import Ledger


def export_ledger(ledger: Ledger, path: Path) -> int:
    """Write the ledger to a file of JSON lines, whole or not at all, and return the number of entries.

    Raises:
        UsageError: the file cannot be written.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    count = 0
    try:
        with partial.open("w", encoding="utf-8") as file:
            for entry in ledger.export():
                file.write(json.dumps(entry, sort_keys=True) + "\n")
                count += 1
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}.") from None
    return count


def import_ledger(ledger: Ledger, path: Path) -> int:
    """Append what an exported file has and the ledger has not, and return the number of entries.

    Raises:
        UsageError: the file is not one that `export_ledger` wrote; names the line. Nothing was written.
        LedgerError: it could not be written.
    """
    entries: list[dict[str, Any]] = []
    try:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            entry = json.loads(line)
            if not isinstance(entry, dict) or not {"subject", "at", "action", "request", "actor", "detail"} <= set(
                entry
            ):
                raise UsageError(f"{path}, line {number}: this is no entry of a ledger.")
            entries.append(entry)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.") from None
    except (ValueError, UnicodeDecodeError):
        raise UsageError(f"{path}, line {len(entries) + 1}: this is not JSON.") from None
    try:
        return ledger.restore(entries)
    except (ValueError, TypeError):
        raise UsageError(f"{path}: an entry has a time or a request that is none.") from None
