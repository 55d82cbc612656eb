"""Run every file of tests in a process of its own, several at a time, and close with the sum.

    python tests/each_file.py [--all] [FILE, FOLDER, FILE::TEST or option of pytest …]

Without `--all`, and where no file is named, those are left out that take long: see `LONG`.

Each time a test opens another data folder the engine in process keeps some threads and files; a process a file starts
afresh. Unit tests open hardly any, and a process takes two seconds to start: those of a folder share one. What fails
beside others runs once more alone, as load is not what a test is about: who then passes is flaky, and is counted and
named as such.
"""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

TESTS = Path(__file__).parent
ROOT = TESTS.parent
# See tests/support/templates.py, which this program does not import: it runs without the environment of the tests.
FOLDER = "TESTS_TEMPLATES"
# `superset` has an environment and a command of its own.
FOLDERS = ("services", "acceptance", "integration", "unit")
# The longest begin first: whatever begins last is waited for.
FIRST = (
    *("services/doors/worker", "services/doors/tutor", "services/compose", "services/doors/events", "acceptance"),
    *("integration/copying", "integration/erasure", "services/doors/plugin", "integration/datasets"),
    *("integration/retirement", "services"),
)
ALL = "--all"
# Together they take twice as long as all the others.
LONG = (
    "acceptance/test_canary",
    "acceptance/test_demo",
    "acceptance/test_wheel",
    "integration/copying/test_sync",
    "integration/dashboards/test_bundle_sql",
    "integration/datasets/test_access_sql",
    "integration/datasets/test_build",
    "integration/datasets/test_learner_events",
    "integration/datasets/test_plain_dbt",
    "integration/datasets/test_unchanged",
    "integration/datasets/test_viewers",
    "integration/doors/cli/test_caution",
    "integration/doors/cli/test_commands",
    "integration/doors/cli/test_which_store",
    "integration/erasure/test_aspects",
    "integration/erasure/test_found_by_value",
    "integration/erasure/test_model",
    "integration/erasure/test_never_damage",
    "integration/ledger/test_files",
    "integration/ledger/test_forged",
    "integration/retirement/test_interleavings",
    "integration/retirement/test_names",
    "integration/rights/test_anonymise",
    "integration/rights/test_export",
    "integration/rights/test_restriction_datasets",
    "integration/rights/test_retention",
    "services/compose",
    "services/copying/test_engine_reading",
    "services/doors/events",
    "services/doors/plugin",
    "services/doors/tutor",
    "services/doors/web",
    "services/doors/worker/test_faults",
)
# Pytest's exit status where no test of a file was chosen, by `-k` for instance.
_NOTHING_CHOSEN = 5


@dataclass(frozen=True)
class Ran:
    """What pytest said of one file."""

    file: str
    output: str
    status: int
    seconds: float
    """Of processors, those of the processes that it started and waited for among them."""
    counts: dict[str, int]
    failed: list[str]
    """The tests that failed; the file itself where it did not come to its tests."""

    @property
    def is_green(self) -> bool:
        """True where everything that was chosen has passed or was skipped, saying why."""
        return self.status == _NOTHING_CHOSEN or (self.status == 0 and bool(self.counts))

    @property
    def closing_line(self) -> str:
        """The last line that pytest printed."""
        return (self.output.splitlines() or ["nothing was printed"])[-1].strip("= ")


def find_files(chosen: Sequence[str], *, everything: bool) -> list[str]:
    """The test files, those of the chosen files and folders if there are any; slow ones first."""
    files = [str(file.relative_to(ROOT)) for folder in FOLDERS for file in sorted((TESTS / folder).rglob("test_*.py"))]
    if chosen:
        wanted = [os.path.relpath(name, ROOT) for name in chosen if "::" not in name]
        files = [file for file in files if any(file == name or file.startswith(f"{name}/") for name in wanted)]
    else:
        files = list(dict.fromkeys(_find_process(file) for file in files if everything or not is_long(file)))
    # A test by its name is a run of its own.
    return [*(name for name in chosen if "::" in name), *sorted(files, key=_rank)]


def is_long(file: str) -> bool:
    """True for what only `--all` runs, or whoever names it."""
    return file.removeprefix("tests/").startswith(LONG)


def _find_process(file: str) -> str:
    """The folder whose files share a process with this one, or the file itself."""
    return str(Path(*Path(file).parts[:3])) if file.startswith("tests/unit/") else file


def _rank(file: str) -> int:
    return next((rank for rank, name in enumerate(FIRST) if file.startswith(f"tests/{name}/")), len(FIRST))


def run_file(file: str, options: Sequence[str]) -> Ran:
    """Run one file, with the options given to all."""
    with tempfile.TemporaryDirectory(prefix="aspects-pii-tests-") as cache:
        with subprocess.Popen(
            [sys.executable, "-m", "pytest", "-q", "-o", f"cache_dir={cache}", file, *options],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        ) as process:
            assert process.stdout is not None
            printed = process.stdout.read()
            _, status, used = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        noted = Path(cache, "v", "cache", "lastfailed")
        failed = sorted(json.loads(noted.read_text())) if noted.exists() else []
    output = printed.decode(errors="replace").rstrip()
    last = (output.splitlines() or [""])[-1]
    counts = {word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|skipped|error)", last)}
    return Ran(file, output, process.returncode, used.ru_utime + used.ru_stime, counts, failed or [file])


def run_files(files: list[str], options: Sequence[str]) -> Iterator[Ran]:
    """Run the files beside each other, and give each as it ends."""
    # Two more than there are cores: many of them wait, for a service or for a file to vanish.
    with ThreadPoolExecutor(max_workers=2 + (os.cpu_count() or 1)) as pool:
        for ended in as_completed([pool.submit(run_file, file, options) for file in files]):
            yield ended.result()


def report(ran: Ran) -> None:
    """A line for what is green, everything for what is not."""
    if ran.status == _NOTHING_CHOSEN:
        return
    if not ran.is_green:
        print(ran.output)
    print(f"{ran.file}: {ran.closing_line}, {ran.seconds:.0f} s of processors", flush=True)


def split_arguments(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Which files and folders are named, and what is for pytest.

    Every file would run with an option that is a misspelt file.
    """
    for argument in arguments:
        if argument.startswith("tests/") and not Path(argument.partition("::")[0]).exists():
            sys.exit(f"{argument} does not exist. Name a file or a folder of tests.")
    named = [argument for argument in arguments if Path(argument.partition("::")[0]).exists()]
    return named, [argument for argument in arguments if argument not in named]


def main(arguments: Sequence[str]) -> int:
    """Run what the arguments choose; the exit status."""
    with tempfile.TemporaryDirectory(prefix="aspects-pii-templates-") as templates:
        os.environ[FOLDER] = templates
        # Each process would compile every module again.
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        return run(arguments)


def run(arguments: Sequence[str]) -> int:
    """The same, with a place for what the processes share."""
    began = monotonic()
    everything = ALL in arguments
    named, options = split_arguments([argument for argument in arguments if argument != ALL])
    total: Counter[str] = Counter()
    again: list[Ran] = []
    for ran in run_files(find_files(named, everything=everything), options):
        report(ran)
        if ran.is_green:
            total.update(ran.counts)
        else:
            again.append(ran)
    flaky: list[str] = []
    broken: list[str] = []
    for before in again:
        print(f"{before.file} failed beside others, and runs once more alone.", flush=True)
        ran = run_file(before.file, options)
        report(ran)
        total.update(ran.counts)
        still = [] if ran.is_green else ran.failed
        broken += still
        flaky += [test for test in before.failed if test not in still]
    for word, tests in (("Flaky", flaky), ("Failed", broken)):
        for test in tests:
            print(f"{word}: {test}")
    if not everything and not named:
        print("What takes long was left out: make test ARGS=--all")
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"{monotonic() - began:.0f} s, {used.ru_utime + used.ru_stime:.0f} s of processors")
    print(f"{total['passed']} passed, {len(broken)} failed, {total['skipped']} skipped, {len(flaky)} flaky")
    return 1 if broken or not total["passed"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
