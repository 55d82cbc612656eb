"""What reaches a terminal: everything that was said, and nothing that steers it."""

from __future__ import annotations

import json
import logging
import unicodedata

import pytest

from sink.doors.cli.common import print_json
from sink.doors.cli.display import print_lines, print_table, say
from sink.doors.cli.speech import speaking

STEERING = [
    *map(chr, range(0x20)),
    *map(chr, range(0x7F, 0xA0)),
    *"\u061c\u200e\u200f\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069",
]
LINES = "\n\t"


def list_raw(shown: str) -> list[str]:
    """What steers a terminal, but for the ends of lines."""
    return [
        c for c in shown if unicodedata.category(c) in ("Cc", "Zl", "Zp", "Cs") or unicodedata.bidirectional(c) in BIDI
    ]


BIDI = ("LRE", "RLE", "PDF", "LRO", "RLO", "LRI", "RLI", "FSI", "PDI")


@pytest.mark.parametrize("show", [say, lambda text: print_lines([text])])
def test_lines_show_what_steers_a_terminal_as_escapes(show: object, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(STEERING) == 32 + 33 + 14
    for character in STEERING:
        show(f"a{character}b")  # type: ignore[operator]
        seen = capsys.readouterr()
        shown = (seen.out + seen.err).removesuffix("\n")
        expected = character if character in LINES else character.encode("unicode_escape").decode()
        assert shown == f"a{expected}b"


def test_tables_show_one_line_a_row_with_escapes(capsys: pytest.CaptureFixture[str]) -> None:
    for character in STEERING:
        print_table(("head\x1b",), [(f"a{character}b",)])
        head, row, end = capsys.readouterr().out.split("\n")
        assert (head.rstrip(), row.rstrip(), end) == (
            "head\\x1b",
            f"a{character.encode('unicode_escape').decode()}b",
            "",
        )


def test_json_says_the_same_without_steering_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    document = {"name": "".join(STEERING), "ordinary": "Zoë Šimůnková — 学"}
    print_json(document)
    shown = capsys.readouterr().out
    assert json.loads(shown) == document
    assert set(list_raw(shown)) == {"\n"}
    assert "Zoë Šimůnková — 学" in shown


def test_names_of_people_and_undecodable_names_of_files_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    print_lines(["Zoë نیم\u200cفاصله 👩\u200d🏫", b"caf\xe9".decode("utf-8", "surrogateescape")])
    assert capsys.readouterr().out == "Zoë نیم\u200cفاصله 👩\u200d🏫\ncaf\\udce9\n"


def test_the_log_shows_escapes(capsys: pytest.CaptureFixture[str]) -> None:
    with speaking():
        logging.getLogger("sink.test").warning("table %s", "a\x1b[2J")
    assert capsys.readouterr().err.endswith(" WARNING sink.test: table a\\x1b[2J\n")
