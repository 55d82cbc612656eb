"""`map check`: PII that no rule of the map reaches is found in the live schema, and so is a rule that cannot work."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from sink.clickhouse.client import ClickHouse
from sink.erasure.survey import looks_like_pii
from sink.installation import connect
from sink.resources import find_resource
from sink.settings import load_settings
from tests.support.coverage_page import covers

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
    # What an interrupted migration leaves is there where one was.
    assert [name for name in checked.json["absent"] if ".old_" not in name] == []
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
    assert [name for name in checked.json["absent"] if ".old_" not in name] == []


def test_missing_target_is_reported_as_absent(aspects_pii: Command, schema: Callable[..., None]) -> None:
    schema("DROP TABLE $event_sink.course_access")
    checked = aspects_pii("map", "check")
    assert checked.status == 0
    assert "event_sink.course_access: absent." in checked.out


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
    "unaliased column of a materialized view": (
        [
            "CREATE MATERIALIZED VIEW $reporting.m_19 ENGINE = MergeTree ORDER BY u AS "
            "SELECT user_id AS u, lowerUTF8(email) FROM $event_sink.user_profile"
        ],
        "reporting.m_19.lowerUTF8(email)",
        "make it anew as CREATE MATERIALIZED VIEW … TO a table",
    ),
    "unaliased column of a view": (
        ["CREATE VIEW $reporting.v_20 AS SELECT substring(email, 2) FROM $event_sink.user_profile"],
        "reporting.v_20.substring(email, 2)",
        "Add reporting.v_20 under `derived`",
    ),
    "view over a Merge table": (
        [
            "CREATE TABLE $xapi.merged_21 (user_id Int64, bio String) ENGINE = Merge('event_sink', '^user_profile$')",
            "CREATE VIEW $reporting.v_21 AS SELECT user_id AS u, bio AS x FROM $xapi.merged_21",
        ],
        "reporting.v_21.x",
        "Add reporting.v_21 under `derived`",
    ),
    "Merge table over databases by pattern": (
        [
            "CREATE TABLE $xapi.merged_22 (user_id Int64, goals String) ENGINE = Merge(REGEXP('^event_'), '^user_profile$')"
        ],
        "xapi.merged_22.goals",
        "Add xapi.merged_22 under `derived`",
    ),
    "view over a Buffer table": (
        [
            "CREATE TABLE $xapi.buffer_23 AS $event_sink.user_profile "
            "ENGINE = Buffer('event_sink', 'user_profile', 1, 10, 100, 10, 100, 1000, 10000)",
            "CREATE VIEW $reporting.v_23 AS SELECT user_id AS u, bio AS x FROM $xapi.buffer_23",
        ],
        "reporting.v_23.x",
        "Add reporting.v_23 under `derived`",
    ),
    "view over merge()": (
        ["CREATE VIEW $reporting.v_24 AS SELECT bio AS x FROM merge('event_sink', '^user_profile$')"],
        "reporting.v_24.x",
        "Add reporting.v_24 under `derived`",
    ),
    "dictionary over merge()": (
        [
            "CREATE DICTIONARY $reporting.d_25 (user_id Int64, x String) PRIMARY KEY user_id SOURCE(CLICKHOUSE(QUERY "
            "'SELECT user_id, bio AS x FROM merge(\\'event_sink\\', \\'^user_profile$\\')')) "
            "LIFETIME(60) LAYOUT(HASHED())"
        ],
        "reporting.d_25.x",
        "Add reporting.d_25 under `derived`",
    ),
    "dictionary through a named collection": (
        [
            "CREATE NAMED COLLECTION IF NOT EXISTS people_26 AS db = 'event_sink', `table` = 'user_profile'",
            "CREATE DICTIONARY $reporting.d_26 (user_id Int64, goals String) PRIMARY KEY user_id "
            "SOURCE(CLICKHOUSE(NAME people_26)) LIFETIME(60) LAYOUT(HASHED())",
        ],
        "reporting.d_26.goals",
        "Add reporting.d_26 under `derived`",
    ),
    "view that looks up in a dictionary": (
        [
            "CREATE VIEW $reporting.v_27 AS SELECT dictGet('reporting.d_26', 'goals', toUInt64(1)) AS x FROM system.one",
        ],
        "reporting.v_27.x",
        "Add reporting.v_27 under `derived`",
    ),
    "default of a column": (
        ["ALTER TABLE $event_sink.user_profile ADD COLUMN c_28 String DEFAULT lower(bio)"],
        "event_sink.user_profile.c_28",
        "Add it as targets.event_sink.user_profile.pii.c_28",
    ),
    "materialized column": (
        ["ALTER TABLE $event_sink.user_profile ADD COLUMN c_29 String MATERIALIZED upper(bio)"],
        "event_sink.user_profile.c_29",
        "Add it as targets.event_sink.user_profile.pii.c_29",
    ),
    "alias of an alias": (
        [
            "ALTER TABLE $event_sink.user_profile ADD COLUMN c_30 String ALIAS concat(bio, '.')",
            "ALTER TABLE $event_sink.user_profile ADD COLUMN c_31 String ALIAS c_30",
        ],
        "event_sink.user_profile.c_31",
        "Add it as targets.event_sink.user_profile.pii.c_31",
    ),
    "view of a computed column": (
        [
            "ALTER TABLE $event_sink.external_id ADD COLUMN c_32 String MATERIALIZED upper(username)",
            "CREATE VIEW $reporting.v_32 AS SELECT c_32 AS x FROM $event_sink.external_id",
        ],
        "reporting.v_32.x",
        "Add reporting.v_32 under `derived`",
    ),
    "view that appends": (
        [
            f"CREATE TABLE $reporting.t_33 (u Int64, x String) {TABLE}",
            "CREATE MATERIALIZED VIEW $reporting.m_33 REFRESH EVERY 1 YEAR APPEND TO $reporting.t_33 EMPTY AS "
            "SELECT user_id AS u, bio AS x FROM $event_sink.user_profile",
        ],
        "reporting.t_33.x",
        "Add reporting.t_33 under `targets`",
    ),
    "view of its own history": (
        [
            f"CREATE TABLE $reporting.t_34 (u Int64, x String) {TABLE}",
            "CREATE MATERIALIZED VIEW $reporting.m_34 REFRESH EVERY 1 YEAR TO $reporting.t_34 EMPTY AS SELECT u, x "
            "FROM $reporting.t_34 UNION ALL SELECT user_id AS u, bio AS x FROM $event_sink.user_profile",
        ],
        "reporting.t_34.x",
        "Add reporting.t_34 under `targets`",
    ),
    "refreshable view into a table": (
        [
            f"CREATE TABLE $reporting.t_35 (u Int64, x String) {TABLE}",
            "CREATE MATERIALIZED VIEW $reporting.m_35 REFRESH EVERY 1 YEAR TO $reporting.t_35 EMPTY AS "
            "SELECT user_id AS u, bio AS x FROM $event_sink.user_profile",
        ],
        "reporting.m_35.x",
        "Add reporting.m_35 under `derived`",
    ),
    "view of what is stored nowhere else": (
        [
            "CREATE TABLE $reporting.null_36 (user_id Int64, email String) ENGINE = Null",
            "CREATE MATERIALIZED VIEW $reporting.m_36 ENGINE = MergeTree ORDER BY user_id AS "
            "SELECT user_id, email FROM $reporting.null_36",
        ],
        "reporting.m_36.email",
        "make it anew as CREATE MATERIALIZED VIEW … TO a table",
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
    assert len(UNMAPPED) >= 33
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
    f"CREATE TABLE $reporting.plain (n Int64, twice Int64 ALIAS n * 2, x String DEFAULT 'email') {TABLE}",
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
    names = {UNMAPPED[name][2].split()[1] for name in views} | {
        "reporting.view_below",
        "xapi.merged_21",
        "xapi.buffer_23",
    }
    assert len(names) >= 18

    def write(document: dict[str, Any]) -> None:
        document["derived"].update({name: {} for name in names})
        document["targets"]["event_sink.external_id"]["pii"]["c_32"] = "username"

    checked = aspects_pii("map", "check", **changed_map(write))
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


ODD_NAMES = [
    f"CREATE TABLE $reporting.`survey-2025` (`user id` Int64, `e-mail` String, `Last Name` String) {TABLE}",
    f"CREATE TABLE $reporting.nested (user_id Int64, who Nested(n Int8, phone String)) {TABLE}",
    "CREATE MATERIALIZED VIEW $reporting.unaliased ENGINE = MergeTree ORDER BY tuple() AS "
    "SELECT lowerUTF8(country) FROM $event_sink.user_profile",
]


def test_what_map_check_demands_can_be_written_and_done(
    aspects_pii: Command, schema: Callable[..., None], changed_map: Change
) -> None:
    schema(
        *ODD_NAMES,
        "INSERT INTO $reporting.`survey-2025` VALUES (1, 'a', 'b'), (2, 'c', 'd')",
        "INSERT INTO $reporting.nested VALUES (1, [1], ['a']), (2, [2], ['b'])",
    )
    assert aspects_pii("map", "check").status == 1

    def write(document: dict[str, Any]) -> None:
        document["targets"]["reporting.survey-2025"] = {
            "match": {"user id": "id"},
            "pii": {"e-mail": "email_address", "Last Name": "name"},
            "on_retire": {"redact": {"e-mail": "empty", "Last Name": "empty"}},
        }
        document["targets"]["reporting.nested"] = {
            "match": {"user_id": "id"},
            "pii": {"who.phone": "phone_number"},
            "on_retire": "delete",
        }
        document["not_pii"]["reporting.unaliased.lowerUTF8(country)"] = "countries are on the map of the world"

    setting = changed_map(write)
    checked = aspects_pii("map", "check", **setting)
    assert checked.status == 0, checked.out
    assert aspects_pii("retire", 1, **setting).status == 0
    with connect(load_settings()) as client:
        assert client.rows("SELECT * FROM $reporting.`survey-2025` ORDER BY 1") == [(1, "", ""), (2, "c", "d")]
        assert client.column("SELECT user_id FROM $reporting.nested") == [2]


@covers("type", "elements of Nested columns", "refused")
def test_element_of_a_nested_column_cannot_be_redacted(
    aspects_pii: Command, schema: Callable[..., None], changed_map: Change
) -> None:
    schema(f"CREATE TABLE $reporting.nested (user_id Int64, who Nested(n Int8, phone String)) {TABLE}")
    checked = aspects_pii("map", "check", **changed_map(redact("reporting.nested", {"who.phone": "empty"})))
    assert checked.status == 1
    assert "who.phone is an element of a Nested column" in checked.out
    assert "Delete the rows" in checked.out


def test_what_an_erasure_has_left_is_no_table_to_map(aspects_pii: Command, schema: Callable[..., None]) -> None:
    schema("CREATE TABLE $pii_ledger.erasing_0123456789abcdef_rows AS $event_sink.user_profile")
    checked = aspects_pii("map", "check")
    assert checked.status == 1
    (line,) = [line for line in checked.out.splitlines() if "erasing_" in line]
    assert "interrupted" in line
    assert "aspects-pii sweep" in line


@pytest.mark.parametrize(
    ("written", "meant"),
    [("event_sink.newsleter", "event_sink.newsletter"), ("event_sinc.newsletter", "event_sink.newsletter")],
)
@covers("place", "misspelt targets", "refused")
def test_misspelt_target_is_not_absent(
    aspects_pii: Command, schema: Callable[..., None], changed_map: Change, written: str, meant: str
) -> None:
    schema(f"CREATE TABLE $event_sink.newsletter (user_id Int64, text String) {TABLE}")
    target = {"match": {"user_id": "id"}, "pii": {"text": "other"}, "on_retire": "delete"}
    checked = aspects_pii("map", "check", **changed_map(lambda d: d["targets"].update({written: target})))
    assert checked.status == 1
    assert f"targets.{written}: there is no such table. Did you mean {meant}?" in checked.out
    assert f"{written}: absent" not in checked.out


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
@covers("key", "columns of a sort or partition key, but for pseudonyms", "refused")
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
    ("String", "hash", None),
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


@covers("engine", "engines that cannot delete or update", "refused")
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
