"""A batch of retirements on its way: who is pending still, and what became of the others."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from sink.errors import LedgerError
from sink.ledger.entries import Action, Retirement, State
from sink.pii_map import SubjectId
from sink.store import Store

# .. no_pii: opaque user ids, reasons that name tables, receipts.

# What the next entry of a retirement repeats, since only the last one is looked at.
_CARRIED = ("elsewhere", "covered_elsewhere")


UNREADABLE = (
    "this is no id by `subject.type` of the PII map, so nobody can be looked for. Put `subject.type` right, or see "
    "`aspects-pii ledger check`"
)
"""Why a retirement fails whose subject the map cannot read."""


class Result(StrEnum):
    """How a retirement ended this time."""

    ERASED = "erased"
    ALREADY_ERASED = "already erased"
    """A repetition that found nothing."""
    FAILED = "failed"


@dataclass(frozen=True)
class Outcome:
    """What became of one retirement."""

    subject: str
    state: Result
    rows: int = 0
    reason: str = ""
    receipt: dict[str, Any] | None = None
    receipt_path: Path | None = None
    not_asked: Sequence[str] = ()
    """Tables where the subject could not be looked for, since no name is known."""
    not_searched: bool = False
    """True where texts were to be searched for the subject and nobody knows a name; `reason` says so."""
    was_erased: bool = False
    """True where this attempt failed and the proof of an earlier one stands: the ledger still says `erased`."""

    @property
    def is_done(self) -> bool:
        """True where the retirement is closed: nothing of the subject is left wherever could be looked."""
        return self.state is not Result.FAILED

    @property
    def is_proved(self) -> bool:
        """True where, beyond that, could be looked everywhere."""
        return self.is_done and not self.not_asked and not self.not_searched


class Batch:
    """Retirements that go through the steps together; whoever a step ends leaves it with an outcome."""

    def __init__(self, store: Store, retirements: Sequence[Retirement]) -> None:
        """Begin with all of them pending; the map can read their ids."""
        self._store = store
        self._subjects: dict[str, SubjectId] = {}
        self.pending: dict[str, Retirement] = {}
        """By subject, in the order given."""
        self.outcomes: dict[str, Outcome] = {}
        """By subject: of everybody who is not pending any more."""
        for retirement in retirements:
            self.pending[retirement.subject] = retirement
            self._subjects[retirement.subject] = store.pii_map.subject.parse(retirement.subject)

    @property
    def subjects(self) -> list[SubjectId]:
        """Who is pending, as the map reads ids."""
        return self.parse(self.pending)

    def parse(self, subjects: Sequence[str] | Mapping[str, Any]) -> list[SubjectId]:
        """Some of the batch, as the map reads ids."""
        return [self._subjects[subject] for subject in subjects]

    def finish(self, outcome: Outcome) -> None:
        """Say what became of a pending retirement."""
        del self.pending[outcome.subject]
        self.outcomes[outcome.subject] = outcome

    def reopen(self, reason: str) -> None:
        """Record that those who were proved before are open again: rows of theirs are there.

        Raises:
            LedgerError: they may still count as closed.
        """
        self._store.ledger.reopen(self.pending.values(), reason)
        for subject, retirement in self.pending.items():
            if not retirement.is_open:
                self.pending[subject] = replace(retirement, state=State.REOPENED)

    def fail(self, reasons: Mapping[str, str], elsewhere: Mapping[str, Mapping[str, list[str]]] | None = None) -> None:
        """Record that pending retirements failed; they stay open.

        Args:
            reasons: why, by subject.
            elsewhere: by subject, what the next pass has to look at again of the places that name the subject.
        """
        if not reasons:
            return
        places = elsewhere or {}
        failed = [self.pending[subject] for subject in reasons]
        # Where the ledger cannot be written the retirement is still open in it; only the reason is lost.
        with contextlib.suppress(LedgerError):
            self._store.ledger.record(
                Action.FAILED,
                [
                    (
                        r.subject,
                        r.request,
                        {
                            **carry_over(r),
                            **places.get(r.subject, {}),
                            "reason": reasons[r.subject],
                        },
                    )
                    for r in failed
                ],
            )
        for retirement in failed:
            self.finish(Outcome(retirement.subject, Result.FAILED, reason=reasons[retirement.subject]))

    def fail_pending(self, reason: str, *, recorded: bool = True) -> None:
        """Everybody who is pending failed for the same reason; whoever was proved before, and not reopened, stays proved.

        Args:
            reason: why.
            recorded: write it down; not where the ledger is what failed.
        """
        self._stop(dict.fromkeys(self.pending, reason), recorded=recorded)

    def _stop(self, reasons: Mapping[str, str], *, recorded: bool = True) -> None:
        """Nothing was found out about these. That opens no retirement that is proved, and moves nobody on who is open."""
        if recorded:
            self.fail({subject: reason for subject, reason in reasons.items() if self.pending[subject].is_open})
        for subject, reason in reasons.items():
            if subject in self.pending:
                was_erased = not self.pending[subject].is_open
                self.finish(Outcome(subject, Result.FAILED, reason=reason, was_erased=was_erased))


def fail_unreadable(subject: str) -> Outcome:
    """What becomes of a retirement whose subject the map cannot read.

    What steps and proofs find is found under the id as the map writes it: who is written otherwise in the ledger would be
    looked for, and never found. It is not written down, since one more entry could be no more right than the others.
    """
    return Outcome(subject, Result.FAILED, reason=UNREADABLE)


def carry_over(retirement: Retirement) -> dict[str, Any]:
    """What the next entry of a retirement has to repeat."""
    return {name: retirement.detail[name] for name in _CARRIED if name in retirement.detail}
