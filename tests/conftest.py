"""Fixtures that every kind of test shares: settings, a store on the real engine, the command line."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from sink.clickhouse import migrations
from sink.doors.cli.main import run
from sink.installation import open_store
from sink.settings import Settings, load_settings
from sink.store import Store

# What tests share asserts too, and says as much where it fails.
pytest.register_assert_rewrite("tests.support")

from tests.support import served  # noqa: E402
from tests.support.templates import copy_template  # noqa: E402

# What the people of the tests are called where it matters; these words stand nowhere else.
CANARIES = (b"Canary-Quetzal", b"Canary-Ocelot", b"Canary-Ibex", b"Xylophone-4711")
# How the tests and `sink.demo_data` write people: neither a log nor what a command says may name one.
PERSON = re.compile(
    r"[\w.+-]+@(mail\.)?example\.(com|net|org)\b|\b(learner|student|user|reader)_[0-9a-f]{4}_\d+\b|Canary|Quetzal"
)
# They show people to whoever asks for it.
MAY_SHOW_PEOPLE = ("demo", "export", "find")
# Databases hold people by design; what is left of the retired in them is the tests' own business.
DATABASES = ("clickhouse", "served", "restored", "x")

SERVICES = {"redis": 6379, "mariadb": 3306, "postgres": 5432}


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what an older engine lacks, and what needs a service that is not there; or fail where services are required."""
    if (found := item.get_closest_marker("needs_chdb_4")) and not version("chdb").startswith("4."):
        pytest.skip(found.kwargs["reason"])
    for name, port in SERVICES.items():
        if item.get_closest_marker(name) is None or _is_listening(port):
            continue
        reason = f"{name} is not listening on 127.0.0.1:{port}"
        if os.environ.get("REQUIRE_SERVICES") == "1":
            pytest.fail(f"{reason}, and REQUIRE_SERVICES=1", pytrace=False)
        pytest.skip(reason)


def _is_listening(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="session", autouse=True)
def no_canary_is_left_behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """After all tests: no receipt, log, ledger, dbt artifact or captured output holds a person of the tests."""
    yield
    base = tmp_path_factory.getbasetemp()
    found = [
        str(path.relative_to(base))
        for path in list_files(base)
        if ".sqlite3" not in path.name and any(canary in path.read_bytes() for canary in CANARIES)
    ]
    assert found == [], "PII of test subjects was left in files"


def list_files(base: Path) -> Iterator[Path]:
    """Every file that is none of a database's."""
    for folder, folders, files in os.walk(base):
        # Databases have most of the files; nobody goes into them.
        folders[:] = [name for name in folders if name not in DATABASES]
        for name in files:
            path = Path(folder, name)
            if name not in DATABASES and path.is_file() and not path.is_symlink():
                yield path


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No setting of the machine reaches a test, and nothing that a test writes reaches the checkout."""
    for name in list(os.environ):
        if name.startswith("ASPECTS_"):
            monkeypatch.delenv(name)
    # Whatever is served, and asked over HTTP.
    for name, value in served.ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True)
def no_person_in_the_log(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Whatever a test does, and at whatever level it logs: nobody is named."""
    yield
    for record in caplog.get_records("call"):
        if PERSON.search(f"{record.getMessage()} {record.exc_text or ''}"):
            pytest.fail(f"The log names a person: {record.name}, {record.filename}:{record.lineno}", pytrace=False)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings with PII on and everything below a temporary folder."""
    return load_settings(
        enable_pii=True,
        clickhouse_url=f"chdb://{tmp_path}/clickhouse",
        receipts_dir=tmp_path / "receipts",
        pseudonym_secret="a secret of the tests",
    )


@pytest.fixture
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], None]:
    """Make a data folder with every migration applied and nothing in the tables."""

    def make(folder: Path) -> None:
        with open_store(load_settings(clickhouse_url=f"chdb://{folder}"), creates=True) as store:
            migrations.migrate(store.client)
            # A part a migration is half of all the files, which every test copies and opens.
            store.client.execute("OPTIMIZE TABLE $pii_ledger.migrations FINAL")
            replaced = store.client.column("SELECT path FROM system.parts WHERE NOT active")
        for path in replaced:
            shutil.rmtree(path)

    own = tmp_path_factory.getbasetemp() / "templates"
    return lambda folder: copy_template("migrated", make, folder, own)


@pytest.fixture
def store(settings: Settings, migrated: Callable[[Path], None]) -> Iterator[Store]:
    """A migrated store on the engine in process."""
    migrated(Path(settings.clickhouse_url.removeprefix("chdb://")))
    with open_store(settings) as store:
        yield store


@dataclass(frozen=True)
class Ran:
    """What a command did."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The JSON document that it printed."""
        return json.loads(self.out)


@pytest.fixture
def aspects_pii(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., Ran]:
    """Run a command as an operator does, with settings from the environment; state lies in a temporary folder."""
    monkeypatch.setenv("ASPECTS_CLICKHOUSE_URL", f"chdb://{tmp_path}/clickhouse")
    monkeypatch.setenv("ASPECTS_RECEIPTS_DIR", str(tmp_path / "receipts"))

    def command(*arguments: object, **environment: str) -> Ran:
        with monkeypatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(f"ASPECTS_{name}", value)
            capsys.readouterr()
            status = run([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        if not set(arguments[:1]) & set(MAY_SHOW_PEOPLE) and PERSON.search(captured.out + captured.err):
            pytest.fail("the command names a person")
        return Ran(status, captured.out, captured.err)

    return command
