"""Run every test file in a process of its own, and close with the sum.

The engine in process grows slower each time a test opens another data folder; a new process starts afresh.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

TESTS = Path(__file__).parent


def main() -> int:
    total: Counter[str] = Counter()
    broken = []
    for file in sorted(TESTS.glob("*/test_*.py")):
        name = str(file.relative_to(TESTS.parent))
        command = [sys.executable, "-m", "pytest", "-q", name, *sys.argv[1:]]
        ran = subprocess.run(
            command, cwd=TESTS.parent, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        lines = ran.stdout.rstrip().splitlines() or ["nothing was printed"]
        counts = {word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|skipped|error)", lines[-1])}
        total.update(counts)
        if ran.returncode or not counts:
            broken.append(name)
            print(ran.stdout, flush=True)
        print(f"{name}: {lines[-1]}", flush=True)
    if broken:
        print(f"Broken: {', '.join(broken)}")
    failed = total["failed"] + total["error"] + (1 if broken and not total["failed"] + total["error"] else 0)
    print(f"{total['passed']} passed, {failed} failed, {total['skipped']} skipped")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
