"""Restriction and retention over ClickHouse's HTTP protocol, where values are bound otherwise than in process."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from sink.installation import open_store
from sink.settings import load_settings
from tests.support.served import serving

NOW = datetime.now(UTC)
MAP: dict[str, Any] = {
    "version": 1,
    "subject": {},
    "targets": {
        "logs.seen": {
            "match": {"user_id": "id"},
            "pii": {"ip": "ip"},
            "on_retire": "delete",
            "retention": {"days": 30, "column": "at"},
        },
        "logs.typed": {
            "match": {"user_id": "id"},
            "pii": {"ip": "ip"},
            "on_retire": "delete",
            "retention": {"days": 30, "column": "at", "redact": {"ip": {"constant": "gone"}}},
        },
    },
}


def test_restricted_people_are_withheld_and_what_is_old_goes_but_theirs(
    aspects_pii: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pii.yaml").write_text(yaml.safe_dump(MAP))
    monkeypatch.setenv("ASPECTS_PII_MAP", str(tmp_path / "pii.yaml"))
    with serving(tmp_path / "served") as url:
        monkeypatch.setenv("ASPECTS_CLICKHOUSE_URL", url)
        assert aspects_pii("init").status == 0
        with open_store(load_settings()) as store:
            store.client.execute("CREATE DATABASE logs")
            for table, kind in (("seen", "DateTime64(3)"), ("typed", "LowCardinality(String)")):
                store.client.execute(
                    f"CREATE TABLE logs.{table} (user_id Int64, at {kind}, ip String) ENGINE = MergeTree ORDER BY user_id"
                )
                times = [NOW - timedelta(days=age) for age in (400, 400, 1)]
                rows = [(n, at if table == "seen" else at.isoformat(" "), "ip") for n, at in enumerate(times, 1)]
                store.client.insert(store.client.table(f"logs.{table}"), ("user_id", "at", "ip"), rows)
        assert aspects_pii("restrict", 2, "--json").json["restricted"] == ["2"]
        assert aspects_pii("restrict", "--list", "--json").json["restricted"] == ["2"]
        ran = aspects_pii("sweep")
        assert (ran.status, "1 row of logs.seen" in ran.err, "1 row of logs.typed" in ran.err) == (0, True, True)
        with open_store(load_settings()) as store:
            assert sorted(store.client.column("SELECT user_id FROM logs.seen")) == [2, 3]
            typed = store.client.rows("SELECT user_id, ip FROM logs.typed ORDER BY user_id")
            assert typed == [(1, "gone"), (2, "ip"), (3, "ip")]
            assert store.ledger.show(action="expired")[-1].detail["kept"] == {"logs.seen": 2, "logs.typed": 2}
            assert store.client.column("SELECT user_id FROM $pii_ledger.withheld") == [2]
        assert aspects_pii("unrestrict", 2).status == 0
        assert aspects_pii("sweep").status == 0
        with open_store(load_settings()) as store:
            assert store.client.column("SELECT user_id FROM logs.seen") == [3]
