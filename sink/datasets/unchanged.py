"""Whether a build would make what is there already, and the note by which the next one knows.

.. no_pii: digests and times.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from sink.clickhouse.client import ClickHouse
from sink.datasets.build_note import Run, drop_note, read_note
from sink.datasets.inputs import BUILT, Relations, digest_inputs, read_relations, require_answers
from sink.errors import DatabaseError


@dataclass(frozen=True)
class Plan:
    """What is to be built, and where."""

    client: ClickHouse
    environment: Mapping[str, str]
    """What dbt is told."""
    variables: str | None
    """The `--vars` of a build of everything; None for one of a part."""

    def digest(self, relations: Relations) -> dict[str, str]:
        """What the datasets are built from, and how they stand."""
        return digest_inputs(self.client, relations, self.environment, self.variables or "")

    def read_relations(self) -> Relations:
        """Look at what is there."""
        return read_relations(self.client, self.environment)


def is_unchanged(plan: Plan, report: Callable[[str], None]) -> bool:
    """Whether everything is as the last build of everything has left it. Reports that it is, or what is not."""
    if plan.variables is None:
        return False
    try:
        note = read_note(plan.client)
        if note is None or not note.at:
            return False
        relations = plan.read_relations()
        changed = [what for what, digest in plan.digest(relations).items() if note.digests.get(what) != digest]
        if changed:
            report(f"Changed since the build of {note.at} UTC: {', '.join(changed)}.")
            return False
        require_answers(plan.client, relations)
    except DatabaseError as error:
        report(f"It cannot be told that nothing has changed, so everything is built: {error}")
        return False
    report(
        f"Nothing has changed since the build of {note.at} UTC, so nothing was built, and no data test was run. "
        "`aspects-pii build --force` builds and tests everything; `aspects-pii build --select test_type:data` runs the data "
        "tests alone."
    )
    return True


@contextmanager
def noting(plan: Plan, report: Callable[[str], None]) -> Iterator[None]:
    """Note that dbt is at work and, once it has ended well, from what it has built everything."""
    try:
        run = Run(plan.client)
        # What changes while dbt is at work counts as changed since.
        before = plan.digest(plan.read_relations()) if plan.variables is not None else {}
    except DatabaseError as error:
        report(f"The next build builds everything again, since nothing can be noted beside the datasets: {error}")
        yield
        return
    try:
        yield
    except BaseException:
        with suppress(DatabaseError):
            drop_note(plan.client)
        raise
    try:
        run.succeed(before and {**before, BUILT: plan.digest(plan.read_relations())[BUILT]})
    except DatabaseError as error:
        report(f"The next build builds everything again, since this one could not be noted: {error}")
