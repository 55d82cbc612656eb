"""`aspects-pii demo`: the whole story on generated data, with the commands that an operator would type.

.. no_pii: The people are generated.
"""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sink.clickhouse.client import ClickHouse
from sink.demo_data.events import (
    COURSE_ENROLLMENT_COLUMNS,
    COURSE_OVERVIEW_COLUMNS,
    course_enrollment_rows,
    course_overview_rows,
    event_rows,
)
from sink.demo_data.lms import create_lms
from sink.demo_data.lms_description import DemoLms
from sink.doors.cli.display import print_lines, print_table, say
from sink.errors import DemoError, UsageError
from sink.installation import open_store
from sink.settings import load_settings
from sink.wording import counted

# By this file the demo knows a folder as its own, and may remove it.
_MARK = ".made-by-aspects-pii-demo"
_SHOWN_LEARNERS = 5
_RETIRED_LEARNERS = 3
_NUMBERS = {1: "One", 2: "Two", 3: "Three"}


Run = Callable[[Sequence[str]], int]


class _Interrupted(BaseException):
    """Ctrl-C or SIGTERM. No KeyboardInterrupt: the command that is running would take that for its own end."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class _Interruption:
    """Stops the story at the first signal; further ones change nothing, so that what it made is removed whole."""

    def __init__(self) -> None:
        self._came = 0
        self._has_ended = False

    def handle(self, number: int, _frame: Any) -> None:
        """The signal handler."""
        if not self._came and not self._has_ended:
            self._came = number
            raise _Interrupted(number)

    def end(self) -> None:
        """From now on signals change nothing."""
        self._has_ended = True

    def check(self) -> None:
        """Stop here where the exception was lost on its way, as it is in what Python calls while it tidies up."""
        if self._came:
            raise _Interrupted(self._came)


@dataclass(frozen=True)
class _Shell:
    """Where the commands of the story are typed."""

    run: Run
    interruption: _Interruption

    def type(self, *arguments: str, expected: int = 0) -> None:
        """Show a command, run it, and make sure that it ends as the story says."""
        print_lines([f"$ aspects-pii {' '.join(arguments)}"])
        status = self.run(arguments)
        self.interruption.check()
        if status != expected:
            raise DemoError(f"aspects-pii {' '.join(arguments)} ended with status {status} instead of {expected}.")
        if expected:
            print_lines([f"(exit status {status})"])


def run_demo(run: Run, folder: Path, *, users: int, seed: int, keep: bool) -> int:
    """Tell the story; everything lies in `folder`, which is removed at the end unless `keep`. Returns the exit status.

    Args:
        run: runs a command as an operator types it, and returns its exit status.
        folder: where everything goes.
        users: users of the generated LMS.
        seed: the same seed makes the same data.
        keep: leave the folder.

    Raises:
        UsageError: the folder exists and is not the demo's.
        DemoError: a step of the story ended otherwise than it should.
    """
    started = time.monotonic()
    folder = _prepare_folder(folder)
    try:
        with _interruptible() as interruption, _environment(folder):
            try:
                _run_story(_Shell(run, interruption), folder, users, seed)
            finally:
                interruption.end()
                if not keep:
                    shutil.rmtree(folder)
    except _Interrupted as stop:
        say(f"Stopped. {_tell_where(folder, keep)}")
        return 128 + stop.number
    print_lines(["", f"Done in {time.monotonic() - started:.0f} s. {_tell_where(folder, keep)}"])
    return 0


def _tell_where(folder: Path, keep: bool) -> str:
    if keep:
        return f"Everything is in {folder}. Remove it with: rm -r {folder}"
    return f"Everything was in {folder}. It is removed; --keep leaves it for a look around."


def _run_story(shell: _Shell, folder: Path, users: int, seed: int) -> None:
    _print_heading("1", f"An LMS with {users:,} users, and the events of their learning")
    lms = create_lms(f"sqlite:///{folder}/lms.sqlite3", users=users, seed=seed)
    shell.type("init")
    events = _load_aspects(lms)
    made = [counted(users, "user"), counted(len(lms.courses), "course"), counted(events, "anonymised event")]
    print_lines([f"{', '.join(made)} (seed {seed})."])

    _print_heading("2", "Off means off")
    shell.type("sync", expected=3)

    _print_heading("3", "The operator opts in, copies and builds")
    os.environ["ASPECTS_ENABLE_PII"] = "true"
    shell.type("sync")
    shell.type("build", "--quiet")
    shell.type("map", "check")

    course = lms.courses[0].key
    _print_heading("4", "What the dashboard Learners to reach shows an instructor")
    shown = _show_learners_to_reach(course)
    if not shown:
        raise DemoError("The dataset shows no learner.")
    learners = [row[0] for row in shown[:_RETIRED_LEARNERS]]

    _print_heading("5", f"{_NUMBERS[len(learners)]} of them leave, and want to be forgotten")
    shell.type("retire", *learners)
    shell.type("verify", *learners)

    _print_heading("6", "The same dashboard: the retired are gone, and the LMS cannot bring them back")
    shell.type("sync")
    left = _show_learners_to_reach(course)
    if {row[0] for row in left} & set(learners):
        raise DemoError("A retired learner is in the dataset.")
    _check_events(events)

    _print_heading("7", "The receipt for the data protection officer")
    shell.type("receipt", "show", learners[0])

    _print_heading("8", "The operator opts out")
    os.environ["ASPECTS_ENABLE_PII"] = "false"
    shell.type("purge", "--yes")
    _check_events(events)
    shell.type("status")

    _print_heading("9", "The same dashboard goes on, with pseudonyms")
    shell.type("build", "--quiet")
    named = {row[1] for row in shown + left}
    if named & {row[1] for row in _show_learners_to_reach(course)}:
        raise DemoError("The dataset names people although PII is off.")
    print_lines(
        ["These are the actors of the anonymised events, which stay. Nothing leads from them to a person any more."]
    )


def _load_aspects(lms: DemoLms) -> int:
    """What Aspects would have put into ClickHouse; returns the number of events."""
    with open_store(load_settings()) as store:
        client = store.client
        for enrolments in course_enrollment_rows(lms):
            client.insert(client.table("event_sink.course_enrollment"), COURSE_ENROLLMENT_COLUMNS, enrolments)
        overviews = course_overview_rows(lms)
        client.insert(client.table("event_sink.course_overviews"), COURSE_OVERVIEW_COLUMNS, overviews)
        for events in event_rows(lms):
            client.insert(client.table("xapi.xapi_events_all"), ("event_id", "emission_time", "event"), events)
        return _count_events(client)


def _count_events(client: ClickHouse) -> int:
    return int(client.value("SELECT count() FROM $xapi.xapi_events_all"))


def _check_events(expected: int) -> None:
    with open_store(load_settings()) as store:
        found = _count_events(store.client)
    if found != expected:
        raise DemoError(f"There were {counted(expected, 'event')}, and there are {found:,}.")
    print_lines([f"{counted(found, 'event')}, as before."])


def _show_learners_to_reach(course: str) -> list[tuple[str, ...]]:
    """The learners of a course who were absent longest, as (id, name, e-mail, days absent, last visit, grade)."""
    with open_store(load_settings()) as store:
        rows = store.client.rows(
            """
            SELECT
                learner_key, name, email, toString(days_absent), toString(toDate(last_visit_at)),
                if(grade IS NULL, '-', concat(toString(round(100 * assumeNotNull(grade))), ' %'))
            FROM $reporting.learners_at_risk
            WHERE course_key = {course:String} ORDER BY days_absent DESC, learner_key LIMIT {limit:UInt32}
            """,
            course=course,
            limit=_SHOWN_LEARNERS,
        )
    print_lines(["$ SELECT … FROM reporting.learners_at_risk", f"WHERE course_key = '{course}'"])
    print_table(("learner", "name", "e-mail", "days absent", "last visit", "grade"), rows)
    return rows


def _print_heading(number: str, title: str) -> None:
    print_lines(["", f"{number}. {title}", "-" * (len(title) + len(number) + 2)])


def _prepare_folder(folder: Path) -> Path:
    folder = folder.resolve()
    if folder.exists():
        if not (folder / _MARK).exists() and any(folder.iterdir()):
            raise UsageError(f"--folder {folder}: it exists and is not the demo's. Name another one.")
        shutil.rmtree(folder)
    try:
        folder.mkdir(mode=0o700, parents=True)
        (folder / _MARK).touch()
    except OSError as error:
        raise UsageError(
            f"--folder {folder}: it cannot be made: {error.strerror}. Name one in a folder of yours."
        ) from None
    return folder


@contextmanager
def _interruptible() -> Iterator[_Interruption]:
    interruption = _Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield interruption
        return
    before = {number: signal.signal(number, interruption.handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interruption
    finally:
        for number, original in before.items():
            signal.signal(number, original)


@contextmanager
def _environment(folder: Path) -> Iterator[None]:
    """Settings of the demo alone: none of the operator's reach it, and none of its are left behind."""
    before, worked_in = dict(os.environ), Path.cwd()
    # A `.env` is read from the working directory, and may name a production server.
    os.chdir(folder)
    for name in _list_settings(before):
        del os.environ[name]
    os.environ["ASPECTS_CLICKHOUSE_URL"] = f"chdb://{folder}/clickhouse"
    os.environ["ASPECTS_LMS_DATABASE_URL"] = f"sqlite:///{folder}/lms.sqlite3"
    os.environ["ASPECTS_RECEIPTS_DIR"] = str(folder / "receipts")
    os.environ["ASPECTS_PSEUDONYM_SECRET"] = "a secret of the demo"  # noqa: S105 - it protects generated people
    try:
        yield
    finally:
        os.chdir(worked_in)
        os.environ.clear()
        os.environ.update(before)


def _list_settings(environment: Sequence[str] | dict[str, str]) -> list[str]:
    return [name for name in environment if name.startswith("ASPECTS_")]
