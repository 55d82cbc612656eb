"""What a build of the datasets depends on, and the datasets as they stand: each part as one digest.

Two builds with the same digests would make the same. No secret is among what is digested, since the digests can be read
by whoever may read the datasets: that the password is still the right one is seen by asking (`require_answers`).

.. no_pii: definitions, settings and versions.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from sink.clickhouse.client import ClickHouse
from sink.clickhouse.definitions import read_definition
from sink.datasets.project import read_project
from sink.errors import ReadOnlyError
from sink.names import TableName, find_database
from sink.resources import VERSION, find_resource

DATASET_MARK = "[aspects-pii] "
"""Begins the comment of every relation that the dbt project made (dbt_project/macros/datasets.sql)."""

BUILT = "the datasets themselves"
"""Of what is digested, what a build changes."""

PROJECT, PROFILES = "dbt_project", "config/profiles.yml"

RAW_TABLE = "ASPECTS_RAW_XAPI_TABLE"
"""How Aspects' own setting calls the table of events."""

# What dbt writes into its own project where nobody tells it another place.
_WRITTEN_BY_DBT = ("target", "logs")
_READ_FROM_ENVIRONMENT = re.compile(r"env_var\(\s*'(\w+)'")
_SECRET = re.compile(r"PASSWORD|SECRET|TOKEN|KEY")
# One ClickHouse has many addresses, and what is built in it is the same.
_URL = "ASPECTS_CLICKHOUSE_URL"


@dataclass(frozen=True)
class Relations:
    """What the project makes and reads, as ClickHouse has it."""

    definitions: tuple[tuple[Any, ...], ...]
    """Of each relation under the name of a dataset, and of each that an earlier build made: on every replica."""
    sources: tuple[tuple[Any, ...], ...]
    """Of each table and view that is read: engine, query and columns."""
    views: tuple[TableName, ...]
    """Those of ours that read a source; whatever of ours is built on them is as its definition says."""
    dictionaries: tuple[TableName, ...]
    """Those of ours."""


def digest_inputs(
    client: ClickHouse, relations: Relations, environment: Mapping[str, str], variables: str
) -> dict[str, str]:
    """What a build depends on, and what it came to, as digests by what people call it.

    Args:
        client: the connection.
        relations: from `read_relations`.
        environment: what dbt is told.
        variables: the `--vars` of the build.

    Raises:
        DatabaseError: ClickHouse cannot tell.
    """
    files = dict(_read_files())
    named = {name for text in files.values() for name in _READ_FROM_ENVIRONMENT.findall(text.decode(errors="replace"))}
    settings = {name: environment.get(name) for name in named if name != _URL and not _SECRET.search(name)}
    versions = [VERSION, version("dbt-core"), version("dbt-clickhouse"), client.server_version]
    return {
        "the dbt project": _digest({name: hashlib.sha256(content).hexdigest() for name, content in files.items()}),
        "the versions of aspects-pii, dbt and ClickHouse": _digest(versions),
        "the settings": _digest([settings, variables]),
        "the tables that are read": _digest(relations.sources),
        BUILT: _digest(relations.definitions),
        "row policies and grants": _digest([_read_policies(client), sorted(client.column("SHOW GRANTS"))]),
    }


def read_relations(client: ClickHouse, environment: Mapping[str, str]) -> Relations:
    """Look at what the project makes and reads; of what this account may not see there is nothing.

    Raises:
        DatabaseError: ClickHouse cannot tell.
    """
    project = read_project(find_resource(PROJECT))
    names = [(dataset.database, dataset.name) for dataset in project.datasets]
    sources = [*project.sources, *(("xapi", environment[name]) for name in [RAW_TABLE] if name in environment)]
    columns = _read_columns(client, sources)
    definitions = client.rows(
        "SELECT database, name, engine, create_table_query, startsWith(comment, {mark:String}) FROM "
        f"{client.replicas('system.tables')} WHERE (database, name) IN {{names:Array(Tuple(String, String))}} "
        "OR (database IN {databases:Array(String)} AND startsWith(comment, {mark:String})) ORDER BY ALL",
        names=_place(client, names),
        databases=sorted(client.databases.values()),
        mark=DATASET_MARK,
    )
    read = client.rows(
        f"SELECT database, name, engine, as_select FROM {client.replicas('system.tables')} "
        "WHERE (database, name) IN {names:Array(Tuple(String, String))} ORDER BY ALL",
        names=_place(client, sources),
    )
    ours = [(TableName(database, name), *rest) for database, name, *rest, is_ours in definitions if is_ours]
    behind = [TableName(*place) for place in _place(client, sources)]
    return Relations(
        definitions=tuple(definitions),
        sources=tuple((*row, columns.get(TableName(row[0], row[1]))) for row in read),
        views=tuple(
            name
            for name, engine, text in ours
            if engine == "View" and read_definition(name.database, text).select(behind)
        ),
        dictionaries=tuple(name for name, engine, _ in ours if engine == "Dictionary"),
    )


def require_answers(client: ClickHouse, relations: Relations) -> None:
    """Ask them: what is behind them may have changed out of sight, and so may the password of a dictionary.

    Raises:
        DatabaseError: one of them gives no answer.
    """
    for name in relations.views:
        client.rows(f"DESCRIBE (SELECT * FROM {name.sql})")
    for name in relations.dictionaries:
        client.rows(f"SELECT count() FROM (SELECT * FROM {name.sql} LIMIT 1)")


def _read_files() -> Iterator[tuple[str, bytes]]:
    folder = find_resource(PROJECT)
    for path in sorted(folder.rglob("*")):
        place = path.relative_to(folder)
        if path.is_file() and place.parts[0] not in _WRITTEN_BY_DBT:
            yield place.as_posix(), path.read_bytes()
    yield PROFILES, find_resource(PROFILES).read_bytes()


def _place(client: ClickHouse, names: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    return sorted({(find_database(client.databases, database), name) for database, name in names})


def _read_columns(client: ClickHouse, names: Iterable[tuple[str, str]]) -> dict[TableName, list[tuple[str, ...]]]:
    found: dict[TableName, list[tuple[str, ...]]] = {}
    for database, table, *column in client.rows(
        "SELECT database, table, name, type, default_kind, default_expression FROM "
        f"{client.replicas('system.columns')} WHERE (database, table) IN {{names:Array(Tuple(String, String))}} "
        "ORDER BY database, table, position, name",
        names=_place(client, names),
    ):
        found.setdefault(TableName(database, table), []).append(tuple(column))
    return found


def _read_policies(client: ClickHouse) -> list[tuple[Any, ...]]:
    """Those on our databases; none where this account may not see them, or the engine in process keeps none."""
    try:
        return client.rows(
            "SELECT database, table, short_name, ifNull(select_filter, ''), is_restrictive, apply_to_all, "
            f"arraySort(apply_to_list), arraySort(apply_to_except) FROM {client.replicas('system.row_policies')} "
            "WHERE database IN {databases:Array(String)} ORDER BY ALL",
            databases=sorted(client.databases.values()),
        )
    except ReadOnlyError:
        return []


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()
