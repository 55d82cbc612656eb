"""An installation of its own, used as an operator uses it: each command is a process, and all it says is kept."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sink.clickhouse.address import Address
from sink.clickhouse.client import ClickHouse
from tests.support.paths import COMMAND

# Kept out of the way of what a process may leave behind.
_PASSED_ON = ("PATH", "LANG", "LC_ALL", "SSL_CERT_FILE")
_ALL_COLUMNS = {"asterisk_include_materialized_columns": 1, "asterisk_include_alias_columns": 1}
_SYSTEM_TABLES = ("mutations", "tables", "columns", "dictionaries", "view_refreshes")


@dataclass
class Installation:
    """One operator's folder, settings and terminal."""

    folder: Path
    settings: dict[str, str] = field(default_factory=dict)

    @property
    def data(self) -> Path:
        """The engine's data folder."""
        return self.folder / "clickhouse"

    @property
    def left_behind(self) -> Path:
        """Everything but the data folder: home, working directory, temporary files, receipts, what was said."""
        return self.folder / "rest"

    @property
    def environment(self) -> dict[str, str]:
        inherited = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        own = {"HOME": str(self.left_behind / "home"), "TMPDIR": str(self.left_behind / "temporary")}
        return inherited | own | {f"ASPECTS_{name}": value for name, value in self.settings.items()}

    def start(self, *arguments: object, command: Path = COMMAND, **settings: str) -> subprocess.Popen[bytes]:
        """Start a command; what it says goes to files."""
        said = self.left_behind / "said"
        number = len(list(said.iterdir())) // 2 + 1
        name = f"{number:02d}-{str(arguments[0]) if arguments else 'aspects-pii'}"
        environment = self.environment | {f"ASPECTS_{name}": value for name, value in settings.items()}
        with (said / f"{name}.out").open("wb") as out, (said / f"{name}.err").open("wb") as err:
            return subprocess.Popen(
                [str(command), *map(str, arguments)],
                env=environment,
                cwd=self.left_behind / "work",
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
            )

    def run(self, *arguments: object, command: Path = COMMAND, expected: int = 0, **settings: str) -> str:
        """Run a command to its end; what it printed."""
        process = self.start(*arguments, command=command, **settings)
        try:
            status = process.wait(timeout=240)
        finally:
            process.kill()
        out, err = self.last_said()
        assert status == expected, f"{arguments}: status {status}\n{out}\n{err}"
        return out

    def run_json(self, *arguments: object, **settings: str) -> Any:
        """The JSON document that a command prints."""
        return json.loads(self.run(*arguments, "--json", command=COMMAND, expected=0, **settings))

    def last_said(self) -> tuple[str, str]:
        """What the last command said on standard output and standard error."""
        err, out = sorted((self.left_behind / "said").iterdir())[-2:]
        return out.read_text(), err.read_text()

    @contextmanager
    def clickhouse(self) -> Iterator[ClickHouse]:
        """Look into the data folder, while no command runs."""
        databases = {name: name for name in ("event_sink", "xapi", "reporting", "pii_ledger")}
        with ClickHouse(Address(url=f"chdb://{self.data}", databases=databases)) as client:
            yield client

    def find_in_files(self, *needles: str, below: Path | None = None) -> set[str]:
        """Files that hold one of the texts, relative to the folder."""
        patterns = [argument for needle in needles for argument in ("-e", needle)]
        found = subprocess.run(
            ["grep", "-rlaF", *patterns, str(below or self.folder)], capture_output=True, text=True, check=False
        )
        assert found.returncode in (0, 1), found.stderr
        return {str(Path(line).relative_to(self.folder)) for line in found.stdout.splitlines()}

    def find_in_tables(self, *needles: str) -> set[str]:
        """Tables, views and dictionaries of every database in which one of the texts is, in whatever column.

        Rows that are hidden and not gone count; of ClickHouse's own tables, those that quote statements. A view with a
        parameter answers what it is asked for and holds nothing.
        """
        found = set()
        with self.clickhouse() as client:
            names = client.rows(
                "SELECT database, name FROM system.tables "
                "WHERE database NOT IN ('system', 'information_schema', 'INFORMATION_SCHEMA') "
                "AND empty(parameterized_view_parameters)"
            )
            assert len(names) >= 10
            for database, name in [*names, *(("system", name) for name in _SYSTEM_TABLES)]:
                settings = {"apply_deleted_mask": 0, **_ALL_COLUMNS}
                sql = (
                    f"SELECT count() FROM `{database}`.`{name}` "
                    "WHERE multiSearchAny(toString(tuple(*)), {needles:Array(String)})"
                )
                if client.value(sql, settings, needles=list(needles)):
                    found.add(f"{database}.{name}")
        return found
