"""Plain `dbt build` over HTTP, without aspects-pii around it: models, data tests and unit tests."""

from __future__ import annotations

import os
import subprocess
import sys
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


@pytest.mark.parametrize("enable_pii", ["true", "false"])
def test_dbt_build_is_green_over_http_and_writes_no_password(tmp_path: Path, enable_pii: str) -> None:
    with ClickHouse(Address(f"chdb://{tmp_path}/clickhouse", databases=DATABASES)) as client:
        migrate(client)
        set_pseudonym_key(client)
        with running(tmp_path / "clickhouse", user="dbt", password=SecretStr(PASSWORD)) as url:
            done = subprocess.run(
                [
                    Path(sys.executable).with_name("dbt"),
                    *("build", "--project-dir", find_resource("dbt_project")),
                    *("--profiles-dir", find_resource("config/profiles.yml").parent),
                ],
                env={
                    **os.environ,
                    "DBT_TARGET_PATH": str(tmp_path / "target"),
                    "DBT_LOG_PATH": str(tmp_path / "logs"),
                    "ASPECTS_ENABLE_PII": enable_pii,
                    "ASPECTS_CLICKHOUSE_URL": url,
                    "ASPECTS_CLICKHOUSE_USER": "dbt",
                    "ASPECTS_CLICKHOUSE_PASSWORD": PASSWORD,
                },
                capture_output=True,
                text=True,
                check=False,
            )
    assert done.returncode == 0, done.stdout
    assert "ERROR=0" in done.stdout
    assert done.stdout.count("PASS test_") + done.stdout.count("::test_") > 10
    written = [path for path in (tmp_path / "target").rglob("*") if path.is_file()]
    assert len(written) > 10
    assert not [path.name for path in written if PASSWORD.encode() in path.read_bytes()]
    assert not list(tmp_path.rglob("dbt.log"))
