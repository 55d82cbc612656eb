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

import yaml

from sink.dashboards.charts import compose_chart
from sink.dashboards.layout import compose_dashboard, list_charts
from sink.dashboards.sources import Document, read_access, read_source, read_translated
from sink.dashboards.virtual_datasets import DATABASE, TABLE_PREFIX, compose_database, compose_dataset

ROOT_FOLDER = "aspects_pii_dashboards"


@dataclass(frozen=True)
class Role:
    """A role of Superset: the datasets (by `table_name`) and the dashboards (by slug) that it opens."""

    name: str
    datasets: tuple[str, ...]
    dashboards: tuple[str, ...]


@dataclass(frozen=True)
class RowLevelRule:
    """A row level security rule of Superset, for datasets by `table_name` and roles by name.

    `Regular` holds for whoever has one of the roles, `Base` for everybody else.
    """

    name: str
    filter_type: Literal["Regular", "Base"]
    clause: str
    datasets: tuple[str, ...]
    roles: tuple[str, ...]


@dataclass(frozen=True)
class Bundle:
    """What is installed: documents by their path inside the bundle, and what Superset's bundles have no place for."""

    files: Mapping[str, Document]
    roles: tuple[Role, ...]
    rules: tuple[RowLevelRule, ...]

    def documents(self, kind: str) -> dict[str, Document]:
        """The documents of one kind (`database`, `dataset`, `chart`, `dashboard`) by UUID."""
        return {
            str(document["uuid"]): document for path, document in self.files.items() if path.startswith(f"{kind}s/")
        }


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
    sources = read_translated(language, enable_pii=enable_pii)
    access = read_access(databases["reporting"])
    # With PII off, charts and datasets go with the last dashboard that shows them.
    shown = {chart for dashboard in sources["dashboards"].values() for chart in list_charts(dashboard)}
    charts = {name: chart for name, chart in sources["charts"].items() if name in shown}
    used = {chart["_dataset"] for chart in charts.values()}
    datasets = {
        name: compose_dataset(name, source, access["conditions"], databases["reporting"], enable_pii)
        for name, source in sources["datasets"].items()
        if name in used
    }
    files = {
        "metadata.yaml": read_source("metadata.yaml"),
        f"databases/{DATABASE}.yaml": compose_database(database_uri),
    }
    files |= {f"datasets/{DATABASE}/{name}.yaml": dataset for name, dataset in datasets.items()}
    files |= {
        f"charts/{name}.yaml": compose_chart(name, chart, datasets[chart["_dataset"]]) for name, chart in charts.items()
    }
    files |= {
        f"dashboards/{name}.yaml": compose_dashboard(name, dashboard, charts, enable_pii=enable_pii)
        for name, dashboard in sources["dashboards"].items()
    }
    roles, rules = _compose_access(access, sources["dashboards"], charts, sources["datasets"])
    return Bundle(dict(sorted(files.items())), roles, rules)


def pack(bundle: Bundle) -> bytes:
    """The bundle as a ZIP that Superset imports: one root folder, the same bytes each time, no password."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for path, document in sorted(bundle.files.items()):
            # Without a time of its own, a file of a ZIP is from the first day of 1980.
            entry = zipfile.ZipInfo(f"{ROOT_FOLDER}/{path}")
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, yaml.safe_dump(document, allow_unicode=True, width=120))
    return packed.getvalue()


def _compose_access(
    access: Document,
    dashboards: Mapping[str, Document],
    charts: Mapping[str, Document],
    datasets: Mapping[str, Document],
) -> tuple[tuple[Role, ...], tuple[RowLevelRule, ...]]:
    roles: list[Role] = []
    rules: list[RowLevelRule] = []
    for role in access["roles"]:
        opened = [dashboard for dashboard in dashboards.values() if dashboard["slug"] in role["opens"]]
        seen = sorted({charts[chart]["_dataset"] for dashboard in opened for chart in list_charts(dashboard)})
        # A role that opens a dataset under another condition would have no rule for it.
        assert {datasets[name]["_access"] for name in seen} == {role["access"]}
        tables = tuple(TABLE_PREFIX + name for name in seen)
        roles.append(Role(role["name"], tables, tuple(sorted(dashboard["slug"] for dashboard in opened))))
        rules.append(
            RowLevelRule(role["name"], "Regular", access["conditions"][role["access"]], tables, (role["name"],))
        )
        rules.append(RowLevelRule(f"{role['name']}_only", "Base", "1 = 0", tables, (role["name"],)))
    return tuple(roles), tuple(rules)
