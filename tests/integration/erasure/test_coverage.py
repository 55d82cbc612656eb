"""`map check`: PII that no rule of the map reaches is found in the live schema, and so is a rule that cannot work."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from sink.clickhouse.client import ClickHouse
from sink.erasure.coverage import looks_like_pii
from sink.installation import connect
from sink.resources import find_resource
from sink.settings import load_settings

Command = Callable[..., Any]
Change = Callable[[Callable[[dict[str, Any]], None]], dict[str, str]]

PROFILE = "event_sink.user_profile"


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
    """Write a changed copy of the map that ships, and return the setting that names it."""

    def change(edit: Callable[[dict[str, Any]], None]) -> dict[str, str]:
        document = yaml.safe_load(find_resource("config/pii.yaml").read_text())
        edit(document)
        path = tmp_path / "pii.yaml"
        path.write_text(yaml.safe_dump(document))
        return {"PII_MAP": str(path)}

    return change


def test_map_is_complete_on_a_fresh_schema(aspects_pii: Command, schema: Callable[..., None]) -> None:
    checked = aspects_pii("map", "check", "--json")
    assert checked.status == 0
    assert checked.json["complete"] is True
    assert checked.json["problems"] == []
    assert checked.json["absent"] == []
    assert len(checked.json["targets"]) >= 4
    assert "0 problems" in aspects_pii("map", "check").out


def test_map_is_complete_with_databases_called_otherwise(aspects_pii: Command) -> None:
    names = {
        "EVENT_SINK_DATABASE": "sink_2",
        "XAPI_DATABASE": "xapi_2",
        "REPORTING_DATABASE": "reporting_2",
        "LEDGER_DATABASE": "ledger_2",
    }
    assert aspects_pii("init", **names).status == 0
    checked = aspects_pii("map", "check", "--json", **names)
    assert checked.json["problems"] == []
    assert checked.json["absent"] == []


def test_missing_target_is_reported_as_absent(aspects_pii: Command, schema: Callable[..., None]) -> None:
    schema("DROP TABLE $event_sink.course_access")
    checked = aspects_pii("map", "check")
    assert checked.status == 0
    assert "event_sink.course_access: absent." in checked.out


def test_everything_is_absent_before_init(aspects_pii: Command) -> None:
    checked = aspects_pii("map", "check", "--json")
    assert checked.status == 0
    assert checked.json["targets"] == []
    assert len(checked.json["absent"]) >= 4


TABLE = "ENGINE = MergeTree ORDER BY tuple()"
UNMAPPED = {
    "column of a target": (
        ["ALTER TABLE $event_sink.course_enrollment ADD COLUMN email String"],
        "event_sink.course_enrollment.email",
        "targets.event_sink.course_enrollment.pii.email",
    ),
    "column of a table": (
        [f"CREATE TABLE $reporting.t_2 (id Int64, full_name String) {TABLE}"],
        "reporting.t_2.full_name",
        "Add reporting.t_2 under `targets`",
    ),
    "camel case": ([f"CREATE TABLE $xapi.t_3 (userEmail String) {TABLE}"], "xapi.t_3.userEmail", "targets"),
    "plural": ([f"CREATE TABLE $xapi.t_4 (emails Array(String)) {TABLE}"], "xapi.t_4.emails", "targets"),
    "blanks": ([f"CREATE TABLE $xapi.t_5 (`Last Name` String) {TABLE}"], "xapi.t_5.Last Name", "targets"),
    "element of a tuple": (
        [f"CREATE TABLE $xapi.t_6 (who Tuple(n Int8, email String)) {TABLE}"],
        "xapi.t_6.who",
        "targets",
    ),
    "nested column": (
        [f"CREATE TABLE $xapi.t_7 (who Nested(n Int8, phone String)) {TABLE}"],
        "xapi.t_7.who.phone",
        "targets",
    ),
    "table that cannot be erased from": (
        ["CREATE TABLE $xapi.t_8 (email String) ENGINE = Log"],
        "xapi.t_8.email",
        "Rows of a Log table cannot be erased",
    ),
    "dictionary": (
        [
            "CREATE DICTIONARY $event_sink.d_9 (user_id Int64, email String) PRIMARY KEY user_id "
            "SOURCE(CLICKHOUSE(DB 'event_sink' TABLE 'user_profile')) LIFETIME(60) LAYOUT(HASHED())"
        ],
        "event_sink.d_9.email",
        "Add event_sink.d_9 under `derived`",
    ),
    "dictionary with a query": (
        [
            "CREATE DICTIONARY $reporting.d_10 (user_id Int64, contact String) PRIMARY KEY user_id SOURCE(CLICKHOUSE("
            "QUERY 'SELECT user_id, lower(email) AS contact FROM event_sink.user_profile')) LIFETIME(60) LAYOUT(HASHED())"
        ],
        "reporting.d_10.contact",
        "Add reporting.d_10 under `derived`",
    ),
    "dictionary over something else": (
        [
            "CREATE DICTIONARY $reporting.d_11 (id Int64, email String) PRIMARY KEY id "
            "SOURCE(FILE(path '/nowhere.csv' format 'CSV')) LIFETIME(60) LAYOUT(HASHED())"
        ],
        "reporting.d_11.email",
        "Add reporting.d_11 under `derived`",
    ),
    "view that renames": (
        [
            "CREATE VIEW $reporting.v_12 AS SELECT count() AS n, name AS full FROM $event_sink.user_profile GROUP BY full"
        ],
        "reporting.v_12.full",
        "Add reporting.v_12 under `derived`",
    ),
    "view with an expression": (
        [
            "CREATE VIEW $reporting.v_13 AS SELECT concat(name, ' <', email, '>') AS contact FROM $event_sink.user_profile"
        ],
        "reporting.v_13.contact",
        "Add reporting.v_13 under `derived`",
    ),
    "view through a common table expression": (
        [
            "CREATE VIEW $reporting.v_14 AS WITH x AS (SELECT email AS e FROM $event_sink.user_profile) "
            "SELECT upper(e) AS z FROM x"
        ],
        "reporting.v_14.z",
        "Add reporting.v_14 under `derived`",
    ),
    "view on a view": (
        [
            "CREATE VIEW $reporting.view_below AS SELECT name AS first FROM $event_sink.user_profile",
            "CREATE VIEW $reporting.view_above AS SELECT first AS second FROM $reporting.view_below",
        ],
        "reporting.view_above.second",
        "Add reporting.view_above under `derived`",
    ),
    "materialized view": (
        [
            "CREATE MATERIALIZED VIEW $reporting.m_16 ENGINE = MergeTree ORDER BY u AS "
            "SELECT user_id AS u, email AS contact FROM $event_sink.user_profile"
        ],
        "reporting.m_16.contact",
        "make it anew as CREATE MATERIALIZED VIEW … TO a table",
    ),
    "materialized view into a table": (
        [
            f"CREATE TABLE $reporting.t_17 (u Int64, contact String) {TABLE}",
            "CREATE MATERIALIZED VIEW $reporting.m_17 TO $reporting.t_17 AS "
            "SELECT user_id AS u, email AS contact FROM $event_sink.user_profile",
        ],
        "reporting.t_17.contact",
        "Add reporting.t_17 under `targets`",
    ),
    "refreshable materialized view": (
        [
            "CREATE MATERIALIZED VIEW $reporting.m_18 REFRESH EVERY 1 DAY ENGINE = MergeTree ORDER BY u EMPTY AS "
            "SELECT user_id AS u, email AS contact FROM $event_sink.user_profile"
        ],
        "reporting.m_18.contact",
        "Add reporting.m_18 under `derived`",
    ),
}


def make_unmapped(schema: Callable[..., None], *names: str) -> None:
    """Make some of `UNMAPPED`, or all of it."""
    for name in names or UNMAPPED:
        schema(*UNMAPPED[name][0])


def test_unmapped_pii_is_named_with_the_fix(aspects_pii: Command, schema: Callable[..., None]) -> None:
    make_unmapped(schema)
    checked = aspects_pii("map", "check")
    assert checked.status == 1
    lines = dict(line.split(": ", 1) for line in checked.out.splitlines() if ": " in line)
    assert len(UNMAPPED) >= 18
    for name, (_, place, fix) in UNMAPPED.items():
        assert fix in lines.get(place, ""), name
    document = aspects_pii("map", "check", "--json")
    assert document.status == 1
    assert document.json["complete"] is False
    places = [problem["place"] for problem in document.json["problems"]]
    assert len(places) == len(set(places))
    assert {place for _, place, _ in UNMAPPED.values()} <= set(places)


@pytest.mark.parametrize("name", ["column of a target", "view that renames", "materialized view into a table"])
def test_unmapped_column_of_any_kind_is_found(aspects_pii: Command, schema: Callable[..., None], name: str) -> None:
    make_unmapped(schema, name)
    assert aspects_pii("map", "check").status == 1


HARMLESS = [
    "CREATE VIEW $reporting.counts AS SELECT count() AS users, uniq(country) AS countries FROM $event_sink.user_profile",
    "CREATE VIEW $reporting.others AS SELECT course_key, count() AS n FROM $event_sink.course_enrollment GROUP BY 1",
    "CREATE VIEW $reporting.courses AS SELECT org, display_name AS title FROM $event_sink.course_overviews",
    f"CREATE TABLE $reporting.about (is_email_verified Bool, username_count Int64, display_name String) {TABLE}",
    f"CREATE TABLE $reporting.words (filename String, hostname String, sexagesimal String, tips Int8) {TABLE}",
]


def test_harmless_is_left_alone(aspects_pii: Command, schema: Callable[..., None]) -> None:
    schema(*HARMLESS)
    checked = aspects_pii("map", "check")
    assert checked.status == 0, checked.out


def test_derived_is_complete(aspects_pii: Command, schema: Callable[..., None], changed_map: Change) -> None:
    views = [name for name, (_, _, fix) in UNMAPPED.items() if "`derived`" in fix]
    make_unmapped(schema, *views)
    names = {UNMAPPED[name][2].split()[1] for name in views} | {"reporting.view_below"}
    assert len(names) >= 9
    setting = changed_map(lambda document: document["derived"].update({name: {} for name in names}))
    checked = aspects_pii("map", "check", **setting)
    assert checked.status == 0, checked.out


def test_not_pii_is_complete(aspects_pii: Command, schema: Callable[..., None], changed_map: Change) -> None:
    schema(
        f"CREATE TABLE $reporting.t (email String, full_name String) {TABLE}",
        f"CREATE TABLE $reporting.u (full_name String, who Nested(phone String)) {TABLE}",
        "CREATE VIEW $reporting.v AS SELECT substring(country, 1, 1) AS continent FROM $event_sink.user_profile",
    )
    assert aspects_pii("map", "check").status == 1
    reasons = {
        "reporting.t": "a list of our own staff",
        "reporting.u.full_name": "names of courses",
        "reporting.u.who": "phones of offices",
        "reporting.v.continent": "one letter of a country",
    }
    checked = aspects_pii("map", "check", **changed_map(lambda document: document["not_pii"].update(reasons)))
    assert checked.status == 0, checked.out


def test_table_behind_a_materialized_view_as_a_target_is_complete(
    aspects_pii: Command, schema: Callable[..., None], changed_map: Change
) -> None:
    name = "materialized view into a table"
    make_unmapped(schema, name)
    table = UNMAPPED[name][1].rpartition(".")[0]
    target = {"match": {"u": "id"}, "pii": {"u": "id", "contact": "email_address"}, "on_retire": "delete"}
    checked = aspects_pii("map", "check", **changed_map(lambda d: d["targets"].update({table: target})))
    assert checked.status == 0, checked.out


def test_view_that_keeps_rows_is_not_derived(
    aspects_pii: Command, schema: Callable[..., None], changed_map: Change
) -> None:
    names = ("materialized view", "column of a table")
    make_unmapped(schema, *names)
    tables = [UNMAPPED[name][1].rpartition(".")[0] for name in names]
    setting = changed_map(lambda document: document["derived"].update({table: {} for table in tables}))
    checked = aspects_pii("map", "check", **setting)
    assert checked.status == 1
    for name, table in zip(names, tables, strict=True):
        (line,) = [line for line in checked.out.splitlines() if line.startswith(f"derived.{table}: ")]
        assert "keeps rows of its own" in line
        assert UNMAPPED[name][2] in line


def redact(table: str, redactions: dict[str, object], **more: object) -> Callable[[dict[str, Any]], None]:
    """A target that redacts columns, matched by the column `user_id`."""
    pii = dict.fromkeys(redactions, "other")
    target = {"match": {"user_id": "id"}, "pii": pii, "on_retire": {"redact": redactions, **more}}
    return lambda document: document["targets"].update({table: target})


@pytest.mark.parametrize(
    "keys",
    ["ORDER BY (user_id, username)", "PARTITION BY username ORDER BY user_id", "ORDER BY (user_id, lower(username))"],
)
def test_redacted_key_column_is_refused_with_the_reason(
    aspects_pii: Command, schema: Callable[..., None], changed_map: Change, keys: str
) -> None:
    schema(f"CREATE TABLE $reporting.t (user_id Int64, username String) ENGINE = MergeTree {keys}")
    checked = aspects_pii("map", "check", **changed_map(redact("reporting.t", {"username": "empty"})))
    assert checked.status == 1
    assert "targets.reporting.t.redact.username: the column is in the sort or partition key" in checked.out
    assert "which ClickHouse cannot update" in checked.out


# Type, what is to happen to it, and why that cannot be.
FITS: list[tuple[str, object, str | None]] = [
    ("String", "null", "null does not fit into String"),
    ("LowCardinality(String)", "null", "null does not fit into LowCardinality(String)"),
    ("Int64", "empty", "empty needs a text column, and this is Int64"),
    ("UUID", "constant", "constant needs a text column, and this is UUID"),
    ("DateTime", {"truncate": 4}, "truncate needs a text column, and this is DateTime"),
    ("Array(String)", "empty", "empty needs a text column, and this is Array(String)"),
    ("Int64", "hash", "hash needs a text column, and this is Int64"),
    ("String", "hash", "a keyed hash needs ASPECTS_PSEUDONYM_SECRET"),
    ("Nullable(String)", "null", None),
    ("LowCardinality(Nullable(String))", "null", None),
    ("LowCardinality(String)", "empty", None),
    ("Nullable(String)", "constant", None),
    ("UUID", "default", None),
    ("Array(String)", "default", None),
]


def test_redaction_has_to_fit_the_type(aspects_pii: Command, schema: Callable[..., None], changed_map: Change) -> None:
    columns = ", ".join(f"x{index} {kind}" for index, (kind, _, _) in enumerate(FITS))
    schema(f"CREATE TABLE $reporting.t (user_id Int64, {columns}) ENGINE = MergeTree ORDER BY user_id")
    setting = changed_map(redact("reporting.t", {f"x{index}": how for index, (_, how, _) in enumerate(FITS)}))
    checked = aspects_pii("map", "check", **setting)
    assert checked.status == 1
    for index, (_, _, reason) in enumerate(FITS):
        place = f"targets.reporting.t.redact.x{index}: "
        assert (place in checked.out) == (reason is not None), place
        assert f"{place}{reason}" in checked.out or reason is None


def test_hash_is_fine_with_a_secret(aspects_pii: Command, schema: Callable[..., None], changed_map: Change) -> None:
    schema("CREATE TABLE $reporting.t (user_id Int64, x String) ENGINE = MergeTree ORDER BY user_id")
    setting = changed_map(redact("reporting.t", {"x": "hash"}))
    assert aspects_pii("map", "check", PSEUDONYM_SECRET="a secret of the tests", **setting).status == 0


def test_rule_that_is_switched_off_is_checked_all_the_same(
    aspects_pii: Command, schema: Callable[..., None], changed_map: Change
) -> None:
    schema("CREATE TABLE $reporting.t (user_id Int64, x Int64) ENGINE = MergeTree ORDER BY user_id")
    setting = changed_map(redact("reporting.t", {"x": "empty"}, when="redact_history"))
    assert aspects_pii("map", "check", **setting).status == 1


@pytest.mark.parametrize("column", ["user_id", "x"])
def test_column_that_a_rule_needs_and_the_table_lacks(
    aspects_pii: Command, schema: Callable[..., None], changed_map: Change, column: str
) -> None:
    there = {"user_id": "x", "x": "user_id"}[column]
    schema(f"CREATE TABLE $reporting.t ({there} Int64) ENGINE = MergeTree ORDER BY {there}")
    checked = aspects_pii("map", "check", **changed_map(redact("reporting.t", {"x": "default"})))
    assert checked.status == 1
    assert f"targets.reporting.t: there is no column {column}. Correct the map." in checked.out


def test_target_that_cannot_be_erased_from(
    aspects_pii: Command, schema: Callable[..., None], changed_map: Change
) -> None:
    schema("CREATE VIEW $reporting.t AS SELECT user_id, 'a' AS x FROM $event_sink.user_profile")
    checked = aspects_pii("map", "check", **changed_map(redact("reporting.t", {"x": "empty"})))
    assert checked.status == 1
    assert "targets.reporting.t: rows of a View cannot be erased" in checked.out


def test_column_that_sync_would_miss(aspects_pii: Command, schema: Callable[..., None]) -> None:
    schema("ALTER TABLE $event_sink.user_profile DROP COLUMN phone_number")
    checked = aspects_pii("map", "check")
    assert checked.status == 1
    assert f"targets.{PROFILE}.pii.phone_number: the table has no such column" in checked.out


def test_problems_are_values_of_nobody(aspects_pii: Command, schema: Callable[..., None]) -> None:
    def insert(client: ClickHouse) -> None:
        client.insert(client.table(PROFILE), ("user_id", "email"), [(1, "canary@example.org")])

    schema("ALTER TABLE $event_sink.user_profile ADD COLUMN login String MATERIALIZED email")
    with connect(load_settings()) as client:
        insert(client)
    checked = aspects_pii("map", "check")
    assert "event_sink.user_profile.login" in checked.out
    assert "canary" not in checked.out + checked.err


@pytest.mark.parametrize(
    "column",
    [
        "name",
        "user_name",
        "userName",
        "FullName",
        "learner_name",
        "contact_email",
        "e_mail",
        "client_ip",
        "dob",
        "mbox",
    ],
)
def test_looks_like_pii(column: str) -> None:
    assert looks_like_pii(column)


@pytest.mark.parametrize(
    "column", ["course_name", "filename", "email_count", "has_phone", "shipping", "zip", "event_id"]
)
def test_does_not_look_like_pii(column: str) -> None:
    assert not looks_like_pii(column)
