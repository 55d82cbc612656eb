"""What the migrations and the dbt project say of tables, views, datasets and their columns."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import yaml

T = TypeVar("T")
#: The folder of the models that are made to be looked at; the others are steps on the way.
_SHOWN_FOLDER = "marts"
#: The folder of the models that dbt writes into those that read them (`ephemeral`): there are no relations of them.
_WRITTEN_IN_FOLDER = "base"

_NAME = r"(?:\$\{?(\w+)\}?)\.`?(\w+)`?"
_DATABASE = re.compile(r"\bCREATE DATABASE (?:IF NOT EXISTS )?\$\{?(\w+)\}?")
_TABLE = re.compile(rf"\bCREATE TABLE (?:IF NOT EXISTS )?{_NAME}")
_VIEW = re.compile(rf"\bCREATE (?:OR REPLACE )?VIEW (?:IF NOT EXISTS )?{_NAME}")
_ALTERED = re.compile(rf"\bALTER TABLE {_NAME}")
_INDEXED = re.compile(rf"\bALTER TABLE {_NAME}(?: \$on_cluster)?\s+(?:ADD|MATERIALIZE) INDEX\b")
_EXCHANGED = re.compile(rf"\bEXCHANGE TABLES {_NAME} AND {_NAME}")
_READ = re.compile(rf"\b(?:FROM|JOIN) {_NAME}")
_ENGINE = re.compile(r"\bENGINE = (\$\{replicated\})?(\w+)")
_SOURCE = re.compile(r"\bsource\(\s*'(\w+)'\s*,\s*'(\w+)'\s*\)")
_SCHEMA = re.compile(r"\bschema\s*=\s*env_var\(\s*'ASPECTS_(\w+)_DATABASE'")


@dataclass(frozen=True)
class Dataset:
    """One relation that the dbt project makes."""

    database: str
    name: str
    is_shown: bool
    columns: tuple[str, ...] = ()


@dataclass(frozen=True)
class Schema:
    """What the migrations make, by the names that the SQL files use."""

    databases: tuple[str, ...]
    tables: tuple[tuple[str, str], ...]
    views: tuple[tuple[str, str], ...]
    altered: tuple[tuple[str, str], ...]
    indexed: tuple[tuple[str, str], ...]
    """Tables that get an index of what they hold, which changes nothing of it."""
    engines: tuple[str, ...]
    exchanged: tuple[tuple[str, str], ...] = ()
    """Tables that take each other's names."""
    read_by: Mapping[tuple[str, str], tuple[tuple[str, str], ...]] = field(default_factory=dict)
    """View -> what it reads."""


def read_schema(statements: Iterable[str], *, replicated: bool = False) -> Schema:
    """Read from the migrations' statements what they make."""
    texts = list(statements)
    engines = {
        f"{'Replicated' if prefix and replicated else ''}{engine}"
        for text in texts
        for prefix, engine in _ENGINE.findall(text)
    }
    views = {(found[1], found[2]): text for text in texts if (found := _VIEW.search(text))}
    return Schema(
        databases=unique(found for text in texts for found in _DATABASE.findall(text)),
        tables=unique((database, table) for text in texts for database, table in _TABLE.findall(text)),
        views=tuple(views),
        altered=unique(found for text in texts if not _INDEXED.search(text) for found in _ALTERED.findall(text)),
        indexed=unique(found for text in texts for found in _INDEXED.findall(text)),
        engines=tuple(sorted(engines)),
        exchanged=unique(
            place
            for text in texts
            for first_in, first, second_in, second in _EXCHANGED.findall(text)
            for place in ((first_in, first), (second_in, second))
        ),
        read_by={view: unique(_READ.findall(text)) for view, text in views.items()},
    )


@dataclass(frozen=True)
class Project:
    """What the dbt project reads and makes, by the names that its files use."""

    datasets: tuple[Dataset, ...]
    sources: tuple[tuple[str, str], ...]


def read_project(folder: Path) -> Project:
    """Read from the files of the dbt project what it makes and which sources its models and macros name.

    A column of a dataset counts where its contract promises it.
    """
    columns: dict[str, tuple[str, ...]] = {}
    for path in sorted(folder.glob("models/**/*.yml")):
        for model in (yaml.safe_load(path.read_text(encoding="utf-8")) or {}).get("models", ()):
            columns[model["name"]] = tuple(column["name"] for column in model.get("columns", ()))
    datasets, sources = [], []
    for path in sorted([*folder.glob("models/**/*.sql"), *folder.glob("macros/*.sql")]):
        text = path.read_text(encoding="utf-8")
        sources += _SOURCE.findall(text)
        if (folder / "models") not in path.parents or path.parent.name == _WRITTEN_IN_FOLDER:
            continue
        schema = _SCHEMA.search(text)
        is_shown = path.relative_to(folder / "models").parts[0] == _SHOWN_FOLDER
        database = schema[1].lower() if schema else "reporting"
        datasets.append(Dataset(database, path.stem, is_shown, columns.get(path.stem, ())))
    return Project(tuple(datasets), unique(sorted(sources)))


def unique(items: Iterable[T]) -> tuple[T, ...]:
    return tuple(dict.fromkeys(items))
