"""Whether a column names anybody, where parts of its table are on hosts that cannot be looked at from here."""

from __future__ import annotations

from typing import Any, cast

import pytest

from sink.clickhouse.catalog import Table
from sink.clickhouse.client import ClickHouse
from sink.erasure.named_tables import Column, names_anybody
from sink.names import TableName
from sink.pii_map import Rule

RULE = Rule(match={"who": "mailto:{email}"}, on_retire={"delete": True})  # type: ignore[arg-type]
COLUMN = Column(Table(TableName("event_sink", "notes"), "MergeTree", {"who": "String"}, uuid="one"), RULE)


class Cluster:
    """A client of a cluster, on whose own host no table has a part. There is no cluster to be had in the tests."""

    def __init__(self, cluster: str, shards: int) -> None:
        self.cluster, self._shards = cluster, shards

    def value(self, sql: str, **values: Any) -> int:
        assert "system.clusters" in sql
        assert values == {"cluster": self.cluster}
        return self._shards

    def rows(self, *_: Any, **__: Any) -> list[tuple[Any, ...]]:
        return []


@pytest.mark.parametrize(
    ("cluster", "shards", "may_name"), [("", 0, False), ("c", 1, False), ("c", 2, True), ("c", 0, True)]
)
def test_a_column_may_name_somebody_on_shards_that_are_not_looked_at(cluster: str, shards: int, may_name: bool) -> None:
    assert names_anybody(cast("ClickHouse", Cluster(cluster, shards)), [COLUMN]) == [may_name]
