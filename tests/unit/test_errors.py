"""A driver's exception leaves nothing behind in the one that is raised in its place."""

from __future__ import annotations

import traceback

import pytest
from pydantic import SecretStr

from sink.doors.events.redis_streams import RedisStreams
from sink.errors import LmsError, StreamsUnreachableError, translated


def translate(error: Exception) -> LmsError | None:
    return LmsError("The LMS database refused a query.") if isinstance(error, ValueError) else None


def test_what_is_raised_has_neither_cause_nor_context() -> None:
    with pytest.raises(LmsError) as raised, translated(translate):
        raise ValueError("Jane Doe")
    assert (raised.value.__cause__, raised.value.__context__) == (None, None)
    assert "Jane Doe" not in "".join(traceback.format_exception(raised.value))


def test_what_is_not_translated_stays_as_it_is() -> None:
    with pytest.raises(KeyError, match="a key") as raised, translated(translate):
        raise KeyError("a key")
    assert raised.value.__context__ is None


def test_what_succeeds_returns() -> None:
    def run() -> int:
        with translated(translate):
            return 1

    assert run() == 1


def test_a_driver_is_not_the_context_of_what_its_streams_raise() -> None:
    streams = RedisStreams(
        SecretStr("redis://:a-secret@127.0.0.1:1/0"), ["s"], group="g", consumer="c", dead_letters="d"
    )
    with pytest.raises(StreamsUnreachableError) as raised:
        streams.prepare()
    assert raised.value.__context__ is None
