"""What became of retirements, as commands show it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sink.doors.cli.common import print_json
from sink.doors.cli.display import print_lines
from sink.retirement.batch import Outcome, Result


def show_outcomes(outcomes: Sequence[Outcome], as_json: bool) -> int:
    """Print what became of each, and return the exit status."""
    if as_json:
        print_json({"retirements": [describe_as_json(outcome) for outcome in outcomes]})
    else:
        for outcome in outcomes:
            print_lines([_describe_outcome(outcome)])
        done = sum(outcome.is_done for outcome in outcomes)
        print_lines(
            [f"{done} of {len(outcomes)} retirements are erased and verified." if outcomes else "Nothing is open."]
        )
    return 0 if all(outcome.is_done for outcome in outcomes) else 1


def describe_as_json(outcome: Outcome) -> dict[str, Any]:
    """One of the `retirements` of a document."""
    return {
        "subject": outcome.subject,
        "state": outcome.state,
        "rows": outcome.rows,
        "reason": outcome.reason or None,
        "receipt": outcome.receipt,
        "receipt_path": outcome.receipt_path,
    }


def _describe_outcome(outcome: Outcome) -> str:
    if outcome.state is Result.FAILED:
        return f"{outcome.subject}: failed, and stays open: {outcome.reason}"
    not_searched = f" But {outcome.reason}." if outcome.not_searched else ""
    if outcome.state is Result.ALREADY_ERASED:
        return f"{outcome.subject}: was erased before, and nothing came back.{not_searched}"
    what = "nothing was stored" if outcome.rows == 0 else f"{outcome.rows} rows erased"
    return f"{outcome.subject}: {what}. Receipt: {outcome.receipt_path}{not_searched}"
