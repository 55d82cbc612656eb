"""A dashboard of the bundle: where its charts stand, and its filters."""

from __future__ import annotations

from collections.abc import Mapping

from sink.dashboards.sources import Document, make_uuid, strip_private_keys

# Until one is chosen, none is shown.
_NO_ROWS = {"adhoc_filters": [{"clause": "WHERE", "expressionType": "SQL", "sqlExpression": "1 = 0"}]}


def list_charts(dashboard: Document) -> list[str]:
    return [chart for row in dashboard["_layout"] for chart in row.get("charts", {})]


def compose_dashboard(name: str, source: Document, charts: Mapping[str, Document], *, enable_pii: bool) -> Document:
    # Superset replaces these ids by its own; within a bundle they have to be consistent.
    chart_ids = {chart: number for number, chart in enumerate(sorted(charts), start=1)}
    return {
        **strip_private_keys(source),
        "published": True,
        "is_managed_externally": True,
        "uuid": make_uuid("dashboards", name),
        "position": _compose_position(source, charts, chart_ids, enable_pii),
        "metadata": {
            "color_scheme": "supersetColors",
            # A click on a name would become a filter, and Superset keeps what people filter by.
            "cross_filters_enabled": False,
            "refresh_frequency": 0,
            "expanded_slices": {},
            "label_colors": {color["label"]: color["color"] for color in source.get("_colors", [])},
            "timed_refresh_immune_slices": [],
            "native_filter_configuration": [
                _compose_filter(choice, source, chart_ids) for choice in source.get("_filters", [])
            ],
        },
    }


def _compose_position(
    source: Document, charts: Mapping[str, Document], chart_ids: Mapping[str, int], enable_pii: bool
) -> Document:
    position: Document = {
        "DASHBOARD_VERSION_KEY": "v2",
        "ROOT_ID": {"type": "ROOT", "id": "ROOT_ID", "children": ["GRID_ID"]},
        "GRID_ID": {"type": "GRID", "id": "GRID_ID", "parents": ["ROOT_ID"], "children": []},
        "HEADER_ID": {"type": "HEADER", "id": "HEADER_ID", "meta": {"text": source["dashboard_title"]}},
    }
    for number, row in enumerate(source["_layout"], start=1):
        row_id = f"ROW-{number}"
        cells = _compose_cells(number, row, charts, chart_ids, enable_pii)
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


def _compose_cells(
    number: int, row: Document, charts: Mapping[str, Document], chart_ids: Mapping[str, int], enable_pii: bool
) -> list[Document]:
    """The note and the charts of a row."""
    cells: list[Document] = []
    if note := row.get("pii" if enable_pii else "no_pii"):
        cells.append({"type": "MARKDOWN", "id": f"MARKDOWN-{number}", "meta": {"code": note, "width": 12}})
    cells += [
        {
            "type": "CHART",
            "id": f"CHART-{chart}",
            "meta": {
                "chartId": chart_ids[chart],
                "uuid": make_uuid("charts", chart),
                "sliceName": charts[chart]["slice_name"],
                "width": width,
            },
        }
        for chart, width in row.get("charts", {}).items()
    ]
    return cells


def _compose_filter(choice: Document, dashboard: Document, chart_ids: Mapping[str, int]) -> Document:
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
        "defaultDataMask": {"extraFormData": _NO_ROWS if is_one else {}, "filterState": {}, "ownState": {}},
        "cascadeParentIds": [f"NATIVE_FILTER-{choice['below']}"] if "below" in choice else [],
        "scope": {"rootPath": ["ROOT_ID"], "excluded": [chart_ids[chart] for chart in choice.get("skips", [])]},
        "chartsInScope": [],
        "tabsInScope": [],
    }
