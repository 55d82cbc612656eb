"""`aspects-pii doctor`: everything that goes wrong on a first day, line by line, each with its fix.

.. no_pii: what is wrong with an installation, without a secret.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from sink.doors.cli.common import Format, FormatOption, Json, print_json
from sink.doors.cli.display import print_lines
from sink.doors.cli.effective import find_env_file
from sink.doors.cli.speech import get_speech
from sink.errors import AspectsPiiError
from sink.wording import counted

if TYPE_CHECKING:
    from sink.doors.cli.checks.examination import Finding, State

commands = typer.Typer()


@commands.command("doctor")
def doctor_command(
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds that each check has.")] = 20.0,
    form: FormatOption = Format.TEXT,
    as_json: Json = False,
) -> int:
    """Look at everything that goes wrong on a first day: databases, services, folders, keys. Say how to mend it.

    It changes nothing. Exit status: 0 where there is no problem (there may be warnings), 1 where there is one, 2 where
    a setting is not valid, and then nothing else was looked at.
    """
    from sink.doors.cli.checks.examination import State

    is_text = form is Format.TEXT and not as_json
    found, status = [], 0
    for finding in _look(timeout):
        found.append(finding)
        if finding.area == _SETTINGS and finding.state is State.PROBLEM:
            status = 2
        elif finding.state is State.PROBLEM:
            status = max(status, 1)
        if is_text and not (get_speech().quiet and finding.state is State.OK):
            print_lines(_describe(finding))
    counts = Counter(finding.state for finding in found)
    if is_text:
        print_lines(["", _summarise(counts)])
    else:
        by_state = {state.value: counts[state] for state in State}
        print_json({"healthy": status == 0, "counts": by_state, "checks": [asdict(finding) for finding in found]})
    return status


_SETTINGS = "settings"
_FIX = "Correct it. `aspects-pii config example FILE` writes every setting, with an example."


def _look(timeout: float) -> Iterator[Finding]:
    from sink.doors.cli.checks.clickhouse import describe_clickhouse
    from sink.doors.cli.checks.examination import Finding, State, examine
    from sink.doors.cli.checks.files import describe_files
    from sink.doors.cli.checks.lms import describe_lms
    from sink.doors.cli.checks.services import describe_services
    from sink.settings import load_settings

    try:
        settings = load_settings()
    except AspectsPiiError as error:
        for line in str(error).splitlines():
            yield Finding(
                "valid",
                State.PROBLEM,
                line,
                _FIX,
                _SETTINGS,
            )
        said = "The settings have to be valid first."
        for area in ("this host", "ClickHouse", "LMS", "broker", "event bus", "Superset", "HTTP hook"):
            yield Finding("everything", State.NOT_LOOKED_AT, said, area=area)
        return
    env_file = find_env_file()
    where = f"the environment and {env_file}" if env_file else "the environment; no .env file is here"
    yield Finding("valid", State.OK, f"from {where}", area=_SETTINGS)
    for part in (
        describe_files(settings),
        describe_clickhouse(settings),
        describe_lms(settings),
        *describe_services(settings),
    ):
        yield from examine(part, timeout)


def _describe(finding: Finding) -> list[str]:
    """One line, and the fix below it."""
    line = f"{finding.state.value:<13}  {finding.area}, {finding.what}: {finding.said}"
    fix = f"{'':<13}  Fix: {finding.fix}"
    return [line, fix] if finding.fix else [line]


def _summarise(counts: Counter[State]) -> str:
    from sink.doors.cli.checks.examination import State

    problems, warnings = counted(counts[State.PROBLEM], "problem"), counted(counts[State.WARNING], "warning")
    skipped = counts[State.NOT_LOOKED_AT]
    return f"{problems}, {warnings}, {counts[State.OK]} ok, {skipped} not looked at."
