"""The files of tests that only `make test ARGS=--all` runs."""

from __future__ import annotations

import pytest

from tests.each_file import ALL, LONG, TESTS, find_files, is_long
from tests.support.paths import ROOT


@pytest.mark.parametrize("name", LONG)
def test_what_takes_long_is_there(name: str) -> None:
    assert list(TESTS.glob(f"{name}*"))


def test_everything_is_run_by_ci_and_the_rest_by_whoever_does_not_ask() -> None:
    everything = find_files([], everything=True)
    quick = find_files([], everything=False)
    assert set(quick) == {file for file in everything if not is_long(file)}
    assert 0 < len(quick) < len(everything)
    named = find_files([str(TESTS / "acceptance" / "test_canary.py")], everything=False)
    assert named == ["tests/acceptance/test_canary.py"]
    assert f"make test ARGS={ALL}" in (ROOT / ".ci" / "run").read_text()
