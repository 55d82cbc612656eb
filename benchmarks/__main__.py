"""Measure what the parts of the product cost, as ratios of paired runs.

    python -m benchmarks [--size ROWS] [--json FILE] [PART ...]

A ratio holds from one machine to another; the seconds beside it are those of this one. Nothing here is a test.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from pathlib import Path

from benchmarks import building, copying, events, ledger, messages, reading, retiring, searching

PARTS = {
    "copying": copying.measure,
    "retiring": retiring.measure,
    "searching": searching.measure,
    "ledger": ledger.measure,
    "reading": reading.measure,
    "building": building.measure,
    "messages": messages.measure,
    "events": events.measure,
}


def main() -> int:
    """Measure; the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__.splitlines()[0] if __doc__ else ""
    )
    parser.add_argument(
        "parts",
        nargs="*",
        choices=[[], *PARTS],
        metavar="PART",
        help=f"{', '.join(PARTS)}; all of them if none is named",
    )
    parser.add_argument("--size", type=int, default=100_000, help="profiles, or retired people (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="also write the ratios into this file")
    chosen = parser.parse_args()
    print(f"{chosen.size:,} rows, {os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}")
    found = {name: measure(chosen.size) for name, measure in PARTS.items() if name in (chosen.parts or PARTS)}
    if chosen.json:
        document = {name: [ratio.to_dict() for ratio in ratios] for name, ratios in found.items()}
        chosen.json.write_text(json.dumps({"size": chosen.size, "ratios": document}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
