"""Plain dbt over HTTP, without aspects-pii around it: models, data tests, unit tests and the age of sources."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydantic import SecretStr

from sink.clickhouse.address import Address
from sink.clickhouse.client import ClickHouse
from sink.clickhouse.migrations import migrate
from sink.endpoint.app import running
from sink.ledger.pseudonym_key import set_pseudonym_key
from sink.resources import find_resource

DATABASES = {"event_sink": "event_sink", "xapi": "xapi", "reporting": "reporting", "pii_ledger": "pii_ledger"}
PASSWORD = "a password that no file may hold"


@dataclass(frozen=True)
class Served:
    """A store that is reached over HTTP."""

    client: ClickHouse
    url: str

    def run_dbt(self, folder: Path, *arguments: str, enable_pii: str = "true") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [
                Path(sys.executable).with_name("dbt"),
                *arguments,
                *("--project-dir", find_resource("dbt_project")),
                *("--profiles-dir", find_resource("config/profiles.yml").parent),
            ],
            env={
                **os.environ,
                "DBT_TARGET_PATH": str(folder / "target"),
                "DBT_LOG_PATH": str(folder / "logs"),
                "ASPECTS_ENABLE_PII": enable_pii,
                "ASPECTS_CLICKHOUSE_URL": self.url,
                "ASPECTS_CLICKHOUSE_USER": "dbt",
                "ASPECTS_CLICKHOUSE_PASSWORD": PASSWORD,
            },
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("served") / "clickhouse"
    with ClickHouse(Address(f"chdb://{folder}", databases=DATABASES)) as client:
        migrate(client)
        set_pseudonym_key(client)
        with running(folder, user="dbt", password=SecretStr(PASSWORD)) as url:
            yield Served(client, url)


@pytest.mark.parametrize("enable_pii", ["true", "false"])
def test_dbt_build_is_green_over_http_and_writes_no_password(served: Served, tmp_path: Path, enable_pii: str) -> None:
    done = served.run_dbt(tmp_path, "build", enable_pii=enable_pii)
    assert done.returncode == 0, done.stdout
    assert "ERROR=0" in done.stdout
    assert done.stdout.count("PASS test_") + done.stdout.count("::test_") > 10
    written = [path for path in (tmp_path / "target").rglob("*") if path.is_file()]
    assert len(written) > 10
    assert not [path.name for path in written if PASSWORD.encode() in path.read_bytes()]
    assert not list(tmp_path.rglob("dbt.log"))


def test_source_freshness_warns_of_what_was_not_copied_for_long(served: Served, tmp_path: Path) -> None:
    client, now = served.client, datetime.now(UTC)
    client.insert(
        client.table("event_sink.user_profile"), ["id", "time_last_dumped"], [(1, "2026-01-01 00:00:00+00:00")]
    )
    # A text, as upstream writes it.
    client.insert(
        client.table("event_sink.course_overviews"), ["org", "time_last_dumped"], [("Org", f"{now:%F %T.%f}")]
    )
    client.insert(
        client.table("xapi.xapi_events_all"), ["event_id", "emission_time", "event"], [(uuid.uuid4(), now, "{}")]
    )
    done = served.run_dbt(tmp_path, "source", "freshness")
    assert done.returncode == 0, done.stdout
    assert "WARN freshness of event_sink.user_profile" in done.stdout
    assert "PASS freshness of event_sink.course_overviews" in done.stdout
    assert "PASS freshness of xapi.xapi_events_all" in done.stdout
