"""The Superset bundle: complete, consistent with the datasets of dbt, translated, and closed to whoever may not see."""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections import Counter
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2.sandbox import SandboxedEnvironment

from sink.dashboards.bundle import Bundle, load_bundle, pack
from sink.dashboards.sources import KINDS, _translate, list_languages, read_sources
from sink.errors import SettingsError
from sink.resources import find_resource

PII_COLUMNS = {"name", "username", "email"}
# Data minimised: `learner_key` says who, and the id that events carry would link a learner to all of them.
NOT_SHOWN = {"user_id", "external_user_id"}
ONLY_WITH_PII = {"username", "email"}
CONTRACTS = {
    model["name"]: {column["name"]: column["data_type"] for column in model["columns"]}
    for path in find_resource("dbt_project").glob("models/marts/**/*.yml")
    for model in yaml.safe_load(path.read_text()).get("models", [])
}


def load(enable_pii: bool = True, language: str = "en", uri: str = "clickhousedb://viewer@clickhouse:8123") -> Bundle:
    return load_bundle(enable_pii=enable_pii, language=language, databases={"reporting": "reporting"}, database_uri=uri)


ON, OFF = load(), load(enable_pii=False)
BUNDLES = pytest.mark.parametrize("bundle", [ON, OFF], ids=["pii-on", "pii-off"])


def pick(bundle: Bundle, kind: str) -> dict[str, dict[str, Any]]:
    """Documents of one kind by the name of their file."""
    found = {
        path.split("/")[-1].removesuffix(".yaml"): document
        for path, document in bundle.files.items()
        if path.startswith(f"{kind}/")
    }
    assert found
    return found


def pick_dataset(bundle: Bundle, chart: dict[str, Any]) -> dict[str, Any]:
    (dataset,) = (d for d in pick(bundle, "datasets").values() if d["uuid"] == chart["dataset_uuid"])
    return dataset


def list_columns(dataset: dict[str, Any]) -> set[str]:
    return {column["column_name"] for column in dataset["columns"]}


def list_cells(dashboard: dict[str, Any], kind: str = "CHART") -> list[dict[str, Any]]:
    return [cell for cell in dashboard["position"].values() if isinstance(cell, dict) and cell["type"] == kind]


# ── Consistent ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_dashboards_are_four_and_without_pii_three() -> None:
    slugs = ["learners-to-reach", "one-learner", "privacy", "who-our-learners-are"]
    assert [dashboard["slug"] for dashboard in pick(ON, "dashboards").values()] == slugs
    assert [dashboard["slug"] for dashboard in pick(OFF, "dashboards").values()] == slugs[:-1]
    assert len(pick(ON, "charts")) >= 25
    assert {len(bundle.roles) for bundle in (ON, OFF)} == {2}


@BUNDLES
def test_a_dataset_has_the_columns_of_its_contract(bundle: Bundle) -> None:
    left_out = NOT_SHOWN | (ONLY_WITH_PII if bundle is OFF else set())
    for name, dataset in pick(bundle, "datasets").items():
        columns = {column["column_name"]: column["type"] for column in dataset["columns"]}
        expected = {column: kind for column, kind in CONTRACTS[name].items() if column not in left_out}
        assert {column: kind for column, kind in columns.items() if column in CONTRACTS[name]} == expected, name
        selected = dataset["sql"].split("\nfrom")[0].removeprefix("select\n").split(",\n")
        assert [re.search("`([^`]+)`$", item)[1] for item in selected] == list(columns), name  # type: ignore[index]
        assert {item.strip(" `") for item in selected if " as " not in item} == set(expected), name


@BUNDLES
def test_a_chart_asks_for_what_its_dataset_has(bundle: Bundle) -> None:
    for name, chart in pick(bundle, "charts").items():
        dataset, params = pick_dataset(bundle, chart), chart["params"]
        metrics = {metric["metric_name"] for metric in dataset["metrics"]}
        asked = {*params.get("metrics", []), *([params["metric"]] if "metric" in params else [])}
        shown = {*params.get("all_columns", []), *params.get("groupby", [])} | (
            {params["x_axis"]} if "x_axis" in params else set()
        )
        assert asked | shown, name
        assert asked <= metrics, name
        assert shown <= list_columns(dataset), name
        ordered = {json.loads(order)[0] for order in params.get("order_by_cols", [])} | (
            {params["x_axis_sort"]} if "x_axis_sort" in params else set()
        )
        assert ordered <= list_columns(dataset) | metrics, name
        assert set(params.get("column_config", {})) <= shown | PII_COLUMNS, name
        (query,) = json.loads(chart["query_context"])["queries"]
        assert set(query.get("metrics", [])) == asked, name
        assert {c if isinstance(c, str) else c["sqlExpression"] for c in query["columns"]} == shown, name


@BUNDLES
def test_an_installation_leaves_nothing_of_an_older_one(bundle: Bundle) -> None:
    """Superset keeps what a document does not mention, and a column that it once calculated would stay calculated."""
    columns = [column for dataset in pick(bundle, "datasets").values() for column in dataset["columns"]]
    assert len(columns) > 50
    assert {column["expression"] for column in columns} == {None}


def test_metrics_and_columns_of_a_dataset_have_names_of_their_own() -> None:
    """ClickHouse would take one for the other."""
    for name, dataset in pick(ON, "datasets").items():
        names = [column["column_name"] for column in dataset["columns"]]
        names += [metric["metric_name"] for metric in dataset["metrics"]]
        assert [again for again, times in Counter(names).items() if times > 1] == [], name


@BUNDLES
def test_each_chart_stands_on_one_dashboard_once(bundle: Bundle) -> None:
    cells = [cell["meta"] for dashboard in pick(bundle, "dashboards").values() for cell in list_cells(dashboard)]
    charts = pick(bundle, "charts").values()
    assert Counter(cell["uuid"] for cell in cells) == Counter(chart["uuid"] for chart in charts)
    assert len({cell["chartId"] for cell in cells}) == len(cells)


@BUNDLES
def test_a_row_fills_the_width_and_every_dashboard_begins_with_its_note(bundle: Bundle) -> None:
    for name, dashboard in pick(bundle, "dashboards").items():
        position = dashboard["position"]
        rows = [position[row] for row in position["GRID_ID"]["children"]]
        assert len(rows) > 2
        assert {sum(position[cell]["meta"]["width"] for cell in row["children"]) for row in rows} == {12}, name
        (note,) = list_cells(dashboard, "MARKDOWN")
        assert rows[0]["children"] == [note["id"]]
        words = {"privacy": "shows no names", "who_our_learners_are": "is made from personal data"}
        assert words.get(name, "shows personal data" if bundle is ON else "shows pseudonyms") in note["meta"]["code"]


def test_every_file_of_the_sources_is_in_the_bundle() -> None:
    sources = find_resource("config/dashboards")
    paths = {
        str(path.relative_to(sources)).replace("datasets/", "datasets/aspects_pii/")
        for kind in ("databases", "datasets", "charts", "dashboards")
        for path in (sources / kind).glob("*")
    }
    assert set(ON.files) == paths | {"metadata.yaml"}


def test_dashboards_are_those_that_dbt_knows_and_read_what_it_says() -> None:
    exposures = yaml.safe_load(find_resource("dbt_project/models/exposures.yml").read_text())["exposures"]
    expected = {
        exposure["url"].rstrip("/").split("/")[-1]: set(re.findall(r"ref\('(\w+)'\)", " ".join(exposure["depends_on"])))
        for exposure in exposures
    }
    assert len(expected) == 4
    charts = {chart["uuid"]: chart for chart in pick(ON, "charts").values()}
    read = {
        dashboard["slug"]: {
            relation
            for cell in list_cells(dashboard)
            for relation in re.findall(r"`reporting`\.`?(\w+)", pick_dataset(ON, charts[cell["meta"]["uuid"]])["sql"])
        }
        for dashboard in pick(ON, "dashboards").values()
    }
    assert read == expected


def test_labels_are_there_for_every_value_of_the_data() -> None:
    models = {
        model["name"]: model
        for path in find_resource("dbt_project").glob("models/marts/**/*.yml")
        for model in yaml.safe_load(path.read_text()).get("models", [])
    }
    checked = 0
    for path in find_resource("config/dashboards/datasets").glob("*.yaml"):
        for column in yaml.safe_load(path.read_text())["columns"]:
            if "_labels" not in column:
                continue
            (contract,) = [c for c in models[path.stem]["columns"] if c["name"] == column["_labels"]["of"]] or [{}]
            for test in contract.get("data_tests", []):
                if isinstance(test, dict) and "accepted_values" in test:
                    values = test["accepted_values"]["arguments"]["values"]
                    assert list(column["_labels"]["texts"]) == values, f"{path.stem}.{column['column_name']}"
                    checked += 1
    assert checked >= 3
    counted = find_resource("dbt_project/models/intermediate/int_demographics_counted.sql").read_text()
    demographics = yaml.safe_load(find_resource("config/dashboards/datasets/enrollment_demographics.yaml").read_text())
    (label,) = (column for column in demographics["columns"] if column["column_name"] == "value_label")
    values = set(label["_labels"]["texts"]) - {"Too few to show"}
    assert len(values) > 10
    assert {value for value in values if f"'{value}'".replace("r's'", "r''s'") not in counted} == set()


def test_uuids_are_unique_and_stay() -> None:
    uuids = [document["uuid"] for path, document in ON.files.items() if path != "metadata.yaml"]
    assert len(uuids) == len(set(uuids)) > 40
    for other in (OFF, load(language="es"), load(uri="clickhousedb://elsewhere")):
        for path, document in other.files.items():
            assert document.get("uuid") == ON.files[path].get("uuid"), path
    assert ON.files["dashboards/privacy.yaml"]["uuid"] == "0d824975-5e1c-5daa-ba50-a91592956abb"


# ── Closed ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@BUNDLES
def test_every_dataset_has_its_condition_and_both_rules(bundle: Bundle) -> None:
    for name, dataset in pick(bundle, "datasets").items():
        assert dataset["schema"] == "reporting", "without a schema, rules are not found"
        (regular, base) = (rule for rule in bundle.rules if dataset["table_name"] in rule.datasets)
        assert (regular.filter_type, base.filter_type, base.clause) == ("Regular", "Base", "1 = 0"), name
        assert regular.roles == base.roles
        assert len(regular.clause) > 20
        assert dataset["sql"].endswith(f"\nwhere {regular.clause}"), name
        (role,) = (role for role in bundle.roles if dataset["table_name"] in role.datasets)
        assert regular.roles == (role.name,), "nobody is exempt but the role itself, Admin neither"
        expected = "viewer_scopes" if role.name == "aspects_pii_course_staff" else "current_user_roles()"
        assert expected in regular.clause, name
        assert ("course_key" in list_columns(dataset)) is (expected == "viewer_scopes"), name


@BUNDLES
def test_a_role_opens_its_dashboards_and_nothing_else(bundle: Bundle) -> None:
    staff, privacy = bundle.roles
    assert (staff.name, privacy.name) == ("aspects_pii_course_staff", "aspects_pii_privacy")
    assert privacy.dashboards == ("privacy",)
    assert not set(staff.datasets) & set(privacy.datasets)
    assert sorted(staff.datasets + privacy.datasets) == sorted(
        dataset["table_name"] for dataset in pick(bundle, "datasets").values()
    )
    assert sorted(staff.dashboards + privacy.dashboards) == sorted(
        dashboard["slug"] for dashboard in pick(bundle, "dashboards").values()
    )
    assert {dashboard.get("published") for dashboard in pick(bundle, "dashboards").values()} == {True}


def render(clause: str, username: str | None = None, roles: list[str] | None = None) -> str:
    """A condition as Superset renders it."""
    return (
        SandboxedEnvironment()
        .from_string(clause)
        .render(current_username=lambda: username, current_user_roles=lambda: roles)
    )


# A first call may take long on a busy machine, which is no matter here.
@settings(deadline=None)
@given(username=st.text() | st.sampled_from(["o'hara", "x\\", "x') or 1 = 1 --", "{{ 1 }}", "Zoë"]))
def test_no_name_can_leave_its_literal(username: str) -> None:
    rendered = render(ON.rules[0].clause, username)
    names = set(re.findall(r"viewer = unhex\('([^']*)'\)", rendered))
    assert {bytes.fromhex(name).decode() for name in names} == {username}
    assert re.sub(r"unhex\('[0-9a-f]*'\)", "unhex('')", rendered) == re.sub(r"\{\{.*?\}\}", "", ON.rules[0].clause)


def test_conditions_are_closed_without_a_viewer_and_without_the_role() -> None:
    assert "viewer = unhex('')" in render(ON.rules[0].clause)
    (privacy,) = (rule for rule in ON.rules if rule.filter_type == "Regular" and rule.roles == ("aspects_pii_privacy",))
    assert render(privacy.clause) == render(privacy.clause, roles=["Admin", "Gamma"]) == "1 = 0"
    assert render(privacy.clause, roles=["Gamma", "aspects_pii_privacy"]) == "1 = 1"


@BUNDLES
def test_answers_are_not_cached(bundle: Bundle) -> None:
    timeouts = [
        document["cache_timeout"]
        for path, document in bundle.files.items()
        if path.split("/")[0] in ("databases", "datasets", "charts")
    ]
    assert len(timeouts) > 20
    assert set(timeouts) == {-1}


@BUNDLES
def test_filters_offer_no_name(bundle: Bundle) -> None:
    """Superset keeps what people filter by, and a retirement does not reach that."""
    filters = 0
    charts = {chart["uuid"]: chart for chart in pick(bundle, "charts").values()}
    for dashboard in pick(bundle, "dashboards").values():
        assert dashboard["metadata"]["cross_filters_enabled"] is False
        for choice in dashboard["metadata"]["native_filter_configuration"]:
            filters += 1
            column = choice["targets"][0].get("column", {}).get("name")
            assert column not in PII_COLUMNS
            in_scope = [
                pick_dataset(bundle, charts[cell["meta"]["uuid"]])
                for cell in list_cells(dashboard)
                if cell["meta"]["chartId"] not in choice["scope"]["excluded"]
            ]
            assert in_scope
            for dataset in in_scope:
                assert column in list_columns(dataset) if column else dataset["main_dttm_col"], choice["name"]
    assert filters >= 5


@BUNDLES
def test_a_name_that_looks_like_html_is_text(bundle: Bundle) -> None:
    tables = [chart["params"] for chart in pick(bundle, "charts").values() if chart["viz_type"] == "table"]
    assert len(tables) > 4
    assert {table["allow_render_html"] for table in tables} == {False}


def test_columns_and_charts_of_pii_are_gone_without_it() -> None:
    assert "who_our_learners_are" not in pick(OFF, "dashboards")
    assert "enrollment_demographics" not in pick(OFF, "datasets")
    contacts = {name: pick(bundle, "charts")["to_reach_contacts"] for name, bundle in (("on", ON), ("off", OFF))}
    columns = {name: set(chart["params"]["all_columns"]) for name, chart in contacts.items()}
    assert columns["on"] - columns["off"] == ONLY_WITH_PII
    assert "name" in columns["off"], "a pseudonym"
    queries = [chart["query_context"] for chart in pick(OFF, "charts").values()]
    assert not [query for query in queries if "email" in query or "username" in query]


# ── Translated ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_languages() -> None:
    assert list_languages() == ["en", "es"]
    with pytest.raises(SettingsError, match=r"ASPECTS_SUPERSET_LANGUAGE .* en, es"):
        load(language="../es")


class Asked(dict[str, str]):
    """Translates nothing, and remembers what it was asked to translate."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: set[str] = set()

    def get(self, text: str, default: Any = None) -> Any:
        self.texts.add(text)
        return default


def list_texts() -> set[str]:
    """Every text that a translation has to have."""
    asked = Asked()
    for kind in KINDS:
        for source in read_sources(kind).values():
            _translate(source, asked)
    return asked.texts


@pytest.mark.parametrize("language", list_languages()[1:])
def test_a_translation_is_complete(language: str) -> None:
    source = find_resource(f"config/dashboards/locale/{language}/locale.yaml")
    document = yaml.safe_load(source.read_text(encoding="utf-8"))
    assert list(document) == [language]
    texts = list_texts()
    assert len(texts) > 100
    assert set(document[language]) == texts
    worded = {text: translation for text, translation in document[language].items() if re.search("[a-z]", text)}
    assert len(worded) > 100
    assert [text for text, translation in worded.items() if not translation or text == translation] == []


def find_texts(document: Any) -> set[str]:
    """What a person reads, by other means than the bundle's own: every text under the keys that Superset shows."""
    shown = {"dashboard_title", "slice_name", "sliceName", "verbose_name", "subheader", "x_axis_title", "code"}
    if isinstance(document, dict):
        return {value for key, value in document.items() if key in shown and value} | {
            text for value in document.values() for text in find_texts(value)
        }
    return {text for value in document for text in find_texts(value)} if isinstance(document, list) else set()


def test_no_text_of_a_translated_bundle_is_english() -> None:
    texts = list_texts()
    for path, document in load(language="es").files.items():
        assert not find_texts(document) & texts, path
        assert not find_texts(document) or find_texts(ON.files[path]) <= texts


# ── Packed ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_packed_bundle_is_the_same_each_time_and_has_one_root() -> None:
    packed = pack(ON)
    assert packed == pack(load())
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        names = archive.namelist()
        assert {name.split("/")[0] for name in names} == {"aspects_pii_dashboards"}
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        read = {name.removeprefix("aspects_pii_dashboards/"): yaml.safe_load(archive.read(name)) for name in names}
    assert read == ON.files
    assert read["metadata.yaml"]["type"] == "assets"
    assert not [key for document in read.values() for key in document if key.startswith("_")]


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("clickhousedb://u:s3cret%40@h:8443/r?secure=true", "clickhousedb://u@h:8443/r?secure=true"),
        ("clickhousedb://u@h/r", "clickhousedb://u@h/r"),
        ("clickhousedb:///r?interface=chdb&path=/data", "clickhousedb:///r?interface=chdb&path=/data"),
    ],
)
def test_no_password_is_packed(uri: str, expected: str) -> None:
    bundle = load(uri=uri)
    assert bundle.files["databases/aspects_pii.yaml"]["sqlalchemy_uri"] == expected
    with zipfile.ZipFile(io.BytesIO(pack(bundle))) as archive:
        assert not [name for name in archive.namelist() if b"s3cret" in archive.read(name)]
