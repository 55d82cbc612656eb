"""Which datasets, and which dashboards, show what a table holds: as the files of the dbt project say, without ClickHouse.

.. no_pii: names of tables, datasets and dashboards.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import yaml

from sink.datasets.learner_events import LEARNER_EVENTS
from sink.datasets.project import read_project

_REFERENCE = re.compile(r"\bref\(\s*'(\w+)'\s*\)")
# What is only asked whom to leave out stands in a condition.
_READ = re.compile(r"(?:\b(?:from|join)\s+\{\{\s*|\blearner_events\(\s*)ref\(\s*'(\w+)'\s*\)")
# Stands for the table of statements that count.
_KEPT = "learner_events_table()"
_SOURCE = re.compile(r"\bsource\(\s*'(\w+)'\s*,\s*'(\w+)'\s*\)")


def find_readers(folder: Path) -> dict[str, list[str]]:
    """Table -> the datasets that are made of it, itself or by others, and are made to be looked at.

    Args:
        folder: the dbt project.

    Returns:
        Tables and datasets as database.table, by the names that the files use.
    """
    read = {
        path.stem: (set(_READ.findall(text)), set(_list_tables(text)))
        for path in sorted(folder.glob("models/**/*.sql"))
        for text in [path.read_text(encoding="utf-8")]
    }
    readers: dict[str, list[str]] = {}
    for dataset in sorted(read_project(folder).datasets, key=lambda one: (one.database, one.name)):
        if dataset.is_shown:
            for table in _find_sources(dataset.name, read, set()):
                readers.setdefault(table, []).append(f"{dataset.database}.{dataset.name}")
    return readers


def _list_tables(text: str) -> Iterator[str]:
    for database, table in _SOURCE.findall(text):
        yield f"{database}.{table}"
    if _KEPT in text:
        yield f"reporting.{LEARNER_EVENTS}"


def find_dashboards(folder: Path) -> dict[str, list[str]]:
    """Dataset, by its name alone -> the titles of the dashboards that show it."""
    exposures = yaml.safe_load((folder / "models/exposures.yml").read_text(encoding="utf-8"))["exposures"]
    shown: dict[str, list[str]] = {}
    for exposure in exposures:
        for name in _REFERENCE.findall(" ".join(exposure["depends_on"])):
            shown.setdefault(name, []).append(exposure["label"])
    return shown


def _find_sources(name: str, read: Mapping[str, tuple[set[str], set[str]]], passed: set[str]) -> set[str]:
    models, sources = read.get(name, (set(), set()))
    found = set(sources)
    for model in models - passed:
        found |= _find_sources(model, read, passed | {name})
    return found
