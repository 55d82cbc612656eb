"""Row policies: when a table counts as seen in full."""

from __future__ import annotations

from typing import Any, cast

import pytest

from sink.clickhouse.address import Address
from sink.clickhouse.client import ClickHouse
from sink.clickhouse.row_policies import find_hiding_policies, require_no_row_policy
from sink.errors import ErasureError, ReadOnlyError
from sink.names import TableName
from sink.store import Store

TABLE = TableName("event_sink", "user_profile")


class Server:
    """Answers with the policies that it has: (table, filter, restrictive, for us)."""

    address = Address("http://clickhouse:8123", user="them")

    def __init__(self, *policies: tuple[str, str, int, int]) -> None:
        self.policies = policies

    def replicas(self, table: str) -> str:
        return table

    def rows(self, sql: str, **values: Any) -> list[tuple[Any, ...]]:
        assert values == {"databases": ["event_sink"]}
        return [
            ("event_sink", table, "a_policy", using, narrow, ours, "them")
            for table, using, narrow, ours in self.policies
        ]


def find(*policies: tuple[str, str, int, int]) -> dict[TableName, str]:
    return find_hiding_policies(cast(ClickHouse, Server(*policies)), [TABLE])


@pytest.mark.parametrize(
    "policies",
    [
        pytest.param([], id="none"),
        pytest.param([("external_id", "0", 0, 1)], id="on another table"),
        pytest.param([("user_profile", "1", 0, 1)], id="everything for us"),
        pytest.param([("user_profile", "1", 0, 1), ("user_profile", "0", 0, 0)], id="what ours are like"),
        pytest.param([("user_profile", "1", 0, 1), ("user_profile", "user_id = 1", 0, 1)], id="alternatives"),
        pytest.param(
            [("user_profile", "1", 0, 1), ("user_profile", "1", 1, 1)], id="a restriction that restricts nothing"
        ),
        pytest.param([("", "1", 0, 1), ("user_profile", "0", 0, 0)], id="everything in the database for us"),
    ],
)
def test_tables_are_seen_in_full(policies: list[tuple[str, str, int, int]]) -> None:
    assert find(*policies) == {}


@pytest.mark.parametrize(
    "policies",
    [
        pytest.param([("user_profile", "user_id > 9", 0, 1)], id="some rows"),
        pytest.param([("user_profile", "0", 0, 1)], id="nothing"),
        pytest.param([("user_profile", "", 0, 1)], id="without a condition"),
        pytest.param([("", "user_id > 9", 0, 1)], id="of the whole database"),
        pytest.param([("user_profile", "1", 0, 1), ("user_profile", "user_id > 9", 1, 1)], id="narrowed"),
        pytest.param([("user_profile", "1", 0, 0)], id="for others only, whatever that means for us"),
        pytest.param([("user_profile", "1", 1, 1)], id="restrictions alone, which show nothing"),
    ],
)
def test_rows_may_be_hidden(policies: list[tuple[str, str, int, int]]) -> None:
    found = find(*policies)
    assert set(found) == {TABLE}
    assert "row policies (a_policy) may hide rows from user them" in found[TABLE]
    assert "CREATE ROW POLICY aspects_pii_services ON `event_sink`.`user_profile` USING 1 TO `them`" in found[TABLE]
    with pytest.raises(ErasureError, match=r"event_sink\.user_profile: row policies"):
        require_no_row_policy(cast(ClickHouse, Server(*policies)), [TABLE])


def test_sight_is_unknown_without_the_right_to_see_policies() -> None:
    class Silent(Server):
        def rows(self, sql: str, **values: Any) -> list[tuple[Any, ...]]:
            raise ReadOnlyError("no", 497, "ACCESS_DENIED")

    with pytest.raises(ReadOnlyError, match=r"GRANT SHOW ROW POLICIES ON \*\.\* TO `them`"):
        find_hiding_policies(cast(ClickHouse, Silent()), [TABLE])


def test_the_embedded_engine_has_no_policies(store: Store) -> None:
    """It lets nobody see or make any."""
    with pytest.raises(ReadOnlyError):
        store.client.execute("CREATE ROW POLICY hidden ON $event_sink.user_profile USING 0 TO ALL")
    assert find_hiding_policies(store.client, [store.client.table("event_sink.user_profile")]) == {}
