"""The Superset bundle: dashboards, charts, datasets, and who may see them, composed from `config/dashboards`.

The files there are Superset's own assets without what can be derived: uuids come from file names, the SQL of a dataset
from its columns and its condition, what a chart asks from how it is drawn, and the positions on a dashboard from rows.
Keys that begin with `_` are ours and do not get into the bundle. Nothing here talks to Superset.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

import yaml

from sink.dashboards.charts import compose_chart
from sink.dashboards.layout import compose_dashboard, list_charts
from sink.dashboards.sources import (
    NO_CACHE,
    Document,
    make_uuid,
    read_access,
    read_source,
    read_sources,
    read_translations,
    strip_private_keys,
    translate,
)
from sink.names import quote

# Some of Superset's databases hold only one dataset of a name, whichever database it is of.
PREFIX = "aspects_pii_"
DATABASE = "aspects_pii"
ROOT = "aspects_pii_dashboards"


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
    translations = read_translations(language)
    sources = {
        kind: {
            name: translate(source, translations)
            for name, source in read_sources(kind).items()
            if enable_pii or not source.get("_pii_only")
        }
        for kind in ("datasets", "charts", "dashboards")
    }
    access = read_access(databases["reporting"])
    # With PII off, charts and datasets go with the last dashboard that shows them.
    shown = {chart for dashboard in sources["dashboards"].values() for chart in list_charts(dashboard)}
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
            f"charts/{name}.yaml": compose_chart(name, chart, datasets[chart["_dataset"]])
            for name, chart in charts.items()
        },
        **{
            f"dashboards/{name}.yaml": compose_dashboard(name, dashboard, charts, numbers, enable_pii)
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
        seen = sorted({charts[chart]["_dataset"] for dashboard in opened for chart in list_charts(dashboard)})
        # A role that opens a dataset under another condition would have no rule for it.
        assert {datasets[name]["_access"] for name in seen} == {role["access"]}
        tables = tuple(PREFIX + name for name in seen)
        roles.append(Role(role["name"], tables, tuple(sorted(dashboard["slug"] for dashboard in opened))))
        rules.append(Rule(role["name"], "Regular", access["conditions"][role["access"]], tables, (role["name"],)))
        rules.append(Rule(f"{role['name']}_only", "Base", "1 = 0", tables, (role["name"],)))
    return tuple(roles), tuple(rules)
