"""The question about the profile's settings, which the profile itself could cut."""

from __future__ import annotations

import re

from sink.clickhouse.query_settings import _QUESTION, _SAID, NEEDED


def test_question_says_what_it_needs_itself() -> None:
    said = dict(re.findall(r"(\w+) = '?([^',]*)'?", _QUESTION.partition(" SETTINGS ")[2]))
    assert said == {name: NEEDED[name] for name in _SAID}
    assert len(said) == 7
