"""The dbt project as files: everything is annotated, described, typed, grouped and tested, and nothing stores PII."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from sink.datasets.inputs import DATASET_MARK
from sink.resources import find_resource

PROJECT = find_resource("dbt_project")
MODELS = sorted((PROJECT / "models").rglob("*.sql"))
MARTS = [path for path in MODELS if "marts" in path.parts]
PROPERTIES = {
    model["name"]: model
    for path in (PROJECT / "models").rglob("*.yml")
    for model in yaml.safe_load(path.read_text()).get("models", [])
}
PII_TYPES = {
    "id", "name", "username", "password", "location", "phone_number", "email_address", "birth_date", "ip",
    "external_service", "biography", "gender", "sex", "image", "video", "other",
}  # fmt: skip


def names(paths: list[Path]) -> list[str]:
    return [path.stem for path in paths]


# The others say who an anonymous id is, what the installation holds, or what a viewer may see.
ABOUT_COURSES = [
    path
    for path in MARTS
    if path.stem not in ("user_pii", "dim_user_pii", "privacy_overview", "privacy_retirements", "viewer_scopes")
]


def has_pii(path: Path) -> bool:
    return "-- .. pii:" in path.read_text()


def test_layers_all_have_models() -> None:
    layers = [path.relative_to(PROJECT / "models").parts[0] for path in MODELS]
    assert {layer: layers.count(layer) > 2 for layer in set(layers)} == dict.fromkeys(
        ("staging", "intermediate", "marts"), True
    )


@pytest.mark.parametrize("path", MODELS, ids=names(MODELS))
def test_a_model_says_which_pii_it_shows_or_that_it_shows_none(path: Path) -> None:
    head = path.read_text().splitlines()[:3]
    if head[0].startswith("-- .. no_pii: "):
        return
    assert re.match(r"-- \.\. pii: \S", head[0])
    assert set(head[1].removeprefix("-- .. pii_types: ").split(", ")) <= PII_TYPES
    assert head[2] == "-- .. pii_retirement: consumer_api"


@pytest.mark.parametrize("path", MODELS, ids=names(MODELS))
def test_a_model_is_described_with_its_grain_and_belongs_to_somebody(path: Path) -> None:
    properties = PROPERTIES[path.stem]
    assert re.search(r"\b(one row (a|an|each)|one cell)\b", properties["description"]), "say what one row is"
    assert properties["group"] in ("pii", "events")


@pytest.mark.parametrize("path", MARTS, ids=names(MARTS))
def test_a_mart_has_a_contract_for_every_column(path: Path) -> None:
    columns: list[dict[str, Any]] = PROPERTIES[path.stem]["columns"]
    assert len(columns) > 2
    assert all(column.get("data_type") and column.get("description") for column in columns)
    # What has to be asked with a parameter is tested as a whole.
    singular = "".join(test.read_text() for test in (PROJECT / "tests").glob("*.sql"))
    assert any("data_tests" in column for column in columns) or f"ref('{path.stem}') }}}}(" in singular


@pytest.mark.parametrize("path", ABOUT_COURSES, ids=names(ABOUT_COURSES))
def test_whatever_shows_learners_can_be_narrowed_to_a_viewers_courses(path: Path) -> None:
    assert {"org", "course_key"} <= {column["name"] for column in PROPERTIES[path.stem]["columns"]}


def test_no_model_is_a_copy() -> None:
    project = yaml.safe_load((PROJECT / "dbt_project.yml").read_text())["models"]["aspects_pii"]
    assert project["+materialized"] == "view"
    assert project["marts"].pop("access")["+materialized"] == "parameterised_view"
    # What stands in the models that read it is no relation at all.
    assert project["staging"].pop("base") == {"+materialized": "ephemeral"}
    assert "materialized" not in str([value for name, value in project.items() if name != "+materialized"])
    assert len(MODELS) > 20
    # A dictionary that keeps nothing: each read asks its query.
    found = {path.name: re.findall(r"materialized='(\w+)'", path.read_text()) for path in MODELS}
    assert {name: kinds for name, kinds in found.items() if kinds} == {"user_pii.sql": ["direct_dictionary"]}
    assert "layout(complex_key_direct())" in (PROJECT / "macros" / "datasets.sql").read_text()


def test_sources_are_read_by_staging_alone_and_each_by_one_model() -> None:
    reading = {path: re.findall(r"source\([^)]*\)", path.read_text()) for path in MODELS}
    read = [source for sources in reading.values() for source in sources]
    assert len(read) > 8
    assert {path.relative_to(PROJECT / "models").parts[0] for path, sources in reading.items() if sources} == {
        "staging"
    }
    assert max(map(len, reading.values())) == 1
    assert len(set(read)) == len(read)


def test_every_source_with_times_says_how_old_it_may_be() -> None:
    sources = yaml.safe_load((PROJECT / "models/staging/_staging__sources.yml").read_text())["sources"]
    tables = {
        f"{source['name']}.{table['name']}": source.get("config", {}) | table.get("config", {})
        for source in sources
        for table in source["tables"]
        if source["name"] != "pii_ledger"
    }
    assert len(tables) > 5
    assert all(config["loaded_at_field"] and config["freshness"]["warn_after"] for config in tables.values())


def test_no_macro_hides_what_a_model_reads() -> None:
    texts = {path.name: path.read_text() for path in (PROJECT / "macros").glob("*.sql")}
    assert len(texts) > 5
    assert not [name for name, text in texts.items() if re.search(r"\b(ref|source)\(['\"]", text)]


def test_what_differs_with_pii_off_differs_in_models_between_staging_and_marts() -> None:
    """No macro comes in two forms, and no mart: of the macros only a name that is looked up is a digest then."""
    asked = [path for path in MODELS if "{% if pii_enabled() %}" in path.read_text()]
    assert len(asked) > 2
    assert {path.relative_to(PROJECT / "models").parts[0] for path in asked} == {"intermediate"}
    macros = "".join(path.read_text() for path in sorted((PROJECT / "macros").glob("*.sql")))
    bodies = re.findall(r"\{% macro (\w+)\(.*?\) -?%\}(.*?)\{%-? endmacro", macros, re.DOTALL)
    assert len(bodies) > 20
    assert {name for name, body in bodies if "pii_enabled()" in body} == {"dataset_comment", "viewer_id"}


def test_every_macro_is_described_with_its_arguments() -> None:
    described = {
        macro["name"]: [argument["name"] for argument in macro.get("arguments", ()) if argument["description"]]
        for macro in yaml.safe_load((PROJECT / "macros/_macros.yml").read_text())["macros"]
        if macro["description"]
    }
    texts = "".join(path.read_text() for path in sorted((PROJECT / "macros").glob("*.sql")))
    written = {
        name: re.findall(r"(\w+)(?:='[^']*')?(?:, |$)", arguments)
        for name, arguments in re.findall(r"\{% macro (\w+)\((.*?)\) -?%\}", texts)
    }
    assert len(written) > 20
    assert described == written


def test_addresses_of_xapi_are_written_in_one_place() -> None:
    assert "http://id.tincanapi.com/verb/earned" in (PROJECT / "macros/xapi.sql").read_text()
    assert not [path.name for path in MODELS if re.search(r"https?://", path.read_text())]


STAGING = [path for path in MODELS if "staging" in path.parts]


@pytest.mark.parametrize("path", STAGING, ids=names(STAGING))
def test_a_staging_model_describes_every_column(path: Path) -> None:
    columns = PROPERTIES[path.stem]["columns"]
    assert columns
    assert all(column.get("description") for column in columns)
    assert "base" in path.parts or all(column.get("data_type") for column in columns)


def test_what_is_said_of_columns_again_and_again_is_said_once() -> None:
    said = [
        column["description"]
        for model in PROPERTIES.values()
        for column in model.get("columns", ())
        if "{{ doc(" not in column.get("description", "{{ doc(")
    ]
    assert len(said) > 30
    assert not {text for text in said if said.count(text) > 3}
    blocks = re.findall(r"{% docs (\w+) %}", (PROJECT / "models/docs.md").read_text())
    used = "".join(path.read_text() for path in (PROJECT / "models").rglob("*.yml"))
    assert len(blocks) > 20
    assert not [block for block in blocks if f"doc('{block}')" not in used]


def test_the_mark_of_our_relations_is_the_one_that_python_looks_for() -> None:
    assert f"return('{DATASET_MARK}')" in (PROJECT / "macros" / "datasets.sql").read_text()


def test_the_linter_reads_our_macros_and_no_copies_of_them() -> None:
    settings = configparser.ConfigParser()
    settings.read(PROJECT.parent / ".sqlfluff")
    assert settings["sqlfluff:templater:jinja"]["load_macros_from_path"] == "dbt_project/macros"
    # A function of dbt's own.
    assert list(settings["sqlfluff:templater:jinja:macros"]) == ["env_var"]


def test_the_sql_is_clean() -> None:
    sqlfluff = shutil.which("sqlfluff", path=str(Path(sys.executable).parent))
    if sqlfluff is None:
        pytest.skip("sqlfluff is not installed")
    lint = subprocess.run(
        [sqlfluff, "lint", "--nocolor", "dbt_project/models", "dbt_project/tests"],
        cwd=PROJECT.parent, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert lint.returncode == 0, lint.stdout


@pytest.mark.parametrize(
    ("url", "host", "port", "secure"),
    [
        ("http://clickhouse:8123", "clickhouse", "8123", False),
        ("https://clickhouse.example.org", "clickhouse.example.org", "8443", True),
        ("https://clickhouse.example.org:9443/", "clickhouse.example.org", "9443", True),
        ("http://localhost", "localhost", "8123", False),
    ],
)
def test_the_profile_reads_the_address_that_the_settings_have(
    monkeypatch: pytest.MonkeyPatch, url: str, host: str, port: str, secure: bool
) -> None:
    jinja2 = pytest.importorskip("jinja2")
    target = yaml.safe_load(find_resource("config/profiles.yml").read_text())["aspects_pii"]["outputs"]["clickhouse"]
    environment = jinja2.Environment()  # dbt's own filters only convert types.
    environment.filters |= {"as_number": str, "as_bool": str}
    values = {"ASPECTS_CLICKHOUSE_URL": url}
    read = {
        name: environment.from_string(target[name]).render(env_var=lambda key, default="": values.get(key, default))
        for name in ("host", "port", "secure", "cluster", "schema")
    }
    assert read == {"host": host, "port": port, "secure": str(secure), "cluster": "", "schema": "reporting"}
