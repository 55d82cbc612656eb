"""A copy of production, as an operator restores one for development."""

from __future__ import annotations

import re

from sink.clickhouse.client import ClickHouse

COPIED = ("event_sink", "xapi", "reporting")


def copy_production(client: ClickHouse, *databases: str) -> list[str]:
    """Copy databases into `dev_…` ones, table by table with their rows; dictionaries and views too. Returns the new names."""
    for database in databases:
        client.execute(f"DROP DATABASE IF EXISTS dev_{database} SYNC")
        client.execute(f"CREATE DATABASE dev_{database}")
        tables = client.rows(
            "SELECT name, engine, create_table_query FROM system.tables WHERE database = {database:String} ORDER BY name",
            database=database,
        )
        for name, engine, query in tables:
            if engine.endswith("MergeTree"):
                client.execute(f"CREATE TABLE dev_{database}.`{name}` AS {database}.`{name}`")
                client.execute(
                    f"INSERT INTO dev_{database}.`{name}` SELECT * FROM {database}.`{name}`", {"optimize_on_insert": 0}
                )
            elif engine == "Dictionary":
                # As RESTORE does: whatever names a copied database names the copy.
                client.execute(re.sub(r"\b(event_sink|xapi|reporting|pii_ledger)\b", _rename, query))
    return [f"dev_{database}" for database in databases]


def _rename(found: re.Match[str]) -> str:
    return f"dev_{found[1]}" if found[1] in COPIED else found[1]
