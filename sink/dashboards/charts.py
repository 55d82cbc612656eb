"""A chart of the bundle: what is asked, and how it looks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sink.dashboards.sources import NO_CACHE, Document, make_uuid, strip_private_keys

# Parameters of each kind of chart, where its file has no others.
_DEFAULT_PARAMS: Mapping[str, Document] = {
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


def compose_chart(name: str, source: Document, dataset: Document) -> Document:
    viz_type = source["viz_type"]
    params = {"viz_type": viz_type, **_DEFAULT_PARAMS[viz_type], "color_scheme": "supersetColors", **source["params"]}
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
            _ask_for_axis(query, params)
    return {
        # Superset puts the dataset's id here.
        "datasource": {"id": 0, "type": "table"},
        "force": False,
        "queries": [query],
        "form_data": params,
        "result_format": "json",
        "result_type": "full",
    }


def _ask_for_axis(query: Document, params: Document) -> None:
    """Complete the query of a chart with an x axis."""
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
