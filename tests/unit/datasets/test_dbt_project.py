"""The dbt project as files: everything is annotated, described, typed, grouped and tested, and nothing stores PII."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from sink.datasets.build import DATASET_MARK
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
    assert "materialized" not in str([value for name, value in project.items() if name != "+materialized"])
    assert len(MODELS) > 20
    # A dictionary that keeps nothing: each read asks its query.
    found = {path.name: re.findall(r"materialized='(\w+)'", path.read_text()) for path in MODELS}
    assert {name: kinds for name, kinds in found.items() if kinds} == {"user_pii.sql": ["direct_dictionary"]}
    assert "layout(complex_key_direct())" in (PROJECT / "macros" / "datasets.sql").read_text()


def test_sources_are_read_by_staging_alone() -> None:
    reading = [path for path in MODELS if "source(" in path.read_text()]
    assert len(reading) > 3
    assert {path.parent.name for path in reading} == {"staging"}


def test_the_mark_of_our_relations_is_the_one_that_python_looks_for() -> None:
    assert f"return('{DATASET_MARK}')" in (PROJECT / "macros" / "datasets.sql").read_text()


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
