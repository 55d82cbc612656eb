"""The page for the data protection officer, without a store: its sessions and its two languages."""

from __future__ import annotations

import re
from collections.abc import Mapping

import pytest

from sink.doors.web.privacy.sessions import IDLE_SECONDS, LONGEST_SECONDS, Sessions
from sink.doors.web.privacy.words import WORDS, choose_language
from sink.ledger.entries import State
from sink.rights.words import Language

# The same word in both languages.
SAME = {"error", "no"}


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def test_a_session_ends_after_a_while_without_a_request() -> None:
    sessions = Sessions(clock := Clock())
    secret = sessions.begin("17")
    for _ in range(3):
        clock.now += IDLE_SECONDS - 1
        session = sessions.find(secret)
        assert session is not None
        assert session.actor == "17"
    clock.now += IDLE_SECONDS
    assert sessions.find(secret) is None


def test_a_session_ends_in_any_case() -> None:
    sessions = Sessions(clock := Clock())
    secret, short = sessions.begin("17"), sessions.begin("18", lasts=60)
    clock.now += 61
    assert sessions.find(short) is None
    for _ in range(LONGEST_SECONDS // 600 - 1):
        clock.now += 600
        assert sessions.find(secret) is not None
    clock.now += 600
    assert sessions.find(secret) is None


def test_sessions_are_apart() -> None:
    sessions = Sessions()
    first, second = sessions.begin("17"), sessions.begin("17")
    one, other = sessions.find(first), sessions.find(second)
    assert one is not None
    assert other is not None
    assert first != second
    assert one.form_token != other.form_token
    sessions.end(first)
    assert sessions.find(first) is None
    assert sessions.find(second) is other
    assert sessions.find("") is None
    assert one.form_token not in repr(one)


def test_so_many_are_signed_in_at_most_and_the_one_who_was_away_longest_goes() -> None:
    sessions = Sessions(clock := Clock())
    secrets = []
    for _ in range(201):
        clock.now += 1
        secrets.append(sessions.begin("17"))
    assert sessions.find(secrets[0]) is None
    assert all(sessions.find(secret) for secret in secrets[1:])


def test_both_languages_say_everything() -> None:
    english, spanish = WORDS[Language.ENGLISH], WORDS[Language.SPANISH]
    assert set(WORDS) == set(Language)
    assert len(vars(english)) > 80
    for name, text in vars(english).items():
        other = getattr(spanish, name)
        pairs = [(text[key], other[key]) for key in text] if isinstance(text, Mapping) else [(text, other)]
        for one, another in pairs:
            assert name in SAME or one != another, name
            assert set(re.findall(r"{\w+}", one)) == set(re.findall(r"{\w+}", another)), name
        if isinstance(text, Mapping):
            assert set(text) == set(other)
    for words in WORDS.values():
        assert set(words.states) == set(State)
        assert set(words.languages) == set(Language)


@pytest.mark.parametrize(
    ("accepted", "language"),
    [
        ("", "en"),
        ("es", "es"),
        ("ES-mx;q=0.3", "es"),
        ("de,en;q=0.5,es;q=0.7", "es"),
        ("es;q=0,en;q=0.1", "en"),
        ("es;q=x, *", "en"),
        ("es;q=nan", "en"),
    ],
)
def test_the_language_is_the_one_that_the_browser_likes_best(accepted: str, language: str) -> None:
    assert choose_language(accepted) == language
