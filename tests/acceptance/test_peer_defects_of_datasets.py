"""The defects of datasets that were found in comparable software (A1 to A4 of our survey): one build, looked at by each test."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import closing

import pytest

from sink.clickhouse import migrations
from sink.copying.sync import sync
from sink.datasets.build import build
from sink.installation import open_store
from sink.lms.database import LmsDatabase
from sink.settings import load_settings
from sink.store import Store
from tests.support.small_lms import make_small_lms


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """Users 1 to 5 are copied, user 1 has an LTI id beside the xAPI one, and user 2 none; then dbt has built."""
    folder = tmp_path_factory.mktemp("built")
    url = f"sqlite:///{folder}/lms.sqlite3"
    with (
        closing(make_small_lms(url)),
        open_store(load_settings(clickhouse_url=f"chdb://{folder}/clickhouse"), creates=True) as store,
    ):
        migrations.migrate(store.client)
        sync(store, LmsDatabase(url), enabled=True)
        table = store.client.table("event_sink.external_id")
        columns = ["external_user_id", "external_id_type", "username", "user_id"]
        store.client.insert(table, columns, [(uuid.uuid4(), "lti", "learner1", 1)])
        store.client.execute("DELETE FROM $event_sink.external_id WHERE user_id = 2")
        build(
            store.client.address,
            ["--quiet", "--select", "+dim_user_pii", "+user_pii", "--indirect-selection", "cautious"],
            enable_pii=True,
        )
        yield store


# A1
def test_user_pii_has_one_row_a_person(built: Store) -> None:
    rows = built.client.column("SELECT user_id FROM $event_sink.user_pii ORDER BY user_id")
    assert len(rows) == len(set(rows))
    assert {1, 2, 3, 4, 5} <= set(rows)
    assert built.client.value("SELECT count() FROM $reporting.dim_user_pii WHERE username = 'learner1'") == 1


# A2
def test_user_pii_has_no_user_0(built: Store) -> None:
    rows = built.client.column("SELECT user_id FROM $event_sink.user_pii")
    assert rows
    assert 0 not in rows


# A3 and A4: nothing caches; the request alone hides the person from every reader.
@pytest.mark.parametrize(
    ("dataset", "who"), [("$event_sink.user_pii", "user_id = 4"), ("$reporting.dim_user_pii", "username = 'learner4'")]
)
def test_retirement_is_visible_at_once(built: Store, dataset: str, who: str) -> None:
    count = f"SELECT count() FROM {dataset} WHERE {who}"
    assert built.client.value(count) == 1
    built.ledger.request([4])
    try:
        assert built.client.value(count) == 0
    finally:
        built.client.execute("TRUNCATE TABLE $pii_ledger.entries")
