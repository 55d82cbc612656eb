"""The Superset bundle: dashboards, charts, datasets, and who may see them, composed from `config/dashboards`.

The files there are Superset's own assets without what can be derived: uuids come from file names, the SQL of a dataset
from its columns and its condition, what a chart asks from how it is drawn, and the positions on a dashboard from rows.
Keys that begin with `_` are ours and do not get into the bundle. Nothing here talks to Superset.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any, Literal
from urllib.parse import urlsplit
from uuid import NAMESPACE_URL, uuid5

import yaml

from sink.errors import SettingsError
from sink.names import quote
from sink.resources import find_resource

SOURCES = "config/dashboards"
SOURCE_LANGUAGE = "en"
# Some of Superset's databases hold only one dataset of a name, whichever database it is of.
PREFIX = "aspects_pii_"
DATABASE = "aspects_pii"
ROOT = "aspects_pii_dashboards"
# Results are not kept: a retirement has to show at once.
NO_CACHE = -1
# What people read, wherever it stands in a source file; `texts` are all read.
TEXT_KEYS = frozenset(
    {
        "dashboard_title",
        "slice_name",
        "verbose_name",
        "description",
        "subheader",
        "x_axis_title",
        "name",
        "label",
        "pii",
        "no_pii",
    }
)

Document = dict[str, Any]


@dataclass(frozen=True)
class Role:
    """A role of Superset: the datasets (by `table_name`) and the dashboards (by slug) that it opens."""

    name: str
    datasets: tuple[str, ...]
    dashboards: tuple[str, ...]


@dataclass(frozen=True)
class Rule:
    """A rule of Superset's row level security, for datasets by `table_name`.

    `Regular` holds for whoever has one of the roles, `Base` for everybody else.
    """

    name: str
    kind: Literal["Regular", "Base"]
    clause: str
    datasets: tuple[str, ...]
    roles: tuple[str, ...]


@dataclass(frozen=True)
class Bundle:
    """What is installed: documents by their path inside the bundle, and what Superset's bundles have no place for."""

    files: Mapping[str, Document]
    roles: tuple[Role, ...]
    rules: tuple[Rule, ...]


def load_bundle(*, enable_pii: bool, language: str, databases: Mapping[str, str], database_uri: str) -> Bundle:
    """Compose the bundle from `config/dashboards`.

    Args:
        enable_pii: without PII, what exists only with it is left out.
        language: `en` or a folder of `config/dashboards/locale`.
        databases: ClickHouse databases by the names that the map uses (`Settings.databases`).
        database_uri: SQLAlchemy address by which Superset reaches ClickHouse; a password in it is taken out.

    Raises:
        SettingsError: there is no translation into the language.
    """
    translations = _read_translations(language)
    sources = {
        kind: {
            name: translate(source, translations)
            for name, source in read_sources(kind).items()
            if enable_pii or not source.get("_pii_only")
        }
        for kind in ("datasets", "charts", "dashboards")
    }
    access = _read_access(databases["reporting"])
    # With PII off, charts and datasets go with the last dashboard that shows them.
    shown = {chart for dashboard in sources["dashboards"].values() for chart in _list_charts(dashboard)}
    charts = {name: chart for name, chart in sources["charts"].items() if name in shown}
    used = {chart["_dataset"] for chart in charts.values()}
    datasets = {
        name: _compose_dataset(name, source, access["conditions"], databases["reporting"], enable_pii)
        for name, source in sources["datasets"].items()
        if name in used
    }
    numbers = {name: number for number, name in enumerate(sorted(charts), start=1)}
    files = {
        "metadata.yaml": read_source("metadata.yaml"),
        f"databases/{DATABASE}.yaml": _compose_database(database_uri),
        **{f"datasets/{DATABASE}/{name}.yaml": dataset for name, dataset in datasets.items()},
        **{
            f"charts/{name}.yaml": _compose_chart(name, chart, datasets[chart["_dataset"]])
            for name, chart in charts.items()
        },
        **{
            f"dashboards/{name}.yaml": _compose_dashboard(name, dashboard, charts, numbers, enable_pii)
            for name, dashboard in sources["dashboards"].items()
        },
    }
    roles, rules = _compose_access(access, sources["dashboards"], charts, sources["datasets"])
    return Bundle(dict(sorted(files.items())), roles, rules)


def pack(bundle: Bundle) -> bytes:
    """The bundle as a ZIP that Superset imports: one root folder, the same bytes each time, no password."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for path, document in sorted(bundle.files.items()):
            # Without a time of its own, a file of a ZIP is from the first day of 1980.
            entry = zipfile.ZipInfo(f"{ROOT}/{path}")
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, yaml.safe_dump(document, allow_unicode=True, width=120))
    return packed.getvalue()


def list_languages() -> list[str]:
    """The languages that there are, the source's first."""
    return [SOURCE_LANGUAGE, *sorted(path.parent.name for path in find_resource(SOURCES).glob("locale/*/locale.yaml"))]


def list_texts() -> set[str]:
    """Every text that a translation has."""
    return {
        text
        for kind in ("datasets", "charts", "dashboards")
        for source in read_sources(kind).values()
        for text in _find_texts(source)
    }


# ── Sources ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def read_source(name: str) -> Any:
    return yaml.safe_load((find_resource(SOURCES) / name).read_text(encoding="utf-8"))


def read_sources(kind: str) -> dict[str, Document]:
    paths: list[Path] = sorted((find_resource(SOURCES) / kind).glob("*.yaml"))
    return {path.stem: read_source(f"{kind}/{path.name}") for path in paths}


def _read_access(reporting: str) -> Document:
    access: Document = read_source("access.yaml")
    scopes = Template(access["scopes"]).substitute(reporting=quote(reporting))
    access["conditions"] = {
        name: Template(condition).substitute(scopes=scopes) for name, condition in access["conditions"].items()
    }
    return access


def _read_translations(language: str) -> Mapping[str, str]:
    if language not in list_languages():
        raise SettingsError(
            f"ASPECTS_SUPERSET_LANGUAGE is not valid: there is no translation into it. "
            f"Choose one of {', '.join(list_languages())}."
        )
    return {} if language == SOURCE_LANGUAGE else read_source(f"locale/{language}/locale.yaml")[language]


def _find_texts(source: Any, readable: bool = False) -> Iterator[str]:
    if isinstance(source, str) and readable:
        yield source
    elif isinstance(source, dict):
        for key, value in source.items():
            yield from _find_texts(value, readable or key in TEXT_KEYS or key == "texts")
    elif isinstance(source, list):
        for value in source:
            yield from _find_texts(value, readable)


def translate(source: Any, translations: Mapping[str, str], readable: bool = False) -> Any:
    if isinstance(source, str):
        return translations.get(source, source) if readable else source
    if isinstance(source, dict):
        return {
            key: translate(value, translations, readable or key in TEXT_KEYS or key == "texts")
            for key, value in source.items()
        }
    return [translate(value, translations, readable) for value in source] if isinstance(source, list) else source


def make_uuid(kind: str, name: str) -> str:
    """The uuid of an asset, the same in each language and installation: what is installed again replaces itself."""
    return str(uuid5(NAMESPACE_URL, f"urn:aspects-pii:superset:{kind}:{name}"))


def strip_private_keys(source: Document) -> Document:
    return {key: value for key, value in source.items() if not key.startswith("_")}


# ── Databases and datasets ──────────────────────────────────────────────────────────────────────────────────────────


def _compose_database(uri: str) -> Document:
    if password := urlsplit(uri).password:
        uri = uri.replace(f":{password}@", "@", 1)
    return {
        **read_source(f"databases/{DATABASE}.yaml"),
        "sqlalchemy_uri": uri,
        "uuid": make_uuid("databases", DATABASE),
    }


def _compose_dataset(
    name: str, source: Document, conditions: Mapping[str, str], reporting: str, enable_pii: bool
) -> Document:
    columns = [column for column in source["columns"] if enable_pii or not column.get("_pii_only")]
    selected = ",\n    ".join(_select(column) for column in columns)
    return {
        **strip_private_keys(source),
        "table_name": PREFIX + name,
        # Without a schema, Superset does not find the rules of what a query reads.
        "schema": reporting,
        "sql": (
            f"select\n    {selected}\n"
            f"from {quote(reporting)}.{quote(source['_table'])}\n"
            f"where {conditions[source['_access']]}"
        ),
        "columns": [_compose_column(column) for column in columns],
        "cache_timeout": NO_CACHE,
        "filter_select_enabled": True,
        "is_managed_externally": True,
        "uuid": make_uuid("datasets", name),
        "database_uuid": make_uuid("databases", DATABASE),
    }


def _select(column: Document) -> str:
    """What a column is, in the dataset's own SQL: a table of Superset does not find columns that Superset calculates."""
    name = quote(column["column_name"])
    expression = _compose_label(**column["_labels"]) if "_labels" in column else column.get("_expression")
    return f"{expression} as {name}" if expression else name


def _compose_column(source: Document) -> Document:
    return {
        # What is left out here, an installation over an older one would keep.
        "expression": None,
        "description": None,
        **strip_private_keys(source),
        "is_dttm": "Date" in source["type"],
        "is_active": True,
        "groupby": True,
        "filterable": True,
    }


def _compose_label(of: str, texts: Mapping[str, str], separator: str | None = None) -> str:
    """SQL that shows `texts` in place of the values of `of`, or of each of several with a separator between them."""
    values, shown = (", ".join(_literal(text) for text in side) for side in (texts, texts.values()))
    if separator is None:
        return f"transform({of}, [{values}], [{shown}], {of})"
    one = f"value -> transform(value, [{values}], [{shown}], value)"
    return f"arrayStringConcat(arrayMap({one}, splitByString({_literal(separator)}, {of})), {_literal(separator)})"


def _literal(text: str) -> str:
    """A text of ours as ClickHouse writes it. Superset's templates see it too, so it has no braces."""
    return "'" + text.replace("\\", "\\\\").replace("'", "''") + "'"


# ── Charts ──────────────────────────────────────────────────────────────────────────────────────────────────────────

# How each kind of chart looks where its file does not say otherwise.
LOOKS: Mapping[str, Document] = {
    "big_number_total": {"header_font_size": 0.5, "subheader_font_size": 0.2},
    "table": {
        "query_mode": "raw",
        "table_timestamp_format": "%Y-%m-%d",
        # A name may look like HTML.
        "allow_render_html": False,
        "show_cell_bars": False,
        "include_search": False,
        "server_pagination": False,
    },
    "echarts_timeseries_bar": {
        "orientation": "vertical",
        "y_axis_format": ",d",
        "show_value": True,
        "show_legend": False,
        "rich_tooltip": True,
        "row_limit": 10000,
        "x_axis_time_format": "%Y-%m-%d",
        "x_axis_title_margin": 30,
        "xAxisLabelInterval": "0",
        "truncateYAxis": False,
    },
    "echarts_timeseries_line": {
        "show_legend": False,
        "rich_tooltip": True,
        "connectNulls": True,
        "row_limit": 10000,
        "x_axis_time_format": "%Y-%m-%d",
    },
    "pie": {
        "donut": True,
        "innerRadius": 40,
        "outerRadius": 75,
        "show_labels": True,
        "label_type": "percent",
        "labels_outside": False,
        "show_legend": True,
        "legendOrientation": "top",
        "legendType": "plain",
        "sort_by_metric": True,
        "row_limit": 100,
    },
}


def _compose_chart(name: str, source: Document, dataset: Document) -> Document:
    viz_type = source["viz_type"]
    params = {"viz_type": viz_type, **LOOKS[viz_type], "color_scheme": "supersetColors", **source["params"]}
    columns = {column["column_name"] for column in dataset["columns"]}
    if "all_columns" in params:
        # With PII off, a dataset lacks columns.
        params["all_columns"] = [column for column in params["all_columns"] if column in columns]
    if params.get("orientation") == "horizontal":
        # The longest bar on top: Superset draws the first at the bottom.
        params = {"x_axis_sort": params["metrics"][0], "x_axis_sort_asc": True, **params}
    if where := source.get("_where"):
        params["adhoc_filters"] = [
            {"clause": "WHERE", "expressionType": "SQL", "sqlExpression": where, "filterOptionName": f"filter_{name}"}
        ]
    return {
        **strip_private_keys(source),
        "params": params,
        "query_context": json.dumps(_compose_query_context(params, where)),
        "cache_timeout": NO_CACHE,
        "is_managed_externally": True,
        "uuid": make_uuid("charts", name),
        "dataset_uuid": dataset["uuid"],
        "version": "1.0.0",
    }


def _compose_query_context(params: Document, where: str | None) -> Document:
    """What Superset's API asks for a chart; its pages compose the same from `params` by themselves."""
    query: Document = {
        "filters": [],
        "extras": {"having": "", "where": f"({where})" if where else ""},
        "columns": [],
        "orderby": [],
        "row_limit": params.get("row_limit", 1000),
        "annotation_layers": [],
    }
    match params["viz_type"]:
        case "table":
            query["columns"] = params["all_columns"]
            query["orderby"] = [json.loads(order) for order in params.get("order_by_cols", [])]
        case "big_number_total":
            query["metrics"] = [params["metric"]]
        case "pie":
            query["metrics"] = [params["metric"]]
            query["columns"] = params["groupby"]
            query["orderby"] = [[params["metric"], False]]
        case _:
            axis: Any = params["x_axis"]
            if grain := params.get("time_grain_sqla"):
                query["extras"]["time_grain_sqla"] = grain
                axis = {
                    "columnType": "BASE_AXIS",
                    "expressionType": "SQL",
                    "label": params["x_axis"],
                    "sqlExpression": params["x_axis"],
                    "timeGrain": grain,
                }
            query["metrics"] = params["metrics"]
            query["columns"] = [axis, *params.get("groupby", [])]
            # Of bars that are sorted by their length, the longest are kept.
            by_length = params.get("x_axis_sort") in params["metrics"]
            query["orderby"] = [[params["metrics"][0], False] if by_length else [params["x_axis"], True]]
    return {
        # Superset puts the dataset's id here.
        "datasource": {"id": 0, "type": "table"},
        "force": False,
        "queries": [query],
        "form_data": params,
        "result_format": "json",
        "result_type": "full",
    }


# ── Dashboards ──────────────────────────────────────────────────────────────────────────────────────────────────────


# Until one is chosen, none is shown.
NOTHING_YET = {"adhoc_filters": [{"clause": "WHERE", "expressionType": "SQL", "sqlExpression": "1 = 0"}]}


def _list_charts(dashboard: Document) -> list[str]:
    return [chart for row in dashboard["_layout"] for chart in row.get("charts", {})]


def _compose_dashboard(
    name: str, source: Document, charts: Mapping[str, Document], numbers: Mapping[str, int], enable_pii: bool
) -> Document:
    return {
        **strip_private_keys(source),
        "published": True,
        "is_managed_externally": True,
        "uuid": make_uuid("dashboards", name),
        "position": _compose_position(source, charts, numbers, enable_pii),
        "metadata": {
            "color_scheme": "supersetColors",
            # A click on a name would become a filter, and Superset keeps what people filter by.
            "cross_filters_enabled": False,
            "refresh_frequency": 0,
            "expanded_slices": {},
            "label_colors": {color["label"]: color["color"] for color in source.get("_colors", [])},
            "timed_refresh_immune_slices": [],
            "native_filter_configuration": [
                _compose_filter(choice, source, numbers) for choice in source.get("_filters", [])
            ],
        },
    }


def _compose_position(
    source: Document, charts: Mapping[str, Document], numbers: Mapping[str, int], enable_pii: bool
) -> Document:
    position: Document = {
        "DASHBOARD_VERSION_KEY": "v2",
        "ROOT_ID": {"type": "ROOT", "id": "ROOT_ID", "children": ["GRID_ID"]},
        "GRID_ID": {"type": "GRID", "id": "GRID_ID", "parents": ["ROOT_ID"], "children": []},
        "HEADER_ID": {"type": "HEADER", "id": "HEADER_ID", "meta": {"text": source["dashboard_title"]}},
    }
    for number, row in enumerate(source["_layout"], start=1):
        row_id = f"ROW-{number}"
        cells: list[Document] = []
        if note := row.get("pii" if enable_pii else "no_pii"):
            cells.append({"type": "MARKDOWN", "id": f"MARKDOWN-{number}", "meta": {"code": note, "width": 12}})
        cells += [
            {
                "type": "CHART",
                "id": f"CHART-{chart}",
                "meta": {
                    "chartId": numbers[chart],
                    "uuid": make_uuid("charts", chart),
                    "sliceName": charts[chart]["slice_name"],
                    "width": width,
                },
            }
            for chart, width in row.get("charts", {}).items()
        ]
        for cell in cells:
            cell["meta"]["height"] = row["height"]
            position[cell["id"]] = {**cell, "children": [], "parents": ["ROOT_ID", "GRID_ID", row_id]}
        position[row_id] = {
            "type": "ROW",
            "id": row_id,
            "parents": ["ROOT_ID", "GRID_ID"],
            "children": [cell["id"] for cell in cells],
            "meta": {"background": "BACKGROUND_TRANSPARENT"},
        }
        position["GRID_ID"]["children"].append(row_id)
    return position


def _compose_filter(choice: Document, dashboard: Document, numbers: Mapping[str, int]) -> Document:
    is_one = choice.get("one", False)
    column = choice.get("column")
    controls: Document = {"enableEmptyFilter": is_one}
    if choice["kind"] == "select":
        controls |= {
            "multiSelect": not is_one,
            "defaultToFirstItem": False,
            "inverseSelection": False,
            "searchAllOptions": True,
            "sortAscending": True,
        }
    return {
        "id": f"NATIVE_FILTER-{column or choice['kind']}",
        "type": "NATIVE_FILTER",
        "filterType": f"filter_{choice['kind']}",
        "name": choice["name"],
        "description": choice.get("description", ""),
        "targets": (
            [{"column": {"name": column}, "datasetUuid": make_uuid("datasets", choice["dataset"])}] if column else [{}]
        ),
        "controlValues": controls,
        "defaultDataMask": {"extraFormData": NOTHING_YET if is_one else {}, "filterState": {}, "ownState": {}},
        "cascadeParentIds": [f"NATIVE_FILTER-{choice['below']}"] if "below" in choice else [],
        "scope": {"rootPath": ["ROOT_ID"], "excluded": [numbers[chart] for chart in choice.get("skips", [])]},
        "chartsInScope": [],
        "tabsInScope": [],
    }


# ── Who sees what ───────────────────────────────────────────────────────────────────────────────────────────────────


def _compose_access(
    access: Document,
    dashboards: Mapping[str, Document],
    charts: Mapping[str, Document],
    datasets: Mapping[str, Document],
) -> tuple[tuple[Role, ...], tuple[Rule, ...]]:
    roles: list[Role] = []
    rules: list[Rule] = []
    for role in access["roles"]:
        opened = [dashboard for dashboard in dashboards.values() if dashboard["slug"] in role["opens"]]
        seen = sorted({charts[chart]["_dataset"] for dashboard in opened for chart in _list_charts(dashboard)})
        # A role that opens a dataset under another condition would have no rule for it.
        assert {datasets[name]["_access"] for name in seen} == {role["access"]}
        tables = tuple(PREFIX + name for name in seen)
        roles.append(Role(role["name"], tables, tuple(sorted(dashboard["slug"] for dashboard in opened))))
        rules.append(Rule(role["name"], "Regular", access["conditions"][role["access"]], tables, (role["name"],)))
        rules.append(Rule(f"{role['name']}_only", "Base", "1 = 0", tables, (role["name"],)))
    return tuple(roles), tuple(rules)
