"""`aspects-pii purge`: opting out."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from sink.clickhouse import migrations
from sink.installation import open_store
from sink.resources import find_resource
from sink.settings import Settings
from sink.store import Store
from tests.support import aspects
from tests.support.coverage_page import covers

TABLES = ("user_profile", "external_id", "course_access")


def fill(store: Store) -> None:
    client, now = store.client, datetime(2026, 1, 1, tzinfo=UTC)
    for table in TABLES:
        client.insert(
            client.table(f"event_sink.{table}"), ["user_id", "username"], [(u, f"canary{u}") for u in range(1, 51)]
        )
    aspects.replace_enrolments(client)
    client.insert(
        client.table("event_sink.course_enrollment"),
        ["id", "username", "user_id"],
        [(u, f"canary{u}", u) for u in range(50)],
    )
    client.insert(
        client.table("xapi.xapi_events_all"), ["event_id", "emission_time", "event"], [(uuid.uuid4(), now, "{}")] * 20
    )


def prepare(settings: Settings) -> None:
    with open_store(settings, creates=True) as store:
        migrations.migrate(store.client)
        fill(store)


def counts(settings: Settings) -> dict[str, int]:
    with open_store(settings) as store:
        return {
            table: store.client.value(f"SELECT count() FROM $event_sink.{table}", {"apply_deleted_mask": 0})
            for table in TABLES
        }


def test_purge_removes_everything_and_keeps_events_tombstones_and_ledger(
    aspects_pii: Callable[..., Any], settings: Settings
) -> None:
    prepare(settings)
    aspects_pii("retire", 7)
    ran = aspects_pii("purge", "--yes")
    assert ran.status == 0, ran.err
    assert "user_profile" in ran.out
    assert counts(settings) == dict.fromkeys(TABLES, 0)
    with open_store(settings) as store:
        assert store.client.value("SELECT countIf(username != '') FROM $event_sink.course_enrollment") == 0
        assert store.client.value("SELECT count() FROM $event_sink.course_enrollment") == 50
        assert store.client.value("SELECT count() FROM $xapi.xapi_events_all") == 20
        assert store.ledger.tombstones() == ["7"]
        purged = store.ledger.show(action="purged")
        assert len(purged) == 1
        assert purged[0].detail["rows"]["event_sink.user_profile"] == 49


@covers("moment", "opting out (`purge`)", "erased")
def test_purge_leaves_nothing_in_a_file(aspects_pii: Callable[..., Any], settings: Settings, tmp_path: Path) -> None:
    with open_store(settings, creates=True) as store:
        migrations.migrate(store.client)
        store.client.execute("ALTER TABLE $event_sink.user_profile MODIFY COLUMN name String CODEC(NONE)")
        store.client.insert(store.client.table("event_sink.user_profile"), ["user_id", "name"], [(1, "Canary-Ocelot")])
    assert any(b"Canary-Ocelot" in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert aspects_pii("purge", "--yes").status == 0
    assert not any(b"Canary-Ocelot" in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


def test_purge_is_refused_while_pii_is_on_unless_forced(aspects_pii: Callable[..., Any], settings: Settings) -> None:
    prepare(settings)
    ran = aspects_pii("purge", "--yes", ENABLE_PII="true")
    assert ran.status == 1
    assert "ASPECTS_ENABLE_PII=false" in ran.err
    assert counts(settings) == {"user_profile": 50, "external_id": 50, "course_access": 50}
    assert aspects_pii("purge", "--yes", "--force", ENABLE_PII="true").status == 0
    assert counts(settings) == dict.fromkeys(TABLES, 0)


def test_purge_asks_and_does_nothing_without_an_answer(aspects_pii: Callable[..., Any], settings: Settings) -> None:
    prepare(settings)
    ran = aspects_pii("purge")
    assert ran.status == 2
    assert "--yes" in ran.err
    assert counts(settings) == {"user_profile": 50, "external_id": 50, "course_access": 50}


def test_dry_run_shows_what_would_go(aspects_pii: Callable[..., Any], settings: Settings) -> None:
    prepare(settings)
    ran = aspects_pii("purge", "--dry-run", "--json")
    assert ran.status == 0
    plan = {line["name"]: (line["action"], line["rows"]) for line in ran.json["plan"]}
    assert plan == {
        "event_sink.user_profile": ("empty", 50),
        "event_sink.external_id": ("empty", 50),
        "event_sink.course_access": ("empty", 50),
        "event_sink.course_access_keyed": ("empty", 0),
        "event_sink.course_enrollment": ("redact", 50),
    }
    assert counts(settings) == {"user_profile": 50, "external_id": 50, "course_access": 50}


def test_purging_twice_is_as_good_as_once(aspects_pii: Callable[..., Any], settings: Settings) -> None:
    prepare(settings)
    assert [aspects_pii("purge", "--yes").status for _ in range(2)] == [0, 0]
    assert counts(settings) == dict.fromkeys(TABLES, 0)


@covers("moment", "opting out, what the map keeps (`retain`, `unless`)", "listed")
def test_a_purge_says_what_the_map_keeps(aspects_pii: Callable[..., Any], settings: Settings, tmp_path: Path) -> None:
    document = yaml.safe_load(find_resource("config/pii.yaml").read_text())
    exempt = {"column": "kind", "values": ["invoice"], "reason": "tax law"}
    document["targets"] |= {
        "event_sink.certificates": {
            "match": {"user_id": "id"},
            "pii": {"name": "name"},
            "on_retire": {"retain": "certificates are proofs"},
        },
        "event_sink.bills": {
            "match": {"user_id": "id"},
            "pii": {"name": "name"},
            "on_retire": {"delete": True, "unless": exempt},
        },
    }
    (path := tmp_path / "pii.yaml").write_text(yaml.safe_dump(document))
    prepare(settings)
    with open_store(settings) as store:
        for table in ("certificates", "bills"):
            store.client.execute(
                f"CREATE TABLE $event_sink.{table} (user_id Int64, kind String, name String) "
                "ENGINE = MergeTree ORDER BY user_id"
            )
            store.client.execute(f"INSERT INTO $event_sink.{table} VALUES (1, 'invoice', 'A'), (2, 'other', 'B')")
    ran = aspects_pii("purge", "--yes", PII_MAP=str(path))
    assert ran.status == 0
    assert "no PII is left but what the PII map keeps" in ran.out
    assert "2 rows of event_sink.certificates (name): certificates are proofs" in ran.err
    assert "1 row of event_sink.bills (name): kind is invoice: tax law" in ran.err
