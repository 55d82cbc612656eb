"""Searching every text for what a subject was called."""

from __future__ import annotations

from pathlib import Path

import yaml

from sink.clickhouse import migrations
from sink.erasure.identities import Identities
from sink.erasure.scan import scan
from sink.installation import open_store
from sink.resources import find_resource
from sink.settings import Settings


def test_what_is_no_pii_is_passed_over_by_the_names_of_this_installation(settings: Settings, tmp_path: Path) -> None:
    document = yaml.safe_load(find_resource("config/pii.yaml").read_text())
    document["not_pii"] |= {"event_sink.titles": "of books", "event_sink.notes.topic": "of courses"}
    (tmp_path / "pii.yaml").write_text(yaml.safe_dump(document))
    changed = settings.model_copy(update={"pii_map": tmp_path / "pii.yaml", "event_sink_database": "another_name"})
    with open_store(changed) as store:
        migrations.migrate(store.client)
        for table in ("titles", "notes"):
            store.client.execute(
                f"CREATE TABLE $event_sink.{table} (topic String, text String) ENGINE = MergeTree ORDER BY tuple()"
            )
            store.client.execute(f"INSERT INTO $event_sink.{table} SELECT 'wanted', 'by Wanted.'")
        identities = Identities({"1": {"username": frozenset(["wanted"])}})
        hits = scan(store, [1], identities)
    assert [(hit.place, hit.subject, hit.rows) for hit in hits] == [("another_name.notes.text", "1", 1)]
