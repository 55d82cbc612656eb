"""Changing rows where they are: a mutation that names helper tables, and the engine's own all or nothing of a part.

No row is ever taken out and put back, so none can be lost or doubled, wherever this is interrupted: a row has the old
value or the new one. Repeating it is harmless.

.. pii: Changes rows of the users being retired; values travel in helper tables.
.. pii_types: id, name, username, email_address, other
.. pii_retirement: consumer_api
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sink.clickhouse.client import ClickHouse
from sink.clickhouse.parts import express_delete
from sink.erasure.new_values import NewValues
from sink.erasure.work import MUTATION, begin
from sink.names import TableName, quote


def change_rows(client: ClickHouse, table: TableName, new: NewValues) -> None:
    """Give rows their new values, and wait until every replica has done so.

    Raises:
        DatabaseError: the engine refused or could not finish; parts that were done stay done.
    """
    with begin(client, table) as work:
        new.send(client, work)
        assignments = ", ".join(
            f"{quote(column)} = {new.express(work, column)}" for column in (*new.columns, *new.expressions)
        )
        work.mutate(client, f"ALTER TABLE {table.sql} $on_cluster UPDATE {assignments} WHERE {new.express_meant(work)}")


def delete_where(client: ClickHouse, table: TableName, condition: str, values: Mapping[str, Any]) -> None:
    """Delete the rows of `condition`, which holds no PII, and wait until every replica has done so.

    Raises:
        DatabaseError: the engine refused or could not finish.
    """
    client.execute(f"{express_delete(client, table)} WHERE {condition}", MUTATION, **values)


def delete_by_key(
    client: ClickHouse, table: TableName, key: str, keys: Iterable[str], condition: str, values: Mapping[str, Any]
) -> None:
    """Delete rows by their key, and wait until every replica has done so.

    Args:
        client: the connection.
        table: whose rows.
        key: the SQL expression of a row's key, as text.
        keys: which rows go.
        condition: what else must hold; in the statement's text, so without PII.
        values: what is bound to `condition`.

    Raises:
        DatabaseError: the engine refused or could not finish.
    """
    with begin(client, table) as work:
        helper = work.create(client, "keys", "key String", "key")
        client.insert(helper, ["key"], [(text,) for text in keys])
        client.execute(
            f"{express_delete(client, table)} WHERE {key} IN (SELECT key FROM {helper.sql}) AND {condition}",
            MUTATION,
            **values,
        )
