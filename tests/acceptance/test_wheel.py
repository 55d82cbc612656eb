"""What is released: a wheel that works in an empty virtual environment, far from the checkout."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.installation import Installation
from tests.support.paths import ROOT

DATA = "sink/_data/"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--wheel", "--outdir", folder, ROOT)
    (built,) = folder.glob("*.whl")
    return built


def run(*command: object) -> None:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def list_files(folder: str) -> set[str]:
    """What the checkout has below a folder, without what dbt leaves there."""
    tracked = subprocess.run(["git", "ls-files", folder], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(tracked.stdout.splitlines())


def test_has_the_map_the_sql_the_dbt_project_and_the_documents(wheel: Path) -> None:
    inside = set(zipfile.ZipFile(wheel).namelist())
    for folder in ("config", "sql", "dbt_project", "docs"):
        files = list_files(folder)
        assert files
        assert {DATA + name for name in files} <= inside
    assert DATA + "config/pii.yaml" in inside
    assert list_files("sink") <= inside
    assert not [name for name in inside if "/target/" in name or "/logs/" in name or name.startswith("tests/")]


@pytest.fixture
def empty_environment(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", folder)
    yield folder
    # It has got a gigabyte, and pytest keeps its folders for a while.
    shutil.rmtree(folder)


@pytest.mark.timeout(600)
def test_runs_the_demo_from_an_empty_virtual_environment(
    wheel: Path, installation: Installation, empty_environment: Path
) -> None:
    folder = empty_environment
    # Most of what is installed is never imported: to compile all of it takes half a minute.
    pip = (sys.executable, "-m", "pip", "--python", folder / "bin" / "python", "install", "--quiet", "--no-compile")
    run(*pip, "--disable-pip-version-check", "--constraint", ROOT / "constraints.txt", f"{wheel}[embedded]")
    command = folder / "bin" / "aspects-pii"

    out = installation.run("demo", "--users", 300, "--keep", command=command)
    assert ": no PII is left. Tombstones and ledger stay." in out
    kept = installation.left_behind / "work" / "aspects-pii-demo"
    assert f"rm -r {kept}" in out
    assert (kept / "lms.sqlite3").exists()
    assert len(list((kept / "receipts").iterdir())) == 3
    # Nothing was written beside the demo's folder, and nothing into the environment's copy of the dbt project.
    assert list(kept.parent.iterdir()) == [kept]
    assert not list(folder.rglob("_data/dbt_project/target"))
    assert not list(folder.rglob("_data/dbt_project/logs"))
