"""How `aspects-pii doctor` looks: check by check, each with a time of its own, and nothing that was not looked at is fine.

.. no_pii: names of settings and tables, counts, and what is wrong with an installation.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from enum import StrEnum

from sink.errors import AspectsPiiError


class State(StrEnum):
    """What came of a look."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"
    NOT_LOOKED_AT = "not looked at"


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    what: str
    """What was looked at."""
    state: State
    said: str
    """What was seen, or why nothing was."""
    fix: str = ""
    area: str = ""


def fine(what: str, said: str) -> Finding:
    """It is as it should be."""
    return Finding(what, State.OK, said)


def warn_of(what: str, said: str, fix: str) -> Finding:
    """It works, and should be seen to."""
    return Finding(what, State.WARNING, said, fix)


def blame(what: str, said: str, fix: str) -> Finding:
    """It does not work."""
    return Finding(what, State.PROBLEM, said, fix)


def pass_over(what: str, said: str, fix: str = "") -> Finding:
    """It is not configured, so there is nothing to look at."""
    return Finding(what, State.NOT_LOOKED_AT, said, fix)


@dataclass(frozen=True)
class Check:
    """One look at something."""

    what: str
    look: Callable[[], Finding | Sequence[Finding]]
    """Looks, and raises one of our errors where it cannot."""
    fix: str = ""
    """What helps where it raises."""
    is_needed: bool = False
    """Whether without it the checks that follow have nothing to look at."""


@dataclass(frozen=True)
class Area:
    """Checks of one thing, one after the other. What they open they close, by `closing`."""

    name: str
    checks: Sequence[Check]
    closing: ExitStack


def examine(area: Area, seconds: float) -> Iterator[Finding]:
    """Carry out the checks of an area, in a thread that is left behind where one of them does not end.

    Args:
        area: what to look at.
        seconds: the time that each check has.
    """
    answers: queue.Queue[list[Finding]] = queue.Queue()
    thread = threading.Thread(target=_look_at_all, args=(area, answers), name=f"doctor: {area.name}", daemon=True)
    thread.start()
    for number, check in enumerate(area.checks):
        try:
            found = answers.get(timeout=seconds)
        except queue.Empty:
            said = f"It gave no answer within {seconds:g} s."
            yield replace(blame(check.what, said, check.fix or "Look again with a longer --timeout."), area=area.name)
            for later in area.checks[number + 1 :]:
                yield replace(pass_over(later.what, f"The check before still waits: {check.what}."), area=area.name)
            return
        yield from (replace(finding, area=area.name) for finding in found)
    thread.join(timeout=seconds)


def _look_at_all(area: Area, answers: queue.Queue[list[Finding]]) -> None:
    missing = ""
    with area.closing:
        for check in area.checks:
            if missing:
                answers.put([pass_over(check.what, f"{area.name}, {missing}: that has to be ok first.")])
                continue
            found = _look(check)
            if check.is_needed and any(finding.state is State.PROBLEM for finding in found):
                missing = check.what
            answers.put(found)


def _look(check: Check) -> list[Finding]:
    try:
        found = check.look()
    except AspectsPiiError as error:
        return [blame(check.what, str(error), check.fix)]
    except Exception as error:
        # Whatever it is, its text may quote anything.
        return [blame(check.what, f"It could not be looked at ({type(error).__name__}).", check.fix)]
    return [found] if isinstance(found, Finding) else list(found)
