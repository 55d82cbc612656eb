"""The record of processing: everything in the map, who sees it, and no word that is not there."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from sink.datasets.readers import find_dashboards, find_readers
from sink.errors import MapError
from sink.pii_map import load_map
from sink.resources import find_resource
from sink.rights.record import UNKNOWN, compose_record
from sink.rights.record_formats import write_csv, write_markdown
from tests.support import record_page

SHIPPED = load_map(find_resource("config/pii.yaml"))
PROJECT = find_resource("dbt_project")
RECORD = {activity.table: activity for activity in compose_record(SHIPPED, PROJECT)}


def test_the_page_is_what_the_map_says() -> None:
    assert record_page.PAGE.read_text(encoding="utf-8") == record_page.render(), (
        "docs/record-of-processing.md is out of date: python -m tests.support.record_page > docs/record-of-processing.md"
    )


def test_every_target_of_the_map_that_ships_is_complete_and_on_the_page() -> None:
    assert list(RECORD) == list(SHIPPED.targets)
    assert len(RECORD) > 30
    page = record_page.render()
    for table, activity in RECORD.items():
        assert activity.is_complete, table
        assert page.count(f"`{table}`") == 1
        assert activity.columns == SHIPPED.targets[table].pii
        assert len(activity.on_retirement) == len(SHIPPED.targets[table].rules)


def test_subjects_are_known_as_the_map_has_it() -> None:
    assert RECORD["event_sink.user_profile"].subjects == "users, known by user_id (id)"
    assert "actor_id (mailto:{email})" in RECORD["reporting.fact_video_engagement"].subjects


def test_datasets_and_dashboards_are_those_that_show_the_table() -> None:
    profile = RECORD["event_sink.user_profile"]
    assert {"reporting.learners_at_risk", "event_sink.user_pii", "reporting.fact_enrollments"} <= set(profile.datasets)
    assert profile.dashboards == ["Learners to reach", "One learner", "Privacy", "Who our learners are"]
    assert not [name for name in profile.datasets if ".stg_" in name or ".int_" in name or ".base_" in name]
    # The digest tells who may see, while PII is off.
    assert "reporting.viewer_scopes" in RECORD["event_sink.course_access_keyed"].datasets
    assert "event_sink.user_pii" not in RECORD["event_sink.course_access_keyed"].datasets
    assert RECORD["openedx._tracking"].datasets == []
    readers = find_readers(PROJECT)
    assert {"event_sink.course_overviews", "xapi.xapi_events_all", "pii_ledger.withheld"} <= set(readers)
    assert set(find_dashboards(PROJECT)) <= {path.stem for path in PROJECT.glob("models/marts/**/*.sql")}


def make_map(tmp_path: Path, **words: Any) -> Any:
    target = {"match": {"user_id": "id"}, "pii": {"email": "email_address"}, "on_retire": "delete", **words}
    path = tmp_path / "pii.yaml"
    path.write_text(yaml.safe_dump({"version": 1, "subject": {}, "targets": {"a.b": target}}))
    return load_map(path)


def test_what_the_map_does_not_say_is_said_to_be_unsaid(tmp_path: Path) -> None:
    (activity,) = compose_record(make_map(tmp_path), PROJECT)
    assert (activity.purpose, activity.legal_basis, activity.source) == (UNKNOWN, UNKNOWN, UNKNOWN)
    assert not activity.is_complete
    assert activity.kept == "until the user is retired"
    (activity,) = compose_record(
        make_map(tmp_path, purpose="x", legal_basis="consent", source="y", retention={"days": 1000, "column": "at"}),
        PROJECT,
    )
    assert activity.is_complete
    assert activity.kept == "1,000 days after at, at the longest until the user is retired"


def test_csv_has_a_line_a_table_and_no_formula(tmp_path: Path) -> None:
    pii_map = make_map(tmp_path, purpose="=HYPERLINK(1)", recipients=["one, two", "three"])
    head, line = csv.reader(io.StringIO(write_csv(compose_record(pii_map, PROJECT))))
    cells = dict(zip(head, line, strict=True))
    assert cells["table"] == "a.b"
    assert cells["purpose"] == "'=HYPERLINK(1)"
    assert cells["recipients"] == "one, two; three"
    assert cells["pii"] == "email: email_address"


def test_markdown_keeps_its_table_whatever_the_map_says(tmp_path: Path) -> None:
    pii_map = make_map(tmp_path, purpose="a | b <script>\nc")
    text = write_markdown(compose_record(pii_map, PROJECT), "A university", None)
    assert "| why | a \\| b &lt;script> c |" in text
    assert text.startswith("Responsible: A university. Contact: not said in the map.")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"legal_basis": "because"}, "targets.a.b.legal_basis"),
        ({"purpose": ""}, "targets.a.b.purpose"),
        ({"retention": {"days": 0, "column": "at"}}, "targets.a.b.retention.days"),
        ({"retention": {"days": 1}}, "targets.a.b.retention.column"),
        ({"retention": {"days": 1, "column": "a.b"}}, "is a path; `retention` takes whole columns"),
        (
            {"retention": {"days": 1, "column": "at", "redact": {"email": "hash"}}},
            "`redact.email`: `retention` takes null",
        ),
        (
            {"retention": {"days": 1, "column": "at", "redact": {"name": "empty"}}},
            "name is redacted under `retention` but",
        ),
        ({"retention": {"days": 1, "column": "email", "redact": {"email": "empty"}}}, "email says how old a row is"),
        ({"retention": {"days": 1, "column": "at"}, "keep": ["email"]}, "`retention` does not go with `keep`"),
    ],
)
def test_a_map_that_cannot_be_meant_is_refused_with_the_place(tmp_path: Path, words: dict[str, Any], said: str) -> None:
    with pytest.raises(MapError) as refused:
        make_map(tmp_path, **words)
    assert said in str(refused.value)


def test_map_show_needs_no_clickhouse_and_says_what_is_unsaid(
    aspects_pii: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ASPECTS_CLICKHOUSE_URL", "http://127.0.0.1:9")
    ran = aspects_pii("map", "show", "--format", "json", INSTITUTION="A university")
    assert (ran.status, ran.err) == (0, "")
    assert ran.json["institution"] == "A university"
    assert [activity["table"] for activity in ran.json["activities"]] == list(RECORD)
    assert all(activity["complete"] for activity in ran.json["activities"])
    assert aspects_pii("map", "show", "--format", "md").out.count("\n### ") > 8
    lines = list(csv.reader(io.StringIO(aspects_pii("map", "show", "--format", "csv").out)))
    assert len(lines) == len(RECORD) + 1
    make_map(tmp_path)
    ran = aspects_pii("map", "show", "--format", "csv", PII_MAP=str(tmp_path / "pii.yaml"))
    assert "1 target has no purpose, legal basis or source in the map: a.b." in ran.err
    ran = aspects_pii("map", "show", "--format", "json", "--json")
    assert (ran.status, "Say one of them" in ran.err) == (2, True)
    # As before, without it.
    assert "on retirement" in aspects_pii("map", "show").out
    assert json.loads(aspects_pii("map", "show", "--json").out)["version"] == 1
