"""What the tests of find and export begin with: two people, their events, and texts that name them elsewhere."""

from __future__ import annotations

import csv
import io
import json
import uuid
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from sink.installation import open_store
from sink.settings import load_settings
from sink.store import Store
from tests.support import served

ANA, BOB = 5, 6
EXTERNAL_ID = uuid.UUID("11111111-2222-3333-4444-555555555555")
EXTERNAL_ID_OF_BOB = uuid.UUID("99999999-2222-3333-4444-555555555555")
USERNAME = "ana_canary7"
ADDRESS = "ana@canary.example.org"
NAME = "Ana María Quetzal"


@dataclass(frozen=True)
class World:
    """A store, and the command line that reaches it."""

    # Not in what Hypothesis says of an example that failed: it would be too long, and then nothing is said.
    store: Store = field(repr=False)
    run: Callable[..., Any]
    folder: Path
    """An empty folder for packages."""

    def insert(self, table: str, columns: tuple[str, ...], *rows: tuple[Any, ...]) -> None:
        """Append rows to a table, as the map names it."""
        self.store.client.insert(self.store.client.table(table), columns, rows)

    def insert_events(self, *statements: dict[str, Any]) -> None:
        """Append events."""
        rows = [(uuid.uuid4(), json.dumps(statement)) for statement in statements]
        self.insert("xapi.xapi_events_all", ("event_id", "event"), *rows)

    def export(self, *options: object, subject: object = ANA) -> Package:
        """Export a subject, which has to go well, and open the package."""
        path = self.folder / "package.zip"
        ran = self.run("export", subject, "-o", path, *options)
        assert ran.status == 0, ran.err
        package = Package(path.read_bytes())
        path.unlink()
        return package


class Package:
    """An opened package."""

    def __init__(self, data: bytes) -> None:
        self._archive = zipfile.ZipFile(io.BytesIO(data))
        assert self._archive.testzip() is None
        self.names = self._archive.namelist()
        self.manifest = json.loads(self.read("manifest.json"))

    def read(self, name: str) -> bytes:
        """One file."""
        return self._archive.read(name)

    def rows(self, name: str) -> list[dict[str, Any]]:
        """The rows of a table as JSON has them; none where there is no such file."""
        if f"{name}.jsonl" not in self.names:
            return []
        return [json.loads(line) for line in self.read(f"{name}.jsonl").split(b"\n")[:-1]]

    def cells(self, name: str) -> list[dict[str, str]]:
        """The rows of a table as CSV has them."""
        csv.field_size_limit(1 << 30)
        text = self.read(f"{name}.csv").decode("utf-8-sig", "surrogateescape")
        return list(csv.DictReader(io.StringIO(text, newline="")))

    @property
    def everything(self) -> bytes:
        """All files, one after the other."""
        return b"\n".join(self.read(name) for name in self.names)


def make_statement(actor: dict[str, Any], **more: Any) -> dict[str, Any]:
    """An xAPI statement."""
    return {"actor": {"objectType": "Agent", **actor}, "verb": {"id": "http://adlnet.gov/expapi/verbs/viewed"}, **more}


def account(external_id: uuid.UUID) -> dict[str, Any]:
    """An actor as the LMS names one."""
    return {"account": {"name": str(external_id), "homePage": "https://lms.example.org"}}


@pytest.fixture
def embedded(aspects_pii: Callable[..., Any], migrated: Callable[[Path], None], tmp_path: Path) -> Iterator[World]:
    """On the engine in process, with nobody in it."""
    migrated(tmp_path / "clickhouse")
    (tmp_path / "packages").mkdir()
    with open_store(load_settings()) as store:
        yield World(store, aspects_pii, tmp_path / "packages")


@pytest.fixture(params=["embedded", "http"])
def world(
    request: pytest.FixtureRequest,
    aspects_pii: Callable[..., Any],
    migrated: Callable[[Path], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[World]:
    """The same with two people in it, in process and over HTTP."""
    if request.param == "embedded":
        world = request.getfixturevalue("embedded")
        fill(world)
        yield world
        return
    migrated(tmp_path / "clickhouse")
    (tmp_path / "packages").mkdir()
    with served.serving(tmp_path / "clickhouse") as url:
        monkeypatch.setenv("ASPECTS_CLICKHOUSE_URL", url)
        with open_store(load_settings()) as store:
            world = World(store, aspects_pii, tmp_path / "packages")
            fill(world)
            yield world


def fill(world: World) -> None:
    """Write two people, their ids, courses, roles and events."""
    profile = ("user_id", "username", "name", "email", "bio")
    world.insert(
        "event_sink.user_profile",
        profile,
        (ANA, USERNAME, NAME, ADDRESS, "=1+1 <script>alert(1)</script>"),
        (BOB, "bob_ocelot99", "Bob Ibex Ocelot", "bob@x.example.org", f"a friend of {ADDRESS}"),
    )
    world.insert(
        "event_sink.external_id",
        ("user_id", "username", "external_user_id", "external_id_type"),
        (ANA, USERNAME, EXTERNAL_ID, "xapi"),
        (BOB, "bob_ocelot99", EXTERNAL_ID_OF_BOB, "xapi"),
    )
    access = ("user_id", "username", "org", "course_key", "role")
    world.insert("event_sink.course_access", access, (ANA, USERNAME, "Org", "course-v1:Org+C+R", "staff"))
    enrollment = ("id", "course_key", "user_id", "username", "mode", "is_active")
    rows = [(user, "course-v1:Org+C+R", user, name, "audit", True) for user, name in ((ANA, USERNAME), (BOB, "bob"))]
    world.insert("event_sink.course_enrollment", enrollment, *rows)
    world.insert_events(
        make_statement(account(EXTERNAL_ID), id="by account"),
        make_statement({"mbox": "mailto:Ana@canary.example.org"}, id="by address"),
        make_statement(account(EXTERNAL_ID_OF_BOB), id="of Bob"),
        make_statement(account(EXTERNAL_ID_OF_BOB), id="about Ana", object={"name": f"graded {ADDRESS}"}),
    )
