"""PII that the map does not name, in any database: on record, in receipts, in `status`, and not hidden by a `purge`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from sink.installation import connect
from sink.resources import find_resource
from sink.settings import load_settings
from tests.support.coverage_page import covers

Command = Callable[..., Any]
Change = Callable[..., dict[str, str]]
TABLE = "ENGINE = MergeTree ORDER BY tuple()"
NEWSLETTER = (
    "CREATE DATABASE analytics",
    f"CREATE TABLE analytics.newsletter (user_id Int64, email String, full_name String) {TABLE}",
    "INSERT INTO analytics.newsletter SELECT 5, 'a text', 'another'",
)
SUSPECTS = ["analytics.newsletter.email", "analytics.newsletter.full_name"]


@pytest.fixture
def schema(aspects_pii: Command) -> Callable[..., None]:
    """Run statements on the migrated database, as somebody might beside us."""
    assert aspects_pii("init").status == 0

    def run(*statements: str) -> None:
        with connect(load_settings()) as client:
            for statement in statements:
                client.execute(statement)

    return run


@pytest.fixture
def changed_map(tmp_path: Path) -> Change:
    """Write a copy of the map that ships with something more, and return the setting that names it."""

    def change(**more: Any) -> dict[str, str]:
        document = yaml.safe_load(find_resource("config/pii.yaml").read_text())
        for key, values in more.items():
            document[key] = {**document.get(key, {}), **values}
        path = tmp_path / "pii.yaml"
        path.write_text(yaml.safe_dump(document))
        return {"PII_MAP": str(path)}

    return change


def test_a_table_in_another_database_is_found(aspects_pii: Command, schema: Callable[..., None]) -> None:
    schema(*NEWSLETTER, f"CREATE TABLE default.people (email String) {TABLE}")
    checked = aspects_pii("map", "check", "--json")
    assert checked.status == 1
    places = {problem["place"] for problem in checked.json["problems"]}
    assert places == {*SUSPECTS, "default.people.email"}


def test_a_view_beside_a_target_in_another_database_is_found(aspects_pii: Command, schema: Callable[..., None]) -> None:
    schema(
        "CREATE DATABASE beside",
        "CREATE MATERIALIZED VIEW beside.copies ENGINE = MergeTree ORDER BY u AS "
        "SELECT user_id AS u, lowerUTF8(email) FROM $event_sink.user_profile",
    )
    checked = aspects_pii("map", "check")
    assert "beside.copies.lowerUTF8(email): " in checked.out
    assert "make it anew" in checked.out


def test_an_exempt_database_is_not_looked_at(
    aspects_pii: Command, schema: Callable[..., None], changed_map: Change
) -> None:
    schema(*NEWSLETTER)
    setting = changed_map(exempt_databases={"analytics": "the newsletter's own department erases there"})
    assert aspects_pii("map", "check", **setting).status == 0
    receipt = aspects_pii("retire", 5, "--unknown", "--json", **setting).json["retirements"][0]["receipt"]
    assert receipt["suspects"] == []


def test_what_is_derived_and_keeps_rows_is_suspect(
    aspects_pii: Command, schema: Callable[..., None], changed_map: Change
) -> None:
    schema(NEWSLETTER[0], NEWSLETTER[1])
    setting = changed_map(derived={"analytics.newsletter": {}})
    receipt = aspects_pii("retire", 5, "--unknown", "--json", **setting).json["retirements"][0]["receipt"]
    assert receipt["suspects"] == SUSPECTS


def test_the_engine_s_own_databases_are_not_looked_at(aspects_pii: Command, schema: Callable[..., None]) -> None:
    assert "system." not in aspects_pii("map", "check").out


def test_map_check_is_on_record(aspects_pii: Command, schema: Callable[..., None]) -> None:
    schema(*NEWSLETTER)
    aspects_pii("map", "check")
    entries = aspects_pii("ledger", "show", "--action", "map_checked", "--json").json
    (entry,) = entries["entries"] if isinstance(entries, dict) else entries
    assert entry["detail"]["suspects"] == SUSPECTS
    assert entry["detail"]["problems"] == 2


@covers("place", "columns outside the map that may hold PII", "listed")
def test_a_receipt_lists_what_the_map_does_not_name(aspects_pii: Command, schema: Callable[..., None]) -> None:
    schema(*NEWSLETTER)
    first = aspects_pii("retire", 4, "--unknown", "--json").json["retirements"][0]["receipt"]
    assert first["suspects"] == SUSPECTS
    assert first["map_checked_at"] is None
    aspects_pii("map", "check")
    ran = aspects_pii("retire", 5, "--unknown")
    assert ran.status == 0
    assert "analytics.newsletter.email" in ran.out
    assert "map check" in ran.out
    receipt = aspects_pii("retire", 6, "--unknown", "--json").json["retirements"][0]["receipt"]
    assert receipt["map_checked_at"] is not None
    assert any(all(place in line for place in SUSPECTS) for line in receipt["not_covered"])
    jsonschema.validate(receipt, json.loads(find_resource("docs/receipt.schema.json").read_text()))


def test_a_table_that_is_newer_than_the_check_is_looked_at(aspects_pii: Command, schema: Callable[..., None]) -> None:
    aspects_pii("map", "check")
    schema(*NEWSLETTER)
    receipt = aspects_pii("retire", 5, "--unknown", "--json").json["retirements"][0]["receipt"]
    assert receipt["suspects"] == SUSPECTS
    assert any("newer than the map check" in line and "analytics.newsletter" in line for line in receipt["not_covered"])


def test_a_receipt_says_that_the_map_was_never_checked(aspects_pii: Command, schema: Callable[..., None]) -> None:
    receipt = aspects_pii("retire", 5, "--unknown", "--json").json["retirements"][0]["receipt"]
    assert any("no map check is on record" in line for line in receipt["not_covered"])


def test_verify_names_what_it_did_not_look_at(aspects_pii: Command, schema: Callable[..., None]) -> None:
    schema(*NEWSLETTER)
    aspects_pii("retire", 5, "--unknown")
    verified = aspects_pii("verify")
    assert verified.status == 0
    assert "Not looked at: analytics.newsletter.email" in verified.out
    assert aspects_pii("verify", "--json").json["suspects"] == SUSPECTS


def test_what_a_check_found_counts_until_it_is_in_the_map_or_gone(
    aspects_pii: Command, schema: Callable[..., None], changed_map: Change
) -> None:
    schema(*NEWSLETTER)
    aspects_pii("map", "check")
    target = {"match": {"user_id": "id"}, "pii": {"email": "email_address", "full_name": "name"}, "on_retire": "delete"}
    setting = changed_map(targets={"analytics.newsletter": target})
    assert (
        aspects_pii("retire", 5, "--unknown", "--json", **setting).json["retirements"][0]["receipt"]["suspects"] == []
    )
    schema("DROP TABLE analytics.newsletter SYNC")
    assert aspects_pii("retire", 6, "--unknown", "--json").json["retirements"][0]["receipt"]["suspects"] == []


def test_status_warns_of_what_the_map_does_not_name(aspects_pii: Command, schema: Callable[..., None]) -> None:
    assert aspects_pii("status").status == 0
    schema(*NEWSLETTER)
    status = aspects_pii("status", "--json")
    assert status.status == 1
    assert status.json["suspects"] == SUSPECTS
    assert "analytics.newsletter.email" in status.err


def test_purge_names_what_it_left_and_ends_with_1(
    aspects_pii: Command, schema: Callable[..., None], changed_map: Change
) -> None:
    schema(*NEWSLETTER)
    planned = aspects_pii("purge", "--dry-run")
    assert "analytics.newsletter.email: not in the PII map, and stays." in planned.out
    ran = aspects_pii("purge", "--yes")
    assert ran.status == 1
    assert "analytics.newsletter.email" in ran.err
    assert "no PII is left" not in ran.out
    assert aspects_pii("purge", "--yes", "--accept", "analytics.news").status == 1
    assert aspects_pii("purge", "--yes", "--accept", "analytics.newsletter").status == 0
    setting = changed_map(not_pii={"analytics.newsletter": "addresses of newspapers"})
    assert aspects_pii("purge", "--yes", **setting).status == 0


@covers("place", "retained targets, rules that are off, columns without a rule", "listed")
def test_a_receipt_says_what_stays_and_why(
    aspects_pii: Command, schema: Callable[..., None], changed_map: Change
) -> None:
    schema(
        "CREATE DATABASE finance",
        f"CREATE TABLE finance.invoice (user_id Int64, email String) {TABLE}",
        f"CREATE TABLE finance.history (user_id Int64, email String) {TABLE}",
        f"CREATE TABLE finance.half (user_id Int64, email String, phone String) {TABLE}",
    )

    def target(columns: list[str], on_retire: Any) -> dict[str, Any]:
        return {"match": {"user_id": "id"}, "pii": dict.fromkeys(columns, "other"), "on_retire": on_retire}

    setting = changed_map(
        targets={
            "finance.invoice": target(["email"], {"retain": "The tax law wants it."}),
            "finance.history": target(["email"], {"redact": {"email": "empty"}, "when": "redact_history"}),
            "finance.half": target(["email", "phone"], {"redact": {"email": "empty"}}),
            "finance.absent": target(["email"], {"retain": "It is not there."}),
        }
    )
    receipt = aspects_pii("retire", 5, "--unknown", "--json", **setting).json["retirements"][0]["receipt"]
    stays = {line["target"]: (line["columns"], line["reason"]) for line in receipt["stays"]}
    assert stays["finance.invoice"] == (["email"], "The tax law wants it.")
    assert stays["finance.history"][0] == ["email"]
    assert "ASPECTS_REDACT_HISTORY is off" in stays["finance.history"][1]
    assert stays["finance.half"] == (["phone"], "no rule of the PII map touches them")
    assert "finance.absent" not in stays
    jsonschema.validate(receipt, json.loads(find_resource("docs/receipt.schema.json").read_text()))
    on = aspects_pii("retire", 6, "--unknown", "--json", REDACT_HISTORY="true", **setting).json["retirements"][0][
        "receipt"
    ]
    assert "finance.history" not in {line["target"] for line in on["stays"]}


@covers("place", "detached targets", "refused")
def test_a_detached_target_is_not_absent(aspects_pii: Command, schema: Callable[..., None]) -> None:
    schema("DETACH TABLE $event_sink.course_access PERMANENTLY")
    checked = aspects_pii("map", "check")
    assert checked.status == 1
    assert "targets.event_sink.course_access: the table is detached" in checked.out
    assert "event_sink.course_access: absent" not in checked.out
    ran = aspects_pii("retire", 5, "--unknown")
    assert ran.status != 0
    assert "ATTACH TABLE `event_sink`.`course_access`" in ran.out + ran.err
    schema("ATTACH TABLE $event_sink.course_access")
    assert aspects_pii("sweep").status == 0
