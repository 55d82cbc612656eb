"""How far long work has got. Whoever works says it here; whoever has started the work may listen.

Work that nobody listens to costs nothing, and no function has to hand a listener on.

.. no_pii: names of stages, and counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

T = TypeVar("T")

Listener = Callable[[str, int, int, str], None]
"""Takes the stage, how many things are done, how many there are, and what they are called."""

_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Have `listener` told of the work inside, in this thread."""
    before = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(before)


def tell(stage: str, done: int, total: int, things: str) -> None:
    """Say how far a stage has got."""
    listener = _listener.get()
    if listener is not None:
        listener(stage, done, total, things)


def track(stage: str, items: Iterable[T], things: str) -> Iterator[T]:
    """The same items, saying after each how many are done: `for table in track("verifying", tables, "tables")`."""
    todo: Sequence[T] = items if isinstance(items, Sequence) else list(items)
    for done, item in enumerate(todo):
        tell(stage, done, len(todo), things)
        yield item
    if todo:
        tell(stage, len(todo), len(todo), things)
