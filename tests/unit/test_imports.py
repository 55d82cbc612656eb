"""Imports inside the package go one way, and only the doors read the settings."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "sink"

# From the bottom to the top. A module imports from lines above its own; those of one line know nothing of each other.
ORDER = (
    ("__init__",),
    ("errors",),
    ("resources", "names", "display", "jsontext", "broker", "secret_files", "heartbeat"),
    ("settings", "pii", "lms_connection", "lms_values", "endpoint_protocol", "serving", "bundle"),
    ("client", "superset"),
    ("catalog", "endpoint_engine", "caches"),
    ("schema", "lms", "ledger", "lease", "endpoint", "lineage", "pseudonym"),
    ("store", "receipt", "identity", "access", "policies"),
    ("steps", "scan"),
    ("rewrite",),
    ("erase", "demo_data"),
    ("derived",),
    ("verify",),
    ("retire", "sync", "purge", "reassign", "coverage", "status"),
    ("reconcile", "replay", "warehouse", "dashboards", "installation"),
    ("event_work",),
    ("event_avro", "event_json", "event_stream"),
    ("event_kafka",),
    ("web_auth",),
    ("web_desk",),
    # The doors.
    ("tasks", "events"),
    ("web",),
    ("demo",),
    ("cli",),
    ("plugin",),
    ("tutor",),
)
# The demo types the commands that an operator would type.
UPWARDS = {("demo", "cli")}
RANK = {module: rank for rank, line in enumerate(ORDER) for module in line}
DOORS = {"cli", "tasks", "events", "web", "plugin", "demo", "installation"}
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if "_data" not in path.parts)


def name_module(path: Path) -> str:
    """`sink/errors.py` is `errors`; everything below `sink/plugin/` is `plugin`."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def list_imports(path: Path) -> Iterator[str]:
    """The modules of the package that a file imports, in functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            assert not node.level or path.parent != PACKAGE, f"{path.name} imports relatively: {module}"
            if module == "sink":
                for alias in node.names:
                    yield alias.name if (PACKAGE / f"{alias.name}.py").exists() else "__init__"
            elif module.startswith("sink."):
                yield module.split(".")[1]
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("sink."):
                    yield alias.name.split(".")[1]


def test_modules_are_found() -> None:
    assert len(MODULES) >= 20


def test_every_module_has_its_place() -> None:
    unplaced = sorted({name_module(path) for path in MODULES} - set(RANK))
    assert not unplaced, f"put {', '.join(unplaced)} into ORDER in {Path(__file__).name}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_one_way(path: Path) -> None:
    importer = name_module(path)
    imported = {module for module in list_imports(path) if module != importer}
    upwards = sorted(
        module
        for module in imported
        if RANK.get(module, 0) >= RANK.get(importer, len(ORDER)) and (importer, module) not in UPWARDS
    )
    assert not upwards, f"sink/{importer} imports {', '.join(upwards)}, which stand no lower in ORDER"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_doors_load_settings(path: Path) -> None:
    if name_module(path) in DOORS | {"settings"}:
        return
    calls = {
        node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
    }
    assert not calls & {"load_settings", "Settings"}, "take the client, the map or a Policy as an argument instead"


def test_the_engine_and_drivers_are_imported_where_they_are_wrapped() -> None:
    """What drivers raise is translated in one module each; nobody else talks to them."""
    wrappers = {
        "clickhouse_connect": {"client"},
        "sqlalchemy": {"lms", "lms_connection", "settings", "demo_data"},
        "stamina": {"client", "lms"},
        "confluent_kafka": {"event_kafka"},
        "httpx": {"superset"},
    }
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            names = (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else []
            )
            for name in names:
                allowed = wrappers.get(name.split(".")[0])
                assert allowed is None or name_module(path) in allowed, f"{path.name} imports {name}"
