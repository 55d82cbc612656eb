"""What is asked before a retirement is recorded, since nothing takes it back: of the LMS, and of whoever sits there.

.. no_pii: opaque user ids and counts.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

from sink.doors.cli.outcomes import list_subjects
from sink.errors import LmsError, UsageError
from sink.wording import counted

if TYPE_CHECKING:
    from sink.pii_map import SubjectId
    from sink.retirement.plan import Planned
    from sink.settings import Settings
    from sink.store import Store


def require_known(store: Store, settings: Settings, subjects: Sequence[SubjectId], planned: Planned) -> None:
    """Make sure that every id is somebody's: in the LMS, in a table of the map, or in the ledger.

    The LMS is asked only for those of whom nothing is here, so that a retirement does not wait for it otherwise.

    Raises:
        UsageError: ids are nobody's; lists them.
        LmsError: the LMS cannot be asked.
    """
    from sink.installation import find_lms
    from sink.retirement.unknown import find_strangers, find_without_trace

    strangers = find_without_trace(store, subjects, planned)
    lms = find_lms(settings) if strangers else None
    if lms is not None:
        try:
            strangers = find_strangers(lms, strangers)
        except LmsError as error:
            raise type(error)(
                f"Nothing was recorded: {store.name} holds nothing of {list_subjects(strangers)}, and the LMS cannot be "
                f"asked. {error} If the ids are right, insist with --unknown."
            ) from None
    if strangers:
        nobody = f"{store.name} holds nothing of {list_subjects(strangers)}"
        nobody += ", and the LMS does not know the ids" if lms is not None else ""
        raise UsageError(
            f"Nothing was recorded: {nobody}. Whoever gets such an id later would never be copied. Correct the ids, or "
            "insist with --unknown."
        )


def confirm_retirement(count: int, place: str) -> None:
    """Ask whoever sits at the terminal; a script is not asked.

    Raises:
        typer.Abort: they do not want it.
    """
    if sys.stdin.isatty() and sys.stdout.isatty():
        people = counted(count, "person", "people")
        typer.confirm(f"Retire {people} on {place}? This cannot be undone.", abort=True, err=True)
