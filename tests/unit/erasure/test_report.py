"""What a verification says: whose residue it is, and the words that stand in JSON."""

from __future__ import annotations

import json
from dataclasses import asdict

from sink.erasure.findings import Finding, Kind, Report
from sink.erasure.purge import PurgeAction

ROWS = Finding("event_sink.user_profile", Kind.ROWS, "1", 3)
PARTS = Finding("event_sink.user_profile", Kind.OLD_PARTS, count=2)
UNKNOWN = Finding("xapi.notes", Kind.UNCHECKED, reason="nobody answers")


def test_residue_is_of_a_subject_or_of_everybody() -> None:
    assert Report(3, findings=[ROWS]).with_residue == 1
    assert Report(3, findings=[ROWS, PARTS]).with_residue == 3


def test_who_could_not_be_looked_for_is_said_of_them_only() -> None:
    report = Report(2, not_asked={"xapi.notes": ["2"]})
    assert report.is_clean
    assert not report.is_proved
    assert report.with_gaps == 1
    assert report.gaps == [
        "xapi.notes: 1 could not be looked for, since rows are found by name there and none is known."
    ]
    assert report.not_asked_of(1) == []
    assert report.not_asked_of(2) == ["xapi.notes: rows are found by another name of the subject, and none was stored"]


def test_who_was_looked_for_when_the_erasure_was_proved_leaves_no_gap() -> None:
    report = Report(2, not_asked_again={"xapi.notes": ["1", "2"]})
    assert report.is_proved
    assert report.gaps == [
        "xapi.notes: 2 could not be looked for again; nothing was left of them when the erasure was proved."
    ]


def test_findings_are_lines_for_people() -> None:
    assert [str(finding) for finding in (ROWS, PARTS, UNKNOWN)] == [
        "event_sink.user_profile: 3 rows of 1",
        "event_sink.user_profile: 2 old parts",
        "xapi.notes: nobody answers",
    ]


def test_words_in_json_are_those_that_others_read() -> None:
    assert json.loads(json.dumps([asdict(ROWS)]))[0]["kind"] == "rows"
    assert {str(kind) for kind in Kind} == {
        "rows",
        "hidden rows",
        "dictionary",
        "view",
        "old parts",
        "detached parts",
        "files of waiting rows",
        "interrupted changes",
        "texts",
        "words",
        "retained",
        "contested rows",
        "unchecked",
    }
    assert {str(action) for action in PurgeAction} == {"drop", "empty", "redact", "reload"}
