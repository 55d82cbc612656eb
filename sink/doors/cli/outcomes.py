"""What became of retirements, as commands show it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from sink.doors.cli.common import print_json
from sink.doors.cli.display import print_lines
from sink.wording import choose, counted

if TYPE_CHECKING:
    from sink.retirement.batch import Outcome

_ADVICE = "Set ASPECTS_LMS_DATABASE_URL so that the LMS is asked for names, or look there by hand."


# So many ids stand in a line, and no more.
# What is said of one, and of several.
_FAILED = ("failed, and stays open", "{:,} failed, and stay open")
_ERASED_BEFORE = (
    "was erased before, and could not be looked at again",
    "{:,} were erased before, and could not be looked at again",
)
_SHOWN_SUBJECTS = 10


def show_outcomes(outcomes: Sequence[Outcome], as_json: bool, place: str) -> int:
    """Print what became of each in the store at `place`.

    Returns:
        The exit status: 1 also where somebody could not be looked for everywhere.
    """
    if as_json:
        print_json({"store": place, "retirements": [describe_as_json(outcome) for outcome in outcomes]})
    else:
        print_lines([_describe_outcome(outcome) for outcome in outcomes if outcome.is_done])
        print_lines(_describe_failed([outcome for outcome in outcomes if not outcome.is_done]))
        proved = sum(outcome.is_proved for outcome in outcomes)
        are = counted(len(outcomes), "retirement is", "retirements are")
        done = f"{proved:,} of {are} erased and verified on {place}."
        print_lines([done if outcomes else f"Nothing is open on {place}."])
        if gaps := sum(outcome.is_done and not outcome.is_proved for outcome in outcomes):
            print_lines([f"{gaps} could not be looked for everywhere. {_ADVICE}"])
        receipts = [outcome.receipt for outcome in outcomes if outcome.receipt]
        print_lines(describe_suspects({place for receipt in receipts for place in receipt.get("suspects", [])}))
    return 0 if all(outcome.is_proved for outcome in outcomes) else 1


def describe_as_json(outcome: Outcome) -> dict[str, Any]:
    """One of the `retirements` of a document."""
    return {
        "subject": outcome.subject,
        "state": outcome.state,
        "rows": outcome.rows,
        "reason": outcome.reason or None,
        "receipt": outcome.receipt,
        "receipt_path": outcome.receipt_path,
        "not_asked": list(outcome.not_asked),
    }


def describe_suspects(places: Collection[str]) -> list[str]:
    """What is said of columns outside the map; nothing where there are none."""
    if not places:
        return []
    are = choose(len(places), "is", "are")
    return [
        f"Not looked at: {', '.join(sorted(places))} may hold PII and {are} not in the PII map. Run `aspects-pii map check`."
    ]


def _describe_outcome(outcome: Outcome) -> str:
    text = _describe_state(outcome)
    if outcome.not_asked:
        text += f" Could not be looked for by name in {', '.join(outcome.not_asked)}: no name is known."
    return text


def _describe_failed(outcomes: Sequence[Outcome]) -> list[str]:
    """A line a reason: what stops a thousand retirements is said once."""
    by_reason: dict[tuple[str, bool], list[str]] = {}
    for outcome in outcomes:
        by_reason.setdefault((outcome.reason, outcome.was_erased), []).append(outcome.subject)
    lines = []
    for (reason, was_erased), subjects in by_reason.items():
        one, several = _ERASED_BEFORE if was_erased else _FAILED
        said = one if len(subjects) == 1 else several.format(len(subjects))
        lines.append(f"{list_subjects(subjects)}: {said}: {reason}")
    return lines


def list_subjects(subjects: Sequence[Any]) -> str:
    """Some ids, and how many more there are."""
    shown = ", ".join(map(str, subjects[:_SHOWN_SUBJECTS]))
    more = len(subjects) - _SHOWN_SUBJECTS
    return f"{shown} and {more:,} more" if more > 0 else shown


def _describe_state(outcome: Outcome) -> str:
    from sink.retirement.batch import Result

    not_searched = f" But {outcome.reason}." if outcome.not_searched else ""
    if outcome.state is Result.ALREADY_ERASED:
        return f"{outcome.subject}: was erased before, and nothing came back.{not_searched}"
    what = "nothing was stored" if outcome.rows == 0 else f"{counted(outcome.rows, 'row')} erased"
    return f"{outcome.subject}: {what}. Receipt: {outcome.receipt_path}{not_searched}"
