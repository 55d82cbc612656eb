"""Ctrl-C in the middle of work: what is recorded by then, and what goes on with it.

The embedded engine (seen: chDB 26.9) ends the statement that is under way first; a connection can be asked afterwards.

.. no_pii: counts, and the name of the store.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

from sink.errors import AspectsPiiError
from sink.wording import counted

if TYPE_CHECKING:
    from sink.store import Store


@contextmanager
def stopping_with(store: Store, describe: Callable[[Store], str]) -> Iterator[None]:
    """Where somebody stops what is done inside, say what is recorded and how it goes on.

    Raises:
        typer.Abort: somebody has stopped it; with what there is to say.
    """
    try:
        yield
    except KeyboardInterrupt:
        try:
            said = describe(store)
        except AspectsPiiError:
            said = f"{store.name} cannot tell what is recorded. `aspects-pii status` says it, and `aspects-pii sweep` goes on."
        raise typer.Abort(f"Stopped. {said}") from None


def describe_open(store: Store) -> str:
    """What a command that retires leaves."""
    count = len(store.ledger.find_open())
    if not count:
        return f"No retirement is recorded and open on {store.name}."
    retirements = counted(count, "retirement is", "retirements are")
    return f"{retirements} recorded and open on {store.name}; `aspects-pii sweep` goes on."


def describe_repeated(command: str) -> Callable[[Store], str]:
    """What a command leaves that finds its people anew each time, and passes over those who are erased."""
    return lambda store: f"{describe_open(store)} Then run `aspects-pii {command}` again."


def describe_copied(store: Store) -> str:
    """What a copy leaves."""
    return f"What was copied to {store.name} stays there; `aspects-pii sync` goes on."


def describe_purged(store: Store) -> str:
    """What a purge leaves."""
    from sink.retirement.status import find_unfinished_purge

    if find_unfinished_purge(store) is None:
        return f"No purge of {store.name} has begun."
    return f"The purge of {store.name} has begun, which is recorded, and has not ended; `aspects-pii purge` goes on."
