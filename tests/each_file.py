"""Run every test file in a process of its own, one more at a time than there are cores, and close with the sum.

The engine in process grows slower each time a test opens another data folder; a new process starts afresh.
What fails beside others runs once more alone, as load is not what a test is about, and that run's verdict counts; it is said.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

TESTS = Path(__file__).parent
# Those that wait for services take longest, and begin first. `superset` has an environment and a command of its own.
FOLDERS = ("services", "acceptance", "integration", "unit")


@dataclass(frozen=True)
class Ran:
    """What pytest said of one file."""

    file: str
    output: str
    seconds: float
    counts: dict[str, int]
    is_green: bool

    @property
    def closing_line(self) -> str:
        """The last line that pytest printed."""
        return (self.output.splitlines() or ["nothing was printed"])[-1].strip("= ")


def find_files() -> list[str]:
    """The test files, slow folders first."""
    return [
        str(file.relative_to(TESTS.parent)) for name in FOLDERS for file in sorted(TESTS.glob(f"{name}/**/test_*.py"))
    ]


def run_file(file: str) -> Ran:
    """Run one file, with the arguments given to all."""
    began = monotonic()
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", file, *sys.argv[1:]],
        cwd=TESTS.parent,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    output = ran.stdout.rstrip()
    last = (output.splitlines() or [""])[-1]
    counts = {word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|skipped|error)", last)}
    return Ran(file, output, monotonic() - began, counts, ran.returncode == 0 and bool(counts))


def run_files(files: list[str]) -> Iterator[Ran]:
    """Run the files beside each other, and give each as it ends."""
    # Many of them wait, for a service or for a file to vanish.
    with ThreadPoolExecutor(max_workers=1 + (os.cpu_count() or 1)) as pool:
        for ended in as_completed([pool.submit(run_file, file) for file in files]):
            yield ended.result()


def report(ran: Ran) -> None:
    """A line for a green file, everything for one that is not."""
    if not ran.is_green:
        print(ran.output)
    print(f"{ran.file}: {ran.closing_line}", flush=True)


def main() -> int:
    total: Counter[str] = Counter()
    again = []
    for ran in run_files(find_files()):
        report(ran)
        if ran.is_green:
            total.update(ran.counts)
        else:
            again.append(ran.file)
    broken = []
    for file in again:
        print(f"{file} failed beside others, and runs once more alone.", flush=True)
        ran = run_file(file)
        report(ran)
        total.update(ran.counts)
        if not ran.is_green:
            broken.append(file)
    if again:
        print(f"Failed beside others: {', '.join(again)}. Failed alone: {', '.join(broken) or 'none'}.")
    failed = total["failed"] + total["error"] + (1 if broken and not total["failed"] + total["error"] else 0)
    print(f"{total['passed']} passed, {failed} failed, {total['skipped']} skipped")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
